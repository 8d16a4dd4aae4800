//! Tickets are numbers, and each test sets the time.

use std::time::Duration;

use super::super::hello_line::LONG_LINE;
use super::Familiarity::{Address, Network, Stranger};
use super::*;

const RATES: HelloRates = HelloRates {
    strangers: Refill {
        burst: 6,
        per_second: 10,
    },
    stranger: Refill {
        burst: 2,
        per_second: 1,
    },
    neighbours: Refill {
        burst: 3,
        per_second: 1,
    },
    known: Refill {
        burst: 4,
        per_second: 100,
    },
    beside_members: Refill {
        burst: 5,
        per_second: 1,
    },
    beside_members_of_one: Refill {
        burst: 2,
        per_second: 1,
    },
};

/// One token of all strangers.
const TICK: Duration = Duration::from_millis(100);

type Queue = HelloQueue<u32>;

fn queue(rates: HelloRates, now: Instant) -> Queue {
    HelloQueue::new(rates, Dice::seeded(1), now)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn push(queue: &mut Queue, from: &str, familiarity: Familiarity, tickets: u32, now: Instant) {
    for ticket in 0..tickets {
        queue.push(ip(from), familiarity, ticket, now, |_| false);
    }
}

fn due(queue: &mut Queue, now: Instant) -> usize {
    queue.due(now, |_| false).0.len()
}

#[test]
fn stranger_gets_its_burst_then_its_rate() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    push(&mut queue, "10.0.0.1", Stranger, 9, now);
    let (tickets, next) = queue.due(now, |_| false);
    assert_eq!(tickets.len(), 2);
    assert_eq!(next, Some(now + Duration::from_secs(1)));
    assert_eq!(due(&mut queue, now + Duration::from_secs(1)), 1);
    assert_eq!(due(&mut queue, now + Duration::from_secs(3)), 2);
}

#[test]
fn strangers_share_a_bucket_and_take_turns() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    for host in 0..6 {
        let from = ip(&format!("10.0.0.{host}"));
        (0..5).for_each(|_| queue.push(from, Stranger, host, now, |_| false));
    }
    // One each, though each could have two.
    let mut hosts: Vec<_> = queue.due(now, |_| false).0;
    hosts.sort_by_key(|(host, _)| *host);
    assert!(hosts.iter().map(|(host, _)| *host).eq(0..6), "{hosts:?}");
    assert_eq!(due(&mut queue, now + TICK), 1);
}

#[test]
fn each_of_many_lines_has_its_tick() {
    let mut now = Instant::now();
    // Each line could use up all tokens.
    let greedy = Refill {
        burst: 9,
        per_second: 99,
    };
    let mut queue = queue(
        HelloRates {
            stranger: greedy,
            ..RATES
        },
        now,
    );
    let hosts = 20;
    for host in 0..hosts {
        let from = ip(&format!("10.0.0.{host}"));
        (0..40).for_each(|_| queue.push(from, Stranger, host, now, |_| false));
    }
    let mut served = vec![0; hosts as usize];
    for _ in 0..400 {
        for (host, _) in queue.due(now, |_| false).0 {
            served[host as usize] += 1;
        }
        now += TICK;
    }
    let (least, max) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(max - least <= 1, "{served:?}");
}

#[test]
fn a_newcomer_passes_those_who_come_again() {
    let mut now = Instant::now();
    let mut queue = queue(RATES, now);
    // All of them come again at every tick, so that every site always has a caller waiting.
    let hosts = 100;
    let again = |queue: &mut Queue, now| {
        for host in 0..hosts {
            queue.push(ip(&format!("10.0.0.{host}")), Stranger, host, now, |_| {
                false
            });
        }
    };
    for _ in 0..hosts {
        again(&mut queue, now);
        due(&mut queue, now);
        now += TICK;
    }
    again(&mut queue, now);
    queue.push(ip("192.0.2.1"), Stranger, 999, now, |_| false);
    let (served, _) = queue.due(now, |_| false);
    assert_eq!(served, [(999, HandshakeThread::Door)]);
}

#[test]
fn among_newcomers_chance_decides() {
    let mut now = Instant::now();
    let mut queue = queue(RATES, now);
    // The tokens of the burst are used up first.
    for host in 0..6 {
        push(&mut queue, &format!("10.0.0.{host}"), Stranger, 1, now);
    }
    assert_eq!(due(&mut queue, now), 6);
    let (tries, others) = (400_u32, 9);
    let mut served = 0;
    for round in 1..=tries {
        now += TICK;
        let [_, _, c, d] = round.to_be_bytes();
        // Nobody comes twice, half of them before this one and half after it.
        for other in 0..others {
            if other == others / 2 {
                queue.push([192, 0, c, d].into(), Stranger, round, now, |_| false);
            }
            queue.push([11 + other, 0, c, d].into(), Stranger, 0, now, |_| false);
        }
        // Callers that were not served leave.
        let (tickets, _) = queue.due(now, |ticket| *ticket != round && *ticket != 0);
        served += u32::from(tickets.iter().any(|(ticket, _)| *ticket == round));
        queue.lines.clear();
        queue.relist();
    }
    // A tenth of 400, with a standard deviation of 6.
    assert!((20..=60).contains(&served), "{served}");
}

#[test]
fn strangers_do_not_slow_known_networks() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    for host in 0..200 {
        push(&mut queue, &format!("10.0.0.{host}"), Stranger, 5, now);
    }
    assert_eq!(due(&mut queue, now), 6);
    push(&mut queue, "192.0.2.1", Address, 4, now);
    assert_eq!(due(&mut queue, now), 4);
}

#[test]
fn neighbours_do_not_slow_a_known_address() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    push(&mut queue, "fe80::2", Network, 50, now);
    push(&mut queue, "fe80::3", Network, 50, now);
    let (tickets, _) = queue.due(now, |_| false);
    assert_eq!(tickets.len(), 3);
    assert!(tickets.iter().all(|(_, on)| *on == HandshakeThread::Door));
    push(&mut queue, "fe80::1", Address, 1, now);
    let (tickets, _) = queue.due(now, |_| false);
    assert_eq!(tickets, [(0, HandshakeThread::Members)]);
}

#[test]
fn excess_handshakes_leave_members_alone() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    let mut beside_members = |from: &str, now| {
        push(&mut queue, from, Address, 4, now);
        let (tickets, _) = queue.due(now, |_| false);
        assert_eq!(tickets.len(), 4);
        let on = tickets.into_iter().map(|(_, on)| on);
        on.filter(|on| *on == HandshakeThread::Members).count()
    };
    // Two of one address, five of all, and each second one more.
    assert_eq!(beside_members("192.0.2.1", now), 2);
    assert_eq!(beside_members("192.0.2.2", now), 2);
    assert_eq!(beside_members("192.0.2.3", now), 1);
    let later = now + Duration::from_secs(1);
    assert_eq!(beside_members("192.0.2.1", later), 1);
}

#[test]
fn the_64s_of_one_site_are_one_stranger() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    for net in 0..9 {
        push(
            &mut queue,
            &format!("2001:db8:0:{net}::1"),
            Stranger,
            1,
            now,
        );
    }
    assert_eq!(due(&mut queue, now), 2);
}

#[test]
fn newly_known_address_waits_no_longer() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    push(&mut queue, "2001:db8::1", Stranger, 4, now);
    push(&mut queue, "2001:db8::2", Stranger, 4, now);
    push(&mut queue, "2001:db8:0:1::1", Stranger, 4, now);
    assert_eq!(due(&mut queue, now), 2);
    let waiting = |queue: &Queue, id| queue.lines.get(&id).map_or(0, HelloLine::len);
    let address = ip("2001:db8::1");
    queue.promote(address, now);
    let (known, neighbours) = (
        LineId::Known(address),
        LineId::Neighbours(SourceNetwork::of(address)),
    );
    let strangers = LineId::Strangers(SourceNetwork::of(address).site());
    assert!(waiting(&queue, known) >= 2 && waiting(&queue, neighbours) >= 2);
    assert!(waiting(&queue, strangers) >= 2);
    due(&mut queue, now);
    assert_eq!(waiting(&queue, known), 0);
    // A line that all have left is found again.
    queue.promote(ip("2001:db8:0:1::1"), now);
    assert_eq!(waiting(&queue, strangers), 0);
    let later = now + Duration::from_secs(9);
    push(&mut queue, "2001:db8:0:2::1", Stranger, 1, later);
    due(&mut queue, later);
    assert!(waiting(&queue, strangers) == 0 && queue.served.is_empty());
}

#[test]
fn who_left_costs_no_token() {
    let now = Instant::now();
    let mut queue = queue(RATES, now);
    push(&mut queue, "10.0.0.1", Stranger, 9, now);
    let (tickets, next) = queue.due(now, |ticket| *ticket < 8);
    assert_eq!((tickets, next), (vec![(8, HandshakeThread::Door)], None));
}

#[test]
fn lines_and_tickets_are_bounded() {
    let mut now = Instant::now();
    let mut queue = queue(RATES, now);
    for number in 0..50_000_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        now += Duration::from_micros(1);
        queue.push([10, b, c, d].into(), Stranger, 0, now, |_| true);
        if number % 9 == 0 {
            queue.due(now, |_| number % 2 == 0);
        }
        assert!(queue.fresh.len() + queue.served.len() <= queue.lines.len());
    }
    assert!(queue.lines.len() <= MAX_LINES, "{}", queue.lines.len());
    for _ in 0..5000 {
        queue.push(ip("10.0.0.1"), Stranger, 0, now, |_| true);
    }
    let longest = queue.lines.values().map(HelloLine::len).max();
    assert!(longest <= Some(LONG_LINE));
}
