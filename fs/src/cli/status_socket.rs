//! The Unix socket on which a node reports its state to other processes of its user.
//!
//! It is `PID.sock` in a directory that nobody else can enter. A client that connects gets the
//! report as one line of JSON, followed by the end of the stream; it sends nothing. Clients are
//! served one at a time and for at most [`DEADLINE`], so that a client that does not read only
//! delays the next one. A socket that refuses connections belonged to a process that was killed;
//! the client that finds it removes it.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::report::status::NodeReport;

/// Time limit for one exchange.
const DEADLINE: Duration = Duration::from_secs(1);

/// Limit on a report; the bounds of the ledger keep every report far below it.
const MAX_REPLY_BYTES: u64 = 64 << 20;

/// Pause after a connection could not be accepted (no file descriptors left, say).
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// The socket of this process. Dropping it removes the file.
pub(super) struct Socket {
    directory: SocketDirectory,
    name: String,
    /// Dropping it ends the thread, at the latest after [`DEADLINE`].
    _alive: UnixStream,
}

impl Socket {
    /// Opens the socket and answers with `report` from now on.
    pub(super) fn open(report: impl Fn() -> NodeReport + Send + 'static) -> io::Result<Self> {
        let mut outcome = Err(ErrorKind::NotFound.into());
        for path in directories() {
            outcome = SocketDirectory::create(&path);
            if outcome.is_ok() {
                break;
            }
        }
        Self::open_in(outcome?, report)
    }

    fn open_in(
        directory: SocketDirectory,
        report: impl Fn() -> NodeReport + Send + 'static,
    ) -> io::Result<Self> {
        let name = format!("{}.sock", std::process::id());
        // Hidden until it listens: a client would take it for a dead socket.
        let hidden = format!(".{name}");
        directory.remove(&hidden)?;
        let listener = UnixListener::bind(directory.at(&hidden))?;
        rustix::fs::renameat(&directory.handle, &hidden, &directory.handle, &name)?;
        listener.set_nonblocking(true)?;
        let (alive, other_end) = UnixStream::pair()?;
        let socket = Self {
            directory,
            name,
            _alive: alive,
        };
        thread::Builder::new()
            .name("status".to_owned())
            .spawn(move || serve(&listener, &other_end, report))?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = self.directory.remove(&self.name) {
            tracing::debug!(%error, "the status socket stays behind");
        }
    }
}

/// Serves until the other end of `end` is closed.
fn serve(listener: &UnixListener, end: &UnixStream, report: impl Fn() -> NodeReport) {
    loop {
        let mut both = [
            PollFd::new(end, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        let polled = poll(&mut both, None);
        if polled.is_ok() && !both[0].revents().is_empty() {
            return;
        }
        let outcome = match listener.accept() {
            Ok((caller, _)) => send(caller, report().json().as_bytes()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => {
                // Cut short when `end` closes, which the next iteration detects.
                let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&PAUSE));
                Err(error)
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "the status was not sent");
        }
    }
}

fn send(mut caller: UnixStream, mut report: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !report.is_empty() {
        caller.set_write_timeout(Some(left(deadline)?))?;
        match caller.write(report) {
            Ok(count) => report = &report[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The answer of one node.
pub(super) struct SocketReply {
    /// The process id of the node.
    pub(super) pid: u32,
    /// The report and the line that contained it; `None` when none came in time.
    pub(super) report: Option<(NodeReport, String)>,
}

/// Asks all nodes of this user on this machine at once. Removes the sockets of dead nodes.
pub(super) fn ask_all() -> Vec<SocketReply> {
    let directories: Vec<SocketDirectory> = directories()
        .iter()
        .filter_map(|path| SocketDirectory::open(path).ok())
        .collect();
    let sockets = directories.iter().flat_map(|directory| {
        directory
            .sockets()
            .into_iter()
            .map(move |it| (directory, it))
    });
    thread::scope(|scope| {
        let asking = sockets.map(|(directory, (pid, name))| {
            scope.spawn(move || ask(directory, &name).map(|report| SocketReply { pid, report }))
        });
        let asking: Vec<_> = asking.collect();
        asking
            .into_iter()
            .filter_map(|asked| asked.join().ok().flatten())
            .collect()
    })
}

/// Asks one node; `None` if it no longer exists.
fn ask(directory: &SocketDirectory, name: &str) -> Option<Option<(NodeReport, String)>> {
    let answer = read(&directory.at(name)).and_then(|line| {
        let report = serde_json::from_str(&line).map_err(io::Error::other)?;
        Ok((report, line))
    });
    match answer {
        Ok(answer) => Some(Some(answer)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => {
                // If it cannot be removed, the next call finds it again.
                let _ = directory.remove(name);
                None
            }
            // The node has just stopped.
            ErrorKind::NotFound | ErrorKind::ConnectionReset => None,
            _ => Some(None),
        },
    }
}

fn read(path: &Path) -> io::Result<String> {
    let deadline = Instant::now() + DEADLINE;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Connecting can take time, too, if many are already waiting.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left(deadline)?))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    let (mut line, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if line.len() as u64 > MAX_REPLY_BYTES {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    let line = String::from_utf8(line).map_err(io::Error::other)?;
    Ok(line.trim_end().to_owned())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// A directory of sockets that belongs to this user alone. It is held open, so that nobody can
/// replace it, and so that a socket's address is short however long its path is.
struct SocketDirectory {
    handle: OwnedFd,
}

impl SocketDirectory {
    fn create(path: &Path) -> io::Result<Self> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = Self::open(path)?;
        rustix::fs::fchmod(&directory.handle, Mode::RWXU)?;
        Ok(directory)
    }

    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        if rustix::fs::fstat(&handle)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("belongs to somebody else"));
        }
        Ok(Self { handle })
    }

    fn at(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.handle.as_fd().as_raw_fd()).into()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the process ids and names of the sockets in it.
    fn sockets(&self) -> Vec<(u32, String)> {
        let Ok(entries) = std::fs::read_dir(self.at(".")) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let sockets =
            names.filter_map(|name| Some((name.strip_suffix(".sock")?.parse().ok()?, name)));
        sockets.collect()
    }
}

/// Returns the possible places for sockets, best first.
fn directories() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let xdg = std::env::var_os("XDG_RUNTIME_DIR");
    places(xdg, OsStr::new("/run/user"), &std::env::temp_dir(), uid)
}

/// A runtime directory counts only if it is this user's: `sudo` may have left another
/// user's in the variable.
fn places(xdg: Option<OsString>, run: &OsStr, temporary: &Path, uid: u32) -> Vec<PathBuf> {
    let usual = Path::new(run).join(uid.to_string());
    let is_ours = |path: &PathBuf| {
        path.is_absolute()
            && path
                .metadata()
                .is_ok_and(|found| found.is_dir() && found.uid() == uid)
    };
    let runtime = [xdg.map(PathBuf::from), Some(usual)].into_iter().flatten();
    let mut places: Vec<PathBuf> = runtime
        .filter(is_ours)
        .map(|path| path.join("tinyp2p"))
        .collect();
    places.dedup();
    places.push(temporary.join(format!("tinyp2p-{uid}")));
    places
}

#[cfg(test)]
mod tests;
