//! How addresses through NATs stand beside those of TCP ports.

use super::*;
use crate::model::{CallSource, EndpointKey, ReachAddress};
use crate::testing::peer_id as id;

const HEAD_START: Duration = Duration::from_millis(500);

fn reach(n: u8) -> Address {
    ReachAddress {
        endpoint: EndpointKey::from_bytes([n; 32]),
        relays: Vec::new(),
        direct: Vec::new(),
    }
    .into()
}

fn tcp(n: u8) -> Address {
    Address::new(format!("10.0.0.{n}"), 7)
}

fn table(now: Instant) -> MemberTable {
    let mut table = MemberTable::new(id(1000), now);
    table.set_reach(true);
    table
}

/// Takes the addresses that are dialled at `now`.
fn dials(table: &mut MemberTable, now: Instant) -> Vec<Address> {
    let tasks = std::iter::from_fn(|| table.next(now));
    let dialled = tasks.filter_map(|task| match task {
        WorkerTask::Dial { address, .. } => Some(address),
        _ => None,
    });
    dialled.collect()
}

fn unreachable() -> Error {
    Error::unreachable("x", "nobody is there")
}

#[test]
fn tcp_has_half_a_second_of_head_start() {
    let now = Instant::now();
    let mut table = table(now);
    table.declared(id(1), &[tcp(1), reach(1)], now);
    assert_eq!(dials(&mut table, now), [tcp(1)]);
    assert_eq!(dials(&mut table, now + HEAD_START / 2), []);
    assert_eq!(dials(&mut table, now + HEAD_START), [reach(1)]);
}

#[test]
fn member_without_tcp_is_dialled_at_once() {
    let now = Instant::now();
    let mut table = table(now);
    table.declared(id(1), &[reach(1)], now);
    assert_eq!(dials(&mut table, now), [reach(1)]);
}

#[test]
fn connection_by_tcp_needs_no_other() {
    let now = Instant::now();
    let mut table = table(now);
    table.declared(id(1), &[tcp(1), reach(1)], now);
    dials(&mut table, now);
    assert_eq!(table.dialled(&tcp(1), Ok((id(1), "x")), now), Verdict::Keep);
    assert_eq!(dials(&mut table, now + HEAD_START), []);
}

#[test]
fn tcp_that_comes_back_takes_over() {
    let now = Instant::now();
    let mut table = table(now);
    table.declared(id(1), &[tcp(1), reach(1)], now);
    dials(&mut table, now);
    table.dialled(&tcp(1), Err(&unreachable()), now);
    let later = now + HEAD_START;
    let dialled = dials(&mut table, later);
    assert!(dialled.contains(&reach(1)));
    if dialled.contains(&tcp(1)) {
        table.dialled(&tcp(1), Err(&unreachable()), later);
    }
    assert_eq!(
        table.dialled(&reach(1), Ok((id(1), "x")), later),
        Verdict::Keep
    );
    assert_eq!(table.address(id(1)), Some(&reach(1)));
    // It is tried again, and never the other way round.
    let much_later = now + Duration::from_secs(60);
    assert_eq!(dials(&mut table, much_later), [tcp(1)]);
    let verdict = table.dialled(&tcp(1), Ok((id(1), "x")), much_later);
    assert_eq!(verdict, Verdict::Keep);
    assert_eq!(table.address(id(1)), Some(&tcp(1)));
    let rerouted = table
        .take_events()
        .into_iter()
        .filter(|event| matches!(event, MembershipEvent::Rerouted(..)));
    assert_eq!(rerouted.count(), 1);
    assert_eq!(dials(&mut table, now + Duration::from_secs(120)), []);
}

#[test]
fn node_without_reach_keeps_no_such_address() {
    let now = Instant::now();
    let mut table = MemberTable::new(id(1000), now);
    table.declared(id(1), &[tcp(1), reach(1)], now);
    table.learn(reach(2), id(2), AddressOrigin::Member(id(1)), now);
    assert!(table.is_unknown(&reach(1)) && table.is_unknown(&reach(2)));
    assert!(!table.is_unknown(&tcp(1)));
}

#[test]
fn relayed_callers_are_one_block() {
    let [one, other] = [1, 2].map(|n| {
        let endpoint = EndpointKey::from_bytes([n; 32]);
        AddressBlock::of_source(CallSource::Member(endpoint))
    });
    assert_eq!(one, other);
    assert_eq!(one, AddressBlock::of_source(CallSource::Reach(None)));
    assert_eq!(one, AddressBlock::of_address(&reach(1)));
}

#[test]
fn call_through_nats_makes_no_address_of_its_source() {
    use crate::membership::exchange::{self, Introduction};
    let now = Instant::now();
    let (mut caller, mut callee) = (MemberTable::new(id(1), now), table(now));
    let introduction = Introduction {
        id: id(1),
        name: "x".into(),
        advertise: None,
        reach: reach(1).as_reach().cloned(),
        port: 7,
    };
    let scope = crate::membership::address::Scope::Wide;
    let hello = introduction.call(&mut caller, id(1000), scope, now);
    let router = "192.0.2.1".parse().unwrap();
    exchange::called(
        &mut callee,
        id(1),
        CallSource::Reach(Some(router)),
        &hello,
        now,
    );
    assert_eq!(dials(&mut callee, now), [reach(1)]);
    // Over TCP, the port is where it says, and NATs are the second way.
    let mut callee = table(now);
    exchange::called(&mut callee, id(1), CallSource::Tcp(router), &hello, now);
    assert_eq!(dials(&mut callee, now), [Address::new("192.0.2.1", 7)]);
}
