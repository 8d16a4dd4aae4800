//! Content with a known root: from many holders, proven, cached, and never wrong.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use tinyp2p_net::config::ShareConfig;
use tinyp2p_net::content::merkle::{BLOCK, HashTree, TreeHasher};
use tinyp2p_net::model::RelPath;
use tinyp2p_net::protocol::wire::StatRequest;
use tinyp2p_net::share::{FileLocation, Roots, Share};

use crate::harness::content::{MIB, names, pattern, pattern_at, write_pattern};
use crate::harness::process::{eventually, within};
use crate::harness::swarm::{Node, Swarm};

/// Time until roots are computed and members have met, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The longest pause for a reader when one holder leaves and another stays.
const PAUSE: Duration = Duration::from_secs(3);

/// Time after which a read fails that no member serves any more, plus extra time on a busy machine.
const READ_DEADLINE: Duration = Duration::from_millis(15_500);

/// Writes a file of [`pattern`] that looks long unmodified, so that its root is computed at once;
/// all holders have the same mtime.
fn write_settled(node: &Node, name: &str, seed: u64, length: u64) {
    let path = node.share().join(name);
    write_pattern(&path, seed, length);
    settle(&path);
}

/// Makes a file look long unmodified, so that its root is computed at once.
pub(crate) fn settle(path: &Path) {
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let file = File::options().write(true).open(path).expect("open");
    file.set_modified(past).expect("set the mtime");
}

pub(crate) fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

fn sources(mount: &Node, name: &str) -> usize {
    xattr(&mount.at(name), "user.tinyp2p.sources").map_or(0, |text| text.lines().count())
}

fn has_root(mount: &Node, name: &str) -> bool {
    xattr(&mount.at(name), "user.tinyp2p.root").is_some_and(|root| root.len() == 64)
}

/// Waits until the mount knows the root of `name` from `holders` members.
pub(crate) fn wait_for_root(mount: &Node, name: &str, holders: usize) {
    eventually(SOON, "the root is known from all holders", || {
        has_root(mount, name) && sources(mount, name) == holders
    });
}

/// Reads all of `file` in pieces, checks them against the pattern, and returns the longest time
/// that a piece took.
fn read_checked(file: &mut File, seed: u64, length: u64, mut each: impl FnMut(u64)) -> Duration {
    let mut buffer = vec![0; MIB as usize];
    let (mut at, mut longest) = (0, Duration::ZERO);
    while at < length {
        let begun = Instant::now();
        let want = MIB.min(length - at) as usize;
        file.read_exact(&mut buffer[..want]).expect("no error");
        longest = longest.max(begun.elapsed());
        assert!(
            buffer[..want] == pattern_at(seed, at, want as u64),
            "wrong bytes at {at}"
        );
        at += want as u64;
        each(at);
    }
    longest
}

#[test]
fn killed_holder_is_replaced_mid_read() {
    const LENGTH: u64 = 700 * MIB;
    let swarm = Swarm::alone();
    let (a, b) = (swarm.node("a"), swarm.node("b"));
    write_rooted(&[&a, &b], "large", 1, LENGTH);
    let mut a = a.serve();
    let b = b.peer(&a).serve();
    let mount = swarm
        .node("mount")
        .option("--cache-size=0")
        .peer(&a)
        .peer(&b)
        .mount();
    wait_for_root(&mount, "large", 2);
    let mut file = File::open(mount.at("large")).expect("open");
    let longest = read_checked(&mut file, 1, LENGTH, |at| {
        if at == 100 * MIB {
            a.kill();
        }
    });
    assert!(longest < PAUSE, "a pause of {longest:?}");
}

#[test]
fn reader_supplies_for_a_killed_holder() {
    const LENGTH: u64 = 256 * MIB;
    let swarm = Swarm::alone();
    let holder = swarm.node("holder");
    write_rooted(&[&holder], "large", 8, LENGTH);
    let mut holder = holder.serve();
    let friend = swarm
        .node("friend")
        .option("--cache-size=1GiB")
        .peer(&holder)
        .mount();
    wait_for_root(&friend, "large", 1);
    eventually(SOON, "the friend has kept all of it", || {
        let mut file = File::open(friend.at("large")).expect("open");
        read_checked(&mut file, 8, LENGTH, |_| {});
        // Blocks that the disk could not store in time are fetched again, not taken from
        // the kernel's cache.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advise");
        let cached = xattr(&friend.at("large"), "user.tinyp2p.cached").expect("the cached bytes");
        cached == LENGTH.to_string()
    });
    let mount = swarm
        .node("mount")
        .option("--cache-size=0")
        .peer(&holder)
        .peer(&friend)
        .mount();
    wait_for_root(&mount, "large", 1);
    eventually(SOON, "the friend is there", || {
        let status = fs::read(mount.at(".tinyp2p/status")).expect("read the status");
        String::from_utf8_lossy(&status).contains("friend")
    });
    let mut file = File::open(mount.at("large")).expect("open");
    let longest = read_checked(&mut file, 8, LENGTH, |at| {
        if at == 20 * MIB {
            holder.kill();
        }
    });
    assert!(longest < PAUSE, "a pause of {longest:?}");
}

#[test]
fn read_times_out_without_a_live_holder() {
    const LENGTH: u64 = 700 * MIB;
    let swarm = Swarm::alone();
    let (a, b) = (swarm.node("a"), swarm.node("b"));
    write_rooted(&[&a, &b], "large", 2, LENGTH);
    let mut a = a.serve();
    let mut b = b.peer(&a).serve();
    let mount = swarm
        .node("mount")
        .option("--cache-size=0")
        .peer(&a)
        .peer(&b)
        .mount();
    wait_for_root(&mount, "large", 2);
    let mut file = File::open(mount.at("large")).expect("open");
    let mut buffer = vec![0; MIB as usize];
    file.read_exact(&mut buffer).expect("read the beginning");
    a.kill();
    b.kill();
    let since = Instant::now();
    let errno = within(2 * READ_DEADLINE, "the end of the read", move || {
        loop {
            match file.read(&mut buffer) {
                Ok(0) => panic!("the whole file was read"),
                Ok(_) => {}
                Err(error) => return error.raw_os_error(),
            }
        }
    });
    assert_eq!(errno, Some(libc::EIO));
    assert!(since.elapsed() < READ_DEADLINE, "{:?}", since.elapsed());
}

/// Returns the hash tree of a file's bytes.
fn tree(bytes: &[u8]) -> HashTree {
    let mut hasher = TreeHasher::default();
    hasher.update(bytes);
    hasher.finish().expect("not empty")
}

/// Turns a node that is not running yet into a liar: it holds `bytes` under `name`, but remembers
/// the root of other bytes for it.
fn make_liar(node: &Node, name: &str, bytes: &[u8], claimed: &HashTree) {
    let path = node.share().join(name);
    fs::write(&path, bytes).expect("write");
    settle(&path);
    remember_root(node, name, claimed);
}

/// Makes a node that is not running yet remember a root for one of its files.
fn remember_root(node: &Node, name: &str, tree: &HashTree) {
    let directory = node.share().to_owned();
    let share = ShareConfig {
        directory: directory.clone(),
        hidden: false,
        excluded: Vec::new(),
    };
    let path = RelPath::new(name.as_bytes()).expect("a path");
    let paths = vec![path.clone()];
    let share = Share::open(&share).expect("a share");
    let request = StatRequest {
        compare: false,
        paths,
        watch: false,
    };
    let found = share
        .stat(&request, tinyp2p_net::share::Asker::Nobody)
        .expect("an answer");
    let version = found.attributes[0].expect("the file").version;
    let place = directory.canonicalize().expect("a directory");
    let roots = Roots::open(&Roots::file(&place, &node.state())).expect("a database");
    let place = FileLocation {
        path,
        inode: 0,
        size: found.attributes[0].map_or(0, |found| found.size.or_zero()),
    };
    assert!(roots.insert(version, place, tree));
    roots.flush().expect("flush");
}

/// Does the same as [`write_settled`] at several nodes that are not running yet, all of which know
/// the root from the start: a holder that does not know it yet would not be asked for the file.
fn write_rooted(nodes: &[&Node], name: &str, seed: u64, length: u64) {
    let mut hasher = TreeHasher::default();
    for at in (0..length).step_by(MIB as usize) {
        hasher.update(&pattern_at(seed, at, MIB.min(length - at)));
    }
    let tree = hasher.finish().expect("not empty");
    for node in nodes {
        write_settled(node, name, seed, length);
        remember_root(node, name, &tree);
    }
}

#[test]
fn liar_is_blamed_before_its_bytes_get_in() {
    const LENGTH: u64 = 64 * MIB + 123;
    let swarm = Swarm::new();
    let right = pattern(3, LENGTH);
    let mut wrong = right.clone();
    for block in (0..LENGTH / BLOCK).step_by(10) {
        wrong[(block * BLOCK + 77) as usize] ^= 1;
    }
    let (a, liar, c) = (swarm.node("a"), swarm.node("liar"), swarm.node("c"));
    write_rooted(&[&a, &c], "file", 3, LENGTH);
    make_liar(&liar, "file", &wrong, &tree(&right));
    let a = a.serve();
    let c = c.peer(&a).serve();
    let mut mount = swarm
        .node("mount")
        .option("--cache-size=256MiB")
        .peer(&a)
        .peer(&c)
        .mount();
    // The liar comes last: before the others know their root, its claim would be the only one.
    wait_for_root(&mount, "file", 2);
    let _liar = liar.peer(&a).serve();
    wait_for_root(&mount, "file", 3);
    let read = |mount: &Node| fs::read(mount.at("file")).expect("no error");
    assert!(read(&mount) == right, "wrong bytes were read");
    eventually(SOON, "the liar is named in the log", || {
        mount.log().contains("wrong bytes")
    });
    let status = fs::read(mount.at(".tinyp2p/status.json")).expect("read the status");
    let status: serde_json::Value = serde_json::from_slice(&status).expect("a JSON object");
    let sources = xattr(&mount.at("file"), "user.tinyp2p.sources").expect("its holders");
    let mut ids = sources
        .lines()
        .filter_map(|line| line.strip_prefix("liar "));
    let id = ids.next().expect("the liar is among them").to_owned();
    let members = status["members"].as_array().expect("an array");
    for member in members {
        let blamed = member["blamed"].as_array().expect("an array");
        let paths: Vec<_> = blamed.iter().map(|blame| &blame["path"]).collect();
        match member["name"].as_str() {
            Some("liar") => {
                assert_eq!(member["peer_id"], id.as_str());
                assert_eq!(paths, ["file"]);
            }
            _ => assert!(paths.is_empty(), "{member}"),
        }
    }
    assert_eq!(members.len(), 3);
    // After a restart, the cache's answers are right as well.
    mount.kill();
    mount.start();
    wait_for_root(&mount, "file", 3);
    assert!(read(&mount) == right, "wrong bytes came from the cache");
}

#[test]
fn replaced_file_reads_old_or_an_error() {
    const LENGTH: u64 = 300 * MIB;
    let swarm = Swarm::new();
    let holder = swarm.node("holder");
    write_settled(&holder, "file", 4, LENGTH);
    let holder = holder.serve();
    let mount = swarm
        .node("mount")
        .option("--cache-size=0")
        .peer(&holder)
        .mount();
    wait_for_root(&mount, "file", 1);
    let mut file = File::open(mount.at("file")).expect("open");
    let mut buffer = vec![0; MIB as usize];
    for index in 0..LENGTH / MIB {
        if index == 20 {
            let new = holder.share().join("new");
            write_pattern(&new, 5, LENGTH);
            fs::rename(&new, holder.share().join("file")).expect("replace the file");
        }
        match file.read_exact(&mut buffer) {
            Ok(()) => assert!(
                buffer == pattern_at(4, index * MIB, MIB),
                "not the old bytes"
            ),
            Err(error) => {
                assert!(index >= 20, "{error}");
                assert!(
                    matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EIO)),
                    "{error}"
                );
                break;
            }
        }
    }
    drop(file);
    eventually(SOON, "a later open gets the new bytes", || {
        let Ok(file) = File::open(mount.at("file")) else {
            return false;
        };
        let mut buffer = vec![0; MIB as usize];
        file.read_exact_at(&mut buffer, 250 * MIB).is_ok()
            && buffer == pattern_at(5, 250 * MIB, MIB)
    });
}

#[test]
fn cache_survives_fifty_crashes() {
    const LENGTH: u64 = 24 * MIB;
    const CAP: u64 = 16 * MIB;
    let swarm = Swarm::new();
    let holder = swarm.node("holder");
    write_settled(&holder, "file", 6, LENGTH);
    let holder = holder.serve();
    let cache = swarm.directory("cache");
    let mut mount = swarm
        .node("mount")
        .option(format!("--cache-dir={}", cache.display()))
        .option(format!("--cache-size={CAP}"))
        .peer(&holder)
        .mount();
    wait_for_root(&mount, "file", 1);
    for round in 0..50_u64 {
        eventually(SOON, "the file is there", || {
            names(&mount.mountpoint()) == ["file"]
        });
        let mut file = File::open(mount.at("file")).expect("open");
        // Another offset each time, so that the crash hits the cache in another state.
        let enough = (round % 12 + 1) * 2 * MIB;
        read_checked(&mut file, 6, enough, |_| {});
        drop(file);
        mount.crash();
        let size = disk_usage(&cache);
        assert!(size <= CAP, "{size} bytes in the cache after crash {round}");
        mount.start();
    }
    eventually(SOON, "the file is there", || {
        names(&mount.mountpoint()) == ["file"]
    });
    let mut file = File::open(mount.at("file")).expect("open");
    read_checked(&mut file, 6, LENGTH, |_| {});
}

/// Returns the total length of all files below `directory`.
fn disk_usage(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("list the cache");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("its size");
        if metadata.is_dir() {
            disk_usage(&entry.path())
        } else {
            metadata.len()
        }
    });
    sizes.sum()
}
