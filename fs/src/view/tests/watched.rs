//! What members watch holds until they report a change.

use std::sync::Weak;

use tinyp2p_net::model::PeerId;
use tinyp2p_net::protocol::wire::{Change, Depth};
use tinyp2p_net::query::subscriptions::{ChangeListener, News};
use tinyp2p_net::testing::MemoryPeer;

use super::*;

/// A network whose members watch what they say.
fn watched() -> (Arc<MemoryNetwork>, View, PeerId) {
    let (network, view) = setup();
    network.watch();
    let ann = network.join("ann", 1);
    ann.put("d/x", "x", 1);
    (network, view, ann.id())
}

fn changed(text: &str, depth: Depth) -> News {
    News::Changed(vec![Change {
        path: path(text),
        depth,
    }])
}

fn let_a_second_pass() {
    std::thread::sleep(freshness::FRESH);
}

fn list(view: &View, text: &str) -> Vec<String> {
    names(&view.list(&path(text), within(SOON)).unwrap())
}

#[test]
fn watched_listing_holds_until_a_change() {
    let (network, view, ann) = watched();
    assert_eq!(list(&view, "d"), ["x"]);
    let_a_second_pass();
    assert_eq!(list(&view, "d"), ["x"]);
    assert_eq!(size(&view, "d", "x"), Some(1));
    assert_eq!(network.calls(), 1);
    view.apply(ann, &changed("other/x", Depth::Tree));
    list(&view, "d");
    assert_eq!(network.calls(), 1);
    network.member(ann).put("d/y", "y", 1);
    view.apply(ann, &changed("d/y", Depth::Tree));
    assert_eq!(list(&view, "d"), ["x", "y"]);
    assert_eq!(network.calls(), 2);
}

#[test]
fn watched_absence_holds_until_a_change() {
    let (network, view, ann) = watched();
    assert_eq!(size(&view, "d", "y"), None);
    let_a_second_pass();
    assert_eq!(size(&view, "d", "y"), None);
    assert_eq!(network.calls(), 1);
    network.member(ann).put("d/y", "y", 1);
    view.apply(ann, &changed("d/y", Depth::Tree));
    assert_eq!(size(&view, "d", "y"), Some(1));
}

#[test]
fn removed_directory_ends_all_below() {
    let (network, view, ann) = watched();
    network.member(ann).put("d/e/f/z", "z", 1);
    for directory in ["d/e/f", "d/e"] {
        list(&view, directory);
    }
    network.member(ann).remove("d/e/f/z");
    view.apply(ann, &changed("d/e", Depth::Tree));
    for directory in ["d/e/f", "d/e"] {
        let listed = view.list(&path(directory), within(SOON));
        assert!(matches!(listed, Err(Error::NotFound)), "{directory}");
    }
    assert_eq!(list(&view, "d"), ["x"]);
}

#[test]
fn who_comes_or_goes_ends_what_was_watched() {
    let (network, view, ann) = watched();
    list(&view, "d");
    let_a_second_pass();
    let bob = network.join("bob", 2);
    bob.put("d/of bob", "x", 1);
    assert_eq!(list(&view, "d"), ["of bob", "x"]);
    let_a_second_pass();
    network.leave(ann);
    assert_eq!(list(&view, "d"), ["of bob"]);
}

#[test]
fn lost_watch_leaves_answers_a_second() {
    let (network, view, ann) = watched();
    list(&view, "d");
    network.member(ann).put("d/y", "y", 1);
    let_a_second_pass();
    view.apply(ann, &News::Lost);
    assert_eq!(list(&view, "d"), ["x", "y"]);
}

#[test]
fn overtaken_answer_is_not_kept() {
    let (network, view, ann) = watched();
    let slow = Duration::from_millis(300);
    network.member(ann).behave(Behaviour::Slow(slow));
    std::thread::scope(|scope| {
        let listing = scope.spawn(|| list(&view, "d"));
        std::thread::sleep(slow / 3);
        view.apply(ann, &changed("d/x", Depth::Entry));
        listing.join().unwrap();
    });
    assert_eq!(network.calls(), 1);
    size(&view, "d", "x");
    assert_eq!(network.calls(), 2);
    list(&view, "d");
    assert_eq!(network.calls(), 3);
    std::thread::scope(|scope| {
        let lookup = scope.spawn(|| size(&view, "e", "y"));
        std::thread::sleep(slow / 3);
        view.apply(ann, &changed("e", Depth::Tree));
        lookup.join().unwrap();
    });
    size(&view, "e", "y");
    assert_eq!(network.calls(), 5);
}

#[test]
fn second_walk_of_same_tree_asks_nobody() {
    let (network, view, ann) = watched();
    for directory in ["d", "d/e", "d/e/f", "g"] {
        network.member(ann).put(&format!("{directory}/z"), "z", 1);
    }
    network.join("bob", 2).put("only/bob", "x", 1);
    let walk = || {
        let mut pending = vec![path("")];
        let mut count = 0;
        while let Some(directory) = pending.pop() {
            let listing = view.list(&directory, within(SOON)).unwrap();
            view.mtime(&directory, within(SOON)).unwrap();
            for item in &listing.items {
                count += 1;
                let found = view.find(&directory, &item.name, within(SOON)).unwrap();
                assert!(matches!(found, NameLookup::Item(_)));
                if item.kind == Kind::Directory {
                    pending.push(directory.join(&item.name).unwrap());
                }
            }
        }
        count
    };
    let first = walk();
    let calls = network.calls();
    let_a_second_pass();
    assert_eq!(walk(), first);
    assert_eq!(network.calls(), calls);
}

#[test]
fn growing_file_costs_no_other_lookup() {
    let (network, view, ann) = watched();
    let ann = network.member(ann);
    for number in 0..200 {
        ann.put(&format!("d/{number}"), "x", 1);
    }
    list(&view, "d");
    for number in 0..200 {
        ann.put("d/x", vec![1; number + 1], 1);
        view.apply(ann.id(), &changed("d/x", Depth::Entry));
        assert_eq!(size(&view, "d", &number.to_string()), Some(1));
    }
    assert_eq!(network.calls(), 1);
    assert_eq!(size(&view, "d", "x"), Some(200));
}

/// Passes on to a view what the followers of its network hear.
struct Ear(View);

impl ChangeListener for Ear {
    fn news(&self, member: PeerId, news: &News) {
        self.0.apply(member, news);
    }
}

/// An honest member, and one that has the same directory and behaves like this, both followed as
/// by a node.
fn followed(behaviour: Behaviour) -> (Arc<MemoryNetwork>, Arc<Ear>, [Arc<MemoryPeer>; 2]) {
    let network = Arc::new(MemoryNetwork::default());
    network.follow();
    let members = [network.join("ann", 1), network.join("mallory", 2)];
    for member in &members {
        member.watch();
        member.put_rooted("d/x", "x", 1);
        member.put_rooted("e/x", "x", 1);
    }
    members[1].behave(behaviour);
    let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
    let ear = Arc::new(Ear(view));
    network.listen(Arc::downgrade(&ear) as Weak<dyn ChangeListener>);
    (network, ear, members)
}

#[test]
fn flood_of_changes_costs_its_sender_only() {
    for everything in [false, true] {
        let (_network, ear, [ann, mallory]) = followed(Behaviour::Flooding(1024, everything));
        list(&ear.0, "e");
        let begun = Instant::now();
        while begun.elapsed() < 3 * freshness::FRESH {
            assert_eq!(list(&ear.0, "d"), ["x"]);
            ear.0.mtime(&path("e"), within(SOON)).unwrap();
            size(&ear.0, "d", "1");
            size(&ear.0, "d", "nowhere");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Each question once, perhaps once more until both are followed.
        assert!(ann.calls() <= 10, "{} calls", ann.calls());
        assert!(mallory.calls() > 2 * ann.calls(), "{}", mallory.calls());
        // Changes of the honest one still arrive at once.
        ann.put("d/new", "x", 1);
        let deadline = Instant::now() + freshness::FRESH;
        while size(&ear.0, "d", "new").is_none() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(list(&ear.0, "d"), ["new", "x"]);
    }
}

#[test]
fn unwatched_member_is_asked_alone() {
    let (network, ear, [ann, _]) = followed(Behaviour::Honest);
    let bob = network.join("bob", 3);
    bob.put("d/of bob", "x", 1);
    let begun = Instant::now();
    while begun.elapsed() < 3 * freshness::FRESH {
        assert_eq!(list(&ear.0, "d"), ["of bob", "x"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(ann.calls() <= 2, "{} calls", ann.calls());
    assert!((3..=5).contains(&bob.calls()), "{} calls", bob.calls());
    bob.put("d/new", "x", 1);
    std::thread::sleep(freshness::FRESH);
    assert_eq!(list(&ear.0, "d"), ["new", "of bob", "x"]);
}

#[test]
fn hostile_changes_are_applied_at_once() {
    let (network, view, ann) = watched();
    let ann_peer = network.member(ann);
    // Directories whose names each begin with the one before.
    for number in 0..120 {
        ann_peer.put(&format!("{}/f", "a".repeat(2 * number + 1)), "x", 1);
    }
    for number in 0..120 {
        list(&view, &"a".repeat(2 * number + 1));
    }
    let stem = ["a".repeat(255).as_str(); 15].join("/");
    let hostile = (0..1024).map(|n| Change {
        path: path(&format!("{stem}/{}", "b".repeat(1 + n / 5))),
        depth: Depth::Tree,
    });
    let hostile: Vec<Change> = hostile.collect();
    let begun = Instant::now();
    for _ in 0..8 {
        view.apply(
            PeerId::from_bytes([66; 32]),
            &News::Changed(hostile.clone()),
        );
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let calls = network.calls();
    for number in 0..120 {
        list(&view, &"a".repeat(2 * number + 1));
    }
    assert_eq!(network.calls(), calls, "what ann said holds");
}
