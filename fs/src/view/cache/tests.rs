use tinyp2p_net::budget::{ByteBudget, Held};
use tinyp2p_net::model::{Attributes, Entry, Mode, Version};
use tinyp2p_net::protocol::wire::{Change, Depth, Listing};

use super::*;
use crate::network::MemberRef;
use crate::view::directory::Said;
use crate::view::freshness::FRESH;
use crate::view::kept_replies::MAX_CHANGED;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

/// A directory of so many names, from the only member that has them.
fn directory(names: usize) -> Arc<MergedDirectory> {
    said_by(&[1], names)
}

/// The same directory, from all these members.
fn said_by(members: &[u8], names: usize) -> Arc<MergedDirectory> {
    let entry = |number: usize| Entry {
        name: Name::new(format!("{number:06}").into_bytes()).unwrap(),
        attributes: Attributes {
            kind: Kind::File,
            mode: Mode::Plain,
            size: 10.into(),
            mtime: 0.into(),
            version: Version(1),
            root: None,
        },
    };
    let budget: Arc<ByteBudget> = ByteBudget::new(16 * MAX_BYTES);
    let said = members.iter().map(|member| {
        let entries: Vec<Entry> = (0..names).map(entry).collect();
        let mut held = budget.reserve(id(*member));
        held.grow(entries.weight()).unwrap();
        let member = MemberRef {
            id: id(*member),
            name: format!("m{member}").into(),
        };
        let listing = Listing {
            version: Version(1),
            mtime: 0.into(),
            entries,
            more: false,
            counter: None,
        };
        Said::fresh(Arc::new(member), Held::new(listing, held))
    });
    let said = said.collect();
    Arc::new(MergedDirectory::merged(said, Vec::new(), None, |_| true))
}

fn at(now: Instant) -> Present {
    Present { now, revision: 1 }
}

/// Members 1 and 2 watch what they said.
fn watched(came: Instant) -> Freshness {
    Freshness {
        watched: Arc::new([id(1), id(2)]),
        is_all_watched: true,
        revision: 1,
        ..Freshness::unwatched(came)
    }
}

fn change(text: &str, depth: Depth) -> Change {
    Change {
        path: path(text),
        depth,
    }
}

#[test]
fn a_listing_holds_for_a_second() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    cache.insert(path("d"), directory(1), Freshness::unwatched(now));
    let mut holds = |after| cache.directory(&path("d"), at(now + after)).is_some();
    assert!(holds(FRESH / 2));
    assert!(!holds(FRESH));
}

#[test]
fn absence_holds_for_a_second() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    cache.insert_absent(path("d/x"), Freshness::unwatched(now));
    let mut is_absent = |text, after| cache.is_absent(&path(text), at(now + after));
    assert!(is_absent("d/x", FRESH / 2));
    assert!(!is_absent("d/x", FRESH));
    assert!(!is_absent("d/y", Duration::ZERO));
}

#[test]
fn change_ends_only_what_it_concerns() {
    let now = Instant::now();
    let listings = ["", "a", "a/b", "a/b/c", "a/b-", "a/b.d", "z"];
    for (depth, left) in [
        (Depth::Entry, &["", "a/b/c", "a/b-", "a/b.d", "z"][..]),
        (Depth::Tree, &["", "a/b-", "a/b.d", "z"]),
    ] {
        let mut cache = ViewCache::default();
        for listing in listings {
            cache.insert(path(listing), directory(1), watched(now));
        }
        cache.insert_absent(path("a/b/x"), watched(now));
        cache.insert_absent(path("a/b-/x"), watched(now));
        cache.changes.note(Some(id(1)), &change("a/b", depth));
        let holding = |cache: &mut ViewCache| {
            let present = at(now + FRESH);
            let holds = |d: &&str| cache.directory(&path(d), present).is_some();
            listings.into_iter().filter(holds).collect::<Vec<_>>()
        };
        assert_eq!(holding(&mut cache), left);
        cache.changes.note_everything(id(1));
        assert!(holding(&mut cache).is_empty());
        assert!(
            cache.last_directory(&path("a/b")).is_some(),
            "a guess is left"
        );
        let mut cache = ViewCache::default();
        cache.insert_absent(path("a/b/x"), watched(now));
        cache.insert_absent(path("a/b-/x"), watched(now));
        cache.changes.note(Some(id(1)), &change("a/b", depth));
        let mut is_absent = |p: &str| cache.is_absent(&path(p), at(now + FRESH));
        assert_eq!(is_absent("a/b/x"), depth == Depth::Entry);
        assert!(is_absent("a/b-/x"));
    }
}

#[test]
fn change_of_one_member_keeps_the_others() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    cache.insert(path("d"), said_by(&[1, 2], 3), watched(now));
    cache.insert_absent(path("d/x"), watched(now));
    cache.changes.note_everything(id(1));
    let present = at(now);
    assert!(cache.directory(&path("d"), present).is_none());
    assert!(!cache.is_absent(&path("d/x"), present));
    let kept = cache.kept(&path("d"), present);
    assert_eq!(kept.members, [id(2)]);
    let from = kept.from.unwrap();
    let mut again = from.room(|member| member == id(2)).unwrap();
    assert_eq!(again.len(), 1);
    let said = vec![from.say(again.remove(0))];
    assert_eq!(said[0].member(), id(2));
    let merged = MergedDirectory::merged(said, Vec::new(), None, |_| true);
    assert_eq!(merged.items.len(), 3);
    let kept = cache.kept_absence(&path("d/x"), present);
    assert_eq!(kept.members, [id(2)]);
    let later = at(now + tinyp2p_net::config::PROMISE);
    assert!(cache.kept(&path("d"), later).members.is_empty());
}

#[test]
fn change_of_one_name_keeps_the_others() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    cache.insert(path("d"), directory(1), watched(now));
    cache
        .changes
        .note(Some(id(1)), &change("d/grows", Depth::Entry));
    let speaks_for = |cache: &mut ViewCache, name: &str| {
        let name = Name::new(name.as_bytes()).unwrap();
        let listing = cache.directory_for(&path("d"), &name, at(now));
        listing.is_some()
    };
    let expected = [("000000", true), ("grows", false), ("grows (ann)", false)];
    for (name, speaks) in expected {
        assert_eq!(speaks_for(&mut cache, name), speaks, "{name}");
    }
    assert!(cache.directory(&path("d"), at(now)).is_none());
    // The same if they arrived during the question.
    cache.insert(path("d"), directory(1), watched(now));
    assert!(speaks_for(&mut cache, "0") && !speaks_for(&mut cache, "grows"));
    for number in 0..=MAX_CHANGED {
        cache
            .changes
            .note(Some(id(1)), &change(&format!("d/{number}"), Depth::Entry));
    }
    assert!(!speaks_for(&mut cache, "another"));
}

#[test]
fn forgetting_a_file_ends_its_directory() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    cache.insert(path("d"), directory(1), Freshness::unwatched(now));
    cache.insert_absent(path("d/x"), Freshness::unwatched(now));
    cache.forget(&path("d/x"));
    assert!(cache.directory(&path("d"), at(now)).is_none());
    assert!(!cache.is_absent(&path("d/x"), at(now)));
    assert_eq!(cache.known(), DirectoryTotals::default());
    assert_eq!((cache.directories.weight(), cache.absent_bytes), (0, 0));
}

#[test]
fn oldest_directories_make_room() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    let part = 2 * MAX_BYTES / 5 / (directory(100).bytes() / 100);
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let later = now + Duration::from_millis(number as u64);
        cache.insert(path(name), directory(part), Freshness::unwatched(later));
    }
    let kept = ["a", "b", "c", "d"].map(|name| cache.last_directory(&path(name)).is_some());
    assert_eq!(kept, [false, false, true, true]);
    assert_eq!(cache.known().items, 2 * part);
    assert_eq!(cache.known().bytes, 20 * part as u64);
    let bytes = cache.directories.weight();
    assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES / 2);
}

#[test]
fn one_directory_is_kept_whatever_its_size() {
    let (mut cache, now) = (ViewCache::new(1000), Instant::now());
    cache.insert(path("small"), directory(1), Freshness::unwatched(now));
    cache.insert(path("huge"), directory(100), Freshness::unwatched(now));
    assert!(cache.last_directory(&path("huge")).is_some());
    assert!(cache.last_directory(&path("small")).is_none());
}

#[test]
fn members_own_listings_make_room() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    cache.insert(path("its"), directory(5), Freshness::unwatched(now));
    cache.insert(path("other"), said_by(&[2], 5), Freshness::unwatched(now));
    assert_eq!(cache.forget_those_of(id(1)).len(), 1);
    assert!(cache.last_directory(&path("other")).is_some());
    assert_eq!(cache.known().items, 5);
}

#[test]
fn a_directory_listed_again_counts_once() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    for second in 0..100 {
        let later = now + Duration::from_secs(second);
        cache.insert(path("d"), directory(10), Freshness::unwatched(later));
    }
    assert_eq!(cache.known().items, 10);
    assert_eq!(cache.directories.len(), 1);
}

#[test]
fn absences_are_bounded() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    for number in 0..2 * MAX_ABSENT {
        cache.insert_absent(path(&number.to_string()), Freshness::unwatched(now));
    }
    assert_eq!(cache.absent.len(), MAX_ABSENT);
    let long = ["x".repeat(250).as_str(); 16].join("/");
    for number in 0..2 * MAX_ABSENT_BYTES / long.len() {
        cache.insert_absent(path(&format!("{long}/{number}")), Freshness::unwatched(now));
    }
    assert!(cache.absent_bytes <= MAX_ABSENT_BYTES);
    cache.insert_absent(path("last"), Freshness::unwatched(now + FRESH));
    assert_eq!((cache.absent.len(), cache.absences.len()), (1, 1));
    assert_eq!(cache.absent_bytes, absence_weight(&path("last")));
}

#[test]
fn many_questions_are_worth_a_listing() {
    let (mut cache, now) = (ViewCache::default(), Instant::now());
    assert!(!cache.is_worth_listing(&path("unknown")));
    cache.insert(path("d"), directory(6_400), Freshness::unwatched(now));
    let questions = (1..).find(|_| cache.is_worth_listing(&path("d"))).unwrap();
    assert_eq!(questions, QUESTIONS_PER_LISTING + 100 + 1);
}
