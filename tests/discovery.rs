//! Members find one another on a local network, and later from memory.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::content::names;
use crate::harness::hosts::{Host, Network};
use crate::harness::process::{eventually, signal, usage};
use crate::harness::swarm::{Node, PASSWORD, Swarm};

/// Time for two neighbours to see each other's files.
const SOON: Duration = Duration::from_secs(5);

/// Returns true if both list the files of both.
fn see_each_other(a: &Node, b: &Node) -> bool {
    [a, b]
        .iter()
        .all(|node| names(&node.mountpoint()) == ["of a", "of b"])
}

#[test]
fn neighbours_find_each_other_and_remember() {
    let swarm = Swarm::alone();
    let network = Network::new(2);
    let here = |name: &str, index| {
        let node = swarm.node(name).on(network.host(index)).discovering(true);
        node.file(format!("of {name}"), name)
    };
    let watch = network.watch();
    let mut a = here("a", 0).mount();
    let b = here("b", 1);
    let started = Instant::now();
    let mut b = b.mount();
    let left = SOON.saturating_sub(started.elapsed());
    eventually(left, "neighbours see each other", || see_each_other(&a, &b));
    let seen = watch.finish();
    let mdns = |to: &String| to.ends_with(":5353");
    assert!(seen.multicast.iter().any(mdns), "{:?}", seen.multicast);
    let find = |needle: &[u8]| {
        seen.bytes
            .windows(needle.len())
            .any(|window| window == needle)
    };
    assert!(find(b"_tinyp2p"), "the announcement was not seen");
    assert!(
        !find(PASSWORD.as_bytes()),
        "the password passed in the clear"
    );
    assert!(!find(b"of a"), "a file name passed in the clear");

    for node in [&mut a, &mut b] {
        signal(node.pid(), Signal::TERM);
        node.wait(SOON);
    }
    let watch = network.watch();
    let mut a = a.discovering(false);
    let mut b = b.discovering(false);
    a.start();
    b.start();
    eventually(SOON, "they remember each other", || see_each_other(&a, &b));
    let seen = watch.finish();
    assert!(!seen.bytes.is_empty(), "nothing was seen at all");
    assert!(
        seen.multicast.is_empty(),
        "without discovery, this was sent: {:?}",
        seen.multicast
    );
}

#[test]
fn neighbours_with_other_password_stay_out() {
    let swarm = Swarm::new();
    let network = Network::new(3);
    let here = |name: &str, index| {
        let node = swarm.node(name).on(network.host(index)).discovering(true);
        node.file(format!("of {name}"), name)
    };
    let a = here("a", 0).mount();
    let other = here("other", 2)
        .password("another-password-of-many-words")
        .mount();
    let b = here("b", 1).mount();
    eventually(Duration::from_secs(15), "neighbours see each other", || {
        see_each_other(&a, &b)
    });
    assert_eq!(names(&other.mountpoint()), ["of other"]);
    for node in [&a, &b] {
        assert_eq!(names(&node.mountpoint()), ["of a", "of b"]);
    }
}

#[test]
fn link_addresses_are_found_with_a_zone() {
    let swarm = Swarm::new();
    let network = Network::new(2);
    let here = |name: &str, index| swarm.node(name).on(network.host(index)).discovering(true);
    let _a = here("a", 0).serve();
    let b = here("b", 1).serve();
    eventually(Duration::from_secs(15), "an address of the link", || {
        let log = b.log();
        let mut found = log.lines().filter(|line| line.contains("multicast says"));
        found.any(|line| line.contains("[fe80::") && line.contains("%eth0]"))
    });
}

/// Sends 20,000 datagrams of 20 records that try to make a responder store as much as possible:
/// instances of the service, and records of names that nobody requested. Then reports that, and
/// continues at 2,000 a second.
const FLOOD: &str = r#"
import itertools, socket, struct, time
def name(*labels):
    return b"".join(bytes([len(l)]) + l for l in labels) + b"\0"
def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 1, 4500, len(data)) + data
service = name(b"_tinyp2p", b"_tcp", b"local")
def records(number):
    fake = b"fake-%d" % number
    instance, host = name(fake, b"_tinyp2p", b"_tcp", b"local"), name(fake, b"local")
    text = b"id=" + b"abcdefgh" * 6 + b"abca"
    yield record(service, 12, instance)
    yield record(instance, 33, b"\0\0\0\0\x3c\x1f" + host)
    yield record(instance, 16, bytes([len(text)]) + text + b"\x03v=2")
    yield record(host, 1, b"\x0a\xcc\x00\xfe")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("%s"))
s.bind(("", 5353))
for sent in itertools.count():
    answers = [r for n in range(5) for r in records(5 * sent + n)]
    if sent %% 2:
        answers = [a for a in answers if not a.startswith(service)]
        answers += [record(b"\x05%%05d" %% (sent %% 99999) + service, 12, service) for _ in range(5)]
    header = struct.pack(">HHHHHH", 0, 0x8400, 0, len(answers), 0, 0)
    s.sendto(header + b"".join(answers), ("224.0.0.251", 5353))
    if sent == 20000:
        print("sent", flush=True)
    if sent > 20000:
        time.sleep(0.0005)
"#;

struct Flood(Child);

impl Flood {
    /// Returns once the first 20,000 datagrams are sent.
    fn start(host: &Host) -> Self {
        let script = FLOOD
            .replace("%%", "%")
            .replace("\"%s\"", &format!("\"{}\"", host.address()));
        let mut command = host.command("python3");
        let command = command.args(["-c", &script]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a flood");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let flood = Self(child);
        let mut first = String::new();
        lines.read_line(&mut first).expect("hear from the flood");
        assert_eq!(first, "sent\n", "the flood failed");
        flood
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn multicast_flood_costs_little_memory() {
    let swarm = Swarm::alone();
    let network = Network::new(3);
    let here = |name: &str, index| {
        let node = swarm.node(name).on(network.host(index)).discovering(true);
        // At `debug`, the test would measure the log of the strangers' traffic.
        node.file(format!("of {name}"), name).log_level("info")
    };
    let a = here("a", 0).mount();
    let (before, used_before) = usage(a.pid());
    let flood = Flood::start(network.host(2));
    let (after, used_after) = usage(a.pid());
    let b = here("b", 1).mount();
    eventually(Duration::from_secs(8), "neighbours see each other", || {
        see_each_other(&a, &b)
    });
    drop(flood);
    let grown = after.max(usage(a.pid()).0).saturating_sub(before) >> 20;
    let used = used_after - used_before;
    println!("the flood cost {grown} MiB and {used:?} of the processor");
    assert!(grown < 16, "{grown} MiB more");
    assert!(
        used < Duration::from_millis(1500),
        "{used:?} of the processor"
    );
}
