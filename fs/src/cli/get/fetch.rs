//! One file: from its holders, one after the other, into its place.
//!
//! All bytes of a file come from one member in one version. When that member fails for good, the
//! next one begins anew: size and mtime may make two files look alike, but do not make them so.
//! Where the content root is known, nothing else gets the name.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tinyp2p_net::client::Peer;
use tinyp2p_net::config::{CALL_DEADLINE, CONNECT_DEADLINE, READ_DEADLINE};
use tinyp2p_net::error::Error;
use tinyp2p_net::types::{ByteRange, PeerId};

use super::plan::{Holder, Job};
use super::target::{Begin, Part, Target};

/// Bytes taken from the stream at once.
const BUFFER: usize = 256 * 1024;

/// Tries at one holder in a row that brought nothing.
const FRUITLESS_TRIES: u32 = 3;

/// Between two tries: a member that restarts is back by then.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The file is here now.
    Fetched,
    /// Something of that name was here, and stays.
    Existed,
}

/// Finds the member to read from; `None` while it is not there.
pub(super) type Find<'a> = &'a (dyn Fn(PeerId) -> Option<Arc<dyn Peer>> + Sync);

/// Why a try ended.
enum Stop {
    /// This member cannot go on, another might.
    Peer(Error),
    /// The own disk is at fault: no other member helps.
    Disk(std::io::Error),
}

/// Fetches one file; `parts` are those in its directory. The error is one line for people.
pub(super) fn fetch(
    job: &Job,
    target: &Target,
    parts: &[Vec<u8>],
    find: Find<'_>,
    bar: &ProgressBar,
) -> Result<Outcome, String> {
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
    let mut failure = String::new();
    for holder in std::iter::once(first).chain(others) {
        if holder != part.holder() {
            bar.dec(part.offset());
            part.restart(holder, job).map_err(|e| e.to_string())?;
        }
        match from_holder(job, &job.holders[holder], &mut part, find, bar) {
            Ok(()) => {
                let finished = part.finish(job.mtime).map_err(|e| e.to_string())?;
                return Ok(if finished {
                    Outcome::Fetched
                } else {
                    Outcome::Existed
                });
            }
            Err(Stop::Peer(error)) => failure = error.to_string(),
            Err(Stop::Disk(error)) => return Err(error.to_string()),
        }
    }
    Err(failure)
}

/// Goes on from where the part ends, as long as that brings anything.
fn from_holder(
    job: &Job,
    holder: &Holder,
    part: &mut Part,
    find: Find<'_>,
    bar: &ProgressBar,
) -> Result<(), Stop> {
    let mut fruitless = 0;
    loop {
        let before = part.offset();
        match stream(job, holder, part, find, bar) {
            Err(Stop::Peer(error)) if error.is_absence() => {
                fruitless = if part.offset() > before {
                    0
                } else {
                    fruitless + 1
                };
                if fruitless >= FRUITLESS_TRIES {
                    return Err(Stop::Peer(error));
                }
                tracing::info!(file = %holder.path, %error, "trying again");
                thread::sleep(PAUSE);
            }
            Ok(()) if !part.is_genuine().map_err(Stop::Disk)? => {
                let who = holder.member.name.to_string();
                return Err(Stop::Peer(Error::WrongBytes { who }));
            }
            other => return other,
        }
    }
}

/// One stream, to the end of the file.
fn stream(
    job: &Job,
    holder: &Holder,
    part: &mut Part,
    find: Find<'_>,
    bar: &ProgressBar,
) -> Result<(), Stop> {
    if part.offset() == job.size {
        return Ok(());
    }
    let peer = find(holder.member.id).ok_or_else(|| {
        Stop::Peer(Error::Unreachable {
            who: holder.member.name.to_string(),
            why: "it has left the network".to_owned(),
        })
    })?;
    let range = ByteRange::new(part.offset(), job.size);
    let deadline = Instant::now() + CONNECT_DEADLINE + CALL_DEADLINE;
    let mut stream = peer
        .open(&holder.path, holder.version, range, deadline)
        .map_err(Stop::Peer)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = stream
            .read(&mut buffer, Instant::now() + READ_DEADLINE)
            .map_err(Stop::Peer)?;
        if count == 0 {
            return Ok(());
        }
        part.append(&buffer[..count]).map_err(Stop::Disk)?;
        bar.inc(count as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
