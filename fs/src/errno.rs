//! The errors of operations on the mount, and the one table that maps them to an errno.
//!
//! SEMANTICS.md shows the same table to people; a test compares the two.

use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::protocol::wire::FaultCode;
use tracing::Level;

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No member that answered has it.
    #[error("no such file or directory")]
    NotFound,
    /// A directory was expected.
    #[error("not a directory")]
    NotADirectory,
    /// A file was expected.
    #[error("is a directory")]
    IsADirectory,
    /// A name of more than 255 bytes, or a path of more than 4095.
    #[error("the name is too long")]
    NameTooLong,
    /// Everything in the mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// Nothing in the mount can be executed as a program by this operation.
    #[error("files of the mount are not executable")]
    NotExecutable,
    /// The kernel named an inode that it was never given, or has given back.
    #[error("unknown inode")]
    UnknownInode,
    /// The kernel named a handle that is not open.
    #[error("unknown handle")]
    UnknownHandle,
    /// The content of this inode is no longer offered; the name may lead to other content.
    #[error("the content has been replaced or its member has left")]
    Replaced,
    /// The file lacks this extended attribute, or does not have it yet.
    #[error("no such attribute")]
    NoAttribute,
    /// Extended attributes exist only in the namespace `user`.
    #[error("no such attribute namespace")]
    NoNamespace,
    /// No member that answered has the directory, but some member did not answer.
    #[error("{0} did not answer")]
    Silent(String),
    /// No member that knows has it, and some member answered that it cannot tell.
    #[error("{0} cannot tell: something failed there")]
    Failing(String),
    /// Another request is fetching the same listing and did not finish in time.
    #[error("the listing did not come in time")]
    Late,
    /// Every worker is busy and the queue is full.
    #[error("too many operations are waiting for the network")]
    Overloaded,
    /// Memory cannot answer it, and the caller may not wait here.
    #[error("only the network can tell")]
    NeedsNetwork,
    /// A member, or the connection to it, failed.
    #[error(transparent)]
    Network(#[from] NetError),
}

/// Returns the errno for `error`. This table is the only one of its kind.
pub fn errno(error: &Error) -> i32 {
    match error {
        Error::NotFound => libc::ENOENT,
        Error::NotADirectory => libc::ENOTDIR,
        Error::IsADirectory => libc::EISDIR,
        Error::NameTooLong => libc::ENAMETOOLONG,
        Error::ReadOnly => libc::EROFS,
        Error::NotExecutable => libc::EACCES,
        Error::UnknownHandle => libc::EBADF,
        // At an open, ESTALE makes the kernel repeat the lookup once before it gives up.
        Error::UnknownInode | Error::Replaced => libc::ESTALE,
        Error::NoAttribute => libc::ENODATA,
        Error::NoNamespace => libc::EOPNOTSUPP,
        Error::Silent(_) | Error::Failing(_) | Error::Late => libc::EIO,
        Error::Overloaded | Error::NeedsNetwork => libc::EAGAIN,
        Error::Network(error) => network_errno(error),
    }
}

/// Maps the failure of a member, which programs see only through open files. A file that is gone is
/// therefore a file that existed when it was opened.
fn network_errno(error: &NetError) -> i32 {
    match error {
        NetError::NotFound { .. } | NetError::Changed { .. } => libc::ESTALE,
        NetError::Fault { fault, .. } => match fault.code {
            FaultCode::NotFound => libc::ENOENT,
            FaultCode::NotADirectory => libc::ENOTDIR,
            FaultCode::Forbidden => libc::EACCES,
            FaultCode::NotWellFormed
            | FaultCode::InvalidRequest
            | FaultCode::MethodNotFound
            | FaultCode::InvalidParameters
            | FaultCode::Internal
            | FaultCode::LimitExceeded
            | FaultCode::BadPattern
            | FaultCode::UnsupportedVersion
            | FaultCode::Other(_) => libc::EIO,
        },
        NetError::Unfinished { .. } => libc::EAGAIN,
        NetError::Forbidden { .. } => libc::EACCES,
        NetError::Unreachable { .. }
        | NetError::Timeout { .. }
        | NetError::Busy { .. }
        | NetError::Slow { .. }
        | NetError::Refused { .. }
        | NetError::Later { .. }
        | NetError::NotANode { .. }
        | NetError::OtherIdentity { .. }
        | NetError::Myself { .. }
        | NetError::Misbehaved { .. }
        | NetError::Moved { .. }
        | NetError::WrongBytes { .. }
        | NetError::Local { .. } => libc::EIO,
    }
}

/// Returns the log level of a failure: quiet for what every program meets all day, loud for what
/// somebody should investigate.
pub fn level(error: &Error) -> Level {
    match error {
        Error::Network(
            NetError::Misbehaved { .. } | NetError::WrongBytes { .. } | NetError::Local { .. },
        ) => Level::WARN,
        Error::Overloaded => Level::WARN,
        Error::Network(NetError::Forbidden { .. }) => Level::DEBUG,
        Error::Network(_)
        | Error::Silent(_)
        | Error::Failing(_)
        | Error::Late
        | Error::Replaced => Level::INFO,
        _ => Level::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use tinyp2p_net::protocol::wire::Fault;

    use super::*;

    /// One error of each kind, with the name that SEMANTICS.md uses.
    fn all() -> Vec<(&'static str, Error)> {
        let who = || "ann".to_owned();
        let why = || "why".to_owned();
        let fault = |code| NetError::Fault {
            who: who(),
            fault: Fault::new(code, "why"),
        };
        vec![
            ("NotFound", Error::NotFound),
            ("NotADirectory", Error::NotADirectory),
            ("IsADirectory", Error::IsADirectory),
            ("NameTooLong", Error::NameTooLong),
            ("ReadOnly", Error::ReadOnly),
            ("NotExecutable", Error::NotExecutable),
            ("UnknownInode", Error::UnknownInode),
            ("UnknownHandle", Error::UnknownHandle),
            ("Replaced", Error::Replaced),
            ("NoAttribute", Error::NoAttribute),
            ("NoNamespace", Error::NoNamespace),
            ("Silent", Error::Silent(who())),
            ("Failing", Error::Failing(who())),
            ("Late", Error::Late),
            ("Overloaded", Error::Overloaded),
            ("Changed", NetError::Changed { who: who() }.into()),
            ("Gone", NetError::NotFound { who: who() }.into()),
            ("Fault: not found", fault(FaultCode::NotFound).into()),
            (
                "Fault: not a directory",
                fault(FaultCode::NotADirectory).into(),
            ),
            ("Fault: any other", fault(FaultCode::Internal).into()),
            ("Forbidden", NetError::Forbidden { who: who() }.into()),
            ("Fault: forbidden", fault(FaultCode::Forbidden).into()),
            ("Unfinished", NetError::Unfinished { who: who() }.into()),
            (
                "Unreachable",
                NetError::Unreachable {
                    who: who(),
                    why: why(),
                }
                .into(),
            ),
            ("Timeout", NetError::Timeout { who: who() }.into()),
            ("Busy", NetError::Busy { who: who() }.into()),
            ("Slow", NetError::Slow { who: who() }.into()),
            ("Refused", NetError::Refused { who: who() }.into()),
            (
                "Later",
                NetError::Later {
                    who: who(),
                    seconds: 1,
                }
                .into(),
            ),
            ("NotANode", NetError::NotANode { who: who() }.into()),
            (
                "OtherIdentity",
                NetError::OtherIdentity { who: who() }.into(),
            ),
            ("Myself", NetError::Myself { who: who() }.into()),
            ("Misbehaved", NetError::misbehaved("ann", "why").into()),
            ("Moved", NetError::Moved { who: who() }.into()),
            ("WrongBytes", NetError::WrongBytes { who: who() }.into()),
            (
                "Local",
                NetError::Local {
                    what: why(),
                    why: why(),
                }
                .into(),
            ),
        ]
    }

    fn number(name: &str) -> i32 {
        match name {
            "ENOENT" => libc::ENOENT,
            "ENOTDIR" => libc::ENOTDIR,
            "EISDIR" => libc::EISDIR,
            "ENAMETOOLONG" => libc::ENAMETOOLONG,
            "EROFS" => libc::EROFS,
            "EACCES" => libc::EACCES,
            "EBADF" => libc::EBADF,
            "ESTALE" => libc::ESTALE,
            "ENODATA" => libc::ENODATA,
            "EOPNOTSUPP" => libc::EOPNOTSUPP,
            "EIO" => libc::EIO,
            "EAGAIN" => libc::EAGAIN,
            other => panic!("SEMANTICS.md names {other}"),
        }
    }

    #[test]
    fn the_table_is_the_one_in_semantics_md() {
        let text = include_str!("../SEMANTICS.md");
        let section = text
            .split("\n## ")
            .find(|part| part.starts_with("Errors"))
            .unwrap();
        let rows: BTreeMap<&str, i32> = section
            .lines()
            .filter(|line| line.starts_with("| `E"))
            .flat_map(|line| {
                let mut cells = line.trim_matches('|').split('|').map(str::trim);
                let errno = number(cells.next().unwrap().trim_matches('`'));
                let causes = cells.next().unwrap().split(';').map(str::trim);
                causes.map(move |cause| (cause, errno))
            })
            .collect();
        let ours: BTreeMap<&str, i32> = all().iter().map(|(name, e)| (*name, errno(e))).collect();
        assert_eq!(ours, rows);
    }

    /// Collects the texts of all Rust files below `directory`.
    fn read_sources(directory: &Path, sources: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_sources(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_test_named_in_semantics_exists() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = Vec::new();
        for directory in ["src", "../net/src", "../tests"] {
            read_sources(&package.join(directory), &mut sources);
        }
        let quoted = include_str!("../SEMANTICS.md")
            .split('`')
            .skip(1)
            .step_by(2);
        let is_name = |word: &&str| {
            let mut chars = word.chars();
            chars.all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        let tests = quoted.filter(|word| word.matches('_').count() >= 2 && is_name(word));
        let mut count = 0;
        for test in tests {
            let function = format!("fn {test}(");
            assert!(
                sources.iter().any(|source| source.contains(&function)),
                "{test}"
            );
            count += 1;
        }
        assert!(count > 50, "{count} tests named");
    }

    #[test]
    fn everyday_errors_are_logged_quietly() {
        assert_eq!(level(&Error::NotFound), Level::DEBUG);
        assert_eq!(
            level(&NetError::misbehaved("ann", "lied").into()),
            Level::WARN
        );
    }
}
