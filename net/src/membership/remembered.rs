//! Remembers where members were reached last time, so that a network is found again without
//! multicast and without naming anybody.
//!
//! There is one small text file for each mountpoint or served directory, named after a digest of
//! that path and nothing else: if the name depended on the password, a thief of the disk could test
//! passwords. A file holds lines of `seconds host port peer-id`, newest first; `seconds` is when a
//! member last answered there, since 1970. Lines of any other form are ignored, so a damaged file
//! costs addresses and nothing else. A member behind NATs has a line of `seconds reach ADDRESS
//! peer-id`, with the address as members tell
//! it; programs that know nothing of these ignore them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::address::{canonical, has_zone};
use crate::error::Error;
use crate::model::{Address, PeerId, ReachAddress, TcpAddress};

/// The maximum number of addresses in a file.
pub(crate) const MAX_REMEMBERED: usize = 64;

/// The maximum size of a file written here: a host name has at most 253 bytes.
const MAX_FILE_BYTES: u64 = 192 * 1024;

/// What stands in place of a host in the line of a member behind NATs.
const REACH: &str = "reach";

/// The first line of a file.
const HEADER: &str = "tinyp2p addresses 1";

/// One address of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RememberedAddress {
    /// When it last answered there, in seconds since 1970.
    pub(crate) seen: u64,
    /// Where the member was reached.
    pub(crate) address: Address,
    /// The member reached there.
    pub(crate) id: PeerId,
}

/// The remembered addresses of one mountpoint or served directory.
#[derive(Debug)]
pub(crate) struct Remembered {
    path: PathBuf,
    known: Vec<RememberedAddress>,
    /// Allows one writer at a time.
    writing: Mutex<()>,
}

impl Remembered {
    /// Reads the file in `state_dir` for `place`, a canonical path. A file that cannot be read
    /// counts as empty.
    pub(crate) fn load(state_dir: &Path, place: &Path) -> Self {
        let digest = Sha256::digest(place.as_os_str().as_encoded_bytes());
        let path = state_dir.join("peers").join(HEXLOWER.encode(&digest));
        let known = match read(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(
                    "remembered addresses are not used: {}: {error}",
                    path.display()
                );
                Vec::new()
            }
        };
        Self {
            path,
            known,
            writing: Mutex::new(()),
        }
    }

    /// Returns what was remembered at the start, newest first.
    pub(crate) fn known(&self) -> impl Iterator<Item = &RememberedAddress> {
        self.known.iter()
    }

    /// Atomically replaces the file by `reached` (an address, who answered there, how long ago) and
    /// as many of the earlier addresses as there is room for.
    pub(crate) fn save(
        &self,
        reached: Vec<(Address, PeerId, Duration)>,
        now: SystemTime,
    ) -> Result<(), Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let fresh = reached
            .into_iter()
            .map(|(address, id, age)| RememberedAddress {
                seen: now.saturating_sub(age).as_secs(),
                address,
                id,
            });
        let text = compose(fresh.chain(self.known.iter().cloned()).collect());
        let _writing = self.writing.lock();
        write(&self.path, &text)
            .map_err(|why| Error::local(format!("writing {}", self.path.display()), why))
    }
}

fn parse(text: &str) -> Vec<RememberedAddress> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Vec::new();
    }
    lines.filter_map(parse_line).take(MAX_REMEMBERED).collect()
}

fn parse_line(line: &str) -> Option<RememberedAddress> {
    let mut fields = line.split(' ');
    let seen = fields.next()?.parse().ok()?;
    let (host, port) = (fields.next()?, fields.next()?);
    let address = match host {
        REACH => ReachAddress::decode(port).ok()?.into(),
        _ => canonical(&Address::new(host, port.parse().ok()?))?,
    };
    let id = fields.next()?.parse().ok()?;
    let known = RememberedAddress { seen, address, id };
    fields.next().is_none().then_some(known)
}

/// Formats `known`, newest first, each address once; addresses with a zone do not outlive the name
/// of the interface.
fn compose(mut known: Vec<RememberedAddress>) -> String {
    known.sort_by(|a, b| b.seen.cmp(&a.seen).then_with(|| a.address.cmp(&b.address)));
    let mut addresses = std::collections::HashSet::new();
    known.retain(|one| !has_zone(&one.address) && addresses.insert(one.address.clone()));
    known.truncate(MAX_REMEMBERED);
    let mut text = format!("{HEADER}\n");
    for RememberedAddress { seen, address, id } in known {
        let place = match address {
            Address::Tcp(TcpAddress { host, port }) => format!("{host} {port}"),
            Address::Reach(address) => format!("{REACH} {}", address.encode()),
        };
        text.push_str(&format!("{seen} {place} {id}\n"));
    }
    text
}

fn read(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc_flags())
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns flags that refuse symbolic links and never wait for the writer of a FIFO.
fn libc_flags() -> i32 {
    (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    // Readable by its owner alone, and never visible half written.
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn saved_peers_are_known_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = Path::new("/mnt/p2p");
        let first = Remembered::load(dir.path(), place);
        assert_eq!(first.known().count(), 0);
        let old = (Address::new("10.0.0.1", 7), id(1), Duration::from_secs(60));
        let new = (Address::new("2001:db8::1", 8), id(2), Duration::ZERO);
        first.save(vec![old, new], at(1000)).unwrap();

        let second = Remembered::load(dir.path(), place);
        let seen: Vec<_> = second
            .known()
            .map(|k| (k.seen, k.address.as_tcp().unwrap().port, k.id))
            .collect();
        assert_eq!(seen, [(1000, 8, id(2)), (940, 7, id(1))]);

        // Nobody was reached this time: that loses nothing.
        second.save(Vec::new(), at(2000)).unwrap();
        assert_eq!(Remembered::load(dir.path(), place).known().count(), 2);
        assert_eq!(
            Remembered::load(dir.path(), Path::new("/else"))
                .known()
                .count(),
            0
        );
    }

    #[test]
    fn only_the_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let remembered = Remembered::load(dir.path(), Path::new("/a"));
        remembered.save(Vec::new(), at(0)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&remembered.path), 0o600);
        assert_eq!(mode(remembered.path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(dir.path().join("peers")).unwrap().count(), 1);
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        let good = format!("5 10.0.0.1 7 {}", id(1));
        let text = format!(
            "{HEADER}\nx\n\n5 0.0.0.0 7 {}\n{good} x\n{good}\n5 a\n",
            id(2)
        );
        assert_eq!(parse(&text).len(), 1);
        assert_eq!(parse(&good), []);
    }

    #[test]
    fn file_never_outgrows_what_can_be_read() {
        let host = |n: usize| format!("{n:03}.{}", "a.".repeat(123) + "abc");
        let known = (0..100).map(|n| RememberedAddress {
            seen: u64::MAX - n as u64,
            address: Address::new(host(n), 65535),
            id: id(n as u8),
        });
        let text = compose(known.collect());
        assert!(text.len() as u64 <= MAX_FILE_BYTES);
        let back = parse(&text);
        assert_eq!(back.len(), MAX_REMEMBERED);
        assert_eq!(back[0].address, Address::new(host(0), 65535));
    }

    #[test]
    fn directory_in_place_of_it_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let place = Path::new("/a");
        let path = Remembered::load(dir.path(), place).path;
        fs::create_dir_all(&path).unwrap();
        assert_eq!(Remembered::load(dir.path(), place).known().count(), 0);
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(Remembered::load(dir.path(), place).known().count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let text = format!("{HEADER}\n{}", String::from_utf8_lossy(&bytes));
            prop_assert!(parse(&text).len() <= MAX_REMEMBERED);
        }
    }
}
