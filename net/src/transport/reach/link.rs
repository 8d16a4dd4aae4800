//! A stream of a connection through NATs, for threads that dial.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Instant;

use iroh::endpoint::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout_at;

use super::open_connections::{ConnectionUse, SharedConnection};
use super::paths::direct_address;
use super::{Inner, ReachRuntime};
use crate::model::EndpointKey;
use crate::transport::dial::{Link, RETIRED_PATIENCE, retired};

/// The code with which a stream is cut off.
const CUT: VarInt = VarInt::from_u32(1);

/// A stream that threads read and write, each call with its deadline.
pub(super) struct StreamLink {
    /// Keeps the threads that move the bytes.
    _runtime: Arc<ReachRuntime>,
    handle: Handle,
    inner: Arc<Inner>,
    endpoint: EndpointKey,
    shared: SharedConnection,
    _use: ConnectionUse,
    /// Something has come from the other side.
    is_heard: AtomicBool,
    /// Locked for a call: one thread uses a link at a time.
    send: Mutex<SendStream>,
    recv: Mutex<RecvStream>,
    /// Set once, to end the calls of other threads.
    is_down: watch::Sender<bool>,
    is_retired: AtomicBool,
    remote: Option<IpAddr>,
}

impl StreamLink {
    pub(super) fn new(
        (runtime, handle): (Arc<ReachRuntime>, Handle),
        inner: Arc<Inner>,
        (endpoint, shared): (EndpointKey, SharedConnection),
        (send, recv): (SendStream, RecvStream),
    ) -> Self {
        Self {
            _runtime: runtime,
            handle,
            inner,
            endpoint,
            remote: direct_address(&shared.connection),
            _use: shared.begin_use(),
            shared,
            is_heard: AtomicBool::new(false),
            send: Mutex::new(send),
            recv: Mutex::new(recv),
            is_down: watch::Sender::new(false),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Runs `work` until `deadline`; [`io::ErrorKind::ConnectionAborted`] after a shutdown.
    fn until<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let mut is_down = self.is_down.subscribe();
        let mut work = std::pin::pin!(work);
        self.handle.block_on(async {
            loop {
                let patience = deadline.min(Instant::now() + RETIRED_PATIENCE);
                tokio::select! {
                    biased;
                    _ = is_down.wait_for(|is_down| *is_down) => {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    done = timeout_at(patience.into(), &mut work) => match done {
                        Ok(done) => return done,
                        Err(_) if Instant::now() >= deadline => {
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                        Err(_) if self.is_retired() => return Err(retired()),
                        Err(_) => {}
                    },
                }
            }
        })
    }
}

impl Link for StreamLink {
    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let read = self.until(deadline, async {
            let mut recv = self.recv.lock().await;
            Ok(recv.read(buffer).await?.unwrap_or(0))
        });
        match &read {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Ok(0),
            // The other side may have been started again: it does not know this connection, which
            // looks open for half a minute. The next stream gets another.
            Err(error)
                if error.kind() == io::ErrorKind::TimedOut
                    && !self.is_heard.load(Ordering::Relaxed) =>
            {
                self.inner.open.give_up(self.endpoint, &self.shared);
            }
            Err(_) => {}
            Ok(_) => self.is_heard.store(true, Ordering::Relaxed),
        }
        read
    }

    fn write_all(&self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        self.until(deadline, async {
            let mut send = self.send.lock().await;
            Ok(send.write_all(bytes).await?)
        })
    }

    fn is_quiet(&self) -> bool {
        if *self.is_down.borrow() {
            return false;
        }
        let Ok(mut recv) = self.recv.try_lock() else {
            return false;
        };
        // A connection that was closed is ready, with an error. Nothing can be lost: bytes that
        // came unasked make the link one that is not used again.
        let mut buffer = [0];
        let mut buffer = ReadBuf::new(&mut buffer);
        let mut context = Context::from_waker(Waker::noop());
        AsyncRead::poll_read(Pin::new(&mut *recv), &mut context, &mut buffer).is_pending()
    }

    fn shutdown(&self) {
        self.is_down.send_replace(true);
        // Whoever uses them now drops them soon, which has the same effect.
        if let Ok(mut send) = self.send.try_lock() {
            let _ = send.reset(CUT);
        }
        if let Ok(mut recv) = self.recv.try_lock() {
            let _ = recv.stop(CUT);
        }
    }

    fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    fn remote(&self) -> Option<IpAddr> {
        // All members behind relays are one source, as their keys cost nothing.
        Some(self.remote.unwrap_or(Ipv6Addr::UNSPECIFIED.into()))
    }
}

impl fmt::Debug for StreamLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLink").finish_non_exhaustive()
    }
}
