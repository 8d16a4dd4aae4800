//! The way that bytes take to another member.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// The bytes of one incoming connection, both ways.
pub trait ByteChannel: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteChannel for S {}

/// How a member is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// By a TCP connection.
    Tcp,
    /// Through NATs, without anybody between.
    Direct,
    /// Through NATs, by a relay at this host.
    Relayed(String),
}

/// The state of the way to a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteState {
    /// The way that bytes take now.
    pub route: Route,
    /// The round trip on it, as far as it is known.
    pub round_trip: Option<Duration>,
    /// Bytes sent and received by relays, packets' heads included.
    pub relayed: u64,
    /// The same, through NATs without anybody between.
    pub direct: u64,
}

impl RouteState {
    /// Returns the state of a way by TCP.
    pub fn tcp(round_trip: Option<Duration>) -> Self {
        Self {
            route: Route::Tcp,
            round_trip,
            relayed: 0,
            direct: 0,
        }
    }
}
