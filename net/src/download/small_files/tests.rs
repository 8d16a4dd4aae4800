//! Small files read through the engine, from members in memory.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::config::READ_DEADLINE;
use crate::content::cache::DiskCache;
use crate::download::{Download, Engine, FileSource};
use crate::error::Error;
use crate::model::Attributes;
use crate::peer::Peer;
use crate::testing::{Behaviour, MemoryPeer};

const FILES: usize = 300;

/// A directory of small files that several members share alike.
struct Rig {
    engine: Engine,
    peers: Vec<Arc<MemoryPeer>>,
    attributes: Vec<Attributes>,
    siblings: Arc<Listing>,
    blamed: Arc<Mutex<Vec<PeerId>>>,
}

struct Listing(Mutex<Vec<SmallFile>>);

impl UpcomingFiles for Listing {
    fn behind(&self, path: &RelPath, order: ReadingOrder, _: PeerId, max: usize) -> Vec<SmallFile> {
        let files = self.0.lock();
        match order {
            ReadingOrder::ByName => {
                let behind = files.iter().filter(|file| file.path > *path);
                behind.take(max).cloned().collect()
            }
            // Their inode numbers descend.
            ReadingOrder::ByNumber => {
                let behind = files.iter().rev().filter(|file| file.path < *path);
                behind.take(max).cloned().collect()
            }
        }
    }

    fn order(&self, before: &RelPath, path: &RelPath) -> ReadingOrder {
        if before < path {
            ReadingOrder::ByName
        } else {
            ReadingOrder::ByNumber
        }
    }
}

fn name(number: usize) -> String {
    format!("d/{number:04}")
}

fn content(number: usize) -> Vec<u8> {
    let size = 1 + number * 131 % 40_000;
    (0..size).map(|at| (at * 31 + number) as u8).collect()
}

fn rig(members: u8, rooted: bool, cache: Option<Arc<DiskCache>>) -> Rig {
    let peers: Vec<_> = (1..=members)
        .map(|seed| Arc::new(MemoryPeer::new(seed)))
        .collect();
    let put = |peer: &MemoryPeer, number| {
        if rooted {
            peer.put_rooted(&name(number), content(number), 1)
        } else {
            peer.put(&name(number), content(number), 1)
        }
    };
    let mut attributes = Vec::new();
    for number in 0..FILES {
        let shared: Vec<_> = peers.iter().map(|peer| put(peer, number)).collect();
        attributes.push(shared[0]);
    }
    let listed = attributes
        .iter()
        .enumerate()
        .map(|(number, attributes)| SmallFile {
            path: path(number),
            version: attributes.version,
            size: attributes.size.or_zero(),
            root: attributes.root,
        });
    let siblings = Arc::new(Listing(Mutex::new(listed.collect())));
    let blamed = Arc::new(Mutex::new(Vec::new()));
    let blame = Arc::clone(&blamed);
    let on_failure = move |peer, error: &Error| {
        if matches!(error, Error::WrongBytes { .. }) {
            blame.lock().push(peer);
        }
    };
    Rig {
        engine: Engine::new(128 << 20, cache, Box::new(on_failure)).unwrap(),
        peers,
        attributes,
        siblings,
        blamed,
    }
}

fn path(number: usize) -> RelPath {
    RelPath::new(name(number).as_bytes()).unwrap()
}

impl Rig {
    fn open(&self, number: usize) -> Download {
        let attributes = self.attributes[number];
        let sources = self.peers.iter().map(|peer| FileSource {
            peer: Arc::clone(peer) as Arc<dyn Peer>,
            path: path(number),
            has: Availability::File(attributes.version),
            is_local: false,
        });
        let siblings = Arc::clone(&self.siblings) as Arc<dyn UpcomingFiles>;
        let (size, root) = (attributes.size.or_zero(), attributes.root);
        self.engine
            .open_among(sources.collect(), size, root, siblings)
    }

    fn read(&self, number: usize) -> Result<Vec<u8>, Error> {
        let (download, receiver) = self.start(number);
        let result = receiver.recv_timeout(Duration::from_secs(30));
        drop(download);
        result.expect("every read is answered")
    }

    fn start(&self, number: usize) -> (Download, mpsc::Receiver<Result<Vec<u8>, Error>>) {
        let download = self.open(number);
        let (sender, receiver) = mpsc::channel();
        let whole = ByteRange::new(0, self.attributes[number].size.or_zero());
        download.read(
            whole,
            ReaderPatience::None,
            Box::new(move |result| drop(sender.send(result.map(<[u8]>::to_vec)))),
        );
        (download, receiver)
    }

    fn requests(&self) -> usize {
        self.peers
            .iter()
            .map(|peer| peer.opens() + peer.fetches() + peer.calls())
            .sum()
    }
}

#[test]
fn ordered_read_takes_few_requests() {
    for rooted in [true, false] {
        let rig = rig(1, rooted, None);
        for number in 0..FILES {
            assert_eq!(rig.read(number).unwrap(), content(number));
        }
        assert!(rig.requests() < 40, "{} requests", rig.requests());
        assert_eq!(rig.peers[0].opens(), 1);
    }
}

#[test]
fn a_lone_file_brings_no_others() {
    let rig = rig(1, true, None);
    assert_eq!(rig.read(7).unwrap(), content(7));
    assert_eq!((rig.peers[0].opens(), rig.peers[0].fetches()), (1, 0));
}

#[test]
fn partial_rereads_come_from_one_batch() {
    let rig = rig(1, true, None);
    rig.read(0).unwrap();
    rig.read(1).unwrap();
    let download = rig.open(100);
    let expected = content(100);
    for _ in 0..2 {
        for start in (0..expected.len()).step_by(1000) {
            let end = expected.len().min(start + 1000);
            let (sender, receiver) = mpsc::channel();
            let done = move |result: Result<&[u8], Error>| {
                sender.send(result.unwrap().to_vec()).unwrap();
            };
            download.read(
                ByteRange::new(start as u64, end as u64),
                ReaderPatience::None,
                Box::new(done),
            );
            let got = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
            assert_eq!(got, expected[start..end]);
        }
    }
    assert_eq!(download.held_bytes(), expected.len() as u64);
    assert_eq!(rig.peers[0].opens(), 1);
}

#[test]
fn changed_file_falls_back_to_a_plain_read() {
    let rig = rig(1, false, None);
    let new = rig.peers[0].put(&name(5), "new", 2);
    for number in 0..20 {
        let result = rig.read(number);
        match number {
            5 => assert!(matches!(result, Err(Error::Changed { .. }))),
            _ => assert_eq!(result.unwrap(), content(number)),
        }
    }
    assert_ne!(new.version, rig.attributes[5].version);
}

#[test]
fn unreadable_batch_file_is_not_retried() {
    let rig = rig(1, false, None);
    rig.peers[0].lock(&name(2));
    for number in 0..5 {
        let outcome = rig.read(number);
        match number {
            2 => assert!(matches!(outcome, Err(Error::Forbidden { .. }))),
            _ => assert!(outcome.unwrap() == content(number)),
        }
    }
    // The first file alone, to see whether there will be more.
    assert!(rig.peers[0].opens() <= 1, "{}", rig.peers[0].opens());
}

#[test]
fn liar_in_a_batch_is_blamed_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Arc::new(
        DiskCache::open(directory.path(), 64 << 20)
            .unwrap()
            .unwrap(),
    );
    let rig = rig(2, true, Some(Arc::clone(&cache)));
    rig.peers[0].behave(Behaviour::Lying);
    for number in 0..60 {
        assert_eq!(rig.read(number).unwrap(), content(number));
    }
    assert!(rig.peers[0].fetches() > 0);
    let blamed = rig.blamed.lock();
    assert!(!blamed.is_empty() && blamed.iter().all(|peer| *peer == rig.peers[0].id()));
    let (accounts, totals) = rig.engine.ledger().read();
    let liar = &accounts[&rig.peers[0].id()].0;
    assert!((0..60).any(|number| liar.blamed.contains_key(&path(number))));
    assert_eq!(
        (liar.refused, totals.refused),
        (blamed.len() as u64, liar.refused)
    );
    let bytes: usize = (0..60).map(|number| content(number).len()).sum();
    assert!(accounts[&rig.peers[1].id()].0.received >= bytes as u64);
}

/// One file that two members have under one path.
fn source(peer: &Arc<MemoryPeer>, number: usize, version: Version) -> FileSource {
    FileSource {
        peer: Arc::clone(peer) as Arc<dyn Peer>,
        path: path(number),
        has: Availability::File(version),
        is_local: false,
    }
}

fn read_whole(download: &Download, size: u64) -> Result<Vec<u8>, Error> {
    let (sender, receiver) = mpsc::channel();
    let done = move |result: Result<&[u8], Error>| drop(sender.send(result.map(<[u8]>::to_vec)));
    download.read(
        ByteRange::new(0, size),
        ReaderPatience::None,
        Box::new(done),
    );
    let result = receiver.recv_timeout(Duration::from_secs(30));
    result.expect("every read is answered")
}

/// A member has a batch fetched before it names a root, and then names the root of somebody
/// else's file, for the same version. The bytes staged or on their way by then reach no reader
/// of that root.
#[test]
fn rootless_bytes_reach_no_rooted_reader() {
    for (rooted, delay) in [(false, 0), (true, 0), (false, 100), (true, 100)] {
        let rig = rig(1, rooted, None);
        let evil = &rig.peers[0];
        rig.read(0).unwrap();
        if delay > 0 {
            evil.behave(Behaviour::Slow(Duration::from_millis(delay)));
        }
        let begun = rig.start(1);
        let deadline = Instant::now() + Duration::from_secs(10);
        // Either the files behind it have come, or readers wait for them.
        while evil.fetches() == 0 && delay == 0 {
            assert!(Instant::now() < deadline, "no batch was asked for");
            std::thread::yield_now();
        }
        let honest = Arc::new(MemoryPeer::new(9));
        for number in 2..10 {
            let truth: Vec<u8> = content(number).iter().map(|byte| !byte).collect();
            let known = honest.put_rooted(&name(number), truth.clone(), 1);
            let version = rig.attributes[number].version;
            let sources = vec![
                source(evil, number, version),
                source(&honest, number, known.version),
            ];
            let siblings = Arc::clone(&rig.siblings) as Arc<dyn UpcomingFiles>;
            let download =
                rig.engine
                    .open_among(sources, known.size.or_zero(), known.root, siblings);
            assert!(
                read_whole(&download, known.size.or_zero()).unwrap() == truth,
                "{number}"
            );
        }
        drop(begun);
    }
}

#[test]
fn a_liar_in_a_batch_is_not_believed_again() {
    let rig = rig(2, true, None);
    rig.peers[0].behave(Behaviour::Lying);
    for number in 0..20 {
        assert_eq!(rig.read(number).unwrap(), content(number));
    }
    let asked = || rig.peers[0].opens() + rig.peers[0].fetches();
    let before = asked();
    for number in 0..20 {
        assert_eq!(rig.read(number).unwrap(), content(number));
    }
    assert_eq!(asked(), before);
}

#[test]
fn files_whose_only_holder_lies_are_errors() {
    let rig = rig(1, true, None);
    rig.peers[0].behave(Behaviour::Lying);
    for number in 0..20 {
        assert!(matches!(rig.read(number), Err(Error::WrongBytes { .. })));
    }
}

#[test]
fn failed_batch_fails_over_to_a_holder() {
    for behaviour in [Behaviour::Gone, Behaviour::CutAfter(0), Behaviour::Frozen] {
        let rig = rig(2, true, None);
        rig.read(0).unwrap();
        rig.read(1).unwrap();
        rig.peers[0].behave(behaviour);
        for number in 200..203 {
            let begun = Instant::now();
            assert_eq!(rig.read(number).unwrap(), content(number));
            assert!(begun.elapsed() < Duration::from_secs(8), "{behaviour:?}");
        }
    }
}

#[test]
fn frozen_member_fails_readers_by_deadline() {
    let rig = rig(1, true, None);
    rig.read(0).unwrap();
    rig.peers[0].behave(Behaviour::Frozen);
    let begun = Instant::now();
    let waiting: Vec<_> = (1..5).map(|number| rig.start(number)).collect();
    for (_, receiver) in &waiting {
        let result = receiver
            .recv_timeout(READ_DEADLINE)
            .expect("answered by the deadline");
        assert!(matches!(result, Err(Error::Timeout { .. })));
    }
    assert!(begun.elapsed() <= READ_DEADLINE);
}

#[test]
fn a_reader_that_goes_is_answered() {
    let rig = rig(1, true, None);
    rig.read(0).unwrap();
    rig.peers[0].behave(Behaviour::Frozen);
    let (download, receiver) = rig.start(1);
    drop(download);
    let result = receiver.recv_timeout(Duration::from_secs(1)).unwrap();
    assert!(result.is_err());
}

#[test]
fn memory_in_use_is_counted_and_returned() {
    let rig = rig(1, true, None);
    for number in 0..4 {
        rig.read(number).unwrap();
    }
    let held = || rig.engine.core.held_bytes.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(5);
    while held() == 0 {
        assert!(Instant::now() < deadline, "nothing was fetched ahead");
    }
    rig.engine
        .core
        .smalls
        .tick(Instant::now() + Duration::from_secs(60));
    // A batch may still have been on its way.
    while held() > 0 {
        assert!(Instant::now() < deadline, "{} bytes stay", held());
        let later = Instant::now() + Duration::from_secs(60);
        rig.engine.core.smalls.tick(later);
    }
}

#[test]
fn batched_files_reach_disk_and_come_once() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Arc::new(
        DiskCache::open(directory.path(), 256 << 20)
            .unwrap()
            .unwrap(),
    );
    let rig = rig(1, true, Some(Arc::clone(&cache)));
    let deadline = Instant::now() + Duration::from_secs(20);
    for number in 0..60 {
        assert_eq!(rig.read(number).unwrap(), content(number));
        let attributes = rig.attributes[number];
        let content = ContentId {
            root: attributes.root.unwrap(),
            size: attributes.size.or_zero(),
        };
        while !cache.holds_file(content) {
            assert!(
                Instant::now() < deadline,
                "{number} does not get to the disk"
            );
            std::thread::yield_now();
        }
    }
    rig.peers[0].behave(Behaviour::Gone);
    let before = rig.peers[0].opens();
    for number in 0..60 {
        assert_eq!(rig.read(number).unwrap(), content(number));
    }
    assert_eq!(rig.peers[0].opens(), before);
}

#[test]
fn short_memory_means_one_file_at_a_time() {
    let rig = Rig {
        engine: Engine::new(0, None, Box::new(|_, _| {})).unwrap(),
        ..rig(1, true, None)
    };
    for number in 0..20 {
        assert_eq!(rig.read(number).unwrap(), content(number));
    }
    assert_eq!(rig.peers[0].fetches(), 0);
}
