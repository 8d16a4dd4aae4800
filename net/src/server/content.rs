//! `GET` and `HEAD /content/ROOT`: bytes by their content root, wherever this node has them.
//!
//! A file of the share comes first: it is whole and needs no proof. Next is a file that had the
//! content in another state or under another name: the bytes it still has are proven block by
//! block. Last comes the disk cache, so that a node that has read a file can supply it. The cache
//! may hold parts of a content; a request for a range gets as much of it as is here, from its
//! beginning. Anything else is 404.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::blocks::{Blocks, BlocksBody};
use super::body::{Body, FileBody};
use super::context::Caller;
use super::files::{refuse, with_bytes};
use super::http::status;
use super::range::{Decision, decide};
use super::work::Work;
use crate::concurrency::buffer_pool::BufferPool;
use crate::content::cache::DiskCache;
use crate::content::merkle::BLOCK;
use crate::model::{ByteRange, ContentId, Root};
use crate::service::Service;
use crate::share::{
    FormerFile, NoContent, Share, SharedContent, SharedFile, is_changed, retry_while_changing,
};

/// Time limit of the search for a renamed file, for the caller that waits for its bytes.
const SEARCH: Duration = Duration::from_secs(5);

/// Answers a GET or HEAD for the content whose root is spelled `root`.
pub(super) async fn serve<B>(request: &Request<B>, root: &str, caller: &Caller) -> Response<Body> {
    let root = match Root::from_str(root) {
        Ok(root) if request.uri().query().is_none() => root,
        _ => return status(StatusCode::NOT_FOUND),
    };
    let requested = ContentRequest {
        root,
        tag: format!("\"{root}\""),
        method: request.method().clone(),
        fields: request.headers().clone(),
        work: caller.connection.work.clone(),
        buffers: caller.context.buffers.clone(),
    };
    let service = caller.context.service.clone();
    let prepared = caller
        .connection
        .work
        .run(move || requested.answer(&service));
    prepared.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a content could not be served");
        status(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

struct ContentRequest {
    root: Root,
    tag: String,
    method: Method,
    fields: HeaderMap,
    work: Work,
    buffers: Arc<BufferPool>,
}

impl ContentRequest {
    /// Finds the content, decides what to send of it, and reads the first bytes, all in one visit
    /// to a blocking thread.
    fn answer(&self, service: &Service) -> Response<Body> {
        let until = Instant::now() + SEARCH;
        let shared = retry_while_changing(|| self.open_shared(service.share.as_deref(), until));
        let (shared, absence) = match shared {
            Ok(Ok(response)) => (Some(response), StatusCode::NOT_FOUND),
            Ok(Err(absence)) => (None, absence),
            Err(error) if is_changed(&error) => (None, StatusCode::SERVICE_UNAVAILABLE),
            Err(error) => {
                tracing::warn!(root = %self.root, %error, "a shared file cannot be read");
                (None, StatusCode::INTERNAL_SERVER_ERROR)
            }
        };
        let cached = || {
            let cache = service.cache.as_ref()?;
            self.send_cached(cache)
        };
        shared.or_else(cached).unwrap_or_else(|| status(absence))
    }

    /// Opens the shared file, or returns the status that says why not. The error is a read error.
    fn open_shared(
        &self,
        share: Option<&Share>,
        until: Instant,
    ) -> io::Result<Result<Response<Body>, StatusCode>> {
        let start = self.first_block() * BLOCK;
        let opened = share.map_or(Err(NoContent::Gone), |share| {
            share.open_content(self.root, start, until)
        });
        Ok(match opened {
            Ok(SharedContent::File(file)) => Ok(self.send_file(&Arc::new(file))?),
            Ok(SharedContent::Former(file)) => {
                let sent = self.send_former(Arc::new(file));
                sent.ok_or(StatusCode::NOT_FOUND)
            }
            Err(NoContent::Unknown) => Err(StatusCode::SERVICE_UNAVAILABLE),
            Err(NoContent::Failed) => Err(StatusCode::INTERNAL_SERVER_ERROR),
            Err(NoContent::Gone) => Err(StatusCode::NOT_FOUND),
        })
    }

    /// Answers from a shared file that has this content.
    fn send_file(&self, file: &Arc<SharedFile>) -> io::Result<Response<Body>> {
        let size = file.size();
        let (code, range) = match self.part_of(size) {
            Ok(part) => part,
            Err(refusal) => return Ok(*refusal),
        };
        let body = if self.method == Method::HEAD {
            Body::empty()
        } else {
            let work = self.work.clone();
            Body::file(FileBody::begin(file, range, work, &self.buffers)?)
        };
        Ok(with_bytes(code, body, &self.tag, range, size))
    }

    /// Answers from a shared file that had this content; `None` if it lacks the requested bytes.
    fn send_former(&self, file: Arc<FormerFile>) -> Option<Response<Body>> {
        let size = file.content().size;
        let (code, range) = match self.part_of(size) {
            Ok(part) => part,
            Err(refusal) => return Some(*refusal),
        };
        let body = if self.method == Method::HEAD {
            Body::empty()
        } else {
            let body = BlocksBody::begin(Blocks::Former(file), range, self.work.clone());
            Body::blocks(body?)
        };
        Some(with_bytes(code, body, &self.tag, range, size))
    }

    /// Answers from the cache; `None` if the beginning of the requested bytes is not here, or if
    /// the content is not here whole and no range was requested.
    fn send_cached(&self, cache: &Arc<DiskCache>) -> Option<Response<Body>> {
        let mut known = [self.first_block(), 0].into_iter();
        let size = known.find_map(|block| cache.size(self.root, block))?;
        let (code, wanted) = match self.part_of(size) {
            Ok(part) => part,
            Err(refusal) => return Some(*refusal),
        };
        let range = cache.held(self.root, wanted);
        if range.is_empty() || (code == StatusCode::OK && range != wanted) {
            return None;
        }
        let body = if self.method == Method::HEAD {
            Body::empty()
        } else {
            let root = self.root;
            let blocks = Blocks::Cached(cache.clone(), ContentId { root, size });
            Body::blocks(BlocksBody::begin(blocks, range, self.work.clone())?)
        };
        Some(with_bytes(code, body, &self.tag, range, size))
    }

    /// Returns the block that the answer begins with, where that does not depend on the size.
    fn first_block(&self) -> u64 {
        match decide(&self.method, &self.fields, &self.tag, u64::MAX) {
            Decision::Part(range) => range.start / BLOCK,
            _ => 0,
        }
    }

    /// Returns what to send of a content of `size` bytes, and with which status; otherwise the
    /// response that says why nothing is sent.
    fn part_of(&self, size: u64) -> Result<(StatusCode, ByteRange), Box<Response<Body>>> {
        match decide(&self.method, &self.fields, &self.tag, size) {
            Decision::Whole => Ok((StatusCode::OK, ByteRange::new(0, size))),
            Decision::Part(range) => Ok((StatusCode::PARTIAL_CONTENT, range)),
            refused => Err(Box::new(refuse(refused, &self.tag, size))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
