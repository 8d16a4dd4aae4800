//! Where the share is: whatever its path leads to now.
//!
//! Every request looks up the path again, and what it leads to stays open for that request only. So
//! a directory that was moved away, replaced or deleted is no longer served, one that comes back
//! is, and an unmount never has to wait for this program. Within one request, everything is opened
//! below the directory that was found at its beginning.
//!
//! A directory is recognized by its device, inode, mount and birth time. If it is not the one found
//! by the last lookup, the rules for what is served are computed again for its real location, and
//! it gets the next generation: all watches start over.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::ShareTree;
use super::aside::{Aside, Crossing, PATIENCE, STUCK, Spot};
use super::beneath::{Beneath, open_top, open_top_now};
use super::mountinfo::{Answerer, Device, MountTable};
use super::policy::Policy;
use super::stat::FileState;
use crate::config::ShareConfig;
use crate::model::RelPath;
use crate::share::errnos::is_exhaustion;

/// The way to the shared directory.
#[derive(Debug)]
pub(crate) struct Anchor {
    /// Absolute, as the user gave it. Symbolic links in it are followed at every lookup.
    directory: PathBuf,
    hidden: bool,
    /// Absolute, without symbolic links.
    excluded: Vec<PathBuf>,
    mounts: Arc<MountTable>,
    aside: Arc<Aside>,
    /// This lock is never held while waiting for a disk.
    known: Mutex<LastLook>,
}

/// What the path led to at the last lookup.
#[derive(Debug)]
struct LastLook {
    place: Result<DirectoryIdentity, Errno>,
    /// Why nothing of it is served.
    problem: Option<Problem>,
    policy: Arc<Policy>,
    /// Set if its file system may stop responding.
    crossing: Option<Crossing>,
    generation: u64,
}

/// What applies to a directory that the path leads to.
struct Examined {
    problem: Option<Problem>,
    /// What it serves, and how its file system is accessed; `None` if there is no directory.
    rules: Option<(Arc<Policy>, Option<Crossing>)>,
}

impl Examined {
    fn absent(errno: Errno) -> Self {
        Self {
            problem: Some(Problem::Unopened(errno)),
            rules: None,
        }
    }
}

impl LastLook {
    /// Returns true if the path was looked up before and led to `place`.
    fn is_at(&self, place: Result<DirectoryIdentity, Errno>) -> bool {
        self.generation > 0 && self.place == place
    }

    /// Records that the path leads to `place`, and logs it if that is a change.
    fn change(
        &mut self,
        place: Result<DirectoryIdentity, Errno>,
        examined: Examined,
        share: &Path,
    ) {
        if self.is_at(place) {
            return;
        }
        let share = share.display();
        let is_first = self.generation == 0;
        match (&self.problem, &examined.problem) {
            _ if is_first => {}
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                tracing::warn!("nothing of {share} is shared for now: {problem}");
            }
            (Some(_), None) => tracing::info!("{share} is there again and is shared"),
            (None, None) => {
                tracing::info!("{share} is another directory by now, which is shared");
            }
            _ => {}
        }
        if let Some((policy, crossing)) = examined.rules {
            (self.policy, self.crossing) = (policy, crossing);
        }
        self.generation += 1;
        self.place = place;
        self.problem = examined.problem;
    }
}

/// Distinguishes a directory from another one that lies at the same path later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DirectoryIdentity {
    device: Device,
    inode: u64,
    mount: u64,
    born: (i64, u32),
}

/// The result of one lookup of the path.
pub(crate) struct Look {
    /// The tree there; [`Errno::NOENT`] if nothing can be served.
    pub(crate) tree: Result<Arc<ShareTree>, Errno>,
    /// Changes whenever the directory, or its absence, differs from the previous lookup.
    pub(crate) generation: u64,
    /// The rules for what it serves.
    pub(crate) policy: Arc<Policy>,
}

/// Why nothing is served at the path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    /// It cannot be opened.
    Unopened(Errno),
    /// It lies in a mount of this program.
    OwnMount,
    /// It lies in a directory that this node never serves.
    Private(PathBuf),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unopened(Errno::NOENT) => f.write_str("it is not there"),
            Self::Unopened(Errno::NOTDIR) => f.write_str("it is not a directory"),
            Self::Unopened(Errno::ACCESS) => f.write_str("this user may not enter it"),
            Self::Unopened(STUCK) => f.write_str("its file system does not answer"),
            Self::Unopened(other) => io::Error::from(*other).fmt(f),
            Self::OwnMount => f.write_str("it lies in a TinyP2P mount"),
            Self::Private(path) => {
                let path = path.display();
                write!(f, "it lies in {path}, which this node keeps to itself")
            }
        }
    }
}

impl Anchor {
    /// Looks up the directory for the first time.
    ///
    /// # Errors
    /// There is no directory, or nothing of it may be served; or the kernel, or the sandbox around
    /// this process, has no `openat2`.
    pub(crate) fn new(config: &ShareConfig) -> io::Result<Self> {
        let directory = std::path::absolute(&config.directory)?;
        Beneath::new(open_top(&directory)?).check()?;
        let anchor = Self {
            directory,
            hidden: config.hidden,
            excluded: config.excluded.clone(),
            mounts: Arc::new(MountTable::open()),
            aside: Arc::default(),
            known: Mutex::new(LastLook {
                place: Err(Errno::NOENT),
                problem: None,
                policy: Arc::default(),
                crossing: None,
                generation: 0,
            }),
        };
        let look = anchor.look();
        match (anchor.problem(), look.tree) {
            (Some(Problem::Unopened(errno)), _) | (None, Err(errno)) => Err(errno.into()),
            (Some(problem), _) => Err(io::Error::other(problem.to_string())),
            (None, Ok(_)) => Ok(anchor),
        }
    }

    /// Looks up what is at the path now, for one request. Waits for the disk.
    pub(crate) fn look(&self) -> Look {
        let top = self.open().and_then(|top| {
            let (state, identity) = identify(&top)?;
            Ok((top, state, identity))
        });
        let found = match &top {
            Ok((_, _, identity)) => Ok(*identity),
            Err(error) => Err(*error),
        };
        let known = self.known_with(found, top.as_ref().ok().map(|(top, ..)| top));
        let tree = match top {
            // This error says nothing about the share.
            Err(error) if is_exhaustion(error) => Err(error),
            Err(error) => Err(absence_of(error)),
            Ok(_) if known.problem.is_some() => Err(Errno::NOENT),
            Ok((top, state, _)) => Ok(Arc::new(self.tree(top, state, &known))),
        };
        Look {
            tree,
            generation: known.generation,
            policy: Arc::clone(&known.policy),
        }
    }

    /// Pins what is at the path. If the kernel has the whole way in memory, this returns at once;
    /// else the lookup may depend on a file system that does not answer.
    fn open(&self) -> Result<OwnedFd, Errno> {
        open_top_now(&self.directory).or_else(|_| {
            let way = Crossing {
                spot: Spot::Top,
                at: RelPath::root(),
            };
            let directory = self.directory.clone();
            self.aside
                .run(&way, PATIENCE, move || open_top(&directory))?
        })
    }

    /// Looks up the tree if that needs no waiting: the path leads to the same directory as at the
    /// last lookup, and the whole way is in memory.
    pub(crate) fn look_now(&self) -> Option<ShareTree> {
        let top = open_top_now(&self.directory).ok()?;
        let (state, identity) = identify(&top).ok()?;
        let known = self.known.lock();
        let is_known = known.place == Ok(identity) && known.problem.is_none();
        is_known.then(|| self.tree(top, state, &known))
    }

    /// Returns the generation of the last lookup; see [`Look::generation`].
    pub(crate) fn generation(&self) -> u64 {
        self.known.lock().generation
    }

    /// Returns where in the share something does not respond, and since when.
    pub(crate) fn stuck(&self) -> Vec<(RelPath, Instant)> {
        self.aside.stuck()
    }

    /// Returns why nothing was served at the last lookup.
    pub(crate) fn problem(&self) -> Option<Problem> {
        self.known.lock().problem.clone()
    }

    fn tree(&self, top: OwnedFd, state: FileState, known: &LastLook) -> ShareTree {
        let policy = Arc::clone(&known.policy);
        let shared = (Arc::clone(&self.mounts), Arc::clone(&self.aside));
        let crossing = known.crossing.clone();
        let top = Beneath::new(top);
        ShareTree::new(top, policy, shared, state, (crossing, known.generation))
    }

    /// Returns what is known of the share, now that the path leads to `found`, which is
    /// pinned by `top`.
    fn known_with(
        &self,
        found: Result<DirectoryIdentity, Errno>,
        top: Option<&OwnedFd>,
    ) -> MutexGuard<'_, LastLook> {
        let mut examined = None;
        loop {
            let mut known = self.known.lock();
            if let Some(examined) = examined {
                known.change(found, examined, &self.directory);
            }
            let says_nothing = found.is_err_and(is_exhaustion);
            if says_nothing || known.is_at(found) {
                return known;
            }
            drop(known);
            examined = Some(match (found, top) {
                (Ok(identity), Some(top)) => self.examine(top, identity),
                (Err(errno), _) => Examined::absent(errno),
                (Ok(_), None) => Examined::absent(Errno::NOENT),
            });
        }
    }

    /// Finds out what applies to a directory. May wait for the kernel, so no lock is held.
    fn examine(&self, top: &OwnedFd, identity: DirectoryIdentity) -> Examined {
        let real = real_path(top, &self.directory);
        let device = identity.device;
        // If the answerer cannot be determined now, do not trust the file system.
        let answerer = self
            .mounts
            .answerer(device)
            .unwrap_or(Some(Answerer::Other));
        let crossing = (answerer == Some(Answerer::Other)).then(|| Crossing {
            spot: Spot::Device(device),
            at: RelPath::root(),
        });
        Examined {
            problem: self.judge(answerer, &real),
            rules: Some((
                Arc::new(Policy::new(self.hidden, below(&real, &self.excluded))),
                crossing,
            )),
        }
    }

    fn judge(&self, answerer: Option<Answerer>, real: &Path) -> Option<Problem> {
        if answerer == Some(Answerer::Ourselves) {
            return Some(Problem::OwnMount);
        }
        let around = self.excluded.iter().find(|out| real.starts_with(out));
        around.map(|out| Problem::Private(out.clone()))
    }
}

/// Maps `error` to the error that a request gets: as if nothing were there, unless
/// something there failed.
fn absence_of(error: Errno) -> Errno {
    match error {
        Errno::IO | STUCK => error,
        _ => Errno::NOENT,
    }
}

/// Returns the identity of a pinned directory, as far as this machine knows it without querying
/// the file system.
fn identify(top: &OwnedFd) -> Result<(FileState, DirectoryIdentity), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let stat = statx(top, "", flags, wanted)?;
    let identity = DirectoryIdentity {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        // Always zero if the file system or the kernel does not report it.
        mount: stat.stx_mnt_id,
        born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
    };
    Ok((FileState::from(stat), identity))
}

/// Returns where a pinned directory really lies.
fn real_path(top: &OwnedFd, directory: &Path) -> PathBuf {
    let link = format!("/proc/self/fd/{}", top.as_raw_fd());
    let real = std::fs::read_link(link).or_else(|_| directory.canonicalize());
    real.unwrap_or_else(|_| directory.to_owned())
}

/// Returns those of `paths` that lie below `directory`, relative to it.
fn below(directory: &Path, paths: &[PathBuf]) -> Vec<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    let below = paths
        .iter()
        .filter_map(|path| path.strip_prefix(directory).ok());
    let below = below.filter_map(|path| {
        let path = RelPath::new(path.as_os_str().as_bytes()).ok()?;
        (!path.is_root()).then_some(path)
    });
    below.collect()
}
