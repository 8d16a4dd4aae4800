use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::fields::structure;
use super::*;
use crate::model::{
    Address, Attributes, ContentId, Entry, FileSize, Kind, Mode, Name, PeerId, RelPath, Root,
    UnixTime, Version,
};
use crate::protocol::xmlrpc::{Value, write_call, write_response};

fn any_name() -> impl Strategy<Value = Name> {
    let readable = "[a-z&<>\r\n äß]{1,20}".prop_map(String::into_bytes);
    let anything = vec(1u8..=255, 1..30);
    prop_oneof![readable, anything].prop_filter_map("no name", |bytes| Name::new(bytes).ok())
}

fn any_path() -> impl Strategy<Value = RelPath> {
    vec(any_name(), 1..4).prop_map(|names| {
        let root = RelPath::root();
        names
            .iter()
            .fold(root, |path, name| path.join(name).unwrap())
    })
}

/// Generates mostly present-day times, and some that 64 bits of nanoseconds cannot express.
fn any_mtime() -> impl Strategy<Value = UnixTime> {
    let far = (any::<i64>(), 0..1_000_000_000_u32)
        .prop_map(|(seconds, rest)| UnixTime::new(seconds, rest).unwrap());
    prop_oneof![6 => any::<i64>().prop_map_into(), 1 => far]
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let root = option::of(prop::array::uniform32(1u8..).prop_map(Root::from_bytes));
    let mode = prop_oneof![
        6 => Just(Mode::Plain),
        1 => Just(Mode::Executable),
        1 => Just(Mode::Unreadable),
    ];
    let sizes = 0..=i64::MAX as u64;
    let file = (mode, sizes, any_mtime(), any::<u64>(), root).prop_map(
        |(mode, size, mtime, version, root)| Attributes {
            kind: Kind::File,
            mode,
            size: FileSize::of(size),
            mtime,
            version: Version(version),
            root,
        },
    );
    let directory = (any_mtime(), any::<u64>()).prop_map(|(mtime, version)| Attributes {
        kind: Kind::Directory,
        mode: Mode::Plain,
        size: FileSize::ZERO,
        mtime,
        version: Version(version),
        root: None,
    });
    prop_oneof![file, directory]
}

fn any_id() -> impl Strategy<Value = PeerId> {
    any::<[u8; 32]>().prop_map(PeerId::from_bytes)
}

fn any_record() -> impl Strategy<Value = MemberRecord> {
    let address = ("[a-z0-9.-]{1,30}", 1u16..).prop_map(|(host, port)| Address::new(host, port));
    let v6 = (any::<std::net::Ipv6Addr>(), 1u16..)
        .prop_map(|(ip, port)| Address::new(ip.to_string(), port));
    (
        any_id(),
        "[^/\\p{C}]{1,16}",
        vec(prop_oneof![address, v6], 0..4),
    )
        .prop_filter_map("no name", |(id, name, addresses)| {
            MemberRecord::is_name(&name).then_some(MemberRecord {
                id,
                name,
                addresses,
            })
        })
}

fn any_hello() -> impl Strategy<Value = Hello> {
    (
        Hello::PROTOCOL..,
        any_record(),
        any::<u16>(),
        vec(any_record(), 0..4),
        option::of(vec(any_id(), 0..4)),
        option::of(vec(any_id(), 0..4)),
    )
        .prop_map(|(protocol, sender, port, members, ids, known)| Hello {
            protocol,
            sender,
            port,
            members,
            digest: ids.as_ref().map(ContactDigest::of),
            known: known.map(|ids| ids.into_iter().map(IdPrefix::of).collect()),
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any_hello().prop_map(Request::Hello),
        (any_path(), option::of(any_name()), 1u32..).prop_map(|(directory, after, limit)| {
            Request::List(ListRequest {
                directory,
                after,
                limit,
                watch: true,
            })
        }),
        (vec(any_path(), 1..5), any::<bool>(), any::<bool>()).prop_map(
            |(paths, watch, compare)| Request::Stat(StatRequest {
                compare,
                paths,
                watch
            })
        ),
        (any::<String>(), option::of(any_path()), 1u32..).prop_map(|(pattern, after, limit)| {
            Request::Search(SearchRequest {
                pattern,
                after,
                limit,
            })
        }),
        (any::<u64>(), 0..=10_000_u64).prop_map(|(since, wait)| {
            let wait = Duration::from_millis(wait);
            Request::Changes(ChangesRequest { since, wait })
        }),
        any_snapshot_request().prop_map(Request::Snapshot),
        Just(Request::ListMethods),
        any::<String>().prop_map(Request::MethodHelp),
    ]
}

fn any_content() -> impl Strategy<Value = ContentId> {
    let size = 1..=i64::MAX as u64;
    (any::<[u8; 32]>(), size).prop_map(|(root, size)| ContentId {
        root: Root::from_bytes(root),
        size,
    })
}

fn any_snapshot_request() -> impl Strategy<Value = SnapshotRequest> {
    let numbers = (any::<u64>(), 0..=i64::MAX as u64, any::<bool>());
    (any_path(), numbers, option::of(any_content())).prop_map(
        |(path, (version, size, may_read), prefix)| SnapshotRequest {
            path,
            version: Version(version),
            size,
            may_read,
            prefix,
        },
    )
}

/// Generates a request and a response that answers it.
fn any_exchange() -> impl Strategy<Value = (Request, Response)> {
    let entries = btree_map(any_name(), any_attributes(), 0..6);
    let listing = (any::<u64>(), any_mtime(), entries, any::<bool>());
    let matches = btree_map(any_path(), any_attributes(), 0..6);
    let snapshot = (any_snapshot_request(), any::<u64>(), any_content());
    let snapshot = snapshot.prop_map(|(request, version, content)| {
        let size = request.prefix.map_or(0, |prefix| prefix.size);
        let answer = Snapshot {
            version: Version(version),
            is_prefix: (1..=content.size).contains(&size),
            content,
        };
        (Request::Snapshot(request), Response::Snapshot(answer))
    });
    prop_oneof![
        snapshot,
        (any_hello(), any_hello()).prop_map(|(a, b)| (Request::Hello(a), Response::Hello(b))),
        listing.prop_map(|(version, mtime, entries, more)| {
            let listing = Listing {
                version: Version(version),
                mtime,
                more: more && !entries.is_empty(),
                counter: Some(version),
                entries: entries
                    .into_iter()
                    .map(|(name, attributes)| Entry { name, attributes })
                    .collect(),
            };
            (list(None, 6), Response::List(listing))
        }),
        option::of(any::<u64>())
            .prop_map(|counter| (list(None, 6), Response::NoDirectory { counter })),
        (any::<u64>(), vec(any_change(), 0..5)).prop_map(|(counter, mut changes)| {
            changes.sort_by(|a, b| a.path.cmp(&b.path));
            changes.dedup_by(|a, b| a.path == b.path);
            let response = Changes { counter, changes };
            (changes_since(counter), Response::Changes(response))
        }),
        vec((any_path(), option::of(any_attributes())), 1..5).prop_map(|rows| {
            let (paths, attributes) = rows.into_iter().unzip();
            let answer = StatResponse {
                attributes,
                counter: None,
            };
            (
                Request::Stat(StatRequest {
                    compare: false,
                    paths,
                    watch: false,
                }),
                Response::Stat(answer),
            )
        }),
        (matches, any::<bool>()).prop_map(|(matches, more)| {
            let matches: Vec<_> = matches
                .into_iter()
                .filter(|(_, attributes)| attributes.kind == Kind::File)
                .collect();
            (search(6), Response::Search(SearchPage { matches, more }))
        }),
        vec("[a-zA-Z.]{1,20}", 0..5)
            .prop_map(|names| (Request::ListMethods, Response::ListMethods(names))),
        any::<String>().prop_map(|text| (
            Request::MethodHelp(text.clone()),
            Response::MethodHelp(text)
        )),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let path = prop_oneof![Just(RelPath::root()), any_path()];
    (path, any::<bool>()).prop_map(|(path, is_tree)| Change {
        path,
        depth: if is_tree { Depth::Tree } else { Depth::Entry },
    })
}

fn changes_since(since: u64) -> Request {
    let wait = Duration::ZERO;
    Request::Changes(ChangesRequest { since, wait })
}

fn list(after: Option<&str>, limit: u32) -> Request {
    Request::List(ListRequest {
        directory: RelPath::root(),
        after: after.map(|name| Name::new(name.as_bytes()).unwrap()),
        limit,
        watch: true,
    })
}

fn search(limit: u32) -> Request {
    Request::Search(SearchRequest {
        pattern: "x".into(),
        after: None,
        limit,
    })
}

fn stat(paths: usize) -> Request {
    Request::Stat(StatRequest {
        compare: false,
        paths: vec![RelPath::new(b"a").unwrap(); paths],
        watch: true,
    })
}

fn file(size: u64) -> Attributes {
    Attributes {
        kind: Kind::File,
        mode: Mode::Plain,
        size: size.into(),
        mtime: 0.into(),
        version: Version(1),
        root: None,
    }
}

fn page(names: &[&str]) -> Listing {
    let entries = names.iter().map(|name| Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        attributes: file(1),
    });
    Listing {
        version: Version(1),
        mtime: 0.into(),
        entries: entries.collect(),
        more: false,
        counter: None,
    }
}

fn record() -> MemberRecord {
    MemberRecord {
        id: PeerId::from_bytes([7; 32]),
        name: "n".into(),
        addresses: Vec::new(),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: Hello::PROTOCOL,
        sender: record(),
        port: 1,
        members: Vec::new(),
        digest: None,
        known: None,
    }
}

/// Returns the members of a struct, to be modified.
fn members(value: Value) -> BTreeMap<String, Value> {
    match value {
        Value::Struct(members) => members,
        _ => panic!("not a struct"),
    }
}

/// Decodes a response to `request` after `bend` has modified it.
fn bent(
    request: &Request,
    value: Value,
    bend: impl FnOnce(&mut BTreeMap<String, Value>),
) -> Result<Response, ResponseError> {
    let mut members = members(value);
    bend(&mut members);
    decode_response(request, &write_response(&Value::Struct(members)))
}

fn is_malformed(result: &Result<Response, ResponseError>) -> bool {
    matches!(result, Err(ResponseError::Malformed(_)))
}

/// Returns the fault that answers a call of `method` with one struct.
fn refused(method: &str, params: &[Value]) -> Fault {
    decode_call(&write_call(method, params)).unwrap_err()
}

proptest! {
    #[test]
    fn calls_survive_the_round_trip(request in any_request()) {
        prop_assert_eq!(decode_call(&encode_call(&request)), Ok(request));
    }

    #[test]
    fn responses_survive_the_round_trip((request, response) in any_exchange()) {
        let body = encode_response(&Ok(response.clone()));
        prop_assert_eq!(decode_response(&request, &body), Ok(response));
    }

    #[test]
    fn a_cut_message_is_refused((request, response) in any_exchange(), at: prop::sample::Index) {
        let call = encode_call(&request);
        let fault = decode_call(&call[..at.index(call.len())]).unwrap_err();
        prop_assert_eq!(fault.code, FaultCode::NotWellFormed);
        let body = encode_response(&Ok(response));
        prop_assert!(is_malformed(&decode_response(&request, &body[..at.index(body.len())])));
    }

    #[test]
    fn a_damaged_message_never_panics(
        (request, response) in any_exchange(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut call = encode_call(&request);
        let mut body = encode_response(&Ok(response));
        for (at, byte) in damage {
            let (i, j) = (at.index(call.len()), at.index(body.len()));
            call[i] = byte;
            body[j] = byte;
        }
        let _ = decode_call(&call);
        let _ = decode_response(&request, &body);
    }

    #[test]
    fn faults_survive_the_round_trip(number: i32, message in "[a-zäß<&]{1,9}( [a-z]{1,9}){0,3}") {
        let fault = Fault::new(FaultCode::from_number(number), message);
        prop_assert_eq!(fault.code.number(), number);
        let body = encode_response(&Err(fault.clone()));
        prop_assert_eq!(decode_response(&stat(1), &body), Err(ResponseError::Fault(fault)));
    }

    #[test]
    fn a_message_of_a_fault_is_one_short_line(message: String) {
        let line = one_line(&message);
        prop_assert!(line.len() <= Fault::MAX_MESSAGE_BYTES);
        prop_assert!(!line.contains(char::is_control));
        prop_assert_eq!(one_line(&line), line);
    }
}

#[test]
fn refusals_of_calls_have_their_numbers() {
    let code = |body: &[u8]| decode_call(body).unwrap_err().code;
    assert_eq!(code(b"GET / HTTP/1.1"), FaultCode::NotWellFormed);
    let bomb = b"<!DOCTYPE a [<!ENTITY b 'c'>]><methodCall/>";
    assert_eq!(code(bomb), FaultCode::NotWellFormed);
    assert_eq!(
        code(b"<methodCall></methodCall>"),
        FaultCode::InvalidRequest
    );
    assert_eq!(refused("f", &[]).code, FaultCode::MethodNotFound);
    assert_eq!(
        refused("tinyp2p.list", &[]).code,
        FaultCode::InvalidParameters
    );
    let two = [structure([]), structure([])];
    assert_eq!(
        refused("tinyp2p.list", &two).code,
        FaultCode::InvalidParameters
    );
    assert_eq!(
        refused("tinyp2p.list", &["x".into()]).code,
        FaultCode::InvalidParameters
    );
    assert_eq!(
        refused("system.listMethods", &["x".into()]).code,
        FaultCode::InvalidParameters
    );
    assert_eq!(
        refused("system.methodHelp", &[]).code,
        FaultCode::InvalidParameters
    );
    assert_eq!(code(&[b' '; MAX_CALL_BYTES + 1]), FaultCode::LimitExceeded);
}

#[test]
fn missing_required_field_is_named() {
    let samples = [
        ("tinyp2p.hello", hello().to_value()),
        ("tinyp2p.list", list_request_value()),
        (
            "tinyp2p.stat",
            structure([("paths", Value::Array(vec!["a".into()]))]),
        ),
        (
            "tinyp2p.search",
            structure([("pattern", "x".into()), ("limit", Value::Int(1))]),
        ),
    ];
    for (method, sample) in samples {
        let whole = members(sample);
        assert!(decode_call(&write_call(method, &[Value::Struct(whole.clone())])).is_ok());
        for name in whole.keys() {
            let mut rest = whole.clone();
            rest.remove(name);
            let fault = refused(method, &[Value::Struct(rest)]);
            assert_eq!(fault.code, FaultCode::InvalidParameters);
            assert!(
                fault.message.contains(&format!("'{name}'")),
                "{}",
                fault.message
            );
        }
    }
}

fn list_request_value() -> Value {
    structure([("path", "".into()), ("limit", Value::Int(1))])
}

#[test]
fn members_from_the_future_are_ignored() {
    let mut call = members(hello().to_value());
    call.insert("colour".into(), Value::Array(vec![Value::Int(1)]));
    let body = write_call("tinyp2p.hello", &[Value::Struct(call)]);
    assert_eq!(decode_call(&body), Ok(Request::Hello(hello())));
    let page = page(&["a"]);
    let answer = bent(&list(None, 1), page.to_value(), |m| {
        m.insert("colour".into(), "blue".into());
    });
    assert_eq!(answer, Ok(Response::List(page)));
}

#[test]
fn wrong_parameter_or_value_is_refused() {
    let bend = |method: &str, sample: Value, name: &str, value: Value| {
        let mut call = members(sample);
        call.insert(name.into(), value);
        refused(method, &[Value::Struct(call)]).code
    };
    let list = |name, value| bend("tinyp2p.list", list_request_value(), name, value);
    assert_eq!(list("limit", Value::Int(0)), FaultCode::InvalidParameters);
    assert_eq!(list("limit", Value::Int(-1)), FaultCode::InvalidParameters);
    assert_eq!(
        list("limit", Value::Int(1 << 40)),
        FaultCode::InvalidParameters
    );
    assert_eq!(list("limit", "1".into()), FaultCode::InvalidParameters);
    for path in ["/etc", "a/../b", "..", "a//b", "a/"] {
        assert_eq!(list("path", path.into()), FaultCode::InvalidParameters);
    }
    assert_eq!(
        list("path", Value::Bytes(b"a\0b".to_vec())),
        FaultCode::InvalidParameters
    );
    assert_eq!(list("path", Value::Int(1)), FaultCode::InvalidParameters);
    assert_eq!(list("after", "a/b".into()), FaultCode::InvalidParameters);
    assert_eq!(list("after", "".into()), FaultCode::InvalidParameters);

    let stat = |paths| {
        refused(
            "tinyp2p.stat",
            &[structure([("paths", Value::Array(paths))])],
        )
    };
    assert_eq!(stat(vec![]).code, FaultCode::InvalidParameters);
    assert_eq!(
        stat(vec!["a".into(), "..".into()]).code,
        FaultCode::InvalidParameters
    );
    let many = stat(vec!["a".into(); StatRequest::MAX_PATHS + 1]);
    assert_eq!(
        many,
        Fault::new(FaultCode::LimitExceeded, "at most 256 paths")
    );

    let long = structure([
        ("pattern", "x".repeat(1025).as_str().into()),
        ("limit", Value::Int(1)),
    ]);
    let fault = refused("tinyp2p.search", &[long]);
    assert_eq!(
        fault,
        Fault::new(FaultCode::LimitExceeded, "at most 1024 bytes of pattern")
    );
}

#[test]
fn implausible_hello_is_refused() {
    let bend = |name: &str, value: Value| {
        let mut call = members(hello().to_value());
        call.insert(name.into(), value);
        refused("tinyp2p.hello", &[Value::Struct(call)]).code
    };
    let long = "n".repeat(65);
    for name in ["", "a/b", "a\u{1b}[31m", "a\u{202e}b", ".", "..", &long] {
        assert_eq!(
            bend("name", name.into()),
            FaultCode::InvalidParameters,
            "{name:?}"
        );
    }
    assert_eq!(
        bend("name", Value::Bytes(b"\xff".to_vec())),
        FaultCode::InvalidParameters
    );
    assert_eq!(bend("id", "abc".into()), FaultCode::InvalidParameters);
    assert_eq!(
        bend("port", Value::Int(65536)),
        FaultCode::InvalidParameters
    );
    assert_eq!(
        bend("protocol", Value::Int(1)),
        FaultCode::UnsupportedVersion
    );
    assert_eq!(
        bend("protocol", Value::Int(-1)),
        FaultCode::InvalidParameters
    );
    let addresses = |text: &str, n| Value::Array(vec![text.into(); n]);
    assert_eq!(
        bend("addresses", addresses("http://x", 1)),
        FaultCode::InvalidParameters
    );
    assert_eq!(
        bend("addresses", addresses("x:0", 1)),
        FaultCode::InvalidParameters
    );
    assert_eq!(
        bend("addresses", addresses("x:1", 17)),
        FaultCode::LimitExceeded
    );
    let crowd = |n| Value::Array(vec![structure([]); n]);
    assert_eq!(bend("members", crowd(1)), FaultCode::InvalidParameters);
    assert_eq!(bend("members", crowd(1025)), FaultCode::LimitExceeded);
}

#[test]
fn largest_hello_fits_by_omitting_members() {
    let small = MemberRecord {
        addresses: vec![Address::new("192.168.100.100", 15204); 3],
        ..record()
    };
    let large = MemberRecord {
        name: "&".repeat(64),
        addresses: vec![Address::new("a".repeat(253), 65535); 16],
        ..record()
    };
    for (record, expected) in [(small, 1024), (large, 170)] {
        let call = Request::Hello(Hello {
            sender: record.clone(),
            members: vec![record; 5000],
            ..hello()
        });
        let body = encode_call(&call);
        assert!(body.len() <= MAX_CALL_BYTES);
        let Ok(Request::Hello(received)) = decode_call(&body) else {
            panic!("{:?}", decode_call(&body));
        };
        assert!(
            received.members.len() >= expected,
            "{}",
            received.members.len()
        );
    }
}

#[test]
fn a_page_larger_than_asked_for_is_refused() {
    let names: Vec<String> = (0..1025).map(|i| format!("{i:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let listing = Ok(Response::List(page(&names)));
    let body = encode_response(&listing);
    assert!(decode_response(&list(None, 1025), &body).is_ok());
    assert!(is_malformed(&decode_response(&list(None, 1024), &body)));

    let matches = names
        .iter()
        .map(|name| (RelPath::new(name.as_bytes()).unwrap(), file(1)))
        .collect();
    let page = SearchPage {
        matches,
        more: false,
    };
    let body = encode_response(&Ok(Response::Search(page)));
    assert!(is_malformed(&decode_response(&search(u32::MAX), &body)));
}

#[test]
fn names_out_of_order_are_refused() {
    for names in [["b", "a"], ["a", "a"]] {
        let body = encode_response(&Ok(Response::List(page(&names))));
        assert!(is_malformed(&decode_response(&list(None, 9), &body)));
    }
    let body = encode_response(&Ok(Response::List(page(&["b", "c"]))));
    assert!(decode_response(&list(Some("a"), 9), &body).is_ok());
    assert!(is_malformed(&decode_response(&list(Some("b"), 9), &body)));
}

#[test]
fn impossible_names_spoil_the_page() {
    let long = [&[b'x'; 256][..], b"\0"].concat();
    for column in [
        &b"a/b\0"[..],
        b"..\0",
        b".\0",
        b"\0",
        b"a\0b\0",
        b"a",
        b"",
        &long,
    ] {
        let answer = bent(&list(None, 9), page(&["a"]).to_value(), |m| {
            m.insert("names".into(), Value::Bytes(column.to_vec()));
        });
        assert!(is_malformed(&answer), "{column:?}");
    }
}

#[test]
fn columns_that_disagree_are_refused() {
    for name in ["kinds", "names", "sizes", "mtimes", "versions", "roots"] {
        for value in [
            Value::Bytes(vec![b'f'; 7]),
            Value::Int(1),
            Value::Array(vec![]),
        ] {
            let answer = bent(&list(None, 9), page(&["a", "b"]).to_value(), |m| {
                m.insert(name.into(), value);
            });
            assert!(is_malformed(&answer), "{name}");
        }
        let missing = bent(&list(None, 9), page(&["a"]).to_value(), |m| {
            m.remove(name);
        });
        assert!(is_malformed(&missing), "{name}");
    }
}

#[test]
fn modes_are_sent_when_one_is_unusual() {
    let modes = |answer: &Value| match answer {
        Value::Struct(members) => members.get("modes").cloned(),
        _ => None,
    };
    let mut listing = page(&["a", "b", "c"]);
    assert_eq!(modes(&listing.to_value()), None);
    listing.entries[1].attributes.mode = Mode::Executable;
    listing.entries[2].attributes.mode = Mode::Unreadable;
    let told = listing.to_value();
    assert_eq!(modes(&told), Some("rx-".into()));
    let with = |letters: &str| {
        bent(&list(None, 9), told.clone(), |m| {
            m.insert("modes".into(), letters.into());
        })
    };
    let Ok(Response::List(read)) = with("x?r") else {
        panic!("refused");
    };
    let read = read.entries.iter().map(|entry| entry.attributes.mode);
    let expected = [Mode::Executable, Mode::Plain, Mode::Plain];
    assert!(read.eq(expected));
    assert!(is_malformed(&with("rx")) && is_malformed(&with("rx-r")));
}

#[test]
fn times_past_2262_are_exact_or_clamped() {
    let in_2400 = UnixTime::new(13_569_465_600, 123_456_789).unwrap();
    let in_1400 = UnixTime::new(-17_987_443_200, 1).unwrap();
    let mut listing = page(&["a", "b"]);
    listing.entries[1].attributes.mtime = in_2400;
    listing.mtime = in_1400;
    let told = listing.to_value();
    assert_eq!(
        bent(&list(None, 9), told.clone(), |_| {}),
        Ok(Response::List(listing.clone()))
    );
    let old = bent(&list(None, 9), told.clone(), |m| {
        assert!(m.remove("long_mtimes").is_some() && m.remove("long_mtime").is_some());
    });
    let Ok(Response::List(old)) = old else {
        panic!("refused");
    };
    assert_eq!(old.entries[1].attributes.mtime, i64::MAX.into());
    assert_eq!(old.mtime, i64::MIN.into());
    let impossible = vec![0x7f; 12];
    for (name, bytes) in [
        ("long_mtimes", [&[0; 12], &impossible[..]].concat()),
        ("long_mtimes", vec![0; 23]),
        ("long_mtime", impossible.clone()),
        ("long_mtime", vec![0; 11]),
    ] {
        let answer = bent(&list(None, 9), told.clone(), |m| {
            m.insert(name.into(), Value::Bytes(bytes));
        });
        assert!(is_malformed(&answer), "{name}");
    }
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let with = |name: &str, value: Value| {
        bent(&list(None, 9), page(&["a"]).to_value(), |m| {
            m.insert(name.into(), value);
        })
    };
    for kind in ["x", "-", "F", "l"] {
        assert!(is_malformed(&with("kinds", kind.into())), "{kind}");
    }
    assert!(
        is_malformed(&with("kinds", "d".into())),
        "a directory of 1 byte"
    );
    let negative = Value::Bytes((1u64 << 63).to_be_bytes().to_vec());
    assert!(is_malformed(&with("sizes", negative)));
    assert!(is_malformed(&bent(
        &list(None, 9),
        page(&[]).to_value(),
        |m| {
            m.insert("more".into(), Value::Boolean(true));
        }
    )));
}

#[test]
fn roots_cover_all_and_zero_means_unknown() {
    let mut listing = page(&["a", "b"]);
    let body = encode_response(&Ok(Response::List(listing.clone())));
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("<name>roots</name><value><base64></base64>")
    );
    listing.entries[1].attributes.root = Some(Root::from_bytes([9; 32]));
    let body = encode_response(&Ok(Response::List(listing.clone())));
    assert_eq!(
        decode_response(&list(None, 2), &body),
        Ok(Response::List(listing))
    );
}

#[test]
fn search_finding_non_files_is_refused() {
    let page = SearchPage {
        matches: vec![(RelPath::new(b"d/x").unwrap(), file(0))],
        more: false,
    };
    for (name, value) in [
        ("kinds", Value::from("d")),
        ("kinds", "-".into()),
        ("paths", Value::Bytes(b"\0".to_vec())),
        ("paths", Value::Bytes(b"/x\0".to_vec())),
        ("paths", Value::Bytes(b"d/../x\0".to_vec())),
    ] {
        let answer = bent(&search(9), page.to_value(), |m| {
            m.insert(name.into(), value);
        });
        assert!(is_malformed(&answer));
    }
}

#[test]
fn stat_answers_every_path_once() {
    let answer = |n| {
        Ok(Response::Stat(StatResponse {
            attributes: vec![Some(file(1)); n],
            counter: Some(7),
        }))
    };
    assert!(decode_response(&stat(2), &encode_response(&answer(2))).is_ok());
    assert!(is_malformed(&decode_response(
        &stat(2),
        &encode_response(&answer(1))
    )));
    assert!(is_malformed(&decode_response(
        &stat(2),
        &encode_response(&answer(3))
    )));
}

#[test]
fn answer_to_another_request_is_refused() {
    let body = encode_response(&Ok(Response::ListMethods(vec!["a".into()])));
    for request in [
        list(None, 1),
        stat(1),
        search(1),
        changes_since(1),
        Request::Hello(hello()),
    ] {
        assert!(is_malformed(&decode_response(&request, &body)));
    }
}

#[test]
fn fault_messages_are_cleaned_at_both_ends() {
    let fault = Fault::new(
        FaultCode::BadPattern,
        format!("a\n\tb\x1b\u{202e} {}", "é".repeat(600)),
    );
    let body = encode_response(&Err(fault));
    assert!(body.len() < 2048);
    let loud = crate::protocol::xmlrpc::write_fault(4, &format!("a\n b{}", "x".repeat(5000)));
    for body in [body, loud] {
        let Err(ResponseError::Fault(fault)) = decode_response(&stat(1), &body) else {
            panic!("not a fault");
        };
        assert_eq!(fault.code, FaultCode::BadPattern);
        assert!(fault.message.starts_with("a b"));
        assert!((1023..=1024).contains(&fault.message.len()));
    }
}

#[test]
fn the_longest_pages_fit_a_response() {
    let path = |i: usize| {
        let mut path = [&[b'\xff'; 254][..], b"/"].concat().repeat(16);
        path.truncate(4090);
        path.extend_from_slice(format!("{i:05}").as_bytes());
        RelPath::new(&path).unwrap()
    };
    let attributes = Attributes {
        root: Some(Root::from_bytes([1; 32])),
        ..file(1)
    };
    let found = SearchPage {
        matches: (0..SearchPage::MAX_MATCHES)
            .map(|i| (path(i), attributes))
            .collect(),
        more: true,
    };
    let body = encode_response(&Ok(Response::Search(found.clone())));
    assert!(body.len() < MAX_RESPONSE_BYTES);
    assert_eq!(
        decode_response(&search(1024), &body),
        Ok(Response::Search(found))
    );

    let name = |i: usize| Name::new(format!("{}{i:05}", "\x01".repeat(250)).into_bytes()).unwrap();
    let listing = Listing {
        entries: (0..Listing::MAX_ENTRIES)
            .map(|i| Entry {
                name: name(i),
                attributes,
            })
            .collect(),
        more: true,
        ..page(&[])
    };
    let body = encode_response(&Ok(Response::List(listing.clone())));
    assert!(body.len() < MAX_RESPONSE_BYTES);
    assert_eq!(
        decode_response(&list(None, 8192), &body),
        Ok(Response::List(listing))
    );
}

#[test]
fn every_method_is_listed_and_has_help() {
    let names: Vec<&str> = methods().collect();
    assert!(names.is_sorted());
    for request in [
        list(None, 1),
        stat(1),
        search(1),
        changes_since(1),
        Request::Hello(hello()),
        Request::ListMethods,
    ] {
        let body = String::from_utf8(encode_call(&request)).unwrap();
        let name = names
            .iter()
            .find(|name| body.contains(&format!("<methodName>{name}<")));
        assert!(
            name.and_then(|name| help(name))
                .is_some_and(|help| help.contains(name.unwrap()))
        );
    }
    assert!(names.contains(&"system.methodHelp"));
    assert_eq!(help("f"), None);
}

#[test]
fn changes_depths_and_waits_are_bounded() {
    let one = Change::everything();
    let changes = |count| Changes {
        counter: 1,
        changes: vec![one.clone(); count],
    };
    let different = |count: usize| Changes {
        counter: 1,
        changes: (0..count)
            .map(|number| Change {
                path: RelPath::new(number.to_string().as_bytes()).unwrap(),
                depth: Depth::Entry,
            })
            .collect(),
    };
    let read = |changes: &Changes, change: fn(&mut BTreeMap<String, Value>)| {
        bent(&changes_since(1), changes.to_value(), change)
    };
    assert!(read(&different(Changes::MAX_CHANGES), |_| {}).is_ok());
    assert!(is_malformed(&read(&changes(2), |_| {})), "twice");
    assert!(is_malformed(&read(
        &different(Changes::MAX_CHANGES + 1),
        |_| {}
    )));
    assert!(is_malformed(&read(&changes(1), |m| {
        m.insert("depths".into(), "x".into());
    })));
    assert!(is_malformed(&read(&changes(1), |m| {
        m.insert("depths".into(), "ee".into());
    })));
    assert!(is_malformed(&read(&changes(1), |m| {
        m.insert("paths".into(), Value::Bytes(b"a/../b\0".to_vec()));
    })));
    let wait = ChangesRequest::MAX_WAIT + Duration::from_millis(1);
    let body = encode_call(&Request::Changes(ChangesRequest { since: 1, wait }));
    assert_eq!(
        decode_call(&body).unwrap_err().code,
        FaultCode::LimitExceeded
    );
}
