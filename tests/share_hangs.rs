//! Failures at the owner of a share hide the files concerned, and are never mistaken for absence.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Error;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::harness::content::names;
use crate::harness::process::{eventually, run, within};
use crate::harness::swarm::{Node, Swarm, detach};

/// Time for nodes to meet, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Time limit for a listing in all cases.
const LIST_DEADLINE: Duration = Duration::from_secs(3);

/// Extra time on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// A FUSE mount whose daemon never answers: what is left of an sshfs whose other side is dead.
struct Hung {
    at: PathBuf,
    _daemon: File,
}

impl Hung {
    fn mount(at: &Path) -> Self {
        let daemon = File::options().read(true).write(true).open("/dev/fuse");
        let daemon = daemon.expect("open /dev/fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,subtype=sshfs",
            daemon.as_raw_fd()
        );
        let options = CString::new(options).expect("no NUL");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("hung", at, "fuse", flags, options.as_c_str()).expect("mount");
        Self {
            at: at.to_owned(),
            _daemon: daemon,
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        detach(&self.at);
    }
}

fn unreadable(owner: &Node) -> Value {
    let bytes = fs::read(owner.at(".tinyp2p/status.json")).expect("read the status");
    let object: Value = serde_json::from_slice(&bytes).expect("a JSON object");
    object["unreadable"].clone()
}

/// Returns the error number of a failure.
fn errno<T>(outcome: Result<T, Error>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

/// Returns the outcome of listing a directory.
fn listed(path: PathBuf) -> Result<(), Error> {
    fs::read_dir(path)?.try_for_each(|entry| entry.map(drop))
}

#[test]
fn frozen_file_system_hides_only_its_files() {
    let swarm = Swarm::alone();
    let owner = swarm.node("owner").file("d/f", "1").file("top", "2");
    let at = owner.share().join("d/hung");
    fs::create_dir(&at).expect("make a mountpoint");
    let hung = Hung::mount(&at);
    let owner = owner.mount();
    let reader = swarm.node("reader").peer(&owner).mount();
    eventually(SOON, "they meet", || {
        names(&reader.mountpoint()) == ["d", "top"]
    });
    // More rounds than the number of threads of a member here.
    for round in 0..12 {
        let begun = Instant::now();
        assert_eq!(errno(listed(reader.at("d/hung"))), Some(libc::EIO));
        assert_eq!(errno(fs::metadata(reader.at("d/hung/x"))), Some(libc::EIO));
        let took = begun.elapsed();
        assert!(took < LIST_DEADLINE + SLACK, "round {round}: {took:?}");
        let (d, top) = (reader.at("d"), reader.at("top"));
        let search = reader.at(".tinyp2p/search/^f$");
        within(LIST_DEADLINE + SLACK, "everything else", move || {
            assert_eq!(names(&d), ["f", "hung"]);
            assert_eq!(fs::read(top).expect("read"), b"2");
            assert_eq!(names(&search), ["f"]);
        });
    }
    let named = unreadable(&owner);
    assert_eq!(named[0]["path"], "d/hung", "{named}");
    drop(hung);
    eventually(SOON, "what lies below is there", || {
        listed(reader.at("d/hung")).is_ok()
    });
    eventually(SOON, "nobody complains any more", || {
        unreadable(&owner) == Value::Array(Vec::new())
    });
}

/// Limits the number of open files of a process from now on.
fn limit_open_files(node: &Node, most: u64) -> Rlimit {
    let pid = i32::try_from(node.pid()).ok().and_then(Pid::from_raw);
    let pid = pid.expect("a process id");
    let limit = Rlimit {
        current: Some(most),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(Some(pid), Resource::Nofile, limit).expect("set a limit")
}

#[test]
fn descriptor_shortage_is_no_absence() {
    let swarm = Swarm::alone();
    let owner = swarm
        .node("owner")
        .file("d/f", "1")
        .option("--no-watch")
        .serve();
    let other = swarm.node("other").file("d/g", "2").peer(&owner).serve();
    let reader = swarm.node("reader").peer(&owner).peer(&other).mount();
    eventually(SOON, "they meet", || {
        reader.at("d").exists() && names(&reader.at("d")) == ["f", "g"]
    });
    let before = limit_open_files(&owner, 4);
    let since = Instant::now();
    let mut failed = 0;
    while since.elapsed() < Duration::from_secs(5) {
        // The kernel may answer from its cache for a second; after that, the answer is unknown.
        match fs::metadata(reader.at("d/f")) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                failed += 1;
            }
        }
        assert_eq!(
            fs::read(reader.at("d/g")).expect("read what another has"),
            b"2"
        );
    }
    assert!(failed > 0, "it never failed");
    limit_open_files(&owner, before.current.expect("a limit"));
    eventually(SOON, "it is back", || {
        fs::read(reader.at("d/f")).is_ok_and(|bytes| bytes == b"1")
    });
}

/// Creates nested directories with names of 250 bytes, and a file of that name in each.
fn nest(share: &Path, levels: usize) {
    let (directory, file) = ("d".repeat(250), "f".repeat(250));
    let mut at = open(share, OFlags::PATH, Mode::empty()).expect("open");
    for _ in 0..levels {
        mkdirat(&at, &*directory, Mode::RWXU).expect("make a directory");
        at = openat(&at, &*directory, OFlags::PATH, Mode::empty()).expect("open");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        openat(&at, &*file, flags, Mode::RUSR).expect("make a file");
    }
}

#[test]
fn overlong_path_ends_a_walk_with_an_error() {
    let swarm = Swarm::new();
    let owner = swarm.node("owner");
    nest(owner.share(), 17);
    let owner = owner.mount();
    let reader = swarm.node("reader").peer(&owner).mount();
    eventually(SOON, "they meet", || names(&reader.mountpoint()).len() == 1);
    let mut find = Command::new("find");
    let found = run(
        find.arg(".").current_dir(reader.mountpoint()),
        Duration::from_secs(60),
    );
    assert_eq!(found.code(), 1, "{}", found.stderr);
    assert!(
        found.stderr.contains("File name too long"),
        "{}",
        found.stderr
    );
    // 16 directories fit into a path, with the files in all but the last.
    let lines = String::from_utf8_lossy(&found.stdout).lines().count();
    assert_eq!(lines, 1 + 16 + 15);
    eventually(SOON, "its owner is told", || {
        let problem = unreadable(&owner)[0]["problem"].clone();
        problem
            .as_str()
            .is_some_and(|problem| problem.starts_with("2 of its names"))
    });
}
