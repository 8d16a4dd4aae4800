//! `.tinyp2p/` in the root of the mount: never listed there, but found by name, so that `find`,
//! `cp -r` and indexers do not come across it.
//!
//! It consists of three directories, a directory for each pattern that the kernel knows, and files.
//! The members' trees and the searches hang off the three directories; the filesystem has those,
//! because they need the network. A file is generated when it is looked up, from what this node
//! knows, without asking anybody. As everywhere in the mount, an inode is one content: each state
//! of a file has its own number, which is never reused, and is kept for as long as the kernel knows
//! it. So the size that a `stat` shows is right, and an open file stays as it is. (A size of 0, as
//! files in `/proc` have, would do for most programs, but not for those that copy by `sendfile`:
//! the kernel takes the size at its word.)

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tinyp2p_net::model::{FileSize, Kind, Mode, UnixTime};

use super::handles::DirectoryKind;
use super::inodes::ROOT;
use super::{Attr, DirectoryEntry, LookupResult, ReadDone};
use crate::errno::Error;
use crate::network::Network;
use crate::report::status::{NodeLocation, NodeReport};
use crate::search::Searches;
use crate::view::{RESERVED, View};

/// The number of the directory; those of its files follow. Other inodes and handles count up from
/// below and never get here.
const DIRECTORY: u64 = 1 << 62;

/// The number of the directory of the members.
pub const MEMBERS: u64 = DIRECTORY + 1;

/// The number of the directory of the searches.
pub const SEARCHES: u64 = DIRECTORY + 2;

/// What is in the directory, by name.
const NAMES: [(&str, ControlEntry); 5] = [
    (
        "conflicts",
        ControlEntry::File(|this| this.view.conflicts()),
    ),
    ("peers", ControlEntry::Directory(MEMBERS)),
    ("search", ControlEntry::Directory(SEARCHES)),
    ("status", ControlEntry::File(|this| this.report().text())),
    (
        "status.json",
        ControlEntry::File(|this| this.report().json()),
    ),
];

#[derive(Clone, Copy)]
enum ControlEntry {
    File(fn(&Hidden) -> String),
    Directory(u64),
}

/// The directory and what is in it.
pub struct Hidden {
    network: Arc<dyn Network>,
    view: Arc<View>,
    searches: Arc<Searches>,
    /// Where the node is on this machine.
    pub(super) location: NodeLocation,
    states: Mutex<States>,
}

/// The file states and the patterns that the kernel knows, by their numbers.
struct States {
    by_number: HashMap<u64, State>,
    patterns: HashMap<Arc<str>, u64>,
    next: u64,
}

#[derive(Clone)]
struct State {
    content: ControlContent,
    made: UnixTime,
    lookups: u64,
}

#[derive(Clone)]
enum ControlContent {
    File(Arc<[u8]>),
    /// A directory of what the pattern finds.
    Pattern(Arc<str>),
}

/// Returns true for inode numbers and handles of open files that belong to [`Hidden`].
pub fn is_hidden(number: u64) -> bool {
    number >= DIRECTORY
}

impl Hidden {
    /// Shows the node behind `network`, what `view` has seen, and `searches`.
    pub fn new(network: Arc<dyn Network>, view: Arc<View>, searches: Arc<Searches>) -> Self {
        Self {
            network,
            view,
            searches,
            location: NodeLocation::default(),
            states: Mutex::new(States {
                by_number: HashMap::new(),
                patterns: HashMap::new(),
                next: SEARCHES + 1,
            }),
        }
    }

    /// Returns true if `name` in `parent` belongs to this directory.
    pub fn has(&self, parent: u64, name: &[u8]) -> bool {
        is_hidden(parent) || (parent == ROOT && name == RESERVED)
    }

    /// Returns what the directory `number` lists.
    pub fn listed(&self, number: u64) -> Result<DirectoryKind, Error> {
        match number {
            DIRECTORY | SEARCHES => Ok(DirectoryKind::Own),
            MEMBERS => Ok(DirectoryKind::Members),
            _ => match self.state(number)?.content {
                ControlContent::Pattern(pattern) => Ok(DirectoryKind::Found(pattern)),
                ControlContent::File(_) => Err(Error::NotADirectory),
            },
        }
    }

    /// Finds what [`Hidden::has`], in a directory of its own or in the root. Generates a file again
    /// on each lookup. Counts what it finds as assigned to the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<LookupResult, Error> {
        let absent = LookupResult::Absent { certain: true };
        match parent {
            ROOT => Ok(LookupResult::Found(self.attr(DIRECTORY)?)),
            DIRECTORY => {
                let entry = NAMES.iter().find(|(entry, _)| entry.as_bytes() == name);
                Ok(match entry {
                    Some((_, entry)) => LookupResult::Found(self.assign(*entry)?),
                    None => absent,
                })
            }
            SEARCHES => Ok(match self.searches.pattern(name) {
                Some(pattern) => LookupResult::Found(self.tell_pattern(pattern)),
                None => absent,
            }),
            _ => Err(Error::NotADirectory),
        }
    }

    /// Returns the report that the status files show.
    fn report(&self) -> NodeReport {
        let report = NodeReport::new(self.location.clone(), self.network.status());
        report.with_searches(self.searches.troubles())
    }

    fn assign(&self, entry: ControlEntry) -> Result<Attr, Error> {
        let make = match entry {
            ControlEntry::Directory(number) => return self.attr(number),
            ControlEntry::File(make) => make,
        };
        // Without holding the lock.
        let content = ControlContent::File(make(self).into_bytes().into());
        let mut states = self.states.lock();
        Ok(states.add(content))
    }

    /// Assigns the number of a pattern, which keeps it for as long as the kernel knows it.
    fn tell_pattern(&self, pattern: Arc<str>) -> Attr {
        let mut states = self.states.lock();
        if let Some(number) = states.patterns.get(&pattern).copied()
            && let Some(state) = states.by_number.get_mut(&number)
        {
            state.lookups += 1;
            return state.attr(number);
        }
        let attr = states.add(ControlContent::Pattern(Arc::clone(&pattern)));
        states.patterns.insert(pattern, attr.inode);
        attr
    }

    /// Takes back `count` assignments that the kernel has forgotten.
    pub fn forget(&self, number: u64, count: u64) {
        let mut states = self.states.lock();
        if let Some(state) = states.by_number.get_mut(&number) {
            state.lookups = state.lookups.saturating_sub(count);
            if state.lookups == 0
                && let Some(state) = states.by_number.remove(&number)
                && let ControlContent::Pattern(pattern) = state.content
            {
                states.patterns.remove(&pattern);
            }
        }
    }

    /// Returns what a `stat` shows.
    pub fn attr(&self, number: u64) -> Result<Attr, Error> {
        if matches!(number, DIRECTORY | MEMBERS | SEARCHES) {
            return Ok(Attr {
                inode: number,
                kind: Kind::Directory,
                mode: Mode::Plain,
                size: FileSize::ZERO,
                mtime: UnixTime::now(),
                may_grow: false,
            });
        }
        Ok(self.state(number)?.attr(number))
    }

    /// Returns the directory above `number`, which is one of the program's own. For the topmost
    /// one, that is the root.
    pub fn parent(&self, number: u64) -> u64 {
        match number {
            DIRECTORY => ROOT,
            MEMBERS | SEARCHES => DIRECTORY,
            _ => SEARCHES,
        }
    }

    /// Passes the entries of the directory `number`, except `.` and `..`, to `emit`, from `offset`
    /// on, until one does not fit. The list of searches is empty: every pattern has a directory.
    pub fn list(
        &self,
        number: u64,
        offset: u64,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        if number != DIRECTORY {
            return Ok(());
        }
        for (next, (name, entry)) in (3..).zip(NAMES) {
            if next <= offset {
                continue;
            }
            let (name, attr) = (name.as_bytes(), self.assign(entry)?);
            if !emit(DirectoryEntry { name, next, attr }) {
                self.forget(attr.inode, 1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Opens a file. Its number is also the handle: the kernel does not forget an open file.
    pub fn open(&self, number: u64) -> Result<u64, Error> {
        match self.attr(number)?.kind {
            Kind::File => Ok(number),
            Kind::Directory => Err(Error::IsADirectory),
        }
    }

    /// Reads at most `size` bytes at `offset`, at once.
    pub fn read(&self, handle: u64, offset: u64, size: u32, done: ReadDone) {
        let content = self.state(handle).map(|state| state.content);
        let Ok(ControlContent::File(content)) = content else {
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

impl States {
    /// Gives `content` the next number, and counts it as assigned.
    fn add(&mut self, content: ControlContent) -> Attr {
        let state = State {
            content,
            made: UnixTime::now(),
            lookups: 1,
        };
        let number = self.next;
        self.next += 1;
        let attr = state.attr(number);
        self.by_number.insert(number, state);
        attr
    }
}

impl State {
    fn attr(&self, number: u64) -> Attr {
        let (kind, size) = match &self.content {
            ControlContent::File(content) => (Kind::File, content.len() as u64),
            ControlContent::Pattern(_) => (Kind::Directory, 0),
        };
        Attr {
            inode: number,
            kind,
            mode: Mode::Plain,
            size: size.into(),
            mtime: self.made,
            may_grow: false,
        }
    }
}

#[cfg(test)]
mod tests;
