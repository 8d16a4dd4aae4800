//! Calls to one server of 2004: plain HTTP, one call per connection, short, and each
//! with a deadline.
//!
//! Requests are HTTP/1.0, so that no server may keep the connection or send its answer in chunks: a
//! server of 2004 serves one connection at a time, and a caller that holds one blocks all others.
//! Redirects are not followed (they are failures), and nothing is read without a bound.

mod response;

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use super::Url;
use super::error::WireError;
use super::wire::{self, Operation};
use crate::config::{CALL_DEADLINE, CONNECT_DEADLINE};
use crate::error::Error;
use crate::model::{PeerId, escaped};
use crate::protocol::wire::{Fault, FaultCode, one_line};
use crate::transport::dial::Dial;
use response::{ABANDONED, AnswerPace, PendingResponse};

/// The maximum size in bytes of an answer that lists names or servers.
const MAX_LIST: u64 = 4 << 20;

/// The maximum number of names of one server.
const MAX_NAMES: usize = 65_536;

/// Python's message for EISDIR.
const IS_A_DIRECTORY: &str = "[Errno 21]";

/// The number of bytes written at once.
const BUFFER: usize = 64 << 10;

/// Calls one server.
#[derive(Debug)]
pub struct LegacyClient {
    url: Url,
    token: String,
    dialer: Arc<dyn Dial>,
}

/// A server's answer about others.
#[derive(Debug, PartialEq, Eq)]
pub struct ServersReply {
    /// The strings that it lists as URLs of servers.
    pub urls: Vec<String>,
    /// The node of this program that it is, if it is one.
    pub node: Option<PeerId>,
}

/// The limits of [`LegacyClient::contents`].
pub(super) struct ContentsLimits<'a> {
    /// The maximum number of bytes.
    pub(super) max: u64,
    /// The maximum length of a document to start reading.
    pub(super) document: u64,
    /// The deadline of the first byte: before it, the server may be busy with another caller.
    pub(super) begin: Instant,
    /// Returns whether anybody still wants the contents.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
}

impl LegacyClient {
    /// Creates a client of the server at `url`, with the `token` that the password makes for it.
    pub fn new(url: Url, token: String, dialer: Arc<dyn Dial>) -> Self {
        Self { url, token, dialer }
    }

    /// Returns the URL of the called server.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns `HOST:PORT`, as it stands in the URL.
    pub fn place(&self) -> &str {
        place(&self.url)
    }

    /// Calls operation 0: announces the server at `ours`, and returns what it knows, URLs or
    /// not. A server that knows nobody, and is sent no URL, answers with a fault, which counts
    /// as an empty list.
    ///
    /// # Errors
    /// [`Error::Refused`] when the password is another one. The rest as of any call.
    pub fn servers(&self, ours: Option<&Url>) -> Result<ServersReply, Error> {
        let urls: Vec<Vec<u8>> = ours.iter().map(|url| url.as_str().into()).collect();
        let is_silent = urls.is_empty();
        let deadline = Instant::now() + CALL_DEADLINE;
        let operation = Operation::Servers(urls);
        let answer = self.call(&operation, deadline, AnswerPace::By(deadline))?;
        let node = answer.node;
        let urls = match wire::decode_servers(answer) {
            Err(WireError::Fault { .. }) if is_silent => Vec::new(),
            other => other.map_err(|trouble| self.error(trouble))?,
        };
        Ok(ServersReply { urls, node })
    }

    /// Calls operation 1: returns every name that the server has, without checking it.
    ///
    /// # Errors
    /// As of any call.
    pub fn names(&self, deadline: Instant) -> Result<Vec<Vec<u8>>, Error> {
        let deadline = deadline.min(Instant::now() + CALL_DEADLINE);
        let operation = Operation::Names(String::new());
        let answer = self.call(&operation, deadline, AnswerPace::By(deadline))?;
        let names = wire::decode_names(answer).map_err(|trouble| self.error(trouble))?;
        match names.len() {
            0..=MAX_NAMES => Ok(names),
            _ => Err(Error::misbehaved(
                self.place(),
                format!("more than {MAX_NAMES} names"),
            )),
        }
    }

    /// Returns whether `name` is a directory, as far as the server can show that without sending a
    /// file: a server that opens any given path fails in one way or another.
    ///
    /// # Errors
    /// As of any call.
    pub fn is_directory(&self, name: &[u8], deadline: Instant) -> Result<bool, Error> {
        let operation = Operation::Contents([name, b"/."].concat());
        let answer = self.call(&operation, deadline, AnswerPace::By(deadline))?;
        match wire::decode_contents(answer, 0, &mut io::sink()) {
            // After that comes the path, which may hold anything.
            Err(WireError::Fault { message, .. }) => Ok(message
                .find("[Errno ")
                .is_some_and(|at| message[at..].starts_with(IS_A_DIRECTORY))),
            Err(WireError::Limit { .. }) | Ok(_) => Ok(false),
            Err(trouble) => Err(self.error(trouble)),
        }
    }

    /// Calls operation 2: writes the contents of `name` to `sink` as they arrive. Returns their
    /// size in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the server says that it cannot read the file; an [`Error::Local`]
    /// when nobody wants it any more, or it is too large. The rest as of any call.
    pub(super) fn contents(
        &self,
        name: &[u8],
        allowance: &ContentsLimits<'_>,
        sink: &mut dyn Write,
    ) -> Result<u64, Error> {
        let pace = AnswerPace::Progress {
            since: None,
            brought: 0,
            begin: allowance.begin,
            is_wanted: allowance.is_wanted,
        };
        let operation = Operation::Contents(name.to_owned());
        let mut answer = self.call(&operation, allowance.begin, pace)?;
        if answer
            .left
            .is_some_and(|length| length > allowance.document)
        {
            return Err(self.too_large(name));
        }
        answer.max = allowance.document;
        // Bytes with a meaning in XML occur every hundred bytes or so in binary contents, and each
        // ends a piece.
        let mut sink = BufWriter::with_capacity(BUFFER, sink);
        let count = wire::decode_contents(answer, allowance.max, &mut sink);
        let count = count.and_then(|count| match sink.flush() {
            Ok(()) => Ok(count),
            Err(error) => Err(WireError::Write(error)),
        });
        match count {
            Err(WireError::Fault { message, .. }) => {
                let (server, why) = (self.place(), escaped(message.as_bytes()));
                tracing::debug!(server, name = escaped(name), why, "no contents");
                Err(Error::NotFound {
                    who: server.to_owned(),
                })
            }
            Err(WireError::Limit {
                what: wire::CONTENTS,
                ..
            }) => Err(self.too_large(name)),
            Err(WireError::Write(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(self.too_large(name))
            }
            other => other.map_err(|trouble| self.error(trouble)),
        }
    }

    /// Sends a call and reads the head of the answer. Connecting and sending end by `deadline`.
    fn call<'a>(
        &self,
        operation: &Operation,
        deadline: Instant,
        pace: AnswerPace<'a>,
    ) -> Result<PendingResponse<'a>, Error> {
        let dialled = deadline.min(Instant::now() + CONNECT_DEADLINE);
        let link = self.dialer.dial(&self.url.address(), dialled)?;
        let sent = link.write_all(&self.request(operation), deadline);
        let mut answer = PendingResponse::new(link, MAX_LIST, pace);
        sent.map_err(WireError::Read)
            .and_then(|()| answer.read_head())
            .map_err(|trouble| self.error(trouble))?;
        Ok(answer)
    }

    fn request(&self, operation: &Operation) -> Vec<u8> {
        let body = wire::encode_call(&self.token, operation);
        let (place, length) = (self.place(), body.len());
        let head = format!(
            "POST /RPC2 HTTP/1.0\r\nHost: {place}\r\nUser-Agent: tinyp2p\r\nContent-Type: text/xml\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        [head.as_bytes(), &body].concat()
    }

    fn error(&self, trouble: WireError) -> Error {
        let who = self.place().to_owned();
        match trouble {
            WireError::Denied => Error::Refused { who },
            WireError::Fault { message, .. } => Error::Fault {
                who,
                fault: Fault::new(FaultCode::Other(1), one_line(&message)),
            },
            WireError::Broken(_) | WireError::Limit { .. } => {
                Error::misbehaved(who, trouble.to_string())
            }
            WireError::Write(error) if error.kind() == io::ErrorKind::StorageFull => Error::local(
                format!("keeping a file of {who}"),
                "no room beside what others read and fetch: try again, or see --cache-size",
            ),
            WireError::Write(error) => Error::local(format!("keeping a file of {who}"), error),
            WireError::Read(error) => match error.kind() {
                io::ErrorKind::TimedOut => Error::Timeout { who },
                io::ErrorKind::FileTooLarge => {
                    Error::misbehaved(who, "an answer that is longer than it may be")
                }
                ABANDONED => Error::local(
                    format!("fetching from {who}"),
                    "nobody waits for it any more",
                ),
                _ => Error::unreachable(who, error),
            },
        }
    }

    fn too_large(&self, name: &[u8]) -> Error {
        Error::local(
            format!("fetching {} from {}", escaped(name), self.place()),
            "it is larger than the cache may take of one file (see --cache-size)",
        )
    }
}

/// Returns `HOST:PORT` of a server.
pub(super) fn place(url: &Url) -> &str {
    let text = url.as_str();
    text.strip_prefix("http://").unwrap_or(text)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::twin::{Twin, answer_with, names_document};
    use super::*;
    use crate::transport::dial::TcpDialer;

    fn caller(twin: &Twin) -> LegacyClient {
        LegacyClient::new(twin.url(), twin.token(), Arc::new(TcpDialer::default()))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn fetch(caller: &LegacyClient, name: &str, max: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let allowance = ContentsLimits {
            max,
            document: 10 * max,
            begin: soon(),
            is_wanted: &|| true,
        };
        caller.contents(name.as_bytes(), &allowance, &mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn server_gives_peers_names_and_every_byte() {
        let twin = Twin::start();
        let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        twin.put("b in", &all);
        let caller = caller(&twin);
        assert_eq!(caller.servers(None).unwrap().urls, Vec::<String>::new());
        let ours: Url = "http://127.0.0.1:1".parse().unwrap();
        let told = caller.servers(Some(&ours)).unwrap();
        assert_eq!((told.urls, told.node), (vec![ours.to_string()], None));
        assert_eq!(caller.names(soon()).unwrap(), [b"b in"]);
        assert_eq!(fetch(&caller, "b in", 1 << 20).unwrap(), all);
        let missing = fetch(&caller, "missing", 1 << 20);
        assert!(
            matches!(missing, Err(Error::NotFound { .. })),
            "{missing:?}"
        );
    }

    #[test]
    fn wrong_password_fails_every_operation() {
        let twin = Twin::start();
        twin.put("x", b"1");
        let caller = LegacyClient::new(twin.url(), "0".repeat(32), Arc::new(TcpDialer::default()));
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
            assert!(error.to_string().contains(caller.place()));
        }
        let twin = Twin::raw(endless(document));
        let error = fetch(&caller(&twin), "x", 1 << 20).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    #[test]
    fn fault_text_is_one_line_without_controls() {
        let fault = "<methodResponse><fault><value><struct>\
            <member><name>faultCode</name><value><int>1</int></value></member>\
            <member><name>faultString</name><value><string>a\x1b]0;b\x07\nWARN c</string></value></member>\
            </struct></value></fault></methodResponse>";
        let twin = answer_with(format!("HTTP/1.0 200 OK\r\n\r\n{fault}").into_bytes());
        let text = caller(&twin).names(soon()).unwrap_err().to_string();
        assert!(text.contains("WARN c"), "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }

    #[test]
    fn cut_connection_breaks_no_protocol() {
        let head = "HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n<methodResponse><params>";
        let twin = answer_with(head.into());
        let error = caller(&twin).names(soon()).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }

    #[test]
    fn error_lookalike_name_is_no_directory() {
        let twin = Twin::start();
        twin.put("[Errno 21]", b"1");
        twin.directory("d [Errno 2]");
        let is_directory = |name: &str| caller(&twin).is_directory(name.as_bytes(), soon());
        assert!(!is_directory("[Errno 21]").unwrap() && is_directory("d [Errno 2]").unwrap());
    }

    #[test]
    fn unwanted_download_ends() {
        let twin = Twin::raw(|_| std::thread::sleep(Duration::from_secs(30)));
        let (caller, begun) = (caller(&twin), Instant::now());
        let allowance = ContentsLimits {
            max: 1,
            document: 1,
            begin: soon(),
            is_wanted: &|| begun.elapsed() < Duration::from_millis(100),
        };
        caller
            .contents(b"x", &allowance, &mut io::sink())
            .unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}
