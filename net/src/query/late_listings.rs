//! Listings by slow members that came after everyone had stopped waiting.
//!
//! A member that is not waited for ([`super::slow_peers`]) still answers, a second later. Its
//! listing of a directory is kept, so that the next listing of that directory includes its files:
//! as they were then, which is better than not at all. Pure: time comes in as `now`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::budget::{Held, Relieve, Weigh};
use crate::concurrency::expiring_map::ExpiringMap;
use crate::model::{PeerId, RelPath};
use crate::protocol::wire::Listing;

/// Older listings do not count. Each listing of the directory brings a newer one.
const KEPT: Duration = Duration::from_secs(300);

/// Maximum bytes of all listings together: some 20,000 names.
const MAX_BYTES: usize = 8 << 20;

/// Cost of a listing beside its entries and the path, which is in both tables.
const OVERHEAD: usize = 256;

/// Listings by member and directory.
type ByDirectory = ExpiringMap<(PeerId, RelPath), Arc<Held<Listing>>>;

/// The latest listings of slow members, for everyone who asks.
pub(crate) struct LateListings(Mutex<ByDirectory>);

impl Default for LateListings {
    fn default() -> Self {
        Self(Mutex::new(ExpiringMap::new(KEPT, MAX_BYTES)))
    }
}

impl LateListings {
    /// Stores `member`'s listing of `directory`; `None` if it has no such directory. Stores nothing
    /// if there is no room.
    pub(crate) fn put(
        &self,
        member: PeerId,
        directory: &RelPath,
        listing: Option<&Held<Listing>>,
        now: Instant,
    ) {
        let key = (member, directory.clone());
        // A caller that runs out of room may take this very lock.
        let weighed = listing.map(|listing| (listing, weight(directory, listing)));
        let fits = weighed.filter(|(_, weight)| *weight <= MAX_BYTES);
        let copy = fits.and_then(|(listing, weight)| Some((Held::copy(listing)?, weight)));
        let mut late = self.0.lock();
        let gone = match copy {
            Some((listing, weight)) => late.insert(key, Arc::new(listing), weight, now),
            None => {
                let mut gone = late.expire(now);
                gone.extend(late.remove(&key));
                gone
            }
        };
        drop(late);
        drop(gone);
    }

    /// Returns the last listing of `directory` by `member`.
    pub(crate) fn get(
        &self,
        member: PeerId,
        directory: &RelPath,
        now: Instant,
    ) -> Option<Held<Listing>> {
        let key = (member, directory.clone());
        let listing = self.0.lock().get(&key, now).cloned()?;
        listing.copy()
    }
}

impl Relieve for LateListings {
    fn relieve(&self, member: PeerId) {
        let gone = self.0.lock().remove_all(|(who, _), _| *who == member);
        drop(gone);
    }
}

fn weight(directory: &RelPath, listing: &Listing) -> usize {
    listing.entries.weight() + directory.weight() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::ByteBudget;
    use crate::model::{Attributes, Entry, Kind, Mode, Name, Version};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn listing(entries: usize) -> Option<Held<Listing>> {
        let entry = |number: usize| Entry {
            name: Name::new(number.to_string().into_bytes()).unwrap(),
            attributes: Attributes {
                kind: Kind::File,
                mode: Mode::Plain,
                size: 1.into(),
                mtime: 1.into(),
                version: Version(1),
                root: None,
            },
        };
        let listing = Listing {
            version: Version(1),
            mtime: 1.into(),
            more: false,
            counter: None,
            entries: (0..entries).map(entry).collect(),
        };
        let budget: Arc<ByteBudget> = Arc::default();
        Some(Held::new(listing, budget.reserve(id(1))))
    }

    #[test]
    fn latest_late_listing_counts_for_a_while() {
        let (late, now) = (LateListings::default(), Instant::now());
        late.put(id(1), &path("d"), listing(1).as_ref(), now);
        late.put(id(1), &path("d"), listing(2).as_ref(), now);
        let entries =
            |late: &LateListings, now| late.get(id(1), &path("d"), now).map(|l| l.entries.len());
        assert_eq!(entries(&late, now), Some(2));
        assert_eq!(entries(&late, now + KEPT), None);
        assert!(late.get(id(2), &path("d"), now).is_none());
        late.put(id(1), &path("d"), None, now);
        assert_eq!((entries(&late, now), late.0.lock().weight()), (None, 0));
    }

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let (late, now) = (LateListings::default(), Instant::now());
        let third = 2 * MAX_BYTES / 5 / listing(1).unwrap().entries.weight();
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let now = now + Duration::from_millis(number as u64);
            late.put(id(1), &path(name), listing(third).as_ref(), now);
        }
        let kept = ["a", "b", "c", "d"].map(|name| late.get(id(1), &path(name), now).is_some());
        assert_eq!(kept, [false, false, true, true]);
        late.put(id(1), &path("huge"), listing(6 * third).as_ref(), now);
        assert!(late.get(id(1), &path("huge"), now).is_none());
        assert!(late.0.lock().weight() <= MAX_BYTES);
    }

    #[test]
    fn what_came_again_and_again_is_held_once() {
        let (late, now) = (LateListings::default(), Instant::now());
        for second in 0..1000 {
            late.put(
                id(1),
                &path("d"),
                listing(3).as_ref(),
                now + Duration::from_secs(second),
            );
        }
        assert_eq!(
            late.0.lock().weight(),
            weight(&path("d"), &listing(3).unwrap())
        );
        assert_eq!(late.0.lock().len(), 1);
    }
}
