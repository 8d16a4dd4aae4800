//! How bytes reach another machine, up to an encrypted connection to one key: by TCP ([`dial`]),
//! or through NATs ([`reach`]).

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod conformance;
pub mod dial;
pub(crate) mod dialers;
pub(crate) mod handshake;
pub mod reach;
pub(crate) mod resolver;
pub mod route;
pub(crate) mod tls_link;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod twin;
