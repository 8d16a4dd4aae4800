//! Open files and open directories, by the handle that the kernel holds.
//!
//! Each open file has a download of its own, so that several readers of one file do not disturb one
//! another. An open directory keeps the state that its reader began with, because the kernel goes
//! through it by offset, in many requests, and may ask for the same offset twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tinyp2p_net::download::Download;
use tinyp2p_net::model::RelPath;

use super::inodes::Vantage;
use super::open_content::{ContentState, OpenContent};
use crate::network::MemberRef;
use crate::search::SearchResult;
use crate::view::MergedDirectory;

/// A file that somebody reads.
pub struct OpenFile {
    /// The number of its inode.
    pub number: u64,
    /// Its path at the member that it is read from.
    pub path: RelPath,
    /// What is read.
    pub content: Arc<OpenContent>,
    /// Where its bytes come from, and what they are of.
    pub download: Mutex<(ContentState, Arc<Download>)>,
}

/// A directory that somebody goes through.
pub struct OpenDirectory {
    /// The number of its inode.
    pub number: u64,
    /// What is in it.
    pub what: DirectoryKind,
    /// What its reader sees; taken when the first entry is asked for.
    pub snapshot: Mutex<Option<DirectorySnapshot>>,
    /// What its reader will get next.
    pub ahead: Mutex<UpcomingEntries>,
}

/// The numbers of entries that the reader of a directory will most likely ask for next. They count
/// as assigned from the moment on in which they are put here.
#[derive(Default)]
pub struct UpcomingEntries {
    /// How many entries lie before what the reader will ask for.
    pub reached: usize,
    /// How many of them came with the last answer.
    pub last: usize,
    /// Those of the entries from `reached` on; `None` for one that cannot be named.
    pub numbers: Vec<Option<u64>>,
    /// True if the reader has come by an entry that cannot be named.
    pub has_left_out: bool,
    /// True once nobody will ask any more.
    pub is_closed: bool,
}

/// The kinds of directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DirectoryKind {
    /// One of a tree, by its path there.
    Tree(Vantage, RelPath),
    /// One of the program's own that is listed from memory.
    Own,
    /// The list of members, each a directory.
    Members,
    /// What this pattern finds.
    Found(Arc<str>),
}

/// One state of a directory.
#[derive(Clone)]
pub enum DirectorySnapshot {
    /// Of one of a tree.
    Directory(Arc<MergedDirectory>),
    /// Of the members.
    Members(Arc<[MemberRef]>),
    /// Of what a search found.
    Found(Arc<SearchResult>),
}

/// Open things by handle. A handle is never used again.
pub struct Handles<T> {
    open: Mutex<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }
}

impl<T> Handles<T> {
    /// A handle for `thing`.
    pub fn insert(&self, thing: T) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(handle, Arc::new(thing));
        handle
    }

    /// What `handle` stands for.
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        self.open.lock().get(&handle).cloned()
    }

    /// Closes `handle`. The thing goes when its last user does, never under the lock.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.open.lock().remove(&handle)
    }

    /// All that is open now.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.open.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_handle_never_comes_back() {
        let handles = Handles::default();
        let first = handles.insert("a");
        assert_eq!(handles.get(first).as_deref(), Some(&"a"));
        assert_eq!(handles.remove(first).as_deref(), Some(&"a"));
        assert_eq!(handles.get(first), None);
        assert_ne!(handles.insert("b"), first);
    }
}
