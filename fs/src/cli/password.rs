//! Where the password comes from: the command line, the terminal, standard input or a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Failure;
use super::args::PasswordArgument;

/// The longest password that is read; nobody types more by intent.
const MAX_BYTES: u64 = 1024;

/// What a PASSWORD argument means.
#[derive(PartialEq, Eq)]
pub(super) enum Source {
    /// The argument is the password.
    Literal(Zeroizing<String>),
    /// `-`: the terminal, or the first line of standard input.
    Ask,
    /// `@FILE`: the first line of a file.
    File(PathBuf),
}

impl Source {
    /// Reads what was typed.
    pub(super) fn new(argument: &PasswordArgument) -> Result<Self, Failure> {
        let text = argument.as_os_str();
        match text.as_bytes() {
            b"-" => Ok(Self::Ask),
            [b'@', file @ ..] => Ok(Self::File(std::ffi::OsStr::from_bytes(file).into())),
            _ => {
                let text = text
                    .to_str()
                    .ok_or_else(|| Failure::usage("the password is not valid UTF-8"))?;
                checked(text.to_owned().into()).map(Self::Literal)
            }
        }
    }

    /// Gets the password. Waits for a person when there is a terminal to ask on.
    pub(super) fn read(self) -> Result<Zeroizing<String>, Failure> {
        match self {
            Self::Literal(password) => Ok(password),
            Self::Ask => ask(),
            Self::File(path) => from_file(&path)
                .map_err(|why| Failure::failed(format!("password file {}: {why}", path.display()))),
        }
    }
}

fn ask() -> Result<Zeroizing<String>, Failure> {
    let unreadable = |e: io::Error| Failure::failed(format!("cannot read the password: {e}"));
    if io::stdin().is_terminal() {
        let typed = rpassword::prompt_password("Password of the network: ");
        checked(typed.map_err(unreadable)?.into())
    } else {
        checked(first_line(io::stdin().lock()).map_err(unreadable)?)
    }
}

/// Reads the first line of a file that nobody else can read, as ssh demands it of keys.
fn from_file(path: &Path) -> Result<Zeroizing<String>, String> {
    // NONBLOCK: opening a FIFO must not wait for somebody to write into it.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| e.to_string())?;
    let metadata = file.metadata().map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err("it belongs to another user, who could change it".to_owned());
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(format!(
            "others can read or change it (mode {:04o}): run 'chmod 600' on it",
            metadata.mode() & 0o7777
        ));
    }
    let line = first_line(BufReader::new(file)).map_err(|e| e.to_string())?;
    checked(line).map_err(|e| e.message)
}

/// The first line without its end (LF or CRLF).
fn first_line(input: impl BufRead) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize + 2));
    input.take(MAX_BYTES + 2).read_until(b'\n', &mut line)?;
    let text = std::str::from_utf8(&line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not valid UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned().into())
}

/// The same rule whatever way a password takes: one line that is not empty.
fn checked(password: Zeroizing<String>) -> Result<Zeroizing<String>, Failure> {
    if password.is_empty() {
        return Err(Failure::usage("the password is empty"));
    }
    if password.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!(
            "the password is longer than {MAX_BYTES} bytes"
        )));
    }
    if password.contains(['\n', '\r', '\0']) {
        return Err(Failure::usage("the password must be a single line"));
    }
    Ok(password)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsString;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn source(text: &str) -> Source {
        Source::new(&OsString::from(text).into()).unwrap_or_else(|e| panic!("{}", e.message))
    }

    fn file_with(mode: u32, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn an_argument_is_a_password_a_question_or_a_file() {
        assert!(source("pw") == Source::Literal("pw".to_owned().into()));
        assert!(source("-") == Source::Ask);
        assert!(source("@/a b") == Source::File("/a b".into()));
        assert!(source("-x") == Source::Literal("-x".to_owned().into()));
        for bad in ["", "a\nb"] {
            assert!(Source::new(&OsString::from(bad).into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_first_line_counts_without_its_end() {
        for text in ["a b", "a b\n", "a b\r\n", "a b\nsecond\n"] {
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
    fn a_file_that_belongs_to_another_user_is_refused() {
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
    fn a_file_that_others_can_read_or_that_is_no_file_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let (_directory, path) = file_with(mode, b"pw\n");
            assert!(from_file(&path).unwrap_err().contains("chmod 600"));
        }
        let (directory, path) = file_with(0o600, b"\n");
        assert!(from_file(&path).unwrap_err().contains("empty"));
        assert!(from_file(directory.path()).is_err());
        assert!(from_file(&directory.path().join("none")).is_err());
    }
}
