//! `tinyp2p get` with several holders of a file, and with very many files: it fetches
//! them as a mount does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::content::{MIB, assert_same, names, pattern, write_pattern};
use crate::harness::hosts::Network;
use crate::harness::process::{eventually, run};
use crate::harness::swarm::{Node, PASSWORD, Swarm, TINYP2P, program, tinyp2p};
use crate::verified::{settle, wait_for_root};

/// Generous time limit for operations.
const LIMIT: Duration = Duration::from_secs(120);

/// Members on their own hosts that have the same file, and a mount that knows its root.
struct Holders {
    swarm: Swarm,
    network: Network,
    nodes: Vec<Node>,
    mount: Node,
}

const FILE: &str = "file";

/// Creates the holders. The last two hosts are those of the mount and of the fetching command.
fn holders(count: u8, rate: &str, size: u64) -> Holders {
    let swarm = Swarm::alone();
    let network = Network::new(count + 2);
    let mut nodes: Vec<Node> = Vec::new();
    for index in 0..usize::from(count) {
        let host = network.host(index);
        let mut tc = host.command("tc");
        tc.args(["qdisc", "add", "dev", "eth0", "root", "tbf"]);
        tc.args(["rate", rate, "burst", "64kb", "latency", "50ms"]);
        run(&mut tc, LIMIT).expect_success();
        let node = swarm.node(&format!("holder {index}")).on(host);
        let node = node.log_level("warn");
        write_pattern(&node.share().join(FILE), 5, size);
        settle(&node.share().join(FILE));
        let node = match nodes.first() {
            Some(first) => node.peer(first),
            None => node,
        };
        nodes.push(node.serve());
    }
    let mount = swarm.node("mount").on(network.host(usize::from(count)));
    let mount = mount.peer(&nodes[0]).mount();
    wait_for_root(&mount, FILE, usize::from(count));
    Holders {
        swarm,
        network,
        nodes,
        mount,
    }
}

impl Holders {
    /// Returns `tinyp2p get` of the file on the last host, and the path where it stores the file.
    fn get(&self) -> (Command, PathBuf) {
        let fetcher = self.network.host(self.nodes.len() + 1);
        let home = self.swarm.directory("home");
        let out = home.join("out");
        let mut command = program(TINYP2P, &home, Some(fetcher));
        command.args(["get", "--no-discovery", PASSWORD, "^file$"]);
        command.args(self.nodes.iter().map(Node::address));
        command.arg("-d").arg(&out);
        (command, out)
    }

    fn fetch(&self) -> Duration {
        let (mut command, out) = self.get();
        let begun = Instant::now();
        run(&mut command, LIMIT).expect_success();
        let took = begun.elapsed();
        assert_same(&out.join(FILE), &self.nodes[0].share().join(FILE));
        fs::remove_dir_all(out).expect("make room");
        took
    }

    /// Returns the bytes that the holders have sent so far.
    fn sent(&self) -> u64 {
        let holders = 0..self.nodes.len();
        holders.map(|index| self.network.bytes_sent_by(index)).sum()
    }
}

#[test]
fn get_is_faster_from_three_holders_than_from_one() {
    let mut all = holders(3, "100mbit", 100 * MIB);
    let from_three = all.fetch();
    for other in &mut all.nodes[1..] {
        other.kill();
    }
    wait_for_root(&all.mount, FILE, 1);
    let from_one = all.fetch();
    println!("100 MiB: {from_three:?} from three holders, {from_one:?} from one");
    assert!(from_one > Duration::from_secs(8), "the link is not capped");
    assert!(from_three < from_one * 3 / 5, "{from_three:?}");
}

#[test]
fn get_goes_on_where_it_was_when_a_holder_freezes_or_dies() {
    const SIZE: u64 = 200 * MIB;
    let mut all = holders(2, "200mbit", SIZE);
    for is_frozen in [true, false] {
        let (mut command, out) = all.get();
        let before = all.sent();
        let (finished, took) = thread::scope(|scope| {
            let running = scope.spawn(move || run(&mut command, LIMIT));
            eventually(LIMIT, "a good part has arrived", || part(&out) > 60 * MIB);
            let begun = Instant::now();
            if is_frozen {
                all.nodes[0].freeze();
            } else {
                all.nodes[0].kill();
            }
            (running.join().expect("it ends"), begun.elapsed())
        });
        finished.expect_success();
        let sent = all.sent() - before;
        assert_same(&out.join(FILE), &all.nodes[1].share().join(FILE));
        assert!(
            sent < SIZE + 40 * MIB,
            "{} MiB were sent of a file of {}",
            sent / MIB,
            SIZE / MIB
        );
        // At 25 MB/s, the rest takes 6 s.
        assert!(took < Duration::from_secs(12), "{took:?}");
        fs::remove_dir_all(out).expect("make room");
        if is_frozen {
            all.nodes[0].thaw();
            wait_for_root(&all.mount, FILE, 2);
        }
    }
}

/// Returns how many bytes of the file in `directory` have arrived.
fn part(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok());
    sizes.map(|metadata| metadata.len()).sum()
}

#[test]
fn get_of_many_small_files_costs_no_round_trip_per_file() {
    let swarm = Swarm::alone();
    let owner = swarm.node("owner");
    for number in 0..3000 {
        let path = owner.share().join(format!("{:02}/{number:05}", number % 3));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(&path, pattern(number, 4096)).expect("write");
    }
    let (owner, out) = (owner.serve(), swarm.directory("out"));
    let to = out.to_string_lossy();
    let arguments = ["get", PASSWORD, ".", &owner.address(), "-d", &to];
    tinyp2p(&swarm, &arguments, LIMIT).expect_success();
    let singles = owner.log().matches("path=\"/files/").count();
    assert!(singles < 100, "{singles} files came one by one");
    for directory in ["00", "01", "02"] {
        let (got, had) = (out.join(directory), owner.share().join(directory));
        assert_eq!(names(&got), names(&had));
        for name in names(&got) {
            assert_same(&got.join(&name), &had.join(&name));
        }
    }
}
