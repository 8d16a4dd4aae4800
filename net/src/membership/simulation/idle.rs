//! What a network costs in which nothing happens, and how soon it knows of somebody new.

use super::*;

/// Twice the longest time between hellos to one member, and more.
const WHILE_IDLE: Duration = Duration::from_secs(300);

/// Creates a network of `count` that have known each other for long, and one more node that is down
/// and knows the first of them.
fn settled(count: usize) -> Network {
    let mut network = Network::new(count + 1, |n| if n == 0 { vec![] } else { vec![0] });
    for n in 0..count {
        network.start(n);
        for other in (0..count).filter(|other| *other != n) {
            network.know(n, other);
        }
    }
    network.run(WHILE_IDLE);
    assert!(network.complete());
    network
}

/// Returns the bytes that the busiest node sends in each second while nothing happens.
fn cost(network: &mut Network) -> u64 {
    let before: Vec<_> = network.nodes.iter().map(|node| node.sent).collect();
    network.run(WHILE_IDLE);
    assert!(network.complete());
    let sent = network.nodes.iter().zip(before);
    let most = sent.map(|(node, before)| node.sent - before).max();
    let cost = most.unwrap() as u64 / WHILE_IDLE.as_secs();
    println!("{} members: {cost} B/s", network.nodes.len() - 1);
    cost
}

/// Starts the last node. Returns the time until everybody is in contact with it, and it with them.
fn welcome(network: &mut Network) -> Duration {
    network.start(network.nodes.len() - 1);
    let took = network.run_until(seconds(60), Network::complete);
    println!(
        "{} members: newcomer known after {took:?}",
        network.nodes.len() - 1
    );
    took
}

#[test]
fn idle_network_costs_little() {
    for (count, most) in [(2, 150), (20, 2000), (50, 2000), (200, 4000)] {
        let cost = cost(&mut settled(count));
        assert!(cost < most, "{count}: {cost} B/s");
    }
}

#[test]
fn newcomer_is_soon_known_to_all() {
    for count in [2, 20, 50, 200] {
        let took = welcome(&mut settled(count));
        assert!(took < seconds(2), "{count}: {took:?}");
    }
}

/// Takes about two minutes and 3 GB of memory:
/// `cargo test --release -p tinyp2p-net --lib -- --ignored --nocapture thousand_members`
#[test]
#[ignore = "two minutes"]
fn thousand_members_cost_little() {
    let cost = cost(&mut settled(1000));
    assert!(cost <= 20_000, "{cost} B/s");
}

/// Takes about two minutes and 3 GB of memory:
/// `cargo test --release -p tinyp2p-net --lib -- --ignored --nocapture thousand_members`
#[test]
#[ignore = "two minutes"]
fn thousand_members_soon_know_a_newcomer() {
    let took = welcome(&mut settled(1000));
    assert!(took <= seconds(30), "{took:?}");
}

#[test]
fn guest_knows_when_nobody_is_missing() {
    let mut network = Network::new(11, |n| if n == 0 { vec![] } else { vec![0] });
    (0..10).for_each(|n| network.start(n));
    network.run_until(seconds(5), Network::complete);
    network.nodes[10].introduction.port = 0;
    network.nodes[10].table.set_dialable(false);
    network.start(10);
    let limit = network.now + seconds(1);
    while !network.nodes[10].table.is_agreed(network.now) {
        assert!(network.now < limit);
        network.run(TICK);
    }
    assert_eq!(network.nodes[10].table.present().count(), 10);
}

/// Only one node is told of the last one, which dials nobody.
#[test]
fn silent_newcomer_becomes_known_to_all() {
    let mut network = Network::new(64, |n| (n + 1..64).take(1).collect());
    (0..63).for_each(|n| network.start(n));
    network.run_until(seconds(20), Network::complete);
    network.run(seconds(60));
    network.nodes[63].condition = Condition::Slow;
    let known = |network: &Network| (0..63).all(|n| network.nodes[n].table.knows_of(id(63)));
    let reached = |network: &Network| network.sees(62, 63);
    network.run_until(seconds(60), reached);
    network.run_until(seconds(30), known);
}
