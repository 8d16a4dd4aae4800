//! The ways that the bytes of a connection take.

use std::net::IpAddr;

use iroh::endpoint::{Connection, Path};
use iroh::{RelayUrl, TransportAddr};

use crate::transport::route::{Route, RouteState};

/// Returns the state of `connection`; `None` while it has no path.
pub(super) fn state(connection: &Connection) -> Option<RouteState> {
    let paths = connection.paths();
    let bytes = |is_such: fn(&Path<'_>) -> bool| {
        let such = paths.iter().filter(|path| is_such(path));
        let stats = such.map(|path| path.stats());
        stats
            .map(|stats| stats.udp_tx.bytes + stats.udp_rx.bytes)
            .sum()
    };
    let used = paths.iter().find(Path::is_selected);
    let used = used.or_else(|| paths.iter().next())?;
    Some(RouteState {
        route: route(used.remote_addr()),
        round_trip: Some(used.rtt()),
        relayed: bytes(|path| path.is_relay()),
        direct: bytes(|path| path.is_ip()),
    })
}

fn route(address: &TransportAddr) -> Route {
    match address {
        TransportAddr::Relay(url) => Route::Relayed(host_of(url)),
        _ => Route::Direct,
    }
}

/// Returns the host of a relay for people.
pub(super) fn host_of(relay: &RelayUrl) -> String {
    let host = relay.host_str().unwrap_or_default().trim_end_matches('.');
    host.trim_matches(['[', ']']).to_owned()
}

/// Returns the address of the other side, if the path in use is a direct one.
pub(super) fn direct_address(connection: &Connection) -> Option<IpAddr> {
    let paths = connection.paths();
    let used = paths.iter().find(Path::is_selected)?;
    match used.remote_addr() {
        TransportAddr::Ip(address) => Some(address.ip().to_canonical()),
        _ => None,
    }
}
