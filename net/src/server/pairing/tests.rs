//! Whole runs over TLS and real sockets, with honest, mistaken and hostile ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::auth::pair::PairingCaller;
use crate::auth::{AddressSource, Alpn, GuessRecord, Identity, Stretched};
use crate::client::pairing as client;
use crate::error::Error;
use crate::testing::eventually;

fn gate(password: u8) -> Arc<Gate> {
    let identity = Identity::ephemeral().unwrap();
    Arc::new(
        Gate::new(
            identity,
            Stretched::for_tests(password),
            GuessRecord::in_memory(),
        )
        .unwrap(),
    )
}

/// A node that does nothing but pair.
struct Node {
    gate: Arc<Gate>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Node {
    fn start(gate: Arc<Gate>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = gate.clone();
        runtime.spawn(async move {
            loop {
                let (socket, remote) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let gate = accepting.clone();
                tokio::spawn(async move {
                    let acceptor = TlsAcceptor::from(gate.tls_server());
                    if let Ok(mut tls) = acceptor.accept(socket).await {
                        serve(&mut tls, remote.ip(), &gate).await;
                    }
                });
            }
        });
        Self {
            gate,
            address,
            _runtime: runtime,
        }
    }
}

type Line = StreamOwned<ClientConnection, TcpStream>;

/// Connects as `gate`'s node and completes the handshake, for frames by hand.
fn dial(gate: &Gate, address: SocketAddr) -> Line {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let name = ServerName::from(address.ip());
    let connection = ClientConnection::new(gate.tls_client(Alpn::Pair), name).unwrap();
    let mut line = StreamOwned::new(connection, socket);
    line.conn.complete_io(&mut line.sock).unwrap();
    line
}

fn pair(gate: &Gate, address: SocketAddr) -> Result<PeerId, Error> {
    let mut line = dial(gate, address);
    let who = address.to_string();
    client::run(
        &mut line.conn,
        &mut line.sock,
        &who,
        AddressSource::Named,
        gate,
    )
}

fn opening(gate: &Gate, line: &Line) -> M1 {
    let binding = Binding {
        caller: gate.id(),
        callee: tls::peer_id(line.conn.peer_certificates()).unwrap(),
        exporter: tls::exporter(&line.conn).unwrap(),
    };
    PairingCaller::start(gate.credentials(), binding).unwrap().1
}

fn exchange<const N: usize>(line: &mut Line, frame: &[u8]) -> [u8; N] {
    line.write_all(frame).unwrap();
    let mut answer = [0; N];
    line.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn the_right_password_admits_both_sides() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    assert_eq!(pair(&a, b.address).unwrap(), b.gate.id());
    assert!(a.is_admitted(b.gate.id()));
    assert!(b.gate.is_admitted(a.id()));
    assert_eq!(b.gate.inbound_failures(), 0);
}

#[test]
fn wrong_password_admits_neither_side() {
    let (a, b) = (gate(2), Node::start(gate(1)));
    let error = pair(&a, b.address).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    eventually("the guess is counted", || b.gate.inbound_failures() == 1);
    assert!(!a.is_admitted(b.gate.id()));
    assert!(!b.gate.is_admitted(a.id()));
}

#[test]
fn wrong_password_costs_the_second_guess() {
    let (a, b) = (gate(2), Node::start(gate(1)));
    for _ in 0..3 {
        let error = pair(&a, b.address).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    eventually("the guess is counted", || b.gate.inbound_failures() == 1);
}

#[test]
fn a_node_that_dials_itself_is_told_so() {
    let node = Node::start(gate(1));
    let error = pair(&node.gate, node.address).unwrap_err();
    assert!(matches!(error, Error::Myself { .. }), "{error}");
    // If the caller does not check, the callee reports it.
    let mut line = dial(&node.gate, node.address);
    let m1 = opening(&node.gate, &line);
    let m2: M2 = exchange(&mut line, &m1);
    assert_eq!(m2, refusal(PairingStatus::Yourself, 0));
    assert!(!node.gate.is_admitted(node.gate.id()));
    assert_eq!(node.gate.inbound_failures(), 0);
}

/// Terminates TLS towards one caller and towards `target` with keys of its own, and forwards
/// everything between them. Returns the status in the M2 that it forwarded.
fn relay(listener: TcpListener, target: SocketAddr) -> u8 {
    let own = gate(9);
    let mut onward = dial(&own, target);
    let (socket, _) = listener.accept().unwrap();
    let connection = ServerConnection::new(own.tls_server()).unwrap();
    let mut caller = StreamOwned::new(connection, socket);
    let mut m1: M1 = [0; size_of::<M1>()];
    caller.read_exact(&mut m1).unwrap();
    let m2: M2 = exchange(&mut onward, &m1);
    caller.write_all(&m2).unwrap();
    let mut m3 = Vec::new();
    let _ = caller.read_to_end(&mut m3);
    let _ = onward.write_all(&m3);
    m2[0]
}

#[test]
fn relayed_pairing_is_refused() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let target = b.address;
    let relay = std::thread::spawn(move || relay(listener, target));
    let mut line = dial(&a, address);
    let middle = tls::peer_id(line.conn.peer_certificates()).unwrap();
    let error = client::run(
        &mut line.conn,
        &mut line.sock,
        "relay",
        AddressSource::Heard,
        &a,
    )
    .unwrap_err();
    drop(line);
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(relay.join().unwrap(), PairingStatus::Ok as u8);
    eventually("the run is counted", || b.gate.inbound_failures() == 1);
    for id in [a.id(), b.gate.id(), middle] {
        assert!(!a.is_admitted(id) && !b.gate.is_admitted(id));
    }
}

#[test]
fn many_members_of_one_address_may_arrive() {
    let node = Node::start(gate(1));
    let callers: Vec<_> = (0..30).map(|_| gate(1)).collect();
    std::thread::scope(|scope| {
        for caller in &callers {
            scope.spawn(|| pair(caller, node.address).unwrap());
        }
    });
    assert!(callers.iter().all(|c| node.gate.is_admitted(c.id())));
    assert_eq!(node.gate.inbound_failures(), 0);
}

#[test]
fn guesses_are_slowed_members_are_not() {
    let node = Node::start(gate(1));
    let member = gate(1);
    pair(&member, node.address).unwrap();
    let mut refused = 0;
    let mut later = 0;
    for _ in 0..30 {
        match pair(&gate(2), node.address) {
            Err(Error::Refused { .. }) => {
                refused += 1;
                eventually("the guess is counted", || {
                    node.gate.inbound_failures() >= refused.min(3)
                });
            }
            Err(Error::Later { seconds, .. }) => {
                assert!(seconds >= 1);
                later += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // At most one a second from the third failure on, and five in all from one address.
    assert!((3..=5).contains(&refused), "{refused} guesses");
    assert_eq!(refused + later, 30);
    pair(&member, node.address).unwrap();
}

#[test]
fn caller_leaving_after_m2_used_its_guess() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let mut line = dial(&a, b.address);
    let m1 = opening(&a, &line);
    let m2: M2 = exchange(&mut line, &m1);
    assert_eq!(m2[0], PairingStatus::Ok as u8);
    drop(line);
    eventually("the run is counted", || b.gate.inbound_failures() == 1);
    assert!(!b.gate.is_admitted(a.id()));
}

#[test]
fn silent_caller_is_cut_off() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let mut line = dial(&a, b.address);
    let m1 = opening(&a, &line);
    let started = Instant::now();
    let m2: M2 = exchange(&mut line, &m1);
    assert_eq!(m2[0], PairingStatus::Ok as u8);
    assert_eq!(b.gate.inbound_failures(), 0);
    let mut rest = Vec::new();
    let _ = line.read_to_end(&mut rest);
    assert!(rest.is_empty());
    let waited = started.elapsed().as_secs();
    assert!((9..=15).contains(&waited), "{waited} s");
    assert_eq!(b.gate.inbound_failures(), 1);
}

#[test]
fn trickling_caller_is_cut_off() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let mut line = dial(&a, b.address);
    let m1 = opening(&a, &line);
    let started = Instant::now();
    // Each byte comes long before ten seconds have passed since the one before.
    let cut = m1.iter().take(40).any(|byte| {
        std::thread::sleep(Duration::from_millis(400));
        line.write_all(&[*byte]).is_err()
    });
    let waited = started.elapsed().as_secs();
    assert!(cut && (9..=15).contains(&waited), "{waited} s");
}

#[test]
fn a_wrong_m3_is_refused_and_counted() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let mut line = dial(&a, b.address);
    let m1 = opening(&a, &line);
    let m2: M2 = exchange(&mut line, &m1);
    assert_eq!(m2[0], PairingStatus::Ok as u8);
    let m4: [u8; 1] = exchange(&mut line, &[7; size_of::<M3>()]);
    assert_eq!(m4, [PairingStatus::Refused as u8]);
    assert_eq!(b.gate.inbound_failures(), 1);
    assert!(!b.gate.is_admitted(a.id()));
}

#[test]
fn invalid_m1_is_declined_free_of_charge() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let mut old = dial(&a, b.address);
    let mut other_version = opening(&a, &old);
    other_version[0] = 2;
    let m2: M2 = exchange(&mut old, &other_version);
    assert_eq!(m2, refusal(PairingStatus::BadMessage, 0));
    let m2: M2 = exchange(&mut dial(&a, b.address), &[0x55; size_of::<M1>()]);
    assert_eq!(m2, refusal(PairingStatus::BadMessage, 0));
    // Cut short: nothing comes back but the end of the connection.
    let mut line = dial(&a, b.address);
    line.write_all(&[1; 20]).unwrap();
    line.conn.send_close_notify();
    line.flush().unwrap();
    let mut rest = Vec::new();
    let _ = line.read_to_end(&mut rest);
    assert!(rest.is_empty());
    assert_eq!(b.gate.inbound_failures(), 0);
}

/// Answers one caller's M1 with `frame`, then closes.
fn impostor(frame: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let own = gate(9);
        let (socket, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(own.tls_server()).unwrap();
        let mut caller = StreamOwned::new(connection, socket);
        let mut m1: M1 = [0; size_of::<M1>()];
        caller.read_exact(&mut m1).unwrap();
        caller.write_all(&frame).unwrap();
        caller.conn.send_close_notify();
        caller.flush().unwrap();
        let _ = caller.read_to_end(&mut Vec::new());
    });
    address
}

#[test]
fn impostor_is_named_and_never_admitted() {
    let a = gate(1);
    let garbage = [&[0, 0, 0][..], &[0xff; 320]].concat();
    let error = pair(&a, impostor(garbage)).unwrap_err();
    assert!(matches!(error, Error::Misbehaved { .. }), "{error}");
    let error = pair(&a, impostor(refusal(PairingStatus::Refused, 60).to_vec())).unwrap_err();
    assert!(matches!(error, Error::Later { seconds: 60, .. }), "{error}");
    let error = pair(&a, impostor(refusal(PairingStatus::Yourself, 0).to_vec())).unwrap_err();
    assert!(matches!(error, Error::Myself { .. }), "{error}");
    let error = pair(&a, impostor(vec![0; 100])).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn pairing_needs_its_own_connection() {
    let (a, b) = (gate(1), Node::start(gate(1)));
    let socket = TcpStream::connect(b.address).unwrap();
    let name = ServerName::from(b.address.ip());
    let connection = ClientConnection::new(a.tls_client(Alpn::Http), name).unwrap();
    let mut line = StreamOwned::new(connection, socket);
    line.conn.complete_io(&mut line.sock).unwrap();
    let error = client::run(
        &mut line.conn,
        &mut line.sock,
        "b",
        AddressSource::Named,
        &a,
    )
    .unwrap_err();
    assert!(matches!(error, Error::NotANode { .. }), "{error}");
}
