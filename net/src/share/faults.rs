//! What callers are told when a request cannot be answered. It never names a path of this machine.

use rustix::io::Errno;

use super::errnos::is_absence;
use super::tree::aside::STUCK;
use crate::protocol::wire::{Fault, FaultCode};

/// Returns how many entries a page may have, given how many were requested.
pub(super) fn page_limit(wanted: u32, max: usize) -> Result<usize, Fault> {
    match usize::try_from(wanted).unwrap_or(max) {
        0 => Err(Fault::new(
            FaultCode::InvalidParameters,
            "a page holds at least one entry",
        )),
        wanted => Ok(wanted.min(max)),
    }
}

/// The fault of a request for changes when no answer had a counter.
pub(super) fn nothing_watched() -> Fault {
    Fault::new(FaultCode::NotFound, "this member does not watch its share")
}

/// The fault of a path that does not lead to anything served.
pub(super) fn fault(error: Errno) -> Fault {
    if is_absence(error) {
        Fault::new(FaultCode::NotFound, "no such file or directory")
    } else {
        internal(error)
    }
}

/// The fault of something that is served but cannot be opened.
pub(super) fn unreadable(error: Errno) -> Fault {
    match error {
        Errno::ACCESS | Errno::PERM => Fault::new(
            FaultCode::Forbidden,
            "the member who shares this may not read it",
        ),
        other => fault(other),
    }
}

/// The fault of a request that this machine has no time to answer in full.
pub(super) fn too_slow() -> Fault {
    Fault::new(FaultCode::LimitExceeded, "that takes too long")
}

/// The fault of a failing disk or system.
pub(super) fn internal(error: Errno) -> Fault {
    let message = match error {
        STUCK => "a file system at this member does not answer".to_owned(),
        other => other.to_string(),
    };
    Fault::new(FaultCode::Internal, message)
}
