//! A running node, which knows every part: `start` builds and connects them, `ask` puts questions
//! to members, and this file has what is told of them and ends them.

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
use crate::model::{Address, PeerId};
use crate::protocol::wire::Hello;
use crate::query::fanout::Fanout;
use crate::query::subscriptions::{ChangeListener, Subscriptions};
use crate::server::Server;
use crate::share::Share;
use crate::stats::status;
use crate::stats::status::{CacheStatus, LegacyStatus, MemoryStatus, Status};

/// Saying goodbye on the local network, and waiting for the dialling threads, end by then.
const STOP_DEADLINE: Duration = Duration::from_millis(800);

/// One member of one network. Stops when dropped.
pub struct Node {
    id: PeerId,
    name: String,
    port: u16,
    share: Option<Arc<Share>>,
    members: Arc<Members>,
    fanout: Fanout,
    budget: Arc<ByteBudget>,
    followers: Arc<Subscriptions>,
    /// Apart: a search takes seconds, and look-ups must not wait behind it.
    searches: Fanout,
    engine: Arc<Engine>,
    cache: Option<(CacheConfig, Arc<DiskCache>)>,
    legacy: Option<LegacyParts>,
    begun: Instant,
    reachable_at: Vec<Address>,
    /// What is left to be stopped.
    running: Mutex<Option<RunningParts>>,
}

/// What speaks the protocol of 2004.
struct LegacyParts {
    legacy: Arc<Legacy>,
    members: Arc<LegacyServers>,
}

struct RunningParts {
    server: Server,
    discovery: Option<Discovery>,
}

impl Node {
    /// This node's identity.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// How this node names itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The TCP port that it listens on; 0 when it does not.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses to tell others, best first: at most a few, and none that only this host or one
    /// link can dial.
    pub fn reachable_at(&self) -> &[Address] {
        &self.reachable_at
    }

    /// What it serves.
    pub fn share(&self) -> Option<&Arc<Share>> {
        self.share.as_ref()
    }

    /// Who is there.
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// Everyone who can be asked; see [`Members::present`].
    pub fn present(&self) -> Vec<Member> {
        self.members.present()
    }

    /// What answers of members take their memory from.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// What reads files of members.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What it is doing, from what is in memory: asks nobody and waits for nobody.
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
            members: status::members(self.members.standings(), accounts, Instant::now()),
            memory: MemoryStatus { held, budget },
            cache: cache.unwrap_or_default(),
            received: totals.received,
            refused: totals.refused,
        }
    }

    /// Another number whenever members have come or gone.
    pub fn revision(&self) -> u64 {
        self.members.revision()
    }

    /// Tells `listener` from now on when what members said no longer holds, for as long
    /// as it lives.
    pub fn listen(&self, listener: Weak<dyn ChangeListener>) {
        self.followers.listen(listener);
    }

    /// Waits until each address that the user named has answered or failed once, or `deadline`;
    /// once one has answered, only a moment longer. Returns what became of them, without those that
    /// have not answered yet and those that are this node itself. A wrong password is
    /// [`Error::Refused`].
    pub fn first_contact(&self, deadline: Instant) -> Vec<(Address, Result<(), Error>)> {
        self.members.first_contact(deadline)
    }

    /// Waits until whoever was named, is known from last time, or is known to those who were met
    /// has been dialled once, or `deadline`: most who are there can be asked then.
    pub fn meet_acquaintances(&self, deadline: Instant) {
        self.members.meet_acquaintances(deadline);
    }

    /// True while [`Node::meet_acquaintances`] would wait.
    pub fn is_getting_acquainted(&self, deadline: Instant) -> bool {
        self.members.is_getting_acquainted(deadline)
    }

    /// Leaves the network: says goodbye, closes the port and every connection. Ends in less than
    /// two seconds whatever others do; the second call does nothing.
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
