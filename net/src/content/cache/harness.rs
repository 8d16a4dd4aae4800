//! Content for tests, and a cache to keep it in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DiskCache;
use crate::content::merkle::{BLOCK, HashTree, SUBTREE_BLOCKS, TreeHasher, Verified};
use crate::model::ContentId;
use crate::testing::eventually;

/// Some content to cache in parts.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tree: HashTree,
}

pub(crate) fn content(size: usize, seed: u8) -> Content {
    let bytes: Vec<u8> = (0..size).map(|i| (i / 7) as u8 ^ seed).collect();
    let mut hasher = TreeHasher::default();
    hasher.update(&bytes);
    Content {
        tree: hasher.finish().unwrap(),
        bytes,
    }
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn id(&self) -> ContentId {
        ContentId {
            root: self.tree.root(),
            size: self.size(),
        }
    }

    pub(crate) fn put(&self, cache: &DiskCache, first: u64, blocks: u64) {
        let (start, end) = (first * BLOCK, self.size().min((first + blocks) * BLOCK));
        let subtree = self.tree.subtree(first / SUBTREE_BLOCKS).unwrap();
        let leaves = subtree.prove(self.id()).unwrap();
        let part = self.bytes[start as usize..end as usize].to_vec();
        let part = Arc::new(leaves.check(start, part).unwrap());
        cache.put(&leaves, part);
    }

    pub(crate) fn piece(&self, cache: &DiskCache, first: u64) -> Option<Vec<u8>> {
        cache.get(self.id(), first, 8).map(Verified::into_inner)
    }
}

pub(crate) fn open(directory: &Path, size: u64) -> DiskCache {
    // The lock of a cache that was just dropped becomes free when its writer ends.
    let mut cache = None;
    eventually("the lock is free", || {
        cache = DiskCache::open(directory, size).unwrap();
        cache.is_some()
    });
    cache.unwrap()
}

/// Ends the cache in `directory`, so that it can be opened again.
pub(crate) fn close(cache: DiskCache, directory: &Path) {
    drop(cache);
    let path = file(directory, "lock");
    eventually("the lock is free", || {
        super::disk::lock(&path).unwrap().is_some()
    });
}

/// Returns the path of a cache file in `directory`.
pub(crate) fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join("blocks-1").join(name)
}
