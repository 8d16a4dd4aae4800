//! Open files and open directories, by the handle that the kernel holds.
//!
//! Each open file has its own download, so that several readers of one file do not disturb one
//! another. An open directory keeps the state that its reader began with, because the kernel walks
//! it by offset, in many requests, and may ask for the same offset twice.

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

/// A file that is open for reading.
pub struct OpenFile {
    /// The number of its inode.
    pub number: u64,
    /// Its path at the member that it is read from.
    pub path: RelPath,
    /// The content that is read.
    pub content: Arc<OpenContent>,
    /// The download of its bytes, and the state that it is of.
    pub download: Mutex<(ContentState, Arc<Download>)>,
}

/// A directory that is open for reading.
pub struct OpenDirectory {
    /// The number of its inode.
    pub number: u64,
    /// What kind of directory it is.
    pub what: DirectoryKind,
    /// The state that its reader sees, taken when the first entry is requested.
    pub snapshot: Mutex<Option<DirectorySnapshot>>,
    /// The entries that its reader will get next.
    pub ahead: Mutex<UpcomingEntries>,
}

/// The numbers of entries that the reader of a directory will most likely request next. They count
/// as assigned from the moment they are put here.
#[derive(Default)]
pub struct UpcomingEntries {
    /// How many entries precede the reader's next request.
    pub reached: usize,
    /// How many of them came with the last reply.
    pub last: usize,
    /// The numbers of the entries from `reached` on; `None` for an entry that cannot be named.
    pub numbers: Vec<Option<u64>>,
    /// True if the reader has passed an entry that cannot be named.
    pub has_left_out: bool,
    /// True once there will be no more requests.
    pub is_closed: bool,
}

/// The kinds of directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DirectoryKind {
    /// A directory of a tree, by its path there.
    Tree(Vantage, RelPath),
    /// One of the program's own directories, listed from memory.
    Own,
    /// The list of members, each a directory.
    Members,
    /// The files that this pattern finds.
    Found(Arc<str>),
}

/// One state of a directory.
#[derive(Clone)]
pub enum DirectorySnapshot {
    /// A directory of a tree.
    Directory(Arc<MergedDirectory>),
    /// The list of members.
    Members(Arc<[MemberRef]>),
    /// The result of a search.
    Found(Arc<SearchResult>),
}

/// Open files or directories by handle. A handle is never reused.
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
    /// Returns a new handle for `thing`.
    pub fn insert(&self, thing: T) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(handle, Arc::new(thing));
        handle
    }

    /// What `handle` stands for.
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        self.open.lock().get(&handle).cloned()
    }

    /// Closes `handle`. The last user of the thing drops it, never under the lock.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.open.lock().remove(&handle)
    }

    /// Returns everything that is open now.
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
