//! The calls of method `f` and what they return, in both directions.
//!
//! Reading, all text is bytes (see [`bytes`](super::bytes)): [`decode_call`] what a client sends,
//! [`decode_servers`], [`decode_names`] and [`decode_contents`] what a server returns, the last one straight into a
//! writer. Writing, every document is XML, as the other side parses with expat: [`encode_call`], the
//! `encode_…` of results, and [`Form`] for contents that are sent as they are read.

use std::io::{self, BufRead, Write};

use data_encoding::BASE64;

use super::bytes::{Tag, Tags};
use super::url::MAX_URL_BYTES;
use crate::xmlrpc::{self, Value, is_xml_char};

/// The one method.
const METHOD: &str = "f";

/// The longest call that is read, in bytes.
pub const MAX_CALL_BYTES: usize = 1 << 20;

/// The longest list of servers or of names that is read, in bytes of the document.
pub const MAX_LIST_BYTES: u64 = 16 << 20;

/// The most servers or names in one list.
pub const MAX_LISTED: usize = 100_000;

/// The longest token, pattern, name, URL or fault text that is read, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Arrays and structs inside one another: a list of names is two.
const MAX_DEPTH: usize = 3;

/// Members of a struct; a fault has two.
const MAX_MEMBERS: usize = 8;

/// What a document of contents may have beside the contents.
const MAX_OVERHEAD: u64 = 64 << 10;

/// The most bytes of a document for one of the contents, which is `&quot;`.
const MOST_PER_BYTE: u64 = 6;

/// Why there is no answer in what the other side sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The result was `False`: the password is another, or the server calls itself by another URL.
    #[error("it refused the password, or calls itself by another URL")]
    Denied,
    /// It said what is wrong.
    #[error("fault {code}: {message}")]
    Fault {
        /// `faultCode`.
        code: i64,
        /// `faultString`, what is not UTF-8 replaced; at most [`MAX_TEXT_BYTES`] long.
        message: String,
    },
    /// Not a document, cut short, or not of the shape that was expected.
    #[error("not the protocol of 2004: {0}")]
    Broken(String),
    /// More than this program takes.
    #[error("more than {most} {what}")]
    Limit {
        /// What there was too much of, in the plural.
        what: &'static str,
        /// The bound.
        most: u64,
    },
    /// The connection failed.
    #[error("{0}")]
    Read(io::Error),
    /// What was read could not be put where it belongs.
    #[error("{0}")]
    Write(io::Error),
}

/// What is asked of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// 0: which servers are known; these are to be known, too. Text that may be no URL.
    Servers(Vec<Vec<u8>>),
    /// 1: the names that match this regular expression; all for the empty one.
    Names(String),
    /// 2 and any other number: what is in the file of this name.
    Contents(Vec<u8>),
}

/// A call as it came.
#[derive(Debug)]
pub struct Call {
    /// What is said to be a token.
    pub token: Vec<u8>,
    /// What is asked for, or what is wrong with it. To be looked at if the token is right.
    pub operation: Result<Operation, String>,
}

/// The document of a call.
pub fn encode_call(token: &str, operation: &Operation) -> Vec<u8> {
    let (number, argument) = match operation {
        Operation::Servers(urls) => (0, array(urls.iter().map(|url| text(url)))),
        Operation::Names(pattern) => (1, Value::from_bytes_text(pattern.as_bytes())),
        Operation::Contents(name) => (2, text(name)),
    };
    xmlrpc::write_call(METHOD, &[token.into(), Value::Int(number), argument])
}

/// What every operation returns for a wrong token.
pub fn encode_denial() -> Vec<u8> {
    xmlrpc::write_response(&Value::Boolean(false))
}

/// What operation 0 returns.
pub fn encode_servers<'u>(urls: impl Iterator<Item = &'u str>) -> Vec<u8> {
    xmlrpc::write_response(&array(urls.map(Value::from)))
}

/// What operation 1 returns. Names that XML cannot carry are left out: nobody could ask for them.
pub fn encode_names<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    let names = names
        .map(text)
        .filter(|name| matches!(name, Value::String(_)));
    xmlrpc::write_response(&array([array(names)].into_iter()))
}

/// What says that something went wrong.
pub fn encode_fault(message: &str) -> Vec<u8> {
    xmlrpc::write_fault(1, message)
}

fn text(bytes: &[u8]) -> Value {
    Value::from_bytes_text(bytes)
}

fn array(values: impl Iterator<Item = Value>) -> Value {
    Value::Array(values.collect())
}

/// How contents are written: as text if they are text that XML can carry, which every client understands,
/// else in base64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// As they are but for escapes; so many bytes of a document.
    Text(u64),
    /// In base64.
    Base64,
}

impl Form {
    /// What comes before the contents.
    pub fn head(self) -> &'static [u8] {
        match self {
            Self::Text(_) => b"<?xml version=\"1.0\" encoding=\"utf-8\"?><methodResponse><params><param><value><string>",
            Self::Base64 => b"<?xml version=\"1.0\" encoding=\"utf-8\"?><methodResponse><params><param><value><base64>",
        }
    }

    /// What comes behind them.
    pub fn tail(self) -> &'static [u8] {
        match self {
            Self::Text(_) => b"</string></value></param></params></methodResponse>",
            Self::Base64 => b"</base64></value></param></params></methodResponse>",
        }
    }

    /// The length of the whole document for contents of so many bytes.
    pub fn document_bytes(self, contents: u64) -> u64 {
        let body = match self {
            Self::Text(length) => length,
            Self::Base64 => contents.div_ceil(3) * 4,
        };
        self.head().len() as u64 + body + self.tail().len() as u64
    }

    /// Writes a piece of the contents. Every piece but the last has a multiple of three bytes.
    pub fn write(self, piece: &[u8], into: &mut Vec<u8>) {
        if self == Self::Base64 {
            let start = into.len();
            into.resize(start + BASE64.encode_len(piece.len()), 0);
            BASE64.encode_mut(piece, &mut into[start..]);
            return;
        }
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|b| escape(*b).is_some()) {
            into.extend_from_slice(&rest[..at]);
            into.extend_from_slice(escape(rest[at]).unwrap_or_default().as_bytes());
            rest = &rest[at + 1..];
        }
        into.extend_from_slice(rest);
    }
}

/// What stands for a byte that cannot stand for itself.
fn escape(byte: u8) -> Option<&'static str> {
    match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        // Or the reader's line-end rule would make it a line feed.
        b'\r' => Some("&#13;"),
        _ => None,
    }
}

/// Looks at contents before they are sent, to find their [`Form`].
#[derive(Debug, Default)]
pub struct Survey {
    length: u64,
    /// The beginning of a character that goes on in the next piece.
    cut: Vec<u8>,
}

impl Survey {
    /// Looks at the next piece. False if the contents cannot be text; the rest need not be looked at then.
    pub fn is_text(&mut self, piece: &[u8]) -> bool {
        let mut whole = std::mem::take(&mut self.cut);
        let piece = match whole.is_empty() {
            true => piece,
            false => {
                whole.extend_from_slice(piece);
                &whole
            }
        };
        let (text, cut) = match std::str::from_utf8(piece) {
            Ok(text) => (text, &[][..]),
            Err(error) if error.error_len().is_some() => return false,
            Err(error) => {
                let (text, cut) = piece.split_at(error.valid_up_to());
                (std::str::from_utf8(text).unwrap_or_default(), cut)
            }
        };
        let escapes = text.bytes().filter_map(escape);
        let added: usize = escapes.map(|escape| escape.len() - 1).sum();
        self.length += (text.len() + added) as u64;
        self.cut = cut.to_vec();
        text.chars().all(is_xml_char)
    }

    /// The form of contents of which every piece was text.
    pub fn form(self) -> Form {
        match self.cut.is_empty() {
            true => Form::Text(self.length),
            false => Form::Base64,
        }
    }
}

/// Reads a call.
///
/// # Errors
/// [`Error::Broken`] and [`Error::Limit`]: it is no call of `f` with a token, a number and something.
pub fn decode_call(document: &[u8]) -> Result<Call, Error> {
    let mut reader = Reader::new(document, MAX_CALL_BYTES as u64);
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
    // Whatever is no text is a wrong token.
    let token = token.into_bytes().unwrap_or_default();
    let operation = operation(number, argument).ok_or_else(|| {
        "operation 0 takes an array of URLs, 1 a pattern, every other number a file's name"
            .to_owned()
    });
    Ok(Call { token, operation })
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

/// Reads what operation 0 returned: text that may be no URL. What is longer than any URL is left out.
///
/// # Errors
/// See [`Error`].
pub fn decode_servers(source: impl BufRead) -> Result<Vec<String>, Error> {
    let mut reader = Reader::new(source, MAX_LIST_BYTES);
    let Value::Array(urls) = reader.returned()? else {
        return Err(reader.broken("the result is no list of servers"));
    };
    let urls = urls.into_iter().filter_map(Value::into_bytes);
    let urls = urls.filter(|url| url.len() <= MAX_URL_BYTES);
    Ok(urls.filter_map(|url| String::from_utf8(url).ok()).collect())
}

/// Reads what operation 1 returned: names as they came, of files and of directories, whatever they look like.
///
/// # Errors
/// See [`Error`].
pub fn decode_names(source: impl BufRead) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = Reader::new(source, MAX_LIST_BYTES);
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

/// Reads what operation 2 returned into `into`, and returns how many bytes that were. They are the contents
/// only if this is no error, which shows at the document's end: keep them back until then.
///
/// # Errors
/// See [`Error`]; [`Error::Limit`] as soon as there are more than `most` bytes.
pub fn decode_contents(
    source: impl BufRead,
    most: u64,
    into: &mut dyn Write,
) -> Result<u64, Error> {
    let longest = most
        .saturating_mul(MOST_PER_BYTE)
        .saturating_add(MAX_OVERHEAD);
    let mut reader = Reader::new(source, longest);
    reader.returning()?;
    let mut contents = Contents {
        into,
        most,
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
                        Value::Boolean(false) => Error::Denied,
                        _ => reader.broken("the result is no string"),
                    });
                }
            }
            reader.close("value")?;
        }
        _ => return Err(reader.broken("the result is no string")),
    }
    let count = contents.count;
    reader.close("param")?;
    reader.close("params")?;
    reader.close("methodResponse")?;
    reader.end()?;
    Ok(count)
}

/// What there is too much of in a file that is larger than it may be; see [`Error::Limit`].
pub(super) const CONTENTS: &str = "bytes of contents";

/// Where contents go, up to a bound.
struct Contents<'w> {
    into: &'w mut dyn Write,
    most: u64,
    count: u64,
}

impl Contents<'_> {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.count += piece.len() as u64;
        if self.count > self.most {
            return Err(Error::Limit {
                what: CONTENTS,
                most: self.most,
            });
        }
        self.into.write_all(piece).map_err(Error::Write)
    }
}

/// Base64 that comes in pieces, with white space anywhere.
#[derive(Default)]
struct Decoder {
    /// Fewer than four characters.
    rest: Vec<u8>,
    is_padded: bool,
}

impl Decoder {
    fn decode(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        let mut text = std::mem::take(&mut self.rest);
        text.extend(piece.iter().filter(|b| !is_space(**b)));
        self.rest = text.split_off(text.len() / 4 * 4);
        if text.is_empty() {
            return Some(Vec::new());
        }
        // Padding is the end of it: what follows would be another text.
        let padding = text.iter().position(|b| *b == b'=');
        if self.is_padded || padding.is_some_and(|at| at + 2 < text.len()) {
            return None;
        }
        self.is_padded = padding.is_some();
        BASE64.decode(&text).ok()
    }

    fn end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

fn damaged() -> Error {
    Error::Broken("damaged base64".to_owned())
}

/// A document being read: each method expects to stand behind the start tag of what it reads, and leaves off
/// behind the matching end tag.
struct Reader<R> {
    tags: Tags<R>,
    values: usize,
}

impl<R: BufRead> Reader<R> {
    fn new(source: R, most: u64) -> Self {
        Self {
            tags: Tags::new(source, most),
            values: 0,
        }
    }

    /// The one value of a response that is all of the document.
    fn returned(&mut self) -> Result<Value, Error> {
        self.returning()?;
        let value = self.value(0)?;
        self.close("param")?;
        self.close("params")?;
        self.close("methodResponse")?;
        self.end()?;
        match value {
            Value::Boolean(false) => Err(Error::Denied),
            value => Ok(value),
        }
    }

    /// Up to the value of a response. A fault is an error.
    fn returning(&mut self) -> Result<(), Error> {
        self.open("methodResponse")?;
        match self.child()? {
            Tag::Open("params") => {}
            Tag::Open("fault") => return Err(self.fault()?),
            _ => return Err(self.broken("a response has params or a fault")),
        }
        self.open("param")?;
        self.open("value")
    }

    fn fault(&mut self) -> Result<Error, Error> {
        self.open("value")?;
        self.open("struct")?;
        let (mut code, mut message) = (0, String::new());
        for _ in 0..MAX_MEMBERS {
            match self.child()? {
                Tag::Close("struct") => return Ok(Error::Fault { code, message }),
                Tag::Open("member") => {}
                _ => break,
            }
            self.open("name")?;
            let name = self.text("name", MAX_TEXT_BYTES)?;
            self.open("value")?;
            match (name.as_slice(), self.value(0)?) {
                (b"faultCode", Value::Int(number)) => code = number,
                (b"faultString", Value::Bytes(text)) => {
                    message = String::from_utf8_lossy(&text).into_owned();
                }
                _ => {}
            }
            self.close("member")?;
        }
        Err(self.broken("a fault is a struct of faultCode and faultString"))
    }

    fn param(&mut self) -> Result<Value, Error> {
        self.open("param")?;
        self.open("value")?;
        let value = self.value(0)?;
        self.close("param")?;
        Ok(value)
    }

    /// A `value`, inside `depth` arrays; all text is [`Value::Bytes`].
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.values += 1;
        if self.values > MAX_LISTED {
            return Err(Error::Limit {
                what: "values",
                most: MAX_LISTED as u64,
            });
        }
        let mut untyped = Vec::new();
        match self.collect(&mut untyped, MAX_TEXT_BYTES)? {
            Tag::Close("value") => Ok(Value::Bytes(untyped)),
            Tag::Open(kind) if is_blank(&untyped) => {
                let value = self.typed(kind, depth)?;
                self.close("value")?;
                Ok(value)
            }
            _ => Err(self.broken("text beside a typed value")),
        }
    }

    fn typed(&mut self, kind: &'static str, depth: usize) -> Result<Value, Error> {
        match kind {
            "string" => self.text(kind, MAX_TEXT_BYTES).map(Value::Bytes),
            "base64" => {
                let text = self.text(kind, 2 * MAX_TEXT_BYTES)?;
                let mut decoder = Decoder::default();
                let bytes = decoder.decode(&text);
                let bytes = bytes.filter(|_| decoder.end().is_some());
                bytes.map(Value::Bytes).ok_or_else(damaged)
            }
            "boolean" => match self.text(kind, MAX_TEXT_BYTES)?.as_slice() {
                b"0" => Ok(Value::Boolean(false)),
                b"1" => Ok(Value::Boolean(true)),
                _ => Err(self.broken("a boolean is 0 or 1")),
            },
            "int" | "i4" | "i8" => {
                let text = self.text(kind, MAX_TEXT_BYTES)?;
                let number = std::str::from_utf8(&text)
                    .ok()
                    .and_then(|n| n.trim().parse().ok());
                number
                    .map(Value::Int)
                    .ok_or_else(|| self.broken("no number"))
            }
            "array" if depth < MAX_DEPTH => self.array(depth + 1).map(Value::Array),
            "array" => Err(Error::Limit {
                what: "arrays inside one another",
                most: MAX_DEPTH as u64,
            }),
            kind => Err(self.broken(&format!("<{kind}> is out of place"))),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, Error> {
        self.open("data")?;
        let mut values = Vec::new();
        loop {
            match self.child()? {
                Tag::Open("value") => values.push(self.value(depth)?),
                Tag::Close("data") => break,
                _ => return Err(self.broken("an array has values")),
            }
        }
        self.close("array")?;
        Ok(values)
    }

    /// All text of the element `kind`, at most `most` bytes.
    fn text(&mut self, kind: &'static str, most: usize) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        match self.collect(&mut text, most)? {
            Tag::Close(element) if element == kind => Ok(text),
            _ => Err(self.broken(&format!("<{kind}> does not end where it should"))),
        }
    }

    /// The same to `sink`, piece by piece.
    fn stream(
        &mut self,
        kind: &'static str,
        sink: &mut super::bytes::Sink<'_>,
    ) -> Result<(), Error> {
        match self.tags.next(sink)? {
            Tag::Close(element) if element == kind => Ok(()),
            _ => Err(self.broken(&format!("<{kind}> does not end where it should"))),
        }
    }

    /// The text up to the next tag, and that tag.
    fn collect(&mut self, text: &mut Vec<u8>, most: usize) -> Result<Tag, Error> {
        self.tags.next(&mut |piece| {
            if text.len() + piece.len() > most {
                return Err(Error::Limit {
                    what: "bytes in one value",
                    most: most as u64,
                });
            }
            text.extend_from_slice(piece);
            Ok(())
        })
    }

    /// The next tag, which nothing but white space may precede.
    fn child(&mut self) -> Result<Tag, Error> {
        self.tags.next(&mut |text| match is_blank(text) {
            true => Ok(()),
            false => Err(Error::Broken("text between elements".to_owned())),
        })
    }

    fn open(&mut self, expected: &'static str) -> Result<(), Error> {
        match self.child()? {
            Tag::Open(element) if element == expected => Ok(()),
            _ => Err(self.broken(&format!("<{expected}> is missing"))),
        }
    }

    fn close(&mut self, expected: &'static str) -> Result<(), Error> {
        match self.child()? {
            Tag::Close(element) if element == expected => Ok(()),
            _ => Err(self.broken(&format!("</{expected}> is missing"))),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        match self.child()? {
            Tag::End => Ok(()),
            _ => Err(self.broken("something follows the end")),
        }
    }

    fn broken(&self, why: &str) -> Error {
        self.tags.broken(why)
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().copied().all(is_space)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests;
