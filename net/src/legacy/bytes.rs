//! Documents as programs of 2004 write them: bytes between tags, in no encoding.
//!
//! Python 2 puts a file's contents between `<string>` and `</string>` unchanged, except that it
//! replaces `&`, `<` and `>`. The result is mostly not XML: control characters, any encoding or
//! none. But every byte is there, so text here is raw bytes: no decoding, no line-end rule. Text
//! between two tags goes to the caller in pieces as it arrives, so that contents of any size
//! take no memory.
//!
//! As in [`xmlrpc`](crate::protocol::xmlrpc), features that are not needed are refused: document
//! types, comments, CDATA sections, processing instructions, attributes, unknown elements. A
//! truncated document is never read as a shorter one: its reader misses an end tag.

use std::io::{self, BufRead};

use super::error::WireError;
use crate::protocol::xmlrpc::ELEMENTS;

/// The maximum length of markup between `<` and `>`: an XML declaration.
const MAX_MARKUP: usize = 100;

/// The maximum length of a reference between `&` and `;`.
const MAX_REFERENCE: usize = 8;

/// The end of a run of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// A start tag.
    Open(&'static str),
    /// An end tag. The caller must check that it matches the start tag.
    Close(&'static str),
    /// The end of the document.
    End,
}

/// A consumer of pieces of text.
pub type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), WireError> + 's;

/// The tags of one document, and the text before each.
#[derive(Debug)]
pub struct Tags<R> {
    source: R,
    position: u64,
    max: u64,
    /// The end tag that an empty element stands for.
    owed: Option<&'static str>,
}

impl<R: BufRead> Tags<R> {
    /// Reads a document of at most `max` bytes from `source`.
    pub fn new(source: R, max: u64) -> Self {
        Self {
            source,
            position: 0,
            max,
            owed: None,
        }
    }

    /// Passes the text up to the next tag to `text`, and returns that tag.
    ///
    /// # Errors
    /// Those of the source and the sink, and [`WireError::Broken`] and [`WireError::Limit`]
    /// for the document.
    pub fn next(&mut self, text: &mut Sink<'_>) -> Result<Tag, WireError> {
        if let Some(element) = self.owed.take() {
            return Ok(Tag::Close(element));
        }
        loop {
            let Some(plain) = self.plain(text)? else {
                return Ok(Tag::End);
            };
            match plain {
                b'&' => {
                    let c = self.reference()?;
                    text(c.encode_utf8(&mut [0; 4]).as_bytes())?;
                }
                _ => {
                    if let Some(tag) = self.markup()? {
                        return Ok(tag);
                    }
                }
            }
        }
    }

    /// Creates a [`WireError::Broken`] that names the position.
    pub fn broken(&self, why: &str) -> WireError {
        WireError::Broken(format!("{why} (near byte {})", self.position))
    }

    /// Passes on the text up to the next `<` or `&`, and consumes that byte; `None` at the end.
    fn plain(&mut self, text: &mut Sink<'_>) -> Result<Option<u8>, WireError> {
        loop {
            let buffer = filled(&mut self.source)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let at = buffer.iter().position(|b| matches!(b, b'<' | b'&'));
            let plain = &buffer[..at.unwrap_or(buffer.len())];
            text(plain)?;
            let special = at.map(|at| buffer[at]);
            let taken = plain.len() + usize::from(special.is_some());
            self.take(taken)?;
            if special.is_some() {
                return Ok(special);
            }
        }
    }

    /// Reads the rest of markup after a `<`, through the `>`; `None` for an XML declaration.
    fn markup(&mut self) -> Result<Option<Tag>, WireError> {
        let begun = self.position > 1;
        let mut markup = Vec::with_capacity(MAX_MARKUP);
        self.until(b'>', MAX_MARKUP, &mut markup)?;
        match markup.as_slice() {
            [b'?', b'x', b'm', b'l', b' ', .., b'?'] if !begun => Ok(None),
            [b'?', ..] => Err(self.broken("processing instructions are refused")),
            [b'!', ..] => Err(self.broken("document types, comments and CDATA are refused")),
            [b'/', name @ ..] => self.element(name).map(|name| Some(Tag::Close(name))),
            [name @ .., b'/'] => {
                let element = self.element(name)?;
                self.owed = Some(element);
                Ok(Some(Tag::Open(element)))
            }
            name => self.element(name).map(|name| Some(Tag::Open(name))),
        }
    }

    fn element(&self, name: &[u8]) -> Result<&'static str, WireError> {
        let name = name.trim_ascii_end();
        let known = ELEMENTS.iter().find(|known| known.as_bytes() == name);
        known.copied().ok_or_else(|| {
            let name = name.escape_ascii();
            self.broken(&format!("<{name}> is not part of XML-RPC"))
        })
    }

    /// Reads the rest of a reference after an `&`, through the `;`.
    fn reference(&mut self) -> Result<char, WireError> {
        let mut name = Vec::with_capacity(MAX_REFERENCE);
        self.until(b';', MAX_REFERENCE, &mut name)?;
        let number = |digits: &[u8], radix| {
            let digits = std::str::from_utf8(digits).ok()?;
            let is_plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            let number = u32::from_str_radix(digits, radix).ok().filter(|_| is_plain);
            number.and_then(char::from_u32)
        };
        let c = match name.as_slice() {
            b"lt" => Some('<'),
            b"gt" => Some('>'),
            b"amp" => Some('&'),
            b"apos" => Some('\''),
            b"quot" => Some('"'),
            [b'#', b'x', digits @ ..] => number(digits, 16),
            [b'#', digits @ ..] => number(digits, 10),
            _ => None,
        };
        c.ok_or_else(|| self.broken(&format!("&{}; is not defined", name.escape_ascii())))
    }

    /// Consumes bytes through `end`, with at most `max` bytes before it.
    fn until(&mut self, end: u8, max: usize, into: &mut Vec<u8>) -> Result<(), WireError> {
        loop {
            let Some(byte) = filled(&mut self.source)?.first().copied() else {
                return Err(self.broken("the document ends early"));
            };
            self.take(1)?;
            match byte {
                byte if byte == end => return Ok(()),
                _ if into.len() >= max => {
                    return Err(self.broken("a tag or reference that does not end"));
                }
                byte => into.push(byte),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<(), WireError> {
        self.source.consume(count);
        self.position += count as u64;
        if self.position > self.max {
            Err(WireError::Limit {
                what: "bytes of a document",
                max: self.max,
            })
        } else {
            Ok(())
        }
    }
}

/// Returns the buffered bytes of the source; empty only at its end.
fn filled(source: &mut impl BufRead) -> Result<&[u8], WireError> {
    loop {
        match source.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(WireError::Read(error)),
            Ok(_) => break,
        }
    }
    // Called again, as the borrow of the first result cannot leave the loop. It is buffered by now.
    source.fill_buf().map_err(WireError::Read)
}
