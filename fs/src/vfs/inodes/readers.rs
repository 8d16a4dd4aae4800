//! Files that somebody has open: what the kernel's pages of them are of, and how their numbers
//! follow them when they grow.

use std::sync::Arc;

use super::Inodes;
use crate::vfs::open_content::{ContentState, OpenContent};
use crate::view::identity::{InodeKey, Vantage, hash_of};
use crate::view::merge::Item;

/// Those who read one file.
#[derive(Default)]
pub(super) struct Readers {
    /// How many have it open.
    opens: usize,
    /// Reads under way that are answered as if the file ended where the kernel has been
    /// told it does.
    short_reads: usize,
    /// What the kernel's pages of it are of.
    pages: Option<Arc<OpenContent>>,
}

/// What a new handle has to do with the pages that the kernel has of its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// They are of the same content.
    Keep,
    /// They are of another one, which nobody reads any more.
    Drop,
    /// They are of another one, for those who read that.
    Bypass,
}

impl Inodes {
    /// Counts a handle of `number` that reads `state`. Says with whom it shares what it reads, and
    /// what it has to do with the kernel's pages. A handle that reads something else than the
    /// kernel takes the file for has nothing to do with them.
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
            Some(content) if content.is(state) => (Arc::clone(content), Pages::Keep),
            // Nobody but this table has it.
            Some(content) if Arc::strong_count(content) == 1 => (fresh(), Pages::Drop),
            Some(_) => return Some((fresh(), Pages::Bypass)),
            // What the kernel may have is what this stands for.
            None if inode.has(state) => (fresh(), Pages::Keep),
            None => (fresh(), Pages::Drop),
        };
        readers.pages = Some(Arc::clone(&content));
        Some((content, pages))
    }

    /// Takes a handle of `number` back, which is to be gone by now.
    pub fn end_reading(&mut self, number: u64) {
        let Some(readers) = self.readers.get_mut(&number) else {
            return;
        };
        readers.opens = readers.opens.saturating_sub(1);
        if readers.opens > 0 {
            return;
        }
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

    /// True while somebody has the file open.
    pub fn is_open(&self, number: u64) -> bool {
        let readers = self.readers.get(&number);
        readers.is_some_and(|readers| readers.opens > 0)
    }

    /// Counts a read of `number` that is to end where the content of `size` bytes does. `false`
    /// if the kernel may know by now that the file has more: it would take what is
    /// missing for zeros.
    pub fn begin_short_read(&mut self, number: u64, size: u64) -> bool {
        if self
            .inodes
            .get(&number)
            .is_some_and(|inode| inode.size.known().is_none_or(|known| known > size))
        {
            return false;
        }
        if let Some(readers) = self.readers.get_mut(&number) {
            readers.short_reads += 1;
        }
        true
    }

    /// Takes it back, once the kernel has its answer.
    pub fn end_short_read(&mut self, number: u64) {
        if let Some(readers) = self.readers.get_mut(&number) {
            readers.short_reads = readers.short_reads.saturating_sub(1);
        }
    }

    /// The file has `size` bytes by now; if they are more, the kernel may know, unless a read is
    /// being answered by what it knew before.
    pub(super) fn grow(&mut self, number: u64, size: u64) {
        let readers = self.readers.get(&number);
        let is_being_read = readers.is_some_and(|readers| readers.short_reads > 0);
        if let Some(inode) = self.inodes.get_mut(&number)
            && !is_being_read
            && inode.size.known().is_some_and(|known| known < size)
        {
            inode.size = size.into();
        }
    }

    /// Lets the number of an open file that has become `item` stand for that, if there is one.
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

    /// Takes note of what the open file `number` is by now, as its own member says.
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
