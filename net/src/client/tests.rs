//! The client against real nodes, and against fakes that lie, break off, freeze or are not nodes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ServerConnection, StreamOwned};

use super::http_peer::{Client, HttpPeer};
use crate::auth::{AddressSource, Gate};
use crate::budget::ByteBudget;
use crate::error::Error;
use crate::model::{Address, ByteRange, PeerId, RelPath, Version};
use crate::peer::{ByteStream, Peer};
use crate::protocol::wire::{
    BatchAnswer, BatchItem, ListRequest, MAX_BATCH_FILES, MAX_SMALL_FILE, Request, Response,
};
use crate::server::harness::{PATIENCE, TestNode, caller, client, soon};
use crate::transport::dial::{Dial, Link, TcpDialer};

fn connect(client: &Client, address: &Address) -> Result<Arc<HttpPeer>, Error> {
    client.connect(address, None, AddressSource::Named, soon())
}

/// Starts a node, and a client that it knows.
fn node_and_peer() -> (TestNode, Arc<HttpPeer>) {
    let (node, gate) = (TestNode::start(1), caller(1));
    node.befriend(&gate);
    let peer = connect(&client(&gate), &node.address()).unwrap();
    (node, peer)
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn open(
    peer: &HttpPeer,
    name: &str,
    version: Version,
    range: ByteRange,
) -> Result<Box<dyn ByteStream>, Error> {
    peer.open(&path(name), version, range, soon())
}

fn read_all(stream: &mut dyn ByteStream) -> Result<Vec<u8>, Error> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 100_000]);
    loop {
        match stream.read(&mut buffer, soon())? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn methods(peer: &HttpPeer, deadline: Instant) -> Result<Vec<String>, Error> {
    match peer.call(&Request::ListMethods, deadline)? {
        Response::ListMethods(methods) => Ok(methods),
        other => panic!("{other:?}"),
    }
}

/// Bytes that differ from their neighbours in every block.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|i| i.wrapping_mul(7919).to_le_bytes())
        .take(length)
        .collect()
}

/// A dialer that counts its connections.
#[derive(Debug, Default)]
struct Counting {
    tcp: TcpDialer,
    dialled: AtomicUsize,
}

impl Dial for Counting {
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        self.tcp.dial(address, deadline)
    }
}

#[test]
fn strangers_with_the_same_password_pair_and_call() {
    let node = TestNode::start(1);
    node.put("f", b"x");
    let gate = caller(1);
    let peer = connect(&client(&gate), &node.address()).unwrap();
    assert_eq!(peer.id(), node.id());
    assert!(node.gate.is_admitted(gate.id()));
    assert!(
        methods(&peer, soon())
            .unwrap()
            .contains(&"tinyp2p.list".into())
    );
    let request = Request::List(ListRequest {
        watch: false,
        directory: RelPath::root(),
        after: None,
        limit: 10,
    });
    let Response::List(listing) = peer.call(&request, soon()).unwrap() else {
        panic!("another response");
    };
    assert_eq!(listing.entries.len(), 1);
}

#[test]
fn another_password_is_refused() {
    let node = TestNode::start(1);
    let gate = caller(2);
    let error = connect(&client(&gate), &node.address()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(!gate.is_admitted(node.id()));
    assert!(!node.gate.is_admitted(gate.id()));
}

#[test]
fn proxy_environment_is_ignored() {
    let test = "client::tests::strangers_with_the_same_password_pair_and_call";
    let nowhere = "http://127.0.0.1:9";
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .envs(["HTTPS_PROXY", "https_proxy", "ALL_PROXY"].map(|name| (name, nowhere)))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn calls_in_sequence_use_one_connection() {
    let (node, gate) = (TestNode::start(1), caller(1));
    node.befriend(&gate);
    let version = node.put("f", &pattern(300_000));
    let dialer = Arc::new(Counting::default());
    let peer = connect(
        &Client::new(gate, dialer.clone(), Arc::default()),
        &node.address(),
    )
    .unwrap();
    for _ in 0..20 {
        methods(&peer, soon()).unwrap();
        let mut stream = open(&peer, "f", version, ByteRange::new(7, 299_999)).unwrap();
        assert_eq!(
            read_all(&mut *stream).unwrap(),
            pattern(300_000)[7..299_999]
        );
        assert!(open(&peer, "none", version, ByteRange::new(0, 1)).is_err());
    }
    assert_eq!(dialer.dialled.load(Ordering::Relaxed), 1);
}

/// Files go straight over a connection that ureq uses for calls, and records are larger
/// than these buffers.
#[test]
fn small_buffers_get_all_and_free_the_link() {
    let (node, peer) = node_and_peer();
    let content = pattern(100_000);
    let version = node.put("f", &content);
    for size in [1000, 16_384, 16_385, 40_000] {
        let mut stream = open(&peer, "f", version, ByteRange::new(7, 99_999)).unwrap();
        let (mut got, mut buffer) = (Vec::new(), vec![0; size]);
        loop {
            match stream.read(&mut buffer, soon()).unwrap() {
                0 => break,
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(got == content[7..99_999], "in steps of {size}");
        assert!(!methods(&peer, soon()).unwrap().is_empty());
    }
}

#[test]
fn several_threads_use_one_peer_at_once() {
    let (node, peer) = node_and_peer();
    let content = pattern(3 << 20);
    let version = node.put("f", &content);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (peer, content) = (&peer, &content);
            scope.spawn(move || {
                let start = thread * 100_001;
                let range = ByteRange::new(start as u64, content.len() as u64);
                let mut stream = open(peer, "f", version, range).unwrap();
                methods(peer, soon()).unwrap();
                assert!(read_all(&mut *stream).unwrap() == content[start..]);
            });
        }
    });
}

#[test]
fn restarted_node_is_paired_again_silently() {
    let mut node = TestNode::start(1);
    let version = node.put("f", b"content");
    let peer = connect(&client(&caller(1)), &node.address()).unwrap();
    methods(&peer, soon()).unwrap();
    let id = node.id();
    node.restart();
    assert_eq!(node.id(), id);
    let mut stream = open(&peer, "f", version, ByteRange::new(0, 7)).unwrap();
    assert_eq!(read_all(&mut *stream).unwrap(), b"content");
}

#[test]
fn changed_password_refuses_all_waiting() {
    let (node, other) = (TestNode::start(1), caller(2));
    // This client knows the node from before; the node does not know it.
    other.admission().admit(node.id(), Instant::now());
    let dialer = Arc::new(Counting::default());
    let client = Client::new(other, dialer.clone(), Arc::default());
    let error = connect(&client, &node.address()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(dialer.dialled.load(Ordering::Relaxed), 2);
}

#[test]
fn only_the_named_identity_is_accepted() {
    let node = TestNode::start(1);
    let gate = caller(1);
    let expected = Some(PeerId::from_bytes([7; 32]));
    let connected = client(&gate).connect(&node.address(), expected, AddressSource::Named, soon());
    let error = connected.unwrap_err();
    assert!(matches!(error, Error::OtherIdentity { .. }), "{error}");
    // Nothing was sent to it.
    assert!(!node.gate.is_admitted(gate.id()));
}

#[test]
fn other_identity_at_an_address_is_refused() {
    let (node, other, gate) = (TestNode::start(1), TestNode::start(1), caller(1));
    node.befriend(&gate);
    other.befriend(&gate);
    let peer = connect(&client(&gate), &node.address()).unwrap();
    peer.follow(other.address(), AddressSource::Named);
    let error = methods(&peer, soon()).unwrap_err();
    assert!(matches!(error, Error::OtherIdentity { .. }), "{error}");
    peer.follow(node.address(), AddressSource::Named);
    assert!(methods(&peer, soon()).is_ok());
}

#[test]
fn a_node_recognises_itself() {
    let node = TestNode::start(1);
    let error = connect(&client(&node.gate), &node.address()).unwrap_err();
    assert!(matches!(error, Error::Myself { .. }), "{error}");
}

#[test]
fn a_changed_or_deleted_file_is_told_apart() {
    let (node, peer) = node_and_peer();
    let version = node.put("f", b"0123456789");
    let range = ByteRange::new(2, 5);
    assert_eq!(
        read_all(&mut *open(&peer, "f", version, range).unwrap()).unwrap(),
        b"234"
    );
    node.put("f", b"9876543210++");
    let error = open(&peer, "f", version, range).err().unwrap();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    let error = open(&peer, "g", version, range).err().unwrap();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn file_changed_mid_read_ends_in_an_error() {
    let (node, peer) = node_and_peer();
    let length = 64 << 20;
    let version = node.put("f", &vec![b'a'; length]);
    let mut stream = open(&peer, "f", version, ByteRange::new(0, length as u64)).unwrap();
    assert!(stream.read(&mut [0; 1000], soon()).unwrap() > 0);
    node.put("f", &vec![b'b'; length]);
    let error = read_all(&mut *stream).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(stream.read(&mut [0; 1], soon()).is_err());
}

#[test]
fn hung_calls_end_and_retry_on_a_new_link() {
    let fake = Fake::serve(|number, mut tls| {
        read_request(&mut tls);
        let _ = tls.write_all(b"HTTP/1.1 206 x\r\nContent-Length: 9\r\nContent-Range: bytes 0-8/9\r\nETag: \"0000000000000001\"\r\n\r\nabc");
        if number > 1 {
            let _ = tls.write_all(b"defghi");
        }
        let _ = tls.read(&mut [0]);
    });
    let peer = fake.peer();
    let range = ByteRange::new(0, 9);
    let mut stream = open(&peer, "f", Version(1), range).unwrap();
    assert_eq!(stream.read(&mut [0; 9], soon()).unwrap(), 3);
    let start = Instant::now();
    thread::scope(|scope| {
        let reader = scope.spawn(move || stream.read(&mut [0; 9], soon()));
        peer.follow(fake.address.clone(), AddressSource::Named);
        let error = reader.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Moved { .. }), "{error}");
    });
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut again = open(&peer, "f", Version(1), range).unwrap();
    assert_eq!(read_all(&mut *again).unwrap(), b"abcdefghi");
}

#[test]
fn closing_wakes_a_blocked_reader() {
    let fake = Fake::serve(|_, mut tls| {
        read_request(&mut tls);
        let _ = tls.write_all(b"HTTP/1.1 206 x\r\nContent-Length: 9\r\nContent-Range: bytes 0-8/9\r\nETag: \"0000000000000001\"\r\n\r\nabc");
        let _ = tls.read(&mut [0]);
    });
    let peer = fake.peer();
    let mut stream = open(&peer, "f", Version(1), ByteRange::new(0, 9)).unwrap();
    let mut buffer = [0; 9];
    assert_eq!(stream.read(&mut buffer, soon()).unwrap(), 3);
    let start = Instant::now();
    thread::scope(|scope| {
        let reader = scope.spawn(move || stream.read(&mut buffer, soon()));
        peer.close();
        assert!(reader.join().unwrap().is_err());
    });
    assert!(start.elapsed() < PATIENCE / 2);
    let error = methods(&peer, soon()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn abandoned_idle_connection_is_replaced() {
    // Each connection answers one request, and breaks off during the second.
    let fake = Fake::serve(|_, mut tls| {
        answer_methods(&mut tls);
        read_request(&mut tls);
    });
    let peer = fake.peer();
    for _ in 0..5 {
        assert_eq!(methods(&peer, soon()).unwrap(), ["a"]);
    }
}

#[test]
fn broken_fresh_connection_is_not_retried() {
    let fake = Fake::serve(|_, mut tls| read_request(&mut tls));
    let error = methods(&fake.peer(), soon()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(fake.connections.load(Ordering::Relaxed), 2);
}

#[test]
fn a_frozen_peer_times_out_at_the_deadline() {
    let fake = Fake::serve(|_, mut tls| {
        let _ = tls.read_to_end(&mut Vec::new());
    });
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = methods(&fake.peer(), deadline).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(deadline.elapsed() < PATIENCE / 2);
}

#[test]
fn peer_frozen_before_handshake_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let deadline = Instant::now() + Duration::from_millis(200);
    let address = Address::new("127.0.0.1", port);
    let connected = client(&caller(1)).connect(&address, None, AddressSource::Named, deadline);
    let error = connected.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(deadline.elapsed() < PATIENCE / 2);
}

#[test]
fn a_timeout_leaves_the_stream_usable() {
    let fake = Fake::serve(|_, mut tls| {
        read_request(&mut tls);
        let _ = tls.write_all(b"HTTP/1.1 206 x\r\nContent-Length: 6\r\nContent-Range: bytes 0-5/6\r\nETag: \"0000000000000001\"\r\n\r\nabc");
        let _ = tls.flush();
        thread::sleep(Duration::from_millis(300));
        let _ = tls.write_all(b"def");
        let _ = tls.read(&mut [0]);
    });
    let peer = fake.peer();
    let mut stream = open(&peer, "f", Version(1), ByteRange::new(0, 6)).unwrap();
    let mut buffer = [0; 6];
    assert_eq!(stream.read(&mut buffer, soon()).unwrap(), 3);
    let brief = Instant::now() + Duration::from_millis(20);
    let error = stream.read(&mut buffer, brief).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(read_all(&mut *stream).unwrap(), b"def");
}

#[test]
fn other_service_is_not_a_node() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let error = connect(&client(&caller(1)), &Address::new("127.0.0.1", port)).unwrap_err();
    assert!(matches!(error, Error::NotANode { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn unexpected_response_heads_are_refused() {
    let length = "Content-Length: 3\r\n";
    let range = "Content-Range: bytes 2-4/10\r\n";
    let tag = "ETag: \"0000000000000001\"\r\n";
    let other_tag = "ETag: \"0000000000000002\"\r\n";
    let weak_tag = "ETag: W/\"0000000000000001\"\r\n";
    for (head, accepted) in [
        (format!("206 x\r\n{length}{range}{tag}"), true),
        (format!("206 x\r\n{length}{tag}"), false),
        (format!("206 x\r\n{range}{tag}"), false),
        (format!("206 x\r\n{length}{range}"), false),
        (format!("206 x\r\n{length}{range}{other_tag}"), false),
        (format!("206 x\r\n{length}{range}{weak_tag}"), false),
        (
            format!("206 x\r\n{length}Content-Range: bytes 3-5/10\r\n{tag}"),
            false,
        ),
        (
            format!("206 x\r\n{length}Content-Range: bytes 2-4/4\r\n{tag}"),
            false,
        ),
        (
            format!("206 x\r\n{length}Content-Range: bytes 2-4/*\r\n{tag}"),
            false,
        ),
        (format!("206 x\r\nContent-Length: 4\r\n{range}{tag}"), false),
        (
            format!("206 x\r\nTransfer-Encoding: chunked\r\n{range}{tag}"),
            false,
        ),
        (
            format!("206 x\r\nTransfer-Encoding: chunked\r\n{length}{range}{tag}"),
            false,
        ),
        (format!("200 x\r\n{length}{tag}"), false),
        (
            "302 x\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n".into(),
            false,
        ),
        (format!("204 x\r\n{range}{tag}"), false),
        ("no HTTP".into(), false),
    ] {
        let answer = format!("HTTP/1.1 {head}\r\nabc");
        let fake = Fake::serve(move |_, mut tls| {
            read_request(&mut tls);
            let _ = tls.write_all(answer.as_bytes());
            let _ = tls.read(&mut [0]);
        });
        match open(&fake.peer(), "f", Version(1), ByteRange::new(2, 5)) {
            Ok(mut stream) => {
                assert!(accepted, "{head}");
                assert_eq!(read_all(&mut *stream).unwrap(), b"abc");
            }
            Err(error) => {
                assert!(!accepted, "{head}: {error}");
                assert!(matches!(error, Error::Misbehaved { .. }), "{head}: {error}");
            }
        }
    }
}

#[test]
fn cut_body_is_an_error_not_a_short_file() {
    let fake = Fake::serve(|_, mut tls| {
        read_request(&mut tls);
        let _ = tls.write_all(
            b"HTTP/1.1 200 x\r\nContent-Length: 9\r\nETag: \"0000000000000001\"\r\n\r\nabc",
        );
        // A proper end of TLS, in the middle of HTTP.
        tls.conn.send_close_notify();
        let _ = tls.flush();
    });
    let mut stream = open(&fake.peer(), "f", Version(1), ByteRange::new(0, 9)).unwrap();
    let error = read_all(&mut *stream).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn responses_without_measure_are_refused() {
    for head in [
        "Content-Length: 99999999999",
        "Content-Length: 8388609",
        "Transfer-Encoding: chunked",
        "X: y",
        &format!("X: {}", "y".repeat(20_000)),
    ] {
        let answer = format!("HTTP/1.1 200 x\r\n{head}\r\n\r\n");
        let fake = Fake::serve(move |_, mut tls| {
            read_request(&mut tls);
            let _ = tls.write_all(answer.as_bytes());
            let _ = tls.read(&mut [0]);
        });
        let error = methods(&fake.peer(), soon()).unwrap_err();
        assert!(
            matches!(error, Error::Misbehaved { .. }),
            "{head:.40}: {error}"
        );
    }
}

#[test]
fn announced_length_reserves_no_memory() {
    let (sent, is_sent) = std::sync::mpsc::channel();
    let sent = parking_lot::Mutex::new(sent);
    let fake = Fake::serve(move |_, mut tls| {
        read_request(&mut tls);
        let _ = tls.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 8000000\r\n\r\n");
        let _ = tls.write_all(&[b' '; 300_000]);
        let _ = sent.lock().send(());
        let _ = tls.read(&mut [0]);
    });
    let budget = ByteBudget::new(64 << 20);
    let peer = fake.peer_within(&budget);
    let call = thread::spawn(move || methods(&peer, Instant::now() + Duration::from_secs(2)));
    is_sent.recv_timeout(PATIENCE).unwrap();
    let mut max = 0;
    while !call.is_finished() {
        max = max.max(budget.held());
        thread::sleep(Duration::from_millis(5));
    }
    assert!(call.join().unwrap().is_err());
    assert!(max >= 600_000, "what has come counts: {max}");
    assert!(max <= 2 << 20, "{max}");
    assert_eq!(budget.held(), 0);
}

#[test]
fn peers_at_one_address_share_their_limit() {
    let budget = ByteBudget::new(64 << 20);
    let frozen = || {
        Fake::serve(|_, mut tls| {
            let _ = tls.read(&mut [0]);
        })
    };
    let (fakes, apart) = ([(); 6].map(|()| frozen()), PeerId::from_bytes([9; 32]));
    let peers = fakes.each_ref().map(|fake| fake.peer_within(&budget));
    let grab = |member| {
        let mut held = budget.reserve(member);
        while held.grow(1 << 16).is_ok() {}
        held
    };
    let greedy = peers.each_ref().map(|peer| grab(peer.id()));
    let honest = grab(apart);
    assert!(honest.bytes() >= 8 << 20, "{}", honest.bytes());
    drop((greedy, honest));
    assert_eq!(budget.held(), 0);
}

#[test]
fn an_encoded_refusal_ends_its_connection() {
    // The bytes after the head of the refusal look like the answer to the next request.
    let fake = Fake::serve(|_, mut tls| {
        read_request(&mut tls);
        let _ = tls.write_all(
            b"HTTP/1.1 404 x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        read_request(&mut tls);
        let _ = tls.write_all(b"HTTP/1.1 412 x\r\nContent-Length: 0\r\n\r\n");
    });
    let peer = fake.peer();
    for _ in 0..2 {
        let error = open(&peer, "f", Version(1), ByteRange::new(0, 1)).err();
        assert!(matches!(error, Some(Error::NotFound { .. })), "{error:?}");
    }
    assert_eq!(fake.connections.load(Ordering::Relaxed), 3);
}

/// Returns a record as `tls` would send it, without sending it.
fn record(tls: &mut Tls, plaintext: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    tls.conn.writer().write_all(plaintext).unwrap();
    while tls.conn.wants_write() {
        tls.conn.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn stray_early_bytes_are_no_response() {
    let fake = Fake::serve(|_, mut tls| {
        read_request(&mut tls);
        let body =
            crate::protocol::wire::encode_response(&Ok(Response::ListMethods(vec!["a".into()])));
        let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = record(&mut tls, &[head.as_bytes(), &body].concat());
        let stray = record(&mut tls, b"HTTP/1.1 412 x\r\nContent-Length: 0\r\n\r\n");
        let (begun, rest) = stray.split_at(7);
        let _ = tls.sock.write_all(&[&answer, begun].concat());
        read_request(&mut tls);
        let _ = tls.sock.write_all(rest);
        let _ = tls.sock.read(&mut [0; 4096]);
    });
    let peer = fake.peer();
    assert_eq!(methods(&peer, soon()).unwrap(), ["a"]);
    let error = open(&peer, "f", Version(1), ByteRange::new(0, 1)).err();
    assert!(matches!(error, Some(Error::Misbehaved { .. })), "{error:?}");
}

/// Sends empty records, as fast as they are accepted, for longer than any test waits. rustls itself
/// cannot be made to do this.
fn send_empty_records(tls: Tls) {
    let StreamOwned { conn, mut sock } = tls;
    let (mut sequence, secrets) = conn.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
        panic!("another cipher than the first on the list");
    };
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut records = Vec::new();
        for _ in 0..1000 {
            let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
            for (byte, count) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
                *byte ^= count;
            }
            sequence += 1;
            // The content type alone, with no content before it (RFC 8446, section 5.2).
            let (header, mut inside) = ([23, 3, 3, 0, 17], vec![23]);
            let nonce = Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inside)
                .unwrap();
            records.extend([&header[..], &inside].concat());
        }
        if sock.write_all(&records).is_err() {
            return;
        }
    }
}

#[test]
fn buffered_bytes_do_not_stop_the_clock() {
    let (node, peer) = node_and_peer();
    let version = node.put("f", &pattern(1 << 20));
    let mut stream = open(&peer, "f", version, ByteRange::new(0, 1 << 20)).unwrap();
    let first = stream.read(&mut [0; 1000], soon()).unwrap();
    assert!(first > 0);
    // By now more has arrived than was read with these bytes, but it is too late.
    thread::sleep(Duration::from_millis(200));
    let (mut buffer, mut count, late) = (vec![0; 1 << 20], first, Instant::now());
    let error = loop {
        match stream.read(&mut buffer, late) {
            Ok(0) => panic!("all {count} bytes were read"),
            Ok(more) => count += more,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(count < 1 << 19, "{count} bytes were read");
    assert_eq!(count + read_all(&mut *stream).unwrap().len(), 1 << 20);
}

#[test]
fn empty_records_end_a_connection() {
    let fake = Fake::serve(|_, mut tls| {
        read_request(&mut tls);
        send_empty_records(tls);
    });
    let peer = fake.peer();
    let begun = Instant::now();
    assert!(methods(&peer, begun + Duration::from_millis(500)).is_err());
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn empty_records_end_a_pairing() {
    let fake = Fake::serve(|_, mut tls| {
        let _ = tls.read_exact(&mut [0; 97]);
        send_empty_records(tls);
    });
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(700);
    let client = client(&caller(1));
    let paired = client.connect(&fake.address, None, AddressSource::Named, deadline);
    assert!(paired.is_err());
    assert!(begun.elapsed() < PATIENCE / 2);
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A peer that holds a member's key and answers anything at all. Each peer made for it gets one
/// connection that is answered as by an honest node, for the introduction.
struct Fake {
    gate: Arc<Gate>,
    address: Address,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    fn serve(answer: impl Fn(usize, Tls) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            gate: caller(1),
            address: Address::new("127.0.0.1", listener.local_addr().unwrap().port()),
            connections: Arc::default(),
        };
        let (gate, connections, answer) = (
            fake.gate.clone(),
            fake.connections.clone(),
            Arc::new(answer),
        );
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut config = (*gate.tls_server()).clone();
                config.enable_secret_extraction = true;
                let tls = ServerConnection::new(Arc::new(config)).unwrap();
                let mut tls = StreamOwned::new(tls, socket);
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                thread::spawn(move || {
                    if number == 0 {
                        read_request(&mut tls);
                        let _ = tls.write_all(b"HTTP/1.1 405 x\r\nConnection: close\r\n\r\n");
                    } else {
                        answer(number, tls);
                    }
                });
            }
        });
        fake
    }

    fn peer(&self) -> Arc<HttpPeer> {
        self.peer_within(&Arc::default())
    }

    fn peer_within(&self, budget: &Arc<ByteBudget>) -> Arc<HttpPeer> {
        let gate = caller(1);
        gate.admission().admit(self.gate.id(), Instant::now());
        let dialer = Arc::new(TcpDialer::default());
        let client = Client::new(gate, dialer, Arc::clone(budget));
        let peer = connect(&client, &self.address).unwrap();
        assert_eq!(self.connections.load(Ordering::Relaxed), 1);
        peer
    }
}

/// Reads one request, as long as its head says.
fn read_request(tls: &mut Tls) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(tls.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
    let _ = tls.read_exact(&mut vec![0; length]);
}

/// Answers one call of `system.listMethods` with the list `a`.
fn answer_methods(tls: &mut Tls) {
    read_request(tls);
    let body = crate::protocol::wire::encode_response(&Ok(Response::ListMethods(vec!["a".into()])));
    let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = tls.write_all(head.as_bytes());
    let _ = tls.write_all(&body);
    let _ = tls.flush();
}

fn item(name: &str, version: Version) -> BatchItem {
    BatchItem {
        path: path(name),
        version,
    }
}

#[test]
fn many_small_files_come_in_one_exchange() {
    let (node, peer) = node_and_peer();
    let small = item("small", node.put("small", b"0123456789"));
    let empty = item("empty", node.put("empty", b""));
    let old = item("old", node.put("old", b"before"));
    node.put("old", b"and after");
    let limit = MAX_SMALL_FILE as usize;
    let full = item("full", node.put("full", &vec![1; limit]));
    let large = item("large", node.put("large", &vec![1; limit + 1]));
    let gone = item("gone", Version(1));
    let answers = peer
        .fetch(&[small, empty, old, full, large, gone], soon())
        .unwrap();
    let expected = [
        BatchAnswer::Whole(b"0123456789".to_vec()),
        BatchAnswer::Whole(Vec::new()),
        BatchAnswer::Changed,
        BatchAnswer::Whole(vec![1; limit]),
        BatchAnswer::TooLarge,
        BatchAnswer::NotFound,
    ];
    assert!(answers == expected);
}

#[test]
fn oversized_batch_is_answered_in_part() {
    let (node, peer) = node_and_peer();
    let limit = MAX_SMALL_FILE as usize;
    let files: Vec<BatchItem> = (0..MAX_BATCH_FILES)
        .map(|index| {
            let name = format!("f{index}");
            item(&name, node.put(&name, &vec![1; limit]))
        })
        .collect();
    let answers = peer.fetch(&files, soon()).unwrap();
    let whole = answers
        .iter()
        .filter(|answer| matches!(answer, BatchAnswer::Whole(_)));
    assert_eq!(whole.count(), 63);
    assert_eq!(answers.last(), Some(&BatchAnswer::TooLarge));
}
