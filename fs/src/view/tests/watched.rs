//! What members watch may be gone by until they have news.

use tinyp2p_net::follow::News;
use tinyp2p_net::types::PeerId;
use tinyp2p_net::wire::{Change, Depth};

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
    std::thread::sleep(term::FRESH);
}

fn list(view: &View, text: &str) -> Vec<String> {
    names(&view.list(&path(text), within(SOON)).unwrap())
}

#[test]
fn a_watched_listing_is_asked_for_once_until_there_are_news() {
    let (network, view, ann) = watched();
    assert_eq!(list(&view, "d"), ["x"]);
    let_a_second_pass();
    assert_eq!(list(&view, "d"), ["x"]);
    assert_eq!(size(&view, "d", "x"), Some(1));
    assert_eq!(network.calls(), 1);
    view.take_in(&changed("other/x", Depth::Tree));
    list(&view, "d");
    assert_eq!(network.calls(), 1);
    network.member(ann).put("d/y", "y", 1);
    view.take_in(&changed("d/y", Depth::Tree));
    assert_eq!(list(&view, "d"), ["x", "y"]);
    assert_eq!(network.calls(), 2);
}

#[test]
fn a_watched_absence_holds_until_the_name_comes() {
    let (network, view, ann) = watched();
    assert_eq!(size(&view, "d", "y"), None);
    let_a_second_pass();
    assert_eq!(size(&view, "d", "y"), None);
    assert_eq!(network.calls(), 1);
    network.member(ann).put("d/y", "y", 1);
    view.take_in(&changed("d/y", Depth::Tree));
    assert_eq!(size(&view, "d", "y"), Some(1));
}

#[test]
fn a_directory_that_is_not_there_any_more_takes_all_below_with_it() {
    let (network, view, ann) = watched();
    network.member(ann).put("d/e/f/z", "z", 1);
    for directory in ["d/e/f", "d/e"] {
        list(&view, directory);
    }
    network.member(ann).remove("d/e/f/z");
    view.take_in(&changed("d/e", Depth::Tree));
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
fn when_a_member_is_no_longer_heard_of_answers_count_for_a_second() {
    let (network, view, ann) = watched();
    list(&view, "d");
    network.member(ann).put("d/y", "y", 1);
    let_a_second_pass();
    view.take_in(&News::Lost);
    assert_eq!(list(&view, "d"), ["x", "y"]);
}

#[test]
fn an_answer_that_news_have_overtaken_is_not_kept() {
    let (network, view, ann) = watched();
    let slow = Duration::from_millis(300);
    network.member(ann).behave(Behaviour::Slow(slow));
    std::thread::scope(|scope| {
        let listing = scope.spawn(|| list(&view, "d"));
        std::thread::sleep(slow / 3);
        view.take_in(&changed("d/x", Depth::Entry));
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
        view.take_in(&changed("e", Depth::Tree));
        lookup.join().unwrap();
    });
    size(&view, "e", "y");
    assert_eq!(network.calls(), 5);
}

#[test]
fn a_second_walk_over_an_unchanged_tree_asks_nobody() {
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
                assert!(matches!(found, Found::Item(_)));
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
fn a_file_that_grows_all_the_time_costs_nobody_who_looks_at_others() {
    let (network, view, ann) = watched();
    let ann = network.member(ann);
    for number in 0..200 {
        ann.put(&format!("d/{number}"), "x", 1);
    }
    list(&view, "d");
    for number in 0..200 {
        ann.put("d/x", vec![1; number + 1], 1);
        view.take_in(&changed("d/x", Depth::Entry));
        assert_eq!(size(&view, "d", &number.to_string()), Some(1));
    }
    assert_eq!(network.calls(), 1);
    assert_eq!(size(&view, "d", "x"), Some(200));
}

#[test]
fn changes_within_others_are_taken_in_once() {
    let change = |text: &str, depth| Change {
        path: path(text),
        depth,
    };
    let changes = [
        change("a/b", Depth::Tree),
        change("a/b/c", Depth::Tree),
        change("a/b-", Depth::Entry),
        change("a/b/c/d", Depth::Entry),
        change("a", Depth::Entry),
        change("z", Depth::Entry),
        change("a/b.d/e", Depth::Tree),
    ];
    let left: Vec<String> = outermost(&changes)
        .iter()
        .map(|c| c.path.to_string())
        .collect();
    assert_eq!(left, ["a", "a/b", "a/b-", "a/b.d/e", "z"]);
    let everything = [Change::everything(), change("a", Depth::Tree)];
    assert_eq!(outermost(&everything), [&Change::everything()]);
}
