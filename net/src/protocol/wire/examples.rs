//! Runs the examples of PROTOCOL.md: each must decode to the value that its text describes, and
//! that value must encode to exactly the example.
//!
//! In PROTOCOL.md an example is a fenced `xml` block after a line `Example: LABEL`. It is laid out
//! for people: indentation, and a line end before a tag, are not part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::model::{
    Address, Attributes, ContentId, Entry, FileSize, Kind, Mode, Name, PeerId, RelPath, Root,
    Version,
};

const PROTOCOL: &str = include_str!("../../../PROTOCOL.md");

/// Returns the blocks by label. A block without a label, or a label given twice, is a mistake.
fn examples() -> BTreeMap<&'static str, String> {
    let mut examples = BTreeMap::new();
    let mut lines = PROTOCOL.lines();
    let mut label = None;
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("Example: ") {
            label = Some(text);
        }
        if line == "```xml" {
            let block = lines.by_ref().take_while(|line| *line != "```");
            let label = label.take().expect("a label before every example");
            assert_eq!(examples.insert(label, join(block)), None, "{label} twice");
        }
    }
    examples
}

fn join<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for line in lines.map(str::trim_start) {
        if !text.is_empty() && !line.starts_with('<') {
            text.push('\n');
        }
        text.push_str(line);
    }
    text
}

fn path(text: &[u8]) -> RelPath {
    RelPath::new(text).unwrap()
}

fn directory() -> Attributes {
    Attributes {
        kind: Kind::Directory,
        mode: Mode::Plain,
        size: FileSize::ZERO,
        mtime: 1_700_000_000_000_000_000.into(),
        version: Version(0x0123_4567_89ab_cdef),
        root: None,
    }
}

fn file() -> Attributes {
    Attributes {
        kind: Kind::File,
        mode: Mode::Plain,
        size: 300_000_000.into(),
        mtime: 1_700_000_000_123_456_789.into(),
        version: Version(0xfedc_ba98_7654_3210),
        root: Some(Root::from_bytes([0xab; 32])),
    }
}

fn member(id: u8, name: &str, addresses: Vec<Address>) -> MemberRecord {
    MemberRecord {
        id: PeerId::from_bytes([id; 32]),
        name: name.into(),
        addresses,
    }
}

fn hello() -> (Request, Response) {
    let ids = [1, 2, 3].map(|id| PeerId::from_bytes([id; 32]));
    let ours = Hello {
        protocol: 2,
        sender: member(1, "attic", Vec::new()),
        port: 15204,
        members: Vec::new(),
        digest: Some(ContactDigest::of(&ids[..1])),
        known: Some(vec![IdPrefix::of(ids[0])]),
    };
    let boat = vec![
        Address::new("boat.example", 15204),
        Address::new("2001:db8::7", 15204),
    ];
    let theirs = Hello {
        protocol: 2,
        sender: member(2, "cellar", vec![Address::new("192.0.2.7", 15204)]),
        port: 15204,
        members: vec![member(3, "Anna's boat", boat)],
        digest: Some(ContactDigest::of(&ids)),
        known: None,
    };
    (Request::Hello(ours), Response::Hello(theirs))
}

fn list() -> (Request, Response) {
    let request = ListRequest {
        directory: path(b"music/B&B"),
        after: Some(Name::new(&b"a.ogg"[..]).unwrap()),
        limit: 2,
        watch: true,
    };
    let entry = |name: &[u8], attributes| Entry {
        name: Name::new(name).unwrap(),
        attributes,
    };
    let listing = Listing {
        version: Version(0x1122_3344_5566_7788),
        mtime: 1_700_000_000_000_000_000.into(),
        entries: vec![entry(b"b.ogg", file()), entry(b"live", directory())],
        more: true,
        counter: Some(1_700_000_000_000_000_007),
    };
    (Request::List(request), Response::List(listing))
}

fn stat() -> (Request, Response) {
    let request = StatRequest {
        compare: false,
        paths: vec![
            path(b"music"),
            path(b"caf\xe9.txt"),
            path(b"music/gone.ogg"),
        ],
        watch: true,
    };
    let attributes = vec![
        Some(directory()),
        Some(Attributes {
            root: None,
            ..file()
        }),
        None,
    ];
    (
        Request::Stat(request),
        Response::Stat(StatResponse {
            attributes,
            counter: Some(1_700_000_000_000_000_007),
        }),
    )
}

fn search() -> (Request, Response) {
    let request = SearchRequest {
        pattern: r"(?i)\.ogg$".into(),
        after: None,
        limit: 1024,
    };
    let page = SearchPage {
        matches: vec![(path(b"music/B&B/b.ogg"), file())],
        more: false,
    };
    (Request::Search(request), Response::Search(page))
}

fn changes() -> (Request, Response) {
    let request = ChangesRequest {
        since: 1_700_000_000_000_000_007,
        wait: Duration::from_secs(5),
    };
    let change = |text: &[u8], depth| Change {
        path: path(text),
        depth,
    };
    let changes = Changes {
        counter: 1_700_000_000_000_000_010,
        changes: vec![
            change(b"music/B&B/b.ogg", Depth::Entry),
            change(b"music/new", Depth::Tree),
            change(b"music", Depth::Entry),
        ],
    };
    (Request::Changes(request), Response::Changes(changes))
}

fn hashes() -> (Request, Response) {
    let root = Root::from_bytes([0xab; 32]);
    let request = HashesRequest {
        root,
        first: 512,
        span: 512,
    };
    let subtree = Subtree {
        first: 512,
        span: 512,
        leaves: vec![[0x11; 32], [0x22; 32]],
        uncles: vec![[0x33; 32]],
    };
    (Request::Hashes(request), Response::Hashes(subtree))
}

fn snapshot() -> (Request, Response) {
    let content = |root, size| ContentId {
        root: Root::from_bytes([root; 32]),
        size,
    };
    let request = SnapshotRequest {
        path: path(b"logs/app.log"),
        version: Version(0xabcd_ef01_2345_6789),
        size: 40_000,
        may_read: true,
        prefix: Some(content(0xab, 30_000)),
    };
    let answer = Snapshot {
        version: Version(0xabcd_ef98_7654_3210),
        content: content(0xcd, 41_000),
        is_prefix: true,
    };
    (Request::Snapshot(request), Response::Snapshot(answer))
}

fn list_methods() -> (Request, Response) {
    let names = methods().map(str::to_owned).collect();
    (Request::ListMethods, Response::ListMethods(names))
}

fn method_help() -> (Request, Response) {
    let name = "system.listMethods";
    let text = help(name).unwrap().to_owned();
    (Request::MethodHelp(name.into()), Response::MethodHelp(text))
}

fn fault() -> Fault {
    Fault::new(FaultCode::NotFound, "no such file or directory")
}

#[test]
fn every_example_is_what_its_text_says() {
    let mut examples = examples();
    let mut take = |label: String| {
        let example = examples.remove(&*label);
        example.unwrap_or_else(|| panic!("PROTOCOL.md has no example '{label}'"))
    };
    for (name, (request, response)) in [
        ("tinyp2p.hello", hello()),
        ("tinyp2p.list", list()),
        ("tinyp2p.stat", stat()),
        ("tinyp2p.search", search()),
        ("tinyp2p.changes", changes()),
        ("tinyp2p.hashes", hashes()),
        ("tinyp2p.snapshot", snapshot()),
        ("system.listMethods", list_methods()),
        ("system.methodHelp", method_help()),
    ] {
        let call = take(format!("call of {name}"));
        assert_eq!(decode_call(call.as_bytes()), Ok(request.clone()), "{name}");
        assert_eq!(String::from_utf8(encode_call(&request)).unwrap(), call);
        let answer = take(format!("response of {name}"));
        let decoded = decode_response(&request, answer.as_bytes());
        assert_eq!(decoded, Ok(response.clone()), "{name}");
        let encoded = encode_response(&Ok(response));
        assert_eq!(String::from_utf8(encoded).unwrap(), answer);
    }
    let answer = take("fault".into());
    let decoded = decode_response(&stat().0, answer.as_bytes());
    assert_eq!(decoded, Err(ResponseError::Fault(fault())));
    assert_eq!(encode_response(&Err(fault())), answer.as_bytes());
    assert_eq!(examples, BTreeMap::new(), "examples that nothing checks");
}

/// Every fault number and every bound of the code is in the text.
#[test]
fn tables_name_every_fault_and_limit() {
    for number in [-32700, -32600, -32601, -32602, -32603, 1, 2, 3, 4, 5] {
        assert_ne!(FaultCode::from_number(number), FaultCode::Other(number));
        assert!(PROTOCOL.contains(&format!("| {number} |")), "{number}");
    }
    for bound in [
        format!(
            "`addresses` and perhaps `reach` as above, at most {} |",
            Hello::MAX_MEMBERS
        ),
        format!("found through NATs, at most {} ", MemberRecord::MAX_REACH),
        format!("at most {} relays", crate::model::MAX_RELAYS),
        format!("best first, at most {}.", MemberRecord::MAX_ADDRESSES),
        format!("1 to {} bytes of UTF-8", MemberRecord::MAX_NAME_BYTES),
        format!("never holds more than {}. |", Listing::MAX_ENTRIES),
        format!("1 to {} paths.", StatRequest::MAX_PATHS),
        format!(
            "expression, at most {} bytes",
            SearchRequest::MAX_PATTERN_BYTES
        ),
        format!("never holds more than {}. |", SearchPage::MAX_MATCHES),
        format!(
            "at most {} milliseconds",
            ChangesRequest::MAX_WAIT.as_millis()
        ),
        format!("at most {} changes", Changes::MAX_CHANGES),
        format!("one line, at most {} bytes", Fault::MAX_MESSAGE_BYTES),
        format!("path: 1 to {} bytes", crate::model::MAX_NAME_BYTES),
        format!("either end; at most {} bytes", crate::model::MAX_PATH_BYTES),
        format!(
            "| {} MiB | {} MiB |",
            MAX_CALL_BYTES >> 20,
            MAX_RESPONSE_BYTES >> 20
        ),
    ] {
        assert!(PROTOCOL.contains(&bound), "{bound}");
    }
}
