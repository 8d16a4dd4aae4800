//! Pages add up to the whole, in listings and searches.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::fairness::Claimant;

#[test]
fn pages_add_up_to_one_listing() {
    let share = Fixture::new();
    let mut expected: Vec<String> = (0..20_000)
        .map(|i| format!("{}-{i}", i * 7919 % 20_000))
        .collect();
    for name in &expected {
        fs::write(share.at(name), "").unwrap();
    }
    expected.sort();
    for limit in [8192, 1000, 333] {
        let entries = share.pages("", limit).unwrap();
        let names: Vec<_> = entries.iter().map(|e| e.name.to_string()).collect();
        assert_eq!(names, expected, "limit {limit}");
    }
    // Once the directory has settled, its names are cached, and still nothing is stale.
    soon(|| {
        share.pages("", 8192).unwrap();
        let version = share.stat("").unwrap().version;
        let mut index = share.share.index.lock();
        index
            .get(&RelPath::root(), version, Instant::now())
            .is_some()
    });
    fs::remove_file(share.at(&expected[5])).unwrap();
    let removed = expected.remove(5);
    assert!(!share.names("").contains(&removed));
    share.write("zz", "");
    expected.push("zz".into());
    assert_eq!(share.names(""), expected);
}

#[test]
fn omitted_names_cut_no_page_short() {
    let share = Fixture::new();
    for index in 0..30 {
        share.link("nowhere", &format!("a{index}"));
    }
    share.write("b", "");
    share.write("c", "");
    let names = |limit| {
        let entries = share.pages("", limit).unwrap();
        entries
            .iter()
            .map(|e| e.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(1), ["b", "c"]);
    assert_eq!(names(10), ["b", "c"]);
}

#[test]
fn timed_out_search_resumes_where_it_ended() {
    let share = Fixture::new();
    for directory in 0..40 {
        for file in 0..5 {
            share.write(format!("{directory:02}/{file}.txt"), "");
        }
    }
    share.write("39/needle", "");
    let mut request = SearchRequest {
        pattern: "needle".into(),
        after: None,
        limit: 10,
    };
    let mut pages = 0;
    let found = loop {
        let page = share
            .share
            .search_within(&request, Claimant::itself(), Duration::ZERO)
            .unwrap();
        pages += 1;
        assert!(pages < 100, "no progress");
        if let Some((path, _)) = page.matches.last() {
            break path.to_string();
        }
        assert!(page.more);
    };
    assert_eq!(found, "39/needle");
    assert_eq!(pages, 41, "one directory a page, then the needle");
    // A caller that starts over is not sent on to the end.
    request.pattern = "0.txt".into();
    let page = share.share.search(&request, Claimant::itself()).unwrap();
    assert_eq!(page.matches[0].0.to_string(), "00/0.txt");
}

/// One entry of a random tree: its path, and its type (a link's target, or nothing for a file).
pub(super) type Plan = Vec<(Vec<&'static str>, Option<Vec<&'static str>>)>;

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let name = prop::sample::select(vec!["a", "b", "a.b", "a-", "a0", "\u{e4}", ".h"]);
    let place = prop::collection::vec(name.clone(), 1..5);
    let step = prop_oneof![4 => name, 2 => Just("..")];
    let target = prop::collection::vec(step, 1..4);
    prop::collection::vec((place, prop::option::weighted(0.3, target)), 1..40)
}

/// Builds as much of a plan as its earlier entries leave room for.
pub(super) fn build(plan: &Plan) -> Fixture {
    let share = Fixture::new();
    make(&share, plan);
    share
}

/// Adds a plan to a share, as far as there is room for it.
pub(super) fn make(share: &Fixture, plan: &Plan) {
    for (place, target) in plan {
        let place = share.at(place.join("/"));
        if fs::create_dir_all(place.parent().unwrap()).is_err() {
            continue;
        }
        let _in_the_way = match target {
            Some(target) => std::os::unix::fs::symlink(target.join("/"), place),
            None => fs::write(place, "content"),
        };
    }
}

/// Collects every path below `directory` that listings show.
pub(super) fn walk(share: &Fixture, directory: &str, found: &mut BTreeSet<String>) {
    for entry in share.pages(directory, 2).unwrap() {
        let path = match directory {
            "" => entry.name.to_string(),
            _ => format!("{directory}/{}", entry.name),
        };
        assert_eq!(share.stat(&path), Some(entry.attributes), "{path}");
        let real = share.at(&path).canonicalize().unwrap();
        let real = real
            .strip_prefix(share.at("").canonicalize().unwrap())
            .unwrap();
        assert!(
            !real
                .to_str()
                .unwrap()
                .split('/')
                .any(|c| c.starts_with('.'))
        );
        if entry.attributes.kind == Kind::Directory {
            walk(share, &path, found);
        } else {
            assert_eq!(share.read(&path).unwrap(), b"content");
        }
        assert!(found.insert(path));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn walks_end_and_agree_with_searches(plan in plan()) {
        let share = build(&plan);
        let mut listed = BTreeSet::new();
        walk(&share, "", &mut listed);
        let full = share.search("", 1024, BUDGET);
        for limit in [1, 2, 3] {
            prop_assert_eq!(&share.search("", limit, BUDGET), &full);
        }
        prop_assert_eq!(&share.search("", 2, Duration::ZERO), &full);
        // A search finds the files that listings show, except those behind a directory link.
        let behind_link = |path: &str| {
            let parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
            parents.into_iter().any(|parent| share.at(parent).is_symlink())
        };
        let expected: Vec<_> = listed
            .iter()
            .filter(|path| share.at(path).is_file() && !behind_link(path))
            .cloned()
            .collect();
        prop_assert_eq!(full, expected);
        let some = share.search("a", 2, Duration::ZERO);
        let name_has_a = |path: &&String| path.rsplit('/').next().unwrap().contains('a');
        let wanted: Vec<_> = share.search("", 1024, BUDGET);
        let wanted: Vec<_> = wanted.iter().filter(name_has_a).cloned().collect();
        prop_assert_eq!(some, wanted);
    }
}

#[test]
fn dangling_names_end_a_page_in_time() {
    let share = Fixture::new();
    share.write("a", "");
    for index in 0..100 {
        std::os::unix::fs::symlink("nowhere", share.at(format!("link {index}"))).unwrap();
    }
    share.write("z", "");
    let mut request = ListRequest {
        directory: RelPath::root(),
        after: None,
        limit: 2,
        watch: false,
    };
    let (page, _) = share
        .share
        .listing(
            &share.share.tree().unwrap(),
            &request,
            Asker::Nobody,
            Instant::now(),
        )
        .unwrap();
    assert_eq!((page.entries.len(), page.more), (1, true));
    request.after = Some(Name::new(&b"a"[..]).unwrap());
    let fault = share
        .share
        .listing(
            &share.share.tree().unwrap(),
            &request,
            Asker::Nobody,
            Instant::now(),
        )
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::LimitExceeded);
    let (page, _) = share
        .share
        .listing(
            &share.share.tree().unwrap(),
            &request,
            Asker::Nobody,
            Instant::now() + BUDGET,
        )
        .unwrap();
    assert_eq!((page.entries.len(), page.more), (1, false));
}

#[test]
fn paths_are_not_checked_past_the_deadline() {
    let share = Fixture::new();
    let request = StatRequest {
        compare: false,
        watch: true,
        paths: vec![path("a"); StatRequest::MAX_PATHS],
    };
    let fault = share
        .share
        .stat_until(&request, Asker::Nobody, Instant::now())
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::LimitExceeded);
    assert!(share.share.stat(&request, Asker::Nobody).is_ok());
}
