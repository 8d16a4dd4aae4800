//! The connections through NATs: one to each endpoint, whichever side made it.

use std::collections::HashMap;
use std::sync::Arc;

use iroh::endpoint::Connection;
use parking_lot::Mutex;

use crate::model::EndpointKey;

/// Beyond this number of endpoints, those without a connection are forgotten.
const MAX_QUIET: usize = 256;

#[derive(Default)]
pub(super) struct OpenConnections {
    slots: Mutex<HashMap<EndpointKey, Arc<ConnectionSlot>>>,
}

/// The place of the connection to one endpoint.
#[derive(Default)]
struct ConnectionSlot {
    /// Held while a connection is made, so that ten lanes make one.
    dialling: tokio::sync::Mutex<()>,
    open: Mutex<Option<Connection>>,
}

impl ConnectionSlot {
    fn open(&self) -> Option<Connection> {
        let mut open = self.open.lock();
        let is_open = |connection: &&Connection| connection.close_reason().is_none();
        let current = open.as_ref().filter(is_open).cloned();
        if current.is_none() {
            *open = None;
        }
        current
    }
}

impl OpenConnections {
    /// Returns the connection to `endpoint`, or the one that `connect` makes; also whether it was
    /// made just now.
    pub(super) async fn get_or<E>(
        &self,
        endpoint: EndpointKey,
        connect: impl Future<Output = Result<Connection, E>>,
    ) -> Result<(Connection, bool), E> {
        let slot = self.slot(endpoint);
        if let Some(open) = slot.open() {
            return Ok((open, false));
        }
        let _turn = slot.dialling.lock().await;
        if let Some(open) = slot.open() {
            return Ok((open, false));
        }
        let made = connect.await?;
        *slot.open.lock() = Some(made.clone());
        Ok((made, true))
    }

    /// Takes `connection`, which the other side made, unless there is one.
    pub(super) fn offer(&self, endpoint: EndpointKey, connection: &Connection) {
        let slot = self.slot(endpoint);
        if slot.open().is_none() {
            *slot.open.lock() = Some(connection.clone());
        }
    }

    /// Returns the connection to `endpoint`, if there is one.
    pub(super) fn get(&self, endpoint: EndpointKey) -> Option<Connection> {
        let slot = self.slots.lock().get(&endpoint).cloned();
        slot?.open()
    }

    /// Returns all connections that are open.
    pub(super) fn all(&self) -> Vec<(EndpointKey, Connection)> {
        let slots = self.slots.lock();
        let open = slots
            .iter()
            .filter_map(|(key, slot)| Some((*key, slot.open()?)));
        open.collect()
    }

    /// Forgets `connection`, on which nothing works any more.
    pub(super) fn give_up(&self, endpoint: EndpointKey, connection: &Connection) {
        let slot = self.slots.lock().get(&endpoint).cloned();
        if let Some(slot) = slot {
            let mut open = slot.open.lock();
            if open.as_ref().map(Connection::stable_id) == Some(connection.stable_id()) {
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
