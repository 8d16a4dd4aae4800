//! Faults: why a call was declined, as a number for programs and a sentence for people.

use crate::model::text::drives_terminal;

/// Why a call was declined: an XML-RPC fault. Numbers are part of the protocol and never reused;
/// those from -32700 to -32603 are from the XML-RPC fault code interoperability list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultCode {
    /// -32700: the body is not well-formed XML.
    NotWellFormed,
    /// -32600: well-formed, but not an XML-RPC call.
    InvalidRequest,
    /// -32601: no such method.
    MethodNotFound,
    /// -32602: wrong number, type or value of parameters.
    InvalidParameters,
    /// -32603: the callee's own disk or system failed.
    Internal,
    /// 1: the path does not lead to any shared entry.
    NotFound,
    /// 2: a directory was expected.
    NotADirectory,
    /// 3: a documented limit was exceeded; the message names it.
    LimitExceeded,
    /// 4: the regular expression does not compile; the message says where.
    BadPattern,
    /// 5: the protocol versions do not overlap.
    UnsupportedVersion,
    /// 6: it is shared, but the callee itself may not read it.
    Forbidden,
    /// Any other number.
    Other(i32),
}

impl FaultCode {
    /// Returns the `faultCode` on the wire.
    pub fn number(self) -> i32 {
        match self {
            Self::NotWellFormed => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParameters => -32602,
            Self::Internal => -32603,
            Self::NotFound => 1,
            Self::NotADirectory => 2,
            Self::LimitExceeded => 3,
            Self::BadPattern => 4,
            Self::UnsupportedVersion => 5,
            Self::Forbidden => 6,
            Self::Other(number) => number,
        }
    }

    /// Returns the meaning of a `faultCode`. An unknown number is [`FaultCode::Other`].
    pub fn from_number(number: i32) -> Self {
        match number {
            -32700 => Self::NotWellFormed,
            -32600 => Self::InvalidRequest,
            -32601 => Self::MethodNotFound,
            -32602 => Self::InvalidParameters,
            -32603 => Self::Internal,
            1 => Self::NotFound,
            2 => Self::NotADirectory,
            3 => Self::LimitExceeded,
            4 => Self::BadPattern,
            5 => Self::UnsupportedVersion,
            6 => Self::Forbidden,
            other => Self::Other(other),
        }
    }
}

/// An XML-RPC fault: a number for programs, a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The kind of refusal.
    pub code: FaultCode,
    /// One line; on the wire it is cut to [`Fault::MAX_MESSAGE_BYTES`].
    pub message: String,
}

impl Fault {
    /// Longer messages are cut, when sent and when received.
    pub const MAX_MESSAGE_BYTES: usize = 1024;

    /// Returns true if it says that there is nothing, or nothing of the requested kind.
    pub fn is_absence(&self) -> bool {
        matches!(self.code, FaultCode::NotFound | FaultCode::NotADirectory)
    }

    /// Creates a fault with its sentence.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Turns a fault's message into one short line that can neither drive a terminal nor fail to be
/// XML: runs of white space and of characters that act on a screen become one space, and anything
/// longer than [`Fault::MAX_MESSAGE_BYTES`] is cut.
pub(crate) fn one_line(message: &str) -> String {
    let unfit = |c: char| c.is_whitespace() || drives_terminal(c);
    let words: Vec<&str> = message
        .split(unfit)
        .filter(|word| !word.is_empty())
        .collect();
    let mut line = words.join(" ");
    let end = (0..=Fault::MAX_MESSAGE_BYTES.min(line.len()))
        .rev()
        .find(|end| line.is_char_boundary(*end));
    line.truncate(end.unwrap_or(0));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::HOSTILE;

    #[test]
    fn a_message_is_a_line_of_what_can_be_seen() {
        let message: String = HOSTILE.into_iter().chain("told".chars()).collect();
        assert_eq!(one_line(&message), "told");
    }
}
