//! Directories that take a good part of the budget, listed again and again.
//!
//! In a budget of a 64th of a mount's, so that 6,250 names stand for 400,000.

use tinyp2p_net::budget::DEFAULT_ANSWERS;
use tinyp2p_net::protocol::wire::{Change, Depth};
use tinyp2p_net::query::subscriptions::News;
use tinyp2p_net::testing::MemoryPeer;

use super::*;

const SCALE: usize = 64;
const NAMES: usize = 400_000 / SCALE;

fn setting() -> (Arc<MemoryNetwork>, View, Arc<MemoryPeer>) {
    let network = Arc::new(MemoryNetwork::with_budget(DEFAULT_ANSWERS / SCALE));
    network.watch();
    let view = View::new(Arc::clone(&network) as Arc<dyn Network>, None);
    let ann = network.join("ann", 1);
    fill(&ann);
    (network, view, ann)
}

fn fill(member: &MemoryPeer) {
    for number in 0..NAMES {
        member.put(&format!("d/{number:030}"), "x", 1);
    }
}

/// Lists the directory: all names are there, and exactly the `silent` members do not count.
fn list(view: &View, silent: &[&str]) -> Arc<MergedDirectory> {
    let listing = view.list(&path("d"), within(SOON)).unwrap();
    assert!(listing.items.len() >= NAMES, "{}", listing.items.len());
    assert_eq!(
        listing.silent,
        silent.iter().map(|it| Arc::from(*it)).collect::<Vec<_>>()
    );
    listing
}

fn news(text: &str) -> News {
    News::Changed(vec![Change {
        path: path(text),
        depth: Depth::Entry,
    }])
}

#[test]
fn large_directory_is_relisted_after_change() {
    let (_network, view, ann) = setting();
    for round in 0..4 {
        list(&view, &[]);
        ann.put(&format!("d/{round}"), "x", 1);
        view.apply(ann.id(), &news(&format!("d/{round}")));
    }
}

#[test]
fn large_open_directory_is_relisted() {
    let (_network, view, ann) = setting();
    for round in 0..4 {
        let open = list(&view, &[]);
        ann.put(&format!("d/{round}"), "x", 1);
        view.apply(ann.id(), &news(&format!("d/{round}")));
        list(&view, &[]);
        drop(open);
        view.invalidate(&path("d"));
    }
}

#[test]
fn second_large_holder_hides_nobody() {
    let (network, view, ann) = setting();
    let bob = network.join("bob", 2);
    bob.put("d/of bob", "x", 1);
    let mut open = list(&view, &[]);
    for round in 0..4 {
        for member in [&bob, &ann] {
            view.apply(member.id(), &News::Changed(vec![Change::everything()]));
            let listing = list(&view, &[]);
            assert_eq!(listing.items.len(), NAMES + 1, "{round}");
            assert_eq!(listing.said_of(ann.id(), &name("of bob")), None);
        }
        open = list(&view, &[]);
    }
    drop(open);
}

#[test]
fn second_member_joins_large_open_directory() {
    let (network, view, _ann) = setting();
    let open = list(&view, &[]);
    let bob = network.join("bob", 2);
    bob.put("d/of bob", "x", 1);
    std::thread::sleep(freshness::FRESH);
    assert_eq!(list(&view, &[]).items.len(), NAMES + 1);
    drop(open);
}

#[test]
fn large_directory_of_fifty_is_relisted() {
    let (network, view, ann) = setting();
    for seed in 2..51 {
        let other = network.join(&format!("m{seed}"), seed);
        other.put("d/of all", "x", 1);
    }
    for _ in 0..3 {
        list(&view, &[]);
        view.apply(ann.id(), &news("d/of all"));
    }
}
