//! Inode numbers: what the kernel calls the things that it was shown.
//!
//! A directory's number stands for its path in one [`Vantage`]. A file's number stands for one
//! content at one path, in whatever tree it is seen, so a file that is replaced gets a new number:
//! pages that the kernel has cached under a number are always of one content, from one member where
//! the content has no root, and can be kept across opens.
//!
//! A number follows from what it stands for, so a thing that the kernel has forgotten comes back
//! under the number that it had, and so it does after a remount. Programs rely on that: `find`,
//! `du` and `cp -r` leave a directory out when its number has changed between two looks at it, and
//! backup programs read a file again. Two things whose numbers would be the same, one pair in
//! billions of billions, take the next free one. A file that grows while somebody has it open keeps
//! the number that it was opened by.
//!
//! A file of which only the name is known (of a server of 2004) has a number, too. Once its content
//! is known, the same number stands for that: a program that has looked at the name before finds
//! the same file when it opens it.
//!
//! The kernel counts how often it was given a number and says when it forgets it; [`Inodes`] keeps
//! the same count and nothing longer than that. Whoever gives a number must count it before the
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
    /// By a hash of what they stand for, or, where several keys have the same one, by the next free
    /// number: which it is shows in the inode itself.
    numbers: NumberMap<u64>,
    /// What those few were before, whose content was not known at first and is now.
    born: NumberMap<InodeIdentity>,
    /// Files that somebody has open, and those of whose former content the kernel may have pages.
    readers: NumberMap<Readers>,
    /// Files that somebody has open, by their paths.
    open: HashMap<RelPath, Vec<u64>>,
}

impl Inodes {
    /// The root alone, with `mtime` until somebody names a better one.
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

    /// The number and the inode of `item`, which members have at `path`, as it was just seen in
    /// `tree`; counted as assigned once more.
    ///
    /// What the merged tree shows is all there is to know of a thing. Other trees show a part of
    /// it, which is added to what is known, and takes nothing away from it: who else has the same
    /// content is no business of theirs. Only if the content has turned out to be gone meanwhile,
    /// what was known is wrong.
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

    /// The same for the top of a member's own tree, about which nobody is asked: until somebody is,
    /// it has the given modification time.
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

    /// Takes note that what the kernel knows by the name of `path` alone has turned out to be
    /// `item`.
    pub fn measure(&mut self, path: &RelPath, item: &Item) {
        if !item.size.is_known() || item.kind == Kind::Directory {
            return;
        }
        for source in item.sources.iter() {
            let born = InodeIdentity::of_file(None, FileSize::Unknown, source);
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
            // Somebody else's file may have been this content all along.
            if self.find(hash, &key).is_none() {
                self.link(hash, number);
                self.born.insert(number, born);
                if let Some(inode) = self.inodes.get_mut(&number) {
                    inode.identity = identity;
                }
            }
        }
    }

    /// What `key` stands for, counted as assigned once more. If it is new, nobody has it yet.
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

    /// Lets `hash` lead to `number`.
    fn link(&mut self, hash: u64, number: u64) {
        let mut at = hash;
        while self.numbers.contains_key(&at) {
            at = at.wrapping_add(1);
        }
        self.numbers.insert(at, number);
    }

    /// Lets what `key` stands for no longer lead to `number`.
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

    /// Takes back `count` tellings of `number`; the last one frees it.
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

    /// What `number` stands for, to note what was learned of it.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(&number)
    }

    /// How many the kernel knows.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.inodes.len()
    }

    /// The number of the directory at `path` in `tree`, if the kernel knows it.
    pub fn directory(&self, tree: Vantage, path: &RelPath) -> Option<u64> {
        let key = (path.clone(), InodeIdentity::Directory(tree));
        self.find(hash_of(&key.0, &key.1), &key)
    }

    /// Gives memory back after the kernel has forgotten most of a large tree.
    fn shrink(&mut self) {
        if self.inodes.len() < self.inodes.capacity() / 8 && self.inodes.capacity() > MIN_CAPACITY {
            self.inodes.shrink_to(2 * self.inodes.len());
            self.numbers.shrink_to(2 * self.inodes.len());
        }
    }

    /// The identity of `item`. While it has no root, an identity that the kernel knows already is
    /// kept as long as its member has the same version, whoever else has appeared before it.
    fn key(&self, tree: Vantage, path: RelPath, item: &Item) -> InodeKey {
        if item.kind == Kind::Directory {
            return (path, InodeIdentity::Directory(tree));
        }
        // Where it has a root, or nothing, all sources stand for the same.
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
        // An item has a source.
        key.1 = first.unwrap_or(key.1);
        key
    }
}

#[cfg(test)]
mod tests;
