//! The content roots that were looked up lately.
//!
//! A look into the database takes up to two microseconds, which whoever lists a directory of 100,000 files would wait for. What is
//! remembered here cannot become wrong, as a version is one state of one file.

use std::collections::HashMap;

use crate::types::{Root, Version};

/// Roots that are remembered at most. One takes about 50 bytes.
const MAX: usize = 1 << 18;

/// Two generations of roots; the older one goes as a whole when the newer one is full.
#[derive(Default)]
pub(super) struct Recent {
    newer: HashMap<Version, Root>,
    older: HashMap<Version, Root>,
}

impl Recent {
    /// The root of each of `versions`, if it is remembered.
    pub(super) fn of(&mut self, versions: &[Version]) -> Vec<Option<Root>> {
        let root = |version: &Version| {
            if let Some(root) = self.newer.get(version) {
                return Some(*root);
            }
            let root = self.older.remove(version)?;
            self.insert(*version, root);
            Some(root)
        };
        versions.iter().map(root).collect()
    }

    /// Remembers that `version` has `root`.
    pub(super) fn insert(&mut self, version: Version, root: Root) {
        if self.newer.len() >= MAX / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(version, root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(number: u64) -> Root {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Root::from_bytes(bytes)
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut recent = Recent::default();
        let (asked, unasked) = (Version(1), Version(2));
        recent.insert(unasked, root(2));
        recent.insert(asked, root(1));
        for number in 0..2 * MAX as u64 {
            recent.insert(Version(10 + number), root(number));
            assert_eq!(recent.of(&[asked]), [Some(root(1))]);
        }
        assert_eq!(recent.of(&[unasked, asked]), [None, Some(root(1))]);
        assert!(recent.newer.len() + recent.older.len() <= MAX);
    }
}
