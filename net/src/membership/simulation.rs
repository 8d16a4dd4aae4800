//! Simulates a whole network in one thread and in simulated time, to see how many tables work
//! together: whether every node finds every other, how fast, and what liars can do about it.

#![allow(clippy::unwrap_used)]

mod idle;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::address;
use super::book::MAX_CANDIDATES;
use super::exchange;
use super::exchange::Introduction;
use super::mdns::Sighting;
use super::table::{MemberTable, Verdict, WORKERS, WorkerTask};
use crate::error::Error;
use crate::model::{Address, CallSource, PeerId};
use crate::protocol::wire::{Hello, MemberRecord, Request, Response, encode_call, encode_response};
use crate::testing::peer_id;

const TICK: Duration = Duration::from_millis(10);

/// The duration of a dial and one hello over it, and of a refusal.
const ROUND: Duration = Duration::from_millis(20);

/// Bytes of each message beside its body: the head, TLS and TCP.
const MESSAGE: usize = 300;

/// The same duration over a very slow link.
const LATE: Duration = Duration::from_millis(2800);

fn id(n: usize) -> PeerId {
    peer_id(n + 1)
}

fn host(n: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0001 + n as u32).into()
}

fn at(n: usize) -> Address {
    Address::new(host(n).to_string(), 15204)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Down,
    Up,
    /// Accepts connections and never answers.
    Frozen,
    /// Speaks another protocol.
    Foreign,
    /// Never calls, only answers; a hello over a new connection takes [`LATE`].
    Slow,
}

struct Node {
    table: MemberTable,
    introduction: Introduction,
    address: Address,
    condition: Condition,
    /// The address behind the connection to each member.
    connections: HashMap<PeerId, Address>,
    under_way: Vec<(Instant, WorkerTask)>,
    dials: usize,
    /// Nothing happens at it before.
    idle_until: Instant,
    /// Bytes that it has sent, see [`MESSAGE`].
    sent: usize,
}

struct Network {
    now: Instant,
    nodes: Vec<Node>,
    by_address: HashMap<Address, usize>,
    /// Called with every hello before it is delivered, so that nodes can lie.
    tamper: fn(usize, &mut Hello),
}

impl Network {
    /// Creates `count` nodes that are down; the user of node `n` named the addresses of `named(n)`.
    fn new(count: usize, named: impl Fn(usize) -> Vec<usize>) -> Self {
        let now = Instant::now();
        let node = |n: usize| Node {
            table: fresh_table(n, &named(n), now),
            introduction: Introduction {
                id: id(n),
                name: format!("node{n}"),
                advertise: None,
                reach: None,
                port: 15204,
            },
            address: at(n),
            condition: Condition::Down,
            connections: HashMap::new(),
            under_way: Vec::new(),
            dials: 0,
            idle_until: now,
            sent: 0,
        };
        Self {
            now,
            nodes: (0..count).map(node).collect(),
            by_address: (0..count).map(|n| (at(n), n)).collect(),
            tamper: |_, _| {},
        }
    }

    fn start(&mut self, n: usize) {
        self.nodes[n].condition = Condition::Up;
    }

    /// Restarts node `n` as if its process had been killed: all its memory is gone.
    fn restart(&mut self, n: usize, named: &[usize], port: u16) {
        let node = &mut self.nodes[n];
        node.table = fresh_table(n, named, self.now);
        node.connections.clear();
        node.under_way.clear();
        node.introduction.port = port;
        node.idle_until = self.now;
        self.by_address.remove(&node.address);
        node.address = Address::new(host(n).to_string(), port);
        node.condition = Condition::Up;
        self.by_address.insert(node.address.clone(), n);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for n in 0..self.nodes.len() {
                if self.nodes[n].idle_until <= self.now {
                    self.finish_tasks(n);
                }
            }
            for n in 0..self.nodes.len() {
                if self.nodes[n].idle_until <= self.now {
                    self.begin_tasks(n);
                }
            }
        }
    }

    /// Runs until `done`, for at most `limit`. Returns how long that took.
    fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        while !done(self) {
            assert!(
                self.now - begin < limit,
                "not within {limit:?}: {}",
                self.picture()
            );
            self.run(TICK);
        }
        self.now - begin
    }

    fn begin_tasks(&mut self, n: usize) {
        if self.nodes[n].condition != Condition::Up {
            return;
        }
        self.nodes[n].idle_until = self.now;
        while self.nodes[n].under_way.len() < WORKERS {
            let Some(task) = self.nodes[n].table.next(self.now) else {
                let node = &mut self.nodes[n];
                let wake = node.table.wake();
                assert!(wake.is_none_or(|due| due > self.now));
                let done = node.under_way.iter().map(|(done, _)| *done);
                let next = done.chain(wake).min();
                node.idle_until = next.unwrap_or(self.now + seconds(3600));
                return;
            };
            let patience = match &task {
                WorkerTask::Dial { address, .. } => {
                    self.nodes[n].dials += 1;
                    self.patience(address, Duration::from_secs(3))
                }
                WorkerTask::Hello { id, within, .. } => {
                    self.patience(&self.nodes[n].connections[id], *within)
                }
                WorkerTask::Save => Duration::ZERO,
            };
            let done = self.now + patience;
            self.nodes[n].under_way.push((done, task));
        }
    }

    /// Returns how long a dial waits for black holes (everything in 192.0.2.0/24) and
    /// for frozen nodes.
    fn patience(&self, address: &Address, limit: Duration) -> Duration {
        match self.at(address).map(|n| self.nodes[n].condition) {
            Some(Condition::Frozen) => limit,
            Some(Condition::Slow) => LATE.min(limit),
            _ if address.to_string().starts_with("192.0.2.") => limit,
            _ => ROUND,
        }
    }

    fn finish_tasks(&mut self, n: usize) {
        if self.nodes[n].condition != Condition::Up {
            return;
        }
        let (done, rest): (Vec<_>, _) = std::mem::take(&mut self.nodes[n].under_way)
            .into_iter()
            .partition(|(due, _)| *due <= self.now);
        self.nodes[n].under_way = rest;
        for (_, task) in done {
            match task {
                WorkerTask::Dial {
                    address, expected, ..
                } => self.dial(n, &address, expected),
                WorkerTask::Hello { id, turn, within } => self.greet(n, id, turn, within),
                WorkerTask::Save => {}
            }
        }
    }

    fn dial(&mut self, n: usize, address: &Address, expected: Option<PeerId>) {
        let met = self.meet(n, address, expected);
        let node = &mut self.nodes[n];
        match met {
            Err(error) => {
                node.table.dialled(address, Err(&error), self.now);
            }
            Ok((found, theirs, was_asked)) => {
                let outcome = Ok((found, theirs.sender.name.as_str()));
                if node.table.dialled(address, outcome, self.now) == Verdict::Keep {
                    node.connections.insert(found, address.clone());
                }
                exchange::answered(
                    &mut node.table,
                    found,
                    address,
                    &theirs,
                    was_asked,
                    self.now,
                );
            }
        }
    }

    fn greet(&mut self, n: usize, callee: PeerId, turn: u64, within: Duration) {
        let address = self.nodes[n].connections[&callee].clone();
        let takes = self.patience(&address, Duration::MAX);
        let met = if takes > within {
            Err(Error::Timeout {
                who: address.to_string(),
            })
        } else {
            self.meet(n, &address, Some(callee))
        };
        let node = &mut self.nodes[n];
        let outcome = met
            .as_ref()
            .map(|(_, theirs, _)| theirs.sender.name.as_str());
        node.table.greeted(callee, turn, outcome, self.now);
        if let Ok((_, theirs, was_asked)) = met {
            let (table, now) = (&mut node.table, self.now);
            exchange::answered(table, callee, &address, &theirs, was_asked, now);
        }
    }

    fn meet(
        &mut self,
        n: usize,
        address: &Address,
        expected: Option<PeerId>,
    ) -> Result<(PeerId, Hello, bool), Error> {
        let who = address.to_string();
        let other = match self.at(address) {
            Some(other) if other == n => return Err(Error::Myself { who }),
            Some(other)
                if matches!(self.nodes[other].condition, Condition::Up | Condition::Slow) =>
            {
                other
            }
            Some(other) if self.nodes[other].condition == Condition::Foreign => {
                return Err(Error::NotANode { who });
            }
            _ => {
                let why = "nobody there".into();
                return Err(Error::Unreachable { who, why });
            }
        };
        let scope = address::scope(address);
        let caller = self.nodes[n].introduction.id;
        let callee = self.nodes[other].introduction.id;
        if expected.is_some_and(|expected| expected != callee) {
            return Err(Error::OtherIdentity { who });
        }
        let (now, node) = (self.now, &mut self.nodes[n]);
        let mut ours = node.introduction.call(&mut node.table, callee, scope, now);
        (self.tamper)(n, &mut ours);
        node.sent += encode_call(&Request::Hello(ours.clone())).len() + MESSAGE;
        let node = &mut self.nodes[other];
        node.idle_until = now;
        let source = CallSource::Tcp(host(n));
        exchange::called(&mut node.table, caller, source, &ours, now);
        let (scope, node) = (address::scope_of_ip(host(n)), &mut self.nodes[other]);
        let mut theirs = node
            .introduction
            .answer(&mut node.table, caller, &ours, scope, now);
        (self.tamper)(other, &mut theirs);
        let response = encode_response(&Ok(Response::Hello(theirs.clone())));
        self.nodes[other].sent += response.len() + MESSAGE;
        Ok((callee, theirs, ours.known.is_some()))
    }

    fn at(&self, address: &Address) -> Option<usize> {
        let n = self.by_address.get(address).copied();
        n.filter(|n| self.nodes[*n].condition != Condition::Down)
    }

    /// Makes node `n` have reached `other`.
    fn know(&mut self, n: usize, other: usize) {
        let (node, address) = (&mut self.nodes[n], at(other));
        let name = format!("node{other}");
        node.table
            .dialled(&address, Ok((id(other), &name)), self.now);
        node.connections.insert(id(other), address);
    }

    fn sees(&self, n: usize, other: usize) -> bool {
        self.nodes[n]
            .table
            .present()
            .any(|(found, ..)| found == id(other))
    }

    /// Returns true when every node that is up sees exactly the others that are up, where they are.
    fn complete(&self) -> bool {
        let is_up = |node: &&Node| node.condition == Condition::Up;
        let up = self.nodes.iter().filter(is_up);
        let expected: HashMap<PeerId, &Address> = up
            .clone()
            .map(|node| (node.introduction.id, &node.address))
            .collect();
        // Whoever came last knows fewest, mostly: that ends the walk soon.
        up.rev().all(|node| {
            let is_right = |(found, _, address): (PeerId, _, _)| {
                found != node.introduction.id && expected.get(&found).copied() == address
            };
            node.table.present().count() + 1 == expected.len() && node.table.present().all(is_right)
        })
    }

    fn picture(&self) -> String {
        if self.nodes.len() > 100 {
            let counts = self.nodes.iter().map(|node| node.table.present().count());
            return format!("{:?}", counts.collect::<Vec<_>>());
        }
        let row = |n: usize| -> String {
            let sees = |other| if self.sees(n, other) { '*' } else { '.' };
            (0..self.nodes.len()).map(sees).collect::<String>() + " "
        };
        (0..self.nodes.len()).map(row).collect()
    }
}

fn fresh_table(n: usize, named: &[usize], now: Instant) -> MemberTable {
    let mut table = MemberTable::new(id(n), now);
    for other in named {
        table.name(at(*other), None, now);
    }
    table
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn next_one(count: usize) -> impl Fn(usize) -> Vec<usize> {
    move |n| (n + 1 < count).then_some(n + 1).into_iter().collect()
}

#[test]
fn chain_is_complete_within_two_seconds() {
    let mut network = Network::new(10, next_one(10));
    (0..10).for_each(|n| network.start(n));
    network.run_until(seconds(2), Network::complete);
}

#[test]
fn star_of_fifty_is_complete_in_5_seconds() {
    let mut network = Network::new(50, |n| if n == 0 { vec![] } else { vec![0] });
    (0..50).for_each(|n| network.start(n));
    network.run_until(seconds(5), Network::complete);
    // Nobody keeps dialling an address once it knows who is there.
    network.run(seconds(60));
    let dials: usize = network.nodes.iter().map(|node| node.dials).sum();
    assert!(dials < 2 * 50 * 49, "{dials}");
}

#[test]
fn member_back_elsewhere_is_the_same() {
    let mut network = Network::new(4, next_one(4));
    (0..4).for_each(|n| network.start(n));
    network.run_until(seconds(2), Network::complete);
    network.restart(0, &[1], 4711);
    network.run_until(seconds(3), Network::complete);
}

#[test]
fn amnesiac_member_is_found_by_the_others() {
    let mut network = Network::new(3, next_one(3));
    (0..3).for_each(|n| network.start(n));
    network.run_until(seconds(2), Network::complete);
    network.nodes[2].condition = Condition::Down;
    network.run_until(seconds(20), |network| {
        !network.sees(0, 2) && !network.sees(1, 2)
    });
    network.run(seconds(120));
    network.restart(2, &[], 15204);
    network.run_until(seconds(16), Network::complete);
}

#[test]
fn frozen_member_is_away_until_it_thaws() {
    let mut network = Network::new(5, |n| if n == 0 { vec![] } else { vec![0] });
    (0..4).for_each(|n| network.start(n));
    network.run_until(seconds(3), Network::complete);
    network.nodes[1].condition = Condition::Frozen;
    network.run_until(seconds(25), |network| {
        (0..4).all(|n| n == 1 || !network.sees(n, 1))
    });
    network.start(4);
    network.run_until(seconds(3), |network| {
        (0..5).all(|n| n == 1 || n == 4 || network.sees(n, 4))
    });
    network.nodes[1].condition = Condition::Up;
    network.run_until(seconds(3), |network| {
        network.sees(1, 0) && network.sees(0, 1)
    });
    network.run_until(seconds(16), Network::complete);
}

#[test]
fn slow_link_member_survives_a_timeout() {
    let mut network = Network::new(3, |n| if n == 0 { vec![] } else { vec![0] });
    (0..3).for_each(|n| network.start(n));
    network.run_until(seconds(3), Network::complete);
    network.nodes[1].condition = Condition::Slow;
    let who = at(1).to_string();
    let now = network.now;
    assert!(
        network.nodes[0]
            .table
            .suspect(id(1), &Error::Timeout { who }, now)
    );
    network.nodes[0].idle_until = now;
    network.run(TICK);
    assert!(!network.sees(0, 1));
    network.run_until(seconds(10), |network| network.sees(0, 1));
}

#[test]
fn new_identity_at_known_address_is_found() {
    let mut network = Network::new(3, next_one(3));
    (0..3).for_each(|n| network.start(n));
    network.run_until(seconds(2), Network::complete);
    // Node 2 goes for good. Another, which knows nobody, starts at its address.
    network.restart(2, &[], 15204);
    network.nodes[2].introduction.id = id(8);
    network.nodes[2].table = MemberTable::new(id(8), network.now);
    network.run_until(seconds(20), Network::complete);
}

#[test]
fn silent_addresses_delay_nobody() {
    let mut network = Network::new(20, |n| if n == 0 { vec![] } else { vec![0] });
    for node in &mut network.nodes {
        for hole in 1..30 {
            let address = Address::new(format!("192.0.2.{hole}"), 15204);
            node.table.name(address, None, network.now);
        }
    }
    (0..20).for_each(|n| network.start(n));
    network.run_until(seconds(20), Network::complete);
    network.run(seconds(60));
    assert!(network.complete(), "{}", network.picture());
    // Nor does a newcomer have to wait for them.
    network.restart(19, &[0], 4711);
    network.run_until(seconds(5), Network::complete);
}

/// Makes node 0 report to everyone a thousand members that do not exist, at addresses that swallow
/// packets, and claim every real address for another member.
fn lie(n: usize, hello: &mut Hello) {
    if n != 0 {
        return;
    }
    let invented = (0..1000).map(|k| MemberRecord {
        id: id(1000 + k),
        name: "ghost".into(),
        addresses: (0..4)
            .map(|p| Address::new(format!("192.0.2.{}", k % 250), 1000 + (4 * k + p) as u16))
            .collect(),
    });
    let shuffled = (1..10).map(|k| MemberRecord {
        id: id(1 + k % 9),
        name: "liar".into(),
        addresses: vec![at(k)],
    });
    hello.members = shuffled.chain(invented).collect();
}

#[test]
fn lying_member_cannot_split_the_network() {
    let mut network = Network::new(10, |n| match n {
        0 => vec![],
        1 => vec![0],
        n => vec![0, n - 1],
    });
    network.tamper = lie;
    (0..10).for_each(|n| network.start(n));
    network.run_until(seconds(20), |network| {
        (1..10).all(|n| (1..10).all(|other| n == other || network.sees(n, other)))
    });
    network.run(seconds(300));
    for (n, node) in network.nodes.iter().enumerate() {
        assert!(node.table.size().0 < 10 * 256 && node.table.size().0 < MAX_CANDIDATES);
        assert!(node.table.size().1 < 10, "ghosts are not members");
        assert!(n == 0 || (1..10).all(|other| n == other || network.sees(n, other)));
    }
}

/// Announces node `n` by multicast, from `source`, at `count` ports starting at `from`.
fn announce(network: &mut Network, n: usize, source: usize, from: u16, count: u16) {
    let addresses = (0..count).map(|k| (Address::new(host(source).to_string(), from + k), k == 0));
    let sighting = Sighting {
        id: id(n),
        addresses: addresses.collect(),
        is_repeated: false,
    };
    let now = network.now;
    for (other, node) in network.nodes.iter_mut().enumerate() {
        if other != n && node.condition == Condition::Up {
            node.table.sighted(&sighting, now);
            node.idle_until = now;
        }
    }
}

/// A stranger on the link announces the identities of others before they do, at his own address.
#[test]
fn id_squatter_cannot_split_the_network() {
    for (liar, count) in [
        (Condition::Foreign, 1),
        (Condition::Foreign, 16),
        (Condition::Frozen, 16),
        (Condition::Down, 16),
    ] {
        let mut network = Network::new(4, |_| vec![]);
        (0..3).for_each(|n| network.start(n));
        network.nodes[3].condition = liar;
        for n in 0..3 {
            announce(&mut network, n, 3, 15204, count);
        }
        network.run(ROUND * 3);
        for n in 0..3 {
            announce(&mut network, n, n, 15204, 1);
        }
        network.run_until(seconds(8), Network::complete);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_and_start_order_soon_connects(
        parents in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 2..12),
        starts in proptest::collection::vec(0u64..90_000, 13),
    ) {
        let count = parents.len() + 1;
        let named = |n: usize| -> Vec<usize> {
            // Of each pair adjacent in the tree, either may know the other.
            let edge = |child: usize| {
                let (parent, upwards) = (parents[child - 1].0.index(child), parents[child - 1].1);
                if upwards { (child, parent) } else { (parent, child) }
            };
            (1..count).map(edge).filter(|(from, _)| *from == n).map(|(_, to)| to).collect()
        };
        let mut network = Network::new(count, named);
        let mut order: Vec<(u64, usize)> = (0..count).map(|n| (starts[n], n)).collect();
        order.sort_unstable();
        let mut clock = 0;
        for (start, n) in order {
            network.run(Duration::from_millis(start - clock));
            clock = start;
            network.start(n);
        }
        network.run_until(seconds(5), Network::complete);
    }

    #[test]
    fn randomly_churning_members_are_all_found(
        happenings in proptest::collection::vec((0usize..5, 0u8..4, 0u64..8_000), 1..25),
    ) {
        let mut network = Network::new(6, |n| if n == 0 { vec![] } else { vec![0] });
        network.start(0);
        for (n, what, pause) in happenings {
            let (n, port) = (n + 1, 15204 + u16::from(what));
            match what {
                0 => network.nodes[n].condition = Condition::Down,
                1 if network.nodes[n].condition != Condition::Down => {
                    network.nodes[n].condition = Condition::Frozen;
                }
                _ => network.restart(n, &[0], port),
            }
            network.run(Duration::from_millis(pause));
            for node in &mut network.nodes {
                prop_assert!(node.table.size().1 <= 5, "one entry for each identity");
                node.table.check(network.now);
            }
        }
        for n in 1..6 {
            if network.nodes[n].condition == Condition::Frozen {
                network.nodes[n].condition = Condition::Up;
            }
        }
        network.run_until(seconds(60), Network::complete);
        // No node flaps afterwards.
        network.run(seconds(40));
        prop_assert!(network.complete());
    }
}
