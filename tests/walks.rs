//! Programs that walk the whole mount see every entry exactly once, and the totals are right.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{Timespec, Timestamps};

use crate::harness::content::{hostile_names, join, names};
use crate::harness::process::{Finished, eventually, run, sh};
use crate::harness::swarm::{Node, Swarm};

/// Time limit for one program here.
const LIMIT: Duration = Duration::from_secs(60);

/// Time for members to see one another's files.
const SOON: Duration = Duration::from_secs(20);

/// The contents of the mount, by path below it: the size of a file, `None` for a directory.
type Things = BTreeMap<Vec<u8>, Option<u64>>;

/// Three members, of which the last one mounts, and what their mount shows.
struct Tree {
    a: Node,
    _b: Node,
    mount: Node,
    expected: Things,
}

/// Creates merged directories, the same file at several members, a conflict, odd names, empty
/// directories, and a directory that is a symbolic link.
fn tree(swarm: &Swarm) -> Tree {
    let nodes = ["a", "b", "c"].map(|name| swarm.node(name));
    let [a, b, c] = nodes.each_ref();
    for (node, path, content) in [
        (a, "music/only a", "a"),
        (b, "music/only b", "bb"),
        (a, "music/both", "the same"),
        (b, "music/both", "the same"),
        (c, "music/deep/er/still/file", "deep"),
        (a, "copies/one", "the same"),
        (a, "conflict.txt", "this is mine"),
        (b, "conflict.txt", "and this is mine, which is longer"),
        (c, "conflict.txt", "this is mine"),
        (a, "real/inside", "inside"),
        (b, "empty file", ""),
        (c, "of c", &"long ".repeat(100_000)),
    ] {
        dated(node.share(), path.as_bytes(), content.as_bytes());
    }
    for (number, name) in hostile_names().iter().enumerate() {
        let path = [b"odd/", name.as_slice()].concat();
        dated(nodes[number % 3].share(), &path, b"odd");
    }
    fs::create_dir_all(b.share().join("nothing/in/here")).expect("make directories");
    fs::create_dir(c.share().join("nothing")).expect("make a directory");
    std::os::unix::fs::symlink("real", a.share().join("linked")).expect("link");

    let mut expected = Things::new();
    for node in &nodes {
        collect(node.share(), b"", &mut expected);
    }
    // Two members have the version that keeps the name.
    expected.insert(b"conflict.txt".to_vec(), Some(12));
    expected.insert(b"conflict (b).txt".to_vec(), Some(33));

    let [a, b, c] = nodes;
    let a = a.serve();
    let b = b.peer(&a).serve();
    let mount = c.peer(&a).peer(&b).mount();
    let top = expected.keys().filter(|path| !path.contains(&b'/')).count();
    eventually(SOON, "all are there", || {
        names(&mount.mountpoint()).len() == top && names(&mount.at("music")).len() == 4
    });
    Tree {
        a,
        _b: b,
        mount,
        expected,
    }
}

/// Writes a file with a time that is the same wherever it is written.
fn dated(share: &Path, path: &[u8], content: &[u8]) {
    let path = join(share, path);
    fs::create_dir_all(path.parent().expect("a file has a parent")).expect("make a directory");
    fs::write(&path, content).expect("write a file");
    let then = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: then,
        last_modification: then,
    };
    let file = fs::File::open(path).expect("open a file");
    rustix::fs::futimens(file, &times).expect("set a file's time");
}

/// Adds the contents of `directory`, which is at `path` of the whole, following links.
fn collect(directory: &Path, path: &[u8], things: &mut Things) {
    for entry in fs::read_dir(directory).expect("list a directory") {
        let place = entry.expect("list a directory").path();
        let name = place.file_name().expect("it has a name").as_bytes();
        let path = match path {
            b"" => name.to_vec(),
            path => [path, b"/", name].concat(),
        };
        let metadata = fs::metadata(&place).expect("stat");
        if metadata.is_dir() {
            collect(&place, &path, things);
            things.insert(path, None);
        } else {
            things.insert(path, Some(metadata.len()));
        }
    }
}

impl Tree {
    fn root(&self) -> PathBuf {
        self.mount.mountpoint()
    }

    fn files(&self) -> Vec<Vec<u8>> {
        let files = self.expected.iter().filter(|(_, size)| size.is_some());
        files.map(|(path, _)| path.clone()).collect()
    }

    fn everything(&self) -> Vec<Vec<u8>> {
        self.expected.keys().cloned().collect()
    }

    fn sizes(&self) -> impl Iterator<Item = u64> {
        self.expected.values().copied().flatten()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.root());
        run(&mut command, LIMIT).expect_success()
    }
}

/// Splits output that ends each path with NUL: without `./`, sorted, and without `.` itself.
fn paths(output: &[u8]) -> Vec<Vec<u8>> {
    let paths = output
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty());
    let paths = paths.map(|path| path.strip_prefix(b"./").unwrap_or(path));
    let mut paths: Vec<Vec<u8>> = paths
        .filter(|path| *path != b".")
        .map(<[u8]>::to_vec)
        .collect();
    paths.sort();
    paths
}

#[track_caller]
fn assert_seen(seen: &[Vec<u8>], expected: &[Vec<u8>]) {
    let show = |paths: &[Vec<u8>]| -> Vec<String> {
        let shown = paths.iter().map(|path| path.escape_ascii().to_string());
        shown.collect()
    };
    assert_eq!(show(seen), show(expected));
}

/// Walks directories only, as updatedb does: opens each below the previous one, reads its names and
/// kinds, and calls stat only on the directory itself.
const UPDATEDB: &str = "
import os, sys
def walk(parent, name, path):
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    os.fstat(fd)
    with os.scandir(fd) as entries:
        for entry in entries:
            below = path + os.fsencode(entry.name)
            sys.stdout.buffer.write(below + b'\\0')
            if entry.is_dir(follow_symlinks=False):
                walk(fd, entry.name, below + b'/')
    os.close(fd)
walk(None, '.', b'')
";

/// Prints the names in an archive.
const NAMES_IN_TAR: &str = "
import sys, tarfile
archive = tarfile.open(fileobj=sys.stdin.buffer, mode='r|', encoding='utf-8', errors='surrogateescape')
for member in archive:
    assert not member.islnk(), member.name
    sys.stdout.buffer.write(member.name.encode('utf-8', 'surrogateescape') + b'\\0')
";

#[test]
fn every_walk_sees_everything_exactly_once() {
    let swarm = Swarm::new();
    let tree = tree(&swarm);
    let all = tree.everything();
    let find = tree.run("find", &[".", "-print0"]);
    assert_seen(&paths(&find.stdout), &all);
    let files = tree.run("find", &[".", "-type", "f", "-print0"]);
    assert_seen(&paths(&files.stdout), &tree.files());
    let updatedb = tree.run("python3", &["-c", UPDATEDB]);
    assert_seen(&paths(&updatedb.stdout), &all);
    let tar = tree.run(
        "bash",
        &[
            "-c",
            "set -o pipefail; tar -c . | python3 -c \"$0\"",
            NAMES_IN_TAR,
        ],
    );
    assert_seen(&paths(&tar.stdout), &all);

    let copy = swarm.path("copy");
    tree.run("cp", &["-r", ".", &copy.to_string_lossy()]);
    let mut copied = Things::new();
    collect(&copy, b"", &mut copied);
    assert_eq!(copied, tree.expected);

    let listed = tree.run("ls", &["-1RQ"]).text();
    let is_heading = |line: &&str| line.ends_with(':');
    let headings = listed.lines().filter(is_heading).count();
    let names = listed
        .lines()
        .filter(|line| !line.is_empty() && !is_heading(line));
    assert_eq!(names.count(), all.len(), "{listed}");
    assert_eq!(headings, 1 + all.len() - tree.files().len(), "{listed}");
}

#[test]
fn du_df_and_stat_give_the_true_sums() {
    let swarm = Swarm::new();
    let tree = tree(&swarm);
    let figure = |program: &str, arguments: &[&str]| -> Vec<u64> {
        let text = tree.run(program, arguments).text();
        let last = text.lines().last().unwrap_or_default();
        let numbers = last.split_whitespace().map_while(|word| word.parse().ok());
        numbers.collect()
    };
    let bytes: u64 = tree.sizes().sum();
    let blocks: u64 = tree.sizes().map(|size| size.div_ceil(512)).sum();
    assert_eq!(
        figure("du", &["-s", "--apparent-size", "-B1", "."]),
        [bytes]
    );
    assert_eq!(figure("du", &["-s", "-B1", "."]), [512 * blocks]);
    let df = figure(
        "df",
        &["-B1", "--output=size,used,avail,itotal,iavail", "."],
    );
    let [size, used, available, names, names_left] = df[..] else {
        panic!("{df:?}");
    };
    assert_eq!((size, available, names_left), (used, 0, 0));
    assert!(size >= bytes && size < 2 * bytes, "{size} for {bytes}");
    assert!(names >= tree.expected.len() as u64, "{names}");
    let text = tree.run("stat", &["-f", "-c", "%S %l %a %f", "."]).text();
    assert_eq!(text, "4096 255 0 0\n");
}

#[test]
fn realpath_and_pwd_tell_where_one_is() {
    let swarm = Swarm::new();
    let tree = tree(&swarm);
    let root = tree.root().canonicalize().expect("a path");
    for (path, real) in [
        ("music/../music/./both", "music/both"),
        ("linked/inside", "linked/inside"),
        ("nothing/in/here/../..", "nothing"),
    ] {
        let answer = tree.run("realpath", &["-e", path]).stdout;
        let answer = answer.strip_suffix(b"\n").expect("a line");
        assert_eq!(Path::new(OsStr::from_bytes(answer)), root.join(real));
    }
    // In a directory whose files come, change and go, and whose inode the kernel tends to forget.
    let mut child = Command::new("bash")
        .args([
            "-c",
            "until [ -e new ] && [ ! -e 'only a' ]; do sleep 0.05; /bin/pwd; done; /bin/pwd",
        ])
        .current_dir(tree.mount.at("music"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("start bash");
    fs::write(tree.a.share().join("music/new"), "new").expect("write");
    fs::write(tree.a.share().join("music/both"), "changed").expect("write");
    fs::remove_file(tree.a.share().join("music/only a")).expect("remove");
    forget();
    eventually(SOON, "it ends", || {
        child.try_wait().expect("wait for bash").is_some()
    });
    let told = child.wait_with_output().expect("read what it wrote");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let place = root.join("music");
    assert!(told.lines().count() > 0, "it wrote nothing");
    assert!(told.lines().all(|line| Path::new(line) == place), "{told}");
}

/// Makes the kernel forget names and inodes that are not in use.
fn forget() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop the kernel's caches");
}

/// Waits for the content roots of files: the inode number of a file changes once, when its
/// root becomes known.
fn roots_are_known(files: impl Iterator<Item = PathBuf>) {
    for file in files {
        eventually(SOON, "its root is known", || {
            let mut value = [0; 64];
            let length = rustix::fs::getxattr(&file, c"user.tinyp2p.root", &mut value[..]);
            length == Ok(64)
        });
    }
}

#[test]
fn inode_survives_kernel_forgetting() {
    let swarm = Swarm::new();
    let tree = tree(&swarm);
    let with_content = tree.files().into_iter();
    let with_content = with_content.filter(|path| tree.expected[path] != Some(0));
    roots_are_known(with_content.map(|path| join(&tree.root(), &path)));
    let numbers = || -> BTreeMap<String, u64> {
        let everything = tree.everything().into_iter();
        everything
            .map(|path| {
                let metadata = fs::symlink_metadata(join(&tree.root(), &path)).expect("stat");
                (path.escape_ascii().to_string(), metadata.ino())
            })
            .collect()
    };
    let first = numbers();
    let mut distinct: Vec<u64> = first.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), first.len(), "two things have one number");
    assert_eq!(numbers(), first);
    for _ in 0..3 {
        forget();
        assert_eq!(numbers(), first, "after the kernel has forgotten");
    }
    let both = tree.mount.at("music/both");
    fs::write(tree.a.share().join("music/both"), "changed, and longer").expect("write");
    eventually(SOON, "another content has another number", || {
        let changed = fs::metadata(&both).expect("stat");
        changed.ino() != first["music/both"] && changed.len() == 19
    });
}

#[test]
fn walk_survives_kernel_forgetting() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    for number in 0..300 {
        dated(
            a.share(),
            format!("wide/d{number}/in/file").as_bytes(),
            b"x",
        );
    }
    let a = a.serve();
    let mount = swarm.node("mount").peer(&a).mount();
    eventually(SOON, "the tree is there", || {
        names(&mount.mountpoint()) == ["wide"]
    });
    let files = (0..300).map(|number| mount.at(format!("wide/d{number}/in/file")));
    roots_are_known(files);
    let (at, done) = (mount.mountpoint(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                forget();
            }
        });
        let _until = Until(&done);
        let at = at.to_string_lossy();
        for _ in 0..3 {
            let find = sh("find", &[&at, "-type", "f"]).text();
            assert_eq!(find.lines().count(), 300);
            let du = sh("du", &["-s", "--apparent-size", "-B1", &at]).text();
            assert!(du.starts_with("300\t"), "{du}");
            let copy = swarm.path("copy");
            sh("cp", &["-r", &at, &copy.to_string_lossy()]);
            sh(
                "diff",
                &["-r", &a.share().to_string_lossy(), &copy.to_string_lossy()],
            );
            fs::remove_dir_all(copy).expect("remove the copy");
        }
    });
}

/// Signals the end when it is dropped, even when a test fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
