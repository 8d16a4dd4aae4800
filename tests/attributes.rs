//! Files that the sharing user may not read, executable files, and times of other centuries.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::harness::content::names;
use crate::harness::process::{eventually, run, sh};
use crate::harness::swarm::{Node, Swarm};

const SOON: Duration = Duration::from_secs(30);

/// Far less than an unresponsive member costs.
const AT_ONCE: Duration = Duration::from_secs(3);

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

/// Creates five files and a directory that their owner may not read, next to readable ones.
fn owner(swarm: &Swarm) -> Node {
    let mut owner = swarm.node("owner").file("d/plain", "plain").unprivileged();
    for number in 1..=5 {
        owner = owner.file(format!("d/secret {number}"), vec![1; 300_000]);
    }
    let owner = owner.file("d/closed/x", "x").file("d/open/y", "y");
    for number in 1..=5 {
        chmod(&owner.share().join(format!("d/secret {number}")), 0);
    }
    chmod(&owner.share().join("d/closed"), 0);
    owner.serve()
}

/// Restores the permissions, so that the files of the test can be removed.
fn open_up(owner: &Node) {
    chmod(&owner.share().join("d/closed"), 0o755);
}

#[test]
fn owner_unreadable_file_costs_nothing() {
    let swarm = Swarm::new();
    let owner = owner(&swarm);
    let mount = swarm.node("mount").peer(&owner).mount();
    eventually(SOON, "the files are there", || {
        names(&mount.at("d")).len() == 8
    });
    assert_eq!(mode(&mount.at("d/secret 1")), 0);
    assert_eq!(mode(&mount.at("d/closed")), 0);
    assert_ne!(mode(&mount.at("d/plain")), 0);

    let copy = swarm.path("copy");
    let mut cp = Command::new("cp");
    let copied = run(cp.arg("-r").arg(mount.at("d")).arg(&copy), SOON);
    assert!(copied.took < AT_ONCE, "{copied}");
    assert_eq!(copied.code(), 1, "{copied}");
    let refused = copied.stderr.matches("Permission denied").count();
    assert_eq!(refused, 6, "five files and a directory: {copied}");
    assert_eq!(fs::read(copy.join("plain")).expect("read"), b"plain");
    assert_eq!(fs::read(copy.join("open/y")).expect("read"), b"y");
    for node in [&owner, &mount] {
        let log = node.log();
        let mut lines = log.lines().filter(|line| line.contains("secret"));
        assert!(!lines.any(|line| line.contains(" WARN ")), "{log}");
    }
    open_up(&owner);
}

#[test]
fn find_sees_rights_and_every_directory() {
    let swarm = Swarm::new();
    let owner = owner(&swarm);
    let mount = swarm.node("mount").peer(&owner).mount();
    eventually(SOON, "the files are there", || {
        names(&mount.at("d")).len() == 8
    });
    let mut find = Command::new("find");
    find.arg(mount.at("d"))
        .args(["-type", "f", "-readable", "-printf", "%P\\n"]);
    let found = run(&mut find, SOON);
    let text = found.text();
    let mut shown: Vec<&str> = text.lines().collect();
    shown.sort_unstable();
    assert_eq!(shown, ["open/y", "plain"], "{found}");
    assert_eq!(fs::metadata(mount.at("d")).expect("stat").nlink(), 1);
    open_up(&owner);
}

#[test]
fn file_is_readable_once_its_owner_can() {
    let swarm = Swarm::new();
    let owner = owner(&swarm);
    let mount = swarm.node("mount").peer(&owner).mount();
    let path = mount.at("d/secret 3");
    eventually(SOON, "the file is there", || path.exists());
    assert_eq!(
        fs::read(&path).expect_err("refused").raw_os_error(),
        Some(libc::EACCES)
    );
    chmod(&owner.share().join("d/secret 3"), 0o600);
    eventually(SOON, "it can be read", || {
        fs::read(&path).is_ok_and(|bytes| bytes == vec![1; 300_000])
    });
    open_up(&owner);
}

#[test]
fn programs_run_where_that_is_allowed() {
    let swarm = Swarm::new();
    let owner = swarm
        .node("owner")
        .file("program", "#!/bin/sh\necho it runs\n");
    let owner = owner.file("text", "text");
    chmod(&owner.share().join("program"), 0o755);
    let owner = owner.serve();
    let mount = swarm.node("mount").peer(&owner);
    let mount = mount.option("-o").option("exec").mount();
    let plain = swarm.node("plain").peer(&owner).mount();
    for mount in [&mount, &plain] {
        eventually(SOON, "the files are there", || mount.at("program").exists());
    }
    assert_eq!(mode(&mount.at("program")) & 0o111, 0o111);
    assert_eq!(mode(&mount.at("text")) & 0o111, 0);
    assert_eq!(mode(&plain.at("program")) & 0o111, 0);
    let ran = run(&mut Command::new(mount.at("program")), SOON);
    assert_eq!(ran.expect_success().text(), "it runs\n");
}

#[test]
fn mtimes_of_any_century_match_the_owners() {
    let swarm = Swarm::new();
    let mut owner = swarm.node("owner");
    // Before the first computer clock, and in 2400: nanoseconds in 64 bits end in 2262.
    let times = [-1_500_000_000, 13_569_465_600_i64];
    for seconds in times {
        owner = owner.file(seconds.to_string(), "x");
        let distance = Duration::new(seconds.unsigned_abs(), 0);
        let time = if seconds < 0 {
            SystemTime::UNIX_EPOCH - distance
        } else {
            SystemTime::UNIX_EPOCH + distance + Duration::from_nanos(123_456_789)
        };
        let path = owner.share().join(seconds.to_string());
        let file = File::options().write(true).open(path);
        file.expect("open")
            .set_modified(time)
            .expect("set the time");
    }
    let owner = owner.serve();
    let mount = swarm.node("mount").peer(&owner).mount();
    for seconds in times {
        let name = seconds.to_string();
        eventually(SOON, "the file is there", || mount.at(&name).exists());
        let shown = fs::metadata(mount.at(&name)).expect("stat");
        let shared = fs::metadata(owner.share().join(&name)).expect("stat");
        assert_eq!(
            shared.mtime(),
            seconds,
            "what lies below the test keeps such times"
        );
        let time = |found: &fs::Metadata| (found.mtime(), found.mtime_nsec());
        assert_eq!(time(&shown), time(&shared));
    }
    let copied = swarm.path("copy");
    let (from, to) = (mount.at("13569465600"), copied.to_string_lossy());
    sh("cp", &["-p", &from.to_string_lossy(), &to]);
    assert_eq!(fs::metadata(copied).expect("stat").mtime(), 13_569_465_600);
}
