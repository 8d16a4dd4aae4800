//! The network's password: read, judged and stretched once, at start.
//!
//! The password is normalised to NFC, so that one word typed on two keyboards is one password.
//! Argon2id (RFC 9106) stretches it, so that every guess is costly even for somebody who obtains
//! something to test guesses against. The parameters and the salt are part of the protocol: all
//! members of a network must arrive at the same bytes. A salt per node would have to be available
//! to strangers, so there is one for all; it makes tables computed for other programs useless.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

/// The longest password in bytes, before and after normalisation; more adds no strength.
const MAX_BYTES: usize = 1024;

const SALT: &[u8; 16] = b"tinyp2p-argon2-1";
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// The guesses that [`limits`](super::limits) lets a stranger make at one node on the first day,
/// and then per day: ten or so before the gaps begin to grow, then one every ten minutes.
const GUESSES_FIRST_DAY: u64 = 155;
const GUESSES_PER_DAY: u64 = 144;

/// The number of guesses (19 years at one node) below which a password earns a warning.
const WEAK_BELOW_GUESSES: u64 = 1_000_000;

/// Why a text cannot be a network's password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    /// The text has no bytes at all.
    #[error("the password is empty")]
    Empty,
    /// The text has more than 1024 bytes of UTF-8.
    #[error("the password is longer than {MAX_BYTES} bytes")]
    TooLong,
}

/// A network's password in NFC. Wiped from memory when dropped; `Debug` prints `***`.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Creates a password of 1 to 1024 bytes; `text` is wiped.
    pub fn new(mut text: String) -> Result<Self, InvalidPassword> {
        let result = Self::normalise(&text);
        text.zeroize();
        result
    }

    fn normalise(text: &str) -> Result<Self, InvalidPassword> {
        if text.len() > MAX_BYTES {
            return Err(InvalidPassword::TooLong);
        }
        // NFC is at most three times as long as its source (Unicode Standard Annex 15, section
        // 9), so the buffer is never moved and no copy stays behind.
        let mut normal = Zeroizing::new(String::with_capacity(3 * text.len()));
        normal.extend(text.nfc());
        match normal.len() {
            0 => Err(InvalidPassword::Empty),
            1..=MAX_BYTES => Ok(Self(normal)),
            _ => Err(InvalidPassword::TooLong),
        }
    }

    /// Runs Argon2id over the password: 64 MiB, 3 passes, 4 lanes, about 0.15 s. Once per process.
    pub fn stretch(&self) -> Stretched {
        let mut out = Zeroizing::new([0; 32]);
        Params::new(MEMORY_KIB, PASSES, LANES, Some(out.len()))
            .and_then(|params| {
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                    self.0.as_bytes(),
                    SALT,
                    out.as_mut_slice(),
                )
            })
            .expect("constant parameters, a bounded password and 64 MiB of memory");
        Stretched(out)
    }

    /// Passes the password itself to `take`, for a protocol that needs it. Guesses
    /// are cheap to test against what others derive from the password, unlike against
    /// what [`Password::stretch`] returns.
    pub fn reveal<T>(&self, take: impl FnOnce(&[u8]) -> T) -> T {
        take(self.0.as_bytes())
    }

    /// Returns a one-line warning when the password takes few guesses, `None` when it is fine.
    pub fn weakness(&self) -> Option<String> {
        let guesses = zxcvbn::zxcvbn(&self.0, &["tinyp2p"]).guesses();
        (guesses < WEAK_BELOW_GUESSES).then(|| {
            format!(
                "this password is easily guessed: a stranger who can reach one node may need {}, \
                 with N nodes an Nth of that; three random words would do",
                time_to_guess(guesses)
            )
        })
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Describes in words how long `guesses` take at one node.
fn time_to_guess(guesses: u64) -> String {
    let days = 1 + guesses.saturating_sub(GUESSES_FIRST_DAY) / GUESSES_PER_DAY;
    match days {
        ..=1 => "less than a day".to_owned(),
        2..=99 => format!("about {days} days"),
        100..=729 => format!("about {} months", days / 30),
        _ => format!("about {} years", days / 365),
    }
}

/// The password after Argon2id, the input of pairing. As secret as the password itself.
pub struct Stretched(Zeroizing<[u8; 32]>);

impl Stretched {
    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Stretched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    impl Stretched {
        /// Creates a different password for each number, without the cost of stretching one.
        pub(crate) fn for_tests(number: u8) -> Self {
            Self(Zeroizing::new([number; 32]))
        }
    }

    fn password(text: &str) -> Password {
        Password::new(text.to_owned()).unwrap()
    }

    #[test]
    fn stretching_agrees_with_other_argon2id() {
        // Computed with OpenSSL 3.
        for (text, expected) in [
            (
                "pw",
                "6748d08c06395771d47d68e9d619460133e90612391705ecfd2ce9aa12273d83",
            ),
            (
                "Ju\u{308}rgen",
                "5053fad4c5241fa9fb879202a5a3c0290ff769229954e1306ddb145888239f7a",
            ),
        ] {
            let stretched = password(text).stretch();
            assert_eq!(HEXLOWER.encode(stretched.as_bytes()), expected);
        }
    }

    #[test]
    fn both_unicode_spellings_are_one_password() {
        assert_eq!(*password("J\u{fc}rgen").0, *password("Ju\u{308}rgen").0);
    }

    #[test]
    fn empty_or_endless_password_is_refused() {
        let refusal = |text: String| Password::new(text).err();
        assert_eq!(refusal(String::new()), Some(InvalidPassword::Empty));
        assert_eq!(refusal("x".repeat(1025)), Some(InvalidPassword::TooLong));
        assert_eq!(refusal("x".repeat(1024)), None);
        // Below the limit as typed, above it in NFC.
        let grows = "\u{fb2c}".repeat(300);
        assert!(grows.len() < MAX_BYTES);
        assert_eq!(refusal(grows), Some(InvalidPassword::TooLong));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", password("hunter2")), "***");
        assert_eq!(format!("{:?}", Stretched::for_tests(7)), "***");
    }

    #[test]
    fn weak_password_is_flagged_not_printed() {
        let warning = password("pw").weakness().unwrap();
        assert!(warning.contains("less than a day"), "{warning}");
        assert!(!warning.contains("pw"), "{warning}");
        assert_eq!(password("lantern copper violet").weakness(), None);
    }

    #[test]
    fn guess_times_match_the_published_table() {
        assert_eq!(time_to_guess(100), "less than a day");
        assert_eq!(time_to_guess(10_000), "about 69 days");
        assert_eq!(time_to_guess(50_000), "about 11 months");
        assert_eq!(time_to_guess(999_999), "about 19 years");
    }
}
