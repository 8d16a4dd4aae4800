//! What all connections share, and what is known of the caller at the end of one.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::body::piece_buffers;
use super::connection_limits::{ConnectionLimits, MemberConnection};
use super::limits::ServerLimits;
use super::page_prefetch::PagePrefetch;
use super::recent_files::RecentFiles;
use super::turnstile::Turnstile;
use crate::auth::Gate;
use crate::concurrency::buffer_pool::BufferPool;
use crate::model::CallSource;
use crate::service::Service;

pub(super) struct ServerContext {
    pub(super) service: Arc<Service>,
    pub(super) gate: Arc<Gate>,
    pub(super) limits: ServerLimits,
    pub(super) buffers: Arc<BufferPool>,
    pub(super) recent: RecentFiles,
    pub(super) ahead: Arc<PagePrefetch>,
    pub(super) connections: Arc<ConnectionLimits>,
    pub(super) turnstile: Arc<Turnstile>,
    /// Permits for all connections together.
    pub(super) room: Arc<Semaphore>,
    /// The runtime that serves members. Strangers are not served there: see `accept`.
    pub(super) members: Handle,
}

impl ServerContext {
    pub(super) fn new(
        service: Arc<Service>,
        gate: Arc<Gate>,
        limits: ServerLimits,
        members: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections: ConnectionLimits::new(&limits),
            turnstile: Arc::new(Turnstile::new(limits.hellos)),
            room: Arc::new(Semaphore::new(limits.connections)),
            buffers: piece_buffers(),
            recent: RecentFiles::default(),
            ahead: Arc::default(),
            service,
            gate,
            limits,
            members,
        })
    }
}

/// One member's connection.
pub(super) struct Caller {
    /// Its place among all connections.
    pub(super) connection: MemberConnection,
    /// Where it comes from.
    pub(super) source: CallSource,
    /// What all connections share.
    pub(super) context: Arc<ServerContext>,
}
