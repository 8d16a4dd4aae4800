//! The cost, in calls to members, of a program that looks at a whole directory.
//!
//! The calls are counted where they arrive: each member logs those that it has answered.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::content::names;
use crate::harness::process::{eventually, run};
use crate::harness::swarm::{Node, Swarm};

/// Time limit for one program here.
const LIMIT: Duration = Duration::from_secs(60);

/// Time for which a listing answers everything, if no member reports a change.
const FRESH: Duration = Duration::from_secs(1);

/// Calls that request names or contents; those that keep members in touch are not counted.
const COUNTED: [&str; 4] = [
    "tinyp2p.list",
    "tinyp2p.stat",
    "tinyp2p.search",
    "tinyp2p.hashes",
];

/// Names that desktop programs look up in every directory.
const PROBES: [&str; 8] = [
    ".hidden",
    ".Trash-1000",
    ".git",
    ".DS_Store",
    "autorun.inf",
    "desktop.ini",
    "folder.jpg",
    ".directory",
];

/// Creates a directory of texts, pictures and directories that three members share,
/// and a mount of it.
fn setup(swarm: &Swarm) -> (Vec<Node>, Node) {
    let mut members: Vec<Node> = Vec::new();
    for member in ["a", "b", "c"] {
        let mut node = swarm.node(member);
        for number in 0..20 {
            node = node
                .file(format!("dir/text {number} of {member}"), "words, words")
                .file(
                    format!("dir/picture {number} of {member}.png"),
                    b"\x89PNG\r\n\x1a\n",
                )
                .file(format!("dir/directory {number}/of {member}"), "x");
        }
        if let Some(first) = members.first() {
            node = node.peer(first);
        }
        members.push(node.serve());
    }
    let mount = swarm.node("mount").peer(&members[0]).mount();
    eventually(LIMIT, "all are there", || {
        fs::read_dir(mount.at("dir")).is_ok_and(|entries| entries.count() == 140)
    });
    (members, mount)
}

/// Returns how many calls of each kind in [`COUNTED`] this member has answered so far.
fn answered(member: &Node) -> [usize; 4] {
    let log = member.log();
    COUNTED.map(|call| log.matches(&format!("call=\"{call}\"")).count())
}

/// Returns the calls that each member had to answer during `work`.
fn cost(members: &[Node], work: impl FnOnce()) -> Vec<[usize; 4]> {
    let before: Vec<_> = members.iter().map(answered).collect();
    work();
    let since = members.iter().map(answered).zip(before);
    since
        .map(|(now, before)| [0, 1, 2, 3].map(|call| now[call] - before[call]))
        .collect()
}

#[test]
fn file_manager_lists_once_per_member() {
    let swarm = Swarm::alone();
    let (members, mount) = setup(&swarm);
    // In a new mount that has cached nothing yet; its members know one another.
    let fresh = swarm.node("fresh");
    let fresh = members.iter().fold(fresh, Node::peer).mount();
    eventually(LIMIT, "all are there", || {
        names(&fresh.mountpoint()) == names(&mount.mountpoint()) && present(&fresh) == 4
    });
    let cost = cost(&members, || {
        let mut gio = Command::new("gio");
        gio.args(["list", "-h", "-a", "standard::*,thumbnail::*"])
            .arg(fresh.at("dir"))
            .env("HOME", swarm.path("home"));
        let listed = run(&mut gio, LIMIT).expect_success().text();
        assert_eq!(listed.lines().count(), 140, "{listed}");
    });
    println!("gio list: {cost:?} calls of {COUNTED:?}");
    for [lists, stats, searches, _] in cost {
        assert!(lists <= 1, "{lists} listings");
        // The directory itself, by its name, and at most one lookup of `.hidden` in it.
        assert!(stats <= 2, "{stats} questions for names");
        assert_eq!(searches, 0);
    }
}

fn present(node: &Node) -> usize {
    let text = fs::read_to_string(node.at(".tinyp2p/status.json")).unwrap_or_default();
    text.matches("\"present\"").count()
}

#[test]
fn freshly_listed_directory_costs_no_call() {
    let swarm = Swarm::alone();
    let (members, mount) = setup(&swarm);
    let look = |command: &mut Command| {
        run(command, LIMIT).expect_success();
    };
    let directory = mount.at("dir");
    let long = || look(Command::new("ls").arg("-l").arg(&directory));
    let probe = || {
        for probe in PROBES {
            assert!(!directory.join(probe).exists());
        }
    };
    // The second one must come within the promised time; on a busy machine that may
    // take a few attempts.
    eventually(LIMIT, "a second look is cheap", || {
        // An answer is valid from the time of its request, which is during the first one.
        let begun = Instant::now();
        long();
        let cost = cost(&members, || {
            long();
            probe();
        });
        let is_in_time = begun.elapsed() < FRESH / 2;
        if is_in_time {
            assert_eq!(cost, [[0; 4]; 3]);
        }
        is_in_time
    });
}
