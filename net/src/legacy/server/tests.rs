//! What clients of 2004 can get from a real directory, and what they cannot.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::config::ShareConfig;
use crate::legacy::TokenKey;
use crate::legacy::error::WireError;
use crate::legacy::wire::{decode_contents, decode_names, decode_servers, encode_call};

const LOCAL: &str = "127.0.0.1";
const PORT: u16 = 8080;
const AT: &str = "http://127.0.0.1:8080";

struct Node {
    legacy: Arc<Legacy>,
    share: Share,
    directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let share = Share::open(&ShareConfig {
            directory: directory.path().into(),
            hidden: true,
            excluded: Vec::new(),
        });
        let legacy = Legacy::new(TokenKey::new(b"pw"), Vec::new());
        legacy.announce(vec![url("http://box:8080")]);
        Self {
            legacy: Arc::new(legacy),
            share: share.unwrap(),
            directory,
        }
    }

    fn server(&self) -> LegacyServer {
        LegacyServer::new(Arc::clone(&self.legacy), PeerId::from_bytes([1; 32]))
    }

    fn put(&self, name: &str, contents: &[u8]) {
        fs::write(self.directory.path().join(name), contents).unwrap();
    }

    /// Returns the document for a client that calls this node by `at`.
    fn call(&self, at: &str, operation: &Operation) -> Vec<u8> {
        let call = encode_call(&TokenKey::new(b"pw").token(&url(at)), operation);
        let local = LOCAL.parse().unwrap();
        let accepted = match self.server().accept(&call, (local, PORT).into()) {
            Ok(accepted) => accepted,
            Err(refusal) => return refusal,
        };
        match accepted.answer(Some(&self.share), local, Instant::now()) {
            PlaintextAnswer::Document(document) => document,
            PlaintextAnswer::Stream(stream) => whole(&*stream),
        }
    }

    fn names(&self, pattern: &str) -> Result<Vec<String>, WireError> {
        let document = self.call(AT, &Operation::Names(pattern.to_owned()));
        let names = decode_names(&document[..])?.into_iter();
        Ok(names.map(|name| String::from_utf8(name).unwrap()).collect())
    }

    fn contents(&self, name: &[u8]) -> Result<Vec<u8>, WireError> {
        let document = self.call(AT, &Operation::Contents(name.to_vec()));
        let mut contents = Vec::new();
        decode_contents(&document[..], u64::MAX, &mut contents)?;
        Ok(contents)
    }

    fn servers(&self, at: &str, told: &[&str]) -> Result<Vec<String>, WireError> {
        let told = told.iter().map(|url| url.as_bytes().to_vec()).collect();
        decode_servers(&self.call(at, &Operation::Servers(told))[..])
    }
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

fn whole(stream: &dyn DocumentStream) -> Vec<u8> {
    let (mut document, mut position) = (Vec::new(), 0);
    while let Some((piece, behind)) = stream.piece(position).unwrap() {
        document.extend_from_slice(&piece);
        position = behind;
    }
    assert_eq!(document.len() as u64, stream.total_bytes());
    document
}

#[test]
fn only_top_level_files_are_listed() {
    let node = Node::new();
    for name in [
        "b.txt",
        "a.txt",
        ".hidden.txt",
        "gr\u{fc}n.txt",
        "x.mp3",
        "a\x01.txt",
    ] {
        node.put(name, b"");
    }
    fs::create_dir(node.directory.path().join("dir.txt")).unwrap();
    symlink("b.txt", node.directory.path().join("link.txt")).unwrap();
    symlink("/etc/passwd", node.directory.path().join("out.txt")).unwrap();
    symlink("dir.txt", node.directory.path().join("to-dir.txt")).unwrap();
    assert_eq!(
        node.names("txt").unwrap(),
        ["a.txt", "b.txt", "gr\u{fc}n.txt", "link.txt"]
    );
    assert_eq!(node.names("^a").unwrap(), ["a.txt"]);
    assert_eq!(node.names("").unwrap().len(), 5);
    assert!(node.names("nothing").unwrap().is_empty());
}

#[test]
fn unsupported_pattern_is_a_clear_fault() {
    let node = Node::new();
    match node.names("(?=a)") {
        Err(WireError::Fault { message, .. }) => {
            assert!(message.contains("look-around"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn contents_are_always_byte_exact() {
    let node = Node::new();
    let large: Vec<u8> = (0..PIECE as u32 * 2 + 1)
        .map(|n| (n / 7) as u8 & 0x7f | 0x20)
        .collect();
    let binary: Vec<u8> = (0..PIECE as u32 + 5)
        .map(|n| ((n * 31) >> 3) as u8)
        .collect();
    for contents in [
        &b""[..],
        b"text\r\n<&>",
        "\u{20ac}".repeat(PIECE).as_bytes(),
        &large,
        &binary,
    ] {
        node.put("file", contents);
        assert!(node.contents(b"file").unwrap() == contents);
    }
}

#[test]
fn only_plain_top_level_names_are_served() {
    let node = Node::new();
    node.put(".hidden", b"secret");
    fs::create_dir(node.directory.path().join("dir")).unwrap();
    node.put("dir/file", b"secret");
    symlink("/etc/passwd", node.directory.path().join("out")).unwrap();
    for name in [
        &b"../x"[..],
        b"/etc/passwd",
        b"dir/file",
        b"./dir/file",
        b"dir",
        b".hidden",
        b".",
        b"..",
        b"",
        b"a\0b",
        b"out",
        b"dir\\file",
        b"%2e%2e/x",
        &[b'x'; 300],
        b"absent",
    ] {
        match node.contents(name) {
            Err(WireError::Fault { code: 1, .. }) => {}
            other => panic!("{}: {other:?}", name.escape_ascii()),
        }
    }
}

#[test]
fn nothing_is_served_without_a_token() {
    let node = Node::new();
    node.put("file", b"secret");
    let local: IpAddr = LOCAL.parse().unwrap();
    for token in [
        String::new(),
        TokenKey::new(b"other").token(&url(AT)),
        TokenKey::new(b"pw").token(&url("http://elsewhere:8080")),
        TokenKey::new(b"pw").token(&url("http://127.0.0.1:8081")),
    ] {
        for operation in [
            Operation::Servers(vec![b"http://x:1".to_vec()]),
            Operation::Names(String::new()),
            Operation::Contents(b"file".to_vec()),
        ] {
            let refusal = node
                .server()
                .accept(&encode_call(&token, &operation), (local, PORT).into());
            assert_eq!(refusal.err(), Some(wire::encode_denial()));
        }
    }
    assert!(node.legacy.all().is_empty(), "strangers tell nothing");
    assert!(
        node.server()
            .accept(b"garbage", (local, PORT).into())
            .is_err()
    );
}

#[test]
fn node_answers_to_both_its_urls() {
    let node = Node::new();
    for at in ["http://box:8080", AT, "http://localhost:8080"] {
        assert_eq!(node.servers(at, &[]).unwrap(), [at]);
    }
    assert!(
        node.legacy.own().contains(&url(AT)),
        "it is told of as another"
    );
    let mapped = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(local_urls(mapped, 1), [url("http://10.0.0.1:1")]);
}

#[test]
fn plausible_servers_are_learned() {
    let node = Node::new();
    let told = [
        "http://a:1",
        "ftp://b:1",
        "http://c:1/x",
        "http://box:8080",
        AT,
        "http://a:1",
    ];
    assert_eq!(node.servers(AT, &told).unwrap(), [AT, "http://a:1"]);
    let many: Vec<String> = (0..200).map(|n| format!("http://x{n}:1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        node.servers(AT, &many).unwrap().len(),
        1 + crate::legacy::known::MAX_LEARNED
    );
}

#[test]
fn remote_callers_get_no_local_addresses() {
    let node = Node::new();
    node.servers(AT, &["http://127.0.0.1:1", "http://far:1"])
        .unwrap();
    let call = AcceptedCall {
        legacy: Arc::clone(&node.legacy),
        operation: Operation::Servers(vec![b"http://127.0.0.1:2".to_vec()]),
        called: url("http://box:8080"),
    };
    let remote = "10.0.0.7".parse().unwrap();
    let answer = call.answer(None, remote, Instant::now());
    let PlaintextAnswer::Document(document) = answer else {
        panic!("not a whole document");
    };
    let told = wire::decode_servers(&document[..]).unwrap();
    assert_eq!(told, ["http://box:8080", "http://far:1"]);
    assert!(!node.legacy.all().contains(&url("http://127.0.0.1:2")));
}

#[test]
fn who_shares_nothing_has_an_empty_list() {
    let node = Node::new();
    let ask = |operation| {
        let call = AcceptedCall {
            legacy: Arc::clone(&node.legacy),
            operation,
            called: url(AT),
        };
        match call.answer(None, LOCAL.parse().unwrap(), Instant::now()) {
            PlaintextAnswer::Document(document) => document,
            PlaintextAnswer::Stream(_) => panic!("not a whole document"),
        }
    };
    let names = ask(Operation::Names(String::new()));
    assert!(decode_names(&names[..]).unwrap().is_empty());
    let contents = ask(Operation::Contents(b"x".to_vec()));
    assert!(matches!(
        decode_names(&contents[..]),
        Err(WireError::Fault { .. })
    ));
}

#[test]
fn file_too_large_for_2004_is_a_fault() {
    let node = Node::new();
    let kind = |size| {
        let file = fs::File::create(node.directory.path().join("big")).unwrap();
        file.set_len(size).unwrap();
        let call = encode_call(
            &TokenKey::new(b"pw").token(&url(AT)),
            &Operation::Contents(b"big".to_vec()),
        );
        let local = LOCAL.parse().unwrap();
        let Ok(accepted) = node.server().accept(&call, (local, PORT).into()) else {
            panic!("refused");
        };
        accepted.answer(Some(&node.share), local, Instant::now())
    };
    assert!(matches!(kind(MAX_CONTENTS), PlaintextAnswer::Stream(_)));
    let PlaintextAnswer::Document(document) = kind(MAX_CONTENTS + 1) else {
        panic!("it would be sent");
    };
    assert!(
        String::from_utf8(document)
            .unwrap()
            .contains("4294967296 bytes")
    );
}
