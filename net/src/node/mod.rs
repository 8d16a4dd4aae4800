//! A running node, which knows every part: `start` builds and connects them, `ask` puts questions
//! to members, and this file reports on the parts and stops them.

mod ask;
pub mod config;
mod start;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::budget::ByteBudget;
use crate::config::CacheConfig;
use crate::content::cache::DiskCache;
use crate::download::Engine;
use crate::error::Error;
use crate::legacy::members::LegacyServers;
use crate::legacy::{Legacy, Url};

use crate::membership::mdns::Discovery;
use crate::membership::{Member, Members};
use crate::model::{Address, PeerId, TcpAddress, Ticket};
use crate::protocol::wire::Hello;
use crate::query::fanout::Fanout;
use crate::query::subscriptions::{ChangeListener, Subscriptions};
use crate::server::Server;
use crate::share::Share;
use crate::stats::status;
use crate::stats::status::{CacheStatus, LegacyStatus, MemoryStatus, ReachStatus, Status};
use crate::transport::reach::Reach;

/// Time limit for saying goodbye on the local network and waiting for the dialling threads.
const STOP_DEADLINE: Duration = Duration::from_millis(800);

/// One member of one network. Stops when dropped.
pub struct Node {
    id: PeerId,
    name: String,
    port: u16,
    reach: Option<Arc<Reach>>,
    share: Option<Arc<Share>>,
    members: Arc<Members>,
    fanout: Fanout,
    budget: Arc<ByteBudget>,
    followers: Arc<Subscriptions>,
    /// Separate: a search takes seconds, and look-ups must not wait behind it.
    searches: Fanout,
    engine: Arc<Engine>,
    cache: Option<(CacheConfig, Arc<DiskCache>)>,
    legacy: Option<LegacyParts>,
    begun: Instant,
    reachable_at: Vec<TcpAddress>,
    /// The parts that are still to be stopped.
    running: Mutex<Option<RunningParts>>,
}

/// The parts that speak the protocol of 2004.
struct LegacyParts {
    legacy: Arc<Legacy>,
    members: Arc<LegacyServers>,
}

struct RunningParts {
    server: Server,
    discovery: Option<Discovery>,
}

impl Node {
    /// Returns this node's identity.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns this node's name for itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the TCP port that it listens on; 0 if it does not listen.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the addresses to announce to others, best first: at most a few, and none that only
    /// this host or one link can dial.
    pub fn reachable_at(&self) -> &[TcpAddress] {
        &self.reachable_at
    }

    /// Returns what a friend needs to find this node through NATs, if it can be found.
    pub fn ticket(&self) -> Option<Ticket> {
        let reach = self.reach.as_ref().filter(|_| self.port != 0);
        reach.map(|reach| reach.ticket(self.id))
    }

    /// Returns what it serves.
    pub fn share(&self) -> Option<&Arc<Share>> {
        self.share.as_ref()
    }

    /// Returns all known members.
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// Returns every member that can be asked; see [`Members::present`].
    pub fn present(&self) -> Vec<Member> {
        self.members.present()
    }

    /// Returns the budget that members' answers take their memory from.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// Returns the engine that reads files of members.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Returns what it is doing, from memory: asks nobody and waits for nobody.
    pub fn status(&self) -> Status {
        let (accounts, totals) = self.engine.ledger().read();
        let (held, budget) = self.engine.memory();
        let parts = self.legacy.as_ref();
        let old_bytes = parts.map_or(0, |parts| parts.members.store().held());
        let cache = self.cache.as_ref().map(|(config, cache)| CacheStatus {
            directory: cache
                .is_kept()
                .then(|| config.directory.to_string_lossy().into_owned()),
            held: cache.held_bytes() + old_bytes,
            limit: config.size,
        });
        let shown = |urls: Vec<Url>| urls.iter().map(Url::to_string).collect();
        let legacy = parts.map(|parts| LegacyStatus {
            urls: shown(parts.legacy.own()),
            servers: shown(parts.legacy.all()),
        });
        let share = self.share.as_ref();
        Status {
            legacy,
            share_problem: share.and_then(|share| share.problem()),
            unreadable: share.map(|share| share.unreadable()).unwrap_or_default(),
            name: self.name.clone(),
            peer_id: self.id.to_string(),
            port: self.port,
            protocol: Hello::PROTOCOL,
            uptime_seconds: self.begun.elapsed().as_secs(),
            reach: self.reach.as_ref().map(|reach| {
                let state = reach.state();
                ReachStatus {
                    ticket: self.ticket().map(|ticket| ticket.to_string()),
                    relay: state.relay,
                    problem: state.problem,
                    udp: state.udp,
                    symmetric_nat: state.is_symmetric,
                    public_addresses: state.public,
                }
            }),
            members: status::members(self.members.standings(), accounts, Instant::now()),
            memory: MemoryStatus { held, budget },
            cache: cache.unwrap_or_default(),
            received: totals.received,
            refused: totals.refused,
        }
    }

    /// Returns a number that changes whenever members have come or gone.
    pub fn revision(&self) -> u64 {
        self.members.revision()
    }

    /// Notifies `listener` from now on when members' answers no longer hold, for as long
    /// as it lives.
    pub fn listen(&self, listener: Weak<dyn ChangeListener>) {
        self.followers.listen(listener);
    }

    /// Waits until each address that the user named has answered or failed once, or until
    /// `deadline`; once one has answered, only a moment longer. Returns the outcomes,
    /// without addresses that have not answered yet and those of this node itself. A wrong
    /// password is [`Error::Refused`].
    pub fn first_contact(&self, deadline: Instant) -> Vec<(Address, Result<(), Error>)> {
        self.members.first_contact(deadline)
    }

    /// Waits until every member has been dialled once that was named, is known from last time, or
    /// is known to members met so far, or until `deadline`. Most present members can be asked then.
    pub fn meet_acquaintances(&self, deadline: Instant) {
        self.members.meet_acquaintances(deadline);
    }

    /// Returns true if every present member knows the same members as this node.
    pub fn is_agreed(&self) -> bool {
        self.members.is_agreed()
    }

    /// Returns true while [`Node::meet_acquaintances`] would wait.
    pub fn is_getting_acquainted(&self, deadline: Instant) -> bool {
        self.members.is_getting_acquainted(deadline)
    }

    /// Leaves the network: says goodbye, closes the port and every connection. Ends in less than
    /// two seconds whatever others do; a second call does nothing.
    pub fn stop(&self) {
        let Some(running) = self.running.lock().take() else {
            return;
        };
        let deadline = Instant::now() + STOP_DEADLINE;
        self.followers.stop();
        if let Some(share) = &self.share {
            share.stop();
        }
        if let Some(discovery) = running.discovery {
            discovery.stop(deadline);
        }
        self.members.stop(deadline);
        running.server.stop();
        if let Some(reach) = &self.reach {
            reach.stop();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, port {})", self.name, self.id, self.port)
    }
}

#[cfg(test)]
mod tests;
