//! The connections to one member: those that idle, and a way to end all of them.
//!
//! A connection is taken out to carry a request, and put back once its response was read to the
//! end. The one used last is taken first, so that surplus connections grow old and are closed.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::client::connector::HttpConnection;
use crate::config::{CLIENT_IDLE, CLIENT_SURPLUS_IDLE};
use crate::error::Error;
use crate::transport::dial::Link;

/// Idle connections kept to one member.
const MAX_IDLE: usize = 16;

#[derive(Default)]
pub(super) struct ConnectionPool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The idle connections and when each was put back, the latest last.
    idle: Vec<(Instant, HttpConnection)>,
    /// Every connection that may still be open.
    links: Vec<Weak<dyn Link>>,
    closed: bool,
}

impl ConnectionPool {
    /// Takes the connection that was used last, if it has not idled too long.
    pub(super) fn take(&self, now: Instant) -> Option<HttpConnection> {
        let mut state = self.state.lock();
        let last = state.idle.pop();
        state.drop_surplus(now);
        let (since, connection) = last?;
        (now.saturating_duration_since(since) <= CLIENT_IDLE).then_some(connection)
    }

    /// Gives back a connection whose last response was read to the end.
    pub(super) fn put(&self, connection: HttpConnection, now: Instant) {
        let mut state = self.state.lock();
        if state.closed || connection.is_retired() {
            return;
        }
        state.drop_surplus(now);
        if state.idle.len() >= MAX_IDLE {
            state.idle.remove(0);
        }
        state.idle.push((now, connection));
    }

    /// Closes all idle connections.
    pub(super) fn forget_idle(&self) {
        self.state.lock().idle.clear();
    }

    /// Sends all further requests over new connections. Those in use go on while data arrives.
    pub(super) fn renew(&self) {
        let mut state = self.state.lock();
        let idle = std::mem::take(&mut state.idle);
        state.links().for_each(|link| link.retire());
        drop(state);
        drop(idle);
    }

    /// Ends every connection, including those in use. New ones can be made.
    pub(super) fn cut(&self) {
        self.end(false);
    }

    /// Registers `link` so that [`ConnectionPool::close`] reaches it; fails after the
    /// pool was closed.
    pub(super) fn register(&self, link: &Arc<dyn Link>, who: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::unreachable(who, "the connection was given up"));
        }
        state.links.retain(|link| link.strong_count() > 0);
        state.links.push(Arc::downgrade(link));
        Ok(())
    }

    /// Ends every connection, including those in use, and allows no new ones.
    pub(super) fn close(&self) {
        self.end(true);
    }

    fn end(&self, for_good: bool) {
        let mut state = self.state.lock();
        state.closed |= for_good;
        let idle = std::mem::take(&mut state.idle);
        let links: Vec<_> = state.links().collect();
        drop(state);
        links.iter().for_each(|link| link.shutdown());
        drop(idle);
    }
}

impl State {
    /// Closes what is not needed beside one more connection.
    fn drop_surplus(&mut self, now: Instant) {
        self.idle
            .retain(|(since, _)| now.saturating_duration_since(*since) <= CLIENT_SURPLUS_IDLE);
    }

    fn links(&self) -> impl Iterator<Item = Arc<dyn Link>> {
        self.links.iter().filter_map(Weak::upgrade)
    }
}
