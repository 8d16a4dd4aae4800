//! The share is what its path leads to now.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;
use crate::protocol::wire::Change;

/// Returns whether a lookup finds the share, like the keeper's regular ones.
fn is_there(share: &Fixture) -> bool {
    let _ = share.share.tree();
    share.share.problem().is_none()
}

fn assert_empty(share: &Fixture, file: &str) {
    assert_eq!(share.stat(file), None);
    assert_eq!(share.read(file).unwrap_err().code, FaultCode::NotFound);
    assert_eq!(share.pages("", 9).unwrap_err().code, FaultCode::NotFound);
    assert_eq!(share.search("", 9, BUDGET), [""; 0]);
    let names = share.share.top_files("", 9, Instant::now() + BUDGET);
    assert_eq!(names.unwrap(), [b""; 0]);
}

#[test]
fn absent_share_is_empty_until_its_return() {
    let share = Fixture::new();
    share.write("v1", "1");
    let away = share.base.path().join("away");
    fs::rename(share.at(""), &away).unwrap();
    assert_empty(&share, "v1");
    assert_eq!(share.share.problem().unwrap(), "it is not there");
    fs::write(share.at("").parent().unwrap().join("served"), "").unwrap();
    assert_empty(&share, "v1");
    assert_eq!(share.share.problem().unwrap(), "it is not a directory");
    fs::remove_file(share.base.path().join("served")).unwrap();
    share.write("v2", "2");
    assert_eq!(share.names(""), ["v2"]);
    assert_eq!(share.read("v2").unwrap(), b"2");
    assert_eq!(share.stat("v1"), None);
    assert!(is_there(&share));
    fs::remove_dir_all(share.at("")).unwrap();
    fs::rename(away, share.base.path().join("served")).unwrap();
    assert_eq!(share.names(""), ["v1"]);
}

#[test]
fn followed_share_link_hides_private() {
    let base = tempfile::tempdir().unwrap();
    let real = base.path().canonicalize().unwrap();
    for file in ["one/1", "two/2", "two/private/3", "kept/4"] {
        fs::create_dir_all(real.join(file).parent().unwrap()).unwrap();
        fs::write(real.join(file), "").unwrap();
    }
    let lead_to = |target: &str| {
        std::os::unix::fs::symlink(target, real.join("next")).unwrap();
        fs::rename(real.join("next"), real.join("served")).unwrap();
    };
    lead_to("one");
    let config = ShareConfig {
        directory: real.join("served"),
        hidden: false,
        excluded: vec![real.join("two/private"), real.join("kept")],
    };
    let share = Share::open(&config).unwrap();
    let share = Fixture { base, share };
    assert_eq!(share.names(""), ["1"]);
    lead_to("two");
    assert_eq!(share.names(""), ["2"]);
    share.assert_absent("private/3");
    lead_to("kept");
    assert_empty(&share, "4");
    let problem = share.share.problem().unwrap();
    assert!(
        problem.ends_with("which this node keeps to itself"),
        "{problem}"
    );
    lead_to("one");
    assert_eq!(share.names(""), ["1"]);
}

#[test]
fn share_swap_notifies_its_watchers() {
    let mut share = Fixture::new();
    share.write("d/v1", "1");
    let config = ShareConfig {
        directory: share.at(""),
        hidden: false,
        excluded: Vec::new(),
    };
    share.share = Share::open(&config).unwrap().watched();
    let list = |directory: &str| {
        let request = ListRequest {
            directory: path(directory),
            after: None,
            limit: 9,
            watch: true,
        };
        match share.share.list(&request, Asker::Nobody).unwrap() {
            Response::List(page) => page.counter,
            Response::NoDirectory { counter } => counter,
            other => panic!("{other:?}"),
        }
    };
    let changes = |since| {
        let wait = Duration::ZERO;
        let request = ChangesRequest { since, wait };
        share.share.wait_for_changes(&request).unwrap()
    };
    let since = list("d").unwrap();
    fs::rename(share.at(""), share.base.path().join("away")).unwrap();
    assert_eq!(list("d"), None, "nothing is watched of what is not there");
    assert_eq!(changes(since).changes, [Change::everything()]);
    share.write("d/v2", "2");
    let since = list("d").unwrap();
    assert_eq!(changes(since).changes, []);
    share.write("d/v3", "3");
    soon(|| !changes(since).changes.is_empty());
}

#[test]
fn watched_share_can_be_unmounted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut share = Fixture::new();
    let top = share.at("");
    share.write("below", "");
    mount("none", &top, "tmpfs", MountFlags::empty(), None).unwrap();
    share.write("d/f", "x");
    let config = ShareConfig {
        directory: top.clone(),
        hidden: false,
        excluded: Vec::new(),
    };
    share.share = Share::open(&config).unwrap().watched();
    let request = ListRequest {
        directory: path("d"),
        after: None,
        limit: 9,
        watch: true,
    };
    let page = page_of(share.share.list(&request, Asker::Nobody).unwrap());
    assert!(page.counter.is_some());
    assert_eq!(share.read("d/f").unwrap(), b"x");
    unmount(&top, UnmountFlags::empty()).expect("nothing keeps it busy");
    assert_eq!(share.names(""), ["below"]);
}
