//! The address book: all addresses that may lead to a member, in bounded number.
//!
//! Anyone who knows the password can claim anything about addresses, and on a local network so can
//! anyone at all. So each teller may fill only a part of the book. Failed addresses make room for
//! untried ones, and what a member claims for itself makes its own room. In a full book, the
//! tellers that filled it make room for those that did not.

mod entries;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(crate) use entries::Cover;

use entries::AddressIndex;

use std::time::{Duration, Instant};

use super::candidate::{AddressOrigin, Belief, Candidate, DialFailure, OwnerCertainty};
use super::crowd;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::protocol::wire::MemberRecord;

/// The maximum number of addresses in the book.
pub(crate) const MAX_CANDIDATES: usize = 4096;

/// The maximum number of addresses that one member, or all of multicast, may hold in the book
/// without any of them having led to a member.
pub(crate) const MAX_UNPROVEN: usize = 256;

/// In a full book, a teller with fewer addresses than this gets one more in, at the cost of the
/// teller with the most.
const FAIR_SHARE: usize = MemberRecord::MAX_ADDRESSES;

/// The minimum time between tries of two addresses of one member (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// The time for which a member is tried by TCP before it is tried through NATs.
const HEAD_START: Duration = Duration::from_millis(500);

/// An address that nobody has mentioned for this long is forgotten.
const UNHEARD: Duration = Duration::from_secs(3600);

/// How long an address counts as this node's own before it is checked again.
const OWN: Duration = Duration::from_secs(600);

/// All addresses, in canonical form.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: AddressIndex,
}

impl Book {
    /// Adds an address that the user typed.
    pub(crate) fn name(&mut self, address: Address, pinned: Option<PeerId>, now: Instant) {
        if self.entries.get(&address).is_none() {
            let candidate = Candidate::new(Belief::Unknown, AddressOrigin::User, now);
            self.entries.insert(address.clone(), candidate);
        }
        self.change(&address, |c| c.named = Some(pinned));
    }

    /// Notes the `claim` of `origin`; see [`Candidate::claim`]. A new address is dropped when there
    /// is no room for it.
    pub(crate) fn claim(
        &mut self,
        address: &Address,
        claim: Belief,
        origin: AddressOrigin,
        owner: OwnerCertainty,
        now: Instant,
    ) {
        self.enter(address, claim, origin, owner, false, now);
    }

    /// Notes a multicast claim for `id` sent from `address` itself. It outweighs what strangers
    /// claim for other addresses of `id`, and may displace such claims.
    pub(crate) fn claim_from_source(
        &mut self,
        address: &Address,
        id: PeerId,
        owner: OwnerCertainty,
        now: Instant,
    ) {
        self.enter(
            address,
            Belief::Said(id),
            AddressOrigin::Link,
            owner,
            true,
            now,
        );
    }

    fn enter(
        &mut self,
        address: &Address,
        claim: Belief,
        origin: AddressOrigin,
        owner: OwnerCertainty,
        is_source: bool,
        now: Instant,
    ) {
        let refused = self.refused_until(address, now).is_some();
        let taken_in = self.change(address, |known| {
            known.claim(claim, origin, owner, now);
            // An identity that is barred from tries hides nobody.
            if refused && known.belief.owner() != claim.owner() {
                known.belief = Belief::Disputed;
            }
        });
        if taken_in.is_none() && self.make_room(claim, origin, is_source) {
            let mut candidate = Candidate::new(claim, origin, now);
            // It waits its turn behind earlier addresses. Otherwise a teller that keeps adding new
            // ones would starve them.
            if let Some(id) = claim.owner()
                && !claim.is_first_hand()
            {
                let siblings = self.entries.owned(id).filter_map(|(_, c)| c.last_dial());
                if let Some(last) = siblings.max() {
                    candidate.delay(last + STAGGER);
                }
            }
            if let Some(id) = claim.owner()
                && address.as_reach().is_some()
                && self.has_tcp(id)
            {
                candidate.delay(now + HEAD_START);
            }
            self.entries.insert(address.clone(), candidate);
        }
        if is_source {
            self.change(address, Candidate::note_source);
        }
    }

    /// Returns true if some address of `id` is that of a TCP port.
    fn has_tcp(&self, id: PeerId) -> bool {
        let mut owned = self.entries.owned(id);
        owned.any(|(address, _)| address.as_tcp().is_some())
    }

    /// Returns until when the identity demanded at `address` is not tried.
    fn refused_until(&self, address: &Address, now: Instant) -> Option<Instant> {
        let candidate = self.entries.get(address)?;
        self.entries.bar(candidate).filter(|until| now < *until)
    }

    /// Returns when `candidate`, one of this book, may be dialled; `None` while a try is under way.
    pub(crate) fn due(&self, candidate: &Candidate) -> Option<Instant> {
        self.entries.due(candidate)
    }

    /// Returns true when dialling `address`, one of this book, would add nothing; see [`Cover`].
    pub(crate) fn is_covered(&self, address: &Address, candidate: &Candidate) -> bool {
        self.entries.is_covered(address, candidate)
    }

    /// Sets which addresses of `id` need no dial from now on; `None` for none.
    pub(crate) fn cover(&mut self, id: PeerId, cover: Option<Cover>) {
        self.entries.cover(id, cover);
    }

    /// Returns the addresses that wait to be dialled in `class`, the one due first in front,
    /// without those that are covered.
    pub(crate) fn waiting(
        &self,
        class: usize,
    ) -> impl Iterator<Item = (Instant, &Address, &Candidate)> {
        self.entries.waiting(class)
    }

    /// Returns the addresses that are being dialled.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = &Candidate> {
        self.entries.under_way()
    }

    /// Returns the addresses at which `id` is supposed to be.
    pub(crate) fn owned(&self, id: PeerId) -> impl Iterator<Item = (&Address, &Candidate)> {
        self.entries.owned(id)
    }

    /// Makes room for one more address where a bound is reached. Returns false when nothing
    /// may be evicted.
    fn make_room(&mut self, claim: Belief, origin: AddressOrigin, is_source: bool) -> bool {
        let charged = |c: &Candidate| {
            c.origins().first() == Some(&origin) && !matches!(c.belief, Belief::Reached(_))
        };
        let same_owner = |c: &Candidate| c.belief.owner() == claim.owner();
        let first_hand = claim.is_first_hand();
        let nobody = |_: &Candidate| false;
        let also: &dyn Fn(&Candidate) -> bool = match (first_hand, is_source) {
            (true, _) => &|_| true,
            (false, true) => &Candidate::yields_to_source,
            (false, false) => &nobody,
        };
        let is_bounded = origin != AddressOrigin::User;
        let is_spent = is_bounded && self.entries.charged(origin) >= MAX_UNPROVEN;
        if is_spent && !self.evict_one(charged, also) {
            return false;
        }
        let siblings = claim.owner().map_or(0, |id| self.entries.owned(id).count());
        if siblings >= MemberRecord::MAX_ADDRESSES && !self.evict_one(same_owner, also) {
            return false;
        }
        self.entries.len() < MAX_CANDIDATES
            || self.evict_one(|_| true, &nobody)
            || self.make_fair_room(origin, first_hand)
    }

    /// Makes room in a full book without failed addresses, for a teller that has few in it, or
    /// for a member that speaks for itself. The teller with the most unproven addresses loses
    /// its oldest. If all addresses have led to a member, the member reached at the most
    /// addresses loses one.
    fn make_fair_room(&mut self, origin: AddressOrigin, first_hand: bool) -> bool {
        let by = |c: &Candidate| c.origins().first().copied();
        let is_its = |(_, c): &(_, &Candidate)| by(c) == Some(origin);
        if !first_hand && self.entries.iter().filter(is_its).count() >= FAIR_SHARE {
            return false;
        }
        let free = |c: &Candidate| c.named.is_none() && c.dialling.is_none();
        let is_proven = |c: &Candidate| matches!(c.belief, Belief::Reached(_));
        let unproven = self
            .entries
            .iter()
            .filter(|(_, c)| free(c) && !is_proven(c) && by(c) != Some(AddressOrigin::User));
        let worst = crowd::oldest_of_largest(unproven.map(|(a, c)| (a, by(c), c.mentioned)));
        let worst = worst.or_else(|| {
            let proven = self.entries.iter().filter(|(_, c)| free(c) && is_proven(c));
            let reached = proven.map(|(a, c)| (a, c.belief.owner(), c.reached));
            let reached = reached.filter_map(|(a, owner, reached)| Some((a, owner, reached?)));
            crowd::oldest_of_largest(reached)
        });
        let worst = worst.cloned();
        worst.is_some_and(|address| self.entries.remove(&address))
    }

    /// Drops the least useful of the addresses that satisfy `counts`: hearsay that has failed, or
    /// of those that `also` allows, the one that led to a member longest ago.
    fn evict_one(
        &mut self,
        counts: impl Fn(&Candidate) -> bool,
        also: &dyn Fn(&Candidate) -> bool,
    ) -> bool {
        let may_go = |c: &Candidate| {
            let failed = c.is_hearsay() && c.failures > 0;
            c.named.is_none() && c.dialling.is_none() && (failed || also(c))
        };
        let worst = self
            .entries
            .iter()
            .filter(|(_, c)| counts(c) && may_go(c))
            .min_by_key(|(_, c)| {
                (
                    !c.is_hearsay(),
                    c.reached,
                    u32::MAX - c.failures,
                    c.mentioned,
                )
            })
            .map(|(address, _)| address.clone());
        worst.is_some_and(|address| self.entries.remove(&address))
    }

    /// Returns the candidate at `address`, if any.
    pub(crate) fn get(&self, address: &Address) -> Option<&Candidate> {
        self.entries.get(address)
    }

    /// Returns all addresses, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Address, &Candidate)> {
        self.entries.iter()
    }

    /// Marks the beginning of a try. The member's other addresses follow one by one, unless its
    /// outcome is known by then.
    pub(crate) fn begin(&mut self, address: &Address, class: usize, now: Instant) {
        let begun = self.change(address, |c| {
            c.begin(class, now);
            Some((c.belief.owner()?, c.failures == 0))
        });
        let Some(Some((owner, is_promising))) = begun else {
            return;
        };
        let is_tcp = address.as_tcp().is_some();
        self.entries
            .change_owned(owner, |other, candidate| match other {
                // What has failed before has no head start any more.
                Address::Reach(_) if is_tcp && !is_promising => {}
                Address::Reach(_) if is_tcp => candidate.delay(now + HEAD_START),
                // A try through NATs may take long, and TCP is better.
                Address::Tcp(_) if !is_tcp => {}
                _ => candidate.delay(now + STAGGER),
            });
    }

    /// Notes that `id` answered at `address`.
    pub(crate) fn reached(&mut self, address: &Address, id: PeerId, now: Instant) {
        self.change(address, |c| c.reached(id, now));
        self.entries.unbar(id);
    }

    /// Handles a failed try. A member that refused does not get another guess at each address that
    /// hearsay gives it.
    pub(crate) fn failed(&mut self, address: &Address, error: &Error, now: Instant) -> DialFailure {
        let failed = self.change(address, |c| (c.failed(address, error, now), c.demanded()));
        let (setback, demanded) = failed.unwrap_or_default();
        // The demanded identity has shown its key before it can refuse: nobody else can bar it.
        if let (Error::Refused { .. }, Some(id)) = (error, demanded) {
            self.entries.refuse(id, now + setback.wait, now);
        }
        setback
    }

    /// Notes that the member that had `address` no longer does.
    pub(crate) fn release(&mut self, address: &Address, now: Instant) {
        self.change(address, |c| c.release(now));
    }

    /// Notes that multicast has just mentioned `address`.
    pub(crate) fn nudge(&mut self, address: &Address, now: Instant) {
        self.change(address, |c| c.nudge(now));
    }

    /// Notes that a member has just claimed to be at `address`.
    pub(crate) fn summon(&mut self, address: &Address, now: Instant) {
        let owner = self.change(address, |c| {
            c.summon(now);
            c.belief.owner()
        });
        if let Some(Some(id)) = owner {
            self.entries.unbar(id);
        }
    }

    fn change<T>(
        &mut self,
        address: &Address,
        with: impl FnOnce(&mut Candidate) -> T,
    ) -> Option<T> {
        self.entries.change(address, with)
    }

    /// Makes the addresses that `id` itself claimed due at once, as it has left where it was.
    pub(crate) fn seek(&mut self, id: PeerId, now: Instant) {
        let has_tcp = self.has_tcp(id);
        self.entries.change_owned(id, |address, candidate| {
            if candidate.belief.is_first_hand() {
                candidate.summon(now);
                if has_tcp && address.as_reach().is_some() {
                    candidate.delay(now + HEAD_START);
                }
            }
        });
    }

    /// Forgets `id`. Addresses that the user named stay, without an owner.
    pub(crate) fn forget(&mut self, id: PeerId, now: Instant) {
        let stays = |c: &Candidate| c.named.is_some() || c.dialling.is_some();
        let gone = self.entries.owned(id).filter(|(_, c)| !stays(c));
        let gone: Vec<_> = gone.map(|(address, _)| address.clone()).collect();
        for address in gone {
            self.entries.remove(&address);
        }
        self.entries.change_owned(id, |_, c| c.release(now));
    }

    /// Drops addresses that nobody has mentioned for long, and releases those that have long
    /// counted as this node's own, `me`.
    pub(crate) fn expire(&mut self, me: PeerId, now: Instant) {
        let stale = |c: &Candidate| {
            let age = now.saturating_duration_since(c.mentioned);
            match c.belief {
                Belief::Reached(id) if id == me => age > OWN,
                Belief::Reached(_) => false,
                _ => age > UNHEARD,
            }
        };
        let kept = |c: &Candidate| {
            c.dialling.is_some() || c.named.is_some() || c.origins().contains(&AddressOrigin::User)
        };
        let stale = self.entries.iter().filter(|(_, c)| stale(c));
        let stale: Vec<_> = stale.map(|(a, c)| (a.clone(), kept(c))).collect();
        for (address, is_kept) in stale {
            if !is_kept {
                self.entries.remove(&address);
                continue;
            }
            self.change(&address, |candidate| {
                if candidate.belief == Belief::Reached(me) {
                    candidate.release(now);
                }
            });
        }
    }

    /// Returns the number of addresses.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Panics unless what is found without a walk is what a walk would find.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.entries.check();
    }
}
