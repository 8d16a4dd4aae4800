//! Bytes to tags and character data: the only place that knows quick-xml.
//!
//! quick-xml reports what it sees and judges little: it accepts truncated documents, several roots,
//! unknown entities, document types. This file and `read` refuse each of those. Text borrows from
//! the document, so a column of megabytes is not copied before it is decoded.
//!
//! Everything specific to XML as *text* is in this file: the encoding, line ends (XML 1.0 section
//! 2.11), legal characters. Documents that are bytes rather than text, as programs of 2004 send
//! them, are read by `legacy::bytes`.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};

use super::{Error, excerpt, is_xml_char};

/// A piece of a document.
pub(super) enum Token<'a> {
    /// A start tag, with its name.
    Open(&'static str),
    /// The end tag that belongs to the innermost start tag.
    Close,
    /// Character data; several in a row if there were references, CDATA sections or comments.
    Text(Cow<'a, str>),
    /// A character or entity reference.
    Char(char),
    /// The end of the input, inside an element or not.
    End,
}

/// Every XML-RPC element that is supported.
pub(crate) const ELEMENTS: [&str; 20] = [
    "value",
    "string",
    "base64",
    "int",
    "i4",
    "i8",
    "boolean",
    "member",
    "name",
    "struct",
    "array",
    "data",
    "double",
    "dateTime.iso8601",
    "methodCall",
    "methodName",
    "methodResponse",
    "params",
    "param",
    "fault",
];

/// The tokens of one document.
pub(super) struct Tokens<'a> {
    reader: Reader<&'a [u8]>,
    begun: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(document: &'a [u8]) -> Self {
        let mut reader = Reader::from_reader(document);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_comments = true;
        Self {
            reader,
            begun: false,
        }
    }

    /// Returns the next token. After an error the rest of the document is meaningless.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Error> {
        loop {
            let event = self
                .reader
                .read_event()
                .map_err(|error| self.broken(&error.to_string()))?;
            let first = !std::mem::replace(&mut self.begun, true);
            return match event {
                Event::Start(tag) => self.element(&tag).map(Token::Open),
                Event::End(_) => Ok(Token::Close),
                Event::Text(text) => Ok(Token::Text(text.xml10_content())),
                Event::CData(text) => Ok(Token::Text(text.xml10_content())),
                Event::GeneralRef(reference) => self.reference(&reference).map(Token::Char),
                Event::Comment(_) => continue,
                Event::Decl(declaration) if first => {
                    self.declaration(&declaration)?;
                    continue;
                }
                Event::Eof => Ok(Token::End),
                Event::Decl(_) => Err(self.broken("an XML declaration that is not at the start")),
                Event::DocType(_) => Err(self.broken("document types are refused")),
                Event::PI(_) => Err(self.broken("processing instructions are refused")),
                // Cannot occur: empty elements are expanded.
                Event::Empty(_) => Err(self.broken("an empty element")),
            };
        }
    }

    /// Refuses characters that XML does not allow. Callers that keep text must call this. Numbers
    /// and base64 have smaller alphabets anyway, which saves a walk over a column of megabytes.
    pub(super) fn check_characters(&self, text: &str) -> Result<(), Error> {
        if text.chars().all(is_xml_char) {
            Ok(())
        } else {
            Err(self.broken("a character that XML does not allow"))
        }
    }

    /// Returns [`Error::NotWellFormed`] with the position.
    pub(super) fn broken(&self, why: &str) -> Error {
        let place = self.reader.buffer_position();
        Error::NotWellFormed(format!("{} (near byte {place})", excerpt(why)))
    }

    /// Returns [`Error::NotXmlRpc`] with the position.
    pub(super) fn unexpected(&self, what: &str) -> Error {
        let place = self.reader.buffer_position();
        Error::NotXmlRpc(format!("{what} (near byte {place})"))
    }

    fn element(&self, tag: &BytesStart<'_>) -> Result<&'static str, Error> {
        let name = tag.name();
        let known = ELEMENTS.iter().find(|known| **known == name.as_ref());
        match known {
            None => {
                let name = excerpt(name.as_ref());
                Err(self.unexpected(&format!("the element <{name}> is not part of it")))
            }
            Some(_) if !tag.attributes_raw().trim_ascii().is_empty() => {
                Err(self.unexpected("attributes are not part of it"))
            }
            Some(known) => Ok(known),
        }
    }

    fn reference(&self, reference: &BytesRef<'_>) -> Result<char, Error> {
        let name: &str = reference;
        match name {
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "amp" => Ok('&'),
            "apos" => Ok('\''),
            "quot" => Ok('"'),
            _ => match reference.resolve_char_ref() {
                Ok(Some(c)) if is_xml_char(c) => Ok(c),
                Ok(None) => Err(self.broken(&format!("the entity &{name}; is not defined"))),
                _ => Err(self.broken("a reference to a character that XML does not allow")),
            },
        }
    }

    fn declaration(&self, declaration: &BytesDecl<'_>) -> Result<(), Error> {
        let version = declaration.version();
        if !version.is_ok_and(|version| version.starts_with("1.")) {
            return Err(self.broken("not XML 1.0"));
        }
        match declaration.encoding() {
            None => Ok(()),
            Some(Ok(name)) if ["utf-8", "us-ascii"].contains(&&*name.to_ascii_lowercase()) => {
                Ok(())
            }
            Some(_) => Err(self.broken("only UTF-8 is understood")),
        }
    }
}
