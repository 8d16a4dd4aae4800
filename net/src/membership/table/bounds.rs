//! The bounds of the table: who makes room for whom, and who is forgotten with time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{KnownMember, MemberTable, MembershipEvent, State};
use crate::fairness::SourceNetwork;
use crate::membership::crowd;
use crate::model::{Address, PeerId};
use crate::protocol::wire::Hello;

/// A suspect is forgotten when nothing was heard of it for this long.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A member that called but could never be reached is forgotten after its last call.
const UNREACHABLE: Duration = Duration::from_secs(600);

/// How often old entries are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// The most members from one network: an IPv4 address, an IPv6 /48, or all host names that nobody
/// typed. A key costs nothing, so whoever knows the password could fill the table with his own.
pub(super) const MAX_FROM_NETWORK: usize = Hello::MAX_MEMBERS / 4;

/// What one party has many places in at little cost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum AddressBlock {
    /// An IPv4 address, or a site of IPv6.
    Numbers(SourceNetwork),
    /// Host names: who has one has as many as he likes.
    Names,
    /// What the user typed.
    Typed,
}

impl AddressBlock {
    /// Of a caller.
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        Self::Numbers(SourceNetwork::of(ip).site())
    }

    pub(super) fn of_address(address: &Address) -> Self {
        let host = address.host.split('%').next().unwrap_or_default();
        host.parse().map_or(Self::Names, Self::of_ip)
    }
}

impl MemberTable {
    /// Makes room for one more member of `network` where a bound is reached; false when nobody may
    /// go. Whoever is in contact stays. Of the others, the network with the most members loses
    /// first one that was never reached, then one that does not answer any more; and a network that
    /// has its share makes room itself.
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

    /// True if `network` has as many members as it may have.
    pub(super) fn has_share(&self, network: AddressBlock) -> bool {
        let entries = self.members.values();
        let count = entries.filter(|entry| entry.network == network).count();
        network != AddressBlock::Typed && count >= MAX_FROM_NETWORK
    }

    fn forget(&mut self, id: PeerId, now: Instant) {
        if let Some(entry) = self.members.remove(&id) {
            self.events.push(MembershipEvent::Forgotten(id, entry.name));
        }
        self.book.forget(id, now);
    }

    /// Forgets what is too old to be of use.
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
