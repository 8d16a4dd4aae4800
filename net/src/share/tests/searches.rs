//! Searches over cached names find the same as searches over a disk.

use proptest::prelude::*;

use super::paging::{Plan, build, plan, walk};
use super::*;
use crate::fairness::Claimant;

/// Waits until every directory has settled, so that everything read from now on is cached.
fn settle() {
    let made = SystemTime::now();
    soon(|| SystemTime::now() > made + SETTLED + Duration::from_millis(100));
}

/// Returns the files whose names match, after `after`, computed the simple way: from listings.
fn expected(share: &Fixture, pattern: &str, after: Option<&RelPath>) -> Vec<String> {
    let mut listed = std::collections::BTreeSet::new();
    walk(share, "", &mut listed);
    let pattern = crate::share::names::pattern::Pattern::new(pattern).unwrap();
    let behind_link = |path: &str| {
        let parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        parents
            .into_iter()
            .any(|parent| share.at(parent).is_symlink())
    };
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let patience = || {
        crate::share::names::pattern::patience::SearchTime::new(
            Instant::now() + Duration::from_secs(60),
        )
    };
    let matches = |name: &str| pattern.matches(name.as_bytes(), &mut patience()) == Ok(true);
    let all = listed.into_iter();
    all.filter(|text| share.at(text).is_file() && !behind_link(text))
        .filter(|text| matches(&name(text)))
        .filter(|text| after.is_none_or(|after| path(text) > *after))
        .collect()
}

/// Turns pages until the last. Each has its own size and time, taken from `turns` in rotation.
fn turn_pages(
    share: &Fixture,
    pattern: &str,
    after: Option<&RelPath>,
    turns: &[(u32, bool)],
) -> Vec<String> {
    let mut request = SearchRequest {
        pattern: pattern.into(),
        after: after.cloned(),
        limit: 1,
    };
    let mut found = Vec::new();
    for (limit, is_hurried) in turns.iter().cycle().take(10_000) {
        request.limit = *limit;
        let budget = if *is_hurried { Duration::ZERO } else { BUDGET };
        let page = share
            .share
            .search_within(&request, Claimant::itself(), budget)
            .unwrap();
        assert!(page.matches.len() <= *limit as usize);
        if let Some((last, _)) = page.matches.last() {
            request.after = Some(last.clone());
        }
        found.extend(page.matches.iter().map(|(path, _)| path.to_string()));
        if !page.more {
            return found;
        }
    }
    panic!("no end: {found:?}");
}

/// Generates a position, whether or not such a path exists.
fn spot() -> impl Strategy<Value = Option<RelPath>> {
    let name = prop::sample::select(vec!["a", "b", "a.b", "a-", "a0", "b!", "zz"]);
    let path = prop::collection::vec(name, 1..4)
        .prop_map(|names| RelPath::new(names.join("/").as_bytes()).unwrap());
    prop::option::of(path)
}

fn turns() -> impl Strategy<Value = Vec<(u32, bool)>> {
    prop::collection::vec((1..6_u32, any::<bool>()), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn search_pages_of_any_size_add_up(
        plan in plan(),
        more in plan(),
        searches in prop::collection::vec((spot(), turns()), 1..4),
    ) {
        let share = build(&plan);
        let check = |when: &str| {
            for pattern in ["", "a", r"^a\.b$|0"] {
                for (after, turns) in &searches {
                    let found = turn_pages(&share, pattern, after.as_ref(), turns);
                    let expected = expected(&share, pattern, after.as_ref());
                    assert_eq!(found, expected, "{when}: {pattern:?} behind {after:?}");
                }
            }
        };
        check("at once");
        settle();
        check("settled");
        check("remembered");
        add(&share, &more);
        check("changed");
    }
}

fn add(share: &Fixture, plan: &Plan) {
    super::paging::make(share, plan);
    // Remove something as well.
    if let Some((place, _)) = plan.first() {
        let place = share.at(place.join("/"));
        let _not_a_file = fs::remove_file(&place);
    }
}

#[test]
fn a_page_looks_at_nothing_behind_its_end() {
    let share = Fixture::new();
    for directory in ["a", "b", "c"] {
        share.write(format!("{directory}/1"), "");
    }
    settle();
    let request = SearchRequest {
        pattern: String::new(),
        after: None,
        limit: 1,
    };
    assert!(
        share
            .share
            .search(&request, Claimant::itself())
            .unwrap()
            .more
    );
    let is_known = |directory: &str| {
        let version = share.stat(directory).unwrap().version;
        let mut index = share.share.index.lock();
        index
            .get(&path(directory), version, Instant::now())
            .is_some()
    };
    assert!(is_known("a"));
    assert!(!is_known("b") && !is_known("c"));
}

#[test]
fn timed_out_page_ends_within_a_directory() {
    let share = Fixture::new();
    for index in 0..2000 {
        fs::write(share.at(format!("{index:04}")), "").unwrap();
    }
    share.write("zz", "");
    let mut request = SearchRequest {
        pattern: "zz".into(),
        after: None,
        limit: 10,
    };
    let page = share
        .share
        .search_within(&request, Claimant::itself(), Duration::ZERO)
        .unwrap();
    assert!(page.more && page.matches.is_empty());
    let found = turn_pages(&share, "zz", None, &[(1, true)]);
    assert_eq!(found, ["zz"]);
    request.pattern = "000".into();
    assert_eq!(
        share
            .share
            .search(&request, Claimant::itself())
            .unwrap()
            .matches
            .len(),
        10
    );
}

/// Returns the processor time of this thread, which other programs do not affect.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn page_ends_in_time_for_any_pattern() {
    let share = Fixture::new();
    // Bytes that are not UTF-8 are matched as three bytes each.
    let rests = [[0xff; 250].to_vec(), b"ab".repeat(125)];
    for (index, rest) in (0..300).zip(rests.iter().cycle()) {
        let name = [format!("{index:04}").as_bytes(), rest].concat();
        fs::write(share.at(&name), "").unwrap();
    }
    for text in SLOW {
        let request = SearchRequest {
            pattern: (*text).into(),
            after: None,
            limit: 10,
        };
        let (begun, budget) = (processor_time(), Duration::from_millis(100));
        let page = share
            .share
            .search_within(&request, Claimant::itself(), budget);
        // Ten times the promised time, because the machine does other things and the build
        // is not optimised.
        let max = budget + Duration::from_millis(500);
        let took = processor_time() - begun;
        assert!(took < max, "{took:?}: {text}");
        let is_unfinished = match page {
            Ok(page) => page.more,
            Err(fault) => fault.code == FaultCode::LimitExceeded,
        };
        assert!(is_unfinished, "{text}");
        let (begun, until) = (processor_time(), Instant::now() + budget);
        assert!(share.share.top_files(text, 10, until).is_err(), "{text}");
        let took = processor_time() - begun;
        assert!(took < max, "{took:?}: {text}");
    }
}

/// The slowest expressions, each in another engine of the `regex` crate.
const SLOW: &[&str] = &[
    r"(?s-u)(?:[ab]?[^b]?){3000}\x01",
    r"\b(?s-u:(?:.{0,100}[\x00-\xff]){80})\x01\b",
    r"(?s-u)[^a]*a(?:.{0,250}a){20}\x01",
];
