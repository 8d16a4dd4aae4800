//! Counts and times of guesses, kept in the state directory so that they outlive the process.
//!
//! The record is one small file of fixed length, `guesses`, overwritten in place under a lock. It
//! holds numbers, times and digests of addresses, and nothing that depends on the password: a thief
//! of the disk gets nothing to test guesses against. The lock is held for a read, a decision and a
//! write of one kilobyte, never over the network.
//!
//! No fault of the file makes a run fail or wait for long, or grants unlimited guesses. A damaged
//! record is replaced by one in which much of the budget is spent. While no file can be used, this
//! process has a small budget of its own.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::Guesses;
use super::known_keys::{self, RememberedKeys};
use super::stamps::{self, Clocks, LENGTH};
use crate::content::read_full::read_full;
use crate::model::PeerId;

const FILE_NAME: &str = "guesses";
const KNOWN_KEYS: &str = "known-keys";

/// How long to wait for the lock. Others hold it for microseconds; a process that holds it for
/// longer than this was stopped in the middle.
const PATIENCE: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_millis(2);

/// The record of one state directory, or of one process if it has none. Clones share it.
#[derive(Debug, Clone)]
pub struct GuessRecord(Arc<GuessRecordState>);

#[derive(Debug)]
struct GuessRecordState {
    /// The directory, opened once; without it, nothing is recorded.
    directory: Option<OwnedFd>,
    path: PathBuf,
    /// The record in use while the file is unusable.
    own: Mutex<Guesses>,
    /// True when the last use of the file failed, which has been logged.
    is_broken: AtomicBool,
}

impl GuessRecord {
    /// Opens the record of `state_dir`, which must be the user's own; loading the identity
    /// has checked that.
    pub fn open(state_dir: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(state_dir, flags, Mode::empty());
        Self(Arc::new(GuessRecordState {
            directory: directory.ok(),
            path: state_dir.join(FILE_NAME),
            own: Mutex::new(Guesses::unrecorded(Instant::now())),
            is_broken: AtomicBool::new(false),
        }))
    }

    /// Creates a record that ends with the process, with the full budget. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_memory() -> Self {
        Self(Arc::new(GuessRecordState {
            directory: None,
            path: PathBuf::new(),
            own: Mutex::default(),
            is_broken: AtomicBool::new(true),
        }))
    }

    /// Lets `change` decide on the record, and stores the result. Takes microseconds; in the worst
    /// case a quarter of a second plus what the filesystem needs.
    pub fn update<T>(&self, change: impl FnOnce(&mut Guesses, Instant) -> T) -> T {
        match self.0.locked(FILE_NAME) {
            Ok(file) => self.0.update_file(&file, change),
            Err(why) => {
                self.0.complain(&why);
                change(&mut self.0.own.lock(), Instant::now())
            }
        }
    }
}

impl GuessRecord {
    /// Returns the keys that recently proved the password; none when no file can be used.
    pub fn known_keys(&self) -> RememberedKeys {
        let known = |file: &File| Ok(read_known(file)?.0);
        let known = self.0.locked(KNOWN_KEYS).and_then(|file| known(&file));
        known.unwrap_or_else(|why| {
            tracing::debug!("{KNOWN_KEYS}: {why}");
            RememberedKeys::default()
        })
    }

    /// Records that `peer` has just proved the password. If this fails, a member may have to wait
    /// after a restart, and only while strangers guess.
    pub fn note_known(&self, peer: PeerId) {
        let noted = self.0.locked(KNOWN_KEYS).and_then(|file| {
            let (mut known, clocks) = read_known(&file)?;
            known.note(peer, clocks.now);
            let bytes = known.encode(&clocks);
            file.write_all_at(&bytes, 0)?;
            file.set_len(bytes.len() as u64)
        });
        if let Err(why) = noted {
            tracing::debug!("{KNOWN_KEYS}: {why}");
        }
    }
}

fn read_known(file: &File) -> io::Result<(RememberedKeys, Clocks)> {
    let mut bytes = vec![0; known_keys::MAX_LENGTH];
    let length = read_full(0, &mut bytes, |at, part| file.read_at(part, at))?;
    let clocks = Clocks::read();
    let known = RememberedKeys::decode(&bytes[..length], &clocks);
    Ok((known.unwrap_or_default(), clocks))
}

impl GuessRecordState {
    /// Opens one of the files, checks it, and locks it until it is closed.
    fn locked(&self, name: &str) -> io::Result<File> {
        let directory = self.directory.as_ref().ok_or(io::ErrorKind::NotFound)?;
        // Does not follow a link; a FIFO of that name is an error instead of a hang.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file: File = rustix::fs::openat(directory, name, flags, mode)?.into();
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("others can write to it"));
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(RETRY),
                Err(TryLockError::WouldBlock) => return Err(io::Error::other("it stays locked")),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn update_file<T>(&self, file: &File, change: impl FnOnce(&mut Guesses, Instant) -> T) -> T {
        // One extra byte detects a file that is too long.
        let mut bytes = [0; LENGTH + 1];
        let length = read_full(0, &mut bytes, |at, part| file.read_at(part, at));
        let clocks = Clocks::read();
        let mut guesses = match length {
            Ok(0) => Guesses::default(),
            Ok(length) => stamps::decode(&bytes[..length], &clocks).unwrap_or_else(|| {
                let path = self.path.display();
                tracing::warn!("{path}: damaged; wrong guesses are counted anew, from many");
                Guesses::lost(clocks.now)
            }),
            Err(why) => {
                self.complain(&why);
                return change(&mut self.own.lock(), clocks.now);
            }
        };
        let result = change(&mut guesses, clocks.now);
        let record = stamps::encode(&guesses, &clocks);
        match file
            .write_all_at(&record, 0)
            .and_then(|()| file.set_len(LENGTH as u64))
        {
            Ok(()) => self.is_broken.store(false, Ordering::Relaxed),
            // This decision stands, and counts in the record that the next decision uses.
            Err(why) => {
                self.complain(&why);
                let mut own = self.own.lock();
                own.inbound = guesses.inbound;
                own.outbound.failures = guesses.outbound.failures;
            }
        }
        result
    }

    fn complain(&self, why: &io::Error) {
        if !self.is_broken.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: {why}; wrong guesses are not remembered, so hardly any address is tried that \
                 nobody typed",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::{AddressSource, GuessOutcome, Hold, Outbound};
    use super::*;

    fn state() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE_NAME);
        (directory, file)
    }

    /// Makes one guess for a fake whose address was only heard of, in a process of its own.
    fn guess(record: &GuessRecord, address: &str) -> Result<(), Hold> {
        let mut table = Outbound::default();
        let run = record.update(|all, now| {
            table.begin(&mut all.outbound, address, AddressSource::Heard, now)
        })?;
        record.update(|all, now| {
            table.end(&mut all.outbound, run, GuessOutcome::WrongPassword, now);
        });
        Ok(())
    }

    /// Returns how many guesses fakes get, each of `count` in a process of its own.
    fn guesses(state: &Path, count: usize) -> usize {
        let got = (0..count)
            .filter(|number| guess(&GuessRecord::open(state), &format!("fake.{number}:1")).is_ok());
        got.count()
    }

    #[test]
    fn successive_processes_share_a_budget() {
        let (state, file) = state();
        assert_eq!(guesses(state.path(), 50), 20);
        assert_eq!(fs::metadata(&file).unwrap().len(), LENGTH as u64);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn writers_side_by_side_share_a_budget() {
        let (state, _) = state();
        let got: usize = thread::scope(|scope| {
            let writers = (0..8).map(|writer: usize| {
                let record = GuessRecord::open(state.path());
                scope.spawn(move || {
                    let fakes = (0..20).map(|n| format!("fake{writer}.{n}:1"));
                    fakes.filter(|fake| guess(&record, fake).is_ok()).count()
                })
            });
            let writers: Vec<_> = writers.collect();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .sum()
        });
        assert_eq!(got, 20);
    }

    #[test]
    fn strangers_failures_outlive_the_process() {
        let (state, _) = state();
        for _ in 0..5 {
            let record = GuessRecord::open(state.path());
            record.update(|all, now| all.inbound.add(now, now));
        }
        let count = GuessRecord::open(state.path()).update(|all, _| all.inbound.count);
        assert_eq!(count, 5);
    }

    #[test]
    fn damaged_record_yields_a_strict_one() {
        for damage in [&b"x"[..], &[0; LENGTH], &[7; LENGTH * 4]] {
            let (state, file) = state();
            fs::write(&file, damage).unwrap();
            assert_eq!(guesses(state.path(), 50), 10);
            assert_eq!(fs::metadata(&file).unwrap().len(), LENGTH as u64);
            let count = GuessRecord::open(state.path()).update(|all, _| all.inbound.count);
            assert_eq!(count, 3);
        }
    }

    #[test]
    fn unusable_record_file_gives_two_guesses() {
        let spoil: [fn(&Path); 5] = [
            |file| fs::create_dir(file).unwrap(),
            |file| symlink("elsewhere", file).unwrap(),
            |file| {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    file,
                    rustix::fs::FileType::Fifo,
                    Mode::RUSR | Mode::WUSR,
                    0,
                )
                .unwrap();
            },
            |file| {
                fs::write(file, []).unwrap();
                fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
            },
            |file| {
                // Only root can give a file away, and as root any owner will do.
                fs::write(file, []).unwrap();
                if std::os::unix::fs::chown(file, Some(12345), None).is_err() {
                    fs::remove_file(file).unwrap();
                    fs::create_dir(file).unwrap();
                }
            },
        ];
        for spoil in spoil {
            let (state, file) = state();
            spoil(&file);
            let record = GuessRecord::open(state.path());
            let fakes = (0..50).map(|number| format!("fake.{number}:1"));
            let got = fakes.filter(|fake| guess(&record, fake).is_ok()).count();
            assert_eq!(got, 2);
            assert_eq!(record.update(|all, _| all.inbound.count), 3);
            assert!(!state.path().join("elsewhere").exists());
        }
    }

    #[test]
    fn stuck_record_lock_is_not_awaited() {
        let (state, file) = state();
        let record = GuessRecord::open(state.path());
        record.update(|_, _| ());
        let stopped = File::options().write(true).open(&file).unwrap();
        stopped.lock().unwrap();
        let begin = Instant::now();
        assert!(guess(&record, "fake.1:1").is_ok());
        assert!(begin.elapsed() < 8 * PATIENCE);
        drop(stopped);
        assert!(guess(&record, "fake.2:1").is_ok());
        assert_eq!(record.update(|all, _| all.outbound.failures.len()), 1);
    }
}
