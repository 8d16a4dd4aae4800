//! Who may have how much of a budget.
//!
//! Pure. Keys cost nothing, so a share belongs to a network first (an IPv4 address, a site of
//! IPv6), and to a key within it second, as everywhere else where members could take too much.
//!
//! A quarter of the total is divided evenly among the networks, and each part among the keys there.
//! Everyone may have that much, whatever the others do. The rest is common. No network gets more
//! than two thirds of what the others leave of it. Where a network has several keys, none of them
//! gets more than three quarters of what the others there leave. So the first to come may well have
//! a large directory, and there is room for the second.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::fairness::SourceNetwork;
use crate::model::PeerId;

/// The evenly divided part is divided among at least this many networks, so that a few do not
/// get it all.
const MIN_NETWORKS: usize = 8;

/// The party that a share belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum BudgetParty {
    /// All members who answer from this network.
    Network(SourceNetwork),
    /// One member whose network is unknown, such as this node itself.
    Apart(PeerId),
}

impl BudgetParty {
    pub(super) fn of(address: IpAddr) -> Self {
        Self::Network(SourceNetwork::of(address).site())
    }
}

/// What each party holds.
#[derive(Debug)]
pub(super) struct BudgetShares {
    total: usize,
    all: usize,
    places: HashMap<BudgetParty, HashMap<PeerId, KeyUsage>>,
    /// The place of each member who has a seat: where it took the latest seat that it still has.
    seated: HashMap<PeerId, BudgetParty>,
}

/// What one key holds in one place. Forgotten once it holds nothing.
#[derive(Default, Debug)]
struct KeyUsage {
    bytes: usize,
    seats: usize,
}

impl BudgetShares {
    /// Creates shares of `total` bytes, all free.
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            all: 0,
            places: HashMap::new(),
            seated: HashMap::new(),
        }
    }

    /// Returns how many bytes are taken.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// Returns the place of `member`.
    pub(super) fn place(&self, member: PeerId) -> BudgetParty {
        let place = self.seated.get(&member).copied();
        place.unwrap_or(BudgetParty::Apart(member))
    }

    /// Places `member` at `place`, until it has left as often as it took a seat there.
    pub(super) fn seat(&mut self, member: PeerId, place: BudgetParty) {
        self.holding(place, member).seats += 1;
        self.seated.insert(member, place);
    }

    pub(super) fn leave(&mut self, member: PeerId, place: BudgetParty) {
        let holding = self.holding(place, member);
        holding.seats = holding.seats.saturating_sub(1);
        let is_gone = holding.seats == 0;
        if is_gone && self.seated.get(&member) == Some(&place) {
            match self.other_seat(member) {
                Some(other) => self.seated.insert(member, other),
                None => self.seated.remove(&member),
            };
        }
        self.tidy(place, member);
    }

    /// Returns a place where `member` has a seat, if any.
    fn other_seat(&self, member: PeerId) -> Option<BudgetParty> {
        let is_its = |keys: &HashMap<PeerId, KeyUsage>| {
            keys.get(&member).is_some_and(|holding| holding.seats > 0)
        };
        let place = self.places.iter().find(|(_, keys)| is_its(keys));
        place.map(|(place, _)| *place)
    }

    /// Takes `bytes` more for `member`, if it may have them.
    pub(super) fn take(&mut self, place: BudgetParty, member: PeerId, bytes: usize) -> bool {
        let may = self.may_have(place, member, bytes);
        if may {
            self.holding(place, member).bytes += bytes;
            self.all += bytes;
        }
        may
    }

    pub(super) fn give_back(&mut self, place: BudgetParty, member: PeerId, bytes: usize) {
        let holding = self.holding(place, member);
        holding.bytes = holding.bytes.saturating_sub(bytes);
        self.all = self.all.saturating_sub(bytes);
        self.tidy(place, member);
    }

    fn may_have(&self, place: BudgetParty, member: PeerId, bytes: usize) -> bool {
        if self.all.saturating_add(bytes) > self.total {
            return false;
        }
        let here = self.places.get(&place);
        let networks = self.places.len() + usize::from(here.is_none());
        let even = self.total / 4 / networks.max(MIN_NETWORKS);
        // What all parties there hold of the common part, except `except`.
        let of_common = |keys: &HashMap<PeerId, KeyUsage>, sure: usize, except: Option<PeerId>| {
            let others = keys.iter().filter(|(key, _)| Some(**key) != except);
            let beyond = others.map(|(_, holding)| holding.bytes.saturating_sub(sure));
            beyond.sum::<usize>()
        };
        let its = here.and_then(|keys| keys.get(&member));
        let keys = here.map_or(0, HashMap::len) + usize::from(its.is_none());
        let sure = even / keys;
        let held = its.map_or(0, |holding| holding.bytes);
        let wanted = held.saturating_add(bytes).saturating_sub(sure);
        if wanted == 0 {
            return true;
        }
        let elsewhere = self.places.iter().filter(|(other, _)| **other != place);
        let elsewhere = elsewhere.map(|(_, keys)| of_common(keys, even / keys.len().max(1), None));
        let left = (self.total - self.total / 4).saturating_sub(elsewhere.sum());
        let others = here.map_or(0, |keys| of_common(keys, sure, Some(member)));
        let left = (left / 3 * 2).saturating_sub(others);
        let max = if keys > 1 { left / 4 * 3 } else { left };
        wanted <= max
    }

    fn holding(&mut self, place: BudgetParty, member: PeerId) -> &mut KeyUsage {
        let keys = self.places.entry(place).or_default();
        keys.entry(member).or_default()
    }

    fn tidy(&mut self, place: BudgetParty, member: PeerId) {
        let Some(keys) = self.places.get_mut(&place) else {
            return;
        };
        keys.retain(|key, holding| *key != member || holding.bytes > 0 || holding.seats > 0);
        if keys.is_empty() {
            self.places.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl BudgetShares {
        /// Returns true if nobody holds any bytes or a seat.
        pub(crate) fn is_empty(&self) -> bool {
            self.places.is_empty() && self.seated.is_empty() && self.all == 0
        }
    }

    /// The budget of a mount.
    const TOTAL: usize = 512 << 20;

    /// What a directory of 30,000 names takes while it arrives.
    const DIRECTORY: usize = 30_000 * 400;

    fn id(n: u16) -> PeerId {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        PeerId::from_bytes(key)
    }

    fn at(n: u8) -> BudgetParty {
        BudgetParty::of([127, 9, 0, n].into())
    }

    /// Takes bytes until it gets no more.
    fn grab(shares: &mut BudgetShares, place: BudgetParty, member: PeerId) -> usize {
        let before = shares.all();
        while shares.take(place, member, 4096) {}
        shares.all() - before
    }

    #[test]
    fn many_keys_of_one_host_are_one() {
        for keys in [1, 16, 256] {
            let mut shares = BudgetShares::new(TOTAL);
            for key in 0..keys {
                shares.seat(id(key), at(1));
            }
            (0..keys).for_each(|key| {
                grab(&mut shares, at(1), id(key));
            });
            assert!(shares.all() <= TOTAL / 4 * 3 / 3 * 2 + TOTAL / 4 / MIN_NETWORKS);
            for friend in 0..3 {
                let (place, friend) = (at(2 + friend), id(1000 + u16::from(friend)));
                shares.seat(friend, place);
                assert!(shares.take(place, friend, DIRECTORY), "{keys} keys");
            }
        }
    }

    #[test]
    fn fifty_hosts_fare_like_fifty_keys_of_one() {
        let mut apart = BudgetShares::new(TOTAL);
        let mut together = BudgetShares::new(TOTAL);
        for n in 0..50 {
            apart.seat(id(n), at(n as u8));
            together.seat(id(n), at(0));
        }
        for n in 0..10 {
            assert!(apart.take(at(n), id(n.into()), DIRECTORY));
            assert!(together.take(at(0), id(n.into()), DIRECTORY));
        }
        assert!(apart.take(at(10), id(10), 60 << 20));
        assert!(together.take(at(0), id(10), 60 << 20));
    }

    #[test]
    fn greedy_neighbour_leaves_room_at_address() {
        let mut shares = BudgetShares::new(TOTAL);
        shares.seat(id(1), at(1));
        shares.seat(id(2), at(1));
        grab(&mut shares, at(1), id(1));
        assert!(shares.take(at(1), id(2), 2 * DIRECTORY));
    }

    #[test]
    fn a_site_of_ipv6_is_one_network() {
        let place = |text: &str| BudgetParty::of(text.parse().unwrap());
        assert_eq!(place("2001:db8:1:2::1"), place("2001:db8:1:3::1"));
        assert_ne!(place("2001:db8:1::1"), place("2001:db8:2::1"));
    }

    #[test]
    fn who_moves_gives_back_what_it_had() {
        let mut shares = BudgetShares::new(TOTAL);
        shares.seat(id(1), at(1));
        assert!(shares.take(at(1), id(1), 100));
        shares.seat(id(1), at(2));
        shares.leave(id(1), at(1));
        assert_eq!(shares.place(id(1)), at(2));
        shares.give_back(at(1), id(1), 100);
        shares.leave(id(1), at(2));
        assert!(shares.is_empty());
    }

    /// As when a member is dialled at a second address and the connection is not needed.
    #[test]
    fn leaving_a_second_seat_keeps_the_first() {
        let mut shares = BudgetShares::new(TOTAL);
        shares.seat(id(1), at(1));
        shares.seat(id(1), at(2));
        shares.leave(id(1), at(2));
        assert_eq!(shares.place(id(1)), at(1));
        shares.leave(id(1), at(1));
        assert!(shares.is_empty());
    }
}
