//! How one request gets its response: over an idle connection or a new one, only from the expected
//! key, and after a pairing run if need be.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::{Method, StatusCode};

use super::HttpPeer;
use crate::auth::Alpn;
use crate::auth::gate::PAIRING_DEADLINE;
use crate::client::connector::HttpConnection;
use crate::client::pairing;
use crate::client::range_get::Head;
use crate::config::connect_deadline;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::transport::dial::{Dial, Link};
use crate::transport::handshake;
use crate::transport::tls_link::TlsLink;

impl HttpPeer {
    /// Ensures that both sides know each other, with a request that costs nothing if they do.
    pub(super) fn introduce(&self, connection: TlsLink, deadline: Instant) -> Result<(), Error> {
        if !self.is_admitted() {
            drop(connection);
            return self.pair(0, deadline);
        }
        self.pool.register(connection.link(), connection.who())?;
        self.pool
            .put(HttpConnection::new(connection), Instant::now());
        let head = self.request(Method::HEAD, "/RPC2")?;
        let (connection, _) = self.exchange(deadline, &|connection| {
            connection.send(head.clone(), deadline)
        })?;
        self.pool.put(connection, Instant::now());
        Ok(())
    }

    fn is_admitted(&self) -> bool {
        self.client.gate.is_admitted(self.id)
    }

    /// Sends one request and returns the head of its response, which is not a 401.
    pub(super) fn exchange<R: AsRef<Head>>(
        &self,
        deadline: Instant,
        send: &dyn Fn(&HttpConnection) -> Result<R, Error>,
    ) -> Result<(HttpConnection, R), Error> {
        let seen = self.pairings.load(Ordering::Acquire);
        if self.is_admitted() {
            let (connection, reply) = self.attempt(deadline, send)?;
            if reply.as_ref().status != StatusCode::UNAUTHORIZED {
                return Ok((connection, reply));
            }
        }
        self.pool.forget_idle();
        self.pair(seen, deadline)?;
        let (connection, reply) = self.attempt(deadline, send)?;
        if reply.as_ref().status == StatusCode::UNAUTHORIZED {
            return Err(Error::Refused { who: self.who() });
        }
        Ok((connection, reply))
    }

    /// Sends on an idle connection, or on a fresh one if there is none or it turns out closed.
    fn attempt<R>(
        &self,
        deadline: Instant,
        send: &dyn Fn(&HttpConnection) -> Result<R, Error>,
    ) -> Result<(HttpConnection, R), Error> {
        let begun = Instant::now();
        if begun >= deadline {
            // This says nothing about the connections.
            return Err(Error::Timeout { who: self.who() });
        }
        if let Some(connection) = self.pool.take(begun) {
            match send(&connection) {
                Ok(reply) => {
                    let taken = u64::try_from(begun.elapsed().as_micros());
                    let taken = taken.unwrap_or(u64::MAX);
                    self.distance.fetch_min(taken, Ordering::Relaxed);
                    return Ok((connection, reply));
                }
                // The same has happened to the other idle ones.
                Err(Error::Unreachable { .. }) => self.pool.forget_idle(),
                Err(Error::Moved { .. }) => {}
                Err(error) => return Err(self.after(error)),
            }
        }
        let mut connection = self.open_connection(deadline)?;
        let mut reply = send(&connection);
        // The member was found elsewhere while this request was under way.
        if let Err(Error::Moved { .. }) = reply {
            connection = self.open_connection(deadline)?;
            reply = send(&connection);
        }
        let reply = reply.map_err(|error| self.after(error))?;
        Ok((connection, reply))
    }

    /// Drops the idle connections when no answer has come: they may be dead too, so the next
    /// request goes out on a fresh one.
    pub(super) fn after(&self, error: Error) -> Error {
        if matches!(error, Error::Timeout { .. }) {
            self.pool.forget_idle();
        }
        error
    }

    fn open_connection(&self, deadline: Instant) -> Result<HttpConnection, Error> {
        let (link, who, connect_by) = self.dial(deadline)?;
        let tls = self.client.gate.tls_client(Alpn::Http);
        let connection = TlsLink::handshake(link, tls, who, connect_by)?;
        self.check_identity(connection.peer())?;
        self.sit(connection.link().remote());
        Ok(HttpConnection::new(connection))
    }

    /// Records in the budget that the member now answers from `remote`.
    pub(super) fn sit(&self, remote: Option<IpAddr>) {
        let Some(remote) = remote else { return };
        let mut seat = self.seat.lock();
        if seat.as_ref().is_none_or(|seat| seat.address() != remote) {
            *seat = Some(self.client.budget.seat(self.id, remote));
        }
    }

    fn dial(&self, deadline: Instant) -> Result<(Arc<dyn Link>, String, Instant), Error> {
        let address = self.address();
        let who = address.to_string();
        let (link, connect_by) = dial(&*self.client.dialer, &address, deadline)?;
        self.pool.register(&link, &who)?;
        Ok((link, who, connect_by))
    }

    fn check_identity(&self, found: PeerId) -> Result<(), Error> {
        if found == self.id {
            return Ok(());
        }
        Err(Error::OtherIdentity { who: self.who() })
    }

    /// Pairs, unless another thread has paired since `seen` runs had ended.
    fn pair(&self, seen: u64, deadline: Instant) -> Result<(), Error> {
        let deadline = deadline.min(Instant::now() + PAIRING_DEADLINE);
        let Some(mut paired) = self.paired.try_lock_until(deadline) else {
            return Err(Error::Timeout { who: self.who() });
        };
        if self.pairings.load(Ordering::Acquire) == seen {
            *paired = self.pair_now(deadline);
            self.pairings.fetch_add(1, Ordering::Release);
        }
        paired.clone()
    }

    fn pair_now(&self, deadline: Instant) -> Result<(), Error> {
        let (link, who, connect_by) = self.dial(deadline)?;
        let tls = self.client.gate.tls_client(Alpn::Pair);
        let (mut connection, found) = handshake::buffered(&link, tls, &who, connect_by)?;
        // Checked before a guess is spent on it.
        self.check_identity(found)?;
        let mut socket = handshake::Timed::new(&link, deadline);
        let source = self.place.lock().1;
        let paired = pairing::run(
            &mut connection,
            &mut socket,
            &who,
            source,
            &self.client.gate,
        )?;
        link.shutdown();
        self.check_identity(paired)
    }
}

/// Dials, and returns the deadline for TLS.
pub(super) fn dial(
    dialer: &dyn Dial,
    address: &Address,
    deadline: Instant,
) -> Result<(Arc<dyn Link>, Instant), Error> {
    let connect_by = deadline.min(Instant::now() + connect_deadline(address));
    Ok((dialer.dial(address, connect_by)?, connect_by))
}
