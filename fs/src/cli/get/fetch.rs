//! One file: from its holders, one after the other, into its place.
//!
//! All bytes of a file come from one member in one version, or have one content root. When that member fails for good,
//! the next one begins anew: size and mtime may make two files look alike, but do not make them so.
//! Where the content root is known, nothing else gets the name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tinyp2p_net::config::{CALL_DEADLINE, CONNECT_DEADLINE, READ_DEADLINE};
use tinyp2p_net::error::Error;
use tinyp2p_net::model::{Attributes, ByteRange, ContentId, PeerId, UnixTime, Version};
use tinyp2p_net::peer;
use tinyp2p_net::peer::Peer;
use tinyp2p_net::protocol::wire::SnapshotRequest;

use super::plan::{Holder, Job};
use super::queue::{Standing, Task};
use super::target::{Begin, Part, PartCheck, Target};

/// Bytes taken from the stream at once.
const BUFFER: usize = 256 * 1024;

/// A stream that brings less than this in a window of [`READ_DEADLINE`] is given up: single bytes now
/// and then must not occupy a worker for ever.
const LEAST_PROGRESS: u64 = 16 * 1024;

/// A file that changes more often than this while it is fetched is left alone.
const MAX_CHANGES: u32 = 8;

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
    /// The member to read from; `None` while it is not there.
    fn find(&self, member: PeerId) -> Option<Arc<dyn Peer>>;
    /// How likely it is to answer.
    fn standing(&self, member: PeerId) -> Standing;
    /// It did not answer.
    fn silent(&self, member: PeerId, error: &Error);
    /// It answered.
    fn answered(&self, member: PeerId);
    /// What the file is now at `holder`, with its content root: waits a while for that. `None` if it cannot be had.
    fn look(&self, holder: &Holder) -> Option<Attributes>;
}

/// Why a try ended.
enum Stop {
    /// This member cannot go on, another might.
    Peer(Error),
    /// The own disk is at fault: no other member helps.
    Disk(std::io::Error),
}

/// Fetches one file; `parts` are those in its directory. Holders that turn out not to have it are
/// taken off the job. The error is one line for people.
pub(super) fn fetch(
    task: &mut Task,
    target: &Target,
    parts: &[Vec<u8>],
    members: &dyn Members,
    bar: &ProgressBar,
) -> Result<Outcome, String> {
    let job = &task.job;
    let mut part = match target.begin(job, parts).map_err(|e| e.to_string())? {
        Begin::Part(part) => part,
        Begin::Busy => return Err("another process is fetching it".to_owned()),
        Begin::Exists => {
            bar.inc(job.size);
            return Ok(Outcome::Existed);
        }
    };
    bar.inc(part.offset());
    let first = part.holder();
    let others = (0..job.holders.len()).filter(|holder| *holder != first);
    let (mut failure, mut useless) = (String::new(), Vec::new());
    for holder in std::iter::once(first).chain(others) {
        let member = job.holders[holder].member.id;
        if task.probe != Some(member) && members.standing(member) != Standing::Present {
            continue;
        }
        if holder != part.holder() {
            bar.dec(part.offset());
            part.restart(holder, job).map_err(|e| e.to_string())?;
        }
        let (outcome, mtime) = follow(job, &job.holders[holder], &mut part, members, bar);
        match outcome {
            Ok(()) => {
                members.answered(member);
                let finished = part.finish(mtime).map_err(|e| e.to_string())?;
                return Ok(if finished {
                    Outcome::Fetched
                } else {
                    Outcome::Existed
                });
            }
            Err(Stop::Peer(error)) => {
                failure = error.to_string();
                if error.is_absence() {
                    members.silent(member, &error);
                } else {
                    members.answered(member);
                    useless.push(member);
                }
            }
            Err(Stop::Disk(error)) => return Err(error.to_string()),
        }
    }
    bar.dec(part.offset());
    let holders = &mut task.job.holders;
    if holders
        .iter()
        .all(|holder| useless.contains(&holder.member.id))
    {
        part.give_up().map_err(|e| e.to_string())?;
        return Err(failure);
    }
    holders.retain(|holder| !useless.contains(&holder.member.id));
    Ok(Outcome::Postponed)
}

/// What a holder is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// The file in this version, of so many bytes.
    File(Version, u64),
    /// This content, wherever it is.
    Content(ContentId),
}

impl Wanted {
    fn size(self) -> u64 {
        match self {
            Self::File(_, size) => size,
            Self::Content(content) => content.size,
        }
    }
}

/// Brings the file from `holder`, and the time at which it was modified there. A file that is another version meanwhile
/// is fetched on if it has the same content all the same, after a `touch`, say, or if something was appended to it.
fn follow(
    job: &Job,
    holder: &Holder,
    part: &mut Part,
    members: &dyn Members,
    bar: &ProgressBar,
) -> (Result<(), Stop>, UnixTime) {
    let (mut holder, mut mtime) = (holder.clone(), job.mtime);
    let mut wanted = Wanted::File(holder.version, job.size);
    let who = holder.member.name.to_string();
    let changed = || Err(Stop::Peer(Error::Changed { who: who.clone() }));
    for _ in 0..MAX_CHANGES {
        let outcome = from_holder(wanted, &holder, part, members, bar);
        let has_gone = matches!(
            outcome,
            Err(Stop::Peer(Error::Changed { .. } | Error::NotFound { .. }))
        );
        if !has_gone {
            return (outcome, mtime);
        }
        let by_root = match wanted {
            Wanted::File(..) => content_of(job, &holder, members),
            // It is not there any more, or not found at once.
            Wanted::Content(_) => None,
        };
        if let Some(content) = by_root {
            if let Err(error) = part.expect(content.root) {
                return (Err(Stop::Disk(error)), mtime);
            }
            bar.inc_length(content.size.saturating_sub(job.size));
            wanted = Wanted::Content(content);
            continue;
        }
        let now = members.look(&holder).filter(|now| {
            let is_new = now.version != holder.version;
            is_new && now.root.is_some() && now.root == job.root
        });
        let Some(now) = now else {
            return match wanted {
                Wanted::File(..) => (outcome, mtime),
                Wanted::Content(_) => (changed(), mtime),
            };
        };
        (holder.version, mtime) = (now.version, now.mtime);
        wanted = Wanted::File(now.version, job.size);
    }
    (changed(), mtime)
}

/// The content of the file as `holder` had it in its version, or of what it has become by an append.
fn content_of(job: &Job, holder: &Holder, members: &dyn Members) -> Option<ContentId> {
    if let Some(root) = job.root {
        let size = job.size;
        return Some(ContentId { root, size });
    }
    let peer = members.find(holder.member.id)?;
    let request = SnapshotRequest {
        path: holder.path.clone(),
        version: holder.version,
        size: job.size,
        may_read: true,
        prefix: None,
    };
    let found = peer::snapshot(&*peer, &request, Instant::now() + READ_DEADLINE).ok()?;
    let is_same = found.version.file() == holder.version.file();
    (is_same && found.content.size >= job.size).then_some(found.content)
}

/// Goes on from where the part ends, as long as each stream brings something worth it.
fn from_holder(
    wanted: Wanted,
    holder: &Holder,
    part: &mut Part,
    members: &dyn Members,
    bar: &ProgressBar,
) -> Result<(), Stop> {
    loop {
        let before = part.offset();
        match stream(wanted, holder, part, members, bar) {
            Err(Stop::Peer(error @ Error::Unreachable { .. }))
                if part.offset() >= before + LEAST_PROGRESS =>
            {
                tracing::info!(file = %holder.path, %error, "going on");
            }
            // It is read on from where it is now.
            Err(Stop::Peer(error @ Error::Moved { .. })) => {
                tracing::info!(file = %holder.path, %error, "going on");
            }
            // A member may have the next part of a content only.
            Ok(()) if part.offset() < wanted.size() && part.offset() > before => {}
            Ok(()) => match part.check().map_err(Stop::Disk)? {
                PartCheck::Genuine => return Ok(()),
                PartCheck::Spoilt => bar.dec(wanted.size()),
                PartCheck::Wrong => {
                    let who = holder.member.name.to_string();
                    return Err(Stop::Peer(Error::WrongBytes { who }));
                }
            },
            other => return other,
        }
    }
}

/// One stream, to the end of the file or of what the holder has of it.
fn stream(
    wanted: Wanted,
    holder: &Holder,
    part: &mut Part,
    members: &dyn Members,
    bar: &ProgressBar,
) -> Result<(), Stop> {
    if part.offset() == wanted.size() {
        return Ok(());
    }
    let peer = members.find(holder.member.id).ok_or_else(|| {
        Stop::Peer(Error::Unreachable {
            who: holder.member.name.to_string(),
            why: "it has left the network".to_owned(),
        })
    })?;
    let range = ByteRange::new(part.offset(), wanted.size());
    let deadline = Instant::now() + CONNECT_DEADLINE + CALL_DEADLINE;
    let opened = match wanted {
        Wanted::File(version, _) => peer
            .open(&holder.path, version, range, deadline)
            .map(|stream| (range.len(), stream)),
        Wanted::Content(content) => peer.open_content(content.root, range, deadline),
    };
    let (length, mut stream) = opened.map_err(Stop::Peer)?;
    let end = part.offset() + length;
    let mut buffer = vec![0; BUFFER];
    let mut patience = Patience::default();
    loop {
        let begun = Instant::now();
        let count = stream
            .read(&mut buffer, begun + patience.left)
            .map_err(Stop::Peer)?;
        if count == 0 {
            return Ok(());
        }
        let waited = begun.elapsed();
        part.append(&buffer[..count]).map_err(Stop::Disk)?;
        bar.inc(count as u64);
        if patience.is_rewarded(waited, count as u64) {
            members.answered(holder.member.id);
        }
        // A stream may give what has arrived even when its time is over.
        if patience.left.is_zero() && part.offset() < end {
            let who = holder.member.name.to_string();
            return Err(Stop::Peer(Error::Timeout { who }));
        }
    }
}

/// How long a stream is still waited for before it has brought [`LEAST_PROGRESS`]. Only waiting for the
/// member counts, not for the own disk.
#[derive(Debug)]
struct Patience {
    left: Duration,
    brought: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            left: READ_DEADLINE,
            brought: 0,
        }
    }
}

impl Patience {
    /// `count` bytes came after `waited`. True, and the window begins anew, when that makes enough.
    fn is_rewarded(&mut self, waited: Duration, count: u64) -> bool {
        self.left = self.left.saturating_sub(waited);
        self.brought += count;
        let enough = self.brought >= LEAST_PROGRESS;
        if enough {
            *self = Self::default();
        }
        enough
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
