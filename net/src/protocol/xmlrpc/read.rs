//! The grammar of XML-RPC: tokens to calls, responses and values.
//!
//! There is one function per element, recursive for values; [`DocumentLimits::depth`]
//! bounds the recursion.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use data_encoding::BASE64;

use super::tokens::{Token, Tokens};
use super::{DocumentLimits, Error, Value, excerpt};

/// A `methodCall` document, decoded.
#[derive(Clone, PartialEq, Debug)]
pub struct MethodCall {
    /// The method's name, unchecked.
    pub method: String,
    /// The parameters of the call.
    pub params: Vec<Value>,
}

/// A `methodResponse` document, decoded.
#[derive(Clone, PartialEq, Debug)]
pub enum MethodResponse {
    /// The one value that a method returns.
    Returned(Value),
    /// The callee's refusal.
    Fault {
        /// The number in `faultCode`.
        code: i32,
        /// The text of `faultString`, unchecked.
        message: String,
    },
}

/// Reads a `methodCall` that spans all of `document`.
pub fn read_call(document: &[u8], limits: &DocumentLimits) -> Result<MethodCall, Error> {
    let mut reader = DocumentReader::new(document, limits)?;
    reader.begin("methodCall")?;
    reader.open("methodName")?;
    let method = reader.string()?;
    let params = match reader.child()? {
        None => Vec::new(),
        Some("params") => {
            let params = reader.params()?;
            reader.close()?;
            params
        }
        Some(other) => return Err(reader.misplaced(other)),
    };
    reader.end()?;
    Ok(MethodCall { method, params })
}

/// Reads a `methodResponse` that spans all of `document`.
pub fn read_response(document: &[u8], limits: &DocumentLimits) -> Result<MethodResponse, Error> {
    let mut reader = DocumentReader::new(document, limits)?;
    reader.begin("methodResponse")?;
    let outcome = match reader.child()? {
        Some("params") => reader.returned()?,
        Some("fault") => reader.fault()?,
        Some(other) => return Err(reader.misplaced(other)),
        None => return Err(reader.unexpected("an empty methodResponse")),
    };
    reader.close()?;
    reader.end()?;
    Ok(outcome)
}

/// A reader of one document. Each method starts after the start tag of what it reads, and stops
/// after the matching end tag.
struct DocumentReader<'a> {
    tokens: Tokens<'a>,
    limits: &'a DocumentLimits,
    values: usize,
}

impl<'a> DocumentReader<'a> {
    fn new(document: &'a [u8], limits: &'a DocumentLimits) -> Result<Self, Error> {
        within(document.len(), limits.bytes, "bytes")?;
        Ok(Self {
            tokens: Tokens::new(document),
            limits,
            values: 0,
        })
    }

    fn params(&mut self) -> Result<Vec<Value>, Error> {
        let mut params = Vec::new();
        while let Some(element) = self.child()? {
            if element != "param" {
                return Err(self.misplaced(element));
            }
            self.open("value")?;
            params.push(self.value(0)?);
            self.close()?;
        }
        Ok(params)
    }

    fn returned(&mut self) -> Result<MethodResponse, Error> {
        let mut params = self.params()?;
        match (params.pop(), params.is_empty()) {
            (Some(value), true) => Ok(MethodResponse::Returned(value)),
            _ => Err(self.unexpected("a response has exactly one value")),
        }
    }

    fn fault(&mut self) -> Result<MethodResponse, Error> {
        self.open("value")?;
        let value = self.value(0)?;
        self.close()?;
        if let Value::Struct(mut members) = value
            && let Some(Value::Int(code)) = members.remove("faultCode")
            && let Ok(code) = i32::try_from(code)
            && let Some(Value::String(message)) = members.remove("faultString")
        {
            return Ok(MethodResponse::Fault { code, message });
        }
        Err(self.unexpected("a fault is a struct of faultCode and faultString"))
    }

    /// Reads a `value` inside `depth` arrays and structs.
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.values += 1;
        within(self.values, self.limits.values, "values")?;
        let mut untyped = Cow::Borrowed("");
        let kind = loop {
            match self.tokens.next()? {
                Token::Open(kind) => break kind,
                Token::Close => return self.checked(untyped).map(Value::String),
                other => self.append(&mut untyped, other, self.limits.string_bytes)?,
            }
        };
        if !is_blank(&untyped) {
            return Err(self.unexpected("text beside a typed value"));
        }
        let value = self.typed(kind, depth)?;
        self.close()?;
        Ok(value)
    }

    fn typed(&mut self, kind: &'static str, depth: usize) -> Result<Value, Error> {
        match kind {
            "int" | "i4" => self.parsed::<i32>(kind).map(|n| Value::Int(n.into())),
            "i8" => self.parsed(kind).map(Value::Int),
            "boolean" => match self.parsed::<u8>(kind)? {
                0 => Ok(Value::Boolean(false)),
                1 => Ok(Value::Boolean(true)),
                _ => Err(self.unexpected("a boolean is 0 or 1")),
            },
            "double" => match self.parsed::<f64>(kind)? {
                n if n.is_finite() => Ok(Value::Double(n)),
                _ => Err(self.unexpected("a double is finite")),
            },
            "string" | "dateTime.iso8601" => self.string().map(Value::String),
            "base64" => self.base64().map(Value::Bytes),
            "array" => self.array(self.deeper(depth)?).map(Value::Array),
            "struct" => self.members(self.deeper(depth)?).map(Value::Struct),
            other => Err(self.misplaced(other)),
        }
    }

    fn deeper(&self, depth: usize) -> Result<usize, Error> {
        within(depth + 1, self.limits.depth, "levels of nesting")?;
        Ok(depth + 1)
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, Error> {
        self.open("data")?;
        let mut values = Vec::new();
        while let Some(element) = self.child()? {
            if element != "value" {
                return Err(self.misplaced(element));
            }
            values.push(self.value(depth)?);
        }
        self.close()?;
        Ok(values)
    }

    fn members(&mut self, depth: usize) -> Result<BTreeMap<String, Value>, Error> {
        let mut members = BTreeMap::new();
        while let Some(element) = self.child()? {
            if element != "member" {
                return Err(self.misplaced(element));
            }
            within(members.len() + 1, self.limits.members, "struct members")?;
            self.open("name")?;
            let name = self.string()?;
            self.open("value")?;
            let value = self.value(depth)?;
            self.close()?;
            match members.entry(name) {
                Entry::Vacant(place) => place.insert(value),
                Entry::Occupied(_) => return Err(self.unexpected("a member given twice")),
            };
        }
        Ok(members)
    }

    /// Parses a number. The characters are restricted first: Rust's own parsers also accept
    /// `inf` and `nan`.
    fn parsed<T: std::str::FromStr>(&mut self, kind: &str) -> Result<T, Error> {
        let text = self.text(self.limits.string_bytes)?;
        let plausible = |b: u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        text.parse()
            .ok()
            .filter(|_| text.bytes().all(plausible))
            .ok_or_else(|| self.unexpected(&format!("'{}' is no {kind}", excerpt(&text))))
    }

    fn string(&mut self) -> Result<String, Error> {
        let text = self.text(self.limits.string_bytes)?;
        self.checked(text)
    }

    fn checked(&self, text: Cow<'a, str>) -> Result<String, Error> {
        self.tokens.check_characters(&text)?;
        Ok(text.into_owned())
    }

    /// Decodes base64, with or without line breaks. Without, it decodes straight from the document.
    fn base64(&mut self) -> Result<Vec<u8>, Error> {
        let max = self.limits.string_bytes;
        let text = self.text(max.saturating_mul(2))?;
        // One search per character: each is a memchr, which a walk over all characters is not.
        let text = if [' ', '\t', '\n', '\r'].iter().any(|c| text.contains(*c)) {
            Cow::Owned(text.replace(is_space, ""))
        } else {
            text
        };
        let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
        within(
            (text.len() / 4 * 3).saturating_sub(padding),
            max,
            "bytes in one value",
        )?;
        BASE64
            .decode(text.as_bytes())
            .map_err(|_| self.unexpected("damaged base64"))
    }

    /// Reads the character data of an element without children, at most `max` bytes.
    fn text(&mut self, max: usize) -> Result<Cow<'a, str>, Error> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.tokens.next()? {
                Token::Close => return Ok(text),
                Token::Open(element) => return Err(self.misplaced(element)),
                other => self.append(&mut text, other, max)?,
            }
        }
    }

    /// Appends a piece of character data; borrows as long as there is only one piece.
    fn append(&self, text: &mut Cow<'a, str>, piece: Token<'a>, max: usize) -> Result<(), Error> {
        let length = match &piece {
            Token::Text(piece) => piece.len(),
            Token::Char(c) => c.len_utf8(),
            _ => return Err(self.tokens.broken("the document ends early")),
        };
        within(text.len() + length, max, "bytes in one value")?;
        match piece {
            Token::Text(piece) if text.is_empty() => *text = piece,
            Token::Text(piece) => text.to_mut().push_str(&piece),
            Token::Char(c) => text.to_mut().push(c),
            _ => {}
        }
        Ok(())
    }

    /// Returns the next child of the current element, or `None` at its end tag. Only white space
    /// may stand between elements.
    fn child(&mut self) -> Result<Option<&'static str>, Error> {
        loop {
            match self.tokens.next()? {
                Token::Open(element) => return Ok(Some(element)),
                Token::Close => return Ok(None),
                Token::Text(text) if is_blank(&text) => {}
                Token::Char(c) if is_space(c) => {}
                Token::End => return Err(self.tokens.broken("the document ends early")),
                _ => return Err(self.unexpected("text between elements")),
            }
        }
    }

    fn open(&mut self, expected: &'static str) -> Result<(), Error> {
        match self.child()? {
            Some(element) if element == expected => Ok(()),
            _ => Err(self.unexpected(&format!("<{expected}> is missing"))),
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        match self.child()? {
            None => Ok(()),
            Some(element) => Err(self.misplaced(element)),
        }
    }

    /// Reads the start tag of the document's root element, which only white space may precede.
    fn begin(&mut self, expected: &'static str) -> Result<(), Error> {
        loop {
            match self.tokens.next()? {
                Token::Open(element) if element == expected => return Ok(()),
                Token::Open(element) => return Err(self.misplaced(element)),
                Token::Text(text) if is_blank(&text) => {}
                Token::End => return Err(self.tokens.broken("an empty document")),
                _ => return Err(self.tokens.broken("content before the root element")),
            }
        }
    }

    /// Checks that the document ends after its one root element.
    fn end(&mut self) -> Result<(), Error> {
        loop {
            match self.tokens.next()? {
                Token::End => return Ok(()),
                Token::Text(text) if is_blank(&text) => {}
                _ => return Err(self.tokens.broken("content behind the root element")),
            }
        }
    }

    fn misplaced(&self, element: &str) -> Error {
        self.unexpected(&format!("<{element}> is out of place"))
    }

    fn unexpected(&self, what: &str) -> Error {
        self.tokens.unexpected(what)
    }
}

fn within(count: usize, max: usize, what: &'static str) -> Result<(), Error> {
    if count > max {
        return Err(Error::Limit { what, max });
    }
    Ok(())
}

fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

/// Tests for white space as XML defines it (XML 1.0, production 3).
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}
