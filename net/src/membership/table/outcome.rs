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
        let (has_share, refresh) = (self.has_share(network), self.refresh());
        let Some(entry) = self.members.get_mut(&id) else {
            return;
        };
        entry.turn += 1;
        if let Some(class) = entry.busy.take() {
            self.running[class] -= 1;
        }
        if !has_share {
            entry.network = network;
        }
        entry.address = Some(address.clone());
        entry.said_hello(id, refresh, now);
        if entry.state == State::Present {
            self.revision += 1;
            let (name, address) = (entry.name.clone(), address.clone());
            self.events
                .push(MembershipEvent::Rerouted(id, name, address));
        }
        self.arrived(id, now);
    }

    /// Marks `id`, which answers, as present. If it was not, notifies the others.
    fn arrived(&mut self, id: PeerId, now: Instant) {
        let Some(entry) = self.members.get_mut(&id) else {
            return;
        };
        entry.seen = now;
        entry.failures = 0;
        entry.doubted = false;
        let was = std::mem::replace(&mut entry.state, State::Present);
        let (name, address) = (entry.name.clone(), entry.address.clone());
        let away = std::mem::take(&mut entry.away);
        if was != State::Present {
            entry.since = now;
            self.revision += 1;
        }
        let (true, Some(address)) = (was == State::Unreached || away, address) else {
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
        let Some(entry) = self.members.get_mut(&id).filter(|e| e.turn == turn) else {
            return Verdict::Keep;
        };
        if let Some(class) = entry.busy.take() {
            self.running[class] -= 1;
        }
        match outcome {
            Ok(name) => {
                let (address, network) = (entry.address.clone(), entry.network);
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
        let Some(entry) = self.members.get_mut(&id) else {
            return Verdict::Close;
        };
        match error {
            // A local failure, or a member that is present but sends nonsense.
            Error::Busy { .. } | Error::Local { .. } => {
                entry.refresh_due = now + OWN_TROUBLE;
            }
            Error::Misbehaved { .. } | Error::Fault { .. } if entry.state == State::Present => {
                entry.trouble = Some((error.clone(), now));
            }
            // The call used a connection that has since been given up.
            Error::Moved { .. } => entry.hurry(now),
            // One more try, since the connection may only have been closed while it was idle.
            Error::Unreachable { .. } | Error::Timeout { .. }
                if entry.state == State::Present && entry.failures == 0 && !entry.doubted =>
            {
                entry.failures = 1;
                entry.hurry(now);
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
                entry.failures = entry.failures.saturating_add(1);
                entry.refresh_due = match error {
                    Error::Later { seconds, .. } => now + Duration::from_secs((*seconds).into()),
                    _ => now + PROBES.after(entry.failures, &id),
                };
                self.left(id, error, now);
            }
        }
        Verdict::Keep
    }

    /// Marks `id`, which does not answer, as away until it does, and tries its other addresses.
    fn left(&mut self, id: PeerId, error: &Error, now: Instant) {
        let Some(entry) = self.members.get_mut(&id) else {
            return;
        };
        if entry.state == State::Present {
            entry.since = now;
            self.revision += 1;
        }
        self.gossip.forget_answers();
        entry.state = State::Suspect;
        entry.trouble = Some((error.clone(), now));
        if !std::mem::replace(&mut entry.away, true) {
            self.events
                .push(MembershipEvent::Away(id, entry.name.clone(), error.clone()));
            self.book.seek(id, now);
        }
    }

    /// Notes that the address of the connection to `id` no longer leads to it.
    fn disconnected(&mut self, id: PeerId, error: &Error, now: Instant) {
        let Some(address) = self.members.get_mut(&id).and_then(|e| {
            e.turn += 1;
            e.address.take()
        }) else {
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
