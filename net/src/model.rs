//! The words of the network: identities, names, paths, versions, ranges.
//!
//! Everything here is parsed once, where it enters (a wire message, a command line, a directory
//! entry), and is correct ever after: code that holds a [`RelPath`] never asks again whether it
//! contains `..`. None of these types does IO or knows the time.

pub mod text;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::{BASE32_NOPAD, HEXLOWER};

pub use text::escaped;
use text::write_escaped;

/// The port that a node listens on unless told otherwise (the digits recall 15 lines, 2004).
pub const DEFAULT_PORT: u16 = 15204;

/// Longest file name in bytes, as Linux has it (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;

/// Longest path in bytes, as Linux has it (`PATH_MAX` less its NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// Why something that came from outside is not a value of one of these types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A path component that no file can have: empty, `.`, `..`, with `/` or NUL, or too long.
    #[error(
        "a file name must have 1 to {MAX_NAME_BYTES} bytes, no '/' and no NUL, and not be '.' or '..'"
    )]
    Name,
    /// A path of more than [`MAX_PATH_BYTES`].
    #[error("a path must not exceed {MAX_PATH_BYTES} bytes")]
    PathTooLong,
    /// Not 52 characters of base32.
    #[error("a peer id has 52 characters of base32")]
    PeerId,
    /// Not 64 hexadecimal digits, or not 32 bytes.
    #[error("a content root has 64 hexadecimal digits")]
    Root,
    /// Not a quoted string of 16 hexadecimal digits.
    #[error("not an entity tag of this program")]
    EntityTag,
    /// Not `host`, `host:port` or `https://host:port[#PEER-ID]`.
    #[error("'{0}' is not a peer address: use host, host:port or https://host:port[#PEER-ID]")]
    Address(String),
}

/// A member's identity: its Ed25519 public key. Shown as 52 characters of lower-case base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Wraps a raw Ed25519 public key.
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The raw Ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters: enough to tell the members of one network apart on a screen.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PeerId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| Invalid::PeerId)?;
        Ok(Self(bytes.try_into().map_err(|_| Invalid::PeerId)?))
    }
}

/// A file's content root: BEP 52's `pieces root` (SHA-256 over 16 KiB blocks).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Root([u8; 32]);

impl Root {
    /// Wraps a root's 32 bytes.
    pub const fn from_bytes(root: [u8; 32]) -> Self {
        Self(root)
    }

    /// The root's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..4]))
    }
}

impl FromStr for Root {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| Invalid::Root)?;
        Ok(Self(bytes.try_into().map_err(|_| Invalid::Root)?))
    }
}

/// One content, whoever has it and whatever it is called: its root and its size in bytes. The tree
/// is padded, so a root alone does not tell a size, and a member that names a root for another size
/// names another content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ContentId {
    /// The content root.
    pub root: Root,
    /// Bytes; never 0, as an empty file has no tree.
    pub size: u64,
}

/// One state of one file at one member, made by the member that shares it: the first 24 bits are a
/// digest of which file it is (device, inode, time of birth), the other 40 one of its state (size,
/// mtime, ctime). It is both the `version` of a listing and, as 16 hexadecimal digits in quotes,
/// the strong entity tag (RFC 9110, section 8.8.3) of the file's bytes, so what was listed can be
/// asked for with If-Match. Versions of different members say nothing to each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Version(pub u64);

impl Version {
    /// How many bits tell states of one file apart.
    const STATE_BITS: u32 = 40;

    /// The version of a file in a state, from a digest of each.
    pub const fn of(file: u64, state: u64) -> Self {
        Self(file >> Self::STATE_BITS << Self::STATE_BITS | state >> (64 - Self::STATE_BITS))
    }

    /// What is the same in all versions of one file at one member, and rarely so for two files.
    pub const fn file(self) -> u32 {
        (self.0 >> Self::STATE_BITS) as u32
    }

    /// The entity tag, quotes included.
    pub fn entity_tag(self) -> String {
        format!("\"{:016x}\"", self.0)
    }

    /// Reads an entity tag that [`Version::entity_tag`] wrote.
    pub fn from_entity_tag(tag: &str) -> Result<Self, Invalid> {
        let digits = tag
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .filter(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or(Invalid::EntityTag)?;
        u64::from_str_radix(digits, 16)
            .map(Self)
            .map_err(|_| Invalid::EntityTag)
    }
}

/// One path component: any bytes that a Linux file name may have. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks and takes one component.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, Invalid> {
        let bytes = bytes.as_ref();
        let sound = !bytes.is_empty()
            && bytes.len() <= MAX_NAME_BYTES
            && !bytes.iter().any(|b| matches!(b, b'/' | 0))
            && bytes != b"."
            && bytes != b"..";
        sound.then(|| Self(bytes.into())).ok_or(Invalid::Name)
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for names that begin with a dot, which are not served unless asked for.
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with(b".")
    }
}

impl fmt::Display for Name {
    /// For people: what is not printable UTF-8 is escaped, so a name cannot drive a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path below a share's root: components joined by `/`, none at either end; empty for the root
/// itself. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// The share's root.
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Checks every component of `bytes`; the empty path is the root.
    pub fn new(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(Invalid::PathTooLong);
        }
        for component in bytes.split(|b| *b == b'/') {
            Name::new(component)?;
        }
        Ok(Self(Arc::from(bytes)))
    }

    /// The path's bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for the share's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path with one more component.
    pub fn join(&self, name: &Name) -> Result<Self, Invalid> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.0);
        if bytes.len() > MAX_PATH_BYTES {
            return Err(Invalid::PathTooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// The directory that holds this path, and its name there; `None` for the root.
    pub fn split(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&b""[..], &self.0[..]),
        };
        Some((Self(Arc::from(parent)), Name(name.into())))
    }

    /// True if this is `directory` or lies below it.
    pub fn is_within(&self, directory: &Self) -> bool {
        let rest = self.as_bytes().strip_prefix(directory.as_bytes());
        directory.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Where this lies once the directory `from`, in which it lies, has become `to`; `None` if it
    /// does not lie there, or the path would be too long.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        if !self.is_within(from) {
            return None;
        }
        let rest = &self.0[from.0.len()..];
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let joined = match (to.is_root(), rest.is_empty()) {
            (true, _) => rest.to_vec(),
            (false, true) => to.0.to_vec(),
            (false, false) => [&to.0, &b"/"[..], rest].concat(),
        };
        Self::new(&joined).ok()
    }

    /// The components from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }
}

impl fmt::Display for RelPath {
    /// For people, escaped as [`Name`] is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What an entry of a share is. Nothing else is ever served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory, which may be listed.
    Directory,
}

/// What the permissions of an entry allow the member that shares it. They say nothing about those
/// who read it there: all members may read all that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// It can be read, or listed.
    #[default]
    Plain,
    /// A file that can be read, and is a program to its owner: some execute bit is set.
    Executable,
    /// The member itself cannot read the file, or cannot list the directory and look into it.
    Unreadable,
}

/// A point in time to the nanosecond, as file systems keep it: seconds since 1970-01-01 00:00 UTC
/// in 64 bits. (64 bits of nanoseconds would end in 2262.) Made to lie beside small fields: a mount
/// keeps millions of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime {
    // In this order, so that the derived order is that of time.
    upper: i32,
    lower: u32,
    /// Less than [`UnixTime::SECOND`].
    nanoseconds: u32,
}

impl UnixTime {
    /// 1970-01-01 00:00 UTC.
    pub const EPOCH: Self = Self {
        upper: 0,
        lower: 0,
        nanoseconds: 0,
    };

    /// Nanoseconds in a second.
    const SECOND: u32 = 1_000_000_000;

    /// So many whole seconds since 1970, and nanoseconds after that; `None` if those make a
    /// second or more.
    pub fn new(seconds: i64, nanoseconds: u32) -> Option<Self> {
        (nanoseconds < Self::SECOND).then_some(Self {
            upper: (seconds >> 32) as i32,
            lower: seconds as u32,
            nanoseconds,
        })
    }

    /// By this machine's clock.
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        Self::new(now.as_secs().cast_signed(), now.subsec_nanos()).unwrap_or_default()
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        i64::from(self.upper) << 32 | i64::from(self.lower)
    }

    /// Nanoseconds after those.
    pub fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// All of it in nanoseconds since 1970.
    pub fn in_nanoseconds(self) -> i128 {
        i128::from(self.seconds()) * i128::from(Self::SECOND) + i128::from(self.nanoseconds)
    }

    /// The same in 64 bits, which reach from 1677 to 2262: if need be the nearest that there is.
    pub fn in_64_bits(self) -> i64 {
        let limit = if self.upper < 0 { i64::MIN } else { i64::MAX };
        i64::try_from(self.in_nanoseconds()).unwrap_or(limit)
    }
}

impl From<i64> for UnixTime {
    /// From nanoseconds since 1970.
    fn from(nanoseconds: i64) -> Self {
        let second = i64::from(Self::SECOND);
        let (seconds, rest) = (
            nanoseconds.div_euclid(second),
            nanoseconds.rem_euclid(second),
        );
        Self::new(seconds, rest as u32).unwrap_or_default()
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds(), self.nanoseconds)
    }
}

/// What a listing says of one entry besides its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// File or directory.
    pub kind: Kind,
    /// What its permissions allow the member.
    pub mode: Mode,
    /// Bytes of content; 0 for a directory. [`Attributes::UNKNOWN_SIZE`] for a file of a member
    /// that does not tell.
    pub size: u64,
    /// When the content was last modified.
    pub mtime: UnixTime,
    /// The state that these attributes describe.
    pub version: Version,
    /// The content root, once the sharing member has computed it; never for a directory.
    pub root: Option<Root>,
}

impl Attributes {
    /// The size of a file of which only the name is known. No file is so large, and
    /// it never travels.
    pub const UNKNOWN_SIZE: u64 = u64::MAX;
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The entry's name in its directory.
    pub name: Name,
    /// What it is.
    pub attributes: Attributes,
}

/// Bytes `start..end` of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte; never less than `start`.
    pub end: u64,
}

impl ByteRange {
    /// The range `start..end`, empty when `end` is not above `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// How many bytes it spans.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// True when it spans nothing.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Where a node can be dialled: a host name or IP literal, and a TCP port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Host name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port; never 0.
    pub port: u16,
}

impl Address {
    /// An address from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Address {
    type Err = Invalid;

    /// Reads `host`, `host:port`, `v4`, `v4:port`, `v6`, `[v6]` or `[v6]:port`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Address(text.escape_default().to_string());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
            (
                host,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(invalid)?)
                },
            )
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(invalid)?,
            None => DEFAULT_PORT,
        };
        let sound = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        if !sound {
            return Err(invalid());
        }
        Ok(Self::new(host, port))
    }
}

/// A PEER argument: an address, and the only identity accepted there if one was named.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerArgument {
    /// Where to dial.
    pub address: Address,
    /// `#PEER-ID`: whoever answers with another key is refused.
    pub expected: Option<PeerId>,
}

impl FromStr for PeerArgument {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Address(text.escape_default().to_string());
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let (rest, expected) = match rest.split_once('#') {
            Some((rest, id)) => (rest, Some(id.parse()?)),
            None => (rest, None),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let address = rest.parse().map_err(|_| invalid())?;
        Ok(Self { address, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_directory_moves_with_it() {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        let moved = |it, from, to| path(it).moved(&path(from), &path(to));
        assert_eq!(moved("a/b/f", "a", "c/d"), Some(path("c/d/b/f")));
        assert_eq!(moved("a/f", "a", ""), Some(path("f")));
        assert_eq!(moved("f", "", "a"), Some(path("a/f")));
        assert_eq!(moved("a", "a", "b"), Some(path("b")));
        assert_eq!(moved("ab/f", "a", "c"), None);
    }

    #[test]
    fn versions_tell_the_file_from_its_state() {
        let version = Version::of(0xabcd_ef01_2345_6789, 0x1122_3344_5566_7788);
        assert_eq!(version, Version(0xabcd_ef11_2233_4455));
        assert_eq!(version.file(), 0x00ab_cdef);
    }

    #[test]
    fn times_are_in_order_and_what_they_were_made_of() {
        let nanoseconds = [
            i64::MIN,
            -1_000_000_001,
            -1,
            0,
            1,
            4_294_967_296_000_000_000,
            i64::MAX,
        ];
        let times = nanoseconds.map(UnixTime::from);
        assert!(times.is_sorted());
        assert_eq!(times.map(UnixTime::in_64_bits), nanoseconds);
        let far = [i64::MIN, i64::MAX].map(|seconds| UnixTime::new(seconds, 7).unwrap());
        assert!(far[0] < times[0] && far[1] > times[6]);
        assert_eq!(far.map(UnixTime::in_64_bits), [i64::MIN, i64::MAX]);
        assert_eq!(far.map(UnixTime::seconds), [i64::MIN, i64::MAX]);
        assert_eq!(UnixTime::new(0, 1_000_000_000), None);
        assert_eq!((size_of::<UnixTime>(), align_of::<UnixTime>()), (12, 4));
    }

    #[test]
    fn what_is_below_a_directory_is_within_it_and_namesakes_are_not() {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        assert!(path("a/b").is_within(&path("a/b")));
        assert!(path("a/b/c").is_within(&path("a/b")));
        assert!(path("a").is_within(&path("")));
        assert!(!path("a/bc").is_within(&path("a/b")));
        assert!(!path("a").is_within(&path("a/b")));
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert_eq!(Name::new(bad), Err(Invalid::Name));
        }
        for good in [&b"a"[..], b"...", b" ", b"\xff\x01", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok());
        }
    }

    #[test]
    fn paths_that_could_leave_the_share_are_refused() {
        for bad in ["/", "/a", "a/", "a//b", "a/../b", "..", "./a"] {
            assert!(RelPath::new(bad.as_bytes()).is_err(), "{bad}");
        }
        let path = RelPath::new(b"a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!(
            (parent.as_bytes(), name.as_bytes()),
            (&b"a/b"[..], &b"c"[..])
        );
        assert_eq!(parent.join(&name).unwrap(), path);
        assert_eq!(RelPath::root().split(), None);
    }

    #[test]
    fn names_are_shown_without_driving_the_terminal() {
        let name = Name::new(&b"a\x1b[31m\xffb\xc3\xa4"[..]).unwrap();
        assert_eq!(name.to_string(), "a\\u{1b}[31m\\xffb\u{e4}");
        for c in crate::model::text::HOSTILE
            .into_iter()
            .filter(|c| *c != '\0')
        {
            let bytes = format!("a{c}b").into_bytes();
            let (name, path) = (
                Name::new(bytes.clone()).unwrap(),
                RelPath::new(&bytes).unwrap(),
            );
            for shown in [format!("{name} {path}"), format!("{name:?} {path:?}")] {
                assert!(!shown.contains(c), "{:?}", c.escape_unicode());
            }
        }
    }

    #[test]
    fn peer_arguments_take_every_documented_form() {
        let parse = |text: &str| text.parse::<PeerArgument>().map(|p| p.address.to_string());
        assert_eq!(parse("box").unwrap(), "box:15204");
        assert_eq!(parse("box:7").unwrap(), "box:7");
        assert_eq!(parse("https://10.0.0.1:7").unwrap(), "10.0.0.1:7");
        assert_eq!(parse("[::1]:7").unwrap(), "[::1]:7");
        assert_eq!(parse("fe80::1").unwrap(), "[fe80::1]:15204");
        let id = PeerId::from_bytes([7; 32]);
        let pinned: PeerArgument = format!("https://box:7#{id}").parse().unwrap();
        assert_eq!(pinned.expected, Some(id));
        for bad in [
            "",
            "a b",
            "box:0",
            "box:99999",
            "http://box:7",
            "box:7#zz",
            "[::1",
            "ftp://x",
            "a/b",
            "user@box",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entity_tags_survive_the_round_trip() {
        let version = Version(0x0123_4567_89ab_cdef);
        assert_eq!(version.entity_tag(), "\"0123456789abcdef\"");
        assert_eq!(Version::from_entity_tag(&version.entity_tag()), Ok(version));
        for bad in [
            "",
            "\"\"",
            "W/\"0123456789abcdef\"",
            "0123456789abcdef",
            "\"+123456789abcdef\"",
        ] {
            assert!(Version::from_entity_tag(bad).is_err(), "{bad}");
        }
    }
}
