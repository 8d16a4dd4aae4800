//! Keys that proved the password to any process of this state directory. They distinguish members
//! from strangers when a node restarts in the middle of a flood of guesses.
//!
//! The file holds digests of keys and times, about 100 KB at most. It admits nobody: a peer whose
//! key is in it must still prove the password, but is not held up by strangers. It does not record
//! which password a key proved, as nothing on disk may depend on a password; so all keys in it
//! share one small budget of guesses (see [`Inbound`](super::Inbound)). A file that is damaged or
//! cannot be read counts as empty.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::stamps::{Clocks, StampReader, StampWriter, Stamps};
use crate::model::PeerId;

/// How long a key is remembered after it proved the password.
const REMEMBERED: Duration = Duration::from_secs(48 * 3600);

/// The most keys; beyond them, the key whose proof is oldest is forgotten.
const MAX_KEYS: usize = 4096;

const MAGIC: &[u8; 16] = b"tinyp2p known 1\n";
const CHECKSUM: usize = 32;

/// The maximum length of a file: a head of 56 bytes, 24 for each key, and a checksum.
pub(super) const MAX_LENGTH: usize = 16 + 40 + MAX_KEYS * 24 + CHECKSUM;

type KeyDigest = [u8; 16];

/// The keys, and when each last proved the password.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RememberedKeys(HashMap<KeyDigest, Instant>);

impl RememberedKeys {
    /// Returns true when `peer` proved a password less than 48 hours before `now`.
    pub fn contains(&self, peer: PeerId, now: Instant) -> bool {
        let proved = self.0.get(&digest(peer));
        proved.is_some_and(|at| is_fresh(*at, now))
    }

    /// Records that `peer` has just proved the password.
    pub(super) fn note(&mut self, peer: PeerId, now: Instant) {
        self.0.retain(|_, at| is_fresh(*at, now));
        let key = digest(peer);
        if self.0.len() >= MAX_KEYS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at);
            oldest
                .map(|(key, _)| *key)
                .and_then(|key| self.0.remove(&key));
        }
        self.0.insert(key, now);
    }

    pub(super) fn encode(&self, clocks: &Clocks) -> Vec<u8> {
        let mut writer = StampWriter(MAGIC.to_vec());
        Stamps::write(&mut writer, clocks);
        writer.number(self.0.len() as i64);
        for (key, at) in &self.0 {
            writer.number(clocks.stamp(*at));
            writer.0.extend(key);
        }
        let checksum: [u8; CHECKSUM] = Sha256::digest(&writer.0).into();
        writer.0.extend(checksum);
        writer.0
    }

    /// Decodes a file; `None` when it is damaged.
    pub(super) fn decode(bytes: &[u8], clocks: &Clocks) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if *checksum != *Sha256::digest(body) {
            return None;
        }
        let mut reader = StampReader(body.strip_prefix(MAGIC)?);
        let stamps = Stamps::read(&mut reader, clocks)?;
        let count = usize::try_from(reader.number()?).ok()?;
        let mut keys = HashMap::new();
        for _ in 0..Some(count).filter(|count| *count <= MAX_KEYS)? {
            let at = stamps.time(reader.number()?, clocks);
            let (key, rest) = reader.0.split_first_chunk::<16>()?;
            reader.0 = rest;
            keys.extend(at.map(|at| (*key, at)));
        }
        Some(Self(keys))
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < REMEMBERED
}

fn digest(peer: PeerId) -> KeyDigest {
    let digest: [u8; 32] = Sha256::digest(peer.as_bytes()).into();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::peer_id as peer;

    #[test]
    fn full_file_is_read_back_minus_its_oldest() {
        let clocks = Clocks::read();
        let mut keys = RememberedKeys::default();
        for number in 0..=MAX_KEYS {
            let at = clocks.now + Duration::from_millis(number as u64);
            keys.note(peer(number), at);
        }
        let later = Clocks {
            now: clocks.now + Duration::from_secs(60),
            since_boot: clocks.since_boot + 60_000,
            calendar: clocks.calendar + 60_000,
            ..clocks
        };
        let bytes = keys.encode(&later);
        assert_eq!(bytes.len(), MAX_LENGTH);
        let read = RememberedKeys::decode(&bytes, &later).unwrap();
        assert!(!read.contains(peer(0), later.now));
        assert!((1..=MAX_KEYS).all(|number| read.contains(peer(number), later.now)));
        assert!(!read.contains(peer(1), clocks.now + REMEMBERED + Duration::from_secs(9)));
        for damaged in [&bytes[1..], &bytes[..99], &[]] {
            assert_eq!(RememberedKeys::decode(damaged, &later), None);
        }
    }
}
