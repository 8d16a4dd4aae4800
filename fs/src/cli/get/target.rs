//! The directory that files are fetched into: nothing outside it is ever touched, nothing in it is
//! ever overwritten, and a name appears only with the whole file behind it.
//!
//! Members choose the names, so every step goes from an open directory to one name in it and
//! follows no symbolic link. Until it is complete a file is called
//! `.NAME.TARGET-CONTENT.tinyp2p-part` ([`PartName`]): a later run finds by that name how far this one got, and
//! goes on only with bytes of the same content root, or of the same version of the same member's file. Another file's
//! part is never touched; those of other contents of the file go once it is begun, or there.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use data_encoding::BASE32_NOPAD as BASE32;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tinyp2p_net::merkle::TreeHasher;
use tinyp2p_net::types::{MAX_NAME_BYTES, Name, RelPath, Root};

use super::plan::{Holder, Job};

const SUFFIX: &[u8] = b".tinyp2p-part";

/// Bytes read back at once when an interrupted file is taken up.
const READ_BACK: usize = 256 * 1024;

/// How much of NAME stays in the name of its part, for people, so that the whole remains a possible name.
const MAX_NAME_IN_PART: usize = 180;

/// Characters of a digest in the name of a part: 16 bytes in base32.
const DIGEST_CHARS: usize = 26;

const _: () = assert!(
    1 + MAX_NAME_IN_PART + 1 + DIGEST_CHARS + 1 + DIGEST_CHARS + SUFFIX.len() <= MAX_NAME_BYTES
);

/// Whether all that arrived is what it had to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PartCheck {
    /// As far as is known.
    Genuine,
    /// It is not, and a part of it was here before: what an earlier run left may be to blame.
    Spoilt,
    /// It is not, and all of it came from the holder.
    Wrong,
}

/// The directory to fetch into.
#[derive(Debug)]
pub(super) struct Target {
    root: OwnedFd,
}

/// What stands at the place of a file to be fetched.
pub(super) enum Begin {
    /// Nothing, or what an earlier run left: to be completed.
    Part(Box<Part>),
    /// Something of that name; it stays as it is.
    Exists,
    /// A part that another process is writing.
    Busy,
}

impl Target {
    /// Opens a directory; `None` if nothing is there.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Some(Self { root })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a directory, with those above it, and opens it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The names of the parts in `directory`, left by earlier runs or being written by others.
    pub(super) fn parts(&self, directory: &RelPath) -> io::Result<Vec<Vec<u8>>> {
        let descriptor = match self.directory(directory, false) {
            Ok(descriptor) => descriptor,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut parts = Vec::new();
        for entry in rustix::fs::Dir::read_from(&descriptor)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(b".") && name.ends_with(SUFFIX) {
                parts.push(name.to_vec());
            }
        }
        Ok(parts)
    }

    /// True if something of the job's name is here.
    pub(super) fn has(&self, job: &Job) -> io::Result<bool> {
        let directory = match self.directory(&job.directory, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        Ok(existing(&directory, &job.name)?.is_some())
    }

    /// Prepares the place for `job`, given the parts in its directory. The part of a content that
    /// somebody still has is taken up; those of others are removed. If the file is here already with the same content,
    /// it gets the time at which it was modified at its holders.
    ///
    /// # Errors
    /// Besides those of the system: something that is no file, or no directory, is in the way.
    pub(super) fn begin(&self, job: &Job, parts: &[Vec<u8>]) -> io::Result<Begin> {
        let directory = self.directory(&job.directory, true)?;
        let own = parts.iter().filter_map(|left| PartName::parse(left));
        let own = own.filter(|part| part.is_of(&job.name));
        if let Some(existing) = existing(&directory, &job.name)? {
            own.for_each(|left| remove_unless_locked(&directory, &left));
            if existing.is_outdated(job) && existing.has_content_of(job)? {
                existing.set_mtime(job.mtime);
            }
            return Ok(Begin::Exists);
        }
        let mut usable = None;
        for left in own {
            let holder = left.usable_from(job);
            match holder.filter(|_| usable.is_none()) {
                Some(holder) => usable = Some((left, holder)),
                None => remove_unless_locked(&directory, &left),
            }
        }
        let (part, holder) = usable.unwrap_or_else(|| (PartName::new(job, 0), 0));
        Part::open(directory, job, part, holder)
    }

    /// True if `parts` has the beginning of a content of which only the holders' content root would tell whether it is
    /// the one of `job`.
    pub(super) fn depends_on_root(job: &Job, parts: &[Vec<u8>]) -> bool {
        let own = parts.iter().filter_map(|left| PartName::parse(left));
        let mut own = own.filter(|part| part.is_of(&job.name)).peekable();
        job.root.is_none() && own.peek().is_some() && own.all(|p| p.usable_from(job).is_none())
    }

    /// Goes down `path` one component at a time, creating what is missing if `create`.
    fn directory(&self, path: &RelPath, create: bool) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        for component in path.components() {
            let name = OsStr::from_bytes(component);
            if create {
                match rustix::fs::mkdirat(&directory, name, Mode::from(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let name = Name::new(component).map(|name| name.to_string());
                    let name = name.unwrap_or_default();
                    return Err(in_the_way(&format!("'{name}', which is no directory")));
                }
                other => other?,
            };
        }
        Ok(directory)
    }
}

/// A file on its way in. Locked against other processes; dropping it leaves it for the next run.
pub(super) struct Part {
    directory: OwnedFd,
    file: File,
    part_name: PartName,
    name: Name,
    holder: usize,
    offset: u64,
    /// What the content must turn out to be, if that is known, and the hash of what is here.
    root: Option<Root>,
    hasher: TreeHasher,
    /// An earlier run left some of these bytes.
    is_resumed: bool,
    /// It has its name.
    is_finished: bool,
}

impl Part {
    fn open(
        directory: OwnedFd,
        job: &Job,
        part_name: PartName,
        holder: usize,
    ) -> io::Result<Begin> {
        let path = part_name.as_path();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &directory,
            path,
            flags,
            Mode::from(0o666),
        )?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Begin::Busy),
            Err(errno) => return Err(errno.into()),
        }
        let metadata = file.metadata()?;
        let there = rustix::fs::statat(&directory, path, AtFlags::SYMLINK_NOFOLLOW);
        // Between the opening and the locking, another process may have completed it.
        if !there
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (metadata.dev(), metadata.ino()))
        {
            return Ok(Begin::Busy);
        }
        let own = metadata.is_file()
            && metadata.nlink() == 1
            && metadata.uid() == rustix::process::geteuid().as_raw();
        if !own {
            return Err(io::Error::other(
                "somebody else's file stands in the place of its part",
            ));
        }
        let mut part = Self {
            directory,
            file,
            part_name,
            name: job.name.clone(),
            holder,
            offset: metadata.len(),
            root: job.root,
            hasher: TreeHasher::default(),
            is_resumed: metadata.len() > 0,
            is_finished: false,
        };
        if part.offset > job.size {
            part.clear()?;
        }
        part.hash_what_is_here()?;
        Ok(Begin::Part(Box::new(part)))
    }

    /// The holder, by its place among the job's, whose bytes these are.
    pub(super) fn holder(&self) -> usize {
        self.holder
    }

    /// The bytes that are here already.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds bytes at the end.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        if self.root.is_some() {
            self.hasher.update(bytes);
        }
        Ok(())
    }

    fn hash_what_is_here(&mut self) -> io::Result<()> {
        if self.root.is_none() {
            return Ok(());
        }
        match read_back(&self.file, self.offset, &mut self.hasher)? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Checks the complete content. What is known to be something else is thrown away.
    pub(super) fn check(&mut self) -> io::Result<PartCheck> {
        let (Some(root), 1..) = (self.root, self.offset) else {
            return Ok(PartCheck::Genuine);
        };
        let tree = std::mem::take(&mut self.hasher).finish();
        if tree.is_some_and(|tree| tree.root() == root) {
            return Ok(PartCheck::Genuine);
        }
        let is_resumed = self.is_resumed;
        self.clear()?;
        Ok(match is_resumed {
            true => PartCheck::Spoilt,
            false => PartCheck::Wrong,
        })
    }

    /// None of the holders has it any more in the version that was begun. What would be of use to nobody goes.
    pub(super) fn give_up(mut self) -> io::Result<()> {
        match self.root {
            // The same content may come back, or be somewhere else.
            Some(_) => Ok(()),
            None => self.clear(),
        }
    }

    /// Throws away what is here and begins anew with the bytes of another holder.
    pub(super) fn restart(&mut self, holder: usize, job: &Job) -> io::Result<()> {
        self.clear()?;
        let new_name = PartName::new(job, holder);
        if new_name != self.part_name {
            match rename(
                &self.directory,
                self.part_name.as_path(),
                new_name.as_path(),
            ) {
                // Somebody writes it, or it would have been taken up or removed.
                Err(Errno::EXIST) => {
                    return Err(io::Error::other("another process is fetching it, too"));
                }
                other => other?,
            }
        }
        self.part_name = new_name;
        self.holder = holder;
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.offset = 0;
        self.is_resumed = false;
        self.hasher = TreeHasher::default();
        Ok(())
    }

    /// Gives the complete file its name. False if something of that name has appeared meanwhile.
    pub(super) fn finish(mut self, mtime: i64) -> io::Result<bool> {
        rustix::fs::futimens(&self.file, &times(mtime))?;
        self.file.sync_all()?;
        let name = OsStr::from_bytes(self.name.as_bytes());
        match rename(&self.directory, self.part_name.as_path(), name) {
            Ok(()) => {
                self.is_finished = true;
                Ok(true)
            }
            Err(Errno::EXIST) => {
                self.clear()?;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Part {
    /// What has no bytes saves the next run nothing.
    fn drop(&mut self) {
        if self.offset == 0 && !self.is_finished {
            remove(&self.directory, &self.part_name);
        }
    }
}

/// Renames without replacing; where the filesystem cannot do that, by a second link.
fn rename(directory: &OwnedFd, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(directory, from, directory, to, AtFlags::empty())?;
            rustix::fs::unlinkat(directory, from, AtFlags::empty())
        }
        other => other,
    }
}

/// Nothing that is here is ever overwritten.
fn in_the_way(what: &str) -> io::Error {
    io::Error::other(format!(
        "{what}, is in the way here: move it, or name another directory by -d"
    ))
}

/// What stands where `name` is to be in `directory`; `None` if nothing does.
///
/// # Errors
/// Besides those of the system: it is no file. A symbolic link counts as one, wherever it leads.
fn existing(directory: &OwnedFd, name: &Name) -> io::Result<Option<Existing>> {
    let path = OsStr::from_bytes(name.as_bytes());
    let stat = match rustix::fs::statat(directory, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => return Ok(Some(Existing(None))),
        FileType::RegularFile => {}
        FileType::Directory => return Err(in_the_way(&format!("'{name}', a directory"))),
        _ => return Err(in_the_way(&format!("'{name}', which is no file"))),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // What cannot be read is not compared.
    let file = rustix::fs::openat(directory, path, flags, Mode::empty());
    Ok(Some(Existing(file.ok().map(File::from))))
}

/// A file that is here already; without one that can be looked at, it just stays.
struct Existing(Option<File>);

impl Existing {
    /// True if it may be what `job` is to bring, apart from its modification time.
    fn is_outdated(&self, job: &Job) -> bool {
        let metadata = self.0.as_ref().and_then(|file| file.metadata().ok());
        metadata.is_some_and(|metadata| {
            let mtime = i128::from(metadata.mtime()) * 1_000_000_000;
            let mtime = mtime + i128::from(metadata.mtime_nsec());
            let is_alike = metadata.is_file() && metadata.len() == job.size;
            is_alike && mtime != i128::from(job.mtime)
        })
    }

    /// True if its content root is that of `job`: reads all of it.
    fn has_content_of(&self, job: &Job) -> io::Result<bool> {
        let (Some(file), Some(root)) = (&self.0, job.root) else {
            return Ok(false);
        };
        let mut hasher = TreeHasher::default();
        let whole = read_back(file, job.size, &mut hasher)?;
        Ok(whole && hasher.finish().is_some_and(|tree| tree.root() == root))
    }

    /// Only its owner may do so; others' files stay as they are.
    fn set_mtime(&self, mtime: i64) {
        if let Some(file) = &self.0
            && let Err(error) = rustix::fs::futimens(file, &times(mtime))
        {
            tracing::debug!(%error, "a modification time stays");
        }
    }
}

/// Hashes the first `length` bytes of `file`; false if there are fewer.
fn read_back(file: &File, length: u64, hasher: &mut TreeHasher) -> io::Result<bool> {
    let mut buffer = vec![0; READ_BACK];
    let mut offset = 0;
    while offset < length {
        let most = (length - offset).min(READ_BACK as u64) as usize;
        match file.read_at(&mut buffer[..most], offset)? {
            0 => return Ok(false),
            count => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    Ok(true)
}

/// Both times of a file that was modified at `mtime`, nanoseconds since 1970.
fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.div_euclid(1_000_000_000),
        tv_nsec: mtime.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The name of a part: `.NAME.TARGET-CONTENT.tinyp2p-part`. TARGET is a digest of the whole name that the file is
/// to have, CONTENT one of its content root, or while that is unknown, of who has it, where and in which version; NAME
/// is the beginning of the former, for people. So a part belongs to one file and one content, however alike names and
/// versions look.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PartName {
    whole: Vec<u8>,
    target: String,
}

impl PartName {
    /// Of the file that `job` is to bring, from one of its holders.
    fn new(job: &Job, holder: usize) -> Self {
        match job.root {
            Some(root) => Self::with(&job.name, &digest(&[root.as_bytes()])),
            None => Self::of_version(&job.name, &job.holders[holder]),
        }
    }

    fn of_version(name: &Name, holder: &Holder) -> Self {
        // No shorter than 40 bytes, and so none of a root.
        let content = digest(&[
            holder.member.id.as_bytes(),
            &holder.version.0.to_be_bytes(),
            holder.path.as_bytes(),
        ]);
        Self::with(name, &content)
    }

    fn with(name: &Name, content: &str) -> Self {
        let target = digest(&[name.as_bytes()]);
        let name = name.as_bytes();
        let kept = &name[..name.len().min(MAX_NAME_IN_PART)];
        let digests = format!(".{target}-{content}");
        Self {
            whole: [b".", kept, digests.as_bytes(), SUFFIX].concat(),
            target,
        }
    }

    /// Reads a name that [`PartName::new`] may have made.
    fn parse(whole: &[u8]) -> Option<Self> {
        let rest = whole.strip_prefix(b".")?.strip_suffix(SUFFIX)?;
        let (rest, content) = rest.split_last_chunk::<DIGEST_CHARS>()?;
        let rest = rest.strip_suffix(b"-")?;
        let (rest, target) = rest.split_last_chunk::<DIGEST_CHARS>()?;
        let is_digest = |chars: &[u8]| BASE32.decode(&chars.to_ascii_uppercase()).is_ok();
        let is_ours = rest.ends_with(b".") && is_digest(target) && is_digest(content);
        is_ours.then(|| Self {
            whole: whole.to_vec(),
            target: String::from_utf8_lossy(target).into_owned(),
        })
    }

    /// True for a part of the file that is to have this name.
    fn is_of(&self, name: &Name) -> bool {
        self.target == digest(&[name.as_bytes()])
    }

    /// Which of the holders to go on from; `None` if it is the beginning of something else.
    fn usable_from(&self, job: &Job) -> Option<usize> {
        if job.root.is_some() && Self::new(job, 0) == *self {
            return Some(0);
        }
        let mut holders = job.holders.iter();
        holders.position(|holder| Self::of_version(&job.name, holder) == *self)
    }

    fn as_path(&self) -> &OsStr {
        OsStr::from_bytes(&self.whole)
    }
}

/// The first half of a digest over all of `fields`, of which only the last may have any length.
fn digest(fields: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(field);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    BASE32.encode(&digest[..16]).to_ascii_lowercase()
}

/// Removes the part of a version that nobody has any more, unless another process writes it.
fn remove_unless_locked(directory: &OwnedFd, part: &PartName) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, part.as_path(), flags, Mode::empty()) else {
        return;
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        remove(directory, part);
    }
}

/// Removes a part; what stays is only litter, which the next run tries again.
fn remove(directory: &OwnedFd, part: &PartName) {
    let part = part.as_path();
    if let Err(error) = rustix::fs::unlinkat(directory, part, AtFlags::empty()) {
        tracing::debug!(?part, %error, "a part stays");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
