//! The errors in messages from the other side of the protocol of 2004.

use std::io;

/// The reason why a message from the other side contains no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The result was `False`: the password differs, or the server calls itself by another URL.
    #[error("it refused the password, or calls itself by another URL")]
    Denied,
    /// The server reported what is wrong.
    #[error("fault {code}: {message}")]
    Fault {
        /// The `faultCode` of the response.
        code: i64,
        /// `faultString`, with anything that is not UTF-8 replaced; at
        /// most [`MAX_TEXT_BYTES`](super::wire::MAX_TEXT_BYTES) long.
        message: String,
    },
    /// Not a document, truncated, or not of the expected shape.
    #[error("not the protocol of 2004: {0}")]
    Broken(String),
    /// More than this program accepts.
    #[error("more than {max} {what}")]
    Limit {
        /// The kind of item that exceeded the limit, in the plural.
        what: &'static str,
        /// The bound that was exceeded.
        max: u64,
    },
    /// The connection failed.
    #[error("{0}")]
    Read(io::Error),
    /// The data read could not be written to its destination.
    #[error("{0}")]
    Write(io::Error),
}
