//! Builds the endpoint: every setting of the engine is here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Builder, PortmapperConfig, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey};

use super::certificates::PinnedCertificates;
use crate::error::Error;
use crate::model::{OwnRelay, Relay, RelayAccess};

/// What the two sides of a connection agree on: each stream carries what a TCP connection would.
pub(super) const ALPN: &[u8] = b"tinyp2p-stream/1";

/// Never more: the engine gives up a connection of which more than 1,024 pieces wait out of order,
/// and pieces have at least 1,162 bytes, with a gap between two of them.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;

/// The same for all streams of a connection, and for what is sent but not acknowledged.
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_WINDOW: u64 = 8 << 20;

/// Streams that the other side may have open at a time.
pub(super) const MAX_STREAMS: u32 = 64;

/// A path on which nothing comes for that long is given up for another. Readers wait for bytes for
/// 15 s, and the rest of that is for the new path.
const PATH_IDLE: Duration = Duration::from_secs(6);

/// So that a path in use never looks idle, even if two of these are lost.
const PATH_KEEPALIVE: Duration = Duration::from_secs(2);

/// Binds the endpoint with the key that `seed` makes, at the UDP port of `at` if that is free, and
/// at no other address if it names one. `accepts` if others may call it.
pub(super) async fn bind(
    seed: &[u8; 32],
    relays: &[RelayAccess],
    at: SocketAddr,
    accepts: bool,
    certificates: Arc<PinnedCertificates>,
) -> Result<Endpoint, Error> {
    let build = |at| {
        let builder = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(seed))
            .relay_mode(RelayMode::Custom(relay_map(relays)))
            .ca_tls_config(certificates.clone().config())
            .transport_config(transport())
            .portmapper_config(PortmapperConfig::Disabled);
        let builder = if accepts {
            builder.alpns(vec![ALPN.to_vec()])
        } else {
            builder
        };
        at_address(builder, at)
    };
    let bound = match build(at)?.bind().await {
        // Another program, or another node, has that port.
        Err(_) if at.port() != 0 => build(SocketAddr::new(at.ip(), 0))?.bind().await,
        bound => bound,
    };
    bound.map_err(|error| Error::local("binding a UDP port", error))
}

fn at_address(builder: Builder, at: SocketAddr) -> Result<Builder, Error> {
    let places = match at.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port());
            vec![v4, at]
        }
        _ => vec![at],
    };
    let builder = builder.clear_ip_transports();
    places.into_iter().try_fold(builder, |builder, place| {
        let bound = builder.bind_addr(place);
        bound.map_err(|error| Error::local("binding a UDP port", error))
    })
}

fn transport() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .default_path_max_idle_timeout(PATH_IDLE)
        .default_path_keep_alive_interval(PATH_KEEPALIVE)
        .build()
}

/// Returns the relays that this node stays connected to, one of them at a time.
fn relay_map(relays: &[RelayAccess]) -> RelayMap {
    let map = RelayMap::empty();
    for access in relays {
        match &access.relay {
            Relay::N0 => map.extend(&public_relays()),
            Relay::Own(relay) => {
                if let Some((url, config)) = configuration(relay, access.token.as_deref()) {
                    map.insert(url, Arc::new(config));
                }
            }
        }
    }
    map
}

/// Returns the relays of the iroh project.
fn public_relays() -> RelayMap {
    iroh::defaults::prod::default_relay_map()
}

fn configuration(relay: &OwnRelay, token: Option<&str>) -> Option<(RelayUrl, RelayConfig)> {
    let url = url_of(relay)?;
    let mut config = RelayConfig::from(url.clone());
    if let Some(quic) = &mut config.quic {
        quic.port = relay.discovery;
    }
    let config = match token {
        Some(token) => config.with_auth_token(token),
        None => config,
    };
    Some((url, config))
}

fn url_of(relay: &OwnRelay) -> Option<RelayUrl> {
    relay.to_string().parse().ok()
}

/// Returns the URLs at which the engine finds `relay`.
pub(super) fn urls(relay: &Relay) -> Vec<RelayUrl> {
    match relay {
        Relay::N0 => public_relays().urls(),
        Relay::Own(relay) => url_of(relay).into_iter().collect(),
    }
}
