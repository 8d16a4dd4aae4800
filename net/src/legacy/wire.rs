//! The calls of method `f` and their results, in both directions.
//!
//! When reading, all text is bytes (see [`bytes`](super::bytes)): [`decode_call`] reads what a
//! client sends, [`decode_servers`], [`decode_names`] and [`decode_contents`] what a server
//! returns, the last one straight into a writer. When writing, every document is XML, as the other
//! side parses with expat: [`encode_call`], the `encode_…` of results, and [`Form`] for contents
//! that are sent as they are read.

mod form;
mod read;

use std::io::{BufRead, Write};

pub use self::form::{Form, Survey};
pub(super) use self::read::CONTENTS;
use self::read::{Contents, Decoder, LegacyReader, damaged, is_blank};
use super::bytes::Tag;
use super::error::WireError;
use super::url::MAX_URL_BYTES;
use crate::protocol::xmlrpc::{self, Value};

/// The only method.
const METHOD: &str = "f";

/// The maximum length of a call that is read, in bytes.
pub const MAX_CALL_BYTES: usize = 1 << 20;

/// The maximum length of a list of servers or names that is read, in bytes of the document.
pub const MAX_LIST_BYTES: u64 = 16 << 20;

/// The maximum number of servers or names in one list.
pub const MAX_LISTED: usize = 100_000;

/// The maximum length of a token, pattern, name, URL or fault text that is read, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The maximum overhead of a document of contents, in bytes.
const MAX_OVERHEAD: u64 = 4 << 10;

/// The maximum number of document bytes for one byte of contents, which is `&quot;`.
const MAX_PER_BYTE: u64 = 6;

/// An operation requested from a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// 0: returns the known servers, and adds these. The texts need not be URLs.
    Servers(Vec<Vec<u8>>),
    /// 1: returns the names that match this regular expression; all for an empty one.
    Names(String),
    /// 2 and any other number: returns the contents of the file with this name.
    Contents(Vec<u8>),
}

/// A call as received.
#[derive(Debug)]
pub struct LegacyCall {
    /// The alleged token.
    pub token: Vec<u8>,
    /// The requested operation, or what is wrong with it. To be used only if the token is right.
    pub operation: Result<Operation, String>,
}

/// Encodes a call.
pub fn encode_call(token: &str, operation: &Operation) -> Vec<u8> {
    let (number, argument) = match operation {
        Operation::Servers(urls) => (0, array(urls.iter().map(|url| text(url)))),
        Operation::Names(pattern) => (1, Value::from_bytes_text(pattern.as_bytes())),
        Operation::Contents(name) => (2, text(name)),
    };
    xmlrpc::write_call(METHOD, &[token.into(), Value::Int(number), argument])
}

/// Returns the maximum document length for `contents` bytes of contents.
pub(super) fn longest_document(contents: u64) -> u64 {
    contents
        .saturating_mul(MAX_PER_BYTE)
        .saturating_add(MAX_OVERHEAD)
}

/// Encodes the result of every operation for a wrong token.
pub fn encode_denial() -> Vec<u8> {
    xmlrpc::write_response(&Value::Boolean(false))
}

/// Encodes the result of operation 0.
pub fn encode_servers<'u>(urls: impl Iterator<Item = &'u str>) -> Vec<u8> {
    xmlrpc::write_response(&array(urls.map(Value::from)))
}

/// Encodes the result of operation 1. Names that XML cannot carry are left out: nobody
/// could request them.
pub fn encode_names<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    let names = names
        .map(text)
        .filter(|name| matches!(name, Value::String(_)));
    xmlrpc::write_response(&array([array(names)].into_iter()))
}

/// Encodes a fault.
pub fn encode_fault(message: &str) -> Vec<u8> {
    xmlrpc::write_fault(1, message)
}

fn text(bytes: &[u8]) -> Value {
    Value::from_bytes_text(bytes)
}

fn array(values: impl Iterator<Item = Value>) -> Value {
    Value::Array(values.collect())
}

/// Reads a call.
///
/// # Errors
/// [`WireError::Broken`] and [`WireError::Limit`] when it is not a call of `f` with a token, a
/// number and an argument.
pub fn decode_call(document: &[u8]) -> Result<LegacyCall, WireError> {
    let mut reader = LegacyReader::new(document, MAX_CALL_BYTES as u64);
    reader.open("methodCall")?;
    reader.open("methodName")?;
    let method = reader.text("methodName", MAX_TEXT_BYTES)?;
    if method != METHOD.as_bytes() {
        return Err(reader.broken("the one method is f"));
    }
    reader.open("params")?;
    let (token, number, argument) = (reader.param()?, reader.param()?, reader.param()?);
    reader.close("params")?;
    reader.close("methodCall")?;
    reader.end()?;
    // Anything that is not text is a wrong token.
    let token = token.into_bytes().unwrap_or_default();
    let operation = operation(number, argument).ok_or_else(|| {
        "operation 0 takes an array of URLs, 1 a pattern, every other number a file's name"
            .to_owned()
    });
    Ok(LegacyCall { token, operation })
}

fn operation(number: Value, argument: Value) -> Option<Operation> {
    match (number, argument) {
        (Value::Int(0), Value::Array(urls)) => {
            let urls = urls.into_iter().map(Value::into_bytes);
            urls.collect::<Option<_>>().map(Operation::Servers)
        }
        (Value::Int(0), _) => None,
        (Value::Int(1), pattern) => {
            let pattern = String::from_utf8(pattern.into_bytes()?).ok()?;
            Some(Operation::Names(pattern))
        }
        (Value::Int(_), name) => name.into_bytes().map(Operation::Contents),
        _ => None,
    }
}

/// Reads the result of operation 0: texts that need not be URLs. Skips those longer than any URL.
///
/// # Errors
/// Any [`WireError`] from the source or the document.
pub fn decode_servers(source: impl BufRead) -> Result<Vec<String>, WireError> {
    let mut reader = LegacyReader::new(source, MAX_LIST_BYTES);
    let Value::Array(urls) = reader.returned()? else {
        return Err(reader.broken("the result is no list of servers"));
    };
    let urls = urls.into_iter().filter_map(Value::into_bytes);
    let urls = urls.filter(|url| url.len() <= MAX_URL_BYTES);
    Ok(urls.filter_map(|url| String::from_utf8(url).ok()).collect())
}

/// Reads the result of operation 1: unchecked names, as received, of files and of directories.
///
/// # Errors
/// Any [`WireError`] from the source or the document.
pub fn decode_names(source: impl BufRead) -> Result<Vec<Vec<u8>>, WireError> {
    let mut reader = LegacyReader::new(source, MAX_LIST_BYTES);
    let wrong = "the result is no list of names";
    let names = match reader.returned()? {
        Value::Array(mut lists) => match (lists.pop(), lists.is_empty()) {
            (Some(Value::Array(names)), true) => names,
            _ => return Err(reader.broken(wrong)),
        },
        _ => return Err(reader.broken(wrong)),
    };
    let names = names.into_iter().map(Value::into_bytes);
    names
        .collect::<Option<_>>()
        .ok_or_else(|| reader.broken(wrong))
}

/// Reads the result of operation 2 into `into`, and returns its size in bytes. An error may show
/// only at the end of the document, so discard the bytes unless this succeeds.
///
/// # Errors
/// See [`WireError`]; [`WireError::Limit`] as soon as there are more than `max` bytes.
pub fn decode_contents(
    source: impl BufRead,
    max: u64,
    into: &mut dyn Write,
) -> Result<u64, WireError> {
    let mut reader = LegacyReader::new(source, longest_document(max));
    reader.returning()?;
    let mut contents = Contents {
        into,
        max,
        count: 0,
    };
    let mut untyped = Vec::new();
    match reader.collect(&mut untyped, MAX_TEXT_BYTES)? {
        Tag::Close("value") => contents.write(&untyped)?,
        Tag::Open(kind) if is_blank(&untyped) => {
            match kind {
                "string" => reader.stream(kind, &mut |piece| contents.write(piece))?,
                "base64" => {
                    let mut decoder = Decoder::default();
                    reader.stream(kind, &mut |piece| {
                        let decoded = decoder.decode(piece).ok_or_else(damaged)?;
                        contents.write(&decoded)
                    })?;
                    decoder.end().ok_or_else(damaged)?;
                }
                kind => {
                    return Err(match reader.typed(kind, 0)? {
                        Value::Boolean(false) => WireError::Denied,
                        _ => reader.broken("the result is no string"),
                    });
                }
            }
            reader.close("value")?;
        }
        _ => return Err(reader.broken("the result is no string")),
    }
    let count = contents.count;
    reader.returned_all()?;
    Ok(count)
}

#[cfg(test)]
mod tests;
