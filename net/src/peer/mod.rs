//! One member as something that can be called and read from.
//!
//! [`Peer`] is the seam between the engines (fan-out, download, membership) and the wire. The real
//! one speaks HTTP ([`crate::client`]), this node's own share is one too
//! ([`crate::service::local_peer`]), and tests use one in memory that can be slow, cut off, lying
//! or gone (`testing`).

mod calls;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::model::{Attributes, ByteRange, PeerId, RelPath, Root, Version};
use crate::protocol::wire::{BatchAnswer, BatchItem, Request, Response};

pub use calls::{Matches, Room, Watched, list, search, search_while, snapshot, stat};

/// A member of the network, or this node itself. Calls block, and return by their deadline.
pub trait Peer: Send + Sync {
    /// Whose tree this is.
    fn id(&self) -> PeerId;

    /// The address from which it answers, if it answers over the network.
    fn remote(&self) -> Option<IpAddr> {
        None
    }

    /// One call. The response's variant is that of the request; anything else has become
    /// [`Error::Misbehaved`] already.
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

    /// Opens the content of `root` from the beginning of `range` on, wherever the member has it:
    /// in a file or among the blocks that it has kept. Gives how many bytes of `range` come, at
    /// least one; [`Error::NotFound`] when the first is not there. Nothing about them is sure
    /// before it is proven.
    fn open_content(
        &self,
        root: Root,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error>;

    /// The shortest time in which it has answered so far: about the way there and back. `None`
    /// before the first answer, and where nobody measures it.
    fn distance(&self) -> Option<Duration> {
        None
    }

    /// Fetches 1 to [`MAX_BATCH_FILES`](crate::protocol::wire::MAX_BATCH_FILES) small files in one
    /// exchange: one answer for each, in their order. A file that cannot be had is an answer; an
    /// error says that none was had.
    fn fetch(&self, files: &[BatchItem], deadline: Instant) -> Result<Vec<BatchAnswer>, Error>;
}

/// What the attributes of a file are needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To show them. If they are not easily had, it is all right not to know the size.
    Size,
    /// To read the file next, in the state that they describe.
    Bytes,
}

/// A member that tells names and no sizes: what a file is shows only once all of it was fetched.
pub trait Whole: Peer {
    /// The attributes of the file at `path`, which may be fetched for that; then it can be read.
    ///
    /// # Errors
    /// With [`Purpose::Bytes`], [`Error::Unfinished`] when the file has not come by `deadline` and
    /// goes on coming: to be asked for again. [`Error::NotFound`] if there is no such file.
    fn measure(
        &self,
        path: &RelPath,
        need: Purpose,
        deadline: Instant,
    ) -> Result<Attributes, Error>;
}

/// The bytes of one range, in order, as they arrive. Dropping it early gives the connection up.
pub trait ByteStream: Send {
    /// Reads some bytes into `buffer`; 0 only when the whole range was delivered. A connection that
    /// ends early is an error, never a short file. Returns by `deadline`.
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error>;
}
