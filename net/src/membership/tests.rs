//! Members with their real threads, over simulated connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::auth::AddressSource;
use crate::model::{ByteRange, RelPath, Root, Version};
use crate::peer::ByteStream;
use crate::protocol::wire::{BatchAnswer, BatchItem, MemberRecord, Request, Response};
use crate::testing::eventually;

const PATIENCE: Duration = Duration::from_secs(10);

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn at(n: u8) -> Address {
    Address::new(ip(n).to_string(), 7)
}

/// What happens when a node dials an address.
#[derive(Clone)]
enum Line {
    To(Arc<Members>),
    Refuses,
    /// Hangs until this is set, or until the deadline.
    Hangs(Arc<AtomicBool>),
    /// Connects to these members, but only once this is set.
    Late(Arc<AtomicBool>, Arc<Members>),
}

/// All nodes of one test. Any other address refuses connections.
#[derive(Clone, Default)]
struct Switchboard(Arc<Mutex<HashMap<Address, Line>>>);

impl Switchboard {
    fn plug(&self, n: u8, line: Line) {
        self.0.lock().insert(at(n), line);
    }

    fn unplug(&self, n: u8) {
        self.0.lock().remove(&at(n));
    }

    /// Starts node `n`, which can be dialled unless its `port` is 0.
    fn node(&self, n: u8, name: &str, port: u16, named: &[u8]) -> Arc<Members> {
        let line = Box::new(Cable {
            board: self.clone(),
            caller: n,
        });
        let peers: Vec<_> = named
            .iter()
            .map(|n| PeerArgument {
                address: at(*n),
                expected: None,
                relays: Vec::new(),
            })
            .collect();
        let members = Members::new(id(n), name.into(), (None, None), &peers, None, line).unwrap();
        let members = Arc::new(members);
        if port != 0 {
            self.plug(n, Line::To(members.clone()));
        }
        members.begin(port, None).unwrap();
        members
    }
}

struct Cable {
    board: Switchboard,
    caller: u8,
}

fn gone(address: &Address) -> Error {
    Error::Unreachable {
        who: address.to_string(),
        why: "nobody there".into(),
    }
}

impl Connect for Cable {
    fn connect(
        &self,
        address: &Address,
        expected: Option<PeerId>,
        _: AddressSource,
        deadline: Instant,
    ) -> Result<Arc<dyn MemberLink>, Error> {
        let who = address.to_string();
        let line = self.board.0.lock().get(address).cloned();
        let mut line = line.ok_or_else(|| gone(address))?;
        if let Line::Late(until, members) = &line {
            while !until.load(Ordering::Relaxed) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            line = Line::To(Arc::clone(members));
        }
        match line {
            Line::Refuses => Err(Error::Refused { who }),
            Line::Hangs(until) => {
                while !until.load(Ordering::Relaxed) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Error::Timeout { who })
            }
            Line::To(members) if expected.is_some_and(|expected| expected != members.me) => {
                Err(Error::OtherIdentity { who })
            }
            Line::Late(_, members) | Line::To(members) => Ok(Arc::new(Call {
                board: self.board.clone(),
                caller: self.caller,
                callee: members.me,
                address: Mutex::new(address.clone()),
                closed: AtomicBool::new(false),
            })),
        }
    }
}

struct Call {
    board: Switchboard,
    caller: u8,
    callee: PeerId,
    address: Mutex<Address>,
    closed: AtomicBool,
}

impl Peer for Call {
    fn id(&self) -> PeerId {
        self.callee
    }

    fn call(&self, request: &Request, _: Instant) -> Result<Response, Error> {
        let address = self.address.lock().clone();
        let line = self.board.0.lock().get(&address).cloned();
        match (line, request) {
            (Some(Line::To(members) | Line::Late(_, members)), Request::Hello(hello))
                if !self.closed.load(Ordering::Relaxed) =>
            {
                let theirs = members.hello(
                    id(self.caller),
                    CallSource::Tcp(ip(self.caller)),
                    hello.clone(),
                );
                Ok(Response::Hello(theirs))
            }
            _ => Err(gone(&address)),
        }
    }

    fn open_content(
        &self,
        _: Root,
        _: ByteRange,
        _: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        unreachable!("members are not read from here")
    }

    fn open(
        &self,
        _: &RelPath,
        _: Version,
        _: ByteRange,
        _: Instant,
    ) -> Result<Box<dyn ByteStream>, Error> {
        Err(Error::NotFound { who: "x".into() })
    }

    fn fetch(&self, files: &[BatchItem], _: Instant) -> Result<Vec<BatchAnswer>, Error> {
        Ok(vec![BatchAnswer::NotFound; files.len()])
    }
}

impl MemberLink for Call {
    fn follow(&self, address: &Address, _: AddressSource) {
        *self.address.lock() = address.clone();
    }

    fn renew(&self) {}

    fn cut(&self) {}

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

fn names(members: &Members) -> Vec<String> {
    members
        .present()
        .iter()
        .map(|member| member.name.to_string())
        .collect()
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[test]
fn neighbours_neighbours_can_be_called() {
    let board = Switchboard::default();
    let nodes = [
        board.node(1, "a", 7, &[2]),
        board.node(2, "b", 7, &[3]),
        board.node(3, "c", 7, &[]),
    ];
    eventually("all see all", || {
        nodes.iter().all(|n| n.present().len() == 2)
    });
    let member = nodes[0]
        .present()
        .into_iter()
        .find(|m| m.id == id(3))
        .unwrap();
    assert_eq!((&*member.name, member.address), ("c", Some(at(3))));
    assert_eq!(member.peer.id(), id(3));
    nodes.iter().for_each(|n| n.stop(soon()));
}

#[test]
fn undialable_node_sees_all_and_is_unseen() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    let they_see_each_other = || names(&a) == ["b"] && names(&b) == ["a"];
    eventually("they see each other", they_see_each_other);
    // A guest cannot be called when somebody new joins, so it starts last.
    let guest = board.node(3, "guest", 0, &[1]);
    eventually("the guest sees both", || names(&guest) == ["a", "b"]);
    assert!(they_see_each_other());
    [a, b, guest].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn namesakes_of_this_node_are_distinct() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "box", 7, &[2]), board.node(2, "box", 7, &[]));
    eventually("shown with its id", || {
        names(&a) == [format!("box-{}", id(2).short())]
    });
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn failed_member_rests_until_a_hello() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    eventually("they meet", || names(&a) == ["b"]);
    board.unplug(2);
    a.report(id(2), &gone(&at(2)));
    assert!(names(&a).is_empty());
    assert_eq!(a.absent().len(), 1);
    board.plug(2, Line::To(b.clone()));
    eventually("it is back", || names(&a) == ["b"]);
    assert!(a.absent().is_empty());
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn held_peer_follows_the_members_address() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    eventually("they meet", || names(&a) == ["b"]);
    let held = a.present().remove(0).peer;
    let hello = || Hello {
        protocol: Hello::PROTOCOL,
        sender: MemberRecord {
            id: id(2),
            name: "b".into(),
            addresses: Vec::new(),
        },
        port: 7,
        members: Vec::new(),
        digest: None,
        known: None,
    };
    for (from, to) in [(2, 3), (3, 4), (4, 2)] {
        board.unplug(from);
        board.plug(to, Line::To(b.clone()));
        // It says hello from there.
        a.hello(id(2), CallSource::Tcp(ip(to)), hello());
        eventually("it is found there", || {
            a.present()
                .iter()
                .any(|member| member.address == Some(at(to)))
        });
        let call = Request::Hello(Hello {
            sender: MemberRecord {
                id: id(1),
                ..hello().sender
            },
            ..hello()
        });
        assert!(
            held.call(&call, soon()).is_ok(),
            "found at {to} only by others"
        );
    }
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn members_last_error_survives_its_return() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    eventually("they meet", || names(&a) == ["b"]);
    let standing = || a.standings().remove(0);
    let before = standing();
    assert_eq!((&*before.name, &before.address), ("b", &Some(at(2))));
    assert!(before.is_present && before.trouble.is_none());
    a.report(id(2), &Error::NotFound { who: "b".into() });
    assert!(standing().trouble.is_none(), "a missing file is no trouble");
    a.report(id(2), &Error::WrongBytes { who: "b".into() });
    let (error, _) = standing().trouble.unwrap();
    assert!(standing().is_present && matches!(error, Error::WrongBytes { .. }));
    board.unplug(2);
    a.report(id(2), &gone(&at(2)));
    let away = standing();
    assert!(!away.is_present && away.since > before.since);
    board.plug(2, Line::To(b.clone()));
    eventually("it is back", || names(&a) == ["b"]);
    let back = standing();
    assert!(back.is_present && back.since > away.since);
    assert!(matches!(back.trouble, Some((Error::Unreachable { .. }, _))));
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn full_queue_raises_no_suspicion() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    eventually("they meet", || names(&a) == ["b"]);
    a.report(id(2), &Error::Busy { who: "b".into() });
    a.report(id(2), &Error::NotFound { who: "b".into() });
    assert_eq!(names(&a), ["b"]);
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn slow_member_is_present_and_marked_slow() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    eventually("they meet", || names(&a) == ["b"]);
    a.report(id(2), &Error::Slow { who: "b".into() });
    let standing = a.standings().remove(0);
    assert!(standing.is_present);
    assert!(matches!(standing.trouble, Some((Error::Slow { .. }, _))));
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn first_contact_reports_each_failure() {
    let board = Switchboard::default();
    board.plug(2, Line::Refuses);
    let a = board.node(1, "a", 7, &[2, 3]);
    let mut outcomes = a.first_contact(soon());
    outcomes.sort_by(|x, y| x.0.cmp(&y.0));
    assert!(matches!(
        &outcomes[..],
        [(x, Err(Error::Refused { .. })), (y, Err(Error::Unreachable { .. }))] if *x == at(2) && *y == at(3)
    ));
    a.stop(soon());
}

#[test]
fn first_contact_skips_the_silent() {
    let board = Switchboard::default();
    let release = Arc::new(AtomicBool::new(false));
    board.plug(2, Line::Hangs(release.clone()));
    let b = board.node(3, "b", 7, &[]);
    let a = board.node(1, "a", 7, &[2, 3]);
    let begin = Instant::now();
    let outcomes = a.first_contact(soon());
    assert!(matches!(&outcomes[..], [(address, Ok(()))] if *address == at(3)));
    assert!(begin.elapsed() < Duration::from_secs(2));
    release.store(true, Ordering::Relaxed);
    [a, b].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn named_peers_acquaintances_are_awaited() {
    let board = Switchboard::default();
    let c = board.node(3, "c", 7, &[]);
    let b = board.node(2, "b", 7, &[3]);
    eventually("they meet", || names(&b) == ["c"]);
    let release = Arc::new(AtomicBool::new(false));
    board.plug(3, Line::Late(release.clone(), c.clone()));
    let a = board.node(1, "a", 7, &[2]);
    a.first_contact(soon());
    assert_eq!(names(&a), ["b"]);
    let begin = Instant::now();
    a.meet_acquaintances(begin + Duration::from_millis(100));
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert!(a.is_getting_acquainted(soon()));
    assert_eq!(names(&a), ["b"], "nobody is waited for any longer");
    release.store(true, Ordering::Relaxed);
    a.meet_acquaintances(soon());
    assert_eq!(names(&a), ["b", "c"]);
    assert!(!a.is_getting_acquainted(soon()));
    [a, b, c].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn absent_acquaintances_are_tried_once() {
    let board = Switchboard::default();
    let c = board.node(3, "c", 7, &[]);
    let b = board.node(2, "b", 7, &[3]);
    eventually("they meet", || names(&b) == ["c"]);
    board.plug(3, Line::Refuses);
    let a = board.node(1, "a", 7, &[2, 4]);
    a.meet_acquaintances(soon());
    assert_eq!(names(&a), ["b"]);
    [a, b, c].iter().for_each(|n| n.stop(soon()));
}

#[test]
fn stopping_does_not_wait_for_a_hung_dial() {
    let board = Switchboard::default();
    let release = Arc::new(AtomicBool::new(false));
    board.plug(2, Line::Hangs(release.clone()));
    let a = board.node(1, "a", 7, &[2]);
    let begin = Instant::now();
    a.stop(begin + Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(2));
    release.store(true, Ordering::Relaxed);
}

#[test]
fn stop_ends_all_threads_and_connections() {
    let board = Switchboard::default();
    let (a, b) = (board.node(1, "a", 7, &[2]), board.node(2, "b", 7, &[]));
    eventually("they meet", || names(&a) == ["b"]);
    let peer = a.present().remove(0).peer;
    a.stop(soon());
    assert_eq!(a.state.lock().workers, 0);
    let hello = exchange::Introduction {
        id: id(1),
        name: "a".into(),
        advertise: None,
        reach: None,
        port: 7,
    };
    let mut table = MemberTable::new(id(1), Instant::now());
    let hello = hello.call(&mut table, id(2), address::Scope::Wide, soon());
    assert!(peer.call(&Request::Hello(hello), soon()).is_err());
    b.stop(soon());
}

#[test]
fn undialable_address_fails_at_once() {
    let cable = || {
        let board = Switchboard::default();
        Box::new(Cable { board, caller: 1 })
    };
    let nowhere = TcpAddress::new("0.0.0.0", 7);
    let peer = PeerArgument {
        address: nowhere.clone().into(),
        expected: None,
        relays: Vec::new(),
    };
    let named = Members::new(id(1), "a".into(), (None, None), &[peer], None, cable());
    assert!(named.is_err());
    assert!(Members::new(id(1), "a".into(), (Some(nowhere), None), &[], None, cable()).is_err());
}

#[test]
fn reached_peer_is_remembered() {
    let state = tempfile::tempdir().unwrap();
    let place = std::path::Path::new("/mnt/p2p");
    let board = Switchboard::default();
    let b = board.node(2, "b", 7, &[]);
    let begin = |named: &[PeerArgument]| {
        let cable = Box::new(Cable {
            board: board.clone(),
            caller: 1,
        });
        let remembered = Remembered::load(state.path(), place);
        let a = Members::new(
            id(1),
            "a".into(),
            (None, None),
            named,
            Some(remembered),
            cable,
        );
        let a = Arc::new(a.unwrap());
        a.begin(0, None).unwrap();
        eventually("it is found", || names(&a) == ["b"]);
        a.stop(soon());
    };
    begin(&[PeerArgument {
        address: at(2),
        expected: None,
        relays: Vec::new(),
    }]);
    begin(&[]);
    b.stop(soon());
}
