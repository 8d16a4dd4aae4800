//! Who is a member, who is there, and what to do next: the decisions of membership, without IO
//! and without a clock.
//!
//! Workers take a [`WorkerTask`] from [`MemberTable::next`], do it, and report what came of it. Two
//! kinds of work exist. Addresses of the [book](super::book) are dialled until a member answers
//! there; a member that is connected gets a hello every few seconds, which proves it alive, keeps
//! the connection warm, and tells both sides whom the other knows.
//!
//! A member is `Present` when it answered on the connection that is held to it. A call that fails
//! makes it `Suspect` at once, so that nobody else waits for it, and a short hello right away
//! decides whether that was just one slow call. While it stays suspect, its connection is probed
//! with backoff and its other addresses are dialled. A member that called but was not reached yet
//! is `Unreached`.
//!
//! The table is bounded, in all and for each network, so that nobody fills it with keys of his own
//! and keeps newcomers out.

mod bounds;
mod outcome;
mod schedule;
mod views;

pub(crate) use bounds::AddressBlock;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::book::Book;
use super::candidate::{AddressOrigin, Belief, DialFailure, OwnerCertainty};
use super::mdns::Sighting;
use crate::auth::AddressSource;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::protocol::wire::{FaultCode, MemberRecord};

/// How many workers act on one table.
pub(crate) const WORKERS: usize = 16;

/// How many classes of work there are; see [`schedule`].
const CLASSES: usize = 5;

/// News of a member is collected for this long before the others are told.
const GOSSIP_DELAY: Duration = Duration::from_millis(200);

/// A member of which there are news from elsewhere is asked no more often than this whether it is
/// where it was: anyone on the link can make up news.
const DOUBT_GAP: Duration = Duration::from_secs(2);

/// Addresses are written to disk this long after a change.
const SAVE_DELAY: Duration = Duration::from_secs(2);

/// What a worker is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum WorkerTask {
    /// Connect, pair if need be, and exchange hellos; report by [`MemberTable::dialled`].
    Dial {
        /// The address to dial.
        address: Address,
        /// The only identity that is accepted there.
        expected: Option<PeerId>,
        /// How this node came by it.
        source: AddressSource,
    },
    /// Exchange hellos over the connection to a member; report by [`MemberTable::greeted`].
    Hello {
        /// The member to call.
        id: PeerId,
        /// To be handed back.
        turn: u64,
        /// How long it may take.
        within: Duration,
    },
    /// Write the addresses to disk.
    Save,
}

/// What people may want to know; each is reported once.
#[derive(Clone, Debug)]
pub(crate) enum MembershipEvent {
    /// A member was reached for the first time.
    Joined(PeerId, String, Address),
    /// A member that was away was reached.
    Back(PeerId, String, Address),
    /// A member does not answer.
    Away(PeerId, String, Error),
    /// A member was not heard of for so long that it was forgotten.
    Forgotten(PeerId, String),
    /// An address could not be used.
    Failed(Address, Error, DialFailure),
}

/// What is to become of the connection that a task used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is the one to the member from now on, or still.
    Keep,
    /// It is of no use.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unreached,
    Present,
    Suspect,
}

#[derive(Debug)]
struct KnownMember {
    name: String,
    state: State,
    /// Where it was last reached, or called from.
    network: AddressBlock,
    /// Where the connection leads; `None` when there is none to probe.
    address: Option<Address>,
    /// The last sign of life.
    seen: Instant,
    /// Since when it answers, or does not.
    since: Instant,
    /// What last went wrong with it.
    trouble: Option<(Error, Instant)>,
    hello_due: Instant,
    last_hello: Option<Instant>,
    /// A hello is under way, in this class.
    busy: Option<usize>,
    /// There are news of it at another address, or this node has another one: the
    /// next hello decides.
    doubted: bool,
    /// Hellos in a row that failed.
    failures: u32,
    /// `Away` was reported.
    away: bool,
    /// Counts the connections, so that what comes of an old one is not held against a new one.
    turn: u64,
}

impl KnownMember {
    /// Nothing is lost that is not heard of again: it was never reached, or does not answer.
    fn may_go(&self) -> bool {
        let is_away = self.state == State::Suspect && self.away;
        self.busy.is_none() && (self.state == State::Unreached || is_away)
    }

    fn ask_by(&mut self, at: Instant, gap: Duration) {
        let earliest = self.last_hello.map_or(at, |last| at.max(last + gap));
        self.hello_due = self.hello_due.min(earliest);
    }
}

/// The state of membership at one node.
#[derive(Debug)]
pub(crate) struct MemberTable {
    me: PeerId,
    book: Book,
    members: HashMap<PeerId, KnownMember>,
    events: Vec<MembershipEvent>,
    /// How many workers each class of work occupies.
    lanes: [usize; CLASSES],
    save_due: Option<Instant>,
    swept: Instant,
    revision: u64,
}

impl MemberTable {
    /// An empty table of the node `me`.
    pub(crate) fn new(me: PeerId, now: Instant) -> Self {
        Self {
            me,
            book: Book::default(),
            members: HashMap::new(),
            events: Vec::new(),
            lanes: [0; CLASSES],
            save_due: None,
            swept: now,
            revision: 0,
        }
    }

    /// The user named `address`, in its one spelling.
    pub(crate) fn name(&mut self, address: Address, pinned: Option<PeerId>, now: Instant) {
        self.book.name(address, pinned, now);
    }

    /// `origin` says that `id` is at `address`, in its one spelling.
    pub(crate) fn learn(
        &mut self,
        address: Address,
        id: PeerId,
        origin: AddressOrigin,
        now: Instant,
    ) {
        if id == self.me || origin == AddressOrigin::Member(id) {
            return;
        }
        let owner = self.owner_of(&address);
        self.book
            .claim(&address, Belief::Said(id), origin, owner, now);
    }

    /// Multicast says that `id` is at the addresses of `sighting`, in their one spelling. True when
    /// `id` is there already, and needs not be mentioned again.
    pub(crate) fn sighted(&mut self, sighting: &Sighting, now: Instant) -> bool {
        let id = sighting.id;
        if id == self.me {
            return true;
        }
        for (address, is_source) in &sighting.addresses {
            if *is_source {
                let owner = self.owner_of(address);
                self.book.claim_from_source(address, id, owner, now);
            } else {
                self.learn(address.clone(), id, AddressOrigin::Link, now);
            }
            if !sighting.is_repeated {
                self.book.nudge(address, now);
            }
        }
        let Some(entry) = self.members.get(&id) else {
            return false;
        };
        let (is_present, at) = (entry.state == State::Present, entry.address.as_ref());
        let is_announced = sighting
            .addresses
            .iter()
            .any(|(announced, _)| Some(announced) == at);
        if !is_announced && !sighting.is_repeated {
            self.doubt(id, now);
        }
        is_present
    }

    /// There are news of `id` at another address than the one where it is connected: it has
    /// several, or has left that one. Whether it still answers there is found out at once.
    fn doubt(&mut self, id: PeerId, now: Instant) {
        let entry = self.members.get_mut(&id);
        if let Some(entry) = entry.filter(|entry| entry.state == State::Present) {
            entry.doubted = true;
            entry.ask_by(now, DOUBT_GAP);
        }
    }

    /// This node has another address by now: connections that were made from the old one may be
    /// dead, and who was out of reach may be near.
    pub(crate) fn relocated(&mut self, now: Instant) {
        let suspects = self.members.iter_mut().filter_map(|(id, entry)| {
            entry.doubted = true;
            entry.hello_due = now;
            (entry.state == State::Suspect).then_some(*id)
        });
        for id in suspects.collect::<Vec<_>>() {
            self.book.seek(id, now);
        }
    }

    /// The member `id`, authenticated, called from `network` and says that it can be dialled at
    /// `addresses`, in their one spelling. None means that it cannot be dialled and only asks.
    pub(crate) fn called(
        &mut self,
        id: PeerId,
        name: &str,
        network: AddressBlock,
        addresses: &[Address],
        now: Instant,
    ) {
        if id == self.me || addresses.is_empty() {
            return;
        }
        let Some(state) = self.sign_of_life(id, name, network, now) else {
            return;
        };
        self.declared(id, addresses, now);
        match state {
            State::Present if addresses.iter().any(|a| self.address(id) == Some(a)) => {}
            // It has more addresses than one, or it has left the one that is connected.
            State::Present => {
                self.doubt(id, now);
                for address in addresses {
                    self.book.summon(address, now);
                }
            }
            State::Unreached | State::Suspect => {
                if let Some(entry) = self.members.get_mut(&id) {
                    entry.failures = 0;
                }
                self.ask(id, now);
                for address in addresses {
                    self.book.summon(address, now);
                }
            }
        }
    }

    /// `id` itself says where it can be dialled.
    pub(crate) fn declared(&mut self, id: PeerId, addresses: &[Address], now: Instant) {
        for address in addresses.iter().take(MemberRecord::MAX_ADDRESSES) {
            let owner = self.owner_of(address);
            let (claim, origin) = (Belief::Declared(id), AddressOrigin::Member(id));
            self.book.claim(address, claim, origin, owner, now);
        }
    }

    /// True for addresses that nobody has told this node of yet.
    pub(crate) fn is_unknown(&self, address: &Address) -> bool {
        self.book.get(address).is_none()
    }

    /// Where a member is that answered at `address`.
    fn network_of(&self, address: &Address) -> AddressBlock {
        if self.book.get(address).is_some_and(|c| c.named.is_some()) {
            AddressBlock::Typed
        } else {
            AddressBlock::of_address(address)
        }
    }

    /// Notes that `id` lives in `network`; `None` when there is no room for one more member.
    fn sign_of_life(
        &mut self,
        id: PeerId,
        name: &str,
        network: AddressBlock,
        now: Instant,
    ) -> Option<State> {
        if !self.members.contains_key(&id) && !self.make_room(network, now) {
            return None;
        }
        let entry = self.members.entry(id).or_insert_with(|| KnownMember {
            name: name.to_owned(),
            state: State::Unreached,
            network,
            address: None,
            seen: now,
            since: now,
            trouble: None,
            hello_due: now,
            last_hello: None,
            busy: None,
            doubted: false,
            failures: 0,
            away: false,
            turn: 0,
        });
        entry.seen = now;
        if entry.name != name {
            name.clone_into(&mut entry.name);
            self.revision += 1;
        }
        Some(entry.state)
    }

    fn ask(&mut self, id: PeerId, now: Instant) {
        if let Some(entry) = self.members.get_mut(&id) {
            entry.ask_by(now, Duration::from_secs(1));
        }
    }

    /// A call to `id` failed with `error`. True when the member is suspected because of it.
    pub(crate) fn suspect(&mut self, id: PeerId, error: &Error, now: Instant) -> bool {
        let telling = match error {
            // A full queue says something about this node's demands, not about the member.
            Error::Busy { .. } => false,
            Error::Refused { .. }
            | Error::Later { .. }
            | Error::NotANode { .. }
            | Error::OtherIdentity { .. } => true,
            error => error.is_absence(),
        };
        if let Some(entry) = self.members.get_mut(&id)
            && (telling || is_trouble(error))
        {
            entry.trouble = Some((error.clone(), now));
        }
        match self.members.get_mut(&id) {
            Some(entry) if telling && entry.state == State::Present => {
                entry.state = State::Suspect;
                entry.since = now;
                entry.failures = 0;
                entry.hello_due = now;
                self.revision += 1;
                true
            }
            _ => false,
        }
    }

    /// How sure it is that whoever is believed to be at `address` is there.
    fn owner_of(&self, address: &Address) -> OwnerCertainty {
        let Some(owner) = self.book.get(address).and_then(|c| c.belief.owner()) else {
            return OwnerCertainty::Absent;
        };
        match self.members.get(&owner) {
            _ if owner == self.me => OwnerCertainty::Here,
            Some(entry) if entry.state == State::Present => {
                if entry.address.as_ref() == Some(address) {
                    OwnerCertainty::Here
                } else {
                    OwnerCertainty::Elsewhere
                }
            }
            _ => OwnerCertainty::Absent,
        }
    }

    /// True when dialling `address` would add nothing: whoever is believed to be there is
    /// connected, or is being probed at that very address, or is this node.
    fn is_covered(&self, address: &Address, belief: Belief) -> bool {
        let Some(owner) = belief.owner() else {
            return false;
        };
        owner == self.me
            || self.members.get(&owner).is_some_and(|entry| {
                entry.state == State::Present || entry.address.as_ref() == Some(address)
            })
    }
}

/// True for what people should know of a member that is there all the same. That one file is not
/// there, has changed or must not be read, is nobody's fault.
fn is_trouble(error: &Error) -> bool {
    match error {
        Error::Busy { .. } | Error::Slow { .. } => true,
        Error::Misbehaved { .. } | Error::WrongBytes { .. } => true,
        Error::Fault { fault, .. } => !fault.is_absence() && fault.code != FaultCode::Forbidden,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
