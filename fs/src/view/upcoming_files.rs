//! The files after a given one in its directory: what a program that walks the directory
//! will read next.
//!
//! Taken from the last listing, whether or not it still holds: these are guesses, and a member
//! itself reports if one of its files has changed since. A call costs a search by name and as many
//! steps as files are wanted, however large the directory is.

use std::sync::Arc;

use tinyp2p_net::download::{ReadingOrder, SmallFile, UpcomingFiles};
use tinyp2p_net::model::{Kind, Mode, PeerId, RelPath};
use tinyp2p_net::protocol::wire::MAX_SMALL_FILE;

use super::identity::number_by_itself;
use super::merge::{EntrySource, Item};
use super::{MergedDirectory, View};

/// Entries that are examined for each wanted file. Large files and directories between small
/// ones are skipped.
const STEPS: usize = 4;

impl UpcomingFiles for View {
    fn behind(
        &self,
        path: &RelPath,
        order: ReadingOrder,
        member: PeerId,
        max: usize,
    ) -> Vec<SmallFile> {
        let Some((directory, listing, at)) = self.listed(path) else {
            return Vec::new();
        };
        let small = |item: &Item| small(item, &directory, member);
        match order {
            ReadingOrder::ByName => {
                let first = at.unwrap_or_else(|behind| behind);
                let items = listing.items[first..].iter().skip(usize::from(at.is_ok()));
                first_files(items, max, small)
            }
            ReadingOrder::ByNumber => {
                let Ok(at) = at else { return Vec::new() };
                let by_number = listing.by_number(&directory);
                let first = by_number.position(at) + 1;
                let behind = by_number.order[first..].iter();
                let items = behind.map(|index| &listing.items[*index as usize]);
                first_files(items, max, small)
            }
        }
    }

    fn order(&self, before: &RelPath, path: &RelPath) -> ReadingOrder {
        let Some((directory, listing, Ok(at))) = self.listed(path) else {
            return ReadingOrder::ByName;
        };
        let Some((_, name)) = before.split() else {
            return ReadingOrder::ByName;
        };
        let Ok(was) = listing.items.binary_search_by(|item| item.name.cmp(&name)) else {
            return ReadingOrder::ByName;
        };
        let is_next = |was: usize, at: usize| (1..=STEPS).contains(&at.wrapping_sub(was));
        if is_next(was, at) {
            return ReadingOrder::ByName;
        }
        let by_number = listing.by_number(&directory);
        if is_next(by_number.position(was), by_number.position(at)) {
            ReadingOrder::ByNumber
        } else {
            ReadingOrder::ByName
        }
    }
}

impl View {
    /// Returns the last listing of the parent directory of `path`, and the position of `path` in
    /// it, or where it would be.
    fn listed(
        &self,
        path: &RelPath,
    ) -> Option<(RelPath, Arc<MergedDirectory>, Result<usize, usize>)> {
        let (directory, name) = path.split()?;
        let listing = self.memory.lock().last_directory(&directory)?;
        let at = listing.items.binary_search_by(|item| item.name.cmp(&name));
        Some((directory, listing, at))
    }
}

/// The entries of a directory in the order of their numbers.
#[derive(Debug)]
pub(super) struct ByNumber {
    /// Their positions in the order of names.
    order: Vec<u32>,
    /// The inverse: the position here of each of them.
    positions: Vec<u32>,
}

impl ByNumber {
    /// Sorts `items`, which lie in `directory`.
    pub(super) fn new(directory: &RelPath, items: &[Item]) -> Self {
        let number = |item: &Item| {
            let path = directory.join(item.name_at_members()).ok();
            path.map_or(0, |path| number_by_itself(&path, item))
        };
        let mut numbered: Vec<(u64, u32)> = items.iter().map(number).zip(0..).collect();
        numbered.sort_unstable();
        let order: Vec<u32> = numbered.into_iter().map(|(_, index)| index).collect();
        let mut positions = vec![0; order.len()];
        for (position, index) in (0..).zip(&order) {
            positions[*index as usize] = position;
        }
        Self { order, positions }
    }

    fn position(&self, index: usize) -> usize {
        self.positions[index] as usize
    }
}

/// Returns the first small files among `entries`, at most `max`.
pub(crate) fn first_files<T>(
    entries: impl Iterator<Item = T>,
    max: usize,
    small: impl Fn(T) -> Option<SmallFile>,
) -> Vec<SmallFile> {
    let files = entries.take(STEPS * max).filter_map(small);
    files.take(max).collect()
}

/// Returns true for a file small enough to come together with others.
pub(crate) fn is_small(size: u64) -> bool {
    (1..=MAX_SMALL_FILE).contains(&size)
}

/// Returns `item` as a small file that may be read from `member`, with the sources that an open of
/// it would choose.
fn small(item: &Item, directory: &RelPath, member: PeerId) -> Option<SmallFile> {
    if item.kind != Kind::File || !is_small(item.size.or_zero()) {
        return None;
    }
    let mut sources = item.sources.iter();
    let is_it =
        |source: &&EntrySource| source.member.id == member && source.mode != Mode::Unreadable;
    let source = match item.root {
        Some(_) => sources.find(is_it)?,
        // Without a root, the file is read from its first source alone.
        None => sources.next().filter(is_it)?,
    };
    Some(SmallFile {
        path: directory.join(item.name_at_members()).ok()?,
        version: source.version,
        size: item.size.or_zero(),
        root: item.root,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tinyp2p_net::peer::Peer;

    use super::*;
    use crate::network::Network;
    use crate::testing::MemoryNetwork;
    use crate::view::Wait;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn names(files: Vec<SmallFile>) -> Vec<String> {
        let name = |file: &SmallFile| String::from_utf8_lossy(file.path.as_bytes()).into_owned();
        files.iter().map(name).collect()
    }

    #[test]
    fn upcoming_small_files_come_in_order() {
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
        assert!(
            view.behind(&path("d/a"), ReadingOrder::ByName, ann.id(), 9)
                .is_empty()
        );
        let wait = Wait::Until(Instant::now() + Duration::from_secs(10));
        view.list(&path("d"), wait).unwrap();

        let files = view.behind(&path("d/a"), ReadingOrder::ByName, ann.id(), 9);
        let first = SmallFile {
            path: path("d/b"),
            version: b.version,
            size: 7,
            root: b.root,
        };
        assert_eq!(files[0], first);
        assert_eq!(names(files), ["d/b", "d/full", "d/z"]);
        let from_bob = view.behind(&path("d/a"), ReadingOrder::ByName, bob.id(), 9);
        assert_eq!(names(from_bob), ["d/b", "d/only-bob"]);
        let two = view.behind(&path("d/a"), ReadingOrder::ByName, ann.id(), 2);
        assert_eq!(names(two), ["d/b", "d/full"]);
        assert!(
            view.behind(&path("d/z"), ReadingOrder::ByName, ann.id(), 9)
                .is_empty()
        );
    }

    #[test]
    fn reading_by_number_goes_on_by_number() {
        let network = Arc::new(MemoryNetwork::default());
        let ann = network.join("ann", 1);
        for number in 0..200 {
            ann.put(&format!("d/{number:03}"), "x", 1);
        }
        let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
        let wait = Wait::Until(Instant::now() + Duration::from_secs(10));
        let listing = view.list(&path("d"), wait).unwrap();
        let mut inodes = crate::vfs::inodes::Inodes::new(5.into());
        let tree = crate::vfs::inodes::Vantage::Merged;
        let assigned = listing.items.iter().map(|item| {
            let path = path("d").join(&item.name).unwrap();
            (inodes.look_up(tree, path.clone(), item).0, path)
        });
        let mut assigned: Vec<(u64, RelPath)> = assigned.collect();
        assigned.sort();
        let order = view.order(&assigned[70].1, &assigned[71].1);
        assert_eq!(order, ReadingOrder::ByNumber);
        let files = view.behind(&assigned[71].1, order, ann.id(), 20);
        let next: Vec<RelPath> = files.into_iter().map(|file| file.path).collect();
        let wanted: Vec<RelPath> = assigned[72..92]
            .iter()
            .map(|(_, path)| path.clone())
            .collect();
        assert_eq!(next, wanted);
        let by_name = view.order(&path("d/070"), &path("d/071"));
        assert_eq!(by_name, ReadingOrder::ByName);
    }
}
