//! One budget in bytes for what members send: answers in progress, and what is derived from
//! them and kept.
//!
//! Code that receives an answer first reserves its bytes, page by page. The [`Reservation`] travels
//! with the data it stands for and releases the bytes when the data is dropped. So nothing can be
//! kept without being counted.
//!
//! The module [`shares`] decides who may have how much: it divides first among the networks from
//! which members answer, then among the keys in one network. A member may find no room because
//! others hold so much, or because this node still holds what the member sent earlier. It is then
//! left out without blame. A single answer above the limit for one answer
//! ([`ByteBudget::most_of_one`]) is misbehaviour of its member.
//!
//! Sizes are those in memory ([`weigh`]). A directory entry costs its struct, its name as the
//! allocator rounds it, and what merging adds.

pub(crate) mod heap;
pub mod shares;
pub mod weigh;

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::error::Error;
use crate::model::PeerId;
use heap::Trimmer;
use shares::{BudgetParty, BudgetShares};
pub use weigh::{Weigh, entry_of, heap, merging, text, unmerged};

/// The default budget of a node. One answer may have [`ByteBudget::most_of_one`] of it, 192 MiB: a
/// directory of 500,000 names of 30 bytes. A directory of 400,000 names leaves room for what is
/// still open of its previous answer.
pub const DEFAULT_ANSWERS: usize = 512 << 20;

/// Shortest pause between two log messages that name members who send too much.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// A holder of data that can be requested again.
pub trait Relieve: Send + Sync {
    /// Releases what it holds, mainly that of `member`, because there is no room for the member's
    /// next answer. Called with no lock held.
    fn relieve(&self, member: PeerId);
}

/// A budget for the bytes of answers.
pub struct ByteBudget {
    total: usize,
    shares: Mutex<BudgetShares>,
    keepers: RwLock<Vec<Weak<dyn Relieve>>>,
    warned: Mutex<Option<Instant>>,
    trimmer: Arc<Trimmer>,
}

impl ByteBudget {
    /// Creates a budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self::of(total))
    }

    fn of(total: usize) -> Self {
        Self {
            total,
            shares: Mutex::new(BudgetShares::new(total)),
            keepers: RwLock::default(),
            warned: Mutex::default(),
            trimmer: Arc::default(),
        }
    }

    /// Records that `member` answers from `address`, for as long as the seat is kept. The member
    /// shares that network's part with the others there. A member without a seat is treated as the
    /// only one of a network.
    pub fn seat(self: &Arc<Self>, member: PeerId, address: IpAddr) -> Seat {
        self.shares.lock().seat(member, BudgetParty::of(address));
        Seat {
            budget: Arc::clone(self),
            member,
            address,
        }
    }

    /// Registers `keeper` to be asked for room, for as long as it lives.
    pub fn ask_for_room(&self, keeper: Weak<dyn Relieve>) {
        let mut keepers = self.keepers.write();
        keepers.retain(|known| known.strong_count() > 0);
        keepers.push(keeper);
    }

    /// Creates an empty reservation that can grow with what `member` sends.
    pub fn reserve(self: &Arc<Self>, member: PeerId) -> Reservation {
        let place = self.shares.lock().place(member);
        Reservation {
            budget: Arc::clone(self),
            member,
            place,
            bytes: 0,
        }
    }

    /// Returns the limit for one answer while no other holds anything.
    pub fn most_of_one(&self) -> usize {
        self.total / 8 * 3
    }

    /// Returns how many bytes are reserved now.
    pub fn held(&self) -> usize {
        self.shares.lock().all()
    }

    /// Takes `bytes` more for `member`. Returns false if there is no room for them.
    fn take(&self, place: BudgetParty, member: PeerId, bytes: usize) -> bool {
        if self.shares.lock().take(place, member, bytes) {
            return true;
        }
        let keepers = self.keepers.read().clone();
        for keeper in keepers.iter().filter_map(Weak::upgrade) {
            keeper.relieve(member);
        }
        self.shares.lock().take(place, member, bytes)
    }

    fn give_back(&self, place: BudgetParty, member: PeerId, bytes: usize) {
        if bytes > 0 {
            self.shares.lock().give_back(place, member, bytes);
            self.trimmer.freed(bytes);
        }
    }

    /// Returns true if another member may be named in the log now.
    fn may_warn(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock();
        let is_time =
            warned.is_none_or(|then| now.saturating_duration_since(then) >= WARNING_PAUSE);
        if is_time {
            *warned = Some(now);
        }
        is_time
    }
}

impl Default for ByteBudget {
    fn default() -> Self {
        Self::of(DEFAULT_ANSWERS)
    }
}

/// Records where a member is, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    budget: Arc<ByteBudget>,
    member: PeerId,
    address: IpAddr,
}

impl Seat {
    /// Returns the address from which the member answers.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let place = BudgetParty::of(self.address);
        self.budget.shares.lock().leave(self.member, place);
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.held(), self.total)
    }
}

/// Bytes taken by something that belongs to a member, until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    member: PeerId,
    place: BudgetParty,
    bytes: usize,
}

impl Reservation {
    /// Reserves `bytes` more. If that fails, the caller must drop whatever needs them.
    ///
    /// # Errors
    /// [`Error::Misbehaved`] if this exceeds the limit for one answer, [`Error::Local`] if too much
    /// is held already.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let who = || self.member.short();
        let error = if self.bytes.saturating_add(bytes) > self.budget.most_of_one() {
            Error::misbehaved(who(), "it says more than one member may")
        } else if self.budget.take(self.place, self.member, bytes) {
            self.bytes += bytes;
            return Ok(());
        } else {
            Error::local(
                format!("what {} says", who()),
                "there is no room for it beside what is held already",
            )
        };
        if self.budget.may_warn(Instant::now()) {
            tracing::warn!(member = ?self.member, "left out: {error}");
        }
        Err(error)
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.budget.give_back(self.place, self.member, excess);
    }

    /// Splits off `bytes` of it, or all if there are fewer, to be held separately.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            bytes,
            budget: Arc::clone(&self.budget),
            member: self.member,
            place: self.place,
        }
    }

    /// Takes over the bytes of another reservation of the same member.
    pub fn join(&mut self, mut other: Self) {
        if (other.member, other.place) == (self.member, self.place) {
            self.bytes += std::mem::take(&mut other.bytes);
        }
    }

    /// Returns the member it belongs to.
    pub fn member(&self) -> PeerId {
        self.member
    }

    /// Returns how many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Creates an empty reservation for the same member.
    pub fn another(&self) -> Self {
        Self {
            budget: Arc::clone(&self.budget),
            member: self.member,
            place: self.place,
            bytes: 0,
        }
    }

    /// Reserves the same amount again, for a copy.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn again(&self) -> Result<Self, Error> {
        let mut copy = self.another();
        copy.grow(self.bytes)?;
        Ok(copy)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.place, self.member, self.bytes);
    }
}

/// A value from a member, and the bytes that it takes.
#[derive(Debug)]
pub struct Held<T> {
    // The order matters: the reservation ends only after the value is freed.
    value: T,
    reservation: Reservation,
}

impl<T> Held<T> {
    /// Wraps `value`, for which `reservation` was made.
    pub fn new(value: T, reservation: Reservation) -> Self {
        Self { value, reservation }
    }

    /// Returns the value for changes that do not make it larger. The reservation stays as it is.
    pub(crate) fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    /// Returns the reservation for the value.
    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// Splits into both parts. The reservation has to live as long as anything made from the value.
    pub fn into_parts(self) -> (T, Reservation) {
        (self.value, self.reservation)
    }
}

impl<T: Clone> Held<T> {
    /// Copies the value, if there is room for another one.
    pub fn copy(&self) -> Option<Self> {
        let reservation = self.reservation.again().ok()?;
        Some(Self::new(self.value.clone(), reservation))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const TOTAL: usize = 16_000;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    /// Grows the reservation in steps until it gets no more.
    fn grab(reservation: &mut Reservation) {
        while reservation.grow(10).is_ok() {}
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = ByteBudget::new(TOTAL);
        let mut some = budget.reserve(id(1));
        some.grow(300).unwrap();
        some.grow(200).unwrap();
        some.shrink_to(100);
        assert_eq!(budget.held(), 100);
        let held = Held::new("text", some);
        let copy = held.copy().unwrap();
        assert_eq!((budget.held(), *copy), (200, "text"));
        drop((held, copy));
        assert_eq!(budget.held(), 0);
        assert!(budget.shares.lock().is_empty());
    }

    #[test]
    fn member_past_its_part_misbehaves() {
        let budget = ByteBudget::new(TOTAL);
        let mut one = budget.reserve(id(1));
        grab(&mut one);
        assert_eq!(one.bytes(), budget.most_of_one());
        let error = one.grow(10).unwrap_err();
        assert!(matches!(error, Error::Misbehaved { .. }), "{error}");
        let mut other = budget.reserve(id(1));
        grab(&mut other);
        let all = one.bytes() + other.bytes();
        assert!(all < TOTAL / 2 + TOTAL / 16, "all its answers together");
        let error = other.grow(10).unwrap_err();
        assert!(
            matches!(error, Error::Local { .. }),
            "each may be honest: {error}"
        );
    }

    #[test]
    fn honest_member_keeps_half_of_the_budget() {
        let budget = ByteBudget::new(TOTAL);
        let mut greedy = [1, 1].map(|n| budget.reserve(id(n)));
        greedy.iter_mut().for_each(grab);
        let mut honest = budget.reserve(id(2));
        grab(&mut honest);
        assert!(honest.bytes() >= budget.most_of_one() / 2);
        let error = honest.grow(100).unwrap_err();
        assert!(
            matches!(error, Error::Local { .. }),
            "without blame: {error}"
        );
    }

    #[test]
    fn many_keys_leave_everyone_its_part() {
        let budget = ByteBudget::new(TOTAL);
        let at = |n: u8| [127, 1, 0, n].into();
        let _seats: Vec<Seat> = (0..50).map(|n| budget.seat(id(n), at(n))).collect();
        let mut greedy: Vec<Reservation> = (0..49).map(|n| budget.reserve(id(n))).collect();
        greedy.iter_mut().for_each(grab);
        let mut honest = budget.reserve(id(49));
        honest.grow(TOTAL / 4 / 50).unwrap();
        assert!(budget.held() <= TOTAL);
    }

    /// Keeps what one member sent until room is needed.
    struct Keeper(Mutex<Option<Reservation>>);

    impl Relieve for Keeper {
        fn relieve(&self, member: PeerId) {
            let mut kept = self.0.lock();
            let gone = kept.take_if(|kept| kept.member() == member);
            drop(kept);
            drop(gone);
        }
    }

    #[test]
    fn kept_bytes_yield_to_own_next_response() {
        let budget = ByteBudget::new(TOTAL);
        let mut kept = budget.reserve(id(1));
        kept.grow(budget.most_of_one()).unwrap();
        let keeper: Arc<dyn Relieve> = Arc::new(Keeper(Mutex::new(Some(kept))));
        budget.ask_for_room(Arc::downgrade(&keeper));
        let mut other = budget.reserve(id(2));
        grab(&mut other);
        assert!(budget.held() > budget.most_of_one());
        drop(other);
        budget.reserve(id(1)).grow(3000).unwrap();
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn what_is_split_counts_once() {
        let budget = ByteBudget::new(TOTAL);
        let mut whole = budget.reserve(id(1));
        whole.grow(300).unwrap();
        let part = whole.split(100);
        assert_eq!(
            (whole.bytes(), part.bytes(), budget.held()),
            (200, 100, 300)
        );
        drop(whole);
        assert_eq!((part.member(), budget.held()), (id(1), 100));
    }

    #[test]
    fn seated_keys_of_one_address_share() {
        let budget = ByteBudget::new(TOTAL);
        let seats: Vec<Seat> = (0..16)
            .map(|n| budget.seat(id(n), [127, 1, 0, 1].into()))
            .collect();
        let mut greedy: Vec<Reservation> = (0..16).map(|n| budget.reserve(id(n))).collect();
        greedy.iter_mut().for_each(grab);
        let mut honest = budget.reserve(id(99));
        grab(&mut honest);
        assert!(honest.bytes() >= budget.most_of_one() / 2);
        drop((greedy, honest, seats));
        assert!(budget.shares.lock().is_empty());
    }

    proptest! {
        /// In whatever order members take bytes, the total is never exceeded and the sums agree.
        #[test]
        fn the_total_is_never_exceeded(steps in prop::collection::vec((0..20_u8, 1..4000_usize), 1..200)) {
            let budget = ByteBudget::new(TOTAL);
            let mut held: HashMap<u8, Reservation> = HashMap::new();
            for (member, bytes) in steps {
                let reservation = held.entry(member).or_insert_with(|| budget.reserve(id(member)));
                if bytes % 5 == 0 {
                    reservation.shrink_to(bytes / 10);
                } else {
                    let _ = reservation.grow(bytes);
                }
                prop_assert!(budget.held() <= TOTAL);
                prop_assert_eq!(held.values().map(Reservation::bytes).sum::<usize>(), budget.held());
            }
        }
    }
}
