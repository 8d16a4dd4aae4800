//! Hosts of their own: network namespaces on a bridge, for tests that must not share
//! a loopback device.
//!
//! The bridge has its own namespace, so the machine's real network never sees its traffic. Commands
//! enter only the network of a host (`nsenter --net`): mounts stay visible to the test.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::harness::process::{sh, try_signal};

/// Numbers the networks of this run.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// One host, of a [`Network`] or of a [`Lab`](super::nat::Lab).
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Host {
    pub(super) fn new(namespace: String, address: Ipv4Addr) -> Self {
        Self { namespace, address }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Replaces the host's address by the one with this last number, as another lease would.
    pub(crate) fn move_to(&self, last: u8) {
        let ip = |arguments: &[&str]| {
            ip(&[&["-n", &self.namespace], arguments].concat());
        };
        ip(&["address", "flush", "dev", "eth0", "scope", "global"]);
        let address = format!("10.204.0.{last}/24");
        ip(&["address", "add", &address, "dev", "eth0"]);
        // The route disappeared with the last address.
        ip(&["route", "replace", "default", "dev", "eth0"]);
    }

    /// Returns a command that runs in this host's network.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.args(["--", program]);
        command
    }

    /// Runs `work` in this host's network; a socket that it opens stays there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace));
        let namespace = namespace.expect("its network");
        // Only the new thread moves there.
        let moved = move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), None).expect("move");
            work()
        };
        std::thread::scope(|scope| scope.spawn(moved).join().expect("work on the host"))
    }

    /// Listens on a free port of the host, for this process.
    pub(crate) fn listener(&self) -> TcpListener {
        self.enter(|| TcpListener::bind((self.address, 0)).expect("listen"))
    }

    /// Stops every process of the host, as a laptop that sleeps, until the result is dropped.
    ///
    /// Its kernel is awake: it still takes and answers packets for open sockets.
    pub(crate) fn freeze(&self) -> Frozen {
        let mut stopped = Vec::new();
        // One that was not stopped yet may have started another.
        loop {
            let found = processes(&self.namespace);
            let fresh: Vec<u32> = found
                .into_iter()
                .filter(|pid| !stopped.contains(pid))
                .collect();
            if fresh.is_empty() {
                return Frozen { stopped };
            }
            for pid in fresh {
                // It may have ended meanwhile.
                let _ = try_signal(pid, Signal::STOP);
                stopped.push(pid);
            }
        }
    }

    /// Returns true when a process of this host listens on `port`.
    pub(crate) fn listens(&self, port: u16) -> bool {
        let mut ss = self.command("ss");
        let found = ss.args(["-Hltn", &format!("sport = :{port}")]).output();
        found.is_ok_and(|output| !output.stdout.is_empty())
    }
}

/// Processes that stand still. They go on when this is dropped.
pub(crate) struct Frozen {
    stopped: Vec<u32>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.stopped {
            let _ = try_signal(*pid, Signal::CONT);
        }
    }
}

/// Returns the processes in the network of this name, but for this one.
fn processes(namespace: &str) -> Vec<u32> {
    let found = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output();
    let text = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.trim().parse().ok());
    pids.filter(|pid| *pid != std::process::id()).collect()
}

/// Network namespaces. Dropping them ends what still runs in them: of a shell that was killed, the
/// children live on.
pub(super) struct Namespaces {
    names: Vec<String>,
}

impl Namespaces {
    pub(super) fn new() -> Self {
        Self { names: Vec::new() }
    }

    pub(super) fn add(&mut self, name: String) -> String {
        ip(&["netns", "add", &name]);
        self.names.push(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        name
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            for pid in processes(name) {
                let _ = try_signal(pid, Signal::KILL);
            }
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// Returns the beginning of the names of a network's namespaces.
pub(super) fn fresh_id() -> String {
    let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
    format!("tp{}x{number}", std::process::id())
}

/// A bridge with hosts on it. Dropping it removes everything.
pub(crate) struct Network {
    bridge: String,
    _namespaces: Namespaces,
    hosts: Vec<Host>,
}

impl Network {
    /// Creates a bridge and `count` hosts with addresses 10.204.0.1 and up.
    pub(crate) fn new(count: u8) -> Self {
        let id = fresh_id();
        let mut namespaces = Namespaces::new();
        let mut hosts = Vec::new();
        let bridge = namespaces.add(format!("{id}sw"));
        ip(&[
            "-n",
            &bridge,
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for number in 1..=count {
            let namespace = namespaces.add(format!("{id}h{number}"));
            let address = Ipv4Addr::new(10, 204, 0, number);
            plug_in(&bridge, &namespace, number, address);
            hosts.push(Host { namespace, address });
        }
        Self {
            bridge,
            _namespaces: namespaces,
            hosts,
        }
    }

    /// Returns the host with that number, from 0.
    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// Returns the number of bytes that this host has sent so far.
    pub(crate) fn bytes_sent_by(&self, index: usize) -> u64 {
        let port = format!("port{}", index + 1);
        let shown = sh(
            "ip",
            &["-n", &self.bridge, "-s", "-j", "link", "show", &port],
        )
        .text();
        // The host's sent bytes are those received by its port of the bridge.
        let count = shown.split("\"rx\":{\"bytes\":").nth(1);
        let digits = count.and_then(|rest| rest.split(',').next());
        digits
            .and_then(|digits| digits.parse().ok())
            .expect("a counter")
    }

    /// Starts to watch the bridge.
    pub(crate) fn watch(&self) -> Watch {
        Watch::new(&self.bridge)
    }
}

/// Connects a host to the bridge and makes multicast leave through that connection.
fn plug_in(bridge: &str, namespace: &str, number: u8, address: Ipv4Addr) {
    let port = format!("port{number}");
    ip(&[
        "-n", bridge, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
        namespace,
    ]);
    ip(&["-n", bridge, "link", "set", &port, "master", "br0", "up"]);
    ip(&[
        "-n",
        namespace,
        "address",
        "add",
        &format!("{address}/24"),
        "dev",
        "eth0",
    ]);
    ip(&["-n", namespace, "link", "set", "eth0", "up"]);
    ip(&["-n", namespace, "route", "add", "default", "dev", "eth0"]);
}

pub(super) fn ip(arguments: &[&str]) {
    sh("ip", arguments);
}

/// Prints one line per frame on the bridge: its destination if that is multicast or broadcast, then
/// its bytes. Destinations are printed for UDP only: neighbour discovery and group reports come
/// from the kernel itself.
///
/// After a line on its input, it sends frames of an experimental type (IEEE 802, local), and exits
/// when it has seen one: the first may be lost while nobody reads.
const WATCHER: &str = r#"
import socket, sys, threading, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("br0", 0))
def mark():
    sys.stdin.readline()
    s2 = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s2.bind(("br0", 0))
    while True:
        s2.send(b"\x02" + bytes(11) + b"\x88\xb5" + bytes(46))
        time.sleep(0.05)
threading.Thread(target=mark, daemon=True).start()
print("ready", flush=True)
while True:
    f = s.recv(65535)
    if f[12:14] == b"\x88\xb5":
        break
    kind, to = f[12:14], ""
    if kind == b"\x08\x00" and f[23] == 17 and (f[30] & 0xf0 == 0xe0 or f[33] == 255):
        ports = 14 + 4 * (f[14] & 15)
        to = "%s:%d" % (socket.inet_ntoa(f[30:34]), int.from_bytes(f[ports + 2:ports + 4], "big"))
    if kind == b"\x86\xdd" and f[20] == 17 and f[38] == 0xff:
        to = "[%s]:%d" % (socket.inet_ntop(socket.AF_INET6, f[38:54]), int.from_bytes(f[56:58], "big"))
    print(to, f.hex(), flush=True)
"#;

/// Records everything that crosses a bridge.
pub(crate) struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// The traffic that crossed a bridge.
pub(crate) struct Traffic {
    /// The destination of each multicast or broadcast datagram.
    pub(crate) multicast: Vec<String>,
    /// All frames, one after the other.
    pub(crate) bytes: Vec<u8>,
}

impl Watch {
    fn new(namespace: &str) -> Self {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["--", "python3", "-c", WATCHER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a watcher");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("hear from the watcher");
        assert_eq!(first, "ready\n", "the watcher of the bridge failed");
        Self { child, lines }
    }

    /// Ends the watch and returns the traffic.
    pub(crate) fn finish(mut self) -> Traffic {
        // All traffic so far comes before the mark.
        let mut input = self.child.stdin.take().expect("stdin is piped");
        input.write_all(b"\n").expect("mark the end");
        let mut traffic = Traffic {
            multicast: Vec::new(),
            bytes: Vec::new(),
        };
        for line in self.lines.by_ref().lines().map_while(Result::ok) {
            let (to, frame) = line.split_once(' ').unwrap_or_default();
            if !to.is_empty() {
                traffic.multicast.push(to.to_owned());
            }
            traffic.bytes.extend(unhex(frame));
        }
        traffic
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
