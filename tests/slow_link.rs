//! A link that takes its time: passes TCP on untouched, every byte a while after it came.
//!
//! What one sends in a row arrives in a row, as over a long line: the delay is added once, not to each
//! chunk in turn. It can be changed while connections are open.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::swarm::{PORT, next_address};

/// Chunks that may be on their way in one direction of one connection.
const ON_THE_WAY: usize = 1024;

/// The slow way to one node.
pub(crate) struct SlowLink {
    address: SocketAddr,
    delay: Arc<AtomicU64>,
}

impl SlowLink {
    /// A link to `target` that does not delay anything yet.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((next_address(), PORT)).expect("listen");
        let address = listener.local_addr().expect("see the port");
        let delay = Arc::new(AtomicU64::new(0));
        let of_each = Arc::clone(&delay);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // A node that is not there refuses, and so does the link to it.
                if let Ok(far) = TcpStream::connect(target) {
                    join(&near, &far, &of_each);
                }
            }
        });
        Self { address, delay }
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on bytes take so long in each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).expect("a short time");
        self.delay.store(milliseconds, Ordering::Relaxed);
    }
}

fn join(near: &TcpStream, far: &TcpStream, delay: &Arc<AtomicU64>) {
    for (from, to) in [(near, far), (far, near)] {
        // Without this, the link would add delays of its own.
        to.set_nodelay(true).expect("set an option of a socket");
        let from = from.try_clone().expect("share a socket");
        let to = to.try_clone().expect("share a socket");
        let (sender, chunks) = sync_channel(ON_THE_WAY);
        let delay = Arc::clone(delay);
        thread::spawn(move || deliver(&chunks, to));
        thread::spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let late = Duration::from_millis(delay.load(Ordering::Relaxed));
                let chunk = (Instant::now() + late, buffer[..length].to_vec());
                if sender.send(chunk).is_err() {
                    break;
                }
            }
        });
    }
}

/// Writes each chunk when its time has come, and passes the end on.
fn deliver(chunks: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, bytes) in chunks {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
