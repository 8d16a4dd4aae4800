//! What `tinyp2p get` finds at its destination, and how it uses that.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::harness::content::{MIB, assert_same, names, write_pattern};
use crate::harness::hosts::Network;
use crate::harness::process::{Finished, eventually, run};
use crate::harness::swarm::{Node, PASSWORD, Swarm, TINYP2P, program, tinyp2p};
use crate::verified::xattr;

const LIMIT: Duration = Duration::from_secs(60);

fn get(swarm: &Swarm, pattern: &str, peer: &Node, directory: &Path) -> Finished {
    let directory = directory.to_string_lossy();
    let address = peer.address();
    let arguments = ["get", PASSWORD, pattern, &address, "-d", &directory];
    tinyp2p(swarm, &arguments, LIMIT)
}

/// Changes the modification time of `path`, and nothing else.
fn touch(path: &Path) {
    let file = File::options().append(true).open(path).expect("open");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    file.set_modified(then).expect("set the mtime");
}

/// Returns the modification time in seconds since 1970.
fn mtime(path: &Path) -> i64 {
    path.metadata().expect("look at it").mtime()
}

#[test]
fn missing_target_directory_is_created() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "x").serve();
    let out = swarm.path("new/directory");
    let nothing = get(&swarm, "no such name", &a, &out);
    assert_eq!(nothing.code(), 1, "{nothing}");
    assert!(!out.exists(), "nothing was fetched");
    get(&swarm, "file", &a, &out).expect_success();
    assert_eq!(names(&out), ["file"]);
}

#[test]
fn what_is_in_the_way_is_named() {
    let swarm = Swarm::new();
    let a = swarm
        .node("a")
        .file("one", "x")
        .file("two/file", "x")
        .file("three", "x")
        .serve();
    let out = swarm.directory("out");
    fs::create_dir(out.join("one")).expect("make a directory");
    fs::write(out.join("two"), "mine").expect("write");
    let ended = get(&swarm, ".", &a, &out);
    assert_eq!(ended.code(), 1, "{ended}");
    for line in [
        "one: 'one', a directory, is in the way here",
        "two/file: 'two', which is no directory, is in the way here",
    ] {
        assert!(ended.stderr.contains(line), "{ended}");
    }
    assert_eq!(names(&out), ["one", "three", "two"]);
}

#[test]
fn touch_at_the_owner_costs_no_refetch() {
    const SIZE: u64 = 800 * MIB;
    let swarm = Swarm::alone();
    // A network that counts its traffic.
    let network = Network::new(3);
    let a = swarm.node("a").on(network.host(0)).log_level("warn");
    let source = a.share().join("large");
    write_pattern(&source, 3, SIZE);
    let a = a.serve();
    let mount = swarm.node("mount").on(network.host(2)).peer(&a).mount();
    let root = || xattr(&mount.at("large"), "user.tinyp2p.root");
    eventually(LIMIT, "the content root is known", || root().is_some());
    let out = swarm.directory("out");
    let get = || {
        let home = swarm.directory("home");
        let mut command = program(TINYP2P, &home, Some(network.host(1)));
        command.args(["get", "--no-discovery", PASSWORD, "large"]);
        command.args([&a.address(), "-d"]).arg(&out);
        command
    };
    let mut first = get().stdout(Stdio::null()).spawn().expect("start");
    eventually(LIMIT, "a part has arrived", || left(&out) > 100 * MIB);
    first.kill().expect("kill");
    first.wait().expect("wait");
    let kept = left(&out);
    assert!(kept < SIZE, "it was finished before it was killed");

    // It is hashed again from its beginning before anybody knows that it is the same.
    touch(&source);
    let before = network.bytes_sent_by(0);
    run(&mut get(), LIMIT).expect_success();
    let sent = network.bytes_sent_by(0) - before;
    assert_same(&out.join("large"), &source);
    assert_eq!(names(&out), ["large"], "something is left beside the file");
    assert_eq!(mtime(&out.join("large")), mtime(&source));
    let missing = SIZE - kept;
    assert!(
        sent < missing + 64 * MIB,
        "{sent} bytes were sent, of which {missing} were missing"
    );

    File::options()
        .append(true)
        .open(&source)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .expect("touch it again");
    let before = network.bytes_sent_by(0);
    eventually(LIMIT, "the file has the time of its owner's", || {
        let ended = run(&mut get(), LIMIT).expect_success();
        assert!(ended.text().contains("1 existed"), "{ended}");
        mtime(&out.join("large")) == mtime(&source)
    });
    let sent = network.bytes_sent_by(0) - before;
    assert!(sent < MIB, "{sent} bytes were sent");
}

/// Returns the bytes in the parts in `directory`.
fn left(directory: &Path) -> u64 {
    let entries = directory.read_dir().expect("list").flatten();
    let parts = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().ends_with(".tinyp2p-part")
    });
    parts
        .filter_map(|part| part.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}
