//! Sources of the password: the command line, the terminal, standard input, a file or a pipe.
//!
//! Others must not be able to change or read a password file, with one exception. A file that the
//! system provides to this process read-only, as containers get their secrets (`/run/secrets/…`),
//! may be readable by everybody in that container.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::StatVfsMountFlags;
use zeroize::Zeroizing;

use super::args::PasswordArgument;
use crate::cli::CommandFailure;

/// Limit on the length of a password; nobody types a longer one on purpose.
const MAX_BYTES: u64 = 1024;

/// Byte order mark that some editors put at the start of a file (U+FEFF); never
/// part of the password.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Limit on what is read: the longest password, plus what may surround it in its line.
const MAX_LINE: u64 = MAX_BYTES + 5;

/// Time limit for a pipe. Its writer may have to ask a person first, as `pass show` does.
const PIPE_DEADLINE: Duration = Duration::from_secs(120);

/// Names of standard input that are files in their own right. Not every standard input can be
/// opened through them.
const STANDARD_INPUT: [&[u8]; 3] = [b"/dev/stdin", b"/dev/fd/0", b"/proc/self/fd/0"];

/// The meaning of a PASSWORD argument.
#[derive(PartialEq, Eq)]
pub(crate) enum PasswordSource {
    /// The argument is the password.
    Literal(Zeroizing<String>),
    /// `-` or `@/dev/stdin`: the terminal, or the first line of standard input.
    Ask,
    /// `@FILE`: the first line of a file or pipe.
    File(PathBuf),
}

impl PasswordSource {
    /// Parses the PASSWORD argument.
    pub(crate) fn new(argument: &PasswordArgument) -> Result<Self, CommandFailure> {
        let text = argument.as_os_str();
        match text.as_bytes() {
            b"-" => Ok(Self::Ask),
            [b'@', file @ ..] if STANDARD_INPUT.contains(&file) => Ok(Self::Ask),
            [b'@', file @ ..] => Ok(Self::File(std::ffi::OsStr::from_bytes(file).into())),
            _ => {
                let text = text
                    .to_str()
                    .ok_or_else(|| CommandFailure::usage("the password is not valid UTF-8"))?;
                checked(text.to_owned().into()).map(Self::Literal)
            }
        }
    }

    /// Returns true if another process can read it again from the same place.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::File(path) => path.metadata().is_ok_and(|metadata| metadata.is_file()),
            Self::Literal(_) | Self::Ask => false,
        }
    }

    /// Gets the password. Waits for a person if there is a terminal to ask on.
    pub(crate) fn read(self) -> Result<Zeroizing<String>, CommandFailure> {
        match self {
            Self::Literal(password) => Ok(password),
            Self::Ask => ask(),
            Self::File(path) => from_file(&path).map_err(|why| {
                CommandFailure::failed(format!("password file {}: {why}", path.display()))
            }),
        }
    }
}

fn ask() -> Result<Zeroizing<String>, CommandFailure> {
    let unreadable =
        |e: io::Error| CommandFailure::failed(format!("cannot read the password: {e}"));
    if io::stdin().is_terminal() {
        let typed = rpassword::prompt_password("Password of the network: ");
        checked(typed.map_err(unreadable)?.into())
    } else {
        checked(first_line(io::stdin().lock()).map_err(unreadable)?)
    }
}

/// Reads the first line of a file that nobody else can read, as ssh requires of keys, or of a pipe.
fn from_file(path: &Path) -> Result<Zeroizing<String>, String> {
    // NONBLOCK: opening a FIFO must not wait for a writer.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| e.to_string())?;
    let metadata = file.metadata().map_err(|e| e.to_string())?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Err("neither a file nor a pipe; '-' as the password asks for it".to_owned());
    }
    let place = FileTrust {
        owner: metadata.uid(),
        mode: metadata.mode(),
        is_secret: kind.is_file() && is_handed_read_only(path, &file, &metadata),
    };
    place.check(rustix::process::geteuid().as_raw())?;
    let line = if kind.is_fifo() {
        first_line(BufReader::new(Pipe::new(&file)))
    } else {
        first_line(BufReader::new(&file))
    };
    checked(line.map_err(|e| e.to_string())?).map_err(|e| e.message)
}

/// The properties that decide whether a file may hold a password.
#[derive(Clone, Copy, Debug)]
struct FileTrust {
    owner: u32,
    mode: u32,
    /// The system put it there for the users of this container: see [`is_handed_read_only`].
    is_secret: bool,
}

impl FileTrust {
    /// Checks the file against `user`. The error says what to do about it.
    fn check(self, user: u32) -> Result<(), String> {
        let mode = self.mode & 0o7777;
        if self.owner != user && self.owner != 0 {
            return Err(
                "it belongs to another user, who could change it; make a copy of your own"
                    .to_owned(),
            );
        }
        if mode & 0o022 != 0 {
            return Err(format!(
                "others can change it (mode {mode:04o}): run 'chmod 600' on it"
            ));
        }
        if mode & 0o055 != 0 && !self.is_secret {
            return Err(format!(
                "others can read it (mode {mode:04o}): run 'chmod 600' on it; only a secret of a container may be \
                 readable by all, if nobody can write to it and nobody but root to its directory"
            ));
        }
        Ok(())
    }
}

/// Returns true for a file that nobody can change. Either no mode bit allows writing or the file is
/// mounted read-only; and the directory that really contains it belongs to root, and nobody else
/// can put anything there.
fn is_handed_read_only(path: &Path, file: &File, metadata: &Metadata) -> bool {
    let is_mounted_read_only =
        rustix::fs::fstatvfs(file).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    if metadata.mode() & 0o222 != 0 && !is_mounted_read_only {
        return false;
    }
    // Secrets are often reached through symbolic links.
    let Ok(real) = path.canonicalize() else {
        return false;
    };
    let is_same = |found: Metadata| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino());
    let directory = real
        .parent()
        .and_then(|directory| directory.metadata().ok());
    real.symlink_metadata().is_ok_and(is_same)
        && directory.is_some_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
}

/// A pipe whose data is awaited only for a limited time.
struct Pipe<'a> {
    file: &'a File,
    deadline: Instant,
}

impl<'a> Pipe<'a> {
    fn new(file: &'a File) -> Self {
        let deadline = Instant::now() + PIPE_DEADLINE;
        Self { file, deadline }
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::other(format!(
                    "nothing came out of the pipe within {} s",
                    PIPE_DEADLINE.as_secs()
                )));
            }
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(self.file, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            match self.file.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// Returns the first line without its end (LF or CRLF) and without a byte order mark.
fn first_line(input: impl BufRead) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE as usize));
    input.take(MAX_LINE).read_until(b'\n', &mut line)?;
    let text = std::str::from_utf8(&line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not valid UTF-8"))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned().into())
}

/// Applies the rule for every source of a password: one line that is not empty.
fn checked(password: Zeroizing<String>) -> Result<Zeroizing<String>, CommandFailure> {
    if password.is_empty() {
        return Err(CommandFailure::usage("the password is empty"));
    }
    if password.len() as u64 > MAX_BYTES {
        return Err(CommandFailure::usage(format!(
            "the password is longer than {MAX_BYTES} bytes"
        )));
    }
    if password.contains(['\n', '\r', '\0']) {
        return Err(CommandFailure::usage("the password must be a single line"));
    }
    Ok(password)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsString;
    use std::fs::Permissions;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn source(text: &str) -> PasswordSource {
        PasswordSource::new(&OsString::from(text).into())
            .unwrap_or_else(|e| panic!("{}", e.message))
    }

    fn file_with(mode: u32, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn argument_is_password_prompt_or_file() {
        assert!(source("pw") == PasswordSource::Literal("pw".to_owned().into()));
        assert!(source("-") == PasswordSource::Ask);
        assert!(source("@/a b") == PasswordSource::File("/a b".into()));
        for stdin in ["@/dev/stdin", "@/dev/fd/0"] {
            assert!(source(stdin) == PasswordSource::Ask);
        }
        assert!(source("-x") == PasswordSource::Literal("-x".to_owned().into()));
        for bad in ["", "a\nb"] {
            assert!(
                PasswordSource::new(&OsString::from(bad).into()).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_first_line_counts_without_its_end() {
        for text in [
            "a b",
            "a b\n",
            "a b\r\n",
            "a b\nsecond\n",
            "\u{feff}a b\r\n",
        ] {
            assert_eq!(*first_line(text.as_bytes()).unwrap(), "a b");
        }
        assert!(first_line(&b"\xff\n"[..]).is_err());
    }

    #[test]
    fn an_endless_line_is_refused_not_read() {
        let line = first_line(BufReader::new(io::repeat(b'a'))).unwrap();
        assert!(checked(line).is_err());
    }

    #[test]
    fn a_private_file_is_read() {
        for mode in [0o600, 0o400] {
            let (_directory, path) = file_with(mode, b"pw\nnote\n");
            assert_eq!(*from_file(&path).unwrap(), "pw");
        }
    }

    #[test]
    fn foreign_password_file_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_directory, path) = file_with(0o600, b"pw\n");
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(from_file(&path).unwrap_err().contains("another user"));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        assert_eq!(*from_file(&path).unwrap(), "pw");
    }

    #[test]
    fn exposed_password_file_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o644, 0o422] {
            let (_directory, path) = file_with(mode, b"pw\n");
            assert!(from_file(&path).unwrap_err().contains("chmod 600"));
        }
        let (directory, path) = file_with(0o600, b"\n");
        assert!(from_file(&path).unwrap_err().contains("empty"));
        let refusal = from_file(directory.path()).unwrap_err();
        assert!(refusal.starts_with("neither a file nor a pipe"));
        assert!(from_file(&directory.path().join("none")).is_err());
    }

    #[test]
    fn password_owner_decides_readability() {
        let place = |owner, mode, is_secret| FileTrust {
            owner,
            mode,
            is_secret,
        };
        // Owned by the user or by root; readable by all if the system provides it read-only.
        for accepted in [
            place(7, 0o600, false),
            place(0, 0o400, false),
            place(0, 0o444, true),
            place(0, 0o644, true),
            place(0, 0o440, true),
            place(7, 0o444, true),
        ] {
            assert_eq!(accepted.check(7), Ok(()), "{accepted:?}");
        }
        for refused in [
            place(0, 0o444, false),
            place(7, 0o440, false),
            place(0, 0o464, true),
            place(8, 0o400, true),
        ] {
            let why = refused.check(7).unwrap_err();
            assert!(why.contains("chmod 600") || why.contains("a copy"), "{why}");
        }
    }

    #[test]
    fn exposed_container_secret_is_read() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for mode in [0o444, 0o440] {
            let (directory, path) = file_with(mode, b"pw\n");
            let link = directory.path().join("link");
            std::os::unix::fs::symlink("pw", &link).unwrap();
            let permit = |mode| {
                std::fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            };
            permit(0o755);
            for path in [&path, &link] {
                assert_eq!(*from_file(path).unwrap(), "pw");
            }
            // A user who can replace the file can change the password.
            for open in [0o775, 0o757, 0o1777] {
                permit(open);
                assert!(from_file(&path).unwrap_err().contains("others can read it"));
            }
            permit(0o755);
            std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
            assert!(from_file(&path).is_err());
        }
    }

    #[test]
    fn pipe_is_read_once_it_has_data() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        assert!(!PasswordSource::File(path.clone()).is_lasting());
        let reading = std::thread::spawn(move || from_file(&path));
        for part in ["p", "w\nsecond line"] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(*reading.join().unwrap().unwrap(), "pw");
        let (empty, closed) = io::pipe().unwrap();
        drop(closed);
        let path = PathBuf::from(format!("/proc/self/fd/{}", empty.as_raw_fd()));
        assert!(from_file(&path).unwrap_err().contains("empty"));
    }
}
