//! Tracks which servers of 2004 are present.
//!
//! Servers that the user named are asked whom they know, and so are the servers in their answers,
//! within bounds. Each is called now and then by a thread of its own (operation 0, which also
//! announces this node), and is a member while it answers. One that does not is away from its first
//! missed deadline: nobody waits for it until it has answered again, including with its names.

mod calls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::client::{LegacyClient, place};
use super::known::MAX_MENTIONED;
use super::peer::{LegacyPeer, id_of};
use super::store::LegacyStore;
use super::{Legacy, Url};
use crate::concurrency::backoff::Backoff;
use crate::error::Error;
use crate::membership::MemberHealth;
use crate::membership::address::scope;
use crate::membership::source::{MemberSource, SourceMember};
use crate::model::{Address, PeerId, escaped};
use crate::peer::{Peer, Whole};
use crate::protocol::wire::MemberRecord;
use crate::transport::dial::{Dial, TcpDialer};

/// How often a server that answers is asked whom it knows.
const PERIOD: Duration = Duration::from_secs(30);

/// The wait before the next call to a server that fails.
const FAILED_WAIT: Backoff = Backoff {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(60),
};

/// A server that refuses the password is tried again after this time.
const REFUSED_WAIT: Duration = Duration::from_secs(3600);

/// A server that has been away for this long is no longer a member until it comes back.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// The servers of 2004 that this node knows.
pub struct LegacyServers {
    shared: Arc<LegacyRoster>,
}

struct LegacyRoster {
    me: PeerId,
    /// Shared with the serving side, which also learns of servers.
    legacy: Arc<Legacy>,
    dialer: Arc<dyn Dial>,
    store: Arc<LegacyStore>,
    /// Held for lookups, never across IO.
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    servers: Vec<CalledServer>,
    revision: u64,
    stopping: bool,
}

struct CalledServer {
    peer: Arc<LegacyPeer>,
    name: Arc<str>,
    presence: ServerPresence,
    since: Instant,
    trouble: Option<(Error, Instant)>,
    /// The node of this program that answers there, if any; then it is not a separate member.
    node: Option<PeerId>,
    /// The outcome of the first try.
    outcome: Option<Result<(), Error>>,
    failures: u32,
    due: Instant,
    is_blamed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ServerPresence {
    /// It has never answered.
    Unknown,
    Present,
    Away,
}

impl LegacyServers {
    /// Creates the list without calling anybody. `legacy` has the servers that the user named and
    /// this node's own URLs, and receives those that are learned. This node is `me`.
    pub fn new(me: PeerId, legacy: Arc<Legacy>, store: Arc<LegacyStore>) -> Self {
        Self {
            shared: Arc::new(LegacyRoster {
                me,
                legacy,
                dialer: Arc::new(TcpDialer::default()),
                store,
                state: Mutex::new(State {
                    servers: Vec::new(),
                    revision: 0,
                    stopping: false,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// Returns the store of their files.
    pub fn store(&self) -> &LegacyStore {
        &self.shared.store
    }
}

impl MemberSource for LegacyServers {
    fn begin(&self) -> Result<(), Error> {
        let shared = Arc::downgrade(&self.shared);
        std::thread::Builder::new()
            .name("find-2004".into())
            .spawn(move || calls::watch(&shared))
            .map(drop)
            .map_err(|error| Error::local("starting a thread", error))
    }

    fn members(&self) -> Vec<SourceMember> {
        let state = self.shared.state.lock();
        let known = state.servers.iter();
        let known = known.filter(|server| server.presence != ServerPresence::Unknown);
        known.map(CalledServer::member).collect()
    }

    fn standings(&self) -> Vec<MemberHealth> {
        let state = self.shared.state.lock();
        let known = state.servers.iter();
        let known = known.filter(|server| server.presence != ServerPresence::Unknown);
        let standing = |server: &CalledServer| MemberHealth {
            id: server.peer.id(),
            name: Arc::clone(&server.name),
            address: Some(server.peer.url().address()),
            is_present: server.presence == ServerPresence::Present,
            since: server.since,
            trouble: server.trouble.clone(),
            route: None,
        };
        known.map(standing).collect()
    }

    fn revision(&self) -> u64 {
        self.shared.state.lock().revision
    }

    fn whole(&self, id: PeerId) -> Option<Arc<dyn Whole>> {
        let state = self.shared.state.lock();
        let mut servers = state.servers.iter();
        let server = servers.find(|server| server.peer.id() == id)?;
        let is_present = server.presence == ServerPresence::Present;
        is_present.then(|| Arc::clone(&server.peer) as Arc<dyn Whole>)
    }

    fn named(&self) -> Vec<(Address, Option<Result<(), Error>>)> {
        let named = self.shared.legacy.known().named().to_vec();
        let state = self.shared.state.lock();
        let outcome = |url: &Url| {
            let server = state.servers.iter().find(|s| s.peer.url() == url);
            server.and_then(|server| server.outcome.clone())
        };
        named
            .iter()
            .map(|url| (url.address(), outcome(url)))
            .collect()
    }

    fn report(&self, member: PeerId, error: &Error) {
        self.shared.report(member, error);
    }

    fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for LegacyServers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl CalledServer {
    fn member(&self) -> SourceMember {
        SourceMember {
            id: self.peer.id(),
            name: Arc::clone(&self.name),
            address: self.peer.url().address(),
            is_present: self.presence == ServerPresence::Present,
            node: self.node,
            peer: Arc::clone(&self.peer) as Arc<dyn Peer>,
        }
    }

    fn put_off(&mut self, error: &Error, now: Instant) {
        self.failures += 1;
        self.due = now
            + match error {
                Error::Refused { .. } => REFUSED_WAIT,
                _ => FAILED_WAIT.full(self.failures),
            };
        self.trouble = Some((error.clone(), now));
    }
}

impl LegacyRoster {
    /// Starts to call `url`, unless it is called already.
    fn add(self: &Arc<Self>, url: Url) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.stopping || state.servers.iter().any(|s| *s.peer.url() == url) {
            return;
        }
        let (id, reporter) = (id_of(&url), Arc::downgrade(self));
        let report = move |error: &Error| {
            if let Some(shared) = reporter.upgrade() {
                shared.report(id, error);
            }
        };
        let (token, name) = (self.legacy.key().token(&url), shown(place(&url)));
        let caller = LegacyClient::new(url, token, Arc::clone(&self.dialer));
        let peer = LegacyPeer::new(caller, Arc::clone(&self.store), Box::new(report));
        let (shared, calling) = (Arc::downgrade(self), Arc::clone(&peer));
        let thread = std::thread::Builder::new().name("call-2004".into());
        if let Err(error) = thread.spawn(move || calls::run(&shared, &calling)) {
            tracing::warn!("a server of 2004 is not called: {error}");
            return;
        }
        state.servers.push(CalledServer {
            peer,
            name,
            presence: ServerPresence::Unknown,
            since: now,
            trouble: None,
            node: None,
            outcome: None,
            failures: 0,
            due: now,
            is_blamed: false,
        });
    }

    /// Stops calling all servers except those at `urls`.
    fn retain(&self, urls: &[Url]) {
        let mut state = self.state.lock();
        let is_gone = |server: &mut CalledServer| !urls.contains(server.peer.url());
        let gone: Vec<CalledServer> = state.servers.extract_if(.., is_gone).collect();
        let were_members = gone.iter().any(|s| s.presence != ServerPresence::Unknown);
        state.revision += u64::from(were_members);
        drop(state);
        for server in &gone {
            tracing::debug!(server = &*server.name, "is no longer called");
        }
        // Wakes the threads that wait to call one of them, so that they end.
        self.changed.notify_all();
    }

    /// Waits until it is time to call `id`; `None` when it is no longer to be called. Returns
    /// whether the server has to prove itself again.
    fn due(&self, id: PeerId) -> Option<bool> {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            if state.stopping {
                return None;
            }
            let server = state.servers.iter_mut().find(|s| s.peer.id() == id)?;
            let away_for = now.saturating_duration_since(server.since);
            let is_forgotten = server.presence == ServerPresence::Away && away_for >= FORGOTTEN;
            if is_forgotten {
                server.presence = ServerPresence::Unknown;
            }
            let (due, presence) = (server.due, server.presence);
            state.revision += u64::from(is_forgotten);
            if due <= now {
                return Some(presence == ServerPresence::Away);
            }
            self.changed.wait_until(&mut state, due);
        }
    }

    /// Notes that `id` has answered, and whether it is a node of this program, if `said` is given.
    /// Returns false if it is this node itself.
    fn answered(&self, id: PeerId, said: Option<Option<PeerId>>) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(place) = state.servers.iter().position(|s| s.peer.id() == id) else {
            return false;
        };
        if said == Some(Some(self.me)) {
            let server = &mut state.servers[place];
            let url = server.peer.url().clone();
            // Reported to the user who named it; nobody else needs to know.
            let who = server.name.to_string();
            let why = "it is this node itself".to_owned();
            server.outcome = Some(Err(Error::Unreachable { who, why }));
            if !self.legacy.known().named().contains(&url) {
                state.servers.swap_remove(place);
            }
            drop(state);
            tracing::debug!(%url, "is this node itself");
            self.legacy.known().forget(&url);
            return false;
        }
        let server = &mut state.servers[place];
        self.legacy.known().answered(server.peer.url());
        let node = said.unwrap_or(server.node);
        let is_known_better = server.node != node;
        server.node = node;
        (server.failures, server.due) = (0, now + PERIOD);
        server.outcome = Some(Ok(()));
        if server.presence != ServerPresence::Present {
            let how = match server.presence {
                ServerPresence::Unknown => "here",
                _ => "back",
            };
            tracing::info!("{} (a server of 2004) is {how}", server.name);
            (server.presence, server.since) = (ServerPresence::Present, now);
            state.revision += 1;
        }
        state.revision += u64::from(is_known_better);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Notes that one of this node's own regular calls failed.
    fn failed(&self, id: PeerId, error: &Error) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(server) = state.servers.iter_mut().find(|s| s.peer.id() == id) else {
            return;
        };
        let is_first = server.outcome.is_none();
        server.outcome.get_or_insert_with(|| Err(error.clone()));
        server.put_off(error, now);
        match error {
            // The waiter for the first contact tells the user.
            _ if is_first => tracing::info!("{error}"),
            Error::Refused { .. } | Error::Misbehaved { .. } => tracing::warn!("{error}"),
            _ => tracing::debug!("{error}"),
        }
        if server.presence == ServerPresence::Present {
            tracing::info!("{} (a server of 2004) is away: {error}", server.name);
            (server.presence, server.since) = (ServerPresence::Away, now);
            state.revision += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that a call other than the regular ones failed.
    fn report(&self, id: PeerId, error: &Error) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(server) = state.servers.iter_mut().find(|s| s.peer.id() == id) else {
            return;
        };
        if let Error::Misbehaved { .. } = error {
            server.trouble = Some((error.clone(), now));
            if std::mem::replace(&mut server.is_blamed, true) {
                tracing::debug!("{error}");
            } else {
                tracing::warn!("{error}");
            }
        }
        let is_gone = error.is_absence() || matches!(error, Error::Refused { .. });
        if !is_gone || server.presence != ServerPresence::Present {
            return;
        }
        tracing::info!("{} (a server of 2004) is away: {error}", server.name);
        server.put_off(error, now);
        (server.presence, server.since) = (ServerPresence::Away, now);
        state.revision += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Takes in the servers `mentioned` by the server at `source`.
    fn learn(&self, source: &Url, mentioned: Vec<String>) {
        let (now, scope) = (Instant::now(), scope(&source.address()));
        for text in mentioned.into_iter().take(MAX_MENTIONED) {
            match text.parse() {
                Ok(url) => {
                    self.legacy.learn(url, scope, now);
                }
                Err(_) => tracing::debug!(
                    server = place(source),
                    mentioned = escaped(text.as_bytes()),
                    "names something that is no server"
                ),
            }
        }
    }
}

/// Returns the display name of a server.
fn shown(place: &str) -> Arc<str> {
    if MemberRecord::is_name(place) {
        place.into()
    } else {
        // An address is all ASCII.
        place[place.len().saturating_sub(64)..].into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::TokenKey;
    use super::super::known::MAX_LEARNED;
    use super::super::twin::{PASSWORD, Twin};
    use super::*;
    use crate::config::CALL_DEADLINE;
    use crate::model::RelPath;
    use crate::peer::list;
    use crate::testing::eventually;

    const OURS: &str = "http://127.0.0.1:9";

    /// Creates the servers of a node that serves, or only calls.
    fn members(named: &[&Twin], serves: bool) -> (tempfile::TempDir, LegacyServers) {
        let directory = tempfile::tempdir().unwrap();
        let store = LegacyStore::open(Some(directory.path()), Some(1 << 20)).unwrap();
        let own = serves.then(|| OURS.parse().unwrap());
        let named = named.iter().map(|twin| twin.url()).collect();
        let legacy = Legacy::new(TokenKey::new(PASSWORD), named);
        legacy.announce(own.into_iter().collect());
        let me = PeerId::from_bytes([9; 32]);
        let members = LegacyServers::new(me, Arc::new(legacy), store);
        members.begin().unwrap();
        (directory, members)
    }

    #[track_caller]
    fn present(members: &LegacyServers) -> Vec<String> {
        let all = members
            .members()
            .into_iter()
            .filter(|member| member.is_present);
        let mut names: Vec<String> = all.map(|member| member.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn servers_are_found_through_one_another_and_hear_of_this_node() {
        let (first, second) = (Twin::start(), Twin::start());
        first.knows(second.url().as_str());
        for nonsense in [
            OURS,
            "nonsense",
            "https://x:1",
            "http://127.0.0.1:8/",
            "http://x",
        ] {
            first.knows(nonsense);
        }
        let (_directory, members) = members(&[&first], true);
        let mut expected = [&first, &second].map(|twin| place(&twin.url()).to_owned());
        expected.sort();
        eventually("both are members", || present(&members) == expected);
        for twin in [&first, &second] {
            eventually("it has heard of this node", || {
                twin.known().iter().any(|url| url == OURS)
            });
        }
        assert_eq!(members.named().len(), 1);
        assert!(matches!(members.named()[0].1, Some(Ok(()))));
        assert_eq!(members.shared.state.lock().servers.len(), 2);
    }

    #[test]
    fn lone_server_is_a_member_for_mere_askers() {
        let twin = Twin::start();
        let (_directory, members) = members(&[&twin], false);
        eventually("it is there", || present(&members).len() == 1);
        assert!(members.whole(id_of(&twin.url())).is_some());
    }

    #[test]
    fn stopped_server_is_away_and_not_awaited() {
        let twin = Twin::start();
        let (_directory, members) = members(&[&twin], false);
        eventually("it is there", || present(&members).len() == 1);
        let (id, before) = (id_of(&twin.url()), members.revision());
        twin.stop();
        let peer = members.whole(id).unwrap();
        eventually("it is found out", || {
            let deadline = Instant::now() + CALL_DEADLINE;
            list(&*peer, &RelPath::root(), &Arc::default(), deadline).is_err()
        });
        assert!(present(&members).is_empty() && members.whole(id).is_none());
        assert!(members.revision() > before);
        let standing = &members.standings()[0];
        assert!(!standing.is_present && standing.trouble.is_some());
    }

    #[test]
    fn wrong_password_server_is_no_member() {
        let twin = Twin::start();
        twin.is_of_another_network();
        let (_directory, members) = members(&[&twin], false);
        let refused = || matches!(members.named()[0].1, Some(Err(Error::Refused { .. })));
        eventually("it has refused", refused);
        assert!(members.members().is_empty());
    }

    #[test]
    fn a_flood_of_servers_is_bounded() {
        let twin = Twin::start();
        for number in 0..500 {
            twin.knows(&format!("http://127.1.0.1:{}", 20_000 + number));
        }
        let (_directory, members) = members(&[&twin], false);
        eventually("it is there", || present(&members).len() == 1);
        let count = || members.shared.state.lock().servers.len();
        eventually("the others are known", || count() > 1);
        assert!(count() <= 1 + MAX_LEARNED);
    }

    #[test]
    fn forgotten_server_is_no_longer_called() {
        let (first, second) = (Twin::start(), Twin::start());
        first.knows(second.url().as_str());
        let (_directory, members) = members(&[&first], false);
        eventually("both are there", || present(&members).len() == 2);
        first.knows_only(&first.url());
        members.shared.legacy.known().forget(&second.url());
        eventually("it is gone", || present(&members).len() == 1);
        assert_eq!(members.shared.state.lock().servers.len(), 1);
    }

    #[test]
    fn naming_this_node_itself_is_reported() {
        let twin = Twin::start();
        twin.is_node(PeerId::from_bytes([9; 32]));
        let (_directory, members) = members(&[&twin], true);
        let told = || matches!(&members.named()[0].1, Some(Err(error)) if error.to_string().contains("itself"));
        eventually("it is told", told);
        assert!(members.members().is_empty());
    }

    #[test]
    fn long_host_names_are_cut_to_fit() {
        let place = format!("{}.example:8000", "x".repeat(80));
        assert!(MemberRecord::is_name(&shown(&place)));
        assert!(shown(&place).ends_with(".example:8000"));
        assert_eq!(&*shown("box:1"), "box:1");
    }
}
