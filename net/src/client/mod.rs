//! Members over the network: [`Peer`](crate::peer::Peer) spoken as HTTP over TLS ([`http_peer`]),
//! and the dialling side of `pairing`.

mod connection_pool;
mod connector;
mod head;
pub mod http_peer;
pub(crate) mod pairing;
mod range_get;
mod range_stream;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
