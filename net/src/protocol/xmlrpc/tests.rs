use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

const LIMITS: DocumentLimits = DocumentLimits {
    bytes: 1 << 20,
    depth: 16,
    values: 1000,
    string_bytes: 1 << 16,
    members: 8,
};

fn call(values: &str) -> Result<MethodCall, Error> {
    let document = format!(
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>m</methodName>\n<params>{values}</params>\n</methodCall>\n"
    );
    read_call(document.as_bytes(), &LIMITS)
}

/// Reads the one value of a call whose `<value>` holds `inside`.
fn value(inside: &str) -> Result<Value, Error> {
    call(&format!("<param><value>{inside}</value></param>")).map(|call| call.params[0].clone())
}

fn is_not_well_formed<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotWellFormed(_)))
}

fn is_not_xml_rpc<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotXmlRpc(_)))
}

fn limit<T>(result: Result<T, Error>) -> Option<&'static str> {
    match result {
        Err(Error::Limit { what, .. }) => Some(what),
        _ => None,
    }
}

/// Generates values that survive the round trip: strings that XML can carry, finite doubles.
fn any_value() -> impl Strategy<Value = Value> {
    let text = "[\t\n\r -~\u{80}-\u{2fff}\u{1f300}-\u{1f6ff}]{0,20}";
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::Int),
        any::<bool>().prop_map(Value::Boolean),
        prop::num::f64::NORMAL.prop_map(Value::Double),
        text.prop_map(Value::String),
        vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            btree_map(text, inner, 0..6).prop_map(Value::Struct),
        ]
    })
}

proptest! {
    #[test]
    fn a_call_survives_the_round_trip(method in "[a-z.]{1,20}", params in vec(any_value(), 0..4)) {
        let document = write_call(&method, &params);
        prop_assert_eq!(read_call(&document, &LIMITS), Ok(MethodCall { method, params }));
    }

    #[test]
    fn a_response_survives_the_round_trip(value in any_value()) {
        let document = write_response(&value);
        prop_assert_eq!(read_response(&document, &LIMITS), Ok(MethodResponse::Returned(value)));
    }

    #[test]
    fn a_fault_survives_the_round_trip(code: i32, message in "[\n -~\u{80}-\u{2fff}]{0,40}") {
        let document = write_fault(code, &message);
        prop_assert_eq!(read_response(&document, &LIMITS), Ok(MethodResponse::Fault { code, message }));
    }

    #[test]
    fn byte_strings_survive_as_text_or_base64(bytes in vec(any::<u8>(), 0..40)) {
        let document = write_response(&Value::from_bytes_text(&bytes));
        let Ok(MethodResponse::Returned(value)) = read_response(&document, &LIMITS) else {
            panic!("not a response");
        };
        prop_assert_eq!(value.into_bytes(), Some(bytes));
    }

    #[test]
    fn document_cut_anywhere_is_refused(value in any_value(), at: prop::sample::Index) {
        let document = write_response(&value);
        let cut = &document[..at.index(document.len())];
        prop_assert!(is_not_well_formed(&read_response(cut, &LIMITS)));
    }

    #[test]
    fn damage_never_panics(
        value in any_value(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut document = write_response(&value);
        for (at, byte) in damage {
            let at = at.index(document.len());
            document[at] = byte;
        }
        let _ = read_response(&document, &LIMITS);
        let _ = read_call(&document, &LIMITS);
    }

    #[test]
    fn soup_of_markup_never_panics(pieces in vec(prop::sample::select(vec![
        "<", ">", "</", "/>", "<!--", "-->", "<!", "<![CDATA[", "]]>", "<?", "?>", "<?xml ", "&", ";", "&#", "x",
        "-", "methodCall", "methodName", "value", "params", "param", "string", "<value>", "</value>",
        "<methodCall>", "<methodName>", "</methodName>", "<params>", "<param>", "version='1.0'", "'", "\"", " ",
    ]), 0..30)) {
        let _ = read_call(pieces.concat().as_bytes(), &LIMITS);
    }
}

#[test]
fn a_call_of_a_python_program_is_read() {
    let document = b"<?xml version='1.0'?>\n<methodCall>\n<methodName>f</methodName>\n<params>\n\
        <param>\n<value><string>2f6b</string></value>\n</param>\n\
        <param>\n<value><int>1</int></value>\n</param>\n\
        <param>\n<value>txt</value>\n</param>\n</params>\n</methodCall>\n";
    let call = read_call(document, &LIMITS).unwrap();
    assert_eq!(call.method, "f");
    assert_eq!(call.params, ["2f6b".into(), Value::Int(1), "txt".into()]);
}

#[test]
fn absent_params_are_empty_params() {
    let document = b"<methodCall><methodName>m</methodName></methodCall>";
    assert_eq!(read_call(document, &LIMITS).unwrap().params, []);
}

#[test]
fn every_type_is_read() {
    assert_eq!(value("<i4>-7</i4>"), Ok(Value::Int(-7)));
    assert_eq!(value("<int>+7</int>"), Ok(Value::Int(7)));
    assert_eq!(
        value("<i8>9007199254740993</i8>"),
        Ok(Value::Int((1 << 53) + 1))
    );
    assert_eq!(value("<boolean>1</boolean>"), Ok(Value::Boolean(true)));
    assert_eq!(value("<double>-1.5e3</double>"), Ok(Value::Double(-1500.0)));
    assert_eq!(value("<string> a </string>"), Ok(" a ".into()));
    assert_eq!(value(""), Ok("".into()));
    assert_eq!(value("<string/>"), Ok("".into()));
    assert_eq!(
        value("\n <base64>\n YW\n I= \n</base64>\n"),
        Ok(Value::Bytes(b"ab".to_vec()))
    );
    assert_eq!(
        value("<dateTime.iso8601>20041215T00:00:00</dateTime.iso8601>"),
        Ok("20041215T00:00:00".into())
    );
    assert_eq!(
        value("<array><data> <value>x</value> </data></array>"),
        Ok(Value::Array(vec!["x".into()]))
    );
    assert_eq!(
        value("<struct><member><name>a</name><value>x</value></member></struct>"),
        Ok(Value::Struct([("a".to_owned(), "x".into())].into()))
    );
}

#[test]
fn text_in_pieces_is_one_text() {
    let text = "a&amp;b<!-- not this -->&#65;&#x42;<![CDATA[<&]]>&lt;&gt;&quot;&apos;";
    let expected = Ok(Value::from("a&bAB<&<>\"'"));
    assert_eq!(value(&format!("<string>{text}</string>")), expected);
    assert_eq!(value(text), expected);
}

#[test]
fn line_ends_are_normalised() {
    assert_eq!(
        value("<string>a\r\nb\rc&#13;d</string>"),
        Ok("a\nb\nc\rd".into())
    );
}

#[test]
fn what_is_no_value_is_refused() {
    for bad in [
        "<nil/>",
        "<ex:nil/>",
        "<i4>2147483648</i4>",
        "<i8>9223372036854775808</i8>",
        "<int></int>",
        "<int>1.0</int>",
        "<int> 1</int>",
        "<boolean>2</boolean>",
        "<boolean>true</boolean>",
        "<double>inf</double>",
        "<double>nan</double>",
        "<double>1e999</double>",
        "<base64>YQ</base64>",
        "<base64>Y Q * = </base64>",
        "<base64>YR==</base64>",
        "<int>1</int><int>2</int>",
        "text<int>1</int>",
        "<int>1</int>text",
        "<string><string>x</string></string>",
        "<array><value>x</value></array>",
        "<array><data>x</data></array>",
        "<struct><member><value>x</value><name>a</name></member></struct>",
        "<struct><member><name>a</name></member></struct>",
        "<struct><member><name>a</name><value/></member><member><name>a</name><value/></member></struct>",
        "<string x='1'>a</string>",
        "<bomb/>",
        "<param/>",
    ] {
        assert!(is_not_xml_rpc(&value(bad)), "{bad}: {:?}", value(bad));
    }
}

#[test]
fn needless_xml_features_are_refused() {
    let call = "<methodCall><methodName>m</methodName></methodCall>";
    for bad in [
        format!("<!DOCTYPE methodCall>{call}"),
        format!("<!DOCTYPE b [<!ENTITY a \"{}\">]>{call}", "x".repeat(1000)),
        format!("<?php x?>{call}"),
        format!("{call}<?php x?>"),
        format!(" <?xml version='1.0'?>{call}"),
        format!("<?xml version='1.0'?><?xml version='1.0'?>{call}"),
        format!("<?xml version='2.0'?>{call}"),
        format!("<?xml version='1.0' encoding='utf-16'?>{call}"),
    ] {
        assert!(
            is_not_well_formed(&read_call(bad.as_bytes(), &LIMITS)),
            "{bad}"
        );
    }
    assert!(read_call(format!("\u{feff}{call}").as_bytes(), &LIMITS).is_ok());
    let declared = format!("<?xml version='1.0' encoding='UTF-8'?>{call}");
    assert!(read_call(declared.as_bytes(), &LIMITS).is_ok());
}

#[test]
fn entity_bomb_is_refused_at_its_doctype() {
    let bomb = "<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>\
        <!ENTITY c '&b;&b;&b;&b;&b;&b;'>]><methodCall><methodName>&c;</methodName></methodCall>";
    let refused = read_call(bomb.as_bytes(), &LIMITS);
    assert!(matches!(refused, Err(Error::NotWellFormed(why)) if why.contains("document type")));
}

#[test]
fn damaged_xml_is_refused() {
    for bad in [
        "",
        "   ",
        "not xml",
        "<methodCall><methodName>m</methodName>",
        "<methodCall><methodName>m</methodCall></methodName>",
        "<methodCall><methodName>m</methodName></methodCall>x",
        "<methodCall><methodName>m</methodName></methodCall><methodCall/>",
        "<methodCall><methodName>m</methodName></methodCall></methodCall>",
        "<methodCall><methodName>m&unknown;</methodName></methodCall>",
        "<methodCall><methodName>m & n</methodName></methodCall>",
        "<methodCall><methodName>&#0;</methodName></methodCall>",
        "<methodCall><methodName>&#xFFFE;</methodName></methodCall>",
        "<methodCall><methodName>&#xD800;</methodName></methodCall>",
        "<methodCall><methodName>\x01</methodName></methodCall>",
        "<methodCall><methodName>\0</methodName></methodCall>",
        "<methodCall><!-- a -- b --><methodName>m</methodName></methodCall>",
        "<!-->",
        "<!--->",
    ] {
        let refused = read_call(bad.as_bytes(), &LIMITS);
        assert!(refused.is_err(), "{bad:?}");
        assert!(!matches!(refused, Err(Error::Limit { .. })), "{bad:?}");
    }
    let latin1 = b"<methodCall><methodName>\xe4</methodName></methodCall>";
    assert!(is_not_well_formed(&read_call(latin1, &LIMITS)));
}

#[test]
fn response_is_one_value_or_a_whole_fault() {
    let one = "<param><value>x</value></param>";
    for bad in [
        "<methodResponse></methodResponse>".to_owned(),
        "<methodResponse><params></params></methodResponse>".to_owned(),
        format!("<methodResponse><params>{one}{one}</params></methodResponse>"),
        format!("<methodResponse><params>{one}</params><params>{one}</params></methodResponse>"),
        "<methodResponse><fault><value>x</value></fault></methodResponse>".to_owned(),
        "<methodResponse><fault><value><struct></struct></value></fault></methodResponse>"
            .to_owned(),
    ] {
        assert!(
            is_not_xml_rpc(&read_response(bad.as_bytes(), &LIMITS)),
            "{bad}"
        );
    }
    let cross = "<methodCall><methodName>m</methodName></methodCall>";
    assert!(is_not_xml_rpc(&read_response(cross.as_bytes(), &LIMITS)));
}

#[test]
fn each_bound_is_named_when_it_is_exceeded() {
    let nested = |n: usize| {
        let open = "<array><data><value>".repeat(n);
        let close = "</value></data></array>".repeat(n);
        value(&format!("{open}{close}"))
    };
    assert!(nested(16).is_ok());
    assert_eq!(limit(nested(17)), Some("levels of nesting"));
    assert_eq!(limit(nested(2000)), Some("levels of nesting"));

    let wide = |n: usize| {
        value(&format!(
            "<array><data>{}</data></array>",
            "<value/>".repeat(n)
        ))
    };
    assert!(wide(999).is_ok());
    assert_eq!(limit(wide(1000)), Some("values"));

    let members = |n: usize| {
        let members: String = (0..n)
            .map(|i| format!("<member><name>{i}</name><value/></member>"))
            .collect();
        value(&format!("<struct>{members}</struct>"))
    };
    assert!(members(8).is_ok());
    assert_eq!(limit(members(9)), Some("struct members"));

    let max = LIMITS.string_bytes;
    for text in ["a".repeat(max + 1), "&#65;".repeat(max + 1)] {
        assert_eq!(limit(value(&text)), Some("bytes in one value"));
        assert_eq!(
            limit(value(&format!("<string>{text}</string>"))),
            Some("bytes in one value")
        );
    }
    let base64 = |n: usize| {
        let document = write_call("m", &[Value::Bytes(vec![7; n])]);
        read_call(&document, &LIMITS)
    };
    assert!(base64(max).is_ok());
    assert_eq!(limit(base64(max + 1)), Some("bytes in one value"));

    let long = vec![b' '; LIMITS.bytes + 1];
    assert_eq!(limit(read_call(&long, &LIMITS)), Some("bytes"));
}

#[test]
fn overlong_string_is_refused_early() {
    let limits = DocumentLimits {
        bytes: 1 << 24,
        ..LIMITS
    };
    // The document is also cut: had the reader gone on, the error would be another.
    let mut document = b"<methodCall><methodName>".to_vec();
    document.resize(document.len() + 10_000_000, b'a');
    document.extend_from_slice(b"</methodName>");
    assert_eq!(
        limit(read_call(&document, &limits)),
        Some("bytes in one value")
    );
}

#[test]
fn strings_unfit_for_xml_become_base64() {
    for text in ["\x01", "a\0b", "\u{ffff}"] {
        let document = write_response(&text.into());
        assert_eq!(
            read_response(&document, &LIMITS),
            Ok(MethodResponse::Returned(Value::Bytes(
                text.as_bytes().to_vec()
            )))
        );
    }
}

#[test]
fn names_unfit_for_xml_keep_it_well_formed() {
    let document = write_response(&Value::Struct([("a\0b".to_owned(), Value::Int(1))].into()));
    let expected = Value::Struct([("a\u{fffd}b".to_owned(), Value::Int(1))].into());
    assert_eq!(
        read_response(&document, &LIMITS),
        Ok(MethodResponse::Returned(expected))
    );
}

#[test]
fn numbers_xml_rpc_lacks_become_strings() {
    let document = write_response(&Value::Double(f64::INFINITY));
    assert_eq!(
        read_response(&document, &LIMITS),
        Ok(MethodResponse::Returned("inf".into()))
    );
}
