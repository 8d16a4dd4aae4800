//! An address that may lead to a member: which member is supposed to be there, and when to try it.
//!
//! Claims by others are only hints. They save dialling further addresses of members that are
//! already connected, and giving strangers a guess at the password. If an identity other than the
//! claimed one answers, the address is dialled again without demanding any: anyone who answers and
//! knows the password is a member.

use std::time::{Duration, Instant};

use crate::auth::AddressSource;
use crate::concurrency::backoff::Backoff;
use crate::error::Error;
use crate::model::{Address, PeerId};

/// The number of classes of work; see [`schedule`](super::table).
pub(crate) const CLASSES: usize = 6;

/// Addresses that the user typed: the node started last is found within seconds, even when the
/// others have waited for it for a while.
const NAMED: Backoff = Backoff {
    first: Duration::from_millis(300),
    cap: Duration::from_secs(3),
};

/// After this many failures (about ten minutes) a named address is tried as rarely as the others.
const NAMED_PATIENCE: u32 = 200;

/// Addresses that a member had or claims.
const OWNED: Backoff = Backoff {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(30),
};

/// Addresses known only by hearsay.
const HEARD: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(120),
};

/// The wait after a wrong password: each try gives the other side one guess.
const REFUSED: Backoff = Backoff {
    first: Duration::from_secs(3600),
    cap: Duration::from_secs(24 * 3600),
};

/// How long to leave an address alone when something else answers there.
const OTHER_PROGRAM: Duration = Duration::from_secs(600);

/// An address that has just led to a member is not dialled again within this time, whatever is
/// claimed of it.
const SETTLED: Duration = Duration::from_secs(60);

/// The minimum time between tries that multicast triggers, and between those that a member triggers
/// by announcing that it is there.
const NUDGED: Duration = Duration::from_secs(5);
const SUMMONED: Duration = Duration::from_secs(1);

/// More tellers than this make an address no more credible.
const MAX_ORIGINS: usize = 4;

/// Which member is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Belief {
    /// Nobody has claimed to know.
    Unknown,
    /// Claims name different members.
    Disputed,
    /// Some other party named the member.
    Said(PeerId),
    /// The member itself claimed the address, or called from there.
    Declared(PeerId),
    /// The member answered there.
    Reached(PeerId),
}

impl Belief {
    /// Returns the member that is supposed to be there, if any.
    pub(crate) fn owner(self) -> Option<PeerId> {
        match self {
            Self::Unknown | Self::Disputed => None,
            Self::Said(id) | Self::Declared(id) | Self::Reached(id) => Some(id),
        }
    }

    /// Returns true where the owner itself claimed or proved that it is there.
    pub(crate) fn is_first_hand(self) -> bool {
        matches!(self, Self::Declared(_) | Self::Reached(_))
    }
}

/// The origin of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum AddressOrigin {
    /// The command line, or the file of remembered addresses.
    User,
    /// Multicast, which means anyone on the link.
    Link,
    /// A member that was met.
    Member(PeerId),
}

/// How certain it is that the owner of an address is connected there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnerCertainty {
    /// Connected at this very address, or it is this node. No claim changes that.
    Here,
    /// Connected at another address.
    Elsewhere,
    /// Not connected, or the address has no owner.
    Absent,
}

/// What a failed try means for observers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DialFailure {
    /// True if the user named the address.
    pub(crate) named: bool,
    /// Worth a line in the log: the first failure in a row, or one that bars the address.
    pub(crate) first: bool,
    /// True for the first try of a named address. Whoever started the node waits for its outcome
    /// and shows it to the user.
    pub(crate) awaited: bool,
    /// The time until the next try.
    pub(crate) wait: Duration,
}

/// The state of one address.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Which member is there.
    pub(crate) belief: Belief,
    /// Set when the user named the address; holds the one identity accepted there, if any.
    pub(crate) named: Option<Option<PeerId>>,
    /// The outcome of the last try; kept for named addresses only.
    pub(crate) outcome: Option<Result<(), Error>>,
    /// When a member last answered there.
    pub(crate) reached: Option<Instant>,
    /// Failed tries in a row.
    pub(crate) failures: u32,
    /// The class of the try under way.
    pub(crate) dialling: Option<usize>,
    /// When it was last mentioned, by anyone.
    pub(crate) mentioned: Instant,
    /// Some authenticated member has claimed the address for itself.
    vouched: bool,
    /// Who mentioned it; the first is charged for it.
    origins: Vec<AddressOrigin>,
    due: Instant,
    /// No claim makes it due before this time.
    embargo: Instant,
    last_dial: Option<Instant>,
    /// The identity demanded at the last try.
    demanded: Option<PeerId>,
    /// A multicast claim for this address was sent from it.
    is_source: bool,
    refusals: u32,
}

impl Candidate {
    /// Creates an address that `origin` mentioned just now.
    pub(crate) fn new(belief: Belief, origin: AddressOrigin, now: Instant) -> Self {
        Self {
            belief,
            named: None,
            outcome: None,
            reached: None,
            failures: 0,
            dialling: None,
            mentioned: now,
            vouched: belief.is_first_hand(),
            origins: vec![origin],
            due: now,
            embargo: now,
            last_dial: None,
            demanded: None,
            is_source: false,
            refusals: 0,
        }
    }

    /// Notes that the multicast claim was sent from this very address.
    pub(crate) fn note_source(&mut self) {
        self.is_source = true;
    }

    /// Returns true for addresses that strangers on the link may have made up, or that have had
    /// their try. They make room for an address that speaks for itself.
    pub(crate) fn yields_to_source(&self) -> bool {
        let is_link = self.origins[..] == [AddressOrigin::Link];
        is_link && self.is_hearsay() && (!self.is_source || self.last_dial.is_some())
    }

    /// Returns the member whose key was demanded at the last try, if one was.
    pub(crate) fn demanded(&self) -> Option<PeerId> {
        self.demanded
    }

    /// Returns when the last try began.
    pub(crate) fn last_dial(&self) -> Option<Instant> {
        self.last_dial
    }

    /// Notes the `claim` of `origin`; `owner` is the certainty of the supposed owner. A claim
    /// that differs cannot hide anybody: at most, it causes the address to be dialled to see
    /// who is there.
    pub(crate) fn claim(
        &mut self,
        claim: Belief,
        origin: AddressOrigin,
        owner: OwnerCertainty,
        now: Instant,
    ) {
        self.mentioned = now;
        self.vouched |= claim.is_first_hand();
        if !self.origins.contains(&origin) && self.origins.len() < MAX_ORIGINS {
            self.origins.push(origin);
        }
        let same = self.belief.owner() == claim.owner();
        self.belief = match self.belief {
            // A named address is dialled until it is known who is there.
            held if self.named.is_some() && !matches!(held, Belief::Reached(_)) => held,
            Belief::Unknown => claim,
            Belief::Said(_) if claim.is_first_hand() => claim,
            held if same || owner == OwnerCertainty::Here => held,
            // It is dialled in any case, and keeps its owner until that finds another.
            held if owner == OwnerCertainty::Absent && !claim.is_first_hand() => held,
            _ => Belief::Disputed,
        };
    }

    /// Returns the only identity accepted at the next try.
    pub(crate) fn expected(&self) -> Option<PeerId> {
        match (self.named, self.belief) {
            (Some(pinned), _) => pinned,
            (None, Belief::Said(id)) => Some(id),
            _ => None,
        }
    }

    /// Returns the class of work that its next try is; `address` is the candidate's own.
    pub(crate) fn class(&self, address: &Address) -> usize {
        match (self.is_hearsay(), self.failures) {
            _ if address.as_reach().is_some() => 5,
            (false, 0) => 1,
            (true, 0) => 2,
            (false, _) => 3,
            (true, _) => 4,
        }
    }

    /// Returns when it may be dialled; `None` while a try is under way.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.dialling.is_none().then(|| self.due.max(self.embargo))
    }

    /// Returns true when only strangers and third parties have mentioned it.
    pub(crate) fn is_hearsay(&self) -> bool {
        !self.vouched && self.named.is_none() && self.origins[..1] != [AddressOrigin::User]
    }

    /// Returns true until the first try has ended, for an address that the user or a member
    /// reported or that led to a member last time. Multicast alone does not count: on a local
    /// network, anybody can claim anything.
    pub(crate) fn awaits_first_try(&self) -> bool {
        let is_told = self
            .origins
            .iter()
            .any(|origin| *origin != AddressOrigin::Link);
        is_told && self.failures == 0 && self.reached.is_none()
    }

    /// Returns the source of the address, as far as that bounds what it may cost.
    pub(crate) fn source(&self) -> AddressSource {
        if self.named.is_some() {
            AddressSource::Named
        } else if self.vouched
            || self
                .origins
                .iter()
                .any(|origin| *origin != AddressOrigin::Link)
        {
            AddressSource::Heard
        } else {
            AddressSource::Link
        }
    }

    /// Returns who mentioned it; never empty.
    pub(crate) fn origins(&self) -> &[AddressOrigin] {
        &self.origins
    }

    fn retry(&self) -> Backoff {
        match self.named {
            Some(_) if self.failures < NAMED_PATIENCE => NAMED,
            _ if self.is_hearsay() => HEARD,
            _ => OWNED,
        }
    }

    /// Marks the beginning of a try.
    pub(crate) fn begin(&mut self, class: usize, now: Instant) {
        self.dialling = Some(class);
        self.last_dial = Some(now);
        self.demanded = self.expected();
    }

    /// Notes that `id` answered.
    pub(crate) fn reached(&mut self, id: PeerId, now: Instant) {
        self.belief = Belief::Reached(id);
        self.vouched = true;
        self.dialling = None;
        self.reached = Some(now);
        self.mentioned = now;
        self.due = now + SETTLED;
        self.embargo = now;
        (self.failures, self.refusals) = (0, 0);
        self.outcome = self.named.map(|_| Ok(()));
    }

    /// Notes that the try failed; `address` is the candidate's own.
    pub(crate) fn failed(&mut self, address: &Address, error: &Error, now: Instant) -> DialFailure {
        self.dialling = None;
        // The member named in the claim is not there: the address is no longer one of its own.
        if matches!(
            (error, self.belief),
            (
                Error::OtherIdentity { .. } | Error::NotANode { .. } | Error::Misbehaved { .. },
                Belief::Said(_)
            )
        ) {
            self.belief = Belief::Disputed;
        }
        self.failures = self.failures.saturating_add(1);
        let barred = self.barred(error);
        let wait = barred.unwrap_or_else(|| self.retry().after(self.failures, address));
        self.due = now + wait;
        self.embargo = now + barred.unwrap_or_default();
        let awaited = self.named.is_some() && self.outcome.is_none();
        self.outcome = self.named.map(|_| Err(error.clone()));
        DialFailure {
            named: self.named.is_some(),
            awaited,
            first: self.failures == 1 || barred.is_some(),
            wait,
        }
    }

    /// Returns how long even new claims get the address no further try.
    fn barred(&mut self, error: &Error) -> Option<Duration> {
        match error {
            Error::Refused { .. } => {
                self.refusals += 1;
                Some(REFUSED.full(self.refusals))
            }
            Error::Later { seconds, .. } => Some(Duration::from_secs((*seconds).max(1).into())),
            Error::Unreachable { .. } | Error::Timeout { .. } | Error::Moved { .. } => None,
            Error::Busy { .. } | Error::Local { .. } => None,
            Error::OtherIdentity { .. } if self.named.is_none() => None,
            // A member was there: this may be a forwarder in front of it, or the member
            // is just stopping.
            _ if matches!(self.belief, Belief::Reached(_)) => None,
            _ => Some(OTHER_PROGRAM),
        }
    }

    /// Drops the owner, which is no longer there. The address is due at once, to see who is.
    pub(crate) fn release(&mut self, now: Instant) {
        self.belief = Belief::Unknown;
        self.due = now;
    }

    /// Delays the next try to `until`.
    pub(crate) fn delay(&mut self, until: Instant) {
        self.due = self.due.max(until);
    }

    /// Handles a claim by a stranger that a member is there at this moment.
    pub(crate) fn nudge(&mut self, now: Instant) {
        self.hasten(NUDGED, now);
    }

    /// Handles a claim by an authenticated member that it is there at this moment. It knows the
    /// password, so an earlier refusal is void.
    pub(crate) fn summon(&mut self, now: Instant) {
        self.hasten(SUMMONED, now);
        self.embargo = now;
    }

    fn hasten(&mut self, pause: Duration, now: Instant) {
        let earliest = self.last_dial.map_or(now, |last| now.max(last + pause));
        self.due = self.due.min(earliest);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn address() -> Address {
        Address::new("10.0.0.1", 7)
    }

    fn unreachable() -> Error {
        Error::Unreachable {
            who: "x".into(),
            why: "refused".into(),
        }
    }

    fn heard(now: Instant) -> Candidate {
        Candidate::new(Belief::Said(id(1)), AddressOrigin::Link, now)
    }

    #[test]
    fn refusal_bar_doubles_up_to_a_day() {
        let mut now = Instant::now();
        let mut candidate = heard(now);
        let refused = Error::Refused { who: "x".into() };
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            candidate.begin(1, now);
            let setback = candidate.failed(&address(), &refused, now);
            assert_eq!(setback.wait, Duration::from_secs(hours * 3600));
            candidate.nudge(now + Duration::from_secs(10));
            assert_eq!(
                candidate.due(),
                Some(now + setback.wait),
                "hearsay does not matter"
            );
            now += setback.wait;
        }
    }

    #[test]
    fn a_member_that_calls_lifts_the_bar() {
        let now = Instant::now();
        let mut candidate = heard(now);
        candidate.begin(1, now);
        candidate.failed(&address(), &Error::Refused { who: "x".into() }, now);
        candidate.summon(now);
        assert_eq!(candidate.due(), Some(now + SUMMONED));
    }

    #[test]
    fn limited_member_is_retried_when_it_said() {
        let now = Instant::now();
        let mut candidate = heard(now);
        let seconds = 77;
        candidate.failed(
            &address(),
            &Error::Later {
                who: "x".into(),
                seconds,
            },
            now,
        );
        assert_eq!(candidate.due(), Some(now + Duration::from_secs(77)));
    }

    #[test]
    fn other_program_backoff_spares_past_peers() {
        let now = Instant::now();
        let other = Error::NotANode { who: "x".into() };
        let mut candidate = heard(now);
        assert_eq!(
            candidate.failed(&address(), &other, now).wait,
            OTHER_PROGRAM
        );
        candidate.reached(id(1), now);
        assert!(candidate.failed(&address(), &other, now).wait < OWNED.cap);
    }

    #[test]
    fn wrong_hearsay_penalises_an_address_once() {
        let now = Instant::now();
        let mut candidate = heard(now);
        assert_eq!(candidate.expected(), Some(id(1)));
        let setback = candidate.failed(&address(), &Error::OtherIdentity { who: "x".into() }, now);
        assert!(setback.wait <= HEARD.first);
        assert_eq!(
            (candidate.belief, candidate.expected()),
            (Belief::Disputed, None)
        );
        candidate.named = Some(Some(id(3)));
        assert_eq!(candidate.expected(), Some(id(3)));
        let setback = candidate.failed(&address(), &Error::OtherIdentity { who: "x".into() }, now);
        assert_eq!(setback.wait, OTHER_PROGRAM);
    }

    #[test]
    fn named_address_is_retried_within_seconds() {
        let mut now = Instant::now();
        let begin = now;
        let mut candidate = heard(now);
        candidate.named = Some(None);
        while now - begin < Duration::from_secs(480) {
            let setback = candidate.failed(&address(), &unreachable(), now);
            assert!(setback.wait <= NAMED.cap && setback.wait >= NAMED.first.mul_f64(0.8));
            now += setback.wait;
        }
        candidate.failures = NAMED_PATIENCE;
        assert!(candidate.failed(&address(), &unreachable(), now).wait > NAMED.cap);
    }

    #[test]
    fn disputed_claim_is_checked_when_needed() {
        let now = Instant::now();
        let other = Belief::Said(id(2));
        for (owner, after) in [
            (OwnerCertainty::Here, Belief::Said(id(1))),
            (OwnerCertainty::Elsewhere, Belief::Disputed),
            (OwnerCertainty::Absent, Belief::Said(id(1))),
        ] {
            let mut candidate = heard(now);
            candidate.claim(other, AddressOrigin::Link, owner, now);
            assert_eq!(candidate.belief, after);
        }
    }

    #[test]
    fn own_claims_outweigh_hearsay() {
        let now = Instant::now();
        let mut candidate = heard(now);
        assert!(candidate.is_hearsay());
        candidate.claim(
            Belief::Declared(id(2)),
            AddressOrigin::Member(id(2)),
            OwnerCertainty::Elsewhere,
            now,
        );
        assert_eq!(candidate.belief, Belief::Declared(id(2)));
        assert!(!candidate.is_hearsay());
        candidate.claim(
            Belief::Declared(id(3)),
            AddressOrigin::Member(id(3)),
            OwnerCertainty::Absent,
            now,
        );
        assert_eq!(candidate.belief, Belief::Disputed);
    }

    #[test]
    fn claims_settle_no_user_named_address() {
        let now = Instant::now();
        let mut candidate = Candidate::new(Belief::Unknown, AddressOrigin::User, now);
        candidate.named = Some(None);
        candidate.claim(
            Belief::Declared(id(2)),
            AddressOrigin::Member(id(2)),
            OwnerCertainty::Absent,
            now,
        );
        assert_eq!(candidate.belief, Belief::Unknown);
    }
}
