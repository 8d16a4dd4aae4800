//! Files that somebody has open: which content the kernel's pages of them hold, and how their
//! numbers follow them when they grow.

use std::sync::Arc;

use tinyp2p_net::model::FileSize;

use super::Inodes;
use crate::vfs::open_content::{ContentState, OpenContent};
use crate::view::identity::{InodeKey, Vantage, hash_of};
use crate::view::merge::Item;

/// The readers of one file.
#[derive(Default)]
pub(super) struct Readers {
    /// How many handles have it open.
    opens: usize,
    /// Reads under way that are answered as if the file ended at the size that the kernel knows.
    short_reads: usize,
    /// The content that the kernel's pages of it hold.
    pages: Option<Arc<OpenContent>>,
    /// True if a handle was told to drop the pages before it, and may not have done so yet: replies
    /// to open(2) reach the kernel in any order.
    may_hold_others: bool,
    /// The size that the file has grown to, while the kernel still takes it for smaller.
    grows_to: Option<u64>,
}

/// How a new handle uses the pages that the kernel has of its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// They hold the same content.
    Keep,
    /// They hold another content, which has no readers left.
    Drop,
    /// They hold another content, for handles that read that.
    Bypass,
}

impl Inodes {
    /// Counts a handle of `number` that reads `state`. Returns what it reads, shared with other
    /// handles where possible, and how it uses the kernel's pages. A handle that reads something
    /// other than what the kernel takes the file for does not use them.
    pub fn begin_reading(
        &mut self,
        number: u64,
        state: ContentState,
    ) -> Option<(Arc<OpenContent>, Pages)> {
        let inode = self.inodes.get(&number)?;
        let readers = self.readers.entry(number).or_default();
        readers.opens += 1;
        if readers.opens == 1 {
            let open = self.open.entry(inode.path.clone()).or_default();
            open.push(number);
        }
        let fresh = || Arc::new(OpenContent::new(state));
        if inode.size != state.size {
            return Some((fresh(), Pages::Bypass));
        }
        let (content, pages) = match &readers.pages {
            Some(content) if content.is(state) && readers.may_hold_others => {
                (Arc::clone(content), Pages::Drop)
            }
            Some(content) if content.is(state) => (Arc::clone(content), Pages::Keep),
            // Only this table has it.
            Some(content) if Arc::strong_count(content) == 1 => (fresh(), Pages::Drop),
            Some(_) => return Some((fresh(), Pages::Bypass)),
            // Any pages that the kernel has hold what this inode stands for.
            None if inode.has(state) => (fresh(), Pages::Keep),
            None => (fresh(), Pages::Drop),
        };
        readers.pages = Some(Arc::clone(&content));
        readers.may_hold_others |= pages == Pages::Drop;
        Some((content, pages))
    }

    /// Takes back a handle of `number`, which must already be dropped.
    pub fn end_reading(&mut self, number: u64) {
        let Some(readers) = self.readers.get_mut(&number) else {
            return;
        };
        readers.opens = readers.opens.saturating_sub(1);
        if readers.opens > 0 {
            return;
        }
        // A handle that the kernel closes is one whose reply it has acted on.
        readers.may_hold_others = false;
        let inode = self.inodes.get(&number);
        let pages = readers.pages.as_ref();
        let is_plain = pages.is_none_or(|pages| inode.is_none_or(|inode| inode.has(pages.state())));
        if is_plain {
            self.readers.remove(&number);
        }
        if let Some(inode) = inode
            && let Some(open) = self.open.get_mut(&inode.path)
        {
            open.retain(|other| *other != number);
            if open.is_empty() {
                self.open.remove(&inode.path);
            }
        }
    }

    /// Returns true while somebody has the file open.
    pub fn is_open(&self, number: u64) -> bool {
        let readers = self.readers.get(&number);
        readers.is_some_and(|readers| readers.opens > 0)
    }

    /// Counts a read of `number` that ends where the content of `size` bytes does. Returns `false`
    /// if the kernel may already know a larger size: it would take the missing bytes for zeros.
    pub fn begin_short_read(&mut self, number: u64, size: u64) -> bool {
        let latest = self.latest_size(number);
        if latest.is_some_and(|latest| latest.known().is_none_or(|known| known > size)) {
            return false;
        }
        if let Some(readers) = self.readers.get_mut(&number) {
            readers.short_reads += 1;
        }
        true
    }

    /// Takes back a short read, once the kernel has its answer.
    pub fn end_short_read(&mut self, number: u64) {
        if let Some(readers) = self.readers.get_mut(&number) {
            readers.short_reads = readers.short_reads.saturating_sub(1);
        }
    }

    /// Returns the size of `number`, which may be more than the kernel takes it for.
    pub fn latest_size(&self, number: u64) -> Option<FileSize> {
        let grows_to = self.readers.get(&number).and_then(|its| its.grows_to);
        let known = self.inodes.get(&number).map(|inode| inode.size);
        grows_to.map(FileSize::from).or(known)
    }

    /// Records that the file now has `size` bytes. If they are more, reads no longer end where they
    /// did, and the kernel may be told by [`Inodes::finish_growth`]; but not while a read is being
    /// answered by what it knew before.
    pub(super) fn grow(&mut self, number: u64, size: u64) {
        let Some(inode) = self.inodes.get_mut(&number) else {
            return;
        };
        if inode.size.known().is_none_or(|known| known >= size) {
            return;
        }
        match self.readers.get_mut(&number) {
            Some(readers) if readers.short_reads > 0 => {}
            Some(readers) if readers.opens > 0 => readers.grows_to = Some(size),
            // Nobody can read before the kernel has dropped its pages.
            _ => inode.size = size.into(),
        }
    }

    /// Returns the size that the kernel takes `number` for, if that has grown. The kernel fills the
    /// page in which the file ended with zeros, so it must drop that page before it hears of more.
    pub fn growing_from(&self, number: u64) -> Option<u64> {
        self.readers.get(&number)?.grows_to?;
        self.inodes.get(&number)?.size.known()
    }

    /// Lets the kernel have the new size of `number`.
    pub fn finish_growth(&mut self, number: u64) {
        let readers = self.readers.get_mut(&number);
        if let Some(size) = readers.and_then(|readers| readers.grows_to.take())
            && let Some(inode) = self.inodes.get_mut(&number)
        {
            inode.size = size.into();
        }
    }

    /// Makes the number of an open file that has become `item` stand for it, if there is
    /// such a file.
    pub(super) fn adopt(&mut self, key: &InodeKey, item: &Item) {
        let open = self.open.get(&key.0).cloned().unwrap_or_default();
        for number in open {
            if self
                .inodes
                .get(&number)
                .is_some_and(|inode| inode.may_become(item))
            {
                self.become_item(number, key, item);
                return;
            }
        }
    }

    /// Records what the open file `number` is now, according to its own member.
    pub fn follow(&mut self, number: u64, item: &Item) {
        let Some(inode) = self.inodes.get(&number) else {
            return;
        };
        if inode.is(item) {
            self.grow(number, item.size.or_zero());
        } else if inode.may_become(item) {
            let key = self.key(Vantage::Merged, inode.path.clone(), item);
            self.become_item(number, &key, item);
        }
    }

    fn become_item(&mut self, number: u64, key: &InodeKey, item: &Item) {
        let Some(inode) = self.inodes.get(&number) else {
            return;
        };
        let before = (inode.path.clone(), inode.identity);
        self.unlink((&before.0, before.1), number);
        if !self.knows(key) {
            self.link(hash_of(&key.0, &key.1), number);
        }
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.identity = key.1;
            inode.mtime = item.mtime;
            inode.sources = Arc::clone(&item.sources);
            inode.is_replaced = false;
        }
        self.grow(number, item.size.or_zero());
    }
}
