//! The contents of a hello, and how one is taken in: the same in both directions.
//!
//! A hello names its sender and the members that the sender is in contact with. Its statements
//! about the sender are believed as far as the sender can know them; those about others are hearsay
//! (see [`super::book`]). It never admits anybody: each pair of members runs its own pairing.

use std::net::IpAddr;
use std::time::Instant;

use super::address;
use super::address::{Reach, canonical, is_of_use_to};
use super::book::MAX_UNPROVEN;
use super::candidate::AddressOrigin;
use super::table::{AddressBlock, MemberTable, Selection};
use crate::model::{Address, PeerId};
use crate::protocol::wire::{Hello, MemberRecord};

/// How this node introduces itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    /// This node's peer id.
    pub(crate) id: PeerId,
    /// This node's own name for itself.
    pub(crate) name: String,
    /// The address that the user wants others to dial; `None` leaves it to what they see.
    pub(crate) advertise: Option<Address>,
    /// The port that it listens on; 0 when it does not.
    pub(crate) port: u16,
}

impl Introduction {
    /// Returns the hello with which to call `callee`, which is seen within `reach`.
    pub(crate) fn call(
        &self,
        table: &mut MemberTable,
        callee: PeerId,
        reach: Reach,
        now: Instant,
    ) -> Hello {
        let (digest, known, newcomers) = table.telling(callee, now);
        Hello {
            digest: Some(digest),
            known,
            ..self.hello(table.records(newcomers, callee, reach, now))
        }
    }

    /// Returns the hello that answers `theirs`, with which `caller` called, which is seen
    /// within `reach`.
    pub(crate) fn answer(
        &self,
        table: &mut MemberTable,
        caller: PeerId,
        theirs: &Hello,
        reach: Reach,
        now: Instant,
    ) -> Hello {
        let asked_for = match (&theirs.known, theirs.digest) {
            (Some(known), _) => Some(Selection::AllBut(known)),
            (None, None) => Some(Selection::All),
            (None, Some(_)) => None,
        };
        let members = asked_for.map(|asked_for| table.records(asked_for, caller, reach, now));
        Hello {
            digest: Some(table.digest(now)),
            ..self.hello(members.unwrap_or_default())
        }
    }

    fn hello(&self, members: Vec<MemberRecord>) -> Hello {
        Hello {
            protocol: Hello::PROTOCOL,
            sender: MemberRecord {
                id: self.id,
                name: self.name.clone(),
                addresses: self.advertise.iter().cloned().collect(),
            },
            port: self.port,
            members,
            digest: None,
            known: None,
        }
    }
}

/// Takes in `theirs`, which the authenticated member `caller` sent from `remote`.
pub(crate) fn called(
    table: &mut MemberTable,
    caller: PeerId,
    remote: IpAddr,
    theirs: &Hello,
    now: Instant,
) {
    if theirs.sender.id != caller || caller == table.me() {
        return;
    }
    let reach = address::reach_of_ip(remote);
    let mut addresses = usable(&theirs.sender.addresses, reach);
    if theirs.port == 0 {
        addresses.clear();
    } else if theirs.sender.addresses.is_empty() {
        addresses.extend(address::observed(remote, theirs.port));
    }
    let network = AddressBlock::of_ip(remote);
    table.called(caller, &theirs.sender.name, network, &addresses, now);
    hearsay(table, caller, reach, &theirs.members, now);
    table.compare(caller, theirs.digest, false, now);
}

/// Takes in `theirs`, with which the member `callee` answered at `address`. `was_asked` if it was
/// asked for everybody whom this node does not know.
pub(crate) fn answered(
    table: &mut MemberTable,
    callee: PeerId,
    address: &Address,
    theirs: &Hello,
    was_asked: bool,
    now: Instant,
) {
    let reach = address::reach(address);
    if theirs.port != 0 {
        table.declared(callee, &usable(&theirs.sender.addresses, reach), now);
    }
    hearsay(table, callee, reach, &theirs.members, now);
    table.compare(callee, theirs.digest, was_asked, now);
}

fn hearsay(
    table: &mut MemberTable,
    origin: PeerId,
    reach: Reach,
    members: &[MemberRecord],
    now: Instant,
) {
    for (address, id) in worth_hearing(table, reach, members) {
        table.learn(address, id, AddressOrigin::Member(origin), now);
    }
}

/// Returns the addresses that `members` claim, and whose they are. Finding room for a new one walks
/// the book, so one message may add only so many; known addresses are free.
fn worth_hearing(
    table: &MemberTable,
    reach: Reach,
    members: &[MemberRecord],
) -> Vec<(Address, PeerId)> {
    let mut unknown = 0;
    let mut is_welcome = |address: &Address| {
        let is_unknown = table.is_unknown(address);
        unknown += usize::from(is_unknown);
        !is_unknown || unknown <= MAX_UNPROVEN
    };
    let mut learned = Vec::new();
    for record in members.iter().take(Hello::MAX_MEMBERS) {
        let addresses = usable(&record.addresses, reach).into_iter();
        let welcome = addresses.filter(|address| is_welcome(address));
        learned.extend(welcome.map(|address| (address, record.id)));
    }
    learned
}

/// Returns the addresses that can be dialled from here, when sent by a member within `reach`.
fn usable(addresses: &[Address], reach: Reach) -> Vec<Address> {
    addresses
        .iter()
        .take(MemberRecord::MAX_ADDRESSES)
        .filter_map(canonical)
        .filter(|address| is_of_use_to(address, reach))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u16) -> MemberRecord {
        let [high, low] = n.to_be_bytes();
        MemberRecord {
            id: PeerId::from_bytes([[high, low]; 16].concat().try_into().unwrap_or([0; 32])),
            name: "x".into(),
            addresses: (1..=4)
                .map(|last| Address::new(format!("10.{high}.{low}.{last}"), 7))
                .collect(),
        }
    }

    #[test]
    fn one_hello_carries_a_bounded_update() {
        let now = Instant::now();
        let mut table = MemberTable::new(PeerId::from_bytes([1; 32]), now);
        let known = record(1000);
        for address in &known.addresses {
            table.learn(address.clone(), known.id, AddressOrigin::Link, now);
        }
        let members: Vec<_> = (0..1000).map(record).chain([known]).collect();
        let learned = worth_hearing(&table, Reach::Wide, &members);
        // Known addresses count although no new ones are accepted any more.
        assert_eq!(learned.len(), MAX_UNPROVEN + 4);
        let more: Vec<_> = (0..3000).map(record).collect();
        let learned = worth_hearing(&table, Reach::Wide, &more);
        assert!(learned.len() <= MAX_UNPROVEN + 4);
    }
}
