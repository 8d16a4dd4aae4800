//! Chooses what to evict from a full table: one shared answer for tables that others fill.
//!
//! The party that fills a table bears the cost. The largest group loses its oldest entry, so a
//! flood displaces itself, and a party with few entries keeps them.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// Returns the oldest entry of the largest group. `entries` are keys, each with its group and age;
/// among groups of equal size, the one with the oldest entry counts as the largest.
pub(super) fn oldest_of_largest<K: Copy, G: Hash + Eq>(
    entries: impl IntoIterator<Item = (K, G, Instant)>,
) -> Option<K> {
    let mut groups: HashMap<G, (usize, Instant, K)> = HashMap::new();
    for (key, group, at) in entries {
        let (count, oldest, held) = groups.entry(group).or_insert((0, at, key));
        *count += 1;
        if at < *oldest {
            (*oldest, *held) = (at, key);
        }
    }
    let groups = groups.into_values();
    let largest = groups.max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    largest.map(|(_, _, key)| key)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_largest_group_loses_its_oldest() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let entries = [
            ("a1", 'a', at(0)),
            ("b2", 'b', at(2)),
            ("b1", 'b', at(1)),
            ("c1", 'c', at(9)),
        ];
        assert_eq!(oldest_of_largest(entries), Some("b1"));
        assert_eq!(oldest_of_largest(entries[2..].to_vec()), Some("b1"));
        assert_eq!(oldest_of_largest::<u8, u8>([]), None);
    }
}
