//! This node's own share as a [`Peer`]: the same answers as over the wire, without the wire.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Instant;

use super::Service;
use super::answer::answer;
use super::batch;
use crate::error::Error;
use crate::model::{ByteRange, CallSource, PeerId, RelPath, Root, Version};
use crate::peer::{ByteStream, Peer};
use crate::protocol::wire::{BatchAnswer, BatchItem, FaultCode, Request, Response};
use crate::share::{Asker, FormerFile, NoContent, SharedContent, SharedFile, is_changed};

/// This node's name in errors.
const WHO: &str = "this node";

/// This node, as its own member. Its calls wait for nothing but the local disk, so deadlines do
/// not apply to them.
pub struct LocalPeer {
    id: PeerId,
    service: Arc<Service>,
}

impl LocalPeer {
    /// Wraps `service` as a peer, under this node's own `id`.
    pub fn new(id: PeerId, service: Arc<Service>) -> Self {
        Self { id, service }
    }

    fn asker(&self) -> Asker {
        Asker::Member(self.id)
    }
}

impl Peer for LocalPeer {
    fn id(&self) -> PeerId {
        self.id
    }

    fn call(&self, request: &Request, _: Instant) -> Result<Response, Error> {
        let here = CallSource::Tcp(Ipv6Addr::LOCALHOST.into());
        answer(&self.service, self.id, here, request.clone()).map_err(|fault| Error::Fault {
            who: WHO.into(),
            fault,
        })
    }

    fn open(
        &self,
        path: &RelPath,
        version: Version,
        range: ByteRange,
        _: Instant,
    ) -> Result<Box<dyn ByteStream>, Error> {
        let who = || WHO.to_owned();
        let Some(share) = &self.service.share else {
            return Err(Error::NotFound { who: who() });
        };
        let file = share
            .open_file(path, self.asker())
            .map_err(|fault| match fault.code {
                FaultCode::NotFound | FaultCode::NotADirectory => Error::NotFound { who: who() },
                FaultCode::Forbidden => Error::Forbidden { who: who() },
                _ => Error::Fault { who: who(), fault },
            })?;
        let attributes = file.attributes();
        if attributes.version != version || range.end > file.size() {
            return Err(Error::Changed { who: who() });
        }
        Ok(Box::new(LocalStream {
            file,
            remaining: range,
        }))
    }

    /// Opens content of the share only: the caller checks this node's cache before it asks anybody.
    fn open_content(
        &self,
        root: Root,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        let not_found = || Error::NotFound { who: WHO.into() };
        let share = self.service.share.as_ref().ok_or_else(not_found)?;
        let content =
            share
                .open_content(root, range.start, deadline)
                .map_err(|error| match error {
                    NoContent::Gone => not_found(),
                    NoContent::Unknown => Error::Timeout { who: WHO.into() },
                    NoContent::Failed => {
                        Error::local("opening a shared file", "it cannot be told where it is")
                    }
                })?;
        let size = match &content {
            SharedContent::File(file) => file.size(),
            SharedContent::Former(file) => file.content().size,
        };
        let remaining = ByteRange::new(range.start, range.end.min(size));
        if remaining.is_empty() {
            return Err(not_found());
        }
        let stream: Box<dyn ByteStream> = match content {
            SharedContent::File(file) => Box::new(LocalStream { file, remaining }),
            SharedContent::Former(file) => Box::new(FormerStream {
                file,
                remaining,
                read: Vec::new(),
            }),
        };
        Ok((remaining.len(), stream))
    }

    fn fetch(&self, files: &[BatchItem], _: Instant) -> Result<Vec<BatchAnswer>, Error> {
        let Some(share) = &self.service.share else {
            return Ok(vec![BatchAnswer::NotFound; files.len()]);
        };
        let files = files
            .iter()
            .map(|file| batch::read(share, file, self.asker(), |_| true));
        Ok(files.map(|(_, answer)| answer).collect())
    }
}

struct LocalStream {
    file: SharedFile,
    remaining: ByteRange,
}

impl ByteStream for LocalStream {
    fn read(&mut self, buffer: &mut [u8], _: Instant) -> Result<usize, Error> {
        let max = usize::try_from(self.remaining.len()).unwrap_or(usize::MAX);
        let max = max.min(buffer.len());
        if max == 0 {
            return Ok(0);
        }
        match self.file.read_at(self.remaining.start, &mut buffer[..max]) {
            Ok(count) if count > 0 => {
                self.remaining.start += count as u64;
                Ok(count)
            }
            Err(error) if !is_changed(&error) => Err(Error::local("reading a shared file", error)),
            _ => Err(Error::Changed { who: WHO.into() }),
        }
    }
}

/// The part that a file still has of its former content.
struct FormerStream {
    file: FormerFile,
    /// The part not read yet.
    remaining: ByteRange,
    /// Bytes read but not handed out yet.
    read: Vec<u8>,
}

impl ByteStream for FormerStream {
    fn read(&mut self, buffer: &mut [u8], _: Instant) -> Result<usize, Error> {
        if self.read.is_empty() && !self.remaining.is_empty() {
            let read = self.file.read(self.remaining);
            let read = read.map_err(|error| Error::local("reading a shared file", error))?;
            self.read = read.ok_or_else(|| Error::Changed { who: WHO.into() })?;
            self.remaining.start += self.read.len() as u64;
        }
        let count = self.read.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.read[..count]);
        self.read.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::wire::StatRequest;
    use crate::server::harness::TestNode;

    fn local() -> (TestNode, LocalPeer) {
        let node = TestNode::start(1);
        let peer = LocalPeer::new(node.id(), node.service.clone());
        (node, peer)
    }

    fn open(
        peer: &LocalPeer,
        version: Version,
        range: ByteRange,
    ) -> Result<Box<dyn ByteStream>, Error> {
        let path = RelPath::new(b"f").unwrap();
        peer.open(&path, version, range, Instant::now())
    }

    #[test]
    fn calls_are_answered_from_the_share() {
        let (node, peer) = local();
        let version = node.put("f", b"0123456789");
        let request = Request::Stat(StatRequest {
            compare: false,
            watch: false,
            paths: vec![RelPath::new(b"f").unwrap(), RelPath::new(b"g").unwrap()],
        });
        let Response::Stat(answer) = peer.call(&request, Instant::now()).unwrap() else {
            panic!("another response");
        };
        assert_eq!(answer.attributes[0].unwrap().version, version);
        assert_eq!(answer.attributes[1], None);
    }

    #[test]
    fn range_is_read_exactly_to_its_end() {
        let (node, peer) = local();
        let version = node.put("f", b"0123456789");
        let mut stream = open(&peer, version, ByteRange::new(2, 5)).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer, Instant::now()).unwrap(), 3);
        assert_eq!(&buffer[..3], b"234");
        assert_eq!(stream.read(&mut buffer, Instant::now()).unwrap(), 0);
    }

    #[test]
    fn other_versions_bytes_are_never_given() {
        let (node, peer) = local();
        let old = node.put("f", b"0123456789");
        let mut begun = open(&peer, old, ByteRange::new(0, 10)).unwrap();
        node.put("f", b"98765432100");
        let changed = |error: Error| assert!(matches!(error, Error::Changed { .. }), "{error}");
        changed(begun.read(&mut [0; 8], Instant::now()).unwrap_err());
        changed(open(&peer, old, ByteRange::new(0, 10)).err().unwrap());
    }

    #[test]
    fn batched_files_come_whole() {
        let (node, peer) = local();
        let path = |name: &[u8]| RelPath::new(name).unwrap();
        let item = |name: &[u8], version| BatchItem {
            path: path(name),
            version,
        };
        let files = [
            item(b"f", node.put("f", b"0123")),
            item(b"g", node.put("g", b"x")),
            item(b"gone", Version(1)),
        ];
        node.put("g", b"another");
        let answers = peer.fetch(&files, Instant::now()).unwrap();
        let whole = BatchAnswer::Whole(b"0123".to_vec());
        assert_eq!(
            answers,
            [whole, BatchAnswer::Changed, BatchAnswer::NotFound]
        );
    }

    #[test]
    fn what_is_not_shared_is_not_found() {
        let (_node, peer) = local();
        let error = open(&peer, Version(1), ByteRange::new(0, 1)).err().unwrap();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}
