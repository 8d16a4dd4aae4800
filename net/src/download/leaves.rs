//! The proven part of a file's hash tree, as far as a reader is at work in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::client::Peer;
use crate::config::READ_DEADLINE;
use crate::error::Error;
use crate::merkle::{BLOCK, Leaves, SUBTREE_BLOCKS, SUBTREE_BYTES, Subtree};
use crate::types::Root;
use crate::wire::{HashesRequest, Request, Response};

/// Subtrees kept: 128 MiB of content, 256 KiB of hashes. More than a window and its tolerance, and
/// enough that random reads in a file of 1 GiB seldom ask twice.
const KEPT: usize = 128;

/// The leaves of one file.
pub(crate) struct LeafCache {
    root: Root,
    size: u64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_subtree: BTreeMap<u64, Used>,
    turn: u64,
}

/// Leaves, and the turn in which they were last asked for.
struct Used {
    turn: u64,
    leaves: Arc<Leaves>,
}

impl LeafCache {
    pub(crate) fn new(root: Root, size: u64) -> Self {
        Self {
            root,
            size,
            known: Mutex::default(),
        }
    }

    /// The leaves for the byte at `offset`: those at hand, or else proven ones from `peer`.
    pub(crate) fn get(&self, offset: u64, peer: &dyn Peer) -> Result<Arc<Leaves>, Error> {
        let index = offset / SUBTREE_BYTES;
        if let Some(leaves) = self.known(index) {
            return Ok(leaves);
        }
        let subtree = if self.size <= BLOCK {
            // The only leaf is the root itself.
            let leaves = vec![*self.root.as_bytes()];
            Subtree {
                first: 0,
                span: SUBTREE_BLOCKS,
                leaves,
                uncles: Vec::new(),
            }
        } else {
            self.ask(index, peer)?
        };
        let leaves = subtree.prove(self.root, self.size);
        let leaves = leaves.ok_or_else(|| Error::WrongBytes {
            who: peer.id().short(),
        })?;
        let leaves = Arc::new(leaves);
        self.remember(index, Arc::clone(&leaves));
        Ok(leaves)
    }

    fn ask(&self, index: u64, peer: &dyn Peer) -> Result<Subtree, Error> {
        let first = index * SUBTREE_BLOCKS;
        let request = HashesRequest {
            root: self.root,
            first,
            span: SUBTREE_BLOCKS,
        };
        match peer.call(&Request::Hashes(request), Instant::now() + READ_DEADLINE)? {
            Response::Hashes(subtree) => Ok(subtree),
            _ => Err(Error::misbehaved(
                peer.id().short(),
                "an answer to another question",
            )),
        }
    }

    fn known(&self, index: u64) -> Option<Arc<Leaves>> {
        let mut known = self.known.lock();
        known.turn += 1;
        let turn = known.turn;
        let used = known.by_subtree.get_mut(&index)?;
        used.turn = turn;
        Some(Arc::clone(&used.leaves))
    }

    fn remember(&self, index: u64, leaves: Arc<Leaves>) {
        let mut known = self.known.lock();
        let turn = known.turn;
        known.by_subtree.insert(index, Used { turn, leaves });
        if known.by_subtree.len() > KEPT {
            let oldest = known.by_subtree.iter().min_by_key(|(_, used)| used.turn);
            let oldest = oldest.map(|(index, _)| *index);
            oldest.and_then(|index| known.by_subtree.remove(&index));
        }
    }
}
