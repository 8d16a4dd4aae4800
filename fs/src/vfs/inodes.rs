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
//! The kernel counts how often it was told a number and says when it forgets it; [`Inodes`] keeps
//! the same count and nothing longer than that. Whoever tells a number must count it before the
//! reply is sent, because the kernel may forget it on another thread right after.

mod numbers;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use tinyp2p_net::download::Has;
use tinyp2p_net::model::{
    Attributes, ContentId, Kind, Mode, PeerId, RelPath, Root, UnixTime, Version,
};

use super::open_content::{ContentState, OpenContent};
use crate::view::merge::{EntrySource, Item, MemberRef, mode_of};
use numbers::NumberMap;

/// The number of the mount's root.
pub const ROOT: u64 = 1;

/// Numbers of things are not above this: those above belong to this program
/// ([`super::control_fs`]).
const MAX_NUMBER: u64 = (1 << 62) - 1;

/// Tables of up to this size are not worth shrinking.
const MIN_CAPACITY: usize = 4096;

/// Through what the kernel looks at a thing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vantage {
    /// What all members share: the mount itself.
    Merged,
    /// What one member shares.
    Member(PeerId),
    /// What a search has found: files only.
    Found,
}

/// What one number stands for at its path: a directory, or one content, as far as it can be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InodeIdentity {
    /// A directory. The kernel takes one name for one directory, so that of another tree
    /// is another one.
    Directory(Vantage),
    /// The content with this root and this size, whoever has it. The size belongs to it: a member
    /// that claims another one for the same root must not stand in for those who have the content.
    Root {
        /// The content root.
        root: Root,
        /// Size in bytes.
        size: u64,
    },
    /// Nothing, whoever has it.
    Empty,
    /// Whatever one member has in one version. The size belongs to it, too: a member that tells
    /// another one for the same version is telling of another file.
    Source {
        /// Whose file it is.
        member: PeerId,
        /// The version of the file there.
        version: Version,
        /// Bytes; [`Attributes::UNKNOWN_SIZE`] while only its name is known.
        size: u64,
    },
}

impl InodeIdentity {
    /// What a file is that has this root, if it has one, and this size, if that is known.
    fn of_file(root: Option<Root>, size: u64, source: &EntrySource) -> Self {
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

type InodeKey = (RelPath, InodeIdentity);

/// One thing that the kernel knows.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its path at the members that have it.
    pub path: RelPath,
    /// What it is.
    pub identity: InodeIdentity,
    /// Bytes of content; 0 for a directory; [`Attributes::UNKNOWN_SIZE`] while only its
    /// name is known.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: UnixTime,
    /// Who had it when it was last looked at, the best one to read from first.
    pub sources: Arc<[EntrySource]>,
    /// True once this content has turned out to be gone.
    pub is_replaced: bool,
    lookups: u64,
}

/// Those who read one file.
#[derive(Default)]
struct Readers {
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

/// All inodes that the kernel knows.
pub struct Inodes {
    inodes: NumberMap<Inode>,
    /// By a hash of what they stand for, or, where several keys have the same one, by the next free
    /// number: which it is tells the inode itself.
    numbers: NumberMap<u64>,
    /// What those few were told as whose content was not known then, and is now.
    born: NumberMap<InodeIdentity>,
    /// Files that somebody has open, and those of whose former content the kernel may have pages.
    readers: NumberMap<Readers>,
    /// Files that somebody has open, by their paths.
    open: HashMap<RelPath, Vec<u64>>,
}

impl Inodes {
    /// The root alone, with `mtime` until somebody tells a better one.
    pub fn new(mtime: UnixTime) -> Self {
        let root = Inode {
            path: RelPath::root(),
            identity: InodeIdentity::Directory(Vantage::Merged),
            size: 0,
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
    /// `tree`; counted as told once more.
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
        let (number, inode) = self.told(key, item.size, item.mtime);
        match tree {
            Vantage::Found | Vantage::Member(_) if !inode.is_replaced => inode.learn(item),
            _ => {
                inode.mtime = item.mtime;
                inode.sources = Arc::clone(&item.sources);
            }
        }
        inode.is_replaced = false;
        if may_grow {
            self.grow(number, item.size);
        }
        (number, &self.inodes[&number])
    }

    /// The file has `size` bytes by now; if they are more, the kernel may be told, unless a read is
    /// being answered by what it was told before.
    fn grow(&mut self, number: u64, size: u64) {
        let readers = self.readers.get(&number);
        let is_being_read = readers.is_some_and(|readers| readers.short_reads > 0);
        if let Some(inode) = self.inodes.get_mut(&number)
            && !is_being_read
            && inode.size < size
            && inode.size != Attributes::UNKNOWN_SIZE
        {
            inode.size = size;
        }
    }

    /// Lets the number of an open file that has become `item` stand for that, if there is one.
    fn adopt(&mut self, key: &InodeKey, item: &Item) {
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
            self.grow(number, item.size);
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
        self.grow(number, item.size);
    }

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
        if state.size != inode.size {
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
    /// if the kernel may have been told that the file has more by now: it would take what is
    /// missing for zeros.
    pub fn begin_short_read(&mut self, number: u64, size: u64) -> bool {
        if self
            .inodes
            .get(&number)
            .is_some_and(|inode| inode.size > size)
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

    /// The same for the top of a member's own tree, about which nobody is asked: until somebody is,
    /// it has the given modification time.
    pub fn look_up_top(&mut self, member: &MemberRef, mtime: UnixTime) -> (u64, &Inode) {
        let identity = InodeIdentity::Directory(Vantage::Member(member.id));
        let (number, inode) = self.told((RelPath::root(), identity), 0, mtime);
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
        if !item.is_measured() || item.kind == Kind::Directory {
            return;
        }
        for source in item.sources.iter() {
            let born = InodeIdentity::of_file(None, Attributes::UNKNOWN_SIZE, source);
            let key = (path.clone(), born);
            let Some(number) = self.find(hash_of(&key.0, &key.1), &key) else {
                continue;
            };
            let inode = self.inodes.get_mut(&number);
            let Some(inode) = inode.filter(|inode| inode.size == Attributes::UNKNOWN_SIZE) else {
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

    /// What `key` stands for, counted as told once more. If it is new, nobody has it yet.
    fn told(&mut self, key: InodeKey, size: u64, mtime: UnixTime) -> (u64, &mut Inode) {
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

/// What leads to the number of a thing: the same on every machine.
fn hash_of(path: &RelPath, identity: &InodeIdentity) -> u64 {
    BuildHasherDefault::<SipHasher13>::default().hash_one((path, identity))
}

/// The number that a thing with this hash has, if nothing else has it.
fn number_of(hash: u64) -> u64 {
    let number = hash & MAX_NUMBER;
    // Neither none nor the root.
    if number > ROOT { number } else { number + 2 }
}

/// The number of `item`, which members have at `path`, as long as nothing else has that; in a
/// directory of the tree of all. It is that by which a program finds the file that sorts what it
/// reads by number.
pub fn number_by_itself(path: &RelPath, item: &Item) -> u64 {
    let identity = match (item.kind, item.sources.first()) {
        (Kind::File, Some(source)) => InodeIdentity::of_file(item.root, item.size, source),
        _ => InodeIdentity::Directory(Vantage::Merged),
    };
    number_of(hash_of(path, &identity))
}

impl Inode {
    /// File or directory.
    pub fn kind(&self) -> Kind {
        match self.identity {
            InodeIdentity::Directory(_) => Kind::Directory,
            InodeIdentity::Root { .. } | InodeIdentity::Empty | InodeIdentity::Source { .. } => {
                Kind::File
            }
        }
    }

    /// The content root, if it is known.
    pub fn root(&self) -> Option<Root> {
        match self.identity {
            InodeIdentity::Root { root, .. } => Some(root),
            _ => None,
        }
    }

    /// The content, if its root is known.
    pub fn content(&self) -> Option<ContentId> {
        match self.identity {
            InodeIdentity::Root { root, size } => Some(ContentId { root, size }),
            _ => None,
        }
    }

    /// What can be done with it.
    pub fn mode(&self) -> Mode {
        mode_of(&self.sources)
    }

    /// The tree that it is a directory of; `None` for a file.
    pub fn tree(&self) -> Option<Vantage> {
        match self.identity {
            InodeIdentity::Directory(tree) => Some(tree),
            _ => None,
        }
    }

    /// True if `item`, at the same path, is shown by this inode.
    pub fn is(&self, item: &Item) -> bool {
        match self.identity {
            InodeIdentity::Directory(_) => item.kind == Kind::Directory,
            InodeIdentity::Root { root, size } => item.root == Some(root) && item.size == size,
            InodeIdentity::Empty => item.kind == Kind::File && item.size == 0,
            InodeIdentity::Source {
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

    /// True if `state` is the content that this stands for.
    fn has(&self, state: ContentState) -> bool {
        match self.identity {
            InodeIdentity::Directory(_) => false,
            InodeIdentity::Empty => state.size == 0,
            InodeIdentity::Root { root, size } => state.content == Some(ContentId { root, size }),
            InodeIdentity::Source {
                member,
                version,
                size,
            } => (state.member, state.version, state.size) == (member, version, size),
        }
    }

    /// True if `item`, at the same path, may be what this file has become: the same file at the
    /// only member that has it, with as many bytes or more. Whether it still has the bytes that it
    /// had shows when it is read. A content that others have, too, does not become another one
    /// because one of them has changed his file.
    fn may_become(&self, item: &Item) -> bool {
        let [source] = &*self.sources else {
            return false;
        };
        let is_same = |other: &EntrySource| {
            other.member.id == source.member.id && other.version.file() == source.version.file()
        };
        self.kind() == Kind::File
            && item.kind == Kind::File
            && item.is_measured()
            && self.size != Attributes::UNKNOWN_SIZE
            && item.size >= self.size
            && item.sources.iter().any(is_same)
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
        let has = |source: &EntrySource| match self.identity {
            InodeIdentity::Directory(_) => None,
            InodeIdentity::Root { .. } | InodeIdentity::Empty => Some(Has::File(source.version)),
            InodeIdentity::Source {
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
