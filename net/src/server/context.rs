//! What all connections share.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Service;
use super::ahead::Ahead;
use super::body::Buffers;
use super::connection_limits::ConnectionLimits;
use super::limits::Limits;
use super::recent::Recent;
use super::turnstile::Turnstile;
use crate::auth::Gate;

pub(super) struct ServerContext {
    pub(super) service: Arc<Service>,
    pub(super) gate: Arc<Gate>,
    pub(super) limits: Limits,
    pub(super) buffers: Arc<Buffers>,
    pub(super) recent: Recent,
    pub(super) ahead: Arc<Ahead>,
    pub(super) connections: Arc<ConnectionLimits>,
    pub(super) turnstile: Arc<Turnstile>,
    /// Where members are served. Strangers are not: see `accept`.
    pub(super) members: Handle,
}

impl ServerContext {
    pub(super) fn new(
        service: Arc<Service>,
        gate: Arc<Gate>,
        limits: Limits,
        members: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections: ConnectionLimits::new(&limits),
            turnstile: Arc::new(Turnstile::new(limits.hellos)),
            buffers: Arc::default(),
            recent: Recent::default(),
            ahead: Arc::default(),
            service,
            gate,
            limits,
            members,
        })
    }
}
