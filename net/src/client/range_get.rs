//! One ranged GET directly on a connection, without ureq.
//!
//! Calls and everything else with a body of its own go through ureq (`connector`). The bytes of
//! files are what this program is about, and a general client costs them a copy of every byte and a
//! fifth of the time of a small read. They need little: one request without a body, one response
//! with a length. `httparse` parses its head, as in hyper and ureq; its body is decrypted to where
//! the reader wants it.

use std::time::Instant;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use crate::error::Error;
use crate::transport::tls_link::{MAX_PLAINTEXT, TlsLink};

/// The longest response head that is accepted.
pub(super) const MAX_RESPONSE_HEAD: usize = 16 * 1024;

/// The most header fields in a response.
const MAX_FIELDS: usize = 64;

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl AsRef<Head> for Head {
    fn as_ref(&self) -> &Head {
        self
    }
}

/// A connection, and the bytes it has received that nobody has consumed yet.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) tls: TlsLink,
    ahead: Vec<u8>,
    taken: usize,
}

impl Wire {
    pub(super) fn new(tls: TlsLink) -> Self {
        Self {
            tls,
            ahead: Vec::new(),
            taken: 0,
        }
    }

    /// Returns true while the connection can carry another request.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_drained() && self.tls.is_quiet()
    }

    /// Returns true when nothing received is unread.
    pub(super) fn is_drained(&self) -> bool {
        self.is_empty() && self.tls.is_drained()
    }

    fn is_empty(&self) -> bool {
        self.taken == self.ahead.len()
    }

    /// Sends a complete request head, and waits for the head of the response.
    pub(super) fn request(&mut self, head: &[u8], deadline: Instant) -> Result<Head, Error> {
        if !self.is_drained() {
            return Err(self.misbehaved("bytes that nobody asked for"));
        }
        self.tls.write_all(head, deadline)?;
        self.taken = 0;
        let mut filled = 0;
        loop {
            self.ahead.resize(filled + MAX_PLAINTEXT, 0);
            filled += self.tls.read(&mut self.ahead[filled..], deadline)?;
            self.ahead.truncate(filled);
            if let Some((head, length)) = parse(&self.ahead).map_err(|why| self.misbehaved(why))? {
                self.taken = length;
                return Ok(head);
            }
            if filled >= MAX_RESPONSE_HEAD {
                return Err(self.misbehaved("a response head longer than the limit"));
            }
        }
    }

    /// Reads some bytes of the body into `buffer`, which is not empty. The end of the connection
    /// is an error.
    pub(super) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        if self.is_empty() {
            self.ahead.clear();
            self.taken = 0;
            return self.tls.read_over(buffer, &mut self.ahead, deadline);
        }
        let waiting = &self.ahead[self.taken..];
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        self.taken += count;
        Ok(count)
    }

    fn misbehaved(&self, what: &str) -> Error {
        Error::misbehaved(self.tls.who(), what)
    }
}

/// Parses the head at the beginning of `bytes`, and returns its length too; `None` while
/// it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("a response head that is not HTTP/1.1"),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let (Some(status), Some(1)) = (status, response.version) else {
        return Err("a response head that is not HTTP/1.1");
    };
    if status.is_informational() {
        return Err("a response that is none yet");
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err("a header field that is none");
        };
        headers.append(name, value);
    }
    Ok(Some((Head { status, headers }, length)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\n";

    #[test]
    fn head_is_taken_once_complete() {
        for cut in 0..HEAD.len() {
            assert!(parse(&HEAD[..cut]).unwrap().is_none(), "{cut}");
        }
        let with_body = [HEAD, b"abc"].concat();
        let (head, length) = parse(&with_body).unwrap().unwrap();
        assert_eq!(
            (head.status, length),
            (StatusCode::PARTIAL_CONTENT, HEAD.len())
        );
        assert_eq!(head.headers["content-length"], "3");
    }

    #[test]
    fn non_final_or_non_http_1_1_is_refused() {
        for bad in [
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert!(parse(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()).is_err());
    }

    proptest! {
        /// For any input, a head is parsed, refused or waited for.
        #[test]
        fn no_bytes_confuse_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..60) {
            let _ = parse(&bytes);
            let mut broken = HEAD.to_vec();
            broken.splice(at..at, bytes);
            let _ = parse(&broken);
        }
    }
}
