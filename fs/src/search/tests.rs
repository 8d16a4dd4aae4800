//! Searches over a network in memory whose members come, go and stop answering.

use std::thread;

use tinyp2p_net::testing::Behaviour;

use super::*;
use crate::testing::MemoryNetwork;

const SOON: Duration = Duration::from_secs(10);

fn within(time: Duration) -> Wait {
    Wait::Until(Instant::now() + time)
}

fn setup() -> (Arc<MemoryNetwork>, Searches) {
    let network = Arc::new(MemoryNetwork::default());
    let searches = Searches::new(Arc::clone(&network) as Arc<dyn Network>, None);
    (network, searches)
}

fn names(matches: &SearchResult) -> Vec<String> {
    let files = matches.files.iter();
    files.map(|file| file.item.name.to_string()).collect()
}

fn pattern(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn search_result_is_kept_for_a_walk() {
    let (network, searches) = setup();
    let ann = network.join("ann", 1);
    ann.put("d/x", "x", 1);
    let first = searches.find(&pattern("x"), Wait::No);
    assert!(matches!(first, Err(Error::NeedsNetwork)));
    let found = searches.find(&pattern("x"), within(SOON)).unwrap();
    assert_eq!((names(&found), found.is_all), (vec!["x".to_owned()], true));
    ann.put("d/xx", "x", 1);
    let again = searches.find(&pattern("x"), Wait::No).unwrap();
    assert!(Arc::ptr_eq(&found, &again));
    assert_eq!(network.calls(), 1);
    searches.invalidate(&RelPath::new(b"d/y").unwrap());
    assert!(searches.find(&pattern("x"), Wait::No).is_ok());
    searches.invalidate(&RelPath::new(b"d/x").unwrap());
    let found = searches.find(&pattern("x"), within(SOON)).unwrap();
    assert_eq!(names(&found), ["x", "xx"]);
}

#[test]
fn one_search_is_made_once_at_a_time() {
    let (network, searches) = setup();
    let ann = network.join("ann", 1);
    ann.put("x", "x", 1);
    ann.behave(Behaviour::Slow(Duration::from_millis(100)));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let found = searches.find(&pattern("x"), within(SOON)).unwrap();
                assert_eq!(names(&found), ["x"]);
            });
        }
    });
    assert_eq!(ann.calls(), 1);
}

#[test]
fn many_searches_end_by_their_deadlines() {
    let (network, searches) = setup();
    let ann = network.join("ann", 1);
    ann.behave(Behaviour::Frozen);
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..8 {
            let searches = &searches;
            scope.spawn(move || {
                let wait = within(Duration::from_millis(500));
                let found = searches.find(&pattern(&number.to_string()), wait);
                assert!(matches!(found, Err(Error::Silent(_) | Error::Late)));
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
    ann.behave(Behaviour::Honest);
    ann.put("1", "x", 1);
    let found = searches.find(&pattern("1"), within(SOON)).unwrap();
    assert_eq!(names(&found), ["1"]);
}

#[test]
fn silent_member_leaves_search_incomplete() {
    let (network, searches) = setup();
    assert!(searches.find(&pattern("x"), within(SOON)).unwrap().is_all);
    network.join("ann", 1).put("y", "y", 1);
    let bob = network.join("bob", 2);
    bob.behave(Behaviour::Gone);
    let found = searches.find(&pattern("y"), within(SOON)).unwrap();
    assert_eq!((names(&found), found.is_all), (vec!["y".to_owned()], false));
    network.leave(PeerId::from_bytes([1; 32]));
    let found = searches.find(&pattern("z"), within(SOON));
    assert!(matches!(found, Err(Error::Silent(_))));
}

#[test]
fn cut_search_is_reported_in_the_status() {
    let (network, searches) = setup();
    let ann = network.join("ann", 1);
    for number in 0..MAX_MATCHES + 1000 {
        ann.put(&format!("{number:0200}"), "x", 1);
    }
    let found = searches.find(&pattern("."), within(SOON)).unwrap();
    assert_eq!((found.files.len(), found.is_all), (MAX_MATCHES, false));
    let trouble = &searches.troubles()[0];
    assert_eq!(trouble.pattern, ".");
    assert!(trouble.problem.contains("more files than"), "{trouble:?}");
    // There is room for only one such result, the last one.
    searches.find(&pattern("^0*1$"), within(SOON)).unwrap();
    let first = searches.find(&pattern("."), Wait::No);
    assert!(matches!(first, Err(Error::NeedsNetwork)));
    assert!(searches.find(&pattern("^0*1$"), Wait::No).is_ok());
}

#[test]
fn last_failed_patterns_are_shown_once() {
    let (_, searches) = setup();
    assert!(searches.pattern(b"a+").is_some());
    for number in 0..2 * MAX_TROUBLES {
        assert!(searches.pattern(format!("({number}").as_bytes()).is_none());
    }
    assert!(searches.pattern(b"(31").is_none());
    let troubles = searches.troubles();
    assert_eq!(
        (troubles.len(), &*troubles[0].pattern),
        (MAX_TROUBLES, "(31")
    );
    assert_eq!(troubles[1].pattern, "(30");
}
