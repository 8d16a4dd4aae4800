//! The parts of a mount outside the merged tree: members' own trees, searches, conflicts; and the
//! output of `tinyp2p info`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::content::{assert_same, names, pattern};
use crate::harness::process::{Finished, eventually, run, sh};
use crate::harness::swarm::{Node, Swarm, TINYP2P, program};

/// Time for nodes to meet and show it, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Time limit for a command that exits on its own within a few seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs `tinyp2p info` in `directory`.
fn info(swarm: &Swarm, directory: &Path, arguments: &[&str]) -> Finished {
    let mut command = program(TINYP2P, &swarm.directory("command"), None);
    command.current_dir(directory).arg("info").args(arguments);
    run(&mut command, LIMIT)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Returns the inode number as the system's `stat` shows it.
fn number(path: &Path) -> String {
    sh("stat", &["-c", "%i", text(path)]).text()
}

/// Starts a mount and a member `a` with a few files, and waits until they have met.
fn two(swarm: &Swarm) -> (Node, Node) {
    let a = swarm
        .node("a")
        .file("music/a.ogg", "from a")
        .file("music/b.ogg", "b")
        .file("notes.txt", "n")
        .serve();
    let mount = swarm
        .node("mount")
        .file("music/a.ogg", "from the mount")
        .file("more/b.ogg", "another b")
        .peer(&a)
        .mount();
    eventually(SOON, "they meet", || mount.at("notes.txt").exists());
    (a, mount)
}

#[test]
fn no_walk_enters_the_control_directory() {
    let swarm = Swarm::new();
    let (_a, mount) = two(&swarm);
    let root = mount.mountpoint();
    let listed = sh("ls", &["-A", text(&root)]).text();
    assert_eq!(listed, "more\nmusic\nnotes.txt\n");
    let found = sh("find", &[text(&root)]).text();
    assert!(!found.contains(".tinyp2p"), "{found}");
    let own = ["conflicts", "peers", "search", "status", "status.json"];
    assert_eq!(names(&mount.at(".tinyp2p")), own);
    assert_eq!(names(&mount.at(".tinyp2p/peers")), ["a", "mount"]);
    let of_a = names(&mount.at(".tinyp2p/peers/a/music"));
    assert_eq!(of_a, ["a.ogg", "b.ogg"]);
    let found = sh(
        "find",
        &[text(&mount.at(".tinyp2p/peers/mount")), "-type", "f"],
    )
    .text();
    assert_eq!(found.lines().count(), 2, "{found}");
    assert_eq!(names(&mount.at(".tinyp2p/search")), [""; 0]);
}

#[test]
fn stat_shows_one_inode_in_all_trees() {
    let swarm = Swarm::new();
    let (_a, mount) = two(&swarm);
    let trees = ["", ".tinyp2p/peers/a/", ".tinyp2p/search/notes/"];
    let numbers = || trees.map(|tree| number(&mount.at(format!("{tree}notes.txt"))));
    // The number changes once, when the content root becomes known.
    eventually(SOON, "one number", || {
        let numbers = numbers();
        numbers.iter().all(|number| *number == numbers[0])
    });
    let music = [
        "music",
        ".tinyp2p/peers/a/music",
        ".tinyp2p/peers/mount/music",
    ];
    let [one, two, three] = music.map(|path| number(&mount.at(path)));
    assert!(one != two && two != three && one != three);
}

#[test]
fn bytes_read_in_one_tree_serve_the_others() {
    let swarm = Swarm::new();
    let content = pattern(1, 1 << 20);
    let mut a = swarm
        .node("a")
        .file("d/read", &content)
        .file("d/unread", pattern(2, 1 << 20))
        .serve();
    let mount = swarm
        .node("mount")
        .option("--cache-size=0")
        .peer(&a)
        .mount();
    eventually(SOON, "they meet", || mount.at("d/read").exists());
    let open = |path: &str| File::open(mount.at(path)).expect("open");
    let read = |mut file: &File| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map(|_| bytes)
    };
    let same = || {
        let ino = |path: &str| fs::metadata(mount.at(path)).map(|m| m.ino()).ok();
        let number = ino("d/read");
        number.is_some() && number == ino(".tinyp2p/peers/a/d/read")
    };
    eventually(SOON, "the inode is the same", same);
    let merged = open("d/read");
    let of_a = open(".tinyp2p/peers/a/d/read");
    let unread = open(".tinyp2p/peers/a/d/unread");
    assert!(read(&merged).expect("read") == content);
    a.kill();
    assert!(read(&of_a).expect("read from the page cache") == content);
    assert!(read(&unread).is_err());
}

#[test]
fn killed_member_stays_listed_and_errors() {
    let swarm = Swarm::new();
    let (mut a, mount) = two(&swarm);
    a.kill();
    // Opening it asks no member; reading the first entry does.
    let error = || {
        fs::read_dir(mount.at(".tinyp2p/peers/a"))
            .and_then(|mut entries| entries.next().transpose())
            .err()
    };
    eventually(SOON, "its directory is an error", || error().is_some());
    let errno = error().and_then(|error| error.raw_os_error());
    assert_eq!(errno, Some(libc::EIO));
    assert_eq!(names(&mount.at(".tinyp2p/peers")), ["a", "mount"]);
    let error = fs::metadata(mount.at(".tinyp2p/peers/eve")).expect_err("a stranger");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn what_a_search_finds_is_copied_by_cp() {
    let swarm = Swarm::new();
    let (a, mount) = two(&swarm);
    let found = mount.at(r".tinyp2p/search/\.ogg$");
    let copy = swarm.path("copy");
    sh("cp", &["-r", text(&found), text(&copy)]);
    let copied = names(&copy);
    assert_eq!(copied.len(), 4, "{copied:?}");
    assert_same(&copy.join("b (music).ogg"), &a.share().join("music/b.ogg"));
    assert_same(
        &copy.join("b (more).ogg"),
        &mount.share().join("more/b.ogg"),
    );
    // Both contents, no matter which of them has the plain name.
    let both: Vec<String> = copied
        .iter()
        .filter(|name| name.starts_with('a'))
        .map(|name| fs::read_to_string(copy.join(name)).expect("read"))
        .collect();
    assert!(both.contains(&"from a".to_owned()), "{copied:?}");
    assert!(both.contains(&"from the mount".to_owned()), "{copied:?}");
    assert!(names(&mount.at(".tinyp2p/search/nothing-has-this-name")).is_empty());
}

#[test]
fn status_explains_an_invalid_pattern() {
    let swarm = Swarm::new();
    let mount = swarm.node("mount").file("x", "x").mount();
    let error = fs::metadata(mount.at(".tinyp2p/search/ab(c")).expect_err("no pattern");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    let status = fs::read_to_string(mount.at(".tinyp2p/status")).expect("read the status");
    let why = "unclosed group (at character 3 of the pattern)";
    assert!(status.contains(why), "{status}");
    let json = fs::read(mount.at(".tinyp2p/status.json")).expect("read the status");
    let object: Value = serde_json::from_slice(&json).expect("a JSON object");
    assert_eq!(object["searches"][0]["pattern"], "ab(c");
    assert_eq!(object["searches"][0]["problem"], why);
}

#[test]
fn conflicts_file_covers_what_was_listed() {
    let swarm = Swarm::new();
    let (_a, mount) = two(&swarm);
    sh("find", &[text(&mount.mountpoint())]);
    let conflicts = fs::read_to_string(mount.at(".tinyp2p/conflicts")).expect("read");
    let lines: Vec<&str> = conflicts.lines().collect();
    assert!(lines[0].starts_with("1 conflict in"), "{conflicts}");
    let [line] = lines[1..] else {
        panic!("{conflicts}")
    };
    let shown = line.strip_prefix("music/a.ogg: also a (");
    assert!(shown.is_some_and(|rest| rest.ends_with(").ogg")), "{line}");
}

#[test]
fn info_is_available_as_text_and_json() {
    let swarm = Swarm::new();
    let (a, mount) = two(&swarm);
    let root = mount.mountpoint();
    let told = || {
        let told = info(&swarm, &root, &["--json", "music/b.ogg"]).expect_success();
        serde_json::from_slice::<Value>(&told.stdout).expect("a JSON object")
    };
    eventually(SOON, "the root is known", || told()["root"].is_string());
    let object = told();
    assert_eq!(object["path"], "music/b.ogg");
    assert_eq!(object["kind"], "file");
    assert_eq!(object["size"], 1);
    let mtime = fs::metadata(a.share().join("music/b.ogg")).expect("stat");
    let mtime = mtime.mtime() * 1_000_000_000 + mtime.mtime_nsec();
    assert_eq!(object["mtime"], mtime);
    assert_eq!(object["root"].as_str().map(str::len), Some(64));
    assert_eq!(object["sources"][0]["name"], "a");
    assert_eq!(object["sources"][0]["address"], a.address());
    assert_eq!(
        object["sources"][0]["peer_id"].as_str().map(str::len),
        Some(52)
    );
    assert_eq!(object["cached"], 0);
    assert!(object["conflicts"].as_array().is_some_and(Vec::is_empty));

    let both = info(&swarm, &root, &["--json", "music/a.ogg", "music"]).expect_success();
    let text = both.text();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["conflicts"].as_array().map(Vec::len), Some(1));
    assert_eq!(lines[1]["kind"], "directory");

    let told = info(&swarm, &root, &["music/a.ogg"])
        .expect_success()
        .text();
    assert!(
        told.starts_with("music/a.ogg\n  kind      file\n"),
        "{told}"
    );
    assert!(told.contains("\n  conflicts a ("), "{told}");
}

#[test]
fn path_outside_a_mount_is_exit_code_one() {
    let swarm = Swarm::new();
    let mount = swarm.node("mount").file("x", "x").mount();
    let outside = swarm.path("outside");
    fs::write(&outside, "x").expect("write a file");
    let missing = swarm.path("missing");
    let why = "is not a file that a mount of tinyp2p-mount shows";
    for (path, why) in [
        (outside.as_path(), why),
        (&mount.at(".tinyp2p/status"), why),
        (&missing, "No such file or directory (os error 2)"),
    ] {
        let told = info(&swarm, swarm.path("").as_path(), &[text(path)]);
        assert_eq!(told.code(), 1, "{told}");
        assert_eq!(told.stderr, format!("tinyp2p: {}: {why}\n", text(path)));
        assert!(told.stdout.is_empty(), "{told}");
    }
    let inside = mount.at("x");
    let told = info(&swarm, Path::new("/"), &[text(&outside), text(&inside)]);
    assert_eq!(told.code(), 1);
    assert!(told.text().contains("kind      file"), "{told}");
}
