//! The keys that have proved the password lately.
//!
//! An admission lives in memory only and for a day, so a stolen identity key without the password
//! is good for a day at most, and a changed password shuts its old holders out as soon as a node
//! restarts. Nothing but a finished pairing run may enter a key here: being told of a member by a
//! member is no admission.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::types::PeerId;

/// How long one pairing run is good for.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Most keys at once. Only holders of the password get here, so this bounds what a member with
/// many identities can occupy; beyond it, whoever was admitted first has to pair again.
const MAX_ENTRIES: usize = 4096;

/// The admitted keys, shared by all threads.
#[derive(Debug, Default)]
pub struct Admission {
    since: Mutex<HashMap<PeerId, Instant>>,
}

impl Admission {
    /// True when `peer` proved the password within the 24 hours before `now`.
    pub fn is_admitted(&self, peer: PeerId, now: Instant) -> bool {
        self.since
            .lock()
            .get(&peer)
            .is_some_and(|since| is_live(*since, now))
    }

    /// Enters `peer`, or renews it. Call it only when a pairing run has proved the password.
    pub fn admit(&self, peer: PeerId, now: Instant) {
        let mut since = self.since.lock();
        if since.len() >= MAX_ENTRIES && !since.contains_key(&peer) {
            since.retain(|_, since| is_live(*since, now));
        }
        if since.len() >= MAX_ENTRIES && !since.contains_key(&peer) {
            let oldest = since
                .iter()
                .min_by_key(|(_, since)| **since)
                .map(|(id, _)| *id);
            oldest.and_then(|id| since.remove(&id));
        }
        since.insert(peer, now);
    }
}

fn is_live(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < LIFETIME
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: usize) -> PeerId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        PeerId::from_bytes(key)
    }

    #[test]
    fn an_admission_ends_after_a_day_unless_renewed() {
        let admission = Admission::default();
        let start = Instant::now();
        assert!(!admission.is_admitted(peer(1), start));
        admission.admit(peer(1), start);
        assert!(admission.is_admitted(peer(1), start));
        assert!(!admission.is_admitted(peer(2), start));
        let last = start + LIFETIME - Duration::from_secs(1);
        assert!(admission.is_admitted(peer(1), last));
        assert!(!admission.is_admitted(peer(1), start + LIFETIME));
        admission.admit(peer(1), last);
        assert!(admission.is_admitted(peer(1), start + LIFETIME));
    }

    #[test]
    fn a_full_table_gives_up_its_oldest_entry_only() {
        let admission = Admission::default();
        let start = Instant::now();
        for number in 0..=MAX_ENTRIES {
            admission.admit(peer(number), start + Duration::from_secs(number as u64));
        }
        let now = start + Duration::from_secs(MAX_ENTRIES as u64);
        assert_eq!(admission.since.lock().len(), MAX_ENTRIES);
        assert!(!admission.is_admitted(peer(0), now));
        assert!(admission.is_admitted(peer(1), now));
        // Renewing in a full table costs nobody their place.
        admission.admit(peer(5), now);
        assert!(admission.is_admitted(peer(1), now));
    }

    #[test]
    fn expired_entries_make_room_before_live_ones_do() {
        let admission = Admission::default();
        let start = Instant::now();
        for number in 0..MAX_ENTRIES - 1 {
            admission.admit(peer(number), start);
        }
        let later = start + LIFETIME;
        admission.admit(peer(MAX_ENTRIES), later);
        admission.admit(peer(MAX_ENTRIES + 1), later);
        assert!(admission.is_admitted(peer(MAX_ENTRIES), later));
        assert_eq!(admission.since.lock().len(), 2);
    }
}
