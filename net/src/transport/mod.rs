//! How bytes get to another machine, up to an encrypted connection to one key. A second transport
//! will stand beside the one for TCP in [`dial`].

pub mod dial;
pub(crate) mod handshake;
pub(crate) mod resolver;
pub(crate) mod tls_link;
