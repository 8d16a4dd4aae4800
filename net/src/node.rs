//! A running node: builds all parts, connects them, and ends them. The only file that knows every
//! part.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::auth::{AddressSource, Gate, GuessRecord, Identity};
use crate::budget::{ByteBudget, Held};
use crate::client::http_peer::{Client, HttpPeer};
use crate::config::{CacheConfig, Config, Listen, ShareConfig};
use crate::content::cache::Cache;
use crate::download::Engine;
use crate::error::Error;
use crate::legacy::members::OldMembers;
use crate::legacy::store::Store;
use crate::legacy::{Legacy, Url, own_urls};
use crate::membership::address::canonical;
use crate::membership::dialer::{Connect, Connection};
use crate::membership::mdns::{Discovery, Sighting};
use crate::membership::reachable;
use crate::membership::remembered::Remembered;
use crate::membership::{Member, Members};
use crate::model::{Address, Attributes, PeerId, RelPath};
use crate::peer::{self, Matches, Peer, Room, Told};
use crate::protocol::wire::{Hello, Listing, MemberRecord};
use crate::query::claims::FileClaims;
use crate::query::fanout::{Answer, Asked, Fanout, Round, Whom};
use crate::query::subscriptions::{Followers, Listener};
use crate::server::Server;
use crate::service::Service;
use crate::service::local_peer::LocalPeer;
use crate::share::{Roots, Share};
use crate::stats::status;
use crate::stats::status::{CacheStatus, LegacyStatus, MemoryStatus, Status};
use crate::transport::dial::TcpDialer;

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
    followers: Arc<Followers>,
    /// Apart: a search takes seconds, and look-ups must not wait behind it.
    searches: Fanout,
    engine: Arc<Engine>,
    cache: Option<(CacheConfig, Arc<Cache>)>,
    legacy: Option<Arc<Legacy>>,
    begun: Instant,
    reachable_at: Vec<Address>,
    /// What is left to be stopped.
    running: Mutex<Option<Running>>,
}

struct Running {
    server: Server,
    discovery: Option<Discovery>,
}

impl Node {
    /// Starts to serve and to look for members. Whatever may fail comes first and in an order in
    /// which nothing is visible to others until all of it has succeeded. Takes about 0.2 s, for the
    /// password.
    ///
    /// # Errors
    /// [`Error::Local`]: the name, the share, the state directory, an address or the port cannot
    /// be used.
    pub fn start(config: Config) -> Result<Arc<Self>, Error> {
        check_name(&config.name)?;
        let share = config.share.as_ref().map(Share::open).transpose()?;
        let share = match config.watch {
            true => share.map(Share::watched),
            false => share,
        };
        let (blocks, whole) = shares(config.cache.as_ref(), config.legacy.is_some());
        let cache = config.cache.as_ref();
        let cache = cache.map(|cache| open_cache(cache, blocks));
        let cache = cache.transpose()?.flatten();
        let reshared = config.cache.as_ref().is_some_and(|cache| cache.reshare);
        let identity = Identity::load_or_create(&config.state_dir)?;
        let id = identity.id();
        let stretched = config.password.stretch();
        let legacy = config.legacy.map(|legacy| {
            let key = config.password.legacy_key();
            Arc::new(Legacy::new(key, legacy.peers))
        });
        drop(config.password);
        let record = GuessRecord::open(&config.state_dir);
        let gate = Arc::new(Gate::new(identity, stretched, record)?);
        let roots = |share: &ShareConfig| {
            let place = share.directory.canonicalize();
            let place = place.unwrap_or_else(|_| share.directory.clone());
            Roots::open(&Roots::file(&place, &config.state_dir))
        };
        let roots = config.share.as_ref().map(roots).transpose()?;
        let share = share
            .zip(roots)
            .map(|(share, roots)| share.with_roots(roots))
            .transpose()?;
        let place = config.remember_as.as_deref();
        let typed = config.peers.iter().map(|peer| &peer.address);
        let typed = typed.filter_map(canonical).map(|address| address.host);
        let dialer = TcpDialer::for_typed(typed);
        let budget = ByteBudget::new(config.answers);
        let members = Arc::new(Members::new(
            id,
            config.name.clone(),
            config
                .advertise
                .clone()
                .or_else(|| only_address(&config.listen)),
            &config.peers,
            place.map(|place| Remembered::load(&config.state_dir, place)),
            Box::new(Client::new(
                gate.clone(),
                Arc::new(dialer),
                Arc::clone(&budget),
            )),
        )?);
        let service = Arc::new(Service {
            share: share.clone(),
            cache: cache.clone().filter(|_| reshared),
            members: members.clone(),
            legacy: legacy.clone(),
        });
        let directory = config.cache.as_ref().map(|cache| &*cache.directory);
        let store = legacy.as_ref().map(|_| Store::open(directory, whole));
        let store = store.transpose()?;
        let server = Server::start(&config.listen, service.clone(), gate)?;
        if let Some(legacy) = &legacy
            && server.local_port() != 0
        {
            let only = only_address(&config.listen).and_then(|address| address.host.parse().ok());
            let host = rustix::system::uname();
            let host = host.nodename().to_string_lossy();
            legacy.announce(own_urls(
                config.advertise.as_ref(),
                only,
                &host,
                server.local_port(),
            ));
        }
        let known = Arc::downgrade(&members);
        let report = move |member, error: &Error| {
            if let Some(members) = known.upgrade() {
                members.report(member, error);
            }
        };
        if let Some((legacy, store)) = legacy.as_ref().zip(store) {
            members.join_old(Arc::new(OldMembers::new(id, Arc::clone(legacy), store)));
        }
        let followers = Followers::new(Box::new(report.clone()));
        let distrusted = Arc::downgrade(&followers);
        let on_failure = move |member, error: &Error| {
            report(member, error);
            // What else it said goes, too, so that nobody goes by a claim that was just disproved.
            if matches!(error, Error::WrongBytes { .. })
                && let Some(followers) = distrusted.upgrade()
            {
                followers.distrust(member);
            }
        };
        let engine = Engine::new(config.memory, cache.clone(), Box::new(on_failure))?;
        let node = Arc::new(Self {
            id,
            fanout: Fanout::new("ask", Arc::clone(&budget)),
            followers,
            searches: Fanout::new("search", Arc::clone(&budget)),
            budget,
            engine: Arc::new(engine),
            cache: config.cache.zip(cache),
            legacy,
            begun: Instant::now(),
            reachable_at: reachable::addresses(
                config.advertise.as_ref(),
                &config.listen,
                server.local_port(),
            ),
            name: config.name,
            port: server.local_port(),
            share,
            members,
            running: Mutex::new(Some(Running {
                server,
                discovery: None,
            })),
        });
        node.join(service, config.discovery)?;
        Ok(node)
    }

    /// Looks for members, now that it can be found by them.
    fn join(&self, service: Arc<Service>, discovery: bool) -> Result<(), Error> {
        let itself: Option<Arc<dyn Peer>> = match &self.share {
            Some(_) => Some(Arc::new(LocalPeer::new(self.id, service))),
            None => None,
        };
        self.members.begin(self.port, itself)?;
        if !discovery {
            return Ok(());
        }
        let members = self.members.clone();
        let found = move |sighting: &Sighting| members.sighted(sighting);
        match Discovery::start(self.id, self.port, Arc::new(found)) {
            Ok(discovery) => {
                if let Some(running) = &mut *self.running.lock() {
                    running.discovery = Some(discovery);
                }
            }
            Err(error) => tracing::warn!("{error}"),
        }
        Ok(())
    }

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

    /// The addresses to tell others, best first: at most a few, and none that only this host or one link can dial.
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
        let cache = self.cache.as_ref().map(|(config, cache)| CacheStatus {
            directory: cache
                .is_kept()
                .then(|| config.directory.to_string_lossy().into_owned()),
            held: cache.held_bytes() + self.members.old_bytes(),
            limit: config.size,
        });
        let shown = |urls: Vec<Url>| urls.iter().map(Url::to_string).collect();
        let legacy = self.legacy.as_ref().map(|legacy| LegacyStatus {
            urls: shown(legacy.own()),
            servers: shown(legacy.all()),
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

    /// Puts `question` to everyone who is there, and returns one answer for each by `deadline`. Members
    /// that are known to be away have their answer at once: an [`Error::Unreachable`].
    pub fn ask<T, Q>(&self, deadline: Instant, question: Q) -> Vec<Answer<T>>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        self.gather(|_| true, |asked| self.fanout.ask(asked, deadline, question))
            .1
    }

    /// As [`Node::ask`] of those among `whom` for the whole of `directory`, `None` where there is none; but see
    /// [`Fanout::list`]. No answer at all of a member that nobody knows.
    pub fn list(
        &self,
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> Round<Option<Held<Listing>>> {
        let ask = |asked: &[Asked]| self.fanout.list(asked, whom, directory, deadline);
        self.round(whom, ask)
    }

    /// As [`Node::list`] for the attributes of `path`, `None` where it is not shared; but see [`Fanout::stat`].
    pub fn stat(
        &self,
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> Round<Option<Attributes>> {
        let ask = |asked: &[Asked]| self.fanout.stat(asked, whom, path, deadline);
        self.round(whom, ask)
    }

    /// Asks everyone, as [`Node::ask`] does, for the files whose name matches `pattern`. More of one member than there
    /// is `room` for are an error. However many searches are under way, other questions do not wait for them.
    pub fn search(
        &self,
        pattern: &str,
        room: Room,
        deadline: Instant,
    ) -> Vec<Answer<Held<Matches>>> {
        let pattern = pattern.to_owned();
        self.ask_for_search(deadline, move |peer: &dyn Peer, deadline| {
            let begun = Instant::now();
            let found = peer::search(peer, &pattern, &room, deadline);
            tracing::debug!(
                member = %peer.id().short(),
                matches = found.as_ref().map_or(0, |found| found.files.len()),
                microseconds = begun.elapsed().as_micros(),
                "searched"
            );
            found
        })
    }

    /// As [`Node::ask`] for a search, for which no other question waits.
    pub fn ask_for_search<T, Q>(&self, deadline: Instant, question: Q) -> Vec<Answer<T>>
    where
        T: FileClaims + Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        let ask = |asked: &[Asked]| {
            let mut answers = self.searches.ask(asked, deadline, question);
            self.doubt(&mut answers);
            answers
        };
        self.gather(|_| true, ask).1
    }

    /// Has members compute the content roots of these files of theirs before those of others. Waits for nothing.
    pub fn compare(&self, files: BTreeMap<PeerId, Vec<RelPath>>) {
        for member in self.members.present() {
            if let Some(paths) = files.get(&member.id) {
                self.fanout.compare(&member.peer, paths.clone());
            }
        }
    }

    /// Another number whenever members have come or gone.
    pub fn revision(&self) -> u64 {
        self.members.revision()
    }

    /// Tells `listener` from now on when what members said no longer holds, for as long as it lives.
    pub fn listen(&self, listener: Weak<dyn Listener>) {
        self.followers.listen(listener);
    }

    /// Takes those roots from what members say of their files that they were found to be wrong about.
    fn doubt<T: FileClaims>(&self, answers: &mut [Answer<T>]) {
        for answer in answers {
            if let Ok(claims) = &mut answer.result {
                self.engine.disbelieve(answer.member, claims);
            }
        }
    }

    /// What `ask` hears of those who are among `whom`, and how long it may be gone by.
    fn round<T: FileClaims>(
        &self,
        whom: &Whom,
        ask: impl FnOnce(&[Asked]) -> Vec<Answer<Told<T>>>,
    ) -> Round<T> {
        // Before anybody is asked, as is the time: whoever comes meanwhile is not among the answers.
        let (revision, now) = (self.members.revision(), Instant::now());
        let (present, mut answers) = self.gather(|member| whom.includes(member), ask);
        self.doubt(&mut answers);
        // Those of the present come first, in their order.
        let theirs = present.iter().zip(&answers);
        let watched = theirs.filter_map(|(member, answer)| {
            let counter = answer.result.as_ref().ok()?.counter?;
            let is_followed = self.followers.follow(&member.peer, counter, now);
            is_followed.then_some(member.id)
        });
        let mut watched: Vec<PeerId> = watched.collect();
        watched.sort_unstable();
        let answers = answers.into_iter().map(|answer| Answer {
            member: answer.member,
            name: answer.name,
            result: answer.result.map(|told| told.answer),
        });
        Round {
            answers: answers.collect(),
            is_all_watched: watched.len() == present.len(),
            watched,
            revision,
        }
    }

    /// Those who are there and `wanted`; what `ask` hears of them, in their order, and of all others who are wanted
    /// that they are away.
    fn gather<T>(
        &self,
        wanted: impl Fn(PeerId) -> bool,
        ask: impl FnOnce(&[Asked]) -> Vec<Answer<T>>,
    ) -> (Vec<Member>, Vec<Answer<T>>) {
        // At one moment: whoever comes back while the others are asked is not taken for somebody who has nothing.
        let (mut present, absent) = self.members.everyone();
        present.retain(|member| wanted(member.id));
        let asked = present.iter().map(|member| Asked {
            name: Arc::clone(&member.name),
            peer: Arc::clone(&member.peer),
        });
        let asked: Vec<Asked> = asked.collect();
        let mut answers = ask(&asked);
        for answer in &answers {
            if let Err(error) = &answer.result {
                self.members.report(answer.member, error);
            }
        }
        let absent = absent.into_iter().filter(|(member, _)| wanted(*member));
        answers.extend(absent.map(|(member, name)| {
            let away = Error::Unreachable {
                who: name.to_string(),
                why: "it is away".into(),
            };
            Answer {
                member,
                name,
                result: Err(away),
            }
        }));
        (present, answers)
    }

    /// Waits until each address that the user named has answered or failed once, or `deadline`;
    /// once one has answered, only a moment longer. Returns what became of them, without those that
    /// have not answered yet and those that are this node itself. A wrong password is
    /// [`Error::Refused`].
    pub fn first_contact(&self, deadline: Instant) -> Vec<(Address, Result<(), Error>)> {
        self.members.first_contact(deadline)
    }

    /// Waits until whoever was named, is known from last time, or is known to those who were met has been dialled once,
    /// or `deadline`: most who are there can be asked then.
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

/// What blocks, and whole files of servers of 2004, may take on disk: half of the cache each. Without a cache, such
/// files still have to be somewhere; `None` is what the disk allows.
fn shares(cache: Option<&CacheConfig>, legacy: bool) -> (u64, Option<u64>) {
    let size = cache.map(|cache| cache.size);
    let half = size.map(|size| size / 2);
    let blocks = size.unwrap_or(0) - half.filter(|_| legacy).unwrap_or(0);
    (blocks, half)
}

/// The disk cache, unless another process is using it.
fn open_cache(config: &CacheConfig, size: u64) -> Result<Option<Arc<Cache>>, Error> {
    let cache = Cache::open(&config.directory, size)?;
    if cache.is_none() {
        let directory = config.directory.display();
        tracing::info!("another mount uses the cache in {directory}; this one does without");
    }
    Ok(cache.map(Arc::new))
}

/// The one address of a node that listens on no other: its calls may well leave from another of the
/// machine's addresses, where nobody would find it. Everyone else goes by what they see.
fn only_address(listen: &Listen) -> Option<Address> {
    match listen {
        Listen::At(at) if !at.ip().is_unspecified() && at.port() != 0 => {
            Some(Address::new(at.ip().to_string(), at.port()))
        }
        _ => None,
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if MemberRecord::is_name(name) {
        return Ok(());
    }
    Err(Error::Local {
        what: format!("the name {name:?}"),
        why: "a member's name has 1 to 64 bytes, no '/' and no control or invisible characters"
            .into(),
    })
}

impl Connect for Client {
    fn connect(
        &self,
        address: &Address,
        expected: Option<PeerId>,
        source: AddressSource,
        deadline: Instant,
    ) -> Result<Arc<dyn Connection>, Error> {
        let peer = Client::connect(self, address, expected, source, deadline)?;
        Ok(peer)
    }
}

impl Connection for HttpPeer {
    fn follow(&self, address: &Address, source: AddressSource) {
        HttpPeer::follow(self, address.clone(), source);
    }

    fn renew(&self) {
        HttpPeer::renew(self);
    }

    fn cut(&self) {
        HttpPeer::cut(self);
    }

    fn close(&self) {
        HttpPeer::close(self);
    }
}

#[cfg(test)]
mod tests;
