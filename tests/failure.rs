//! Members that die or freeze make their own files unavailable for a while, and nothing else.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::content::{MIB, names};
use crate::harness::process::{eventually, run, within};
use crate::harness::swarm::{Node, Swarm};

/// Time limit for a read without progress to fail.
const READ_DEADLINE: Duration = Duration::from_secs(15);

/// Time limit for a listing.
const LIST_DEADLINE: Duration = Duration::from_secs(3);

/// Extra time on a busy machine: starting `ls`, waking threads.
const SLACK: Duration = Duration::from_millis(500);

/// Time until returning files are visible again.
const BACK: Duration = Duration::from_secs(30);

/// Larger than any readahead for a slow reader.
const LARGE: u64 = 2000 * MIB;

/// Starts two members, one with a large file, and a third that mounts.
fn three(swarm: &Swarm) -> (Node, Node, Node) {
    let fragile = swarm.node("fragile").file("dir/small of fragile", "small");
    let large = File::create(fragile.share().join("large")).expect("create");
    large.set_len(LARGE).expect("make it sparse");
    let fragile = fragile.serve();
    let other = swarm
        .node("other")
        .file("dir/of other", "other")
        .peer(&fragile)
        .serve();
    let mount = swarm
        .node("mount")
        .file("mine", "mine")
        .peer(&fragile)
        .peer(&other)
        .mount();
    eventually(BACK, "all are there", || complete(&mount));
    (fragile, other, mount)
}

fn complete(mount: &Node) -> bool {
    names(&mount.mountpoint()) == ["dir", "large", "mine"]
        && names(&mount.at("dir")) == ["of other", "small of fragile"]
}

/// Reads `path` until it fails, and sends a message after a first part. Returns the
/// error's kind and time.
fn read_until_error(path: PathBuf) -> JoinHandle<(ErrorKind, Option<i32>, Instant)> {
    let mut file = File::open(path).expect("open");
    let mut buffer = vec![0; MIB as usize];
    file.read_exact(&mut buffer).expect("read the beginning");
    thread::spawn(move || {
        loop {
            match file.read(&mut buffer) {
                Ok(0) => panic!("the whole file was read"),
                Ok(_) => {}
                Err(error) => return (error.kind(), error.raw_os_error(), Instant::now()),
            }
        }
    })
}

/// Checks that `ls -l` ends in time and shows at least the files of the others.
fn assert_ls_answers(mount: &Node) {
    for directory in [mount.mountpoint(), mount.at("dir")] {
        let mut ls = Command::new("ls");
        let listed = run(ls.arg("-l").arg(&directory), BACK);
        assert!(
            listed.took < LIST_DEADLINE + SLACK,
            "`ls` took {:?}",
            listed.took
        );
    }
    // Available files are listed, whatever `ls` said about the others.
    assert!(names(&mount.mountpoint()).contains(&"mine".to_owned()));
    assert!(names(&mount.at("dir")).contains(&"of other".to_owned()));
}

/// Checks that other members' files are read as if nothing had happened.
fn assert_others_answer(mount: &Node) {
    let (mine, other) = (mount.at("mine"), mount.at("dir/of other"));
    within(
        LIST_DEADLINE + SLACK,
        "reading other members' files",
        move || {
            assert_eq!(fs::read(mine).expect("read my own file"), b"mine");
            assert_eq!(
                fs::read(other).expect("read another member's file"),
                b"other"
            );
        },
    );
}

/// Checks that everything else works until the reader fails, and that it failed
/// with EIO and in time.
fn assert_fails_in_time(
    mount: &Node,
    reader: JoinHandle<(ErrorKind, Option<i32>, Instant)>,
    since: Instant,
) {
    let mut rounds = 0;
    while rounds < 3 || !reader.is_finished() {
        assert_ls_answers(mount);
        assert_others_answer(mount);
        rounds += 1;
        assert!(
            since.elapsed() < 2 * READ_DEADLINE,
            "the read has not failed"
        );
    }
    let (_, errno, at) = reader.join().expect("the reader fails, and only that");
    assert_eq!(errno, Some(libc::EIO));
    let took = at.saturating_duration_since(since);
    assert!(
        took < READ_DEADLINE + SLACK,
        "the read failed after {took:?}"
    );
}

#[test]
fn killed_member_takes_only_its_own_files() {
    let swarm = Swarm::alone();
    let (mut fragile, _other, mount) = three(&swarm);
    let reader = read_until_error(mount.at("large"));
    let since = Instant::now();
    fragile.kill();
    assert_fails_in_time(&mount, reader, since);
    eventually(BACK, "its files are gone from the listing", || {
        names(&mount.mountpoint()) == ["dir", "mine"]
    });
    fragile.start();
    eventually(BACK, "its files come back", || complete(&mount));
    assert_eq!(
        fs::read(mount.at("dir/small of fragile")).expect("read"),
        b"small"
    );
}

#[test]
fn frozen_member_takes_only_its_own_files() {
    let swarm = Swarm::alone();
    let (fragile, _other, mount) = three(&swarm);
    let reader = read_until_error(mount.at("large"));
    let since = Instant::now();
    fragile.freeze();
    assert_fails_in_time(&mount, reader, since);
    fragile.thaw();
    eventually(BACK, "its files come back", || complete(&mount));
    assert_eq!(
        fs::read(mount.at("dir/small of fragile")).expect("read"),
        b"small"
    );
}

#[test]
fn process_blocked_in_a_read_can_be_killed() {
    let swarm = Swarm::alone();
    let (fragile, _other, mount) = three(&swarm);
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", mount.at("large").display()));
    dd.args(["of=/dev/null", "bs=1M"]).stderr(Stdio::null());
    let mut child = dd.spawn().expect("start dd");
    eventually(BACK, "dd reads", || bytes_read(child.id()) > 8 * MIB);
    fragile.freeze();
    eventually(BACK, "dd is blocked", || is_blocked(child.id()));
    let since = Instant::now();
    child.kill().expect("kill dd");
    eventually(READ_DEADLINE + SLACK, "dd is gone", || {
        child.try_wait().expect("wait for dd").is_some()
    });
    assert!(since.elapsed() < READ_DEADLINE + SLACK);
    assert_others_answer(&mount);
}

#[test]
fn frozen_member_costs_one_deadline_only() {
    let swarm = Swarm::alone();
    let (fragile, _other, mount) = three(&swarm);
    fragile.freeze();
    assert_ls_answers(&mount);
    eventually(BACK, "listings are as fast as before", || {
        let start = Instant::now();
        assert_ls_answers(&mount);
        start.elapsed() < SLACK
    });
    // From then on always, whether or not the member is retried in between.
    for _ in 0..40 {
        let mut ls = Command::new("ls");
        let listed = run(ls.arg(mount.at("dir")), BACK);
        assert!(
            listed.took < LIST_DEADLINE + SLACK,
            "`ls` took {:?}",
            listed.took
        );
    }
}

fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Returns true if the process waits in the kernel, where only an answer can wake it: any other
/// process would read something between the two checks.
fn is_blocked(pid: u32) -> bool {
    let before = bytes_read(pid);
    thread::sleep(Duration::from_millis(300));
    before == bytes_read(pid) && Path::new(&format!("/proc/{pid}")).exists()
}
