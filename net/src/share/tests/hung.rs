//! File systems below the share that do not respond, and directories that cannot be read. These
//! need root, as CI has it.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::mounted::{Mounted, frozen};
use super::*;

/// Less than a caller waits for.
const IN_TIME: Duration = CALL_DEADLINE;

/// The delay that an unrelated failure may add to an answer that is known at once.
const AT_ONCE: Duration = Duration::from_millis(500);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Creates a share with a file and a mount that never responds.
fn hung() -> (Fixture, Mounted, std::fs::File) {
    let share = Fixture::new();
    fs::create_dir_all(share.at("d/hung")).unwrap();
    share.write("d/file", "content");
    share.write("other/file", "content");
    share.link("hung/x", "d/link");
    let (mounted, daemon) = frozen(&share.at("d/hung"), "sshfs");
    (share, mounted, daemon)
}

fn took(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn assert_failing(fault: &Fault) {
    assert_eq!(fault.code, FaultCode::Internal);
    assert_eq!(
        fault.message,
        "a file system at this member does not answer"
    );
}

fn stat_fault(share: &Fixture, below: &str) -> Fault {
    let request = StatRequest {
        compare: false,
        paths: vec![path(below)],
        watch: true,
    };
    share.share.stat(&request, Asker::Nobody).unwrap_err()
}

fn unreadable(share: &Fixture) -> Vec<(String, String)> {
    let directories = share.share.unreadable().into_iter();
    directories.map(|at| (at.path, at.problem)).collect()
}

#[test]
fn hung_file_system_costs_one_directory() {
    if !is_root() {
        return;
    }
    let (share, mounted, daemon) = hung();
    let share = in_time(move || {
        let first = took(|| assert_eq!(share.names("d"), ["file", "hung"]));
        assert!(first < IN_TIME, "{first:?}");
        let found = took(|| assert_eq!(share.search("", 9, BUDGET), ["d/file", "other/file"]));
        assert!(found < AT_ONCE, "{found:?}");
        let all = took(|| {
            assert_eq!(share.names("d"), ["file", "hung"]);
            assert_eq!(share.stat("d/hung").unwrap().kind, Kind::Directory);
            assert_eq!(share.read("d/file").unwrap(), b"content");
            assert_failing(&stat_fault(&share, "d/hung/x"));
            assert_failing(&share.read("d/hung/x").unwrap_err());
            assert_failing(&share.pages("d/hung", 9).unwrap_err());
            assert_failing(&share.read("d/link").unwrap_err());
        });
        assert!(all < AT_ONCE, "{all:?}");
        share
    });
    let named = unreadable(&share);
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].0, "d/hung");
    assert!(named[0].1.contains("does not answer"), "{named:?}");
    drop((mounted, daemon));
    soon(|| unreadable(&share).is_empty());
    assert_eq!(share.names("d/hung"), [""; 0]);
    share.write("d/hung/x", "x");
    assert_eq!(share.names("d"), ["file", "hung", "link"]);
}

#[test]
fn hung_file_system_ties_up_few_threads() {
    if !is_root() {
        return;
    }
    let (share, _mounted, _daemon) = hung();
    let max = took(|| {
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert_failing(&share.pages("d/hung", 9).unwrap_err()));
            }
        });
    });
    assert!(max < IN_TIME, "{max:?}");
    assert_eq!(share.names("other"), ["file"]);
}

#[test]
fn hung_share_is_an_error_and_not_empty() {
    if !is_root() {
        return;
    }
    let share = Fixture::new();
    share.write("file", "content");
    let (mounted, daemon) = frozen(&share.at(""), "sshfs");
    let share = in_time(move || {
        let first = took(|| assert_failing(&share.pages("", 9).unwrap_err()));
        assert!(first < IN_TIME, "{first:?}");
        assert_failing(&stat_fault(&share, "file"));
        let again = took(|| assert_failing(&share.pages("", 9).unwrap_err()));
        assert!(again < AT_ONCE, "{again:?}");
        share
    });
    drop((mounted, daemon));
    soon(|| share.pages("", 9).is_ok_and(|entries| entries.len() == 1));
}

/// Drops from this thread the privileges that let root read everything.
fn become_ordinary() {
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, sets).unwrap();
}

#[test]
fn unreadable_directory_is_named_meanwhile() {
    become_ordinary();
    let share = Fixture::new();
    share.write("secret/x", "content");
    share.write("file", "content");
    let allow = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(share.at("secret"), mode).unwrap();
    };
    allow(0o000);
    assert_eq!(share.names(""), ["file", "secret"]);
    assert_eq!(share.search("", 9, BUDGET), ["file"]);
    let fault = share.pages("secret", 9).unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let named = unreadable(&share);
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(named[0].0, "secret");
    assert!(named[0].1.contains("may not read it"), "{named:?}");
    share.share.look_after();
    assert_eq!(unreadable(&share), named);
    allow(0o755);
    share.share.look_after();
    assert_eq!(unreadable(&share), []);
    allow(0o000);
    assert!(share.pages("secret", 9).is_err());
    assert_eq!(unreadable(&share), named);
    allow(0o755);
    fs::remove_dir_all(share.at("secret")).unwrap();
    share.share.look_after();
    assert_eq!(unreadable(&share), []);
}

/// Names that nobody can request are counted where they lie.
#[test]
fn names_that_are_too_deep_are_counted() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let share = Fixture::new();
    let mut at = rustix::fs::open(share.at(""), OFlags::PATH, Mode::empty()).unwrap();
    let name = "x".repeat(250);
    for _ in 0..17 {
        mkdirat(&at, &*name, Mode::RWXU).unwrap();
        at = openat(&at, &*name, OFlags::PATH, Mode::empty()).unwrap();
    }
    assert_eq!(share.search("", 9, BUDGET), [""; 0]);
    let deepest = vec![&*name; 16].join("/");
    let [(path, problem)] = &unreadable(&share)[..] else {
        panic!("{:?}", unreadable(&share));
    };
    assert_eq!(*path, deepest);
    assert!(problem.starts_with("1 of its names"), "{problem}");
    // It is listed, so that a walk of the tree meets an error.
    assert_eq!(share.names(&deepest), [name]);
}
