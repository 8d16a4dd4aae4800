//! Members that named a content root for a file and then sent other bytes for it.
//!
//! A root is a claim. Once it turns out to be wrong for one state of one file, the member is not
//! asked for that content again, and its claim no longer counts as a vote: its file is a content of
//! its own. This holds until the file has another version, so a member that corrects its claim is
//! believed again. A member that is wrong again and again is not believed for as long as this node
//! runs. Pure, and bounded.

use std::collections::{BTreeSet, HashMap};

use crate::model::{PeerId, Root, Version};
use crate::protocol::wire::Hello;

/// A member that was wrong about this many files is not believed about any file.
const MAX_PER_MEMBER: usize = 1024;

/// Members recorded: as many as a network may have.
const MAX_MEMBERS: usize = Hello::MAX_MEMBERS;

/// The claims that turned out to be wrong.
#[derive(Default)]
pub(crate) struct Disproofs {
    by_member: HashMap<PeerId, BTreeSet<(Version, Root)>>,
}

impl Disproofs {
    /// Records that the file that `member` has in `version` is not the content of `root`. Returns
    /// true if this is new.
    pub(crate) fn note(&mut self, member: PeerId, version: Version, root: Root) -> bool {
        if !self.by_member.contains_key(&member) && self.by_member.len() >= MAX_MEMBERS {
            // The member that was wrong least often makes room.
            let least = self.by_member.iter().min_by_key(|(_, claims)| claims.len());
            let least = least.map(|(member, _)| *member);
            least.and_then(|member| self.by_member.remove(&member));
        }
        let claims = self.by_member.entry(member).or_default();
        claims.len() < MAX_PER_MEMBER && claims.insert((version, root))
    }

    /// Returns true if `member`'s file of this `version` is known not to be the content of `root`.
    pub(crate) fn has(&self, member: PeerId, version: Version, root: Root) -> bool {
        let claims = self.by_member.get(&member);
        claims.is_some_and(|claims| {
            claims.len() >= MAX_PER_MEMBER || claims.contains(&(version, root))
        })
    }

    /// Returns true if `member` was wrong about the root of its file of this `version`.
    pub(crate) fn concern_file(&self, member: PeerId, version: Version) -> bool {
        let claims = self.by_member.get(&member);
        claims.is_some_and(|claims| {
            let lowest = (version, Root::from_bytes([0; 32]));
            let first = claims.range(lowest..).next();
            claims.len() >= MAX_PER_MEMBER || first.is_some_and(|(wrong, _)| *wrong == version)
        })
    }

    /// Returns true if `member` was wrong about the root of any file.
    pub(crate) fn concern(&self, member: PeerId) -> bool {
        self.by_member.contains_key(&member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer_id as id;

    const ROOT: Root = Root::from_bytes([7; 32]);

    #[test]
    fn wrong_claim_counts_for_its_version_only() {
        let mut disproofs = Disproofs::default();
        assert!(disproofs.note(id(1), Version(1), ROOT));
        assert!(!disproofs.note(id(1), Version(1), ROOT), "known");
        assert!(disproofs.has(id(1), Version(1), ROOT));
        assert!(!disproofs.has(id(1), Version(2), ROOT));
        assert!(!disproofs.has(id(2), Version(1), ROOT));
        assert!(!disproofs.has(id(1), Version(1), Root::from_bytes([8; 32])));
        assert!(disproofs.concern(id(1)) && !disproofs.concern(id(2)));
        let of_file = |version| disproofs.concern_file(id(1), Version(version));
        assert_eq!([0, 1, 2].map(of_file), [false, true, false]);
    }

    #[test]
    fn often_wrong_member_is_not_believed() {
        let mut disproofs = Disproofs::default();
        for version in 0..2 * MAX_PER_MEMBER as u64 {
            disproofs.note(id(1), Version(version), ROOT);
        }
        assert_eq!(disproofs.by_member[&id(1)].len(), MAX_PER_MEMBER);
        assert!(disproofs.has(id(1), Version(u64::MAX), ROOT));
        assert!(disproofs.concern_file(id(1), Version(u64::MAX)));
    }

    #[test]
    fn disproofs_are_bounded_keeping_the_worst() {
        let mut disproofs = Disproofs::default();
        for version in 0..9 {
            disproofs.note(id(0), Version(version), ROOT);
        }
        for member in 1..3 * MAX_MEMBERS {
            disproofs.note(id(member), Version(1), ROOT);
        }
        assert_eq!(disproofs.by_member.len(), MAX_MEMBERS);
        assert!(disproofs.has(id(0), Version(8), ROOT));
    }
}
