//! Membership: finds members, keeps a connection to each, and notices who leaves and returns.
//!
//! `table` makes the decisions (pure), `dialer` carries them out with a few threads, `exchange`
//! reads and writes hellos, `mdns` and `remembered` supply addresses from the local network and
//! from the last run. [`Members`] is the single facade: the server passes incoming hellos to it,
//! and the engines query it for present members and report those that do not answer.

pub(crate) mod address;
mod book;
mod candidate;
mod crowd;
pub(crate) mod dialer;
mod event_log;
mod exchange;
mod interfaces;
pub(crate) mod mdns;
mod names;
mod own_addresses;
pub mod reachable;
pub(crate) mod remembered;
mod roster;
#[cfg(test)]
mod simulation;
pub(crate) mod source;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::concurrency::stop_signal::StopSignal;
use crate::error::Error;
use crate::model::{Address, CallSource, PeerArgument, PeerId, ReachAddress, TcpAddress};
use crate::peer::{Peer, Whole};
use crate::protocol::wire::Hello;
use crate::transport::route::RouteState;
use address::{canonical, canonical_tcp};
use candidate::AddressOrigin;
use dialer::{Connect, MemberLink};
use exchange::Introduction;
use mdns::Sighting;
use remembered::Remembered;
use source::MemberSource;
use table::MemberTable;

/// Once one named address has answered, the others get no longer than this.
const GRACE: Duration = Duration::from_millis(300);

/// How often a wait for the first contact polls members of another kind.
const LOOK: Duration = Duration::from_millis(20);

/// A present member, or this node itself if it shares something.
#[derive(Clone)]
pub struct Member {
    /// The member's peer id.
    pub id: PeerId,
    /// The display name. No two members have the same.
    pub name: Arc<str>,
    /// The handle for calling the member and reading from it.
    pub peer: Arc<dyn Peer>,
    /// Where it was reached; `None` for this node itself.
    pub address: Option<Address>,
}

/// How another member is doing, as far as this node can tell.
#[derive(Clone, Debug)]
pub struct MemberHealth {
    /// The member's peer id.
    pub id: PeerId,
    /// The display name, as [`Member::name`].
    pub name: Arc<str>,
    /// Where it was last reached.
    pub address: Option<Address>,
    /// Whether it answers.
    pub is_present: bool,
    /// When it last started or stopped answering.
    pub since: Instant,
    /// The last error and its time.
    pub trouble: Option<(Error, Instant)>,
    /// How it is reached now.
    pub route: Option<RouteState>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name, self.id)
    }
}

/// What the node knows of its network, shared by the server, the engines and the dialling threads.
pub struct Members {
    me: PeerId,
    name: String,
    advertise: Option<TcpAddress>,
    reach: Option<ReachAddress>,
    remembered: Option<Remembered>,
    connect: Box<dyn Connect>,
    /// Members of another kind, if there are any. Queried before the state is locked, never
    /// under the lock.
    source: OnceLock<Arc<dyn MemberSource>>,
    /// Held for a lookup or a change, never across IO.
    state: Mutex<MembersState>,
    /// Notified when members or outcomes have changed.
    changed: Condvar,
    /// Notified when the next task is due earlier than the timekeeper expects. One worker at a time
    /// is that; the others are `spare` until a task takes it away.
    due: Condvar,
    spare: Condvar,
    /// Readable once the node stops.
    stop_signal: StopSignal,
}

struct MembersState {
    table: MemberTable,
    /// Answers for what this node shares. Dropped on stop, since it may hold the members itself.
    itself: Option<Arc<dyn Peer>>,
    connections: HashMap<PeerId, Arc<dyn MemberLink>>,
    /// The roster built last, and the table revision that it was built from.
    roster: Option<(u64, Arc<[Member]>)>,
    port: u16,
    stopping: bool,
    workers: usize,
    /// Until when the timekeeper sleeps; `None` if no worker is that.
    timekeeper: Option<WakeTime>,
}

/// When the next task is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum WakeTime {
    At(Instant),
    Never,
}

impl Members {
    /// Creates the membership with `peers` and the `remembered` addresses only; [`Members::begin`]
    /// starts the search.
    ///
    /// # Errors
    /// [`Error::Local`] when nobody can dial one of `peers` or `advertise`, or when there are no
    /// file descriptors left.
    pub(crate) fn new(
        me: PeerId,
        name: String,
        (advertise, reach): (Option<TcpAddress>, Option<ReachAddress>),
        peers: &[PeerArgument],
        remembered: Option<Remembered>,
        connect: Box<dyn Connect>,
    ) -> Result<Self, Error> {
        let now = Instant::now();
        let mut table = MemberTable::new(me, now);
        table.set_reach(reach.is_some());
        for peer in peers {
            table.name(dialable(&peer.address)?, peer.expected, now);
        }
        for known in remembered.iter().flat_map(Remembered::known) {
            table.learn(known.address.clone(), known.id, AddressOrigin::User, now);
        }
        let stop_signal = StopSignal::new();
        Ok(Self {
            me,
            name,
            stop_signal: stop_signal.map_err(|why| Error::local("looking for members", why))?,
            advertise: advertise.as_ref().map(dialable_tcp).transpose()?,
            reach,
            remembered,
            connect,
            source: OnceLock::new(),
            state: Mutex::new(MembersState {
                table,
                itself: None,
                connections: HashMap::new(),
                roster: None,
                port: 0,
                stopping: false,
                workers: 0,
                timekeeper: None,
            }),
            changed: Condvar::new(),
            due: Condvar::new(),
            spare: Condvar::new(),
        })
    }

    /// Starts to look for members. `port` is the port this node listens on (0: none). `itself`
    /// answers for what this node shares.
    pub(crate) fn begin(
        self: &Arc<Self>,
        port: u16,
        itself: Option<Arc<dyn Peer>>,
    ) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            (state.port, state.itself) = (port, itself);
            state.table.set_dialable(port != 0);
            state.roster = None;
        }
        if let Some(source) = self.source.get() {
            source.begin()?;
        }
        dialer::start(self)?;
        own_addresses::start(self)
    }

    /// Adds the members of `source` from now on.
    pub(crate) fn join_source(&self, source: Arc<dyn MemberSource>) {
        // Once, at start.
        let _ = self.source.set(source);
    }

    /// Returns `member` if it is present and one of those that list names without sizes.
    pub fn whole(&self, member: PeerId) -> Option<Arc<dyn Whole>> {
        self.source.get()?.whole(member)
    }

    /// Handles `tinyp2p.hello` on the server side: takes in the hello of the member `caller`, from
    /// `source`, and returns this node's own.
    pub fn hello(&self, caller: PeerId, source: CallSource, theirs: Hello) -> Hello {
        let now = Instant::now();
        let mut state = self.state.lock();
        exchange::called(&mut state.table, caller, source, &theirs, now);
        let scope = address::scope_of_source(source);
        let introduction = self.introduction(&state);
        let ours = introduction.answer(&mut state.table, caller, &theirs, scope, now);
        self.notify(&state);
        ours
    }

    /// Reports that a call to `member` failed with `error`. If the member may be gone, nobody else
    /// waits for it until it has answered a hello, which is sent at once.
    pub fn report(&self, member: PeerId, error: &Error) {
        if let Some(source) = self.source.get() {
            source.report(member, error);
        }
        let mut state = self.state.lock();
        if state.table.suspect(member, error, Instant::now()) {
            self.notify(&state);
            drop(state);
            tracing::debug!("suspecting {member:?}: {error}");
        }
    }

    /// Takes in a multicast `sighting`. Returns true when that member is already present.
    pub(crate) fn sighted(&self, sighting: &Sighting) -> bool {
        let addresses = sighting.addresses.iter();
        let addresses =
            addresses.filter_map(|(address, is_source)| Some((canonical(address)?, *is_source)));
        let sighting = Sighting {
            addresses: addresses.collect(),
            ..*sighting
        };
        let mut state = self.state.lock();
        let is_there = state.table.sighted(&sighting, Instant::now());
        self.notify(&state);
        is_there
    }

    /// Waits until each address that the user named has answered or failed once, or until
    /// `deadline`. Once one has answered, the wait is short. Returns the outcomes so far.
    pub(crate) fn first_contact(&self, deadline: Instant) -> Vec<(Address, Result<(), Error>)> {
        let mut state = self.state.lock();
        let mut deadline = deadline;
        loop {
            let outside = MutexGuard::unlocked(&mut state, || {
                self.source.get().map(|source| source.named())
            });
            let outcomes: Vec<_> = state
                .table
                .named()
                .map(|(address, outcome)| (address.clone(), outcome.cloned()))
                .chain(outside.into_iter().flatten())
                .collect();
            if outcomes
                .iter()
                .any(|(_, outcome)| matches!(outcome, Some(Ok(()))))
            {
                deadline = deadline.min(Instant::now() + GRACE);
            }
            let pending = outcomes.iter().any(|(_, outcome)| outcome.is_none());
            if !pending || state.stopping || Instant::now() >= deadline {
                return outcomes
                    .into_iter()
                    .filter_map(|(address, outcome)| Some((address, outcome?)))
                    .collect();
            }
            // A source does not wake the waiters here.
            let look = if self.source.get().is_some() {
                deadline.min(Instant::now() + LOOK)
            } else {
                deadline
            };
            self.changed.wait_until(&mut state, look);
        }
    }

    /// Waits until every member that the user named or other members know has been dialled once,
    /// and those that they know in turn, or until `deadline`. Dialling goes on for members not
    /// met by then.
    pub(crate) fn meet_acquaintances(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.table.is_getting_acquainted(deadline) && !state.stopping {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// True while [`Members::meet_acquaintances`] would wait.
    pub(crate) fn is_getting_acquainted(&self, deadline: Instant) -> bool {
        self.state.lock().table.is_getting_acquainted(deadline)
    }

    /// Returns true if all present members know the same members as this node, so that nobody has
    /// to be waited for. Members of another kind do not say whom they know.
    pub(crate) fn is_agreed(&self) -> bool {
        self.source.get().is_none() && self.state.lock().table.is_agreed(Instant::now())
    }

    /// Ends all connections and the dialling threads. Returns by `deadline`, even if
    /// they still wait.
    pub(crate) fn stop(&self, deadline: Instant) {
        if let Some(source) = self.source.get() {
            source.stop();
        }
        let connections: Vec<_> = {
            let mut state = self.state.lock();
            state.stopping = true;
            (state.itself, state.roster) = (None, None);
            state.connections.values().cloned().collect()
        };
        self.stop_signal.raise();
        self.changed.notify_all();
        self.due.notify_all();
        self.spare.notify_all();
        for connection in connections {
            connection.close();
        }
        self.save();
        let mut state = self.state.lock();
        while state.workers > 0 {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                tracing::debug!("{} dialling threads are still at it", state.workers);
                return;
            }
        }
    }

    /// Notifies all who wait for a change of `state`, and the timekeeper if a task is due earlier
    /// than it expects.
    fn notify(&self, state: &MembersState) {
        self.changed.notify_all();
        let sleeps = state.timekeeper;
        if sleeps.is_some_and(|until| state.wake() < until) {
            self.due.notify_one();
        }
    }

    fn introduction(&self, state: &MembersState) -> Introduction {
        Introduction {
            id: self.me,
            name: self.name.clone(),
            advertise: self.advertise.clone(),
            reach: self.reach.clone(),
            port: state.port,
        }
    }

    /// Saves the addresses where members were reached.
    fn save(&self) {
        let Some(remembered) = &self.remembered else {
            return;
        };
        let reached = self.state.lock().table.reached(Instant::now());
        if let Err(error) = remembered.save(reached, SystemTime::now()) {
            tracing::warn!("addresses of members are not remembered: {error}");
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members")
            .field("me", &self.me)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn dialable(given: &Address) -> Result<Address, Error> {
    canonical(given).ok_or_else(|| useless(given))
}

fn dialable_tcp(given: &TcpAddress) -> Result<TcpAddress, Error> {
    canonical_tcp(given).ok_or_else(|| useless(given))
}

fn useless(given: &dyn fmt::Display) -> Error {
    Error::Local {
        what: format!("the address {given}"),
        why: "nobody can be dialled there".into(),
    }
}
