//! Which servers of 2004 are there.
//!
//! Those that the user named are asked whom they know, and so is everybody whom they name, within bounds. Each is
//! called now and then by a thread of its own (operation 0, which also tells it of this node), and is a member
//! while it answers. One that does not is away from its first deadline on: nobody waits for it until it has
//! answered again, names and all.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::client::{Caller, Site};
use super::peer::{OldPeer, id_of};
use super::store::Store;
use crate::client::dial::{Dial, TcpDialer};
use crate::client::{Peer, Whole, list};
use crate::config::CALL_DEADLINE;
use crate::error::Error;
use crate::peers::Standing;
use crate::types::{Address, PeerId, RelPath, escaped};
use crate::wire::MemberRecord;

/// Servers that are known at once. A network of 2004 has a handful.
const MAX_SERVERS: usize = 64;

/// How often one that answers is asked whom it knows.
const PERIOD: Duration = Duration::from_secs(30);

/// The wait after the first failure, doubled with each further one up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// See [`FIRST_WAIT`].
const MAX_WAIT: Duration = Duration::from_secs(60);

/// One that refuses the password is tried again after this time.
const REFUSED_WAIT: Duration = Duration::from_secs(3600);

/// One that others named, and that never answered, is forgotten after so many tries.
const MAX_TRIES: u32 = 5;

/// One that others named is forgotten once it has been away for this long.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A call waits this long for the server to be done with another one of this node.
const BUSY: Duration = Duration::from_secs(10);

/// Makes the token for the server that calls itself so.
pub type Tokens = Box<dyn Fn(&str) -> String + Send + Sync>;

/// The servers of 2004 that this node knows.
pub struct OldMembers {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Tokens,
    dialer: Arc<dyn Dial>,
    store: Arc<Store>,
    /// Held for look-ups, never over IO.
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    servers: Vec<Server>,
    /// What this node calls itself, once it serves.
    ours: Vec<Site>,
    revision: u64,
    stopping: bool,
}

struct Server {
    peer: Arc<OldPeer>,
    name: Arc<str>,
    is_named: bool,
    presence: Presence,
    since: Instant,
    trouble: Option<(Error, Instant)>,
    /// What became of the first try.
    outcome: Option<Result<(), Error>>,
    failures: u32,
    due: Instant,
    is_blamed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    /// It has never answered.
    Unknown,
    Present,
    Away,
}

/// One of the servers, as a member.
#[derive(Clone)]
pub(crate) struct OldMember {
    pub(crate) id: PeerId,
    /// `HOST:PORT`, as it calls itself.
    pub(crate) name: Arc<str>,
    pub(crate) address: Address,
    pub(crate) is_present: bool,
    pub(crate) peer: Arc<OldPeer>,
}

impl OldMembers {
    /// Knows nobody yet.
    pub fn new(tokens: Tokens, store: Arc<Store>) -> Self {
        Self {
            shared: Arc::new(Shared {
                tokens,
                dialer: Arc::new(TcpDialer::default()),
                store,
                state: Mutex::new(State {
                    servers: Vec::new(),
                    ours: Vec::new(),
                    revision: 0,
                    stopping: false,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// Starts to call `named`. The first of `ours` is what this node calls itself; none if it does not serve.
    pub fn begin(&self, named: &[Site], ours: Vec<Site>) {
        self.shared.state.lock().ours = ours;
        for site in named {
            self.shared.add(site.clone(), true);
        }
    }

    /// All that have ever answered, and the store that their files lie in.
    pub(crate) fn all(&self) -> Vec<OldMember> {
        let state = self.shared.state.lock();
        let known = state.servers.iter();
        let known = known.filter(|server| server.presence != Presence::Unknown);
        known.map(Server::member).collect()
    }

    /// Where their files lie.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How they are doing.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let state = self.shared.state.lock();
        let known = state.servers.iter();
        let known = known.filter(|server| server.presence != Presence::Unknown);
        let standing = |server: &Server| Standing {
            id: server.peer.id(),
            name: Arc::clone(&server.name),
            address: Some(server.peer.site().address()),
            is_present: server.presence == Presence::Present,
            since: server.since,
            trouble: server.trouble.clone(),
        };
        known.map(standing).collect()
    }

    /// Grows whenever one comes or goes.
    pub(crate) fn revision(&self) -> u64 {
        self.shared.state.lock().revision
    }

    /// The server whose id this is, if it is there.
    pub(crate) fn whole(&self, id: PeerId) -> Option<Arc<dyn Whole>> {
        let state = self.shared.state.lock();
        let mut servers = state.servers.iter();
        let server = servers.find(|server| server.peer.id() == id)?;
        let is_present = server.presence == Presence::Present;
        is_present.then(|| Arc::clone(&server.peer) as Arc<dyn Whole>)
    }

    /// What became of each that the user named; `None` while its first try goes on.
    pub(crate) fn named(&self) -> Vec<(Address, Option<Result<(), Error>>)> {
        let state = self.shared.state.lock();
        let named = state.servers.iter().filter(|server| server.is_named);
        named
            .map(|server| (server.peer.site().address(), server.outcome.clone()))
            .collect()
    }

    /// A call to `member` failed with `error`.
    pub(crate) fn report(&self, member: PeerId, error: &Error) {
        self.shared.report(member, error);
    }

    /// Calls nobody any more.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for OldMembers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for OldMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldMembers").finish_non_exhaustive()
    }
}

impl Server {
    fn member(&self) -> OldMember {
        OldMember {
            id: self.peer.id(),
            name: Arc::clone(&self.name),
            address: self.peer.site().address(),
            is_present: self.presence == Presence::Present,
            peer: Arc::clone(&self.peer),
        }
    }

    /// True once it is not worth a thread any more.
    fn is_hopeless(&self, now: Instant) -> bool {
        !self.is_named
            && match self.presence {
                Presence::Present => false,
                Presence::Unknown => self.failures >= MAX_TRIES,
                Presence::Away => now.saturating_duration_since(self.since) >= FORGOTTEN,
            }
    }

    fn put_off(&mut self, error: &Error, now: Instant) {
        let doublings = self.failures.min(16);
        self.failures += 1;
        self.due = now
            + match error {
                Error::Refused { .. } => REFUSED_WAIT,
                _ => FIRST_WAIT.saturating_mul(1 << doublings).min(MAX_WAIT),
            };
        self.trouble = Some((error.clone(), now));
    }
}

impl Shared {
    /// Begins to call `site`, if there is room and it is neither known nor this node.
    fn add(self: &Arc<Self>, site: Site, is_named: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_ours = state.ours.iter().any(|ours| ours.place() == site.place());
        let is_known = |server: &Server| server.peer.site().place() == site.place();
        if state.stopping || is_ours || state.servers.iter().any(is_known) {
            return;
        }
        if state.servers.len() >= MAX_SERVERS {
            tracing::debug!(server = site.place(), "one server too many");
            return;
        }
        let (id, reporter) = (id_of(&site), Arc::downgrade(self));
        let report = move |error: &Error| {
            if let Some(shared) = reporter.upgrade() {
                shared.report(id, error);
            }
        };
        let token = (self.tokens)(site.url());
        let name = shown(site.place());
        let caller = Caller::new(site, token, Arc::clone(&self.dialer));
        let peer = Arc::new(OldPeer::new(caller, Arc::clone(&self.store), Box::new(report)));
        let (shared, calling) = (Arc::downgrade(self), Arc::clone(&peer));
        let thread = std::thread::Builder::new().name("call-2004".into());
        if let Err(error) = thread.spawn(move || run(&shared, &calling)) {
            tracing::warn!("a server of 2004 is not called: {error}");
            return;
        }
        state.servers.push(Server {
            peer,
            name,
            is_named,
            presence: Presence::Unknown,
            since: now,
            trouble: None,
            outcome: None,
            failures: 0,
            due: now,
            is_blamed: false,
        });
    }

    /// Waits until it is time to call `id`; `None` when it is not to be called any more. Tells what to say of this
    /// node, and whether the server has to prove itself again.
    fn due(&self, id: PeerId) -> Option<(Option<Site>, bool)> {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            if state.stopping {
                return None;
            }
            let place = state.servers.iter().position(|s| s.peer.id() == id)?;
            let server = &state.servers[place];
            if server.is_hopeless(now) {
                state.servers.remove(place);
                state.revision += 1;
                return None;
            }
            if server.due <= now {
                let is_away = server.presence == Presence::Away;
                return Some((state.ours.first().cloned(), is_away));
            }
            let due = server.due;
            self.changed.wait_until(&mut state, due);
        }
    }

    /// `id` has answered.
    fn answered(&self, id: PeerId) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(server) = state.servers.iter_mut().find(|s| s.peer.id() == id) else {
            return;
        };
        (server.failures, server.due) = (0, now + PERIOD);
        server.outcome = Some(Ok(()));
        if server.presence != Presence::Present {
            let how = match server.presence {
                Presence::Unknown => "here",
                _ => "back",
            };
            tracing::info!("{} (a server of 2004) is {how}", server.name);
            (server.presence, server.since) = (Presence::Present, now);
            state.revision += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A call of this node's own accord failed.
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
            // Whoever waits for the first contact tells the user.
            _ if is_first && server.is_named => tracing::info!("{error}"),
            Error::Refused { .. } | Error::Misbehaved { .. } => tracing::warn!("{error}"),
            _ => tracing::debug!("{error}"),
        }
        if server.presence == Presence::Present {
            tracing::info!("{} (a server of 2004) is away: {error}", server.name);
            (server.presence, server.since) = (Presence::Away, now);
            state.revision += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Somebody's call failed.
    fn report(&self, id: PeerId, error: &Error) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(server) = state.servers.iter_mut().find(|s| s.peer.id() == id) else {
            return;
        };
        if let Error::Misbehaved { .. } = error {
            server.trouble = Some((error.clone(), now));
            match std::mem::replace(&mut server.is_blamed, true) {
                false => tracing::warn!("{error}"),
                true => tracing::debug!("{error}"),
            }
        }
        let is_gone = error.is_absence() || matches!(error, Error::Refused { .. });
        if !is_gone || server.presence != Presence::Present {
            return;
        }
        tracing::info!("{} (a server of 2004) is away: {error}", server.name);
        server.put_off(error, now);
        (server.presence, server.since) = (Presence::Away, now);
        state.revision += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// `urls` are what some server says that it knows.
    fn learn(self: &Arc<Self>, teller: &Site, urls: Vec<Vec<u8>>) {
        let mut seen = HashSet::new();
        for url in urls.into_iter().take(4 * MAX_SERVERS) {
            let site = std::str::from_utf8(&url).ok().and_then(Site::parse);
            // A slash behind it is no part of what a server calls itself, so this is not one.
            match site.filter(|site| site.url().as_bytes() == url) {
                Some(site) if seen.insert(site.clone()) => self.add(site, false),
                Some(_) => {}
                None => tracing::debug!(
                    server = teller.place(),
                    url = escaped(&url),
                    "names something that is no server"
                ),
            }
        }
    }
}

/// Calls one server for as long as it is worth it.
fn run(shared: &Weak<Shared>, peer: &Arc<OldPeer>) {
    loop {
        let due = shared.upgrade().and_then(|shared| shared.due(peer.id()));
        let Some((ours, is_away)) = due else { return };
        let ours = ours.as_ref().map(Site::url);
        let told = peer.servers(ours, BUSY);
        // Who failed at listing names has to list them before anybody waits for it again.
        let proven = match &told {
            Some(Ok(_) | Err(Error::Fault { .. })) if is_away => {
                list(&**peer, &RelPath::root(), Instant::now() + CALL_DEADLINE).map(drop)
            }
            _ => Ok(()),
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match (told, proven) {
            (_, Err(error)) | (Some(Err(error)), Ok(())) if !matches!(error, Error::Fault { .. }) => {
                shared.failed(peer.id(), &error);
            }
            // Busy with another call of this node, or with a fault that only whoever knows the password hears.
            (None | Some(Err(_)), _) => shared.answered(peer.id()),
            (Some(Ok(urls)), _) => {
                shared.answered(peer.id());
                shared.learn(peer.site(), urls);
            }
        }
    }
}

/// How a server is shown to people.
fn shown(place: &str) -> Arc<str> {
    match MemberRecord::is_name(place) {
        true => place.into(),
        // An address has no characters but ASCII.
        false => place[place.len().saturating_sub(64)..].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::twin::Twin;
    use super::*;

    fn members() -> (tempfile::TempDir, OldMembers) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 1 << 20).unwrap();
        let members = OldMembers::new(Box::new(|_| "right".into()), store);
        (directory, members)
    }

    #[track_caller]
    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn present(members: &OldMembers) -> Vec<String> {
        let all = members.all().into_iter().filter(|member| member.is_present);
        let mut names: Vec<String> = all.map(|member| member.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn servers_are_found_through_one_another_and_hear_of_this_node() {
        let (first, second) = (Twin::start(), Twin::start());
        first.knows(second.site().url());
        let (_directory, members) = members();
        let ours = Site::parse("http://127.0.0.1:9").unwrap();
        for nonsense in [ours.url(), "nonsense", "https://x:1", "http://127.0.0.1:8/", "http://x"] {
            first.knows(nonsense);
        }
        members.begin(&[first.site()], vec![ours.clone()]);
        let mut expected = [&first, &second].map(|twin| twin.site().place().to_owned());
        expected.sort();
        eventually("both are members", || present(&members) == expected);
        for twin in [&first, &second] {
            let caller = Caller::new(twin.site(), "right".into(), Arc::new(TcpDialer::default()));
            let known = caller.servers(Some(ours.url())).unwrap();
            assert!(known.iter().any(|url| url == ours.url().as_bytes()));
        }
        assert_eq!(members.named().len(), 1);
        assert!(matches!(members.named()[0].1, Some(Ok(()))));
        assert_eq!(members.shared.state.lock().servers.len(), 2);
    }

    #[test]
    fn one_that_knows_nobody_is_a_member_for_those_who_only_ask() {
        let twin = Twin::start();
        let (_directory, members) = members();
        members.begin(&[twin.site()], Vec::new());
        eventually("it is there", || present(&members).len() == 1);
        assert!(members.whole(id_of(&twin.site())).is_some());
    }

    #[test]
    fn one_that_stops_is_away_and_nobody_waits_for_it() {
        let twin = Twin::start();
        let (_directory, members) = members();
        members.begin(&[twin.site()], Vec::new());
        eventually("it is there", || present(&members).len() == 1);
        let (id, before) = (id_of(&twin.site()), members.revision());
        twin.stop();
        let peer = members.whole(id).unwrap();
        eventually("it is found out", || {
            list(&*peer, &RelPath::root(), Instant::now() + CALL_DEADLINE).is_err()
        });
        assert!(present(&members).is_empty() && members.whole(id).is_none());
        assert!(members.revision() > before);
        let standing = &members.standings()[0];
        assert!(!standing.is_present && standing.trouble.is_some());
    }

    #[test]
    fn one_with_another_password_is_named_and_no_member() {
        let twin = Twin::start();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 1 << 20).unwrap();
        let members = OldMembers::new(Box::new(|_| "wrong".into()), store);
        members.begin(&[twin.site()], Vec::new());
        let refused = || matches!(members.named()[0].1, Some(Err(Error::Refused { .. })));
        eventually("it has refused", refused);
        assert!(members.all().is_empty());
    }

    #[test]
    fn a_flood_of_servers_is_bounded() {
        let twin = Twin::start();
        for number in 0..500 {
            twin.knows(&format!("http://127.1.0.1:{}", 20_000 + number));
        }
        let (_directory, members) = members();
        members.begin(&[twin.site()], Vec::new());
        eventually("it is there", || present(&members).len() == 1);
        let count = || members.shared.state.lock().servers.len();
        eventually("the others are known", || count() > 1);
        assert!(count() <= MAX_SERVERS);
    }

    #[test]
    fn long_host_names_are_cut_to_a_members_name() {
        let place = format!("{}.example:8000", "x".repeat(80));
        assert!(MemberRecord::is_name(&shown(&place)));
        assert!(shown(&place).ends_with(".example:8000"));
        assert_eq!(&*shown("box:1"), "box:1");
    }
}
