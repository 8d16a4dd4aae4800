//! The connections through NATs: the latest one to each endpoint, whichever side made it, for as
//! long as something uses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iroh::endpoint::Connection;
use parking_lot::Mutex;

use crate::model::EndpointKey;

/// Beyond this number of endpoints, those without a connection are forgotten.
const MAX_QUIET: usize = 256;

/// A connection without a stream is closed after one to two of these: both sides keep it alive with
/// a packet every few seconds, which is of no use once a member is reached by TCP, or is gone.
const UNUSED: Duration = Duration::from_secs(15);

/// A connection, and how many of its streams are in use here.
#[derive(Clone)]
pub(super) struct SharedConnection {
    pub(super) connection: Connection,
    uses: Arc<AtomicUsize>,
}

/// One use of a connection, until it is dropped.
pub(super) struct ConnectionUse(Arc<AtomicUsize>);

impl Drop for ConnectionUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedConnection {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            uses: Arc::default(),
        }
    }

    pub(super) fn begin_use(&self) -> ConnectionUse {
        self.uses.fetch_add(1, Ordering::Relaxed);
        ConnectionUse(Arc::clone(&self.uses))
    }

    fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    /// Waits until nothing has used it for a while.
    pub(super) async fn unused(&self) {
        let mut looks = 0;
        while looks < 2 {
            tokio::time::sleep(UNUSED).await;
            let is_used = self.uses.load(Ordering::Relaxed) > 0;
            looks = if is_used { 0 } else { looks + 1 };
        }
    }
}

#[derive(Default)]
pub(super) struct OpenConnections {
    slots: Mutex<HashMap<EndpointKey, Arc<ConnectionSlot>>>,
}

/// The place of the connection to one endpoint.
#[derive(Default)]
struct ConnectionSlot {
    /// Held while a connection is made, so that ten lanes make one.
    dialling: tokio::sync::Mutex<()>,
    open: Mutex<Option<SharedConnection>>,
}

impl ConnectionSlot {
    fn open(&self) -> Option<SharedConnection> {
        let open = self.open.lock();
        open.as_ref().filter(|held| held.is_open()).cloned()
    }

    fn put(&self, connection: SharedConnection) {
        *self.open.lock() = Some(connection);
    }
}

impl OpenConnections {
    /// Returns the connection to `endpoint`, or the one that `connect` makes; also whether it was
    /// made just now.
    pub(super) async fn get_or<E>(
        &self,
        endpoint: EndpointKey,
        connect: impl Future<Output = Result<Connection, E>>,
    ) -> Result<(SharedConnection, bool), E> {
        let slot = self.slot(endpoint);
        if let Some(open) = slot.open() {
            return Ok((open, false));
        }
        let _turn = slot.dialling.lock().await;
        if let Some(open) = slot.open() {
            return Ok((open, false));
        }
        let made = SharedConnection::new(connect.await?);
        slot.put(made.clone());
        Ok((made, true))
    }

    /// Takes `connection`, which the other side made, in place of what there was: a node that was
    /// started again knows nothing of older ones, which look open for half a minute.
    pub(super) fn offer(&self, endpoint: EndpointKey, connection: SharedConnection) {
        self.slot(endpoint).put(connection);
    }

    /// Returns the connection to `endpoint`, if there is one.
    pub(super) fn get(&self, endpoint: EndpointKey) -> Option<SharedConnection> {
        let slot = self.slots.lock().get(&endpoint).cloned();
        slot?.open()
    }

    /// Returns all connections that are open.
    pub(super) fn all(&self) -> Vec<(EndpointKey, SharedConnection)> {
        let slots = self.slots.lock();
        let open = slots
            .iter()
            .filter_map(|(key, slot)| Some((*key, slot.open()?)));
        open.collect()
    }

    /// Opens no more streams on `connection`. Those that there are go on.
    pub(super) fn give_up(&self, endpoint: EndpointKey, connection: &SharedConnection) {
        let slot = self.slots.lock().get(&endpoint).cloned();
        if let Some(slot) = slot {
            let mut open = slot.open.lock();
            if open.as_ref().is_some_and(|held| held.is_same(connection)) {
                *open = None;
            }
        }
    }

    fn slot(&self, endpoint: EndpointKey) -> Arc<ConnectionSlot> {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_QUIET && !slots.contains_key(&endpoint) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.open().is_some());
        }
        Arc::clone(slots.entry(endpoint).or_default())
    }
}
