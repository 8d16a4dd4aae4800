//! Documents as both versions of Python write them, and as nobody should.

use std::io::{BufReader, Read};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Contents as Python 2's `xmlrpclib` writes a byte string: three characters escaped, the rest
/// as it is.
fn python_2(contents: &[u8]) -> Vec<u8> {
    let mut document =
        b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value><string>".to_vec();
    for byte in contents {
        match byte {
            b'&' => document.extend_from_slice(b"&amp;"),
            b'<' => document.extend_from_slice(b"&lt;"),
            b'>' => document.extend_from_slice(b"&gt;"),
            byte => document.push(*byte),
        }
    }
    document.extend_from_slice(b"</string></value>\n</param>\n</params>\n</methodResponse>\n");
    document
}

/// Writes contents with [`Form`], in pieces of `piece` bytes.
fn ours(contents: &[u8], piece: usize) -> (Form, Vec<u8>) {
    let mut survey = Survey::default();
    let form = if contents.chunks(piece).all(|piece| survey.is_text(piece)) {
        survey.form()
    } else {
        Form::Base64
    };
    let mut document = form.head().to_vec();
    for piece in contents.chunks(piece) {
        form.write(piece, &mut document);
    }
    document.extend_from_slice(form.tail());
    assert_eq!(
        document.len() as u64,
        form.document_bytes(contents.len() as u64)
    );
    (form, document)
}

fn contents(document: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut into = Vec::new();
    let count = decode_contents(document, 1 << 20, &mut into)?;
    assert_eq!(count, into.len() as u64);
    Ok(into)
}

/// Decodes contents that arrive over a slow connection.
fn contents_in_pieces(document: &[u8], piece: usize) -> Result<Vec<u8>, WireError> {
    let mut into = Vec::new();
    decode_contents(
        BufReader::with_capacity(piece, document),
        1 << 20,
        &mut into,
    )?;
    Ok(into)
}

/// A body sent by Python 2.7, recorded by `tests/data/legacy/record.py`.
macro_rules! recorded {
    ($name:literal) => {
        &include_bytes!(concat!(
            "../../../../tests/data/legacy/recorded/",
            $name,
            ".xml"
        ))[..]
    };
}

fn is_broken<T: std::fmt::Debug>(result: Result<T, WireError>) -> bool {
    matches!(result, Err(WireError::Broken(_)))
}

#[test]
fn every_byte_survives_invalid_xml() {
    let all: Vec<u8> = (0..=255).chain(*b"\r\n\r&amp;]]><a>\xc3\xa9").collect();
    let document = python_2(&all);
    assert_eq!(contents(&document).unwrap(), all);
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(contents_in_pieces(&document, piece).unwrap(), all);
    }
    assert_eq!(contents(&python_2(b"")).unwrap(), b"");
}

#[test]
fn contents_decode_in_every_xml_rpc_form() {
    let with = |value: &str| {
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><methodResponse><params><param><value>{value}</value></param></params></methodResponse>"
        )
    };
    for (value, expected) in [
        ("<string>a&#13;&#x41;&#233;\r\n</string>", "a\rA\u{e9}\r\n"),
        ("<string/>", ""),
        ("<string />", ""),
        ("bare", "bare"),
        ("", ""),
        ("\n<base64>\naGVs\nbG8=\n</base64>\n", "hello"),
        ("<base64></base64>", ""),
    ] {
        let found = contents(with(value).as_bytes()).unwrap();
        assert_eq!(found, expected.as_bytes(), "{value}");
    }
    for damaged in [
        "aGVsbG8",
        "aGVsbG8=aGVs",
        "a===",
        "=AAA",
        "a!bc",
        "aGVsbG9=",
    ] {
        let document = with(&format!("<base64>{damaged}</base64>"));
        assert!(is_broken(contents(document.as_bytes())), "{damaged}");
    }
}

#[test]
fn refusal_and_fault_differ_from_contents() {
    assert!(matches!(contents(&encode_denial()), Err(WireError::Denied)));
    let python = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value><boolean>0</boolean></value>\n</param>\n</params>\n</methodResponse>\n";
    assert!(matches!(contents(python), Err(WireError::Denied)));
    assert!(matches!(decode_names(&python[..]), Err(WireError::Denied)));
    assert!(matches!(
        decode_servers(&python[..]),
        Err(WireError::Denied)
    ));
    let python = b"<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n<value><int>1</int></value>\n</member>\n<member>\n<name>faultString</name>\n<value><string>&lt;type 'exceptions.IOError'&gt;:[Errno 2] No such file or directory: 'x\xff'</string></value>\n</member>\n</struct></value>\n</fault>\n</methodResponse>\n";
    match contents(python) {
        Err(WireError::Fault { code: 1, message }) => assert_eq!(
            message,
            "<type 'exceptions.IOError'>:[Errno 2] No such file or directory: 'x\u{fffd}'"
        ),
        other => panic!("{other:?}"),
    }
    let ours = encode_fault("no");
    assert!(matches!(
        decode_names(&ours[..]),
        Err(WireError::Fault { code: 1, .. })
    ));
    assert!(is_broken(contents(b"<methodResponse><params><param><value><int>1</int></value></param></params></methodResponse>")));
}

#[test]
fn original_name_and_server_lists_are_read() {
    let names = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value><array><data>\n<value><array><data>\n<value><string>a&amp;b.txt</string></value>\n<value><string>caf\xe9</string></value>\n<value><string>../x</string></value>\n</data></array></value>\n</data></array></value>\n</param>\n</params>\n</methodResponse>\n";
    let expected: [&[u8]; 3] = [b"a&b.txt", b"caf\xe9", b"../x"];
    assert_eq!(decode_names(&names[..]).unwrap(), expected);
    let servers = encode_servers(["http://a:1", "not a URL"].into_iter());
    assert_eq!(
        decode_servers(&servers[..]).unwrap(),
        ["http://a:1", "not a URL"]
    );
    assert!(is_broken(decode_names(&servers[..])), "a list of no list");
    assert!(is_broken(decode_servers(&python_2(b"x")[..])));
    let none = encode_names(std::iter::empty());
    assert!(decode_names(&none[..]).unwrap().is_empty());
}

#[test]
fn recorded_python_2_calls_are_read() {
    let servers =
        |urls: &[&str]| Operation::Servers(urls.iter().map(|url| url[..].into()).collect());
    let contents = |name: &[u8]| Operation::Contents(name.to_owned());
    let url = ["http://192.0.2.7:15204".parse().unwrap()];
    let key = crate::legacy::TokenKey::new(b"pw");
    for (recorded, expected) in [
        (
            recorded!("call-0-one"),
            servers(&["http://192.0.2.8:15204"]),
        ),
        (recorded!("call-0-none"), servers(&[])),
        (
            recorded!("call-1-pattern"),
            Operation::Names(r"^a.*\.(txt|ogg)$ <&>".to_owned()),
        ),
        (recorded!("call-1-all"), Operation::Names(String::new())),
        (recorded!("call-2-ascii"), contents(b"a.txt")),
        (
            recorded!("call-2-utf-8"),
            contents("gr\u{fc}n & <co>.txt".as_bytes()),
        ),
        (recorded!("call-2-latin-1"), contents(b"caf\xe9")),
    ] {
        let call = decode_call(recorded).unwrap();
        assert_eq!(key.made_for(&call.token, &url), Some(&url[0]));
        assert_eq!(call.operation, Ok(expected));
    }
}

#[test]
fn our_calls_match_the_recorded_ones() {
    let markup = |document: &[u8]| {
        let text = std::str::from_utf8(document).unwrap();
        let (_declaration, rest) = text.split_once("?>").unwrap();
        rest.replace('\n', "")
    };
    for recorded in [
        recorded!("call-0-one"),
        recorded!("call-0-none"),
        recorded!("call-1-pattern"),
        recorded!("call-1-all"),
        recorded!("call-2-ascii"),
        recorded!("call-2-utf-8"),
    ] {
        let call = decode_call(recorded).unwrap();
        let token = String::from_utf8(call.token).unwrap();
        let ours = encode_call(&token, &call.operation.unwrap());
        assert_eq!(markup(&ours), markup(recorded));
    }
}

#[test]
fn recorded_python_2_answers_are_read() {
    assert_eq!(decode_servers(recorded!("servers-none")).unwrap(), [""; 0]);
    assert_eq!(
        decode_servers(recorded!("servers-some")).unwrap(),
        [
            "http://192.0.2.7:15204",
            "http://box.example:80",
            "http://192.0.2.9:1?a&b"
        ]
    );
    assert_eq!(decode_names(recorded!("names-none")).unwrap(), [b""; 0]);
    let names: [&[u8]; 8] = [
        b"plain.txt",
        "gr\u{fc}n.txt".as_bytes(),
        b"caf\xe9",
        b"a&b",
        b"<c>",
        b"]]>",
        b".hidden",
        b"two  spaces ",
    ];
    assert_eq!(decode_names(recorded!("names")).unwrap(), names);
}

#[test]
fn recorded_contents_are_byte_exact() {
    let all: Vec<u8> = (0..=255).collect();
    for (recorded, expected) in [
        (recorded!("contents-lines"), &b"one\r\ntwo\rthree\n\r"[..]),
        (
            recorded!("contents-control"),
            b"\x00\x01\x08\x0b\x0c\x1b[31m\x7f",
        ),
        (recorded!("contents-all-bytes"), &all),
        (recorded!("contents-empty"), b""),
        (recorded!("contents-cdata-end"), b"text ending with ]]>"),
        (
            recorded!("contents-markup"),
            b"<?xml version='1.0'?><value>&amp;&#13;</string></value>",
        ),
    ] {
        for piece in [1, 7, 4096] {
            let found = contents_in_pieces(recorded, piece).unwrap();
            assert_eq!(found, expected, "in pieces of {piece}");
        }
        // Python 2 really writes what `python_2` builds for the other tests.
        assert_eq!(python_2(expected), recorded);
    }
}

#[test]
fn recorded_refusal_differs_from_a_fault() {
    let denied = recorded!("denied");
    assert!(matches!(contents(denied), Err(WireError::Denied)));
    assert!(matches!(decode_names(denied), Err(WireError::Denied)));
    assert!(matches!(decode_servers(denied), Err(WireError::Denied)));
    let fault = recorded!("fault");
    // Python itself writes the non-ASCII byte of the name as an escape.
    let expected =
        r"<type 'exceptions.IOError'>:[Errno 2] No such file or directory: 'absent & <caf\xe9>'";
    let is_it =
        |error| matches!(error, WireError::Fault { code: 1, message } if message == expected);
    assert!(is_it(contents(fault).unwrap_err()));
    assert!(is_it(decode_names(fault).unwrap_err()));
    assert!(is_it(decode_servers(fault).unwrap_err()));
}

#[test]
fn names_unfit_for_xml_are_omitted() {
    let names: [&[u8]; 5] = [b"a<b>&c", "\u{fc}".as_bytes(), b"\xfc", b"a\x01", b"a\rb"];
    let document = encode_names(names.into_iter());
    let told: [&[u8]; 3] = [b"a<b>&c", "\u{fc}".as_bytes(), b"a\rb"];
    assert_eq!(decode_names(&document[..]).unwrap(), told);
    assert!(
        !document.contains(&b'\r'),
        "a reader would make it a line feed"
    );
}

#[test]
fn every_call_survives_a_round_trip() {
    for operation in [
        Operation::Servers(vec![b"http://a:1".to_vec()]),
        Operation::Servers(Vec::new()),
        Operation::Names("^a.*\u{fc}$".to_owned()),
        Operation::Contents(b"a<&>\r".to_vec()),
        Operation::Contents(b"caf\xe9".to_vec()),
    ] {
        let call = decode_call(&encode_call("token", &operation)).unwrap();
        assert_eq!(call.token, b"token");
        assert_eq!(call.operation, Ok(operation));
    }
}

#[test]
fn protocol_md_example_is_a_valid_call() {
    let text = include_str!("../../../PROTOCOL.md");
    let (_, section) = text.split_once("## 10. ").unwrap();
    let (_, document) = section.split_once("    Content-Length: 275\n\n").unwrap();
    let lines = document.lines().map_while(|line| line.strip_prefix("    "));
    let document: String = lines.map(|line| line.to_owned() + "\n").collect();
    assert_eq!(document.len(), 275);
    let call = decode_call(document.as_bytes()).unwrap();
    assert_eq!(call.operation, Ok(Operation::Names("txt".to_owned())));
    let url = ["http://192.0.2.7:15204".parse().unwrap()];
    let key = crate::legacy::TokenKey::new(b"pw");
    assert_eq!(key.made_for(&call.token, &url), Some(&url[0]));
}

/// A call as Python 2's `xmlrpclib` writes it.
fn call(params: &str) -> Result<LegacyCall, WireError> {
    let document = format!(
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>f</methodName>\n<params>\n<param>\n<value><string>0a</string></value>\n</param>\n{params}</params>\n</methodCall>\n"
    );
    decode_call(document.as_bytes())
}

fn param(value: &str) -> String {
    format!("<param>\n<value>{value}</value>\n</param>\n")
}

#[test]
fn any_other_operation_asks_for_contents() {
    for number in ["2", "3", "-1", "99"] {
        let number = param(&format!("<int>{number}</int>"));
        let call = call(&(number + &param("<string>x</string>"))).unwrap();
        assert_eq!(call.operation, Ok(Operation::Contents(b"x".to_vec())));
    }
}

#[test]
fn wrong_argument_types_are_a_fault() {
    let array = "<array><data>\n<value><int>1</int></value>\n</data></array>";
    for (number, argument) in [
        ("<int>0</int>", "<string>http://a:1</string>"),
        ("<int>0</int>", array),
        ("<int>1</int>", array),
        ("<int>2</int>", array),
        ("<int>2</int>", "<boolean>1</boolean>"),
        ("<string>2</string>", "<string>x</string>"),
    ] {
        let call = call(&(param(number) + &param(argument))).unwrap();
        assert!(call.operation.is_err(), "{number} {argument}");
    }
}

#[test]
fn what_is_no_call_is_refused() {
    let two = param("<int>2</int>");
    let three = param("<string>x</string>");
    assert!(call(&(two.clone() + &three)).is_ok());
    assert!(is_broken(call("")));
    assert!(is_broken(call(&two)));
    assert!(is_broken(call(&(two.clone() + &three + &three))));
    for bad in [
        &b""[..],
        b"\x00\xff",
        b"<methodCall>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><methodCall/>",
        b"<methodCall><methodName>g</methodName><params/></methodCall>",
        b"<methodCall x='y'/>",
        b"<methodCall><![CDATA[x]]></methodCall>",
        b"<?xml version='1.0'?><?xml version='1.0'?><methodCall/>",
        b"<methodCall><methodName>&a;</methodName></methodCall>",
        b"<methodCall><methodName>&#xd800;</methodName></methodCall>",
    ] {
        assert!(is_broken(decode_call(bad)), "{}", bad.escape_ascii());
    }
}

#[test]
fn each_bound_is_named_when_it_is_exceeded() {
    let limit = |result: Result<LegacyCall, WireError>| match result {
        Err(WireError::Limit { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let two = param("<int>2</int>");
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    assert_eq!(
        limit(call(&(two.clone() + &param(&long)))),
        "bytes in one value"
    );
    let deep = "<array><data><value>".repeat(100_000 / 20);
    assert_eq!(
        limit(call(&(two.clone() + &param(&deep)))),
        "arrays inside one another"
    );
    let wide = format!(
        "<array><data>{}</data></array>",
        "<value/>".repeat(MAX_LISTED)
    );
    assert_eq!(limit(call(&(two.clone() + &param(&wide)))), "values");
    let spaces = " ".repeat(MAX_CALL_BYTES);
    assert_eq!(limit(call(&spaces)), "bytes of a document");

    let document = python_2(&[b'x'; 1000]);
    let bounded = |max| decode_contents(&document[..], max, &mut std::io::sink());
    assert_eq!(bounded(1000).unwrap(), 1000);
    assert!(matches!(
        bounded(999),
        Err(WireError::Limit { max: 999, .. })
    ));
}

#[test]
fn an_endless_document_is_given_up() {
    for begin in [
        "<methodResponse>",
        "<methodResponse><params><param><value><string>",
        "<",
        "&",
        "",
    ] {
        for endless in [b' ', b'x'] {
            let source = begin.as_bytes().chain(std::io::repeat(endless));
            let result = decode_contents(BufReader::new(source), 100_000, &mut std::io::sink());
            assert!(result.is_err(), "{begin}");
            let source = begin.as_bytes().chain(std::io::repeat(endless));
            assert!(decode_names(BufReader::new(source)).is_err(), "{begin}");
        }
    }
}

#[test]
fn contents_are_text_where_xml_allows_it() {
    for (text, length) in [
        (&b""[..], Some(0)),
        (b"plain\n\ttext", Some(11)),
        (b"<&>\r", Some(4 + 5 + 4 + 5)),
        ("gr\u{fc}n \u{1f600}".as_bytes(), Some(10)),
        (b"caf\xe9", None),
        (b"a\0", None),
        (b"a\x0c", None),
        ("\u{ffff}".as_bytes(), None),
        (b"ends early \xf0\x9f", None),
    ] {
        for piece in [1, 3, 64] {
            let form = length.map_or(Form::Base64, Form::Text);
            assert_eq!(ours(text, piece * 3).0, form, "{}", text.escape_ascii());
        }
    }
}

proptest! {
    #[test]
    fn python_2_contents_arrive_unchanged(bytes in vec(any::<u8>(), 0..2000), piece in 1_usize..50) {
        prop_assert_eq!(contents_in_pieces(&python_2(&bytes), piece).unwrap(), bytes);
    }

    #[test]
    fn our_own_contents_arrive_as_they_were(bytes in vec(any::<u8>(), 0..500), text in "\\PC{0,200}", piece in 1_usize..50) {
        for bytes in [&bytes[..], text.as_bytes()] {
            let (form, document) = ours(bytes, piece * 3);
            prop_assert_eq!(contents_in_pieces(&document, piece).unwrap(), bytes);
            if form != Form::Base64 {
                // Documents without base64 are also XML as others read it.
                let read = xmlrpc::read_response(&document, &xmlrpc::DocumentLimits {
                    bytes: 1 << 20, depth: 1, values: 1, string_bytes: 1 << 20, members: 1,
                });
                let text = std::str::from_utf8(bytes).unwrap();
                prop_assert_eq!(read, Ok(xmlrpc::MethodResponse::Returned(text.into())));
            }
        }
    }

    #[test]
    fn cut_document_is_never_a_shorter_one(bytes in vec(any::<u8>(), 0..100), cut in any::<prop::sample::Index>()) {
        for document in [python_2(&bytes), ours(&bytes, 3).1] {
            // The line feed after the last tag means nothing.
            let end = document.trim_ascii_end().len();
            prop_assert!(contents(&document[..cut.index(end)]).is_err());
        }
    }

    #[test]
    fn garbage_is_an_error(bytes in vec(any::<u8>(), 0..300), tags in vec(prop::sample::select(vec![
        "<methodCall>", "<params>", "<param>", "<value>", "<array>", "<data>", "<string>", "<base64>", "<int>", "1", "/>", "</value>", "&lt;", "&#", "<?xml ?>",
    ]), 0..40)) {
        prop_assert!(decode_call(&bytes).is_err());
        prop_assert!(decode_call(tags.concat().as_bytes()).is_err());
        prop_assert!(contents(&bytes).is_err());
        prop_assert!(decode_names(tags.concat().as_bytes()).is_err());
    }
}
