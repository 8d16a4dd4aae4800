//! The protocol of 2004, which the first TinyP2P spoke: for networks that still do.
//!
//! XML-RPC over plain HTTP with one method, `f`, whose first parameter is a token made of the network's
//! password. Nothing is encrypted: whoever listens sees names and contents, can repeat what he
//! heard, and can test guesses of the password at leisure. So nothing here runs unless the
//! user asked for it (`--legacy`), and nothing of it opens the door to the other protocol.
//!
//! [`token`] makes and checks the tokens; [`bytes`] and [`wire`] read and write the documents, which are
//! bytes rather than text in one direction; [`url`](mod@url) and [`known`] keep the addresses of servers. `PROTOCOL.md`, section 12, is the description.
//!
//! [`client`] calls one server, [`peer`] makes a member of it, whose files [`store`] keeps, and [`members`]
//! knows which are there.

pub mod bytes;
pub mod client;
pub mod known;
pub mod members;
pub mod peer;
pub mod store;
pub mod token;
#[cfg(test)]
mod twin;
pub mod url;
pub mod wire;

pub use known::Known;
pub use token::Key;
pub use url::Url;
