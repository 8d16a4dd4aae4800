//! What still holds of the answers to one question after changes: which members' parts, and
//! for which names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tinyp2p_net::model::{Name, PeerId};

use super::directory::MergedDirectory;
use super::freshness::{Freshness, Present};
use super::merge::may_be_conflict;
use super::pending_changes::Effect;

/// A listing that no longer holds for more names than this no longer holds at all.
pub(super) const MAX_CHANGED: usize = 1024;

/// What still holds of the answers to one question.
#[derive(Clone, Default)]
pub struct KeptReplies {
    /// The members whose answers still hold, sorted.
    pub members: Vec<PeerId>,
    /// The listing that contains their answers; without one, they said that they
    /// have nothing there.
    pub from: Option<Arc<MergedDirectory>>,
    /// When the first of them was asked.
    pub asked: Option<Instant>,
    /// Which members there were.
    pub revision: u64,
}

/// What changes have done to a listing.
#[derive(Default)]
pub(super) struct Doubts {
    /// The listing no longer holds for any member.
    pub(super) is_over: bool,
    /// The members whose part of it no longer holds.
    pub(super) over: BTreeSet<PeerId>,
    /// The members that reported changes of some names, or of the directory's own attributes.
    pub(super) partial: BTreeSet<PeerId>,
    /// These names, for which the listing no longer holds.
    names: BTreeSet<Name>,
}

impl KeptReplies {
    /// Keeps the watching members whose answer still `holds`.
    pub(super) fn of(
        freshness: &Freshness,
        present: Present,
        holds: impl Fn(&PeerId) -> bool,
    ) -> Self {
        if !freshness.is_promised(present.now) {
            return Self::default();
        }
        Self {
            members: freshness.watched.iter().copied().filter(holds).collect(),
            from: None,
            asked: Some(freshness.asked),
            revision: freshness.revision,
        }
    }

    /// Drops the members that are not `wanted`, and the listing if none are left.
    pub fn retain(&mut self, wanted: impl Fn(&PeerId) -> bool) {
        self.members.retain(wanted);
        if self.members.is_empty() {
            self.from = None;
        }
    }

    /// Returns true if `member` is one of them.
    pub fn has(&self, member: PeerId) -> bool {
        self.members.binary_search(&member).is_ok()
    }
}

impl Doubts {
    pub(super) fn apply(&mut self, member: PeerId, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Partial(names) => {
                self.partial.insert(member);
                self.names.extend(names);
                if self.names.len() > MAX_CHANGED {
                    self.names.clear();
                    self.over.append(&mut self.partial);
                }
            }
            Effect::Total => {
                self.over.insert(member);
            }
        }
    }

    pub(super) fn are_none(&self) -> bool {
        !self.is_over && self.over.is_empty() && self.partial.is_empty()
    }

    /// Returns true if there are no doubts about `name`.
    pub(super) fn spare(&self, name: &Name) -> bool {
        // The name of a conflict depends on other names.
        let has_names = self.names.contains(name) || may_be_conflict(name);
        !self.is_over && self.over.is_empty() && (self.names.is_empty() || !has_names)
    }
}
