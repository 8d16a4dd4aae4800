//! `.tinyp2p/` in the root of the mount: never listed there, but there when asked for by name, so that
//! `find`, `cp -r` and indexers do not come across it.
//!
//! Its files are made when they are looked up, from what this node knows, without asking anybody. As
//! everywhere in the mount, an inode is one content: each state of a file has a number of its own, which
//! is never used again, and is kept for as long as the kernel knows it. So the size that a `stat` tells is
//! right, and an open file stays as it is. (A size of 0, as files in `/proc` have, would do for most
//! programs, but not for those that copy by `sendfile`: the kernel takes the size at its word.)

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tinyp2p_net::types::Kind;

use crate::errno::Error;
use crate::filesystem::{Attr, DirectoryEntry, Looked, ReadDone};
use crate::inodes::ROOT;
use crate::network::Network;
use crate::status::{Place, Report};
use crate::view::RESERVED;

/// The number of the directory; those of files follow. Other inodes and handles are counted from below
/// and never get here.
const DIRECTORY: u64 = 1 << 62;

/// What a report is in one of the files.
type Tell = fn(&Report) -> String;

/// The files by name.
const FILES: [(&str, Tell); 2] = [("status", Report::text), ("status.json", Report::json)];

/// The directory and its files.
pub struct Hidden {
    network: Arc<dyn Network>,
    place: Place,
    states: Mutex<States>,
}

/// The states of files that the kernel knows, by their numbers.
struct States {
    by_number: HashMap<u64, State>,
    next: u64,
}

#[derive(Clone)]
struct State {
    content: Arc<[u8]>,
    made: i64,
    lookups: u64,
}

/// True for numbers of inodes, and handles of open files, that are the business of [`Hidden`].
pub fn is_hidden(number: u64) -> bool {
    number >= DIRECTORY
}

impl Hidden {
    /// Tells of the node behind `network`, which is at `place`.
    pub fn new(network: Arc<dyn Network>, place: Place) -> Self {
        Self {
            network,
            place,
            states: Mutex::new(States {
                by_number: HashMap::new(),
                next: DIRECTORY + 1,
            }),
        }
    }

    /// True if `name` in `parent` is the business of this one.
    pub fn has(&self, parent: u64, name: &[u8]) -> bool {
        is_hidden(parent) || (parent == ROOT && name == RESERVED)
    }

    /// Finds what [`Hidden::has`]. A file is made anew each time, and counts as told to the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Looked, Error> {
        match parent {
            ROOT => Ok(Looked::Found(self.attr(DIRECTORY)?)),
            DIRECTORY => {
                let file = FILES.iter().find(|(file, _)| file.as_bytes() == name);
                Ok(match file {
                    Some((_, tell)) => Looked::Found(self.make(*tell)),
                    None => Looked::Absent { certain: true },
                })
            }
            _ => Err(Error::NotADirectory),
        }
    }

    fn make(&self, tell: Tell) -> Attr {
        // Outside of the lock.
        let report = Report::new(self.place.clone(), self.network.status());
        let state = State {
            content: tell(&report).into_bytes().into(),
            made: now(),
            lookups: 1,
        };
        let mut states = self.states.lock();
        let number = states.next;
        states.next += 1;
        let attr = state.attr(number);
        states.by_number.insert(number, state);
        attr
    }

    /// The kernel forgets what it was told `count` times.
    pub fn forget(&self, number: u64, count: u64) {
        let mut states = self.states.lock();
        if let Some(state) = states.by_number.get_mut(&number) {
            state.lookups = state.lookups.saturating_sub(count);
            if state.lookups == 0 {
                states.by_number.remove(&number);
            }
        }
    }

    /// What a `stat` tells.
    pub fn attr(&self, number: u64) -> Result<Attr, Error> {
        if number == DIRECTORY {
            return Ok(Attr {
                inode: DIRECTORY,
                kind: Kind::Directory,
                size: 0,
                mtime: now(),
            });
        }
        Ok(self.state(number)?.attr(number))
    }

    /// Hands the entries of the directory, whose own parent is `parent`, to `emit`, from `offset` on, until
    /// it has no room for one.
    pub fn list(
        &self,
        parent: Attr,
        offset: u64,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let dots = [(&b"."[..], self.attr(DIRECTORY)?), (&b".."[..], parent)];
        for (next, (name, attr)) in (1..).zip(dots) {
            if next > offset && !emit(DirectoryEntry { name, next, attr }) {
                return Ok(());
            }
        }
        for (next, (name, tell)) in (3..).zip(FILES) {
            if next <= offset {
                continue;
            }
            let (name, attr) = (name.as_bytes(), self.make(tell));
            if !emit(DirectoryEntry { name, next, attr }) {
                self.forget(attr.inode, 1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Opens a file. Its number is the handle, too: the kernel does not forget what is open.
    pub fn open(&self, number: u64) -> Result<u64, Error> {
        match self.attr(number)?.kind {
            Kind::File => Ok(number),
            Kind::Directory => Err(Error::IsADirectory),
        }
    }

    /// Reads at most `size` bytes at `offset`, at once.
    pub fn read(&self, handle: u64, offset: u64, size: u32, done: ReadDone) {
        let Ok(State { content, .. }) = self.state(handle) else {
            return done(Err(Error::UnknownHandle));
        };
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let end = start.saturating_add(size as usize).min(content.len());
        done(Ok(&content[start..end]));
    }

    fn state(&self, number: u64) -> Result<State, Error> {
        let states = self.states.lock();
        let state = states.by_number.get(&number);
        state.cloned().ok_or(Error::UnknownInode)
    }
}

impl State {
    fn attr(&self, number: u64) -> Attr {
        Attr {
            inode: number,
            kind: Kind::File,
            size: self.content.len() as u64,
            mtime: self.made,
        }
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.ok().and_then(|now| i64::try_from(now.as_nanos()).ok());
    now.unwrap_or(0)
}

#[cfg(test)]
mod tests;
