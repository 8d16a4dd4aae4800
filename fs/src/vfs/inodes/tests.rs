use std::collections::HashSet;

use tinyp2p_net::download::Availability;
use tinyp2p_net::model::{ContentId, Name, PeerId, Root};

use super::*;
use crate::vfs::control_fs::is_hidden;
use crate::vfs::open_content::ContentState;
use crate::view::identity::number_by_itself;

fn path() -> RelPath {
    RelPath::new(b"d/a").unwrap()
}

/// A file that members have in the given versions.
fn file(sources: &[(u8, u64)], root: Option<u8>) -> Item {
    let source = |(seed, version): &(u8, u64)| EntrySource {
        member: Arc::new(MemberRef {
            id: PeerId::from_bytes([*seed; 32]),
            name: format!("m{seed}").into(),
        }),
        version: Version(*version),
        mode: Mode::Plain,
    };
    Item {
        name: Name::new(&b"a"[..]).unwrap(),
        original: None,
        kind: Kind::File,
        size: FileSize::of(1),
        mtime: 1.into(),
        root: root.map(|byte| Root::from_bytes([byte; 32])),
        sources: sources.iter().map(source).collect(),
    }
}

fn merged(inodes: &mut Inodes, path: RelPath, item: &Item) -> u64 {
    inodes.look_up(Vantage::Merged, path, item).0
}

/// The members known to have it.
fn holders(inode: &Inode) -> Vec<u8> {
    let sources = inode.sources.iter();
    sources.map(|s| s.member.id.as_bytes()[0]).collect()
}

const OF_BOB: Vantage = Vantage::Member(PeerId::from_bytes([2; 32]));

#[test]
fn files_but_not_directories_span_trees() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let item = file(&[(2, 7)], Some(9));
    let directory = Item {
        kind: Kind::Directory,
        root: None,
        ..file(&[(2, 7)], None)
    };
    let mut numbers =
        |item: &Item| [Vantage::Merged, OF_BOB].map(|tree| inodes.look_up(tree, path(), item).0);
    let [merged, of_bob] = numbers(&item);
    assert_eq!(merged, of_bob);
    let [merged, of_bob] = numbers(&directory);
    assert_ne!(merged, of_bob);
    assert_eq!(inodes.directory(Vantage::Merged, &path()), Some(merged));
    assert_eq!(inodes.directory(OF_BOB, &path()), Some(of_bob));
    assert_eq!(inodes.directory(Vantage::Found, &path()), None);
}

#[test]
fn number_survives_learning_the_content() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let name = Item {
        size: FileSize::UNKNOWN,
        ..file(&[(1, 3)], None)
    };
    for root in [Some(9), None] {
        let number = merged(&mut inodes, path(), &name);
        let known = file(&[(1, 3)], root);
        assert_eq!(merged(&mut inodes, path(), &known), number);
        let inode = inodes.get(number).unwrap();
        assert_eq!((inode.size, inode.root()), (1.into(), known.root));
        let has: Vec<_> = inode.readable().map(|(_, has)| has).collect();
        assert_eq!(has, [Availability::File(Version(3))]);
        let other = file(&[(1, 4)], None);
        assert_ne!(merged(&mut inodes, path(), &other), number);
        inodes.forget(number, 2);
        assert!(inodes.get(number).is_none());
        assert!(!inodes.numbers.values().any(|known| *known == number));
    }
}

#[test]
fn member_lookup_keeps_other_sources() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let both = file(&[(1, 3), (2, 5)], Some(9));
    let (alone, later) = (file(&[(2, 5)], Some(9)), file(&[(2, 6)], Some(9)));
    let (number, inode) = inodes.look_up(OF_BOB, path(), &alone);
    assert_eq!(holders(inode), [2]);
    assert_eq!(
        holders(inodes.look_up(Vantage::Merged, path(), &both).1),
        [1, 2]
    );
    let known = Arc::clone(&inodes.get(number).unwrap().sources);
    let inode = inodes.look_up(OF_BOB, path(), &alone).1;
    assert!(
        Arc::ptr_eq(&known, &inode.sources),
        "nothing is copied when nothing is new"
    );
    let inode = inodes.look_up(OF_BOB, path(), &later).1;
    assert_eq!(holders(inode), [1, 2]);
    assert_eq!(inode.sources[1].version, Version(6));
    let ann = file(&[(1, 3)], Some(9));
    assert_eq!(
        holders(inodes.look_up(Vantage::Merged, path(), &ann).1),
        [1]
    );
    let found = inodes.look_up(Vantage::Found, path(), &ann).1;
    assert_eq!(holders(found), [1], "who has left stays away");
}

#[test]
fn replaced_content_is_not_kept() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let both = file(&[(1, 3), (2, 5)], Some(9));
    let number = merged(&mut inodes, path(), &both);
    inodes.get_mut(number).unwrap().is_replaced = true;
    let alone = file(&[(2, 5)], Some(9));
    let inode = inodes.look_up(OF_BOB, path(), &alone).1;
    assert_eq!((holders(inode), inode.is_replaced), (vec![2], false));
}

#[test]
fn member_tree_makes_no_file_older() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let at = |mtime| Item {
        mtime,
        ..file(&[(2, 5)], Some(9))
    };
    let mut look = |tree, mtime: i64| {
        let (_, inode) = inodes.look_up(tree, path(), &at(mtime.into()));
        inode.mtime.in_64_bits()
    };
    assert_eq!(look(OF_BOB, -5), -5);
    assert_eq!(look(Vantage::Merged, 9), 9);
    assert_eq!(look(OF_BOB, -5), 9);
    assert_eq!(look(Vantage::Merged, 3), 3);
}

#[test]
fn inode_is_small_for_rare_trees() {
    assert!(size_of::<(u64, Inode)>() + size_of::<(u64, u64)>() <= 150);
}

#[test]
fn the_same_content_keeps_its_number() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let first = merged(&mut inodes, path(), &file(&[(1, 7)], None));
    assert_eq!(merged(&mut inodes, path(), &file(&[(1, 7)], None)), first);
}

#[test]
fn other_size_of_a_root_is_another_number() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let honest = file(&[(1, 1)], Some(9));
    let liar = Item {
        size: FileSize::of(5000),
        ..file(&[(2, 2)], Some(9))
    };
    let number = merged(&mut inodes, path(), &honest);
    assert_ne!(number, merged(&mut inodes, path(), &liar));
    let kept = inodes.get(number).unwrap();
    assert_eq!(
        (kept.size, kept.sources[0].member.id.as_bytes()[0]),
        (1.into(), 1)
    );
}

#[test]
fn other_version_or_root_is_another_number() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let items = [
        file(&[(1, 7)], None),
        file(&[(1, 8)], None),
        file(&[(2, 7)], None),
        file(&[(1, 7)], Some(1)),
        file(&[(1, 7)], Some(2)),
    ];
    let numbers = items.iter().map(|i| merged(&mut inodes, path(), i));
    let numbers: HashSet<u64> = numbers.collect();
    assert_eq!(numbers.len(), items.len());
    assert!(
        numbers
            .iter()
            .all(|number| *number > ROOT && !is_hidden(*number))
    );
}

/// A member whose file was seen with some bytes lists it empty, like everybody else's, in
/// the same version.
#[test]
fn an_empty_file_is_nobodys_bytes() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let sized = |sources: &[(u8, u64)], size| Item {
        size,
        ..file(sources, None)
    };
    let full = merged(&mut inodes, path(), &sized(&[(1, 7)], FileSize::of(100)));
    let (empty, inode) = inodes.look_up(
        Vantage::Merged,
        path(),
        &sized(&[(1, 7), (2, 3)], FileSize::of(0)),
    );
    assert_eq!(
        (inode.size, inode.identity),
        (FileSize::ZERO, InodeIdentity::Empty)
    );
    assert_ne!(empty, full);
    let (number, _) = inodes.look_up(OF_BOB, path(), &sized(&[(2, 4)], FileSize::of(0)));
    assert_eq!(number, empty, "whoever has it");
}

#[test]
fn other_size_of_a_version_is_another_number() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let sized = |size| Item {
        size,
        ..file(&[(1, 7)], None)
    };
    let short = merged(&mut inodes, path(), &sized(FileSize::of(100)));
    let long = merged(&mut inodes, path(), &sized(FileSize::of(200)));
    assert_ne!(short, long);
    assert_eq!(inodes.get(long).unwrap().size, 200);
    assert_eq!(inodes.get(short).unwrap().size, 100);
}

#[test]
fn unrooted_content_stays_with_its_member() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let number = merged(&mut inodes, path(), &file(&[(5, 7)], None));
    let joined = file(&[(1, 3), (5, 7)], None);
    assert_eq!(merged(&mut inodes, path(), &joined), number);
    let members: Vec<PeerId> = inodes
        .get(number)
        .unwrap()
        .readable()
        .map(|r| r.0)
        .collect();
    assert_eq!(members, [PeerId::from_bytes([5; 32])]);
    let left = file(&[(1, 3)], None);
    assert_ne!(merged(&mut inodes, path(), &left), number);
}

#[test]
fn rooted_content_is_read_from_all_holders() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let number = merged(&mut inodes, path(), &file(&[(1, 3), (5, 7)], Some(9)));
    assert_eq!(inodes.get(number).unwrap().readable().count(), 2);
}

#[test]
fn inode_lives_until_every_lookup_is_forgotten() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let item = file(&[(1, 7)], None);
    let number = merged(&mut inodes, path(), &item);
    merged(&mut inodes, path(), &item);
    inodes.forget(number, 1);
    assert!(inodes.get(number).is_some());
    inodes.forget(number, 1);
    assert!(inodes.get(number).is_none());
    assert_eq!((inodes.inodes.len(), inodes.numbers.len()), (1, 1));
}

#[test]
fn forgotten_inode_gets_its_number_back() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let item = file(&[(1, 7)], None);
    let number = merged(&mut inodes, path(), &item);
    inodes.forget(number, 1);
    assert_eq!(merged(&mut inodes, path(), &item), number);
    let other = merged(&mut inodes, path(), &file(&[(2, 7)], None));
    assert_ne!(other, number);
}

#[test]
fn numbers_are_the_same_after_a_remount() {
    let items = [
        file(&[(1, 7)], None),
        file(&[(1, 7), (2, 3)], Some(9)),
        Item {
            kind: Kind::Directory,
            root: None,
            ..file(&[(2, 7)], None)
        },
    ];
    let (mut before, mut after) = (Inodes::new(UnixTime::EPOCH), Inodes::new(5.into()));
    // Regardless of what was shown first.
    for number in 0..100 {
        let path = RelPath::new(format!("{number}").as_bytes()).unwrap();
        merged(&mut after, path, &items[0]);
    }
    for item in items {
        let number = merged(&mut before, path(), &item);
        assert_eq!(merged(&mut after, path(), &item), number);
        assert_eq!(number_by_itself(&path(), &item), number);
    }
    // For good: a program of another version must not assign others.
    let known = merged(&mut before, path(), &file(&[(1, 7)], Some(9)));
    assert_eq!(known, 701_655_237_514_297_333);
}

#[test]
fn taken_number_is_not_reused() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let (item, other) = (file(&[(1, 7)], None), file(&[(2, 8)], None));
    let wanted = number_by_itself(&path(), &other);
    let taken = merged(&mut inodes, path(), &item);
    let inode = inodes.inodes.remove(&taken).unwrap();
    inodes.inodes.insert(wanted, inode);
    let number = merged(&mut inodes, path(), &other);
    assert_ne!(number, wanted);
    assert_eq!(merged(&mut inodes, path(), &other), number);
}

#[test]
fn equal_hashes_get_distinct_numbers() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let (one, other) = (file(&[(1, 7)], None), file(&[(2, 8)], None));
    let number = merged(&mut inodes, path(), &one);
    let key = inodes.key(Vantage::Merged, path(), &other);
    let hash = hash_of(&key.0, &key.1);
    // As if `one` had been found where `other` belongs.
    inodes.numbers.insert(hash, number);
    let second = merged(&mut inodes, path(), &other);
    assert_ne!(second, number);
    assert_eq!(merged(&mut inodes, path(), &other), second);
    inodes.forget(second, 2);
    assert!(inodes.get(second).is_none() && !inodes.knows(&key));
}

#[test]
fn forgotten_tree_returns_its_memory() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let paths = (0..50_000).map(|n: u32| RelPath::new(n.to_string().as_bytes()).unwrap());
    let item = file(&[(1, 7)], None);
    let numbers: Vec<u64> = paths.map(|path| merged(&mut inodes, path, &item)).collect();
    for number in numbers {
        inodes.forget(number, 1);
    }
    assert!(inodes.inodes.capacity() <= 2 * MIN_CAPACITY);
    assert!(inodes.numbers.capacity() <= 2 * MIN_CAPACITY);
}

#[test]
fn the_root_cannot_be_forgotten() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    inodes.forget(ROOT, u64::MAX);
    assert!(inodes.get(ROOT).is_some());
    assert_eq!(
        inodes.directory(Vantage::Merged, &RelPath::root()),
        Some(ROOT)
    );
}

#[test]
fn looking_up_again_takes_the_news_over() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let number = merged(&mut inodes, path(), &file(&[(1, 7)], None));
    inodes.get_mut(number).unwrap().is_replaced = true;
    let mut item = file(&[(1, 7), (2, 9)], None);
    item.mtime = 5.into();
    merged(&mut inodes, path(), &item);
    let inode = inodes.get(number).unwrap();
    assert_eq!(
        (inode.mtime, inode.sources.len(), inode.is_replaced),
        (5.into(), 2, false)
    );
}

#[test]
fn kernel_hears_of_growth_once_it_may() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let small = file(&[(1, 7)], None);
    let number = merged(&mut inodes, path(), &small);
    let state = ContentState {
        member: PeerId::from_bytes([1; 32]),
        version: Version(7),
        content: None,
        size: 1,
        renewals: 0,
    };
    inodes.begin_reading(number, state).unwrap();
    let mut grown = file(&[(1, 7)], None);
    grown.size = 10.into();
    inodes.follow(number, &grown);
    // Whoever reads on gets all, but the kernel still has a page that ends with zeros.
    assert!(!inodes.begin_short_read(number, 1));
    let known = |inodes: &Inodes| inodes.get(number).unwrap().size;
    assert_eq!(
        (inodes.growing_from(number), known(&inodes)),
        (Some(1), 1.into())
    );
    inodes.finish_growth(number);
    assert_eq!(
        (inodes.growing_from(number), known(&inodes)),
        (None, 10.into())
    );
}

#[test]
fn kernel_pages_are_of_one_content() {
    let mut inodes = Inodes::new(UnixTime::EPOCH);
    let number = merged(&mut inodes, path(), &file(&[(1, 7)], None));
    let state = |version, root: Option<u8>| ContentState {
        member: PeerId::from_bytes([1; 32]),
        version: Version(version),
        content: root.map(|root| ContentId {
            root: Root::from_bytes([root; 32]),
            size: 1,
        }),
        size: 1,
        renewals: 0,
    };
    // Overwritten by as many bytes between the lookup and the open.
    let (other, pages) = inodes.begin_reading(number, state(8, Some(3))).unwrap();
    assert_eq!(pages, Pages::Drop);
    // The kernel may get this answer first, while it still has the old pages.
    let (same, pages) = inodes.begin_reading(number, state(8, Some(3))).unwrap();
    assert!(Arc::ptr_eq(&same, &other) && pages == Pages::Drop);
    let (old, pages) = inodes.begin_reading(number, state(7, None)).unwrap();
    assert_eq!(pages, Pages::Bypass);
    drop((other, same, old));
    for _ in 0..3 {
        inodes.end_reading(number);
    }
    let (same, pages) = inodes.begin_reading(number, state(8, Some(3))).unwrap();
    assert_eq!(pages, Pages::Keep);
    drop(same);
    inodes.end_reading(number);
    // The kernel still has pages of a content that the inode does not stand for.
    let (_, pages) = inodes.begin_reading(number, state(7, None)).unwrap();
    assert_eq!(pages, Pages::Drop);
    inodes.end_reading(number);
    let (_, pages) = inodes.begin_reading(number, state(7, None)).unwrap();
    assert_eq!(pages, Pages::Keep);
    inodes.end_reading(number);
    assert!(inodes.readers.is_empty() && inodes.open.is_empty());
}
