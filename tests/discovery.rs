//! Members find one another on a local network, and again from memory.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::content::names;
use crate::hosts::Network;
use crate::process::{eventually, signal};
use crate::swarm::{Node, PASSWORD, Swarm};

/// How soon two neighbours see each other's files.
const SOON: Duration = Duration::from_secs(5);

/// Both of them list the files of both.
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
fn neighbours_with_another_password_stay_strangers() {
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
