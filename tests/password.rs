//! The password opens the door and is found nowhere afterwards.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::process::{eventually, run, sh};
use crate::harness::swarm::{
    Background, MOUNT, PASSWORD, Swarm, is_mounted, program, tinyp2p, tinyp2p_command,
};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn wrong_password_fails_before_the_mount() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "content").serve();
    let b = swarm
        .node("b")
        .peer(&a)
        .password("another-password-of-many-words");
    fs::create_dir(b.mountpoint()).expect("make a mountpoint");
    let mut command = program(MOUNT, &swarm.path("b"), None);
    command
        .args(["another-password-of-many-words"])
        .arg(b.mountpoint())
        .arg(a.address());
    command
        .args(["--no-discovery", "--no-share", "--listen"])
        .arg(b.socket().to_string());
    let ended = run(command.arg("--state-dir").arg(b.state()), LIMIT);
    assert_eq!(ended.code(), 3, "{ended}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    assert!(ended.stderr.starts_with("tinyp2p-mount: "), "{ended}");
    assert!(
        ended.stderr.contains(&a.address()),
        "it names who refused: {ended}"
    );
    assert!(!is_mounted(&b.mountpoint()));

    // A separate member: after three wrong guesses the first accepts no more for a while.
    let a = swarm.node("c").serve();
    for command in ["get", "search", "peers"] {
        let mut arguments = vec![command, "another-password-of-many-words"];
        arguments.extend((command != "peers").then_some("."));
        let address = a.address();
        arguments.push(&address);
        let ended = tinyp2p(&swarm, &arguments, LIMIT);
        assert_eq!(ended.code(), 3, "{ended}");
        assert!(ended.stderr.starts_with("tinyp2p: "), "{ended}");
    }
}

#[test]
fn refusing_peer_keeps_no_others_away() {
    let swarm = Swarm::new();
    let stranger = swarm
        .node("stranger")
        .password("another-password-of-many-words")
        .serve();
    let friend = swarm.node("friend").file("file", "content").serve();
    let me = swarm.node("me").peer(&stranger).peer(&friend).mount();
    eventually(LIMIT, "the friend's file is there", || {
        me.at("file").exists()
    });
    assert!(
        me.log().contains(&stranger.address()),
        "a warning names who refused"
    );
}

#[test]
fn the_password_is_nowhere_to_be_found() {
    let swarm = Swarm::new();
    let a = swarm
        .node("a")
        .file("file", "content")
        .option("--hidden")
        .serve();
    let log_file = swarm.path("trace");
    let b = swarm
        .node("b")
        .peer(&a)
        .option("--log-file")
        .option(&log_file);
    let b = b.log_level("trace").mount();
    eventually(LIMIT, "the file is there", || b.at("file").exists());
    fs::read(b.at("file")).expect("read");
    fs::read(b.at("absent")).expect_err("there is no such file");
    let wrong = "another-password-of-many-words";
    let ended = tinyp2p(&swarm, &["search", wrong, ".", &b.address()], LIMIT);
    assert_eq!(ended.code(), 3, "{ended}");

    for node in [&a, &b] {
        for file in ["cmdline", "environ", "mountinfo", "comm"] {
            assert_lacks_password(Path::new(&format!("/proc/{}/{file}", node.pid())));
        }
        assert_tree_lacks_password(&node.state());
        assert_tree_lacks_password(&node.cache());
        assert!(!node.log().contains(PASSWORD), "the log has the password");
    }
    assert_lacks_password(Path::new("/proc/mounts"));
    assert!(
        fs::metadata(&log_file).is_ok_and(|log| log.len() > 1000),
        "there is no trace"
    );
    assert_lacks_password(&log_file);

    let shown = sh("ps", &["-o", "args=", "-p", &b.pid().to_string()]).text();
    assert!(shown.contains("tinyp2p-mount"), "{shown}");
    let answer = sh(
        "findmnt",
        &[
            "-n",
            "-o",
            "SOURCE,FSTYPE",
            &b.mountpoint().to_string_lossy(),
        ],
    );
    assert!(answer.text().contains("fuse.tinyp2p"), "{answer}");
}

#[test]
fn process_memory_is_protected() {
    let swarm = Swarm::new();
    let node = swarm.node("a").mount();
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("read limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core
        .expect("a limit for cores")
        .split_whitespace()
        .collect();
    assert_eq!(words[4..6], ["0", "0"], "cores may be dumped: {words:?}");
}

#[test]
fn identity_and_state_are_owner_only() {
    let swarm = Swarm::new();
    let node = swarm.node("a").serve();
    let mode = |path: &Path| fs::metadata(path).expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode(&node.state()), 0o700);
    let files: Vec<_> = fs::read_dir(node.state()).expect("list").collect();
    assert!(!files.is_empty());
    for file in files {
        let path = file.expect("list").path();
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{path:?}");
    }
}

#[test]
fn password_comes_from_a_file_or_stdin() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "content").serve();
    let file = swarm.path("pw");
    fs::write(&file, format!("{PASSWORD}\nsecond line\n")).expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    let from_file = format!("@{}", file.display());
    let found = tinyp2p(&swarm, &["search", &from_file, "file", &a.address()], LIMIT);
    assert!(found.expect_success().text().contains("file"));

    let mut command = tinyp2p_command(&swarm, &["search", "-", "file", &a.address()]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all(format!("{PASSWORD}\nmore\n").as_bytes())
        .expect("write");
    let output = child.wait_with_output().expect("wait");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("file"));
}

#[test]
fn weak_password_warns_once_and_works() {
    let swarm = Swarm::new();
    let a = swarm
        .node("a")
        .file("file", "content")
        .password("pw")
        .serve();
    let found = tinyp2p(&swarm, &["search", "pw", "file", &a.address()], LIMIT).expect_success();
    assert!(found.text().contains("file"));
    assert_eq!(found.stderr.lines().count(), 1, "{found}");
    assert!(found.stderr.contains("guess"), "{found}");
}

#[test]
fn background_mount_hides_its_password() {
    let swarm = Swarm::new();
    let running = Background::at(swarm.directory("mnt"));
    let mut command = program(MOUNT, &swarm.path("home"), None);
    command
        .arg(PASSWORD)
        .arg(&running.path)
        .args(["--no-discovery", "--no-share", "--state-dir"]);
    command
        .arg(swarm.path("state"))
        .args(["--listen", "127.0.0.1:0"]);
    run(&mut command, LIMIT).expect_success();
    let processes = running.processes();
    let shown: Vec<u8> = processes
        .iter()
        .flat_map(|pid| ["cmdline", "environ"].map(|file| format!("/proc/{pid}/{file}")))
        .flat_map(|file| fs::read(file).expect("the process in the background is there"))
        .collect();
    assert!(
        !processes.is_empty(),
        "no process has the mountpoint in its command line"
    );
    assert!(
        !has_password(&shown),
        "the process in the background shows the password"
    );
}

fn has_password(bytes: &[u8]) -> bool {
    bytes
        .windows(PASSWORD.len())
        .any(|window| window == PASSWORD.as_bytes())
}

fn assert_lacks_password(file: &Path) {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    assert!(!has_password(&bytes), "{file:?} has the password");
}

fn assert_tree_lacks_password(directory: &Path) {
    // A member that does not mount has no cache.
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.expect("list a directory").path();
        assert!(!path.to_string_lossy().contains(PASSWORD), "{path:?}");
        if path.is_dir() {
            assert_tree_lacks_password(&path);
        } else {
            assert_lacks_password(&path);
        }
    }
}

#[test]
fn password_comes_from_a_pipe_or_stdin() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "content").serve();
    let file = swarm.path("pw");
    fs::write(&file, format!("\u{feff}{PASSWORD}\r\nnote\n")).expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    for (source, redirection) in [
        ("@<(cat \"$1\")", ""),
        ("@/dev/stdin", "< \"$1\""),
        ("@/dev/stdin", "< <(cat \"$1\")"),
        ("@/dev/stdin", "<<< \"$(cat \"$1\")\""),
        ("-", "< \"$1\""),
        ("@\"$1\"", ""),
    ] {
        let mount = Background::at(swarm.directory("mnt"));
        let options = "--no-discovery --no-share --listen 127.0.0.1:0";
        let script = format!("\"$2\" {options} {source} \"$3\" \"$4\" {redirection}");
        let mut command = program("bash", &swarm.directory("home"), None);
        command.args(["-c", &script, "bash"]).arg(&file);
        command.arg(MOUNT).arg(&mount.path).arg(a.address());
        run(&mut command, LIMIT).expect_success();
        let read = fs::read(mount.path.join("file"));
        assert!(read.is_ok_and(|bytes| bytes == b"content"), "{script}");
    }
}
