//! Ordinary programs work on the mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::content::{EDGES, pattern, write_pattern};
use crate::harness::process::{Finished, eventually, run, sh};
use crate::harness::swarm::{Node, Swarm};

/// Time limit for one program here.
const LIMIT: Duration = Duration::from_secs(60);

fn succeed(command: &mut Command) -> Finished {
    run(command, LIMIT).expect_success()
}

/// Starts one member with a small tree, and another that mounts it; the programs of both
/// tests work on `tree`.
fn tree(swarm: &Swarm) -> (Node, Node, PathBuf) {
    let a = swarm.node("a");
    for (number, size) in EDGES.into_iter().enumerate() {
        let directory = a.share().join("tree").join(format!("dir {}", number % 3));
        fs::create_dir_all(&directory).expect("make a directory");
        write_pattern(&directory.join(format!("file {number}")), size, size);
    }
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    let tree = b.at("tree");
    eventually(LIMIT, "the tree is there", || tree.is_dir());
    (a, b, tree)
}

fn assert_same_tree(left: &Path, right: &Path) {
    succeed(Command::new("diff").arg("-r").args([left, right]));
}

#[test]
fn cp_copies_a_file_and_a_tree() {
    let swarm = Swarm::new();
    let (a, _b, tree) = tree(&swarm);
    let out = swarm.directory("out");
    succeed(
        Command::new("cp")
            .arg(tree.join("dir 1/file 7"))
            .arg(out.join("one")),
    );
    assert_eq!(
        fs::read(out.join("one")).expect("read"),
        pattern(EDGES[7], EDGES[7])
    );
    succeed(
        Command::new("cp")
            .arg("-r")
            .arg(&tree)
            .arg(out.join("copy")),
    );
    assert_same_tree(&a.share().join("tree"), &out.join("copy"));
    succeed(
        Command::new("cp")
            .arg("-a")
            .arg(&tree)
            .arg(out.join("archive")),
    );
    assert_same_tree(&a.share().join("tree"), &out.join("archive"));
}

#[test]
fn rsync_copies_and_then_finds_no_more() {
    let swarm = Swarm::new();
    let (a, _b, tree) = tree(&swarm);
    let out = swarm.directory("out");
    let rsync = || {
        let mut command = Command::new("rsync");
        command
            .args(["-rtc", "--itemize-changes"])
            .arg(&tree)
            .arg(&out);
        succeed(&mut command).text()
    };
    assert!(rsync().contains("file 7"));
    assert_same_tree(&a.share().join("tree"), &out.join("tree"));
    assert_eq!(rsync(), "", "the second run finds differences");
}

#[test]
fn tar_packs_the_mount_like_the_share() {
    let swarm = Swarm::new();
    let (a, _b, tree) = tree(&swarm);
    let pack = |from: &Path| {
        let mut command = Command::new("tar");
        command.arg("-C").arg(from.parent().expect("a parent"));
        command.args([
            "--sort=name",
            "--mode=a=r",
            "--owner=0",
            "--group=0",
            "--mtime=@0",
        ]);
        command.args(["-c", "tree"]);
        succeed(&mut command).stdout
    };
    assert!(
        pack(&tree) == pack(&a.share().join("tree")),
        "the archives differ"
    );
}

#[test]
fn find_sees_every_file_once_with_its_size() {
    let swarm = Swarm::new();
    let (a, _b, tree) = tree(&swarm);
    let find = |from: &Path| {
        let mut command = Command::new("find");
        command
            .arg(from)
            .args(["-type", "f", "-printf", "%P %s %TY-%Tm-%Td %TT\\n"]);
        let mut lines: Vec<String> = succeed(&mut command)
            .text()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let seen = find(&tree);
    assert_eq!(seen.len(), EDGES.len());
    assert_eq!(seen, find(&a.share().join("tree")));
}

#[test]
fn git_clones_a_shared_repository() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    let work = swarm.directory("work");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
        succeed(command.arg("-C").arg(&work).args(arguments));
    };
    git(&["init", "--quiet"]);
    fs::write(work.join("README"), pattern(1, 50_000)).expect("write");
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "one"]);
    fs::write(work.join("second"), pattern(2, 50_000)).expect("write");
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "two"]);
    let bare = a.share().join("project.git");
    git(&["clone", "--quiet", "--bare", ".", &bare.to_string_lossy()]);

    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(LIMIT, "the repository is there", || {
        b.at("project.git/HEAD").exists()
    });
    for (name, options) in [("copied", &[][..]), ("fetched", &["--no-local"][..])] {
        let clone = swarm.path(name);
        let mut command = Command::new("git");
        command.args(["clone", "--quiet"]).args(options);
        succeed(command.arg(b.at("project.git")).arg(&clone));
        assert_eq!(
            fs::read(clone.join("second")).expect("read"),
            pattern(2, 50_000)
        );
        sh("git", &["-C", &clone.to_string_lossy(), "fsck", "--strict"]);
    }
}

#[test]
fn sqlite_reads_a_database() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    let database = a.share().join("data.db");
    sh(
        "sqlite3",
        &[
            &database.to_string_lossy(),
            "create table t(n integer primary key, x blob);
             with recursive c(n) as (select 1 union all select n + 1 from c where n < 5000)
             insert into t select n, randomblob(500) from c; create index i on t(x);",
        ],
    );
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(LIMIT, "the database is there", || b.at("data.db").exists());
    let query = "pragma integrity_check; select count(*), sum(n) from t;";
    let ask = |path: &Path| {
        succeed(
            Command::new("sqlite3")
                .arg("-readonly")
                .arg(path)
                .arg(query),
        )
        .text()
    };
    let answer = ask(&b.at("data.db"));
    assert_eq!(answer, "ok\n5000|12502500\n");
    assert_eq!(answer, ask(&a.share().join("data.db")));
}

/// Maps a file, reads it backwards page by page, then prints the digest of the whole.
const MAPPER: &str = "
import hashlib, mmap, sys
for access in (dict(flags=mmap.MAP_SHARED), dict(flags=mmap.MAP_PRIVATE)):
    with open(sys.argv[1], 'rb') as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, **access) as mapped:
            backwards = [mapped[at] for at in range(len(mapped) - 1, 0, -4096)]
            print(hashlib.sha256(mapped).hexdigest(), len(backwards))
";

#[test]
fn a_mapped_file_has_the_right_bytes() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    write_pattern(&a.share().join("mapped"), 5, 5_000_001);
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(LIMIT, "the file is there", || b.at("mapped").exists());
    let map = |path: &Path| succeed(Command::new("python3").args(["-c", MAPPER]).arg(path)).text();
    let seen = map(&b.at("mapped"));
    assert_eq!(seen.lines().count(), 2);
    assert_eq!(seen, map(&a.share().join("mapped")));
}

#[test]
fn concurrent_readers_do_not_interfere() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    write_pattern(&a.share().join("file"), 4, 40_000_000);
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(LIMIT, "the file is there", || b.at("file").exists());
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (seen, shared) = (b.at("file"), a.share().join("file"));
            std::thread::spawn(move || succeed(Command::new("cmp").args([seen, shared])))
        })
        .collect();
    for reader in readers {
        reader.join().expect("a reader found a difference");
    }
}
