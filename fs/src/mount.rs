//! Mounting and unmounting, implemented here rather than by fuser.
//!
//! Reasons: fuser 0.18 unmounts by path without checking whose mount is there, does not detach a
//! busy mount, cannot set the type `fuse.tinyp2p` as root, and joins option values unescaped. Root
//! calls mount(2). Other users go through the set-user-id helper `fusermount3`, which mounts and
//! passes the `/dev/fuse` descriptor back over a socket. fuser then only serves the descriptor.

pub mod table;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use table::{MountEntry, MountList};

/// The kernel device behind every FUSE filesystem.
const DEVICE: &str = "/dev/fuse";

/// Mount source shown in the mount table when there is no better one.
const DEFAULT_SOURCE: &str = "tinyp2p";

/// Time limit for the helper to mount and answer.
const HELPER_DEADLINE: Duration = Duration::from_secs(10);

/// Options that may differ between mounts. All mounts are `ro,nosuid,nodev`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Source shown in the mount table; made by [`source_name`].
    pub source: String,
    /// Omits the option `noexec`.
    pub exec: bool,
    /// Admits every user, not only the one who mounts.
    pub allow_other: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: DEFAULT_SOURCE.to_owned(),
            exec: false,
            allow_other: false,
        }
    }
}

/// Returns `name` if it needs no escaping in an option list, else a fixed name.
pub fn source_name(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@/._+-".contains(&b);
    if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        DEFAULT_SOURCE.to_owned()
    }
}

/// Why mounting or unmounting failed: one line, with a remedy where one is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no FUSE, this container was not given it, or this user may not use it.
    #[error(
        "/dev/fuse cannot be opened ({0}): if it is missing, load the kernel module with 'modprobe \
         fuse'; if it is for root only, mount as root or run 'chmod 666 /dev/fuse' as root"
    )]
    Device(String),
    /// The helper, which ordinary users need, cannot be run.
    #[error("fusermount3 cannot be run ({0}): install the package fuse3, or mount as root")]
    NoHelper(io::Error),
    /// Ordinary users may use `allow_other` only if root permits it.
    #[error(
        "allow_other is not allowed here: root must put the line user_allow_other into /etc/fuse.conf"
    )]
    AllowOther,
    /// The reason that the helper gave.
    #[error("{0}")]
    Helper(String),
    /// The reason that the system gave.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

/// A mount that this process made.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    entry: MountEntry,
}

/// How an unmount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// The mount is gone.
    Done,
    /// The mount was busy: it left the tree, but lives until its last file is closed.
    Detached,
    /// It was already unmounted.
    Before,
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(path = %self.path.display(), %error, "the mount stays");
        }
    }
}

impl Mount {
    /// Mounts on the directory `path`, which must be absolute and free of symbolic links. The
    /// returned descriptor connects the filesystem to the kernel; closing it kills the mount but
    /// does not remove it.
    pub fn new(path: &Path, options: &Options) -> Result<(Self, OwnedFd), Error> {
        let descriptor = if rustix::process::geteuid().is_root() {
            match by_system_call(path, options) {
                Err(Error::System(e)) if e.kind() == io::ErrorKind::PermissionDenied => {
                    by_helper(path, options)
                }
                other => other,
            }
        } else {
            by_helper(path, options)
        }?;
        let entry = MountList::read()?
            .at(path)
            .filter(|entry| entry.is_ours())
            .cloned()
            .ok_or_else(|| io::Error::other("the mount vanished as soon as it was made"))?;
        let path = path.to_owned();
        Ok((Self { path, entry }, descriptor))
    }

    /// Returns the directory that is mounted on.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts, unless that has already happened. Leaves alone any foreign mount that has replaced
    /// this one or lies on top of it.
    pub fn unmount(&self) -> Result<Unmounted, Error> {
        let still = MountList::read()?
            .at(&self.path)
            .is_some_and(|entry| (entry.id, &entry.device) == (self.entry.id, &self.entry.device));
        if still {
            unmount(&self.path)
        } else {
            Ok(Unmounted::Before)
        }
    }
}

/// Returns a session for the descriptor from [`Mount::new`] and answers the kernel's initial
/// request. All later requests wait for [`fuser::Session::run`], which ends when the mount does.
pub fn session<F: fuser::Filesystem>(
    filesystem: F,
    descriptor: OwnedFd,
    options: &Options,
    mut config: fuser::Config,
) -> Result<fuser::Session<F>, Error> {
    // Each event loop needs its own open descriptor, which ordinary users often may not open.
    config.clone_fd &= File::options().read(true).write(true).open(DEVICE).is_ok();
    config.acl = if options.allow_other {
        fuser::SessionACL::All
    } else {
        fuser::SessionACL::Owner
    };
    let acl = config.acl;
    Ok(fuser::Session::from_fd(
        filesystem, descriptor, acl, config,
    )?)
}

/// Unmounts the mount at `path`, or detaches it when it is busy. The caller has checked that it
/// is ours to unmount.
pub fn unmount(path: &Path) -> Result<Unmounted, Error> {
    match unmount_now(path) {
        Ok(()) => Ok(Unmounted::Done),
        Err(_) => detach(path).map(|()| Unmounted::Detached),
    }
}

fn unmount_now(path: &Path) -> Result<(), Error> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => helper_unmount(path, &["-u", "-q"]),
        other => Ok(other?),
    }
}

/// Removes a mount from the tree even when it is busy or dead (its process was killed).
pub fn detach(path: &Path) -> Result<(), Error> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Err(rustix::io::Errno::PERM) => helper_unmount(path, &["-u", "-q", "-z"]),
        other => Ok(other?),
    }
}

fn by_system_call(path: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|e| Error::Device(e.to_string()))?;
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    if !options.exec {
        flags |= MountFlags::NOEXEC;
    }
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={}",
        device.as_raw_fd(),
        path.metadata()?.mode(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other,default_permissions");
    }
    let data = CString::new(data).map_err(io::Error::from)?;
    rustix::mount::mount(
        &*options.source,
        path,
        table::OUR_MOUNT_TYPE,
        flags,
        Some(&*data),
    )?;
    Ok(device.into())
}

fn by_helper(path: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let mut words = format!("fsname={},subtype=tinyp2p,ro,nosuid,nodev", options.source);
    if !options.exec {
        words.push_str(",noexec");
    }
    if options.allow_other {
        words.push_str(",allow_other,default_permissions");
    }
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(HELPER_DEADLINE))?;
    // The helper's end of the socket is its standard input: no other descriptor has to survive the
    // exec, and none can leak into another child.
    let mut child = Command::new("fusermount3")
        .args([OsStr::new("-o"), OsStr::new(&words), OsStr::new("--")])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::NoHelper)?;
    let received = receive_descriptor(&ours);
    if received.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    match received? {
        Some(descriptor) if output.status.success() => Ok(descriptor),
        _ => Err(helper_error(&output.stderr)),
    }
}

/// Receives the one descriptor that the helper sends; `None` when it ends without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn helper_unmount(path: &Path, flags: &[&str]) -> Result<(), Error> {
    let output = Command::new("fusermount3")
        .args(flags)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::NoHelper)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(helper_error(&output.stderr))
    }
}

/// Returns the helper's last line without its name: the reason follows the warnings.
fn helper_error(stderr: &[u8]) -> Error {
    let text = String::from_utf8_lossy(stderr);
    if text.contains("user_allow_other") {
        return Error::AllowOther;
    }
    let line = text
        .lines()
        .rfind(|line| !line.is_empty())
        .unwrap_or("fusermount3 failed");
    let reason = line.strip_prefix("fusermount3: ").unwrap_or(line);
    match reason.split_once("/dev/fuse: ") {
        Some((_, why)) => Error::Device(why.to_owned()),
        None => Error::Helper(reason.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn helper_error_loses_its_prefix() {
        let error = |text: &str| helper_error(text.as_bytes()).to_string();
        assert_eq!(
            error("fusermount3: warning\nfusermount3: mount failed: Permission denied\n"),
            "mount failed: Permission denied"
        );
        assert_eq!(error(""), "fusermount3 failed");
        assert!(
            error("fusermount3: failed to open /dev/fuse: Permission denied\n")
                .starts_with("/dev/fuse cannot be opened (Permission denied): ")
        );
        assert!(error("fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf").contains("root must put"));
    }

    #[test]
    fn a_source_name_cannot_add_options() {
        assert_eq!(source_name("@/etc/tinyp2p.pw"), "@/etc/tinyp2p.pw");
        for odd in ["", "@a,allow_other", "@a b", "@a\\054", "@\u{e4}"] {
            assert_eq!(source_name(odd), "tinyp2p", "{odd}");
        }
    }

    #[test]
    fn helper_without_descriptor_is_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none());
    }

    #[test]
    fn a_descriptor_arrives_over_the_socket() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [std::os::fd::AsFd::as_fd(&file)];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let data = [std::io::IoSlice::new(b"\0")];
        sendmsg(&theirs, &data, &mut control, SendFlags::empty()).unwrap();
        let received = File::from(receive_descriptor(&ours).unwrap().unwrap());
        assert_eq!(
            received.metadata().unwrap().rdev(),
            file.metadata().unwrap().rdev()
        );
    }
}
