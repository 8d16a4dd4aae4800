//! The first minutes: what a mount shows when the command returns, and what the commands
//! print at their start.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::hosts::Network;
use crate::harness::process::{eventually, run};
use crate::harness::slow_link::SlowLink;
use crate::harness::swarm::{Background, MOUNT, Node, PASSWORD, PORT, Swarm, program, tinyp2p};

const LIMIT: Duration = Duration::from_secs(20);

/// One-way delay; a connection with its handshake and its pairing takes several times as much.
const SLOW: Duration = Duration::from_millis(60);

#[test]
fn acquaintances_files_are_there_at_mount() {
    let swarm = Swarm::new();
    let far = swarm.node("far").file("file", "content");
    let link = SlowLink::to(far.socket());
    let far = far
        .option("--advertise")
        .option(link.address().to_string())
        .serve();
    let peer = swarm
        .node("box")
        .peer_at(link.address().to_string())
        .serve();
    eventually(LIMIT, "they know each other", || {
        let found = tinyp2p(&swarm, &["peers", PASSWORD, &peer.address()], LIMIT);
        found.text().contains("far")
    });
    link.delay(SLOW);
    let me = swarm.node("me");
    let mount = Background::at(me.mountpoint());
    fs::create_dir(&mount.path).expect("make a mountpoint");
    let mut command = program(MOUNT, &swarm.path("me"), None);
    command.args([PASSWORD]).arg(&mount.path);
    command.args([&peer.address(), "--no-discovery", "--no-share"]);
    command.args(["--listen", &me.address(), "--log", "debug"]);
    let ended = run(&mut command, LIMIT).expect_success();
    let read = fs::read(me.at("file"));
    assert!(
        read.as_deref().is_ok_and(|bytes| bytes == b"content"),
        "{read:?}\n{ended}"
    );
    drop(far);
}

#[test]
fn join_hint_omits_the_password() {
    let network = Network::new(1);
    let address = network.host(0).address();
    let swarm = Swarm::new();
    let node = |name: &str, options: &[&str]| {
        let node = swarm.node(name).on(network.host(0)).log_level("warn");
        options
            .iter()
            .fold(node, |node, option| node.option(option))
    };
    for (number, (options, peer)) in [
        (&[][..], format!("{address}:{PORT}")),
        (
            &["--advertise", "box.example.org"],
            "box.example.org".to_owned(),
        ),
        (
            &["--advertise", "box.example.org:7"],
            "box.example.org:7".to_owned(),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let invitation = format!("join by: tinyp2p-mount PASSWORD MOUNTPOINT {peer}\n");
        let invites = |node: Node| {
            eventually(LIMIT, &invitation, || node.log().contains(&invitation));
            assert!(!node.log().contains(PASSWORD), "{}", node.log());
        };
        invites(node(&format!("serve {number}"), options).serve());
        invites(node(&format!("mount {number}"), options).mount());
    }
}

#[test]
fn locally_dialable_node_invites_nobody() {
    let swarm = Swarm::new();
    let served = swarm.node("box").serve();
    eventually(LIMIT, "it says what it shares", || {
        served.log().contains("sharing ")
    });
    assert!(!served.log().contains("join by"), "{}", served.log());
}

#[test]
fn unreached_peer_is_silent_once_connected() {
    let swarm = Swarm::new();
    let network = Network::new(2);
    let friend = swarm.node("friend").on(network.host(0)).file("file", "x");
    let friend = friend.discovering(true).serve();
    let me = swarm.node("me").on(network.host(1)).discovering(true);
    // This address leads to nobody; the friend is found without it.
    let mut me = me
        .peer_at(format!("{}:9", network.host(0).address()))
        .mount();
    eventually(LIMIT, "the friend is found", || me.at("file").exists());
    // Its address is remembered.
    let remembered = me.state();
    eventually(LIMIT, "the address is written down", || {
        names_in(&remembered).any(|text| text.contains(&friend.socket().ip().to_string()))
    });
    me.kill();
    let before = me.log().len();
    me.start();
    let said = || me.log().split_off(before);
    eventually(LIMIT, "it says so", || said().contains("mounted on"));
    let said = said();
    assert!(!said.contains("no peer reachable yet"), "{said}");
}

/// Returns the contents of the files below `directory`.
fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let mut texts = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            } else {
                texts.push(fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    texts
        .into_iter()
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}
