//! Inode numbers: how the kernel identifies the files and directories that it was shown.
//!
//! A directory's number stands for its path in one [`Vantage`]. A file's number stands for one
//! content at one path, in whatever tree it is seen, so a file that is replaced gets a new number.
//! The pages that the kernel has cached under a number are always of one content, from one member
//! if the content has no root, and can be kept across opens.
//!
//! A number is derived from what it stands for. A file that the kernel has forgotten therefore
//! comes back under its old number, even after a remount. Programs rely on that: `find`, `du`
//! and `cp -r` skip a directory whose number changes between two looks at it, and backup
//! programs read a file again. If two numbers would be the same, as for one pair in billions of
//! billions, the next free one is used. A file that grows while it is open keeps the number that
//! it was opened by.
//!
//! A file of which only the name is known (of a server of 2004) has a number, too. Once its content
//! is known, the same number stands for that content: a program that has looked at the name before
//! opens the same file.
//!
//! The kernel counts how often it received a number and reports when it forgets it. [`Inodes`]
//! keeps the same count, and no inode for longer than that. A number must be counted before the
//! reply is sent, because the kernel may forget it on another thread right after.

mod inode;
mod numbers;
mod readers;

use std::collections::HashMap;
use std::sync::Arc;

use tinyp2p_net::model::{FileSize, Kind, Mode, RelPath, UnixTime, Version};

use crate::network::MemberRef;
pub use crate::view::identity::{InodeIdentity, ROOT, Vantage};
use crate::view::identity::{InodeKey, hash_of, number_of};
use crate::view::merge::{EntrySource, Item};
pub use inode::Inode;
use numbers::NumberMap;
pub use readers::Pages;
use readers::Readers;

/// Tables of up to this size are not worth shrinking.
const MIN_CAPACITY: usize = 4096;

/// All inodes that the kernel knows.
pub struct Inodes {
    inodes: NumberMap<Inode>,
    /// Numbers by a hash of what they stand for. If several keys have the same hash, the others
    /// take the next free number; the inode itself shows which key it has.
    numbers: NumberMap<u64>,
    /// The former identities of the few inodes whose content was unknown at first and is known now.
    born: NumberMap<InodeIdentity>,
    /// Open files, and files of whose former content the kernel may have pages.
    readers: NumberMap<Readers>,
    /// Open files, by their paths.
    open: HashMap<RelPath, Vec<u64>>,
}

impl Inodes {
    /// Creates the root alone, with `mtime` until a member names a better one.
    pub fn new(mtime: UnixTime) -> Self {
        let root = Inode {
            path: RelPath::root(),
            identity: InodeIdentity::Directory(Vantage::Merged),
            size: FileSize::ZERO,
            mtime,
            sources: Arc::new([]),
            is_replaced: false,
            // The kernel neither looks the root up nor forgets it.
            lookups: 1,
        };
        let hash = hash_of(&root.path, &root.identity);
        Self {
            inodes: [(ROOT, root)].into_iter().collect(),
            numbers: [(hash, ROOT)].into_iter().collect(),
            born: NumberMap::default(),
            readers: NumberMap::default(),
            open: HashMap::new(),
        }
    }

    /// Returns the number and the inode of `item`, which members have at `path`, as just seen in
    /// `tree`. Counts it as assigned once more.
    ///
    /// The merged tree shows everything that is known of an item. Any other tree shows only a part:
    /// it adds to what is known and removes nothing, because it does not show who else has the same
    /// content. If the content has turned out to be gone, what was known is wrong and is replaced.
    pub fn look_up(&mut self, tree: Vantage, path: RelPath, item: &Item) -> (u64, &Inode) {
        self.measure(&path, item);
        let key = self.key(tree, path, item);
        if !self.open.is_empty() && !self.knows(&key) {
            self.adopt(&key, item);
        }
        let may_grow = !self.readers.is_empty();
        let (number, inode) = self.assign(key, item.size, item.mtime);
        match tree {
            Vantage::Found | Vantage::Member(_) if !inode.is_replaced => inode.learn(item),
            _ => {
                inode.mtime = item.mtime;
                inode.sources = Arc::clone(&item.sources);
            }
        }
        inode.is_replaced = false;
        if may_grow {
            self.grow(number, item.size.or_zero());
        }
        (number, &self.inodes[&number])
    }

    /// Does the same for the top of a member's own tree, without asking anybody. The top has the
    /// given modification time until somebody is asked.
    pub fn look_up_top(&mut self, member: &MemberRef, mtime: UnixTime) -> (u64, &Inode) {
        let identity = InodeIdentity::Directory(Vantage::Member(member.id));
        let (number, inode) = self.assign((RelPath::root(), identity), FileSize::ZERO, mtime);
        if inode.sources.is_empty() {
            inode.sources = Arc::new([EntrySource {
                member: Arc::new(member.clone()),
                version: Version(0),
                mode: Mode::Plain,
            }]);
        }
        (number, inode)
    }

    /// Records that what the kernel knows only by the name of `path` has turned out to be `item`.
    pub fn measure(&mut self, path: &RelPath, item: &Item) {
        if !item.size.is_known() || item.kind == Kind::Directory {
            return;
        }
        for source in item.sources.iter() {
            let born = InodeIdentity::of_file(None, FileSize::UNKNOWN, source);
            let key = (path.clone(), born);
            let Some(number) = self.find(hash_of(&key.0, &key.1), &key) else {
                continue;
            };
            let inode = self.inodes.get_mut(&number);
            let Some(inode) = inode.filter(|inode| !inode.size.is_known()) else {
                continue;
            };
            (inode.size, inode.mtime) = (item.size, item.mtime);
            inode.sources = Arc::clone(&item.sources);
            let identity = InodeIdentity::of_file(item.root, item.size, source);
            let key = (path.clone(), identity);
            let hash = hash_of(&key.0, &key.1);
            // Another member's file may have been this content all along.
            if self.find(hash, &key).is_none() {
                self.link(hash, number);
                self.born.insert(number, born);
                if let Some(inode) = self.inodes.get_mut(&number) {
                    inode.identity = identity;
                }
            }
        }
    }

    /// Returns the inode that `key` stands for, counted as assigned once more. A new inode has
    /// no sources yet.
    fn assign(&mut self, key: InodeKey, size: FileSize, mtime: UnixTime) -> (u64, &mut Inode) {
        let hash = hash_of(&key.0, &key.1);
        let number = self.find(hash, &key).unwrap_or_else(|| {
            let mut number = number_of(hash);
            while self.inodes.contains_key(&number) {
                number = number_of(number + 1);
            }
            self.link(hash, number);
            number
        });
        let inode = self.inodes.entry(number).or_insert_with(|| Inode {
            path: key.0,
            identity: key.1,
            size,
            mtime,
            sources: Arc::new([]),
            is_replaced: false,
            lookups: 0,
        });
        inode.lookups += 1;
        (number, inode)
    }

    /// The number of what `key` stands for, if the kernel knows it.
    fn find(&self, hash: u64, key: &InodeKey) -> Option<u64> {
        let mut at = hash;
        loop {
            let number = *self.numbers.get(&at)?;
            let inode = self.inodes.get(&number)?;
            let is_it = inode.identity == key.1 || self.born.get(&number) == Some(&key.1);
            if is_it && inode.path == key.0 {
                return Some(number);
            }
            at = at.wrapping_add(1);
        }
    }

    /// Makes `hash` lead to `number`.
    fn link(&mut self, hash: u64, number: u64) {
        let mut at = hash;
        while self.numbers.contains_key(&at) {
            at = at.wrapping_add(1);
        }
        self.numbers.insert(at, number);
    }

    /// Removes the link from what `key` stands for to `number`.
    fn unlink(&mut self, key: (&RelPath, InodeIdentity), number: u64) {
        let mut at = hash_of(key.0, &key.1);
        while let Some(other) = self.numbers.get(&at) {
            if *other == number {
                self.numbers.remove(&at);
                break;
            }
            at = at.wrapping_add(1);
        }
    }

    fn knows(&self, key: &InodeKey) -> bool {
        self.find(hash_of(&key.0, &key.1), key).is_some()
    }

    /// Takes back `count` assignments of `number`; the last one frees it.
    pub fn forget(&mut self, number: u64, count: u64) {
        let Some(inode) = self.inodes.get_mut(&number) else {
            return;
        };
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0
            && number != ROOT
            && let Some(inode) = self.inodes.remove(&number)
        {
            self.readers.remove(&number);
            if let Some(born) = self.born.remove(&number) {
                self.unlink((&inode.path, born), number);
            }
            self.unlink((&inode.path, inode.identity), number);
            self.shrink();
        }
    }

    /// What `number` stands for.
    pub fn get(&self, number: u64) -> Option<&Inode> {
        self.inodes.get(&number)
    }

    /// Returns what `number` stands for, to record what was learned about it.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(&number)
    }

    /// Returns how many inodes the kernel knows.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.inodes.len()
    }

    /// The number of the directory at `path` in `tree`, if the kernel knows it.
    pub fn directory(&self, tree: Vantage, path: &RelPath) -> Option<u64> {
        let key = (path.clone(), InodeIdentity::Directory(tree));
        self.find(hash_of(&key.0, &key.1), &key)
    }

    /// Releases memory after the kernel has forgotten most of a large tree.
    fn shrink(&mut self) {
        if self.inodes.len() < self.inodes.capacity() / 8 && self.inodes.capacity() > MIN_CAPACITY {
            self.inodes.shrink_to(2 * self.inodes.len());
            self.numbers.shrink_to(2 * self.inodes.len());
        }
    }

    /// Returns the identity of `item`. Without a root, an identity that the kernel already knows is
    /// kept as long as its member has the same version, even if another source now comes first.
    fn key(&self, tree: Vantage, path: RelPath, item: &Item) -> InodeKey {
        if item.kind == Kind::Directory {
            return (path, InodeIdentity::Directory(tree));
        }
        // With a root, or without any content, all sources lead to the same identity.
        let identities = item
            .sources
            .iter()
            .map(|source| InodeIdentity::of_file(item.root, item.size, source));
        let mut key = (path, InodeIdentity::Directory(tree));
        let mut first = None;
        for identity in identities {
            key.1 = identity;
            if item.sources.len() == 1 || self.knows(&key) {
                return key;
            }
            first = first.or(Some(identity));
        }
        // An item always has a source.
        key.1 = first.unwrap_or(key.1);
        key
    }
}

#[cfg(test)]
mod tests;
