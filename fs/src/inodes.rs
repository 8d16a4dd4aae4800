//! Inode numbers: what the kernel calls the things that it was shown.
//!
//! A directory's number stands for its path in one [`Tree`]. A file's number stands for one content at one path,
//! in whatever tree it is seen, so a file that is replaced gets a new number: pages that the kernel has
//! cached under a number are always of one content, from one member where the content has no root, and can
//! be kept across opens.
//!
//! Numbers are given in the order in which things are first shown, which in a directory is that of their names: `cp -r`
//! and `tar` read files in the order of their numbers, and what is read in the order of its names comes many at a time.
//! A thing that the kernel has forgotten comes back under the number that it had (of the last million or so). Programs rely
//! on that: `find`, `du` and `cp -r` leave a directory out when its number has changed between two looks at it.
//!
//! A file of which only the name is known (of a server of 2004) has a number, too. Once its content is known, the
//! same number stands for that: a program that has looked at the name before finds the same file when it opens it.
//!
//! The kernel counts how often it was told a number and says when it forgets it; [`Inodes`] keeps the
//! same count and nothing longer than that. Whoever tells a number must count it before the reply is
//! sent, because the kernel may forget it on another thread right after.

mod numbers;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tinyp2p_net::download::Has;
use tinyp2p_net::generations::Generations;
use tinyp2p_net::types::{
    Attributes, ContentId, Kind, Mode, PeerId, RelPath, Root, UnixTime, Version,
};

use self::numbers::{NoHashing, NumberMap};
use crate::view::merge::{Item, Member, Source, mode_of};

/// The number of the mount's root.
pub const ROOT: u64 = 1;

/// Numbers that are kept for what the kernel has forgotten, at 16 bytes each and some room.
const MAX_REMEMBERED: usize = 1 << 20;

/// Tables of up to this size are not worth shrinking.
const MIN_CAPACITY: usize = 4096;

/// Through what the kernel looks at a thing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tree {
    /// What all members share: the mount itself.
    Merged,
    /// What one member shares.
    Member(PeerId),
    /// What a search has found: files only.
    Found,
}

/// What one number stands for at its path: a directory, or one content, as far as it can be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// A directory. The kernel takes one name for one directory, so that of another tree is another one.
    Directory(Tree),
    /// The content with this root and this size, whoever has it. The size belongs to it: a member that
    /// claims another one for the same root must not stand in for those who have the content.
    Root {
        /// The content root.
        root: Root,
        /// Bytes.
        size: u64,
    },
    /// Nothing, whoever has it.
    Empty,
    /// Whatever one member has in one version. The size belongs to it, too: a member that tells another
    /// one for the same version is telling of another file.
    Source {
        /// The member.
        member: PeerId,
        /// Its version.
        version: Version,
        /// Bytes; [`Attributes::UNKNOWN_SIZE`] while only its name is known.
        size: u64,
    },
}

impl Identity {
    /// What a file is that has this root, if it has one, and this size, if that is known.
    fn of_file(root: Option<Root>, size: u64, source: &Source) -> Self {
        match root {
            _ if size == 0 => Self::Empty,
            Some(root) => Self::Root { root, size },
            None => Self::Source {
                member: source.member.id,
                version: source.version,
                size,
            },
        }
    }
}

type Key = (RelPath, Identity);

/// One thing that the kernel knows.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its path at the members that have it.
    pub path: RelPath,
    /// What it is.
    pub identity: Identity,
    /// Bytes of content; 0 for a directory; [`Attributes::UNKNOWN_SIZE`] while only its name is known.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: UnixTime,
    /// Who had it when it was last looked at, the best one to read from first.
    pub sources: Arc<[Source]>,
    /// True once this content has turned out to be gone.
    pub is_replaced: bool,
    lookups: u64,
}

/// All inodes that the kernel knows.
pub struct Inodes {
    inodes: NumberMap<Inode>,
    hasher: RandomState,
    /// By a hash of what they stand for, or, where several keys have the same one, by the next free number: which it is
    /// tells the inode itself.
    numbers: NumberMap<u64>,
    /// The numbers of what the kernel has forgotten, by a hash of what they stand for.
    remembered: Generations<u64, u64, NoHashing>,
    next: u64,
    /// What those few were told as whose content was not known then, and is now.
    born: NumberMap<Identity>,
}

impl Inodes {
    /// The root alone, with `mtime` until somebody tells a better one.
    pub fn new(mtime: UnixTime) -> Self {
        let root = Inode {
            path: RelPath::root(),
            identity: Identity::Directory(Tree::Merged),
            size: 0,
            mtime,
            sources: Arc::new([]),
            is_replaced: false,
            // The kernel neither looks the root up nor forgets it.
            lookups: 1,
        };
        let hasher = RandomState::new();
        let hash = hasher.hash_one((&root.path, root.identity));
        Self {
            inodes: [(ROOT, root)].into_iter().collect(),
            hasher,
            numbers: [(hash, ROOT)].into_iter().collect(),
            remembered: Generations::new(MAX_REMEMBERED),
            next: ROOT + 1,
            born: NumberMap::default(),
        }
    }

    /// The number and the inode of `item`, which members have at `path`, as it was just seen in `tree`;
    /// counted as told once more.
    ///
    /// What the merged tree shows is all there is to know of a thing. Other trees show a part of it, which
    /// is added to what is known, and takes nothing away from it: who else has the same content is no
    /// business of theirs. Only if the content has turned out to be gone meanwhile, what was known is wrong.
    pub fn look_up(&mut self, tree: Tree, path: RelPath, item: &Item) -> (u64, &Inode) {
        self.measure(&path, item);
        let (number, inode) = self.told(self.key(tree, path, item), item.size, item.mtime);
        match tree {
            Tree::Found | Tree::Member(_) if !inode.is_replaced => inode.learn(item),
            _ => {
                inode.mtime = item.mtime;
                inode.sources = Arc::clone(&item.sources);
            }
        }
        inode.is_replaced = false;
        (number, inode)
    }

    /// The same for the top of a member's own tree, about which nobody is asked: until somebody is, it
    /// has the given modification time.
    pub fn look_up_top(&mut self, member: &Member, mtime: UnixTime) -> (u64, &Inode) {
        let identity = Identity::Directory(Tree::Member(member.id));
        let (number, inode) = self.told((RelPath::root(), identity), 0, mtime);
        if inode.sources.is_empty() {
            inode.sources = Arc::new([Source {
                member: Arc::new(member.clone()),
                version: Version(0),
                mode: Mode::Plain,
            }]);
        }
        (number, inode)
    }

    /// Takes note that what the kernel knows by the name of `path` alone has turned out to be `item`.
    pub fn measure(&mut self, path: &RelPath, item: &Item) {
        if !item.is_measured() || item.kind == Kind::Directory {
            return;
        }
        for source in item.sources.iter() {
            let born = Identity::of_file(None, Attributes::UNKNOWN_SIZE, source);
            let key = (path.clone(), born);
            let Some(number) = self.find(self.hasher.hash_one(&key), &key) else {
                continue;
            };
            let inode = self.inodes.get_mut(&number);
            let Some(inode) = inode.filter(|inode| inode.size == Attributes::UNKNOWN_SIZE) else {
                continue;
            };
            (inode.size, inode.mtime) = (item.size, item.mtime);
            inode.sources = Arc::clone(&item.sources);
            let identity = Identity::of_file(item.root, item.size, source);
            let key = (path.clone(), identity);
            let hash = self.hasher.hash_one(&key);
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

    /// What `key` stands for, counted as told once more. If it is new, nobody has it yet.
    fn told(&mut self, key: Key, size: u64, mtime: UnixTime) -> (u64, &mut Inode) {
        let hash = self.hasher.hash_one(&key);
        let number = self.find(hash, &key).unwrap_or_else(|| {
            let free = |number: &u64| !self.inodes.contains_key(number);
            // Two out of billions of billions may be taken for one another.
            let before = self.remembered.get(&hash).filter(free);
            let number = before.unwrap_or(self.next);
            self.next = self.next.max(number + 1);
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
    fn find(&self, hash: u64, key: &Key) -> Option<u64> {
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

    /// Lets what `key` stands for no longer lead to `number`. Returns the hash.
    fn unlink(&mut self, key: (&RelPath, Identity), number: u64) -> u64 {
        let hash = self.hasher.hash_one(key);
        let mut at = hash;
        while let Some(other) = self.numbers.get(&at) {
            if *other == number {
                self.numbers.remove(&at);
                break;
            }
            at = at.wrapping_add(1);
        }
        hash
    }

    fn knows(&self, key: &Key) -> bool {
        self.find(self.hasher.hash_one(key), key).is_some()
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
            if let Some(born) = self.born.remove(&number) {
                self.unlink((&inode.path, born), number);
            }
            let hash = self.unlink((&inode.path, inode.identity), number);
            self.remembered.insert(hash, number);
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
    pub fn directory(&self, tree: Tree, path: &RelPath) -> Option<u64> {
        let key = (path.clone(), Identity::Directory(tree));
        self.find(self.hasher.hash_one(&key), &key)
    }

    /// Gives memory back after the kernel has forgotten most of a large tree.
    fn shrink(&mut self) {
        if self.inodes.len() < self.inodes.capacity() / 8 && self.inodes.capacity() > MIN_CAPACITY {
            self.inodes.shrink_to(2 * self.inodes.len());
            self.numbers.shrink_to(2 * self.inodes.len());
        }
    }

    /// The identity of `item`. While it has no root, an identity that the kernel knows already is kept
    /// as long as its member has the same version, whoever else has appeared before it.
    fn key(&self, tree: Tree, path: RelPath, item: &Item) -> Key {
        if item.kind == Kind::Directory {
            return (path, Identity::Directory(tree));
        }
        // Where it has a root, or nothing, all sources stand for the same.
        let identities = item
            .sources
            .iter()
            .map(|source| Identity::of_file(item.root, item.size, source));
        let mut key = (path, Identity::Directory(tree));
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

impl Inode {
    /// File or directory.
    pub fn kind(&self) -> Kind {
        match self.identity {
            Identity::Directory(_) => Kind::Directory,
            Identity::Root { .. } | Identity::Empty | Identity::Source { .. } => Kind::File,
        }
    }

    /// The content root, if it is known.
    pub fn root(&self) -> Option<Root> {
        match self.identity {
            Identity::Root { root, .. } => Some(root),
            _ => None,
        }
    }

    /// The content, if its root is known.
    pub fn content(&self) -> Option<ContentId> {
        match self.identity {
            Identity::Root { root, size } => Some(ContentId { root, size }),
            _ => None,
        }
    }

    /// What can be done with it.
    pub fn mode(&self) -> Mode {
        mode_of(&self.sources)
    }

    /// The tree that it is a directory of; `None` for a file.
    pub fn tree(&self) -> Option<Tree> {
        match self.identity {
            Identity::Directory(tree) => Some(tree),
            _ => None,
        }
    }

    /// True if `item`, at the same path, is shown by this inode.
    pub fn is(&self, item: &Item) -> bool {
        match self.identity {
            Identity::Directory(_) => item.kind == Kind::Directory,
            Identity::Root { root, size } => item.root == Some(root) && item.size == size,
            Identity::Empty => item.kind == Kind::File && item.size == 0,
            Identity::Source {
                member,
                version,
                size,
            } => {
                let mut sources = item.sources.iter();
                item.kind == Kind::File
                    && (item.size == size || self.size == item.size)
                    && sources.any(|s| s.member.id == member && s.version == version)
            }
        }
    }

    /// Adds what `item` says of the same thing.
    fn learn(&mut self, item: &Item) {
        if self.sources.is_empty() {
            self.mtime = item.mtime;
            self.sources = Arc::clone(&item.sources);
            return;
        }
        self.mtime = self.mtime.max(item.mtime);
        if item
            .sources
            .iter()
            .all(|source| self.sources.contains(source))
        {
            return;
        }
        let mut sources = self.sources.to_vec();
        for source in item.sources.iter() {
            let known = sources
                .iter_mut()
                .find(|known| known.member.id == source.member.id);
            match known {
                Some(known) => *known = source.clone(),
                None => sources.push(source.clone()),
            }
        }
        self.sources = sources.into();
    }

    /// Those whose bytes this inode may show, the best one first, with what each has.
    pub fn readable(&self) -> impl Iterator<Item = (PeerId, Has)> {
        let has = |source: &Source| match self.identity {
            Identity::Directory(_) => None,
            Identity::Root { .. } | Identity::Empty => Some(Has::File(source.version)),
            Identity::Source {
                member, version, ..
            } => {
                let is_this = source.member.id == member && source.version == version;
                is_this.then_some(Has::File(version))
            }
        };
        let sources = self.sources.iter();
        let sources = sources.filter(|source| source.mode != Mode::Unreadable);
        sources.filter_map(move |source| Some((source.member.id, has(source)?)))
    }
}

#[cfg(test)]
mod tests;
