//! The operations as the kernel calls them, over a network in memory.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tinyp2p_net::download::ReaderPatience;
use tinyp2p_net::peer::Peer;
use tinyp2p_net::testing::{Behaviour, MemoryPeer};

use super::inodes::Pages;
use super::*;
use crate::errno::errno;
use crate::testing::MemoryNetwork;

mod modes;
mod trees;

const SOON: Duration = Duration::from_secs(30);

struct Setup {
    network: Arc<MemoryNetwork>,
    filesystem: Arc<Filesystem>,
    ann: Arc<MemoryPeer>,
}

fn setup() -> Setup {
    let network = Arc::new(MemoryNetwork::default());
    let ann = network.join("ann", 1);
    let engine = Arc::new(Engine::new(64 << 20, None, Box::new(|_, _| {})).unwrap());
    let filesystem = Filesystem::new(Arc::clone(&network) as Arc<dyn Network>, engine, None);
    Setup {
        network,
        filesystem: Arc::new(filesystem),
        ann,
    }
}

fn wait() -> Wait {
    Wait::Until(Instant::now() + SOON)
}

impl Setup {
    /// Looks a path up from the root, as the kernel walks it.
    fn find(&self, path: &str) -> Result<Attr, Error> {
        let mut attr = Attr::of(ROOT, &self.filesystem.inode(ROOT)?);
        for name in path.split('/') {
            attr = match self
                .filesystem
                .lookup(attr.inode, name.as_bytes(), wait())?
            {
                LookupResult::Found(attr) => attr,
                LookupResult::Absent { .. } => return Err(Error::NotFound),
            };
        }
        Ok(attr)
    }

    fn open(&self, path: &str) -> Result<u64, Error> {
        let number = self.find(path)?.inode;
        let opened = self.filesystem.open(number, libc::O_RDONLY, wait())?;
        Ok(opened.handle)
    }

    fn start_read(&self, handle: u64, offset: u64, size: u32) -> Receiver<Result<Vec<u8>, Error>> {
        let (sender, receiver) = channel();
        let done = Box::new(move |result: Result<&[u8], Error>| {
            sender.send(result.map(<[u8]>::to_vec)).unwrap();
        });
        self.filesystem
            .read(handle, offset, size, ReaderPatience::None, done);
        receiver
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Error> {
        self.start_read(handle, offset, size)
            .recv_timeout(SOON)
            .unwrap()
    }

    /// One reply of at most `room` entries: name, offset of the next one, attributes.
    fn page(&self, handle: u64, offset: u64, room: usize) -> Vec<(String, u64, Attr)> {
        let mut page = Vec::new();
        let mut emit = |entry: DirectoryEntry<'_>| {
            if page.len() == room {
                return false;
            }
            let name = String::from_utf8_lossy(entry.name).into_owned();
            page.push((name, entry.next, entry.attr));
            true
        };
        self.filesystem
            .readdirplus(handle, offset, wait(), &mut emit)
            .unwrap();
        page
    }

    /// The names of a whole open directory, in replies of at most `room` entries.
    fn names(&self, handle: u64, room: usize) -> Vec<String> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let page = self.page(handle, offset, room);
            let Some((_, next, _)) = page.last() else {
                return names;
            };
            offset = *next;
            names.extend(page.into_iter().map(|(name, ..)| name));
        }
    }

    fn known_inodes(&self) -> usize {
        self.filesystem.inodes.lock().count()
    }
}

#[test]
fn lookup_shows_the_members_attributes() {
    let setup = setup();
    setup.ann.put("d/x", "hello", 1_700_000_000_123_456_789);
    let attr = setup.find("d/x").unwrap();
    assert_eq!(
        (attr.kind, attr.size, attr.mtime),
        (Kind::File, 5.into(), 1_700_000_000_123_456_789.into())
    );
    assert_eq!(setup.find("d").unwrap().kind, Kind::Directory);
    assert_eq!(
        setup.filesystem.getattr(attr.inode, Wait::No).unwrap(),
        attr
    );
}

#[test]
fn unanimous_denial_is_certain_absence() {
    let setup = setup();
    let looked = setup.filesystem.lookup(ROOT, b"x", wait()).unwrap();
    assert_eq!(looked, LookupResult::Absent { certain: true });
}

#[test]
fn silent_member_makes_absence_uncertain() {
    let setup = setup();
    setup.network.join("bob", 2).behave(Behaviour::Gone);
    setup.ann.put("y", "y", 1);
    let looked = setup.filesystem.lookup(ROOT, b"x", wait()).unwrap();
    assert_eq!(looked, LookupResult::Absent { certain: false });
}

#[test]
fn names_that_are_too_long_are_told_so() {
    let setup = setup();
    let lookup = |name: &[u8]| setup.filesystem.lookup(ROOT, name, wait());
    assert!(matches!(lookup(&[b'x'; 256]), Err(Error::NameTooLong)));
    assert!(matches!(
        lookup(&[b'x'; 255]),
        Ok(LookupResult::Absent { .. })
    ));
}

#[test]
fn files_and_directories_do_not_mix() {
    let setup = setup();
    setup.ann.put("d/x", "x", 1);
    let (file, folder) = (
        setup.find("d/x").unwrap().inode,
        setup.find("d").unwrap().inode,
    );
    assert!(matches!(
        setup.filesystem.lookup(file, b"y", wait()),
        Err(Error::NotADirectory)
    ));
    assert!(matches!(
        setup.filesystem.opendir(file),
        Err(Error::NotADirectory)
    ));
    let open = setup.filesystem.open(folder, libc::O_RDONLY, wait());
    assert!(matches!(open, Err(Error::IsADirectory)));
}

#[test]
fn unknown_inodes_and_handles_are_told_so() {
    let setup = setup();
    let fs = &setup.filesystem;
    assert!(matches!(fs.getattr(99, wait()), Err(Error::UnknownInode)));
    assert!(matches!(setup.read(99, 0, 1), Err(Error::UnknownHandle)));
    let listed = fs.readdirplus(99, 0, wait(), &mut |_| true);
    assert!(matches!(listed, Err(Error::UnknownHandle)));
}

#[test]
fn nothing_can_be_written_or_executed() {
    let setup = setup();
    setup.ann.put("x", "x", 1);
    let inode = setup.find("x").unwrap().inode;
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
        assert!(matches!(
            setup.filesystem.open(inode, flags, wait()),
            Err(Error::ReadOnly)
        ));
    }
    let access = |number, mask| setup.filesystem.access(number, mask);
    assert!(access(inode, libc::R_OK).is_ok());
    assert!(matches!(access(inode, libc::W_OK), Err(Error::ReadOnly)));
    assert!(matches!(
        access(inode, libc::X_OK),
        Err(Error::NotExecutable)
    ));
    assert!(access(ROOT, libc::R_OK | libc::X_OK).is_ok());
}

#[test]
fn reads_give_the_bytes_and_end_at_the_end() {
    let setup = setup();
    setup.ann.put("x", "0123456789", 1);
    let handle = setup.open("x").unwrap();
    assert_eq!(setup.read(handle, 0, 4).unwrap(), b"0123");
    assert_eq!(setup.read(handle, 4, 4096).unwrap(), b"456789");
    assert_eq!(setup.read(handle, 10, 4096).unwrap(), b"");
    assert_eq!(setup.read(handle, u64::MAX, u32::MAX).unwrap(), b"");
}

#[test]
fn a_conflict_is_read_from_its_own_member() {
    let setup = setup();
    setup.ann.put("a.txt", "old", 1);
    setup.network.join("bob", 2).put("a.txt", "newer", 2);
    let plain = setup.open("a.txt").unwrap();
    let other = setup.open("a (ann).txt").unwrap();
    assert_eq!(setup.read(plain, 0, 99).unwrap(), b"newer");
    assert_eq!(setup.read(other, 0, 99).unwrap(), b"old");
}

#[test]
fn open_file_keeps_its_content() {
    let setup = setup();
    setup.ann.put("x", "old", 1);
    let handle = setup.open("x").unwrap();
    let old = setup.find("x").unwrap();
    setup.ann.put("x", "brand new", 2);
    let read = setup.read(handle, 0, 99).unwrap_err();
    assert_eq!(errno(&read), libc::ESTALE);
    // Its fstat stays; the old inode cannot be opened again, and the name leads to another one.
    let now = setup.filesystem.getattr(old.inode, wait()).unwrap();
    assert_eq!((now.size, now.mtime), (old.size, old.mtime));
    let again = setup.filesystem.open(old.inode, libc::O_RDONLY, wait());
    assert!(matches!(again, Err(Error::Replaced)));
    let new = setup.find("x").unwrap();
    assert_ne!(new.inode, old.inode);
    let handle = setup.open("x").unwrap();
    assert_eq!(setup.read(handle, 0, 99).unwrap(), b"brand new");
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

/// Bytes of more than one small file.
fn long(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn harmless_change_ends_no_read() {
    let setup = setup();
    let content = long(300_000);
    for (name, is_rooted) in [("rooted", true), ("new", false)] {
        let moved = format!("moved/{name}");
        if is_rooted {
            setup.ann.put_rooted(name, content.clone(), 1);
        } else {
            // As if it had been written just now.
            let now = UnixTime::now().in_64_bits();
            setup.ann.put(name, content.clone(), now);
        }
        let handle = setup.open(name).unwrap();
        assert_eq!(setup.read(handle, 0, 1000).unwrap(), content[..1000]);
        setup.ann.change(name, 77, |_| {});
        assert_eq!(
            setup.read(handle, 150_000, 9).unwrap(),
            content[150_000..150_009]
        );
        setup.ann.rename(name, &moved);
        assert_eq!(
            setup.read(handle, 299_000, 9999).unwrap(),
            content[299_000..]
        );
        setup
            .ann
            .change(&moved, 78, |content| content[200_000] ^= 1);
        // It may be in memory; otherwise it is gone.
        let read = setup.read(handle, 200_000, 9);
        assert!(read.is_err() || read.unwrap() == content[200_000..200_009]);
    }
}

#[test]
fn open_file_grows_and_keeps_its_number() {
    let setup = setup();
    let (first, more) = (long(100_000), [b"more".to_vec(), long(50_000)].concat());
    setup.ann.put_rooted("log", first.clone(), 1);
    let opened = setup.find("log").unwrap();
    let handle = setup.open("log").unwrap();
    assert_eq!(setup.read(handle, 99_990, 100).unwrap(), first[99_990..]);
    setup.ann.append("log", &more, 2);
    setup.filesystem.invalidate(&path("log"));
    let grown = setup.filesystem.getattr(opened.inode, wait()).unwrap();
    assert_eq!((grown.size, grown.inode), (150_004.into(), opened.inode));
    assert_eq!(setup.find("log").unwrap().inode, opened.inode);
    let tail = setup.read(handle, 99_990, 14 + 10).unwrap();
    assert_eq!(tail, [&first[99_990..], &more[..14]].concat());
    // Another handle gets the same content, and so the same pages.
    let number = opened.inode;
    let again = setup
        .filesystem
        .open(number, libc::O_RDONLY, wait())
        .unwrap();
    assert_eq!(again.pages, Pages::Keep);
    assert_eq!(
        setup.read(again.handle, 150_000, 9).unwrap(),
        more[50_000..]
    );
}

#[test]
fn event_loops_do_not_wait_for_a_page() {
    let setup = setup();
    setup.ann.put_rooted("log", long(100_000), 1);
    let opened = setup.find("log").unwrap();
    setup.open("log").unwrap();
    setup.ann.append("log", b"more", 2);
    setup.filesystem.invalidate(&path("log"));
    // A listing learns of the new size.
    let root = setup.filesystem.opendir(ROOT).unwrap();
    let listed = setup.filesystem.readdirplus(root, 0, wait(), &mut |_| true);
    listed.unwrap();
    let attr = setup.filesystem.getattr(opened.inode, Wait::No);
    assert!(matches!(attr, Err(Error::NeedsNetwork)));
    let looked = setup.filesystem.lookup(ROOT, b"log", Wait::No);
    assert!(matches!(looked, Err(Error::NeedsNetwork)));
    assert_eq!(setup.find("log").unwrap().size, 100_004);
    // Three lookups and an entry count as assigned; what failed does not.
    setup.filesystem.forget(opened.inode, 4);
    assert!(setup.filesystem.inodes.lock().get(opened.inode).is_none());
}

#[test]
fn overwritten_open_file_does_not_grow() {
    let setup = setup();
    let first = long(100_000);
    setup.ann.put_rooted("log", first.clone(), 1);
    let opened = setup.find("log").unwrap();
    let handle = setup.open("log").unwrap();
    assert_eq!(setup.read(handle, 0, 10).unwrap(), first[..10]);
    setup
        .ann
        .change("log", 2, |content| *content = vec![7; 200_000]);
    setup.filesystem.invalidate(&path("log"));
    setup.filesystem.getattr(opened.inode, wait()).unwrap();
    let read = setup.read(handle, 150_000, 10).unwrap_err();
    assert_eq!(errno(&read), libc::ESTALE);
    // A later open gets the new bytes, and none of the kernel's pages.
    let number = setup.find("log").unwrap().inode;
    let new = setup
        .filesystem
        .open(number, libc::O_RDONLY, wait())
        .unwrap();
    assert_eq!(setup.read(new.handle, 0, 10).unwrap(), [7; 10]);
    assert!(number != opened.inode || new.pages == Pages::Bypass);
}

#[test]
fn growth_waits_for_short_reads() {
    let setup = setup();
    setup.ann.put_rooted("log", long(100_000), 1);
    let opened = setup.find("log").unwrap();
    setup.open("log").unwrap();
    assert!(
        setup
            .filesystem
            .inodes
            .lock()
            .begin_short_read(opened.inode, 100_000)
    );
    setup.ann.append("log", b"more", 2);
    setup.filesystem.invalidate(&path("log"));
    let size = || setup.filesystem.getattr(opened.inode, wait()).unwrap().size;
    assert_eq!(size(), 100_000);
    setup.filesystem.inodes.lock().end_short_read(opened.inode);
    assert_eq!(size(), 100_004);
    assert!(
        !setup
            .filesystem
            .inodes
            .lock()
            .begin_short_read(opened.inode, 100_000)
    );
}

#[test]
fn open_falls_back_to_another_holder() {
    let setup = setup();
    setup.ann.put("x", "same", 1);
    setup.network.join("bob", 2).put("x", "same", 1);
    let inode = setup.find("x").unwrap().inode;
    setup.network.leave(setup.ann.id());
    // ESTALE at an open makes the kernel look the name up again.
    let open = setup.filesystem.open(inode, libc::O_RDONLY, wait());
    assert!(matches!(open, Err(Error::Replaced)));
    let handle = setup.open("x").unwrap();
    assert_eq!(setup.read(handle, 0, 99).unwrap(), b"same");
}

#[test]
fn this_node_is_read_first() {
    let network = Arc::new(MemoryNetwork::default());
    let (ann, bob) = (network.join("ann", 1), network.join("bob", 2));
    ann.put_rooted("x", "same", 1);
    bob.put_rooted("x", "same", 1);
    let engine = Arc::new(Engine::new(64 << 20, None, Box::new(|_, _| {})).unwrap());
    let filesystem = Filesystem::new(
        Arc::clone(&network) as Arc<dyn Network>,
        engine,
        Some(bob.id()),
    );
    let setup = Setup {
        network,
        filesystem: Arc::new(filesystem),
        ann,
    };
    let handle = setup.open("x").unwrap();
    setup.read(handle, 0, 99).unwrap();
    assert_eq!((setup.ann.opens(), bob.opens() > 0), (0, true));
}

#[test]
fn lost_member_makes_no_short_file() {
    let setup = setup();
    setup.ann.put("x", vec![7; 1 << 20], 1);
    setup.ann.behave(Behaviour::CutAfter(1000));
    let handle = setup.open("x").unwrap();
    let result = setup.read(handle, 0, 1 << 20);
    assert!(result.is_err() || result.unwrap().len() == 1 << 20);
}

#[test]
fn closing_a_file_ends_reads_that_wait() {
    let setup = setup();
    setup.ann.put("x", vec![7; 1 << 20], 1);
    let handle = setup.open("x").unwrap();
    setup.ann.behave(Behaviour::Frozen);
    let answer = setup.start_read(handle, 0, 4096);
    setup.filesystem.release(handle);
    assert!(answer.recv_timeout(SOON).unwrap().is_err());
    setup.ann.behave(Behaviour::Honest);
}

#[test]
fn listing_is_the_same_for_any_reply_size() {
    let setup = setup();
    for number in 0..20 {
        setup.ann.put(&format!("d/{number:02}"), "x", 1);
    }
    let folder = setup.find("d").unwrap().inode;
    let expected: Vec<String> = [".".into(), "..".into()]
        .into_iter()
        .chain((0..20).map(|number| format!("{number:02}")))
        .collect();
    for room in [1, 2, 3, 7, 100] {
        let handle = setup.filesystem.opendir(folder).unwrap();
        assert_eq!(setup.names(handle, room), expected);
        setup.filesystem.releasedir(handle);
    }
}

#[test]
fn same_offset_gives_the_same_entries() {
    let setup = setup();
    setup.ann.put("a", "x", 1);
    setup.ann.put("c", "x", 1);
    let handle = setup.filesystem.opendir(ROOT).unwrap();
    let first = setup.page(handle, 0, 3);
    setup.ann.put("b", "x", 1);
    setup
        .filesystem
        .view
        .invalidate(&RelPath::new(b"b").unwrap());
    let offset = first.last().unwrap().1;
    for _ in 0..2 {
        let rest: Vec<String> = setup
            .page(handle, offset, 9)
            .into_iter()
            .map(|e| e.0)
            .collect();
        assert_eq!(rest, ["c"]);
    }
    // Rewinding shows the present state.
    assert_eq!(setup.names(handle, 9), [".", "..", "a", "b", "c"]);
}

#[test]
fn dots_are_the_directory_and_its_parent() {
    let setup = setup();
    setup.ann.put("d/e/x", "x", 1);
    let (parent, folder) = (
        setup.find("d").unwrap().inode,
        setup.find("d/e").unwrap().inode,
    );
    let handle = setup.filesystem.opendir(folder).unwrap();
    let inodes: Vec<u64> = setup.page(handle, 0, 2).iter().map(|e| e.2.inode).collect();
    assert_eq!(inodes, [folder, parent]);
}

#[test]
fn only_entries_that_were_told_are_kept() {
    let setup = setup();
    for number in 0..10 {
        setup.ann.put(&number.to_string(), "x", 1);
    }
    let handle = setup.filesystem.opendir(ROOT).unwrap();
    let page = setup.page(handle, 0, 2 + 4);
    // The root and four files; not the fifth, for which there was no room.
    assert_eq!(setup.known_inodes(), 5);
    for (_, _, attr) in &page[2..] {
        setup.filesystem.forget(attr.inode, 1);
    }
    assert_eq!(setup.known_inodes(), 1);
}

/// An open directory of 20 files, after its first reply of 2 + 5 entries, and how far that reached.
fn begun(setup: &Setup) -> (u64, u64) {
    for number in 0..20 {
        setup.ann.put(&format!("d/{number:02}"), "x", 1);
    }
    let folder = setup.find("d").unwrap();
    let handle = setup.filesystem.opendir(folder.inode).unwrap();
    let page = setup.page(handle, 0, 7);
    (handle, page.last().unwrap().1)
}

#[test]
fn what_is_made_ready_is_what_is_told_next() {
    let setup = setup();
    let (handle, mut offset) = begun(&setup);
    let mut names = Vec::new();
    // Fewer than are ready, as many, more.
    for room in [3, 3, 1, 8, 8] {
        setup.filesystem.readdirplus_ahead(handle);
        let page = setup.page(handle, offset, room);
        offset = page.last().map_or(offset, |(_, next, _)| *next);
        names.extend(page.into_iter().map(|(name, ..)| name));
    }
    let expected: Vec<_> = (5..20).map(|number| format!("{number:02}")).collect();
    assert_eq!(names, expected);
    // The root, the directory, and what was assigned in it.
    assert_eq!(setup.known_inodes(), 22);
}

#[test]
fn unused_prefetched_entries_are_taken_back() {
    let setup = setup();
    let (handle, offset) = begun(&setup);
    setup.filesystem.readdirplus_ahead(handle);
    assert_eq!(setup.known_inodes(), 2 + 10);
    // From another place.
    setup.page(handle, offset - 1, 2);
    assert_eq!(setup.known_inodes(), 2 + 6);
    setup.filesystem.readdirplus_ahead(handle);
    assert_eq!(setup.known_inodes(), 2 + 8);
    setup.filesystem.releasedir(handle);
    assert_eq!(setup.known_inodes(), 2 + 6);
}

#[test]
fn prefetched_entry_shows_what_came_later() {
    let setup = setup();
    let (handle, offset) = begun(&setup);
    setup.filesystem.readdirplus_ahead(handle);
    let number = setup.find("d/05").unwrap().inode;
    let mut inodes = setup.filesystem.inodes.lock();
    inodes.get_mut(number).unwrap().size = 4711.into();
    drop(inodes);
    let page = setup.page(handle, offset, 1);
    assert_eq!((page[0].2.inode, page[0].2.size), (number, 4711.into()));
}

#[test]
fn listing_and_lookup_agree_on_the_inode() {
    let setup = setup();
    setup.ann.put("x", "x", 1);
    setup.network.join("bob", 2).put("x", "yy", 2);
    let handle = setup.filesystem.opendir(ROOT).unwrap();
    for (name, _, attr) in &setup.page(handle, 0, 9)[2..] {
        assert_eq!(setup.find(name).unwrap().inode, attr.inode, "{name}");
    }
}

#[test]
fn memory_alone_never_asks_the_network() {
    let setup = setup();
    setup.ann.put("d/x", "x", 1);
    let folder = setup.find("d").unwrap().inode;
    let handle = setup.filesystem.opendir(folder).unwrap();
    let calls = setup.network.calls();
    let fs = &setup.filesystem;
    let mut emitted = 0;
    let mut emit = |_: DirectoryEntry<'_>| {
        emitted += 1;
        true
    };
    let listed = fs.readdirplus(handle, 0, Wait::No, &mut emit);
    assert!(matches!(listed, Err(Error::NeedsNetwork)));
    assert!(matches!(
        fs.lookup(folder, b"x", Wait::No),
        Err(Error::NeedsNetwork)
    ));
    assert!(matches!(
        fs.getattr(folder, Wait::No),
        Err(Error::NeedsNetwork)
    ));
    assert_eq!((emitted, setup.network.calls()), (0, calls));
}

#[test]
fn attributes_hold_while_members_are_silent() {
    let setup = setup();
    setup.ann.put("d/x", "x", 1);
    let folder = setup.find("d").unwrap();
    setup.ann.behave(Behaviour::Gone);
    assert_eq!(
        setup.filesystem.getattr(folder.inode, wait()).unwrap(),
        folder
    );
    setup.ann.behave(Behaviour::Honest);
    setup.ann.remove("d/x");
    let gone = setup.filesystem.getattr(folder.inode, wait());
    assert!(matches!(gone, Err(Error::NotFound)));
}

#[test]
fn the_root_is_there_even_when_nobody_is() {
    let setup = setup();
    setup.network.leave(setup.ann.id());
    assert!(setup.filesystem.getattr(ROOT, wait()).unwrap().mtime > UnixTime::EPOCH);
    let handle = setup.filesystem.opendir(ROOT).unwrap();
    assert_eq!(setup.names(handle, 9), [".", ".."]);
}

#[test]
fn a_members_return_brings_its_files_back() {
    let setup = setup();
    setup.ann.put("x", "x", 1);
    setup.ann.behave(Behaviour::Gone);
    assert!(setup.find("x").is_err());
    setup.ann.behave(Behaviour::Honest);
    assert!(setup.find("x").is_ok());
}

#[test]
fn statfs_counts_what_was_listed() {
    let setup = setup();
    setup.ann.put("x", vec![0; 10_000], 1);
    assert_eq!(
        setup.filesystem.statfs(),
        Statistics {
            blocks: 1,
            files: 1
        }
    );
    let handle = setup.filesystem.opendir(ROOT).unwrap();
    setup.names(handle, 9);
    assert_eq!(
        setup.filesystem.statfs(),
        Statistics {
            blocks: 3,
            files: 1
        }
    );
}

#[test]
fn xattrs_show_root_sources_and_cache() {
    let setup = setup();
    let root = setup.ann.put_rooted("d/x", "same", 1).root.unwrap();
    setup.ann.put("d/y", "unproven", 1);
    let bob = setup.network.join("bob", 2);
    bob.put_rooted("d/x", "same", 1);
    let unproven = setup.find("d/y").unwrap().inode;
    let file = setup.find("d/x").unwrap().inode;
    let get = |number, name: &[u8]| {
        let value = setup.filesystem.xattr(number, name, Wait::No)?;
        Ok(String::from_utf8(value).unwrap())
    };
    let sources = format!(
        "ann {}
bob {}",
        setup.ann.id(),
        bob.id()
    );
    assert_eq!(get(file, XATTR_SOURCES).unwrap(), sources);
    assert_eq!(
        get(setup.find("d").unwrap().inode, XATTR_SOURCES).unwrap(),
        sources
    );
    assert_eq!(get(file, XATTR_ROOT).unwrap(), root.to_string());
    assert!(matches!(get(unproven, XATTR_ROOT), Err(Error::NoAttribute)));
    assert_eq!(get(file, XATTR_CACHED).unwrap(), "0");
    let handle = setup.open("d/x").unwrap();
    setup.read(handle, 0, 99).unwrap();
    assert_eq!(get(file, XATTR_CACHED).unwrap(), "4");
    assert!(matches!(get(file, b"user.other"), Err(Error::NoAttribute)));
    assert!(matches!(
        get(file, b"user.tinyp2p"),
        Err(Error::NoAttribute)
    ));
    for name in [
        &b"security.selinux"[..],
        b"system.posix_acl_access",
        b"user",
    ] {
        assert!(matches!(get(file, name), Err(Error::NoNamespace)));
    }
    assert!(matches!(get(ROOT, XATTR_CACHED), Err(Error::NoAttribute)));
}
