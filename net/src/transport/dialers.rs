//! Picks the transport for an address.

use std::sync::Arc;
use std::time::Instant;

use super::dial::{Dial, Link, TcpDialer};
use super::reach::Reach;
use super::route::RouteState;
use crate::error::Error;
use crate::model::Address;

/// All transports of this node.
#[derive(Debug)]
pub(crate) struct Dialers {
    tcp: TcpDialer,
    reach: Option<Arc<Reach>>,
}

impl Dialers {
    /// Creates a dialer that uses TCP, and `reach` for addresses behind NATs if it is there.
    pub(crate) fn new(tcp: TcpDialer, reach: Option<Arc<Reach>>) -> Self {
        Self { tcp, reach }
    }
}

impl Dial for Dialers {
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error> {
        match (address, &self.reach) {
            (Address::Reach(_), Some(reach)) => reach.dial(address, deadline),
            _ => self.tcp.dial(address, deadline),
        }
    }

    fn route(&self, address: &Address) -> Option<RouteState> {
        match (address, &self.reach) {
            (Address::Reach(_), Some(reach)) => reach.route(address),
            _ => self.tcp.route(address),
        }
    }
}
