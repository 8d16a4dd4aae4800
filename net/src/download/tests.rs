//! Downloads against members in memory that are slow, cut off, changed or frozen.

use std::sync::mpsc;

use super::*;
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
    let content: Vec<u8> = (0..size)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let attributes = peer.put("file", content.clone(), 1);
    let engine = Engine::new(128 * MIB, Box::new(|_, _| {})).unwrap();
    Rig {
        engine,
        peer,
        content,
        attributes,
    }
}

impl Rig {
    fn open(&self) -> Download {
        let path = RelPath::new(b"file").unwrap();
        self.engine.open(
            Arc::clone(&self.peer) as Arc<dyn Peer>,
            path,
            &self.attributes,
        )
    }
}

fn start(download: &Download, range: ByteRange) -> mpsc::Receiver<Result<Vec<u8>, Error>> {
    let (sender, receiver) = mpsc::channel();
    download.read(
        range,
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
fn a_sequential_reader_gets_every_byte_with_few_requests() {
    let rig = rig(20 * MIB + 17);
    let download = rig.open();
    let mut got = Vec::new();
    while (got.len() as u64) < rig.attributes.size {
        let at = got.len() as u64;
        got.extend(read(&download, at, (128 * 1024).min(rig.attributes.size - at)).unwrap());
    }
    assert!(got == rig.content);
    assert!(rig.peer.opens() < 40, "{} requests", rig.peer.opens());
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
fn a_stream_that_is_cut_is_taken_up_where_it_broke() {
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
fn a_file_that_changes_is_an_error_and_never_a_mixture() {
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
fn a_frozen_member_fails_its_readers_by_the_deadline_and_then_at_once() {
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
fn a_member_that_returns_in_time_is_read_on() {
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
fn a_download_that_is_dropped_answers_what_was_parked() {
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
fn windows_of_many_readers_stay_within_the_memory() {
    let rig = Rig {
        engine: Engine::new(4 * MIB, Box::new(|_, _| {})).unwrap(),
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
