//! What several members found -> one flat directory, in which every file has a different name.
//!
//! Pure, and the same on every node that gets the same answers. Contents are distinguished and
//! named as in the merged tree ([`merge`]). Then a file is shown under its own name there if
//! it lies in the root or no other file found has that name. Otherwise the directory that it
//! lies in follows in parentheses: `01 (Artist - Album).ogg`. If that is taken, too, a digest
//! makes the difference.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tinyp2p_net::model::{Attributes, Entry, Name, PeerId, RelPath};

use crate::network::MemberRef;
use crate::view::RESERVED;
use crate::view::distinct_names::{DistinctNames, MAX_MARK_BYTES};
use crate::view::fair_share::share_fairly;
use crate::view::merge::{self, Item};

/// Replaces the beginning of a path that is too long.
const CUT: &str = "\u{2026}";

/// One file that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// Its path at the members that have it.
    pub path: RelPath,
    /// What it is; its name is the one in the flat directory.
    pub item: Item,
}

/// What each member found.
pub(super) type MatchesByMember = Vec<(Arc<MemberRef>, Vec<(RelPath, Attributes)>)>;

/// What each member has in one directory.
type Listings = Vec<(Arc<MemberRef>, Vec<Entry>)>;

/// Returns at most `max` files, sorted by the names under which they are shown, and whether those
/// are all. Each member contributes as many as any other, the first ones by path. `preferred` comes
/// first among the sources of what it has.
pub(super) fn flat(
    found: MatchesByMember,
    preferred: Option<PeerId>,
    max: usize,
) -> (Vec<Match>, bool) {
    let mut files: Vec<(RelPath, Match)> = Vec::new();
    for (directory, listings) in by_directory(found) {
        let mut items = merge::directory(listings, preferred);
        if directory.is_root() {
            items.retain(|item| item.name.as_bytes() != RESERVED);
        }
        for item in items {
            if let Ok(path) = directory.join(item.name_at_members()) {
                files.push((directory.clone(), Match { path, item }));
            }
        }
    }
    let cut = share_fairly(&mut files, max, |(_, file), note| {
        file.item
            .sources
            .iter()
            .for_each(|source| note(&source.member));
    });
    (named(files), cut.is_empty())
}

/// Sorts the same by directory.
fn by_directory(found: MatchesByMember) -> BTreeMap<RelPath, Listings> {
    let mut directories: BTreeMap<RelPath, Listings> = BTreeMap::new();
    for (member, files) in found {
        for (path, attributes) in files {
            let Some((directory, name)) = path.split() else {
                continue;
            };
            let listings = directories.entry(directory).or_default();
            let is_next = listings.last().is_none_or(|(last, _)| last.id != member.id);
            if is_next {
                listings.push((Arc::clone(&member), Vec::new()));
            }
            if let Some((_, entries)) = listings.last_mut() {
                entries.push(Entry { name, attributes });
            }
        }
    }
    directories
}

/// Gives each of the files a name of its own. They come with their directories, sorted by them.
fn named(files: Vec<(RelPath, Match)>) -> Vec<Match> {
    let mut count: HashMap<Name, usize> = HashMap::new();
    for (_, file) in &files {
        *count.entry(file.item.name.clone()).or_default() += 1;
    }
    let is_plain = |directory: &RelPath, name: &Name| {
        directory.is_root() || count.get(name).is_none_or(|count| *count == 1)
    };
    let plain = files
        .iter()
        .filter(|(directory, file)| is_plain(directory, &file.item.name));
    let in_use: HashSet<Name> = plain.map(|(_, file)| file.item.name.clone()).collect();
    let mut names = DistinctNames::new(|name: &Name| in_use.contains(name));
    let mut shown = Vec::with_capacity(files.len());
    for (directory, mut file) in files {
        if !is_plain(&directory, &file.item.name) {
            // No two files of one directory have the same name there.
            let owner = directory.as_bytes();
            file.item.name = names.give(&file.item.name, &label(&directory), owner);
        }
        shown.push(file);
    }
    shown.sort_by(|a, b| a.item.name.cmp(&b.item.name));
    shown
}

/// `music/Artist/Album` -> `music - Artist - Album`, or its end, which says more
/// than its beginning.
fn label(directory: &RelPath) -> Vec<u8> {
    let components: Vec<&[u8]> = directory.components().collect();
    let label = components.join(&b" - "[..]);
    if label.len() <= MAX_MARK_BYTES {
        return label;
    }
    let is_inside = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let from = label.len() - (MAX_MARK_BYTES - CUT.len());
    // A UTF-8 character has at most three bytes after its first.
    let inside = label[from..].iter().take(3).take_while(|b| is_inside(b));
    [CUT.as_bytes(), &label[from + inside.count()..]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tinyp2p_net::model::{Kind, Mode, Root, Version};

    use super::*;

    fn member(seed: u8) -> Arc<MemberRef> {
        Arc::new(MemberRef {
            id: PeerId::from_bytes([seed; 32]),
            name: format!("m{seed}").into(),
        })
    }

    fn file(path: &[u8], size: u64) -> (RelPath, Attributes) {
        let attributes = Attributes {
            kind: Kind::File,
            mode: Mode::Plain,
            size: size.into(),
            mtime: 1.into(),
            version: Version(size),
            root: None,
        };
        (RelPath::new(path).unwrap(), attributes)
    }

    fn rooted(path: &[u8], size: u64) -> (RelPath, Attributes) {
        let (path, mut attributes) = file(path, size);
        attributes.root = Some(Root::from_bytes([size as u8; 32]));
        (path, attributes)
    }

    /// Returns how one member's files are shown: the name and path of each.
    fn shown(paths: &[&str]) -> Vec<(String, String)> {
        let files = paths.iter().map(|path| file(path.as_bytes(), 1)).collect();
        let (files, is_all) = flat(vec![(member(1), files)], None, 1000);
        assert!(is_all);
        let text = |file: &Match| (file.item.name.to_string(), file.path.to_string());
        files.iter().map(text).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn unique_match_keeps_its_own_name() {
        let expected = pairs(&[("a.ogg", "x/a.ogg"), ("b.ogg", "x/y/b.ogg")]);
        assert_eq!(shown(&["x/a.ogg", "x/y/b.ogg"]), expected);
    }

    #[test]
    fn equal_names_get_their_directories_appended() {
        let expected = pairs(&[
            ("01 (A - One).ogg", "A/One/01.ogg"),
            ("01 (B).ogg", "B/01.ogg"),
            ("01.ogg", "01.ogg"),
        ]);
        assert_eq!(shown(&["01.ogg", "A/One/01.ogg", "B/01.ogg"]), expected);
    }

    #[test]
    fn a_name_that_is_taken_gets_a_digest() {
        let names = shown(&["a - b/x", "a/b/x", "c/x (a - b)"]);
        let plain = ("x (a - b)".to_owned(), "c/x (a - b)".to_owned());
        assert_eq!(names.len(), 3);
        assert!(names.contains(&plain), "{names:?}");
        for path in ["a - b/x", "a/b/x"] {
            let (name, _) = names.iter().find(|(_, other)| other == path).unwrap();
            assert!(name.starts_with("x (a - b-"), "{name}");
        }
    }

    #[test]
    fn search_names_conflicts_as_the_tree_does() {
        let found = vec![
            (member(1), vec![file(b"d/x.txt", 1)]),
            (member(2), vec![rooted(b"d/x.txt", 2)]),
            (member(3), vec![rooted(b"d/x.txt", 2), file(b"e/y", 1)]),
        ];
        let (files, _) = flat(found, None, 1000);
        let names: Vec<String> = files.iter().map(|f| f.item.name.to_string()).collect();
        assert_eq!(names, ["x (m1).txt", "x.txt", "y"]);
        assert_eq!(files[0].path, files[1].path);
        assert_eq!(files[1].item.sources.len(), 2);
    }

    #[test]
    fn long_found_names_keep_what_differs() {
        let deep = format!("{}/{}", "\u{fc}".repeat(100), "end");
        let long = format!("{}.ogg", "\u{e4}".repeat(125));
        let (a, b) = (format!("{deep}/{long}"), format!("b/{long}"));
        let names = shown(&[&a, &b]);
        for (name, _) in &names {
            assert!(name.len() <= 255 && name.ends_with(").ogg"), "{name}");
            assert!(!name.contains("\\x"), "cut within a character: {name}");
        }
        assert!(names.iter().any(|(name, _)| name.contains("\u{fc} - end-")));
    }

    #[test]
    fn excess_matches_are_cut_by_path() {
        let files = (0..10).map(|n| file(format!("d{n}/x").as_bytes(), 1));
        let (files, is_all) = flat(vec![(member(1), files.collect())], None, 4);
        assert_eq!((files.len(), is_all), (4, false));
        assert!(files.iter().all(|file| file.path.as_bytes() < &b"d4"[..]));
    }

    #[test]
    fn many_matches_hide_nobody_elses() {
        let many = (0..100).map(|n| file(format!("!/{n:03}").as_bytes(), 1));
        let found = vec![
            (member(1), many.collect()),
            (member(2), vec![file(b"z/report", 1)]),
        ];
        let (files, is_all) = flat(found, None, 10);
        assert_eq!((files.len(), is_all), (10, false));
        assert!(
            files
                .iter()
                .any(|file| file.item.name.as_bytes() == b"report")
        );
    }

    #[test]
    fn named_roots_cut_nobody_elses_matches() {
        let many = (0..100).map(|n| file(format!("!/{n:03}").as_bytes(), 1));
        let claimed = [rooted(b"z/report", 1)];
        let found = vec![
            (member(1), many.chain(claimed.clone()).collect()),
            (member(2), claimed.to_vec()),
        ];
        let (files, _) = flat(found, None, 10);
        assert!(
            files
                .iter()
                .any(|file| file.item.name.as_bytes() == b"report")
        );
    }

    #[test]
    fn many_equal_names_are_named_quickly() {
        let end = "x".repeat(200);
        let paths: Vec<String> = (0..5_000).map(|n| format!("{n:05}/{end}/a")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let names: HashSet<String> = shown_all(&paths);
        assert_eq!(names.len(), paths.len());
    }

    fn shown_all(paths: &[&str]) -> HashSet<String> {
        let files = paths.iter().map(|path| file(path.as_bytes(), 1)).collect();
        let (files, _) = flat(vec![(member(1), files)], None, usize::MAX);
        files.iter().map(|f| f.item.name.to_string()).collect()
    }

    proptest! {
        #[test]
        fn found_names_are_unique_in_any_order(
            picks in proptest::collection::vec((0usize..8, 0usize..4, 1u8..4, 1u64..3), 1..30),
        ) {
            let directories = ["", "a", "a/b", "a - b", "c", "a - b 2", "\u{fc}", "a/b/c"];
            let names = ["x", "x (a - b)", "x (a - b 2)", "x (m1)"];
            let mut found: BTreeMap<u8, BTreeMap<RelPath, Attributes>> = BTreeMap::new();
            for (directory, name, who, size) in picks {
                let text = format!("{}/{}", directories[directory], names[name]);
                let (path, attributes) = file(text.trim_start_matches('/').as_bytes(), size);
                found.entry(who).or_default().insert(path, attributes);
            }
            let answers = |order: Vec<u8>| -> MatchesByMember {
                let answer = |who: u8| found.get(&who).map(|files| {
                    (member(who), files.iter().map(|(p, a)| (p.clone(), *a)).collect())
                });
                order.into_iter().filter_map(answer).collect()
            };
            let (files, _) = flat(answers(vec![1, 2, 3]), None, 1000);
            let distinct: HashSet<&Name> = files.iter().map(|file| &file.item.name).collect();
            prop_assert_eq!(distinct.len(), files.len());
            let paths: HashSet<&RelPath> = files.iter().map(|file| &file.path).collect();
            let asked: HashSet<&RelPath> = found.values().flat_map(BTreeMap::keys).collect();
            prop_assert_eq!(paths, asked);
            prop_assert!(files.is_sorted_by(|a, b| a.item.name < b.item.name));
            let (backwards, _) = flat(answers(vec![3, 2, 1]), None, 1000);
            prop_assert_eq!(files, backwards);
        }
    }
}
