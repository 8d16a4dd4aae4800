//! What to fetch from whom, and under which name: decided from the search results of the members.
//!
//! Pure. The names are those of the mount (the same merge decides them), so that `get` and a copy
//! out of the mount create the same tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinyp2p_net::model::{
    Attributes, Entry, FileSize, Kind, Mode, Name, PeerId, RelPath, Root, UnixTime, Version,
};

use crate::cli::commands::search::FilesByMember;
use crate::network::MemberRef;
use crate::view::merge;
use crate::view::tree_order;

/// One file to fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    /// The file's name, and its directory below the target.
    pub(super) directory: RelPath,
    pub(super) name: Name,
    /// Unknown until a holder reports it.
    pub(super) size: FileSize,
    /// Modification time, nanoseconds since 1970.
    pub(super) mtime: UnixTime,
    /// The content root, once a member knows it: the received content must have it.
    pub(super) root: Option<Root>,
    /// The members that have it, the best source first; never empty.
    pub(super) holders: Vec<Holder>,
}

impl Job {
    /// Returns the path relative to the target.
    pub(super) fn path(&self) -> String {
        if self.directory.is_root() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.directory, self.name)
        }
    }
}

/// A member that has a file, and its path there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    /// The member that has the file.
    pub(super) member: Arc<MemberRef>,
    /// The path of the file at that member.
    pub(super) path: RelPath,
    /// The version of the file at that member.
    pub(super) version: Version,
}

/// The files of one member in one directory.
type MemberListing = BTreeMap<Name, Attributes>;

/// Stands for a directory that one member has where another has a file. All that matters is that
/// it keeps its name.
const DIRECTORY: Attributes = Attributes {
    kind: Kind::Directory,
    mode: Mode::Plain,
    size: FileSize::ZERO,
    mtime: UnixTime::EPOCH,
    version: Version(0),
    root: None,
};

/// Returns the jobs for what each member found, directory by directory. Paths with a component that
/// begins with a dot are left out unless `hidden`: an honest member does not serve them, and the
/// others could plant a `.profile`.
pub(super) fn jobs(found: FilesByMember, hidden: bool) -> Vec<Job> {
    let directories = directories(&found, hidden);
    let mut tree: BTreeMap<RelPath, BTreeMap<PeerId, (Arc<MemberRef>, MemberListing)>> =
        BTreeMap::new();
    let mut put = |member: &Arc<MemberRef>, path: &RelPath, attributes: Attributes| {
        let Some((directory, name)) = path.split() else {
            return;
        };
        let listings = tree.entry(directory).or_default();
        let listing = listings.entry(member.id);
        let (_, listing) = listing.or_insert_with(|| (Arc::clone(member), MemberListing::new()));
        let place = listing.entry(name).or_insert(attributes);
        if attributes.kind == Kind::Directory {
            *place = attributes;
        }
    };
    for (member, path) in &directories {
        put(member, path, DIRECTORY);
    }
    for (member, files) in found {
        for (path, attributes) in files {
            if attributes.kind == Kind::File && (hidden || !is_hidden(&path)) {
                put(&member, &path, attributes);
            }
        }
    }
    let mut jobs = Vec::new();
    for (directory, listings) in tree {
        let listings = listings.into_values().map(|(member, listing)| {
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

/// Returns true if a component begins with a dot.
fn is_hidden(path: &RelPath) -> bool {
    path.components().any(|name| name.starts_with(b"."))
}

/// Returns the paths at which one member has a file and another has something below, together with
/// the members that have something below. No other directory affects a name; the directories of one
/// long path alone would take a thousand times its bytes.
fn directories(found: &FilesByMember, hidden: bool) -> Vec<(Arc<MemberRef>, RelPath)> {
    let paths = found.iter().flat_map(|(member, files)| {
        let shown = files.iter().filter(|(path, _)| hidden || !is_hidden(path));
        shown.map(move |(path, _)| (path, member))
    });
    let mut paths: Vec<(&RelPath, &Arc<MemberRef>)> = paths.collect();
    paths.sort_by(|(a, _), (b, _)| tree_order::compare(a, b));
    // Files that may still have something below them, each within the previous one, and the members
    // that have something there.
    let mut above: Vec<(&RelPath, BTreeMap<PeerId, &Arc<MemberRef>>)> = Vec::new();
    let mut directories = Vec::new();
    let mut close = |above: &mut Vec<(&RelPath, BTreeMap<PeerId, &Arc<MemberRef>>)>| {
        let Some((path, members)) = above.pop() else {
            return;
        };
        let those = members.values();
        directories.extend(those.map(|member| (Arc::clone(member), path.clone())));
        // A member with something below this path also has something below the enclosing one.
        if let Some((_, below)) = above.last_mut() {
            below.extend(members);
        }
    };
    for (path, member) in paths {
        while above.last().is_some_and(|(file, _)| !path.is_within(file)) {
            close(&mut above);
        }
        match above.last_mut() {
            Some((file, _)) if *file == path => {}
            other => {
                if let Some((_, members)) = other {
                    members.insert(member.id, member);
                }
                above.push((path, BTreeMap::new()));
            }
        }
    }
    while !above.is_empty() {
        close(&mut above);
    }
    directories
}

/// Creates a job; `None` when the name of a conflict makes the path too long for any filesystem.
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
    use tinyp2p_net::model::PeerId;

    use super::*;

    fn member(number: u8) -> Arc<MemberRef> {
        Arc::new(MemberRef {
            id: PeerId::from_bytes([number; 32]),
            name: format!("m{number}").into(),
        })
    }

    fn file(path: &str, size: u64, mtime: i64) -> (RelPath, Attributes) {
        let attributes = Attributes {
            kind: Kind::File,
            mode: Mode::Plain,
            size: FileSize::of(size),
            mtime: mtime.into(),
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
    fn equal_files_merge_in_their_directories() {
        let found = vec![
            (member(1), vec![rooted("a/b/x", 5), file("y", 1, 1)]),
            (member(2), vec![rooted("a/b/x", 5)]),
        ];
        let jobs = jobs(found, false);
        assert_eq!(shown(&jobs), [("y".to_owned(), 1), ("a/b/x".to_owned(), 2)]);
        assert_eq!((jobs[1].size, jobs[1].mtime), (5.into(), 1.into()));
    }

    #[test]
    fn conflicts_are_fetched_under_mount_names() {
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
    fn directory_beats_a_file_of_its_name() {
        let found = vec![
            (member(1), vec![file("a", 5, 1)]),
            (member(2), vec![file("a/b/x", 5, 1)]),
        ];
        let names: Vec<String> = jobs(found, false).iter().map(Job::path).collect();
        assert_eq!(names, ["a (m1)", "a/b/x"]);
    }

    #[test]
    fn only_deciding_directories_are_made() {
        let deep = "a/".repeat(2000) + "x";
        let found = vec![
            (member(1), vec![file("a/a/a", 5, 1), file("b", 5, 1)]),
            (member(2), vec![file(&deep, 5, 1), file("b/c/x", 1, 1)]),
            (member(3), vec![file("b/c", 5, 1), file("d", 5, 1)]),
        ];
        let made = directories(&found, false).into_iter();
        let mut made: Vec<(String, String)> = made
            .map(|(member, path)| (path.to_string(), member.name.to_string()))
            .collect();
        made.sort();
        let pair = |path: &str, name: &str| (path.to_owned(), name.to_owned());
        let expected = [
            pair("a/a/a", "m2"),
            pair("b", "m2"),
            pair("b", "m3"),
            pair("b/c", "m2"),
        ];
        assert_eq!(made, expected);
        let names: Vec<String> = jobs(found, false).iter().map(Job::path).collect();
        assert!(names.contains(&"a/a/a (m1)".to_owned()) && names.contains(&deep));
        assert!(names.contains(&"b (m1)".to_owned()) && names.contains(&"b/c (m3)".to_owned()));
    }

    #[test]
    fn hidden_names_are_fetched_on_request() {
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
