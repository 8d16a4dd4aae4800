//! `tinyp2p get` and `tinyp2p search`: the extended client of 2004.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::content::{MIB, assert_same, names, write_pattern};
use crate::harness::hosts::Network;
use crate::harness::process::{Finished, eventually, run};
use crate::harness::swarm::{Node, PASSWORD, Swarm, TINYP2P, program, tinyp2p, tinyp2p_command};

const LIMIT: Duration = Duration::from_secs(60);

/// Time for all workers of a `get` to notice that a member is frozen.
const FROZEN: Duration = Duration::from_secs(20);

/// Runs `tinyp2p get PASSWORD PATTERN PEER -d DIR`.
fn get(swarm: &Swarm, pattern: &str, peer: &Node, directory: &Path) -> Finished {
    let directory = directory.to_string_lossy();
    tinyp2p(
        swarm,
        &["get", PASSWORD, pattern, &peer.address(), "-d", &directory],
        LIMIT,
    )
}

#[test]
fn every_match_of_every_member_is_fetched() {
    let swarm = Swarm::new();
    let a = swarm
        .node("a")
        .file("song one.ogg", "1")
        .file("notes.txt", "no")
        .serve();
    let b = swarm
        .node("b")
        .file("sub dir/song two.ogg", "2")
        .peer(&a)
        .serve();
    let c = swarm.node("c").file("song\n<3>.ogg", "3").peer(&b).serve();
    let out = swarm.directory("out");
    // One address is enough for everyone, once they know one another.
    eventually(
        LIMIT,
        "all three are known to the one that is asked",
        || {
            let found = tinyp2p(&swarm, &["search", PASSWORD, "^song", &a.address()], LIMIT);
            ["one", "two", "<3>"]
                .iter()
                .all(|song| found.text().contains(song))
        },
    );
    get(&swarm, r"(?s)^song.*\.ogg$", &a, &out).expect_success();
    assert_eq!(names(&out), ["song\n<3>.ogg", "song one.ogg", "sub dir"]);
    assert_eq!(fs::read(out.join("song one.ogg")).expect("read"), b"1");
    assert_eq!(
        fs::read(out.join("sub dir/song two.ogg")).expect("read"),
        b"2"
    );
    assert_eq!(fs::read(out.join("song\n<3>.ogg")).expect("read"), b"3");
    drop((b, c));
}

#[test]
fn existing_file_is_skipped_and_unchanged() {
    let swarm = Swarm::new();
    let a = swarm
        .node("a")
        .file("one", "theirs")
        .file("two", "theirs")
        .serve();
    let out = swarm.directory("out");
    fs::write(out.join("one"), "mine").expect("write");
    get(&swarm, ".", &a, &out).expect_success();
    assert_eq!(fs::read(out.join("one")).expect("read"), b"mine");
    assert_eq!(fs::read(out.join("two")).expect("read"), b"theirs");
    // A second run finds nothing to do, which is no failure.
    get(&swarm, ".", &a, &out).expect_success();
    assert_eq!(names(&out), ["one", "two"]);
}

#[test]
fn get_writes_only_in_its_directory() {
    let swarm = Swarm::new();
    let out = swarm.directory("out");
    let outside = swarm.directory("outside");
    std::os::unix::fs::symlink(&outside, out.join("linked")).expect("link");
    let a = swarm
        .node("a")
        .file("linked/file", "theirs")
        .file("plain", "theirs")
        .serve();
    let ended = get(&swarm, ".", &a, &out);
    assert_eq!(names(&outside), [""; 0], "it wrote through a link: {ended}");
    assert_eq!(fs::read(out.join("plain")).expect("read"), b"theirs");
}

#[test]
fn no_match_and_bad_pattern_are_distinct() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "x").serve();
    let out = swarm.directory("out");
    let nothing = get(&swarm, "no such name", &a, &out);
    assert_eq!(nothing.stderr.lines().count(), 1, "{nothing}");
    let bad = get(&swarm, "(unclosed", &a, &out);
    assert_eq!(bad.code(), 2, "{bad}");
    assert!(bad.stderr.starts_with("tinyp2p: "), "{bad}");
    let nowhere = get(&swarm, "file", &a, Path::new("/dev/null"));
    assert_eq!(nowhere.code(), 1, "{nowhere}");
    assert_eq!(names(&out), [""; 0]);
}

#[test]
fn silent_member_makes_results_incomplete() {
    let swarm = Swarm::new();
    let mut a = swarm.node("a").file("of a", "a").serve();
    let b = swarm.node("b").file("of b", "b").peer(&a).serve();
    let search = || tinyp2p_command(&swarm, &["search", PASSWORD, "of", &b.address()]);
    eventually(LIMIT, "both are found", || {
        run(&mut search(), LIMIT).text() == "of a\nof b\n"
    });
    // It has been met, and leaves while the command waits for a peer that never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let silent = silent.local_addr().map(|address| (silent, address));
    let (_silent, silent) = silent.expect("an address");
    let out = swarm.directory("out");
    for command in [
        &["search", PASSWORD, "of", &b.address()][..],
        &[
            "get",
            PASSWORD,
            "of",
            &b.address(),
            "-d",
            &out.to_string_lossy(),
        ],
    ] {
        let mut command = tinyp2p_command(&swarm, command);
        command.args([a.address(), silent.to_string()]);
        let greeted = a.log().len();
        let ended = thread::scope(|scope| {
            let running = scope.spawn(|| run(&mut command, LIMIT));
            eventually(LIMIT, "the member has met it", || {
                a.log()[greeted..].contains("call=\"tinyp2p.hello\" status=200")
            });
            a.kill();
            running.join().expect("the command ends")
        });
        a.start();
        assert_eq!(ended.code(), 1, "{ended}");
        assert!(
            ended.text().contains("of b") || out.join("of b").exists(),
            "{ended}"
        );
        assert!(
            ended.stderr.contains("1 of 2 members did not answer"),
            "{ended}"
        );
    }
}

const LARGE: [&str; 4] = ["0", "1", "2", "3"];

#[test]
fn frozen_member_delays_no_others_download() {
    let swarm = Swarm::alone();
    let (mut a, mut b) = (swarm.node("a").log_level("warn"), swarm.node("b"));
    let small = |member: &'static str| (0..40).map(move |number| format!("{member}/{number}"));
    for name in small("of a") {
        a = a.file(name, "a");
    }
    for name in small("of b") {
        b = b.file(name, "b");
    }
    // First in the order of paths, as many as are fetched at once, and large enough to
    // be seen in progress.
    for name in LARGE {
        let large = File::create(a.share().join(name)).expect("create");
        large.set_len(400 * MIB).expect("grow");
    }
    let a = a.serve();
    let b = b.peer(&a).serve();
    eventually(LIMIT, "both are found", || {
        let found = tinyp2p(&swarm, &["search", PASSWORD, ".", &b.address()], LIMIT);
        found.text().lines().count() == 84
    });
    let out = swarm.directory("out");
    let mut command = tinyp2p_command(&swarm, &["get", PASSWORD, "."]);
    command.args([a.address(), b.address()]).arg("-d").arg(&out);
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&mut command, 2 * LIMIT));
        eventually(LIMIT, "a part has arrived", || stored(&out) > MIB);
        a.freeze();
        assert!(!out.join("of b/0").exists(), "it came too early");
        eventually(FROZEN, "the files of the other one are there", || {
            small("of b").all(|name| out.join(name).exists())
        });
        assert!(!out.join("of a/0").exists(), "it was not frozen");
        a.thaw();
        running.join().expect("it ends").expect_success();
    });
    assert!(small("of a").all(|name| out.join(name).exists()));
    for name in LARGE {
        assert_same(&out.join(name), &a.share().join(name));
    }
}

/// Returns the bytes that all files below `directory` occupy on disk, finished or not.
fn stored(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => stored(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn killed_download_is_resumed() {
    const SIZE: u64 = 1200 * MIB;
    let swarm = Swarm::alone();
    // A network that counts its traffic.
    let network = Network::new(2);
    let a = swarm.node("a").on(network.host(0)).log_level("warn");
    write_pattern(&a.share().join("large"), 12, SIZE);
    let a = a.serve();
    let out = swarm.directory("out");
    let get = || {
        let mut command = program(TINYP2P, &swarm.directory("home"), Some(network.host(1)));
        command
            .args([
                "get",
                "--no-discovery",
                PASSWORD,
                "large",
                &a.address(),
                "-d",
            ])
            .arg(&out);
        command
    };
    let mut first = get()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    eventually(LIMIT, "a part has arrived", || stored(&out) > 300 * MIB);
    first.kill().expect("kill");
    first.wait().expect("wait");
    let kept = stored(&out);
    assert!(kept < SIZE, "it was finished before it was killed");
    assert!(
        !out.join("large").exists(),
        "a half file has the final name"
    );
    assert!(
        names(&out).iter().all(|name| name.starts_with('.')),
        "{:?}",
        names(&out)
    );

    let before = network.bytes_sent_by(0);
    run(&mut get(), LIMIT).expect_success();
    let sent = network.bytes_sent_by(0) - before;
    assert_same(&out.join("large"), &a.share().join("large"));
    assert_eq!(names(&out), ["large"], "something is left beside the file");
    let missing = SIZE - kept;
    assert!(
        sent > missing,
        "{sent} bytes cannot hold the {missing} that were missing"
    );
    assert!(
        sent < missing + 64 * MIB,
        "{sent} bytes were sent, of which {missing} were missing"
    );
}

#[test]
fn file_changed_mid_download_is_not_mixed() {
    let swarm = Swarm::alone();
    const SIZE: u64 = 600 * MIB;
    let a = swarm.node("a").log_level("warn");
    write_pattern(&a.share().join("large"), 1, SIZE);
    let a = a.serve();
    let out = swarm.directory("out");
    let mut command = tinyp2p_command(
        &swarm,
        &[
            "get",
            PASSWORD,
            "large",
            &a.address(),
            "-d",
            &out.to_string_lossy(),
        ],
    );
    let mut first = command.stderr(Stdio::null()).spawn().expect("start");
    eventually(LIMIT, "a part has arrived", || stored(&out) > 50 * MIB);
    first.kill().expect("kill");
    first.wait().expect("wait");
    assert!(
        !out.join("large").exists(),
        "it was finished before it was killed"
    );
    write_pattern(&swarm.path("new"), 2, SIZE);
    fs::rename(swarm.path("new"), a.share().join("large")).expect("replace");
    get(&swarm, "large", &a, &out).expect_success();
    assert_same(&out.join("large"), &a.share().join("large"));
    assert_eq!(names(&out), ["large"]);
}

#[test]
fn progress_is_shown_on_terminals_only() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    File::create(a.share().join("large"))
        .expect("create")
        .set_len(400 * MIB)
        .expect("grow");
    let a = a.serve();
    let command = |out: &Path| {
        format!(
            "{TINYP2P} get --no-discovery --state-dir {} {PASSWORD} large {} -d {}",
            swarm.path("state").display(),
            a.address(),
            out.display()
        )
    };
    let quiet = run(
        Command::new("sh").args(["-c", &command(&swarm.directory("quiet"))]),
        LIMIT,
    );
    let quiet = quiet.expect_success();
    assert!(
        !quiet.stderr.contains('\r') && !quiet.text().contains('\r'),
        "{quiet}"
    );

    let mut script = Command::new("script");
    script.args(["-qec", &command(&swarm.directory("shown")), "/dev/null"]);
    let shown = run(script.env("TERM", "xterm").stdin(Stdio::null()), LIMIT).expect_success();
    let drawn = shown.text();
    let steps = drawn.matches("% ").count();
    assert!(
        steps >= 2,
        "the progress was drawn {steps} times: {drawn:?}"
    );
    assert!(drawn.contains("400.00 MiB"), "{drawn:?}");
}
