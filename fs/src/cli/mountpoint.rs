//! The mountpoint: checked without side effects as early as possible, claimed as late as possible.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Uid;

use super::CommandFailure;
use crate::mount::{
    self,
    table::{MountEntry, MountList},
};

/// We do not clear a mount that takes longer than this to answer: it may be frozen.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// Dead mounts of several killed processes can be stacked; more than this is no accident.
const MAX_STALE: usize = 8;

/// A directory that can be mounted on.
#[derive(Debug)]
pub(super) struct Mountpoint {
    path: PathBuf,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// An empty directory.
    Ready,
    /// The directory is missing; its parent is ours.
    Missing,
    /// A mount of ours whose process has died.
    Stale,
}

impl Mountpoint {
    /// Checks `path` and changes nothing.
    pub(super) fn check(path: &Path) -> Result<Self, CommandFailure> {
        let failed =
            |why: String| CommandFailure::failed(format!("mountpoint {}: {why}", path.display()));
        let path = resolve(path).map_err(failed)?;
        let state = state(&path).map_err(failed)?;
        Ok(Self { path, state })
    }

    /// Returns the path, absolute and without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Prepares the directory: clears our dead mounts, and creates it if it is missing.
    pub(super) fn claim(mut self) -> Result<ClaimedMountpoint, CommandFailure> {
        let failed = |path: &Path, why: String| {
            CommandFailure::failed(format!("mountpoint {}: {why}", path.display()))
        };
        for _ in 0..MAX_STALE {
            if self.state != State::Stale {
                break;
            }
            mount::detach(&self.path)
                .map_err(|e| failed(&self.path, format!("a dead mount cannot be cleared: {e}")))?;
            tracing::info!(path = %self.path.display(), "cleared a mount whose process had died");
            self.state = state(&self.path).map_err(|why| failed(&self.path, why))?;
        }
        let created = self.state == State::Missing;
        if created {
            std::fs::create_dir(&self.path)
                .map_err(|e| failed(&self.path, format!("cannot be created: {e}")))?;
        }
        Ok(ClaimedMountpoint {
            path: self.path,
            created,
        })
    }
}

/// A mountpoint in use. Dropping it removes the directory if we made it.
#[derive(Debug)]
pub(super) struct ClaimedMountpoint {
    path: PathBuf,
    created: bool,
}

impl ClaimedMountpoint {
    /// Returns the path, absolute and without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ClaimedMountpoint {
    fn drop(&mut self) {
        if self.created
            && let Err(error) = std::fs::remove_dir(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "the mountpoint stays");
        }
    }
}

/// Returns the absolute path without symbolic links; the last component need not exist.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, String> {
    match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTCONN)) => {}
        Err(e) => return Err(e.to_string()),
    }
    let name = path.file_name().ok_or("does not exist")?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = parent
        .canonicalize()
        .map_err(|e| format!("its directory {} cannot be used: {e}", parent.display()))?;
    Ok(parent.join(name))
}

fn state(path: &Path) -> Result<State, String> {
    let table = MountList::read().map_err(|e| format!("cannot read the mount table: {e}"))?;
    // An automount point is there to be mounted on.
    if let Some(entry) = table.at(path).filter(|entry| entry.kind != "autofs") {
        if !entry.is_ours() {
            return Err(format!("something else ({}) is mounted there", entry.kind));
        }
        if !is_dead(path) {
            return Err(format!(
                "a network is mounted there already; 'tinyp2p unmount {}' unmounts it",
                path.display()
            ));
        }
        return if may_clear(entry, rustix::process::getuid()) {
            Ok(State::Stale)
        } else {
            Err("a dead mount of another user is there; root can unmount it".to_owned())
        };
    }
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => Err("is not a directory".to_owned()),
        Ok(_) => directory_state(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => missing_state(path),
        Err(e) => Err(e.to_string()),
    }
}

/// Returns true if `user` may remove a dead mount.
fn may_clear(entry: &MountEntry, user: Uid) -> bool {
    user.is_root() || entry.owner() == Some(user.as_raw())
}

fn directory_state(path: &Path) -> Result<State, String> {
    let mut entries = path.read_dir().map_err(|e| e.to_string())?;
    match entries.next() {
        None => Ok(State::Ready),
        Some(_) => Err("is not empty; mount on an empty directory".to_owned()),
    }
}

fn missing_state(path: &Path) -> Result<State, String> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let metadata = parent.metadata().map_err(|e| e.to_string())?;
    if metadata.uid() == rustix::process::geteuid().as_raw() {
        Ok(State::Missing)
    } else {
        Err("does not exist, and its parent belongs to another user; create it first".to_owned())
    }
}

/// Returns true when the mount at `path` has lost its process.
fn is_dead(path: &Path) -> bool {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    // Runs on its own thread: the process behind a live mount may be frozen.
    thread::spawn(move || sender.send(path.metadata().map(drop)));
    match receiver.recv_timeout(PROBE_DEADLINE) {
        Ok(Err(e)) => e.raw_os_error() == Some(libc::ENOTCONN),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        Mountpoint::check(path).unwrap_err().message
    }

    #[test]
    fn an_empty_directory_will_do_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mountpoint = Mountpoint::check(directory.path()).unwrap();
        assert_eq!(mountpoint.state, State::Ready);
        drop(mountpoint.claim().unwrap());
        assert!(directory.path().exists());
    }

    #[test]
    fn missing_mountpoint_is_made_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let mountpoint = Mountpoint::check(&path).unwrap();
        assert!(!path.exists(), "checking changes nothing");
        let claim = mountpoint.claim().unwrap();
        assert!(path.is_dir());
        drop(claim);
        assert!(!path.exists());
    }

    #[test]
    fn mountpoint_refusal_names_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(refusal(&file).contains("not a directory"));
        assert!(refusal(directory.path()).contains("not empty"));
        assert!(refusal(&directory.path().join("no/where")).contains("cannot be used"));
        assert!(refusal(Path::new("/proc")).contains("(proc) is mounted there"));
        let link = directory.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(refusal(&link).contains("not a directory"));
    }

    #[test]
    fn dead_mount_is_cleared_by_owner_or_root() {
        let entry = |options: &str| MountEntry {
            id: 40,
            parent: 21,
            device: (0, 35),
            mountpoint: "/mnt/p2p".into(),
            kind: crate::mount::table::OUR_MOUNT_TYPE.to_owned(),
            options: options.to_owned(),
        };
        let of_ann = entry("ro,user_id=1000,group_id=1000");
        let may_clear =
            |entry: &MountEntry, uid| crate::cli::mountpoint::may_clear(entry, Uid::from_raw(uid));
        assert!(may_clear(&of_ann, 1000) && may_clear(&of_ann, 0));
        assert!(!may_clear(&of_ann, 1001));
        assert!(!may_clear(&entry("ro"), 1000), "nobody's in particular");
    }

    #[test]
    fn foreign_directory_gets_no_mountpoint() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
        assert!(refusal(&path).contains("belongs to another user"));
        std::os::unix::fs::chown(directory.path(), Some(0), None).unwrap();
        assert_eq!(Mountpoint::check(&path).unwrap().state, State::Missing);
    }

    #[test]
    fn mountpoint_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().canonicalize().unwrap().join("target");
        std::fs::create_dir(&target).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(Mountpoint::check(&link).unwrap().path(), target);
    }
}
