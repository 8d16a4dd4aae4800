//! A faulty link: it delays bytes, cuts idle connections, or swallows their data. Otherwise it
//! passes TCP on unchanged.
//!
//! Chunks sent in a row arrive in a row, as over a long line: a delay is added once, not to each
//! chunk in turn. All settings can be changed while connections are open.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::swarm::{PORT, next_address};

/// Limit on the chunks in transit in one direction of one connection.
const ON_THE_WAY: usize = 1024;

/// Interval at which a silent connection is checked.
const LOOK: Duration = Duration::from_millis(50);

/// The slow link to one node.
pub(crate) struct SlowLink {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Delay of bytes, in milliseconds.
    delay: AtomicU64,
    /// Milliseconds without a byte from the node before a connection is cut; 0 for never.
    patience: AtomicU64,
    /// Connections so far, and how many of them, the oldest ones, lose all data.
    opened: AtomicU64,
    swallowed: AtomicU64,
    /// How often these connections have lost something.
    lost: AtomicU64,
}

impl SlowLink {
    /// Creates a link to `target` that adds no delay yet.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((next_address(), PORT)).expect("listen");
        let address = listener.local_addr().expect("see the port");
        let state = Arc::new(State::default());
        let of_each = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // If the node is down it refuses connections, and so does its link.
                if let Ok(far) = TcpStream::connect(target) {
                    join(&near, &far, &of_each);
                }
            }
        });
        Self { address, state }
    }

    /// Returns the address of the near end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delays bytes by this time in each direction from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state
            .delay
            .store(milliseconds(delay), Ordering::Relaxed);
    }

    /// Cuts connections, from now on, after the node has sent nothing on them for this long.
    pub(crate) fn cut_when_idle(&self, patience: Duration) {
        let patience = milliseconds(patience);
        self.state.patience.store(patience, Ordering::Relaxed);
    }

    /// Silently loses all data on the connections that are open now. New connections work.
    pub(crate) fn swallow(&self) {
        let opened = self.state.opened.load(Ordering::Relaxed);
        self.state.swallowed.store(opened, Ordering::Relaxed);
    }

    /// Returns how often something was lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a short time")
}

fn join(near: &TcpStream, far: &TcpStream, state: &Arc<State>) {
    let number = state.opened.fetch_add(1, Ordering::Relaxed);
    for (from, to, is_answer) in [(near, far, false), (far, near, true)] {
        // Otherwise the link would add delays of its own.
        to.set_nodelay(true).expect("set an option of a socket");
        from.set_read_timeout(Some(LOOK))
            .expect("set an option of a socket");
        let from = from.try_clone().expect("share a socket");
        let to = to.try_clone().expect("share a socket");
        let (sender, chunks) = sync_channel(ON_THE_WAY);
        let state = Arc::clone(state);
        thread::spawn(move || deliver(&chunks, to));
        thread::spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; 64 * 1024];
            let mut heard = Instant::now();
            loop {
                let length = match from.read(&mut buffer) {
                    Ok(length @ 1..) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let patience = state.patience.load(Ordering::Relaxed);
                        let is_idle = milliseconds(heard.elapsed()) > patience;
                        if is_answer && patience > 0 && is_idle {
                            break;
                        }
                        continue;
                    }
                    Ok(0) | Err(_) => break,
                };
                heard = Instant::now();
                if number < state.swallowed.load(Ordering::Relaxed) {
                    state.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let late = Duration::from_millis(state.delay.load(Ordering::Relaxed));
                if sender
                    .send((heard + late, buffer[..length].to_vec()))
                    .is_err()
                {
                    break;
                }
            }
        });
    }
}

/// Writes each chunk when it is due, and passes the end on.
fn deliver(chunks: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, bytes) in chunks {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
