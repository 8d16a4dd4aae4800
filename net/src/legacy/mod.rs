//! The protocol of 2004, which the first TinyP2P spoke: for networks that still do.
//!
//! XML-RPC over plain HTTP with one method, `f`, whose first parameter is a token made of the network's
//! password. Nothing is encrypted: whoever listens sees names and contents, can repeat what he
//! heard, and can test guesses of the password at leisure. So nothing here runs unless the
//! user asked for it (`--legacy`), and nothing of it opens the door to the other protocol.
//!
//! [`token`] makes and checks the tokens; [`bytes`] and [`wire`] read and write the documents, which are
//! bytes rather than text in one direction; [`url`](mod@url) and [`known`] keep the addresses of servers. `PROTOCOL.md`, section 12, is the description.

pub mod bytes;
pub mod known;
pub mod token;
pub mod url;
pub mod wire;

pub use known::Known;
pub use token::Key;
pub use url::Url;
