//! One address that may lead to a member: who is believed to be there, and when it is worth a try.
//!
//! What others say is only ever a hint. It saves dialling the further addresses of members that are
//! here already, and giving strangers a guess at the password. Where another identity answers than
//! the one that was claimed, the address is dialled again without demanding any: whoever answers
//! and knows the password is a member.

use std::time::{Duration, Instant};

use crate::auth::AddressSource;
use crate::concurrency::backoff::Backoff;
use crate::error::Error;
use crate::model::{Address, PeerId};

/// Addresses that the user typed: the node that was started last is found within seconds, also
/// when the others have waited for it for a while.
const NAMED: Backoff = Backoff {
    first: Duration::from_millis(300),
    cap: Duration::from_secs(3),
};

/// After so many failures (about ten minutes) a named address is tried as rarely as the others.
const NAMED_PATIENCE: u32 = 200;

/// Addresses that a member had, or says it has.
const OWNED: Backoff = Backoff {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(30),
};

/// Addresses known from hearsay alone.
const HEARD: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(120),
};

/// After a wrong password: each try gives the other side one guess.
const REFUSED: Backoff = Backoff {
    first: Duration::from_secs(3600),
    cap: Duration::from_secs(24 * 3600),
};

/// How long an address is left alone where something else answers.
const OTHER_PROGRAM: Duration = Duration::from_secs(600);

/// An address that has just led to a member is not dialled again sooner than this, whatever is
/// said of it.
const SETTLED: Duration = Duration::from_secs(60);

/// The least time between tries that multicast causes, and those that a member causes by saying
/// that it is there.
const NUDGED: Duration = Duration::from_secs(5);
const SUMMONED: Duration = Duration::from_secs(1);

/// More tellers than this make an address no more credible.
const MAX_ORIGINS: usize = 4;

/// Who is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Belief {
    /// Nobody has said who is there.
    Unknown,
    /// Several have said so, of different members.
    Disputed,
    /// Somebody else said so.
    Said(PeerId),
    /// The member itself said so, or called from there.
    Declared(PeerId),
    /// The member answered there.
    Reached(PeerId),
}

impl Belief {
    /// The member, if one is believed to be there.
    pub(crate) fn owner(self) -> Option<PeerId> {
        match self {
            Self::Unknown | Self::Disputed => None,
            Self::Said(id) | Self::Declared(id) | Self::Reached(id) => Some(id),
        }
    }

    /// Where the owner itself said or showed that it is there.
    pub(crate) fn is_first_hand(self) -> bool {
        matches!(self, Self::Declared(_) | Self::Reached(_))
    }
}

/// Who spoke of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum AddressOrigin {
    /// The command line, or the file of remembered addresses.
    User,
    /// Multicast: anyone on the link.
    Link,
    /// A member, which was met.
    Member(PeerId),
}

/// How sure it is that the owner of an address is where it is connected now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnerCertainty {
    /// Connected at this very address, or it is this node: no claim changes that.
    Here,
    /// Connected at another address.
    Elsewhere,
    /// Not connected, or nobody.
    Absent,
}

/// What a failed try means for those who watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DialFailure {
    /// The user named the address.
    pub(crate) named: bool,
    /// Worth a line in the log: the first failure of a row, or one that bars the address.
    pub(crate) first: bool,
    /// What became of the very first try of a named address, which whoever started the node waits
    /// for and tells the user.
    pub(crate) awaited: bool,
    /// How long until the next try.
    pub(crate) wait: Duration,
}

/// What is known of one address.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Who is there.
    pub(crate) belief: Belief,
    /// Set when the user named the address, with the one identity that is accepted there, if any.
    pub(crate) named: Option<Option<PeerId>>,
    /// What became of the last try; kept for named addresses only.
    pub(crate) outcome: Option<Result<(), Error>>,
    /// When a member last answered there.
    pub(crate) reached: Option<Instant>,
    /// Failed tries in a row.
    pub(crate) failures: u32,
    /// The class of the try that is under way.
    pub(crate) dialling: Option<usize>,
    /// When anybody last spoke of it.
    pub(crate) mentioned: Instant,
    /// Some authenticated member has said that it is there itself.
    vouched: bool,
    /// Whoever said so; the first is charged for it.
    origins: Vec<AddressOrigin>,
    due: Instant,
    /// No claim makes it due sooner than this.
    embargo: Instant,
    last_dial: Option<Instant>,
    /// Who had to be there at the last try.
    demanded: Option<PeerId>,
    /// It was the source of what multicast said of it.
    is_source: bool,
    refusals: u32,
}

impl Candidate {
    /// An address of which `origin` spoke just now.
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

    /// Multicast said so from this very address.
    pub(crate) fn note_source(&mut self) {
        self.is_source = true;
    }

    /// True for what strangers on the link made up, as far as can be told, or what had its try: it
    /// makes room for an address that speaks for itself.
    pub(crate) fn yields_to_source(&self) -> bool {
        let is_link = self.origins[..] == [AddressOrigin::Link];
        is_link && self.is_hearsay() && (!self.is_source || self.last_dial.is_some())
    }

    /// The member whose key was shown at the last try, if one was demanded.
    pub(crate) fn demanded(&self) -> Option<PeerId> {
        self.demanded
    }

    /// When the last try began.
    pub(crate) fn last_dial(&self) -> Option<Instant> {
        self.last_dial
    }

    /// `origin` says `claim`, while whoever was believed to be there is as `owner` says. A claim
    /// that differs cannot hide anybody: it is believed, at most, so far that the address is
    /// dialled to see.
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
            // What the user named is dialled until it is known who is there.
            held if self.named.is_some() && !matches!(held, Belief::Reached(_)) => held,
            Belief::Unknown => claim,
            Belief::Said(_) if claim.is_first_hand() => claim,
            held if same || owner == OwnerCertainty::Here => held,
            // It is dialled anyhow, and keeps its owner until that shows another.
            held if owner == OwnerCertainty::Absent && !claim.is_first_hand() => held,
            _ => Belief::Disputed,
        };
    }

    /// The only identity that is accepted at the next try.
    pub(crate) fn expected(&self) -> Option<PeerId> {
        match (self.named, self.belief) {
            (Some(pinned), _) => pinned,
            (None, Belief::Said(id)) => Some(id),
            _ => None,
        }
    }

    /// When it may be dialled; `None` while that is under way.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.dialling.is_none().then(|| self.due.max(self.embargo))
    }

    /// True for what nobody but strangers and third parties speaks of.
    pub(crate) fn is_hearsay(&self) -> bool {
        !self.vouched && self.named.is_none() && self.origins[..1] != [AddressOrigin::User]
    }

    /// True until the first try has ended of what the user or a member told, or led to a
    /// member the last time. What multicast alone says does not count: on a local network,
    /// anybody can say anything.
    pub(crate) fn awaits_first_try(&self) -> bool {
        let is_told = self
            .origins
            .iter()
            .any(|origin| *origin != AddressOrigin::Link);
        is_told && self.failures == 0 && self.reached.is_none()
    }

    /// How this node came by it, as far as that bounds what it may cost.
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

    /// Who spoke of it; never empty.
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

    /// A try begins.
    pub(crate) fn begin(&mut self, class: usize, now: Instant) {
        self.dialling = Some(class);
        self.last_dial = Some(now);
        self.demanded = self.expected();
    }

    /// `id` answered.
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

    /// The try failed; `address` is its own.
    pub(crate) fn failed(&mut self, address: &Address, error: &Error, now: Instant) -> DialFailure {
        self.dialling = None;
        // Whoever was said to be there is not: the address is none of its addresses any more.
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

    /// How long not even fresh claims get the address another try.
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
            // A member was there: this may be a forwarder in front of it, or it is just stopping.
            _ if matches!(self.belief, Belief::Reached(_)) => None,
            _ => Some(OTHER_PROGRAM),
        }
    }

    /// Whoever was there is not any more: who is?
    pub(crate) fn release(&mut self, now: Instant) {
        self.belief = Belief::Unknown;
        self.due = now;
    }

    /// Not to be dialled just now.
    pub(crate) fn delay(&mut self, until: Instant) {
        self.due = self.due.max(until);
    }

    /// Somebody unknown says that a member is there at this moment.
    pub(crate) fn nudge(&mut self, now: Instant) {
        self.hasten(NUDGED, now);
    }

    /// A member, authenticated, says that it is there at this moment. It knows the password, so a
    /// refusal from before is void.
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
