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

#[derive(Default)]
struct KnownLeaves {
    by_subtree: BTreeMap<u64, UsedLeaves>,
    /// Subtrees for which a request is under way.
    asking: BTreeSet<u64>,
    turn: u64,
    size: SizeProof,
}

/// What is known of the number of blocks.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum SizeProof {
    #[default]
    None,
    Asking,
    Proven,
}

/// Leaves, and the sequence number of their last use.
struct UsedLeaves {
    turn: u64,
    leaves: Arc<Leaves>,
}

impl LeafCache {
    pub(crate) fn new(content: ContentId) -> Self {
        let blocks = content.size.div_ceil(BLOCK);
        let mut known = KnownLeaves::default();
        if blocks <= SUBTREE_BLOCKS {
            // Its only subtree shows where it ends.
            known.size = SizeProof::Proven;
        }
        Self {
            content,
            blocks,
            known: Mutex::new(known),
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
        if !self.is_size_proven_soon(deadline) {
            self.prove_size(peer, deadline)?;
        }
        let index = offset / SUBTREE_BYTES;
        match self.known_soon(index, deadline) {
            Some(leaves) => Ok(leaves),
            None => self.fetch(index, peer, deadline),
        }
    }

    /// Returns true if the size is not proven and no request is under way. The caller must then
    /// call [`LeafCache::prove_size`] or [`LeafCache::give_size_up`].
    pub(crate) fn is_size_wanted(&self) -> bool {
        let mut known = self.known.lock();
        let is_wanted = known.size == SizeProof::None;
        if is_wanted {
            known.size = SizeProof::Asking;
        }
        is_wanted
    }

    pub(crate) fn is_size_proven(&self) -> bool {
        self.known.lock().size == SizeProof::Proven
    }

    /// Requests from `peer` the proof of where the last block lies in the tree.
    pub(crate) fn prove_size(&self, peer: &dyn Peer, by: Instant) -> Result<(), Error> {
        let answer = self.ask(self.blocks - 1, 1, peer, by);
        let proven = answer.and_then(|subtree| {
            let leaves = subtree.prove(self.content);
            leaves.ok_or_else(|| Error::WrongBytes {
                who: peer.id().short(),
            })
        });
        self.end_size(if proven.is_ok() {
            SizeProof::Proven
        } else {
            SizeProof::None
        });
        proven.map(|_| ())
    }

    pub(crate) fn give_size_up(&self) {
        self.end_size(SizeProof::None);
    }

    fn end_size(&self, size: SizeProof) {
        let mut known = self.known.lock();
        if known.size != SizeProof::Proven {
            known.size = size;
        }
        drop(known);
        self.changed.notify_all();
    }

    /// Returns true if the size is proven, or becomes so while this waits for another stream's
    /// answer. If false, the caller must send the request.
    fn is_size_proven_soon(&self, by: Instant) -> bool {
        let deadline = by.min(Instant::now() + SHARED_WAIT);
        let mut known = self.known.lock();
        loop {
            match known.size {
                SizeProof::Proven => return true,
                SizeProof::None => {
                    known.size = SizeProof::Asking;
                    return false;
                }
                SizeProof::Asking => {}
            }
            if self.changed.wait_until(&mut known, deadline).timed_out() {
                return known.size == SizeProof::Proven;
            }
        }
    }

    /// Returns true if the leaves at `offset` are neither known nor requested. The caller must then
    /// call [`LeafCache::get_ahead`] or [`LeafCache::give_up`].
    pub(crate) fn is_wanted(&self, offset: u64) -> bool {
        let index = offset / SUBTREE_BYTES;
        let mut known = self.known.lock();
        offset < self.content.size
            && !known.by_subtree.contains_key(&index)
            && known.asking.insert(index)
    }

    /// Fetches leaves that [`LeafCache::is_wanted`] reported as wanted.
    pub(crate) fn get_ahead(&self, offset: u64, peer: &dyn Peer) {
        // A stream that needs them asks again and reports the error.
        let deadline = Instant::now() + READ_DEADLINE;
        let _ = self.fetch(offset / SUBTREE_BYTES, peer, deadline);
    }

    pub(crate) fn give_up(&self, offset: u64) {
        self.end(offset / SUBTREE_BYTES, None);
    }

    fn fetch(&self, index: u64, peer: &dyn Peer, by: Instant) -> Result<Arc<Leaves>, Error> {
        let leaves = self.prove(index, peer, by);
        self.end(index, leaves.as_ref().ok());
        leaves
    }

    fn prove(&self, index: u64, peer: &dyn Peer, by: Instant) -> Result<Arc<Leaves>, Error> {
        let subtree = if self.content.size <= BLOCK {
            // The only leaf is the root itself.
            let leaves = vec![*self.content.root.as_bytes()];
            Subtree {
                first: 0,
                span: SUBTREE_BLOCKS,
                leaves,
                uncles: Vec::new(),
            }
        } else {
            self.ask(index * SUBTREE_BLOCKS, SUBTREE_BLOCKS, peer, by)?
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

    /// Returns the leaves if they are known, or become so while this waits for another stream's
    /// answer. On `None` the caller must send the request.
    fn known_soon(&self, index: u64, by: Instant) -> Option<Arc<Leaves>> {
        let deadline = by.min(Instant::now() + SHARED_WAIT);
        let mut known = self.known.lock();
        loop {
            if let Some(leaves) = known.get(index) {
                return Some(leaves);
            }
            if known.asking.insert(index) {
                return None;
            }
            if self.changed.wait_until(&mut known, deadline).timed_out() {
                return known.get(index);
            }
        }
    }

    /// Ends the request for `index`, with the answer if there was one.
    fn end(&self, index: u64, leaves: Option<&Arc<Leaves>>) {
        let mut known = self.known.lock();
        known.asking.remove(&index);
        if let Some(leaves) = leaves {
            known.put(index, Arc::clone(leaves));
        }
        drop(known);
        self.changed.notify_all();
    }
}

impl KnownLeaves {
    fn get(&mut self, index: u64) -> Option<Arc<Leaves>> {
        self.turn += 1;
        let used = self.by_subtree.get_mut(&index)?;
        used.turn = self.turn;
        Some(Arc::clone(&used.leaves))
    }

    fn put(&mut self, index: u64, leaves: Arc<Leaves>) {
        let turn = self.turn;
        self.by_subtree.insert(index, UsedLeaves { turn, leaves });
        if self.by_subtree.len() > KEPT {
            let oldest = self.by_subtree.iter().min_by_key(|(_, used)| used.turn);
            let oldest = oldest.map(|(index, _)| *index);
            oldest.and_then(|index| self.by_subtree.remove(&index));
        }
    }
}
