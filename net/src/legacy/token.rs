//! The token that proves to one server that the caller knows the network's password.
//!
//! It is the HMAC-MD5 of the called server's own URL, keyed by the password, in lower-case
//! hex. The protocol of 2004 prescribes MD5. Its weaknesses do not matter here beside the
//! lack of encryption.

use std::fmt;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::Url;

/// The length of a token in bytes, before hex encoding.
const BYTES: usize = 16;

/// The key that makes tokens: the password, worked into the two initial states of HMAC. The
/// password cannot be read back from them, but guesses can be tested against them, so they are
/// wiped when dropped.
#[derive(Clone)]
pub struct TokenKey(Hmac<Md5>);

impl TokenKey {
    /// Creates the key of a network with this password.
    pub fn new(password: &[u8]) -> Self {
        // Never fails: HMAC takes keys of any length.
        Self(Hmac::new_from_slice(password).expect("a key of any length"))
    }

    /// Returns the token for calls to the server at `url`: 32 lower-case hex digits.
    pub fn token(&self, url: &Url) -> String {
        HEXLOWER.encode(&self.over(url).finalize().into_bytes())
    }

    /// Returns the candidate that the token was made for. Takes as long for a wrong token as for a
    /// right one, and checks every candidate in either case.
    pub fn made_for<'u>(&self, token: &[u8], candidates: &'u [Url]) -> Option<&'u Url> {
        let mut given = [0; BYTES];
        let is_token = token.len() == HEXLOWER.encode_len(BYTES)
            && HEXLOWER.decode_mut(token, &mut given).is_ok();
        let mut found = None;
        for url in candidates {
            if self.over(url).verify_slice(&given).is_ok() && is_token {
                found = Some(url);
            }
        }
        found
    }

    fn over(&self, url: &Url) -> Hmac<Md5> {
        let mut mac = self.0.clone();
        mac.update(url.as_str().as_bytes());
        mac
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn tokens_match_another_implementation() {
        // Computed with Python's hmac module.
        for (password, at, expected) in [
            (
                "pw",
                "http://localhost:8080",
                "2f781a55791be2952e9279c24c593a1c",
            ),
            (
                "J\u{fc}rgen",
                "http://a.example:1",
                "a9bc1b0a2e195c49426b8d69a25c9e86",
            ),
            (
                &"x".repeat(100),
                "http://10.0.0.1:65535",
                "17c072e4f3cb71e0fe2ffcf1642d5165",
            ),
        ] {
            assert_eq!(TokenKey::new(password.as_bytes()).token(&url(at)), expected);
        }
    }

    #[test]
    fn token_is_valid_for_its_own_url_only() {
        let key = TokenKey::new(b"pw");
        let candidates = ["http://a:1", "http://b:1", "http://c:1"].map(url);
        for candidate in &candidates {
            let token = key.token(candidate);
            assert_eq!(key.made_for(token.as_bytes(), &candidates), Some(candidate));
        }
        let token = key.token(&url("http://d:1"));
        assert_eq!(key.made_for(token.as_bytes(), &candidates), None);
        let other = TokenKey::new(b"qw").token(&candidates[0]);
        assert_eq!(key.made_for(other.as_bytes(), &candidates), None);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let key = TokenKey::new(b"pw");
        let candidates = [url("http://a:1")];
        let token = key.token(&candidates[0]);
        for bad in [
            "",
            &token[1..],
            &token.to_uppercase(),
            &format!("{token}0"),
            &format!(" {token}"),
            &"z".repeat(32),
            &"0".repeat(32),
        ] {
            assert_eq!(key.made_for(bad.as_bytes(), &candidates), None, "{bad}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", TokenKey::new(b"hunter2")), "***");
    }
}
