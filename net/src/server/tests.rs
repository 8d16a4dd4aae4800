//! The server as others see it: real sockets, real TLS, requests written by hand.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rustls::ClientConnection;
use socket2::{Domain, Socket, Type};

use super::harness::{PATIENCE, Raw, TestNode, caller, client, soon};
use super::hello_queue::HelloRates;
use super::identify::REFUSAL;
use super::limits::ServerLimits;
use crate::auth::{AddressSource, Alpn};
use crate::fairness::Refill;
use crate::model::{Name, RelPath};
use crate::peer::Peer;
use crate::protocol::wire::{
    ListRequest, MAX_BATCH_REQUEST, Request, Response, SearchRequest, StatRequest, encode_call,
};
use crate::testing::eventually;

/// Short enough for a test to wait for.
const BRIEF: Duration = Duration::from_millis(200);

fn node_and_member() -> (TestNode, Raw) {
    limited(ServerLimits::default())
}

fn limited(limits: ServerLimits) -> (TestNode, Raw) {
    let node = TestNode::limited(1, limits);
    let member = caller(1);
    node.befriend(&member);
    let raw = node.raw(&member);
    (node, raw)
}

#[test]
fn ranges_get_bytes_and_fields_of_rfc_9110() {
    let (node, mut raw) = node_and_member();
    node.put("f", b"0123456789");
    for (range, status, content_range, body) in [
        ("", 200, None, "0123456789"),
        ("\nRange: bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("\nRange: bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("\nRange: bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        (
            "\nRange: bytes=0-99",
            206,
            Some("bytes 0-9/10"),
            "0123456789",
        ),
        ("\nRange: bytes=10-", 416, Some("bytes */10"), ""),
        ("\nRange: bytes=0-1,5-6", 200, None, "0123456789"),
        ("\nRange: bytes=1-0", 200, None, "0123456789"),
        (
            "\nRange: bytes=2-4\nIf-Range: \"x\"",
            200,
            None,
            "0123456789",
        ),
    ] {
        let response = raw.ask(&format!("GET /files/f HTTP/1.1{range}"));
        assert_eq!(response.status, status, "{range}");
        assert_eq!(response.field("content-range"), content_range, "{range}");
        assert_eq!(response.body, body.as_bytes(), "{range}");
        assert_eq!(
            response.field("etag"),
            Some(&*node.version("f").entity_tag())
        );
        if status != 416 {
            assert_eq!(response.field("accept-ranges"), Some("bytes"));
        }
    }
}

#[test]
fn file_changing_during_open_is_no_failure() {
    let (node, mut raw) = node_and_member();
    node.put("f", b"0123456789");
    let path = node.path().join("f");
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            for mode in [0o644, 0o600].into_iter().cycle() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                thread::sleep(Duration::from_micros(500));
            }
        }
    });
    let asked = 2000;
    let mut sent = 0;
    for _ in 0..asked {
        let response = raw.ask("GET /files/f HTTP/1.1");
        assert!([200, 503].contains(&response.status), "{}", response.status);
        sent += u32::from(response.status == 200);
    }
    is_over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(sent > asked * 9 / 10, "{sent} of {asked}");
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let (node, mut raw) = node_and_member();
    node.put("f", b"0123456789");
    let get = raw.ask("GET /files/f HTTP/1.1");
    let head = raw.ask("HEAD /files/f HTTP/1.1");
    let without_date = |head: &str| {
        let lines = head.lines().filter(|line| !line.starts_with("date: "));
        lines.map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(without_date(&head.head), without_date(&get.head));
    assert_eq!(head.field("content-length"), Some("10"));
    // Nothing follows: the next response is in its right position.
    assert_eq!(raw.ask("GET /files/f HTTP/1.1").body, b"0123456789");
}

#[test]
fn an_empty_file_is_served_whole() {
    let (node, mut raw) = node_and_member();
    node.put("f", b"");
    let response = raw.ask("GET /files/f HTTP/1.1");
    assert_eq!((response.status, response.body.len()), (200, 0));
    assert_eq!(response.field("content-length"), Some("0"));
    let response = raw.ask("GET /files/f HTTP/1.1\nRange: bytes=0-");
    assert_eq!(response.field("content-range"), Some("bytes */0"));
}

#[test]
fn preconditions_withhold_other_versions() {
    let (node, mut raw) = node_and_member();
    let tag = node.put("f", b"old").entity_tag();
    let get = format!("GET /files/f HTTP/1.1\nRange: bytes=0-1\nIf-Match: {tag}");
    assert_eq!(raw.ask(&get).body, b"ol");
    let unless = format!("GET /files/f HTTP/1.1\nIf-None-Match: {tag}");
    assert_eq!(raw.ask(&unless).status, 304);
    node.put("f", b"newer");
    assert_eq!(raw.ask(&get).status, 412);
    assert_eq!(raw.ask(&unless).body, b"newer");
}

#[test]
fn every_valid_linux_name_can_be_requested() {
    let (node, mut raw) = node_and_member();
    let names: [&[u8]; 7] = [
        b"a b",
        b"q?x#y%20",
        b"&<>\"'",
        "\u{fc}ber".as_bytes(),
        b"\xff\xfe\x01\x1b[31m\r\nX: y",
        &[b'x'; 255],
        b"%2e%2e%2fetc",
    ];
    for name in names {
        fs::write(node.path().join(OsStr::from_bytes(name)), name).unwrap();
        let escaped = percent_encode(name, NON_ALPHANUMERIC);
        let response = raw.ask(&format!("GET /files/{escaped} HTTP/1.1"));
        assert_eq!((response.status, &*response.body), (200, name), "{escaped}");
    }
}

#[test]
fn unshared_file_does_not_exist() {
    let (node, mut raw) = node_and_member();
    fs::create_dir(node.path().join("d")).unwrap();
    node.put("f", b"x");
    fs::write(node.path().join(".hidden"), b"x").unwrap();
    for path in [
        "/",
        "/f",
        "/files",
        "/files/",
        "/files/d",
        "/files/d/",
        "/files/none",
        "/files/.hidden",
        "/files/f/x",
        "/files/f?x",
        "/files//etc/passwd",
        "/files/../f",
        "/files/%2e%2e/f",
        "/files/d%00",
        "/content",
        "/content/",
        "/content/0",
        "/batch/",
        "*",
    ] {
        let response = raw.ask(&format!("GET {path} HTTP/1.1"));
        assert_eq!((response.status, response.body.len()), (404, 0), "{path}");
    }
}

#[test]
fn other_methods_get_the_allowed_ones() {
    let (node, mut raw) = node_and_member();
    node.put("f", b"x");
    for (request, allowed) in [
        ("PUT /files/f", "GET, HEAD"),
        ("DELETE /files/f", "GET, HEAD"),
        ("OPTIONS /files/f", "GET, HEAD"),
        ("POST /content/0", "GET, HEAD"),
        ("GET /RPC2", "POST"),
        ("GET /batch", "POST"),
    ] {
        let response = raw.ask(&format!("{request} HTTP/1.1"));
        assert_eq!(response.status, 405, "{request}");
        assert_eq!(response.field("allow"), Some(allowed), "{request}");
    }
}

#[test]
fn odd_type_or_size_is_refused_unparsed() {
    let post = "POST /RPC2 HTTP/1.1\nContent-Type: ";
    for (request, status) in [
        ("application/json\nContent-Length: 0", 415),
        ("text/xml\nContent-Length: 1048577", 413),
        ("text/xml\nContent-Length: 99999999999999999999", 400),
        ("text/xml; charset=utf-8\nContent-Length: 0", 200),
    ] {
        let (_node, mut raw) = node_and_member();
        let response = raw.ask(&format!("{post}{request}"));
        assert_eq!(response.status, status, "{request}");
    }
}

#[test]
fn a_chunked_call_cannot_outgrow_the_limit() {
    let (_node, mut raw) = node_and_member();
    raw.send("POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let _ = (0..17).try_for_each(|_| raw.send(&chunk));
    assert!(refused_or_cut(&mut raw, 413));
}

/// A caller that goes on sending after the server has closed may lose its answer to a reset.
fn refused_or_cut(raw: &mut Raw, status: u16) -> bool {
    match raw.head() {
        Ok(response) => response.status == status && raw.rest().is_empty(),
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn a_flood_of_header_fields_is_cut() {
    for flood in [
        "X: y\r\n".repeat(1000),
        format!("X: {}\r\n", "y".repeat(100_000)),
    ] {
        let (_node, mut raw) = node_and_member();
        let _ = raw.send(&format!("GET /files/f HTTP/1.1\r\n{flood}\r\n"));
        assert!(refused_or_cut(&mut raw, 431));
    }
}

#[test]
fn a_head_that_does_not_end_is_cut() {
    let (_node, mut raw) = limited(ServerLimits {
        head: BRIEF,
        ..ServerLimits::default()
    });
    raw.send("GET /files/f HTTP/1.1\r\nX: ").unwrap();
    let start = Instant::now();
    raw.rest();
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_call_that_does_not_end_is_cut() {
    let (_node, mut raw) = limited(ServerLimits {
        call_body: BRIEF,
        ..ServerLimits::default()
    });
    raw.send(
        "POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 9\r\n\r\nx",
    )
    .unwrap();
    assert_eq!(raw.head().unwrap().status, 408);
}

#[test]
fn a_handshake_that_does_not_end_is_cut() {
    let node = TestNode::limited(
        1,
        ServerLimits {
            handshake: BRIEF,
            ..ServerLimits::default()
        },
    );
    for start in [&b""[..], b"\x16\x03\x01"] {
        let mut socket = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(start).unwrap();
        assert_eq!(socket.read(&mut [0; 64]).unwrap_or(0), 0);
    }
}

#[test]
fn plaintext_is_closed_without_a_word() {
    let node = TestNode::start(1);
    let mut socket = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"POST / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(answer, b"");
}

#[test]
fn stranger_always_gets_the_same_refusal() {
    let node = TestNode::start(1);
    node.put("f", b"secret");
    let largest = format!(
        "POST /RPC2 HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n{}",
        "x".repeat(1 << 20)
    );
    for sent in [
        "",
        &largest,
        "GET /files/f HTTP/1.1\r\n\r\n",
        &format!("GET /content/{} HTTP/1.1\r\n\r\n", "0".repeat(64)),
        "\0\0garbage",
        "POST /RPC2",
    ] {
        let mut raw = node.raw(&caller(1));
        raw.send(sent).unwrap();
        assert_eq!(raw.rest(), REFUSAL, "{sent:.40}");
    }
}

#[test]
fn lapsed_admission_ends_at_next_request() {
    let node = TestNode::start(1);
    node.put("f", b"x");
    let member = caller(1);
    let day = Duration::from_secs(24 * 3600);
    let nearly_a_day_ago = Instant::now() - day + Duration::from_secs(1);
    node.gate.admission().admit(member.id(), nearly_a_day_ago);
    let mut raw = node.raw(&member);
    let start = Instant::now();
    loop {
        let response = raw.ask("POST /RPC2 HTTP/1.1\nContent-Type: text/xml\nContent-Length: 0");
        if response.status != 200 {
            assert_eq!(response.status, 401);
            assert_eq!(response.field("www-authenticate"), Some("TinyP2P-Pair"));
            assert_eq!(raw.rest(), b"");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "still admitted");
    }
}

/// A file larger than what sockets buffer.
fn put_large(node: &TestNode) {
    let file = File::create(node.path().join("large")).unwrap();
    file.set_len(256 << 20).unwrap();
}

#[test]
fn file_changing_mid_send_cuts_the_link() {
    let changes: [fn(&TestNode); 3] = [
        |node| fs::write(node.path().join("large"), b"short").unwrap(),
        |node| fs::remove_file(node.path().join("large")).unwrap(),
        |node| {
            let path = node.path().join("large");
            let mut file = File::options().append(true).open(path).unwrap();
            file.write_all(b"more").unwrap();
        },
    ];
    for change in changes {
        let (node, mut raw) = node_and_member();
        put_large(&node);
        raw.send("GET /files/large HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        assert_eq!(raw.head().unwrap().status, 200);
        change(&node);
        assert!(raw.rest().len() < 256 << 20);
    }
}

#[test]
fn unreading_clients_do_not_block_others() {
    let node = TestNode::start(1);
    let member = caller(1);
    node.befriend(&member);
    put_large(&node);
    node.put("f", b"x");
    let _stalled: Vec<Raw> = (0..20)
        .map(|_| {
            let mut raw = node.raw(&member);
            raw.send("GET /files/large HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            assert_eq!(raw.head().unwrap().status, 200);
            raw
        })
        .collect();
    assert_eq!(node.raw(&member).ask("GET /files/f HTTP/1.1").body, b"x");
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let (node, mut raw) = limited(ServerLimits {
        stall: BRIEF,
        ..ServerLimits::default()
    });
    put_large(&node);
    raw.send("GET /files/large HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(raw.head().unwrap().status, 200);
    // Not a wait for a state: this client accepts nothing for a while.
    std::thread::sleep(BRIEF * 5);
    assert!(raw.rest().len() < 256 << 20);
}

#[test]
fn members_connections_are_bounded() {
    let node = TestNode::limited(
        1,
        ServerLimits {
            connections_per_member: 2,
            ..ServerLimits::default()
        },
    );
    node.put("f", b"x");
    let (greedy, modest) = (caller(1), caller(1));
    node.befriend(&greedy);
    node.befriend(&modest);
    let mut held = [node.raw(&greedy), node.raw(&greedy)];
    for raw in &mut held {
        assert_eq!(raw.ask("GET /files/f HTTP/1.1").status, 200);
    }
    let mut third = node.raw(&greedy);
    let _ = third.send("GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(third.rest(), b"");
    assert_eq!(node.raw(&modest).ask("GET /files/f HTTP/1.1").status, 200);
}

#[test]
fn empty_or_overlong_batch_is_refused() {
    let (_node, mut raw) = node_and_member();
    for (length, status) in [(0, 400), (9, 400), (MAX_BATCH_REQUEST + 1, 413)] {
        raw.send(&format!(
            "POST /batch HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\n\r\n"
        ))
        .unwrap();
        if status == 400 {
            raw.send(&"x".repeat(length)).unwrap();
        }
        assert_eq!(raw.head().unwrap().status, status, "{length} bytes");
    }
}

#[test]
fn calls_are_answered_while_searches_wait() {
    let (node, mut raw) = limited(ServerLimits {
        work_per_member: 1,
        searches: 0,
        ..ServerLimits::default()
    });
    node.put("f", b"x");
    let member = caller(1);
    node.befriend(&member);
    let call = |request: &Request| {
        let body = String::from_utf8(encode_call(request)).unwrap();
        let length = body.len();
        format!(
            "POST /RPC2 HTTP/1.1\r\nHost: node\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let search = call(&Request::Search(SearchRequest {
        pattern: "f".into(),
        after: None,
        limit: 1,
    }));
    let mut searching: Vec<Raw> = (0..9).map(|_| node.raw(&member)).collect();
    for raw in &mut searching {
        raw.send(&search).unwrap();
    }
    let stat = call(&Request::Stat(StatRequest {
        compare: false,
        watch: false,
        paths: vec![RelPath::new(b"f").unwrap()],
    }));
    for raw in [&mut raw, &mut node.raw(&member)] {
        raw.send(&stat).unwrap();
        assert_eq!(raw.head().unwrap().status, 200);
    }
}

#[test]
fn directory_pages_are_right_at_any_time() {
    let (node, other) = (TestNode::start(1), caller(1));
    node.befriend(&other);
    for name in ["a", "b", "c", "d", "e"] {
        node.put(name, b"x");
    }
    let connected = client(&other).connect(&node.address(), None, AddressSource::Named, soon());
    let peer = connected.unwrap();
    let page = |after: Option<&str>| {
        let request = Request::List(ListRequest {
            directory: RelPath::root(),
            after: after.map(|name| Name::new(name.as_bytes()).unwrap()),
            limit: 2,
            watch: false,
        });
        let Response::List(page) = peer.call(&request, soon()).unwrap() else {
            panic!("no page");
        };
        let names = page.entries.iter().map(|entry| entry.name.to_string());
        (names.collect::<Vec<_>>(), page.more)
    };
    let expect = |names: [&str; 2]| (names.map(String::from).to_vec(), true);
    assert_eq!(page(None), expect(["a", "b"]));
    assert_eq!(page(Some("b")), expect(["c", "d"]));
    assert_eq!(page(Some("d")), (vec!["e".into()], false));
    // The page begun in advance is not used for another request, nor much later.
    assert_eq!(page(None), expect(["a", "b"]));
    assert_eq!(page(Some("a")), expect(["b", "c"]));
    assert_eq!(page(None), expect(["a", "b"]));
    node.put("bb", b"x");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(page(Some("b")), expect(["bb", "c"]));
}

fn socket(node: &TestNode) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Returns true while the node has not closed it.
fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let seen = socket.peek(&mut [0]);
    socket.set_nonblocking(false).unwrap();
    seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn silent_sockets_make_room_for_members() {
    let node = TestNode::start(1);
    node.put("f", b"x");
    let member = caller(1);
    node.befriend(&member);
    for start in [&b""[..], b"\x16\x03\x01\x05\x00half a record"] {
        let flood: Vec<_> = (0..300)
            .map(|_| {
                let mut socket = socket(&node);
                socket.write_all(start).unwrap();
                socket
            })
            .collect();
        for _ in 0..5 {
            assert_eq!(node.raw(&member).ask("GET /files/f HTTP/1.1").body, b"x");
        }
        assert!(is_open(flood.last().unwrap()), "the newest stays");
        assert!(!is_open(&flood[0]), "the oldest has made room");
    }
}

#[test]
fn only_so_many_sockets_stay_open() {
    let node = TestNode::limited(
        1,
        ServerLimits {
            unread: 16,
            ..ServerLimits::default()
        },
    );
    let flood: Vec<_> = (0..200).map(|_| socket(&node)).collect();
    // All come from one network, which is not a member's: it has half of the places.
    eventually("all but eight are closed", || {
        flood.iter().filter(|socket| is_open(socket)).count() == 8
    });
    assert!(flood[192..].iter().all(is_open));
}

#[test]
fn connections_are_bounded_in_all() {
    let (node, mut raw) = limited(ServerLimits {
        connections: 2,
        ..ServerLimits::default()
    });
    node.put("f", b"x");
    assert_eq!(raw.ask("GET /files/f HTTP/1.1").body, b"x");
    let silent = socket(&node);
    let member = caller(1);
    node.befriend(&member);
    let mut third = node.raw(&member);
    third.0.sock.set_read_timeout(Some(BRIEF)).unwrap();
    let waits = third.send("GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(waits.is_err(), "a third connection was answered");
    drop(silent);
    third.0.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(third.ask("GET /files/f HTTP/1.1").status, 200);
}

#[test]
fn key_over_its_share_makes_room() {
    let node = TestNode::limited(
        1,
        ServerLimits {
            member_connections: 16,
            connections_per_member: 8,
            ..ServerLimits::default()
        },
    );
    node.put("f", b"x");
    let mut held = Vec::new();
    for _ in 0..2 {
        let greedy = caller(1);
        node.befriend(&greedy);
        for _ in 0..8 {
            let mut raw = node.raw(&greedy);
            assert_eq!(raw.ask("GET /files/f HTTP/1.1").body, b"x");
            held.push(raw);
        }
    }
    let modest = caller(1);
    node.befriend(&modest);
    let mut kept: Vec<_> = (0..4).map(|_| node.raw(&modest)).collect();
    for _ in 0..3 {
        for raw in &mut kept {
            assert_eq!(raw.ask("GET /files/f HTTP/1.1").body, b"x");
        }
    }
}

#[test]
fn refused_connections_input_is_bounded() {
    let node = TestNode::limited(
        1,
        ServerLimits {
            drain: PATIENCE * 9,
            ..ServerLimits::default()
        },
    );
    let mut raw = node.raw(&caller(1));
    let megabyte = "x".repeat(1 << 20);
    let sent = (0..64).take_while(|_| raw.send(&megabyte).is_ok()).count();
    // Sockets also buffer this much.
    assert!(sent < 32, "{sent} MiB of a stranger were read");
}

#[test]
fn lingering_refused_connection_is_cut() {
    let node = TestNode::limited(
        1,
        ServerLimits {
            drain: BRIEF,
            ..ServerLimits::default()
        },
    );
    let mut raw = node.raw(&caller(1));
    raw.send("GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(raw.rest(), REFUSAL);
    let start = Instant::now();
    // Well-formed records: others would end the connection anyway.
    while raw.send("x").is_ok() {
        assert!(start.elapsed() < PATIENCE, "still open");
        std::thread::sleep(BRIEF / 10);
    }
}

/// Returns the first message of a client that knows nothing.
fn hello() -> Vec<u8> {
    let name = "node".try_into().unwrap();
    let mut tls = ClientConnection::new(caller(1).tls_client(Alpn::Http), name).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends `hello` from a stranger's own loopback address.
fn replay(node: &TestNode, host: u8, hello: &[u8]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::from(([127, 9, 9, host], 0));
    socket.bind(&source.into()).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], node.port()));
    socket.connect(&to.into()).unwrap();
    let mut socket = TcpStream::from(socket);
    socket.write_all(hello).unwrap();
    socket
}

#[test]
fn sites_of_strangers_take_turns() {
    let rates = |burst, per_second| Refill { burst, per_second };
    let mut limits = ServerLimits {
        unread: 600,
        ..ServerLimits::default()
    };
    limits.hellos.strangers = rates(1, 16);
    limits.hellos.stranger = rates(4, 16);
    let node = TestNode::limited(1, limits);
    node.put("f", b"x");
    let hello = hello();
    // In order, they would take fifteen seconds.
    let _flood: Vec<_> = (0..240).map(|n| replay(&node, n % 15, &hello)).collect();
    let newcomer = caller(1);
    node.befriend(&newcomer);
    assert_eq!(node.raw(&newcomer).ask("GET /files/f HTTP/1.1").body, b"x");
}

#[test]
fn replayed_hellos_slow_no_member() {
    let rates = |burst| Refill {
        burst,
        per_second: 2,
    };
    let node = TestNode::limited(
        1,
        ServerLimits {
            hellos: HelloRates {
                strangers: rates(100),
                stranger: rates(2),
                neighbours: rates(2),
                known: rates(50),
                beside_members: rates(8),
                beside_members_of_one: rates(4),
            },
            ..ServerLimits::default()
        },
    );
    node.put("f", b"x");
    let hello = hello();
    // Another loopback address, as a stranger's.
    let replayed: Vec<_> = (0..20).map(|_| replay(&node, 9, &hello)).collect();
    let answered = || {
        let answered = |socket: &&TcpStream| {
            socket.set_nonblocking(true).unwrap();
            socket.peek(&mut [0]).is_ok_and(|count| count > 0)
        };
        replayed.iter().filter(answered).count()
    };
    eventually("the first are answered", || answered() >= 2);
    let start = Instant::now();
    let member = caller(1);
    node.befriend(&member);
    for _ in 0..20 {
        assert_eq!(node.raw(&member).ask("GET /files/f HTTP/1.1").body, b"x");
    }
    let allowed = 3 + 2 * start.elapsed().as_secs() as usize;
    assert!(answered() <= allowed.max(4), "{} handshakes", answered());
}

#[test]
fn half_a_record_and_an_end_hold_nobody_up() {
    let node = TestNode::start(1);
    node.put("f", b"x");
    let member = caller(1);
    node.befriend(&member);
    let record = [&b"\x16\x03\x01\x02\x00"[..], &[1; 95]].concat();
    for length in [1, 4, 5, 100] {
        let mut stranger = socket(&node);
        stranger.write_all(&record[..length]).unwrap();
        stranger.shutdown(Shutdown::Write).unwrap();
        assert_eq!(node.raw(&member).ask("GET /files/f HTTP/1.1").body, b"x");
        assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0, "{length} bytes");
    }
}
