//! Who may begin a handshake, when, and on which threads.
//!
//! A handshake costs this side some 0.2 ms and the other side nothing but a recorded message. So
//! each needs a token. An address from which a member came recently has a bucket of its own, its
//! neighbours in the same network share another, and each site of strangers has a smaller one; in
//! addition, all strangers share one. A caller that finds no token waits.
//!
//! For the bucket that all strangers share, sites that were never served go first, chosen at
//! random; then those whose turn was longest ago. So with L such sites waiting, each token is a
//! newcomer's with a probability of 1/L, however often the others try; and a site that tried
//! before makes room for it. The choice is random because a flood could arrange to be first in
//! any fixed order.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use super::hello_line::{Dice, HelloLine};
use crate::fairness::{Familiarity, Refill, SourceNetwork, TokenBucket};

/// Lines remembered, at some 100 bytes each. Empty lines record which sites were served recently.
const MAX_LINES: usize = 8192;

/// The rates at which handshakes may begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct HelloRates {
    /// All strangers together.
    pub(super) strangers: Refill,
    /// The strangers of one site.
    pub(super) stranger: Refill,
    /// Callers of one known network whose address is not known.
    pub(super) neighbours: Refill,
    /// One address from which members came recently.
    pub(super) known: Refill,
    /// All handshakes from known addresses that run where members are served. The others run
    /// on the door.
    pub(super) beside_members: Refill,
    /// The same limit for one address.
    pub(super) beside_members_of_one: Refill,
}

/// Where a handshake runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandshakeThread {
    /// Beside the bytes of members.
    Members,
    /// Where strangers are met.
    Door,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LineId {
    Known(IpAddr),
    Neighbours(SourceNetwork),
    Strangers(SourceNetwork),
}

/// Callers that wait with tickets of type `T`.
pub(super) struct HelloQueue<T> {
    rates: HelloRates,
    strangers: TokenBucket,
    beside_members: TokenBucket,
    /// One bucket for each known address that recently shook hands beside members.
    beside_members_of: HashMap<IpAddr, TokenBucket>,
    lines: HashMap<LineId, HelloLine<T>>,
    /// The non-empty lines of known addresses and their neighbours. They share nothing, so their
    /// order does not matter.
    known: Vec<LineId>,
    /// The sites of strangers with a non-empty line that were never served.
    fresh: Vec<SourceNetwork>,
    /// The other sites with a non-empty line, by when they were last served.
    served: BTreeMap<u64, SourceNetwork>,
    /// The number of handshakes begun.
    begun: u64,
    dice: Dice,
}

impl<T> HelloQueue<T> {
    pub(super) fn new(rates: HelloRates, dice: Dice, now: Instant) -> Self {
        Self {
            rates,
            strangers: TokenBucket::new(rates.strangers, now),
            beside_members: TokenBucket::new(rates.beside_members, now),
            beside_members_of: HashMap::new(),
            lines: HashMap::new(),
            known: Vec::new(),
            fresh: Vec::new(),
            served: BTreeMap::new(),
            begun: 0,
            dice,
        }
    }

    /// Puts a ticket into its line. `is_gone` tells which tickets were abandoned.
    pub(super) fn push(
        &mut self,
        remote: IpAddr,
        familiarity: Familiarity,
        ticket: T,
        now: Instant,
        is_gone: impl Fn(&T) -> bool,
    ) {
        let network = SourceNetwork::of(remote);
        let id = match familiarity {
            Familiarity::Address => LineId::Known(remote),
            Familiarity::Network => LineId::Neighbours(network),
            Familiarity::Stranger => LineId::Strangers(network.site()),
        };
        if self.lines.len() >= MAX_LINES {
            self.forget(&is_gone);
        }
        self.stand(id, remote, ticket, now, &is_gone);
    }

    /// Records that a member was admitted from `remote`: callers that wait there are no longer
    /// strangers, and its neighbours belong to a known network.
    pub(super) fn promote(&mut self, remote: IpAddr, now: Instant) {
        let network = SourceNetwork::of(remote);
        let strangers = LineId::Strangers(network.site());
        let mut promoted = self.split(strangers, |other| SourceNetwork::of(other) == network);
        promoted.extend(self.split(LineId::Neighbours(network), |other| other == remote));
        for (other, ticket) in promoted {
            let id = if other == remote {
                LineId::Known(remote)
            } else {
                LineId::Neighbours(network)
            };
            self.stand(id, other, ticket, now, &|_| false);
        }
    }

    /// Returns the tickets for which there is a token now, and when the next will have one.
    pub(super) fn due(
        &mut self,
        now: Instant,
        is_gone: impl Fn(&T) -> bool,
    ) -> (Vec<(T, HandshakeThread)>, Option<Instant>) {
        let mut due = Vec::new();
        for id in std::mem::take(&mut self.known) {
            while let Some((remote, ticket)) = self.take(id, now, &is_gone) {
                let thread = match id {
                    LineId::Known(_) => self.thread(remote, now),
                    LineId::Neighbours(_) | LineId::Strangers(_) => HandshakeThread::Door,
                };
                due.push((ticket, thread));
            }
            self.list(id);
        }
        while self.strangers.wait(now).is_zero()
            && let Some(ticket) = self.next_stranger(now, &is_gone)
        {
            let _ = self.strangers.take(now);
            due.push((ticket, HandshakeThread::Door));
        }
        (due, self.next_token(now))
    }

    /// Returns where a handshake from a known address runs that begins now.
    fn thread(&mut self, remote: IpAddr, now: Instant) -> HandshakeThread {
        if self.beside_members_of.len() >= MAX_LINES {
            self.beside_members_of
                .retain(|_, bucket| !bucket.is_full(now));
        }
        let refill = self.rates.beside_members_of_one;
        let own = self.beside_members_of.entry(remote);
        let own = own.or_insert_with(|| TokenBucket::new(refill, now));
        let may = own.wait(now).is_zero() && self.beside_members.take(now).is_ok();
        if may && own.take(now).is_ok() {
            HandshakeThread::Members
        } else {
            HandshakeThread::Door
        }
    }

    /// Returns the next stranger whose site has a token.
    fn next_stranger(&mut self, now: Instant, is_gone: &dyn Fn(&T) -> bool) -> Option<T> {
        loop {
            let site = if self.fresh.is_empty() {
                let has_token = |site: &SourceNetwork| {
                    let line = self.lines.get(&LineId::Strangers(*site));
                    line.is_none_or(|line| line.wait(now).is_zero())
                };
                let turn = *self.served.iter().find(|(_, site)| has_token(site))?.0;
                self.served.remove(&turn)?
            } else {
                let chosen = self.dice.below(self.fresh.len());
                self.fresh.swap_remove(chosen)
            };
            let id = LineId::Strangers(site);
            let taken = self.take(id, now, is_gone);
            self.list(id);
            // Without a ticket, everybody had left, and the line is no longer listed.
            if let Some((_, ticket)) = taken {
                return Some(ticket);
            }
        }
    }

    fn take(
        &mut self,
        id: LineId,
        now: Instant,
        is_gone: &dyn Fn(&T) -> bool,
    ) -> Option<(IpAddr, T)> {
        let line = self.lines.get_mut(&id)?;
        let taken = line.take(now, &mut self.dice, is_gone)?;
        line.last_served = Some(self.begun);
        self.begun += 1;
        Some(taken)
    }

    /// Returns when there will be a token for a waiting caller.
    fn next_token(&self, now: Instant) -> Option<Instant> {
        let own = |id: LineId| self.lines.get(&id).map(|line| line.wait(now));
        let known = self.known.iter().filter_map(|id| own(*id)).min();
        let shared = self.strangers.wait(now);
        let mut stranger = (!self.fresh.is_empty()).then_some(shared);
        for site in self.served.values() {
            if stranger.is_some_and(|wait| wait <= shared) {
                break;
            }
            let wait = own(LineId::Strangers(*site)).map(|wait| wait.max(shared));
            stranger = stranger.into_iter().chain(wait).min();
        }
        let next = known.into_iter().chain(stranger).min()?;
        Some(now + next)
    }

    /// Puts a ticket into the line `id`, and the line into the list for its turn.
    fn stand(
        &mut self,
        id: LineId,
        remote: IpAddr,
        ticket: T,
        now: Instant,
        is_gone: &dyn Fn(&T) -> bool,
    ) {
        let refill = match id {
            LineId::Known(_) => self.rates.known,
            LineId::Neighbours(_) => self.rates.neighbours,
            LineId::Strangers(_) => self.rates.stranger,
        };
        let line = match self.lines.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(HelloLine::new(refill, now)),
        };
        let is_listed = !line.is_empty();
        line.push(remote, ticket, is_gone);
        if !is_listed {
            self.list(id);
        }
    }

    /// Puts an unlisted line into the list for its turn, if a caller waits in it.
    fn list(&mut self, id: LineId) {
        let Some(line) = self.lines.get(&id).filter(|line| !line.is_empty()) else {
            return;
        };
        match (id, line.last_served) {
            (LineId::Strangers(site), None) => self.fresh.push(site),
            (LineId::Strangers(site), Some(turn)) => {
                self.served.insert(turn, site);
            }
            _ => self.known.push(id),
        }
    }

    /// Removes the callers of a line that come from where `is_of` says.
    fn split(&mut self, id: LineId, is_of: impl Fn(IpAddr) -> bool) -> Vec<(IpAddr, T)> {
        let Some(line) = self.lines.get_mut(&id).filter(|line| !line.is_empty()) else {
            return Vec::new();
        };
        let split = line.split(is_of);
        if line.is_empty() {
            self.relist();
        }
        split
    }

    /// Rebuilds the lists of all lines.
    fn relist(&mut self) {
        self.known.clear();
        self.fresh.clear();
        self.served.clear();
        let ids: Vec<_> = self.lines.keys().copied().collect();
        ids.into_iter().for_each(|id| self.list(id));
    }

    /// Forgets callers that have left, and enough empty lines to make room for as many again,
    /// starting with those that were served longest ago.
    fn forget(&mut self, is_gone: &dyn Fn(&T) -> bool) {
        self.lines.values_mut().for_each(|line| line.sweep(is_gone));
        let idle = self.lines.values().filter(|line| line.is_empty());
        let mut idle: Vec<_> = idle.map(|line| line.last_served).collect();
        let excess = self.lines.len().saturating_sub(MAX_LINES / 2);
        let excess = excess.min(idle.len());
        if excess > 0 {
            let (_, newest, _) = idle.select_nth_unstable(excess - 1);
            let newest = *newest;
            self.lines
                .retain(|_, line| !line.is_empty() || line.last_served > newest);
        }
        self.relist();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
