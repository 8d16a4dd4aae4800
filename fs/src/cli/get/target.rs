//! The directory that files are fetched into. Nothing outside it is ever touched, nothing in it is
//! ever overwritten, and a name appears only when the whole file is complete.
//!
//! Members choose the names, so every step goes from an open directory to one name in it and
//! follows no symbolic link. Until a file is complete, it is called
//! `.NAME.TARGET+CONTENT.tinyp2p-part` ([`PartName`]). By that name a later run finds how far this
//! one got; it continues only with bytes of the same content root, or of the same version of the
//! same member's file. Another file's part is never touched. Parts of other contents of a file are
//! removed once the file is begun or exists.

mod existing;
mod part;
mod part_name;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tinyp2p_net::model::{Name, RelPath};

use super::plan::Job;
use existing::{existing, in_the_way};
use part::remove_unless_locked;
use part_name::PartName;

pub(super) use part::Part;

/// Parts that were not written to for this long, and whose file nobody offers now, are removed.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// The directory to fetch into.
#[derive(Debug)]
pub(super) struct Target {
    root: OwnedFd,
}

/// The state of a place at which a file is to be fetched.
pub(super) enum Begin {
    /// Nothing is there, or a part that an earlier run left: to be completed.
    Part(Box<Part>),
    /// Something of that name exists; it stays unchanged.
    Exists,
    /// Another process is writing the part.
    Busy,
}

impl Target {
    /// Opens a directory; `None` if it does not exist.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Some(Self { root })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Creates a directory and its parents, and opens it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns the names of the parts in `directory`, left by earlier runs or being
    /// written by others.
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
            if PartName::parse(name).is_some() {
                parts.push(name.to_vec());
            }
        }
        Ok(parts)
    }

    /// Returns true if the job's name exists here, even as a directory: a member that lists only
    /// names may mean one.
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

    /// Prepares the place for `job`, given the parts in its directory. Resumes a part whose content
    /// some holder still has, and removes the others. If the file already exists with the same
    /// content, it gets the modification time of its holders.
    ///
    /// # Errors
    /// Fails, apart from system errors, if something that is no file, or no
    /// directory, is in the way.
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
            if usable.is_none() && left.is_usable_for(job) {
                usable = Some(left);
            } else {
                remove_unless_locked(&directory, &left);
            }
        }
        let part = usable.unwrap_or_else(|| PartName::new(job));
        Part::open(directory, job, part)
    }

    /// Returns true if `parts` has the beginning of some content, and only the holders' content
    /// root could show whether it belongs to `job`.
    pub(super) fn depends_on_root(job: &Job, parts: &[Vec<u8>]) -> bool {
        let own = parts.iter().filter_map(|left| PartName::parse(left));
        let own: Vec<PartName> = own.filter(|part| part.is_of(&job.name)).collect();
        job.root.is_none()
            && own.iter().any(PartName::is_of_root)
            && !own.iter().any(|part| part.is_usable_for(job))
    }

    /// Removes those `parts` in `directory` that belong to none of `jobs` and have not been
    /// written to for long.
    pub(super) fn forget(
        &self,
        directory: &RelPath,
        parts: &[Vec<u8>],
        jobs: &[Job],
    ) -> io::Result<()> {
        let wanted = jobs.iter().filter(|job| job.directory == *directory);
        let mut parts: Vec<PartName> = parts.iter().filter_map(|p| PartName::parse(p)).collect();
        if parts.is_empty() {
            return Ok(());
        }
        for job in wanted {
            parts.retain(|part| !part.is_of(&job.name));
        }
        let descriptor = self.directory(directory, false)?;
        let limit = SystemTime::now() - FORGOTTEN;
        let limit = limit.duration_since(SystemTime::UNIX_EPOCH);
        let limit = limit.unwrap_or_default().as_secs();
        for part in parts {
            let found = rustix::fs::statat(&descriptor, part.as_path(), AtFlags::SYMLINK_NOFOLLOW);
            if found.is_ok_and(|found| u64::try_from(found.st_mtime).is_ok_and(|at| at < limit)) {
                remove_unless_locked(&descriptor, &part);
            }
        }
        Ok(())
    }

    /// Descends `path` one component at a time, and creates missing components if `create`.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
