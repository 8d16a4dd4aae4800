//! How bytes reach another machine, up to an encrypted connection to one key. A second transport
//! will stand beside the TCP one in [`dial`].

pub mod dial;
pub(crate) mod handshake;
pub(crate) mod resolver;
pub(crate) mod tls_link;
