//! Calls to one server of 2004: plain HTTP, one call a connection, short, and each with an end.
//!
//! Requests are HTTP/1.0, so that no server may keep the connection or cut its answer into chunks: a server of 2004
//! serves one connection at a time, and whoever holds one holds up everybody. Nobody is followed elsewhere (a
//! redirect is a failure), and nothing is taken in without a bound.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reply::{self, Bytes, Trouble};
use crate::client::dial::{Dial, Link};
use crate::config::{CALL_DEADLINE, CONNECT_DEADLINE};
use crate::error::Error;
use crate::types::Address;
use crate::wire::{Fault, FaultCode};

/// The most bytes of an answer that lists names or servers.
const MAX_LIST: u64 = 1 << 20;

/// The longest head of a response.
const MAX_HEAD: usize = 16 << 10;

/// Header fields of a response; a server of 2004 sends four.
const MAX_FIELDS: usize = 64;

/// A download that brings less than [`LEAST_PROGRESS`] in this time has failed.
const STANDSTILL: Duration = Duration::from_secs(15);

/// See [`STANDSTILL`]; at the end of a file less is enough.
const LEAST_PROGRESS: u64 = 16 << 10;

/// How often a download that brings nothing looks whether anybody still wants it.
const LOOK: Duration = Duration::from_millis(250);

/// Read at once.
const BUFFER: usize = 64 << 10;

/// What is around the contents in an answer to operation 2, generously.
const ENVELOPE: u64 = 4 << 10;

/// A server, by the address that it calls itself. Tokens are made for exactly that text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Site {
    url: String,
    host: String,
    port: u16,
}

impl Site {
    /// Reads `http://HOST:PORT`, with or without a slash behind it (which is no part of what servers call
    /// themselves); `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let place = text.strip_prefix("http://")?;
        let place = place.strip_suffix('/').unwrap_or(place);
        let (_, port) = place.rsplit_once(':')?;
        // What an address allows beyond that is not what a server calls itself.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.is_empty() {
            return None;
        }
        let address: Address = place.parse().ok()?;
        Some(Self {
            url: format!("http://{place}"),
            host: address.host,
            port: address.port,
        })
    }

    /// What it calls itself.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is dialled.
    pub fn address(&self) -> Address {
        Address::new(self.host.clone(), self.port)
    }

    /// `HOST:PORT`, as it stands in the URL.
    pub fn place(&self) -> &str {
        &self.url["http://".len()..]
    }
}

/// Calls one server.
#[derive(Debug)]
pub struct Caller {
    site: Site,
    token: String,
    dialer: Arc<dyn Dial>,
}

/// What [`Caller::contents`] may take.
pub(super) struct Allowance<'a> {
    /// The most bytes of the document; more is known from its head, or shows when it comes.
    pub(super) document: u64,
    /// The first byte must have come by then: before, the server may be busy with somebody else.
    pub(super) begin: Instant,
    /// Whether anybody still wants it.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
}

/// The argument of a call.
enum Argument<'a> {
    Text(&'a str),
    Array(&'a [&'a str]),
}

impl Caller {
    /// Calls `site` with the `token` that the password makes for its URL.
    pub fn new(site: Site, token: String, dialer: Arc<dyn Dial>) -> Self {
        Self {
            site,
            token,
            dialer,
        }
    }

    /// Whom it calls.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Operation 0: says that there is a server at `ours`, and returns the URLs that it knows, whatever they
    /// are worth. One that knows nobody, and is told nothing, answers with a fault: nobody then.
    ///
    /// # Errors
    /// [`Error::Refused`]: the password is another one. The rest as of any call.
    pub fn servers(&self, ours: Option<&str>) -> Result<Vec<Vec<u8>>, Error> {
        let urls: Vec<&str> = ours.into_iter().collect();
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut answer = self.call(0, &Argument::Array(&urls), deadline, Pace::By(deadline))?;
        match reply::array(&mut answer) {
            Err(Trouble::Fault(_)) if urls.is_empty() => Ok(Vec::new()),
            other => other.map_err(|trouble| self.error(trouble, "its list of servers")),
        }
    }

    /// Operation 1: every name that it has, whatever it is worth.
    ///
    /// # Errors
    /// As any call's.
    pub fn names(&self, deadline: Instant) -> Result<Vec<Vec<u8>>, Error> {
        let deadline = deadline.min(Instant::now() + CALL_DEADLINE);
        let mut answer = self.call(1, &Argument::Text(""), deadline, Pace::By(deadline))?;
        reply::nested_array(&mut answer).map_err(|trouble| self.error(trouble, "its list of names"))
    }

    /// Operation 2: the contents of `name`, as they come, into `sink`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it says that it cannot read it; an [`Error::Local`] when nobody wants it any more,
    /// or it is too large. The rest as of any call.
    pub(super) fn contents(
        &self,
        name: &str,
        allowance: &Allowance<'_>,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let pace = Pace::Progress {
            since: None,
            brought: 0,
            begin: allowance.begin,
            is_wanted: allowance.is_wanted,
        };
        let connected = allowance.begin.min(Instant::now() + CONNECT_DEADLINE);
        let mut answer = self.call(2, &Argument::Text(name), connected, pace)?;
        if answer.length.is_some_and(|length| length > allowance.document) {
            return Err(too_large(&self.site, name));
        }
        answer.left = allowance.document.saturating_add(ENVELOPE);
        match reply::contents(&mut answer, sink) {
            Err(Trouble::Fault(why)) => {
                tracing::debug!(server = self.site.place(), name, why, "no contents");
                Err(Error::NotFound {
                    who: self.site.place().to_owned(),
                })
            }
            Err(Trouble::Io(error) | Trouble::Sink(error))
                if error.kind() == io::ErrorKind::FileTooLarge =>
            {
                Err(too_large(&self.site, name))
            }
            other => other.map_err(|trouble| self.error(trouble, name)),
        }
    }

    /// Sends a call and reads the head of the answer. Connecting and sending end by `connected`.
    fn call<'a>(
        &self,
        operation: u8,
        argument: &Argument<'_>,
        connected: Instant,
        pace: Pace<'a>,
    ) -> Result<Answer<'a>, Error> {
        let dialled = connected.min(Instant::now() + CONNECT_DEADLINE);
        let link = self.dialer.dial(&self.site.address(), dialled)?;
        let request = self.request(operation, argument);
        let sent = link.write_all(&request, connected);
        let mut answer = Answer {
            link: Closing(link),
            buffer: vec![0; BUFFER],
            begin: 0,
            end: 0,
            left: MAX_LIST,
            length: None,
            pace,
        };
        sent.map_err(Trouble::Io)
            .and_then(|()| answer.read_head())
            .map_err(|trouble| self.error(trouble, "the head of its answer"))?;
        Ok(answer)
    }

    fn request(&self, operation: u8, argument: &Argument<'_>) -> Vec<u8> {
        let argument = match argument {
            Argument::Text(text) => string(text),
            Argument::Array(texts) => {
                let values = texts.iter();
                let values: String = values
                    .map(|text| format!("<value>{}</value>\n", string(text)))
                    .collect();
                format!("<array><data>\n{values}</data></array>")
            }
        };
        let body = format!(
            "<?xml version='1.0'?>\n<methodCall>\n<methodName>f</methodName>\n<params>\n\
             <param>\n<value>{token}</value>\n</param>\n\
             <param>\n<value><int>{operation}</int></value>\n</param>\n\
             <param>\n<value>{argument}</value>\n</param>\n</params>\n</methodCall>\n",
            token = string(&self.token),
        );
        let (place, length) = (self.site.place(), body.len());
        format!(
            "POST /RPC2 HTTP/1.0\r\nHost: {place}\r\nUser-Agent: tinyp2p\r\nContent-Type: text/xml\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn error(&self, trouble: Trouble, what: &str) -> Error {
        let who = self.site.place().to_owned();
        match trouble {
            Trouble::Io(error) => match error.kind() {
                io::ErrorKind::TimedOut => Error::Timeout { who },
                io::ErrorKind::FileTooLarge => {
                    Error::misbehaved(who, format!("{what} is longer than it may be"))
                }
                io::ErrorKind::UnexpectedEof => Error::Unreachable {
                    who,
                    why: "it broke off in the middle of an answer".into(),
                },
                io::ErrorKind::Interrupted => Error::Local {
                    what: format!("fetching {what} from {who}"),
                    why: "nobody waits for it any more".into(),
                },
                _ => Error::Unreachable {
                    who,
                    why: error.to_string(),
                },
            },
            Trouble::Nonsense(rule) => Error::misbehaved(who, rule),
            Trouble::Refused => Error::Refused { who },
            Trouble::Fault(text) => Error::Fault {
                who,
                fault: Fault::new(FaultCode::Other(1), text),
            },
            Trouble::Sink(error) => Error::local(format!("keeping {what} of {who}"), error),
        }
    }
}

fn too_large(site: &Site, name: &str) -> Error {
    Error::Local {
        what: format!("fetching {name} from {}", site.place()),
        why: "it is larger than what the cache may take (see --cache-size)".into(),
    }
}

/// A string of XML-RPC. Everything that is said here consists of characters of XML.
fn string(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 17);
    escaped.push_str("<string>");
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\r' => escaped.push_str("&#13;"),
            other => escaped.push(other),
        }
    }
    escaped.push_str("</string>");
    escaped
}

/// How long an answer may take.
enum Pace<'a> {
    /// All of it comes by then.
    By(Instant),
    /// It goes on coming, for as long as it is wanted.
    Progress {
        /// When what is counted in `brought` began to come; `None` before the first byte.
        since: Option<Instant>,
        brought: u64,
        begin: Instant,
        is_wanted: &'a dyn Fn() -> bool,
    },
}

impl Pace<'_> {
    /// How long the next read may wait; an error once it must not any more.
    fn next(&self, now: Instant) -> io::Result<Instant> {
        let (end, is_wanted) = match self {
            Self::By(deadline) => (*deadline, true),
            Self::Progress {
                since,
                begin,
                is_wanted,
                ..
            } => (since.map_or(*begin, |since| since + STANDSTILL), is_wanted()),
        };
        match is_wanted {
            false => Err(io::ErrorKind::Interrupted.into()),
            true if now >= end => Err(io::ErrorKind::TimedOut.into()),
            true => Ok(match self {
                Self::By(_) => end,
                Self::Progress { .. } => end.min(now + LOOK),
            }),
        }
    }

    fn came(&mut self, count: usize, now: Instant) {
        if let Self::Progress { since, brought, .. } = self {
            *brought += count as u64;
            if since.is_none() || *brought >= LEAST_PROGRESS {
                (*since, *brought) = (Some(now), 0);
            }
        }
    }
}

/// Ends the connection with the call, however that ends.
struct Closing(Arc<dyn Link>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// An answer that is on its way.
struct Answer<'a> {
    link: Closing,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// Bytes that may still come.
    left: u64,
    /// What the head says of the body's length.
    length: Option<u64>,
    pace: Pace<'a>,
}

impl Answer<'_> {
    fn read_head(&mut self) -> Result<(), Trouble> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut head = httparse::Response::new(&mut fields);
            let parsed = head.parse(&self.buffer[..self.end]);
            match parsed {
                Ok(httparse::Status::Complete(length)) => {
                    self.begin = length;
                    let is_length =
                        |f: &&httparse::Header<'_>| f.name.eq_ignore_ascii_case("content-length");
                    let said = head.headers.iter().find(is_length);
                    let said = said.and_then(|field| std::str::from_utf8(field.value).ok());
                    self.length = said.and_then(|text| text.trim().parse().ok());
                    return match head.code {
                        Some(200) => Ok(()),
                        Some(300..400) => Err(Trouble::Nonsense("a redirect")),
                        _ => Err(Trouble::Nonsense("a failure of HTTP instead of an answer")),
                    };
                }
                Ok(httparse::Status::Partial) if self.end < MAX_HEAD => {}
                _ => return Err(Trouble::Nonsense("something else than HTTP")),
            }
            if self.read()? == 0 {
                return Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads more behind what is in the buffer; 0 at the end.
    fn read(&mut self) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        loop {
            let deadline = self.pace.next(Instant::now())?;
            match self.link.0.read(&mut self.buffer[self.end..], deadline) {
                Ok(count) => {
                    self.pace.came(count, Instant::now());
                    self.left = self.left.saturating_sub(count as u64);
                    self.end += count;
                    return Ok(count);
                }
                // The pace says whether that was all the time there is.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Bytes for Answer<'_> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            self.read()?;
        }
        Ok(&self.buffer[self.begin..self.end])
    }

    fn used(&mut self, count: usize) {
        self.begin += count;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::twin::{Twin, answer_with, names_document};
    use super::*;
    use crate::client::dial::TcpDialer;

    fn caller(twin: &Twin) -> Caller {
        Caller::new(twin.site(), twin.token(), Arc::new(TcpDialer::default()))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn fetch(caller: &Caller, name: &str, document: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let allowance = Allowance {
            document,
            begin: soon(),
            is_wanted: &|| true,
        };
        caller.contents(name, &allowance, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    #[test]
    fn servers_are_what_they_call_themselves() {
        let site = Site::parse("http://Box.example:8000/").unwrap();
        assert_eq!(site.url(), "http://Box.example:8000");
        assert_eq!(site.place(), "Box.example:8000");
        assert_eq!(site.address().port, 8000);
        for bad in [
            "https://box:1",
            "http://box",
            "http://box:",
            "http://box:0",
            "http://box:99999",
            "http://box:1/x",
            "http://a b:1",
            "http://u@box:1",
            "http://box:1#x",
            "box:1",
        ] {
            assert_eq!(Site::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_server_tells_whom_it_knows_and_what_it_has_and_gives_every_byte() {
        let twin = Twin::start();
        let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        twin.put("b in", &all);
        let caller = caller(&twin);
        assert_eq!(caller.servers(None).unwrap(), Vec::<Vec<u8>>::new());
        let ours = "http://127.0.0.1:1";
        assert_eq!(caller.servers(Some(ours)).unwrap(), [ours.as_bytes()]);
        assert_eq!(caller.names(soon()).unwrap(), [b"b in"]);
        assert_eq!(fetch(&caller, "b in", 1 << 20).unwrap(), all);
        let missing = fetch(&caller, "missing", 1 << 20);
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    }

    #[test]
    fn another_password_is_refused_by_every_operation() {
        let twin = Twin::start();
        twin.put("x", b"1");
        let caller = Caller::new(twin.site(), "0".repeat(32), Arc::new(TcpDialer::default()));
        let refused = |error: Error| assert!(matches!(error, Error::Refused { .. }), "{error}");
        refused(caller.servers(None).unwrap_err());
        refused(caller.names(soon()).unwrap_err());
        refused(fetch(&caller, "x", 1 << 20).unwrap_err());
    }

    #[test]
    fn a_frozen_server_costs_its_deadline() {
        let twin = Twin::raw(|_| std::thread::sleep(Duration::from_secs(30)));
        let (caller, begun) = (caller(&twin), Instant::now());
        let deadline = begun + Duration::from_millis(300);
        let error = caller.names(deadline).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn hostile_answers_end_and_are_named() {
        use std::io::Write;
        let endless = |head: &'static [u8]| {
            move |mut stream: std::net::TcpStream| {
                if stream.write_all(head).is_ok() {
                    while stream.write_all(&[b'x'; 4096]).is_ok() {}
                }
            }
        };
        let document = b"HTTP/1.0 200 OK\r\n\r\n<methodResponse><params><param><value><string>";
        let many = names_document(std::iter::repeat_n(&b"0123456789"[..], 1_000_000));
        let answers: Vec<Twin> = vec![
            Twin::raw(endless(b"")),
            Twin::raw(endless(b"HTTP/1.0 200 OK\r\nx: ")),
            Twin::raw(endless(document)),
            answer_with(b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".to_vec()),
            answer_with(many),
            answer_with(b"HTTP/1.0 200 OK\r\n\r\n<!DOCTYPE a [<!ENTITY b 'c'>]>".to_vec()),
        ];
        for twin in answers {
            let caller = caller(&twin);
            let error = caller.names(soon()).unwrap_err();
            assert!(matches!(error, Error::Misbehaved { .. }), "{error}");
            assert!(error.to_string().contains(caller.site().place()));
        }
        let twin = Twin::raw(endless(document));
        let error = fetch(&caller(&twin), "x", 1 << 20).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    #[test]
    fn a_download_that_nobody_wants_any_more_ends() {
        let twin = Twin::raw(|_| std::thread::sleep(Duration::from_secs(30)));
        let (caller, begun) = (caller(&twin), Instant::now());
        let allowance = Allowance {
            document: 1,
            begin: soon(),
            is_wanted: &|| begun.elapsed() < Duration::from_millis(100),
        };
        caller
            .contents("x", &allowance, &mut |_| Ok(()))
            .unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn single_bytes_now_and_then_are_no_progress() {
        let begun = Instant::now();
        let mut pace = Pace::Progress {
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
