//! Decides who is a member, who is present, and what to do next: the decisions of membership,
//! without IO and without a clock.
//!
//! Workers take a [`WorkerTask`] from [`MemberTable::next`], run it, and report the outcome. There
//! are two kinds of work. Addresses of the [book](super::book) are dialled until a member answers
//! there. A connected member gets a hello now and then, which proves it alive, keeps the connection
//! warm, and tells each side whether the other knows more members.
//!
//! A member is `Present` when it answered on the connection held to it. A call that fails makes
//! it `Suspect` at once, so that nobody else waits for it, and a short hello right away decides
//! whether that was just one slow call. While it stays suspect, its connection is probed with
//! backoff and its other addresses are dialled. A member that called but has not been reached
//! yet is `Unreached`.
//!
//! The table is bounded, in total and per network, so that nobody can fill it with their own keys
//! and keep newcomers out.

mod bounds;
mod contacts;
mod gossip;
mod known;
mod outcome;
mod schedule;
mod views;

pub(crate) use bounds::AddressBlock;
pub(crate) use gossip::Selection;

use contacts::Contacts;
use gossip::Gossip;
use known::{KnownMember, KnownMembers, State};

use std::time::{Duration, Instant};

use super::book::{Book, Cover};
use super::candidate::{AddressOrigin, Belief, CLASSES, DialFailure, OwnerCertainty};
use super::mdns::Sighting;
use crate::auth::AddressSource;
use crate::concurrency::backoff::spread;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::protocol::wire::{FaultCode, MemberRecord};

/// How many workers act on one table.
pub(crate) const WORKERS: usize = 16;

/// Changes of a member are collected for this long before they are passed on.
const GOSSIP_DELAY: Duration = Duration::from_millis(200);

/// The minimum time between checks of whether a member is still where it was, after a report that
/// it is elsewhere: anyone on the link can forge such a report.
const DOUBT_GAP: Duration = Duration::from_secs(2);

/// Addresses are written to disk this long after a change.
const SAVE_DELAY: Duration = Duration::from_secs(2);

/// A task for a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum WorkerTask {
    /// Connect, pair if necessary, and exchange hellos; report by [`MemberTable::dialled`].
    Dial {
        /// The address to dial.
        address: Address,
        /// The only identity accepted there.
        expected: Option<PeerId>,
        /// How this node learned the address.
        source: AddressSource,
    },
    /// Exchange hellos over the connection to a member; report by [`MemberTable::greeted`].
    Hello {
        /// The member to call.
        id: PeerId,
        /// The turn to hand back with the outcome.
        turn: u64,
        /// How long it may take.
        within: Duration,
    },
    /// Write the addresses to disk.
    Save,
}

/// An event of interest to people; each is reported once.
#[derive(Clone, Debug)]
pub(crate) enum MembershipEvent {
    /// A member was reached for the first time.
    Joined(PeerId, String, Address),
    /// A member that was away was reached.
    Back(PeerId, String, Address),
    /// A member that is here was reached in a better way.
    Rerouted(PeerId, String, Address),
    /// A member does not answer.
    Away(PeerId, String, Error),
    /// Nothing was heard of a member for so long that it was forgotten.
    Forgotten(PeerId, String),
    /// An address could not be used.
    Failed(Address, Error, DialFailure),
}

/// What to do with the connection that a task used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It becomes or remains the connection to the member.
    Keep,
    /// It is no longer of use.
    Close,
}

/// The state of membership at one node.
#[derive(Debug)]
pub(crate) struct MemberTable {
    me: PeerId,
    /// Others can call this node, so it is a member to them.
    is_dialable: bool,
    /// This node can dial through NATs.
    has_reach: bool,
    book: Book,
    members: KnownMembers,
    /// As they were told last.
    contacts: Option<Contacts>,
    gossip: Gossip,
    events: Vec<MembershipEvent>,
    /// How many workers each class of work occupies.
    running: [usize; CLASSES],
    save_due: Option<Instant>,
    /// When members are told of who has come.
    news_due: Option<Instant>,
    swept: Instant,
    revision: u64,
}

impl MemberTable {
    /// Creates an empty table for the node `me`.
    pub(crate) fn new(me: PeerId, now: Instant) -> Self {
        let mut book = Book::default();
        book.cover(me, Some(Cover::Everywhere));
        Self {
            me,
            is_dialable: true,
            has_reach: false,
            book,
            members: KnownMembers::default(),
            contacts: None,
            gossip: Gossip::new(now),
            events: Vec::new(),
            running: [0; CLASSES],
            save_due: None,
            news_due: None,
            swept: now,
            revision: 0,
        }
    }

    /// Makes this node one that only asks, or one that others can call.
    pub(crate) fn set_dialable(&mut self, is_dialable: bool) {
        self.is_dialable = is_dialable;
        self.contacts = None;
    }

    /// Makes this node one that can, or cannot, dial through NATs. If it cannot, it keeps none
    /// of the addresses behind them.
    pub(crate) fn set_reach(&mut self, has_reach: bool) {
        self.has_reach = has_reach;
    }

    fn can_dial(&self, address: &Address) -> bool {
        self.has_reach || address.as_reach().is_none()
    }

    /// Adds `address`, in canonical form, which the user named.
    pub(crate) fn name(&mut self, address: Address, pinned: Option<PeerId>, now: Instant) {
        self.book.name(address, pinned, now);
    }

    /// Notes that `origin` reported `id` at `address`, in canonical form.
    pub(crate) fn learn(
        &mut self,
        address: Address,
        id: PeerId,
        origin: AddressOrigin,
        now: Instant,
    ) {
        if id == self.me || origin == AddressOrigin::Member(id) || !self.can_dial(&address) {
            return;
        }
        let owner = self.owner_of(&address);
        self.book
            .claim(&address, Belief::Said(id), origin, owner, now);
    }

    /// Notes that multicast reported `id` at the addresses of `sighting`, in canonical form.
    /// Returns true when `id` is already present and need not be reported again.
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

    /// Handles a report of `id` at an address other than the connected one: the member has several,
    /// or has left that one. A hello checks at once whether it still answers there.
    fn doubt(&mut self, id: PeerId, now: Instant) {
        self.change(id, |entry| {
            if entry.state == State::Present {
                entry.doubted = true;
                entry.ask_by(now, DOUBT_GAP);
            }
        });
    }

    /// Notes that this node has a new address: connections made from the old one may be dead, and
    /// members that were out of reach may now be near.
    pub(crate) fn relocated(&mut self, now: Instant) {
        let all: Vec<PeerId> = self.members.iter().map(|(id, _)| *id).collect();
        for id in all {
            let state = self.change(id, |entry| {
                entry.doubted = true;
                entry.hurry(now);
                entry.state
            });
            if state == Some(State::Suspect) {
                self.book.seek(id, now);
            }
        }
    }

    /// Handles a call of the authenticated member `id` from `network`, which declares that it can
    /// be dialled at `addresses`, in canonical form. An empty list means that it cannot be dialled
    /// and only calls others.
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
            State::Present if addresses.iter().any(|a| self.address(id) == Some(a)) => {
                self.defer_hello(id, now);
            }
            // It has several addresses, or has left the connected one.
            State::Present => {
                self.doubt(id, now);
                for address in addresses {
                    self.book.summon(address, now);
                }
            }
            State::Unreached | State::Suspect => {
                self.change(id, |entry| entry.failures = 0);
                self.ask(id, now);
                for address in addresses {
                    self.book.summon(address, now);
                }
            }
        }
    }

    /// Notes the addresses at which `id` itself says that it can be dialled.
    pub(crate) fn declared(&mut self, id: PeerId, addresses: &[Address], now: Instant) {
        let addresses = addresses
            .iter()
            .filter(|address| self.has_reach || address.as_tcp().is_some());
        for address in addresses.take(MemberRecord::MAX_ADDRESSES) {
            let owner = self.owner_of(address);
            let (claim, origin) = (Belief::Declared(id), AddressOrigin::Member(id));
            self.book.claim(address, claim, origin, owner, now);
        }
    }

    /// Returns true for an address that nobody has reported to this node yet.
    pub(crate) fn is_unknown(&self, address: &Address) -> bool {
        self.book.get(address).is_none()
    }

    /// Returns the network of a member that answered at `address`.
    fn network_of(&self, address: &Address) -> AddressBlock {
        if self.book.get(address).is_some_and(|c| c.named.is_some()) {
            AddressBlock::Typed
        } else {
            AddressBlock::of_address(address)
        }
    }

    /// Notes that `id` lives in `network`. Returns `None` when there is no room for another member.
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
        if !self.members.contains_key(&id) {
            self.members
                .insert(id, KnownMember::new(name, network, now));
        }
        let (state, is_renamed) = self.change(id, |entry| {
            entry.seen = now;
            let is_renamed = entry.name != name;
            if is_renamed {
                name.clone_into(&mut entry.name);
            }
            (entry.state, is_renamed)
        })?;
        self.revision += u64::from(is_renamed);
        Some(state)
    }

    /// Changes what is known of the member `id`, if it is one. Dials that have become pointless or
    /// necessary thereby are left out or made from now on.
    fn change<T>(&mut self, id: PeerId, with: impl FnOnce(&mut KnownMember) -> T) -> Option<T> {
        let (result, is_covered_otherwise) = self.members.change(id, with)?;
        if is_covered_otherwise {
            let cover = self.members.get(&id).and_then(KnownMember::cover);
            self.book.cover(id, cover);
        }
        Some(result)
    }

    /// Puts off the hello to `id`, which has just shown that it is there. Every other one goes out
    /// all the same: it shows that this node's own connection still leads there.
    fn defer_hello(&mut self, id: PeerId, now: Instant) {
        let period = spread(self.members.refresh(), &id);
        self.change(id, |entry| {
            let latest = entry.last_hello.map_or(now, |last| last + 2 * period);
            entry.refresh_due = latest.min(now + period);
        });
    }

    fn ask(&mut self, id: PeerId, now: Instant) {
        self.change(id, |entry| entry.ask_by(now, Duration::from_secs(1)));
    }

    /// Handles a failed call to `id`. Returns true when `error` makes the member suspect.
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
        let is_suspect = self.change(id, |entry| {
            if telling || is_trouble(error) {
                entry.trouble = Some((error.clone(), now));
            }
            let is_suspect = telling && entry.state == State::Present;
            if is_suspect {
                entry.state = State::Suspect;
                entry.since = now;
                entry.failures = 0;
                entry.hurry(now);
            }
            is_suspect
        });
        let is_suspect = is_suspect == Some(true);
        self.revision += u64::from(is_suspect);
        is_suspect
    }

    /// Returns how certain it is that the supposed owner of `address` is there.
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
}

/// Returns true for errors that people should know of although the member is present. A single file
/// that is missing, changed or unreadable is nobody's fault.
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
mod reach_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
