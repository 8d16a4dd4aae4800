//! Members who know the password and lie: about the content of their files, about whose they
//! are, and about how many they have. They are in memory and answer over the real wire; all
//! others are stock programs.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::content::merkle::TreeHasher;
use tinyp2p_net::peer::Peer;
use tinyp2p_net::testing::{Behaviour, MemoryPeer, WirePeer};

use crate::harness::content::{MIB, names, pattern};
use crate::harness::process::{eventually, usage, within};
use crate::harness::swarm::{Node, PASSWORD, Swarm, next_address, tinyp2p_command};
use crate::verified::{settle, xattr};

const SOON: Duration = Duration::from_secs(60);

/// The modification time that [`settle`] sets, in nanoseconds.
const MTIME: i64 = 1_600_000_000 * 1_000_000_000;

/// Creates a member without files, and its place on the wire.
fn member(name: &str) -> (Arc<MemoryPeer>, WirePeer) {
    let peer = Arc::new(MemoryPeer::new(1));
    let answers = Arc::clone(&peer) as Arc<dyn Peer>;
    let address = SocketAddr::from((next_address(), 0));
    let wire = WirePeer::start(name, PASSWORD, address, answers);
    (peer, wire)
}

fn root_of(content: &[u8]) -> String {
    let mut hasher = TreeHasher::default();
    hasher.update(content);
    hasher.finish().expect("content").root().to_string()
}

fn sources(mount: &Node, name: &str) -> Vec<String> {
    let text = xattr(&mount.at(name), "user.tinyp2p.sources").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

/// Waits until `name` has this root and these holders in the mount.
fn wait_for(mount: &Node, name: &str, root: &str, holders: &[&str]) {
    eventually(SOON, "the root is known from these holders", || {
        let known = xattr(&mount.at(name), "user.tinyp2p.root");
        known.as_deref() == Some(root) && sources(mount, name) == holders
    });
}

/// A member may name the root of its file after the bytes were fetched. The bytes do not change.
#[test]
fn rootless_bytes_are_nobody_elses() {
    let swarm = Swarm::new();
    let name = |number: u64| format!("d/{number:02}");
    let (eve, wire) = member("eve");
    for number in 0..20 {
        eve.put(&name(number), pattern(99, 4000 + number), MTIME);
    }
    let ann = (0..20).fold(swarm.node("ann"), |node, number| {
        node.file(name(number), pattern(number, 4000 + number))
    });
    for number in 0..20 {
        settle(&ann.share().join(name(number)));
    }
    let ann = ann.serve();
    let mount = swarm
        .node("mount")
        .peer(&ann)
        .peer_at(wire.address().to_string());
    let mount = mount.mount();
    for number in 0..20 {
        let truth = root_of(&pattern(number, 4000 + number));
        wait_for(&mount, &name(number), &truth, &["ann"]);
    }
    assert_eq!(names(&mount.at(".tinyp2p/peers/eve/d")).len(), 20);
    // Two files in a row make the mount fetch the next ones, from eve, who names no root.
    for number in 0..2 {
        let path = mount.at(format!(".tinyp2p/peers/eve/{}", name(number)));
        assert!(fs::read(path).expect("read") == pattern(99, 4000 + number));
    }
    eventually(SOON, "the next files were fetched", || eve.fetches() > 0);
    for number in 0..20 {
        eve.claim(&name(number), &pattern(number, 4000 + number));
    }
    for number in 2..20 {
        let truth = pattern(number, 4000 + number);
        wait_for(&mount, &name(number), &root_of(&truth), &["ann", "eve"]);
        let read = fs::read(mount.at(name(number))).expect("an honest member has it");
        assert!(read == truth, "wrong bytes of {number}");
    }
}

#[test]
fn copied_sizes_and_times_displace_no_file() {
    let swarm = Swarm::new();
    let truth = pattern(1, 3 * MIB);
    let ann = swarm.node("ann").file("report", &truth);
    settle(&ann.share().join("report"));
    let ann = ann.serve();
    let liars: Vec<_> = ["eve", "mallory", "trudy"]
        .map(member)
        .into_iter()
        .collect();
    let mut mount = swarm.node("mount").peer(&ann);
    for (liar, wire) in &liars {
        liar.put("report", pattern(2, 3 * MIB), MTIME);
        mount = mount.peer_at(wire.address().to_string());
    }
    let mount = mount.mount();
    wait_for(&mount, "report", &root_of(&truth), &["ann"]);
    let listed = names(&mount.mountpoint());
    let expected = [
        "report",
        "report (eve)",
        "report (mallory)",
        "report (trudy)",
    ];
    assert_eq!(listed, expected);
    assert!(fs::read(mount.at("report")).expect("read") == truth);
    assert!(fs::read(mount.at("report (eve)")).expect("read") == pattern(2, 3 * MIB));
    let conflicts = fs::read_to_string(mount.at(".tinyp2p/conflicts")).expect("read");
    assert!(
        conflicts.contains("report (eve), which may be the same"),
        "{conflicts}"
    );
}

#[test]
fn disproved_claim_is_not_believed_again() {
    let swarm = Swarm::new();
    let truth = pattern(1, 3 * MIB);
    let ann = swarm.node("ann").file("report", &truth);
    settle(&ann.share().join("report"));
    let ann = ann.serve();
    let (eve, wire) = member("eve");
    eve.put("report", pattern(2, 3 * MIB), MTIME);
    eve.claim("report", &truth);
    let mount = swarm
        .node("mount")
        .option("--cache-size=0")
        .peer(&ann)
        .peer_at(wire.address().to_string())
        .mount();
    wait_for(&mount, "report", &root_of(&truth), &["ann", "eve"]);
    // Both are asked, so eve's bytes are checked sooner or later.
    eventually(SOON, "eve is found out", || {
        let read = fs::read(mount.at("report")).expect("an honest member has it");
        assert!(read == truth, "wrong bytes");
        sources(&mount, "report") == ["ann"]
    });
    let asked = eve.opens();
    assert!(fs::read(mount.at("report")).expect("read") == truth);
    assert_eq!(eve.opens(), asked, "a liar was asked again");
    eventually(SOON, "eve's file is beside the other", || {
        names(&mount.mountpoint()).len() == 2
    });
    let conflicts = fs::read_to_string(mount.at(".tinyp2p/conflicts")).expect("read");
    let line = "report: also report (eve), for which its member named the root of another content";
    assert!(conflicts.contains(line), "{conflicts}");
    assert!(
        mount
            .log()
            .contains("does not have the content that it names")
    );
    // With another version it gets another chance.
    eve.put_rooted("report", truth.clone(), MTIME);
    wait_for(&mount, "report", &root_of(&truth), &["ann", "eve"]);
}

#[test]
fn many_conflicts_are_listed_in_time() {
    let swarm = Swarm::alone();
    let liars = [member("eve"), member("mallory")];
    let mut mount = swarm.node("mount").log_level("info");
    for (number, (liar, wire)) in (1_i64..).zip(&liars) {
        for name in 0..20_000 {
            liar.put(&format!("d/{}{name:05}", "x".repeat(250)), [0], number);
        }
        mount = mount.peer_at(wire.address().to_string());
    }
    let mount = mount.mount();
    eventually(SOON, "both are there", || {
        let there = names(&mount.at(".tinyp2p/peers"));
        ["eve", "mallory"]
            .iter()
            .all(|liar| there.iter().any(|name| name == liar))
    });
    let directory = mount.at("d");
    let begun = Instant::now();
    let listed = within(SOON, "listing conflicts", move || names(&directory));
    let took = begun.elapsed();
    assert_eq!(listed.len(), 40_000);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn endless_directory_hides_only_its_owner() {
    let swarm = Swarm::new();
    let ann = swarm.node("ann").file("d/x", "content").serve();
    let (eve, wire) = member("eve");
    let mount = swarm.node("mount").log_level("info").peer(&ann);
    let mount = mount.peer_at(wire.address().to_string()).mount();
    eventually(SOON, "eve is there", || {
        names(&mount.at(".tinyp2p/peers")).contains(&"eve".to_owned())
    });
    let (before, _) = usage(mount.pid());
    eve.behave(Behaviour::Endless);
    for _ in 0..3 {
        let directory = mount.at("d");
        let begun = Instant::now();
        let listed = within(SOON, "listing beside an endless member", move || {
            names(&directory)
        });
        assert_eq!(listed, ["x"]);
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "{:?}",
            begun.elapsed()
        );
    }
    assert_eq!(fs::read(mount.at("d/x")).expect("read"), b"content");
    let (after, _) = usage(mount.pid());
    assert!(
        after < before + (700 << 20),
        "{} MiB more",
        (after - before) >> 20
    );
    eventually(SOON, "the memory is given back", || {
        usage(mount.pid()).0 < before + (96 << 20)
    });
}

#[test]
fn search_beside_endless_member_is_bounded() {
    let swarm = Swarm::new();
    let ann = swarm.node("ann").file("d/x", "content").serve();
    let (eve, wire) = member("eve");
    eve.behave(Behaviour::Endless);
    let (one, two) = (ann.address(), wire.address().to_string());
    // Returns `None` once the process has exited.
    let peak = |pid: u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    let mut command = tinyp2p_command(&swarm, &["search", PASSWORD, ".", &one, &two]);
    let mut search = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("start a search");
    let (mut most, begun) = (0, Instant::now());
    while search.try_wait().expect("wait").is_none() {
        most = peak(search.id()).unwrap_or(most);
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "the search does not end"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = search.wait_with_output().expect("wait");
    let found = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(found.lines().any(|line| line == "d/x"), "{complaint}");
    // A script must not mistake a part for the whole.
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(most < 1200 << 20, "{} MiB", most >> 20);
}

#[test]
fn change_flood_ends_no_other_answers() {
    let swarm = Swarm::new();
    let ann = swarm.node("ann").file("d/x", "content");
    settle(&ann.share().join("d/x"));
    let ann = ann.serve();
    let (eve, wire) = member("eve");
    eve.watch();
    eve.put("e/y", "other", MTIME);
    let mount = swarm
        .node("mount")
        .peer(&ann)
        .peer_at(wire.address().to_string());
    let mount = mount.mount();
    wait_for(&mount, "d/x", &root_of(b"content"), &["ann"]);
    names(&mount.at("e"));
    eve.behave(Behaviour::Flooding(1024, true));
    let asked = |node: &Node| node.log().matches("call=\"tinyp2p.list\"").count();
    names(&mount.at("d"));
    let before = asked(&ann);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(names(&mount.at("d")), ["x"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Without a watch there would be one per second; with one per change event,
    // one per listing here.
    let during = asked(&ann) - before;
    assert!(during <= 2, "{during} listings at an honest member");
}
