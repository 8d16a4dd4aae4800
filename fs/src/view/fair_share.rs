//! Room that several members share: a member that has little keeps all of it, and the others
//! get equal parts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tinyp2p_net::model::PeerId;

use crate::network::MemberRef;

/// Returns how many things each may have, given how many each has, so that all together have at
/// most `max`. A member with no more than an equal share keeps all, however much others have.
pub fn fair_share(counts: impl IntoIterator<Item = usize>, max: usize) -> usize {
    let mut counts: Vec<usize> = counts.into_iter().collect();
    counts.sort_unstable();
    let (mut left, mut sharers) = (max, counts.len());
    for count in counts {
        if count > left / sharers {
            return left / sharers;
        }
        left -= count;
        sharers -= 1;
    }
    usize::MAX
}

/// Leaves each member its fair share of `max` things, the first ones. Returns the members that had
/// more. A thing that several members have counts for the one with the least: otherwise, a member
/// that joins the holders of much could have it removed together with its own. `holders` shows the
/// members that have a thing, at least one.
pub fn share_fairly<T>(
    things: &mut Vec<T>,
    max: usize,
    holders: impl Fn(&T, &mut dyn FnMut(&Arc<MemberRef>)),
) -> Vec<Arc<MemberRef>> {
    if things.len() <= max {
        return Vec::new();
    }
    let mut counts: HashMap<PeerId, usize> = HashMap::new();
    for thing in &*things {
        holders(thing, &mut |member| {
            *counts.entry(member.id).or_default() += 1
        });
    }
    let owner = |thing: &T| {
        let mut least: Option<(usize, Arc<MemberRef>)> = None;
        holders(thing, &mut |member| {
            let count = counts[&member.id];
            let is_less =
                |(least, owner): &(usize, Arc<MemberRef>)| (count, member.id) < (*least, owner.id);
            if least.as_ref().is_none_or(is_less) {
                least = Some((count, Arc::clone(member)));
            }
        });
        least.map(|(_, member)| member)
    };
    let mut owned: HashMap<PeerId, usize> = HashMap::new();
    for member in things.iter().filter_map(owner) {
        *owned.entry(member.id).or_default() += 1;
    }
    let share = fair_share(owned.into_values(), max);
    let mut kept: HashMap<PeerId, usize> = HashMap::new();
    let mut cut: BTreeMap<PeerId, Arc<MemberRef>> = BTreeMap::new();
    things.retain(|thing| {
        let Some(member) = owner(thing) else {
            return false;
        };
        let count = kept.entry(member.id).or_default();
        *count += 1;
        let is_kept = *count <= share;
        if !is_kept {
            cut.insert(member.id, member);
        }
        is_kept
    });
    cut.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fair_share_spares_the_modest() {
        assert_eq!(fair_share([3, 5], 8), usize::MAX);
        assert_eq!(fair_share([1, 100, 100], 21), 10);
        assert_eq!(fair_share([9; 10], 10), 1);
        assert_eq!(fair_share([], 0), usize::MAX);
    }
}
