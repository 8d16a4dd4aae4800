//! The directories of the share that cannot be read, reported to the person who shares them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::aside::STUCK;
use crate::model::{MAX_PATH_BYTES, RelPath};
use crate::share::errnos::is_exhaustion;

/// Limit on remembered directories. Any beyond it are not named.
const MAX_DIRECTORIES: usize = 64;

/// The unreadable directories that were found, by their real paths.
#[derive(Debug, Default)]
pub(crate) struct UnreadableDirectories(Mutex<BTreeMap<RelPath, (Complaint, Instant)>>);

/// What is wrong with a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Complaint {
    /// It cannot be read.
    Failed(Errno),
    /// This many names in it have paths that are too long for any request.
    TooLong(usize),
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(Errno::ACCESS | Errno::PERM) => {
                f.write_str("this user may not read it: its files are not shared")
            }
            Self::Failed(STUCK) => f.write_str(
                "its file system does not answer: its files are not shared until it does",
            ),
            Self::Failed(error) => {
                let error = std::io::Error::from(*error);
                write!(f, "it cannot be read ({error}): its files are not shared")
            }
            Self::TooLong(count) => write!(
                f,
                "{count} of its names make paths of more than {} bytes and are not shared",
                MAX_PATH_BYTES
            ),
        }
    }
}

impl UnreadableDirectories {
    /// Records the outcome of reading the directory at `path`.
    pub(crate) fn note(&self, path: &RelPath, outcome: Result<usize, Errno>, now: Instant) {
        let complaint = match outcome {
            Ok(0) | Err(Errno::NOENT | Errno::NOTDIR) => None,
            Ok(count) => Some(Complaint::TooLong(count)),
            // Not the directory's fault, or reported separately for everything on that file system.
            Err(error) if is_exhaustion(error) || error == STUCK => return,
            Err(error) => Some(Complaint::Failed(error)),
        };
        let mut directories = self.0.lock();
        match complaint {
            None => {
                directories.remove(path);
            }
            Some(complaint) => {
                let known = directories.get(path).map(|(known, _)| *known);
                if known != Some(complaint)
                    && (known.is_some() || directories.len() < MAX_DIRECTORIES)
                {
                    tracing::warn!("{path} in the share: {complaint}");
                    directories.insert(path.clone(), (complaint, now));
                }
            }
        }
    }

    /// Returns the paths of all of them.
    pub(crate) fn paths(&self) -> Vec<RelPath> {
        self.0.lock().keys().cloned().collect()
    }

    /// Returns what is wrong with each, and since when that is known.
    pub(crate) fn complaints(&self) -> Vec<(RelPath, Complaint, Instant)> {
        let directories = self.0.lock();
        let complaints = directories.iter();
        let complaints =
            complaints.map(|(path, (complaint, since))| (path.clone(), *complaint, *since));
        complaints.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_directories_are_bounded() {
        let (directories, now) = (UnreadableDirectories::default(), Instant::now());
        let path = |number: usize| RelPath::new(number.to_string().as_bytes()).unwrap();
        directories.note(&path(0), Err(Errno::MFILE), now);
        directories.note(&path(0), Err(Errno::NOENT), now);
        assert!(directories.paths().is_empty());
        for number in 0..=MAX_DIRECTORIES {
            directories.note(&path(number), Err(Errno::ACCESS), now);
        }
        assert_eq!(directories.paths().len(), MAX_DIRECTORIES);
        directories.note(&path(0), Ok(3), now);
        let complaints = directories.complaints();
        let (_, complaint, _) = complaints.iter().find(|(at, ..)| *at == path(0)).unwrap();
        assert_eq!(*complaint, Complaint::TooLong(3));
        for number in 0..=MAX_DIRECTORIES {
            directories.note(&path(number), Ok(0), now);
        }
        assert!(directories.paths().is_empty());
    }
}
