//! Starting and stopping: clear refusals, nothing left behind.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::content::names;
use crate::harness::process::{Finished, eventually, run, sh, signal};
use crate::harness::swarm::{
    Background, MOUNT, Node, PASSWORD, PORT, Swarm, TINYP2P, is_mounted, mounts, next_address,
    program, tinyp2p,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Time limit for a stop, whatever is in progress.
const STOP: Duration = Duration::from_secs(5);

/// Runs `tinyp2p-mount` with the given arguments, and without this machine's state.
fn mount(swarm: &Swarm, arguments: &[&str]) -> Finished {
    let mut command = program(MOUNT, &swarm.directory("home"), None);
    command
        .args(["--no-discovery", "--state-dir"])
        .arg(swarm.path("state"))
        .args(arguments);
    run(&mut command, LIMIT)
}

/// Mounts in the background with its own share.
fn background(swarm: &Swarm, options: &[&str]) -> Background {
    let share = swarm.directory("share");
    fs::write(share.join("file"), "content").expect("write");
    let background = Background::at(swarm.directory("mnt"));
    let listen = format!("{}:{PORT}", next_address());
    let (share, mnt) = (text(&share), text(&background.path));
    let mut arguments = vec!["--share", &share, "--listen", &listen, PASSWORD, &mnt];
    arguments.extend(options);
    mount(swarm, &arguments).expect_success();
    background
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Checks that the command fails with `code` and one line that contains `reason`, and that
/// nothing new is mounted.
#[track_caller]
fn assert_refused(swarm: &Swarm, arguments: &[&str], code: i32, reason: &str) {
    let below = |path: &PathBuf| path.starts_with(swarm.path(""));
    let before: Vec<PathBuf> = mounts().into_iter().filter(below).collect();
    let ended = mount(swarm, arguments);
    assert_eq!(ended.code(), code, "{ended}");
    assert_eq!(
        ended.stderr.trim_end().lines().count(),
        1,
        "not one line: {ended}"
    );
    assert!(ended.stderr.starts_with("tinyp2p-mount: "), "{ended}");
    assert!(ended.stderr.contains(reason), "no '{reason}': {ended}");
    assert!(!ended.stderr.contains(PASSWORD), "{ended}");
    let after: Vec<PathBuf> = mounts().into_iter().filter(below).collect();
    assert_eq!(before, after, "something is mounted");
}

#[test]
fn unusable_mountpoint_is_refused() {
    let swarm = Swarm::new();
    let file = swarm.path("file");
    fs::write(&file, "x").expect("write");
    let full = swarm.directory("full");
    fs::write(full.join("x"), "x").expect("write");
    let no_parent = swarm.path("no/such/place");
    let share = text(&swarm.directory("share"));
    for (mountpoint, reason) in [
        (&no_parent, "No such file"),
        (&file, "not a directory"),
        (&full, "not empty"),
    ] {
        let mountpoint = text(mountpoint);
        assert_refused(
            &swarm,
            &["--share", &share, PASSWORD, &mountpoint],
            1,
            reason,
        );
        assert_refused(
            &swarm,
            &["--share", &share, PASSWORD, &mountpoint],
            1,
            &mountpoint,
        );
    }
    // Existing mounts stay as they are.
    let running = background(&swarm, &[]);
    let mnt = text(&running.path);
    assert_refused(&swarm, &["--share", &share, PASSWORD, &mnt], 1, "mounted");
    assert_eq!(
        fs::read(running.path.join("file")).expect("read"),
        b"content"
    );
    assert_refused(
        &swarm,
        &["--share", &share, PASSWORD, "/proc"],
        1,
        "mounted",
    );
}

#[test]
fn mountpoint_is_made_if_parent_is_ours() {
    let swarm = Swarm::new();
    let running = background(&swarm, &[]);
    drop(running);
    fs::remove_dir(swarm.path("mnt")).expect("remove");
    let new = Background::at(swarm.path("mnt"));
    let listen = format!("{}:0", next_address());
    mount(
        &swarm,
        &[
            "--no-share",
            "--listen",
            &listen,
            PASSWORD,
            &text(&new.path),
        ],
    )
    .expect_success();
    assert!(is_mounted(&new.path));
}

#[test]
fn unservable_share_is_refused() {
    let swarm = Swarm::new();
    let mnt = text(&swarm.directory("mnt"));
    let missing = text(&swarm.path("missing"));
    let file = swarm.path("file");
    fs::write(&file, "x").expect("write");
    assert_refused(&swarm, &["--share", &missing, PASSWORD, &mnt], 1, &missing);
    assert_refused(
        &swarm,
        &["--share", &text(&file), PASSWORD, &mnt],
        1,
        "directory",
    );

    // The root and the home directory are shared only when they are named explicitly.
    let home = swarm.directory("home");
    for place in [Path::new("/"), &home] {
        let mut command = program(MOUNT, &home, None);
        command
            .current_dir(place)
            .args(["--no-discovery", PASSWORD, &mnt]);
        let ended = run(&mut command, LIMIT);
        assert!([1, 2].contains(&ended.code()), "{ended}");
        assert!(ended.stderr.contains("--share"), "{ended}");
        assert!(!is_mounted(Path::new(&mnt)));
    }
}

#[test]
fn an_address_in_use_is_refused() {
    let swarm = Swarm::new();
    let mnt = text(&swarm.directory("mnt"));
    let taken = TcpListener::bind((next_address(), 0)).expect("listen");
    let address = taken.local_addr().expect("see the address").to_string();
    let arguments = ["--no-share", "--listen", &address, PASSWORD, &mnt];
    assert_refused(&swarm, &arguments, 1, &address);
}

#[test]
fn usage_errors_exit_with_code_2() {
    let swarm = Swarm::new();
    let mnt = text(&swarm.directory("mnt"));
    for (arguments, reason) in [
        (
            vec!["--no-share", PASSWORD, &mnt, "no spaces allowed"],
            "no spaces allowed",
        ),
        (
            vec!["--no-share", PASSWORD, &mnt, "https://host:port"],
            "https://host:port",
        ),
        (
            vec!["--no-share", PASSWORD, &mnt, "host:99999"],
            "host:99999",
        ),
        (
            vec!["--no-share", PASSWORD, &mnt, "https://host#short"],
            "https://host#short",
        ),
        (
            vec!["--no-share", PASSWORD, &mnt, "http://host:1"],
            "http://",
        ),
        (
            vec!["--no-share", "--nonsense", PASSWORD, &mnt],
            "--nonsense",
        ),
        (
            vec!["--no-share", "--listen", "nowhere", PASSWORD, &mnt],
            "nowhere",
        ),
        (
            vec!["--no-share", "-o", "nonsense", PASSWORD, &mnt],
            "nonsense",
        ),
    ] {
        assert_refused(&swarm, &arguments, 2, reason);
    }
    // Without a mountpoint, clap names what is missing, in lines of its own.
    assert_eq!(mount(&swarm, &[PASSWORD]).code(), 2);
    assert_eq!(mount(&swarm, &[]).code(), 2);
}

#[test]
fn exposed_password_file_ends_the_start() {
    let swarm = Swarm::new();
    let mnt = text(&swarm.directory("mnt"));
    let file = swarm.path("pw");
    let from_file = format!("@{}", file.display());
    let arguments = ["--no-share", &from_file, &mnt];
    assert_refused(&swarm, &arguments, 1, "No such file");
    fs::write(&file, format!("{PASSWORD}\n")).expect("write");
    for mode in [0o644, 0o640, 0o604, 0o660] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        assert_refused(&swarm, &arguments, 1, "chmod 600");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(&file, "\n").expect("write");
    assert_refused(&swarm, &arguments, 1, "empty");
    let directory = format!("@{}", swarm.directory("dir").display());
    assert_refused(&swarm, &["--no-share", &directory, &mnt], 1, "dir");
}

#[test]
fn help_and_version_are_there() {
    for (path, name) in [(MOUNT, "tinyp2p-mount"), (TINYP2P, "tinyp2p")] {
        let help = run(Command::new(path).arg("--help"), LIMIT).expect_success();
        assert!(help.text().contains("Usage"), "{help}");
        let version = run(Command::new(path).arg("--version"), LIMIT).expect_success();
        assert!(version.text().starts_with(&format!("{name} ")), "{version}");
    }
}

#[test]
fn command_returns_once_mount_is_usable() {
    let swarm = Swarm::new();
    let peer = swarm.node("peer").file("of peer", "there").serve();
    let running = background(&swarm, &[&peer.address()]);
    // At once, without polling for it.
    assert_eq!(
        fs::read(running.path.join("file")).expect("read"),
        b"content"
    );
    assert_eq!(
        fs::read(running.path.join("of peer")).expect("read"),
        b"there"
    );
    let table = sh(
        "findmnt",
        &["-n", "-o", "FSTYPE,OPTIONS", &text(&running.path)],
    )
    .text();
    for word in ["fuse.tinyp2p", "ro", "nosuid", "nodev", "noexec"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
}

#[test]
fn unreachable_network_mounts_and_waits() {
    let swarm = Swarm::new();
    let mut late = swarm.node("late").file("late", "x").serve();
    late.kill();
    let running = background(&swarm, &[&late.address()]);
    assert_eq!(names(&running.path), ["file"]);
    late.start();
    eventually(
        Duration::from_secs(30),
        "the peer is found when it comes",
        || names(&running.path) == ["file", "late"],
    );
}

#[test]
fn a_stale_mount_is_cleared() {
    let swarm = Swarm::new();
    let mut node = swarm.node("a").file("file", "content").mount();
    node.crash();
    assert!(is_mounted(&node.mountpoint()));
    let error = fs::metadata(node.at("file")).expect_err("the mount is dead");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    node.start();
    assert_eq!(fs::read(node.at("file")).expect("read"), b"content");
    let there = mounts()
        .iter()
        .filter(|path| **path == node.mountpoint())
        .count();
    assert_eq!(there, 1, "mounts lie on top of each other");
}

/// Stops `node` with `how`; checks that it exits with code 0, in time, and leaves nothing mounted.
fn assert_stops(mut node: Node, how: impl FnOnce(&Node)) {
    let start = Instant::now();
    how(&node);
    let code = node.wait(STOP + Duration::from_secs(1));
    assert!(
        start.elapsed() < STOP,
        "it took {:?} to stop",
        start.elapsed()
    );
    assert_eq!(code, 0);
    assert!(!is_mounted(&node.mountpoint()), "it left its mount");
    assert!(node.mountpoint().exists());
}

#[test]
fn a_signal_or_umount_ends_it() {
    let swarm = Swarm::new();
    let node = |name| swarm.node(name).file("file", "content").mount();
    assert_stops(node("term"), |node| signal(node.pid(), Signal::TERM));
    assert_stops(node("int"), |node| signal(node.pid(), Signal::INT));
    assert_stops(node("umount"), |node| {
        sh("umount", &[&text(&node.mountpoint())]);
    });
    assert_stops(node("fusermount"), |node| {
        sh("fusermount3", &["-u", &text(&node.mountpoint())]);
    });
    assert_stops(node("unmount"), |node| {
        sh(TINYP2P, &["unmount", &text(&node.mountpoint())]);
    });
}

#[test]
fn a_signal_ends_it_also_while_it_is_busy() {
    let swarm = Swarm::new();
    let peer = swarm.node("peer");
    File::create(peer.share().join("large"))
        .expect("create")
        .set_len(4 << 30)
        .expect("grow");
    let peer = peer.serve();
    let node = swarm.node("a").file("file", "content").peer(&peer).mount();
    eventually(LIMIT, "the peer's file is there", || {
        node.at("large").exists()
    });
    let _open = File::open(node.at("file")).expect("open");
    let mut reader = Command::new("cat");
    reader.arg(node.at("large")).current_dir(node.mountpoint());
    let mut reader = reader
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("start cat");
    assert_stops(node, |node| signal(node.pid(), Signal::TERM));
    reader.kill().expect("kill cat");
    reader.wait().expect("wait for cat");
}

#[test]
fn stop_does_not_wait_for_a_frozen_member() {
    let swarm = Swarm::new();
    let peer = swarm.node("peer").file("of peer", "x").serve();
    let node = swarm.node("a").peer(&peer).mount();
    eventually(LIMIT, "the peer's file is there", || {
        node.at("of peer").exists()
    });
    peer.freeze();
    let mut blocked = Command::new("ls")
        .arg(node.mountpoint())
        .spawn()
        .expect("start ls");
    assert_stops(node, |node| signal(node.pid(), Signal::TERM));
    peer.thaw();
    blocked.wait().expect("wait for ls");
}

#[test]
fn serve_ends_by_a_signal() {
    let swarm = Swarm::new();
    for stop in [Signal::TERM, Signal::INT] {
        let mut node = swarm
            .node(if stop == Signal::TERM { "term" } else { "int" })
            .serve();
        // It listens before it says so, and from then on it exits cleanly.
        eventually(LIMIT, "it says what it shares", || {
            node.log().contains("sharing")
        });
        signal(node.pid(), stop);
        assert_eq!(node.wait(STOP), 0);
    }
}

#[test]
fn in_the_background_it_ends_by_umount_too() {
    let swarm = Swarm::new();
    let running = background(&swarm, &[]);
    assert_eq!(running.processes().len(), 1);
    sh("umount", &[&text(&running.path)]);
    eventually(STOP, "the process ends", || running.ended());
}

#[test]
fn share_around_the_mount_does_not_recurse() {
    let swarm = Swarm::new();
    let share = swarm.directory("share");
    fs::create_dir_all(share.join("inner/mnt")).expect("make directories");
    fs::write(share.join("inner/file"), "content").expect("write");
    let running = Background::at(share.join("inner/mnt"));
    let mut command = program(MOUNT, &swarm.directory("home"), None);
    let address = next_address();
    // As on a first try: in the directory itself, with the mountpoint inside it.
    command.current_dir(&share).arg("--no-discovery");
    command.arg("--state-dir").arg(swarm.path("state"));
    command.args(["--listen", &format!("{address}:{PORT}"), PASSWORD]);
    run(command.arg(&running.path), LIMIT).expect_success();
    let found = sh("find", &[&text(&running.path), "-printf", "%P\\n"]).text();
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["", "inner", "inner/file"]);

    let other = swarm
        .node("other")
        .peer_at(format!("{address}:{PORT}"))
        .mount();
    eventually(LIMIT, "the file is there", || {
        other.at("inner/file").exists()
    });
    assert_eq!(names(&other.at("inner")), ["file"]);
}

#[test]
fn cache_and_log_in_a_share_are_not_served() {
    let swarm = Swarm::new();
    let other = swarm.node("other").file("theirs", "content").serve();
    let node = swarm.node("node").file("mine", "content").peer(&other);
    let cache = node.share().join("cache");
    let log = node.share().join("log");
    let node = node
        .option("--cache-dir")
        .option(&cache)
        .option("--log-file")
        .option(&log)
        .mount();
    eventually(LIMIT, "the other one's file is read", || {
        fs::read(node.at("theirs")).is_ok_and(|content| content == b"content")
    });
    assert!(log.exists() && !names(&cache).is_empty());
    let found = tinyp2p(&swarm, &["search", PASSWORD, "", &node.address()], LIMIT);
    let found = found.expect_success();
    assert_eq!(found.text(), "mine\ntheirs\n", "{found}");
}

/// A process that is killed when dropped, even when the test panics.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_leaves_the_usual_cache_out() {
    let swarm = Swarm::new();
    let home = swarm.directory("home");
    for file in [".cache/tinyp2p/of others", ".cache/other/mine"] {
        let path = home.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(path, "x").expect("write");
    }
    let listen = format!("{}:{PORT}", next_address());
    let mut command = program(TINYP2P, &home, None);
    command.args(["serve", "--no-discovery", "--hidden", "--listen", &listen]);
    command.arg("--state-dir").arg(swarm.path("state"));
    command.arg("--share").arg(&home).arg(PASSWORD);
    let _serving = Serving(command.spawn().expect("start"));
    eventually(LIMIT, "it serves", || TcpStream::connect(&listen).is_ok());
    let found = tinyp2p(&swarm, &["search", PASSWORD, "", &listen], LIMIT).expect_success();
    assert_eq!(found.text(), ".cache/other/mine\n", "{found}");
}

#[test]
fn mount_and_fstab_can_start_it() {
    let swarm = Swarm::new();
    let peer = swarm.node("peer").file("of peer", "x").serve();
    let share = swarm.directory("share");
    fs::write(share.join("mine"), "x").expect("write");
    let file = swarm.path("pw");
    fs::write(&file, format!("{PASSWORD}\n")).expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    let running = Background::at(swarm.directory("mnt"));
    let options = format!(
        "allow_other,noexec,no-discovery,peer={},share={},state-dir={},listen={}:{PORT}",
        peer.address(),
        share.display(),
        swarm.path("state").display(),
        next_address()
    );
    // mount(8) looks for the program where programs are installed. The test puts it there in a
    // separate mount namespace, so that the machine stays unchanged.
    let programs = Path::new(MOUNT).parent().expect("a directory");
    let script = r#"
        mount --bind "$1" /usr/local/bin
        mount -t fuse.tinyp2p-mount -o "$2" "$3" "$4"
        ls "$4"
        findmnt -n -o OPTIONS "$4"
        umount "$4""#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-euc", script, "sh"])
        .arg(programs);
    command
        .args([&options, &format!("@{}", file.display())])
        .arg(&running.path);
    let shown = run(&mut command, LIMIT).expect_success().text();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], ["mine", "of peer"]);
    assert!(
        lines[2].contains("allow_other") && lines[2].contains("noexec"),
        "{shown}"
    );
    eventually(STOP, "the process ends", || running.ended());
}
