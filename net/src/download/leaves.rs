//! The proven part of a file's hash tree, as far as a reader is using it.
//!
//! Each leaf is usually requested only once, whichever stream needs it. A stream that reaches a
//! part of the file for which another stream has sent a request waits briefly for that answer, and
//! then asks its own holder as well.
//!
//! Before any leaf is handed out, the position of the last block is proven, and with it the number
//! of blocks. So a member that names a root for a file of the wrong length proves nothing at all.
//! That request is as short as its answer, and is sent alongside the first request for leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::READ_DEADLINE;
use crate::content::merkle::{BLOCK, Leaves, SUBTREE_BLOCKS, SUBTREE_BYTES, Subtree};
use crate::error::Error;
use crate::model::ContentId;
use crate::peer::Peer;
use crate::protocol::wire::{HashesRequest, Request, Response};

/// Subtrees kept: those of 1 GiB of content, with 6 MiB of hashes for a reader that jumps all over
/// a large file. More than a window and its tolerance, and enough that random reads within 1 GiB do
/// not request a subtree twice.
const KEPT: usize = 128;

/// How long a stream waits for another stream's request, whose holder may be frozen.
const SHARED_WAIT: Duration = Duration::from_millis(500);

/// The leaves of one file.
pub(crate) struct LeafCache {
    content: ContentId,
    /// The number of blocks that it claims to have.
    blocks: u64,
    known: Mutex<KnownLeaves>,
    changed: Condvar,
}

/// A part of the tree that is requested by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum TreePart {
    /// Where the last block lies, which proves the number of blocks.
    Size,
    /// The leaves of the subtree of this number.
    Subtree(u64),
}

#[derive(Default)]
struct KnownLeaves {
    by_part: BTreeMap<TreePart, UsedLeaves>,
    /// The parts for which a request is under way.
    asking: BTreeSet<TreePart>,
    turn: u64,
}

/// Leaves, and the sequence number of their last use.
struct UsedLeaves {
    turn: u64,
    leaves: Arc<Leaves>,
}

impl LeafCache {
    pub(crate) fn new(content: ContentId) -> Self {
        Self {
            content,
            blocks: content.size.div_ceil(BLOCK),
            known: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns the leaves for the byte at `offset`: those at hand, or else proven ones from `peer`.
    pub(crate) fn get(
        &self,
        offset: u64,
        peer: &dyn Peer,
        deadline: Instant,
    ) -> Result<Arc<Leaves>, Error> {
        if self.has(TreePart::Size) {
            self.get_part(TreePart::Size, peer, deadline)?;
        }
        self.get_part(TreePart::Subtree(offset / SUBTREE_BYTES), peer, deadline)
    }

    fn get_part(
        &self,
        part: TreePart,
        peer: &dyn Peer,
        deadline: Instant,
    ) -> Result<Arc<Leaves>, Error> {
        match self.known_soon(part, deadline) {
            Some(leaves) => Ok(leaves),
            None => self.fetch(part, peer, deadline),
        }
    }

    /// Returns true if there is such a part. The only subtree of a small file shows where it ends.
    fn has(&self, part: TreePart) -> bool {
        match part {
            TreePart::Size => self.blocks > SUBTREE_BLOCKS,
            TreePart::Subtree(index) => index * SUBTREE_BLOCKS < self.blocks,
        }
    }

    pub(crate) fn is_size_proven(&self) -> bool {
        let size = TreePart::Size;
        !self.has(size) || self.known.lock().by_part.contains_key(&size)
    }

    /// Returns true if `part` is neither known nor requested. The caller must then call
    /// [`LeafCache::get_ahead`] or [`LeafCache::give_up`].
    pub(crate) fn is_wanted(&self, part: TreePart) -> bool {
        let mut known = self.known.lock();
        self.has(part) && !known.by_part.contains_key(&part) && known.asking.insert(part)
    }

    /// Fetches a part that [`LeafCache::is_wanted`] reported as wanted.
    pub(crate) fn get_ahead(&self, part: TreePart, peer: &dyn Peer) {
        // A stream that needs it asks again and reports the error.
        let _ = self.fetch(part, peer, Instant::now() + READ_DEADLINE);
    }

    pub(crate) fn give_up(&self, part: TreePart) {
        self.end(part, None);
    }

    fn fetch(&self, part: TreePart, peer: &dyn Peer, by: Instant) -> Result<Arc<Leaves>, Error> {
        let leaves = self.prove(part, peer, by);
        self.end(part, leaves.as_ref().ok());
        leaves
    }

    fn prove(&self, part: TreePart, peer: &dyn Peer, by: Instant) -> Result<Arc<Leaves>, Error> {
        let subtree = match part {
            TreePart::Size => self.ask(self.blocks - 1, 1, peer, by)?,
            // The only leaf is the root itself.
            TreePart::Subtree(_) if self.content.size <= BLOCK => Subtree {
                first: 0,
                span: SUBTREE_BLOCKS,
                leaves: vec![*self.content.root.as_bytes()],
                uncles: Vec::new(),
            },
            TreePart::Subtree(index) => {
                self.ask(index * SUBTREE_BLOCKS, SUBTREE_BLOCKS, peer, by)?
            }
        };
        let leaves = subtree.prove(self.content);
        leaves.map(Arc::new).ok_or_else(|| Error::WrongBytes {
            who: peer.id().short(),
        })
    }

    fn ask(&self, first: u64, span: u64, peer: &dyn Peer, by: Instant) -> Result<Subtree, Error> {
        let request = HashesRequest {
            root: self.content.root,
            first,
            span,
        };
        match peer.call(&Request::Hashes(request), by)? {
            Response::Hashes(subtree) => Ok(subtree),
            _ => Err(Error::misbehaved(
                peer.id().short(),
                "an answer to another question",
            )),
        }
    }

    /// Returns the part if it is known, or becomes so while this waits for another stream's
    /// answer. On `None` the caller must send the request.
    fn known_soon(&self, part: TreePart, by: Instant) -> Option<Arc<Leaves>> {
        let deadline = by.min(Instant::now() + SHARED_WAIT);
        let mut known = self.known.lock();
        loop {
            if let Some(leaves) = known.get(part) {
                return Some(leaves);
            }
            if known.asking.insert(part) {
                return None;
            }
            if self.changed.wait_until(&mut known, deadline).timed_out() {
                return known.get(part);
            }
        }
    }

    /// Ends the request for `part`, with the answer if there was one.
    fn end(&self, part: TreePart, leaves: Option<&Arc<Leaves>>) {
        let mut known = self.known.lock();
        known.asking.remove(&part);
        if let Some(leaves) = leaves {
            known.put(part, Arc::clone(leaves));
        }
        drop(known);
        self.changed.notify_all();
    }
}

impl KnownLeaves {
    fn get(&mut self, part: TreePart) -> Option<Arc<Leaves>> {
        self.turn += 1;
        let used = self.by_part.get_mut(&part)?;
        used.turn = self.turn;
        Some(Arc::clone(&used.leaves))
    }

    /// Keeps a part: that of the size for good, as every use of the others looks it up.
    fn put(&mut self, part: TreePart, leaves: Arc<Leaves>) {
        let turn = self.turn;
        self.by_part.insert(part, UsedLeaves { turn, leaves });
        let subtrees = self.by_part.range(TreePart::Subtree(0)..);
        if subtrees.clone().count() > KEPT {
            let oldest = subtrees.min_by_key(|(_, used)| used.turn);
            let oldest = oldest.map(|(part, _)| *part);
            oldest.and_then(|part| self.by_part.remove(&part));
        }
    }
}
