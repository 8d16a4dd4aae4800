//! Where connections wait for the token that their handshake needs.
//!
//! The queue decides; this file has its clock and the waiting connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use super::hello_line::Dice;
use super::hello_queue::{HandshakeThread, HelloQueue, HelloRates};
use crate::fairness::Familiarity;

type TurnSender = oneshot::Sender<HandshakeThread>;

pub(super) struct Turnstile {
    state: Mutex<State>,
    /// Notified when the clock is set too late for a caller.
    earlier: Notify,
}

struct State {
    queue: HelloQueue<TurnSender>,
    /// When the clock strikes next; `None` while it is stopped.
    strikes_at: Option<Instant>,
}

impl Turnstile {
    pub(super) fn new(rates: HelloRates) -> Self {
        Self {
            state: Mutex::new(State {
                queue: HelloQueue::new(rates, Dice::new(), Instant::now()),
                strikes_at: None,
            }),
            earlier: Notify::new(),
        }
    }

    /// Waits until a handshake with `remote` may begin; returns where it runs.
    pub(super) async fn pass(&self, remote: IpAddr, familiarity: Familiarity) -> HandshakeThread {
        let (ticket, turn) = oneshot::channel();
        let now = Instant::now();
        let gone = TurnSender::is_closed;
        let queue = |state: &mut State| state.queue.push(remote, familiarity, ticket, now, gone);
        queue(&mut self.state.lock());
        self.release(now);
        // A ticket is never dropped while its turn is awaited.
        turn.await.unwrap_or(HandshakeThread::Door)
    }

    /// Records that a member was admitted from `remote`.
    pub(super) fn promote(&self, remote: IpAddr) {
        let now = Instant::now();
        self.state.lock().queue.promote(remote, now);
        self.release(now);
    }

    /// Admits all callers whose turn it is, and sets the clock for the next.
    fn release(&self, now: Instant) {
        let mut state = self.state.lock();
        let (due, next) = state.queue.due(now, TurnSender::is_closed);
        let is_late = match (next, state.strikes_at) {
            (Some(next), Some(strikes_at)) => next < strikes_at,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_late {
            state.strikes_at = next;
        }
        drop(state);
        if is_late {
            self.earlier.notify_one();
        }
        for (ticket, thread) in due {
            // A caller that has left wastes one token.
            let _ = ticket.send(thread);
        }
    }

    /// Runs the clock, forever.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let strikes_at = self.state.lock().strikes_at;
            match strikes_at {
                None => self.earlier.notified().await,
                Some(at) => {
                    if timeout_at(at.into(), self.earlier.notified())
                        .await
                        .is_err()
                    {
                        self.state.lock().strikes_at = None;
                        self.release(Instant::now());
                    }
                }
            }
        }
    }
}
