//! Reading one open file.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;

fn open(share: &Fixture, name: &str) -> SharedFile {
    share.share.open_file(&path(name), Asker::Nobody).unwrap()
}

/// Returns true once reading fails because the file changed.
fn fails_as_changed(file: &SharedFile) -> bool {
    let mut buffer = [0; 8];
    let slow = file.read_at(0, &mut buffer).err();
    let quick = file.read_at_now(0, &mut buffer).err();
    let changed = |error: Option<std::io::Error>| error.is_some_and(|error| is_changed(&error));
    changed(slow) && changed(quick)
}

#[test]
fn reads_are_those_of_pread() {
    let share = Fixture::new();
    share.write("file", "0123456789");
    let file = open(&share, "file");
    assert_eq!(file.attributes(), share.stat("file").unwrap());
    let mut buffer = [0; 4];
    assert_eq!(file.read_at(3, &mut buffer).unwrap(), 4);
    assert_eq!(&buffer, b"3456");
    assert_eq!(file.read_at(8, &mut buffer).unwrap(), 2);
    assert_eq!(&buffer[..2], b"89");
    assert_eq!(file.read_at(10, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(u64::MAX, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(0, &mut []).unwrap(), 0);
}

#[test]
fn page_cached_bytes_are_read_at_once() {
    let share = Fixture::new();
    share.write("file", "0123456789");
    let file = open(&share, "file");
    let mut buffer = [0; 16];
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), 10);
    assert_eq!(file.read_at_now(2, &mut buffer).unwrap(), Some(8));
    assert_eq!(&buffer[..8], b"23456789");
    assert_eq!(file.read_at_now(10, &mut buffer).unwrap(), Some(0));
}

#[test]
fn an_in_place_write_is_detected() {
    let share = Fixture::new();
    share.write("file", "0123456789");
    let file = open(&share, "file");
    assert!(!fails_as_changed(&file));
    let writer = OpenOptions::new()
        .write(true)
        .open(share.at("file"))
        .unwrap();
    // The new content has the same size, so only the times differ.
    soon(|| {
        writer.write_all_at(b"X", 3).unwrap();
        fails_as_changed(&file)
    });
    assert_eq!(share.read("file").unwrap(), b"012X456789");
}

#[test]
fn file_changes_of_every_kind_are_detected() {
    let changes: [fn(&Fixture); 4] = [
        |share| {
            let mut file = OpenOptions::new()
                .append(true)
                .open(share.at("file"))
                .unwrap();
            file.write_all(b"more").unwrap();
        },
        |share| fs::write(share.at("file"), "less").unwrap(),
        |share| {
            share.write(".new", "0123456789");
            fs::rename(share.at(".new"), share.at("file")).unwrap();
        },
        |share| fs::remove_file(share.at("file")).unwrap(),
    ];
    for change in changes {
        let share = Fixture::new();
        share.write("file", "0123456789");
        let file = open(&share, "file");
        // One clock tick, if the file system has no finer times.
        let opened = Instant::now();
        soon(|| opened.elapsed() > Duration::from_millis(20));
        change(&share);
        assert!(fails_as_changed(&file));
    }
}

#[test]
fn offsets_beyond_4_gib_are_read_rightly() {
    const SIZE: u64 = 6_000_000_000;
    let share = Fixture::new();
    let sparse = fs::File::create(share.at("sparse")).unwrap();
    sparse.set_len(SIZE).unwrap();
    let spots = [0, (1 << 32) - 2, SIZE / 2, SIZE - 4];
    for (spot, mark) in spots.into_iter().zip([b"head", b"4GiB", b"midd", b"tail"]) {
        sparse.write_all_at(mark, spot).unwrap();
    }
    let file = open(&share, "sparse");
    assert_eq!(file.size(), SIZE);
    let mut buffer = [0; 4];
    for (spot, mark) in spots.into_iter().zip([b"head", b"4GiB", b"midd", b"tail"]) {
        assert_eq!(file.read_at(spot, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer, mark);
    }
    assert_eq!(file.read_at(SIZE / 2 + 4, &mut buffer).unwrap(), 4);
    assert_eq!(buffer, [0; 4]);
}
