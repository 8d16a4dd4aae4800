//! Inode numbers: what the kernel calls the things that it was shown.
//!
//! A directory's number stands for its path. A file's number stands for one content at one path, so a
//! file that is replaced gets a new number: pages that the kernel has cached under a number are always
//! of one content, from one member where the content has no root, and can be kept across opens.
//!
//! Numbers are computed from what they stand for, so a thing that the kernel has forgotten comes back under
//! the number that it had. Programs rely on that: `find`, `du` and `cp -r` leave a directory out when its
//! number has changed between two looks at it, and backups read a file again.
//!
//! The kernel counts how often it was told a number and says when it forgets it; [`Inodes`] keeps the
//! same count and nothing longer than that. Whoever tells a number must count it before the reply is
//! sent, because the kernel may forget it on another thread right after.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tinyp2p_net::download::Has;
use tinyp2p_net::types::{Kind, PeerId, RelPath, Root, Version};

use crate::view::merge::{Item, Source};

/// The number of the mount's root.
pub const ROOT: u64 = 1;

/// Tables of up to this size are not worth shrinking.
const MIN_CAPACITY: usize = 4096;

/// Which content a file has, as far as it can be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ContentId {
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

/// `None` is a directory.
type Key = (RelPath, Option<ContentId>);

/// One thing that the kernel knows.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its path at the members that have it.
    pub path: RelPath,
    /// What it is: `None` for a directory.
    pub content: Option<ContentId>,
    /// Bytes of content; 0 for a directory.
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
    inodes: HashMap<u64, Inode>,
    numbers: HashMap<Key, u64>,
}

impl Inodes {
    /// The root alone, with `mtime` until somebody tells a better one.
    pub fn new(mtime: i64) -> Self {
        let root = Inode {
            path: RelPath::root(),
            content: None,
            size: 0,
            mtime,
            sources: Arc::new([]),
            is_replaced: false,
            // The kernel neither looks the root up nor forgets it.
            lookups: 1,
        };
        Self {
            inodes: HashMap::from([(ROOT, root)]),
            numbers: HashMap::from([((RelPath::root(), None), ROOT)]),
        }
    }

    /// The number of `item`, which members have at `path`, counted as told once more.
    pub fn look_up(&mut self, path: RelPath, item: &Item) -> u64 {
        let key = self.key(path, item);
        let inodes = &mut self.inodes;
        let number = *self
            .numbers
            .entry(key)
            .or_insert_with_key(|key @ (path, content)| {
                let inode = Inode {
                    path: path.clone(),
                    content: *content,
                    size: item.size,
                    mtime: item.mtime,
                    sources: Arc::clone(&item.sources),
                    is_replaced: false,
                    lookups: 0,
                };
                let mut number = number_of(key);
                while inodes.contains_key(&number) {
                    number += 1;
                }
                inodes.insert(number, inode);
                number
            });
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.lookups += 1;
            inode.mtime = item.mtime;
            inode.sources = Arc::clone(&item.sources);
            inode.is_replaced = false;
        }
        number
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
            self.numbers.remove(&(inode.path, inode.content));
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

    /// The number of the directory at `path`, if the kernel knows it.
    pub fn directory(&self, path: &RelPath) -> Option<u64> {
        self.numbers.get(&(path.clone(), None)).copied()
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
    fn key(&self, path: RelPath, item: &Item) -> Key {
        if item.kind == Kind::Directory {
            return (path, None);
        }
        if let Some(root) = item.root {
            return (
                path,
                Some(ContentId::Root {
                    root,
                    size: item.size,
                }),
            );
        }
        let identities = item.sources.iter().map(|source| ContentId::Source {
            member: source.member.id,
            version: source.version,
        });
        let mut first = None;
        let mut key = (path, None);
        for identity in identities {
            key.1 = Some(identity);
            if self.numbers.contains_key(&key) {
                return key;
            }
            first = first.or(key.1);
        }
        key.1 = first;
        key
    }
}

/// Where to look for a free number for `key`: the one that it always has, unless two out of billions
/// are after the same. Above the root's, and below those that [`crate::hidden`] uses.
fn number_of(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    ROOT + 1 + (hasher.finish() >> 3)
}

impl Inode {
    /// File or directory.
    pub fn kind(&self) -> Kind {
        match self.content {
            None => Kind::Directory,
            Some(_) => Kind::File,
        }
    }

    /// The content root, if it is known.
    pub fn root(&self) -> Option<Root> {
        match self.content {
            Some(ContentId::Root { root, .. }) => Some(root),
            _ => None,
        }
    }

    /// Those whose bytes this inode may show, the best one first, with what each has. Where the root is
    /// known, those are among them who have not computed it yet: their bytes are checked like all others.
    pub fn readable(&self) -> impl Iterator<Item = (PeerId, Has)> {
        let has = |source: &Source| match self.content? {
            ContentId::Root { .. } if source.names_root => Some(Has::File(source.version)),
            ContentId::Root { .. } => Some(Has::Likely(source.version)),
            ContentId::Source { member, version } => {
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
    use crate::view::merge::Member;

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

    #[test]
    fn the_same_content_keeps_its_number() {
        let mut inodes = Inodes::new(0);
        let first = inodes.look_up(path(), &file(&[(1, 7)], None));
        assert_eq!(inodes.look_up(path(), &file(&[(1, 7)], None)), first);
    }

    #[test]
    fn the_same_root_with_another_size_is_another_number() {
        let mut inodes = Inodes::new(0);
        let honest = file(&[(1, 1)], Some(9));
        let liar = Item {
            size: 5000,
            ..file(&[(2, 2)], Some(9))
        };
        let number = inodes.look_up(path(), &honest);
        assert_ne!(number, inodes.look_up(path(), &liar));
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
        let numbers = items.iter().map(|i| inodes.look_up(path(), i));
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
        let number = inodes.look_up(path(), &file(&[(5, 7)], None));
        let joined = file(&[(1, 3), (5, 7)], None);
        assert_eq!(inodes.look_up(path(), &joined), number);
        let members: Vec<PeerId> = inodes
            .get(number)
            .unwrap()
            .readable()
            .map(|r| r.0)
            .collect();
        assert_eq!(members, [PeerId::from_bytes([5; 32])]);
        let left = file(&[(1, 3)], None);
        assert_ne!(inodes.look_up(path(), &left), number);
    }

    #[test]
    fn a_content_with_a_root_is_read_from_all_who_name_it() {
        let mut inodes = Inodes::new(0);
        let number = inodes.look_up(path(), &file(&[(1, 3), (5, 7)], Some(9)));
        assert_eq!(inodes.get(number).unwrap().readable().count(), 2);
    }

    #[test]
    fn an_inode_lives_until_it_is_forgotten_as_often_as_it_was_told() {
        let mut inodes = Inodes::new(0);
        let item = file(&[(1, 7)], None);
        let number = inodes.look_up(path(), &item);
        inodes.look_up(path(), &item);
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_some());
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        assert_eq!((inodes.inodes.len(), inodes.numbers.len()), (1, 1));
    }

    #[test]
    fn what_was_forgotten_comes_back_under_its_number() {
        let (mut inodes, mut others) = (Inodes::new(0), Inodes::new(7));
        let item = file(&[(1, 7)], None);
        let number = inodes.look_up(path(), &item);
        inodes.forget(number, 1);
        assert_eq!(inodes.look_up(path(), &item), number);
        // Under another mount of the same network, too.
        others.look_up(path(), &file(&[(2, 7)], None));
        assert_eq!(others.look_up(path(), &item), number);
    }

    #[test]
    fn a_number_that_is_taken_is_not_given_to_another_content() {
        let mut inodes = Inodes::new(0);
        let (item, other) = (file(&[(1, 7)], None), file(&[(2, 8)], None));
        let number = inodes.look_up(path(), &item);
        let taken = number_of(&inodes.key(path(), &other));
        let holder = inodes.get(number).unwrap().clone();
        inodes.inodes.insert(taken, holder);
        assert_eq!(inodes.look_up(path(), &other), taken + 1);
    }

    #[test]
    fn memory_comes_back_when_a_large_tree_is_forgotten() {
        let mut inodes = Inodes::new(0);
        let paths = (0..50_000).map(|n: u32| RelPath::new(n.to_string().as_bytes()).unwrap());
        let item = file(&[(1, 7)], None);
        let numbers: Vec<u64> = paths.map(|path| inodes.look_up(path, &item)).collect();
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
        assert_eq!(inodes.directory(&RelPath::root()), Some(ROOT));
    }

    #[test]
    fn looking_up_again_takes_the_news_over() {
        let mut inodes = Inodes::new(0);
        let number = inodes.look_up(path(), &file(&[(1, 7)], None));
        inodes.get_mut(number).unwrap().is_replaced = true;
        let mut item = file(&[(1, 7), (2, 9)], None);
        item.mtime = 5;
        inodes.look_up(path(), &item);
        let inode = inodes.get(number).unwrap();
        assert_eq!(
            (inode.mtime, inode.sources.len(), inode.is_replaced),
            (5, 2, false)
        );
    }
}
