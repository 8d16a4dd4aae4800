//! The cache against what disks, crashes and other programs do to it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use super::harness::{content, file, open};
use super::*;
use crate::content::merkle::SUBTREE_BLOCKS;
use crate::model::ByteRange;
use crate::testing::eventually;

const MIB: u64 = 1 << 20;

#[test]
fn cached_blocks_survive_a_restart() {
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
    assert_eq!(
        cache.bytes_of(big.id()),
        8 * BLOCK + (big.size() - 576 * BLOCK)
    );
    assert_eq!(cache.bytes_of(small.id()), 100);
    // A member may claim any size.
    let claimed = ContentId {
        size: u64::MAX,
        ..content(1, 9).id()
    };
    assert_eq!(cache.bytes_of(claimed), 0);
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
    assert!(cache.get(small.id(), 0, 1).is_some());
    assert_eq!(big.piece(&cache, 16), None);
}

#[test]
fn removed_cache_is_released_and_recreated() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache");
    let content = content(MIB as usize, 3);
    let cache = open(&directory, 64 * MIB);
    content.put(&cache, 0, 8);
    eventually("a slot", || cache.held_bytes() > 0);
    let removed = fs::File::open(file(&directory, "large")).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    eventually("the files are there again", || {
        file(&directory, "large").exists()
    });
    eventually("it is empty", || cache.held_bytes() == 0 && cache.is_kept());
    assert_eq!(content.piece(&cache, 0), None);
    content.put(&cache, 8, 8);
    eventually("a slot", || content.piece(&cache, 8).is_some());
    // No other cache gets what this process uses.
    assert!(
        super::disk::lock(&file(&directory, "lock"))
            .unwrap()
            .is_none()
    );
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let deleted = format!("{} (deleted)", file(&directory, "large").display());
    let held = links.filter(|link| link.to_string_lossy() == deleted);
    assert_eq!(held.count(), 1, "only this test holds what was removed");
    drop(removed);
}

#[test]
fn cache_is_off_until_it_can_be_recreated() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache");
    let content = content(MIB as usize, 3);
    let cache = open(&directory, 64 * MIB);
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "in the way").unwrap();
    eventually("it is noticed", || !cache.is_kept());
    content.put(&cache, 0, 8);
    assert_eq!((content.piece(&cache, 0), cache.held_bytes()), (None, 0));
    assert_eq!(cache.size(content.id().root, 0), None);
    fs::remove_file(&directory).unwrap();
    eventually("it is made anew", || cache.is_kept());
    content.put(&cache, 0, 8);
    eventually("a slot", || content.piece(&cache, 0).is_some());
}

#[test]
fn damage_anywhere_in_a_slot_is_a_miss() {
    let directory = tempfile::tempdir().unwrap();
    let content = content(MIB as usize, 3);
    for at in [0, 9, 20, 47, 49, 58, 66, 100, 300, 4096, 100_000] {
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
fn foreign_files_are_kept_odd_cache_fails() {
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
    eventually("an error", || {
        DiskCache::open(directory.path(), MIB).is_err()
    });
    assert_eq!(
        fs::read(directory.path().join("precious")).unwrap(),
        b"mine"
    );
}

#[test]
fn a_second_process_does_without() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path(), MIB);
    assert!(DiskCache::open(directory.path(), MIB).unwrap().is_none());
}

#[test]
fn garbage_cache_file_is_overwritten() {
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

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end)
}

#[test]
fn held_range_ends_at_its_first_gap() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 64 * MIB);
    let content = content(MIB as usize + 5, 6);
    let (root, size) = (content.tree.root(), content.size());
    for (first, blocks) in [(0, 8), (8, 1), (16, 8), (64, 1)] {
        content.put(&cache, first, blocks);
    }
    eventually("written", || cache.held_bytes() == (8 + 1 + 8 + 1) * BLOCK);
    for (asked, held) in [
        (range(0, size), range(0, 9 * BLOCK)),
        (range(5, 9), range(5, 9)),
        (range(9 * BLOCK - 1, size), range(9 * BLOCK - 1, 9 * BLOCK)),
        (range(9 * BLOCK, size), range(9 * BLOCK, 9 * BLOCK)),
        (
            range(17 * BLOCK + 3, size),
            range(17 * BLOCK + 3, 24 * BLOCK),
        ),
        (range(MIB + 1, size), range(MIB + 1, size)),
    ] {
        assert_eq!(cache.held(root, asked), held, "{asked:?}");
    }
    let sizes = [0, 7, 8, 9, 23, 64, 65, u64::MAX].map(|block| cache.size(root, block));
    let here = Some(size);
    assert_eq!(sizes, [here, here, here, None, here, here, None, None]);
}

#[test]
fn hashes_are_given_for_held_proven_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 64 * MIB);
    let content = content(9 * MIB as usize + 5, 7);
    let (root, size) = (content.tree.root(), content.size());
    let blocks = size.div_ceil(BLOCK);
    for (first, count) in [(0, 8), (8, 1), (9, 1), (16, 8), (24, 8)] {
        content.put(&cache, first, count);
    }
    // All of the second subtree; its last piece is one block.
    for first in (512..blocks).step_by(8) {
        content.put(&cache, first, 8.min(blocks - first));
    }
    let slots = 3 * 8 + 2 + 8 * 8 + 1;
    eventually("written", || cache.held_bytes() == slots * BLOCK);
    for (first, span, given) in [
        (0, 8, true),
        (4, 4, true),
        (7, 1, true),
        (8, 1, true),
        (8, 2, true),
        (8, 4, false),
        (8, 8, false),
        (16, 16, true),
        (0, 16, false),
        (0, 512, false),
        (512, 512, true),
        (576, 64, true),
        (576, 1, true),
        (1024, 512, false),
        (1 << 40, 8, false),
    ] {
        let hashes = cache.hashes(root, first, span);
        assert_eq!(hashes.is_some(), given, "{first} {span}");
        if let Some(hashes) = hashes {
            let whole = content.tree.subtree(first / SUBTREE_BLOCKS).unwrap();
            assert_eq!(Some(&hashes), whole.narrow(first, span).as_ref());
            assert!(hashes.prove(content.id()).is_some(), "{first} {span}");
        }
    }
}

#[test]
fn small_content_proves_any_range() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 64 * MIB);
    for (seed, blocks) in [(8, 1), (9, 2), (10, 5), (11, 8)] {
        let content = content((blocks * BLOCK) as usize - 3, seed);
        content.put(&cache, 0, blocks);
        eventually("written", || content.piece(&cache, 0).is_some());
        for span in [1, 8, 64, 512] {
            let hashes = cache.hashes(content.tree.root(), 0, span).unwrap();
            let leaves = hashes.prove(content.id());
            assert!(leaves.is_some(), "{blocks} {span}");
        }
    }
}

/// A stranger to a content may make up a root with the same key in the index.
#[test]
fn lookalike_root_drops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 64 * MIB);
    let content = content(MIB as usize, 12);
    content.put(&cache, 0, 8);
    eventually("written", || content.piece(&cache, 0).is_some());
    let mut alike = *content.tree.root().as_bytes();
    alike[31] ^= 1;
    let alike = Root::from_bytes(alike);
    assert_eq!(cache.size(alike, 0), None);
    assert_eq!(cache.hashes(alike, 0, 8), None);
    let claimed = ContentId {
        root: alike,
        ..content.id()
    };
    assert_eq!(cache.get(claimed, 0, 8), None);
    assert!(content.piece(&cache, 0).is_some());
}

#[test]
fn wrong_size_drops_nothing_held() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 64 * MIB);
    let content = content(MIB as usize - 100, 13);
    for first in [0, 56] {
        content.put(&cache, first, 8);
    }
    content.put(&cache, 9, 1);
    eventually("written", || cache.held_bytes() == 17 * BLOCK);
    for size in [
        1,
        BLOCK,
        MIB - 99,
        MIB - 101,
        MIB,
        MIB + 1,
        2 * MIB,
        u64::MAX,
    ] {
        let claimed = ContentId {
            size,
            ..content.id()
        };
        let has_as_many_blocks = size.div_ceil(BLOCK) == MIB / BLOCK;
        for first in [0, 9] {
            let bytes = cache.get(claimed, first, 8);
            assert_eq!(bytes.is_some(), has_as_many_blocks, "{size} bytes");
            assert!(bytes.is_none_or(|bytes| bytes.content() == claimed));
        }
        assert_eq!(cache.get(claimed, 56, 8), None, "{size} bytes");
    }
    assert_eq!(
        content.piece(&cache, 56).unwrap(),
        content.bytes[56 * BLOCK as usize..]
    );
    assert_eq!(cache.held_bytes(), 17 * BLOCK);
}
