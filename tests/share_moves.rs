//! The share disappears, comes back, and is a different one than before, while others look at it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use crate::harness::content::names;
use crate::harness::process::eventually;
use crate::harness::swarm::{Node, Swarm, detach};

/// Time for nodes to meet, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Time for others to see a change of the share: two seconds, plus extra time on a busy machine.
const SEEN: Duration = Duration::from_secs(4);

/// Starts a member whose share will move, and another one that looks at it.
fn two(swarm: &Swarm, option: Option<&str>) -> (Node, Node) {
    let owner = swarm.node("owner").file("d/v1", "1");
    let owner = match option {
        Some(option) => owner.option(option),
        None => owner,
    };
    let owner = owner.mount();
    let reader = swarm.node("reader").peer(&owner).mount();
    eventually(SOON, "they meet", || sees(&reader, &["d"]));
    assert_eq!(fs::read(reader.at("d/v1")).expect("read"), b"1");
    (owner, reader)
}

/// Returns true if the reader lists exactly these names; panics if the listing fails.
fn sees(reader: &Node, expected: &[&str]) -> bool {
    names(&reader.mountpoint()) == expected
}

fn problem(owner: &Node) -> Value {
    let bytes = fs::read(owner.at(".tinyp2p/status.json")).expect("read the status");
    let object: Value = serde_json::from_slice(&bytes).expect("a JSON object");
    object["share_problem"].clone()
}

fn is_absent(path: &Path) -> bool {
    matches!(fs::read(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

/// A separate file system mounted at a path, until it is dropped.
struct Stick<'a>(&'a Path);

impl<'a> Stick<'a> {
    fn attach(at: &'a Path) -> Self {
        mount("stick", at, "tmpfs", MountFlags::empty(), None).expect("mount a tmpfs");
        Self(at)
    }
}

impl Drop for Stick<'_> {
    fn drop(&mut self) {
        detach(self.0);
    }
}

fn goes_and_comes_back(option: Option<&str>) {
    let swarm = Swarm::new();
    let (owner, reader) = two(&swarm, option);
    let share = owner.share();

    fs::remove_dir_all(share).expect("remove the share");
    eventually(SEEN, "nothing is left", || sees(&reader, &[]));
    eventually(SEEN, "its owner is told", || {
        problem(&owner) == "it is not there"
    });
    eventually(SEEN, "d/v1 is gone", || is_absent(&reader.at("d/v1")));

    fs::create_dir(share).expect("make the share again");
    fs::write(share.join("v2"), "2").expect("write");
    eventually(SEEN, "the new one is there", || sees(&reader, &["v2"]));
    assert_eq!(fs::read(reader.at("v2")).expect("read"), b"2");
    eventually(SEEN, "its owner is told", || problem(&owner).is_null());

    let (old, new) = (swarm.path("old"), swarm.path("new"));
    fs::create_dir(&new).expect("make another one");
    fs::write(new.join("v3"), "3").expect("write");
    fs::rename(share, &old).expect("move the share away");
    fs::rename(&new, share).expect("move another one there");
    eventually(SEEN, "the other one is there", || sees(&reader, &["v3"]));
    eventually(SEEN, "v2 is gone", || is_absent(&reader.at("v2")));

    let stick = Stick::attach(share);
    fs::write(share.join("v4"), "4").expect("write");
    eventually(SEEN, "what was mounted is there", || sees(&reader, &["v4"]));
    assert_eq!(fs::read(reader.at("v4")).expect("read"), b"4");
    unmount(share, UnmountFlags::empty()).expect("nobody keeps it busy");
    drop(stick);
    eventually(SEEN, "what lies below is back", || sees(&reader, &["v3"]));
    eventually(SEEN, "v4 is gone", || is_absent(&reader.at("v4")));

    fs::rename(share, &new).expect("move the share away");
    symlink(&new, share).expect("link to it");
    eventually(SEEN, "a link leads there", || sees(&reader, &["v3"]));
    let next = swarm.path("next");
    symlink(&old, &next).expect("link elsewhere");
    fs::rename(next, share).expect("retarget the link");
    eventually(SEEN, "the link leads elsewhere", || sees(&reader, &["v2"]));
    eventually(SEEN, "v3 is gone", || is_absent(&reader.at("v3")));
}

#[test]
fn a_share_is_what_its_path_leads_to_now() {
    goes_and_comes_back(None);
}

#[test]
fn unwatched_share_follows_its_path() {
    goes_and_comes_back(Some("--no-watch"));
}
