//! Questions to members: who is asked, what becomes of the answers, and how long they can
//! be relied on.

use super::Node;
use crate::budget::Held;
use crate::error::Error;
use crate::membership::Member;

use crate::model::{Attributes, PeerId, RelPath};
use crate::peer::{self, Matches, Peer, Room, Watched};
use crate::protocol::wire::Listing;
use crate::query::claims::FileClaims;
use crate::query::fanout::{PeerReply, QueryResult, QueryTarget, Whom};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl Node {
    /// Puts `question` to every present member, and returns one answer for each by `deadline`.
    /// Members known to be away get their answer at once: an [`Error::Unreachable`].
    pub fn ask<T, Q>(&self, deadline: Instant, question: Q) -> Vec<PeerReply<T>>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        self.gather(|_| true, |asked| self.fanout.ask(asked, deadline, question))
            .1
    }

    /// Asks those among `whom` as [`Node::ask`] does for the whole of `directory`, `None` where
    /// there is none; but see [`Fanout::list`](crate::query::fanout::Fanout::list). There is no
    /// answer at all for a member that is unknown.
    pub fn list(
        &self,
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Held<Listing>>> {
        let ask = |asked: &[QueryTarget]| self.fanout.list(asked, whom, directory, deadline);
        self.round(whom, ask)
    }

    /// Asks as [`Node::list`] does for the attributes of `path`, `None` where it is not shared;
    /// but see [`Fanout::stat`](crate::query::fanout::Fanout::stat).
    pub fn stat(
        &self,
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Attributes>> {
        let ask = |asked: &[QueryTarget]| self.fanout.stat(asked, whom, path, deadline);
        self.round(whom, ask)
    }

    /// Asks everyone, as [`Node::ask`] does, for the files whose name matches `pattern`. More
    /// matches of one member than there is `room` for are an error. However many searches are under
    /// way, other questions do not wait for them.
    pub fn search(
        &self,
        pattern: &str,
        room: Room,
        deadline: Instant,
    ) -> Vec<PeerReply<Held<Matches>>> {
        let pattern = pattern.to_owned();
        self.ask_for_search(deadline, move |peer: &dyn Peer, deadline| {
            let begun = Instant::now();
            let found = peer::search(peer, &pattern, &room, deadline);
            tracing::debug!(
                member = %peer.id().short(),
                matches = found.as_ref().map_or(0, |found| found.files.len()),
                microseconds = begun.elapsed().as_micros(),
                "searched"
            );
            found
        })
    }

    /// Asks as [`Node::ask`] does, for a search that no other question waits for.
    pub fn ask_for_search<T, Q>(&self, deadline: Instant, question: Q) -> Vec<PeerReply<T>>
    where
        T: FileClaims + Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        let ask = |asked: &[QueryTarget]| {
            let mut answers = self.searches.ask(asked, deadline, question);
            self.doubt(&mut answers);
            answers
        };
        self.gather(|_| true, ask).1
    }

    /// Asks members to compute the content roots of these files of theirs before those of others.
    /// Does not wait.
    pub fn compare(&self, files: BTreeMap<PeerId, Vec<RelPath>>) {
        for member in self.members.present() {
            if let Some(paths) = files.get(&member.id) {
                self.fanout.compare(&member.peer, paths.clone());
            }
        }
    }

    /// Removes from members' claims about their files those roots that were found to be wrong.
    fn doubt<T: FileClaims>(&self, answers: &mut [PeerReply<T>]) {
        for answer in answers {
            if let Ok(claims) = &mut answer.result {
                self.engine.disbelieve(answer.member, claims);
            }
        }
    }

    /// Returns the answers that `ask` gets from members among `whom`, and how long they stay valid.
    fn round<T: FileClaims>(
        &self,
        whom: &Whom,
        ask: impl FnOnce(&[QueryTarget]) -> Vec<PeerReply<Watched<T>>>,
    ) -> QueryResult<T> {
        // Read before anybody is asked, like the time: a member that arrives in between is not
        // among the answers.
        let (revision, now) = (self.members.revision(), Instant::now());
        let (present, mut answers) = self.gather(|member| whom.includes(member), ask);
        self.doubt(&mut answers);
        // The answers of present members come first, in their order.
        let theirs = present.iter().zip(&answers);
        let watched = theirs.filter_map(|(member, answer)| {
            let counter = answer.result.as_ref().ok()?.counter?;
            let is_followed = self.followers.follow(&member.peer, counter, now);
            is_followed.then_some(member.id)
        });
        let mut watched: Vec<PeerId> = watched.collect();
        watched.sort_unstable();
        let answers = answers.into_iter().map(|answer| PeerReply {
            member: answer.member,
            name: answer.name,
            result: answer.result.map(|told| told.answer),
        });
        QueryResult {
            answers: answers.collect(),
            is_all_watched: watched.len() == present.len(),
            watched,
            revision,
        }
    }

    /// Returns the present members that are `wanted`; the answers that `ask` gets from them, in
    /// their order, followed by an error for each wanted member that is away.
    fn gather<T>(
        &self,
        wanted: impl Fn(PeerId) -> bool,
        ask: impl FnOnce(&[QueryTarget]) -> Vec<PeerReply<T>>,
    ) -> (Vec<Member>, Vec<PeerReply<T>>) {
        // Read at one moment: a member that comes back while the others are asked does not pass for
        // one that has nothing.
        let (mut present, absent) = self.members.everyone();
        present.retain(|member| wanted(member.id));
        let asked = present.iter().map(|member| QueryTarget {
            name: Arc::clone(&member.name),
            peer: Arc::clone(&member.peer),
        });
        let asked: Vec<QueryTarget> = asked.collect();
        let mut answers = ask(&asked);
        for answer in &answers {
            if let Err(error) = &answer.result {
                self.members.report(answer.member, error);
            }
        }
        let absent = absent.into_iter().filter(|(member, _)| wanted(*member));
        answers.extend(absent.map(|(member, name)| {
            let away = Error::Unreachable {
                who: name.to_string(),
                why: "it is away".into(),
            };
            PeerReply {
                member,
                name,
                result: Err(away),
            }
        }));
        (present, answers)
    }
}
