//! Who has the bytes of a file, and what each has shown of itself.

use std::sync::Arc;
use std::time::Duration;

use super::content::Origin;
use crate::model::{RelPath, Version};
use crate::peer::Peer;

/// A member that may have a content, and how to ask it for that.
#[derive(Clone)]
pub struct FileSource {
    /// The member to ask.
    pub peer: Arc<dyn Peer>,
    /// Where the file lies in its share, or in that of others if it only keeps blocks.
    pub path: RelPath,
    /// What it has.
    pub has: Availability,
    /// True for this node's own share.
    pub is_local: bool,
}

/// What a member has of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Availability {
    /// A file in this state, of which it says that it has this content.
    File(Version),
    /// Blocks, perhaps, that it has read from others and kept.
    Blocks,
}

impl FileSource {
    pub(super) fn who(&self) -> String {
        self.peer.id().short()
    }

    /// Where unproven bytes of it come from, if it says that its file has `size` bytes.
    pub(super) fn origin(&self, size: u64) -> Option<Origin> {
        let Availability::File(version) = self.has else {
            return None;
        };
        Some(Origin::new(self.peer.id(), &self.path, version, size))
    }

    /// True unless it says that it has the whole.
    pub(super) fn may_have_nothing(&self) -> bool {
        match self.has {
            Availability::File(_) => false,
            Availability::Blocks => true,
        }
    }
}

/// What a stream has brought in, for the measure of its holder.
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) bytes: u64,
    /// Until the first byte could be used.
    pub(crate) waited: Duration,
    pub(crate) elapsed: Duration,
}
