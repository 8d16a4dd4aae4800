//! The lab of homes behind routers is what it says: later topics rely on it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::hosts::Host;
use crate::harness::nat::{Lab, Nat, RELAY, Relay, Sent};
use crate::harness::process::{eventually, run};
use crate::harness::swarm::Swarm;

/// Time limit for what takes milliseconds.
const SOON: Duration = Duration::from_secs(5);

/// Time after which what has not come will not come.
const NEVER: Duration = Duration::from_millis(500);

/// Returns a lab, and the turn on the machine that its test has.
fn lab(nats: &[Nat]) -> (Swarm, Lab) {
    (Swarm::new(), Lab::new(nats))
}

/// Opens a UDP port of a host.
fn udp(host: &Host) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((host.address(), 0)).expect("a port"));
    let poll = Duration::from_millis(50);
    socket.set_read_timeout(Some(poll)).expect("a timeout");
    socket
}

/// Sends to `to` until it hears something; returns from where, or nothing at the `limit`.
fn heard(from: &UdpSocket, to: &UdpSocket, at: SocketAddr, limit: Duration) -> Option<SocketAddr> {
    let start = Instant::now();
    while start.elapsed() < limit {
        // Told of a port that is not there, or of a route that is gone for a moment.
        let _ = from.send_to(b"hello", at);
        if let Ok((_, sender)) = to.recv_from(&mut [0; 16]) {
            return Some(sender);
        }
    }
    None
}

/// Sends to `to` from behind a router; returns the address that is seen there.
fn seen(from: &UdpSocket, to: &UdpSocket) -> SocketAddr {
    let at = to.local_addr().expect("its address");
    heard(from, to, at, SOON).expect("a datagram")
}

/// Returns the addresses that two public servers see of one socket at home.
fn seen_by_both(nat: Nat) -> [SocketAddr; 2] {
    let (_turn, lab) = lab(&[nat]);
    let socket = udp(lab.home(0));
    let servers = [udp(lab.relay()), udp(lab.bystander())];
    servers.each_ref().map(|server| seen(&socket, server))
}

/// Connects from a host by TCP.
fn connect(from: &Host, to: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, limit))
}

#[test]
fn port_preserving_router_shows_all_the_same_port() {
    let [one, other] = seen_by_both(Nat::PortPreserving);
    assert_eq!(one, other);
}

#[test]
fn symmetric_router_shows_each_another_port() {
    let [one, other] = seen_by_both(Nat::Symmetric);
    assert_eq!(one.ip(), other.ip());
    assert_ne!(one.port(), other.port());
}

#[test]
fn router_lets_in_only_answers() {
    let (_turn, lab) = lab(&[Nat::PortPreserving]);
    let (home, server, stranger) = (udp(lab.home(0)), udp(lab.relay()), udp(lab.bystander()));
    let public = seen(&home, &server);
    assert_eq!(heard(&stranger, &home, public, NEVER), None);
    assert!(heard(&server, &home, public, SOON).is_some());
}

#[test]
fn both_ends_that_send_meet() {
    let (_turn, lab) = lab(&[Nat::PortPreserving, Nat::PortPreserving]);
    let server = udp(lab.relay());
    let (a, b) = (udp(lab.home(0)), udp(lab.home(1)));
    let (a_public, b_public) = (seen(&a, &server), seen(&b, &server));
    a.send_to(b"punch", b_public).expect("send");
    assert_eq!(heard(&b, &a, a_public, SOON), Some(b_public));
}

#[test]
fn router_that_drops_udp_lets_tcp_through() {
    let (_turn, lab) = lab(&[Nat::UdpDropped]);
    let (home, server) = (udp(lab.home(0)), udp(lab.relay()));
    let listener = lab.relay().listener();
    let at = listener.local_addr().expect("its address");
    connect(lab.home(0), at, SOON).expect("connect");
    let to = server.local_addr().expect("its address");
    assert_eq!(heard(&home, &server, to, NEVER), None);
}

#[test]
fn homes_cannot_call_one_another() {
    let (_turn, lab) = lab(&[Nat::PortPreserving, Nat::PortPreserving]);
    let listener = lab.home(1).listener();
    let port = listener.local_addr().expect("its address").port();
    let at = SocketAddr::from((lab.first_address(1), port));
    connect(lab.home(0), at, NEVER).expect_err("a router that lets nobody in");
}

#[test]
fn renumbered_router_sends_from_its_new_address() {
    let (_turn, lab) = lab(&[Nat::PortPreserving]);
    let (home, server) = (udp(lab.home(0)), udp(lab.relay()));
    assert_eq!(seen(&home, &server).ip(), lab.first_address(0));
    lab.renumber(0, 77);
    // What was under way before may still arrive.
    eventually(SOON, "the new address", || {
        seen(&home, &server).ip() == Ipv4Addr::new(203, 0, 113, 77)
    });
}

#[test]
fn carried_host_sends_through_its_new_router() {
    let (_turn, lab) = lab(&[Nat::PortPreserving, Nat::Symmetric]);
    let server = udp(lab.relay());
    lab.carry(0, 1, 3);
    let home = lab.home(0);
    let socket = home.enter(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
    assert_eq!(seen(&socket, &server).ip(), lab.first_address(1));
}

#[test]
fn shaped_line_has_its_rate() {
    let (_turn, lab) = (Swarm::alone(), Lab::new(&[Nat::PortPreserving]));
    lab.shape(0, 100);
    let listener = lab.relay().listener();
    let at = listener.local_addr().expect("its address");
    const SENT: usize = 25 << 20;
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        stream.write_all(&vec![7; SENT]).expect("send");
    });
    let mut stream = connect(lab.home(0), at, SOON).expect("connect");
    let start = Instant::now();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("receive");
    let megabits = 8e-6 * SENT as f64 / start.elapsed().as_secs_f64();
    server.join().expect("all sent");
    assert!((60.0..105.0).contains(&megabits), "{megabits} Mbit/s");
}

#[test]
fn destinations_are_recorded() {
    let (_turn, lab) = lab(&[Nat::PortPreserving]);
    let sent = Sent::by(lab.home(0));
    assert!(sent.destinations().is_empty());
    let (home, server) = (udp(lab.home(0)), udp(lab.relay()));
    seen(&home, &server);
    let listener = lab.bystander().listener();
    let at = listener.local_addr().expect("its address");
    connect(lab.home(0), at, SOON).expect("connect");
    let expected = [
        format!("tcp {at}"),
        format!("udp {}", server.local_addr().expect("its address")),
    ];
    assert!(sent.destinations().iter().eq(&expected));
}

#[test]
fn frozen_host_is_silent_until_it_wakes() {
    let (_turn, lab) = lab(&[Nat::PortPreserving]);
    let mut clock = lab.home(0).command("sh");
    clock.args(["-c", "while echo tick; do sleep 0.02; done"]);
    let mut clock = clock.stdout(Stdio::piped()).spawn().expect("a clock");
    let mut ticks = clock.stdout.take().expect("stdout is piped");
    let mut read = |count: usize| ticks.read_exact(&mut vec![0; 5 * count]).expect("ticks");
    read(1);
    let frozen = lab.home(0).freeze();
    let state =
        || std::fs::read_to_string(format!("/proc/{}/stat", clock.id())).expect("its state");
    eventually(SOON, "it stands", || state().contains(") T "));
    drop(frozen);
    // More than could have been written before.
    read(20);
    clock.kill().expect("end it");
    clock.wait().expect("its end");
}

#[test]
fn lab_that_is_gone_leaves_no_process() {
    let (_turn, lab) = lab(&[Nat::PortPreserving]);
    let mut shell = lab.home(0).command("sh");
    let mut shell = shell
        .args(["-c", "sleep 1000 & echo $!; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut output = shell.stdout.take().expect("stdout is piped");
    let mut first = [0; 1];
    output.read_exact(&mut first).expect("its first word");
    drop(lab);
    shell.wait().expect("its end");
    // The child of the shell held it open.
    output.read_to_end(&mut Vec::new()).expect("the end");
}

/// Returns the hash of the certificate that a TLS server shows to a host.
fn certificate(from: &Host, at: &str) -> String {
    let script = format!(
        "openssl s_client -connect {at} </dev/null 2>/dev/null |
            openssl x509 -outform DER | sha256sum"
    );
    let shown = run(from.command("sh").args(["-c", &script]), SOON).text();
    shown.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn relay_answers_from_behind_each_router() {
    let (_turn, lab) = lab(&[Nat::PortPreserving, Nat::Symmetric, Nat::UdpDropped]);
    let relay = Relay::start(lab.relay());
    for index in 0..3 {
        let shown = certificate(lab.home(index), "203.0.113.1:443");
        assert_eq!(shown, relay.certificate(), "home {index}");
    }
}

#[test]
fn relay_has_a_token_without_being_told() {
    let (_turn, lab) = lab(&[]);
    let relay = Relay::start(lab.relay());
    let rest = relay.reach().strip_prefix("https://203.0.113.1/#token=");
    let (token, _) = rest
        .and_then(|rest| rest.split_once("&sha256="))
        .expect("a token");
    assert!(token.len() >= 32, "{token}");
}

#[test]
fn killed_relay_comes_back_as_it_was() {
    let (_turn, lab) = lab(&[Nat::PortPreserving]);
    let mut relay = Relay::start(lab.relay());
    relay.kill();
    let at = SocketAddr::from((lab.relay().address(), 443));
    connect(lab.home(0), at, SOON).expect_err("nobody there");
    relay.restart();
    connect(lab.home(0), at, SOON).expect("connect");
}

#[test]
fn second_relay_on_a_host_is_refused() {
    let (_turn, lab) = lab(&[]);
    let _relay = Relay::start(lab.relay());
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut second = lab.relay().command(RELAY);
    second.args(["--self-signed", "203.0.113.1", "--state"]);
    let ended = run(second.arg(state.path().join("own")), SOON);
    assert_eq!((ended.code(), ended.text().as_str()), (1, ""), "{ended}");
    assert!(ended.stderr.contains("TCP port 443"), "{ended}");
}

#[test]
fn relay_refuses_a_wrong_command_line_in_one_line() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["--self-signed", "203.0.113"],
        &[
            "--self-signed",
            "203.0.113.1",
            "--domain",
            "relay.example.org",
        ],
        &["--domain", "203.0.113.1"],
        &["--self-signed", "203.0.113.1", "--token", "too-short"],
        &[
            "--self-signed",
            "203.0.113.1",
            "--token",
            "sixteen letters, but",
        ],
        &["--self-signed", "203.0.113.1", "--listen", ":0"],
    ];
    for arguments in wrong {
        let ended = run(Command::new(RELAY).args(arguments), SOON);
        assert_eq!((ended.code(), ended.text().as_str()), (2, ""), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    }
}
