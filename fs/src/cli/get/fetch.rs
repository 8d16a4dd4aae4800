//! One file: from all who have it into its place.
//!
//! The download engine brings its bytes, as it does for a mount. With a content root they come from all
//! holders at once and are proven; without one they come from one holder in one version. A file that
//! is written to meanwhile is followed: if it is only touched, it is fetched on as what it is now; one
//! of which no root was known is asked for its root, and fetched on if what is here belongs to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tinyp2p_net::client::Peer;
use tinyp2p_net::config::READ_DEADLINE;
use tinyp2p_net::download::{Download, Engine, Has, Siblings, SourceOutcome};
use tinyp2p_net::error::Error;
use tinyp2p_net::types::{Attributes, ContentId, PeerId, UnixTime};

use super::plan::{Holder, Job};
use super::queue::{Standing, Task};
use super::target::{Begin, Part, Target};
use crate::network::Network;
use crate::open_content::ContentState;
use crate::sources;

/// A file that changes more often than this while it is fetched is left alone.
const MAX_CHANGES: u32 = 8;

/// How often it is looked at, while nothing comes, whether those are still there who could send it.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The file is here now.
    Fetched,
    /// Something of that name was here, and stays.
    Existed,
    /// There is a name, and nothing to fetch.
    LeftOut,
    /// Those who could send it do not answer now, but may later.
    Postponed,
}

/// The members, as those who fetch see and judge them.
pub(super) trait Members: Sync {
    /// How likely it is to answer.
    fn standing(&self, member: PeerId) -> Standing;
    /// It did not answer.
    fn silent(&self, member: PeerId, error: &Error);
    /// It answered.
    fn answered(&self, member: PeerId);
    /// How it was reached at first, which may be worth a try when it is not there.
    fn as_met(&self, member: PeerId) -> Option<Arc<dyn Peer>>;
    /// What the file is now at `holder`, with its content root: waits a while for that. `None` if it cannot be had.
    fn look(&self, holder: &Holder) -> Option<Attributes>;
}

/// What all who fetch have in common.
pub(super) struct Supply<'a> {
    pub(super) network: &'a dyn Network,
    pub(super) engine: &'a Engine,
    pub(super) this_node: Option<PeerId>,
    pub(super) members: &'a dyn Members,
    pub(super) upcoming: Arc<dyn Siblings>,
    pub(super) bar: &'a ProgressBar,
}

/// Fetches one file; `parts` are those in its directory. Holders that turn out not to have it are
/// taken off the job. The error is one line for people.
pub(super) fn fetch(
    task: &mut Task,
    target: &Target,
    parts: &[Vec<u8>],
    supply: &Supply<'_>,
) -> Result<Outcome, String> {
    let (job, bar) = (&task.job, supply.bar);
    let part = match target.begin(job, parts).map_err(|e| e.to_string())? {
        Begin::Part(part) => part,
        Begin::Busy => return Err("another process is fetching it".to_owned()),
        Begin::Exists => {
            bar.inc(job.size);
            return Ok(Outcome::Existed);
        }
    };
    bar.inc(part.offset());
    let mut fetching = Fetching::new(job, task.probe, part, supply);
    let failures = match fetching.bring_whole() {
        Ok(()) => {
            let finished = fetching.part.finish(fetching.mtime);
            return match finished.map_err(|e| e.to_string())? {
                true => Ok(Outcome::Fetched),
                false => Ok(Outcome::Existed),
            };
        }
        Err(Stop::Disk(error)) => return Err(error.to_string()),
        Err(Stop::Holders(failures)) => failures,
    };
    bar.dec(fetching.part.offset());
    let useless = |holder: &Holder| failures.iter().any(|failure| failure.is_final(holder));
    if !job.holders.iter().all(useless) {
        task.job.holders.retain(|holder| !useless(holder));
        return Ok(Outcome::Postponed);
    }
    fetching.part.give_up().map_err(|e| e.to_string())?;
    let first = failures.first().map(|failure| failure.error.to_string());
    Err(first.unwrap_or_default())
}

/// Why a try ended.
enum Stop {
    /// Nobody who was asked can go on.
    Holders(Vec<Failure>),
    /// The own disk is at fault: no other member helps.
    Disk(std::io::Error),
}

/// Why one holder did not send the file.
struct Failure {
    member: PeerId,
    error: Error,
    /// It does not have the file, whenever it is asked.
    is_final: bool,
}

impl Failure {
    /// True if the holder has another file by now, or none.
    fn is_change(&self) -> bool {
        matches!(self.error, Error::Changed { .. } | Error::NotFound { .. })
    }

    fn is_final(&self, holder: &Holder) -> bool {
        self.is_final && self.member == holder.member.id
    }
}

/// A file on its way.
struct Fetching<'a> {
    job: &'a Job,
    /// The member to be tried although it is away.
    probe: Option<PeerId>,
    part: Box<Part>,
    /// Those who have it, and in which versions by now.
    holders: Vec<Holder>,
    /// What it is by now; the job says so only at first.
    content: Option<ContentId>,
    size: u64,
    mtime: UnixTime,
    supply: &'a Supply<'a>,
}

impl<'a> Fetching<'a> {
    fn new(job: &'a Job, probe: Option<PeerId>, part: Box<Part>, supply: &'a Supply<'a>) -> Self {
        let size = job.size;
        Self {
            job,
            probe,
            part,
            holders: job.holders.clone(),
            content: job.root.map(|root| ContentId { root, size }),
            size,
            mtime: job.mtime,
            supply,
        }
    }

    /// Brings all of it, whatever is done to it meanwhile that leaves its bytes.
    fn bring_whole(&mut self) -> Result<(), Stop> {
        let mut changes = 0;
        loop {
            match self.bring() {
                Ok(()) if self.part.check().map_err(Stop::Disk)? => return Ok(()),
                // All of it has to come again.
                Ok(()) => self.supply.bar.dec(self.size),
                Err(Stop::Holders(failures)) if changes < MAX_CHANGES => {
                    changes += 1;
                    let changed = failures.iter().filter(|failure| failure.is_change());
                    let changed: Vec<PeerId> = changed.map(|failure| failure.member).collect();
                    if !self.follow(&changed).map_err(Stop::Disk)? {
                        return Err(Stop::Holders(failures));
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Goes on from where the part ends, to the end of the file.
    fn bring(&mut self) -> Result<(), Stop> {
        if self.part.offset() == self.size {
            return Ok(());
        }
        let (asked, absent) = self.whom_to_ask();
        if asked.is_empty() {
            return Err(Stop::Holders(absent));
        }
        let download = self.open(&asked);
        let outcome = self.read(&download, &asked);
        self.credit(&download);
        match outcome {
            Err(Stop::Holders(failures)) => {
                Err(Stop::Holders(failures.into_iter().chain(absent).collect()))
            }
            other => other,
        }
    }

    /// The holders who may be asked now and how; and those who are not there. The latter are noted.
    fn whom_to_ask(&self) -> (Vec<(PeerId, Arc<dyn Peer>)>, Vec<Failure>) {
        let members = self.supply.members;
        let (mut asked, mut absent) = (Vec::new(), Vec::new());
        // Without a root, nothing proves that two of them have the same.
        let count = self.content.map_or(1, |_| self.holders.len());
        for holder in self.holders.iter().take(count) {
            let member = holder.member.id;
            let is_probe = self.probe == Some(member);
            if !is_probe && members.standing(member) != Standing::Present {
                continue;
            }
            let peer = self.supply.network.peer(member);
            match peer.or_else(|| members.as_met(member).filter(|_| is_probe)) {
                Some(peer) => asked.push((member, peer)),
                None => absent.push(self.absence(holder)),
            }
        }
        (asked, absent)
    }

    /// Takes note of a holder that is not there.
    fn absence(&self, holder: &Holder) -> Failure {
        let error = Error::Unreachable {
            who: holder.member.name.to_string(),
            why: "it has left the network".to_owned(),
        };
        self.supply.members.silent(holder.member.id, &error);
        Failure {
            member: holder.member.id,
            error,
            is_final: false,
        }
    }

    fn open(&self, asked: &[(PeerId, Arc<dyn Peer>)]) -> Download {
        let supply = self.supply;
        let root = self.content.map(|content| content.root);
        let holders = asked.iter().filter_map(|(member, peer)| {
            let holder = self.holder(*member)?;
            Some((Arc::clone(peer), Has::File(holder.version)))
        });
        let (network, this_node) = (supply.network, supply.this_node);
        let path = &self.holders[0].path;
        let sources = sources::sources(network, this_node, path, holders, root, self.size);
        let upcoming = Arc::clone(&supply.upcoming);
        supply.engine.open_among(sources, self.size, root, upcoming)
    }

    fn holder(&self, member: PeerId) -> Option<&Holder> {
        let mut holders = self.holders.iter();
        holders.find(|holder| holder.member.id == member)
    }

    fn read(&mut self, download: &Download, asked: &[(PeerId, Arc<dyn Peer>)]) -> Result<(), Stop> {
        let mut reader = download.read_on(self.part.offset());
        let mut look = Instant::now() + LOOK;
        loop {
            match reader.next_by(look) {
                Some(Ok([])) => return Ok(()),
                Some(Ok(bytes)) => {
                    self.part.append(bytes).map_err(Stop::Disk)?;
                    self.supply.bar.inc(bytes.len() as u64);
                }
                Some(Err(error)) => return Err(self.judge(download, asked, &error)),
                // The engine still hopes for them, while others of their files could be put off.
                None if asked.iter().all(|(member, _)| self.is_gone(*member)) => {
                    let holders = asked.iter().filter_map(|(member, _)| self.holder(*member));
                    let absent = holders.map(|holder| self.absence(holder)).collect();
                    return Err(Stop::Holders(absent));
                }
                None => {}
            }
            if Instant::now() >= look {
                self.credit(download);
                look = Instant::now() + LOOK;
            }
        }
    }

    fn is_gone(&self, member: PeerId) -> bool {
        self.probe != Some(member) && self.supply.network.peer(member).is_none()
    }

    /// Those who have sent something are there.
    fn credit(&self, download: &Download) {
        for outcome in download.outcomes() {
            if outcome.has_delivered {
                self.supply.members.answered(outcome.member);
            }
        }
    }

    /// What the failure of a download, by `error`, says of those who were `asked`. Those who did not answer are noted.
    fn judge(&self, download: &Download, asked: &[(PeerId, Arc<dyn Peer>)], error: &Error) -> Stop {
        let outcomes = download.outcomes();
        let failures = asked.iter().filter_map(|(member, _)| {
            let name = self.holder(*member)?.member.name.to_string();
            let failure = failure(*member, name, &outcomes, error);
            match failure.is_final {
                true => self.supply.members.answered(*member),
                false => self.supply.members.silent(*member, &failure.error),
            }
            Some(failure)
        });
        Stop::Holders(failures.collect())
    }

    /// Finds out what the file is by now at those where it has `changed`. True if it can be fetched on.
    fn follow(&mut self, changed: &[PeerId]) -> std::io::Result<bool> {
        match (self.job.root, changed) {
            (_, []) => Ok(false),
            (Some(_), changed) => Ok(self.follow_touched(changed)),
            (None, _) => self.follow_grown(),
        }
    }

    /// Looks for a holder who has the same content in another version, after a `touch`, say.
    fn follow_touched(&mut self, changed: &[PeerId]) -> bool {
        let mut holders = self.holders.iter();
        let found = holders.find_map(|holder| {
            let changed = changed.contains(&holder.member.id).then_some(holder)?;
            let now = self.supply.members.look(changed)?;
            let is_same = now.root == self.job.root && now.version != holder.version;
            is_same.then(|| (holder.clone(), now))
        });
        let Some((holder, now)) = found else {
            return false;
        };
        self.mtime = now.mtime;
        self.holders = vec![Holder {
            version: now.version,
            ..holder
        }];
        true
    }

    /// Asks for the root of a file that had none, whether it is what it was, or something was appended to it. Else it
    /// turns out in the end that what is here is not the beginning of it.
    fn follow_grown(&mut self) -> std::io::Result<bool> {
        let holder = &self.holders[0];
        let Some(peer) = self.supply.network.peer(holder.member.id) else {
            return Ok(false);
        };
        let state = ContentState {
            member: holder.member.id,
            version: holder.version,
            content: self.content,
            size: self.size,
            renewals: 0,
        };
        let found = state.ask_whole(&*peer, &holder.path, Instant::now() + READ_DEADLINE);
        let Some(found) = found.ok().flatten() else {
            return Ok(false);
        };
        let after = state.at(found);
        if after == state {
            return Ok(false);
        }
        self.part.expect(found.content.root)?;
        self.supply.bar.inc_length(after.size - self.size);
        (self.content, self.size) = (after.content, after.size);
        self.holders[0].version = after.version;
        Ok(true)
    }
}

/// What came of a member, called `name`, as a source of a download that failed by `error`.
fn failure(member: PeerId, name: String, outcomes: &[SourceOutcome], error: &Error) -> Failure {
    let mut outcomes = outcomes.iter();
    let lost = match outcomes.find(|outcome| outcome.member == member) {
        Some(outcome) => outcome.lost.clone(),
        // It has shown before that it has something else, and was not asked.
        None => Some(Error::WrongBytes { who: String::new() }),
    };
    let is_final = lost.is_some();
    let error = match lost.unwrap_or_else(|| error.clone()) {
        Error::WrongBytes { .. } => Error::WrongBytes { who: name },
        Error::Timeout { .. } => Error::Timeout { who: name },
        other => other,
    };
    Failure {
        member,
        error,
        is_final,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
