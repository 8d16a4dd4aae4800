//! Picks the transport for an address.

use std::sync::Arc;
use std::time::Instant;

use super::dial::{Dial, Link};
use super::route::RouteState;
use crate::error::Error;
use crate::model::Address;

/// All transports of this node.
#[derive(Debug)]
pub(crate) struct Dialers {
    tcp: Arc<dyn Dial>,
    reach: Option<Arc<dyn Dial>>,
}

impl Dialers {
    /// Creates a dialer that uses `tcp`, and `reach` for addresses behind NATs if it is there.
    pub(crate) fn new(tcp: Arc<dyn Dial>, reach: Option<Arc<dyn Dial>>) -> Self {
        Self { tcp, reach }
    }

    fn of(&self, address: &Address) -> &dyn Dial {
        match (address, &self.reach) {
            (Address::Reach(_), Some(reach)) => &**reach,
            _ => &*self.tcp,
        }
    }
}

impl Dial for Dialers {
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error> {
        self.of(address).dial(address, deadline)
    }

    fn route(&self, address: &Address) -> Option<RouteState> {
        self.of(address).route(address)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{EndpointKey, ReachAddress};
    use crate::transport::dial::TcpDialer;
    use crate::transport::route::Route;
    use crate::transport::twin::{FarSide, MemoryDialer};

    fn behind_nats() -> Address {
        let endpoint = EndpointKey::from_bytes([1; 32]);
        let (relays, direct) = (Vec::new(), Vec::new());
        ReachAddress {
            endpoint,
            relays,
            direct,
        }
        .into()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn address_decides_the_transport() {
        let relayed = FarSide::There(Duration::ZERO, Route::Relayed("relay.example".into()));
        let (tcp, reach) = (
            MemoryDialer::new(FarSide::Silence),
            MemoryDialer::new(relayed),
        );
        let dialers = Dialers::new(tcp, Some(reach.clone()));
        dialers.dial(&behind_nats(), soon()).unwrap();
        assert_eq!(reach.dialled.lock()[0].0, behind_nats());
        let route = dialers.route(&behind_nats()).unwrap().route;
        assert_eq!(route, Route::Relayed("relay.example".into()));
        let error = dialers.dial(&Address::new("box", 7), soon()).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }

    #[test]
    fn without_reach_it_is_named() {
        let dialers = Dialers::new(Arc::new(TcpDialer::default()), None);
        let error = dialers.dial(&behind_nats(), soon()).unwrap_err();
        assert!(error.to_string().contains("--reach"), "{error}");
        assert_eq!(dialers.route(&behind_nats()), None);
    }
}
