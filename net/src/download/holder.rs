//! The members that have the bytes of a file, and what each has delivered.

use std::sync::Arc;
use std::time::Duration;

use super::content::Origin;
use crate::model::{RelPath, Version};
use crate::peer::Peer;

/// A member that may have a content, and how to request it there.
#[derive(Clone)]
pub struct FileSource {
    /// The member to ask.
    pub peer: Arc<dyn Peer>,
    /// The file's path in its share, or in another member's share if it only keeps blocks.
    pub path: RelPath,
    /// What it has.
    pub has: Availability,
    /// True for this node's own share.
    pub is_local: bool,
}

/// What a member has of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Availability {
    /// A file in this state that it claims has this content.
    File(Version),
    /// Possibly blocks that it read from others and kept.
    Blocks,
}

impl FileSource {
    pub(super) fn who(&self) -> String {
        self.peer.id().short()
    }

    /// Returns the origin of unproven bytes, if it claims a file of `size` bytes.
    pub(super) fn origin(&self, size: u64) -> Option<Origin> {
        let Availability::File(version) = self.has else {
            return None;
        };
        Some(Origin::new(self.peer.id(), &self.path, version, size))
    }

    /// Returns true unless it claims to have the whole content.
    pub(super) fn may_have_nothing(&self) -> bool {
        self.has == Availability::Blocks
    }
}

/// What a stream has delivered, to measure its holder.
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) bytes: u64,
    /// Time until the first usable byte.
    pub(crate) waited: Duration,
    pub(crate) elapsed: Duration,
}
