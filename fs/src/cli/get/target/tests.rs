use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use tinyp2p_net::content::merkle::TreeHasher;
use tinyp2p_net::model::{PeerId, Root, Version};

use super::super::plan::Holder;
use super::*;
use crate::network::MemberRef;

fn holder(member: u8, version: u64) -> Holder {
    Holder {
        member: Arc::new(MemberRef {
            id: PeerId::from_bytes([member; 32]),
            name: format!("m{member}").into(),
        }),
        path: RelPath::new(b"x").unwrap(),
        version: Version(version),
    }
}

fn job(path: &str, size: u64, holders: Vec<Holder>) -> Job {
    let path = RelPath::new(path.as_bytes()).unwrap();
    let (directory, name) = path.split().unwrap();
    Job {
        directory,
        name,
        size: size.into(),
        mtime: 1_500_000_000_123_456_789.into(),
        root: None,
        holders,
    }
}

struct Place {
    directory: tempfile::TempDir,
    target: Target,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::open(directory.path()).unwrap().unwrap();
        Self { directory, target }
    }

    fn begin(&self, job: &Job) -> io::Result<Begin> {
        let parts = self.target.parts(&job.directory)?;
        self.target.begin(job, &parts)
    }

    fn part(&self, job: &Job) -> Box<Part> {
        match self.begin(job).unwrap() {
            Begin::Part(part) => part,
            Begin::Exists => panic!("exists"),
            Begin::Busy => panic!("busy"),
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = self.directory.path().read_dir().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn name_appears_once_the_file_is_whole() {
    let place = Place::new();
    let job = job("a/b/x", 5, vec![holder(1, 1)]);
    let mut part = place.part(&job);
    part.append(b"hel").unwrap();
    let path = place.directory.path().join("a/b/x");
    assert!(!path.exists());
    part.append(b"lo").unwrap();
    assert!(part.finish(job.mtime).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
    let metadata = path.metadata().unwrap();
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (1_500_000_000, 123_456_789)
    );
    assert_eq!(
        path.parent().unwrap().read_dir().unwrap().count(),
        1,
        "no part stays"
    );
}

#[test]
fn interrupted_file_resumes_at_its_end() {
    let place = Place::new();
    let job = job("x", 5, vec![holder(1, 1), holder(2, 7)]);
    place.part(&job).append(b"hel").unwrap();
    assert_eq!(place.part(&job).offset(), 3);
}

#[test]
fn part_from_a_demoted_holder_is_used() {
    let place = Place::new();
    place
        .part(&job("x", 5, vec![holder(2, 7)]))
        .append(b"hel")
        .unwrap();
    let part = place.part(&job("x", 5, vec![holder(1, 1), holder(2, 7)]));
    assert_eq!(part.offset(), 3);
}

#[test]
fn part_of_another_version_is_discarded() {
    let place = Place::new();
    place
        .part(&job("x", 5, vec![holder(1, 1)]))
        .append(b"old")
        .unwrap();
    let part = place.part(&job("x", 5, vec![holder(1, 2)]));
    assert_eq!(part.offset(), 0);
    assert_eq!(place.names().len(), 1);
}

#[test]
fn a_part_longer_than_the_file_begins_anew() {
    let place = Place::new();
    let job = job("x", 5, vec![holder(1, 1)]);
    place.part(&job).append(b"too long").unwrap();
    assert_eq!(place.part(&job).offset(), 0);
}

#[test]
fn existing_entry_or_dangling_link_is_kept() {
    let place = Place::new();
    let root = place.directory.path();
    std::fs::write(root.join("file"), b"mine").unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    for name in ["file", "link"] {
        let begin = place.begin(&job(name, 5, vec![holder(1, 1)])).unwrap();
        assert!(matches!(begin, Begin::Exists), "{name}");
    }
    assert_eq!(place.names(), ["file", "link"]);
}

#[test]
fn obstacle_to_a_file_is_kept() {
    let place = Place::new();
    let root = place.directory.path();
    std::fs::create_dir(root.join("dir")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, Mode::RUSR, 0).unwrap();
    for (name, what) in [("dir", "a directory"), ("pipe", "which is no file")] {
        let refusal = place.begin(&job(name, 5, vec![holder(1, 1)])).err();
        let refusal = refusal.unwrap().to_string();
        let expected = format!("'{name}', {what}, is in the way here: move it");
        assert!(refusal.starts_with(&expected), "{refusal}");
    }
    assert_eq!(place.names(), ["dir", "pipe"]);
}

#[test]
fn equal_content_only_gets_a_new_mtime() {
    let place = Place::new();
    let path = place.directory.path().join("x");
    let mut job = job("x", 5, vec![holder(1, 1)]);
    job.root = Some(root_of(b"hello"));
    for (content, is_same) in [("hello", true), ("hallo", false), ("hell", false)] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(place.begin(&job).unwrap(), Begin::Exists));
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.mtime() == 1_500_000_000, is_same, "{content}");
        assert_eq!(std::fs::read(&path).unwrap(), content.as_bytes());
    }
}

#[test]
fn part_is_removed_once_its_file_is_whole() {
    let place = Place::new();
    let job = job("x", 5, vec![holder(1, 1)]);
    place.part(&job).append(b"hel").unwrap();
    std::fs::write(place.directory.path().join("x"), b"mine").unwrap();
    assert!(matches!(place.begin(&job).unwrap(), Begin::Exists));
    assert_eq!(place.names(), ["x"]);
}

#[test]
fn what_has_no_bytes_is_not_left() {
    let place = Place::new();
    drop(place.part(&job("x", 5, vec![holder(1, 1)])));
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn rooted_part_fits_any_holder_or_version() {
    let place = Place::new();
    let mut old = job("x", 5, vec![holder(1, 1)]);
    old.root = Some(root_of(b"hello"));
    place.part(&old).append(b"hel").unwrap();
    let parts = place.target.parts(&old.directory).unwrap();
    let unhashed = job("x", 5, vec![holder(1, 2)]);
    assert!(Target::depends_on_root(&unhashed, &parts));
    assert!(!Target::depends_on_root(&old, &parts));
    let touched = Job {
        root: old.root,
        ..job("x", 5, vec![holder(2, 7), holder(1, 2)])
    };
    let mut part = place.part(&touched);
    assert_eq!(part.offset(), 3);
    part.append(b"lo").unwrap();
    assert!(part.check().unwrap());
    drop(part);
    let changed = Job {
        root: Some(root_of(b"other")),
        ..touched
    };
    let part = place.part(&changed);
    assert_eq!((part.offset(), place.names().len()), (0, 1));
}

#[test]
fn rootless_part_resumes_with_a_root() {
    let place = Place::new();
    let mut job = job("x", 5, vec![holder(1, 1)]);
    place.part(&job).append(b"hel").unwrap();
    job.root = Some(root_of(b"hello"));
    assert_eq!(place.part(&job).offset(), 3);
}

#[test]
fn what_nobody_offers_for_long_is_not_kept() {
    let place = Place::new();
    for name in ["gone", "lately", "wanted"] {
        let mut part = place.part(&job(name, 5, vec![holder(1, 1)]));
        part.append(b"hel").unwrap();
    }
    let names = place.names();
    let old = SystemTime::now() - FORGOTTEN - Duration::from_secs(60);
    for name in names.iter().filter(|name| !name.starts_with(".lately")) {
        let path = place.directory.path().join(name);
        let part = File::options().append(true).open(path).unwrap();
        part.set_modified(old).unwrap();
    }
    let root = RelPath::root();
    let parts = place.target.parts(&root).unwrap();
    let wanted = [job("wanted", 9, vec![holder(2, 2)])];
    place.target.forget(&root, &parts, &wanted).unwrap();
    let kept: Vec<bool> = names
        .iter()
        .map(|name| place.names().contains(name))
        .collect();
    assert_eq!(kept, [false, true, true], "{names:?}");
}

#[test]
fn only_a_content_part_waits_for_a_root() {
    let place = Place::new();
    place
        .part(&job("x", 5, vec![holder(1, 1)]))
        .append(b"hel")
        .unwrap();
    let touched = job("x", 5, vec![holder(1, 2)]);
    let parts = place.target.parts(&touched.directory).unwrap();
    assert!(!Target::depends_on_root(&touched, &parts));
}

#[test]
fn what_nobody_can_complete_is_not_left() {
    let place = Place::new();
    let mut job = job("x", 5, vec![holder(1, 1)]);
    let begun = |job: &Job| {
        let mut part = place.part(job);
        part.append(b"hel").unwrap();
        part.give_up().unwrap();
        place.names().len()
    };
    assert_eq!(begun(&job), 0);
    // The earlier content can come back.
    job.root = Some(root_of(b"hello"));
    assert_eq!(begun(&job), 1);
}

#[test]
fn file_appearing_mid_download_is_kept() {
    let place = Place::new();
    let job = job("x", 2, vec![holder(1, 1)]);
    let mut part = place.part(&job);
    part.append(b"hi").unwrap();
    std::fs::write(place.directory.path().join("x"), b"mine").unwrap();
    assert!(!part.finish(job.mtime).unwrap());
    assert_eq!(
        std::fs::read(place.directory.path().join("x")).unwrap(),
        b"mine"
    );
    assert_eq!(place.names(), ["x"]);
}

#[test]
fn symbolic_links_lead_nowhere() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), place.directory.path().join("a")).unwrap();
    let job = job("a/x", 5, vec![holder(1, 1)]);
    let refusal = place.begin(&job).err().unwrap().to_string();
    assert!(
        refusal.starts_with("'a', which is no directory, is in the way here"),
        "{refusal}"
    );
    assert_eq!(outside.path().read_dir().unwrap().count(), 0);
}

#[test]
fn link_in_place_of_a_part_is_not_followed() {
    let place = Place::new();
    let victim = place.directory.path().join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    let job = job("x", 5, vec![holder(1, 1)]);
    let part = PartName::new(&job);
    let part = place.directory.path().join(part.as_path());
    std::os::unix::fs::symlink(&victim, &part).unwrap();
    assert!(place.begin(&job).is_err());
    std::fs::remove_file(&part).unwrap();
    std::fs::hard_link(&victim, &part).unwrap();
    assert!(place.begin(&job).is_err());
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn two_processes_do_not_write_one_part() {
    let place = Place::new();
    let job = job("x", 5, vec![holder(1, 1)]);
    let first = place.part(&job);
    assert!(matches!(place.begin(&job).unwrap(), Begin::Busy));
    drop(first);
    assert!(matches!(place.begin(&job).unwrap(), Begin::Part(_)));
}

#[test]
fn the_longest_name_has_a_part_too() {
    let place = Place::new();
    let job = job(&"n".repeat(255), 0, vec![holder(1, 1)]);
    assert!(place.part(&job).finish(job.mtime).unwrap());
    assert_eq!(place.names(), ["n".repeat(255)]);
}

fn root_of(content: &[u8]) -> Root {
    let mut hasher = TreeHasher::default();
    hasher.update(content);
    hasher.finish().unwrap().root()
}

#[test]
fn bytes_failing_the_root_are_discarded() {
    let place = Place::new();
    let mut part = place.part(&job("x", 5, vec![holder(1, 1)]));
    part.append(b"hal").unwrap();
    part.expect(root_of(b"hello")).unwrap();
    part.append(b"lo").unwrap();
    assert!(!part.check().unwrap());
    assert_eq!(part.offset(), 0);
    part.append(b"hello").unwrap();
    assert!(part.check().unwrap());
}

#[test]
fn root_covers_bytes_of_an_earlier_run() {
    let place = Place::new();
    let mut job = job("x", 5, vec![holder(1, 1)]);
    job.root = Some(root_of(b"hello"));
    place.part(&job).append(b"hel").unwrap();
    let mut part = place.part(&job);
    part.append(b"lo").unwrap();
    assert!(part.check().unwrap());
    drop(part);
    std::fs::remove_file(place.directory.path().join(&place.names()[0])).unwrap();
    place.part(&job).append(b"hal").unwrap();
    let mut part = place.part(&job);
    part.append(b"lo").unwrap();
    assert!(!part.check().unwrap());
}

#[test]
fn an_empty_file_needs_no_root() {
    let place = Place::new();
    let mut part = place.part(&job("x", 0, vec![holder(1, 1)]));
    assert!(part.check().unwrap());
}

#[test]
fn a_part_of_another_file_is_never_touched() {
    let place = Place::new();
    // As similar as names and versions can be.
    let (x, y) = ("n".repeat(254) + "x", "n".repeat(254) + "y");
    place
        .part(&job(&x, 5, vec![holder(1, 1)]))
        .append(b"hel")
        .unwrap();
    for holders in [vec![holder(1, 1)], vec![holder(2, 7)]] {
        let part = place.part(&job(&y, 5, holders));
        assert_eq!(part.offset(), 0);
    }
    let part = place.part(&job(&x, 5, vec![holder(1, 1)]));
    assert_eq!(part.offset(), 3, "what was fetched is still there");
}

#[test]
fn part_names_one_member_path_and_version() {
    let name = Name::new(&b"x"[..]).unwrap();
    let one = PartName::of_version(&name, &holder(1, 1));
    let elsewhere = Holder {
        path: RelPath::new(b"d/x").unwrap(),
        ..holder(1, 1)
    };
    for other in [holder(2, 1), holder(1, 2), elsewhere] {
        assert_ne!(PartName::of_version(&name, &other), one);
    }
    assert_eq!(PartName::parse(one.as_path().as_bytes()), Some(one.clone()));
    assert!(one.is_of(&name) && !one.is_of(&Name::new(&b"x."[..]).unwrap()));
    for odd in [
        &b".x.tinyp2p-part"[..],
        b".tinyp2p-part",
        b"",
        &one.as_path().as_bytes()[1..],
    ] {
        assert_eq!(PartName::parse(odd), None);
    }
}

#[test]
fn part_of_another_process_is_kept() {
    let place = Place::new();
    let theirs = job("x", 5, vec![holder(2, 7)]);
    let mut first = place.part(&theirs);
    first.append(b"hel").unwrap();
    let ours = job("x", 5, vec![holder(1, 1)]);
    let mut second = place.part(&ours);
    second.append(b"hallo").unwrap();
    first.append(b"lo").unwrap();
    assert!(first.finish(1.into()).unwrap());
    assert!(!second.finish(1.into()).unwrap());
    assert_eq!(
        std::fs::read(place.directory.path().join("x")).unwrap(),
        b"hello"
    );
}

#[test]
fn foreign_users_part_is_not_written() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let job = job("x", 5, vec![holder(1, 1)]);
    place.part(&job).append(b"hel").unwrap();
    let part = place.directory.path().join(&place.names()[0]);
    std::os::unix::fs::chown(&part, Some(12_345), None).unwrap();
    assert!(place.begin(&job).is_err());
    std::os::unix::fs::chown(&part, Some(0), None).unwrap();
    assert_eq!(place.part(&job).offset(), 3);
}
