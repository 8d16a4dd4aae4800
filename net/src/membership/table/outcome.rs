//! How the table takes in the outcome of a task.

use std::time::{Duration, Instant};

use super::{GOSSIP_DELAY, MemberTable, MembershipEvent, SAVE_DELAY, State, Verdict};
use crate::concurrency::backoff::Backoff;
use crate::error::Error;
use crate::model::{Address, PeerId};

/// The waits between probes of a suspect.
const PROBES: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(15),
};

/// After a local failure (no file descriptors left, say) a hello is repeated after this time.
const OWN_TROUBLE: Duration = Duration::from_secs(2);

impl MemberTable {
    /// Takes in the outcome of [`WorkerTask::Dial`](super::WorkerTask::Dial): who answered, and its
    /// own name for itself. `Keep` makes the new connection the one to that member from now on.
    pub(crate) fn dialled(
        &mut self,
        address: &Address,
        outcome: Result<(PeerId, &str), &Error>,
        now: Instant,
    ) -> Verdict {
        if let Some(class) = self.book.get(address).and_then(|c| c.dialling) {
            self.running[class] -= 1;
        }
        match outcome {
            Err(Error::Myself { .. }) => self.book.reached(address, self.me, now),
            Ok((id, _)) if id == self.me => self.book.reached(address, self.me, now),
            Err(error) => {
                let setback = self.book.failed(address, error, now);
                self.events.push(MembershipEvent::Failed(
                    address.clone(),
                    error.clone(),
                    setback,
                ));
            }
            Ok((id, name)) => {
                let network = self.network_of(address);
                self.book.reached(address, id, now);
                let state = self.sign_of_life(id, name, network, now);
                let is_better = self
                    .members
                    .get(&id)
                    .is_some_and(|e| e.is_improved_by(address));
                if matches!(state, Some(State::Unreached | State::Suspect)) || is_better {
                    self.connected(id, address, now);
                    return Verdict::Keep;
                }
            }
        }
        Verdict::Close
    }

    /// Handles a connection to `id` at `address` that has answered.
    fn connected(&mut self, id: PeerId, address: &Address, now: Instant) {
        let network = self.network_of(address);
        // A member in two networks counts in the one that has room.
        let (has_share, refresh) = (self.has_share(network), self.members.refresh());
        let busy = self.change(id, |entry| {
            entry.turn += 1;
            if !has_share {
                entry.network = network;
            }
            entry.address = Some(address.clone());
            entry.said_hello(id, refresh, now);
            let is_here = entry.state == State::Present;
            (entry.busy.take(), is_here.then(|| entry.name.clone()))
        });
        let (busy, rerouted) = busy.unwrap_or_default();
        if let Some(class) = busy {
            self.running[class] -= 1;
        }
        if let Some(name) = rerouted {
            self.revision += 1;
            self.events
                .push(MembershipEvent::Rerouted(id, name, address.clone()));
        }
        self.arrived(id, now);
    }

    /// Marks `id`, which answers, as present. If it was not, notifies the others.
    fn arrived(&mut self, id: PeerId, now: Instant) {
        let arrival = self.change(id, |entry| {
            entry.seen = now;
            entry.failures = 0;
            entry.doubted = false;
            let was = std::mem::replace(&mut entry.state, State::Present);
            if was != State::Present {
                entry.since = now;
            }
            let is_news = std::mem::take(&mut entry.away) || was == State::Unreached;
            let news = is_news.then(|| Some((entry.name.clone(), entry.address.clone()?)));
            (was, news.flatten())
        });
        let Some((was, news)) = arrival else {
            return;
        };
        self.revision += u64::from(was != State::Present);
        let Some((name, address)) = news else {
            return;
        };
        self.events.push(match was {
            State::Unreached => MembershipEvent::Joined(id, name, address),
            _ => MembershipEvent::Back(id, name, address),
        });
        self.save_due = self.save_due.or(Some(now + SAVE_DELAY));
        self.news_due = self.news_due.or(Some(now + GOSSIP_DELAY));
    }

    /// Takes in the outcome of [`WorkerTask::Hello`](super::WorkerTask::Hello) with that `turn`:
    /// the member's own name for itself.
    pub(crate) fn greeted(
        &mut self,
        id: PeerId,
        turn: u64,
        outcome: Result<&str, &Error>,
        now: Instant,
    ) -> Verdict {
        if self.members.get(&id).is_none_or(|entry| entry.turn != turn) {
            return Verdict::Keep;
        }
        let over = self.change(id, |entry| {
            let busy = entry.busy.take();
            (busy, entry.address.clone(), entry.network)
        });
        let Some((busy, address, network)) = over else {
            return Verdict::Keep;
        };
        if let Some(class) = busy {
            self.running[class] -= 1;
        }
        match outcome {
            Ok(name) => {
                self.sign_of_life(id, name, network, now);
                if let Some(address) = address {
                    self.book.reached(&address, id, now);
                }
                self.arrived(id, now);
                Verdict::Keep
            }
            Err(error) => self.unanswered(id, error, now),
        }
    }

    fn unanswered(&mut self, id: PeerId, error: &Error, now: Instant) -> Verdict {
        let Some(entry) = self.members.get(&id) else {
            return Verdict::Close;
        };
        let is_present = entry.state == State::Present;
        let is_first = is_present && entry.failures == 0 && !entry.doubted;
        match error {
            // A local failure, or a member that is present but sends nonsense.
            Error::Busy { .. } | Error::Local { .. } => {
                self.change(id, |entry| entry.refresh_due = now + OWN_TROUBLE);
            }
            Error::Misbehaved { .. } | Error::Fault { .. } if is_present => {
                self.change(id, |entry| entry.trouble = Some((error.clone(), now)));
            }
            // The call used a connection that has since been given up.
            Error::Moved { .. } => {
                self.change(id, |entry| entry.hurry(now));
            }
            // One more try, since the connection may only have been closed while it was idle.
            Error::Unreachable { .. } | Error::Timeout { .. } if is_first => {
                self.change(id, |entry| {
                    entry.failures = 1;
                    entry.hurry(now);
                });
            }
            Error::Refused { .. }
            | Error::NotANode { .. }
            | Error::OtherIdentity { .. }
            | Error::Myself { .. } => {
                self.left(id, error, now);
                self.disconnected(id, error, now);
                return Verdict::Close;
            }
            _ => {
                self.change(id, |entry| {
                    entry.failures = entry.failures.saturating_add(1);
                    entry.refresh_due = match error {
                        Error::Later { seconds, .. } => {
                            now + Duration::from_secs((*seconds).into())
                        }
                        _ => now + PROBES.after(entry.failures, &id),
                    };
                });
                self.left(id, error, now);
            }
        }
        Verdict::Keep
    }

    /// Marks `id`, which does not answer, as away until it does, and tries its other addresses.
    fn left(&mut self, id: PeerId, error: &Error, now: Instant) {
        let parting = self.change(id, |entry| {
            let was = std::mem::replace(&mut entry.state, State::Suspect);
            if was == State::Present {
                entry.since = now;
            }
            entry.trouble = Some((error.clone(), now));
            let was_away = std::mem::replace(&mut entry.away, true);
            (was, (!was_away).then(|| entry.name.clone()))
        });
        let Some((was, news)) = parting else {
            return;
        };
        self.revision += u64::from(was == State::Present);
        self.gossip.forget_answers();
        if let Some(name) = news {
            self.events
                .push(MembershipEvent::Away(id, name, error.clone()));
            self.book.seek(id, now);
        }
    }

    /// Notes that the address of the connection to `id` no longer leads to it.
    fn disconnected(&mut self, id: PeerId, error: &Error, now: Instant) {
        let address = self.change(id, |entry| {
            entry.turn += 1;
            entry.address.take()
        });
        let Some(address) = address.flatten() else {
            return;
        };
        match error {
            Error::OtherIdentity { .. } => self.book.release(&address, now),
            error => {
                let setback = self.book.failed(&address, error, now);
                self.events
                    .push(MembershipEvent::Failed(address, error.clone(), setback));
            }
        }
    }
}
