//! The files that the nodes of a test share, and their comparison with a mount.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One mebibyte in bytes.
pub(crate) const MIB: u64 = 1024 * 1024;

/// Returns bytes that differ at every offset, so that a misplaced piece is detected: each group of
/// eight is its own number, mixed with `seed`.
pub(crate) fn pattern(seed: u64, length: u64) -> Vec<u8> {
    let groups = length.div_ceil(8);
    let mut bytes: Vec<u8> = (0..groups).flat_map(|n| group(seed, n)).collect();
    bytes.truncate(usize::try_from(length).expect("it fits into memory"));
    bytes
}

/// Returns the piece of [`pattern`] that begins at `offset`, which must be a multiple of eight.
pub(crate) fn pattern_at(seed: u64, offset: u64, length: u64) -> Vec<u8> {
    let first = offset / 8;
    let mut bytes: Vec<u8> = (first..first + length.div_ceil(8))
        .flat_map(|n| group(seed, n))
        .collect();
    bytes.truncate(usize::try_from(length).expect("it fits into memory"));
    bytes
}

fn group(seed: u64, number: u64) -> [u8; 8] {
    (number ^ seed.rotate_left(40))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_le_bytes()
}

/// Writes a file of [`pattern`] without holding it in memory.
pub(crate) fn write_pattern(path: &Path, seed: u64, length: u64) {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).expect("create a file"));
    let mut written = 0;
    while written < length {
        let piece = MIB.min(length - written);
        let bytes = pattern_at(seed, written, piece);
        file.write_all(&bytes).expect("write a file");
        written += piece;
    }
    file.flush().expect("write a file");
}

/// Returns names that have broken programs before. All are legal on Linux; none begins with a dot.
pub(crate) fn hostile_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b" leading and trailing space "[..],
        b"two  spaces",
        b"'single' \"double\" `back`",
        b"a&b <c> &amp; &#65; ]]> <!-- -->",
        b"100%25 %2F %00 #fragment ?query=1;x",
        b"back\\slash\\n",
        b"-rf",
        b"~",
        b"*?[a-z]{x,y}$HOME|>;",
        b"name (member).txt",
        "żółć-日本語-🦀".as_bytes(),
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        "right-to-left \u{202e}txt.exe".as_bytes(),
        "noncharacter \u{fffe}\u{ffff}".as_bytes(),
        b"\xff\xfe not UTF-8 \xc3\x28",
        b"cut UTF-8 \xe2\x82",
        b"surrogate \xed\xa0\x80",
        b"new\nline\r\n",
        b"tab\tbell\x07escape\x1b[31mred\x7f",
        "C1 \u{85}\u{9f}".as_bytes(),
        b"=CMD()",
        b"CON",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    names.push((1..=31).filter(|byte| *byte != b'/').collect());
    names.push(vec![b'n'; 255]);
    names.push("ü".repeat(127).into_bytes());
    names.push(vec![0xfe; 255]);
    names
}

/// Sizes at the boundaries of blocks, buffers and windows.
pub(crate) const EDGES: [u64; 8] = [
    0,
    1,
    16 * 1024 - 1,
    16 * 1024,
    16 * 1024 + 1,
    MIB - 1,
    MIB,
    MIB + 1,
];

/// Copies `from` over `to` by hard links and merges directories, like a mount of several shares.
pub(crate) fn merge(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list a share") {
        let entry = entry.expect("list a share");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("see a file's kind").is_dir() {
            merge(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).expect("link a file");
        }
    }
}

/// Returns a path below `directory` for a name that need not be UTF-8.
pub(crate) fn join(directory: &Path, name: &[u8]) -> PathBuf {
    directory.join(OsStr::from_bytes(name))
}

/// Returns the names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("list a directory")
        .map(|entry| entry.expect("list a directory").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Panics unless the two files hold the same bytes.
#[track_caller]
pub(crate) fn assert_same(left: &Path, right: &Path) {
    crate::harness::process::sh("cmp", &[&left.to_string_lossy(), &right.to_string_lossy()]);
}
