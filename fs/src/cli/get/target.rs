//! The directory that files are fetched into: nothing outside it is ever touched, nothing in it is
//! ever overwritten, and a name appears only with the whole file behind it.
//!
//! Members choose the names, so every step goes from an open directory to one name in it and
//! follows no symbolic link. Until it is complete a file is called
//! `.NAME.TARGET-CONTENT.tinyp2p-part` ([`PartName`]): a later run finds by that name how far this one got, and
//! goes on only with bytes of the same version of the same member's file. Another file's part is never touched.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use data_encoding::BASE32_NOPAD as BASE32;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tinyp2p_net::merkle::TreeHasher;
use tinyp2p_net::types::{MAX_NAME_BYTES, Name, RelPath, Root, UnixTime};

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
    /// Opens an existing directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { root })
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
        let name = OsStr::from_bytes(job.name.as_bytes());
        match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Prepares the place for `job`, given the parts in its directory. The part of a version that
    /// somebody still has is taken up; those of others are removed.
    pub(super) fn begin(&self, job: &Job, parts: &[Vec<u8>]) -> io::Result<Begin> {
        let directory = self.directory(&job.directory, true)?;
        let name = OsStr::from_bytes(job.name.as_bytes());
        match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(Begin::Exists),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut usable = None;
        let own = parts.iter().filter_map(|left| PartName::parse(left));
        for left in own.filter(|part| part.is_of(&job.name)) {
            let of_holder = |holder: &Holder| PartName::new(&job.name, holder) == left;
            let holder = job.holders.iter().position(of_holder);
            match holder.filter(|_| usable.is_none()) {
                Some(holder) => usable = Some((left, holder)),
                None => remove_unless_locked(&directory, &left),
            }
        }
        let (part, holder) =
            usable.unwrap_or_else(|| (PartName::new(&job.name, &job.holders[0]), 0));
        Part::open(directory, job, part, holder)
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
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(in_the_way(component)),
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
        let mut buffer = vec![0; READ_BACK];
        let mut offset = 0;
        while offset < self.offset {
            let count = self.file.read_at(&mut buffer, offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hasher.update(&buffer[..count]);
            offset += count as u64;
        }
        Ok(())
    }

    /// True unless the complete content is known to be something else. What is not genuine is
    /// thrown away.
    pub(super) fn is_genuine(&mut self) -> io::Result<bool> {
        let (Some(root), 1..) = (self.root, self.offset) else {
            return Ok(true);
        };
        let tree = std::mem::take(&mut self.hasher).finish();
        let genuine = tree.is_some_and(|tree| tree.root() == root);
        if !genuine {
            self.clear()?;
        }
        Ok(genuine)
    }

    /// Throws away what is here and begins anew with the bytes of another holder.
    pub(super) fn restart(&mut self, holder: usize, job: &Job) -> io::Result<()> {
        self.clear()?;
        let new_name = PartName::new(&self.name, &job.holders[holder]);
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
        self.hasher = TreeHasher::default();
        Ok(())
    }

    /// Gives the complete file its name. False if something of that name has appeared meanwhile.
    pub(super) fn finish(self, mtime: UnixTime) -> io::Result<bool> {
        let time = Timespec {
            // What its file system cannot keep, the kernel makes fit.
            tv_sec: mtime.seconds(),
            tv_nsec: mtime.nanoseconds().into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&self.file, &times)?;
        self.file.sync_all()?;
        let name = OsStr::from_bytes(self.name.as_bytes());
        match rename(&self.directory, self.part_name.as_path(), name) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                remove(&self.directory, &self.part_name);
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
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

fn in_the_way(component: &[u8]) -> io::Error {
    let name = Name::new(component).map(|name| name.to_string());
    io::Error::new(
        io::ErrorKind::NotADirectory,
        format!("'{}' is not a directory here", name.unwrap_or_default()),
    )
}

/// The name of a part: `.NAME.TARGET-CONTENT.tinyp2p-part`. TARGET is a digest of the whole name that the file is
/// to have, CONTENT one of who has it, where and in which version; NAME is the beginning of the former, for people.
/// So a part belongs to one file and one content, however alike names and versions look.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PartName {
    whole: Vec<u8>,
    target: String,
}

impl PartName {
    fn new(name: &Name, holder: &Holder) -> Self {
        let target = digest(&[name.as_bytes()]);
        let content = digest(&[
            holder.member.id.as_bytes(),
            &holder.version.0.to_be_bytes(),
            holder.path.as_bytes(),
        ]);
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
