//! Asking the members: what is kept of earlier answers, and what all others say.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{Attributes, Name, PeerId, RelPath};
use tinyp2p_net::query::fanout::{QueryResult, Whom};

use super::View;
use super::conflicts::SeenConflicts;
use super::directory::{Again, MergedDirectory, Said};
use super::freshness::{Freshness, Present};
use super::kept_replies::KeptReplies;
use super::memory::QueryStart;
use super::merge::EntrySource;
use super::replies::CollectedReplies;
use crate::errno::Error;
use crate::network::MemberRef;

/// What was made of the answers to one question.
pub(super) struct QueryOutcome<T> {
    pub(super) value: T,
    /// How long it holds.
    pub(super) freshness: Freshness,
}

/// What is kept of a listing, with room to merge it again.
#[derive(Default)]
struct KeptParts {
    /// All of it, if every member that has the directory is kept.
    whole: Option<(Arc<MergedDirectory>, Vec<Again>)>,
    /// Otherwise the parts of those that are.
    said: Vec<Said>,
}

impl View {
    /// Fetches the directory at `path`, from what is `kept` of it and what all others say.
    pub(super) fn fetch(
        &self,
        path: &RelPath,
        kept: KeptReplies,
        present: Present,
        begun: QueryStart,
        deadline: Instant,
    ) -> Result<QueryOutcome<Arc<MergedDirectory>>, Error> {
        let mut kept = self.still_there(kept, present);
        let parts = KeptParts::take(&mut kept);
        let whom = Whom::besides(kept.members.clone(), !parts.is_empty());
        let round = self.network.list(&whom, path, deadline);
        let freshness = freshness(&kept, begun, &round);
        let mut answers = CollectedReplies::sort(round.answers);
        if let Some(value) = parts.if_unchanged(&answers) {
            return Ok(QueryOutcome { value, freshness });
        }
        let mut said = parts.into_said();
        let fresh = std::mem::take(&mut answers.said).into_iter();
        said.extend(fresh.map(|(member, listing)| Said::fresh(member, listing)));
        let has_root = self.is_merged && path.is_root() && answers.failing.is_empty();
        if said.is_empty() && !has_root {
            return Err(self.why_nobody(path, &answers));
        }
        if !answers.silent.is_empty() {
            let silent = answers.silent.join(", ");
            tracing::debug!(directory = %path, %silent, "listed without everybody's answer");
        }
        let is_shown = |name: &Name| !self.is_reserved(path, name);
        let merged = MergedDirectory::merged(said, answers.silent, self.preferred, is_shown);
        let directory = merged.without(answers.failing);
        if self.is_merged {
            self.watch_conflicts(path, &directory);
        }
        let value = Arc::new(directory);
        Ok(QueryOutcome { value, freshness })
    }

    /// Returns why there is no directory at `path`, of which nobody named entries.
    fn why_nobody<T>(&self, path: &RelPath, answers: &CollectedReplies<T>) -> Error {
        if !answers.barred.is_empty() {
            let who = answers.barred.join(", ");
            return NetError::Forbidden { who }.into();
        }
        if !answers.failing.is_empty() {
            return Error::Failing(answers.failing.join(", "));
        }
        if !answers.silent.is_empty() {
            return Error::Silent(answers.silent.join(", "));
        }
        self.conflicts
            .lock()
            .update(path, &[], SeenConflicts::default());
        Error::NotFound
    }

    /// Records the conflicts in `directory`, and requests a comparison of contents that may
    /// be the same.
    fn watch_conflicts(&self, path: &RelPath, directory: &MergedDirectory) {
        let items = &directory.items;
        let is_disproved =
            |source: &EntrySource| self.network.is_disproved(source.member.id, source.version);
        let seen = SeenConflicts::among(items, is_disproved);
        self.conflicts.lock().update(path, items, seen);
        let wishes = self.comparing.wishes(path, items, Instant::now());
        if !wishes.is_empty() {
            self.network.compare(wishes);
        }
    }

    /// Asks what there is at `path`, whose last component is `name`. Skips the members whose
    /// answer is `kept`.
    pub(super) fn ask(
        &self,
        path: &RelPath,
        name: &Name,
        kept: &KeptReplies,
        begun: QueryStart,
        deadline: Instant,
    ) -> QueryOutcome<CollectedReplies<Attributes>> {
        let members = kept.members.iter();
        let known: Vec<(Arc<MemberRef>, Attributes)> = match kept.from.as_deref() {
            Some(listing) => members
                .filter_map(|member| listing.said_of(*member, name))
                .collect(),
            None => Vec::new(),
        };
        let whom = Whom::besides(kept.members.clone(), !known.is_empty());
        let round = self.network.stat(&whom, path, deadline);
        let freshness = freshness(kept, begun, &round);
        let mut value = CollectedReplies::sort(round.answers);
        value.denials += kept.members.len() - known.len();
        value.said.extend(known);
        QueryOutcome { value, freshness }
    }

    /// Returns what of `kept` is from members that are still present under the same names.
    pub(super) fn still_there(&self, mut kept: KeptReplies, present: Present) -> KeptReplies {
        if kept.members.is_empty() || kept.revision == present.revision {
            return kept;
        }
        kept.revision = present.revision;
        let peers = self.network.peers().into_iter();
        let there: BTreeSet<PeerId> = peers.map(|peer| peer.id()).collect();
        let names = self.network.members().into_iter();
        let names: HashMap<PeerId, Arc<str>> = names.map(|it| (it.id, it.name)).collect();
        let renamed: Vec<PeerId> = kept.from.as_deref().map_or_else(Vec::new, |listing| {
            let is_new = |member: &&MemberRef| names.get(&member.id) != Some(&member.name);
            let renamed = listing.members().filter(is_new);
            renamed.map(|member| member.id).collect()
        });
        let is_same = |member: &PeerId| there.contains(member) && !renamed.contains(member);
        kept.retain(is_same);
        kept
    }
}

impl KeptParts {
    /// Takes the parts out of `kept`.
    fn take(kept: &mut KeptReplies) -> Self {
        let Some(from) = kept.from.take() else {
            return Self::default();
        };
        let Some(again) = from.room(|member| kept.has(member)) else {
            // There is no room to merge them beside what is already held. There may be once that is
            // dropped, so all members are asked again.
            *kept = KeptReplies::default();
            return Self::default();
        };
        if again.len() == from.holders().count() {
            let whole = Some((from, again));
            return Self {
                whole,
                ..Self::default()
            };
        }
        // The others' parts are fetched again, and the old ones are not held until then.
        let said = again.into_iter().map(|again| from.say(again));
        Self {
            whole: None,
            said: said.collect(),
        }
    }

    fn is_empty(&self) -> bool {
        let whole = self.whole.as_ref();
        self.said.is_empty() && whole.is_none_or(|(_, again)| again.is_empty())
    }

    /// Returns the listing that they are of, if `answers` change nothing in it.
    fn if_unchanged<T>(&self, answers: &CollectedReplies<T>) -> Option<Arc<MergedDirectory>> {
        let (from, _) = self.whole.as_ref()?;
        let is_same = answers.said.is_empty()
            && (&answers.silent, &answers.failing) == (&from.silent, &from.failing);
        is_same.then(|| Arc::clone(from))
    }

    fn into_said(self) -> Vec<Said> {
        match self.whole {
            Some((from, again)) => again.into_iter().map(|again| from.say(again)).collect(),
            None => self.said,
        }
    }
}

/// Returns how long the answers of `round` hold, together with those that were `kept`.
fn freshness<T>(kept: &KeptReplies, begun: QueryStart, round: &QueryResult<T>) -> Freshness {
    let members = kept.members.iter().chain(&round.watched);
    let mut watched: Vec<PeerId> = members.copied().collect();
    watched.sort_unstable();
    watched.dedup();
    // No answer covers a member that has come or gone in between.
    let is_same = kept.members.is_empty() || kept.revision == round.revision;
    let asked_before = kept.asked.filter(|_| !kept.members.is_empty());
    Freshness {
        asked: asked_before.map_or(begun.asked, |asked| asked.min(begun.asked)),
        came: Instant::now(),
        watched: watched.into(),
        is_all_watched: round.is_all_watched && is_same,
        revision: round.revision,
        changes: begun.changes,
    }
}
