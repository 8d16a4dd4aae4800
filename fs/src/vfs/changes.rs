//! What a member's changes cause: remembered answers end, and the kernel asks again.

use std::collections::{BTreeMap, BTreeSet};

use tinyp2p_net::model::{Name, PeerId, RelPath};
use tinyp2p_net::protocol::wire::Change;
use tinyp2p_net::query::subscriptions::{ChangeListener, News};

use super::Filesystem;
use super::inodes::Vantage;
use crate::kernel_cache::Expirer;

impl ChangeListener for Filesystem {
    fn news(&self, member: PeerId, change: &News) {
        // This comes first: the kernel may ask again at once.
        self.view.apply(member, change);
        self.trees.apply(member, change);
        if let (News::Changed(changes), Some(expirer)) = (change, self.expirer.get()) {
            self.expire(member, changes, expirer);
        }
    }
}

impl Filesystem {
    /// Expires all names that may have changed, in directories that the kernel knows. Whatever lies
    /// below them is checked when they are looked up again.
    fn expire(&self, member: PeerId, changes: &[Change], expirer: &Expirer) {
        let mut names: BTreeMap<RelPath, BTreeSet<Name>> = BTreeMap::new();
        for (directory, name) in changes.iter().filter_map(|change| change.path.split()) {
            names.entry(directory).or_default().insert(name);
        }
        for (directory, mut names) in names {
            let (parent, own) = {
                let inodes = self.inodes.lock();
                let number = |tree| inodes.directory(tree, &directory);
                (number(Vantage::Merged), number(Vantage::Member(member)))
            };
            for (own, name) in own
                .iter()
                .flat_map(|own| names.iter().map(move |n| (own, n)))
            {
                expirer.expire(member, *own, name.clone());
            }
            let Some(parent) = parent else { continue };
            // The meaning of one name determines the names under which its conflicts are shown.
            let shown = self.view.conflicts_of(&directory, &names);
            names.extend(shown);
            for name in names {
                expirer.expire(member, parent, name);
            }
        }
    }
}
