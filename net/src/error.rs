//! Failures between two members, named by who is at fault.
//!
//! A caller decides by variant (retry, blame, pair, give up) and people read the `Display` text,
//! which is one line and says where it happened. Nothing here knows an errno: `tinyp2p-fs` has the
//! one table that maps these.

use std::io;

use crate::model::fault::Fault;

/// The outcome of asking another member, or this node's own share, for something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No connection was established, or it broke: refused, no route, name unknown, reset.
    #[error("{who} cannot be reached: {why}")]
    Unreachable {
        /// The address or member that was asked.
        who: String,
        /// The system's or the TLS library's reason.
        why: String,
    },
    /// The deadline passed first.
    #[error("{who} did not answer in time")]
    Timeout {
        /// The address or member that was asked.
        who: String,
    },
    /// Every worker that this member may occupy is already waiting for it.
    #[error("{who} is slow: too many requests are waiting for it")]
    Busy {
        /// The member that was asked.
        who: String,
    },
    /// It is slow each time and others have answered, so nobody waited for it.
    #[error("{who} is slow: the others' answers did not wait for it")]
    Slow {
        /// The member that was asked.
        who: String,
    },
    /// The pairing run failed: the member uses another password, or is not who it seems. The two
    /// are indistinguishable by design.
    #[error("{who} uses another password or is not a member")]
    Refused {
        /// The address that was dialled.
        who: String,
    },
    /// Too many wrong guesses reached that member recently, or too many left this node.
    #[error("{who} takes no new members for {seconds} s (too many wrong passwords lately)")]
    Later {
        /// The address that was dialled.
        who: String,
        /// How long to wait before the next try.
        seconds: u16,
    },
    /// Some other program answers there.
    #[error("{who} is not a TinyP2P node")]
    NotANode {
        /// The address that was dialled.
        who: String,
    },
    /// A node answers there, but not the one that was named or known.
    #[error("another node answers at {who} than the one expected there")]
    OtherIdentity {
        /// The address that was dialled.
        who: String,
    },
    /// The address leads back to this node.
    #[error("{who} is this node itself")]
    Myself {
        /// The address that was dialled.
        who: String,
    },
    /// The member broke the protocol; what it sent was dropped.
    #[error("{who} broke the protocol: {what}")]
    Misbehaved {
        /// Who was asked, for people.
        who: String,
        /// The rule that it broke.
        what: String,
    },
    /// The member sent bytes that do not belong to the content root; they were dropped.
    #[error("{who} sent bytes that are not those of the file")]
    WrongBytes {
        /// Who was asked, for people.
        who: String,
    },
    /// The member understood and declined.
    #[error("{who} answered: {fault}")]
    Fault {
        /// Who was asked, for people.
        who: String,
        /// What the member says is wrong.
        fault: Fault,
    },
    /// The connection was given up because the member now has another address. Ask again at once.
    #[error("{who} has another address by now")]
    Moved {
        /// The address at which it was asked.
        who: String,
    },
    /// There is no such file at that member.
    #[error("{who} does not have that file")]
    NotFound {
        /// Who was asked, for people.
        who: String,
    },
    /// That member shares the file but cannot read it itself.
    #[error("{who} may not read it: ask whoever shares it for the permission")]
    Forbidden {
        /// Who was asked, for people.
        who: String,
    },
    /// The content comes whole or not at all, and has not come yet.
    #[error("the file is still on its way from {who}: try again")]
    Unfinished {
        /// Who was asked, for people.
        who: String,
    },
    /// The file is no longer in the requested version.
    #[error("the file changed at {who}")]
    Changed {
        /// Who was asked, for people.
        who: String,
    },
    /// This node's own disk or system is at fault.
    #[error("{what}: {why}")]
    Local {
        /// What was being done.
        what: String,
        /// The system's reason.
        why: String,
    },
}

impl Error {
    /// Creates the error for a connection to `who` that was not established, or broke.
    pub fn unreachable(who: impl ToString, why: impl ToString) -> Self {
        Self::Unreachable {
            who: who.to_string(),
            why: why.to_string(),
        }
    }

    /// Creates the error for this node's own failure to do `what`.
    pub fn local(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Local {
            what: what.into(),
            why: why.to_string(),
        }
    }

    /// Creates the error for this node's own failure to do `what` in a directory. If another
    /// directory may work, the text names the `option` that selects one.
    pub fn local_place(what: impl Into<String>, why: io::Error, option: &str) -> Self {
        use io::ErrorKind::{
            NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
            StorageFull,
        };
        let is_of_place = matches!(
            why.kind(),
            NotADirectory
                | NotFound
                | PermissionDenied
                | QuotaExceeded
                | ReadOnlyFilesystem
                | StorageFull
        );
        let hint = if is_of_place {
            format!("; name another directory with {option}")
        } else {
            String::new()
        };
        Self::Local {
            what: what.into(),
            why: format!("{why}{hint}"),
        }
    }

    /// Creates the error for a rule that `who` broke.
    pub fn misbehaved(who: impl ToString, what: impl Into<String>) -> Self {
        Self::Misbehaved {
            who: who.to_string(),
            what: what.into(),
        }
    }

    /// Returns true if the member may be gone or frozen, so that others should not wait for it too.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Busy { .. }
        )
    }
}
