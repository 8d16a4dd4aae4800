//! One member as something that can be called and read from.
//!
//! [`Peer`] is the seam between the engines (fan-out, download, membership) and the wire. The real
//! implementation speaks HTTP ([`crate::client`]). This node's own share is another
//! ([`crate::service::local_peer`]), and tests use one in memory that can be slow, cut off, lying
//! or gone (`testing`).

mod calls;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::model::{Attributes, ByteRange, PeerId, RelPath, Root, Version};
use crate::protocol::wire::{BatchAnswer, BatchItem, Request, Response};

use crate::transport::route::RouteState;

pub use calls::{Matches, Room, Watched, list, search, search_while, snapshot, stat};

/// A member of the network, or this node itself. Calls block, and return by their deadline.
pub trait Peer: Send + Sync {
    /// Returns the owner of this tree.
    fn id(&self) -> PeerId;

    /// Returns the address from which it answers, if it answers over the network.
    fn remote(&self) -> Option<IpAddr> {
        None
    }

    /// Performs one call. The response's variant matches that of the request; any other response is
    /// reported as [`Error::Misbehaved`].
    fn call(&self, request: &Request, deadline: Instant) -> Result<Response, Error>;

    /// Opens bytes `range` of the file at `path`, which must still be in `version`:
    /// [`Error::Changed`] if it is not, [`Error::NotFound`] if it is gone. `range` must not be
    /// empty and must lie within the file. The deadline covers the time to the first byte only.
    fn open(
        &self,
        path: &RelPath,
        version: Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<Box<dyn ByteStream>, Error>;

    /// Opens the content of `root` from the beginning of `range` on, from wherever the member has
    /// it: a file or the blocks that it has kept. Also returns how many bytes of `range` come, at
    /// least one; [`Error::NotFound`] when the first is missing. The bytes are not trusted until
    /// they are proven.
    fn open_content(
        &self,
        root: Root,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error>;

    /// Returns the shortest time in which it has answered so far, roughly the round trip. `None`
    /// before the first answer, and where nothing measures it.
    fn distance(&self) -> Option<Duration> {
        None
    }

    /// Returns the state of the way to it; `None` where there is none now, and for the share of
    /// this node itself.
    fn route(&self) -> Option<RouteState> {
        None
    }

    /// Fetches 1 to [`MAX_BATCH_FILES`](crate::protocol::wire::MAX_BATCH_FILES) small files in one
    /// exchange: one answer for each, in their order. A file that cannot be fetched is an answer;
    /// an error means that none was fetched.
    fn fetch(&self, files: &[BatchItem], deadline: Instant) -> Result<Vec<BatchAnswer>, Error>;
}

/// The purpose for which the attributes of a file are requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To show them. The size may stay unknown if it is not easily available.
    Size,
    /// To read the file next, in the state that they describe.
    Bytes,
}

/// A member that reports names but no sizes: a file's attributes are known only once all of
/// it was fetched.
pub trait Whole: Peer {
    /// Returns the attributes of the file at `path`, fetching it if necessary; then it can be read.
    ///
    /// # Errors
    /// With [`Purpose::Bytes`], [`Error::Unfinished`] when the file has not arrived by `deadline`
    /// but is still being fetched: call again. [`Error::NotFound`] if there is no such file.
    fn measure(
        &self,
        path: &RelPath,
        need: Purpose,
        deadline: Instant,
    ) -> Result<Attributes, Error>;
}

/// The bytes of one range, in order, as they arrive. Dropping it early closes the connection.
pub trait ByteStream: Send {
    /// Reads some bytes into `buffer`; returns 0 only when the whole range was delivered. A
    /// connection that ends early is an error, never a short file. Returns by `deadline`.
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error>;
}
