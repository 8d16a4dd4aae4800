//! SHA-256 of two messages at once.
//!
//! The SHA instructions of x86-64 wait for one another's results, so a single message leaves the
//! unit idle half of the time. The leaves of a hash tree do not depend on each other: two of them,
//! hashed in turns, take little longer than one. Verification is the largest cost of a streaming
//! read, so this is worth a module of instructions. Everywhere else, and on other processors,
//! `sha2` does the work; the tests compare the two.

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The bytes that one step of SHA-256 consumes.
const STEP: usize = 64;

/// Returns the hashes of two messages of one length, a multiple of 64 bytes. `None` where the
/// processor lacks the instructions or the lengths do not fit; the caller then hashes one
/// after the other.
pub(crate) fn pair(messages: [&[u8]; 2]) -> Option<[Hash; 2]> {
    let length = messages[0].len();
    if messages[1].len() != length || !length.is_multiple_of(STEP) {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
    {
        return Some(x86::pair(messages));
    }
    None
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    //! `unsafe` for two reasons: functions with `target_feature` may run only where the processor
    //! has the feature, which [`super::pair`] has checked; and loads and stores take pointers, each
    //! made from a reference to an array of exactly the size that is loaded or stored.

    use std::arch::x86_64::*;

    use super::{Hash, STEP};

    /// The round constants and the initial state of FIPS 180-4, sections 4.2.2 and 5.3.3.
    #[rustfmt::skip]
    static ROUNDS: [[u32; 4]; 16] = [
        [0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5], [0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5],
        [0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3], [0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174],
        [0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc], [0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da],
        [0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7], [0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967],
        [0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13], [0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85],
        [0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3], [0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070],
        [0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5], [0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3],
        [0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208], [0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2],
    ];

    /// The state in the layout of the instructions: A, B, E, F in one register and C, D, G, H in
    /// the other, the first in the highest lane.
    static START: [[u32; 4]; 2] = [
        [0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667],
        [0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372],
    ];

    /// Hashes both messages, which must have one length, a multiple of [`STEP`].
    pub(crate) fn pair(messages: [&[u8]; 2]) -> [Hash; 2] {
        // SAFETY: the caller has checked for the features.
        unsafe { hash(messages) }
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn hash(messages: [&[u8]; 2]) -> [Hash; 2] {
        let mut lanes = [[load(&START[0]), load(&START[1])]; 2];
        let (first, second) = (
            messages[0].as_chunks::<STEP>().0,
            messages[1].as_chunks::<STEP>().0,
        );
        for (first, second) in first.iter().zip(second) {
            compress(&mut lanes, [first, second]);
        }
        let mut end = [0; STEP];
        end[0] = 0x80;
        end[STEP - 8..].copy_from_slice(&(messages[0].len() as u64 * 8).to_be_bytes());
        compress(&mut lanes, [&end, &end]);
        [digest(lanes[0]), digest(lanes[1])]
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn compress(lanes: &mut [[__m128i; 2]; 2], steps: [&[u8; STEP]; 2]) {
        let before = *lanes;
        let mut words = [big_endian(steps[0]), big_endian(steps[1])];
        for (index, constants) in ROUNDS.iter().enumerate() {
            let constants = load(constants);
            for (lane, words) in lanes.iter_mut().zip(&mut words) {
                let [abef, cdgh] = lane;
                let mixed = _mm_add_epi32(words[0], constants);
                *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, mixed);
                *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32::<0x0e>(mixed));
                // The last four rounds-of-four use up the words that are already there.
                let next = if index < 12 {
                    schedule(words)
                } else {
                    words[0]
                };
                *words = [words[1], words[2], words[3], next];
            }
        }
        for (lane, before) in lanes.iter_mut().zip(before) {
            lane[0] = _mm_add_epi32(lane[0], before[0]);
            lane[1] = _mm_add_epi32(lane[1], before[1]);
        }
    }

    /// Returns the next four words of the message schedule after these sixteen.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn schedule(words: &[__m128i; 4]) -> __m128i {
        let sum = _mm_sha256msg1_epu32(words[0], words[1]);
        let sum = _mm_add_epi32(sum, _mm_alignr_epi8::<4>(words[3], words[2]));
        _mm_sha256msg2_epu32(sum, words[3])
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn big_endian(step: &[u8; STEP]) -> [__m128i; 4] {
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let mut words = [_mm_setzero_si128(); 4];
        for (word, part) in words.iter_mut().zip(step.as_chunks::<16>().0) {
            // SAFETY: 16 bytes are there; the load needs no alignment.
            let loaded = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
            *word = _mm_shuffle_epi8(loaded, swap);
        }
        words
    }

    #[target_feature(enable = "sse2")]
    fn load(words: &[u32; 4]) -> __m128i {
        // SAFETY: 16 bytes are there; the load needs no alignment.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    /// Returns the state as bytes.
    #[target_feature(enable = "sse2")]
    fn digest([abef, cdgh]: [__m128i; 2]) -> Hash {
        let [f, e, b, a] = store(abef);
        let [h, g, d, c] = store(cdgh);
        let mut hash = [0; 32];
        let bytes = [a, b, c, d, e, f, g, h].map(u32::to_be_bytes);
        hash.copy_from_slice(bytes.as_flattened());
        hash
    }

    #[target_feature(enable = "sse2")]
    fn store(register: __m128i) -> [u32; 4] {
        let mut words = [0; 4];
        // SAFETY: there is room for 16 bytes; the store needs no alignment.
        unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), register) };
        words
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    proptest! {
        /// The hashes of two lanes equal those of `sha2` for any messages.
        #[test]
        fn two_lanes_agree_with_one(steps in 0_usize..40, seed: u64) {
            let message = |salt: u64| -> Vec<u8> {
                let byte = |at: u64| ((at + 1).wrapping_mul(seed ^ salt) >> 23) as u8;
                (0..(steps * STEP) as u64).map(byte).collect()
            };
            let messages = [message(1), message(u64::MAX)];
            if let Some(both) = pair([&messages[0], &messages[1]]) {
                for (hash, message) in both.iter().zip(&messages) {
                    prop_assert_eq!(*hash, Hash::from(Sha256::digest(message)));
                }
            }
        }
    }

    #[test]
    fn unfit_messages_are_left_to_the_caller() {
        assert_eq!(pair([&[0; 64], &[0; 128]]), None);
        assert_eq!(pair([&[0; 65], &[0; 65]]), None);
    }

    /// The instructions are used where the machine has them; otherwise the tests would only ever
    /// compare `sha2` with itself.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn cpu_instructions_are_used_where_present() {
        let present = is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1");
        assert_eq!(pair([&[1; 64], &[2; 64]]).is_some(), present);
    }
}
