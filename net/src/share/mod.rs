//! What this node offers: one directory, served live.
//!
//! Every request is answered from the directory as it is at that moment, so a file dropped in is
//! visible at once. A name that a listing shows can be looked up and opened under the same path; a
//! name that it leaves out cannot. Four modules:
//! - `tree`: what is served, and how symbolic links and mounts are treated. It builds on the one
//!   module that opens anything (`tree::beneath`).
//! - `names`: listings and searches. Names already read stay in memory (`names::index`) and are
//!   used only while their directory is unchanged.
//! - `roots`: the content of files by content root, hashed in the background.
//! - `watch`: changes to what other members were shown.
//!
//! The calls block on the disk, so only threads that may block should make them. They hold no lock
//! while they block. Their faults never name a path of this machine.

mod answers;
mod errnos;
mod faults;
pub(crate) mod names;
mod roots;
#[cfg(test)]
mod tests;
mod tree;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

pub use names::pattern::check_pattern;
pub use roots::by_root::{NoContent, SharedContent};
pub use roots::former::FormerFile;
pub use roots::store::{FileLocation, Roots};
pub use roots::wishes::Asker;
pub(crate) use tree::file::retry_while_changing;
pub use tree::file::{SharedFile, is_changed};
pub use tree::mountinfo::{Device, MountEntry, OUR_MOUNT_TYPE};

use crate::config::{CALL_DEADLINE, ShareConfig};
use crate::content::merkle::Subtree;
use crate::error::Error;
use crate::fairness::Claimant;
use crate::model::{Kind, MAX_NAME_BYTES, MAX_PATH_BYTES, RelPath, UnixTime};
use crate::protocol::wire::{
    Changes, ChangesRequest, Fault, FaultCode, HashesRequest, SearchPage, SearchRequest,
};
use crate::share::errnos::is_absence;
use crate::share::faults::{fault, internal, nothing_watched, unreadable};
use crate::stats::status::Unreadable;
use names::index::NameIndex;
use names::name_list::NameList;
use names::search::SearchPlaces;
use roots::captures::Captures;
use roots::hash_queue::HashQueue;
use roots::relocate::Relocations;
use roots::snapshot::HashTurns;
use roots::wishes::Interest;
use tree::anchor::Anchor;
use tree::aside::STUCK;
use tree::unreadable::{Complaint, UnreadableDirectories};
use tree::{PinnedNode, ShareTree};
use watch::inotify::ShareWatch;
use watch::keeper::KeeperThread;

/// A directory that changed less than this long ago may change again without its times showing it
/// (vfat times tick every two seconds), so its names are not cached yet.
const SETTLED: Duration = Duration::from_millis(2100);

/// An answer takes at most this long plus the time for one path, one directory or one name of 255
/// bytes. That is less than a caller waits.
pub(crate) const BUDGET: Duration = Duration::from_secs(2);

const _: () = assert!(BUDGET.as_secs() < CALL_DEADLINE.as_secs());

/// Attempts to open a file that is replaced each time it has been found.
const OPEN_TRIES: u32 = 5;

/// One shared directory: whatever its path leads to when a request arrives. While the path leads to
/// nothing, or to nothing that may be served, the share is empty.
#[derive(Debug)]
pub struct Share {
    anchor: Anchor,
    keeper: Arc<KeeperThread>,
    watch: Option<Arc<ShareWatch>>,
    roots: Option<Arc<Roots>>,
    captures: Arc<Captures>,
    relocations: Relocations,
    turns: HashTurns,
    wanted: Arc<HashQueue>,
    index: Arc<Mutex<NameIndex>>,
    unreadable: Arc<UnreadableDirectories>,
    places: Mutex<SearchPlaces>,
}

impl Share {
    /// Opens the directory. Fails if there is none, if it cannot be entered, if it lies in a mount
    /// of this program, or if this system cannot serve it safely.
    pub fn open(config: &ShareConfig) -> Result<Self, Error> {
        let failed = |why| Error::local(format!("sharing {}", config.directory.display()), why);
        Ok(Self {
            anchor: Anchor::new(config).map_err(failed)?,
            keeper: Arc::default(),
            watch: None,
            roots: None,
            captures: Arc::default(),
            relocations: Relocations::default(),
            turns: HashTurns::default(),
            wanted: Arc::default(),
            index: Arc::default(),
            unreadable: Arc::default(),
            places: Mutex::default(),
        })
    }

    /// Starts reporting changes to what others were shown. Where the system cannot watch, they have
    /// to ask again.
    pub fn watched(self) -> Self {
        let watch = ShareWatch::start(&self.anchor.look());
        if let Err(error) = &watch {
            tracing::info!(%error, "others have to look for changes themselves");
        }
        Self {
            watch: watch.ok(),
            ..self
        }
    }

    /// Starts computing the content roots of the files in the background and keeps them in `roots`.
    /// Files are served before they have a root.
    pub fn with_roots(self, roots: Roots) -> Result<Arc<Self>, Error> {
        let roots = Arc::new(roots);
        let share = Arc::new(Self {
            roots: Some(Arc::clone(&roots)),
            ..self
        });
        roots::hasher::start(&share, &roots)?;
        watch::keeper::start(&share)?;
        Ok(share)
    }

    /// Stops the background work.
    pub fn stop(&self) {
        self.wanted.stop();
        self.keeper.stop();
        if let Some(watch) = &self.watch {
            watch.stop();
        }
    }

    /// Returns the changes to anything that was answered with a counter, as soon as there are any.
    /// Returns none when the time is up.
    pub async fn changes(&self, request: &ChangesRequest) -> Result<Changes, Fault> {
        match &self.watch {
            Some(watch) => Ok(watch.changes(request).await),
            None => Err(nothing_watched()),
        }
    }

    /// Like [`Share::changes`], on a thread that may block.
    pub fn wait_for_changes(&self, request: &ChangesRequest) -> Result<Changes, Fault> {
        let watch = self.watch.as_ref().ok_or_else(nothing_watched)?;
        Ok(watch.wait_for_changes(request))
    }

    /// Watches what lies at `path` if the caller `wants` that. Changes are reported from the
    /// returned counter on. Must be called before `path` is read.
    fn keep(&self, tree: &Arc<ShareTree>, path: &RelPath, wants: bool) -> Option<u64> {
        let watch = self.watch.as_ref().filter(|_| wants)?;
        let since = watch.keep(tree, path, Instant::now());
        self.keeper.note_use(watch);
        since
    }

    /// Returns what the share's path leads to now, for one request; [`Errno::NOENT`] while nothing
    /// is shared. If the directory is not the same as before, those who were shown the previous
    /// one are notified.
    fn tree(&self) -> Result<Arc<ShareTree>, Errno> {
        let look = self.anchor.look();
        if let Some(watch) = &self.watch {
            watch.follow(&look);
        }
        look.tree
    }

    /// Explains in words why nothing is shared at the moment; `None` while something is.
    pub fn problem(&self) -> Option<String> {
        self.anchor.problem().map(|problem| problem.to_string())
    }

    /// Returns one page of the files whose names match, for `caller`. Ends within about two
    /// seconds, if necessary early and with no match but with `more` set. The same request from the
    /// same caller then continues where this one ended.
    pub(crate) fn search(
        &self,
        request: &SearchRequest,
        caller: Claimant,
    ) -> Result<SearchPage, Fault> {
        let mut page = self.search_within(request, caller, BUDGET)?;
        let paths: Vec<RelPath> = page.matches.iter().map(|(path, _)| path.clone()).collect();
        let found = page.matches.iter_mut().map(|(_, attributes)| attributes);
        let asker = (Asker::of(caller), Interest::Listed);
        self.add_roots(found.collect(), asker, |index| Some(paths[index].clone()));
        Ok(page)
    }

    /// Returns leaves of a content that some file here has or had.
    pub fn hashes(&self, request: &HashesRequest) -> Result<Subtree, Fault> {
        let unknown = || Fault::new(FaultCode::NotFound, "no such content, or not known yet");
        let trees = self.trees();
        let subtree = trees.subtree(request.root, request.first, request.span);
        let subtree =
            subtree.map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
        subtree.ok_or_else(unknown)
    }

    /// Opens a regular file for reading, for `asker`. Also requests its content root, so that it
    /// has one soon and can be found by it.
    pub fn open_file(&self, path: &RelPath, asker: Asker) -> Result<SharedFile, Fault> {
        let file = self.tree_file(path)?;
        self.wanted_now(asker, path, &file);
        Ok(file)
    }

    /// Like [`Share::open_file`], but without waiting, for a file that was opened at this `path` a
    /// moment ago and most likely has everything needed in memory; else `None`.
    pub(crate) fn open_file_now(&self, path: &RelPath) -> Option<SharedFile> {
        let (file, state) = self.anchor.look_now()?.open_now(path)?;
        SharedFile::new(file, state, None)
    }

    /// Opens a regular file.
    fn tree_file(&self, path: &RelPath) -> Result<SharedFile, Fault> {
        let tree = self.tree().map_err(fault)?;
        file_in(&tree, path)
    }

    /// Returns the names of a directory: cached ones while it is unchanged, else read now.
    fn names(&self, tree: &Arc<ShareTree>, directory: &PinnedNode) -> Result<Arc<NameList>, Errno> {
        let (index, unreadable) = (Arc::clone(&self.index), Arc::clone(&self.unreadable));
        // If the caller has given up by then, the names are cached anyway.
        tree.on(directory, move |tree, directory| {
            let names = names_in(&index, tree, directory);
            let outcome = names
                .as_ref()
                .map(|names| too_long(directory.real(), names));
            let outcome = outcome.map_err(|error| *error);
            unreadable.note(directory.real(), outcome, Instant::now());
            names
        })?
    }

    /// Lists what cannot be read in the share, as far as this node has come across it.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let report = |path: RelPath, problem: String, since: Instant| Unreadable {
            path: path.to_string(),
            problem,
            seconds: since.elapsed().as_secs(),
        };
        let stuck = self.anchor.stuck().into_iter();
        let stuck = stuck.map(|(at, since)| {
            let problem = Complaint::Failed(STUCK).to_string();
            report(at, problem, since)
        });
        let complaints = self.unreadable.complaints().into_iter();
        let complaints = complaints.map(|(at, why, since)| report(at, why.to_string(), since));
        stuck.chain(complaints).collect()
    }

    /// Frees the memory of names that nobody has requested lately.
    fn forget_unused(&self) {
        self.index.lock().expire(Instant::now());
    }

    /// Returns the names of the directory at a path without links; an error if it contains
    /// one by now.
    fn real_names(&self, tree: &Arc<ShareTree>, path: &RelPath) -> Result<Arc<NameList>, Errno> {
        let directory = tree.find(path)?;
        if directory.real() != path || directory.state.kind() != Some(Kind::Directory) {
            return Err(Errno::NOTDIR);
        }
        self.names(tree, &directory)
    }
}

/// Opens a regular file. If the file is being replaced at that very moment, it is looked up again,
/// so that it never seems absent.
fn file_in(tree: &Arc<ShareTree>, path: &RelPath) -> Result<SharedFile, Fault> {
    for _ in 0..OPEN_TRIES {
        let found = tree.find(path).map_err(fault)?;
        if found.state.kind() != Some(Kind::File) {
            return Err(Fault::new(FaultCode::NotFound, "a directory, not a file"));
        }
        match tree.open(&found) {
            Ok((file, state)) => {
                return SharedFile::new(file, state, tree.way(&found))
                    .ok_or_else(|| fault(Errno::NOENT));
            }
            Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(unreadable(error)),
            Err(error) if is_absence(error) => {}
            Err(error) => return Err(internal(error)),
        }
    }
    Err(fault(Errno::NOENT))
}

/// Returns the names of a directory: cached ones while it is unchanged, else read now.
fn names_in(
    index: &Mutex<NameIndex>,
    tree: &ShareTree,
    directory: &PinnedNode,
) -> Result<Arc<NameList>, Errno> {
    let looked = UnixTime::now();
    let state = directory.present_state()?;
    let (real, version) = (directory.real(), state.version());
    if let Some(names) = index.lock().get(real, version, Instant::now()) {
        return Ok(names);
    }
    let names = Arc::new(tree.names(directory)?);
    if state.has_rested(SETTLED, looked) {
        index.lock().put(real, version, &names, Instant::now());
    }
    Ok(names)
}

/// Counts the names of a directory whose paths are too long.
fn too_long(directory: &RelPath, names: &NameList) -> usize {
    let room = MAX_PATH_BYTES.saturating_sub(directory.as_bytes().len() + 1);
    if room >= MAX_NAME_BYTES {
        return 0;
    }
    let names = (0..names.len()).map(|number| names.get(number).0.len());
    names.filter(|length| *length > room).count()
}
