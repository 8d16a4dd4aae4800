//! Members that sent other bytes than they claimed to have: recorded, and left out.

use super::Core;
use super::holder::{Availability, FileSource};
use crate::error::Error;
use crate::model::{ContentId, Root};

impl Core {
    /// Leaves out the sources that were shown not to have the content of `root`. Returns why if
    /// none is left.
    pub(super) fn drop_disproved(
        &self,
        sources: &mut Vec<FileSource>,
        root: Root,
    ) -> Option<Error> {
        let disproofs = self.disproofs.lock();
        let is_liar = |source: &FileSource| match source.has {
            Availability::File(version) => disproofs.has(source.peer.id(), version, root),
            Availability::Blocks => false,
        };
        let who = sources.iter().find(|source| is_liar(source))?.who();
        sources.retain(|source| !is_liar(source));
        sources.is_empty().then_some(Error::WrongBytes { who })
    }

    /// Records that `source` sent bytes that do not belong to the content it claims for a file.
    pub(super) fn blame(&self, source: &FileSource, content: Option<ContentId>) {
        self.ledger.blame(source.peer.id(), &source.path);
        tracing::warn!(
            peer = %source.peer.id(), path = %source.path,
            "wrong bytes: this member does not have the content that it names; not asked for this file again"
        );
        if let (Availability::File(version), Some(content)) = (source.has, content) {
            let member = source.peer.id();
            self.disproofs.lock().note(member, version, content.root);
        }
    }
}
