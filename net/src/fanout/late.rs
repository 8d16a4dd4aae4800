//! What slow members said after nobody waited any more.
//!
//! A member that is not waited for ([`super::pace`]) answers all the same, a second later. What it said
//! of a directory is kept, so that whoever lists that directory again sees its files: as they were then,
//! which is better than not at all. Pure: time comes in as `now`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::types::{PeerId, RelPath};
use crate::wire::Listing;

/// What was said so long ago counts no more. Each listing of the directory brings a newer one.
const KEPT: Duration = Duration::from_secs(300);

/// The most entries of all listings together, at some 150 bytes each.
const MAX_ENTRIES: usize = 50_000;

/// What an empty listing counts for.
const OVERHEAD: usize = 2;

type Key = (PeerId, RelPath);

/// Listings by who made them and of what.
#[derive(Default)]
pub(super) struct Late {
    listings: HashMap<Key, (Instant, Listing)>,
    /// When each came, in that order; may name some that came again since.
    arrivals: VecDeque<(Instant, Key)>,
    entries: usize,
}

impl Late {
    /// `member` has said this of `directory`; `None` if that it has no such directory.
    pub(super) fn put(
        &mut self,
        member: PeerId,
        directory: RelPath,
        listing: Option<Listing>,
        now: Instant,
    ) {
        let key = (member, directory);
        self.remove(&key);
        if let Some(listing) = listing {
            self.entries += weight(&listing);
            self.arrivals.push_back((now, key.clone()));
            self.listings.insert(key, (now, listing));
        }
        while let Some((came, key)) = self.arrivals.front() {
            let is_last = self.listings.get(key).is_some_and(|(at, _)| at == came);
            let is_old = now.saturating_duration_since(*came) >= KEPT;
            if is_last && !is_old && self.entries <= MAX_ENTRIES {
                break;
            }
            if let (Some((_, key)), true) = (self.arrivals.pop_front(), is_last) {
                self.remove(&key);
            }
        }
    }

    /// What `member` last said of `directory`.
    pub(super) fn get(
        &self,
        member: PeerId,
        directory: &RelPath,
        now: Instant,
    ) -> Option<&Listing> {
        let (came, listing) = self.listings.get(&(member, directory.clone()))?;
        (now.saturating_duration_since(*came) < KEPT).then_some(listing)
    }

    fn remove(&mut self, key: &Key) {
        if let Some((_, listing)) = self.listings.remove(key) {
            self.entries -= weight(&listing);
        }
    }
}

fn weight(listing: &Listing) -> usize {
    listing.entries.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Attributes, Entry, Kind, Name, Version};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn listing(entries: usize) -> Option<Listing> {
        let entry = |number: usize| Entry {
            name: Name::new(number.to_string().into_bytes()).unwrap(),
            attributes: Attributes {
                kind: Kind::File,
                size: 1,
                mtime: 1,
                version: Version(1),
                root: None,
            },
        };
        Some(Listing {
            version: Version(1),
            mtime: 1,
            more: false,
            counter: None,
            entries: (0..entries).map(entry).collect(),
        })
    }

    #[test]
    fn the_last_word_of_a_member_counts_for_a_while() {
        let (mut late, now) = (Late::default(), Instant::now());
        late.put(id(1), path("d"), listing(1), now);
        late.put(id(1), path("d"), listing(2), now);
        let entries = |late: &Late, now| late.get(id(1), &path("d"), now).map(|l| l.entries.len());
        assert_eq!(entries(&late, now), Some(2));
        assert_eq!(entries(&late, now + KEPT), None);
        assert!(late.get(id(2), &path("d"), now).is_none());
        late.put(id(1), path("d"), None, now);
        assert_eq!((entries(&late, now), late.entries), (None, 0));
    }

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let (mut late, now) = (Late::default(), Instant::now());
        let third = MAX_ENTRIES / 3;
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let now = now + Duration::from_millis(number as u64);
            late.put(id(1), path(name), listing(third), now);
        }
        let kept = ["a", "b", "c", "d"].map(|name| late.get(id(1), &path(name), now).is_some());
        assert_eq!(kept, [false, false, true, true]);
        late.put(id(1), path("huge"), listing(MAX_ENTRIES + 1), now);
        assert_eq!((late.entries, late.listings.len()), (0, 0));
    }

    #[test]
    fn what_came_again_and_again_is_held_once() {
        let (mut late, now) = (Late::default(), Instant::now());
        for second in 0..1000 {
            late.put(
                id(1),
                path("d"),
                listing(3),
                now + Duration::from_secs(second),
            );
        }
        assert_eq!(late.entries, 3 + OVERHEAD);
        assert!(late.arrivals.len() <= 1 + KEPT.as_secs() as usize);
    }
}
