//! One question to every member, under one deadline.
//!
//! Each member is asked on its own lane of threads, all at the same time; what has answered when
//! the deadline passes counts, and the rest is reported as late. A member that does not answer
//! holds its own lane and nothing else.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use crate::client::Peer;
use crate::error::Error;
use crate::lanes::Lanes;
use crate::types::PeerId;

/// Calls of one member that may be under way at once. More would only queue at its disk.
const CALLS_PER_MEMBER: usize = 4;

/// Calls that may wait for a place; a member that has this many is slow or frozen.
const WAITING_PER_MEMBER: usize = 64;

/// What one member said, or why it said nothing.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// Who.
    pub member: PeerId,
    /// How that member is shown to people; unique in the network.
    pub name: Arc<str>,
    /// What. An [`Error`] with [`Error::is_absence`] says nothing about what the member has.
    pub result: Result<T, Error>,
}

/// All answers to one question about what members share.
#[derive(Debug, Clone)]
pub struct Round<T> {
    /// One for each member.
    pub answers: Vec<Answer<T>>,
    /// True if every member that is there has answered, and they will all be heard of when what they said no longer
    /// holds: the answers may be gone by for [`PROMISE`](crate::config::PROMISE), unless a
    /// [`Listener`](crate::follow::Listener) is told otherwise or `revision` is no longer the present one.
    pub watched: bool,
    /// Which members there were.
    pub revision: u64,
}

/// Someone to ask.
#[derive(Clone)]
pub struct Asked {
    /// How the member is shown to people.
    pub name: Arc<str>,
    /// The member.
    pub peer: Arc<dyn Peer>,
}

/// Asks many members the same thing at once.
pub struct Fanout {
    lanes: Lanes,
}

impl Default for Fanout {
    fn default() -> Self {
        Self::new("ask")
    }
}

impl Fanout {
    /// A fan-out with lanes of its own, whose threads have this name: however many questions fill
    /// these, those of another do not wait.
    pub fn new(name: &'static str) -> Self {
        Self {
            lanes: Lanes::new(name, CALLS_PER_MEMBER, WAITING_PER_MEMBER),
        }
    }

    /// Puts `question` to all of `members` and returns one answer for each, in their order, by
    /// `deadline`. The question gets the deadline too and should end by it; if it does not, its
    /// answer is lost and its thread stays taken until it ends.
    pub fn ask<T, Q>(&self, members: &[Asked], deadline: Instant, question: Q) -> Vec<Answer<T>>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        let question = Arc::new(question);
        let (sender, answers) = mpsc::channel();
        let mut results: Vec<Option<Result<T, Error>>> = Vec::with_capacity(members.len());
        let mut awaited = 0;
        for (index, asked) in members.iter().enumerate() {
            let (peer, question, sender) = (
                Arc::clone(&asked.peer),
                Arc::clone(&question),
                sender.clone(),
            );
            let job = move || {
                // The asker has gone when this comes too late; then nobody wants it.
                let _ = sender.send((index, question(&*peer, deadline)));
            };
            results.push(match self.lanes.of(asked.peer.id()).run(job) {
                Ok(()) => {
                    awaited += 1;
                    None
                }
                Err(_) => Some(Err(Error::Busy {
                    who: asked.name.to_string(),
                })),
            });
        }
        drop(sender);
        while awaited > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            // Disconnection before every answer came means that a question panicked.
            let Ok((index, result)) = answers.recv_timeout(left) else {
                break;
            };
            results[index] = Some(result);
            awaited -= 1;
        }
        let named = members.iter().zip(results);
        named
            .map(|(asked, result)| Answer {
                member: asked.peer.id(),
                name: Arc::clone(&asked.name),
                result: result.unwrap_or_else(|| {
                    Err(Error::Timeout {
                        who: asked.name.to_string(),
                    })
                }),
            })
            .collect()
    }
}
