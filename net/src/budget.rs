//! One budget in bytes for what members say: answers under way, and what is made and kept of them.
//!
//! Whoever takes an answer in reserves its bytes first, page by page. The [`Reservation`] travels with what it stands
//! for and gives the bytes back when that is dropped, so nothing can be kept that does not count.
//!
//! Half of the budget is divided evenly: so much every member may have whatever the others do. The other half is for
//! whoever needs more, and nobody gets more than half of what the others leave of it. A member that would exceed this
//! even if it were alone misbehaves. One that exceeds it because others hold so much is left out without blame. A hostile member
//! thus costs an honest one half of the room for large answers, and no small answer at all.
//!
//! Sizes are those in memory: an entry of a directory costs its struct, its name as the allocator rounds it, and what
//! merging makes of it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::error::Error;
use crate::heap::Trimmer;
use crate::types::{Attributes, Entry, Name, PeerId, RelPath};
use crate::wire::Change;

/// The budget of a node unless it is told otherwise. One member alone may have [`ByteBudget::most_of_one`] of it,
/// 160 MiB: a directory of 380,000 names of 30 bytes.
pub const DEFAULT_ANSWERS: usize = 512 << 20;

/// The half that is divided evenly is divided among at least so many, so that a few members do not get it all.
const FEWEST: usize = 8;

/// Those who say too much are named in the log no more often than this.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// What merging makes of one entry beside its name, at the same time: a row, an item, its one source.
const MERGING: usize = 256;

/// What an allocation of `bytes` costs: glibc's header and its units of 16 bytes.
pub const fn heap(bytes: usize) -> usize {
    match (bytes + 8).next_multiple_of(16) {
        ..32 => 32,
        rounded => rounded,
    }
}

/// What something takes in memory, its own struct included.
pub trait Weigh {
    /// Bytes.
    fn weight(&self) -> usize;
}

impl Weigh for Name {
    fn weight(&self) -> usize {
        size_of::<Self>() + heap(self.as_bytes().len())
    }
}

impl Weigh for RelPath {
    fn weight(&self) -> usize {
        // The counters of the shared allocation stand before the bytes.
        size_of::<Self>() + heap(16 + self.as_bytes().len())
    }
}

impl Weigh for Entry {
    /// With what merging makes of it, for which the name is there twice.
    fn weight(&self) -> usize {
        let name = self.name.weight() + heap(self.name.as_bytes().len());
        size_of::<Attributes>() + name + MERGING
    }
}

impl Weigh for (RelPath, Attributes) {
    fn weight(&self) -> usize {
        size_of::<Attributes>() + self.0.weight()
    }
}

impl Weigh for Change {
    fn weight(&self) -> usize {
        8 + self.path.weight()
    }
}

impl<T: Weigh> Weigh for [T] {
    fn weight(&self) -> usize {
        self.iter().map(Weigh::weight).sum()
    }
}

/// Someone who keeps what can be asked for again.
pub trait Relieve: Send + Sync {
    /// Lets go of what was kept of `member` mostly, as there is no room for its next answer. Called with no lock held.
    fn relieve(&self, member: PeerId);
}

/// The bytes that answers may take.
pub struct ByteBudget {
    total: usize,
    held: Mutex<HeldBytes>,
    keepers: RwLock<Vec<Weak<dyn Relieve>>>,
    trimmer: Arc<Trimmer>,
}

#[derive(Default)]
struct HeldBytes {
    by_member: HashMap<PeerId, usize>,
    all: usize,
    /// Members there are, as far as anybody has said.
    members: usize,
    warned: Option<Instant>,
}

/// Why there is no room for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Excess {
    /// It is more than one member may have if it is alone.
    OfOne,
    /// Others hold too much.
    OfAll,
}

impl ByteBudget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            held: Mutex::default(),
            keepers: RwLock::default(),
            trimmer: Arc::default(),
        })
    }

    /// There are so many members now: each is to have its part.
    pub fn divide_among(&self, members: usize) {
        self.held.lock().members = members;
    }

    /// Asks `keeper` for room from now on, for as long as it lives.
    pub fn ask_for_room(&self, keeper: Weak<dyn Relieve>) {
        let mut keepers = self.keepers.write();
        keepers.retain(|known| known.strong_count() > 0);
        keepers.push(keeper);
    }

    /// Nothing yet, to grow with what `member` says.
    pub fn reserve(self: &Arc<Self>, member: PeerId) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            member,
            bytes: 0,
        }
    }

    /// The most that one member may have when no other has anything.
    pub fn most_of_one(&self) -> usize {
        self.total / 4 + self.total / 2 / FEWEST
    }

    /// Bytes that are reserved now.
    pub fn held(&self) -> usize {
        self.held.lock().all
    }

    fn take(&self, member: PeerId, bytes: usize) -> Result<(), Excess> {
        if self.held.lock().take(self.total, member, bytes).is_ok() {
            return Ok(());
        }
        let keepers = self.keepers.read().clone();
        for keeper in keepers.iter().filter_map(Weak::upgrade) {
            keeper.relieve(member);
        }
        self.held.lock().take(self.total, member, bytes)
    }

    fn give_back(&self, member: PeerId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut held = self.held.lock();
        held.all -= bytes;
        if let Some(its) = held.by_member.get_mut(&member) {
            *its -= bytes;
            if *its == 0 {
                held.by_member.remove(&member);
            }
        }
        drop(held);
        self.trimmer.freed(bytes);
    }

    /// True if it is time to name somebody in the log.
    fn may_warn(&self, now: Instant) -> bool {
        let mut held = self.held.lock();
        let is_time = held
            .warned
            .is_none_or(|then| now.saturating_duration_since(then) >= WARNING_PAUSE);
        if is_time {
            held.warned = Some(now);
        }
        is_time
    }
}

impl Default for ByteBudget {
    fn default() -> Self {
        Self {
            total: DEFAULT_ANSWERS,
            held: Mutex::default(),
            keepers: RwLock::default(),
            trimmer: Arc::default(),
        }
    }
}

impl HeldBytes {
    /// Takes `bytes` more for `member`, of `total` for all.
    fn take(&mut self, total: usize, member: PeerId, bytes: usize) -> Result<(), Excess> {
        let before = self.by_member.get(&member).copied().unwrap_or(0);
        let wanted = before.saturating_add(bytes);
        let members = self.members.max(self.by_member.len() + 1).max(FEWEST);
        let (sure, common) = (total / 2 / members, total / 2);
        if wanted > sure {
            let of_common = |held: usize| held.saturating_sub(sure);
            let all: usize = self.by_member.values().map(|held| of_common(*held)).sum();
            let others = all - of_common(before);
            // Even if it were alone.
            if of_common(wanted) > common / 2 {
                return Err(Excess::OfOne);
            }
            if of_common(wanted) > common.saturating_sub(others) / 2 {
                return Err(Excess::OfAll);
            }
        }
        if self.all.saturating_add(bytes) > total {
            return Err(Excess::OfAll);
        }
        self.all += bytes;
        self.by_member.insert(member, wanted);
        Ok(())
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.held(), self.total)
    }
}

/// Bytes that something of a member's takes, until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    member: PeerId,
    bytes: usize,
}

impl Reservation {
    /// Reserves `bytes` more. Whatever needs them is to be let go of when that fails.
    ///
    /// # Errors
    /// [`Error::Misbehaved`] when it is more than one member may have, [`Error::Local`] when others hold too much.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let Err(excess) = self.budget.take(self.member, bytes) else {
            self.bytes += bytes;
            return Ok(());
        };
        let who = self.member.short();
        let error = match excess {
            Excess::OfOne => Error::misbehaved(who, "it says more than one member may"),
            Excess::OfAll => Error::Local {
                what: format!("what {who} says"),
                why: "there is no room for it beside what others say".into(),
            },
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
        self.budget.give_back(self.member, excess);
    }

    /// Whose it is.
    pub fn member(&self) -> PeerId {
        self.member
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An empty one of the same member.
    pub fn another(&self) -> Self {
        self.budget.reserve(self.member)
    }

    /// As much again, for a copy.
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
        self.budget.give_back(self.member, self.bytes);
    }
}

/// Something that a member said, and the bytes that it takes.
#[derive(Debug)]
pub struct Held<T> {
    // In this order: the bytes are given back once they are free.
    value: T,
    reservation: Reservation,
}

impl<T> Held<T> {
    /// `value`, for which `reservation` was made.
    pub fn new(value: T, reservation: Reservation) -> Self {
        Self { value, reservation }
    }

    /// The value, to be changed without making it larger: the reservation stays what it is.
    pub(crate) fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    /// Both, apart: the reservation has to live as long as anything that is made of the value.
    pub fn into_parts(self) -> (T, Reservation) {
        (self.value, self.reservation)
    }
}

impl<T: Clone> Held<T> {
    /// Another one, if there is room for it.
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
    use proptest::prelude::*;

    use super::*;

    const TOTAL: usize = 16_000;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    /// Takes as much as it gets, in steps.
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
        assert!(budget.held.lock().by_member.is_empty());
    }

    #[test]
    fn one_member_gets_a_part_and_then_misbehaves() {
        let budget = ByteBudget::new(TOTAL);
        let mut one = budget.reserve(id(1));
        grab(&mut one);
        assert_eq!(one.bytes(), budget.most_of_one());
        let error = one.grow(10).unwrap_err();
        assert!(matches!(error, Error::Misbehaved { .. }), "{error}");
        let mut other = budget.reserve(id(1));
        assert!(other.grow(1).is_err(), "all its answers together");
    }

    #[test]
    fn an_honest_member_has_half_of_it_beside_a_greedy_one() {
        let budget = ByteBudget::new(TOTAL);
        let mut greedy = budget.reserve(id(1));
        grab(&mut greedy);
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
        budget.divide_among(50);
        let mut greedy: Vec<Reservation> = (0..49).map(|n| budget.reserve(id(n))).collect();
        greedy.iter_mut().for_each(grab);
        let mut honest = budget.reserve(id(99));
        honest.grow(TOTAL / 2 / 50).unwrap();
        assert!(budget.held() <= TOTAL);
    }

    /// Keeps what one member said until there is need for room.
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
    fn what_is_kept_of_a_member_makes_room_for_its_next_answer_only() {
        let budget = ByteBudget::new(TOTAL);
        let mut kept = budget.reserve(id(1));
        kept.grow(budget.most_of_one()).unwrap();
        let keeper: Arc<dyn Relieve> = Arc::new(Keeper(Mutex::new(Some(kept))));
        budget.ask_for_room(Arc::downgrade(&keeper));
        let mut other = budget.reserve(id(2));
        grab(&mut other);
        assert!(budget.held() > budget.most_of_one());
        drop(other);
        budget.reserve(id(1)).grow(1000).unwrap();
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        /// Whoever takes what in whatever order, all together stay below the total, and the sums agree.
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
