//! What others are notified of when directories of this machine change.

use super::*;
use crate::model::RelPath;
use crate::protocol::wire::{Change, Depth};

/// Far longer than a change takes to be noticed.
const SOON: Duration = Duration::from_secs(10);

/// A share that is watched.
struct Watched(Fixture);

impl Watched {
    fn new() -> Self {
        Self::of(Fixture::new())
    }

    /// What was put there before does not count as a change.
    fn of(mut fixture: Fixture) -> Self {
        let config = ShareConfig {
            directory: fixture.at(""),
            hidden: false,
            excluded: Vec::new(),
        };
        fixture.share = Share::open(&config).unwrap().watched();
        Self(fixture)
    }

    fn list(&self, directory: &str) -> Response {
        let request = ListRequest {
            directory: path(directory),
            after: None,
            limit: 8192,
            watch: true,
        };
        self.0.share.list(&request, Asker::Nobody).unwrap()
    }

    /// Returns the counter of a listing.
    fn counter(&self, directory: &str) -> Option<u64> {
        match self.list(directory) {
            Response::List(page) => page.counter,
            Response::NoDirectory { counter } => counter,
            other => panic!("{other:?}"),
        }
    }

    fn stat_counter(&self, at: &str) -> Option<u64> {
        let request = StatRequest {
            compare: false,
            paths: vec![path(at)],
            watch: true,
        };
        self.0.share.stat(&request, Asker::Nobody).unwrap().counter
    }

    fn changes(&self, since: u64, wait: Duration) -> Changes {
        let request = ChangesRequest { since, wait };
        self.0.share.wait_for_changes(&request).unwrap()
    }

    /// Waits until `expected` is among the changes since `since`.
    fn sees(&self, since: u64, expected: &str, depth: Depth) {
        let expected = Change {
            path: path(expected),
            depth,
        };
        let deadline = Instant::now() + SOON;
        loop {
            let changes = self.changes(since, Duration::from_millis(100)).changes;
            let covers = |change: &Change| {
                let is_same = change.path == expected.path && change.depth >= depth;
                let holds = expected.path.is_within(&change.path);
                is_same || (change.depth == Depth::Tree && holds)
            };
            if changes.iter().any(covers) {
                return;
            }
            assert!(Instant::now() < deadline, "{expected:?} not in {changes:?}");
        }
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

#[test]
fn new_lost_and_changed_names_are_reported() {
    let watched = Watched::new();
    watched.0.write("d/old", "1");
    watched.0.write("d/grows", "1");
    let since = watched.counter("d").unwrap();
    assert_eq!(watched.changes(since, Duration::ZERO).changes, []);
    watched.0.write("d/new", "2");
    watched.sees(since, "d/new", Depth::Tree);
    watched.sees(since, "d", Depth::Entry);
    let since = watched.counter("d").unwrap();
    fs::remove_file(watched.0.at("d/old")).unwrap();
    watched.sees(since, "d/old", Depth::Tree);
    let since = watched.counter("d").unwrap();
    fs::rename(watched.0.at("d/new"), watched.0.at("d/renamed")).unwrap();
    watched.sees(since, "d/new", Depth::Tree);
    watched.sees(since, "d/renamed", Depth::Tree);
    let since = watched.counter("d").unwrap();
    fs::write(watched.0.at("d/grows"), "longer").unwrap();
    watched.sees(since, "d/grows", Depth::Entry);
}

#[test]
fn move_concerns_the_whole_subtree() {
    let watched = Watched::new();
    watched.0.write("a/b/c/file", "1");
    let since = watched.counter("a/b/c").unwrap();
    fs::rename(watched.0.at("a"), watched.0.at("x")).unwrap();
    watched.sees(since, "a", Depth::Tree);
    // A new one in its place is watched again.
    watched.0.write("a/b/c/other", "2");
    let deadline = Instant::now() + SOON;
    let since = loop {
        if let Some(since) = watched.counter("a/b/c") {
            break since;
        }
        assert!(Instant::now() < deadline, "is never watched again");
    };
    watched.0.write("a/b/c/more", "3");
    watched.sees(since, "a/b/c/more", Depth::Tree);
    let since = watched.counter("x/b/c").unwrap();
    watched.0.write("x/b/c/more", "3");
    watched.sees(since, "x/b/c/more", Depth::Tree);
}

#[test]
fn absent_path_is_watched_until_it_appears() {
    let watched = Watched::new();
    watched.0.write("d/file", "1");
    let since = watched.counter("d/none/deeper").unwrap();
    assert!(watched.stat_counter("d/gone").is_some());
    fs::create_dir(watched.0.at("d/none")).unwrap();
    watched.sees(since, "d/none", Depth::Tree);
    let since = watched.stat_counter("d/gone").unwrap();
    watched.0.write("d/gone", "2");
    watched.sees(since, "d/gone", Depth::Tree);
    let since = watched.counter("d/file").unwrap();
    fs::remove_file(watched.0.at("d/file")).unwrap();
    watched.sees(since, "d/file", Depth::Tree);
}

#[test]
fn what_a_link_leads_to_is_not_promised() {
    let watched = Watched::new();
    watched.0.write("real/file", "1");
    watched.0.write("plain/file", "1");
    watched.0.link("real", "link");
    watched.0.link("../real/file", "links/file");
    watched.0.link("nowhere", "dangling");
    assert!(watched.counter("plain").is_some());
    for directory in ["", "link", "links"] {
        assert_eq!(watched.counter(directory), None, "{directory}");
    }
    for file in ["link/file", "links/file", "dangling", "dangling/x"] {
        assert_eq!(watched.stat_counter(file), None, "{file}");
    }
    assert!(watched.stat_counter("plain/file").is_some());
}

#[test]
fn unserved_names_are_not_reported() {
    let watched = Watched::new();
    watched.0.write("d/file", "1");
    let since = watched.counter("d").unwrap();
    watched.0.write("d/.secret", "1");
    watched.0.write("d/seen", "1");
    watched.sees(since, "d/seen", Depth::Tree);
    let changes = watched.changes(since, Duration::ZERO).changes;
    assert!(
        !changes.iter().any(|c| c.path == path("d/.secret")),
        "{changes:?}"
    );
    assert!(
        watched.stat_counter("d/.secret").is_some(),
        "it is never there"
    );
}

#[test]
fn only_what_was_asked_for_is_watched() {
    let watched = Watched::new();
    watched.0.write("asked/file", "1");
    watched.0.write("not/file", "1");
    let since = watched.counter("asked").unwrap();
    watched.0.write("not/more", "1");
    watched.0.write("asked/more", "1");
    watched.sees(since, "asked/more", Depth::Tree);
    let changes = watched.changes(since, Duration::ZERO).changes;
    assert!(
        !changes.iter().any(|c| c.path == path("not/more")),
        "{changes:?}"
    );
    let unasked = ListRequest {
        directory: path("asked"),
        after: None,
        limit: 1,
        watch: false,
    };
    assert_eq!(
        page_of(watched.0.share.list(&unasked, Asker::Nobody).unwrap()).counter,
        None
    );
}

#[test]
fn new_root_is_reported_where_known() {
    let watched = Watched::new();
    watched.0.write("d/file", "1");
    watched.0.write("other/file", "1");
    let since = watched.counter("d").unwrap();
    let watch = watched.0.share.watch.as_ref().unwrap();
    assert!(watch.is_watched(&path("d")) && !watch.is_watched(&path("other")));
    let change = Change {
        path: path("d/file"),
        depth: Depth::Entry,
    };
    watch.note(vec![change.clone()]);
    let changes = watched.changes(since, Duration::ZERO).changes;
    assert_eq!(changes, [change]);
}

#[test]
fn wait_ends_on_change_timeout_or_close() {
    let watched = Watched::new();
    watched.0.write("d/file", "1");
    let since = watched.counter("d").unwrap();
    let begun = Instant::now();
    let wait = Duration::from_millis(200);
    assert_eq!(watched.changes(since, wait).counter, since);
    assert!(begun.elapsed() >= wait);
    let long = ChangesRequest::MAX_WAIT;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| watched.changes(since, long));
        watched.0.write("d/new", "1");
        assert!(waiting.join().unwrap().counter > since);
    });
    watched.0.share.stop();
    let counter = watched.counter("d").unwrap();
    watched.changes(counter, long);
    assert!(begun.elapsed() < long);
}

#[test]
fn nothing_is_promised_without_a_watch() {
    let fixture = Fixture::new();
    fixture.write("d/file", "1");
    let request = ListRequest {
        directory: path("d"),
        after: None,
        limit: 1,
        watch: true,
    };
    assert_eq!(
        page_of(fixture.share.list(&request, Asker::Nobody).unwrap()).counter,
        None
    );
    let poll = ChangesRequest {
        since: 0,
        wait: ChangesRequest::MAX_WAIT,
    };
    let fault = fixture.share.wait_for_changes(&poll).unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound);
}

#[test]
fn watches_are_bounded() {
    let mut fixture = Fixture::new();
    for directory in ["a", "b"] {
        fs::create_dir(fixture.at(directory)).unwrap();
    }
    let watch = ShareWatch::with_room(&fixture.share.anchor.look(), 2).unwrap();
    fixture.share.watch = Some(watch);
    let watched = Watched(fixture);
    assert!(watched.counter("").is_some() && watched.counter("a").is_some());
    assert_eq!(watched.counter("b"), None);
    assert!(watched.counter("a").is_some(), "it is watched already");
}
