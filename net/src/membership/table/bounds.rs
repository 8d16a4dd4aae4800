//! The bounds of the table: which entry is evicted for which, and which expires.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{KnownMember, MemberTable, MembershipEvent, State};
use crate::fairness::SourceNetwork;
use crate::membership::crowd;
use crate::model::{Address, CallSource, PeerId};
use crate::protocol::wire::Hello;

/// A suspect is forgotten after this long without a sign of it.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A member that called but was never reached is forgotten this long after its last call.
const UNREACHABLE: Duration = Duration::from_secs(600);

/// How often the table is swept for old entries.
const SWEEP: Duration = Duration::from_secs(10);

/// The maximum number of members from one network: an IPv4 address, an IPv6 /48, all host names
/// that nobody typed, or all endpoints behind NATs that nobody has a ticket of. Keys are free, so
/// anyone with the password could fill the table with their own.
pub(super) const MAX_FROM_NETWORK: usize = Hello::MAX_MEMBERS / 4;

/// A set of addresses of which one party can have many at little cost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum AddressBlock {
    /// An IPv4 address, or a site of IPv6.
    Numbers(SourceNetwork),
    /// Host names: anyone with one has as many as they like.
    Names,
    /// Endpoints behind NATs: their keys cost nothing.
    Endpoints,
    /// Addresses that the user typed.
    Typed,
}

impl AddressBlock {
    /// Returns the block of a caller's address.
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        Self::Numbers(SourceNetwork::of(ip).site())
    }

    /// Returns the block of a caller.
    pub(crate) fn of_source(source: CallSource) -> Self {
        match source {
            CallSource::Tcp(ip) => Self::of_ip(ip),
            CallSource::Reach(_) | CallSource::Member(_) => Self::Endpoints,
        }
    }

    pub(super) fn of_address(address: &Address) -> Self {
        let Some(address) = address.as_tcp() else {
            return Self::Endpoints;
        };
        let host = address.host.split('%').next().unwrap_or_default();
        host.parse().map_or(Self::Names, Self::of_ip)
    }
}

impl MemberTable {
    /// Makes room for one more member of `network` where a bound is reached. Returns false when no
    /// member may be evicted. Members in contact stay. Among the others, the network with the most
    /// members loses one that was never reached first, then one that no longer answers. A network
    /// that has used up its share evicts one of its own.
    pub(super) fn make_room(&mut self, network: AddressBlock, now: Instant) -> bool {
        let theirs = |entry: &KnownMember| entry.network == network;
        let has_share = self.has_share(network);
        if !has_share && self.members.len() < Hello::MAX_MEMBERS {
            return true;
        }
        let leaving = [State::Unreached, State::Suspect]
            .into_iter()
            .find_map(|state| {
                let entries = self.members.iter().filter(|(_, entry)| {
                    let in_question = theirs(entry) || !has_share;
                    in_question && entry.state == state && entry.may_go()
                });
                let entries = entries.map(|(id, entry)| (*id, entry.network, entry.seen));
                crowd::oldest_of_largest(entries)
            });
        leaving.is_some_and(|id| {
            self.forget(id, now);
            true
        })
    }

    /// Returns true if `network` has its maximum number of members.
    pub(super) fn has_share(&self, network: AddressBlock) -> bool {
        network != AddressBlock::Typed && self.members.count_from(network) >= MAX_FROM_NETWORK
    }

    fn forget(&mut self, id: PeerId, now: Instant) {
        if let Some(entry) = self.members.remove(&id) {
            self.events.push(MembershipEvent::Forgotten(id, entry.name));
        }
        self.book.cover(id, None);
        self.book.forget(id, now);
    }

    /// Drops entries that are too old to be useful.
    pub(super) fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let gone: Vec<PeerId> = self
            .members
            .iter()
            .filter(|(_, entry)| {
                let unheard = now.saturating_duration_since(entry.seen);
                entry.busy.is_none()
                    && match entry.state {
                        State::Present => false,
                        State::Suspect => unheard > FORGOTTEN,
                        State::Unreached => unheard > UNREACHABLE,
                    }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.forget(id, now);
        }
        self.book.expire(self.me, now);
    }
}
