//! The address book: all addresses that may lead to a member, in bounded number.
//!
//! Anyone who knows the password can claim anything about addresses, and on a local network so can
//! anyone at all. So each teller may fill only a part of the book. Failed addresses make room for
//! untried ones, and what a member claims for itself makes its own room. In a full book, the
//! tellers that filled it make room for those that did not.

use std::collections::HashMap;
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

/// The maximum number of identities whose refusal is kept. A refusal costs one of the day's
/// guesses, so only someone who knows the password can ever reach this limit.
const MAX_REFUSED: usize = 256;

/// All addresses, in canonical form.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: HashMap<Address, Candidate>,
    /// Identities that showed their key but did not know the password, and until when they are not
    /// tried at addresses that hearsay gives them. The bar applies to the identity and not to its
    /// addresses: it must not bar other claims for one of those.
    refused: HashMap<PeerId, Instant>,
}

impl Book {
    /// Adds an address that the user typed.
    pub(crate) fn name(&mut self, address: Address, pinned: Option<PeerId>, now: Instant) {
        let candidate = Candidate::new(Belief::Unknown, AddressOrigin::User, now);
        self.entries.entry(address).or_insert(candidate).named = Some(pinned);
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
        if let Some(known) = self.entries.get_mut(address) {
            known.claim(claim, origin, owner, now);
            // An identity that is barred from tries hides nobody.
            if refused && known.belief.owner() != claim.owner() {
                known.belief = Belief::Disputed;
            }
        } else if self.make_room(claim, origin, is_source) {
            let mut candidate = Candidate::new(claim, origin, now);
            // It waits its turn behind earlier addresses. Otherwise a teller that keeps adding new
            // ones would starve them.
            if let Some(id) = claim.owner()
                && !claim.is_first_hand()
            {
                let siblings = self.owned_by(id).filter_map(|(_, c)| c.last_dial());
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
        self.owned_by(id)
            .any(|(address, _)| address.as_tcp().is_some())
    }

    fn owned_by(&self, id: PeerId) -> impl Iterator<Item = (&Address, &Candidate)> {
        self.entries
            .iter()
            .filter(move |(_, c)| c.belief.owner() == Some(id))
    }

    /// Returns until when the identity demanded at `address` is not tried.
    fn refused_until(&self, address: &Address, now: Instant) -> Option<Instant> {
        let candidate = self.entries.get(address)?;
        self.bar(candidate).filter(|until| now < *until)
    }

    fn bar(&self, candidate: &Candidate) -> Option<Instant> {
        match candidate.belief {
            Belief::Said(id) if candidate.named.is_none() => self.refused.get(&id).copied(),
            _ => None,
        }
    }

    /// Returns when `candidate`, one of this book, may be dialled; `None` while a try is under way.
    pub(crate) fn due(&self, candidate: &Candidate) -> Option<Instant> {
        let due = candidate.due()?;
        Some(self.bar(candidate).map_or(due, |until| until.max(due)))
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
        (origin == AddressOrigin::User || self.make_one_fit(MAX_UNPROVEN, charged, also))
            && self.make_one_fit(MemberRecord::MAX_ADDRESSES, same_owner, also)
            && (self.make_one_fit(MAX_CANDIDATES, |_| true, &nobody)
                || self.make_fair_room(origin, first_hand))
    }

    /// Makes room in a full book without failed addresses, for a teller that has few in it, or
    /// for a member that speaks for itself. The teller with the most unproven addresses loses
    /// its oldest. If all addresses have led to a member, the member reached at the most
    /// addresses loses one.
    fn make_fair_room(&mut self, origin: AddressOrigin, first_hand: bool) -> bool {
        let by = |c: &Candidate| c.origins().first().copied();
        let its = self.entries.values().filter(|c| by(c) == Some(origin));
        if !first_hand && its.count() >= FAIR_SHARE {
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
        worst.is_some_and(|address| self.entries.remove(&address).is_some())
    }

    /// Where already `max` addresses satisfy `counts`, drops the least useful of them: hearsay that
    /// has failed, or of those that `also` allows, the one that led to a member longest ago.
    fn make_one_fit(
        &mut self,
        max: usize,
        counts: impl Fn(&Candidate) -> bool,
        also: &dyn Fn(&Candidate) -> bool,
    ) -> bool {
        if self.entries.values().filter(|c| counts(c)).count() < max {
            return true;
        }
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
        worst.is_some_and(|address| self.entries.remove(&address).is_some())
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
            (c.belief.owner(), c.failures == 0)
        });
        if let Some((owner @ Some(_), is_promising)) = begun {
            let is_tcp = address.as_tcp().is_some();
            let siblings = self.entries.iter_mut();
            for (other, candidate) in siblings.filter(|(_, c)| c.belief.owner() == owner) {
                match other {
                    // What has failed before has no head start any more.
                    Address::Reach(_) if is_tcp && !is_promising => {}
                    Address::Reach(_) if is_tcp => candidate.delay(now + HEAD_START),
                    // It may take long, and TCP is better.
                    Address::Tcp(_) if !is_tcp => {}
                    _ => candidate.delay(now + STAGGER),
                }
            }
        }
    }

    /// Notes that `id` answered at `address`.
    pub(crate) fn reached(&mut self, address: &Address, id: PeerId, now: Instant) {
        self.change(address, |c| c.reached(id, now));
        self.refused.remove(&id);
    }

    /// Handles a failed try. A member that refused does not get another guess at each address that
    /// hearsay gives it.
    pub(crate) fn failed(&mut self, address: &Address, error: &Error, now: Instant) -> DialFailure {
        let failed = self.change(address, |c| (c.failed(address, error, now), c.demanded()));
        let (setback, demanded) = failed.unwrap_or_default();
        // The demanded identity has shown its key before it can refuse: nobody else can bar it.
        if let (Error::Refused { .. }, Some(id)) = (error, demanded) {
            self.refuse(id, now + setback.wait, now);
        }
        setback
    }

    fn refuse(&mut self, id: PeerId, until: Instant, now: Instant) {
        self.refused.retain(|_, until| now < *until);
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(id, until);
        }
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
            self.refused.remove(&id);
        }
    }

    fn change<T>(
        &mut self,
        address: &Address,
        with: impl FnOnce(&mut Candidate) -> T,
    ) -> Option<T> {
        self.entries.get_mut(address).map(with)
    }

    /// Makes the addresses that `id` itself claimed due at once, as it has left where it was.
    pub(crate) fn seek(&mut self, id: PeerId, now: Instant) {
        let has_tcp = self.has_tcp(id);
        for (address, candidate) in &mut self.entries {
            if candidate.belief.owner() == Some(id) && candidate.belief.is_first_hand() {
                candidate.summon(now);
                if has_tcp && address.as_reach().is_some() {
                    candidate.delay(now + HEAD_START);
                }
            }
        }
    }

    /// Forgets `id`. Addresses that the user named stay, without an owner.
    pub(crate) fn forget(&mut self, id: PeerId, now: Instant) {
        let theirs = |c: &Candidate| c.belief.owner() == Some(id);
        self.entries
            .retain(|_, c| !theirs(c) || c.named.is_some() || c.dialling.is_some());
        for candidate in self.entries.values_mut().filter(|c| theirs(c)) {
            candidate.release(now);
        }
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
        self.entries.retain(|_, c| !stale(c) || kept(c));
        for candidate in self.entries.values_mut().filter(|c| stale(c)) {
            if candidate.belief == Belief::Reached(me) {
                candidate.release(now);
            }
        }
    }

    /// Returns the number of addresses.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::peer_id as id;

    fn address(n: usize) -> Address {
        Address::new(format!("10.{}.{}.1", n / 256, n % 256), 7)
    }

    fn fail(book: &mut Book, address: &Address, now: Instant) {
        let (who, why) = ("x".into(), "refused".into());
        book.failed(address, &Error::Unreachable { who, why }, now);
    }

    fn hear(book: &mut Book, n: usize, origin: AddressOrigin, now: Instant) -> bool {
        let claim = Belief::Said(id(n / 4));
        book.claim(&address(n), claim, origin, OwnerCertainty::Absent, now);
        book.get(&address(n)).is_some()
    }

    #[test]
    fn one_sender_fills_only_its_part() {
        let now = Instant::now();
        let mut book = Book::default();
        let (liar, other) = (AddressOrigin::Member(id(9999)), AddressOrigin::Link);
        assert!((0..MAX_UNPROVEN).all(|n| hear(&mut book, n, liar, now)));
        assert!(!hear(&mut book, 5000, liar, now));
        assert!(hear(&mut book, 5000, other, now));
        fail(&mut book, &address(7), now);
        assert!(hear(&mut book, 6000, liar, now));
        assert!(book.get(&address(7)).is_none());
        assert_eq!(book.len(), MAX_UNPROVEN + 1);
    }

    #[test]
    fn newest_of_sixteen_addresses_is_kept() {
        let now = Instant::now();
        let mut book = Book::default();
        let member = id(1);
        for n in 0..20 {
            let now = now + Duration::from_secs(n as u64);
            let (claim, origin) = (Belief::Declared(member), AddressOrigin::Member(member));
            book.claim(&address(n), claim, origin, OwnerCertainty::Absent, now);
            book.reached(&address(n), member, now);
            assert!(book.get(&address(n)).is_some());
        }
        assert_eq!(book.len(), MemberRecord::MAX_ADDRESSES);
        assert!(book.get(&address(0)).is_none());
        let said = (Belief::Said(member), AddressOrigin::Link);
        book.claim(&address(99), said.0, said.1, OwnerCertainty::Absent, now);
        assert!(
            book.get(&address(99)).is_none(),
            "hearsay displaces nothing good"
        );
    }

    #[test]
    fn wrong_password_member_gets_one_guess() {
        let now = Instant::now();
        let mut book = Book::default();
        let due = |book: &Book, n| book.due(book.get(&address(n)).unwrap()).unwrap();
        // Addresses 0 to 3 are one member's.
        (0..3).for_each(|n| assert!(hear(&mut book, n, AddressOrigin::Link, now)));
        book.begin(&address(0), 1, now);
        assert_eq!(due(&book, 1), now + STAGGER);
        let refused = Error::Refused { who: "x".into() };
        let wait = book.failed(&address(0), &refused, now).wait;
        hear(&mut book, 3, AddressOrigin::Link, now);
        hear(&mut book, 4, AddressOrigin::Link, now);
        (0..4).for_each(|n| assert_eq!(due(&book, n), now + wait));
        assert_eq!(due(&book, 4), now, "another member");
    }

    /// Makes address `n` claim `id(1)` for itself. Returns true if the book keeps it.
    fn speak(book: &mut Book, n: usize, now: Instant) -> bool {
        book.claim_from_source(&address(n), id(1), OwnerCertainty::Absent, now);
        book.get(&address(n)).is_some()
    }

    #[test]
    fn wrong_answer_bars_no_other_member() {
        let now = Instant::now();
        let who = || String::from("x");
        for error in [
            Error::NotANode { who: who() },
            Error::misbehaved(who(), "nonsense"),
            Error::OtherIdentity { who: who() },
            Error::Later {
                who: who(),
                seconds: 600,
            },
        ] {
            let mut book = Book::default();
            assert!(hear(&mut book, 4, AddressOrigin::Link, now));
            book.begin(&address(4), 2, now);
            book.failed(&address(4), &error, now);
            assert!(hear(&mut book, 5, AddressOrigin::Link, now));
            let due = book.due(book.get(&address(5)).unwrap()).unwrap();
            assert!(due <= now + STAGGER, "{error}");
        }
    }

    #[test]
    fn refusal_bars_only_the_key_it_came_from() {
        let now = Instant::now();
        let refused = Error::Refused { who: "x".into() };
        let mut book = Book::default();
        let due = |book: &Book, n| book.due(book.get(&address(n)).unwrap()).unwrap();
        // Dialled without demanding anybody; then it is claimed for id(1).
        book.entries.insert(
            address(4),
            Candidate::new(Belief::Unknown, AddressOrigin::Link, now),
        );
        book.begin(&address(4), 2, now);
        hear(&mut book, 4, AddressOrigin::Link, now);
        book.failed(&address(4), &refused, now);
        hear(&mut book, 5, AddressOrigin::Link, now);
        assert!(due(&book, 5) <= now + STAGGER);
        // id(1) itself refuses. The address claimed for it may be another's.
        book.begin(&address(5), 2, now);
        book.failed(&address(5), &refused, now);
        hear(&mut book, 6, AddressOrigin::Link, now);
        assert!(due(&book, 6) > now + Duration::from_secs(600));
        let (claim, origin) = (Belief::Said(id(2)), AddressOrigin::Link);
        book.claim(&address(6), claim, origin, OwnerCertainty::Absent, now);
        assert!(due(&book, 6) <= now + STAGGER);
    }

    #[test]
    fn own_claims_displace_strangers_hearsay() {
        let now = Instant::now();
        let mut book = Book::default();
        let fake = |n: usize| Address::new("10.9.9.9", 1 + n as u16);
        let claim = Belief::Said(id(1));
        for n in 0..MemberRecord::MAX_ADDRESSES {
            book.claim(
                &fake(n),
                claim,
                AddressOrigin::Link,
                OwnerCertainty::Absent,
                now,
            );
        }
        assert!(!hear(&mut book, 4, AddressOrigin::Link, now));
        assert!(speak(&mut book, 4, now));
        assert!(speak(&mut book, 5, now));
        // Addresses not yet tried stay, whoever else speaks.
        assert!((100..200).filter(|n| speak(&mut book, *n, now)).count() == 14);
        assert!(book.get(&address(4)).is_some());
        // Nor does it displace what a member claimed.
        let mut book = Book::default();
        for n in 0..MemberRecord::MAX_ADDRESSES {
            let origin = AddressOrigin::Member(id(7));
            book.claim(&fake(n), claim, origin, OwnerCertainty::Absent, now);
        }
        assert!(!speak(&mut book, 4, now));
    }

    #[test]
    fn address_stream_delays_nobodys_turn() {
        let mut now = Instant::now();
        let mut book = Book::default();
        assert!(hear(&mut book, 4, AddressOrigin::Link, now));
        book.begin(&address(4), 2, now);
        assert!(speak(&mut book, 5, now));
        for n in 0..20 {
            now += STAGGER / 10;
            book.claim_from_source(&address(1000 + n), id(1), OwnerCertainty::Absent, now);
            let new = book.get(&address(1000 + n));
            let due = |candidate| book.due(candidate).unwrap();
            let first = due(book.get(&address(5)).unwrap());
            assert!(new.is_none_or(|new| due(new) >= first));
        }
    }

    #[test]
    fn old_hearsay_expires_but_no_user_address() {
        let now = Instant::now();
        let mut book = Book::default();
        hear(&mut book, 1, AddressOrigin::Link, now);
        hear(&mut book, 2, AddressOrigin::User, now);
        book.name(address(3), None, now);
        book.expire(id(77), now + UNHEARD + Duration::from_secs(1));
        assert!(book.get(&address(1)).is_none());
        assert!(book.get(&address(2)).is_some() && book.get(&address(3)).is_some());
    }

    #[test]
    fn own_address_may_become_another_hosts() {
        let now = Instant::now();
        let mut book = Book::default();
        let me = id(77);
        book.name(address(3), None, now);
        book.reached(&address(3), me, now);
        let later = now + OWN + Duration::from_secs(1);
        book.expire(me, later);
        let candidate = book.get(&address(3)).unwrap();
        assert_eq!(
            (candidate.belief, candidate.due()),
            (Belief::Unknown, Some(later))
        );
    }

    /// Creates a book filled by `origins` in equal parts, with made-up addresses,
    /// all still untried.
    fn filled(origins: usize, declared: bool, now: Instant) -> Book {
        let mut book = Book::default();
        for n in 0..MAX_CANDIDATES {
            let liar = id(50_000 + n % origins);
            let claim = if declared {
                Belief::Declared(liar)
            } else {
                Belief::Said(id(n))
            };
            let origin = AddressOrigin::Member(liar);
            book.claim(&address(n), claim, origin, OwnerCertainty::Absent, now);
        }
        assert_eq!(book.len(), MAX_CANDIDATES);
        book
    }

    #[test]
    fn full_book_has_room_for_modest_members() {
        let now = Instant::now();
        for (origins, declared) in [(16, false), (1000, false), (256, true), (4096, true)] {
            let mut book = filled(origins, declared, now);
            let later = now + Duration::from_secs(1);
            let newcomer = (
                Belief::Declared(id(99_999)),
                AddressOrigin::Member(id(99_999)),
            );
            let new = address(60_000);
            book.claim(&new, newcomer.0, newcomer.1, OwnerCertainty::Absent, later);
            assert!(book.get(&new).is_some(), "its own word");
            for n in 0..FAIR_SHARE {
                assert!(hear(
                    &mut book,
                    50_000 + n,
                    AddressOrigin::Member(id(88_888)),
                    later
                ));
            }
            assert_eq!(book.len(), MAX_CANDIDATES);
            assert!(book.get(&new).is_some());
        }
    }

    #[test]
    fn full_book_of_reached_addresses_has_room() {
        let now = Instant::now();
        let mut book = filled(256, true, now);
        for n in 0..MAX_CANDIDATES {
            let at = now + Duration::from_millis(n as u64);
            book.reached(&address(n), id(50_000 + n % 256), at);
        }
        let (member, new) = (id(99_999), address(60_000));
        let (claim, origin) = (Belief::Declared(member), AddressOrigin::Member(member));
        book.claim(&new, claim, origin, OwnerCertainty::Absent, now);
        assert!(book.get(&new).is_some());
        assert!(
            book.get(&address(0)).is_none(),
            "the oldest of one that has many"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn floods_never_exceed_the_book_limit(
            claims in proptest::collection::vec((0usize..20_000, 0usize..40, any::<bool>()), 6000),
        ) {
            let now = Instant::now();
            let mut book = Book::default();
            for (n, origin, fails) in claims {
                hear(&mut book, n, AddressOrigin::Member(id(90_000 + origin)), now);
                if fails {
                    fail(&mut book, &address(n), now);
                }
            }
            prop_assert!(book.len() <= MAX_CANDIDATES);
        }
    }
}
