//! The mount shows exactly what the members share.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::content::{
    EDGES, MIB, hostile_names, join, merge, names, pattern, pattern_at, write_pattern,
};
use crate::harness::process::{eventually, run, sh};
use crate::harness::swarm::{Node, Swarm};

/// Time for members to see one another's files.
const SOON: Duration = Duration::from_secs(5);

/// Waits until every mount lists exactly `expected`.
fn all_list(nodes: &[&Node], expected: &[&str], limit: Duration) {
    let start = Instant::now();
    for node in nodes {
        let left = limit.saturating_sub(start.elapsed());
        eventually(
            left,
            &format!("{expected:?} in {:?}", node.mountpoint()),
            || names(&node.mountpoint()) == expected,
        );
    }
}

#[test]
fn chain_of_three_lists_in_five_seconds() {
    let swarm = Swarm::alone();
    let a = swarm.node("a").file("of a", "1").mount();
    let b = swarm.node("b").file("of b", "2").peer(&a).mount();
    let start = Instant::now();
    let c = swarm.node("c").file("of c", "3").peer(&b).mount();
    let left = SOON.saturating_sub(start.elapsed());
    all_list(&[&a, &b, &c], &["of a", "of b", "of c"], left);
    for node in [&a, &b, &c] {
        assert_eq!(fs::read(node.at("of a")).expect("read"), b"1");
        assert_eq!(fs::read(node.at("of b")).expect("read"), b"2");
        assert_eq!(fs::read(node.at("of c")).expect("read"), b"3");
    }
}

#[test]
fn the_mount_is_the_union_of_all_shares() {
    let swarm = Swarm::new();
    let shares = ["a", "b", "c"].map(|name| swarm.node(name));
    for (number, name) in hostile_names().iter().enumerate() {
        let share = shares[number % 3].share();
        fs::write(join(share, name), pattern(number as u64, 100)).expect("write");
        // A directory with such a name, at each member, so that directories merge under it.
        let directory = [name.as_slice(), b"\x01"].concat();
        if directory.len() <= 255 {
            for (holder, node) in shares.iter().enumerate() {
                let inside = join(node.share(), &directory);
                fs::create_dir(&inside).expect("make a directory");
                let file = format!("from {holder}");
                fs::write(join(&inside, file.as_bytes()), pattern(9, 10)).expect("write");
            }
        }
    }
    for (number, size) in EDGES.into_iter().enumerate() {
        let path = shares[number % 3].share().join(format!("size {size}"));
        write_pattern(&path, size, size);
    }
    write_pattern(&shares[1].share().join("size 300 MB"), 300, 300_000_000);
    fs::create_dir_all(shares[2].share().join("deep/er/and/empty")).expect("make directories");

    let union = swarm.path("union");
    for node in &shares {
        merge(node.share(), &union);
    }
    let [a, b, c] = shares;
    let a = a.mount();
    let b = b.peer(&a).mount();
    let c = c.peer(&b).mount();
    for node in [&a, &b, &c] {
        eventually(
            Duration::from_secs(10),
            "all three members are there",
            || names(&node.mountpoint()) == names(&union),
        );
        let mut diff = Command::new("diff");
        diff.arg("-r").args([&union, &node.mountpoint()]);
        run(&mut diff, Duration::from_secs(120)).expect_success();
    }
}

#[test]
fn six_gigabyte_sparse_file_reads_right() {
    const SIZE: u64 = 6_000_000_000;
    let swarm = Swarm::new();
    let a = swarm.node("a");
    let file = File::create(a.share().join("huge")).expect("create");
    file.set_len(SIZE).expect("make it sparse");
    let places = [0, 1 << 31, (1 << 32) - 64, 1 << 32, SIZE - 4096];
    for place in places {
        file.write_all_at(&pattern_at(6, place, 4096), place)
            .expect("write");
    }
    // Where two pieces overlap, the later one was written last; both hold the same bytes there.
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(SOON, "the file is listed", || b.at("huge").exists());
    let seen = File::open(b.at("huge")).expect("open");
    assert_eq!(seen.metadata().expect("stat").len(), SIZE);
    for place in places {
        let mut piece = vec![0; 4096];
        seen.read_exact_at(&mut piece, place).expect("read");
        assert!(
            piece == pattern_at(6, place, 4096),
            "wrong bytes at {place}"
        );
    }
    let mut hole = vec![1; 65536];
    seen.read_exact_at(&mut hole, 5_000_000_000).expect("read");
    assert!(hole.iter().all(|byte| *byte == 0), "a hole is not zeros");
    assert_eq!(
        seen.read_at(&mut hole, SIZE).expect("read"),
        0,
        "bytes past the end"
    );
    assert_eq!(seen.read_at(&mut hole, SIZE + MIB).expect("read"), 0);
}

#[test]
fn attributes_match_those_of_the_peer() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("dir/file", "content");
    sh(
        "touch",
        &[
            "-d",
            "2004-12-15 12:34:56.789 UTC",
            &a.share().join("dir/file").to_string_lossy(),
        ],
    );
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(SOON, "the file is listed", || b.at("dir/file").exists());

    let file = fs::metadata(b.at("dir/file")).expect("stat");
    assert_eq!(file.len(), 7);
    assert_eq!(file.permissions().mode() & 0o7777, 0o644);
    assert_eq!(
        (file.mtime(), file.mtime_nsec()),
        (1_103_114_096, 789_000_000)
    );
    assert_eq!(file.uid(), rustix::process::getuid().as_raw());
    let directory = fs::metadata(b.at("dir")).expect("stat");
    assert_eq!(directory.permissions().mode() & 0o7777, 0o755);

    let refused = |result: std::io::Result<()>| {
        let error = result.expect_err("the mount is read-only").raw_os_error();
        assert_eq!(error, Some(libc::EROFS));
    };
    refused(fs::write(b.at("new"), "x"));
    refused(fs::write(b.at("dir/file"), "x"));
    refused(fs::create_dir(b.at("new")));
    refused(fs::remove_file(b.at("dir/file")));
    refused(fs::rename(b.at("dir/file"), b.at("dir/other")));
    refused(fs::set_permissions(
        b.at("dir/file"),
        fs::Permissions::from_mode(0o600),
    ));
}

#[test]
fn a_share_is_served_live() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("first", "1").serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(SOON, "the first file is listed", || b.at("first").exists());
    fs::write(a.share().join("dropped in"), "2").expect("write");
    assert_eq!(
        fs::read(b.at("dropped in")).expect("read by name at once"),
        b"2"
    );
    eventually(SOON, "the new file is listed", || {
        names(&b.mountpoint()) == ["dropped in", "first"]
    });
    fs::remove_file(a.share().join("first")).expect("remove");
    eventually(SOON, "the removed file is gone", || {
        names(&b.mountpoint()) == ["dropped in"]
    });
}

#[test]
fn only_regular_files_inside_are_served() {
    let swarm = Swarm::new();
    let outside = swarm.directory("outside");
    fs::write(outside.join("secret"), "secret").expect("write");
    let a = swarm
        .node("a")
        .file("real", "content")
        .file(".hidden", "no");
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, a.share().join(name)).expect("link");
    };
    link("real", "link inside");
    link("../../outside/secret", "link outside");
    link(&outside.join("secret").to_string_lossy(), "absolute link");
    link(&outside.to_string_lossy(), "directory outside");
    link("nowhere", "dangling");
    link("loop", "loop");
    link("/proc/self/environ", "magic");
    sh("mkfifo", &[&a.share().join("fifo").to_string_lossy()]);
    let _socket = std::os::unix::net::UnixListener::bind(a.share().join("socket")).expect("bind");
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    eventually(SOON, "the file is listed", || b.at("real").exists());
    assert_eq!(names(&b.mountpoint()), ["link inside", "real"]);
    assert_eq!(fs::read(b.at("link inside")).expect("read"), b"content");
    for name in [
        ".hidden",
        "link outside",
        "directory outside/secret",
        "fifo",
        "magic",
    ] {
        let error = fs::read(b.at(name)).expect_err("it is not served");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{name}");
    }
}

#[test]
fn copies_belong_to_who_made_them() {
    let swarm = Swarm::new();
    let owner = swarm.node("a").file("mail/inbox/1", "first").serve();
    let reader = swarm.node("b").peer(&owner).mount();
    eventually(SOON, "the mail is listed", || {
        reader.at("mail/inbox/1").exists()
    });
    let copy = swarm.path("copy");
    // Root could do all this whatever the bits are.
    let script =
        "cp -r \"$0\" \"$1\" && touch \"$1/new\" && echo more >> \"$1/inbox/1\" && rm -rf \"$1\"";
    let mut shell = Command::new("setpriv");
    shell.args(["--bounding-set=-dac_override,-dac_read_search", "--"]);
    shell
        .args(["sh", "-c", script])
        .arg(reader.at("mail"))
        .arg(&copy);
    run(&mut shell, SOON).expect_success();
    assert!(!copy.exists());
}
