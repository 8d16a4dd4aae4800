//! The ways to write contents, and the choice between them.

use data_encoding::BASE64;

use crate::protocol::xmlrpc::is_xml_char;

/// A way to write contents: as text if they are text that XML can carry, which every client
/// understands, else in base64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Unchanged except for escapes; holds the length in the document, in bytes.
    Text(u64),
    /// As a `base64` element.
    Base64,
}

impl Form {
    /// Returns the part of the document before the contents.
    pub fn head(self) -> &'static [u8] {
        match self {
            Self::Text(_) => b"<?xml version=\"1.0\" encoding=\"utf-8\"?><methodResponse><params><param><value><string>",
            Self::Base64 => b"<?xml version=\"1.0\" encoding=\"utf-8\"?><methodResponse><params><param><value><base64>",
        }
    }

    /// Returns the part of the document after the contents.
    pub fn tail(self) -> &'static [u8] {
        match self {
            Self::Text(_) => b"</string></value></param></params></methodResponse>",
            Self::Base64 => b"</base64></value></param></params></methodResponse>",
        }
    }

    /// Returns the length of the whole document for `contents` bytes of contents.
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

/// Returns the escape of a byte that cannot stand for itself.
fn escape(byte: u8) -> Option<&'static str> {
    match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        // Otherwise the reader's line-end rule would turn it into a line feed.
        b'\r' => Some("&#13;"),
        _ => None,
    }
}

/// Examines contents before they are sent, to find their [`Form`].
#[derive(Debug, Default)]
pub struct Survey {
    length: u64,
    /// The beginning of a character that continues in the next piece.
    cut: Vec<u8>,
}

impl Survey {
    /// Examines the next piece. Returns false if the contents cannot be text; then the rest need
    /// not be examined.
    pub fn is_text(&mut self, piece: &[u8]) -> bool {
        let mut whole = std::mem::take(&mut self.cut);
        let piece = if whole.is_empty() {
            piece
        } else {
            whole.extend_from_slice(piece);
            &whole
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

    /// Returns the form of contents of which every piece was text.
    pub fn form(self) -> Form {
        if self.cut.is_empty() {
            Form::Text(self.length)
        } else {
            Form::Base64
        }
    }
}
