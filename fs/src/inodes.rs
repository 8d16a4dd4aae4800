//! Inode numbers: what the kernel calls the things that it was shown.
//!
//! A directory's number stands for its path in one [`Tree`]. A file's number stands for one content at one path,
//! in whatever tree it is seen, so a file that is replaced gets a new number: pages that the kernel has
//! cached under a number are always of one content, from one member where the content has no root, and can
//! be kept across opens.
//!
//! Numbers are given in the order in which things are first shown, which in a directory is that of their names: `cp -r`
//! and `tar` read files in the order of their numbers, and what is read in the order of its names comes many at a time.
//! A thing that the kernel has forgotten comes back under the number that it had (`Remembered`). Programs rely
//! on that: `find`, `du` and `cp -r` leave a directory out when its number has changed between two looks at it.
//!
//! A file of which only the name is known (of a server of 2004) has a number, too. Once its content is known, the
//! same number stands for that: a program that has looked at the name before finds the same file when it opens it.
//!
//! The kernel counts how often it was told a number and says when it forgets it; [`Inodes`] keeps the
//! same count and nothing longer than that. Whoever tells a number must count it before the reply is
//! sent, because the kernel may forget it on another thread right after.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use tinyp2p_net::download::Has;
use tinyp2p_net::types::{Attributes, Kind, PeerId, RelPath, Root, Version};

use crate::view::merge::{Item, Member, Source};

/// The number of the mount's root.
pub const ROOT: u64 = 1;

/// Numbers that are kept for what the kernel has forgotten.
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
    /// Whatever one member has in one version.
    Source {
        /// The member.
        member: PeerId,
        /// Its version.
        version: Version,
    },
}

type Key = (RelPath, Identity);

/// A table whose keys are numbers that nobody outside has chosen, so that they need no hashing.
type NumberMap<T> = HashMap<u64, T, BuildHasherDefault<Number>>;

/// Spreads numbers over a table: those of inodes follow one another (Fibonacci hashing, Knuth, volume 3, 6.4).
#[derive(Default)]
struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

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
    pub mtime: i64,
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
    remembered: Remembered,
    next: u64,
    /// What those few were told as whose content was not known then, and is now.
    born: NumberMap<Identity>,
}

impl Inodes {
    /// The root alone, with `mtime` until somebody tells a better one.
    pub fn new(mtime: i64) -> Self {
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
            remembered: Remembered::default(),
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
    pub fn look_up_top(&mut self, member: &Member, mtime: i64) -> (u64, &Inode) {
        let identity = Identity::Directory(Tree::Member(member.id));
        let (number, inode) = self.told((RelPath::root(), identity), 0, mtime);
        if inode.sources.is_empty() {
            inode.sources = Arc::new([Source {
                member: Arc::new(member.clone()),
                version: Version(0),
                names_root: false,
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
            let born = Identity::Source {
                member: source.member.id,
                version: source.version,
            };
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
            let Some(root) = item.root else { continue };
            let size = item.size;
            let key = (path.clone(), Identity::Root { root, size });
            let identity = key.1;
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
    fn told(&mut self, key: Key, size: u64, mtime: i64) -> (u64, &mut Inode) {
        let hash = self.hasher.hash_one(&key);
        let number = self.find(hash, &key).unwrap_or_else(|| {
            let free = |number: &u64| !self.inodes.contains_key(number);
            // Two out of billions of billions may be taken for one another.
            let before = self.remembered.recall(hash).filter(free);
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
            self.remembered.remember(hash, number);
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
        if let Some(root) = item.root {
            let size = item.size;
            return (path, Identity::Root { root, size });
        }
        let identities = item.sources.iter().map(|source| Identity::Source {
            member: source.member.id,
            version: source.version,
        });
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

/// The numbers of what the kernel has forgotten, each at 16 bytes and some room: by a hash of what they stand for. Of more than a
/// million, those that were forgotten first are.
#[derive(Default)]
struct Remembered {
    newer: NumberMap<u64>,
    older: NumberMap<u64>,
}

impl Remembered {
    fn remember(&mut self, hash: u64, number: u64) {
        if self.newer.len() >= MAX_REMEMBERED / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(hash, number);
    }

    fn recall(&self, hash: u64) -> Option<u64> {
        let number = self.newer.get(&hash).or_else(|| self.older.get(&hash));
        number.copied()
    }
}

impl Inode {
    /// File or directory.
    pub fn kind(&self) -> Kind {
        match self.identity {
            Identity::Directory(_) => Kind::Directory,
            Identity::Root { .. } | Identity::Source { .. } => Kind::File,
        }
    }

    /// The content root, if it is known.
    pub fn root(&self) -> Option<Root> {
        match self.identity {
            Identity::Root { root, .. } => Some(root),
            _ => None,
        }
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
            Identity::Source { member, version } => {
                let mut sources = item.sources.iter();
                item.kind == Kind::File
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

    /// Those whose bytes this inode may show, the best one first, with what each has. Where the root is
    /// known, those are among them who have not computed it yet: their bytes are checked like all others.
    pub fn readable(&self) -> impl Iterator<Item = (PeerId, Has)> {
        let has = |source: &Source| match self.identity {
            Identity::Directory(_) => None,
            Identity::Root { .. } if source.names_root => Some(Has::File(source.version)),
            Identity::Root { .. } => Some(Has::Likely(source.version)),
            Identity::Source { member, version } => {
                let is_this = source.member.id == member && source.version == version;
                is_this.then_some(Has::File(version))
            }
        };
        let sources = self.sources.iter();
        sources.filter_map(move |source| Some((source.member.id, has(source)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tinyp2p_net::types::Name;

    use super::*;
    use crate::hidden::is_hidden;

    fn path() -> RelPath {
        RelPath::new(b"d/a").unwrap()
    }

    /// A file that members have in the given versions.
    fn file(sources: &[(u8, u64)], root: Option<u8>) -> Item {
        let source = |(seed, version): &(u8, u64)| Source {
            member: Arc::new(Member {
                id: PeerId::from_bytes([*seed; 32]),
                name: format!("m{seed}").into(),
            }),
            version: Version(*version),
            names_root: root.is_some(),
        };
        Item {
            name: Name::new(&b"a"[..]).unwrap(),
            original: None,
            kind: Kind::File,
            size: 1,
            mtime: 1,
            root: root.map(|byte| Root::from_bytes([byte; 32])),
            sources: sources.iter().map(source).collect(),
        }
    }

    fn merged(inodes: &mut Inodes, path: RelPath, item: &Item) -> u64 {
        inodes.look_up(Tree::Merged, path, item).0
    }

    /// Who is known to have it.
    fn holders(inode: &Inode) -> Vec<u8> {
        let sources = inode.sources.iter();
        sources.map(|s| s.member.id.as_bytes()[0]).collect()
    }

    const OF_BOB: Tree = Tree::Member(PeerId::from_bytes([2; 32]));

    #[test]
    fn a_file_is_the_same_in_every_tree_and_a_directory_is_not() {
        let mut inodes = Inodes::new(0);
        let item = file(&[(2, 7)], Some(9));
        let directory = Item {
            kind: Kind::Directory,
            root: None,
            ..file(&[(2, 7)], None)
        };
        let mut numbers =
            |item: &Item| [Tree::Merged, OF_BOB].map(|tree| inodes.look_up(tree, path(), item).0);
        let [merged, of_bob] = numbers(&item);
        assert_eq!(merged, of_bob);
        let [merged, of_bob] = numbers(&directory);
        assert_ne!(merged, of_bob);
        assert_eq!(inodes.directory(Tree::Merged, &path()), Some(merged));
        assert_eq!(inodes.directory(OF_BOB, &path()), Some(of_bob));
        assert_eq!(inodes.directory(Tree::Found, &path()), None);
    }

    #[test]
    fn a_name_keeps_its_number_when_its_content_becomes_known() {
        let mut inodes = Inodes::new(0);
        let name = Item {
            size: Attributes::UNKNOWN_SIZE,
            ..file(&[(1, 3)], None)
        };
        for root in [Some(9), None] {
            let number = merged(&mut inodes, path(), &name);
            let known = file(&[(1, 3)], root);
            assert_eq!(merged(&mut inodes, path(), &known), number);
            let inode = inodes.get(number).unwrap();
            assert_eq!((inode.size, inode.root()), (1, known.root));
            let has: Vec<_> = inode.readable().map(|(_, has)| has).collect();
            assert_eq!(has, [Has::File(Version(3))]);
            let other = file(&[(1, 4)], None);
            assert_ne!(merged(&mut inodes, path(), &other), number);
            inodes.forget(number, 2);
            assert!(inodes.get(number).is_none());
            assert!(!inodes.numbers.values().any(|known| *known == number));
        }
    }

    #[test]
    fn a_look_into_a_members_tree_takes_no_other_source_away_and_brings_none_back() {
        let mut inodes = Inodes::new(0);
        let both = file(&[(1, 3), (2, 5)], Some(9));
        let (alone, later) = (file(&[(2, 5)], Some(9)), file(&[(2, 6)], Some(9)));
        let (number, inode) = inodes.look_up(OF_BOB, path(), &alone);
        assert_eq!(holders(inode), [2]);
        assert_eq!(
            holders(inodes.look_up(Tree::Merged, path(), &both).1),
            [1, 2]
        );
        let known = Arc::clone(&inodes.get(number).unwrap().sources);
        let inode = inodes.look_up(OF_BOB, path(), &alone).1;
        assert!(
            Arc::ptr_eq(&known, &inode.sources),
            "nothing is copied for no news"
        );
        let inode = inodes.look_up(OF_BOB, path(), &later).1;
        assert_eq!(holders(inode), [1, 2]);
        assert_eq!(inode.sources[1].version, Version(6));
        let ann = file(&[(1, 3)], Some(9));
        assert_eq!(holders(inodes.look_up(Tree::Merged, path(), &ann).1), [1]);
        let found = inodes.look_up(Tree::Found, path(), &ann).1;
        assert_eq!(holders(found), [1], "who has left stays away");
    }

    #[test]
    fn what_turned_out_to_be_gone_is_not_kept_beside_what_a_member_says() {
        let mut inodes = Inodes::new(0);
        let both = file(&[(1, 3), (2, 5)], Some(9));
        let number = merged(&mut inodes, path(), &both);
        inodes.get_mut(number).unwrap().is_replaced = true;
        let alone = file(&[(2, 5)], Some(9));
        let inode = inodes.look_up(OF_BOB, path(), &alone).1;
        assert_eq!((holders(inode), inode.is_replaced), (vec![2], false));
    }

    #[test]
    fn a_members_tree_never_makes_a_file_look_older() {
        let mut inodes = Inodes::new(0);
        let at = |mtime| Item {
            mtime,
            ..file(&[(2, 5)], Some(9))
        };
        let mut look = |tree, mtime| inodes.look_up(tree, path(), &at(mtime)).1.mtime;
        assert_eq!(look(OF_BOB, -5), -5);
        assert_eq!(look(Tree::Merged, 9), 9);
        assert_eq!(look(OF_BOB, -5), 9);
        assert_eq!(look(Tree::Merged, 3), 3);
    }

    #[test]
    fn an_inode_does_not_grow_for_trees_that_most_of_them_are_not_in() {
        assert!(size_of::<(u64, Inode)>() + size_of::<(u64, u64)>() <= 150);
    }

    #[test]
    fn the_same_content_keeps_its_number() {
        let mut inodes = Inodes::new(0);
        let first = merged(&mut inodes, path(), &file(&[(1, 7)], None));
        assert_eq!(merged(&mut inodes, path(), &file(&[(1, 7)], None)), first);
    }

    #[test]
    fn the_same_root_with_another_size_is_another_number() {
        let mut inodes = Inodes::new(0);
        let honest = file(&[(1, 1)], Some(9));
        let liar = Item {
            size: 5000,
            ..file(&[(2, 2)], Some(9))
        };
        let number = merged(&mut inodes, path(), &honest);
        assert_ne!(number, merged(&mut inodes, path(), &liar));
        let kept = inodes.get(number).unwrap();
        assert_eq!((kept.size, kept.sources[0].member.id.as_bytes()[0]), (1, 1));
    }

    #[test]
    fn another_version_member_or_root_is_another_number() {
        let mut inodes = Inodes::new(0);
        let items = [
            file(&[(1, 7)], None),
            file(&[(1, 8)], None),
            file(&[(2, 7)], None),
            file(&[(1, 7)], Some(1)),
            file(&[(1, 7)], Some(2)),
        ];
        let numbers = items.iter().map(|i| merged(&mut inodes, path(), i));
        let numbers: HashSet<u64> = numbers.collect();
        assert_eq!(numbers.len(), items.len());
        assert!(
            numbers
                .iter()
                .all(|number| *number > ROOT && !is_hidden(*number))
        );
    }

    #[test]
    fn a_content_without_a_root_stays_with_the_member_that_it_was_first_shown_from() {
        let mut inodes = Inodes::new(0);
        let number = merged(&mut inodes, path(), &file(&[(5, 7)], None));
        let joined = file(&[(1, 3), (5, 7)], None);
        assert_eq!(merged(&mut inodes, path(), &joined), number);
        let members: Vec<PeerId> = inodes
            .get(number)
            .unwrap()
            .readable()
            .map(|r| r.0)
            .collect();
        assert_eq!(members, [PeerId::from_bytes([5; 32])]);
        let left = file(&[(1, 3)], None);
        assert_ne!(merged(&mut inodes, path(), &left), number);
    }

    #[test]
    fn a_content_with_a_root_is_read_from_all_who_name_it() {
        let mut inodes = Inodes::new(0);
        let number = merged(&mut inodes, path(), &file(&[(1, 3), (5, 7)], Some(9)));
        assert_eq!(inodes.get(number).unwrap().readable().count(), 2);
    }

    #[test]
    fn an_inode_lives_until_it_is_forgotten_as_often_as_it_was_told() {
        let mut inodes = Inodes::new(0);
        let item = file(&[(1, 7)], None);
        let number = merged(&mut inodes, path(), &item);
        merged(&mut inodes, path(), &item);
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_some());
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        assert_eq!((inodes.inodes.len(), inodes.numbers.len()), (1, 1));
    }

    #[test]
    fn what_was_forgotten_comes_back_under_its_number() {
        let mut inodes = Inodes::new(0);
        let item = file(&[(1, 7)], None);
        let number = merged(&mut inodes, path(), &item);
        inodes.forget(number, 1);
        assert_eq!(merged(&mut inodes, path(), &item), number);
        let other = merged(&mut inodes, path(), &file(&[(2, 7)], None));
        assert_ne!(other, number);
    }

    #[test]
    fn a_number_that_is_taken_is_not_given_to_another_content() {
        let mut inodes = Inodes::new(0);
        let (item, other) = (file(&[(1, 7)], None), file(&[(2, 8)], None));
        let number = merged(&mut inodes, path(), &item);
        let key = inodes.key(Tree::Merged, path(), &other);
        inodes
            .remembered
            .remember(inodes.hasher.hash_one(&key), number);
        assert_ne!(merged(&mut inodes, path(), &other), number);
    }

    #[test]
    fn things_whose_hashes_are_the_same_are_told_apart() {
        let mut inodes = Inodes::new(0);
        let (one, other) = (file(&[(1, 7)], None), file(&[(2, 8)], None));
        let number = merged(&mut inodes, path(), &one);
        let key = inodes.key(Tree::Merged, path(), &other);
        let hash = inodes.hasher.hash_one(&key);
        // As if `one` had been found where `other` belongs.
        inodes.numbers.insert(hash, number);
        let second = merged(&mut inodes, path(), &other);
        assert_ne!(second, number);
        assert_eq!(merged(&mut inodes, path(), &other), second);
        inodes.forget(second, 2);
        assert!(inodes.get(second).is_none() && !inodes.knows(&key));
    }

    #[test]
    fn numbers_ascend_in_the_order_in_which_things_are_shown() {
        let mut inodes = Inodes::new(0);
        let item = file(&[(1, 7)], None);
        let paths = (0..100).map(|n| RelPath::new(format!("{n:03}").as_bytes()).unwrap());
        let numbers: Vec<u64> = paths.map(|path| merged(&mut inodes, path, &item)).collect();
        assert!(numbers.is_sorted());
        assert!(
            numbers
                .iter()
                .all(|number| *number > ROOT && !is_hidden(*number))
        );
    }

    #[test]
    fn what_was_forgotten_is_remembered_in_bounds() {
        let mut remembered = Remembered::default();
        for number in 0..2 * MAX_REMEMBERED {
            remembered.remember(number as u64, number as u64);
        }
        assert!(remembered.newer.len() + remembered.older.len() <= MAX_REMEMBERED);
        assert_eq!(remembered.recall(0), None);
        let last = 2 * MAX_REMEMBERED as u64 - 1;
        assert_eq!(remembered.recall(last), Some(last));
    }

    #[test]
    fn memory_comes_back_when_a_large_tree_is_forgotten() {
        let mut inodes = Inodes::new(0);
        let paths = (0..50_000).map(|n: u32| RelPath::new(n.to_string().as_bytes()).unwrap());
        let item = file(&[(1, 7)], None);
        let numbers: Vec<u64> = paths.map(|path| merged(&mut inodes, path, &item)).collect();
        for number in numbers {
            inodes.forget(number, 1);
        }
        assert!(inodes.inodes.capacity() <= 2 * MIN_CAPACITY);
        assert!(inodes.numbers.capacity() <= 2 * MIN_CAPACITY);
    }

    #[test]
    fn the_root_cannot_be_forgotten() {
        let mut inodes = Inodes::new(0);
        inodes.forget(ROOT, u64::MAX);
        assert!(inodes.get(ROOT).is_some());
        assert_eq!(inodes.directory(Tree::Merged, &RelPath::root()), Some(ROOT));
    }

    #[test]
    fn looking_up_again_takes_the_news_over() {
        let mut inodes = Inodes::new(0);
        let number = merged(&mut inodes, path(), &file(&[(1, 7)], None));
        inodes.get_mut(number).unwrap().is_replaced = true;
        let mut item = file(&[(1, 7), (2, 9)], None);
        item.mtime = 5;
        merged(&mut inodes, path(), &item);
        let inode = inodes.get(number).unwrap();
        assert_eq!(
            (inode.mtime, inode.sources.len(), inode.is_replaced),
            (5, 2, false)
        );
    }
}
