//! Members whose address changes while others read from them.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use crate::harness::content::{MIB, pattern_at, write_pattern};
use crate::harness::hosts::Network;
use crate::harness::process::eventually;
use crate::harness::swarm::{Node, Swarm};

const SOON: Duration = Duration::from_secs(30);

/// Far more than is read ahead, so that most of it has to come from the new address.
const LARGE: u64 = 240 * MIB;

/// The longest pause of a reader: a second until the change is noticed, two until the old address
/// is given up, and a second for requests that hang there; the rest is for busy machines.
const PAUSE: Duration = Duration::from_secs(8);

/// Reads the next `length` bytes and compares them.
fn read_on(file: &mut File, at: &mut u64, length: u64) {
    let mut buffer = vec![0; MIB as usize];
    let end = *at + length;
    while *at < end {
        let begun = Instant::now();
        file.read_exact(&mut buffer).expect("the read goes on");
        let took = begun.elapsed();
        assert!(took < PAUSE, "a read at {at} took {took:?}");
        assert!(buffer == pattern_at(9, *at, MIB), "wrong bytes at {at}");
        *at += MIB;
    }
}

/// Starts two hosts: the owner of a large file, and a member that mounts.
fn two(swarm: &Swarm, network: &Network, discovery: bool) -> (Node, Node) {
    let here = |name: &str, index| {
        let node = swarm.node(name).on(network.host(index));
        node.everywhere().discovering(discovery)
    };
    let owner = here("owner", 0);
    write_pattern(&owner.share().join("large"), 9, LARGE);
    let owner = owner.serve();
    let mount = here("mount", 1).peer(&owner).mount();
    let size = || fs::metadata(mount.at("large")).map_or(0, |found| found.len());
    eventually(SOON, "the file is there", || size() == LARGE);
    (owner, mount)
}

#[test]
fn open_file_survives_its_owners_move() {
    for discovery in [true, false] {
        let swarm = Swarm::alone();
        let network = Network::new(2);
        let (_owner, mount) = two(&swarm, &network, discovery);
        let (mut file, mut at) = (File::open(mount.at("large")).expect("open"), 0);
        read_on(&mut file, &mut at, 8 * MIB);
        network.host(0).move_to(101);
        read_on(&mut file, &mut at, LARGE - 8 * MIB);
    }
}

#[test]
fn open_file_survives_its_readers_moves() {
    let swarm = Swarm::alone();
    let network = Network::new(2);
    let (_owner, mount) = two(&swarm, &network, true);
    let (mut file, mut at) = (File::open(mount.at("large")).expect("open"), 0);
    for (host, last) in [(1, 102), (0, 101), (0, 1), (1, 2)] {
        read_on(&mut file, &mut at, 4 * MIB);
        network.host(host).move_to(last);
        read_on(&mut file, &mut at, 52 * MIB);
    }
    read_on(&mut file, &mut at, LARGE - 4 * 56 * MIB);
}
