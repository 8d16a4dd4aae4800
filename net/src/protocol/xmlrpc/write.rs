//! Writes values as documents.
//!
//! For a dozen fixed tags and one escape rule, plain appends to one buffer suffice, and they cannot
//! fail. Base64 is encoded straight into the buffer, so a column of megabytes is copied once.
//! Nothing follows the root element, so a document cut anywhere is a damaged one.

use data_encoding::BASE64;

use super::{Value, is_xml_char};

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// Writes a `methodCall` document.
pub fn write_call(method: &str, params: &[Value]) -> Vec<u8> {
    let mut document = Document::begin();
    document.element("methodCall", |call| {
        call.element("methodName", |name| name.text(method));
        call.element("params", |list| {
            for value in params {
                list.element("param", |param| param.value(value));
            }
        });
    });
    document.0
}

/// Writes a `methodResponse` document that returns `value`.
pub fn write_response(value: &Value) -> Vec<u8> {
    let mut document = Document::begin();
    document.element("methodResponse", |response| {
        response.element("params", |params| {
            params.element("param", |param| param.value(value));
        });
    });
    document.0
}

/// Writes a `methodResponse` document that reports a fault.
pub fn write_fault(code: i32, message: &str) -> Vec<u8> {
    let mut document = Document::begin();
    let members = [
        ("faultCode".to_owned(), Value::Int(code.into())),
        ("faultString".to_owned(), Value::from(message)),
    ];
    document.element("methodResponse", |response| {
        response.element("fault", |fault| fault.value(&Value::Struct(members.into())));
    });
    document.0
}

/// A document being written.
struct Document(Vec<u8>);

impl Document {
    fn begin() -> Self {
        Self(DECLARATION.as_bytes().to_vec())
    }

    fn element(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.raw("<");
        self.raw(name);
        self.raw(">");
        content(self);
        self.raw("</");
        self.raw(name);
        self.raw(">");
    }

    fn value(&mut self, value: &Value) {
        self.element("value", |place| place.typed(value));
    }

    fn typed(&mut self, value: &Value) {
        match value {
            Value::Int(n) => {
                let kind = if i32::try_from(*n).is_ok() {
                    "int"
                } else {
                    "i8"
                };
                self.element(kind, |place| place.raw(&n.to_string()));
            }
            Value::Boolean(b) => {
                self.element("boolean", |place| place.raw(if *b { "1" } else { "0" }))
            }
            Value::Double(n) if n.is_finite() => {
                self.element("double", |place| place.raw(&n.to_string()));
            }
            Value::Double(n) => self.element("string", |place| place.raw(&n.to_string())),
            Value::String(text) if text.chars().all(is_xml_char) => {
                self.element("string", |place| place.text(text));
            }
            Value::String(text) => self.element("base64", |place| place.base64(text.as_bytes())),
            Value::Bytes(bytes) => self.element("base64", |place| place.base64(bytes)),
            Value::Array(values) => self.element("array", |array| {
                array.element("data", |data| {
                    values.iter().for_each(|value| data.value(value))
                });
            }),
            Value::Struct(members) => self.element("struct", |place| {
                for (name, value) in members {
                    place.element("member", |member| {
                        member.element("name", |place| place.text(name));
                        member.value(value);
                    });
                }
            }),
        }
    }

    /// Appends character data. Method and member names come from code, not from peers, and are not
    /// checked before: a character that XML cannot carry becomes U+FFFD. A carriage return is
    /// written as a reference, or the reader's line-end rule (XML 1.0 section 2.11) would make it
    /// a line feed.
    fn text(&mut self, text: &str) {
        let special = |c: char| matches!(c, '&' | '<' | '>' | '\r') || !is_xml_char(c);
        let mut rest = text;
        while let Some(at) = rest.find(special) {
            let (plain, tail) = rest.split_at(at);
            let mut tail = tail.chars();
            self.raw(plain);
            self.raw(match tail.next() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('\r') => "&#13;",
                _ => "\u{fffd}",
            });
            rest = tail.as_str();
        }
        self.raw(rest);
    }

    fn base64(&mut self, bytes: &[u8]) {
        let start = self.0.len();
        self.0.resize(start + BASE64.encode_len(bytes.len()), 0);
        BASE64.encode_mut(bytes, &mut self.0[start..]);
    }

    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }
}
