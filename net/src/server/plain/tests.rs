//! Unencrypted connections, as others see them: well-meant, clumsy and hostile ones.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::super::ServerLimits;
use super::super::harness::{PATIENCE, TestNode, caller};
use crate::legacy::wire::{Operation, decode_contents, decode_names, encode_call};
use crate::legacy::{TokenKey, Url};

/// The deadlines in these tests.
const SHORT: Duration = Duration::from_millis(300);

fn quick() -> TestNode {
    TestNode::speaking_2004(ServerLimits {
        plain_head: SHORT,
        plain_body: SHORT,
        ..ServerLimits::default()
    })
}

fn connect(node: &TestNode) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Reads until the other side ends the connection, cleanly or not.
fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("left open"),
        _ => bytes,
    }
}

/// Returns the answer to `request`, which may be cut off by the answer.
fn ask(node: &TestNode, request: &[u8]) -> Vec<u8> {
    let mut socket = connect(node);
    let _ = socket.write_all(request);
    rest(socket)
}

fn call(node: &TestNode, operation: &Operation) -> Vec<u8> {
    let url = Url::new("127.0.0.1", node.port()).unwrap();
    encode_call(&TokenKey::new(b"pw").token(&url), operation)
}

fn post(path: &str, version: &str, document: &[u8]) -> Vec<u8> {
    let length = document.len();
    let head = format!(
        "POST {path} HTTP/{version}\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), document].concat()
}

/// Splits a response into its head and its body.
fn parts(response: &[u8]) -> (String, &[u8]) {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = response.split_at(end.expect("a head") + 4);
    (String::from_utf8_lossy(head).to_ascii_lowercase(), body)
}

fn status(response: &[u8]) -> u16 {
    parts(response).0[9..12].parse().unwrap()
}

#[test]
fn either_http_version_gets_one_answer() {
    let node = quick();
    node.put("file", b"content");
    for version in ["1.0", "1.1"] {
        for path in ["/RPC2", "/"] {
            let document = call(&node, &Operation::Names(String::new()));
            let response = ask(&node, &post(path, version, &document));
            let (head, body) = parts(&response);
            assert_eq!(status(&response), 200, "{head}");
            assert!(head.contains("content-type: text/xml\r\n"), "{head}");
            assert!(
                head.contains(&format!("content-length: {}\r\n", body.len())),
                "{head}"
            );
            assert_eq!(decode_names(body).unwrap(), [b"file"]);
        }
    }
}

#[test]
fn multi_piece_contents_arrive_whole() {
    let node = quick();
    let text = "line\r\n".repeat(100_000);
    let binary: Vec<u8> = (0..1_000_001_u32).map(|n| ((n * 7) >> 2) as u8).collect();
    for contents in [text.as_bytes(), &binary] {
        node.put("file", contents);
        let document = call(&node, &Operation::Contents(b"file".to_vec()));
        let response = ask(&node, &post("/RPC2", "1.1", &document));
        let mut found = Vec::new();
        decode_contents(parts(&response).1, u64::MAX, &mut found).unwrap();
        assert!(found == contents);
    }
}

#[test]
fn file_changing_mid_send_is_never_mixed() {
    let node = TestNode::speaking_2004(ServerLimits::default());
    node.put("file", &vec![b'a'; 64 << 20]);
    let document = call(&node, &Operation::Contents(b"file".to_vec()));
    let mut socket = connect(&node);
    socket.write_all(&post("/RPC2", "1.1", &document)).unwrap();
    let mut first = [0; 1000];
    socket.read_exact(&mut first).unwrap();
    node.put("file", &vec![b'b'; 64 << 20]);
    let response = [&first[..], &rest(socket)].concat();
    let result = decode_contents(parts(&response).1, u64::MAX, &mut std::io::sink());
    assert!(result.is_err());
    assert!(!response.ends_with(b"</methodResponse>"));
}

#[test]
fn what_is_no_call_is_refused() {
    let node = quick();
    for (request, expected) in [
        (&b"GET /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n"[..], 405),
        (b"GET / HTTP/1.0\r\n\r\n", 405),
        (
            b"POST /files/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            404,
        ),
        (b"GET /files/file HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (
            b"POST /RPC2 HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
            413,
        ),
    ] {
        let shown = request.escape_ascii();
        assert_eq!(status(&ask(&node, request)), expected, "{shown}");
    }
    for document in [
        &b""[..],
        b"garbage",
        b"<!DOCTYPE x [<!ENTITY a \"aaaa\">]><methodCall>&a;</methodCall>",
    ] {
        let response = ask(&node, &post("/RPC2", "1.1", document));
        let (head, body) = parts(&response);
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(
            body.windows(9).any(|part| part == b"faultCode"),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn garbage_ends_only_its_connection() {
    let node = quick();
    node.put("file", b"content");
    let fields = "X: y\r\n".repeat(1000);
    let long = format!("POST /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("POST /RPC2 HTTP/1.1\r\n{fields}\r\n");
    let huge = post("/RPC2", "1.1", &vec![b'<'; 3 << 20]);
    let chunked = [
        &b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        &b"10000\r\n"
            .iter()
            .copied()
            .chain([b' '; 0x10000])
            .chain(*b"\r\n")
            .collect::<Vec<u8>>()
            .repeat(40),
    ]
    .concat();
    let deep = post("/RPC2", "1.1", &b"<value><array><data>".repeat(50_000));
    for request in [
        &b"\x00\xff\xfe garbage\r\n\r\n"[..],
        b"\x15\x03\x01\x00\x02\x02\x28",
        long.as_bytes(),
        many.as_bytes(),
        &huge,
        &chunked,
        &deep,
    ] {
        let answer = ask(&node, request);
        let is_harmless = answer.is_empty() || status(&answer) != 200 || answer.len() < 2000;
        assert!(is_harmless, "{}", answer.escape_ascii());
    }
    let document = call(&node, &Operation::Names(String::new()));
    assert_eq!(status(&ask(&node, &post("/RPC2", "1.1", &document))), 200);
}

#[test]
fn slow_head_or_body_is_cut_off() {
    let node = quick();
    for begin in [
        &b"P"[..],
        b"POST /RPC2 HTTP/1.1\r\nHost: x\r\n",
        b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<methodCall>",
        b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let mut socket = connect(&node);
        socket.write_all(begin).unwrap();
        let answer = rest(socket);
        assert!(
            answer.is_empty() || status(&answer) == 408,
            "{}",
            answer.escape_ascii()
        );
    }
}

#[test]
fn who_sends_nothing_at_all_is_closed_too() {
    let node = TestNode::speaking_2004(ServerLimits {
        handshake: SHORT,
        ..ServerLimits::default()
    });
    assert!(rest(connect(&node)).is_empty());
    let socket = connect(&node);
    socket.shutdown(Shutdown::Write).unwrap();
    assert!(rest(socket).is_empty());
}

#[test]
fn a_flood_of_them_keeps_no_member_out() {
    let node = TestNode::speaking_2004(ServerLimits::default());
    node.put("file", b"content");
    let friend = caller(1);
    node.befriend(&friend);
    let held: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut socket = connect(&node);
            let _ = socket.write_all(b"POST /RPC2 HTTP/1.1\r\n");
            socket
        })
        .collect();
    let response = node.raw(&friend).ask("GET /files/file HTTP/1.1");
    assert_eq!(
        (response.status, &response.body[..]),
        (200, &b"content"[..])
    );
    drop(held);
}
