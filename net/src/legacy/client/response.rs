//! The answer to a call as it arrives: an HTTP head, then a body that is read within bounds of
//! size and time.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::legacy::NODE_FIELD;
use crate::legacy::error::WireError;
use crate::model::PeerId;
use crate::transport::dial::Link;

/// The error of a read that nobody waits for any more.
pub(super) const ABANDONED: io::ErrorKind = io::ErrorKind::ConnectionAborted;

/// The maximum length of the head of a response.
const MAX_HEAD: usize = 16 << 10;

/// The maximum number of header fields of a response; a server of 2004 sends four.
const MAX_FIELDS: usize = 64;

/// A download that receives less than [`MIN_PROGRESS`] in this time has failed.
const STANDSTILL: Duration = Duration::from_secs(15);

/// See [`STANDSTILL`]; at the end of a file, less is enough.
const MIN_PROGRESS: u64 = 16 << 10;

/// How often a download that receives nothing checks whether anybody still wants it.
const LOOK: Duration = Duration::from_millis(250);

/// The number of bytes read at once.
const BUFFER: usize = 64 << 10;

/// How long an answer may take.
pub(super) enum AnswerPace<'a> {
    /// All of it arrives by this deadline.
    By(Instant),
    /// It keeps arriving, for as long as it is wanted.
    Progress {
        /// When the bytes counted in `brought` began to arrive; `None` before the first one.
        since: Option<Instant>,
        brought: u64,
        begin: Instant,
        is_wanted: &'a dyn Fn() -> bool,
    },
}

impl AnswerPace<'_> {
    /// Returns the deadline of the next read; an error once there must be none.
    fn next(&self, now: Instant) -> io::Result<Instant> {
        let (end, is_wanted) = match self {
            Self::By(deadline) => (*deadline, true),
            Self::Progress {
                since,
                begin,
                is_wanted,
                ..
            } => (
                since.map_or(*begin, |since| since + STANDSTILL),
                is_wanted(),
            ),
        };
        if !is_wanted {
            return Err(ABANDONED.into());
        }
        if now >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(match self {
            Self::By(_) => end,
            Self::Progress { .. } => end.min(now + LOOK),
        })
    }

    fn came(&mut self, count: usize, now: Instant) {
        if let Self::Progress { since, brought, .. } = self {
            *brought += count as u64;
            if since.is_none() || *brought >= MIN_PROGRESS {
                (*since, *brought) = (Some(now), 0);
            }
        }
    }
}

/// Closes the connection when the call ends, in any way.
struct Closing(Arc<dyn Link>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// An answer under way.
pub(super) struct PendingResponse<'a> {
    link: Closing,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// The maximum number of bytes still to be read.
    pub(super) max: u64,
    /// The remaining length of the body, if known.
    pub(super) left: Option<u64>,
    /// The node of this program that claims to answer, if any.
    pub(super) node: Option<PeerId>,
    pace: AnswerPace<'a>,
}

impl<'a> PendingResponse<'a> {
    /// Reads from `link` at most `max` bytes, while `pace` allows.
    pub(super) fn new(link: Arc<dyn Link>, max: u64, pace: AnswerPace<'a>) -> Self {
        Self {
            link: Closing(link),
            buffer: vec![0; BUFFER],
            begin: 0,
            end: 0,
            max,
            left: None,
            node: None,
            pace,
        }
    }

    pub(super) fn read_head(&mut self) -> Result<(), WireError> {
        let broken = |what: &str| Err(WireError::Broken(what.to_owned()));
        loop {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut head = httparse::Response::new(&mut fields);
            match head.parse(&self.buffer[..self.end]) {
                Ok(httparse::Status::Complete(length)) => {
                    self.begin = length;
                    let said = |name: &str| {
                        let mut fields = head.headers.iter();
                        let field = fields.find(|f| f.name.eq_ignore_ascii_case(name))?;
                        std::str::from_utf8(field.value).ok()
                    };
                    self.left = said("content-length").and_then(|text| text.trim().parse().ok());
                    self.node = said(NODE_FIELD).and_then(|text| text.trim().parse().ok());
                    return match head.code {
                        Some(200) => Ok(()),
                        Some(300..400) => broken("a redirect, which is not followed"),
                        Some(code) => broken(&format!("HTTP status {code}")),
                        None => broken("no HTTP status"),
                    };
                }
                Ok(httparse::Status::Partial) if self.end < MAX_HEAD => {}
                _ => return broken("something else than HTTP, or a head that does not end"),
            }
            if self.receive().map_err(WireError::Read)? == 0 {
                return Err(WireError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Receives more, after what is in the buffer; 0 at the end.
    fn receive(&mut self) -> io::Result<usize> {
        if self.max == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        loop {
            let deadline = self.pace.next(Instant::now())?;
            match self.link.0.read(&mut self.buffer[self.end..], deadline) {
                Ok(count) => {
                    self.pace.came(count, Instant::now());
                    self.max = self.max.saturating_sub(count as u64);
                    self.end += count;
                    return Ok(count);
                }
                // The pace decides whether that was all the available time.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl BufRead for PendingResponse<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == Some(0) {
            return Ok(&[]);
        }
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            let came = self.receive()?;
            // A peer that was cut off did not break the protocol.
            if came == 0 && self.left.is_some() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let here = self.end - self.begin;
        let here = match self.left {
            Some(left) => here.min(usize::try_from(left).unwrap_or(here)),
            None => here,
        };
        Ok(&self.buffer[self.begin..self.begin + here])
    }

    fn consume(&mut self, count: usize) {
        self.begin += count;
        self.left = self.left.map(|left| left.saturating_sub(count as u64));
    }
}

impl Read for PendingResponse<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let count = here.len().min(buffer.len());
        buffer[..count].copy_from_slice(&here[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_bytes_now_and_then_are_no_progress() {
        let begun = Instant::now();
        let mut pace = AnswerPace::Progress {
            since: None,
            brought: 0,
            begin: begun + Duration::from_secs(3),
            is_wanted: &|| true,
        };
        pace.came(1, begun);
        let mut now = begun;
        let end = loop {
            match pace.next(now) {
                Ok(_) => {
                    now += Duration::from_secs(1);
                    pace.came(1, now);
                }
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert_eq!(now - begun, STANDSTILL);
    }
}
