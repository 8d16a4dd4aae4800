//! The contents of a hello, and how one is taken in: the same in both directions.
//!
//! A hello names its sender and the members that the sender is in contact with. Its statements
//! about the sender are believed as far as the sender can know them; those about others are hearsay
//! (see [`super::book`]). It never admits anybody: each pair of members runs its own pairing.

use std::time::Instant;

use super::address;
use super::address::{Scope, canonical, is_of_use_to};
use super::book::MAX_UNPROVEN;
use super::candidate::AddressOrigin;
use super::table::{AddressBlock, MemberTable, Selection};
use crate::model::{Address, CallSource, PeerId, ReachAddress, TcpAddress};
use crate::protocol::wire::{Hello, MemberRecord};

/// How this node introduces itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    /// This node's peer id.
    pub(crate) id: PeerId,
    /// This node's own name for itself.
    pub(crate) name: String,
    /// The address that the user wants others to dial; `None` leaves it to what they see.
    pub(crate) advertise: Option<TcpAddress>,
    /// Where others find it through NATs, if they can.
    pub(crate) reach: Option<ReachAddress>,
    /// The port that it listens on; 0 when it does not.
    pub(crate) port: u16,
}

impl Introduction {
    /// Returns the hello with which to call `callee`, which is seen within `scope`.
    pub(crate) fn call(
        &self,
        table: &mut MemberTable,
        callee: PeerId,
        scope: Scope,
        now: Instant,
    ) -> Hello {
        let (digest, known, newcomers) = table.telling(callee, now);
        Hello {
            digest: Some(digest),
            known,
            ..self.hello(table.records(newcomers, callee, scope, now))
        }
    }

    /// Returns the hello that answers `theirs`, with which `caller` called, which is seen
    /// within `scope`.
    pub(crate) fn answer(
        &self,
        table: &mut MemberTable,
        caller: PeerId,
        theirs: &Hello,
        scope: Scope,
        now: Instant,
    ) -> Hello {
        let asked_for = match (&theirs.known, theirs.digest) {
            (Some(known), _) => Some(Selection::AllBut(known)),
            (None, None) => Some(Selection::All),
            (None, Some(_)) => None,
        };
        let members = asked_for.map(|asked_for| table.records(asked_for, caller, scope, now));
        Hello {
            digest: Some(table.digest(now)),
            ..self.hello(members.unwrap_or_default())
        }
    }

    fn addresses(&self) -> Vec<Address> {
        let advertised = self.advertise.iter().cloned().map(Address::Tcp);
        let reach = self.reach.iter().cloned().map(Address::Reach);
        advertised.chain(reach).collect()
    }

    fn hello(&self, members: Vec<MemberRecord>) -> Hello {
        Hello {
            protocol: Hello::PROTOCOL,
            sender: MemberRecord {
                id: self.id,
                name: self.name.clone(),
                addresses: self.addresses(),
            },
            port: self.port,
            members,
            digest: None,
            known: None,
        }
    }
}

/// Takes in `theirs`, which the authenticated member `caller` sent from `source`.
pub(crate) fn called(
    table: &mut MemberTable,
    caller: PeerId,
    source: CallSource,
    theirs: &Hello,
    now: Instant,
) {
    if theirs.sender.id != caller || caller == table.me() {
        return;
    }
    let scope = address::scope_of_source(source);
    let mut addresses = usable(&theirs.sender.addresses, scope);
    let names_port = theirs.sender.addresses.iter().any(|a| a.as_tcp().is_some());
    match source {
        _ if theirs.port == 0 => addresses.clear(),
        CallSource::Tcp(remote) if !names_port => {
            addresses.extend(address::observed(remote, theirs.port));
        }
        // Behind the address of a router, that port may be another machine's.
        _ => {}
    }
    let network = AddressBlock::of_source(source);
    table.called(caller, &theirs.sender.name, network, &addresses, now);
    hearsay(table, caller, scope, &theirs.members, now);
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
    let scope = address::scope(address);
    if theirs.port != 0 {
        table.declared(callee, &usable(&theirs.sender.addresses, scope), now);
    }
    hearsay(table, callee, scope, &theirs.members, now);
    table.compare(callee, theirs.digest, was_asked, now);
}

fn hearsay(
    table: &mut MemberTable,
    origin: PeerId,
    scope: Scope,
    members: &[MemberRecord],
    now: Instant,
) {
    for (address, id) in worth_hearing(table, scope, members) {
        table.learn(address, id, AddressOrigin::Member(origin), now);
    }
}

/// Returns the addresses that `members` claim, and whose they are. Finding room for a new one walks
/// the book, so one message may add only so many; known addresses are free.
fn worth_hearing(
    table: &MemberTable,
    scope: Scope,
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
        let addresses = usable(&record.addresses, scope).into_iter();
        let welcome = addresses.filter(|address| is_welcome(address));
        learned.extend(welcome.map(|address| (address, record.id)));
    }
    learned
}

/// Returns the addresses that can be dialled from here, when sent by a member within `scope`.
fn usable(addresses: &[Address], scope: Scope) -> Vec<Address> {
    addresses
        .iter()
        .take(MemberRecord::MAX_ADDRESSES + MemberRecord::MAX_REACH)
        .filter_map(canonical)
        .filter(|address| is_of_use_to(address, scope))
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
        let learned = worth_hearing(&table, Scope::Wide, &members);
        // Known addresses count although no new ones are accepted any more.
        assert_eq!(learned.len(), MAX_UNPROVEN + 4);
        let more: Vec<_> = (0..3000).map(record).collect();
        let learned = worth_hearing(&table, Scope::Wide, &more);
        assert!(learned.len() <= MAX_UNPROVEN + 4);
    }
}
