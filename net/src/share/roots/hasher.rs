//! Computes content roots in the background.
//!
//! One thread of low priority reads files that have no root yet: first what members opened, listed
//! or looked up, in the order of [`super::wishes`], then the rest of the share once
//! ([`super::survey`]). A file that is still being written is left for later. One that changes
//! while it is read is read again when it is next requested, though not at once.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::hash_queue::{HashQueue, WishOutcome};
use super::news::{FIRST, RootNews};
use super::store::{FileLocation, Roots};
use super::survey::{RootSurvey, SurveyStep};
use super::wishes::{Asker, Interest, Wish};
use crate::concurrency::parallel::in_halves;
use crate::content::merkle::{HashTree, TreeHasher};
use crate::error::Error;
use crate::model::{Attributes, FileSize, Kind, Mode, Name, RelPath, Root, Version};
use crate::share::tree::file::Settled;
use crate::share::tree::nearby::NearbyDirectory;
use crate::share::{Share, SharedFile, file_in};

/// A file that changed less than this long ago is probably still being written.
const SETTLED: Duration = Duration::from_secs(2);

/// A larger file gets no root. Its leaves (half a gigabyte at this size) would not fit into memory
/// beside everything else, and no other file would get its root for hours.
pub(crate) const MAX_HASHED: u64 = 256 << 30;

/// The longest time for which a computed root is in memory only.
const FLUSH: Duration = Duration::from_secs(5);

/// How often the thread looks for memory to free. The share's keeper wakes it when the share is
/// another directory.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// A larger file is read between two looks at what others wait for.
const SMALL: u64 = 1 << 20;

/// Starts the thread. It ends with the share.
pub(crate) fn start(share: &Arc<Share>, roots: &Arc<Roots>) -> Result<(), Error> {
    let hasher = Hasher {
        share: Arc::downgrade(share),
        wanted: Arc::clone(&share.wanted),
        roots: Arc::clone(roots),
        survey: Some(RootSurvey::default()),
        unread: None,
        generation: None,
        unflushed: None,
        news: RootNews::default(),
        chunk: Vec::new(),
    };
    let thread = std::thread::Builder::new().name("hash".into());
    let spawned = thread.spawn(move || hasher.run());
    spawned
        .map(drop)
        .map_err(|error| Error::local("starting a thread", error))
}

/// Files of one directory.
type UnreadFiles = (RelPath, std::vec::IntoIter<Name>);

struct Hasher {
    share: Weak<Share>,
    wanted: Arc<HashQueue>,
    roots: Arc<Roots>,
    /// The walk over the whole share; `None` when it is done.
    survey: Option<RootSurvey>,
    /// Files that the survey has found and that have not been read yet.
    unread: Option<UnreadFiles>,
    /// The generation of the directory that the survey covers, or covered.
    generation: Option<u64>,
    /// Since when there are roots that a crash would lose.
    unflushed: Option<Instant>,
    /// New roots that others have not been notified of.
    news: RootNews,
    /// What was read last. Grows to what the files need, at most [`CHUNK`].
    chunk: Vec<u8>,
}

impl Hasher {
    fn run(mut self) {
        // Best effort: without the right to do so, the thread competes like any other.
        let _ = rustix::process::setpriority_process(None, 19);
        while !self.wanted.is_stopped() {
            self.flush(FLUSH);
            self.tell();
            self.follow();
            let wait = match (self.survey.is_some(), self.news.is_empty()) {
                (true, _) => Duration::ZERO,
                (false, true) if self.unflushed.is_none() && self.chunk.is_empty() => IDLE,
                (false, true) => FLUSH,
                (false, false) => FIRST / 4,
            };
            let wish = self.wanted.next(wait);
            let Some(share) = self.share.upgrade() else {
                break;
            };
            match wish {
                Some(wish) => self.grant(&share, wish),
                None if self.survey.is_some() => self.go_on(&share),
                None if !self.news.is_empty() => {}
                None => {
                    share.forget_unused();
                    self.chunk = Vec::new();
                    self.flush(Duration::ZERO);
                }
            }
        }
        self.flush(Duration::ZERO);
    }

    /// Restarts the survey if the share is a different directory by now.
    fn follow(&mut self) {
        let generation = self.share.upgrade().map(|share| share.anchor.generation());
        if self.generation != generation {
            self.generation = generation;
            self.survey = Some(RootSurvey::default());
            self.unread = None;
        }
    }

    /// Writes computed roots to the disk, if they have waited for as long as `pause`, or are many.
    fn flush(&mut self, pause: Duration) {
        let Some(since) = self.unflushed else { return };
        if since.elapsed() < pause && !self.roots.is_flush_due() {
            return;
        }
        self.unflushed = None;
        if let Err(error) = self.roots.flush() {
            tracing::warn!(%error, "content roots cannot be kept");
            // They are tried again, though not at once.
            self.unflushed = Some(Instant::now());
        }
    }

    /// Announces files that have got roots, as far as that is due.
    fn tell(&mut self) {
        if self.news.is_empty() {
            return;
        }
        let due = self.news.due(Instant::now());
        if !due.is_empty()
            && let Some(watch) = self.share.upgrade().and_then(|share| share.watch.clone())
        {
            watch.note(due);
        }
    }

    /// Reads the file that somebody wishes for.
    fn grant(&mut self, share: &Share, wish: Wish) {
        let begun = Instant::now();
        let outcome = self.hash(share, &wish.path);
        self.wanted.settle(wish, outcome, begun.elapsed());
    }

    /// Goes on with the survey, or with what it has found.
    fn go_on(&mut self, share: &Share) {
        if let Some(unread) = self.unread.take() {
            self.unread = self.read_on(share, unread);
            return;
        }
        let Some(survey) = &mut self.survey else {
            return;
        };
        match survey.step(share, &self.roots) {
            Ok(SurveyStep::More) => {}
            Ok(SurveyStep::Rootless(directory, names)) => {
                self.unread = Some((directory, names.into_iter()));
            }
            Ok(SurveyStep::Places(places)) => {
                for (root, place) in places {
                    self.note_place(root, place);
                }
            }
            Ok(SurveyStep::End) => self.survey = None,
            Err(error) => {
                tracing::warn!(%error, "roots come as files are listed");
                self.survey = None;
            }
        }
    }

    /// Reads files of one directory, up to the end of a large file. Returns what is left.
    fn read_on(
        &mut self,
        share: &Share,
        (directory, mut names): UnreadFiles,
    ) -> Option<UnreadFiles> {
        let tree = share.tree().ok()?;
        let pinned = tree.find(&directory).ok()?;
        let nearby = NearbyDirectory::new(&pinned);
        for name in names.by_ref() {
            let Ok(path) = directory.join(&name) else {
                continue;
            };
            let begun = Instant::now();
            let file = match &nearby {
                Some(nearby) => nearby.open(name.as_bytes()).ok(),
                None => file_in(&tree, &path).ok(),
            };
            let Some(file) = file else { continue };
            let (asker, size) = (Asker::Nobody, file.size());
            let outcome = self.hash_file(&path, &file);
            if outcome != WishOutcome::Rooted(size) {
                let wish = Wish { asker, path };
                self.wanted.settle(wish, outcome, begun.elapsed());
            }
            if size > SMALL || self.wanted.is_stopped() {
                break;
            }
        }
        (names.len() > 0).then_some((directory, names))
    }

    /// Stores where a content lies whose root was computed without storing that, or at
    /// another place.
    fn note_place(&mut self, root: Root, place: FileLocation) {
        match self.roots.add_place(root, place) {
            Ok(true) => self.is_unflushed(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "places of content roots cannot be kept"),
        }
    }

    fn is_unflushed(&mut self) {
        self.unflushed.get_or_insert_with(Instant::now);
    }

    /// Computes and stores the root of the file at `path`.
    fn hash(&mut self, share: &Share, path: &RelPath) -> WishOutcome {
        match share.tree_file(path) {
            Ok(file) => self.hash_file(path, &file),
            Err(_) => WishOutcome::Rooted(0),
        }
    }

    /// Computes and stores the root of `file`, which has just been opened at `path`.
    fn hash_file(&mut self, path: &RelPath, file: &SharedFile) -> WishOutcome {
        let (id, size) = (file.id(), file.size());
        if size == 0 {
            return WishOutcome::Rooted(0);
        }
        if let Some(root) = self.known(file.attributes().version) {
            self.note_place(root, file.place(path));
            return WishOutcome::Rooted(0);
        }
        // Before anything that costs more than querying the file.
        if self.wanted.is_fruitless(id) {
            return WishOutcome::Rooted(0);
        }
        if file.changed_within(SETTLED) {
            return WishOutcome::TooNew;
        }
        if size > MAX_HASHED {
            tracing::info!(%path, "larger than {} GiB: no content root", MAX_HASHED >> 30);
            return WishOutcome::Fruitless(id, 0);
        }
        match file.settle() {
            Ok(Settled::Yes) => {}
            Ok(Settled::Changed) => return WishOutcome::TooNew,
            Ok(Settled::Never) | Err(_) => return WishOutcome::Fruitless(id, 0),
        }
        match self.read(file) {
            (read, Some(tree)) if self.keep(path, file, &tree) => WishOutcome::Rooted(read),
            (read, _) => WishOutcome::Fruitless(id, read),
        }
    }

    fn known(&self, version: Version) -> Option<Root> {
        self.roots.of([version].into_iter()).pop().flatten()
    }

    /// Returns how many bytes were read, and the tree if that was the whole file. A file that
    /// changes or fails is left alone. It is queued again when it is next requested.
    fn read(&mut self, file: &SharedFile) -> (u64, Option<HashTree>) {
        let wanted = CHUNK.min(usize::try_from(file.size()).unwrap_or(CHUNK));
        if self.chunk.len() < wanted {
            self.chunk.resize(wanted, 0);
        }
        let (mut hasher, mut at) = (TreeHasher::default(), 0);
        while at < file.size() && !self.wanted.is_stopped() {
            let Ok(count @ 1..) = file.read_at(at, &mut self.chunk) else {
                return (at, None);
            };
            hasher.update(&self.chunk[..count]);
            at += count as u64;
        }
        let is_whole = at == file.size();
        (at, hasher.finish().filter(|_| is_whole))
    }

    /// Stores the root of a file. Returns false if there is no room for it.
    fn keep(&mut self, path: &RelPath, file: &SharedFile, tree: &HashTree) -> bool {
        let (version, place) = (file.attributes().version, file.place(path));
        // Large trees leave little room.
        self.flush(FLUSH);
        if !self.roots.insert(version, place, tree) {
            return false;
        }
        self.is_unflushed();
        // After the root is known: who lists the directory from now on sees it.
        if let Some((directory, name)) = path.split()
            && let Some(share) = self.share.upgrade()
            && share
                .watch
                .as_ref()
                .is_some_and(|watch| watch.is_watched(&directory))
        {
            self.news.add(&directory, name, Instant::now());
        }
        true
    }
}

impl Share {
    /// Fills the known roots into `found`, and requests those of the other files on behalf of
    /// `asker`, who takes this much `interest` in them. `path` returns the path of the file with
    /// a given number.
    pub(crate) fn add_roots(
        &self,
        mut found: Vec<&mut Attributes>,
        (asker, interest): (Asker, Interest),
        path: impl Fn(usize) -> Option<RelPath>,
    ) {
        let Some(roots) = &self.roots else { return };
        let known = in_halves(0..found.len(), |range| {
            roots.of(found[range].iter().map(|attributes| attributes.version))
        });
        let known = known.concat();
        let mut lacking = Vec::new();
        for (index, (attributes, root)) in found.iter_mut().zip(known).enumerate() {
            if attributes.kind == Kind::File && attributes.size != FileSize::ZERO {
                attributes.root = root;
                // A file that cannot be read gets none.
                if root.is_none() && attributes.mode != Mode::Unreadable {
                    lacking.push(index);
                }
            }
        }
        if !lacking.is_empty() {
            let paths = lacking.into_iter().filter_map(path);
            self.wanted.add_all(asker, paths, interest);
        }
    }

    /// Requests that the files at `paths`, whose roots `asker` wants to know, are read before
    /// others. Costs nothing but room in a bounded list.
    pub fn wanted_soon(&self, asker: Asker, paths: impl Iterator<Item = RelPath>) {
        if self.roots.is_some() {
            self.wanted.add_all(asker, paths, Interest::Listed);
        }
    }

    /// Like [`Share::wanted_soon`], for a file that `asker` has opened, at the very front.
    pub(crate) fn wanted_now(&self, asker: Asker, path: &RelPath, file: &SharedFile) {
        let attributes = file.attributes();
        if let Some(roots) = self.roots.as_ref().filter(|_| file.size() > 0)
            && !roots.is_complete(attributes.version)
        {
            self.wanted.add_opened(asker, path, file);
        }
    }
}
