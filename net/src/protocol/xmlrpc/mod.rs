//! XML-RPC: documents to [`Value`]s and back, for untrusted input.
//!
//! This module knows nothing of TinyP2P. It reads a document in one pass over its events
//! ([`read_call`], [`read_response`]), never as a tree of XML, and checks every [`DocumentLimits`]
//! bound before it allocates what the bound covers. It refuses rather than skips what XML-RPC does
//! not need: document types (and with them every entity bomb), processing instructions, attributes,
//! unknown elements, `nil`. A document that was cut anywhere is an error, never a shorter message.
//!
//! Layers: `tokens` (bytes to tags and character data, the only place that knows quick-xml), `read`
//! (the grammar), `write`.

use crate::model::text::harmless;
use std::collections::BTreeMap;

mod read;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tokens;
mod write;

pub use read::{MethodCall, MethodResponse, read_call, read_response};
pub(crate) use tokens::ELEMENTS;
pub use write::{write_call, write_fault, write_response};

/// One XML-RPC value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `i4`, `int` and `i8`. Written as `int` where 32 bits are enough, so that programs without
    /// the `i8` extension can read it, else as `i8`.
    Int(i64),
    /// A `boolean`, true or false.
    Boolean(bool),
    /// `double`; always finite when read. XML-RPC has no infinity and no NaN: they are written as
    /// strings, so that the reader sees a wrong type rather than a wrong number.
    Double(f64),
    /// `string`, an untyped value, or the text of a `dateTime.iso8601`. One that XML 1.0 cannot
    /// carry is written as base64.
    String(String),
    /// The decoded bytes of a `base64`.
    Bytes(Vec<u8>),
    /// An `array` of values, in order.
    Array(Vec<Value>),
    /// A `struct`. A member name that occurs twice makes the document invalid.
    Struct(BTreeMap<String, Value>),
}

impl Value {
    /// Creates a value for bytes that are meant as text, such as a file name: a string if XML 1.0
    /// can carry them, else base64. [`Value::into_bytes`] accepts both.
    pub fn from_bytes_text(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.chars().all(is_xml_char) => Self::String(text.to_owned()),
            _ => Self::Bytes(bytes.to_vec()),
        }
    }

    /// Returns the bytes of a string or of base64; `None` for every other type.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::String(text) => Some(text.into_bytes()),
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

/// Limits on what a document may cost. Exceeding one is [`Error::Limit`], which names it.
#[derive(Clone, Copy, Debug)]
pub struct DocumentLimits {
    /// Bytes of the whole document.
    pub bytes: usize,
    /// Nesting depth of arrays and structs.
    pub depth: usize,
    /// Values in the whole document, including those inside arrays and structs.
    pub values: usize,
    /// Bytes of one string, of one decoded base64 value, of one method or member name.
    pub string_bytes: usize,
    /// Members of one struct.
    pub members: usize,
}

/// Why a document was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Not XML, cut short, or with parts of XML that are refused for safety.
    #[error("not a well-formed document: {0}")]
    NotWellFormed(String),
    /// XML, but not what XML-RPC calls a call or a response.
    #[error("not XML-RPC: {0}")]
    NotXmlRpc(String),
    /// More than [`DocumentLimits`] allow.
    #[error("more than {max} {what}")]
    Limit {
        /// What there was too much of, in the plural.
        what: &'static str,
        /// The bound that was exceeded.
        max: usize,
    },
}

/// Tests for the `Char` of XML 1.0 (fifth edition, production 2). Other characters cannot be
/// written at all, not even as a reference.
pub(crate) fn is_xml_char(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    }
}

/// Returns the beginning of a peer's text for an error message: short, on one line, and without
/// control sequences for terminals.
fn excerpt(text: &str) -> String {
    let end = text
        .char_indices()
        .nth(60)
        .map_or(text.len(), |(end, _)| end);
    harmless(&text[..end]).into_owned()
}
