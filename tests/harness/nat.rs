//! Homes behind routers, and a relay: what a group of friends has between its members.
//!
//! ```text
//!        relay 203.0.113.1      bystander 203.0.113.2
//!              |                        |
//!   ===========+====== public ==========+===========   203.0.113.254 drops what goes elsewhere
//!        |                   |
//!   203.0.113.11        203.0.113.12                   routers, which translate addresses
//!   192.168.1.1         192.168.1.1
//!        |                   |
//!   192.168.1.2         192.168.1.2                    homes: the same address in each
//! ```
//!
//! Traps of such labs:
//! - A router that takes packets for itself makes entries of early probes from outside, and what
//!   its host sends there next collides with them and gets another port. So routers drop them, as
//!   real ones do.
//! - `ip address delete` of an interface's first address removes the others of its subnet and the
//!   default route.
//! - Masquerading forgets its entries when the address of the interface goes. A change of address
//!   is a change of port only where ports are random.
//! - `lan` and `br` are keywords of `ip link add`: write `name lan`. `fwd` is one of nft.
//! - Killing the shell around a program leaves the program. Commands here become their program, and
//!   what is left of any ends with its network.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::hosts::{Host, Namespaces, fresh_id, ip};
use crate::harness::process::{run, within};

/// The script that installs and starts the relay.
pub(crate) const RELAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/relay");

/// Time limit for building the relay, where `scripts/test` has not done it before.
const BUILD: Duration = Duration::from_secs(1500);

/// Time limit for a relay to serve.
const START: Duration = Duration::from_secs(30);

/// The address of every home.
const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

/// How a router translates addresses. All let in only answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Nat {
    /// Keeps the port of the sender, so all who are spoken to see the same one.
    PortPreserving,
    /// Gives each connection a random port, so none can be told to a third party.
    Symmetric,
    /// Keeps ports, and lets no UDP through.
    UdpDropped,
}

/// A public network, and homes behind routers. Dropping it removes everything and ends all that
/// runs there. Declare it before what runs in it.
pub(crate) struct Lab {
    relay: Host,
    bystander: Host,
    public: Host,
    routers: Vec<Host>,
    homes: Vec<Host>,
    _namespaces: Namespaces,
}

impl Lab {
    /// Creates the public network and one home for each of `nats`.
    pub(crate) fn new(nats: &[Nat]) -> Self {
        let id = fresh_id();
        let mut namespaces = Namespaces::new();
        let mut host = |name: &str, address| {
            let namespace = namespaces.add(format!("{id}{name}"));
            Host::new(namespace, address)
        };
        let public = host("public", public_address(254));
        let relay = host("relay", public_address(1));
        let bystander = host("bystander", public_address(2));
        let mut routers = Vec::new();
        let mut homes = Vec::new();
        for number in 1_u8..=nats.len().try_into().expect("few homes") {
            routers.push(host(
                &format!("router{number}"),
                public_address(10 + number),
            ));
            homes.push(host(&format!("home{number}"), HOME));
        }
        public.ip(&["link", "add", "name", "br0", "type", "bridge"]);
        set_address(&public, "br0", public.address());
        let lab = Self {
            relay,
            bystander,
            public,
            routers,
            homes,
            _namespaces: namespaces,
        };
        lab.connect(&lab.relay);
        lab.connect(&lab.bystander);
        for ((router, home), nat) in lab.routers.iter().zip(&lab.homes).zip(nats) {
            lab.connect(router);
            route(router, *nat);
            let last = HOME.octets()[3];
            move_in(home, router, last);
        }
        lab
    }

    /// Connects a host to the public network.
    fn connect(&self, host: &Host) {
        let port = self.port_of(host);
        let public = self.public.namespace();
        host.ip(&[
            "link", "add", "name", "wan", "type", "veth", "peer", "name", &port, "netns", public,
        ]);
        self.public
            .ip(&["link", "set", &port, "master", "br0", "up"]);
        self.call(host, host.address());
    }

    /// Gives a host of the public network this address, and none beside it.
    fn call(&self, host: &Host, address: Ipv4Addr) {
        set_address(host, "wan", address);
        let gateway = self.public.address().to_string();
        host.ip(&["route", "replace", "default", "via", &gateway]);
    }

    /// Returns the name of the bridge's end of a host's connection.
    fn port_of(&self, host: &Host) -> String {
        format!("port{}", host.address().octets()[3])
    }

    /// Returns the host for a relay.
    pub(crate) fn relay(&self) -> &Host {
        &self.relay
    }

    /// Returns another host of the public network, to which nobody has a reason to speak.
    pub(crate) fn bystander(&self) -> &Host {
        &self.bystander
    }

    /// Returns the host behind the router of that number, from 0.
    pub(crate) fn home(&self, index: usize) -> &Host {
        &self.homes[index]
    }

    /// Returns the address that the router of that number had at first.
    pub(crate) fn first_address(&self, index: usize) -> Ipv4Addr {
        self.routers[index].address()
    }

    /// Gives the router of that number the public address 203.0.113.`last`, as providers do at
    /// night. Its hosts see nothing of it.
    pub(crate) fn renumber(&self, index: usize, last: u8) {
        self.call(&self.routers[index], public_address(last));
    }

    /// Carries a host to the home of another router, where it gets the address 192.168.1.`last`.
    pub(crate) fn carry(&self, home: usize, router: usize, last: u8) {
        self.homes[home].ip(&["link", "delete", "eth0"]);
        move_in(&self.homes[home], &self.routers[router], last);
    }

    /// Limits the connection of the router of that number, in each direction.
    pub(crate) fn shape(&self, index: usize, megabits: u32) {
        let router = &self.routers[index];
        let port = self.port_of(router);
        let rate = format!("{megabits}mbit");
        for (host, device) in [(router, "wan"), (&self.public, port.as_str())] {
            let mut tc = host.command("tc");
            tc.args(["qdisc", "replace", "dev", device, "root", "tbf"]);
            tc.args(["rate", &rate, "burst", "256k", "latency", "50ms"]);
            complete(&mut tc);
        }
    }
}

fn public_address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}

/// Replaces all addresses of a host's device by this one.
fn set_address(host: &Host, device: &str, address: Ipv4Addr) {
    host.ip(&["address", "flush", "dev", device, "scope", "global"]);
    host.ip(&["address", "add", &format!("{address}/24"), "dev", device]);
    host.ip(&["link", "set", device, "up"]);
}

/// Makes a host a router with a network of its own.
fn route(router: &Host, nat: Nat) {
    router.ip(&["link", "add", "name", "lan", "type", "bridge"]);
    set_address(router, "lan", Ipv4Addr::new(192, 168, 1, 1));
    router.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward"));
    let (ports, udp) = match nat {
        Nat::PortPreserving => ("", ""),
        Nat::Symmetric => ("fully-random", ""),
        Nat::UdpDropped => ("", "meta l4proto udp drop;"),
    };
    let rules = format!(
        "table ip home {{
            chain translate {{
                type nat hook postrouting priority srcnat;
                oifname wan masquerade {ports};
            }}
            chain here {{
                type filter hook input priority filter;
                iifname wan drop;
            }}
            chain through {{
                type filter hook forward priority filter; policy drop;
                {udp}
                ct state established,related accept;
                iifname \"lan\" accept;
            }}
        }}"
    );
    complete(router.command("nft").arg(rules));
}

/// Connects a host to the network of a router.
fn move_in(home: &Host, router: &Host, last: u8) {
    let port = format!("port{last}");
    home.ip(&[
        "link",
        "add",
        "name",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        &port,
        "netns",
        router.namespace(),
    ]);
    router.ip(&["link", "set", &port, "master", "lan", "up"]);
    set_address(home, "eth0", Ipv4Addr::new(192, 168, 1, last));
    home.ip(&["route", "replace", "default", "via", "192.168.1.1"]);
}

impl Host {
    /// Runs `ip` in this host's network.
    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", self.namespace()], arguments].concat());
    }
}

fn complete(command: &mut Command) -> String {
    run(command, Duration::from_secs(60))
        .expect_success()
        .text()
}

/// Records where a host sends packets: each destination, not each packet. What stays on the host is
/// left out, and what its kernel sends by itself to keep IP running.
pub(crate) struct Sent {
    host: Host,
}

impl Sent {
    /// Starts to record what `host` sends. Once for each host.
    pub(crate) fn by(host: &Host) -> Self {
        let rules = "table inet sent {
            set ports4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 65536; }
            set ports6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; size 65536; }
            set others4 { type ipv4_addr . inet_proto; flags dynamic; size 65536; }
            set others6 { type ipv6_addr . inet_proto; flags dynamic; size 65536; }
            chain out {
                type filter hook output priority filter;
                oifname lo return;
                meta l4proto { tcp, udp } add @ports4 { ip daddr . meta l4proto . th dport };
                meta l4proto { tcp, udp } add @ports6 { ip6 daddr . meta l4proto . th dport };
                meta l4proto { tcp, udp, igmp, ipv6-icmp } return;
                add @others4 { ip daddr . meta l4proto };
                add @others6 { ip6 daddr . meta l4proto };
            }
        }";
        complete(host.command("nft").arg(rules));
        Self { host: host.clone() }
    }

    /// Returns all destinations so far, such as `udp 203.0.113.1:7842`, `tcp [fe80::1]:443` and
    /// `icmp 203.0.113.1`.
    pub(crate) fn destinations(&self) -> BTreeSet<String> {
        let sets = ["ports4", "ports6", "others4", "others6"];
        sets.iter().flat_map(|set| self.elements(set)).collect()
    }

    fn elements(&self, set: &str) -> Vec<String> {
        let mut nft = self.host.command("nft");
        let listed = complete(nft.args(["-j", "list", "set", "inet", "sent", set]));
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let list = listed["nftables"].as_array().expect("a list");
        let elements = list.iter().find_map(|item| item["set"]["elem"].as_array());
        let parts = elements.into_iter().flatten().map(|element| {
            let parts = element["concat"].as_array().expect("an address and more");
            parts
                .iter()
                .map(|part| part.to_string().replace('"', ""))
                .collect::<Vec<_>>()
        });
        parts
            .map(|parts| match parts.as_slice() {
                [address, protocol, port] if address.contains(':') => {
                    format!("{protocol} [{address}]:{port}")
                }
                [address, protocol, port] => format!("{protocol} {address}:{port}"),
                [address, protocol] => format!("{protocol} {address}"),
                other => panic!("an element of {set}: {other:?}"),
            })
            .collect()
    }
}

/// A relay, started as its owner would. Dropping it ends it.
pub(crate) struct Relay {
    host: Host,
    /// Its state and its log.
    directory: TempDir,
    child: Child,
    reach: String,
}

impl Relay {
    /// Starts a relay on `host`, with a certificate of its own and a token, and waits until it
    /// serves.
    pub(crate) fn start(host: &Host) -> Self {
        install();
        let directory = tempfile::Builder::new()
            .prefix("tinyp2p-relay-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory");
        let (child, reach) = spawn(host, &directory);
        Self {
            host: host.clone(),
            directory,
            child,
            reach,
        }
    }

    /// Returns the value for `--reach`.
    pub(crate) fn reach(&self) -> &str {
        &self.reach
    }

    /// Returns the hash of its certificate, in hexadecimal.
    pub(crate) fn certificate(&self) -> &str {
        let (_, digits) = self.reach.split_once("sha256=").expect("a hash");
        digits.split('&').next().expect("a hash")
    }

    /// Kills the relay, without a word to anybody.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`Relay::kill`]; the value for `--reach` must be as before.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let (child, reach) = spawn(&self.host, &self.directory);
        self.child = child;
        assert_eq!(reach, self.reach, "not what friends have been given");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            eprintln!("--- log of the relay\n{}", log.unwrap_or_default());
        }
    }
}

/// Installs the relay, unless it is.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        run(Command::new(RELAY).arg("--build"), BUILD).expect_success();
    });
}

/// Starts the relay, and returns the first line that it prints.
fn spawn(host: &Host, directory: &TempDir) -> (Child, String) {
    let path = directory.path().join("log");
    let log = File::options().append(true).create(true).open(&path);
    let mut command = host.command(RELAY);
    command.args(["--self-signed", &host.address().to_string(), "--state"]);
    command.arg(directory.path().join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .stderr(log.expect("a log"))
        .spawn()
        .expect("start a relay");
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let line = within(START, "the relay says how to reach it", move || {
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        line
    });
    let reach = line.trim_end().to_owned();
    if reach.is_empty() {
        let _ = child.kill();
        let _ = child.wait();
        panic!(
            "the relay has ended:\n{}",
            fs::read_to_string(path).unwrap_or_default()
        );
    }
    (child, reach)
}
