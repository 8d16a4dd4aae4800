//! The interface to unencrypted protocols, which bring one call and take one
//! document per connection.
//!
//! An implementation decides what a call means. Connections, limits, deadlines and threads are up
//! to the server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::share::Share;

/// A protocol for unencrypted connections.
pub trait PlaintextProtocol: Send + Sync {
    /// Returns the maximum length of a call, in bytes.
    fn max_call_bytes(&self) -> usize;

    /// Returns a header field for every response: its name in lower case, and its value.
    fn response_field(&self) -> (&'static str, String);

    /// Reads the call in `document`, which came to `local`, an address of this machine. The error
    /// is the document to refuse it with. May compute for a while.
    fn accept(&self, document: &[u8], local: SocketAddr)
    -> Result<Box<dyn PlaintextCall>, Vec<u8>>;
}

/// A call that may be answered.
pub trait PlaintextCall: Send {
    /// Returns true if the answer may take seconds of computing.
    fn is_search(&self) -> bool;

    /// Executes the call, for a caller at `remote`. May wait for a disk.
    fn answer(&self, share: Option<&Share>, remote: IpAddr, now: Instant) -> PlaintextAnswer;
}

/// The document to send in response.
pub enum PlaintextAnswer {
    /// A whole document.
    Document(Vec<u8>),
    /// A document that is written while it is sent.
    Stream(Arc<dyn DocumentStream>),
}

/// A document that is too long for memory.
pub trait DocumentStream: Send + Sync {
    /// Returns its length in bytes.
    fn total_bytes(&self) -> u64;

    /// Returns the piece at `position` and the position behind it; `None` behind the last piece.
    /// Positions begin with 0 and mean nothing to the caller. May wait for a disk. An error ends
    /// the document early.
    fn piece(&self, position: u64) -> io::Result<Option<(Vec<u8>, u64)>>;
}
