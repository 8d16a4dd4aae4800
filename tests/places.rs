//! Where a node keeps its files on this machine: what it reports when it cannot, and what it does
//! when they disappear.

use std::fs;
use std::time::Duration;

use crate::harness::content::{MIB, pattern};
use crate::harness::process::{eventually, run, sh};
use crate::harness::swarm::{Background, MOUNT, PASSWORD, Swarm, detach, program};
use crate::verified::xattr;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn unwritable_state_names_an_option() {
    let swarm = Swarm::new();
    let me = swarm.node("me");
    fs::create_dir(me.mountpoint()).expect("make a mountpoint");
    let home = swarm.directory("home");
    sh(
        "mount",
        &["-t", "tmpfs", "-o", "ro", "none", &home.to_string_lossy()],
    );
    let mount = |options: &[&str]| {
        let mut command = program(MOUNT, &home, None);
        command.args(options).arg(PASSWORD).arg(me.mountpoint());
        command.args(["--no-discovery", "--no-share", "--listen", &me.address()]);
        run(&mut command, LIMIT)
    };
    let state = swarm.path("state");
    let state = state.to_string_lossy();
    let refused = mount(&["--cache-size", "0"]);
    let mounted = {
        let _mount = Background::at(me.mountpoint());
        mount(&["--state-dir", &state])
    };
    let cache = home.join("cache");
    let named = mount(&[
        "--state-dir",
        &state,
        "--cache-dir",
        &cache.to_string_lossy(),
    ]);
    detach(&home);
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(
        refused
            .stderr
            .trim_end()
            .ends_with("name another directory with --state-dir"),
        "{refused}"
    );
    assert_eq!(mounted.code(), 0, "{mounted}");
    assert!(
        mounted
            .stderr
            .contains("warning: nothing is kept on disk: ")
            && mounted.stderr.contains("name another one with --cache-dir"),
        "{mounted}"
    );
    assert_eq!(named.code(), 1, "{named}");
    assert!(named.stderr.contains("--cache-dir"), "{named}");
}

#[test]
fn cache_of_a_live_mount_is_recreated() {
    let swarm = Swarm::new();
    let content = pattern(1, 4 * MIB);
    let a = swarm
        .node("a")
        .file("one", &content)
        .file("two", &content[8..]);
    let a = a.serve();
    let mount = swarm.node("mount").peer(&a).mount();
    let cached = |name: &str| {
        let read = fs::read(mount.at(name)).expect("read a file");
        assert!(read == content || read == content[8..]);
        let cached = xattr(&mount.at(name), "user.tinyp2p.cached");
        cached.is_some_and(|bytes| bytes.parse::<u64>().is_ok_and(|bytes| bytes > MIB))
    };
    eventually(LIMIT, "the first is cached", || cached("one"));
    fs::remove_dir_all(mount.cache()).expect("remove the cache");
    let status = || fs::read_to_string(mount.at(".tinyp2p/status.json")).unwrap_or_default();
    eventually(LIMIT, "the status says that it is empty", || {
        status().contains("\"held\":0,\"limit\"")
    });
    eventually(LIMIT, "it is there again", || mount.cache().exists());
    // Otherwise the kernel's cached pages would not be read again.
    fs::write("/proc/sys/vm/drop_caches", "1").expect("drop the page cache");
    eventually(LIMIT, "the second is cached", || cached("two"));
}
