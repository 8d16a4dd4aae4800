//! Who is there: finding members, holding a connection to each, noticing who leaves and returns.
//!
//! `table` decides (pure), `dialer` acts on it with a few threads, `exchange` reads and writes
//! hellos, `mdns` and `remembered` bring in addresses from the local network and from last time.
//! [`Members`] is the one face of all that: the server hands it incoming hellos, the engines ask it
//! who is present and tell it who does not answer.

pub(crate) mod address;
mod book;
mod candidate;
mod crowd;
pub(crate) mod dialer;
mod event_log;
mod exchange;
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
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::Error;
use crate::model::{Address, PeerArgument, PeerId};
use crate::peer::{Peer, Whole};
use crate::protocol::wire::Hello;
use address::canonical;
use candidate::AddressOrigin;
use dialer::{Connect, MemberLink};
use exchange::Introduction;
use mdns::Sighting;
use remembered::Remembered;
use source::MemberSource;
use table::MemberTable;

/// Named addresses that have not answered yet are waited for no longer than this once one has.
const GRACE: Duration = Duration::from_millis(300);

/// How often somebody who waits for the first contact looks at members of another kind.
const LOOK: Duration = Duration::from_millis(20);

/// A member that is there, or this node itself as far as it shares something.
#[derive(Clone)]
pub struct Member {
    /// The member's peer id.
    pub id: PeerId,
    /// How it is shown to people: no two members have the same name.
    pub name: Arc<str>,
    /// To call it and read from it.
    pub peer: Arc<dyn Peer>,
    /// Where it was reached; `None` for this node itself.
    pub address: Option<Address>,
}

/// How another member is doing, as far as this node can tell.
#[derive(Clone, Debug)]
pub struct MemberHealth {
    /// The member's peer id.
    pub id: PeerId,
    /// How it is shown to people; as [`Member::name`].
    pub name: Arc<str>,
    /// Where it was last reached.
    pub address: Option<Address>,
    /// Whether it answers.
    pub is_present: bool,
    /// Since when it does, or does not.
    pub since: Instant,
    /// What last went wrong with it, and when.
    pub trouble: Option<(Error, Instant)>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name, self.id)
    }
}

/// What the node knows of its network. Shared by the server, the engines and the dialling threads.
pub struct Members {
    me: PeerId,
    name: String,
    advertise: Option<Address>,
    remembered: Option<Remembered>,
    connect: Box<dyn Connect>,
    /// Members of another kind, if there are any. Looked at before the state is locked,
    /// never under it.
    source: OnceLock<Arc<dyn MemberSource>>,
    /// Held for a look-up or a change, never over IO.
    state: Mutex<MembersState>,
    /// Told whenever the table may have become due for something, and when outcomes arrive.
    changed: Condvar,
}

struct MembersState {
    table: MemberTable,
    /// Answers for what this node shares. Let go at the end, since it may hold the members itself.
    itself: Option<Arc<dyn Peer>>,
    connections: HashMap<PeerId, Arc<dyn MemberLink>>,
    /// What was last made of the table's revision.
    roster: Option<(u64, Arc<[Member]>)>,
    port: u16,
    stopping: bool,
    workers: usize,
}

impl Members {
    /// Knows nobody yet but `peers` and what is `remembered`; [`Members::begin`] starts to
    /// look for them.
    ///
    /// # Errors
    /// [`Error::Local`] when one of `peers` or `advertise` cannot be dialled by anybody.
    pub(crate) fn new(
        me: PeerId,
        name: String,
        advertise: Option<Address>,
        peers: &[PeerArgument],
        remembered: Option<Remembered>,
        connect: Box<dyn Connect>,
    ) -> Result<Self, Error> {
        let now = Instant::now();
        let mut table = MemberTable::new(me, now);
        for peer in peers {
            table.name(dialable(&peer.address)?, peer.expected, now);
        }
        for known in remembered.iter().flat_map(Remembered::known) {
            table.learn(known.address.clone(), known.id, AddressOrigin::User, now);
        }
        Ok(Self {
            me,
            name,
            advertise: advertise.as_ref().map(dialable).transpose()?,
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
            }),
            changed: Condvar::new(),
        })
    }

    /// Starts to look for members. `port` is what this node listens on (0: it does not), `itself`
    /// answers for what it shares.
    pub(crate) fn begin(
        self: &Arc<Self>,
        port: u16,
        itself: Option<Arc<dyn Peer>>,
    ) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            (state.port, state.itself) = (port, itself);
            state.roster = None;
        }
        if let Some(source) = self.source.get() {
            source.begin()?;
        }
        dialer::start(self)?;
        own_addresses::start(self)
    }

    /// Has those of `source` among the members from now on.
    pub(crate) fn join_source(&self, source: Arc<dyn MemberSource>) {
        // Once, at start.
        let _ = self.source.set(source);
    }

    /// `member`, if it is one of those who tell names and no sizes, and there.
    pub fn whole(&self, member: PeerId) -> Option<Arc<dyn Whole>> {
        self.source.get()?.whole(member)
    }

    /// The server side of `tinyp2p.hello`: takes in what the member `caller`, seen at `remote`,
    /// says, and answers in kind.
    pub fn hello(&self, caller: PeerId, remote: IpAddr, theirs: Hello) -> Hello {
        let now = Instant::now();
        let mut state = self.state.lock();
        exchange::called(&mut state.table, caller, remote, &theirs, now);
        let reach = address::reach_of_ip(remote);
        let ours = self
            .introduction(&state)
            .hello(&state.table, caller, reach, now);
        drop(state);
        self.changed.notify_all();
        ours
    }

    /// A call to `member` failed with `error`. If that may mean that it is gone, nobody else waits
    /// for it until a hello, sent at once, has been answered.
    pub fn report(&self, member: PeerId, error: &Error) {
        if let Some(source) = self.source.get() {
            source.report(member, error);
        }
        let suspected = self
            .state
            .lock()
            .table
            .suspect(member, error, Instant::now());
        if suspected {
            tracing::debug!("suspecting {member:?}: {error}");
            self.changed.notify_all();
        }
    }

    /// Multicast says what is in `sighting`. True when that member is there already.
    pub(crate) fn sighted(&self, sighting: &Sighting) -> bool {
        let addresses = sighting.addresses.iter();
        let addresses =
            addresses.filter_map(|(address, is_source)| Some((canonical(address)?, *is_source)));
        let sighting = Sighting {
            addresses: addresses.collect(),
            ..*sighting
        };
        let is_there = self.state.lock().table.sighted(&sighting, Instant::now());
        self.changed.notify_all();
        is_there
    }

    /// Waits until each address that the user named has answered or failed once, or `deadline`;
    /// not for long once one has answered. Returns what became of those that have.
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
            // A source does not wake up those who wait here.
            let look = if self.source.get().is_some() {
                deadline.min(Instant::now() + LOOK)
            } else {
                deadline
            };
            self.changed.wait_until(&mut state, look);
        }
    }

    /// Waits until those whom the user named or members know have been dialled once, and whomever
    /// these know in turn, or `deadline`. Whoever is not met by then is dialled on.
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

    /// Ends all connections and the dialling threads. Returns by `deadline`, whatever
    /// they wait for.
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
        self.changed.notify_all();
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

    fn introduction(&self, state: &MembersState) -> Introduction {
        Introduction {
            id: self.me,
            name: self.name.clone(),
            advertise: self.advertise.clone(),
            port: state.port,
        }
    }

    /// Writes down where members were reached.
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
    canonical(given).ok_or_else(|| Error::Local {
        what: format!("the address {given}"),
        why: "nobody can be dialled there".into(),
    })
}
