//! What a server of 2004 answers, read as bytes.
//!
//! Its XML-RPC need not be XML: Python 2 writes the bytes of names and contents as they are, so whatever is not
//! UTF-8, or no character of XML, stands raw in the document. Every byte is there all the same, as long as
//! nobody insists on characters. So this reader knows tags and escapes, and takes everything else byte by byte:
//! no decoding, no line ends made equal. It is a stream: the contents of a file go to their sink as they come.
//!
//! Nothing else of XML is understood. A DOCTYPE, an entity of its own, a comment or CDATA ends the reading: an
//! honest server writes none, and bombs are made of them.

use std::io;

use data_encoding::BASE64;

/// The longest tag, and the longest escape; ours and theirs have less than 20 bytes.
const MAX_TAG: usize = 256;

/// Arrays and structures in one another. An answer has two arrays, a fault one structure.
const MAX_DEPTH: usize = 8;

/// The most values in one answer, names above all.
pub(super) const MAX_VALUES: usize = 65_536;

/// Base64 is decoded in parts of about this many characters; a multiple of four.
const BASE64_PART: usize = 4096;

/// Of a fault's text, this much is kept.
const MAX_FAULT: usize = 200;

/// Why an answer could not be read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection, or a limit on it.
    Io(io::Error),
    /// What came is no answer of a server of 2004.
    Nonsense(&'static str),
    /// It says that the token is wrong.
    Refused,
    /// It says that something failed there, in its own words.
    Fault(String),
    /// The sink does not take more.
    Sink(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where the bytes of an answer come from.
pub(super) trait Bytes {
    /// The bytes that have come and were not used yet, waiting for some if there are none; empty at the end.
    fn fill(&mut self) -> io::Result<&[u8]>;
    /// The first `count` of them are used.
    fn used(&mut self, count: usize);
}

/// An answer to operation 0: the names in one array.
pub(super) fn array(bytes: &mut dyn Bytes) -> Result<Vec<Vec<u8>>, Trouble> {
    match small(bytes)? {
        Value::Array(values) => values.into_iter().map(text).collect(),
        _ => Err(Trouble::Nonsense("an answer that is no array")),
    }
}

/// An answer to operation 1: the names in an array in an array.
pub(super) fn nested_array(bytes: &mut dyn Bytes) -> Result<Vec<Vec<u8>>, Trouble> {
    let outer = match small(bytes)? {
        Value::Array(values) => values,
        _ => return Err(Trouble::Nonsense("an answer that is no array")),
    };
    let mut names = Vec::new();
    for inner in outer {
        match inner {
            Value::Array(values) => {
                for value in values {
                    names.push(text(value)?);
                }
            }
            _ => return Err(Trouble::Nonsense("a list of names that is no array")),
        }
    }
    Ok(names)
}

/// An answer to operation 2: the contents go to `sink`, part by part.
pub(super) fn contents(
    bytes: &mut dyn Bytes,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Trouble> {
    let mut reader = Reader::new(bytes);
    reader.begin()?;
    let end = match reader.next()? {
        Token::Open("string") => {
            reader.text(sink)?;
            "string"
        }
        Token::Open("base64") => {
            reader.base64(sink)?;
            "base64"
        }
        Token::Empty("string" | "base64" | "value") => "",
        // A value without a type is a string.
        Token::Close("value") => {
            sink(&std::mem::take(&mut reader.between)).map_err(Trouble::Sink)?;
            return reader.end();
        }
        Token::Open("boolean") => {
            let mut said = Vec::new();
            reader.text(&mut |part| keep(&mut said, part, 8))?;
            return Err(match said.trim_ascii() {
                b"0" => Trouble::Refused,
                _ => Trouble::Nonsense("contents that are no string"),
            });
        }
        _ => return Err(Trouble::Nonsense("contents that are no string")),
    };
    if !end.is_empty() {
        reader.close(end)?;
    }
    reader.close("value")?;
    reader.end()
}

/// A value of an answer that is read whole.
enum Value {
    Text(Vec<u8>),
    Array(Vec<Value>),
    Other,
}

fn text(value: Value) -> Result<Vec<u8>, Trouble> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(Trouble::Nonsense("a name that is no string")),
    }
}

/// The one value of an answer.
fn small(bytes: &mut dyn Bytes) -> Result<Value, Trouble> {
    let mut reader = Reader::new(bytes);
    reader.begin()?;
    let value = reader.value(0, true)?;
    reader.end()?;
    Ok(value)
}

/// One piece of markup.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Open(&'a str),
    Close(&'a str),
    Empty(&'a str),
}

struct Reader<'a> {
    bytes: &'a mut dyn Bytes,
    tag: String,
    /// The text before the last tag, escapes resolved.
    between: Vec<u8>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a mut dyn Bytes) -> Self {
        Self {
            bytes,
            tag: String::new(),
            between: Vec::new(),
            values: 0,
        }
    }

    /// Up to where the value's type stands; or the fault.
    fn begin(&mut self) -> Result<(), Trouble> {
        self.open("methodResponse")?;
        match self.next()? {
            Token::Open("params") => {}
            Token::Open("fault") => return Err(self.fault()?),
            _ => return Err(Trouble::Nonsense("an answer that is none of XML-RPC")),
        }
        self.open("param")?;
        self.open("value")
    }

    /// Behind the value.
    fn end(&mut self) -> Result<(), Trouble> {
        for name in ["param", "params", "methodResponse"] {
            self.close(name)?;
        }
        Ok(())
    }

    fn fault(&mut self) -> Result<Trouble, Trouble> {
        self.open("value")?;
        let mut words = Vec::new();
        self.words(0, &mut words)?;
        // The text is the longest of code, names and text.
        let words = words.into_iter().max_by_key(Vec::len).unwrap_or_default();
        let text = crate::types::escaped(&words);
        Ok(Trouble::Fault(text.chars().take(MAX_FAULT).collect()))
    }

    /// All texts of a value that was opened, whatever it is.
    fn words(&mut self, depth: usize, words: &mut Vec<Vec<u8>>) -> Result<(), Trouble> {
        if depth > 2 * MAX_DEPTH {
            return Err(Trouble::Nonsense("values too deep in one another"));
        }
        loop {
            let is_closed = match self.next()? {
                Token::Open(_) => false,
                Token::Close(_) => true,
                Token::Empty(_) => continue,
            };
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(Trouble::Nonsense("more values than an answer may have"));
            }
            if is_closed {
                words.push(std::mem::take(&mut self.between));
                return Ok(());
            }
            self.words(depth + 1, words)?;
        }
    }

    /// The value whose opening tag has just been read.
    fn value(&mut self, depth: usize, is_outermost: bool) -> Result<Value, Trouble> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Trouble::Nonsense("more values than an answer may have"));
        }
        if depth > MAX_DEPTH {
            return Err(Trouble::Nonsense("values too deep in one another"));
        }
        let value = match self.next()? {
            Token::Close("value") => return Ok(Value::Text(std::mem::take(&mut self.between))),
            Token::Empty("string" | "base64") => Value::Text(Vec::new()),
            Token::Empty("array") => Value::Array(Vec::new()),
            Token::Open("string") => {
                let mut text = Vec::new();
                self.text(&mut |part| keep(&mut text, part, usize::MAX))?;
                self.close("string")?;
                Value::Text(text)
            }
            Token::Open("base64") => {
                let mut text = Vec::new();
                self.base64(&mut |part| keep(&mut text, part, usize::MAX))?;
                self.close("base64")?;
                Value::Text(text)
            }
            Token::Open("array") => self.array(depth)?,
            Token::Open("boolean") => {
                let mut said = Vec::new();
                self.text(&mut |part| keep(&mut said, part, 8))?;
                if is_outermost && said.trim_ascii() == b"0" {
                    return Err(Trouble::Refused);
                }
                self.close("boolean")?;
                Value::Other
            }
            Token::Open("int" | "i4" | "i8" | "double" | "nil") => {
                let name = self.tag.clone();
                self.text(&mut |_| Ok(()))?;
                self.close(&name)?;
                Value::Other
            }
            _ => return Err(Trouble::Nonsense("a value of no type that is expected")),
        };
        self.close("value")?;
        Ok(value)
    }

    fn array(&mut self, depth: usize) -> Result<Value, Trouble> {
        let mut values = Vec::new();
        match self.next()? {
            Token::Empty("data") => {}
            Token::Open("data") => loop {
                match self.next()? {
                    Token::Close("data") => break,
                    Token::Empty("value") => values.push(Value::Text(Vec::new())),
                    Token::Open("value") => values.push(self.value(depth + 1, false)?),
                    _ => return Err(Trouble::Nonsense("an array of something else than values")),
                }
            },
            _ => return Err(Trouble::Nonsense("an array without data")),
        }
        self.close("array")?;
        Ok(Value::Array(values))
    }

    fn open(&mut self, name: &str) -> Result<(), Trouble> {
        match self.next()? {
            Token::Open(found) if found == name => Ok(()),
            _ => Err(Trouble::Nonsense("an answer that is none of XML-RPC")),
        }
    }

    fn close(&mut self, name: &str) -> Result<(), Trouble> {
        match self.next()? {
            Token::Close(found) if found == name => Ok(()),
            _ => Err(Trouble::Nonsense("an answer that is none of XML-RPC")),
        }
    }

    /// The next tag; the text before it is in `between`, as far as there may be some.
    fn next(&mut self) -> Result<Token<'_>, Trouble> {
        loop {
            let mut between = std::mem::take(&mut self.between);
            between.clear();
            self.text(&mut |part| keep(&mut between, part, 64 << 10))?;
            self.between = between;
            self.read_tag()?;
            if !self.tag.starts_with('?') {
                break;
            }
        }
        let tag = self.tag.as_str();
        if let Some(name) = tag.strip_prefix('/') {
            Ok(Token::Close(name.trim_end()))
        } else if let Some(name) = tag.strip_suffix('/') {
            Ok(Token::Empty(name.trim_end()))
        } else {
            Ok(Token::Open(tag.trim_end()))
        }
    }

    /// What stands between `<` and `>`, where the reader is at the former.
    fn read_tag(&mut self) -> Result<(), Trouble> {
        let mut tag = std::mem::take(&mut self.tag).into_bytes();
        tag.clear();
        let mut is_first = true;
        loop {
            let bytes = self.bytes.fill()?;
            if bytes.is_empty() {
                return Err(ended());
            }
            let from = usize::from(is_first);
            is_first = false;
            let end = bytes[from..].iter().position(|byte| *byte == b'>');
            let part = &bytes[from..end.map_or(bytes.len(), |end| from + end)];
            if tag.len() + part.len() > MAX_TAG {
                return Err(Trouble::Nonsense("a tag that does not end"));
            }
            tag.extend_from_slice(part);
            let used = from + part.len() + usize::from(end.is_some());
            self.bytes.used(used);
            if end.is_some() {
                break;
            }
        }
        if tag.first() == Some(&b'!') {
            return Err(Trouble::Nonsense("a document type, a comment or CDATA"));
        }
        self.tag = String::from_utf8(tag).map_err(|_| Trouble::Nonsense("a tag that is no text"))?;
        Ok(())
    }

    /// The text up to the next `<`, escapes resolved, in parts.
    fn text(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Trouble> {
        loop {
            let bytes = self.bytes.fill()?;
            if bytes.is_empty() {
                return Err(ended());
            }
            let special = bytes.iter().position(|byte| matches!(byte, b'<' | b'&'));
            let plain = special.unwrap_or(bytes.len());
            if plain > 0 {
                sink(&bytes[..plain]).map_err(Trouble::Sink)?;
            }
            match special.map(|at| bytes[at]) {
                Some(b'<') => {
                    self.bytes.used(plain);
                    return Ok(());
                }
                Some(_) => {
                    self.bytes.used(plain + 1);
                    let mut buffer = [0; 4];
                    let resolved = self.escape(&mut buffer)?;
                    sink(resolved).map_err(Trouble::Sink)?;
                }
                None => self.bytes.used(plain),
            }
        }
    }

    /// What an escape stands for, where the reader is behind its `&`.
    fn escape<'b>(&mut self, buffer: &'b mut [u8; 4]) -> Result<&'b [u8], Trouble> {
        let mut name = Vec::with_capacity(8);
        loop {
            let bytes = self.bytes.fill()?;
            let byte = *bytes.first().ok_or_else(ended)?;
            self.bytes.used(1);
            match byte {
                b';' => break,
                _ if name.len() < 10 => name.push(byte),
                _ => return Err(Trouble::Nonsense("an escape that does not end")),
            }
        }
        let unknown = Trouble::Nonsense("an entity of its own");
        let character = match &name[..] {
            b"lt" => '<',
            b"gt" => '>',
            b"amp" => '&',
            b"quot" => '"',
            b"apos" => '\'',
            [b'#', number @ ..] => {
                let number = std::str::from_utf8(number).unwrap_or_default();
                let code = match number.strip_prefix('x') {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                code.ok().and_then(char::from_u32).ok_or(unknown)?
            }
            _ => return Err(unknown),
        };
        Ok(character.encode_utf8(buffer).as_bytes())
    }

    /// Base64 up to the next `<`, decoded.
    fn base64(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Trouble> {
        let mut pending: Vec<u8> = Vec::with_capacity(2 * BASE64_PART);
        let mut is_sound = true;
        let mut decode = |pending: &mut Vec<u8>, count: usize| -> io::Result<()> {
            match BASE64.decode(&pending[..count]) {
                Ok(bytes) => {
                    pending.drain(..count);
                    sink(&bytes)
                }
                Err(_) => {
                    is_sound = false;
                    Err(io::ErrorKind::InvalidData.into())
                }
            }
        };
        let outcome = self.text(&mut |part| {
            for part in part.chunks(BASE64_PART) {
                pending.extend(part.iter().filter(|byte| !byte.is_ascii_whitespace()));
                if pending.len() >= BASE64_PART {
                    let whole = pending.len() - pending.len() % 4;
                    decode(&mut pending, whole)?;
                }
            }
            Ok(())
        });
        let outcome = outcome.and_then(|()| {
            let rest = pending.len();
            decode(&mut pending, rest).map_err(Trouble::Sink)
        });
        match is_sound {
            true => outcome,
            false => Err(Trouble::Nonsense("base64 that is none")),
        }
    }
}

fn ended() -> Trouble {
    Trouble::Io(io::ErrorKind::UnexpectedEof.into())
}

/// Appends `part`, of which no more than `most` bytes in all are kept.
fn keep(text: &mut Vec<u8>, part: &[u8], most: usize) -> io::Result<()> {
    let room = most.saturating_sub(text.len());
    text.extend_from_slice(&part[..part.len().min(room)]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that come in parts of a given length.
    struct Parts<'a> {
        rest: &'a [u8],
        length: usize,
    }

    impl Bytes for Parts<'_> {
        fn fill(&mut self) -> io::Result<&[u8]> {
            Ok(&self.rest[..self.rest.len().min(self.length)])
        }

        fn used(&mut self, count: usize) {
            self.rest = &self.rest[count..];
        }
    }

    fn answer(value: &[u8]) -> Vec<u8> {
        let before = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>";
        let behind = b"</value>\n</param>\n</params>\n</methodResponse>\n";
        [&before[..], value, behind].concat()
    }

    fn read(document: &[u8], length: usize) -> Result<Vec<u8>, Trouble> {
        let mut read = Vec::new();
        let mut parts = Parts {
            rest: document,
            length,
        };
        contents(&mut parts, &mut |part| keep(&mut read, part, usize::MAX))?;
        Ok(read)
    }

    fn names(value: &[u8]) -> Result<Vec<Vec<u8>>, Trouble> {
        let document = answer(value);
        nested_array(&mut Parts {
            rest: &document,
            length: 7,
        })
    }

    /// As Python 2's xmlrpclib writes a string.
    fn escaped(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for byte in bytes {
            match byte {
                b'&' => text.extend_from_slice(b"&amp;"),
                b'<' => text.extend_from_slice(b"&lt;"),
                b'>' => text.extend_from_slice(b"&gt;"),
                other => text.push(*other),
            }
        }
        [b"<string>", &text[..], b"</string>"].concat()
    }

    proptest! {
        #[test]
        fn contents_come_byte_for_byte_however_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            length in 1usize..50,
        ) {
            prop_assert_eq!(&read(&answer(&escaped(&bytes)), length).unwrap(), &bytes);
            let text = BASE64.encode(&bytes);
            let lines: Vec<&str> = text.as_bytes().chunks(76).map(|l| std::str::from_utf8(l).unwrap()).collect();
            let base64 = format!("<base64>\n{}\n</base64>", lines.join("\n"));
            prop_assert_eq!(&read(&answer(base64.as_bytes()), length).unwrap(), &bytes);
        }

        #[test]
        fn nothing_that_a_server_sends_makes_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0usize..200,
        ) {
            let mut document = answer(b"<array><data><value><string>x</string></value></data></array>");
            let at = at.min(document.len());
            document.splice(at..at, bytes.iter().copied());
            let _ = read(&document, 5);
            let _ = array(&mut Parts { rest: &document, length: 5 });
            let _ = read(&bytes, 5);
        }
    }

    #[test]
    fn carriage_returns_and_escapes_by_number_survive() {
        let document = answer(b"<string>a\r\nb&#13;&#xe4;&quot;</string>");
        assert_eq!(read(&document, 9).unwrap(), "a\r\nb\rä\"".as_bytes());
        assert_eq!(read(&answer(b"untyped &amp; plain"), 3).unwrap(), b"untyped & plain");
        assert_eq!(read(&answer(b"<string/>"), 3).unwrap(), b"");
    }

    #[test]
    fn names_are_bytes_in_an_array_in_an_array() {
        let list = b"<array><data>\n<value><array><data>\n<value><string>a&amp;b</string></value>\n\
            <value><string>\xff\x01</string></value>\n</data></array></value>\n</data></array>";
        let expected = [&b"a&b"[..], b"\xff\x01"];
        assert_eq!(names(list).unwrap(), expected);
    }

    #[test]
    fn a_false_instead_of_an_answer_is_a_refusal() {
        let no = b"<boolean>0</boolean>";
        assert!(matches!(names(no), Err(Trouble::Refused)));
        assert!(matches!(read(&answer(no), 4), Err(Trouble::Refused)));
        assert_eq!(read(&answer(b"<string>0</string>"), 4).unwrap(), b"0");
    }

    #[test]
    fn a_fault_is_told_in_its_own_words_on_one_line() {
        let fault = b"<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n\
            <name>faultCode</name>\n<value><int>1</int></value>\n</member>\n<member>\n<name>faultString</name>\n\
            <value><string>[Errno 21] Is a\ndirectory</string></value>\n</member>\n</struct></value>\n</fault>\n\
            </methodResponse>\n";
        let Err(Trouble::Fault(text)) = read(fault, 6) else {
            panic!("no fault");
        };
        assert_eq!(text, "[Errno 21] Is a\\ndirectory");
    }

    #[test]
    fn what_no_server_of_2004_writes_is_refused() {
        let bomb = b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'>]><methodResponse>";
        let deep = [b"<array><data><value>".repeat(1000), b"x".to_vec()].concat();
        let many = [b"<array><data>".to_vec(), b"<value/>".repeat(3)].concat();
        let wrong = [
            bomb.to_vec(),
            answer(&deep),
            answer(&many),
            answer(b"<string>&bomb;</string>"),
            answer(b"<string><![CDATA[x]]></string>"),
            answer(b"<base64>a$b=</base64>"),
            answer(&b"<".repeat(1000)),
            answer(b"<int>5</int>"),
            b"hello".to_vec(),
            Vec::new(),
        ];
        for document in wrong {
            assert!(read(&document, 16).is_err());
            let mut parts = Parts {
                rest: &document,
                length: 16,
            };
            assert!(nested_array(&mut parts).is_err());
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_never_taken_for_a_whole_one() {
        let document = answer(b"<string>0123456789</string>");
        let whole = document.len() - 1;
        for end in 0..whole {
            assert!(read(&document[..end], 8).is_err(), "cut at {end}");
        }
    }
}
