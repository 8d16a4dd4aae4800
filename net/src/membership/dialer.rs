//! The threads that act on the table: they dial, exchange hellos, and save addresses.
//!
//! A fixed number of workers take tasks from the [table](super::table) one at a time and report the
//! outcome to it. Each task ends by a deadline, so a worker is never lost to a member that swallows
//! packets. The table ensures that such tasks do not take all workers.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::address;
use super::event_log;
use super::exchange;
use super::table::{MembershipEvent, Verdict, WORKERS, WorkerTask};
use super::{Members, MembersState, WakeTime};
use crate::auth::AddressSource;
use crate::config::connect_deadline;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::peer::Peer;
use crate::protocol::wire::{Hello, Request, Response};

/// Connecting takes at most [`connect_deadline`]; pairing, if needed, may take this much longer.
const PAIRING: Duration = Duration::from_secs(5);

/// A member that was just connected must answer its first hello within this time.
const FIRST_HELLO: Duration = Duration::from_secs(3);

/// Connects to a member at an address; the real implementation is the HTTP client.
pub(crate) trait Connect: Send + Sync {
    /// Dials `address`, pairs if necessary, and returns by `deadline`. `source` tells how this node
    /// learned the address.
    fn connect(
        &self,
        address: &Address,
        expected: Option<PeerId>,
        source: AddressSource,
        deadline: Instant,
    ) -> Result<Arc<dyn MemberLink>, Error>;
}

/// A lasting connection to a member: one for each, wherever it moves, so that readers can
/// go on reading.
pub(crate) trait MemberLink: Peer {
    /// Follows the member to `address`, which this node learned from `source`: holders of this link
    /// then reach it there.
    fn follow(&self, address: &Address, source: AddressSource);
    /// Notes that the route to the member may have changed.
    fn renew(&self);
    /// Ends calls under way, from any thread.
    fn cut(&self);
    /// Ends calls under way and allows no more, from any thread.
    fn close(&self);
}

/// Starts the workers of `members`.
pub(crate) fn start(members: &Arc<Members>) -> Result<(), Error> {
    for number in 0..WORKERS {
        let worker = members.clone();
        members.state.lock().workers += 1;
        let started = thread::Builder::new()
            .name(format!("members-{number}"))
            .spawn(move || worker.work());
        if let Err(why) = started {
            members.state.lock().workers -= 1;
            return Err(Error::local("starting a thread", why));
        }
    }
    Ok(())
}

impl Members {
    fn work(&self) {
        while let Some(task) = self.next_task() {
            match task {
                WorkerTask::Dial {
                    address,
                    expected,
                    source,
                } => self.dial(&address, expected, source),
                WorkerTask::Hello { id, turn, within } => self.greet(id, turn, within),
                WorkerTask::Save => self.save(),
            }
        }
        self.state.lock().workers -= 1;
        self.changed.notify_all();
    }

    /// Waits for the next task; `None` at the end.
    fn next_task(&self) -> Option<WorkerTask> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            if state.timekeeper.is_some() {
                self.spare.wait(&mut state);
                continue;
            }
            let task = state.table.next(Instant::now());
            let events = state.take_events();
            if !events.is_empty() {
                parking_lot::MutexGuard::unlocked(&mut state, || event_log::report(events));
            }
            if task.is_some() {
                // Somebody else keeps the time meanwhile.
                self.spare.notify_one();
                return task;
            }
            let wake = state.wake();
            state.timekeeper = Some(wake);
            match wake {
                WakeTime::At(due) => drop(self.due.wait_until(&mut state, due)),
                WakeTime::Never => self.due.wait(&mut state),
            }
            state.timekeeper = None;
        }
    }

    fn dial(&self, address: &Address, expected: Option<PeerId>, source: AddressSource) {
        let deadline = Instant::now() + connect_deadline(address) + PAIRING;
        let reached = self
            .connect
            .connect(address, expected, source, deadline)
            .and_then(|connection| {
                let theirs = self.exchange(&*connection, address, Instant::now() + FIRST_HELLO);
                theirs
                    .inspect_err(|_| connection.close())
                    .map(|theirs| (connection, theirs))
            });
        let now = Instant::now();
        let unused = self.settle(|state| match reached {
            Err(error) => {
                state.table.dialled(address, Err(&error), now);
                None
            }
            Ok((connection, (theirs, was_asked))) => {
                let id = connection.id();
                let outcome = Ok((id, theirs.sender.name.as_str()));
                let verdict = state.table.dialled(address, outcome, now);
                exchange::answered(&mut state.table, id, address, &theirs, was_asked, now);
                if verdict == Verdict::Close || state.stopping {
                    return Some(connection);
                }
                state.adopt(id, connection, address, source)
            }
        });
        if let Some(unused) = unused {
            unused.close();
        }
    }

    fn greet(&self, id: PeerId, turn: u64, within: Duration) {
        let deadline = Instant::now() + within;
        let (connection, address) = {
            let state = self.state.lock();
            let address = state.table.address(id).cloned();
            (state.connections.get(&id).cloned(), address)
        };
        let theirs = match (&connection, &address) {
            (Some(connection), Some(address)) => self.exchange(&**connection, address, deadline),
            _ => Err(Error::Unreachable {
                who: id.short(),
                why: "no connection".into(),
            }),
        };
        let now = Instant::now();
        let useless = self.settle(|state| {
            let outcome = theirs
                .as_ref()
                .map(|(theirs, _)| theirs.sender.name.as_str());
            let verdict = state.table.greeted(id, turn, outcome, now);
            if let (Ok((theirs, was_asked)), Some(address)) = (&theirs, &address) {
                exchange::answered(&mut state.table, id, address, theirs, *was_asked, now);
            }
            match verdict {
                Verdict::Close => connection,
                Verdict::Keep => None,
            }
        });
        if let Some(useless) = useless {
            useless.cut();
        }
    }

    /// Exchanges hellos with the member behind `connection`, dialled at `address`. Returns its own,
    /// and whether it was asked for members.
    fn exchange(
        &self,
        connection: &dyn Peer,
        address: &Address,
        deadline: Instant,
    ) -> Result<(Hello, bool), Error> {
        let ours = {
            let mut state = self.state.lock();
            let introduction = self.introduction(&state);
            let (callee, scope) = (connection.id(), address::scope(address));
            introduction.call(&mut state.table, callee, scope, Instant::now())
        };
        let was_asked = ours.known.is_some();
        let who = || address.to_string();
        match connection.call(&Request::Hello(ours), deadline)? {
            Response::Hello(theirs) if theirs.sender.id != connection.id() => {
                Err(Error::misbehaved(who(), "a hello in another's name"))
            }
            Response::Hello(theirs) if theirs.protocol < Hello::PROTOCOL => Err(Error::misbehaved(
                who(),
                "a protocol version that is too old",
            )),
            Response::Hello(theirs) => Ok((theirs, was_asked)),
            _ => Err(Error::misbehaved(who(), "no hello in return")),
        }
    }

    /// Changes the state and notifies all waiters.
    fn settle<T>(&self, change: impl FnOnce(&mut MembersState) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let events = state.take_events();
        self.notify(&state);
        drop(state);
        event_log::report(events);
        result
    }
}

impl MembersState {
    /// Returns when the next task is due.
    pub(super) fn wake(&self) -> WakeTime {
        self.table.wake().map_or(WakeTime::Never, WakeTime::At)
    }

    /// Takes the events since the last call. Forgotten members lose their connections.
    fn take_events(&mut self) -> Vec<MembershipEvent> {
        let events = self.table.take_events();
        for event in &events {
            if let MembershipEvent::Forgotten(id, _) = event {
                self.connections.remove(id);
            }
        }
        events
    }

    /// Takes over `connection`, which found `id` at `address`. If there was one before, readers
    /// hold that, so it follows the member there, and the new one is not needed.
    fn adopt(
        &mut self,
        id: PeerId,
        connection: Arc<dyn MemberLink>,
        address: &Address,
        source: AddressSource,
    ) -> Option<Arc<dyn MemberLink>> {
        self.roster = None;
        if let Some(held) = self.connections.get(&id) {
            held.follow(address, source);
            return Some(connection);
        }
        self.connections.insert(id, connection);
        None
    }
}
