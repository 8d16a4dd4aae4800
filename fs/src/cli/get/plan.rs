//! What to fetch from whom, and under which name: decided from what the members found.
//!
//! Pure. The names are those of the mount (the same merge decides them), so that `get` and a copy
//! out of the mount make the same tree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tinyp2p_net::types::{Attributes, Entry, Kind, Name, RelPath, Root, Version};

use crate::cli::search::Found;
use crate::view::merge::{self, Member};

/// One file to fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    /// The name, and the directory below the target.
    pub(super) directory: RelPath,
    pub(super) name: Name,
    /// Bytes of content; [`Attributes::UNKNOWN_SIZE`] while nobody who has it tells.
    pub(super) size: u64,
    /// Modification time, nanoseconds since 1970.
    pub(super) mtime: i64,
    /// The content root, when somebody knows it: whatever arrives must have it.
    pub(super) root: Option<Root>,
    /// Who has it, the best one to read from first; never empty.
    pub(super) holders: Vec<Holder>,
}

impl Job {
    /// Where it goes, relative to the target.
    pub(super) fn path(&self) -> String {
        if self.directory.is_root() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.directory, self.name)
        }
    }
}

impl Job {
    /// False while only its name is known.
    pub(super) fn is_measured(&self) -> bool {
        self.size != Attributes::UNKNOWN_SIZE
    }

    /// Its path at those who have it.
    pub(super) fn path_at_members(&self) -> Option<RelPath> {
        self.holders.first().map(|holder| holder.path.clone())
    }
}

/// One member that has a file, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    /// Who.
    pub(super) member: Arc<Member>,
    /// The path there.
    pub(super) path: RelPath,
    /// The version there.
    pub(super) version: Version,
}

/// What one member has in one directory.
type Listing = BTreeMap<Name, Attributes>;

/// The jobs for what each member found, directory by directory. Paths with a component that begins
/// with a dot are left out unless `hidden`: an honest member does not serve them, and the others
/// could plant a `.profile`.
pub(super) fn jobs(found: Found, hidden: bool) -> Vec<Job> {
    let mut tree: BTreeMap<RelPath, Vec<(Arc<Member>, Listing)>> = BTreeMap::new();
    for (member, files) in found {
        for (directory, listing) in listings(files, hidden) {
            let listings = tree.entry(directory).or_default();
            listings.push((Arc::clone(&member), listing));
        }
    }
    let mut jobs = Vec::new();
    for (directory, listings) in tree {
        let listings = listings.into_iter().map(|(member, listing)| {
            let entries = listing.into_iter();
            let entries = entries.map(|(name, attributes)| Entry { name, attributes });
            (member, entries.collect())
        });
        for item in merge::directory(listings.collect(), None) {
            if item.kind == Kind::File {
                jobs.extend(job(&directory, &item));
            }
        }
    }
    jobs
}

/// Sorts one member's files into directories, and adds the directories themselves: they keep
/// their names against files of other members.
fn listings(files: Vec<(RelPath, Attributes)>, hidden: bool) -> BTreeMap<RelPath, Listing> {
    let directory_attributes = Attributes {
        kind: Kind::Directory,
        size: 0,
        mtime: 0,
        version: Version(0),
        root: None,
    };
    let mut listings: BTreeMap<RelPath, Listing> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (path, attributes) in files {
        let is_hidden = path.components().any(|name| name.starts_with(b"."));
        if attributes.kind != Kind::File || (is_hidden && !hidden) {
            continue;
        }
        let mut entry = path
            .split()
            .map(|(parent, name)| (parent, name, attributes));
        while let Some((parent, name, attributes)) = entry {
            listings
                .entry(parent.clone())
                .or_default()
                .insert(name, attributes);
            entry = parent
                .split()
                .filter(|_| seen.insert(parent))
                .map(|(grandparent, name)| (grandparent, name, directory_attributes));
        }
    }
    listings
}

/// `None` when the name of a conflict makes the path too long for any filesystem.
fn job(directory: &RelPath, item: &merge::Item) -> Option<Job> {
    directory.join(&item.name).ok()?;
    let path = directory.join(item.name_at_members()).ok()?;
    let holders = item.sources.iter().map(|source| Holder {
        member: Arc::clone(&source.member),
        path: path.clone(),
        version: source.version,
    });
    Some(Job {
        directory: directory.clone(),
        name: item.name.clone(),
        size: item.size,
        mtime: item.mtime,
        root: item.root,
        holders: holders.collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tinyp2p_net::types::PeerId;

    use super::*;

    fn member(number: u8) -> Arc<Member> {
        Arc::new(Member {
            id: PeerId::from_bytes([number; 32]),
            name: format!("m{number}").into(),
        })
    }

    fn file(path: &str, size: u64, mtime: i64) -> (RelPath, Attributes) {
        let attributes = Attributes {
            kind: Kind::File,
            size,
            mtime,
            version: Version(size ^ mtime as u64),
            root: None,
        };
        (RelPath::new(path.as_bytes()).unwrap(), attributes)
    }

    fn rooted(path: &str, size: u64) -> (RelPath, Attributes) {
        let (path, mut attributes) = file(path, size, 1);
        attributes.root = Some(Root::from_bytes([size as u8; 32]));
        (path, attributes)
    }

    fn shown(jobs: &[Job]) -> Vec<(String, usize)> {
        jobs.iter()
            .map(|job| (job.path(), job.holders.len()))
            .collect()
    }

    #[test]
    fn files_keep_their_directories_and_equal_ones_have_several_holders() {
        let found = vec![
            (member(1), vec![rooted("a/b/x", 5), file("y", 1, 1)]),
            (member(2), vec![rooted("a/b/x", 5)]),
        ];
        let jobs = jobs(found, false);
        assert_eq!(shown(&jobs), [("y".to_owned(), 1), ("a/b/x".to_owned(), 2)]);
        assert_eq!((jobs[1].size, jobs[1].mtime), (5, 1));
    }

    #[test]
    fn different_content_of_one_name_is_fetched_under_the_names_of_the_mount() {
        let found = vec![
            (member(1), vec![file("d/x.txt", 5, 1)]),
            (member(2), vec![file("d/x.txt", 6, 2)]),
        ];
        let jobs = jobs(found, false);
        let names: Vec<String> = jobs.iter().map(Job::path).collect();
        assert_eq!(names, ["d/x (m1).txt", "d/x.txt"]);
        let paths: Vec<String> = jobs.iter().map(|j| j.holders[0].path.to_string()).collect();
        assert_eq!(paths, ["d/x.txt", "d/x.txt"]);
    }

    #[test]
    fn a_directory_keeps_its_name_against_a_file() {
        let found = vec![
            (member(1), vec![file("a", 5, 1)]),
            (member(2), vec![file("a/b/x", 5, 1)]),
        ];
        let names: Vec<String> = jobs(found, false).iter().map(Job::path).collect();
        assert_eq!(names, ["a (m1)", "a/b/x"]);
    }

    #[test]
    fn hidden_names_are_fetched_only_when_asked_for() {
        let found = || {
            vec![(
                member(1),
                vec![file(".ssh/rc", 5, 1), file("a/.b", 1, 1), file("c", 1, 1)],
            )]
        };
        assert_eq!(shown(&jobs(found(), false)), [("c".to_owned(), 1)]);
        assert_eq!(jobs(found(), true).len(), 3);
    }
}
