//! Strangers without the password learn nothing and hinder nobody.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::hosts::Network;
use crate::harness::process::{Finished, eventually, run, signal};
use crate::harness::raw_peer::{Forwarder, HTTP, Impostor, Relay, Stranger, read_all};
use crate::harness::swarm::{
    Node, PASSWORD, Swarm, TINYP2P, is_mounted, next_address, program, tinyp2p,
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn any_strangers_request_gets_the_same_401() {
    let swarm = Swarm::new();
    let node = swarm.node("a").file("file", "content").serve();
    let stranger = Stranger::new();
    let call = "<?xml version=\"1.0\"?><methodCall><methodName>system.listMethods</methodName></methodCall>";
    let post = format!(
        "POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{call}",
        call.len()
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let requests = [
        &b"GET /files/file HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /files/absent HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /files/file HTTP/1.1\r\nHost: a\r\n\r\n",
        b"DELETE / HTTP/1.0\r\n\r\n",
        b"\x00\xff no HTTP at all",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
        post.as_bytes(),
        long.as_bytes(),
    ];
    for request in requests {
        let answer = stranger.ask(node.socket(), HTTP, request);
        assert_eq!(
            String::from_utf8_lossy(&answer),
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: TinyP2P-Pair\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
            "the answer to {:?}",
            String::from_utf8_lossy(&request[..request.len().min(60)])
        );
    }
    // The next stranger gets the same answer.
    let other = Stranger::new().ask(node.socket(), HTTP, requests[0]);
    assert!(other.starts_with(b"HTTP/1.1 401 "));
}

#[test]
fn plain_connection_is_closed_silently() {
    let swarm = Swarm::new();
    let node = swarm.node("a").serve();
    for request in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST /RPC2 HTTP/1.1\r\n\r\n",
        b"\x80\x2e\x01\x03\x01 an SSLv2 hello",
        b"\n",
    ] {
        let mut socket = TcpStream::connect(node.socket()).expect("connect");
        socket.set_read_timeout(Some(SOON)).expect("set a limit");
        socket.write_all(request).expect("send");
        let answer = read_all(&mut socket);
        assert!(answer.is_empty(), "{answer:?} to {request:?}");
    }
}

#[test]
fn only_this_programs_protocols_are_spoken() {
    let swarm = Swarm::new();
    let node = swarm.node("a").serve();
    let connection = Stranger::new().connect(node.socket(), "http/1.1");
    assert!(connection.is_err(), "another protocol was accepted");
}

#[test]
fn a_relay_that_ends_tls_is_refused() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("secret", "content").serve();
    let relay = Relay::to(a.socket());
    let b = swarm.node("b").peer_at(relay.address().to_string());
    fs::create_dir(b.mountpoint()).expect("make a mountpoint");
    let ended = run(&mut b.mount_command(), Duration::from_secs(20));
    assert_eq!(ended.code(), 3, "{ended}");
    assert!(!is_mounted(&b.mountpoint()));
    // The pairing did reach the other side: it was the binding to the connection that failed.
    assert!(
        relay.passed() > 400,
        "only {} bytes were relayed",
        relay.passed()
    );

    // The same bytes pass when no one terminates TLS in between.
    let forwarder = Forwarder::new(Ipv4Addr::LOCALHOST, a.socket());
    let c = swarm
        .node("c")
        .peer_at(forwarder.address().to_string())
        .mount();
    eventually(SOON, "the file is seen through a forwarder", || {
        fs::read(c.at("secret")).is_ok_and(|bytes| bytes == b"content")
    });
}

/// Makes one wrong guess, from a source address of its own.
fn guess(swarm: &Swarm, number: usize, target: SocketAddr) -> Finished {
    let forwarder = Forwarder::new(next_address(), target);
    let peer = forwarder.address().to_string();
    let wrong = format!("wrong-guess-number-{number}-of-many");
    tinyp2p(
        swarm,
        &["search", &wrong, ".", &peer],
        Duration::from_secs(40),
    )
}

#[test]
fn thirty_wrong_guesses_slow_no_member() {
    let swarm = Swarm::alone();
    let node = swarm.node("a").file("file", "content").serve();
    let member = swarm.node("member").file("mine", "x").peer(&node).mount();
    eventually(SOON, "the member is admitted", || {
        member.at("file").exists()
    });

    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (guesses, slowest) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                // A name that was never requested: neither cache nor kernel can answer.
                number += 1;
                let name = format!("new {number}");
                fs::write(node.share().join(&name), &name).expect("write");
                let asked = Instant::now();
                let bytes = fs::read(member.at(&name)).expect("a member is served");
                slowest = slowest.max(asked.elapsed());
                assert_eq!(bytes, name.as_bytes());
                fs::remove_file(node.share().join(&name)).expect("remove");
            }
            slowest
        });
        let guesses: Vec<Finished> = (1..=30)
            .map(|number| guess(&swarm, number, node.socket()))
            .collect();
        over.store(true, Ordering::Relaxed);
        (guesses, reader.join().expect("the member was served"))
    });
    let took = start.elapsed();

    let tried = guesses.iter().filter(|guess| guess.code() == 3).count();
    let slowed = guesses
        .iter()
        .filter(|guess| guess.stderr.contains("takes no new members for"))
        .count();
    for guess in &guesses {
        assert!(
            !guess.status.success(),
            "a wrong password succeeded: {guess}"
        );
    }
    assert_eq!(tried + slowed, guesses.len(), "{}", guesses[29]);
    // Three are allowed at once; then the gap is 1, 2, 4, 8 … seconds.
    let mut allowed = 3;
    while took >= Duration::from_secs((1 << (allowed - 2)) - 1) {
        allowed += 1;
    }
    assert!(
        (3..=allowed).contains(&tried),
        "{tried} guesses within {took:?}, where {allowed} are allowed"
    );
    assert!(
        slowest < Duration::from_secs(1),
        "a member waited {slowest:?}"
    );

    // Newcomers with the right password can still join where there is no flood.
    let found = tinyp2p(
        &swarm,
        &["search", PASSWORD, "mine", &member.address()],
        SOON,
    );
    assert!(found.expect_success().text().contains("mine"));
}

/// Announces instances of the service, at the ports named by its arguments, again and again.
const ANNOUNCER: &str = r#"
import socket, struct, sys, time
address, peer_id, ports = sys.argv[1], sys.argv[2].encode(), [int(p) for p in sys.argv[3:]]
def name(*labels):
    return b"".join(bytes([len(l)]) + l for l in labels) + b"\0"
def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 1, 4500, len(data)) + data
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
s.bind(("", 5353))
host, text = name(b"fake", b"local"), b"id=" + peer_id
while True:
    for port in ports:
        instance = name(b"fake%d" % port, b"_tinyp2p", b"_tcp", b"local")
        records = [
            record(name(b"_tinyp2p", b"_tcp", b"local"), 12, instance),
            record(instance, 33, struct.pack(">HHH", 0, 0, port) + host),
            record(instance, 16, bytes([len(text)]) + text + b"\x03v=2"),
            record(host, 1, socket.inet_aton(address)),
        ]
        header = struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0)
        s.sendto(header + b"".join(records), ("224.0.0.251", 5353))
    time.sleep(0.2)
"#;

#[test]
fn announced_fakes_share_ten_guesses_a_day() {
    let swarm = Swarm::new();
    let network = Network::new(2);
    let listeners: Vec<_> = (0..15).map(|_| network.host(1).listener()).collect();
    let ports = listeners.iter().map(|listener| {
        let address = listener.local_addr().expect("see the port");
        address.port().to_string()
    });
    let ports: Vec<String> = ports.collect();
    let impostor = Impostor::on(listeners);
    let mut announcer = network.host(1).command("python3");
    announcer.args(["-c", ANNOUNCER, &network.host(1).address().to_string()]);
    let announcer = announcer.arg(impostor.peer_id()).args(&ports).spawn();
    let mut announcer = announcer.expect("start to announce");

    let home = swarm.directory("command");
    let search = || {
        let mut command = program(TINYP2P, &home, Some(network.host(0)));
        command.args(["search", PASSWORD, ".", "--state-dir"]);
        run(command.arg(home.join("state")), Duration::from_secs(20))
    };
    // In parallel and in turn, until they get no further. A loaded machine needs
    // more than two rounds.
    let mut before = None;
    for _ in 0..6 {
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(search);
            }
        });
        let guesses = impostor.guesses();
        if guesses > 10 || (guesses >= 3 && before == Some(guesses)) {
            break;
        }
        before = Some(guesses);
    }
    let _ = announcer.kill();
    let _ = announcer.wait();
    let guesses = impostor.guesses();
    // Three to each host, plus those already in progress at that moment.
    assert!((2..=10).contains(&guesses), "{guesses} guesses");
}

#[test]
fn a_restart_forgets_no_wrong_guesses() {
    let swarm = Swarm::new();
    let mut node = swarm.node("a").serve();
    let stranger = Stranger::new();
    // All at once, since they are let in; the gap after eight failures is 32 s.
    let runs: Vec<_> = (0..8)
        .map(|_| stranger.begin_pairing(node.socket()))
        .collect();
    assert!(runs.iter().all(|(_, status, _)| *status == 0));
    drop(runs);
    let slowed = || stranger.begin_pairing(node.socket());
    eventually(SOON, "the guesses are counted", || slowed().2 > 20);
    // The count is written a moment later, in the background.
    let record = node.state().join("guesses");
    eventually(SOON, "the count is on the disk", || {
        let modified = fs::metadata(&record).and_then(|record| record.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age > Duration::from_millis(500))
    });
    let ends: [fn(&mut Node); 2] = [Node::kill, |node| {
        signal(node.pid(), Signal::TERM);
        node.wait(SOON);
    }];
    for end in ends {
        end(&mut node);
        node.start();
        let (_, status, wait) = stranger.begin_pairing(node.socket());
        assert_eq!(status, 1, "a guess was let in");
        assert!((1..=32).contains(&wait), "{wait} s");
    }
}
