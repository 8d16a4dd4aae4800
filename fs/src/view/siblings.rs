//! What lies behind a file in its directory: what a program that goes through the directory will read
//! next.
//!
//! Taken from the last listing, whether or not it still holds: these are guesses, and a member says so
//! itself when one of its files has changed since. A look costs a search by name and as many steps as
//! files are wanted, however large the directory is.

use tinyp2p_net::download::{Siblings, Small};
use tinyp2p_net::types::{Kind, Mode, PeerId, RelPath};
use tinyp2p_net::wire::MAX_SMALL_FILE;

use super::View;
use super::merge::{Item, Source};

/// Entries that are looked at for each file that is wanted; large files and directories between small
/// ones are passed over.
const STEPS: usize = 4;

impl Siblings for View {
    fn behind(&self, path: &RelPath, member: PeerId, most: usize) -> Vec<Small> {
        let Some((directory, name)) = path.split() else {
            return Vec::new();
        };
        let Some(listing) = self.state.0.lock().cache.last_directory(&directory) else {
            return Vec::new();
        };
        let first = listing.items.partition_point(|item| item.name <= name);
        let items = listing.items[first..].iter().take(STEPS * most);
        let files = items.filter_map(|item| small(item, &directory, member));
        files.take(most).collect()
    }
}

/// `item` as a small file that may be read from `member`, as an open of it would choose its sources.
fn small(item: &Item, directory: &RelPath, member: PeerId) -> Option<Small> {
    if item.kind != Kind::File || item.size == 0 || item.size > MAX_SMALL_FILE {
        return None;
    }
    let mut sources = item.sources.iter();
    let is_it = |source: &&Source| source.member.id == member && source.mode != Mode::Unreadable;
    let source = match item.root {
        Some(_) => sources.find(is_it)?,
        // Without a root, the file is read from its first source alone.
        None => sources.next().filter(is_it)?,
    };
    Some(Small {
        path: directory.join(item.name_at_members()).ok()?,
        version: source.version,
        size: item.size,
        root: item.root,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use tinyp2p_net::client::Peer;

    use super::*;
    use crate::network::Network;
    use crate::testing::MemoryNetwork;
    use crate::view::Wait;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn names(files: Vec<Small>) -> Vec<String> {
        let name = |file: &Small| String::from_utf8_lossy(file.path.as_bytes()).into_owned();
        files.iter().map(name).collect()
    }

    #[test]
    fn the_small_files_behind_one_are_named_in_order_with_what_it_takes_to_fetch_them() {
        let network = Arc::new(MemoryNetwork::default());
        let (ann, bob) = (network.join("ann", 1), network.join("bob", 2));
        ann.put("d/a", "x", 1);
        let b = ann.put_rooted("d/b", "content", 1);
        bob.put_rooted("d/b", "content", 1);
        ann.put("d/c/inner", "x", 1);
        ann.put("d/empty", "", 1);
        ann.put("d/full", vec![1; MAX_SMALL_FILE as usize], 1);
        ann.put("d/large", vec![1; MAX_SMALL_FILE as usize + 1], 1);
        bob.put("d/only-bob", "x", 1);
        ann.put("d/z", "x", 1);
        let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
        assert!(view.behind(&path("d/a"), ann.id(), 9).is_empty());
        let wait = Wait::Until(Instant::now() + Duration::from_secs(10));
        view.list(&path("d"), wait).unwrap();

        let files = view.behind(&path("d/a"), ann.id(), 9);
        let first = Small {
            path: path("d/b"),
            version: b.version,
            size: 7,
            root: b.root,
        };
        assert_eq!(files[0], first);
        assert_eq!(names(files), ["d/b", "d/full", "d/z"]);
        let from_bob = view.behind(&path("d/a"), bob.id(), 9);
        assert_eq!(names(from_bob), ["d/b", "d/only-bob"]);
        let two = view.behind(&path("d/a"), ann.id(), 2);
        assert_eq!(names(two), ["d/b", "d/full"]);
        assert!(view.behind(&path("d/z"), ann.id(), 9).is_empty());
    }
}
