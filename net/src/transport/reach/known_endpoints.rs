//! Which endpoints belong to members, as far as this node has seen.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::concurrency::expiring_map::ExpiringMap;
use crate::model::EndpointKey;

/// An endpoint is known for as long as the key of its member stays admitted elsewhere: two days
/// after it last proved itself.
const KNOWN_FOR: Duration = Duration::from_secs(48 * 3600);

/// The maximum number of endpoints: as many as there can be members.
const MAX_KNOWN: usize = 1024;

/// The endpoints over which an admitted key was shown lately. A stranger has as many endpoints as
/// it likes, but none of these: the engine proves to whom an endpoint belongs.
pub(super) struct KnownEndpoints(Mutex<ExpiringMap<EndpointKey, ()>>);

impl Default for KnownEndpoints {
    fn default() -> Self {
        Self(Mutex::new(ExpiringMap::new(KNOWN_FOR, MAX_KNOWN)))
    }
}

impl KnownEndpoints {
    /// Notes that a member has shown its key over `endpoint`.
    pub(super) fn note(&self, endpoint: EndpointKey, now: Instant) {
        self.0.lock().insert(endpoint, (), 1, now);
    }

    pub(super) fn has(&self, endpoint: EndpointKey, now: Instant) -> bool {
        let mut known = self.0.lock();
        known.expire(now);
        known.peek(&endpoint).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_known_for_two_days_after_its_last_proof() {
        let (known, begun) = (KnownEndpoints::default(), Instant::now());
        let hours = |hours: u64| begun + Duration::from_secs(hours * 3600);
        let [one, other] = [1, 2].map(|n| EndpointKey::from_bytes([n; 32]));
        known.note(one, begun);
        known.note(one, hours(40));
        assert!(known.has(one, hours(87)));
        assert!(!known.has(other, hours(87)));
        assert!(!known.has(one, hours(89)));
    }
}
