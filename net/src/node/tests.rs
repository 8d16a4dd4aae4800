//! Whole nodes on 127.0.0.1, with real sockets, TLS and pairing.

use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use super::config::Config;
use super::*;
use crate::auth::Password;
use crate::config::{Listen, ShareConfig};
use crate::content::cache::harness;
use crate::content::cache::harness::content;
use crate::model::{PeerArgument, RelPath};
use crate::peer::{self, Room};
use crate::protocol::wire::{FaultCode, HashesRequest, ListRequest, Request, Response};
use crate::testing::eventually;

const PATIENCE: Duration = Duration::from_secs(20);

struct Place {
    share: TempDir,
    state: TempDir,
}

impl Place {
    fn new() -> Self {
        let (share, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        Self { share, state }
    }

    fn config(&self, password: &str, name: &str, port: u16, peers: &[u16]) -> Config {
        let peer = |port: &u16| PeerArgument {
            address: Address::new("127.0.0.1", *port),
            expected: None,
            relays: Vec::new(),
        };
        Config {
            password: Password::new(password.into()).unwrap(),
            share: Some(ShareConfig {
                directory: self.share.path().into(),
                hidden: false,
                excluded: Vec::new(),
            }),
            listen: Listen::At(([127, 0, 0, 1], port).into()),
            advertise: None,
            reach: None,
            name: name.into(),
            discovery: false,
            watch: true,
            memory: 64 << 20,
            answers: 64 << 20,
            cache: None,
            peers: peers.iter().map(peer).collect(),
            legacy: None,
            state_dir: self.state.path().into(),
            remember_as: Some(self.share.path().into()),
        }
    }

    fn node(&self, name: &str, port: u16, peers: &[u16]) -> Arc<Node> {
        Node::start(self.config("pw", name, port, peers)).unwrap()
    }
}

/// Returns a port that nobody listens on, for a node that is started later.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn names(node: &Node) -> Vec<String> {
    let mut names: Vec<_> = node.present().iter().map(|m| m.name.to_string()).collect();
    names.sort();
    names
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn list(member: &Member) -> Result<Vec<String>, Error> {
    let request = Request::List(ListRequest {
        watch: false,
        directory: RelPath::root(),
        after: None,
        limit: 100,
    });
    let Response::List(listing) = member.peer.call(&request, soon())? else {
        panic!("another response");
    };
    Ok(listing.entries.iter().map(|e| e.name.to_string()).collect())
}

#[test]
fn chain_of_three_shares_peers_and_files() {
    let places = [Place::new(), Place::new(), Place::new()];
    for (place, file) in places.iter().zip(["x", "y", "z"]) {
        std::fs::write(place.share.path().join(file), file).unwrap();
    }
    let ports = [free_port(), free_port(), free_port()];
    let begin = Instant::now();
    let nodes = [
        places[0].node("a", ports[0], &[ports[1]]),
        places[1].node("b", ports[1], &[ports[2]]),
        places[2].node("c", ports[2], &[]),
    ];
    eventually("all see all, themselves too", || {
        nodes.iter().all(|node| names(node) == ["a", "b", "c"])
    });
    println!("complete after {:?}", begin.elapsed());
    for node in &nodes {
        let mut files: Vec<_> = node
            .present()
            .iter()
            .flat_map(|m| list(m).unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["x", "y", "z"]);
    }
    let begin = Instant::now();
    nodes[0].stop();
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn wrong_password_peer_sees_nothing() {
    let (a, b) = (Place::new(), Place::new());
    let first = a.node("a", 0, &[]);
    let config = b.config("another", "b", 0, &[first.port(), free_port()]);
    let second = Node::start(config).unwrap();
    let mut outcomes = second.first_contact(soon());
    outcomes.sort_by_key(|(address, _)| address.as_tcp().unwrap().port != first.port());
    assert!(matches!(
        &outcomes[..],
        [
            (_, Err(Error::Refused { .. })),
            (_, Err(Error::Unreachable { .. }))
        ]
    ));
    assert_eq!(
        (names(&first), names(&second)),
        (vec!["a".into()], vec!["b".into()])
    );
}

#[test]
fn the_right_password_is_first_contact() {
    let (a, b) = (Place::new(), Place::new());
    let first = a.node("a", 0, &[]);
    let second = b.node("b", 0, &[first.port()]);
    let outcomes = second.first_contact(soon());
    assert!(matches!(&outcomes[..], [(_, Ok(()))]));
    assert_eq!(names(&second), ["a", "b"]);
}

#[test]
fn stopped_member_returns_as_the_same() {
    let (a, b) = (Place::new(), Place::new());
    let first = a.node("a", 0, &[]);
    let second = b.node("b", 0, &[first.port()]);
    eventually("they meet", || names(&first) == ["a", "b"]);
    let id = second.id();
    drop(second);
    for member in first.present() {
        if let Err(error) = list(&member) {
            first.members().report(member.id, &error);
        }
    }
    eventually("it is away", || names(&first) == ["a"]);
    // No address is named: it remembers the other node, from another port.
    let second = b.node("b", 0, &[]);
    assert_eq!(second.id(), id);
    eventually("it is back", || names(&first) == ["a", "b"]);
    eventually("it sees the other", || names(&second) == ["a", "b"]);
    let back = first.present().into_iter().find(|m| m.id == id).unwrap();
    assert_eq!(
        back.address.map(|address| address.as_tcp().unwrap().port),
        Some(second.port())
    );
}

#[test]
fn status_covers_the_node_and_all_others() {
    let (a, b) = (Place::new(), Place::new());
    let first = a.node("a", 0, &[]);
    let mut config = b.config("pw", "b", 0, &[first.port()]);
    let directory = b.state.path().join("cache");
    config.cache = Some(CacheConfig {
        directory: directory.clone(),
        size: 1 << 20,
        reshare: true,
    });
    let second = Node::start(config).unwrap();
    eventually("they meet", || names(&second) == ["a", "b"]);
    let status = second.status();
    assert_eq!((&*status.name, status.port), ("b", second.port()));
    assert_eq!(status.peer_id, second.id().to_string());
    assert_eq!(status.memory.budget, 64 << 20);
    assert_eq!(status.cache.directory.as_deref(), directory.to_str());
    assert_eq!((status.cache.held, status.cache.limit), (0, 1 << 20));
    let [member] = &status.members[..] else {
        panic!("{:?}", status.members);
    };
    assert_eq!(member.peer_id, first.id().to_string());
    assert_eq!(member.state, crate::stats::status::Presence::Present);
    first.stop();
    let id = first.id();
    second
        .members
        .report(id, &Error::Timeout { who: id.short() });
    eventually("it is shown as absent", || {
        second.status().members[0].state == crate::stats::status::Presence::Absent
    });
    assert!(second.status().members[0].last_error.is_some());
    assert!(first.status().cache.directory.is_none());
}

#[test]
fn guest_sees_members_but_is_none() {
    let (a, b) = (Place::new(), Place::new());
    let first = a.node("a", 0, &[]);
    let mut config = b.config("pw", "guest", 0, &[first.port()]);
    (config.listen, config.share) = (Listen::Nowhere, None);
    let guest = Node::start(config).unwrap();
    eventually("the guest sees the member", || names(&guest) == ["a"]);
    assert_eq!((guest.port(), names(&first)), (0, vec!["a".into()]));
}

#[test]
fn self_named_node_is_one_member() {
    let place = Place::new();
    let port = free_port();
    let node = place.node("a", port, &[port]);
    assert!(node.first_contact(soon()).is_empty());
    assert_eq!(names(&node), ["a"]);
}

#[test]
fn doomed_start_fails_before_it_is_visible() {
    let place = Place::new();
    let fails = |change: fn(&mut Config)| {
        let mut config = place.config("pw", "a", 0, &[]);
        change(&mut config);
        Node::start(config).map(drop).is_err()
    };
    assert!(fails(|config| config.name = "a/b".into()));
    assert!(fails(|config| {
        if let Some(share) = &mut config.share {
            share.directory = Path::new("/nowhere/at/all").into();
        }
    }));
    assert!(fails(
        |config| config.peers = vec!["0.0.0.0".parse().unwrap()]
    ));
    assert!(fails(
        |config| config.listen = Listen::At(([192, 0, 2, 99], 1).into())
    ));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = place.config("pw", "a", 0, &[]);
    config.listen = Listen::At(taken.local_addr().unwrap());
    assert!(Node::start(config).is_err());
}

#[test]
fn silent_peer_delays_no_start_or_stop() {
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new();
    let node = place.node("a", 0, &[frozen.local_addr().unwrap().port()]);
    let begin = Instant::now();
    node.stop();
    assert!(begin.elapsed() < Duration::from_secs(2));

    let node = place.node("a", 0, &[frozen.local_addr().unwrap().port()]);
    let outcomes = node.first_contact(soon());
    assert!(matches!(&outcomes[..], [(_, Err(Error::Timeout { .. }))]));
    assert!(begin.elapsed() < Duration::from_secs(8));
}

/// Requests from the member `name`, by `asker`, the hashes of a content that is only in its cache.
fn asked_for_cached(asker: &Node, name: &str, request: &HashesRequest) -> Result<(), Error> {
    let present = asker.present();
    let member = present.iter().find(|member| &*member.name == name).unwrap();
    let request = Request::Hashes(request.clone());
    member.peer.call(&request, soon()).map(drop)
}

#[test]
fn cache_is_shared_unless_declined() {
    let (giver, keeper, asker) = (Place::new(), Place::new(), Place::new());
    let content = content(1000, 1);
    let start = |place: &Place, name: &str, reshare| {
        let directory = place.state.path().join("cache");
        let cache = harness::open(&directory, 1 << 20);
        content.put(&cache, 0, 1);
        eventually("written", || cache.held_bytes() > 0);
        harness::close(cache, &directory);
        let mut config = place.config("pw", name, 0, &[]);
        let size = 1 << 20;
        config.cache = Some(CacheConfig {
            directory,
            size,
            reshare,
        });
        // It shares no files of its own, but still supplies its cache.
        config.share = None;
        Node::start(config).unwrap()
    };
    let keeper = start(&keeper, "keeper", false);
    let giver = start(&giver, "giver", true);
    let asker = asker.node("asker", 0, &[giver.port(), keeper.port()]);
    eventually("they meet", || {
        names(&asker) == ["asker", "giver", "keeper"]
    });
    let request = HashesRequest {
        root: content.tree.root(),
        first: 0,
        span: 1,
    };
    eventually("the cache has been looked through", || {
        asked_for_cached(&asker, "giver", &request).is_ok()
    });
    let refused = asked_for_cached(&asker, "keeper", &request).unwrap_err();
    assert!(
        matches!(&refused, Error::Fault { fault, .. } if fault.code == FaultCode::NotFound),
        "{refused}"
    );
}

#[test]
fn long_searches_delay_no_other_requests() {
    let (sharing, asking) = (Place::new(), Place::new());
    for index in 0..2000 {
        let name = format!("{index:04}{}", "ab".repeat(120));
        std::fs::write(sharing.share.path().join(name), "").unwrap();
    }
    let first = sharing.node("sharing", 0, &[]);
    let asker = asking.node("asking", 0, &[first.port()]);
    eventually("they meet", || names(&asker) == ["asking", "sharing"]);
    // Milliseconds for each name: too many states for an automaton, and the last byte decides.
    let slow = r"(?s-u)(?:[ab]?[^b]?){3000}\x01";
    let deadline = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        // More than one connection carries, and more than the other side answers at once.
        let search = || asker.search(slow, Room::default(), deadline);
        let searches: Vec<_> = (0..12).map(|_| scope.spawn(search)).collect();
        let path = RelPath::root();
        let are_under_way = || searches.iter().all(|search| !search.is_finished());
        let mut asked = 0;
        while asked < 20 {
            let path = path.clone();
            let within = Instant::now() + Duration::from_secs(1);
            let answers = asker.ask(within, move |peer, by| peer::stat(peer, &path, by));
            assert!(
                answers.iter().all(|answer| answer.result.is_ok()),
                "{answers:?}"
            );
            // On a busy machine, fewer are answered in the time of the searches.
            if !are_under_way() {
                break;
            }
            asked += 1;
        }
        assert!(asked >= 4, "{asked} questions were answered meanwhile");
    });
}
