//! Identifiers: a member's key, a content's root, a version for the state of a file. Each has one
//! spelling, in which it is shown and read back.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};

use super::Invalid;

/// A member's identity: its Ed25519 public key. Shown as 52 characters of lower-case base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Wraps a raw Ed25519 public key.
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns the raw Ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight characters: enough to tell members of one network apart on a screen.
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

    /// Returns the root's 32 bytes.
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

/// Identifies one content, whoever has it and under any name: its root and its size in bytes. The
/// tree is padded, so a root alone does not determine a size, and a member that names a root for
/// another size names another content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ContentId {
    /// The content root.
    pub root: Root,
    /// Bytes; never 0, as an empty file has no tree.
    pub size: u64,
}

/// One state of one file at one member, assigned by the member that shares it. The first 24 bits
/// are a digest of which file it is (device, inode, time of birth), the other 40 one of its state
/// (size, mtime, ctime). It is both the `version` of a listing and, as 16 hexadecimal digits in
/// quotes, the strong entity tag (RFC 9110, section 8.8.3) of the file's bytes, so a listed version
/// can be requested with If-Match. Versions of different members are not comparable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Version(pub u64);

impl Version {
    /// How many bits tell states of one file apart.
    const STATE_BITS: u32 = 40;

    /// Returns the version of a file in a state, from a digest of each.
    pub const fn of(file: u64, state: u64) -> Self {
        Self(file >> Self::STATE_BITS << Self::STATE_BITS | state >> (64 - Self::STATE_BITS))
    }

    /// Returns the part shared by all versions of one file at one member, and rarely by two files.
    pub const fn file(self) -> u32 {
        (self.0 >> Self::STATE_BITS) as u32
    }

    /// Returns the entity tag, quotes included.
    pub fn entity_tag(self) -> String {
        format!("\"{:016x}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_the_file_from_its_state() {
        let version = Version::of(0xabcd_ef01_2345_6789, 0x1122_3344_5566_7788);
        assert_eq!(version, Version(0xabcd_ef11_2233_4455));
        assert_eq!(version.file(), 0x00ab_cdef);
    }

    #[test]
    fn entity_tags_survive_the_round_trip() {
        let version = Version(0x0123_4567_89ab_cdef);
        assert_eq!(version.entity_tag(), "\"0123456789abcdef\"");
        assert_eq!(
            Version::from_entity_tag(&version.entity_tag()),
            Some(version)
        );
        for bad in [
            "",
            "\"\"",
            "W/\"0123456789abcdef\"",
            "0123456789abcdef",
            "\"+123456789abcdef\"",
        ] {
            assert!(Version::from_entity_tag(bad).is_none(), "{bad}");
        }
    }
}
