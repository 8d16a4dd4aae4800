//! This node's own Ed25519 key, kept in `identity.pkcs8` in the state directory.
//!
//! Other members know this node by its key, so the key outlives a restart. Two processes must not
//! show the same key at the same time, or each would mistake the other for itself. So the file is
//! locked for the life of the [`Identity`], and a second process gets a key that lives in its
//! memory only. The file appears under its name complete and synced, or not at all.

use std::fmt;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::spki::spki;
use crate::error::Error;
use crate::model::PeerId;

/// The option that selects another state directory.
const STATE_OPTION: &str = "--state-dir";

const FILE_NAME: &str = "identity.pkcs8";

/// What the seed of the endpoint's key is told apart by.
const ENDPOINT_LABEL: &[u8] = b"tinyp2p-reach-1";

/// The maximum file size. An Ed25519 key in PKCS#8 takes 48 or 85 bytes; a larger file
/// is something else.
const MAX_FILE_BYTES: u64 = 256;

/// This node's key pair, and the lock that reserves it for this process.
pub struct Identity {
    id: PeerId,
    key: Arc<dyn SigningKey>,
    /// What the key of this node's endpoint is made of.
    endpoint_seed: Zeroizing<[u8; 32]>,
    /// Holds the lock on the file for the life of this value; `None` for a key in memory only.
    _file: Option<File>,
}

impl Identity {
    /// Loads the identity from `state_dir`, or creates one and stores it there. Directory and
    /// file are created for the owner alone; a directory that others can write to, or a file
    /// that others can read, is refused. While another process uses the identity, this one gets
    /// an [`Identity::ephemeral`] one.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, Error> {
        let store = StateDirectory::open(state_dir)?;
        // One round is enough unless another process creates or removes the file in between.
        for _ in 0..3 {
            if let Some(file) = store.existing()? {
                return store.load(file);
            }
            if let Some(identity) = store.create()? {
                return Ok(identity);
            }
        }
        Err(store.refuse("appears and disappears; is something else using this directory?"))
    }

    /// Creates a new identity that lives in memory only.
    pub fn ephemeral() -> Result<Self, Error> {
        Self::from_pkcs8(&generate()?, None)
            .ok_or_else(|| Error::local("identity", "the new key is unusable"))
    }

    /// Returns the public key, by which other members know this node.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns the seed of the key by which relays know this node. It is another one, as strangers
    /// in every local network see the peer id, and whoever knows an endpoint can call it for ever.
    pub fn endpoint_seed(&self) -> &[u8; 32] {
        &self.endpoint_seed
    }

    /// Returns the key as rustls presents it: a bare public key in place of a
    /// certificate (RFC 7250).
    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        let key = CertificateDer::from(spki(self.id).to_vec());
        Arc::new(CertifiedKey::new(vec![key], self.key.clone()))
    }

    /// Reads a key pair; `None` when `pkcs8` is not an Ed25519 key pair, or its halves
    /// do not match.
    fn from_pkcs8(pkcs8: &[u8], file: Option<File>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self {
            id: PeerId::from_bytes(public),
            key: any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).ok()?,
            endpoint_seed: endpoint_seed(&pair)?,
            _file: file,
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.id)
    }
}

fn endpoint_seed(pair: &Ed25519KeyPair) -> Option<Zeroizing<[u8; 32]>> {
    let seed: Curve25519SeedBin<'_> = pair.seed().ok()?.as_be_bytes().ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(seed.as_ref()).ok()?;
    mac.update(ENDPOINT_LABEL);
    Some(Zeroizing::new(mac.finalize().into_bytes().into()))
}

fn generate() -> Result<Zeroizing<Vec<u8>>, Error> {
    Ed25519KeyPair::generate()
        .and_then(|pair| pair.to_pkcs8())
        .map(|document| Zeroizing::new(document.as_ref().to_vec()))
        .map_err(|_| Error::local("identity", "cannot generate a key"))
}

/// The state directory, opened once, so that all access is to the directory that was checked.
struct StateDirectory {
    directory: OwnedFd,
    path: PathBuf,
}

impl StateDirectory {
    fn open(state_dir: &Path) -> Result<Self, Error> {
        let what = || format!("state directory {}", state_dir.display());
        let failed = |error| Error::local_place(what(), error, STATE_OPTION);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(state_dir, flags, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let stat = rustix::fs::fstat(&directory).map_err(|errno| failed(errno.into()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            let why = "belongs to another user; name your own with --state-dir";
            return Err(failed(io::Error::other(why)));
        }
        if stat.st_mode & 0o022 != 0 {
            let why = format!(
                "others can write to it; run: chmod go-w '{}'",
                state_dir.display()
            );
            return Err(failed(io::Error::other(why)));
        }
        Ok(Self {
            directory,
            path: state_dir.join(FILE_NAME),
        })
    }

    /// Opens the identity file without following a link; `None` when there is none.
    fn existing(&self) -> Result<Option<File>, Error> {
        // For writing, because network filesystems grant an exclusive lock to writers only;
        // non-blocking, so that a FIFO of that name is an error instead of a hang.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, FILE_NAME, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(self.refuse("is a symbolic link; move the file itself here")),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    fn load(&self, mut file: File) -> Result<Identity, Error> {
        let metadata = file.metadata().map_err(|error| self.failed(error))?;
        if !metadata.is_file() {
            return Err(self.refuse("is not a regular file; move it away"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(self.refuse("belongs to another user; move it away"));
        }
        if metadata.mode() & 0o077 != 0 {
            let path = self.path.display();
            return Err(self.refuse(&format!(
                "others may have read it; delete it to get a new identity, or run: chmod 600 '{path}'"
            )));
        }
        if !self.lock(&file)? {
            tracing::info!("another process uses this identity; taking a temporary one");
            return Identity::ephemeral();
        }
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 1));
        (&mut file)
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut pkcs8)
            .map_err(|error| self.failed(error))?;
        Identity::from_pkcs8(&pkcs8, Some(file))
            .ok_or_else(|| self.refuse("is damaged; delete it to get a new identity"))
    }

    /// Creates and stores an identity; `None` when another process was faster.
    fn create(&self) -> Result<Option<Identity>, Error> {
        let pkcs8 = generate()?;
        let mut suffix = [0; 8];
        aws_lc_rs::rand::fill(&mut suffix)
            .map_err(|_| self.failed(io::Error::other("no random bytes")))?;
        let temporary = format!("{FILE_NAME}.{:016x}", u64::from_ne_bytes(suffix));
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.failed(errno.into()))?;
        let published = self.publish(fd.into(), &temporary, &pkcs8);
        // After a successful link this name is the spare one; after a failure it is a leftover.
        let removed = rustix::fs::unlinkat(&self.directory, &temporary, AtFlags::empty());
        let Some(file) = published? else {
            return Ok(None);
        };
        removed
            .and_then(|()| rustix::fs::fsync(&self.directory))
            .map_err(|errno| self.failed(errno.into()))?;
        Identity::from_pkcs8(&pkcs8, Some(file))
            .map(Some)
            .ok_or_else(|| self.refuse("the new key is unusable"))
    }

    /// Locks, fills and syncs `file`, then gives it its name by a hard link, which unlike a rename
    /// never replaces a file that another process has just put there.
    fn publish(
        &self,
        mut file: File,
        temporary: &str,
        pkcs8: &[u8],
    ) -> Result<Option<File>, Error> {
        if !self.lock(&file)? {
            return Err(self.refuse("the new file is locked already"));
        }
        file.write_all(pkcs8)
            .and_then(|()| file.sync_all())
            .map_err(|error| self.failed(error))?;
        let directory = &self.directory;
        match rustix::fs::linkat(directory, temporary, directory, FILE_NAME, AtFlags::empty()) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    /// Tries to lock `file`; returns false when another process holds the lock.
    fn lock(&self, file: &File) -> Result<bool, Error> {
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(self.failed(error)),
        }
    }

    fn refuse(&self, why: &str) -> Error {
        self.failed(io::Error::other(why.to_owned()))
    }

    fn failed(&self, error: io::Error) -> Error {
        let what = format!("identity {}", self.path.display());
        Error::local_place(what, error, STATE_OPTION)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    impl Identity {
        /// Creates a thief who shows `victim`'s public key without having the private one.
        pub(crate) fn posing_as(victim: PeerId) -> Self {
            let own = Self::ephemeral().expect("a key");
            Self { id: victim, ..own }
        }
    }

    fn state() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/tinyp2p");
        (parent, directory)
    }

    fn refusal(directory: &Path) -> String {
        let text = Identity::load_or_create(directory).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn an_identity_outlives_its_process() {
        let (_parent, directory) = state();
        let first = Identity::load_or_create(&directory).unwrap().id();
        assert_eq!(Identity::load_or_create(&directory).unwrap().id(), first);
    }

    #[test]
    fn identity_file_is_for_its_owner_only() {
        let (_parent, directory) = state();
        let _identity = Identity::load_or_create(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(FILE_NAME)), 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn second_holder_gets_another_identity() {
        let (_parent, directory) = state();
        let first = Identity::load_or_create(&directory).unwrap();
        let second = Identity::load_or_create(&directory).unwrap();
        assert_ne!(first.id(), second.id());
        let id = first.id();
        drop(first);
        let third = Identity::load_or_create(&directory).unwrap();
        assert_eq!(third.id(), id);
    }

    #[test]
    fn parallel_starts_get_distinct_identities() {
        let (_parent, directory) = state();
        let identities: Vec<Identity> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(&directory).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let ids: std::collections::HashSet<_> = identities.iter().map(Identity::id).collect();
        assert_eq!(ids.len(), 8);
        assert_eq!(identities.iter().filter(|i| i._file.is_some()).count(), 1);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_parent, directory) = state();
        drop(Identity::load_or_create(&directory).unwrap());
        let file = directory.join(FILE_NAME);
        for mode in [0o640, 0o604, 0o610, 0o666] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let text = refusal(&directory);
            assert!(text.contains("chmod 600"), "{text}");
        }
    }

    #[test]
    fn directory_writable_by_others_is_refused() {
        let (_parent, directory) = state();
        drop(Identity::load_or_create(&directory).unwrap());
        fs::set_permissions(&directory, Permissions::from_mode(0o770)).unwrap();
        let text = refusal(&directory);
        assert!(text.contains("chmod go-w"), "{text}");
    }

    #[test]
    fn invalid_key_file_is_refused_and_kept() {
        let (_parent, directory) = state();
        drop(Identity::load_or_create(&directory).unwrap());
        let file = directory.join(FILE_NAME);
        let key = fs::read(&file).unwrap();
        let mut swapped = key.clone();
        *swapped.last_mut().unwrap() ^= 1;
        for content in [
            &b""[..],
            b"garbage",
            &key[..key.len() - 1],
            &swapped,
            &[0; 100_000],
        ] {
            fs::write(&file, content).unwrap();
            let text = refusal(&directory);
            assert!(
                text.contains("damaged") && text.contains(FILE_NAME),
                "{text}"
            );
            assert_eq!(fs::read(&file).unwrap(), content);
        }
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let (parent, directory) = state();
        drop(Identity::load_or_create(&directory).unwrap());
        let file = directory.join(FILE_NAME);
        let elsewhere = parent.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(refusal(&directory).contains("symbolic link"));
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(refusal(&directory).contains("not a regular file"));
    }

    #[test]
    fn unusable_state_directory_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refusal(&file.join("state")).contains("state directory"));
    }
}
