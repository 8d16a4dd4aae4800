//! Downloads against members in memory that are slow, cut off, changed or frozen.

use std::sync::mpsc;

use super::*;
use crate::model::{Attributes, RelPath, Version};
use crate::peer::{ByteStream, Peer};
use crate::testing::{Behaviour, MemoryPeer};

const MIB: u64 = 1024 * 1024;

struct Rig {
    engine: Engine,
    peer: Arc<MemoryPeer>,
    content: Vec<u8>,
    attributes: Attributes,
}

fn rig(size: u64) -> Rig {
    let peer = Arc::new(MemoryPeer::new(1));
    let content = bytes(size);
    let attributes = peer.put("file", content.clone(), 1);
    let engine = Engine::new(128 * MIB, None, Box::new(|_, _| {})).unwrap();
    Rig {
        engine,
        peer,
        content,
        attributes,
    }
}

impl Rig {
    fn open(&self) -> Download {
        self.engine.open(
            vec![source(&self.peer, &self.attributes)],
            self.attributes.size.or_zero(),
            None,
        )
    }
}

fn source(peer: &Arc<MemoryPeer>, attributes: &Attributes) -> FileSource {
    let path = RelPath::new(b"file").unwrap();
    let peer = Arc::clone(peer) as Arc<dyn Peer>;
    FileSource {
        peer,
        path,
        has: Availability::File(attributes.version),
        is_local: false,
    }
}

fn bytes(size: u64) -> Vec<u8> {
    (0..size)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Several holders of one content with a known root.
struct Holders {
    engine: Engine,
    peers: Vec<Arc<MemoryPeer>>,
    blamed: Arc<Mutex<Vec<PeerId>>>,
    content: Vec<u8>,
    attributes: Attributes,
}

fn holders(count: u8, size: u64, cache: Option<Arc<DiskCache>>) -> Holders {
    let content = bytes(size);
    let peers: Vec<_> = (1..=count)
        .map(|seed| Arc::new(MemoryPeer::new(seed)))
        .collect();
    let shared: Vec<_> = peers
        .iter()
        .map(|peer| peer.put_rooted("file", content.clone(), 1))
        .collect();
    let attributes = shared[0];
    let blamed = Arc::new(Mutex::new(Vec::new()));
    let blame = Arc::clone(&blamed);
    let on_failure = move |peer, error: &Error| {
        if matches!(error, Error::WrongBytes { .. } | Error::Misbehaved { .. }) {
            blame.lock().push(peer);
        }
    };
    let engine = Engine::new(128 * MIB, cache, Box::new(on_failure)).unwrap();
    Holders {
        engine,
        peers,
        blamed,
        content,
        attributes,
    }
}

impl Holders {
    fn open(&self) -> Download {
        let sources = self.peers.iter().map(|peer| source(peer, &self.attributes));
        self.engine.open(
            sources.collect(),
            self.attributes.size.or_zero(),
            self.attributes.root,
        )
    }

    /// Reads the whole content in steps of a kernel readahead, calling `each` in between.
    fn read_all(&self, download: &Download, mut each: impl FnMut(u64)) {
        for at in (0..self.attributes.size.or_zero()).step_by(131_072) {
            let len = 131_072.min(self.attributes.size.or_zero() - at);
            let got = read(download, at, len).unwrap();
            assert!(
                got == self.content[at as usize..][..len as usize],
                "wrong bytes at {at}"
            );
            each(at);
        }
    }
}

fn start(download: &Download, range: ByteRange) -> mpsc::Receiver<Result<Vec<u8>, Error>> {
    let (sender, receiver) = mpsc::channel();
    download.read(
        range,
        ReaderPatience::None,
        Box::new(move |result| drop(sender.send(result.map(<[u8]>::to_vec)))),
    );
    receiver
}

fn read(download: &Download, start_at: u64, len: u64) -> Result<Vec<u8>, Error> {
    let receiver = start(download, ByteRange::new(start_at, start_at + len));
    receiver
        .recv_timeout(Duration::from_secs(30))
        .expect("every read is answered")
}

#[test]
fn sequential_reader_needs_few_requests() {
    let rig = rig(20 * MIB + 17);
    let download = rig.open();
    let mut got = Vec::new();
    while (got.len() as u64) < rig.attributes.size.or_zero() {
        let at = got.len() as u64;
        got.extend(
            read(
                &download,
                at,
                (128 * 1024).min(rig.attributes.size.or_zero() - at),
            )
            .unwrap(),
        );
    }
    assert!(got == rig.content);
    // A reader that is never starved keeps the first window, 256 KiB, and each request is
    // one of it.
    assert!(rig.peer.opens() <= 80 + 8, "{} requests", rig.peer.opens());
}

#[test]
fn random_reads_fetch_about_what_was_asked() {
    let rig = rig(40 * MIB);
    let download = rig.open();
    for at in [30 * MIB + 5, 3 * MIB + 16_000, 20 * MIB] {
        assert_eq!(
            read(&download, at, 4096).unwrap(),
            rig.content[at as usize..][..4096]
        );
        assert!(
            download.held_bytes() <= 5 * window::LEAF,
            "{}",
            download.held_bytes()
        );
    }
}

#[test]
fn cut_stream_resumes_where_it_broke() {
    let rig = rig(2 * MIB);
    rig.peer.behave(Behaviour::CutAfter(300_000));
    let download = rig.open();
    for at in (0..2 * MIB).step_by(131_072) {
        assert_eq!(
            read(&download, at, 131_072).unwrap(),
            rig.content[at as usize..][..131_072]
        );
    }
}

#[test]
fn changing_file_is_an_error_never_a_mix() {
    let mut rig = rig(8 * MIB);
    let download = rig.open();
    read(&download, 0, 4096).unwrap();
    let old = rig.attributes;
    rig.attributes = rig.peer.put("file", vec![1; 8 << 20], 2);
    assert_ne!(old.version, rig.attributes.version);
    assert!(matches!(
        read(&download, 7 * MIB, 4096),
        Err(Error::Changed { .. })
    ));
    assert_eq!(read(&rig.open(), 7 * MIB, 4096).unwrap(), vec![1; 4096]);
}

#[test]
fn refused_read_is_believed_at_once() {
    let rig = rig(3 * MIB);
    rig.peer.lock("file");
    let (download, begun) = (rig.open(), Instant::now());
    for _ in 0..3 {
        let outcome = read(&download, 0, 4096);
        assert!(matches!(outcome, Err(Error::Forbidden { .. })));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Only the requests that began together; nothing is requested again.
    assert!(rig.peer.opens() <= 2, "{}", rig.peer.opens());
}

#[test]
fn unreadable_holder_fails_over_to_another() {
    let holders = holders(2, 3 * MIB, None);
    holders.peers[0].lock("file");
    let download = holders.open();
    assert!(read(&download, 0, 3 * MIB).unwrap() == holders.content);
}

#[test]
fn frozen_member_fails_later_reads_at_once() {
    let rig = rig(8 * MIB);
    let download = rig.open();
    read(&download, 0, 131_072).unwrap();
    rig.peer.behave(Behaviour::StallAfter(1000));
    let begun = Instant::now();
    let two = [
        start(&download, ByteRange::new(4_000_000, 4_200_000)),
        start(&download, ByteRange::new(6_000_000, 6_100_000)),
    ];
    for waiting in two {
        let result = waiting
            .recv_timeout(READ_DEADLINE)
            .expect("answered by the deadline");
        assert!(matches!(result, Err(Error::Timeout { .. })));
    }
    assert!(begun.elapsed() <= READ_DEADLINE);
    let begun = Instant::now();
    assert!(read(&download, 7_000_000, 4096).is_err());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn member_back_in_time_is_read_on() {
    let rig = rig(MIB);
    rig.peer.behave(Behaviour::Gone);
    let download = rig.open();
    let waiting = start(&download, ByteRange::new(0, 4096));
    assert!(waiting.recv_timeout(Duration::from_millis(500)).is_err());
    rig.peer.behave(Behaviour::Honest);
    assert_eq!(
        waiting
            .recv_timeout(Duration::from_secs(5))
            .unwrap()
            .unwrap(),
        rig.content[..4096]
    );
}

#[test]
fn dropped_download_answers_parked_reads() {
    let rig = rig(MIB);
    rig.peer.behave(Behaviour::Gone);
    let download = rig.open();
    let waiting = start(&download, ByteRange::new(0, 4096));
    drop(download);
    assert!(
        waiting
            .recv_timeout(Duration::from_secs(1))
            .unwrap()
            .is_err()
    );
}

#[test]
fn reader_windows_stay_within_memory() {
    let rig = Rig {
        engine: Engine::new(4 * MIB, None, Box::new(|_, _| {})).unwrap(),
        ..rig(16 * MIB)
    };
    let downloads: Vec<_> = (0..8).map(|_| rig.open()).collect();
    let mut most = 0;
    for at in (0..16 * MIB).step_by(131_072) {
        for download in &downloads {
            assert_eq!(
                read(download, at, 131_072).unwrap(),
                rig.content[at as usize..][..131_072]
            );
        }
        most = most.max(downloads.iter().map(Download::held_bytes).sum());
    }
    // Each reader keeps its tolerance and its first window in any case.
    assert!(most < 8 * 2 * MIB + 4 * MIB, "{most} bytes");
}

#[test]
fn all_holders_of_a_content_share_the_work() {
    let holders = holders(3, 40 * MIB + 5, None);
    holders.read_all(&holders.open(), |_| {});
    for peer in &holders.peers {
        assert!(
            peer.opens() > 1,
            "{:?}",
            holders
                .peers
                .iter()
                .map(|peer| peer.opens())
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_download_tells_who_was_given_up_and_the_ledger_who_has_sent_it() {
    let holders = holders(3, 20 * MIB + 5, None);
    holders.peers[1].behave(Behaviour::Lying);
    let download = holders.open();
    holders.read_all(&download, |_| {});
    let [(member, error)] = &download.refusals()[..] else {
        panic!("{:?}", download.refusals());
    };
    assert_eq!(*member, holders.peers[1].id());
    assert!(matches!(error, Error::WrongBytes { .. }));
    let received = |peer: &Arc<MemoryPeer>| holders.engine.ledger().received_from(peer.id());
    let received: Vec<u64> = holders.peers.iter().map(received).collect();
    assert!(received[0] > 0 && received[1] == 0 && received[2] > 0);
}

#[test]
fn whoever_waits_for_bytes_gets_them_or_is_told_that_they_have_not_come() {
    let rig = rig(MIB);
    rig.peer.behave(Behaviour::Gone);
    let (download, range) = (rig.open(), ByteRange::new(5, 15));
    let soon = Instant::now() + Duration::from_millis(100);
    assert!(download.read_by(range, soon, <[u8]>::len).is_none());
    rig.peer.behave(Behaviour::Honest);
    let later = Instant::now() + Duration::from_secs(10);
    let read = download.read_by(range, later, <[u8]>::to_vec);
    assert_eq!(read.expect("in time").unwrap(), rig.content[5..15]);
    // Bytes in memory need no time.
    let again = download.read_by(range, soon, <[u8]>::len);
    assert_eq!(again.expect("at once").unwrap(), 10);
}

#[test]
fn lost_holder_is_replaced_in_3_seconds() {
    for behaviour in [
        Behaviour::Gone,
        Behaviour::CutAfter(1000),
        Behaviour::StallAfter(1000),
    ] {
        let holders = holders(2, 30 * MIB, None);
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        holders.read_all(&holders.open(), |at| {
            if at == 2 * MIB {
                holders.peers[0].behave(behaviour);
            }
            longest = longest.max(last.elapsed());
            last = Instant::now();
        });
        assert!(
            longest < Duration::from_secs(3),
            "{behaviour:?}: {longest:?}"
        );
    }
}

#[test]
fn lying_holders_bytes_reach_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Arc::new(
        DiskCache::open(directory.path(), 256 * MIB)
            .unwrap()
            .unwrap(),
    );
    let holders = holders(3, 20 * MIB, Some(Arc::clone(&cache)));
    holders.peers[1].behave(Behaviour::Lying);
    holders.read_all(&holders.open(), |_| {});
    assert_eq!(*holders.blamed.lock(), [holders.peers[1].id()]);
    let (accounts, totals) = holders.engine.ledger().read();
    let blamed = &accounts[&holders.peers[1].id()].0.blamed;
    assert_eq!(
        blamed.keys().collect::<Vec<_>>(),
        [&RelPath::new(b"file").unwrap()]
    );
    assert_eq!(totals.refused, 1);
    let root = holders.attributes.root.unwrap();
    for block in (0..20 * MIB / window::LEAF).step_by(8) {
        let content = ContentId {
            root,
            size: 20 * MIB,
        };
        if let Some(kept) = cache.get(content, block, 8) {
            assert!(*kept == holders.content[(block * window::LEAF) as usize..][..kept.len()]);
        }
    }
}

fn with(source: FileSource, has: Availability) -> FileSource {
    FileSource { has, ..source }
}

#[test]
fn reader_supplies_once_the_holder_leaves() {
    let rig = holders(1, 8 * MIB, None);
    let reader = Arc::new(MemoryPeer::new(7));
    reader.keep(&rig.content, ByteRange::new(0, 8 * MIB));
    let (holder, size) = (&rig.peers[0], rig.attributes.size.or_zero());
    let sources = vec![
        source(holder, &rig.attributes),
        with(source(&reader, &rig.attributes), Availability::Blocks),
    ];
    let download = rig.engine.open(sources, size, rig.attributes.root);
    assert!(read(&download, 0, 1000).unwrap() == rig.content[..1000]);
    assert_eq!(reader.opens(), 0, "nobody needs help with a small read");
    holder.behave(Behaviour::Gone);
    rig.read_all(&download, |_| ());
    assert!(rig.blamed.lock().is_empty());
}

#[test]
fn wrong_size_is_not_blamed_on_suppliers() {
    let rig = holders(1, 8 * MIB, None);
    let supplier = Arc::new(MemoryPeer::new(7));
    supplier.keep(&rig.content, ByteRange::new(0, 8 * MIB));
    // The holder names the root for a file that is a little longer, and then nothing comes from it.
    let sources = vec![
        source(&rig.peers[0], &rig.attributes),
        with(source(&supplier, &rig.attributes), Availability::Blocks),
    ];
    rig.peers[0].behave(Behaviour::Gone);
    for claimed in [8 * MIB + window::LEAF, 8 * MIB - 5] {
        let download = rig
            .engine
            .open(sources.clone(), claimed, rig.attributes.root);
        let last = claimed - 100;
        let waiting = start(&download, ByteRange::new(last, claimed));
        let answer = waiting.recv_timeout(Duration::from_secs(2));
        let answer = answer.unwrap_or_else(|_| {
            download.shared.tick(Instant::now() + STALL, false);
            waiting
                .recv_timeout(Duration::from_secs(1))
                .expect("every read is answered")
        });
        assert!(answer.is_err());
        assert!(
            supplier.opens() + supplier.calls() > 0,
            "it was not even asked"
        );
    }
    assert!(rig.blamed.lock().is_empty());
    assert_eq!(rig.engine.ledger().read().1.refused, 0);
}

#[test]
fn frozen_supplier_blocks_no_others() {
    let rig = holders(1, 8 * MIB, None);
    let (frozen, whole) = (Arc::new(MemoryPeer::new(7)), Arc::new(MemoryPeer::new(8)));
    for peer in [&frozen, &whole] {
        peer.keep(&rig.content, ByteRange::new(0, 8 * MIB));
    }
    frozen.behave(Behaviour::Frozen);
    let blocks = |peer| with(source(peer, &rig.attributes), Availability::Blocks);
    let sources = vec![
        source(&rig.peers[0], &rig.attributes),
        blocks(&frozen),
        blocks(&whole),
    ];
    let download = rig
        .engine
        .open(sources, rig.attributes.size.or_zero(), rig.attributes.root);
    assert!(read(&download, 0, 1000).unwrap() == rig.content[..1000]);
    rig.peers[0].behave(Behaviour::Gone);
    let begun = Instant::now();
    let at = 4 * MIB;
    let got = read(&download, at, 1000).unwrap();
    assert!(got == rig.content[at as usize..][..1000]);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn holder_fills_gaps_between_kept_parts() {
    let rig = holders(1, 32 * MIB, None);
    let (some, none) = (Arc::new(MemoryPeer::new(7)), Arc::new(MemoryPeer::new(8)));
    // It ends in the middle of a block, as proven bytes never do.
    some.keep(&rig.content, ByteRange::new(0, 20 * MIB + 5000));
    let blocks = |peer| with(source(peer, &rig.attributes), Availability::Blocks);
    let sources = vec![
        source(&rig.peers[0], &rig.attributes),
        blocks(&none),
        blocks(&some),
    ];
    let download = rig
        .engine
        .open(sources, rig.attributes.size.or_zero(), rig.attributes.root);
    rig.read_all(&download, |_| ());
    assert!(some.opens() > 1, "it was asked only {} times", some.opens());
    assert_eq!(none.opens(), 1, "one that has nothing is asked once");
    assert!(rig.blamed.lock().is_empty());
}

#[test]
fn liar_is_not_asked_for_the_content_again() {
    let holders = holders(2, 3 * MIB, None);
    holders.peers[0].behave(Behaviour::Lying);
    holders.read_all(&holders.open(), |_| {});
    let before = holders.peers[0].opens();
    assert!(before > 0);
    holders.read_all(&holders.open(), |_| {});
    assert_eq!(holders.peers[0].opens(), before);
    assert_eq!(*holders.blamed.lock(), [holders.peers[0].id()]);
    let root_of = |member: &MemoryPeer, version| {
        let mut file = holders.attributes;
        file.version = version;
        holders.engine.disbelieve(member.id(), &mut file);
        file.root
    };
    let (version, root) = (holders.attributes.version, holders.attributes.root);
    assert_eq!(root_of(&holders.peers[0], version), None);
    assert_eq!(root_of(&holders.peers[0], Version(!0)), root);
    assert_eq!(root_of(&holders.peers[1], version), root);
}

#[test]
fn content_only_liars_name_fails_at_once() {
    let holders = holders(1, 3 * MIB, None);
    holders.peers[0].behave(Behaviour::Lying);
    assert!(read(&holders.open(), 0, 4096).is_err());
    holders.peers[0].behave(Behaviour::Frozen);
    let result = read(&holders.open(), 0, 4096);
    assert!(
        matches!(result, Err(Error::WrongBytes { .. })),
        "{result:?}"
    );
}

#[test]
fn a_root_with_another_size_proves_no_byte() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Arc::new(
        DiskCache::open(directory.path(), 256 * MIB)
            .unwrap()
            .unwrap(),
    );
    for size in [3 * MIB, 20 * MIB, 20 * MIB + 5000] {
        let holders = holders(1, size, Some(Arc::clone(&cache)));
        for claimed in [size + window::LEAF, size + MIB, size - window::LEAF] {
            let sources = vec![source(&holders.peers[0], &holders.attributes)];
            let root = holders.attributes.root;
            let download = holders.engine.open(sources, claimed, root);
            let waiting = start(&download, ByteRange::new(0, 4096));
            // Either the lie is found out, or the holder cannot prove its claim until the reader's
            // time is over.
            let result = waiting.recv_timeout(Duration::from_millis(500));
            let result = result.unwrap_or_else(|_| {
                download.shared.tick(Instant::now() + STALL, false);
                let late = waiting.recv_timeout(Duration::from_secs(1));
                late.expect("every read is answered")
            });
            assert!(result.is_err(), "{claimed} bytes for {size}");
            assert_eq!(cache.held_bytes(), 0);
        }
    }
}

#[test]
fn any_read_waits_a_minute_at_most() {
    let rig = rig(8 * MIB);
    rig.peer.behave(Behaviour::Frozen);
    let download = rig.open();
    let waiting = start(&download, ByteRange::new(0, 4096));
    let begun = Instant::now();
    // Others make progress in the same file all the time.
    for second in 1..60 {
        let shared = &download.shared;
        shared.received.fetch_add(MIB, Ordering::Relaxed);
        shared.tick(begun + Duration::from_secs(second), false);
        assert!(waiting.try_recv().is_err(), "failed after {second} s");
    }
    let shared = &download.shared;
    shared.received.fetch_add(MIB, Ordering::Relaxed);
    shared.tick(begun + Duration::from_secs(61), false);
    let result = waiting.recv_timeout(Duration::from_secs(1)).unwrap();
    assert!(matches!(result, Err(Error::Timeout { .. })));
}

#[test]
fn reads_fail_fast_after_a_vain_wait() {
    let rig = rig(8 * MIB);
    rig.peer.behave(Behaviour::Frozen);
    let download = rig.open();
    let waiting = start(&download, ByteRange::new(0, 4096));
    download.shared.tick(Instant::now() + STALL, false);
    assert!(
        waiting
            .recv_timeout(Duration::from_secs(1))
            .unwrap()
            .is_err()
    );
    rig.peer.behave(Behaviour::Honest);
    // The kernel asks for each page of a failed readahead.
    for page in 1..4 {
        let begun = Instant::now();
        assert!(read(&download, page * 4096, 4096).is_err());
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

/// Brings a byte at a time, for each request before the deadline.
struct Trickle(usize);

impl ByteStream for Trickle {
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        std::thread::sleep(Duration::from_millis(1));
        if Instant::now() >= deadline {
            return Err(Error::Timeout { who: "x".into() });
        }
        self.0 += 1;
        buffer[0] = 1;
        Ok(1)
    }
}

#[test]
fn a_trickle_is_no_progress() {
    let rig = rig(MIB);
    let download = rig.open();
    let (shared, mut trickle) = (&download.shared, Trickle(0));
    let mut buffer = shared.core.buffers.take(window::LEAF as usize);
    let within = |_| Instant::now() + Duration::from_millis(50);
    let result = shared.fill(&mut buffer, &mut trickle, &shared.sources[0], &within);
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    assert!(trickle.0 <= 50, "{} bytes", trickle.0);
}

#[test]
fn file_held_only_by_a_liar_is_an_error() {
    let holders = holders(1, 3 * MIB, None);
    holders.peers[0].behave(Behaviour::Lying);
    assert!(matches!(
        read(&holders.open(), 0, 4096),
        Err(Error::WrongBytes { .. })
    ));
}

#[test]
fn what_is_in_the_cache_needs_no_holder() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Arc::new(
        DiskCache::open(directory.path(), 256 * MIB)
            .unwrap()
            .unwrap(),
    );
    let holders = holders(1, 3 * MIB + 100, Some(Arc::clone(&cache)));
    holders.read_all(&holders.open(), |_| {});
    let slots = 24 * 8 * window::LEAF + window::LEAF;
    let deadline = Instant::now() + Duration::from_secs(10);
    while cache.held_bytes() < slots {
        assert!(
            Instant::now() < deadline,
            "{} of {slots} bytes cached",
            cache.held_bytes()
        );
        std::thread::yield_now();
    }
    holders.peers[0].behave(Behaviour::Gone);
    let before = holders.peers[0].opens();
    holders.read_all(&holders.open(), |_| {});
    assert_eq!(holders.peers[0].opens(), before);
}

#[test]
fn small_files_need_no_hash_requests() {
    let holders = holders(1, 9000, None);
    assert_eq!(read(&holders.open(), 0, 9000).unwrap(), holders.content);
    assert_eq!(holders.peers[0].calls(), 0);
}

mod property {
    use proptest::prelude::*;

    use super::*;

    /// A holder's treatment of this reader; the slow ones are slow enough to be overtaken.
    fn behaviour() -> impl Strategy<Value = Behaviour> {
        prop_oneof![
            3 => Just(Behaviour::Honest),
            1 => (1_u64..30).prop_map(|ms| Behaviour::Slow(Duration::from_millis(ms))),
            1 => Just(Behaviour::Gone),
            1 => (1_u64..400_000).prop_map(Behaviour::CutAfter),
            1 => Just(Behaviour::Lying),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Read this many bytes from there.
        Read(u64, u64),
        /// Read on from the end of the last read.
        ReadOn(u64),
        /// A holder changes its behaviour.
        Turn(usize, Behaviour),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0_u64..5_000_000, 1_u64..400_000).prop_map(|(at, len)| Step::Read(at, len)),
            6 => (1_u64..400_000).prop_map(Step::ReadOn),
            1 => (0_usize..4, behaviour()).prop_map(|(who, how)| Step::Turn(who, how)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Whatever holders do, as long as one of them stays honest, every read ends with the right
        /// bytes, and the number of requests stays close to what the reads need.
        #[test]
        fn one_honest_holder_suffices(
            others in prop::collection::vec(behaviour(), 0..4),
            steps in prop::collection::vec(step(), 1..40),
        ) {
            const SIZE: u64 = 4_900_000;
            let holders = holders(1 + others.len() as u8, SIZE, None);
            for (peer, behaviour) in holders.peers[1..].iter().zip(&others) {
                peer.behave(*behaviour);
            }
            let download = holders.open();
            let (mut at, mut asked) = (0, 0);
            for step in &steps {
                let (start_at, len) = match *step {
                    Step::Read(start_at, len) => (start_at, len),
                    Step::ReadOn(len) => (at, len),
                    Step::Turn(who, how) => {
                        // The first one stays honest.
                        if let Some(peer) = holders.peers[1..].get(who) {
                            peer.behave(how);
                        }
                        continue;
                    }
                };
                let start_at = start_at.min(SIZE);
                let end = (start_at + len).min(SIZE);
                let got = read(&download, start_at, end - start_at);
                let got = got.map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert!(got == holders.content[start_at as usize..end as usize]);
                (at, asked) = (end, asked + 1);
            }
            let opens = holders.peers[0].opens() as u64;
            // Each read may need a request for itself and one for its window, a cut
            // stream one more.
            prop_assert!(opens <= 4 * asked + SIZE / 131_072, "{} requests for {} reads", opens, asked);
        }
    }
}
