//! The names that a server of 2004 lists, each taken as a file until it turns out to
//! be something else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::super::Url;
use super::super::store::KeptFile;
use crate::model::{Attributes, FileSize, Kind, Mode, Name, Root, UnixTime, Version};
use crate::peer::Purpose;
use crate::protocol::xmlrpc::is_xml_char;

/// Fetched contents count as current for at least this long: the server does not report changes.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// Contents that took long to fetch count as current for this many times as long.
const FRESH_TIMES: u32 = 10;

/// A name whose contents the server could not supply is left out for this long. Usually it
/// is a directory.
const UNREADABLE: Duration = Duration::from_secs(60);

/// The same for a name that certainly is a directory.
const DIRECTORY: Duration = Duration::from_secs(600);

/// A file that could not be fetched for its size alone is not tried again for this long.
const LONG: Duration = Duration::from_secs(60);

/// The names of one server.
pub(super) struct ServerNames {
    pub(super) files: BTreeMap<Name, SeenName>,
    /// When the set of names last changed, in nanoseconds since 1970.
    pub(super) mtime: UnixTime,
}

/// What is known of one name.
pub(super) struct SeenName {
    /// When it was first seen, or last seen with new contents, in nanoseconds since 1970.
    mtime: UnixTime,
    /// Differs for each new content.
    pub(super) version: Version,
    pub(super) fetched: Option<Fetched>,
    unreadable_until: Option<Instant>,
    /// True if the server was asked whether it is a directory.
    pub(super) is_probed: bool,
    /// Set when it took too long to be fetched for its size alone.
    long_until: Option<Instant>,
}

/// The contents that were fetched.
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
    /// Sets the names at `url`. Returns how many were left out because they are not
    /// plain file names.
    pub(super) fn apply(&mut self, url: &Url, names: Vec<Vec<u8>>) -> usize {
        let count = names.len();
        let plain: Vec<Name> = names.into_iter().filter_map(plain_name).collect();
        let left_out = count - plain.len();
        // These are not reported: every directory may have some.
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

    /// Returns the names not yet probed for directories.
    pub(super) fn unprobed(&self) -> Vec<Name> {
        let files = self.files.iter();
        let unprobed = files.filter(|(_, seen)| !seen.is_probed && seen.fetched.is_none());
        unprobed.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the names that are readable, as far as is known.
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

    /// Notes that the server could not supply it.
    pub(super) fn is_unreadable(&mut self, now: Instant) {
        self.unreadable_until = Some(now + UNREADABLE);
    }

    /// Notes whether it is a directory.
    pub(super) fn is_directory(&mut self, is_one: bool, now: Instant) {
        self.is_probed = true;
        if is_one {
            self.unreadable_until = Some(now + DIRECTORY);
        }
    }

    /// Returns true if it is not to be fetched for its size alone.
    pub(super) fn is_long(&self, now: Instant) -> bool {
        self.long_until.is_some_and(|until| now < until)
    }

    /// Notes that it was tried and did not arrive.
    pub(super) fn took_long(&mut self, now: Instant) {
        self.long_until = Some(now + LONG);
    }

    /// Returns true if the known facts satisfy `need`.
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
            size: fetched.map_or(FileSize::UNKNOWN, |fetched| fetched.size.into()),
            mtime: self.mtime,
            version: self.version,
            root: fetched.and_then(|fetched| fetched.root),
        }
    }

    /// Sets its contents. Returns the previous ones.
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

/// Derives the version of `name` from `time`: the time when it was first seen, for the first
/// content fetched, or the time of the change, for every later one.
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

/// Returns the name if a file of a share may have it and it can be requested: the argument of a
/// call is XML text.
fn plain_name(bytes: Vec<u8>) -> Option<Name> {
    let text = std::str::from_utf8(&bytes).ok()?;
    if !text.chars().all(is_xml_char) {
        return None;
    }
    Name::new(bytes).ok()
}
