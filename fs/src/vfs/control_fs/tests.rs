//! The operations as the kernel calls them, on what is never listed.

use std::sync::mpsc::channel;

use tinyp2p_net::download::{Engine, ReaderPatience};
use tinyp2p_net::testing::Behaviour;

use super::*;
use crate::testing::MemoryNetwork;
use crate::vfs::{Filesystem, XATTR_ROOT};
use crate::view::Wait;

struct Setup {
    network: Arc<MemoryNetwork>,
    filesystem: Arc<Filesystem>,
}

fn setup() -> Setup {
    let network = Arc::new(MemoryNetwork::default());
    let engine = Arc::new(Engine::new(64 << 20, None, Box::new(|_, _| {})).unwrap());
    let shared = Arc::clone(&network) as Arc<dyn Network>;
    let place = NodeLocation {
        mountpoint: Some("/mnt/p2p".into()),
        share: None,
    };
    Setup {
        filesystem: Arc::new(Filesystem::new(shared, engine, None).at(place)),
        network,
    }
}

impl Setup {
    fn look(&self, parent: u64, name: &str) -> Result<LookupResult, Error> {
        self.filesystem.lookup(parent, name.as_bytes(), Wait::No)
    }

    fn find(&self, parent: u64, name: &str) -> Attr {
        match self.look(parent, name).unwrap() {
            LookupResult::Found(attr) => attr,
            LookupResult::Absent { .. } => panic!("{name} is absent"),
        }
    }

    fn open(&self, name: &str) -> u64 {
        let directory = self.find(ROOT, ".tinyp2p");
        let file = self.find(directory.inode, name);
        let opened = self.filesystem.open(file.inode, libc::O_RDONLY, Wait::No);
        opened.unwrap().handle
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Result<String, Error> {
        let (sender, receiver) = channel();
        let done = Box::new(move |result: Result<&[u8], Error>| {
            sender.send(result.map(<[u8]>::to_vec)).unwrap();
        });
        self.filesystem
            .read(handle, offset, size, ReaderPatience::None, done);
        let bytes = receiver.recv().unwrap()?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn all(&self, name: &str) -> String {
        self.read(self.open(name), 0, u32::MAX).unwrap()
    }

    /// The names of an open directory, in replies of one entry each.
    fn names(&self, handle: u64) -> Vec<(String, u64)> {
        let (mut names, mut next) = (Vec::new(), 0);
        loop {
            let (before, offset) = (names.len(), next);
            let mut emit = |entry: DirectoryEntry<'_>| {
                if names.len() > before {
                    return false;
                }
                let name = String::from_utf8(entry.name.to_vec()).unwrap();
                names.push((name, entry.attr.inode));
                next = entry.next;
                true
            };
            let read = self
                .filesystem
                .readdirplus(handle, offset, Wait::No, &mut emit);
            read.unwrap();
            if names.len() == before {
                return names;
            }
        }
    }
}

#[test]
fn control_directory_is_found_by_name() {
    let setup = setup();
    let directory = setup.find(ROOT, ".tinyp2p");
    assert_eq!(
        (directory.kind, directory.inode),
        (Kind::Directory, DIRECTORY)
    );
    let attr = setup.filesystem.getattr(DIRECTORY, Wait::No).unwrap();
    assert_eq!(attr.kind, Kind::Directory);
    let handle = setup.filesystem.opendir(DIRECTORY).unwrap();
    let listed = setup.names(handle);
    let names: Vec<&str> = listed.iter().map(|(name, _)| &**name).collect();
    let expected = ["conflicts", "peers", "search", "status", "status.json"];
    assert_eq!(names[..2], [".", ".."]);
    assert_eq!(names[2..], expected);
    assert_eq!((listed[0].1, listed[1].1), (DIRECTORY, ROOT));
    assert_eq!((listed[3].1, listed[4].1), (MEMBERS, SEARCHES));
    for (_, number) in [&listed[2..3], &listed[5..]].concat().iter() {
        let attr = setup.filesystem.getattr(*number, Wait::No).unwrap();
        assert!(attr.kind == Kind::File && attr.size > FileSize::of(0));
        let opened = setup.filesystem.opendir(*number);
        assert!(matches!(opened, Err(Error::NotADirectory)));
        assert!(matches!(
            setup.look(*number, "x"),
            Err(Error::NotADirectory)
        ));
    }
    let absent = setup.look(DIRECTORY, "x").unwrap();
    assert_eq!(absent, LookupResult::Absent { certain: true });
    setup.filesystem.forget(DIRECTORY, 7);
    setup.find(ROOT, ".tinyp2p");
}

#[test]
fn control_name_is_ordinary_elsewhere() {
    let setup = setup();
    let ann = setup.network.join("ann", 1);
    ann.put("d/.tinyp2p", "x", 1);
    let soon = Wait::Until(std::time::Instant::now() + std::time::Duration::from_secs(30));
    let LookupResult::Found(directory) = setup.filesystem.lookup(ROOT, b"d", soon).unwrap() else {
        panic!("no d");
    };
    let looked = setup.filesystem.lookup(directory.inode, b".tinyp2p", soon);
    assert!(
        matches!(looked, Ok(LookupResult::Found(attr)) if attr.size == 1 && attr.inode < DIRECTORY)
    );
}

#[test]
fn status_files_ask_nobody() {
    let setup = setup();
    setup.network.join("ann", 1).behave(Behaviour::Frozen);
    let calls = setup.network.calls();
    let text = setup.all("status");
    assert!(
        text.contains("mounted  /mnt/p2p\n") && text.contains("ann"),
        "{text}"
    );
    let report: NodeReport = serde_json::from_str(&setup.all("status.json")).unwrap();
    assert_eq!(report.mountpoint.as_deref(), Some("/mnt/p2p"));
    assert_eq!(report.status.members[0].name, "ann");
    assert_eq!(setup.network.calls(), calls);
}

#[test]
fn each_status_state_is_its_own_file() {
    let setup = setup();
    let file = setup.find(DIRECTORY, "status.json");
    let handle = setup
        .filesystem
        .open(file.inode, libc::O_RDONLY, Wait::No)
        .unwrap()
        .handle;
    setup.network.join("ann", 1);
    let later = setup.find(DIRECTORY, "status.json");
    assert!(later.inode != file.inode && later.size > file.size);
    let first = setup.read(handle, 0, 10).unwrap();
    let rest = setup.read(handle, 10, u32::MAX).unwrap();
    assert_eq!((first.len() + rest.len()) as u64, file.size.or_zero());
    let report: NodeReport = serde_json::from_str(&(first + &rest)).unwrap();
    assert!(report.status.members.is_empty());
    for offset in [file.size.or_zero(), file.size.or_zero() + 1, u64::MAX] {
        assert_eq!(setup.read(handle, offset, 10).unwrap(), "");
    }
    let report: NodeReport = serde_json::from_str(&setup.all("status.json")).unwrap();
    assert_eq!(report.status.members.len(), 1);
}

#[test]
fn status_state_lives_until_forgotten() {
    let setup = setup();
    let known = || setup.filesystem.hidden.states.lock().by_number.len();
    let file = setup.find(DIRECTORY, "status");
    let handle = setup.filesystem.opendir(DIRECTORY).unwrap();
    let listed = setup.names(handle);
    assert_eq!(known(), 1 + 3, "what was not shown was not kept");
    setup.filesystem.release(file.inode);
    setup.filesystem.forget(file.inode, 1);
    assert_eq!(known(), 3);
    let gone = setup.filesystem.getattr(file.inode, Wait::No);
    assert!(matches!(gone, Err(Error::UnknownInode)));
    let gone = setup.read(file.inode, 0, 1);
    assert!(matches!(gone, Err(Error::UnknownHandle)));
    for (_, number) in &listed[2..] {
        setup.filesystem.forget(*number, 1);
    }
    assert_eq!(known(), 0);
}

#[test]
fn control_files_are_plain_and_read_only() {
    let setup = setup();
    let fs = &setup.filesystem;
    let file = setup.find(DIRECTORY, "status").inode;
    assert!(matches!(
        fs.open(file, libc::O_RDWR, Wait::No),
        Err(Error::ReadOnly)
    ));
    let directory = fs.open(DIRECTORY, libc::O_RDONLY, Wait::No);
    assert!(matches!(directory, Err(Error::IsADirectory)));
    assert!(matches!(fs.access(file, libc::W_OK), Err(Error::ReadOnly)));
    assert!(matches!(
        fs.access(file, libc::X_OK),
        Err(Error::NotExecutable)
    ));
    fs.access(file, libc::R_OK).unwrap();
    fs.access(DIRECTORY, libc::X_OK).unwrap();
    for number in [file, DIRECTORY] {
        assert!(matches!(
            fs.xattr(number, XATTR_ROOT, Wait::No),
            Err(Error::NoAttribute)
        ));
        let foreign = fs.xattr(number, b"security.selinux", Wait::No);
        assert!(matches!(foreign, Err(Error::NoNamespace)));
    }
}

#[test]
fn known_pattern_keeps_its_number() {
    let setup = setup();
    setup.network.join("ann", 1).behave(Behaviour::Frozen);
    let first = setup.find(SEARCHES, "\\.ogg$");
    assert_eq!(first.kind, Kind::Directory);
    assert_eq!(setup.find(SEARCHES, "\\.ogg$").inode, first.inode);
    assert_ne!(setup.find(SEARCHES, "x").inode, first.inode);
    let states = || {
        let states = setup.filesystem.hidden.states.lock();
        (states.by_number.len(), states.patterns.len())
    };
    assert_eq!(states(), (2, 2));
    setup.filesystem.forget(first.inode, 2);
    assert_eq!(states(), (1, 1));
    let handle = setup.filesystem.opendir(SEARCHES).unwrap();
    assert_eq!(setup.names(handle).len(), 2, "it lists nothing");
    assert_eq!(setup.network.calls(), 0);
}

#[test]
fn invalid_pattern_is_absent_and_explained() {
    let setup = setup();
    let absent = LookupResult::Absent { certain: true };
    assert_eq!(setup.look(SEARCHES, "ab(c").unwrap(), absent);
    let not_text = setup.filesystem.lookup(SEARCHES, b"\xff", Wait::No);
    assert_eq!(not_text.unwrap(), absent);
    let text = setup.all("status");
    let why = "unclosed group (at character 3 of the pattern)";
    assert!(
        text.contains(&format!("search   ab(c, 0 s ago: {why}")),
        "{text}"
    );
    let report: NodeReport = serde_json::from_str(&setup.all("status.json")).unwrap();
    let patterns: Vec<&str> = report.searches.iter().map(|s| &*s.pattern).collect();
    assert_eq!(patterns, ["\\xff", "ab(c"]);
    assert_eq!(report.searches[1].problem, why);
}
