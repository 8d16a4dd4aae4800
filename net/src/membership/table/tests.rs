//! Which members stay when there are more than the table can hold.

use std::net::{IpAddr, Ipv4Addr};

use super::bounds::MAX_FROM_NETWORK;
use super::*;
use crate::protocol::wire::Hello;
use crate::testing::peer_id as id;

const SECOND: Duration = Duration::from_secs(1);

fn ip(network: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + network as u32).into()
}

/// The address of member `n` in `network`.
fn at(network: usize, n: usize) -> Address {
    Address::new(ip(network).to_string(), 1000 + n as u16)
}

/// A table in which member `n` was reached in `network(n)`, for each of the first `count`.
fn reached(count: usize, network: impl Fn(usize) -> usize, now: Instant) -> MemberTable {
    let mut table = MemberTable::new(id(1_000_000), now);
    for n in 0..count {
        join(&mut table, n, network(n), now);
    }
    table
}

/// Member `n` is reached in `network`; true when it is kept.
fn join(table: &mut MemberTable, n: usize, network: usize, now: Instant) -> bool {
    let address = at(network, n);
    table.learn(address.clone(), id(n), AddressOrigin::Link, now);
    table.dialled(&address, Ok((id(n), "x")), now) == Verdict::Keep
}

/// Member `n` calls from `network`; true when it is kept.
fn call(table: &mut MemberTable, n: usize, network: usize, now: Instant) -> bool {
    let from = AddressBlock::of_ip(ip(network));
    table.called(id(n), "x", from, &[at(network, n)], now);
    table.members.contains_key(&id(n))
}

fn go_away(table: &mut MemberTable, n: usize, network: usize, now: Instant) {
    let error = Error::Unreachable {
        who: at(network, n).to_string(),
        why: "gone".into(),
    };
    for _ in 0..2 {
        let turn = table.members.get(&id(n)).unwrap().turn;
        table.greeted(id(n), turn, Err(&error), now);
    }
    assert!(table.members.get(&id(n)).unwrap().away);
}

#[test]
fn table_holds_as_many_members_as_a_hello() {
    let now = Instant::now();
    let mut table = reached(Hello::MAX_MEMBERS, |n| n, now);
    assert_eq!(table.members.len(), Hello::MAX_MEMBERS);
    for n in Hello::MAX_MEMBERS..Hello::MAX_MEMBERS + 100 {
        assert!(!join(&mut table, n, n, now), "whoever is in contact stays");
        assert!(!call(&mut table, n, n, now));
    }
    assert_eq!(table.members.len(), Hello::MAX_MEMBERS);
    assert_eq!(table.present().count(), Hello::MAX_MEMBERS);
}

#[test]
fn many_keys_leave_room_for_newcomers() {
    let now = Instant::now();
    let mut table = reached(3000, |_| 1, now);
    assert_eq!(table.members.len(), Hello::MAX_MEMBERS / 4);
    assert!((3000..3500).all(|n| join(&mut table, n, n, now)));
    assert!(!join(&mut table, 9000, 1, now), "it has its share");
}

/// Keys that come in through another network, where there is room, and are then reached
/// in this one.
#[test]
fn network_limit_holds_by_any_way_in() {
    let now = Instant::now();
    let mut table = MemberTable::new(id(1_000_000), now);
    for round in 0..3 {
        for n in round * MAX_FROM_NETWORK..(round + 1) * MAX_FROM_NETWORK {
            table.called(id(n), "x", AddressBlock::of_ip(ip(2)), &[at(1, n)], now);
            table.dialled(&at(1, n), Ok((id(n), "x")), now);
        }
    }
    for network in [1, 2] {
        let network = AddressBlock::of_ip(ip(network));
        let entries = table.members.iter();
        let count = entries.filter(|(_, entry)| entry.network == network);
        let count = count.count();
        assert_eq!(count, MAX_FROM_NETWORK);
    }
    assert_eq!(table.members.len(), 2 * MAX_FROM_NETWORK);
}

/// Multicast says that member 0 is at `addresses`.
fn seen_at(table: &mut MemberTable, addresses: &[Address], now: Instant) {
    let sighting = Sighting {
        id: id(0),
        addresses: addresses.iter().map(|at| (at.clone(), true)).collect(),
        is_repeated: false,
    };
    table.sighted(&sighting, now);
}

/// Returns the next task other than saving.
fn next(table: &mut MemberTable, now: Instant) -> Option<WorkerTask> {
    let mut tasks = std::iter::from_fn(|| table.next(now));
    tasks.find(|task| *task != WorkerTask::Save)
}

#[test]
fn moved_member_is_sought_within_seconds() {
    let now = Instant::now();
    let mut table = reached(1, |_| 1, now);
    let later = now + 3 * SECOND;
    assert_eq!(next(&mut table, later), None);
    seen_at(&mut table, &[at(2, 0)], later);
    let Some(WorkerTask::Hello { turn, within, .. }) = next(&mut table, later) else {
        panic!("it is not asked whether it is where it was");
    };
    assert!(within <= 2 * SECOND);
    let (gone, over) = (Error::Timeout { who: "x".into() }, later + within);
    table.greeted(id(0), turn, Err(&gone), over);
    let sought = next(&mut table, over);
    assert!(
        matches!(&sought, Some(WorkerTask::Dial { address, .. }) if *address == at(2, 0)),
        "{sought:?}"
    );
}

#[test]
fn answering_member_stays_where_it_was() {
    let now = Instant::now();
    let mut table = reached(1, |_| 1, now);
    let mut hellos = 0;
    // An attacker on the link repeats that report.
    for tenth in 30..130 {
        let now = now + SECOND / 10 * tenth;
        seen_at(&mut table, &[at(2, tenth as usize % 7)], now);
        if let Some(WorkerTask::Hello { turn, .. }) = next(&mut table, now) {
            hellos += 1;
            table.greeted(id(0), turn, Ok("x"), now);
        }
        assert_eq!(table.address(id(0)), Some(&at(1, 0)));
    }
    assert!((1..=6).contains(&hellos), "{hellos} hellos");
}

#[test]
fn member_still_in_place_is_not_asked() {
    let now = Instant::now();
    let mut table = reached(1, |_| 1, now);
    seen_at(&mut table, &[at(2, 0), at(1, 0)], now + 3 * SECOND);
    assert_eq!(next(&mut table, now + 3 * SECOND), None);
}

#[test]
fn address_change_sends_hello_to_everybody() {
    let now = Instant::now();
    let mut table = reached(3, |n| n, now);
    // First, they learn of each other.
    let later = now + 3 * SECOND;
    while let Some(task) = next(&mut table, later) {
        let WorkerTask::Hello { id, turn, .. } = task else {
            panic!("{task:?}");
        };
        table.greeted(id, turn, Ok("x"), later);
    }
    table.relocated(later);
    for _ in 0..3 {
        let task = next(&mut table, later);
        assert!(matches!(task, Some(WorkerTask::Hello { .. })), "{task:?}");
    }
    assert_eq!(next(&mut table, later), None);
}

#[test]
fn the_networks_of_one_site_share_its_part() {
    let of = |text: &str| AddressBlock::of_ip(text.parse().unwrap());
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:ffff::2"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:2:2::1"));
}

#[test]
fn mere_callers_make_room_for_responders() {
    let now = Instant::now();
    let mut table = MemberTable::new(id(1_000_000), now);
    assert!((0..3000).all(|n| call(&mut table, n, n % 50, now + SECOND * n as u32)));
    assert_eq!(table.members.len(), Hello::MAX_MEMBERS);
    assert!((5000..5500).all(|n| join(&mut table, n, n, now)));
    assert_eq!(table.members.len(), Hello::MAX_MEMBERS);
    assert_eq!(table.present().count(), 500);
}

#[test]
fn unresponsive_member_makes_room() {
    let now = Instant::now();
    let mut table = reached(Hello::MAX_MEMBERS, |n| n % 100, now);
    for n in [100, 200, 300, 7] {
        go_away(&mut table, n, n % 100, now + SECOND * n as u32);
    }
    // Three are of one network, one of another.
    assert!(join(&mut table, 5000, 5000, now));
    let gone = [100, 200, 300].map(id);
    let gone = gone
        .into_iter()
        .filter(|id| !table.members.contains_key(id));
    let gone: Vec<PeerId> = gone.collect();
    assert_eq!(gone.len(), 1, "one of the network that has most");
    assert!(table.members.contains_key(&id(7)));
    let forgotten = |event: &MembershipEvent| matches!(event, MembershipEvent::Forgotten(who, _) if *who == gone[0]);
    assert!(table.take_events().iter().any(forgotten));
}

#[test]
fn hello_under_way_keeps_its_member() {
    let now = Instant::now();
    let mut table = reached(Hello::MAX_MEMBERS, |n| n, now);
    go_away(&mut table, 7, 7, now);
    table.change(id(7), |entry| entry.busy = Some(3));
    assert!(!join(&mut table, 5000, 5000, now));
}

#[test]
fn untyped_host_names_share_one_part() {
    let now = Instant::now();
    let mut table = MemberTable::new(id(1_000_000), now);
    let host = |n: usize| Address::new(format!("h{n}.example"), 7);
    for n in 0..500 {
        table.dialled(&host(n), Ok((id(n), "x")), now);
    }
    assert_eq!(table.members.len(), MAX_FROM_NETWORK);
    table.name(host(600), None, now);
    let verdict = table.dialled(&host(600), Ok((id(600), "x")), now);
    assert_eq!(verdict, Verdict::Keep);
}
