//! The twin of a link for tests: a pipe in memory that can be slow, cut off, or lead to nobody.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::dial::{Dial, Link, RETIRED_PATIENCE, broken, retired};
use super::route::{Route, RouteState};
use crate::error::Error;
use crate::model::Address;

/// How many bytes are on the way at most.
const CAPACITY: usize = 256 << 10;

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PipeState {
    bytes: Vec<u8>,
    is_ended: bool,
    is_retired: bool,
}

impl Pipe {
    fn end(&self) {
        self.state.lock().is_ended = true;
        self.changed.notify_all();
    }

    /// Waits for a change; an error at `deadline`, or when the link is retired and nothing comes.
    fn wait(
        &self,
        state: &mut parking_lot::MutexGuard<'_, PipeState>,
        deadline: Instant,
    ) -> io::Result<()> {
        let patience = deadline.min(Instant::now() + RETIRED_PATIENCE);
        if self.changed.wait_until(state, patience).timed_out() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if state.is_retired {
                return Err(retired());
            }
        }
        Ok(())
    }
}

/// One end of a connection in memory.
#[derive(Debug)]
pub(crate) struct MemoryLink {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    delay: Duration,
}

impl MemoryLink {
    /// Creates both ends of a connection on which each write takes `delay`.
    pub(crate) fn pair(delay: Duration) -> (Self, Self) {
        let (there, back) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
        let end = |incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| Self {
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            delay,
        };
        (end(&back, &there), end(&there, &back))
    }

    /// Says that no more bytes come from this end.
    pub(crate) fn finish(&self) {
        self.outgoing.end();
    }
}

impl Link for MemoryLink {
    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let mut state = self.incoming.state.lock();
        while state.bytes.is_empty() {
            if state.is_ended {
                return Ok(0);
            }
            self.incoming.wait(&mut state, deadline)?;
        }
        let count = buffer.len().min(state.bytes.len());
        buffer[..count].copy_from_slice(&state.bytes[..count]);
        state.bytes.drain(..count);
        drop(state);
        self.incoming.changed.notify_all();
        Ok(count)
    }

    fn write_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        std::thread::sleep(self.delay);
        while !bytes.is_empty() {
            let mut state = self.outgoing.state.lock();
            if state.is_ended {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let count = bytes.len().min(CAPACITY - state.bytes.len());
            if count == 0 {
                self.outgoing.wait(&mut state, deadline)?;
                continue;
            }
            state.bytes.extend(&bytes[..count]);
            bytes = &bytes[count..];
            drop(state);
            self.outgoing.changed.notify_all();
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        let state = self.incoming.state.lock();
        state.bytes.is_empty() && !state.is_ended
    }

    fn shutdown(&self) {
        self.incoming.end();
        self.outgoing.end();
    }

    fn retire(&self) {
        for pipe in [&self.incoming, &self.outgoing] {
            pipe.state.lock().is_retired = true;
        }
    }

    fn is_retired(&self) -> bool {
        self.incoming.state.lock().is_retired
    }

    fn remote(&self) -> Option<IpAddr> {
        None
    }
}

/// What lies behind an address of [`MemoryDialer`].
#[derive(Clone, Debug)]
pub(crate) enum FarSide {
    /// Somebody who is connected after this time, by that way.
    There(Duration, Route),
    /// Nobody, which shows at the deadline.
    Silence,
}

/// Leads to whatever a test says lies behind an address.
#[derive(Debug)]
pub(crate) struct MemoryDialer {
    behind: FarSide,
    /// The other ends of what was dialled.
    pub(crate) dialled: Mutex<Vec<(Address, MemoryLink)>>,
}

impl MemoryDialer {
    pub(crate) fn new(behind: FarSide) -> Arc<Self> {
        let dialled = Mutex::default();
        Arc::new(Self { behind, dialled })
    }
}

impl Dial for MemoryDialer {
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        match &self.behind {
            FarSide::There(delay, _) if *delay < left => {
                std::thread::sleep(*delay);
                let (near, far) = MemoryLink::pair(Duration::ZERO);
                self.dialled.lock().push((address.clone(), far));
                Ok(Arc::new(near))
            }
            _ => {
                std::thread::sleep(left);
                let why = io::ErrorKind::TimedOut.into();
                Err(broken(&address.to_string(), &why))
            }
        }
    }

    fn route(&self, _: &Address) -> Option<RouteState> {
        match &self.behind {
            FarSide::There(delay, route) => Some(RouteState {
                route: route.clone(),
                ..RouteState::tcp(Some(*delay))
            }),
            FarSide::Silence => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conformance::{FarEnd, Pair, link_conforms};

    impl FarEnd for MemoryLink {
        fn send(&mut self, bytes: &[u8]) {
            self.write_all(bytes, Instant::now() + Duration::from_secs(5))
                .unwrap();
        }

        fn receive(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            let mut filled = 0;
            while filled < count {
                let by = Instant::now() + Duration::from_secs(5);
                filled += self.read(&mut bytes[filled..], by).unwrap();
            }
            bytes
        }

        fn finish(&mut self) {
            MemoryLink::finish(self);
        }
    }

    fn pair() -> Pair {
        let (near, far) = MemoryLink::pair(Duration::ZERO);
        (Arc::new(near), Box::new(far))
    }

    link_conforms!(pair);
}
