//! The database file, which may be damaged in any way.
//!
//! A damaged page can make the embedded database return an error or panic, but not hang, because
//! its walks down a tree are bounded. Errors and panics are both contained here: the damaged file
//! is removed and replaced by a new one, because its content can be recomputed. A result without an
//! error is no proof either, so the reader checks every row ([`super::rows`]).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::{Database, ReadTransaction, ReadableDatabase, TableHandle, WriteTransaction};

use super::rows;

/// Memory for the page cache of the database.
const PAGE_CACHE: usize = 8 << 20;

/// A database larger than this is recreated: it is mostly about files that no longer exist. A
/// terabyte of content takes 2 GiB of leaves.
const MAX_FILE: u64 = 8 << 30;

/// A database that is replaced as soon as it turns out to be damaged.
pub(super) struct Rebuildable {
    /// Where it lies; `None` if everything is kept in memory.
    path: Option<PathBuf>,
    current: Mutex<Arc<OpenDatabase>>,
    /// How often it has been recreated.
    incarnation: AtomicU64,
}

/// One opened file.
struct OpenDatabase {
    /// `None` only while it is dropped.
    database: Option<Database>,
    /// Held by the writer. A panic may leave the database's own writer lock held for good, so later
    /// writers must not get that far.
    writing: Mutex<Soundness>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Soundness {
    Sound,
    Damaged,
}

/// Why a transaction failed.
enum TransactionError {
    /// The file is not what was written.
    Damage(String),
    /// Any other failure, for example a full disk.
    Other(redb::Error),
}

impl Rebuildable {
    /// Opens or creates the file at `path`. A file that is damaged, of another format, too large or
    /// not a database at all is replaced.
    ///
    /// # Errors
    /// Another process has it open, or it cannot be written.
    pub(super) fn open(path: &Path) -> Result<Self, redb::Error> {
        Self::open_within(path, MAX_FILE)
    }

    fn open_within(path: &Path, max_bytes: u64) -> Result<Self, redb::Error> {
        create_parent(path)?;
        if fs::metadata(path).is_ok_and(|found| found.len() > max_bytes) {
            fs::remove_file(path)?;
        }
        let opened = match OpenDatabase::open(path) {
            Err(TransactionError::Damage(why)) => {
                tracing::warn!(%why, "the database of content roots is begun afresh");
                fs::remove_file(path)?;
                OpenDatabase::open(path)
            }
            other => other,
        };
        Ok(Self {
            path: Some(path.to_owned()),
            current: Mutex::new(Arc::new(opened.map_err(TransactionError::into_error)?)),
            incarnation: AtomicU64::new(0),
        })
    }

    /// Creates a database that lasts as long as this process.
    pub(super) fn in_memory() -> Result<Self, redb::Error> {
        let opened = OpenDatabase::in_memory().map_err(TransactionError::into_error)?;
        Ok(Self {
            path: None,
            current: Mutex::new(Arc::new(opened)),
            incarnation: AtomicU64::new(0),
        })
    }

    /// Returns a number that changes when the database is recreated: nothing found before is in
    /// it any longer.
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Returns what `work` reads from the database.
    ///
    /// # Errors
    /// The disk failed, or the database turned out to be damaged; then an empty one replaces it.
    pub(super) fn read<R>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<R, redb::Error>,
    ) -> Result<R, redb::Error> {
        let opened = Arc::clone(&self.current.lock());
        let outcome = contained(|| work(&opened.database()?.begin_read()?));
        self.settle(&opened, outcome)
    }

    /// Runs `work`, and returns once its changes would survive a crash.
    ///
    /// # Errors
    /// As [`Rebuildable::read`].
    pub(super) fn write<R>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, redb::Error>,
    ) -> Result<R, redb::Error> {
        let opened = Arc::clone(&self.current.lock());
        let outcome = opened.commit(work);
        self.settle(&opened, outcome)
    }

    /// Replaces the database `used` if the outcome calls for it.
    fn settle<R>(
        &self,
        used: &Arc<OpenDatabase>,
        outcome: Result<R, TransactionError>,
    ) -> Result<R, redb::Error> {
        if let Err(TransactionError::Damage(why)) = &outcome {
            self.begin_afresh(used, why);
        }
        outcome.map_err(TransactionError::into_error)
    }

    fn begin_afresh(&self, damaged: &Arc<OpenDatabase>, why: &str) {
        let mut current = self.current.lock();
        // Another thread may have found the same damage.
        if !Arc::ptr_eq(&current, damaged) {
            return;
        }
        tracing::warn!(%why, "the database of content roots is damaged; it is begun afresh");
        let anew = self.path.as_ref().map(|path| {
            fs::remove_file(path)?;
            OpenDatabase::open(path).map_err(TransactionError::into_error)
        });
        let opened = match anew {
            Some(Ok(opened)) => Ok(opened),
            Some(Err(error)) => {
                tracing::warn!(%error, "content roots are not remembered across restarts");
                OpenDatabase::in_memory()
            }
            None => OpenDatabase::in_memory(),
        };
        match opened {
            Ok(opened) => {
                *current = Arc::new(opened);
                self.incarnation.fetch_add(1, Ordering::Release);
            }
            // The damaged one stays, and every use of it is an error.
            Err(trouble) => {
                let error = trouble.into_error();
                tracing::error!(%error, "content roots cannot be remembered at all");
            }
        }
    }
}

impl OpenDatabase {
    fn open(path: &Path) -> Result<Self, TransactionError> {
        let opened = Self::with_tables(|| Ok(builder().create(path)?))?;
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, private).map_err(|error| TransactionError::of(error.into()))?;
        Ok(opened)
    }

    fn in_memory() -> Result<Self, TransactionError> {
        let memory = redb::backends::InMemoryBackend::new();
        Self::with_tables(|| Ok(builder().create_with_backend(memory)?))
    }

    /// Opens a database and ensures that it has the tables of this version, and no others.
    fn with_tables(
        open: impl FnOnce() -> Result<Database, redb::Error>,
    ) -> Result<Self, TransactionError> {
        let opened = Self {
            database: Some(contained(open)?),
            writing: Mutex::new(Soundness::Sound),
        };
        let are_ours = opened.commit(|write| {
            let others = write
                .list_tables()?
                .filter(|table| !rows::is_table(table.name()))
                .count();
            rows::create_tables(write)?;
            Ok(others == 0)
        })?;
        if !are_ours {
            return Err(TransactionError::Damage("it is of another version".into()));
        }
        Ok(opened)
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    fn commit<R>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, redb::Error>,
    ) -> Result<R, TransactionError> {
        let mut soundness = self.writing.lock();
        if *soundness == Soundness::Damaged {
            return Err(TransactionError::Damage("it has failed before".into()));
        }
        let outcome = contained(|| {
            let write = self.database()?.begin_write()?;
            let found = work(&write)?;
            write.commit()?;
            Ok(found)
        });
        if let Err(TransactionError::Damage(_)) = &outcome {
            *soundness = Soundness::Damaged;
        }
        outcome
    }
}

impl Drop for OpenDatabase {
    /// Closing a damaged database may fail like anything else.
    fn drop(&mut self) {
        let database = self.database.take();
        let _ = contained(|| {
            drop(database);
            Ok(())
        });
    }
}

/// Returns the result of `work`. A panic of the embedded database counts as damage.
fn contained<R>(work: impl FnOnce() -> Result<R, redb::Error>) -> Result<R, TransactionError> {
    // Nothing left unfinished by a panic is used again: the database is replaced.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(TransactionError::of),
        Err(_) => Err(TransactionError::Damage("reading it fails".into())),
    }
}

impl TransactionError {
    fn of(error: redb::Error) -> Self {
        use redb::Error as E;
        let is_damage = match &error {
            E::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ),
            // Another process has it open, or the disk has failed or is full: the database itself
            // may be intact.
            E::DatabaseAlreadyOpen
            | E::LockProtocolMismatch
            | E::PreviousIo
            | E::DatabaseClosed
            | E::Backend(_)
            | E::Unsupported => false,
            _ => true,
        };
        if is_damage {
            Self::Damage(error.to_string())
        } else {
            Self::Other(error)
        }
    }

    fn into_error(self) -> redb::Error {
        match self {
            Self::Damage(why) => redb::Error::Corrupted(why),
            Self::Other(error) => error,
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(PAGE_CACHE);
    builder
}

fn create_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use redb::TableDefinition;

    use super::*;

    const TABLE: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("places");

    #[test]
    fn oversized_database_is_recreated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots");
        let database = Rebuildable::open(&path).unwrap();
        let fill = |write: &WriteTransaction| {
            write.open_table(TABLE)?.insert([7; 32], &b"path"[..])?;
            Ok(())
        };
        database.write(fill).unwrap();
        drop(database);
        let is_kept = |max_bytes| {
            let database = Rebuildable::open_within(&path, max_bytes).unwrap();
            let row = database.read(|read| Ok(read.open_table(TABLE)?.get([7; 32])?.is_some()));
            row.unwrap()
        };
        // Closing it may change its size.
        let size = || fs::metadata(&path).unwrap().len();
        assert!(is_kept(size()));
        assert!(!is_kept(size() - 1));
    }
}
