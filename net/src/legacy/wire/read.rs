//! Reads documents of this protocol value by value, or piece by piece where they are long.

use std::io::{BufRead, Write};

use data_encoding::BASE64;

use super::super::bytes::{Sink, Tag, Tags};
use super::{MAX_LISTED, MAX_TEXT_BYTES};
use crate::legacy::error::WireError;
use crate::protocol::xmlrpc::Value;

/// The maximum nesting of arrays and structs: a list of names takes two.
const MAX_DEPTH: usize = 3;

/// The maximum number of members of a struct; a fault has two.
const MAX_MEMBERS: usize = 8;

/// The item that exceeds the limit in a file that is too large; see [`WireError::Limit`].
pub(in super::super) const CONTENTS: &str = "bytes of contents";

/// A bounded destination of contents.
pub(super) struct Contents<'w> {
    pub(super) into: &'w mut dyn Write,
    pub(super) max: u64,
    pub(super) count: u64,
}

impl Contents<'_> {
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), WireError> {
        self.count += piece.len() as u64;
        if self.count > self.max {
            return Err(WireError::Limit {
                what: CONTENTS,
                max: self.max,
            });
        }
        self.into.write_all(piece).map_err(WireError::Write)
    }
}

/// Base64 that arrives in pieces, with white space anywhere.
#[derive(Default)]
pub(super) struct Decoder {
    /// At most three characters left over.
    rest: Vec<u8>,
    is_padded: bool,
}

impl Decoder {
    pub(super) fn decode(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        let mut text = std::mem::take(&mut self.rest);
        text.extend(piece.iter().filter(|b| !is_space(**b)));
        self.rest = text.split_off(text.len() / 4 * 4);
        if text.is_empty() {
            return Some(Vec::new());
        }
        // Padding is the end: anything after it would be another text.
        let padding = text.iter().position(|b| *b == b'=');
        if self.is_padded || padding.is_some_and(|at| at + 2 < text.len()) {
            return None;
        }
        self.is_padded = padding.is_some();
        BASE64.decode(&text).ok()
    }

    pub(super) fn end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

pub(super) fn damaged() -> WireError {
    WireError::Broken("damaged base64".to_owned())
}

/// A document being read. Each method starts after the start tag of what it reads, and stops after
/// the matching end tag.
pub(super) struct LegacyReader<R> {
    tags: Tags<R>,
    values: usize,
}

impl<R: BufRead> LegacyReader<R> {
    pub(super) fn new(source: R, max: u64) -> Self {
        Self {
            tags: Tags::new(source, max),
            values: 0,
        }
    }

    /// Reads the single value of a response, through the end of the document.
    pub(super) fn returned(&mut self) -> Result<Value, WireError> {
        self.returning()?;
        let value = self.value(0)?;
        self.returned_all()?;
        match value {
            Value::Boolean(false) => Err(WireError::Denied),
            value => Ok(value),
        }
    }

    /// Reads everything behind the value of a response.
    pub(super) fn returned_all(&mut self) -> Result<(), WireError> {
        self.close("param")?;
        self.close("params")?;
        self.close("methodResponse")?;
        self.end()
    }

    /// Reads up to the value of a response. A fault is an error.
    pub(super) fn returning(&mut self) -> Result<(), WireError> {
        self.open("methodResponse")?;
        match self.child()? {
            Tag::Open("params") => {}
            Tag::Open("fault") => return Err(self.fault()?),
            _ => return Err(self.broken("a response has params or a fault")),
        }
        self.open("param")?;
        self.open("value")
    }

    pub(super) fn fault(&mut self) -> Result<WireError, WireError> {
        self.open("value")?;
        self.open("struct")?;
        let (mut code, mut message) = (0, String::new());
        for _ in 0..MAX_MEMBERS {
            match self.child()? {
                Tag::Close("struct") => return Ok(WireError::Fault { code, message }),
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

    pub(super) fn param(&mut self) -> Result<Value, WireError> {
        self.open("param")?;
        self.open("value")?;
        let value = self.value(0)?;
        self.close("param")?;
        Ok(value)
    }

    /// Reads a `value`, inside `depth` arrays; all text is [`Value::Bytes`].
    pub(super) fn value(&mut self, depth: usize) -> Result<Value, WireError> {
        self.values += 1;
        if self.values > MAX_LISTED {
            return Err(WireError::Limit {
                what: "values",
                max: MAX_LISTED as u64,
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

    pub(super) fn typed(&mut self, kind: &'static str, depth: usize) -> Result<Value, WireError> {
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
            "array" => Err(WireError::Limit {
                what: "arrays inside one another",
                max: MAX_DEPTH as u64,
            }),
            kind => Err(self.broken(&format!("<{kind}> is out of place"))),
        }
    }

    pub(super) fn array(&mut self, depth: usize) -> Result<Vec<Value>, WireError> {
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

    /// Reads all text of the element `kind`, at most `max` bytes.
    pub(super) fn text(&mut self, kind: &'static str, max: usize) -> Result<Vec<u8>, WireError> {
        let mut text = Vec::new();
        match self.collect(&mut text, max)? {
            Tag::Close(element) if element == kind => Ok(text),
            _ => Err(self.broken(&format!("<{kind}> does not end where it should"))),
        }
    }

    /// Passes all text of the element `kind` to `sink`, piece by piece.
    pub(super) fn stream(
        &mut self,
        kind: &'static str,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        match self.tags.next(sink)? {
            Tag::Close(element) if element == kind => Ok(()),
            _ => Err(self.broken(&format!("<{kind}> does not end where it should"))),
        }
    }

    /// Reads the text up to the next tag, and that tag.
    pub(super) fn collect(&mut self, text: &mut Vec<u8>, max: usize) -> Result<Tag, WireError> {
        self.tags.next(&mut |piece| {
            if text.len() + piece.len() > max {
                return Err(WireError::Limit {
                    what: "bytes in one value",
                    max: max as u64,
                });
            }
            text.extend_from_slice(piece);
            Ok(())
        })
    }

    /// Reads the next tag, which only white space may precede.
    pub(super) fn child(&mut self) -> Result<Tag, WireError> {
        self.tags.next(&mut |text| {
            if is_blank(text) {
                Ok(())
            } else {
                Err(WireError::Broken("text between elements".to_owned()))
            }
        })
    }

    pub(super) fn open(&mut self, expected: &'static str) -> Result<(), WireError> {
        match self.child()? {
            Tag::Open(element) if element == expected => Ok(()),
            _ => Err(self.broken(&format!("<{expected}> is missing"))),
        }
    }

    pub(super) fn close(&mut self, expected: &'static str) -> Result<(), WireError> {
        match self.child()? {
            Tag::Close(element) if element == expected => Ok(()),
            _ => Err(self.broken(&format!("</{expected}> is missing"))),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), WireError> {
        match self.child()? {
            Tag::End => Ok(()),
            _ => Err(self.broken("something follows the end")),
        }
    }

    pub(super) fn broken(&self, why: &str) -> WireError {
        self.tags.broken(why)
    }
}

pub(super) fn is_blank(text: &[u8]) -> bool {
    text.iter().copied().all(is_space)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
