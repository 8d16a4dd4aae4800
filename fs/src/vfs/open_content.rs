//! What the readers of an open file get: one content, which they may follow when the file grows.
//!
//! Handles that share the kernel's pages share this, too: once one of them follows the file, all
//! pages are of the new content.

use std::time::Instant;

use parking_lot::Mutex;
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{ContentId, PeerId, RelPath, Version};
use tinyp2p_net::peer::{self, Peer};
use tinyp2p_net::protocol::wire::{Snapshot, SnapshotRequest};

/// A content at the member that it is read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentState {
    /// The member to ask when the content must be found again, or has grown.
    pub member: PeerId,
    /// The file's version there.
    pub version: Version,
    /// The content, if its root is known; otherwise whatever the member has in this version.
    pub content: Option<ContentId>,
    /// Size in bytes.
    pub size: u64,
    /// How many times it was searched for again.
    pub renewals: u32,
}

impl ContentState {
    /// Returns the same file at the same member, with the content that the member has
    /// just `found` there.
    pub fn at(self, found: Snapshot) -> Self {
        Self {
            version: found.version,
            content: Some(found.content),
            size: found.content.size,
            ..self
        }
    }

    /// Asks its member what content the file at `path` had or has. The question says whether the
    /// file may be read for that, and with which content it may begin.
    pub fn ask(
        self,
        peer: &dyn Peer,
        path: &RelPath,
        (may_read, prefix): (bool, Option<ContentId>),
        deadline: Instant,
    ) -> Result<Snapshot, NetError> {
        let request = SnapshotRequest {
            path: path.clone(),
            version: self.version,
            size: self.size,
            may_read,
            prefix,
        };
        peer::snapshot(peer, &request, deadline)
    }

    /// Returns the content that the file had or, if its member cannot say, has now. Returns `None`
    /// if it has become another file, or shorter, so that it cannot just have grown.
    pub fn ask_whole(
        self,
        peer: &dyn Peer,
        path: &RelPath,
        deadline: Instant,
    ) -> Result<Option<Snapshot>, NetError> {
        let found = self.ask(peer, path, (true, None), deadline)?;
        let is_it = found.version.file() == self.version.file() && found.content.size >= self.size;
        Ok(is_it.then_some(found))
    }
}

/// The content of an open file.
#[derive(Debug)]
pub struct OpenContent {
    state: Mutex<ContentState>,
}

impl OpenContent {
    /// Creates a content that begins in `state`.
    pub fn new(state: ContentState) -> Self {
        Self {
            state: Mutex::new(state),
        }
    }

    /// What readers get now.
    pub fn state(&self) -> ContentState {
        *self.state.lock()
    }

    /// Returns true if `other` has the same bytes.
    pub fn is(&self, other: ContentState) -> bool {
        let state = self.state();
        match (state.content, other.content) {
            (Some(content), Some(other)) => content == other,
            _ => {
                (state.member, state.version, state.size)
                    == (other.member, other.version, other.size)
            }
        }
    }

    /// Moves on from `before` to `after`, unless another reader already has.
    pub fn go_on(&self, before: ContentState, after: ContentState) {
        let mut state = self.state.lock();
        if *state == before {
            *state = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinyp2p_net::model::Root;

    fn state(version: u64, root: Option<u8>, size: u64) -> ContentState {
        ContentState {
            member: PeerId::from_bytes([1; 32]),
            version: Version(version),
            content: root.map(|root| ContentId {
                root: Root::from_bytes([root; 32]),
                size,
            }),
            size,
            renewals: 0,
        }
    }

    #[test]
    fn contents_match_by_root_or_version_size() {
        let rooted = OpenContent::new(state(1, Some(7), 10));
        assert!(rooted.is(state(2, Some(7), 10)));
        assert!(!rooted.is(state(1, Some(8), 10)));
        assert!(rooted.is(state(1, None, 10)) && !rooted.is(state(2, None, 10)));
        let unknown = OpenContent::new(state(1, None, 10));
        assert!(unknown.is(state(1, None, 10)) && !unknown.is(state(1, None, 11)));
    }

    #[test]
    fn whoever_comes_late_changes_nothing() {
        let (first, second, third) = (state(1, None, 1), state(2, None, 2), state(3, None, 3));
        let content = OpenContent::new(first);
        content.go_on(first, second);
        content.go_on(first, third);
        assert_eq!(content.state(), second);
    }
}
