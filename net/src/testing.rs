//! A member in memory, for testing everything that builds on [`Peer`]: it can be slow, frozen, cut
//! off, lying or gone, and counts the calls it gets.

mod wire_peer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::content::merkle::{BLOCK, HashTree, SUBTREE_BLOCKS, TreeHasher, leaf};
use crate::error::Error;
use crate::model::FileSize;
use crate::model::{
    Attributes, ByteRange, ContentId, Entry, Kind, Mode, Name, PeerId, RelPath, Root, UnixTime,
    Version,
};
use crate::peer::{ByteStream, Peer};
use crate::protocol::wire::{
    BatchAnswer, BatchItem, Change, Changes, ChangesRequest, Depth, Fault, FaultCode, ListRequest,
    Listing, MAX_SMALL_FILE, Request, Response, SearchPage, SearchRequest, Snapshot,
    SnapshotRequest, StatRequest, StatResponse,
};
use crate::share::watch::journal::Journal;

pub use wire_peer::WirePeer;

/// Returns the id of the member with that number; two numbers are two members.
pub fn peer_id(number: usize) -> PeerId {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    PeerId::from_bytes(key)
}

/// Waits until `holds` returns true, which has to happen within some seconds.
#[cfg(test)]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How a [`MemoryPeer`] treats its callers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// Answers at once and correctly.
    Honest,
    /// Answers correctly, after this long.
    Slow(Duration),
    /// Takes every question and answers none.
    Frozen,
    /// Answers every call with a lack of resources.
    Exhausted,
    /// Refuses connections.
    Gone,
    /// Ends each byte stream after this many bytes.
    CutAfter(u64),
    /// Lets each byte stream stall after this many bytes.
    StallAfter(u64),
    /// Flips the first bit of every byte stream.
    Lying,
    /// Every directory, and every search, has another page of the longest names.
    Endless,
    /// Answers every poll at once with this many changes. If the second field is `true`, the first
    /// change covers everything.
    Flooding(usize, bool),
}

/// A member whose tree is a map.
pub struct MemoryPeer {
    id: PeerId,
    files: Mutex<BTreeMap<RelPath, (Attributes, Vec<u8>)>>,
    behaviour: Mutex<Behaviour>,
    changed: Condvar,
    trees: Mutex<BTreeMap<Root, HashTree>>,
    kept: Mutex<BTreeMap<Root, (Vec<u8>, ByteRange)>>,
    /// The contents of files in versions that were asked about.
    captured: Mutex<BTreeMap<Version, Vec<u8>>>,
    /// The modes in its listings, where they are not [`Mode::Plain`].
    modes: Mutex<BTreeMap<RelPath, Mode>>,
    /// Paths that it cannot read, whatever its listings say.
    locked: Mutex<BTreeSet<RelPath>>,
    /// `None` while it does not watch its answers for changes.
    journal: Mutex<Option<Journal>>,
    moved: Condvar,
    calls: AtomicUsize,
    polls: AtomicUsize,
    opens: AtomicUsize,
    fetches: AtomicUsize,
}

impl MemoryPeer {
    /// Creates an honest member without files; `seed` makes its identity.
    pub fn new(seed: u8) -> Self {
        Self {
            id: PeerId::from_bytes([seed; 32]),
            files: Mutex::default(),
            behaviour: Mutex::new(Behaviour::Honest),
            changed: Condvar::new(),
            trees: Mutex::default(),
            kept: Mutex::default(),
            captured: Mutex::default(),
            modes: Mutex::default(),
            locked: Mutex::default(),
            journal: Mutex::default(),
            moved: Condvar::new(),
            calls: AtomicUsize::new(0),
            polls: AtomicUsize::new(0),
            opens: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
        }
    }

    /// Shares `content` at `path`, replacing what was there. The version depends on the content and
    /// the time; parent directories exist implicitly.
    ///
    /// # Panics
    /// If `path` is not a valid path: a mistake in a test.
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>, mtime: i64) -> Attributes {
        let content = content.into();
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        let version = Version(fingerprint(&content) ^ mtime as u64);
        let size = content.len() as u64;
        let attributes = Attributes {
            kind: Kind::File,
            mode: Mode::Plain,
            size: size.into(),
            mtime: mtime.into(),
            version,
            root: None,
        };
        self.files
            .lock()
            .insert(path.clone(), (attributes, content));
        self.note(path);
        attributes
    }

    /// Watches its answers for changes from now on.
    pub fn watch(&self) {
        *self.journal.lock() = Some(Journal::new(1));
    }

    /// Returns its change counter; 0 while it does not watch.
    pub fn counter(&self) -> u64 {
        self.journal.lock().as_ref().map_or(0, Journal::counter)
    }

    fn note(&self, path: RelPath) {
        if let Some(journal) = &mut *self.journal.lock() {
            journal.record(path, Depth::Tree);
        }
        self.moved.notify_all();
    }

    fn counter_if(&self, wanted: bool) -> Option<u64> {
        self.journal
            .lock()
            .as_ref()
            .filter(|_| wanted)
            .map(Journal::counter)
    }

    /// Answers a poll as soon as there are changes.
    fn changes(&self, request: &ChangesRequest) -> Result<Changes, Error> {
        if let Behaviour::Flooding(count, is_all) = *self.behaviour.lock() {
            self.polls.fetch_add(1, Ordering::SeqCst);
            let path = |n: usize| RelPath::new(format!("d/{n}").as_bytes()).expect("a valid path");
            let changes = (1..=count).map(|n| Change {
                path: path(n),
                depth: Depth::Tree,
            });
            let everything = is_all.then(Change::everything);
            return Ok(Changes {
                counter: request.since + 1,
                changes: everything.into_iter().chain(changes).collect(),
            });
        }
        let until = Instant::now() + request.wait;
        let mut journal = self.journal.lock();
        loop {
            let Some(known) = &*journal else {
                let fault = Fault::new(FaultCode::NotFound, "nothing is watched");
                let who = self.who();
                return Err(Error::Fault { who, fault });
            };
            if let Some(changes) = known.since(request.since) {
                return Ok(changes);
            }
            let is_over = Instant::now() >= until;
            if is_over {
                let (counter, changes) = (request.since, Vec::new());
                return Ok(Changes { counter, changes });
            }
            self.moved.wait_for(&mut journal, Duration::from_millis(5));
            if *self.behaviour.lock() == Behaviour::Gone {
                let (who, why) = (self.who(), "gone".into());
                return Err(Error::Unreachable { who, why });
            }
        }
    }

    /// Shares `content` at `path` with its content root known.
    ///
    /// # Panics
    /// If `path` is not a valid path: a mistake in a test.
    pub fn put_rooted(&self, path: &str, content: impl Into<Vec<u8>>, mtime: i64) -> Attributes {
        let content = content.into();
        let mut hasher = TreeHasher::default();
        hasher.update(&content);
        let mut attributes = self.put(path, content, mtime);
        if let Some(tree) = hasher.finish() {
            attributes.root = Some(tree.root());
            self.trees.lock().insert(tree.root(), tree);
        }
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        if let Some((known, _)) = self.files.lock().get_mut(&path) {
            *known = attributes;
        }
        self.note(path);
        attributes
    }

    /// Claims the root of `content` for what it shares at `path`, in its current version: a lie, if
    /// that is something else.
    ///
    /// # Panics
    /// If it shares nothing at `path`: a mistake in a test.
    pub fn claim(&self, path: &str, content: &[u8]) -> Attributes {
        let mut hasher = TreeHasher::default();
        hasher.update(content);
        let tree = hasher.finish().expect("content");
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        let mut files = self.files.lock();
        let (attributes, _) = files.get_mut(&path).expect("a shared file");
        attributes.root = Some(tree.root());
        let claimed = *attributes;
        drop(files);
        self.trees.lock().insert(tree.root(), tree);
        self.note(path);
        claimed
    }

    /// Behaves as if it had read `part` of `content` and kept it, without sharing a file with it.
    pub fn keep(&self, content: &[u8], part: ByteRange) {
        let mut hasher = TreeHasher::default();
        hasher.update(content);
        if let Some(tree) = hasher.finish() {
            let root = tree.root();
            self.trees.lock().insert(root, tree);
            self.kept.lock().insert(root, (content.to_vec(), part));
        }
    }

    /// Stops sharing `path`.
    ///
    /// # Panics
    /// If `path` is not a valid path: a mistake in a test.
    pub fn remove(&self, path: &str) {
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        self.files.lock().remove(&path);
        self.note(path);
    }

    /// Sets the mode of what lies at `path`, in its listings and in its behaviour.
    ///
    /// # Panics
    /// If `path` is not a valid path: a mistake in a test.
    pub fn chmod(&self, path: &str, mode: Mode) {
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        match mode {
            Mode::Unreadable => self.locked.lock().insert(path.clone()),
            Mode::Plain | Mode::Executable => self.locked.lock().remove(&path),
        };
        self.modes.lock().insert(path.clone(), mode);
        self.note(path);
    }

    /// Loses the permission to read the file at `path`, but does not say so in listings.
    ///
    /// # Panics
    /// If `path` is not a valid path: a mistake in a test.
    pub fn lock(&self, path: &str) {
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        self.locked.lock().insert(path);
    }

    fn mode(&self, path: &RelPath) -> Mode {
        self.modes.lock().get(path).copied().unwrap_or_default()
    }

    /// Changes how questions are treated, including those that already wait.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
        self.changed.notify_all();
    }

    /// Returns how many calls came so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns how many polls for changes it has answered with a flood so far.
    pub fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    /// Returns how many ranges were opened so far.
    pub fn opens(&self) -> usize {
        self.opens.load(Ordering::SeqCst)
    }

    /// Returns how many batches of small files were requested so far.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn who(&self) -> String {
        self.id.short()
    }

    /// Waits or fails as its behaviour requires.
    fn treat(&self, deadline: Instant) -> Result<(), Error> {
        let mut behaviour = self.behaviour.lock();
        let begun = Instant::now();
        loop {
            let answer_at = match *behaviour {
                Behaviour::Exhausted => {
                    return Err(Error::Fault {
                        who: self.who(),
                        fault: Fault::new(FaultCode::Internal, "Too many open files"),
                    });
                }
                Behaviour::Gone => {
                    return Err(Error::unreachable(self.who(), "gone"));
                }
                Behaviour::Slow(delay) => begun + delay,
                Behaviour::Frozen => deadline + Duration::from_secs(3600),
                _ => return Ok(()),
            };
            let until = answer_at.min(deadline);
            if self.changed.wait_until(&mut behaviour, until).timed_out() {
                return if answer_at <= deadline {
                    Ok(())
                } else {
                    Err(Error::Timeout { who: self.who() })
                };
            }
        }
    }

    /// Returns a stream of `bytes` that ends as its behaviour requires.
    fn stream(&self, mut bytes: Vec<u8>) -> Box<dyn ByteStream> {
        let behaviour = *self.behaviour.lock();
        let mut ending = Ending::Complete;
        match behaviour {
            Behaviour::Lying => bytes[0] ^= 1,
            Behaviour::CutAfter(limit) if (limit as usize) < bytes.len() => {
                bytes.truncate(limit as usize);
                ending = Ending::Cut;
            }
            Behaviour::StallAfter(limit) if (limit as usize) < bytes.len() => {
                bytes.truncate(limit as usize);
                ending = Ending::Stall;
            }
            _ => {}
        }
        Box::new(MemoryStream {
            who: self.who(),
            bytes,
            at: 0,
            ending,
        })
    }

    fn children(&self, directory: &RelPath) -> BTreeMap<Name, Attributes> {
        let mut children = BTreeMap::new();
        let depth = directory.components().count();
        for (path, (attributes, _)) in self.files.lock().iter() {
            let mut components = path.components();
            if !directory
                .components()
                .all(|component| components.next() == Some(component))
            {
                continue;
            }
            let Some(name) = components.next().and_then(|name| Name::new(name).ok()) else {
                continue;
            };
            let attributes = if path.components().count() == depth + 1 {
                *attributes
            } else {
                DIRECTORY
            };
            let mode = directory.join(&name).map(|path| self.mode(&path));
            let mode = mode.unwrap_or_default();
            children.insert(name, Attributes { mode, ..attributes });
        }
        children
    }

    fn attributes(&self, path: &RelPath) -> Option<Attributes> {
        let mode = self.mode(path);
        if let Some((attributes, _)) = self.files.lock().get(path) {
            return Some(Attributes {
                mode,
                ..*attributes
            });
        }
        let is_there = path.is_root() || !self.children(path).is_empty();
        is_there.then_some(Attributes { mode, ..DIRECTORY })
    }

    /// Returns the content of a file in a version, if that is remembered, or its current content,
    /// which is remembered from then on.
    fn snapshot(&self, request: &SnapshotRequest) -> Option<Snapshot> {
        let (files, mut captured) = (self.files.lock(), self.captured.lock());
        let known = captured
            .get(&request.version)
            .filter(|_| request.prefix.is_none());
        let (version, content) = match (known, request.may_read) {
            (Some(content), _) => (request.version, content.clone()),
            (None, true) => {
                let (attributes, content) = files.get(&request.path)?;
                captured.insert(attributes.version, content.clone());
                (attributes.version, content.clone())
            }
            (None, false) => return None,
        };
        let content_id = |bytes: &[u8]| {
            let mut hasher = TreeHasher::default();
            hasher.update(bytes);
            let tree = hasher.finish()?;
            let (root, size) = (tree.root(), bytes.len() as u64);
            self.trees.lock().insert(root, tree);
            Some(ContentId { root, size })
        };
        let prefix = request
            .prefix
            .and_then(|prefix| content.get(..prefix.size as usize));
        Some(Snapshot {
            version,
            content: content_id(&content)?,
            is_prefix: prefix.and_then(content_id) == request.prefix && request.prefix.is_some(),
        })
    }

    /// Returns what some file still has at `range` of the content with this root.
    fn former(&self, root: Root, range: ByteRange) -> Option<Vec<u8>> {
        let trees = self.trees.lock();
        let leaves = trees.get(&root)?.leaves();
        let files = self.files.lock();
        let first = range.start / BLOCK;
        let mut contents = files.values().map(|(_, content)| content);
        let has_it = |content: &&Vec<u8>| {
            content.len() as u64 >= range.end
                && (first..range.end.div_ceil(BLOCK)).all(|block| {
                    let block_range =
                        (block * BLOCK) as usize..range.end.min((block + 1) * BLOCK) as usize;
                    leaves.get(block as usize) == Some(&leaf(&content[block_range]))
                })
        };
        let content = contents.find(has_it)?;
        Some(content[range.start as usize..range.end as usize].to_vec())
    }

    /// Appends to what it shares at `path`, which gives the file another version without a root.
    ///
    /// # Panics
    /// If it shares nothing at `path`: a mistake in a test.
    pub fn append(&self, path: &str, more: &[u8], mtime: i64) -> Attributes {
        self.change(path, mtime, |content| content.extend_from_slice(more))
    }

    /// Changes what it shares at `path`, which gives the file another version without a root.
    ///
    /// # Panics
    /// If it shares nothing at `path`: a mistake in a test.
    pub fn change(&self, path: &str, mtime: i64, change: impl FnOnce(&mut Vec<u8>)) -> Attributes {
        let path = RelPath::new(path.as_bytes()).expect("a valid path");
        let mut files = self.files.lock();
        let (attributes, content) = files.get_mut(&path).expect("a shared file");
        change(content);
        let state = fingerprint(content) ^ (mtime as u64).rotate_left(32);
        *attributes = Attributes {
            size: (content.len() as u64).into(),
            mtime: mtime.into(),
            version: Version::of(attributes.version.0, state),
            root: None,
            ..*attributes
        };
        let changed = *attributes;
        drop(files);
        self.note(path);
        changed
    }

    /// Renames what it shares at `from` to `to`.
    ///
    /// # Panics
    /// If it shares nothing at `from`: a mistake in a test.
    pub fn rename(&self, from: &str, to: &str) {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a valid path");
        let mut files = self.files.lock();
        let file = files.remove(&path(from)).expect("a shared file");
        files.insert(path(to), file);
        drop(files);
        self.note(path(from));
        self.note(path(to));
    }

    /// Returns the `count` names behind `after`, each of 248 bytes.
    fn endless(after: Option<&[u8]>, count: usize) -> impl Iterator<Item = String> {
        let digits = after.and_then(|name| std::str::from_utf8(name.get(..12)?).ok());
        let first = digits
            .and_then(|digits| digits.parse().ok())
            .map_or(0, |n: usize| n + 1);
        (first..first + count).map(|number| format!("{number:012}{}", "x".repeat(236)))
    }

    fn list(&self, request: &ListRequest) -> Result<Listing, Fault> {
        if *self.behaviour.lock() == Behaviour::Endless {
            let after = request.after.as_ref().map(Name::as_bytes);
            let entry = |name: String| Entry {
                name: Name::new(name.into_bytes()).expect("a valid name"),
                attributes: ENDLESS,
            };
            return Ok(Listing {
                version: DIRECTORY.version,
                mtime: UnixTime::EPOCH,
                entries: Self::endless(after, request.limit as usize)
                    .map(entry)
                    .collect(),
                more: true,
                counter: None,
            });
        }
        match self.attributes(&request.directory).map(|found| found.kind) {
            Some(Kind::Directory) => {}
            Some(Kind::File) => return Err(Fault::new(FaultCode::NotADirectory, "a file")),
            None => return Err(Fault::new(FaultCode::NotFound, "no such directory")),
        }
        if self.locked.lock().contains(&request.directory) {
            return Err(Fault::new(FaultCode::Forbidden, "not for this member"));
        }
        let mut rest = self
            .children(&request.directory)
            .into_iter()
            .filter(|(name, _)| request.after.as_ref().is_none_or(|after| name > after));
        let entries: Vec<Entry> = rest
            .by_ref()
            .take(request.limit as usize)
            .map(|(name, attributes)| Entry { name, attributes })
            .collect();
        let more = rest.next().is_some();
        Ok(Listing {
            version: DIRECTORY.version,
            mtime: UnixTime::EPOCH,
            entries,
            more,
            counter: None,
        })
    }

    fn search(&self, request: &SearchRequest) -> Result<SearchPage, Fault> {
        if *self.behaviour.lock() == Behaviour::Endless {
            let after = request.after.as_ref().map(RelPath::as_bytes);
            // As many as one response may hold.
            let names = Self::endless(after, (request.limit as usize).min(1000));
            let found = |name: String| {
                let path = [name.as_str(); 16].join("/");
                let path = RelPath::new(path.as_bytes()).expect("a valid path");
                (path, ENDLESS)
            };
            return Ok(SearchPage {
                matches: names.map(found).collect(),
                more: true,
            });
        }
        let pattern = regex::bytes::Regex::new(&request.pattern)
            .map_err(|error| Fault::new(FaultCode::BadPattern, error.to_string()))?;
        let files = self.files.lock();
        let mut rest = files.iter().filter(|(path, _)| {
            let name = path.components().last().unwrap_or_default();
            pattern.is_match(name) && request.after.as_ref().is_none_or(|after| *path > after)
        });
        let matches = rest
            .by_ref()
            .take(request.limit as usize)
            .map(|(path, (attributes, _))| {
                let mode = self.mode(path);
                (
                    path.clone(),
                    Attributes {
                        mode,
                        ..*attributes
                    },
                )
            })
            .collect();
        Ok(SearchPage {
            matches,
            more: rest.next().is_some(),
        })
    }
}

const ENDLESS: Attributes = Attributes {
    kind: Kind::File,
    mode: Mode::Plain,
    size: FileSize::of(1),
    mtime: UnixTime::EPOCH,
    version: Version(1),
    root: None,
};

const DIRECTORY: Attributes = Attributes {
    kind: Kind::Directory,
    mode: Mode::Plain,
    size: FileSize::ZERO,
    mtime: UnixTime::EPOCH,
    version: Version(1),
    root: None,
};

/// Hashes with FNV-1a, so that other content is another version.
fn fingerprint(content: &[u8]) -> u64 {
    content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Peer for MemoryPeer {
    fn id(&self) -> PeerId {
        self.id
    }

    fn call(&self, request: &Request, deadline: Instant) -> Result<Response, Error> {
        if let Request::Changes(request) = request {
            self.treat(deadline)?;
            return self.changes(request).map(Response::Changes);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        let watched = matches!(
            request,
            Request::List(ListRequest { watch: true, .. })
                | Request::Stat(StatRequest { watch: true, .. })
        );
        let counter = self.counter_if(watched);
        self.treat(deadline)?;
        let fault = |fault| Error::Fault {
            who: self.who(),
            fault,
        };
        match request {
            Request::List(request) => match self.list(request) {
                Ok(listing) => Ok(Response::List(Listing { counter, ..listing })),
                Err(absence) if request.watch && absence.is_absence() => {
                    Ok(Response::NoDirectory { counter })
                }
                Err(error) => Err(fault(error)),
            },
            Request::Search(request) => self.search(request).map(Response::Search).map_err(fault),
            Request::Stat(request) => Ok(Response::Stat(StatResponse {
                attributes: request
                    .paths
                    .iter()
                    .map(|path| self.attributes(path))
                    .collect(),
                counter,
            })),
            Request::Hashes(request) => {
                let trees = self.trees.lock();
                let found = trees.get(&request.root).and_then(|tree| {
                    let subtree = tree.subtree(request.first / SUBTREE_BLOCKS)?;
                    subtree.narrow(request.first, request.span)
                });
                let missing = || fault(Fault::new(FaultCode::NotFound, "no such content"));
                found.map(Response::Hashes).ok_or_else(missing)
            }
            Request::Snapshot(request) => self
                .snapshot(request)
                .map(Response::Snapshot)
                .ok_or_else(|| fault(Fault::new(FaultCode::NotFound, "not known"))),
            _ => Err(fault(Fault::new(
                FaultCode::MethodNotFound,
                "not in this twin",
            ))),
        }
    }

    fn open(
        &self,
        path: &RelPath,
        version: Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<Box<dyn ByteStream>, Error> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        self.treat(deadline)?;
        let files = self.files.lock();
        let (attributes, content) = files
            .get(path)
            .ok_or_else(|| Error::NotFound { who: self.who() })?;
        if self.locked.lock().contains(path) {
            return Err(Error::Forbidden { who: self.who() });
        }
        if attributes.version != version {
            return Err(Error::Changed { who: self.who() });
        }
        let bytes = content[range.start as usize..range.end as usize].to_vec();
        Ok(self.stream(bytes))
    }

    fn open_content(
        &self,
        root: Root,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        self.treat(deadline)?;
        let not_found = || Error::NotFound { who: self.who() };
        if let Some(bytes) = self.former(root, range) {
            return Ok((range.len(), self.stream(bytes)));
        }
        let kept = self.kept.lock();
        let found = kept
            .get(&root)
            .filter(|(_, part)| part.start <= range.start && range.start < part.end);
        let (content, part) = found.ok_or_else(not_found)?;
        let end = range.end.min(part.end);
        let bytes = content[range.start as usize..end as usize].to_vec();
        Ok((end - range.start, self.stream(bytes)))
    }

    /// Fetches a batch. With cut and stalled streams, batches break off or never end.
    fn fetch(&self, items: &[BatchItem], deadline: Instant) -> Result<Vec<BatchAnswer>, Error> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.treat(deadline)?;
        let behaviour = *self.behaviour.lock();
        if let Behaviour::StallAfter(_) = behaviour {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
            return Err(Error::Timeout { who: self.who() });
        }
        if let Behaviour::CutAfter(_) = behaviour {
            return Err(Error::unreachable(self.who(), "connection reset"));
        }
        let files = self.files.lock();
        let answers = items.iter().map(|item| match files.get(&item.path) {
            None => BatchAnswer::NotFound,
            Some(_) if self.locked.lock().contains(&item.path) => BatchAnswer::Forbidden,
            Some((attributes, _)) if attributes.version != item.version => BatchAnswer::Changed,
            Some((attributes, _)) if attributes.size.or_zero() > MAX_SMALL_FILE => {
                BatchAnswer::TooLarge
            }
            Some((_, content)) => {
                let mut bytes = content.clone();
                if let (Behaviour::Lying, Some(first)) = (behaviour, bytes.first_mut()) {
                    *first ^= 1;
                }
                BatchAnswer::Whole(bytes)
            }
        });
        Ok(answers.collect())
    }
}

struct MemoryStream {
    who: String,
    bytes: Vec<u8>,
    at: usize,
    ending: Ending,
}

/// What follows the last byte of a stream.
enum Ending {
    Complete,
    Cut,
    Stall,
}

impl ByteStream for MemoryStream {
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        let rest = &self.bytes[self.at..];
        match self.ending {
            Ending::Cut if rest.is_empty() => {
                return Err(Error::unreachable(&self.who, "connection reset"));
            }
            Ending::Stall if rest.is_empty() => {
                std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                return Err(Error::Timeout {
                    who: self.who.clone(),
                });
            }
            _ => {}
        }
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}
