//! What members tell each other of third ones, and when.
//!
//! Every hello carries a digest of the ids that its sender is in contact with. Members with the
//! same digest have nothing to tell each other, so an idle network sends no lists. Whoever sees
//! another digest asks for what it does not know, and names what it knows. Who came lately is also
//! told without being asked, to a few: members in the order of their ids form a ring, and each
//! passes news on to those at distances 1, 2, 4 and so on, so that news go round in as many steps
//! as the number of members has binary digits.

use std::time::{Duration, Instant};

use super::contacts::FEW;
use super::{KnownMember, KnownMembers, MemberTable, State};
use crate::model::PeerId;
use crate::protocol::wire::{ContactDigest, IdPrefix};

/// A member that differs gets this long to hear from newcomers themselves before it is asked.
const ASK_DELAY: Duration = Duration::from_secs(1);

/// The minimum time between two questions for members, plus [`ASK_GAP_PER_MEMBER`] for each member
/// that a question names.
const ASK_GAP: Duration = Duration::from_millis(50);
const ASK_GAP_PER_MEMBER: Duration = Duration::from_millis(2);

/// Whoever had a digest when it was asked is not asked again for this long while it has it.
const HEARD_OUT: Duration = Duration::from_secs(600);

/// The maximum number of digests that are remembered as heard out.
const MAX_HEARD_OUT: usize = 64;

/// A first hello names up to this many ids without being asked: it may save a second one.
const MAX_UNASKED: usize = 32;

/// The maximum number of newcomers that a hello names without being asked.
const MAX_NEWS: usize = 16;

/// The minimum time between news to one member, plus [`GOSSIP_GAP_PER_MEMBER`] for each member.
/// Newcomers dial everyone themselves, so news matter only to members whose dials fail.
const GOSSIP_GAP: Duration = Duration::from_secs(1);
const GOSSIP_GAP_PER_MEMBER: Duration = Duration::from_millis(40);

/// Which members a hello describes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selection<'a> {
    /// Everybody.
    All,
    /// Those that are not among these, which ascend.
    AllBut(&'a [IdPrefix]),
    /// Those that came since, the last [`MAX_NEWS`] of them.
    Since(Instant),
}

/// What is known of others' contacts.
#[derive(Debug)]
pub(super) struct Gossip {
    /// Digests of contacts that would bring nothing new, and since when.
    heard_out: Vec<(ContactDigest, Instant)>,
    /// The next question may go out at this time.
    next_question: Instant,
}

impl Gossip {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard_out: Vec::new(),
            next_question: now,
        }
    }

    fn is_heard_out(&self, digest: ContactDigest, now: Instant) -> bool {
        let lately = |since: Instant| now.saturating_duration_since(since) < HEARD_OUT;
        let mut known = self.heard_out.iter();
        known.any(|(known, since)| *known == digest && lately(*since))
    }

    fn hear_out(&mut self, digest: ContactDigest, now: Instant) {
        self.heard_out.retain(|(known, _)| *known != digest);
        if self.heard_out.len() >= MAX_HEARD_OUT {
            self.heard_out.remove(0);
        }
        self.heard_out.push((digest, now));
    }

    /// Notes that a member was lost: others may know where it is now.
    pub(super) fn forget_answers(&mut self) {
        self.heard_out.clear();
    }

    /// Returns when the next question may be asked, of `count` ids, and takes that time.
    fn take_turn(&mut self, count: usize, now: Instant) -> Instant {
        let at = self.next_question.max(now + ASK_DELAY);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.next_question = at + ASK_GAP + ASK_GAP_PER_MEMBER.saturating_mul(count);
        at
    }
}

impl Selection<'_> {
    /// Returns those of `members` to describe, of whom `may_be_told` is true.
    pub(super) fn of<'m>(
        self,
        members: &'m KnownMembers,
        may_be_told: impl Fn(&(&'m PeerId, &'m KnownMember)) -> bool,
    ) -> Vec<(&'m PeerId, &'m KnownMember)> {
        let all = members.iter().filter(&may_be_told);
        match self {
            Self::All => all.collect(),
            Self::AllBut(known) => {
                let is_new = |id| known.binary_search(&IdPrefix::of(id)).is_err();
                all.filter(|(id, _)| is_new(**id)).collect()
            }
            Self::Since(at) => {
                let latest = members.since(at).filter(may_be_told);
                latest.take(MAX_NEWS).collect()
            }
        }
    }
}

impl MemberTable {
    /// Returns what a hello to `callee` carries: the digest, the known ids if it asks for others,
    /// and which members it describes.
    pub(crate) fn telling(
        &mut self,
        callee: PeerId,
        now: Instant,
    ) -> (ContactDigest, Option<Vec<IdPrefix>>, Selection<'static>) {
        let contacts = self.contacts(now);
        let (digest, is_small) = (contacts.digest, contacts.ids.len() <= MAX_UNASKED);
        // Whoever has this digest when this node has another is merely behind.
        self.gossip.hear_out(digest, now);
        let told = self.change(callee, |entry| {
            let is_present = entry.state == State::Present;
            is_present.then(|| (std::mem::take(&mut entry.is_asked), entry.told))
        });
        let (asks, since) = told.flatten().unwrap_or((is_small, None));
        let known = asks.then(|| {
            let ids = self.contacts(now).ids.iter();
            ids.map(|id| IdPrefix::of(*id)).collect()
        });
        (digest, known, Selection::Since(since.unwrap_or(now)))
    }

    /// Compares the contacts of `id` with this node's, and asks it for others if it has any.
    /// `is_answer` if it has just named all others.
    pub(crate) fn compare(
        &mut self,
        id: PeerId,
        theirs: Option<ContactDigest>,
        is_answer: bool,
        now: Instant,
    ) {
        self.change(id, |entry| entry.contacts = theirs);
        let Some(theirs) = theirs else {
            return;
        };
        if is_answer {
            self.gossip.hear_out(theirs, now);
        }
        if self.gossip.is_heard_out(theirs, now) || self.digest(now) == theirs {
            return;
        }
        let member = self.members.get(&id);
        if member.is_some_and(|entry| entry.state == State::Present && !entry.is_asked) {
            let at = self.gossip.take_turn(self.members.len(), now);
            self.change(id, |entry| {
                entry.is_asked = true;
                entry.ask_by(at, Duration::ZERO);
            });
        }
    }

    /// Schedules hellos to some members if there are news for them.
    pub(super) fn spread_news(&mut self, now: Instant) {
        if self.news_due.is_none_or(|due| due > now) {
            return;
        }
        self.news_due = None;
        let count = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let gap = GOSSIP_GAP + GOSSIP_GAP_PER_MEMBER.saturating_mul(count);
        for id in self.neighbours() {
            if self.has_news_for(id) {
                self.change(id, |entry| entry.ask_by(now, gap));
            }
        }
    }

    /// Returns true if anybody else has come since the last hello to `id`.
    fn has_news_for(&self, id: PeerId) -> bool {
        let last = self.members.get(&id).and_then(|entry| entry.last_hello);
        let is_other =
            |(other, entry): (&PeerId, &KnownMember)| *other != id && entry.state == State::Present;
        match last {
            Some(last) => self.members.since(last).any(is_other),
            None => self.members.iter().any(is_other),
        }
    }

    /// Returns the members that this node passes news on to.
    fn neighbours(&self) -> Vec<PeerId> {
        let present = self.present().map(|(id, ..)| id);
        let mut ring: Vec<_> = present.chain([self.me]).collect();
        ring.sort_unstable();
        let own = ring.binary_search(&self.me).unwrap_or(0);
        let step = |distance: usize| ring[(own + distance) % ring.len()];
        if ring.len() <= FEW {
            (1..ring.len()).map(step).collect()
        } else {
            let doubled = std::iter::successors(Some(1), |distance| Some(distance * 2));
            let within = doubled.take_while(|distance| *distance < ring.len());
            within.map(step).collect()
        }
    }
}
