//! One question to every member, under one deadline.
//!
//! All members are asked at the same time, each on its own pool of threads. Answers that arrive by
//! the deadline count; the rest are reported as late. A member that does not answer blocks only
//! its own pool.
//!
//! The two most frequent questions of a filesystem, [`Fanout::list`] and [`Fanout::stat`], do not
//! wait for members that are slow each time (`slow_peers`), as long as another member has the
//! entry. A slow member's late answer about a directory is kept (`late_listings`) and counts when
//! the directory is listed again.

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

/// Calls that may wait for a slot; a member with this many is slow or frozen.
const WAITING_PER_MEMBER: usize = 64;

/// Questions that may wait for a slow member, beside [`CALLS_PER_MEMBER`]. The member may soon be
/// needed for another question, and a queue that takes longer than the deadline helps nobody.
const WAITING_FOR_SLOW: usize = 4;

/// If a question waited longer than this for a slot and then ran out of time, that says nothing
/// about its member: the questions that hold the slots do.
const QUEUED: Duration = Duration::from_millis(250);

/// The time for a listing of more entries depends on its size as much as on the member.
const SMALL_LISTING: usize = 1024;

/// One member's answer, or why there is none.
#[derive(Debug, Clone)]
pub struct PeerReply<T> {
    /// The member that was asked.
    pub member: PeerId,
    /// The member's display name; unique in the network.
    pub name: Arc<str>,
    /// The answer. An [`Error`] with [`Error::is_absence`] says nothing about what the member has.
    pub result: Result<T, Error>,
}

/// All answers to one question about what members share.
#[derive(Debug)]
pub struct QueryResult<T> {
    /// One for each member that was asked.
    pub answers: Vec<PeerReply<T>>,
    /// The members whose answers stay valid for [`PROMISE`](crate::config::PROMISE), unless a
    /// [`Listener`](super::subscriptions::ChangeListener) hears of a change first. Sorted.
    pub watched: Vec<PeerId>,
    /// True if `watched` includes every present member that was asked.
    pub is_all_watched: bool,
    /// The revision of the member list at the time of the question.
    pub revision: u64,
}

/// The members to ask.
#[derive(Clone, Default, Debug)]
pub struct Whom {
    /// Only this member, if any.
    pub only: Option<PeerId>,
    /// Members to skip, as their answers are known. Sorted.
    pub known: Vec<PeerId>,
    /// True if one of the known members has the entry, so that nobody has to wait for it.
    pub is_found: bool,
}

impl Whom {
    /// Selects all members but those that are `known`, one of which has the entry if `is_found`.
    pub fn besides(known: Vec<PeerId>, is_found: bool) -> Self {
        Self {
            only: None,
            known,
            is_found,
        }
    }

    /// Returns true if `member` is to be asked.
    pub fn includes(&self, member: PeerId) -> bool {
        self.only.is_none_or(|only| only == member) && self.known.binary_search(&member).is_err()
    }
}

/// A member to ask, with its display name.
#[derive(Clone)]
pub struct QueryTarget {
    /// The member's display name.
    pub name: Arc<str>,
    /// The member to ask.
    pub peer: Arc<dyn Peer>,
}

/// The replies to one question to many members so far.
struct PendingReplies<T> {
    /// One for each member, once it has arrived.
    results: Vec<Option<Result<T, Error>>>,
    /// How many answers of slow members are still to come.
    slow: usize,
    /// How many answers of all other members are still to come.
    prompt: usize,
    /// Delivers the answers, each with the index of its member.
    arriving: mpsc::Receiver<(usize, Result<T, Error>)>,
}

/// Asks many members the same thing at once.
pub struct Fanout {
    pools: PeerPools,
    /// For members that nobody waits for, so that their backlog does not make them seem frozen.
    slow_pools: PeerPools,
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
    /// Creates a fan-out with pools of its own, whose threads have this name: however many
    /// questions fill these pools, those of another fan-out do not wait. Listings take their
    /// memory from `budget`.
    pub fn new(name: &'static str, budget: Arc<ByteBudget>) -> Self {
        let late = Arc::default();
        let keeper: Weak<dyn Relieve> = Arc::downgrade(&late) as Weak<_>;
        budget.ask_for_room(keeper);
        Self {
            budget,
            pools: PeerPools::new(name, CALLS_PER_MEMBER, WAITING_PER_MEMBER),
            slow_pools: PeerPools::new("ask-slow", CALLS_PER_MEMBER, WAITING_FOR_SLOW),
            pace: Arc::default(),
            late,
        }
    }

    /// Returns the budget that its answers take their memory from.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// Puts `question` to all of `members` and returns one answer for each, in their order, by
    /// `deadline`. The question gets the deadline too and should end by it; if it does not, its
    /// answer is lost and its thread stays occupied until it ends.
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

    /// Asks `peer` to compute the missing roots of these files of its own soon. Does not wait: a
    /// member that is too busy is asked again later.
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
        // A full pool has more urgent things to do.
        let _ = self.pools.of(peer.id()).run(job);
    }

    /// Lists the whole of `directory` at each of `members`, the present members among `whom`, by
    /// `deadline`. Once another member has it, slow members are not waited for: their answer is an
    /// [`Error::Slow`], along with their last known listing of the directory, if any.
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

    /// Returns the attributes of `path` at each of `members`, by `deadline`. Once another member
    /// has it, slow members are not waited for: their answer is an [`Error::Slow`].
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

    /// Asks as [`Fanout::ask`] does, but waits for `slow` members only until all others have
    /// answered, if one of all these answers `suffices`, or an answer known before does.
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
                    // A slow member is not suspected, even if all of the time did not suffice: if
                    // it is gone, its next unanswered hello shows it.
                    Err(if slow.contains(&asked.peer.id()) {
                        Error::Slow { who }
                    } else {
                        Error::Timeout { who }
                    })
                }),
            })
            .collect()
    }

    /// Starts `question` on threads of each of `members`, on separate ones for `slow` members.
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
            let (pools, awaited, refusal) = if is_slow {
                (
                    &self.slow_pools,
                    &mut pending.slow,
                    Error::Slow { who: who() },
                )
            } else {
                (&self.pools, &mut pending.prompt, Error::Busy { who: who() })
            };
            let refused = refusal.clone();
            let job = move || {
                let no_wonder = is_slow || begun.elapsed() > QUEUED;
                let result = match question(&*peer, deadline) {
                    Err(Error::Timeout { .. }) if no_wonder => Err(refused),
                    result => result,
                };
                // If this comes too late, the caller has gone and nobody needs it.
                let _ = sender.send((index, result));
            };
            pending.results.push(match pools.of(id).run(job) {
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

/// Learns from the time that an answer took: a refusal says as much as a small answer. So does a
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
