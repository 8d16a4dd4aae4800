//! The view over a network in memory whose members come, go and stop answering.

mod large;
mod watched;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tinyp2p_net::peer::Peer;
use tinyp2p_net::testing::Behaviour;

use super::*;
use crate::testing::MemoryNetwork;

const SOON: Duration = Duration::from_secs(10);

fn within(time: Duration) -> Wait {
    Wait::Until(Instant::now() + time)
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn setup() -> (Arc<MemoryNetwork>, View) {
    let network = Arc::new(MemoryNetwork::default());
    let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
    (network, view)
}

fn names(directory: &MergedDirectory) -> Vec<String> {
    directory
        .items
        .iter()
        .map(|item| item.name.to_string())
        .collect()
}

/// What a lookup of one path says: the size of the file there, if anything is there.
fn size(view: &View, directory: &str, text: &str) -> Option<u64> {
    match view.find(&path(directory), &name(text), within(SOON)) {
        Ok(NameLookup::Item(item)) => Some(item.size.or_zero()),
        Ok(NameLookup::Nothing { .. }) | Err(Error::Silent(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

const CERTAIN: NameLookup = NameLookup::Nothing { certain: true };
const UNCERTAIN: NameLookup = NameLookup::Nothing { certain: false };

#[test]
fn an_empty_network_has_an_empty_root() {
    let (_, view) = setup();
    assert_eq!(
        names(&view.list(&path(""), within(SOON)).unwrap()),
        Vec::<String>::new()
    );
    assert!(matches!(
        view.list(&path("d"), within(SOON)),
        Err(Error::NotFound)
    ));
}

#[test]
fn members_are_merged() {
    let (network, view) = setup();
    network.join("ann", 1).put("d/x", "x", 1);
    network.join("bob", 2).put("d/y", "yy", 1);
    assert_eq!(names(&view.list(&path(""), within(SOON)).unwrap()), ["d"]);
    assert_eq!(
        names(&view.list(&path("d"), within(SOON)).unwrap()),
        ["x", "y"]
    );
    assert_eq!(size(&view, "d", "y"), Some(2));
}

#[test]
fn memory_alone_answers_only_what_it_knows() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "x", 1);
    assert!(matches!(
        view.list(&path(""), Wait::No),
        Err(Error::NeedsNetwork)
    ));
    assert!(matches!(
        view.find(&path(""), &name("x"), Wait::No),
        Err(Error::NeedsNetwork)
    ));
    view.list(&path(""), within(SOON)).unwrap();
    assert!(view.list(&path(""), Wait::No).is_ok());
    assert!(matches!(
        view.find(&path(""), &name("x"), Wait::No),
        Ok(NameLookup::Item(_))
    ));
}

#[test]
fn fresh_listing_answers_hits_and_misses() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "x", 1);
    view.list(&path(""), within(SOON)).unwrap();
    let calls = network.calls();
    for probe in ["x", ".hidden", "autorun.inf", "x (ann)"] {
        view.find(&path(""), &name(probe), Wait::No).unwrap();
    }
    assert_eq!(network.calls(), calls);
}

#[test]
fn fresh_absence_costs_one_question() {
    let (network, view) = setup();
    network.join("ann", 1);
    for _ in 0..3 {
        assert_eq!(
            view.find(&path(""), &name("x"), within(SOON)).unwrap(),
            CERTAIN
        );
    }
    assert_eq!(network.calls(), 1);
}

#[test]
fn new_file_shows_at_once_if_not_listed() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    assert_eq!(size(&view, "d", "old"), None);
    ann.put("d/new", "x", 1);
    assert_eq!(size(&view, "d", "new"), Some(1));
}

#[test]
fn changes_are_seen_within_a_second() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put("x", "x", 1);
    view.list(&path(""), within(SOON)).unwrap();
    ann.put("y", "y", 1);
    ann.remove("x");
    let begun = Instant::now();
    while names(&view.list(&path(""), within(SOON)).unwrap()) != ["y"] {
        assert!(begun.elapsed() < freshness::FRESH + Duration::from_secs(2));
        std::thread::yield_now();
    }
}

#[test]
fn invalidation_forces_the_next_request() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put("x", "x", 1);
    view.list(&path(""), within(SOON)).unwrap();
    ann.put("x", "longer", 2);
    view.invalidate(&path("x"));
    assert_eq!(size(&view, "", "x"), Some(6));
}

#[test]
fn silence_is_not_absence() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "x", 1);
    let bob = network.join("bob", 2);
    bob.put("y", "y", 1);
    bob.behave(Behaviour::Gone);
    assert_eq!(
        view.find(&path(""), &name("y"), within(SOON)).unwrap(),
        UNCERTAIN
    );
    bob.behave(Behaviour::Honest);
    // Not remembered: the next question finds it at once.
    assert_eq!(size(&view, "", "y"), Some(1));
}

#[test]
fn when_nobody_answers_nothing_can_be_told() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.behave(Behaviour::Gone);
    let found = view.find(&path(""), &name("x"), within(SOON));
    assert!(matches!(found, Err(Error::Silent(_))));
    // The root still exists.
    assert!(view.list(&path(""), within(SOON)).unwrap().items.is_empty());
}

#[test]
fn failing_member_makes_unknown_names_fail() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put("x", "x", 1);
    let bob = network.join("bob", 2);
    bob.put("y", "y", 1);
    bob.behave(Behaviour::Exhausted);
    let find = |text: &str| view.find(&path(""), &name(text), within(SOON));
    assert!(matches!(find("y"), Err(Error::Failing(who)) if who == "bob"));
    assert_eq!(size(&view, "", "x"), Some(1));
    bob.behave(Behaviour::Honest);
    assert_eq!(size(&view, "", "y"), Some(1), "it is not remembered");
    bob.behave(Behaviour::Exhausted);
    // A listing made without bob knows that, too.
    assert_eq!(names(&view.list(&path(""), within(SOON)).unwrap()), ["x"]);
    let listed = view.find(&path(""), &name("y"), Wait::No);
    assert!(matches!(listed, Err(Error::Failing(_))), "{listed:?}");
    network.leave(ann.id());
    network.join("carol", 3).behave(Behaviour::Gone);
    for empty in ["", "d"] {
        let empty = View::new(network.clone(), None).list(&path(empty), within(SOON));
        assert!(matches!(empty, Err(Error::Failing(_))), "{empty:?}");
    }
}

#[test]
fn miss_in_partial_listing_is_uncertain() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "x", 1);
    network.join("bob", 2).behave(Behaviour::Gone);
    let listing = view.list(&path(""), within(SOON)).unwrap();
    assert_eq!(
        (names(&listing), &*listing.silent[0]),
        (vec!["x".to_owned()], "bob")
    );
    assert_eq!(
        view.find(&path(""), &name("y"), Wait::No).unwrap(),
        UNCERTAIN
    );
}

#[test]
fn frozen_member_hides_its_own_files_only() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "x", 1);
    let bob = network.join("bob", 2);
    bob.put("y", "y", 1);
    bob.behave(Behaviour::Frozen);
    let begun = Instant::now();
    let listing = view
        .list(&path(""), within(Duration::from_millis(100)))
        .unwrap();
    assert_eq!(names(&listing), ["x"]);
    assert!(begun.elapsed() < Duration::from_secs(2));
    bob.behave(Behaviour::Honest);
}

#[test]
fn slow_member_is_awaited_till_the_deadline() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put("x", "x", 1);
    ann.behave(Behaviour::Slow(Duration::from_millis(50)));
    assert_eq!(names(&view.list(&path(""), within(SOON)).unwrap()), ["x"]);
}

#[test]
fn silent_members_directory_is_not_empty() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "x", 1);
    let bob = network.join("bob", 2);
    bob.put("d/y", "y", 1);
    bob.behave(Behaviour::Gone);
    assert!(matches!(
        view.list(&path("d"), within(SOON)),
        Err(Error::Silent(_))
    ));
    assert!(matches!(
        view.mtime(&path("d"), within(SOON)),
        Err(Error::Silent(_))
    ));
    assert!(matches!(
        view.list(&path("e"), within(SOON)),
        Err(Error::Silent(_))
    ));
    network.leave(bob.id());
    assert!(matches!(
        view.list(&path("d"), within(SOON)),
        Err(Error::NotFound)
    ));
}

#[test]
fn one_directory_is_fetched_once_at_a_time() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put("x", "x", 1);
    ann.behave(Behaviour::Slow(Duration::from_millis(200)));
    std::thread::scope(|scope| {
        let lists = [(); 8].map(|()| scope.spawn(|| view.list(&path(""), within(SOON)).unwrap()));
        let lists = lists.map(|list| list.join().unwrap());
        assert!(lists.iter().all(|listing| Arc::ptr_eq(listing, &lists[0])));
    });
    assert_eq!(network.calls(), 1);
}

#[test]
fn shared_fetch_ends_at_own_deadline() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.behave(Behaviour::Frozen);
    std::thread::scope(|scope| {
        scope.spawn(|| view.list(&path("d"), within(SOON)));
        while network.calls() == 0 {
            std::thread::yield_now();
        }
        let late = view.list(&path("d"), within(Duration::from_millis(20)));
        assert!(matches!(late, Err(Error::Late)));
        ann.behave(Behaviour::Honest);
    });
}

#[test]
fn invalidated_fetch_is_not_kept() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.behave(Behaviour::Frozen);
    std::thread::scope(|scope| {
        let listing = scope.spawn(|| view.list(&path(""), within(SOON)));
        while network.calls() == 0 {
            std::thread::yield_now();
        }
        view.invalidate(&path("x"));
        ann.behave(Behaviour::Honest);
        assert!(listing.join().unwrap().is_ok());
    });
    assert!(matches!(
        view.list(&path(""), Wait::No),
        Err(Error::NeedsNetwork)
    ));
}

#[test]
fn conflict_by_name_is_the_listed_one() {
    let (network, view) = setup();
    network.join("ann", 1).put("a.txt", "1", 1);
    network.join("bob", 2).put("a.txt", "22", 2);
    assert_eq!(size(&view, "", "a.txt"), Some(2));
    assert_eq!(size(&view, "", "a (ann).txt"), Some(1));
    assert_eq!(size(&view, "", "a (bob).txt"), None);
    let listing = view.list(&path(""), within(SOON)).unwrap();
    assert_eq!(names(&listing), ["a (ann).txt", "a.txt"]);
}

#[test]
fn walk_of_listed_directory_asks_little() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    for number in 0..100 {
        ann.put(&number.to_string(), "x", 1);
    }
    view.list(&path(""), within(SOON)).unwrap();
    std::thread::sleep(freshness::FRESH);
    let before = network.calls();
    for number in 0..100 {
        assert_eq!(size(&view, "", &number.to_string()), Some(1));
    }
    assert!(
        network.calls() - before < 25,
        "{} calls",
        network.calls() - before
    );
}

#[test]
fn reserved_name_is_not_taken_from_members() {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put(".tinyp2p/x", "x", 1);
    ann.put("d/.tinyp2p", "x", 1);
    assert_eq!(names(&view.list(&path(""), within(SOON)).unwrap()), ["d"]);
    assert_eq!(
        view.find(&path(""), &name(".tinyp2p"), Wait::No).unwrap(),
        CERTAIN
    );
    assert_eq!(size(&view, "d", ".tinyp2p"), Some(1));
}

#[test]
fn sums_are_of_what_was_listed() {
    let (network, view) = setup();
    network.join("ann", 1).put("x", "12345", 1);
    view.list(&path(""), within(SOON)).unwrap();
    assert_eq!(view.known(), DirectoryTotals { items: 1, bytes: 5 });
}

#[test]
fn late_listing_makes_no_absence_certain() {
    let (network, view) = three();
    let dan = network.join("dan", 4);
    dan.put("all/of dan", "x", 1);
    dan.behave(Behaviour::Slow(Duration::from_millis(1100)));
    // It is waited for until it has been slow twice.
    for absent in ["nothing", "nowhere"] {
        assert_eq!(size(&view, "", absent), None);
    }
    let listing = view.list(&path("all"), within(SOON)).unwrap();
    assert_eq!(
        (names(&listing), listing.silent.len()),
        (vec!["x".to_owned()], 1)
    );
    let begun = Instant::now();
    let listing = loop {
        let listing = view.list(&path("all"), within(SOON)).unwrap();
        if names(&listing) == ["of dan", "x"] {
            break listing;
        }
        assert!(begun.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(*listing.silent, ["dan".into()]);
    let found = view.find(&path("all"), &name("new"), Wait::No);
    assert_eq!(found.unwrap(), UNCERTAIN);
}

/// Names that desktop programs look for in every directory that they come across: file managers,
/// indexers, thumbnailers, version control, and what other systems leave behind.
const PROBES: [&str; 24] = [
    ".hidden",
    ".Trash",
    ".Trash-1000",
    ".directory",
    ".xdg-volume-info",
    ".git",
    ".hg",
    ".svn",
    ".bzr",
    "HEAD",
    ".nomedia",
    ".trackerignore",
    ".metadata_never_index",
    ".localized",
    ".DS_Store",
    "._name",
    "autorun.inf",
    ".autorun",
    "autorun.sh",
    "desktop.ini",
    "Thumbs.db",
    "folder.jpg",
    "cover.jpg",
    "DCIM",
];

/// Three members with a directory that all have, and one that only the first has.
fn three() -> (Arc<MemoryNetwork>, View) {
    let (network, view) = setup();
    let ann = network.join("ann", 1);
    ann.put("own/x", "x", 1);
    for member in [ann, network.join("bob", 2), network.join("eve", 3)] {
        member.put_rooted("all/x", "x", 1);
    }
    (network, view)
}

#[test]
fn probes_in_listed_directory_are_free() {
    for directory in ["", "all", "own"] {
        let (network, view) = three();
        view.list(&path(directory), within(SOON)).unwrap();
        let calls = network.calls();
        for probe in PROBES {
            let found = view.find(&path(directory), &name(probe), Wait::No);
            assert_eq!(found.unwrap(), CERTAIN, "{probe}");
        }
        assert_eq!(network.calls(), calls, "in {directory:?}");
    }
}

#[test]
fn probes_elsewhere_cost_one_round() {
    for directory in ["", "all", "own"] {
        let (network, view) = three();
        for probe in PROBES {
            for round in [3, 0, 0] {
                let calls = network.calls();
                let found = view.find(&path(directory), &name(probe), within(SOON));
                assert_eq!(found.unwrap(), CERTAIN, "{probe}");
                assert!(network.calls() - calls <= round, "{probe} in {directory:?}");
            }
        }
    }
}

#[test]
fn uncertain_probe_is_asked_each_time() {
    for directory in ["", "all", "own"] {
        let (network, view) = three();
        let dan = network.join("dan", 4);
        dan.behave(Behaviour::Gone);
        for probe in PROBES {
            for _ in 0..2 {
                let calls = network.calls();
                let found = view.find(&path(directory), &name(probe), within(SOON));
                assert_eq!(found.unwrap(), UNCERTAIN, "{probe}");
                let cost = network.calls() - calls;
                assert!((3..=4).contains(&cost), "{cost} calls for {probe}");
            }
        }
    }
}

#[test]
fn probe_finds_what_has_come_since() {
    let (network, view) = three();
    let member = network.join("dan", 4);
    for directory in ["", "own/"] {
        let found = view.find(
            &path(directory.trim_end_matches('/')),
            &name(".hidden"),
            within(SOON),
        );
        assert_eq!(found.unwrap(), CERTAIN);
        member.put(&format!("{directory}.hidden"), "x", 1);
        let begun = Instant::now();
        while size(&view, directory.trim_end_matches('/'), ".hidden").is_none() {
            assert!(begun.elapsed() < freshness::FRESH + Duration::from_secs(2));
            std::thread::yield_now();
        }
    }
}

/// One change to the network.
#[derive(Debug, Clone)]
enum Change {
    Put {
        member: usize,
        name: &'static str,
        content: &'static str,
        mtime: i64,
    },
    Remove {
        member: usize,
        name: &'static str,
    },
    Leave(usize),
    Return(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let name = || prop::sample::select(vec!["a.txt", "b", "d/c", "d/e.x", "b (m0)"]);
    let content = prop::sample::select(vec!["", "1", "22"]);
    prop_oneof![
        5 => (0..3usize, name(), content, 0..2i64).prop_map(|(member, name, content, mtime)| {
            Change::Put { member, name, content, mtime }
        }),
        2 => (0..3usize, name()).prop_map(|(member, name)| Change::Remove { member, name }),
        1 => (0..3usize).prop_map(Change::Leave),
        1 => (0..3usize).prop_map(Change::Return),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After any history, the view is the union of what the answering members have now: all their
    /// names, and nothing else except conflicts. Looking up names one by one gives the same result
    /// as the listing.
    #[test]
    fn view_is_the_union_of_all_answers(
        changes in prop::collection::vec(change(), 1..20),
    ) {
        let (network, view) = setup();
        let members = [0, 1, 2].map(|seed| network.join(&format!("m{seed}"), seed));
        let mut shared = [(); 3].map(|()| BTreeSet::new());
        let mut answers = [true; 3];
        for change in changes {
            match change {
                Change::Put { member, name, content, mtime } => {
                    members[member].put(name, content, mtime);
                    shared[member].insert(name);
                }
                Change::Remove { member, name } => {
                    members[member].remove(name);
                    shared[member].remove(name);
                }
                Change::Leave(member) => {
                    members[member].behave(Behaviour::Gone);
                    answers[member] = false;
                }
                Change::Return(member) => {
                    members[member].behave(Behaviour::Honest);
                    answers[member] = true;
                }
            }
            for touched in ["a.txt", "b", "d/c"] {
                view.invalidate(&path(touched));
            }
        }
        let all: BTreeSet<&str> = (0..3)
            .filter(|member| answers[*member])
            .flat_map(|member| shared[member].iter().copied())
            .collect();
        for directory in ["", "d"] {
            let expected: BTreeSet<String> = all
                .iter()
                .filter_map(|path| match (directory, path.strip_prefix("d/")) {
                    ("", None) => Some((*path).to_owned()),
                    ("", Some(_)) => Some("d".to_owned()),
                    (_, name) => name.map(str::to_owned),
                })
                .collect();
            let asked: BTreeSet<String> = ["a.txt", "b", "d", "c", "e.x", "b (m0)"]
                .into_iter()
                .filter(|text| size(&view, directory, text).is_some())
                .filter(|text| expected.contains(*text))
                .map(str::to_owned)
                .collect();
            prop_assert_eq!(&asked, &expected);
            let listed: BTreeSet<String> = match view.list(&path(directory), within(SOON)) {
                Ok(listing) => {
                    let plain = listing.items.iter().filter(|item| item.original.is_none());
                    plain.map(|item| item.name.to_string()).collect()
                }
                Err(_) => BTreeSet::new(),
            };
            prop_assert_eq!(&listed, &expected);
        }
    }
}

#[test]
fn endless_directory_hides_its_own_files_only() {
    let network = Arc::new(MemoryNetwork::with_budget(64 << 20));
    let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
    let (ann, mallory) = (network.join("ann", 1), network.join("mallory", 2));
    for number in 0..2000 {
        ann.put(&format!("d/{number:030}"), "x", 1);
    }
    mallory.behave(Behaviour::Endless);
    for _ in 0..3 {
        let listing = view.list(&path("d"), within(SOON)).unwrap();
        assert_eq!(listing.items.len(), 2000);
        assert_eq!(listing.silent, [Arc::from("mallory")]);
        view.invalidate(&path("d"));
    }
    let budget = network.budget();
    assert_eq!(budget.held(), 0, "nothing is remembered");
    // An open listing counts, though nobody remembers it.
    let open = view.list(&path("d"), within(SOON)).unwrap();
    view.invalidate(&path("d"));
    assert_eq!(budget.held(), open.bytes());
    drop(open);
    assert_eq!(budget.held(), 0);
}

#[test]
fn remembered_answers_make_room_for_the_next() {
    let network = Arc::new(MemoryNetwork::with_budget(4 << 20));
    let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
    let ann = network.join("ann", 1);
    for directory in 0..20 {
        for number in 0..1000 {
            ann.put(&format!("{directory}/{number}"), "x", 1);
        }
        let listing = view.list(&path(&directory.to_string()), within(SOON));
        assert_eq!(listing.unwrap().items.len(), 1000, "{directory}");
    }
}
