//! A server of 2004 for tests: threads and plain sockets, one call at a time, raw bytes in strings.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{NODE_FIELD, TokenKey, Url};
use crate::model::PeerId;

/// A server on a port of its own.
pub(super) struct Twin {
    url: Url,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    directories: Mutex<Vec<String>>,
    known: Mutex<Vec<String>>,
    downloads: AtomicUsize,
    lists: AtomicUsize,
    stopped: AtomicBool,
    is_of_another_network: AtomicBool,
    node: Mutex<Option<PeerId>>,
}

impl Twin {
    /// Starts a server that behaves correctly.
    pub(super) fn start() -> Self {
        let state = Arc::<State>::default();
        let serving = Arc::clone(&state);
        Self::with(state, move |url, stream| serving.serve(url, stream))
    }

    /// Starts a server that runs `serve` with each connection, once the request has been read.
    pub(super) fn raw(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        Self::with(Arc::default(), move |_, mut stream| {
            request(&mut stream);
            serve(stream);
        })
    }

    fn with(state: Arc<State>, serve: impl Fn(&Url, TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url: Url = format!("http://{address}").parse().unwrap();
        let (ending, own) = (Arc::clone(&state), url.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ending.stopped.load(Ordering::Relaxed) {
                    return;
                }
                serve(&own, stream);
            }
        });
        Self { url, state }
    }

    pub(super) fn url(&self) -> Url {
        self.url.clone()
    }

    /// Returns the token that it accepts.
    pub(super) fn token(&self) -> String {
        token(&self.url)
    }

    /// Accepts no token from now on.
    pub(super) fn is_of_another_network(&self) {
        self.state
            .is_of_another_network
            .store(true, Ordering::Relaxed);
    }

    /// Returns the servers that it knows.
    pub(super) fn known(&self) -> Vec<String> {
        self.state.known.lock().clone()
    }

    pub(super) fn put(&self, name: &str, content: &[u8]) {
        let mut files = self.state.files.lock();
        files.insert(name.as_bytes().to_vec(), content.to_vec());
    }

    /// Adds a directory, which is a name like any other.
    pub(super) fn directory(&self, name: &str) {
        self.state.directories.lock().push(name.to_owned());
    }

    pub(super) fn remove(&self, name: &str) {
        self.state.files.lock().remove(name.as_bytes());
    }

    pub(super) fn knows(&self, url: &str) {
        self.state.known.lock().push(url.to_owned());
    }

    /// Forgets all servers except `url`.
    pub(super) fn knows_only(&self, url: &Url) {
        *self.state.known.lock() = vec![url.to_string()];
    }

    /// Identifies itself as this node of our program from now on.
    pub(super) fn is_node(&self, node: PeerId) {
        *self.state.node.lock() = Some(node);
    }

    /// Returns how many requests for contents, and for names, it received.
    pub(super) fn asked(&self) -> (usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (of(&self.state.downloads), of(&self.state.lists))
    }

    /// Stops answering any caller.
    pub(super) fn stop(&self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((self.url.host(), self.url.port()));
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn serve(&self, own: &Url, mut stream: TcpStream) {
        let request = request(&mut stream);
        let text = String::from_utf8_lossy(&request).into_owned();
        let strings: Vec<&str> = text
            .split("<string>")
            .skip(1)
            .filter_map(|rest| rest.split("</string>").next())
            .collect();
        let body = if strings.first() != Some(&&*token(own))
            || self.is_of_another_network.load(Ordering::Relaxed)
        {
            b"<boolean>0</boolean>".to_vec()
        } else if text.contains("<int>0</int>") {
            let mut known = self.known.lock();
            for url in &strings[1..] {
                if !known.iter().any(|k| k == url) {
                    known.push((*url).to_owned());
                }
            }
            if known.is_empty() {
                return fault(&mut stream, "nobody is known");
            }
            array(known.iter().map(String::as_bytes))
        } else if text.contains("<int>1</int>") {
            self.lists.fetch_add(1, Ordering::Relaxed);
            let mut names: Vec<Vec<u8>> = self.files.lock().keys().cloned().collect();
            names.extend(
                self.directories
                    .lock()
                    .iter()
                    .map(|name| name.clone().into_bytes()),
            );
            nested(names.iter().map(Vec::as_slice))
        } else {
            let name = strings.get(1).copied().unwrap_or_default();
            // As with open(2), anything that is not a directory has no entries.
            if !name.ends_with("/.") {
                self.downloads.fetch_add(1, Ordering::Relaxed);
            }
            match self.files.lock().get(name.as_bytes()) {
                Some(content) => string(content),
                None => {
                    let directories = self.directories.lock();
                    let plain = name.strip_suffix("/.").unwrap_or(name);
                    return if directories.iter().any(|directory| directory == plain) {
                        fault(&mut stream, &format!("[Errno 21] Is a directory: '{name}'"))
                    } else {
                        fault(&mut stream, &format!("[Errno 2] No such file: '{name}'"))
                    };
                }
            }
        };
        let mut answer = document(&body);
        if let Some(node) = *self.node.lock() {
            let line = format!("{NODE_FIELD}: {node}\r\n");
            let head = answer.windows(2).position(|pair| pair == b"\r\n");
            let at = head.map_or(0, |at| at + 2);
            answer.splice(at..at, line.into_bytes());
        }
        let _ = stream.write_all(&answer);
    }
}

/// The password of its network.
pub(super) const PASSWORD: &[u8] = b"violet-anchor";

fn token(url: &Url) -> String {
    TokenKey::new(PASSWORD).token(url)
}

/// Starts a server that answers every call with these bytes.
pub(super) fn answer_with(bytes: Vec<u8>) -> Twin {
    Twin::raw(move |mut stream| {
        let _ = stream.write_all(&bytes);
    })
}

/// Returns an answer to operation 1.
pub(super) fn names_document<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    document(&nested(names))
}

fn nested<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let inner = [b"<value>".to_vec(), array(names), b"</value>".to_vec()].concat();
    [
        b"<array><data>\n".to_vec(),
        inner,
        b"</data></array>".to_vec(),
    ]
    .concat()
}

fn array<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut array = b"<array><data>\n".to_vec();
    for value in values {
        array.extend_from_slice(b"<value>");
        array.extend(string(value));
        array.extend_from_slice(b"</value>\n");
    }
    array.extend_from_slice(b"</data></array>");
    array
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut text = b"<string>".to_vec();
    for byte in bytes {
        match byte {
            b'&' => text.extend_from_slice(b"&amp;"),
            b'<' => text.extend_from_slice(b"&lt;"),
            b'>' => text.extend_from_slice(b"&gt;"),
            other => text.push(*other),
        }
    }
    text.extend_from_slice(b"</string>");
    text
}

fn document(value: &[u8]) -> Vec<u8> {
    let before = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>";
    let behind = b"</value>\n</param>\n</params>\n</methodResponse>\n";
    let length = before.len() + value.len() + behind.len();
    let head =
        format!("HTTP/1.0 200 OK\r\nContent-type: text/xml\r\nContent-length: {length}\r\n\r\n");
    [head.as_bytes(), before, value, behind].concat()
}

fn fault(stream: &mut TcpStream, why: &str) {
    let body = format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n\
        <name>faultCode</name>\n<value><int>1</int></value>\n</member>\n<member>\n<name>faultString</name>\n\
        <value><string>exceptions.IOError:{why}</string></value>\n</member>\n</struct></value>\n\
        </fault>\n</methodResponse>\n"
    );
    let head = format!("HTTP/1.0 200 OK\r\nContent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

/// Reads a request through its end.
fn request(stream: &mut TcpStream) -> Vec<u8> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.trim_ascii_end().ends_with(b"</methodCall>") {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    request
}
