//! One question to every member, under one deadline.
//!
//! Each member is asked on its own lane of threads, all at the same time; what has answered when
//! the deadline passes counts, and the rest is reported as late. A member that does not answer
//! holds its own lane and nothing else.
//!
//! The two questions that filesystems ask all day, [`Fanout::list`] and [`Fanout::stat`], do not
//! wait for members that are slow each time (`slow_peers`), as long as somebody else has what is
//! asked for. What these say too late of a directory is kept (`late_listings`) and counts when it
//! is listed again.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::late_listings::LateListings;
use super::slow_peers::SlowPeers;
use crate::budget::{ByteBudget, Held, Relieve};
use crate::concurrency::peer_pools::PeerPools;
use crate::config::CALL_DEADLINE;
use crate::error::Error;
use crate::model::{Attributes, PeerId, RelPath};
use crate::peer::{self, Peer, Watched};
use crate::protocol::wire::{Listing, Request, StatRequest};

/// Calls of one member that may be under way at once. More would only queue at its disk.
const CALLS_PER_MEMBER: usize = 4;

/// Calls that may wait for a place; a member that has this many is slow or frozen.
const WAITING_PER_MEMBER: usize = 64;

/// Questions that may wait for a slow member, beside [`CALLS_PER_MEMBER`]: it may be needed for
/// another one soon, and a queue that takes longer than the deadline is of no use to anybody.
const WAITING_FOR_SLOW: usize = 4;

/// A question that waited longer than this for a place says nothing about its member if it then ran
/// out of time: those that took the places do.
const QUEUED: Duration = Duration::from_millis(250);

/// The time that a listing of more entries takes says as much about its size as about the member.
const SMALL_LISTING: usize = 1024;

/// What one member said, or why it said nothing.
#[derive(Debug, Clone)]
pub struct PeerReply<T> {
    /// Who was asked.
    pub member: PeerId,
    /// How that member is shown to people; unique in the network.
    pub name: Arc<str>,
    /// What. An [`Error`] with [`Error::is_absence`] says nothing about what the member has.
    pub result: Result<T, Error>,
}

/// All answers to one question about what members share.
#[derive(Debug)]
pub struct QueryResult<T> {
    /// One for each member that was asked.
    pub answers: Vec<PeerReply<T>>,
    /// Those whose answers may be gone by for [`PROMISE`](crate::config::PROMISE), unless a
    /// [`Listener`](super::subscriptions::ChangeListener) is told otherwise. Sorted.
    pub watched: Vec<PeerId>,
    /// True if these are all who were asked and are there.
    pub is_all_watched: bool,
    /// Which members there were.
    pub revision: u64,
}

/// Whom to ask.
#[derive(Clone, Default, Debug)]
pub struct Whom {
    /// This member alone, if any.
    pub only: Option<PeerId>,
    /// Not these, as what they say is known. Sorted.
    pub known: Vec<PeerId>,
    /// True if one of the known has what is asked for, so that nobody has to wait for it.
    pub is_found: bool,
}

impl Whom {
    /// All members, whoever they are.
    pub fn everyone() -> Self {
        Self::default()
    }

    /// One of them.
    pub fn only(member: PeerId) -> Self {
        Self {
            only: Some(member),
            ..Self::default()
        }
    }

    /// True if `member` is to be asked.
    pub fn includes(&self, member: PeerId) -> bool {
        self.only.is_none_or(|only| only == member) && self.known.binary_search(&member).is_err()
    }
}

/// Someone to ask.
#[derive(Clone)]
pub struct QueryTarget {
    /// How the member is shown to people.
    pub name: Arc<str>,
    /// The member to ask.
    pub peer: Arc<dyn Peer>,
}

/// What one question to many members has brought so far.
struct PendingReplies<T> {
    /// One for each member, once it is there.
    results: Vec<Option<Result<T, Error>>>,
    /// How many are still to come of slow members.
    slow: usize,
    /// How many are still to come of all others.
    prompt: usize,
    /// By which they come, each with the index of its member.
    arriving: mpsc::Receiver<(usize, Result<T, Error>)>,
}

/// Asks many members the same thing at once.
pub struct Fanout {
    lanes: PeerPools,
    /// For those who are not waited for, so that their backlog does not make them seem frozen.
    slow_lanes: PeerPools,
    pace: Arc<Mutex<SlowPeers>>,
    late: Arc<LateListings>,
    budget: Arc<ByteBudget>,
}

impl Default for Fanout {
    fn default() -> Self {
        Self::new("ask", Arc::default())
    }
}

impl Fanout {
    /// A fan-out with lanes of its own, whose threads have this name: however many questions fill
    /// these, those of another do not wait. Listings take their memory from `budget`.
    pub fn new(name: &'static str, budget: Arc<ByteBudget>) -> Self {
        let late = Arc::default();
        let keeper: Weak<dyn Relieve> = Arc::downgrade(&late) as Weak<_>;
        budget.ask_for_room(keeper);
        Self {
            budget,
            lanes: PeerPools::new(name, CALLS_PER_MEMBER, WAITING_PER_MEMBER),
            slow_lanes: PeerPools::new("ask-slow", CALLS_PER_MEMBER, WAITING_FOR_SLOW),
            pace: Arc::default(),
            late,
        }
    }

    /// What its answers take their memory from.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// Puts `question` to all of `members` and returns one answer for each, in their order, by
    /// `deadline`. The question gets the deadline too and should end by it; if it does not, its
    /// answer is lost and its thread stays taken until it ends.
    pub fn ask<T, Q>(
        &self,
        members: &[QueryTarget],
        deadline: Instant,
        question: Q,
    ) -> Vec<PeerReply<T>>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        self.ask_promptly(
            members,
            (&HashSet::new(), false),
            deadline,
            question,
            |_| true,
        )
    }

    /// Asks `peer` to give files of its without a root one soon. Waits for nothing:
    /// whoever has no time for that now is asked again.
    pub fn compare(&self, peer: &Arc<dyn Peer>, paths: Vec<RelPath>) {
        let asked = Arc::clone(peer);
        let job = move || {
            let request = Request::Stat(StatRequest {
                paths,
                watch: false,
                compare: true,
            });
            if let Err(error) = asked.call(&request, Instant::now() + CALL_DEADLINE) {
                tracing::debug!(peer = ?asked.id(), %error, "was not asked to compare");
            }
        };
        // A full lane has more urgent things to do.
        let _ = self.lanes.of(peer.id()).run(job);
    }

    /// The whole of `directory` at every one of `members`, which are those among `whom` who are
    /// there, by `deadline`. Slow members are not waited for once somebody has it: their answer is
    /// an [`Error::Slow`], beside what they last said of the directory, if that is known.
    pub fn list(
        &self,
        members: &[QueryTarget],
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> Vec<PeerReply<Watched<Option<Held<Listing>>>>> {
        let slow = self.slow(members, whom);
        let (wanted, is_slow) = (directory.clone(), slow.clone());
        let (pace, late) = (Arc::clone(&self.pace), Arc::clone(&self.late));
        let budget = Arc::clone(&self.budget);
        let question = move |peer: &dyn Peer, deadline| {
            let begun = Instant::now();
            let answer = peer::list(peer, &wanted, &budget, deadline);
            let now = Instant::now();
            let is_small = |watched: &Watched<Option<Held<Listing>>>| {
                let listing = watched.answer.as_ref();
                listing.is_none_or(|listing| listing.entries.len() <= SMALL_LISTING)
            };
            note(&pace, peer, &answer, is_small, now - begun);
            if is_slow.contains(&peer.id()) && !matches!(&answer, Err(error) if error.is_absence())
            {
                let listing = answer
                    .as_ref()
                    .ok()
                    .and_then(|watched| watched.answer.as_ref());
                late.put(peer.id(), &wanted, listing, now);
            }
            answer
        };
        let slow = (&slow, whom.is_found);
        let mut answers = self.ask_promptly(members, slow, deadline, question, |watched| {
            watched.answer.is_some()
        });
        let now = Instant::now();
        let unanswered = answers.iter().filter(|answer| is_slow_error(answer));
        let earlier = unanswered.filter_map(|answer| {
            let listing = self.late.get(answer.member, directory, now)?;
            Some(PeerReply {
                member: answer.member,
                name: Arc::clone(&answer.name),
                result: Ok(Watched {
                    answer: Some(listing),
                    counter: None,
                }),
            })
        });
        let earlier: Vec<_> = earlier.collect();
        answers.extend(earlier);
        answers
    }

    /// The attributes of `path` at every one of `members`, by `deadline`. Slow members are not
    /// waited for once somebody has it: their answer is an [`Error::Slow`].
    pub fn stat(
        &self,
        members: &[QueryTarget],
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> Vec<PeerReply<Watched<Option<Attributes>>>> {
        let slow = self.slow(members, whom);
        let (path, pace) = (path.clone(), Arc::clone(&self.pace));
        let question = move |peer: &dyn Peer, deadline| {
            let begun = Instant::now();
            let answer = peer::stat(peer, &path, deadline);
            note(&pace, peer, &answer, |_| true, begun.elapsed());
            answer
        };
        let slow = (&slow, whom.is_found);
        self.ask_promptly(members, slow, deadline, question, |watched| {
            watched.answer.is_some()
        })
    }

    fn slow(&self, members: &[QueryTarget], whom: &Whom) -> HashSet<PeerId> {
        let asked = members.iter().map(|asked| asked.peer.id());
        self.pace.lock().slow(asked, whom.known.len())
    }

    /// As [`Fanout::ask`], but those who are `slow` are waited for only until all others have
    /// answered, if one of all these answers `suffices`, or what is known already does.
    fn ask_promptly<T, Q>(
        &self,
        members: &[QueryTarget],
        (slow, mut is_enough): (&HashSet<PeerId>, bool),
        deadline: Instant,
        question: Q,
        suffices: impl Fn(&T) -> bool,
    ) -> Vec<PeerReply<T>>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        let mut pending = self.put(members, slow, deadline, question);
        while pending.prompt > 0 || (pending.slow > 0 && !is_enough) {
            let left = deadline.saturating_duration_since(Instant::now());
            // Disconnection before every answer came means that a question panicked.
            let Ok((index, result)) = pending.arriving.recv_timeout(left) else {
                break;
            };
            if slow.contains(&members[index].peer.id()) {
                pending.slow -= 1;
            } else {
                pending.prompt -= 1;
            }
            is_enough |= result.as_ref().is_ok_and(&suffices);
            pending.results[index] = Some(result);
        }
        let named = members.iter().zip(pending.results);
        named
            .map(|(asked, result)| PeerReply {
                member: asked.peer.id(),
                name: Arc::clone(&asked.name),
                result: result.unwrap_or_else(|| {
                    let who = asked.name.to_string();
                    // A slow one is not suspected, even if all the time there was did not suffice:
                    // that it is gone shows when it does not answer its next hello.
                    Err(if slow.contains(&asked.peer.id()) {
                        Error::Slow { who }
                    } else {
                        Error::Timeout { who }
                    })
                }),
            })
            .collect()
    }

    /// Starts `question` on the threads of each of `members`, those of the `slow` ones apart.
    fn put<T, Q>(
        &self,
        members: &[QueryTarget],
        slow: &HashSet<PeerId>,
        deadline: Instant,
        question: Q,
    ) -> PendingReplies<T>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        let (question, begun) = (Arc::new(question), Instant::now());
        let (sender, arriving) = mpsc::channel();
        let mut pending = PendingReplies {
            results: Vec::with_capacity(members.len()),
            slow: 0,
            prompt: 0,
            arriving,
        };
        for (index, asked) in members.iter().enumerate() {
            let (peer, question, sender) = (
                Arc::clone(&asked.peer),
                Arc::clone(&question),
                sender.clone(),
            );
            let id = asked.peer.id();
            let who = || asked.name.to_string();
            let is_slow = slow.contains(&id);
            let (lanes, awaited, refusal) = if is_slow {
                (
                    &self.slow_lanes,
                    &mut pending.slow,
                    Error::Slow { who: who() },
                )
            } else {
                (&self.lanes, &mut pending.prompt, Error::Busy { who: who() })
            };
            let refused = refusal.clone();
            let job = move || {
                let no_wonder = is_slow || begun.elapsed() > QUEUED;
                let result = match question(&*peer, deadline) {
                    Err(Error::Timeout { .. }) if no_wonder => Err(refused),
                    result => result,
                };
                // The asker has gone when this comes too late; then nobody wants it.
                let _ = sender.send((index, result));
            };
            pending.results.push(match lanes.of(id).run(job) {
                Ok(()) => {
                    *awaited += 1;
                    None
                }
                Err(_) => Some(Err(refusal)),
            });
        }
        pending
    }
}

/// Learns from the time that an answer took: a refusal tells as much as a small answer. So does a
/// question that ran out of time, unless it had none to begin with: a member whose disk hangs
/// greets everybody and answers nothing.
fn note<T>(
    pace: &Mutex<SlowPeers>,
    peer: &dyn Peer,
    answer: &Result<T, Error>,
    is_small: impl Fn(&T) -> bool,
    took: Duration,
) {
    let says_something = match answer {
        Ok(answer) => is_small(answer),
        Err(Error::Fault { .. }) => true,
        Err(Error::Timeout { .. }) => took >= super::slow_peers::PROMPT,
        Err(_) => false,
    };
    if says_something {
        pace.lock().note(peer.id(), took);
    }
}

fn is_slow_error<T>(answer: &PeerReply<T>) -> bool {
    matches!(answer.result, Err(Error::Slow { .. }))
}
