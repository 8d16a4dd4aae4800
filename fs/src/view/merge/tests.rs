//! Examples of each rule, then a plain reference against which random networks are compared.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tinyp2p_net::model::{MAX_NAME_BYTES, Version};

use super::*;

fn member(seed: u8, name: &str) -> Arc<MemberRef> {
    Arc::new(MemberRef {
        id: PeerId::from_bytes([seed; 32]),
        name: name.into(),
    })
}

fn name_of(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn file(name: &str, size: impl Into<FileSize>, mtime: i64) -> Entry {
    rooted(name, size, mtime, None)
}

fn rooted(name: &str, size: impl Into<FileSize>, mtime: i64, root: Option<u8>) -> Entry {
    let size = size.into();
    Entry {
        name: name_of(name),
        attributes: Attributes {
            kind: Kind::File,
            mode: Mode::Plain,
            size,
            mtime: mtime.into(),
            version: Version(size.or_zero() ^ mtime as u64),
            root: root.map(|byte| Root::from_bytes([byte; 32])),
        },
    }
}

fn folder(name: &str, mtime: i64) -> Entry {
    let mut entry = file(name, 0, mtime);
    entry.attributes.kind = Kind::Directory;
    entry
}

/// Name, size and holders of everything that is shown.
fn shown(items: &[Item]) -> Vec<(String, FileSize, Vec<u8>)> {
    let holders = |item: &Item| {
        let mut ids: Vec<u8> = item
            .sources
            .iter()
            .map(|s| s.member.id.as_bytes()[0])
            .collect();
        ids.sort_unstable();
        ids
    };
    items
        .iter()
        .map(|item| (item.name.to_string(), item.size, holders(item)))
        .collect()
}

fn row(name: &str, size: impl Into<FileSize>, holders: &[u8]) -> (String, FileSize, Vec<u8>) {
    (name.into(), size.into(), holders.to_vec())
}

#[test]
fn readable_content_keeps_the_name() {
    let mut unreadable = rooted("x", 1, 9, None);
    unreadable.attributes.mode = Mode::Unreadable;
    let items = directory(
        vec![
            (member(1, "ann"), vec![unreadable.clone()]),
            (member(2, "bob"), vec![unreadable]),
            (member(3, "carl"), vec![file("x", 2, 1)]),
        ],
        None,
    );
    let modes: Vec<_> = items
        .iter()
        .map(|item| (item.size, mode_of(&item.sources)))
        .collect();
    let unreadable = (1.into(), Mode::Unreadable);
    assert_eq!(modes, [(2.into(), Mode::Plain), unreadable, unreadable]);
    assert_eq!(items[0].name, name_of("x"));
}

#[test]
fn one_reader_makes_a_content_readable() {
    let with = |mode| {
        let mut entry = rooted("x", 1, 1, Some(1));
        entry.attributes.mode = mode;
        vec![entry]
    };
    let mode = |modes: &[Mode]| {
        let said = (1..)
            .zip(modes)
            .map(|(n, mode)| (member(n, "m"), with(*mode)));
        mode_of(&directory(said.collect(), None)[0].sources)
    };
    use Mode::{Executable, Plain, Unreadable};
    assert_eq!(mode(&[Unreadable, Plain]), Plain);
    assert_eq!(mode(&[Plain, Unreadable, Executable]), Executable);
    assert_eq!(mode(&[Unreadable, Unreadable]), Unreadable);
}

#[test]
fn unsized_file_yields_to_any_other() {
    let unknown = |name: &str, mtime| file(name, FileSize::UNKNOWN, mtime);
    let items = directory(
        vec![
            (member(1, "ann"), vec![file("x", 1, 1), folder("y", 1)]),
            (
                member(2, "box:1"),
                vec![unknown("x", 9), unknown("y", 9), unknown("z", 9)],
            ),
            (member(3, "box:2"), vec![unknown("z", 8)]),
        ],
        None,
    );
    let expected = [
        row("x", 1, &[1]),
        row("y", 0, &[1]),
        row("z", FileSize::UNKNOWN, &[2, 3]),
    ];
    assert_eq!(shown(&items), expected);
}

#[test]
fn merged_directory_shows_newest_mtime() {
    let items = directory(
        vec![
            (member(1, "ann"), vec![folder("d", 5), file("x", 1, 1)]),
            (member(2, "bob"), vec![folder("d", 9), file("y", 2, 2)]),
        ],
        None,
    );
    assert_eq!(
        shown(&items),
        [row("d", 0, &[1, 2]), row("x", 1, &[1]), row("y", 2, &[2])]
    );
    assert_eq!(items[0].mtime, 9.into());
}

#[test]
fn unrooted_files_are_distinct_contents() {
    let items = directory(
        vec![
            (member(2, "bob"), vec![file("a.txt", 7, 3)]),
            (member(1, "ann"), vec![file("a.txt", 7, 3)]),
        ],
        None,
    );
    let expected = [row("a (bob).txt", 7, &[2]), row("a.txt", 7, &[1])];
    assert_eq!(shown(&items), expected);
}

#[test]
fn equal_roots_are_one_entry() {
    let items = directory(
        vec![
            (member(1, "ann"), vec![rooted("a", 7, 3, Some(9))]),
            (member(2, "bob"), vec![rooted("a", 7, 4, Some(9))]),
        ],
        None,
    );
    assert_eq!(shown(&items), [row("a", 7, &[1, 2])]);
    assert_eq!(items[0].mtime, 4.into());
}

#[test]
fn different_roots_are_different_contents() {
    let items = directory(
        vec![
            (member(1, "ann"), vec![rooted("a", 7, 3, Some(9))]),
            (member(2, "bob"), vec![rooted("a", 7, 3, Some(8))]),
        ],
        None,
    );
    assert_eq!(shown(&items), [row("a", 7, &[2]), row("a (ann)", 7, &[1])]);
}

#[test]
fn unrooted_file_stands_in_for_none() {
    // To take a file's place, somebody copies its size and time, at as many members as it takes.
    let items = directory(
        vec![
            (member(1, "ann"), vec![rooted("a", 7, 3, Some(9))]),
            (member(2, "bob"), vec![rooted("a", 7, 3, Some(8))]),
            (member(3, "eve"), vec![rooted("a", 7, 3, Some(9))]),
            (member(4, "mallory"), vec![file("a", 7, 3)]),
            (member(5, "mallet"), vec![file("a", 7, 3)]),
            (member(6, "trudy"), vec![rooted("a", 8, 3, Some(8))]),
        ],
        None,
    );
    let expected = [
        row("a", 7, &[1, 3]),
        row("a (bob)", 7, &[2]),
        row("a (mallet)", 7, &[5]),
        row("a (mallory)", 7, &[4]),
        row("a (trudy)", 8, &[6]),
    ];
    assert_eq!(shown(&items), expected);
}

#[test]
fn empty_files_never_conflict() {
    let items = directory(
        vec![
            (member(1, "ann"), vec![file("__init__.py", 0, 1)]),
            (member(2, "bob"), vec![file("__init__.py", 0, 2)]),
        ],
        None,
    );
    assert_eq!(shown(&items), [row("__init__.py", 0, &[1, 2])]);
}

#[test]
fn most_holders_keep_the_plain_name() {
    let items = directory(
        vec![
            (member(1, "ann"), vec![file("a.txt", 1, 9)]),
            (member(2, "bob"), vec![rooted("a.txt", 2, 1, Some(5))]),
            (member(3, "eve"), vec![rooted("a.txt", 2, 1, Some(5))]),
        ],
        None,
    );
    assert_eq!(
        shown(&items),
        [row("a (ann).txt", 1, &[1]), row("a.txt", 2, &[2, 3])]
    );
    assert_eq!(items[0].name_at_members(), &name_of("a.txt"));
}

#[test]
fn ties_go_by_time_then_root_then_id() {
    let newer = directory(
        vec![
            (member(1, "ann"), vec![file("a", 1, 1)]),
            (member(2, "bob"), vec![file("a", 2, 2)]),
        ],
        None,
    );
    assert_eq!(shown(&newer), [row("a", 2, &[2]), row("a (ann)", 1, &[1])]);
    let smaller_id = directory(
        vec![
            (member(2, "bob"), vec![file("a", 2, 1)]),
            (member(1, "ann"), vec![file("a", 1, 1)]),
        ],
        None,
    );
    assert_eq!(
        shown(&smaller_id),
        [row("a", 1, &[1]), row("a (bob)", 2, &[2])]
    );
}

#[test]
fn directory_keeps_its_name_against_files() {
    let items = directory(
        vec![
            (member(1, "ann"), vec![rooted("a.d", 1, 9, Some(5))]),
            (member(2, "bob"), vec![folder("a.d", 1)]),
            (member(3, "eve"), vec![rooted("a.d", 1, 9, Some(5))]),
        ],
        None,
    );
    assert_eq!(
        shown(&items),
        [row("a (ann).d", 1, &[1, 3]), row("a.d", 0, &[2])]
    );
    assert_eq!(items[1].kind, Kind::Directory);
}

#[test]
fn real_name_is_never_a_conflicts_name() {
    let items = directory(
        vec![
            (
                member(1, "ann"),
                vec![file("a", 1, 1), file("a (ann)", 3, 1)],
            ),
            (member(2, "bob"), vec![file("a", 2, 2)]),
        ],
        None,
    );
    let names = shown(&items);
    assert_eq!(names[..2], [row("a", 2, &[2]), row("a (ann)", 3, &[1])]);
    let (name, size, holders) = &names[2];
    assert!(name.starts_with("a (ann-"), "{name}");
    assert_eq!((*size, &holders[..]), (1.into(), &[1][..]));
}

#[test]
fn cut_names_keep_their_extension() {
    let long = format!("{}.txt", "ä".repeat(125));
    let items = directory(
        vec![
            (member(1, "ann"), vec![file(&long, 1, 1)]),
            (member(2, "bob"), vec![file(&long, 2, 2)]),
        ],
        None,
    );
    let cut = items.iter().find(|item| item.original.is_some()).unwrap();
    let text = std::str::from_utf8(cut.name.as_bytes()).unwrap();
    assert!(text.len() <= MAX_NAME_BYTES && text.ends_with(").txt"));
    assert!(text.contains(" (ann-"), "{text}");
}

#[test]
fn long_conflict_names_take_no_longer() {
    let names = |stem: &str| -> Vec<String> {
        (0..20_000)
            .map(|number| format!("{stem}{number:05}"))
            .collect()
    };
    let merge = |names: &[String]| {
        let listing = |mtime| names.iter().map(|name| file(name, 1, mtime)).collect();
        let said = vec![
            (member(1, "ann"), listing(1)),
            (member(2, "bob"), listing(2)),
        ];
        let begun = std::time::Instant::now();
        let items = directory(said, None);
        assert_eq!(items.len(), 2 * names.len());
        begun.elapsed()
    };
    let (short, long) = (names("x"), names(&"x".repeat(250)));
    let took = merge(&long);
    // In the time of a lookup on a slow, busy machine; the quadratic way took minutes.
    assert!(
        took.as_secs_f64() < 3.0,
        "{took:?}, short names {:?}",
        merge(&short)
    );
}

#[test]
fn few_conflicts_are_kept_beside_many() {
    let listing = |from: usize, count: usize| -> Vec<Entry> {
        let names = from..from + count;
        names
            .map(|n| file(&format!("{n:04}"), 1, from as i64))
            .collect()
    };
    let listings = vec![
        (member(1, "ann"), listing(0, 30)),
        (member(2, "bob"), listing(1, 900)),
        (member(3, "eve"), listing(2, 899)),
        (member(4, "mallory"), listing(3, 898)),
    ];
    let merged = merge_at_most(listings.clone(), None, 4000);
    assert!(merged.left_out.is_empty());
    let whole = merged.items.len();
    let merged = merge_at_most(listings, None, 200);
    let left_out: Vec<&str> = merged.left_out.iter().map(|member| &*member.name).collect();
    assert_eq!(left_out, ["bob", "eve"]);
    assert!(merged.items.len() < whole);
    let of_ann = |item: &&Item| item.original.is_some() && &*item.sources[0].member.name == "ann";
    assert_eq!(
        merged.items.iter().filter(of_ann).count(),
        29,
        "all of the few"
    );
}

#[test]
fn impossible_size_hides_one_entry() {
    let listing = vec![file("bad", 1 << 63, 1), file("good", 1, 1)];
    let items = directory(vec![(member(1, "ann"), listing)], None);
    assert_eq!(shown(&items), [row("good", 1, &[1])]);
}

#[test]
fn the_preferred_member_is_read_first() {
    let listings = vec![
        (member(1, "ann"), vec![rooted("a", 1, 1, Some(5))]),
        (member(2, "bob"), vec![rooted("a", 1, 1, Some(5))]),
    ];
    let items = directory(listings, Some(PeerId::from_bytes([2; 32])));
    assert_eq!(&*items[0].sources[0].member.name, "bob");
}

/// Few names, sizes, times and roots, so that everything collides; some names look like conflicts.
fn entry() -> impl Strategy<Value = Entry> {
    let names = prop::sample::select(vec![
        "a.txt",
        "a (m1).txt",
        "a (m2).txt",
        "b",
        "b (m1)",
        "d",
        ".x",
        "x (m1) (m2)",
    ]);
    let root = prop::option::weighted(0.4, 0..3u8);
    (names, 0..3u64, 0..3i64, root, prop::bool::weighted(0.2)).prop_map(
        |(name, size, mtime, root, is_folder)| {
            if is_folder {
                folder(name, mtime)
            } else {
                rooted(name, size, mtime, root)
            }
        },
    )
}

fn network() -> impl Strategy<Value = Vec<(Arc<MemberRef>, Vec<Entry>)>> {
    prop::collection::vec(prop::collection::vec(entry(), 0..8), 0..5).prop_map(|listings| {
        let unique = |entries: Vec<Entry>| {
            let by_name = entries.into_iter().map(|entry| (entry.name.clone(), entry));
            by_name.collect::<BTreeMap<_, _>>().into_values().collect()
        };
        let members = (1..).map(|seed| member(seed, &format!("m{seed}")));
        members.zip(listings.into_iter().map(unique)).collect()
    })
}

proptest! {
    #[test]
    fn response_order_does_not_matter(
        listings in network(),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut other = listings.clone();
        other.reverse();
        if !other.is_empty() {
            let by = seed.index(other.len());
            other.rotate_left(by);
        }
        prop_assert_eq!(directory(listings, None), directory(other, None));
    }

    #[test]
    fn names_are_unique_sorted_and_valid(listings in network()) {
        let items = directory(listings, None);
        prop_assert!(items.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    /// The reference: every (member, name) is a source of exactly one item of that original name,
    /// two of them share an item only if rule 2 allows it, and real names mean what they say.
    #[test]
    fn the_merged_directory_is_the_union(listings in network()) {
        let mut expected = BTreeSet::new();
        for (member, entries) in &listings {
            expected.extend(entries.iter().map(|entry| (entry.name.clone(), member.id)));
        }
        let names: BTreeSet<Name> = expected.iter().map(|(name, _)| name.clone()).collect();
        let items = directory(listings.clone(), None);
        let mut seen = BTreeSet::new();
        for item in &items {
            let said = |id: PeerId| {
                let (_, entries) = listings.iter().find(|(m, _)| m.id == id).unwrap();
                let name = item.name_at_members();
                entries.iter().find(|entry| entry.name == *name).unwrap().attributes
            };
            for source in item.sources.iter() {
                prop_assert!(seen.insert((item.name_at_members().clone(), source.member.id)));
                let attributes = said(source.member.id);
                prop_assert_eq!(attributes.kind, item.kind);
                if item.kind == Kind::File {
                    prop_assert_eq!(attributes.size, item.size);
                    prop_assert!(item.size == 0 || attributes.root == item.root);
                }
            }
            // Only a conflict is shown under a name that nobody uses.
            prop_assert_eq!(item.original.is_none(), names.contains(&item.name));
            // Without a root nothing is known to be the same, except empty files.
            let is_alone = item.sources.len() == 1;
            prop_assert!(is_alone || item.root.is_some() || item.size == 0);
        }
        prop_assert_eq!(seen, expected);
        // Every name in use is shown, whoever wins it.
        prop_assert!(names.iter().all(|name| items.iter().any(|item| item.name == *name)));
    }

    #[test]
    fn merge_of_one_name_agrees_with_listing(listings in network()) {
        let items = directory(listings.clone(), None);
        for item in items.iter().filter(|item| item.original.is_none()) {
            let said = listings.iter().flat_map(|(member, entries)| {
                let of_name = entries.iter().filter(|entry| entry.name == item.name);
                of_name.map(|entry| (Arc::clone(member), entry.attributes))
            });
            let asked = name(&item.name, said.collect(), None);
            prop_assert_eq!(asked.as_ref(), Some(item));
        }
    }
}
