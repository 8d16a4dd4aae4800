//! Starts a node: builds all parts and connects them. The only file that knows how every
//! part is built.

use super::config::Config;
use super::{LegacyParts, Node, RunningParts};
use crate::auth::{AddressSource, Gate, GuessRecord, Identity};
use crate::budget::ByteBudget;
use crate::client::http_peer::{Client, HttpPeer};
use crate::config::{CacheConfig, Listen};
use crate::content::cache::DiskCache;
use crate::download::Engine;
use crate::error::Error;
use crate::legacy::members::LegacyServers;
use crate::legacy::server::LegacyServer;
use crate::legacy::store::LegacyStore;
use crate::legacy::{Legacy, TokenKey, own_urls};
use crate::membership::Members;
use crate::membership::address::canonical_tcp;
use crate::membership::dialer::{Connect, MemberLink};
use crate::membership::mdns::{Discovery, Sighting};
use crate::membership::reachable;
use crate::membership::remembered::Remembered;
use crate::membership::source::MemberSource;
use crate::model::{Address, DEFAULT_PORT, PeerId, TcpAddress};
use crate::peer::Peer;
use crate::protocol::wire::MemberRecord;
use crate::query::fanout::Fanout;
use crate::query::subscriptions::Subscriptions;
use crate::server::Server;
use crate::service::Service;
use crate::service::local_peer::LocalPeer;
use crate::service::plaintext::PlaintextProtocol;
use crate::share::{Roots, Share};
use crate::transport::dial::{Dial, TcpDialer};
use crate::transport::dialers::Dialers;
use crate::transport::reach::{EndpointPlace, Reach};
use parking_lot::Mutex;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

impl Node {
    /// Starts to serve and to look for members. Steps that may fail come first, ordered so that
    /// others see nothing until all of them have succeeded. Takes about 0.2 s, for the password.
    ///
    /// # Errors
    /// [`Error::Local`]: the name, the share, the state directory, an address or the port
    /// cannot be used.
    pub fn start(config: Config) -> Result<Arc<Self>, Error> {
        check_name(&config.name)?;
        let share = open_share(&config)?;
        let (blocks, whole) = shares(config.cache.as_ref(), config.legacy.is_some());
        let cache = config.cache.as_ref();
        let cache = cache.map(|cache| open_cache(cache, blocks));
        let cache = cache.transpose()?.flatten();
        let identity = Identity::load_or_create(&config.state_dir)?;
        let id = identity.id();
        let reach = start_reach(&config, &identity)?;
        let stretched = config.password.stretch();
        let legacy = config.legacy.as_ref().map(|legacy| {
            let key = config.password.reveal(TokenKey::new);
            Arc::new(Legacy::new(key, legacy.peers.clone()))
        });
        let record = GuessRecord::open(&config.state_dir);
        let gate = Arc::new(Gate::new(identity, stretched, record)?);
        let share = with_roots(share, &config)?;
        let budget = ByteBudget::new(config.answers);
        let members = Arc::new(find_members(&config, &gate, &budget, reach.clone())?);
        // Before anybody is served or dialled.
        drop(config.password);
        let reshared = config.cache.as_ref().is_some_and(|cache| cache.reshare);
        let service = Arc::new(Service {
            share: share.clone(),
            cache: cache.clone().filter(|_| reshared),
            members: members.clone(),
            plaintext: legacy.clone().map(|legacy| {
                let server = LegacyServer::new(legacy, id);
                Arc::new(server) as Arc<dyn PlaintextProtocol>
            }),
        });
        let legacy = match legacy {
            Some(legacy) => {
                let directory = config.cache.as_ref().map(|cache| &*cache.directory);
                let store = LegacyStore::open(directory, whole)?;
                let members = LegacyServers::new(id, Arc::clone(&legacy), store);
                let members = Arc::new(members);
                Some(LegacyParts { legacy, members })
            }
            None => None,
        };
        let calls = reach.as_ref().and_then(|reach| reach.take_calls());
        let server = Server::start(&config.listen, service.clone(), gate, calls)?;
        let port = server.local_port();
        if let Some(parts) = &legacy {
            announce(
                &parts.legacy,
                config.advertise.as_ref(),
                &config.listen,
                port,
            );
            members.join_source(Arc::clone(&parts.members) as Arc<dyn MemberSource>);
        }
        let (followers, engine) = follow(&members, config.memory, cache.clone())?;
        let listen = &config.listen;
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
            reachable_at: reachable::addresses(config.advertise.as_ref(), listen, port),
            name: config.name,
            reach,
            port,
            share,
            members,
            running: Mutex::new(Some(RunningParts {
                server,
                discovery: None,
            })),
        });
        node.join(service, config.discovery)?;
        Ok(node)
    }

    /// Looks for members, now that they can find this node.
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
}

/// Opens the share, if there is one, without the known contents of its files.
fn open_share(config: &Config) -> Result<Option<Share>, Error> {
    let share = config.share.as_ref().map(Share::open).transpose()?;
    Ok(if config.watch {
        share.map(Share::watched)
    } else {
        share
    })
}

/// Adds the content roots known from earlier runs to the share.
fn with_roots(share: Option<Share>, config: &Config) -> Result<Option<Arc<Share>>, Error> {
    let Some((share, shared)) = share.zip(config.share.as_ref()) else {
        return Ok(None);
    };
    let directory = shared.directory.canonicalize();
    let directory = directory.unwrap_or_else(|_| shared.directory.clone());
    let roots = Roots::open(&Roots::file(&directory, &config.state_dir))?;
    Ok(Some(share.with_roots(roots)?))
}

/// Binds the endpoint, if this node takes part through NATs: where it listens, as
/// far as that is known, so that there is one number to allow in a firewall.
fn start_reach(config: &Config, identity: &Identity) -> Result<Option<Arc<Reach>>, Error> {
    let Some(reach) = &config.reach else {
        return Ok(None);
    };
    let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let (at, accepts) = match config.listen {
        Listen::Nowhere => (everywhere(0), false),
        Listen::At(address) => (address, true),
        Listen::Default => (everywhere(DEFAULT_PORT), true),
    };
    let place = EndpointPlace {
        at,
        own: reachable::ips(&config.listen),
        accepts,
    };
    Reach::start(reach, identity.endpoint_seed(), &place).map(Some)
}

/// Collects the members that are named or known from last time; none is called yet.
fn find_members(
    config: &Config,
    gate: &Arc<Gate>,
    budget: &Arc<ByteBudget>,
    reach: Option<Arc<Reach>>,
) -> Result<Members, Error> {
    let typed = config.peers.iter().map(|peer| &peer.address);
    let typed = typed.filter_map(Address::as_tcp);
    let typed = typed.filter_map(canonical_tcp).map(|address| address.host);
    let own = reach.as_ref().map(|reach| reach.address());
    let reach = reach.map(|reach| reach as Arc<dyn Dial>);
    let dialer = Arc::new(Dialers::new(Arc::new(TcpDialer::for_typed(typed)), reach));
    let remembered = config.remember_as.as_deref();
    let advertise = config.advertise.clone();
    let advertise = advertise.or_else(|| only_address(&config.listen));
    Members::new(
        gate.id(),
        config.name.clone(),
        (advertise, own),
        &config.peers,
        remembered.map(|network| Remembered::load(&config.state_dir, network)),
        Box::new(Client::new(gate.clone(), dialer, Arc::clone(budget))),
    )
}

/// Sets the URLs announced to servers of 2004 that this node calls: those at which it answers.
fn announce(legacy: &Legacy, advertise: Option<&TcpAddress>, listen: &Listen, port: u16) {
    if port == 0 {
        return;
    }
    let only = only_address(listen).and_then(|address| address.host.parse().ok());
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    legacy.announce(own_urls(advertise, only, &host, port));
}

/// Creates the subscriptions and the engine. Both report members that fail.
fn follow(
    members: &Arc<Members>,
    memory: u64,
    cache: Option<Arc<DiskCache>>,
) -> Result<(Arc<Subscriptions>, Engine), Error> {
    let members = Arc::downgrade(members);
    let report = move |member, error: &Error| {
        if let Some(members) = members.upgrade() {
            members.report(member, error);
        }
    };
    let followers = Subscriptions::new(Box::new(report.clone()));
    let distrusted = Arc::downgrade(&followers);
    let on_failure = move |member, error: &Error| {
        report(member, error);
        // Its other answers are dropped, too, so that nobody uses a claim that was just disproved.
        if matches!(error, Error::WrongBytes { .. })
            && let Some(followers) = distrusted.upgrade()
        {
            followers.distrust(member);
        }
    };
    let engine = Engine::new(memory, cache, Box::new(on_failure))?;
    Ok((followers, engine))
}

/// Returns how much disk blocks, and whole files of servers of 2004, may take: half of the cache
/// each. Without a cache, such files still need disk space; `None` means what the disk allows.
fn shares(cache: Option<&CacheConfig>, legacy: bool) -> (u64, Option<u64>) {
    let size = cache.map(|cache| cache.size);
    let half = size.map(|size| size / 2);
    let blocks = size.unwrap_or(0) - half.filter(|_| legacy).unwrap_or(0);
    (blocks, half)
}

/// Opens the disk cache, unless another process is using it.
fn open_cache(config: &CacheConfig, size: u64) -> Result<Option<Arc<DiskCache>>, Error> {
    let cache = DiskCache::open(&config.directory, size)?;
    if cache.is_none() {
        let directory = config.directory.display();
        tracing::info!("another mount uses the cache in {directory}; this one does without");
    }
    Ok(cache.map(Arc::new))
}

/// Returns the one address of a node that listens on no other: its calls may well leave from
/// another of the machine's addresses, where nobody would find it. Other nodes use what they see.
fn only_address(listen: &Listen) -> Option<TcpAddress> {
    match listen {
        Listen::At(at) if !at.ip().is_unspecified() && at.port() != 0 => {
            Some(TcpAddress::new(at.ip().to_string(), at.port()))
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
    ) -> Result<Arc<dyn MemberLink>, Error> {
        let peer = Client::connect(self, address, expected, source, deadline)?;
        Ok(peer)
    }
}

impl MemberLink for HttpPeer {
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
