//! What can be wrong with what the other side of the protocol of 2004 sends.

use std::io;

/// Why there is no answer in what the other side sent.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The result was `False`: the password is another, or the server calls itself by another URL.
    #[error("it refused the password, or calls itself by another URL")]
    Denied,
    /// It said what is wrong.
    #[error("fault {code}: {message}")]
    Fault {
        /// `faultCode`.
        code: i64,
        /// `faultString`, what is not UTF-8 replaced; at most
        /// [`MAX_TEXT_BYTES`](super::wire::MAX_TEXT_BYTES) long.
        message: String,
    },
    /// Not a document, cut short, or not of the shape that was expected.
    #[error("not the protocol of 2004: {0}")]
    Broken(String),
    /// More than this program takes.
    #[error("more than {max} {what}")]
    Limit {
        /// What there was too much of, in the plural.
        what: &'static str,
        /// The bound that was exceeded.
        max: u64,
    },
    /// The connection failed.
    #[error("{0}")]
    Read(io::Error),
    /// What was read could not be put where it belongs.
    #[error("{0}")]
    Write(io::Error),
}
