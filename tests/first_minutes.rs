//! The first minutes: what a mount has when the command returns, and what the commands print at their start.

use std::fs;
use std::time::Duration;

use crate::process::{eventually, run};
use crate::slow_link::SlowLink;
use crate::swarm::{Background, MOUNT, PASSWORD, Swarm, program, tinyp2p};

const LIMIT: Duration = Duration::from_secs(20);

/// One way; a connection with its handshake and its pairing takes several times as much.
const SLOW: Duration = Duration::from_millis(60);

#[test]
fn what_the_acquaintances_of_a_peer_share_is_there_when_the_mount_is() {
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
