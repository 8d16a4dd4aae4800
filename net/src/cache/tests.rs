//! The cache against what disks, crashes and other programs do to it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::merkle::{SUBTREE_BLOCKS, Tree, TreeHasher};

struct Content {
    bytes: Vec<u8>,
    tree: Tree,
}

fn content(size: usize, seed: u8) -> Content {
    let bytes: Vec<u8> = (0..size).map(|i| (i / 7) as u8 ^ seed).collect();
    let mut hasher = TreeHasher::default();
    hasher.update(&bytes);
    Content {
        tree: hasher.finish().unwrap(),
        bytes,
    }
}

impl Content {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn put(&self, cache: &Cache, first: u64, blocks: u64) {
        let (start, end) = (first * BLOCK, self.size().min((first + blocks) * BLOCK));
        let subtree = self.tree.subtree(first / SUBTREE_BLOCKS).unwrap();
        let leaves = subtree.prove(self.tree.root(), self.size()).unwrap();
        let part = self.bytes[start as usize..end as usize].to_vec();
        let part = Arc::new(leaves.check(start, part).unwrap());
        cache.put(self.tree.root(), self.size(), first, &leaves, part);
    }

    fn piece(&self, cache: &Cache, first: u64) -> Option<Vec<u8>> {
        cache
            .get(self.tree.root(), self.size(), first, 8)
            .map(Verified::into_inner)
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn open(directory: &Path, size: u64) -> Cache {
    // The lock of a cache that was just dropped is free once its writer has ended.
    let mut cache = None;
    eventually("the lock is free", || {
        cache = Cache::open(directory, size).unwrap();
        cache.is_some()
    });
    cache.unwrap()
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join("blocks-1").join(name)
}

const MIB: u64 = 1 << 20;

#[test]
fn what_was_put_is_read_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let big = content(9 * MIB as usize + 5, 1);
    let small = content(100, 2);
    let cache = open(directory.path(), 64 * MIB);
    big.put(&cache, 8, 8);
    big.put(&cache, 576, 8);
    small.put(&cache, 0, 1);
    eventually("three slots are filled", || {
        cache.held_bytes() == (8 + 2) * BLOCK
    });
    drop(cache);
    let cache = open(directory.path(), 64 * MIB);
    eventually("the scan", || cache.held_bytes() == (8 + 2) * BLOCK);
    assert_eq!(
        big.piece(&cache, 8).unwrap(),
        big.bytes[8 * BLOCK as usize..][..8 * BLOCK as usize]
    );
    assert_eq!(
        big.piece(&cache, 576).unwrap(),
        big.bytes[576 * BLOCK as usize..]
    );
    assert!(cache.get(small.tree.root(), 100, 0, 1).is_some());
    assert_eq!(big.piece(&cache, 16), None);
}

#[test]
fn damage_anywhere_in_a_slot_is_a_miss() {
    let directory = tempfile::tempdir().unwrap();
    let content = content(MIB as usize, 3);
    for at in [0, 9, 41, 100, 4096, 100_000] {
        let cache = open(directory.path(), 64 * MIB);
        content.put(&cache, 0, 8);
        eventually("a slot", || cache.held_bytes() > 0);
        let large = OpenOptions::new()
            .write(true)
            .read(true)
            .open(file(directory.path(), "large"))
            .unwrap();
        let mut byte = [0];
        large.read_exact_at(&mut byte, at).unwrap();
        large.write_all_at(&[byte[0] ^ 4], at).unwrap();
        assert_eq!(content.piece(&cache, 0), None, "byte {at}");
        assert_eq!(cache.held_bytes(), 0);
        drop(cache);
        fs::remove_dir_all(directory.path().join("blocks-1")).unwrap();
    }
}

#[test]
fn the_cache_never_exceeds_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let (size, content) = (2 * MIB, content(8 * MIB as usize, 4));
    let cache = open(directory.path(), size);
    for first in (0..512).step_by(8) {
        content.put(&cache, first, 8);
        content.put(&cache, first + 1, 1);
        eventually("written", || content.piece(&cache, first).is_some());
    }
    let length = |name| fs::metadata(file(directory.path(), name)).unwrap().len();
    assert!(length("large") + length("small") <= size);
    assert!(length("large") > MIB);
    drop(cache);
    let cache = open(directory.path(), MIB);
    assert!(length("large") + length("small") <= MIB);
    eventually("the rest is found", || cache.held_bytes() > 0);
}

#[test]
fn foreign_files_are_left_alone_and_a_strange_cache_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious"), "mine").unwrap();
    drop(open(directory.path(), MIB));
    assert_eq!(
        fs::read(directory.path().join("precious")).unwrap(),
        b"mine"
    );
    fs::remove_file(file(directory.path(), "large")).unwrap();
    std::os::unix::fs::symlink(
        directory.path().join("precious"),
        file(directory.path(), "large"),
    )
    .unwrap();
    eventually("an error", || Cache::open(directory.path(), MIB).is_err());
    assert_eq!(
        fs::read(directory.path().join("precious")).unwrap(),
        b"mine"
    );
}

#[test]
fn a_second_process_does_without() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path(), MIB);
    assert!(Cache::open(directory.path(), MIB).unwrap().is_none());
}

#[test]
fn garbage_in_place_of_a_cache_file_is_ignored_and_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("blocks-1")).unwrap();
    fs::write(
        file(directory.path(), "large"),
        vec![0xa5; 3 * MIB as usize],
    )
    .unwrap();
    let cache = open(directory.path(), 64 * MIB);
    let content = content(MIB as usize, 5);
    assert_eq!(content.piece(&cache, 0), None);
    content.put(&cache, 0, 8);
    eventually("written", || content.piece(&cache, 0).is_some());
}
