//! What is known of the names that a server of 2004 tells, each a file until something else turns
//! out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::super::Url;
use super::super::store::KeptFile;
use crate::model::{Attributes, FileSize, Kind, Mode, Name, Root, UnixTime, Version};
use crate::peer::Purpose;
use crate::protocol::xmlrpc::is_xml_char;

/// A content that was fetched is that of the file for at least this long: nobody tells
/// when it changes.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// What took long to fetch is that of the file for so many times as long.
const FRESH_TIMES: u32 = 10;

/// A name whose contents the server could not give is left out for this long. Mostly it
/// is a directory.
const UNREADABLE: Duration = Duration::from_secs(60);

/// The same for what certainly is a directory.
const DIRECTORY: Duration = Duration::from_secs(600);

/// A file that could not be fetched for its size alone is not tried again for this long.
const LONG: Duration = Duration::from_secs(60);

/// The names of one server.
pub(super) struct ServerNames {
    pub(super) files: BTreeMap<Name, SeenName>,
    /// When they last were others than before, nanoseconds since 1970.
    pub(super) mtime: UnixTime,
}

/// What is known of one name.
pub(super) struct SeenName {
    /// When it was first seen, or last seen with other contents; nanoseconds since 1970.
    mtime: UnixTime,
    /// Another one for each other content.
    pub(super) version: Version,
    pub(super) fetched: Option<Fetched>,
    unreadable_until: Option<Instant>,
    /// Whether it is a directory was asked.
    pub(super) is_probed: bool,
    /// It took too long to be fetched for its size alone.
    long_until: Option<Instant>,
}

/// A content that was fetched.
pub(super) struct Fetched {
    pub(super) size: u64,
    /// `None` for an empty file.
    pub(super) root: Option<Root>,
    pub(super) kept: Arc<KeptFile>,
    pub(super) when: Instant,
    pub(super) took: Duration,
}

impl Default for ServerNames {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            mtime: UnixTime::now(),
        }
    }
}

impl ServerNames {
    /// These are the names at `url` now. Returns how many are no plain names of files,
    /// and left out.
    pub(super) fn apply(&mut self, url: &Url, names: Vec<Vec<u8>>) -> usize {
        let count = names.len();
        let plain: Vec<Name> = names.into_iter().filter_map(plain_name).collect();
        let left_out = count - plain.len();
        // Nobody has to hear of these: every directory may have some.
        let names: BTreeSet<Name> = plain.into_iter().filter(|n| !n.is_hidden()).collect();
        let now = UnixTime::now();
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        let mut is_new = before != self.files.len();
        for name in names {
            self.files.entry(name).or_insert_with_key(|name| {
                is_new = true;
                SeenName::new(version_of(url, name, now), now)
            });
        }
        if is_new {
            self.mtime = now;
        }
        left_out
    }

    /// Those of which nobody has asked yet whether they are directories.
    pub(super) fn unprobed(&self) -> Vec<Name> {
        let files = self.files.iter();
        let unprobed = files.filter(|(_, seen)| !seen.is_probed && seen.fetched.is_none());
        unprobed.map(|(name, _)| name.clone()).collect()
    }

    /// What can be read, as far as is known.
    pub(super) fn readable(&self, now: Instant) -> impl Iterator<Item = (&Name, &SeenName)> {
        self.files
            .iter()
            .filter(move |(_, seen)| seen.is_readable(now))
    }
}

impl SeenName {
    fn new(version: Version, mtime: UnixTime) -> Self {
        Self {
            mtime,
            version,
            fetched: None,
            unreadable_until: None,
            is_probed: false,
            long_until: None,
        }
    }

    pub(super) fn is_readable(&self, now: Instant) -> bool {
        self.unreadable_until.is_none_or(|until| until <= now)
    }

    /// The server could not give it.
    pub(super) fn is_unreadable(&mut self, now: Instant) {
        self.unreadable_until = Some(now + UNREADABLE);
    }

    /// It is one, or is none.
    pub(super) fn is_directory(&mut self, is_one: bool, now: Instant) {
        self.is_probed = true;
        if is_one {
            self.unreadable_until = Some(now + DIRECTORY);
        }
    }

    /// It is not fetched for its size alone.
    pub(super) fn is_long(&self, now: Instant) -> bool {
        self.long_until.is_some_and(|until| now < until)
    }

    /// It was tried and has not come.
    pub(super) fn took_long(&mut self, now: Instant) {
        self.long_until = Some(now + LONG);
    }

    /// True if what is known is all that one needs.
    pub(super) fn suffices(&self, need: Purpose, now: Instant) -> bool {
        self.fetched.as_ref().is_some_and(|fetched| match need {
            Purpose::Size => true,
            Purpose::Bytes => fetched.is_fresh(now) && fetched.kept.open().is_some(),
        })
    }

    pub(super) fn attributes(&self) -> Attributes {
        let fetched = self.fetched.as_ref();
        Attributes {
            kind: Kind::File,
            mode: Mode::Plain,
            size: fetched.map_or(FileSize::Unknown, |fetched| fetched.size.into()),
            mtime: self.mtime,
            version: self.version,
            root: fetched.and_then(|fetched| fetched.root),
        }
    }

    /// These are its contents now. Returns those of before.
    pub(super) fn take(&mut self, now: Fetched, url: &Url, name: &Name) -> Option<Fetched> {
        let is_other = |before: &Fetched| (before.size, before.root) != (now.size, now.root);
        if self.fetched.as_ref().is_some_and(is_other) {
            self.mtime = UnixTime::now().max((self.mtime.in_64_bits() + 1).into());
            self.version = version_of(url, name, self.mtime);
        }
        (self.unreadable_until, self.long_until) = (None, None);
        self.fetched.replace(now)
    }
}

impl Fetched {
    fn is_fresh(&self, now: Instant) -> bool {
        let fresh = FRESH.max(self.took.saturating_mul(FRESH_TIMES));
        now.saturating_duration_since(self.when) < fresh
    }
}

/// The version of what `name` was first seen to be at `time`: the first content that is fetched has
/// it, and every other one another.
fn version_of(url: &Url, name: &Name, time: UnixTime) -> Version {
    let mut hasher = Sha256::new();
    hasher.update(url.as_str().as_bytes());
    hasher.update([0]);
    hasher.update(name.as_bytes());
    hasher.update([0]);
    hasher.update(time.in_64_bits().to_be_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let (first, _) = digest.as_chunks::<8>();
    Version(u64::from_be_bytes(first[0]))
}

/// A name that a file of a share may have and that can be asked for: the argument of a call is
/// text of XML.
fn plain_name(bytes: Vec<u8>) -> Option<Name> {
    let text = std::str::from_utf8(&bytes).ok()?;
    if !text.chars().all(is_xml_char) {
        return None;
    }
    Name::new(bytes).ok()
}
