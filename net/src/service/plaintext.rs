//! The seam to protocols without encryption, which bring one call and take one document for each
//! connection.
//!
//! Whoever implements it says what a call means. Connections, limits, deadlines and threads are the
//! server's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::share::Share;

/// A protocol that is answered where a connection is not encrypted.
pub trait PlaintextProtocol: Send + Sync {
    /// The longest call, in bytes.
    fn max_call_bytes(&self) -> usize;

    /// A header field that each response has: its name in lower case, and its value.
    fn response_field(&self) -> (&'static str, String);

    /// Reads the call in `document`, which came to `local`, an address of this machine. The error
    /// is the document to refuse it with. May compute for a while.
    fn accept(&self, document: &[u8], local: SocketAddr)
    -> Result<Box<dyn PlaintextCall>, Vec<u8>>;
}

/// A call that may be answered.
pub trait PlaintextCall: Send {
    /// True if the answer may take seconds of computing.
    fn is_search(&self) -> bool;

    /// Does what was asked, by somebody at `remote`. May wait for a disk.
    fn answer(&self, share: Option<&Share>, remote: IpAddr, now: Instant) -> PlaintextAnswer;
}

/// What to send.
pub enum PlaintextAnswer {
    /// A whole document.
    Document(Vec<u8>),
    /// A document that is written as it is sent.
    Stream(Arc<dyn DocumentStream>),
}

/// A document that is too long for memory.
pub trait DocumentStream: Send + Sync {
    /// How many bytes it has.
    fn total_bytes(&self) -> u64;

    /// The piece at `position` and the position behind it; `None` behind the last piece. Positions
    /// begin with 0 and mean nothing to the caller. May wait for a disk. An error ends the document
    /// before its end.
    fn piece(&self, position: u64) -> io::Result<Option<(Vec<u8>, u64)>>;
}
