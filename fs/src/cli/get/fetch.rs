//! One file: from all its holders to its place.
//!
//! The download engine fetches its bytes, as for a mount. With a content root they come from all
//! holders at once and are proven; without one they come from one holder in one version. The
//! download follows a file that changes while it is fetched if its content is still the same (after
//! a `touch`, say), or if it has no root and something was appended.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::config::READ_DEADLINE;
use tinyp2p_net::download::{Availability, Download, UpcomingFiles};
use tinyp2p_net::error::Error;
use tinyp2p_net::model::{ByteRange, ContentId, PeerId, UnixTime, Version};
use tinyp2p_net::peer::Peer;

use super::Crew;
use super::plan::{Holder, Job};
use super::queue::{Standing, Task};
use super::target::{Begin, Part};
use crate::vfs::content_sources;
use crate::vfs::open_content::ContentState;

/// Bytes fetched at once, aligned to multiples of this size: one piece of the engine.
const STEP: u64 = 128 * 1024;

/// A file that changes more often than this during its download is left alone.
const MAX_CHANGES: u32 = 8;

/// Interval of the checks for which holders have answered and, while nothing arrives, whether they
/// are still present.
const LOOK: Duration = Duration::from_secs(1);

/// The outcome of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The file is here now.
    Fetched,
    /// Something of that name exists, and stays.
    Existed,
    /// The name exists, but there is nothing to fetch.
    LeftOut,
    /// The holders that could send it do not answer now, but may later.
    Postponed,
}

/// Fetches one file; `parts` are those in its directory. Removes holders that turn out not to have
/// it from the job. The error is one line for people.
pub(super) fn fetch(
    task: &mut Task,
    parts: &[Vec<u8>],
    crew: &Crew<'_>,
) -> Result<Outcome, String> {
    let (job, size) = (&task.job, task.job.size.or_zero());
    let in_words = |error: io::Error| error.to_string();
    let part = match crew.target.begin(job, parts).map_err(in_words)? {
        Begin::Part(part) => part,
        Begin::Busy => return Err("another process is fetching it".to_owned()),
        Begin::Exists => {
            crew.bar.inc(size);
            return Ok(Outcome::Existed);
        }
    };
    crew.bar.inc(part.offset());
    let mut fetching = Fetching {
        crew,
        job,
        probe: task.probe,
        part,
        holders: job.holders.clone(),
        content: job.root.map(|root| ContentId { root, size }),
        size,
        mtime: job.mtime,
        useless: Vec::new(),
    };
    let is_whole = fetching.bring_whole().map_err(in_words)?;
    let Fetching {
        part,
        mtime,
        useless,
        ..
    } = fetching;
    if is_whole {
        return Ok(if part.finish(mtime).map_err(in_words)? {
            Outcome::Fetched
        } else {
            Outcome::Existed
        });
    }
    crew.bar.dec(part.offset());
    let holders = &mut task.job.holders;
    let mut failures = useless.iter();
    holders.retain(|holder| useless.iter().all(|(id, _)| *id != holder.member.id));
    match failures.next().filter(|_| holders.is_empty()) {
        Some((_, error)) => {
            part.give_up().map_err(in_words)?;
            Err(error.to_string())
        }
        None => Ok(Outcome::Postponed),
    }
}

/// A file that is being fetched.
struct Fetching<'a> {
    crew: &'a Crew<'a>,
    job: &'a Job,
    /// The member to try although it is away.
    probe: Option<PeerId>,
    part: Box<Part>,
    /// The current holders with their versions, followed by the content, its size and
    /// its modification time.
    holders: Vec<Holder>,
    content: Option<ContentId>,
    size: u64,
    mtime: UnixTime,
    /// Members that do not have the file, each with the error that showed it.
    useless: Vec<(PeerId, Error)>,
}

/// A holder, and its current version, content and modification time.
type FollowedHolder<'a> = (&'a Holder, Version, ContentId, UnixTime);

/// A holder that is being asked now.
struct AskedHolder {
    holder: Holder,
    peer: Arc<dyn Peer>,
    /// Bytes that it had sent, for all files, at the last check.
    received: u64,
}

impl Fetching<'_> {
    /// Fetches the whole file, and continues through changes that preserve its bytes. Returns false
    /// if no holder can continue.
    fn bring_whole(&mut self) -> io::Result<bool> {
        let mut changes = 0;
        loop {
            if self.bring()? {
                if self.part.check()? {
                    return Ok(true);
                }
                // All bytes have to be fetched again.
                self.crew.bar.dec(self.size);
            } else if changes == MAX_CHANGES || !self.follow()? {
                return Ok(false);
            } else {
                changes += 1;
            }
        }
    }

    /// Continues from the end of the part to the end of the file. Returns false if no
    /// holder can continue.
    fn bring(&mut self) -> io::Result<bool> {
        if self.part.offset() == self.size {
            return Ok(true);
        }
        let mut asked = self.whom_to_ask();
        if asked.is_empty() {
            return Ok(false);
        }
        let download = self.open(&asked);
        let (mut buffer, mut look) = (Vec::new(), Instant::now() + LOOK);
        while self.part.offset() < self.size {
            let offset = self.part.offset();
            let end = self.size.min((offset / STEP + 1) * STEP);
            let copied = download.read_by(ByteRange::new(offset, end), look, |bytes| {
                buffer.clear();
                buffer.extend_from_slice(bytes);
                buffer
            });
            buffer = match copied.transpose() {
                Ok(bytes) => bytes.unwrap_or_default(),
                Err(error) => {
                    self.note_failure(&download, &asked, &error);
                    return Ok(false);
                }
            };
            self.part.append(&buffer)?;
            self.crew.bar.inc(buffer.len() as u64);
            if Instant::now() >= look {
                self.note_delivery(&mut asked);
                look = Instant::now() + LOOK;
            }
            // The engine waits for them longer; other files can be fetched during that time.
            if buffer.is_empty() && self.is_hopeless(&download, &asked) {
                return Ok(false);
            }
        }
        self.note_delivery(&mut asked);
        Ok(true)
    }

    /// Returns the holders that may be asked now, and how. Without a root, nothing proves that two
    /// holders have the same content.
    fn whom_to_ask(&self) -> Vec<AskedHolder> {
        let count = self.content.map_or(1, |_| self.holders.len());
        let mut asked = Vec::new();
        for holder in self.holders.iter().take(count) {
            let member = holder.member.id;
            if self.probe != Some(member) && self.crew.standing(member) != Standing::Present {
                continue;
            }
            match self.crew.peer(member) {
                Some(peer) => asked.push(AskedHolder {
                    holder: holder.clone(),
                    peer,
                    received: self.crew.engine.ledger().received_from(member),
                }),
                None => self.crew.has_left(holder),
            }
        }
        asked
    }

    fn open(&self, asked: &[AskedHolder]) -> Download {
        let crew = self.crew;
        let root = self.content.map(|content| content.root);
        let holders = asked.iter();
        let holders = holders.map(|one| {
            (
                Arc::clone(&one.peer),
                Availability::File(one.holder.version),
            )
        });
        let path = &self.holders[0].path;
        let this_node = Some(crew.this_node);
        let sources =
            content_sources::of_content(crew.network, this_node, path, holders, root, self.size);
        let upcoming = Arc::clone(&crew.upcoming) as Arc<dyn UpcomingFiles>;
        crew.engine.open_among(sources, self.size, root, upcoming)
    }

    /// Returns true if the holder has left, and records that.
    fn is_gone(&self, holder: &Holder) -> bool {
        let member = holder.member.id;
        let is_gone = self.probe != Some(member) && self.crew.network.peer(member).is_none();
        if is_gone {
            self.crew.has_left(holder);
        }
        is_gone
    }

    /// Records that members which have sent bytes, of any file, are present.
    fn note_delivery(&self, asked: &mut [AskedHolder]) {
        for one in asked {
            let member = one.holder.member.id;
            let received = self.crew.engine.ledger().received_from(member);
            if std::mem::replace(&mut one.received, received) < received {
                self.crew.answered(member);
            }
        }
    }

    /// Returns true if each of the `asked` holders has left, or has answered that it cannot
    /// deliver; records that.
    fn is_hopeless(&mut self, download: &Download, asked: &[AskedHolder]) -> bool {
        let refusals = download.refusals();
        let has_refused = |one: &AskedHolder| {
            let mut refusals = refusals.iter();
            refusals.any(|(member, _)| *member == one.holder.member.id)
        };
        let mut others = asked.iter().filter(|one| !has_refused(one));
        let is_hopeless = others.all(|one| self.is_gone(&one.holder));
        if is_hopeless {
            self.note_refusals(download, asked);
        }
        is_hopeless
    }

    /// Separates the `asked` holders of a download that failed with `error` into those that cannot
    /// deliver the file and those that did not answer.
    fn note_failure(&mut self, download: &Download, asked: &[AskedHolder], error: &Error) {
        for holder in self.note_refusals(download, asked) {
            let (member, who) = (holder.member.id, holder.member.name.to_string());
            self.crew.silent(member, &by_name(error.clone(), who));
        }
    }

    /// Records the `asked` holders that have answered and cannot deliver the file.
    /// Returns the others.
    fn note_refusals<'a>(
        &mut self,
        download: &Download,
        asked: &'a [AskedHolder],
    ) -> Vec<&'a Holder> {
        let refusals = download.refusals();
        let mut others = Vec::new();
        for AskedHolder { holder, .. } in asked {
            let (member, who) = (holder.member.id, holder.member.name.to_string());
            let refusal = refusals.iter().find(|(refusing, _)| *refusing == member);
            let is_liar = self.crew.engine.is_disproved(member, holder.version);
            let error = match refusal {
                Some((_, error)) => error.clone(),
                // It was disproved before, and was not asked again.
                None if is_liar => Error::WrongBytes { who: who.clone() },
                None => {
                    others.push(holder);
                    continue;
                }
            };
            self.crew.answered(member);
            self.useless.push((member, by_name(error, who)));
        }
        others
    }

    /// Finds out how a changed file looks now. Returns true if the download can continue.
    fn follow(&mut self) -> io::Result<bool> {
        let is_change =
            |error: &Error| matches!(error, Error::Changed { .. } | Error::NotFound { .. });
        let changed = std::mem::take(&mut self.useless);
        let mut holders = self.holders.iter().filter(|holder| {
            let mut changed = changed.iter();
            changed.any(|(member, error)| *member == holder.member.id && is_change(error))
        });
        let followed = match self.job.root {
            Some(_) => holders.find_map(|holder| self.touched(holder)),
            None => holders.find_map(|holder| self.grown(holder)),
        };
        let Some((holder, version, content, mtime)) = followed else {
            self.useless = changed;
            return Ok(false);
        };
        let holder = holder.clone();
        self.holders = vec![Holder { version, ..holder }];
        self.part.expect(content.root)?;
        self.crew.bar.inc_length(content.size - self.size);
        self.content = Some(content);
        (self.size, self.mtime) = (content.size, mtime);
        Ok(true)
    }

    /// Returns what `holder` has if it is another version with the same content, as soon as the
    /// holder has hashed it.
    fn touched<'a>(&self, holder: &'a Holder) -> Option<FollowedHolder<'a>> {
        let (content, now) = (self.content?, self.crew.look(holder)?);
        let is_same = now.root == Some(content.root) && now.version != holder.version;
        is_same.then_some((holder, now.version, content, now.mtime))
    }

    /// Returns what `holder` has if it may begin with the earlier content. If it does not, the
    /// check at the end fails.
    fn grown<'a>(&self, holder: &'a Holder) -> Option<FollowedHolder<'a>> {
        let before = ContentState {
            member: holder.member.id,
            version: holder.version,
            content: self.content,
            size: self.size,
            renewals: 0,
        };
        let peer = self.crew.peer(before.member)?;
        let found = before.ask_whole(&*peer, &holder.path, Instant::now() + READ_DEADLINE);
        let found = found.ok().flatten()?;
        let is_news = before.at(found) != before;
        is_news.then_some((holder, found.version, found.content, self.mtime))
    }
}

/// Puts the display name `who` into an error.
fn by_name(error: Error, who: String) -> Error {
    match error {
        Error::WrongBytes { .. } => Error::WrongBytes { who },
        Error::Timeout { .. } => Error::Timeout { who },
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
