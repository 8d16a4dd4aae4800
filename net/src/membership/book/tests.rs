//! What the book keeps, for whom it makes room, and when it lets an address be dialled.

use proptest::prelude::*;

use super::*;
use crate::testing::peer_id as id;

fn address(n: usize) -> Address {
    Address::new(format!("10.{}.{}.1", n / 256, n % 256), 7)
}

fn fail(book: &mut Book, address: &Address, now: Instant) {
    let (who, why) = ("x".into(), "refused".into());
    book.failed(address, &Error::Unreachable { who, why }, now);
}

fn hear(book: &mut Book, n: usize, origin: AddressOrigin, now: Instant) -> bool {
    let claim = Belief::Said(id(n / 4));
    book.claim(&address(n), claim, origin, OwnerCertainty::Absent, now);
    book.get(&address(n)).is_some()
}

#[test]
fn one_sender_fills_only_its_part() {
    let now = Instant::now();
    let mut book = Book::default();
    let (liar, other) = (AddressOrigin::Member(id(9999)), AddressOrigin::Link);
    assert!((0..MAX_UNPROVEN).all(|n| hear(&mut book, n, liar, now)));
    assert!(!hear(&mut book, 5000, liar, now));
    assert!(hear(&mut book, 5000, other, now));
    fail(&mut book, &address(7), now);
    assert!(hear(&mut book, 6000, liar, now));
    assert!(book.get(&address(7)).is_none());
    assert_eq!(book.len(), MAX_UNPROVEN + 1);
}

#[test]
fn newest_of_sixteen_addresses_is_kept() {
    let now = Instant::now();
    let mut book = Book::default();
    let member = id(1);
    for n in 0..20 {
        let now = now + Duration::from_secs(n as u64);
        let (claim, origin) = (Belief::Declared(member), AddressOrigin::Member(member));
        book.claim(&address(n), claim, origin, OwnerCertainty::Absent, now);
        book.reached(&address(n), member, now);
        assert!(book.get(&address(n)).is_some());
    }
    assert_eq!(book.len(), MemberRecord::MAX_ADDRESSES);
    assert!(book.get(&address(0)).is_none());
    let said = (Belief::Said(member), AddressOrigin::Link);
    book.claim(&address(99), said.0, said.1, OwnerCertainty::Absent, now);
    assert!(
        book.get(&address(99)).is_none(),
        "hearsay displaces nothing good"
    );
}

#[test]
fn wrong_password_member_gets_one_guess() {
    let now = Instant::now();
    let mut book = Book::default();
    let due = |book: &Book, n| book.due(book.get(&address(n)).unwrap()).unwrap();
    // Addresses 0 to 3 are one member's.
    (0..3).for_each(|n| assert!(hear(&mut book, n, AddressOrigin::Link, now)));
    book.begin(&address(0), 1, now);
    assert_eq!(due(&book, 1), now + STAGGER);
    let refused = Error::Refused { who: "x".into() };
    let wait = book.failed(&address(0), &refused, now).wait;
    hear(&mut book, 3, AddressOrigin::Link, now);
    hear(&mut book, 4, AddressOrigin::Link, now);
    (0..4).for_each(|n| assert_eq!(due(&book, n), now + wait));
    assert_eq!(due(&book, 4), now, "another member");
}

/// Makes address `n` claim `id(1)` for itself. Returns true if the book keeps it.
fn speak(book: &mut Book, n: usize, now: Instant) -> bool {
    book.claim_from_source(&address(n), id(1), OwnerCertainty::Absent, now);
    book.get(&address(n)).is_some()
}

#[test]
fn wrong_answer_bars_no_other_member() {
    let now = Instant::now();
    let who = || String::from("x");
    for error in [
        Error::NotANode { who: who() },
        Error::misbehaved(who(), "nonsense"),
        Error::OtherIdentity { who: who() },
        Error::Later {
            who: who(),
            seconds: 600,
        },
    ] {
        let mut book = Book::default();
        assert!(hear(&mut book, 4, AddressOrigin::Link, now));
        book.begin(&address(4), 2, now);
        book.failed(&address(4), &error, now);
        assert!(hear(&mut book, 5, AddressOrigin::Link, now));
        let due = book.due(book.get(&address(5)).unwrap()).unwrap();
        assert!(due <= now + STAGGER, "{error}");
    }
}

#[test]
fn refusal_bars_only_the_key_it_came_from() {
    let now = Instant::now();
    let refused = Error::Refused { who: "x".into() };
    let mut book = Book::default();
    let due = |book: &Book, n| book.due(book.get(&address(n)).unwrap()).unwrap();
    // Dialled without demanding anybody; then it is claimed for id(1).
    book.entries.insert(
        address(4),
        Candidate::new(Belief::Unknown, AddressOrigin::Link, now),
    );
    book.begin(&address(4), 2, now);
    hear(&mut book, 4, AddressOrigin::Link, now);
    book.failed(&address(4), &refused, now);
    hear(&mut book, 5, AddressOrigin::Link, now);
    assert!(due(&book, 5) <= now + STAGGER);
    // id(1) itself refuses. The address claimed for it may be another's.
    book.begin(&address(5), 2, now);
    book.failed(&address(5), &refused, now);
    hear(&mut book, 6, AddressOrigin::Link, now);
    assert!(due(&book, 6) > now + Duration::from_secs(600));
    let (claim, origin) = (Belief::Said(id(2)), AddressOrigin::Link);
    book.claim(&address(6), claim, origin, OwnerCertainty::Absent, now);
    assert!(due(&book, 6) <= now + STAGGER);
}

#[test]
fn own_claims_displace_strangers_hearsay() {
    let now = Instant::now();
    let mut book = Book::default();
    let fake = |n: usize| Address::new("10.9.9.9", 1 + n as u16);
    let claim = Belief::Said(id(1));
    for n in 0..MemberRecord::MAX_ADDRESSES {
        book.claim(
            &fake(n),
            claim,
            AddressOrigin::Link,
            OwnerCertainty::Absent,
            now,
        );
    }
    assert!(!hear(&mut book, 4, AddressOrigin::Link, now));
    assert!(speak(&mut book, 4, now));
    assert!(speak(&mut book, 5, now));
    // Addresses not yet tried stay, whoever else speaks.
    assert!((100..200).filter(|n| speak(&mut book, *n, now)).count() == 14);
    assert!(book.get(&address(4)).is_some());
    // Nor does it displace what a member claimed.
    let mut book = Book::default();
    for n in 0..MemberRecord::MAX_ADDRESSES {
        let origin = AddressOrigin::Member(id(7));
        book.claim(&fake(n), claim, origin, OwnerCertainty::Absent, now);
    }
    assert!(!speak(&mut book, 4, now));
}

#[test]
fn address_stream_delays_nobodys_turn() {
    let mut now = Instant::now();
    let mut book = Book::default();
    assert!(hear(&mut book, 4, AddressOrigin::Link, now));
    book.begin(&address(4), 2, now);
    assert!(speak(&mut book, 5, now));
    for n in 0..20 {
        now += STAGGER / 10;
        book.claim_from_source(&address(1000 + n), id(1), OwnerCertainty::Absent, now);
        let new = book.get(&address(1000 + n));
        let due = |candidate| book.due(candidate).unwrap();
        let first = due(book.get(&address(5)).unwrap());
        assert!(new.is_none_or(|new| due(new) >= first));
    }
}

#[test]
fn old_hearsay_expires_but_no_user_address() {
    let now = Instant::now();
    let mut book = Book::default();
    hear(&mut book, 1, AddressOrigin::Link, now);
    hear(&mut book, 2, AddressOrigin::User, now);
    book.name(address(3), None, now);
    book.expire(id(77), now + UNHEARD + Duration::from_secs(1));
    assert!(book.get(&address(1)).is_none());
    assert!(book.get(&address(2)).is_some() && book.get(&address(3)).is_some());
}

#[test]
fn own_address_may_become_another_hosts() {
    let now = Instant::now();
    let mut book = Book::default();
    let me = id(77);
    book.name(address(3), None, now);
    book.reached(&address(3), me, now);
    let later = now + OWN + Duration::from_secs(1);
    book.expire(me, later);
    let candidate = book.get(&address(3)).unwrap();
    assert_eq!(
        (candidate.belief, candidate.due()),
        (Belief::Unknown, Some(later))
    );
}

/// Creates a book filled by `origins` in equal parts, with made-up addresses,
/// all still untried.
fn filled(origins: usize, declared: bool, now: Instant) -> Book {
    let mut book = Book::default();
    for n in 0..MAX_CANDIDATES {
        let liar = id(50_000 + n % origins);
        let claim = if declared {
            Belief::Declared(liar)
        } else {
            Belief::Said(id(n))
        };
        let origin = AddressOrigin::Member(liar);
        book.claim(&address(n), claim, origin, OwnerCertainty::Absent, now);
    }
    assert_eq!(book.len(), MAX_CANDIDATES);
    book
}

#[test]
fn full_book_has_room_for_modest_members() {
    let now = Instant::now();
    for (origins, declared) in [(16, false), (1000, false), (256, true), (4096, true)] {
        let mut book = filled(origins, declared, now);
        let later = now + Duration::from_secs(1);
        let newcomer = (
            Belief::Declared(id(99_999)),
            AddressOrigin::Member(id(99_999)),
        );
        let new = address(60_000);
        book.claim(&new, newcomer.0, newcomer.1, OwnerCertainty::Absent, later);
        assert!(book.get(&new).is_some(), "its own word");
        for n in 0..FAIR_SHARE {
            assert!(hear(
                &mut book,
                50_000 + n,
                AddressOrigin::Member(id(88_888)),
                later
            ));
        }
        assert_eq!(book.len(), MAX_CANDIDATES);
        assert!(book.get(&new).is_some());
    }
}

#[test]
fn full_book_of_reached_addresses_has_room() {
    let now = Instant::now();
    let mut book = filled(256, true, now);
    for n in 0..MAX_CANDIDATES {
        let at = now + Duration::from_millis(n as u64);
        book.reached(&address(n), id(50_000 + n % 256), at);
    }
    let (member, new) = (id(99_999), address(60_000));
    let (claim, origin) = (Belief::Declared(member), AddressOrigin::Member(member));
    book.claim(&new, claim, origin, OwnerCertainty::Absent, now);
    assert!(book.get(&new).is_some());
    assert!(
        book.get(&address(0)).is_none(),
        "the oldest of one that has many"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn floods_never_exceed_the_book_limit(
        claims in proptest::collection::vec((0usize..20_000, 0usize..40, any::<bool>()), 6000),
    ) {
        let now = Instant::now();
        let mut book = Book::default();
        for (n, origin, fails) in claims {
            hear(&mut book, n, AddressOrigin::Member(id(90_000 + origin)), now);
            if fails {
                fail(&mut book, &address(n), now);
            }
        }
        prop_assert!(book.len() <= MAX_CANDIDATES);
        book.check();
    }
}
