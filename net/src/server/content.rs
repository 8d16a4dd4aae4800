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

use http::{Request, Response, StatusCode};

use super::blocks::Blocks;
use super::body::{Body, FilePieces, PieceSource};
use super::context::Caller;
use super::files::RangeRequest;
use super::http::internal;
use super::range::Decision;
use super::work::Work;
use crate::concurrency::buffer_pool::BufferPool;
use crate::content::cache::DiskCache;
use crate::content::merkle::BLOCK;
use crate::model::{ByteRange, ContentId, Root};
use crate::service::Service;
use crate::share::{NoContent, Share, SharedContent, is_changed, retry_while_changing};

/// Time limit of the search for a renamed file, for the caller that waits for its bytes.
const SEARCH: Duration = Duration::from_secs(5);

/// Answers a GET or HEAD for the content whose root is spelled `root`.
pub(super) async fn serve<B>(
    request: &Request<B>,
    root: &str,
    caller: &Caller,
) -> Result<Response<Body>, StatusCode> {
    let root = match Root::from_str(root) {
        Ok(root) if request.uri().query().is_none() => root,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    let requested = ContentRequest {
        root,
        tag: format!("\"{root}\""),
        range: RangeRequest::of(request),
        work: caller.connection.work.clone(),
        buffers: caller.context.buffers.clone(),
    };
    let service = caller.context.service.clone();
    let answering = move || requested.answer(&service);
    let answered = caller.connection.work.run(answering).await;
    answered.map_err(|error| internal(&error))?
}

struct ContentRequest {
    root: Root,
    tag: String,
    range: RangeRequest,
    work: Work,
    buffers: Arc<BufferPool>,
}

impl ContentRequest {
    /// Finds the content, decides what to send of it, and reads the first bytes, all in one visit
    /// to a blocking thread.
    fn answer(&self, service: &Service) -> Result<Response<Body>, StatusCode> {
        let until = Instant::now() + SEARCH;
        let shared = retry_while_changing(|| self.open_shared(service.share.as_deref(), until));
        let shared = shared.unwrap_or_else(|error| {
            if is_changed(&error) {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            tracing::warn!(root = %self.root, %error, "a shared file cannot be read");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        });
        shared.or_else(|absence| {
            let cache = service.cache.as_ref();
            let cached = cache.and_then(|cache| self.send_cached(cache));
            cached.ok_or(absence)
        })
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
            Ok(SharedContent::File(file)) => {
                let (size, buffers) = (file.size(), self.buffers.clone());
                Ok(self.send(Arc::new(FilePieces { file, buffers }), size)?)
            }
            // It may lack the requested bytes.
            Ok(SharedContent::Former(file)) => {
                let size = file.content().size;
                let sent = self.send(Arc::new(Blocks::Former(Box::new(file))), size);
                sent.map_err(|_| StatusCode::NOT_FOUND)
            }
            Err(NoContent::Unknown) => Err(StatusCode::SERVICE_UNAVAILABLE),
            Err(NoContent::Failed) => Err(StatusCode::INTERNAL_SERVER_ERROR),
            Err(NoContent::Gone) => Err(StatusCode::NOT_FOUND),
        })
    }

    /// Answers from a shared file that has, or had, this content.
    fn send(&self, source: Arc<dyn PieceSource>, size: u64) -> io::Result<Response<Body>> {
        match self.range.part_of(&self.tag, size) {
            Ok(part) => self.respond(part, size, source),
            Err(refusal) => Ok(*refusal),
        }
    }

    /// Answers from the cache; `None` if the beginning of the requested bytes is not here, or if
    /// the content is not here whole and no range was requested.
    fn send_cached(&self, cache: &Arc<DiskCache>) -> Option<Response<Body>> {
        let root = self.root;
        let mut known = [self.first_block(), 0].into_iter();
        let size = known.find_map(|block| cache.size(root, block))?;
        let (code, wanted) = match self.range.part_of(&self.tag, size) {
            Ok(part) => part,
            Err(refusal) => return Some(*refusal),
        };
        let range = cache.held(root, wanted);
        if range.is_empty() || (code == StatusCode::OK && range != wanted) {
            return None;
        }
        let blocks = Blocks::Cached(cache.clone(), ContentId { root, size });
        self.respond((code, range), size, Arc::new(blocks)).ok()
    }

    fn respond(
        &self,
        part: (StatusCode, ByteRange),
        size: u64,
        source: Arc<dyn PieceSource>,
    ) -> io::Result<Response<Body>> {
        let work = self.work.clone();
        self.range.respond(part, &self.tag, size, source, work)
    }

    /// Returns the block that the answer begins with, where that does not depend on the size.
    fn first_block(&self) -> u64 {
        match self.range.decide(&self.tag, u64::MAX) {
            Decision::Part(range) => range.start / BLOCK,
            _ => 0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
