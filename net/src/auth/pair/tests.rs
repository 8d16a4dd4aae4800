//! Both state machines against each other, and against anything else.

use proptest::prelude::*;

use super::*;
use crate::auth::Stretched;

fn binding() -> Binding {
    Binding {
        caller: PeerId::from_bytes([1; 32]),
        callee: PeerId::from_bytes([2; 32]),
        exporter: [3; 32],
    }
}

fn credentials(password: u8) -> Credentials {
    Credentials::new(Stretched::for_tests(password), binding().callee).unwrap()
}

/// Runs both machines, passing the frames through `tamper(number, frame)`; returns
/// what each concludes.
fn meet(
    caller: (&Credentials, Binding),
    callee: (&Credentials, Binding),
    tamper: impl Fn(usize, &mut [u8]),
) -> (Result<PeerId, PairingFailure>, Option<PeerId>) {
    let (state, mut m1) = PairingCaller::start(caller.0, caller.1).unwrap();
    tamper(1, &mut m1);
    let (answering, mut m2) = match Opening::read(&m1) {
        Ok(opening) => {
            let (state, m2) = Callee::answer(callee.0, callee.1, opening).unwrap();
            (Some(state), m2)
        }
        Err(status) => (None, refusal(status, 0)),
    };
    tamper(2, &mut m2);
    let (confirming, mut m3) = match state.receive(&m2) {
        Ok(next) => next,
        Err(failure) => return (Err(failure), None),
    };
    tamper(3, &mut m3);
    let proved = answering.and_then(|state| state.receive(&m3));
    let mut m4 = [if proved.is_some() {
        PairingStatus::Ok
    } else {
        PairingStatus::Refused
    } as u8];
    tamper(4, &mut m4);
    (confirming.receive(m4), proved)
}

fn untouched(_: usize, _: &mut [u8]) {}

#[test]
fn one_password_admits_both_keys() {
    let (a, b) = (credentials(1), credentials(1));
    let (caller, callee) = meet((&a, binding()), (&b, binding()), untouched);
    assert_eq!(caller, Ok(binding().callee));
    assert_eq!(callee, Some(binding().caller));
}

#[test]
fn password_mismatch_ends_before_m3() {
    let (a, b) = (credentials(1), credentials(2));
    let (caller, callee) = meet((&a, binding()), (&b, binding()), |number, _| {
        assert!(number < 3, "a caller with the wrong password goes away");
    });
    assert_eq!(caller, Err(PairingFailure::WrongPassword));
    assert_eq!(callee, None);
}

#[test]
fn every_part_of_the_binding_binds() {
    let other_key = PeerId::from_bytes([9; 32]);
    let others = [
        Binding {
            caller: other_key,
            ..binding()
        },
        Binding {
            callee: other_key,
            ..binding()
        },
        Binding {
            exporter: [9; 32],
            ..binding()
        },
    ];
    let (a, b) = (credentials(1), credentials(1));
    for other in others {
        let (caller, callee) = meet((&a, other.clone()), (&b, binding()), untouched);
        assert_eq!((caller, callee), (Err(PairingFailure::WrongPassword), None));
        let (caller, callee) = meet((&a, binding()), (&b, other), untouched);
        assert_eq!((caller, callee), (Err(PairingFailure::WrongPassword), None));
    }
}

#[test]
fn record_is_worthless_at_another_node() {
    // The callee registered under a TLS key other than the one that it shows.
    let stranger = PeerId::from_bytes([9; 32]);
    let misplaced = Credentials::new(Stretched::for_tests(1), stranger).unwrap();
    let a = credentials(1);
    let (caller, callee) = meet((&a, binding()), (&misplaced, binding()), untouched);
    assert_eq!((caller, callee), (Err(PairingFailure::WrongPassword), None));
}

#[test]
fn frames_of_another_run_do_not_fit() {
    let (a, b) = (credentials(1), credentials(1));
    let recorded = std::cell::RefCell::new(Vec::new());
    let (caller, _) = meet((&a, binding()), (&b, binding()), |_, frame| {
        recorded.borrow_mut().push(frame.to_vec());
    });
    assert!(caller.is_ok());
    for replayed in 1..=3 {
        let (caller, callee) = meet((&a, binding()), (&b, binding()), |number, frame| {
            if number == replayed {
                frame.copy_from_slice(&recorded.borrow()[number - 1]);
            }
        });
        assert!(caller.is_err(), "M{replayed}");
        assert_eq!(callee, None, "M{replayed}");
    }
}

#[test]
fn a_reflected_opening_is_refused() {
    let a = credentials(1);
    let (caller, m1) = PairingCaller::start(&a, binding()).unwrap();
    let mut m2 = refusal(PairingStatus::Ok, 0);
    m2[3..3 + KE1_BYTES].copy_from_slice(&m1[1..]);
    assert!(caller.receive(&m2).is_err());
}

#[test]
fn each_refusal_has_its_meaning() {
    let a = credentials(1);
    let end = |m2: M2| {
        let (caller, _) = PairingCaller::start(&a, binding()).unwrap();
        caller.receive(&m2).err().unwrap()
    };
    assert_eq!(
        end(refusal(PairingStatus::Refused, 600)),
        PairingFailure::Later(600)
    );
    assert_eq!(
        end(refusal(PairingStatus::Refused, 0)),
        PairingFailure::Later(1)
    );
    assert_eq!(
        end(refusal(PairingStatus::BadMessage, 0)),
        PairingFailure::BadMessage
    );
    assert_eq!(
        end(refusal(PairingStatus::Yourself, 0)),
        PairingFailure::Yourself
    );
    assert_eq!(
        end(refusal(PairingStatus::Ok, 0)),
        PairingFailure::BadMessage
    );
    assert_eq!(end([0xff; size_of::<M2>()]), PairingFailure::BadMessage);
}

#[test]
fn another_version_is_a_bad_message() {
    let a = credentials(1);
    let (_, m1) = PairingCaller::start(&a, binding()).unwrap();
    assert!(Opening::read(&m1).is_ok());
    for version in (0..=255).filter(|version| *version != VERSION) {
        let mut other = m1;
        other[0] = version;
        assert_eq!(Opening::read(&other).err(), Some(PairingStatus::BadMessage));
    }
}

#[test]
fn the_identity_element_is_no_message() {
    // All-zero bytes are ristretto255's encoding of the identity.
    let mut m1 = [0; size_of::<M1>()];
    m1[0] = VERSION;
    assert_eq!(Opening::read(&m1).err(), Some(PairingStatus::BadMessage));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_as_m1_neither_panic_nor_admit(
        bytes in prop::collection::vec(any::<u8>(), size_of::<M1>()),
        right_version: bool,
    ) {
        let mut m1: M1 = bytes.try_into().unwrap();
        if right_version {
            m1[0] = VERSION;
        }
        // Random bytes are sometimes a pair of points; then the run goes on.
        if let Ok(opening) = Opening::read(&m1) {
            let (callee, _) = Callee::answer(&credentials(1), binding(), opening).unwrap();
            prop_assert_eq!(callee.receive(&[0; size_of::<M3>()]), None);
        }
    }

    #[test]
    fn any_bytes_as_m2_neither_panic_nor_admit(
        bytes in prop::collection::vec(any::<u8>(), size_of::<M2>()),
        status in prop_oneof![Just(0u8), any::<u8>()],
    ) {
        let mut m2: M2 = bytes.try_into().unwrap();
        m2[0] = status;
        let a = credentials(1);
        let (caller, _) = PairingCaller::start(&a, binding()).unwrap();
        prop_assert!(caller.receive(&m2).is_err());
    }

    #[test]
    fn any_bytes_as_m3_neither_panic_nor_admit(
        bytes in prop::collection::vec(any::<u8>(), size_of::<M3>()),
    ) {
        let (a, b) = (credentials(1), credentials(1));
        let (caller, callee) = meet((&a, binding()), (&b, binding()), |number, frame| {
            if number == 3 {
                frame.copy_from_slice(&bytes);
            }
        });
        prop_assert_eq!(caller, Err(PairingFailure::Refused));
        prop_assert_eq!(callee, None);
    }

    #[test]
    fn any_byte_but_zero_as_m4_admits_nobody(byte in 1u8..) {
        let confirming = Confirming { callee: binding().callee };
        prop_assert_eq!(confirming.receive([byte]), Err(PairingFailure::Refused));
    }

    #[test]
    fn flipped_bit_in_any_frame_admits_nobody(
        frame_number in 1usize..=3,
        position in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let (a, b) = (credentials(1), credentials(1));
        let (caller, callee) = meet((&a, binding()), (&b, binding()), |number, frame| {
            if number == frame_number {
                // In M2 the bytes of retry_after mean nothing with status 0.
                let start = if number == 2 { 3 } else { 0 };
                let index = start + position.index(frame.len() - start);
                frame[index] ^= 1 << bit;
            }
        });
        prop_assert!(caller.is_err());
        prop_assert_eq!(callee, None);
    }
}
