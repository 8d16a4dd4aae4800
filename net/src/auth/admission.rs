//! The keys that have recently proved the password.
//!
//! An admission lives in memory only and for a day. So a stolen identity key without the password
//! is good for a day at most, and a changed password shuts its old holders out as soon as a node
//! restarts. Only a finished pairing run may enter a key here: hearing of a member from another
//! member is no admission.
//!
//! A key is remembered for a second day, in which it may do no more than a stranger but is not
//! treated as one: it has its own count when it proves the password again. Otherwise a flood of
//! guesses by strangers would keep members out at the moment they have to renew.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::concurrency::expiring_map::ExpiringMap;
use crate::model::PeerId;

/// How long one pairing run is valid.
const ADMITTED: Duration = Duration::from_secs(24 * 3600);

/// How long a key is distinguished from a stranger's after a pairing run.
const KNOWN: Duration = Duration::from_secs(48 * 3600);

/// The most keys at once. Only holders of the password get here, so this bounds how much a member
/// with many identities can occupy; beyond it, the key that paired the longest ago is dropped.
const MAX_ENTRIES: usize = 4096;

/// The keys and when each last proved the password, shared by all threads.
#[derive(Debug)]
pub struct Admission {
    proved: Mutex<ExpiringMap<PeerId, Instant>>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            proved: Mutex::new(ExpiringMap::new(KNOWN, MAX_ENTRIES)),
        }
    }
}

impl Admission {
    /// Returns true when `peer` proved the password less than 24 hours before `now`: it may speak.
    pub fn is_admitted(&self, peer: PeerId, now: Instant) -> bool {
        let proved = self.proved.lock().get(&peer, now).copied();
        proved.is_some_and(|proved| now.saturating_duration_since(proved) < ADMITTED)
    }

    /// Returns true when `peer` proved the password less than 48 hours before `now`: it may speak
    /// or needs only to renew, and does not suffer for what strangers do.
    pub fn is_known(&self, peer: PeerId, now: Instant) -> bool {
        self.proved.lock().get(&peer, now).is_some()
    }

    /// Enters `peer`, or renews it. Call it only when a pairing run has proved the password.
    pub fn admit(&self, peer: PeerId, now: Instant) {
        self.proved.lock().insert(peer, now, 1, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer_id as peer;

    #[test]
    fn unrenewed_admission_ends_after_a_day() {
        let admission = Admission::default();
        let start = Instant::now();
        assert!(!admission.is_admitted(peer(1), start));
        admission.admit(peer(1), start);
        assert!(admission.is_admitted(peer(1), start));
        assert!(!admission.is_admitted(peer(2), start));
        let last = start + ADMITTED - Duration::from_secs(1);
        assert!(admission.is_admitted(peer(1), last));
        assert!(!admission.is_admitted(peer(1), start + ADMITTED));
        admission.admit(peer(1), last);
        assert!(admission.is_admitted(peer(1), start + ADMITTED));
    }

    #[test]
    fn lapsed_key_is_known_for_another_day() {
        let admission = Admission::default();
        let start = Instant::now();
        assert!(!admission.is_known(peer(1), start));
        admission.admit(peer(1), start);
        assert!(admission.is_known(peer(1), start));
        let last = start + KNOWN - Duration::from_secs(1);
        assert!(admission.is_known(peer(1), last));
        assert!(!admission.is_admitted(peer(1), last));
        assert!(!admission.is_known(peer(1), start + KNOWN));
    }

    #[test]
    fn ended_admissions_are_evicted_first() {
        let admission = Admission::default();
        let start = Instant::now();
        admission.admit(peer(0), start);
        let now = start + ADMITTED;
        for number in 1..=MAX_ENTRIES {
            admission.admit(peer(number), now);
        }
        assert_eq!(admission.proved.lock().len(), MAX_ENTRIES);
        assert!(!admission.is_known(peer(0), now));
        assert!((1..=MAX_ENTRIES).all(|number| admission.is_admitted(peer(number), now)));
    }

    #[test]
    fn full_table_evicts_only_its_oldest_entry() {
        let admission = Admission::default();
        let start = Instant::now();
        for number in 0..=MAX_ENTRIES {
            admission.admit(peer(number), start + Duration::from_secs(number as u64));
        }
        let now = start + Duration::from_secs(MAX_ENTRIES as u64);
        assert_eq!(admission.proved.lock().len(), MAX_ENTRIES);
        assert!(!admission.is_known(peer(0), now));
        assert!(admission.is_admitted(peer(1), now));
        // Renewing in a full table evicts nobody.
        admission.admit(peer(5), now);
        assert!(admission.is_admitted(peer(1), now));
    }

    #[test]
    fn forgotten_keys_are_evicted_before_known() {
        let admission = Admission::default();
        let start = Instant::now();
        for number in 0..MAX_ENTRIES - 1 {
            admission.admit(peer(number), start);
        }
        let later = start + KNOWN;
        admission.admit(peer(MAX_ENTRIES), later);
        admission.admit(peer(MAX_ENTRIES + 1), later);
        assert!(admission.is_admitted(peer(MAX_ENTRIES), later));
        assert_eq!(admission.proved.lock().len(), 2);
    }
}
