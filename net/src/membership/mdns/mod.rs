//! Finds members on the local network without a given address: DNS-SD over multicast DNS (RFC 6763,
//! RFC 6762), service `_tinyp2p._tcp`.
//!
//! Anyone on the link can read the announcements, so they hold the peer id, the port and the
//! addresses of this host, and nothing that depends on the password, the user or the share. Anyone
//! on the link can also make announcements, so what is heard is only ever an address to try.
//!
//! This is not a general responder or resolver. It knows one service, and keeps only what belongs
//! to it: whatever is sent to the port, memory and work stay within fixed bounds. `endpoint`
//! decides, without IO; `links` has the sockets; this file is the thread between them.

mod endpoint;
mod intake;
mod links;
mod message;
mod name;
mod neighbours;
mod record_state;
mod records;
mod responder;
mod service_instance;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::concurrency::stop_signal::StopSignal;
use crate::error::Error;
use crate::fairness::{Refill, TokenBucket};
use crate::membership::interfaces::{GATHERED, InterfaceChanges};
use crate::model::PeerId;
use endpoint::MdnsEndpoint;
use links::{ChannelId, LocalLink, MulticastSockets};
pub(crate) use neighbours::Sighting;

/// The largest message (RFC 6762, section 17). Longer ones are truncated.
const MAX_DATAGRAM: usize = 9000;

/// The rate of datagrams taken from the sockets, read or not: about 5 % of one core. Beyond it, the
/// thread sleeps, and the kernel drops what exceeds its bounded queues.
const TAKEN_PER_SECOND: u32 = 10_000;
const TAKEN_BURST: u32 = 1000;
const REST: Duration = Duration::from_millis(20);

/// The number of datagrams taken from one socket before the others have their turn.
const TURN: usize = 32;

/// A callback for announced nodes and their addresses. Returns true when that node is
/// already in contact.
pub(crate) type OnSighting = Arc<dyn Fn(&Sighting) -> bool + Send + Sync>;

/// Announces this node and listens for others until stopped.
pub(crate) struct Discovery {
    /// Wakes the thread, which ends once nobody holds `running`.
    wake: Arc<StopSignal>,
    running: Sender<()>,
    done: Receiver<()>,
}

impl Discovery {
    /// Starts on all interfaces, including those that come up later. `port` is the port this node
    /// listens on; 0 announces nothing.
    ///
    /// # Errors
    /// [`Error::Local`] when there are no threads or file descriptors left. It is not an error if
    /// multicast does not work on some interface.
    pub(crate) fn start(me: PeerId, port: u16, found: OnSighting) -> Result<Self, Error> {
        let failed = |why: io::Error| Error::local("finding members on the local network", why);
        let wake = Arc::new(StopSignal::new().map_err(failed)?);
        let (running, stop) = mpsc::channel();
        let (ended, done) = mpsc::channel();
        let station = DiscoveryThread {
            endpoint: MdnsEndpoint::new(me, port, RandomState::new().hash_one(me), Instant::now()),
            sockets: MulticastSockets::default(),
            interfaces: InterfaceChanges::listen(),
            taken: TokenBucket::new(
                Refill {
                    burst: TAKEN_BURST,
                    per_second: TAKEN_PER_SECOND,
                },
                Instant::now(),
            ),
            found,
            wake: wake.clone(),
            stop,
        };
        thread::Builder::new()
            .name("discovery".into())
            .spawn(move || {
                station.run();
                // Nobody may be waiting for it.
                let _ = ended.send(());
            })
            .map_err(failed)?;
        Ok(Self {
            wake,
            running,
            done,
        })
    }

    /// Says goodbye to the link (RFC 6762, section 10.1) and stops by `deadline`.
    pub(crate) fn stop(self, deadline: Instant) {
        drop(self.running);
        self.wake.raise();
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = self.done.recv_timeout(left);
    }
}

/// The state of the discovery thread.
struct DiscoveryThread {
    endpoint: MdnsEndpoint,
    sockets: MulticastSockets,
    interfaces: InterfaceChanges,
    taken: TokenBucket,
    found: OnSighting,
    wake: Arc<StopSignal>,
    stop: Receiver<()>,
}

impl DiscoveryThread {
    fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut rescan = Instant::now();
        while self.stop.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            let now = Instant::now();
            if self.interfaces.take() {
                rescan = rescan.min(now + GATHERED);
            }
            if rescan <= now {
                rescan = now + self.interfaces.patience();
                self.rescan(now);
            }
            for datagram in self.endpoint.act(now) {
                self.sockets
                    .send(datagram.channel, datagram.to, &datagram.bytes);
            }
            for sighting in self.endpoint.sightings(now) {
                let id = sighting.id;
                if !sighting.is_repeated {
                    let addresses: Vec<_> = sighting.addresses.iter().map(|(at, _)| at).collect();
                    tracing::debug!("multicast says that {id:?} is at {addresses:?}");
                }
                if (self.found)(&sighting) {
                    self.endpoint.met(id);
                }
            }
            let next = self.endpoint.next(now).map_or(rescan, |at| at.min(rescan));
            let readable = if self.taken.wait(now).is_zero() {
                self.wait(next)
            } else {
                self.rest(now + REST)
            };
            for id in readable {
                self.take(id, &mut buffer);
            }
        }
        for datagram in self.endpoint.goodbye() {
            self.sockets
                .send(datagram.channel, datagram.to, &datagram.bytes);
        }
    }

    fn rescan(&mut self, now: Instant) {
        match LocalLink::all() {
            Ok(links) => {
                self.sockets.follow(&links);
                let channels = self.sockets.channels();
                self.endpoint.set_links(links, &channels, now);
            }
            Err(why) => tracing::debug!("the interfaces cannot be listed: {why}"),
        }
    }

    /// Waits until a socket is readable, `until` has passed, or the end. Returns
    /// the readable channels.
    fn wait(&self, until: Instant) -> Vec<ChannelId> {
        let sockets: Vec<(ChannelId, &UdpSocket)> = self.sockets.iter().collect();
        let fds = sockets
            .iter()
            .map(|(_, socket)| PollFd::new(*socket, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = fds.collect();
        fds.push(self.wake.poll_fd());
        let reports = self.interfaces.readable();
        fds.extend(reports.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        poll_until(&mut fds, until);
        let ready = sockets
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((id, _), _)| *id).collect()
    }

    /// Waits without reading from the sockets.
    fn rest(&self, until: Instant) -> Vec<ChannelId> {
        poll_until(&mut [self.wake.poll_fd()], until);
        Vec::new()
    }

    fn take(&mut self, id: ChannelId, buffer: &mut [u8]) {
        let Some((_, socket)) = self.sockets.iter().find(|(held, _)| *held == id) else {
            return;
        };
        for _ in 0..TURN {
            let now = Instant::now();
            if self.taken.take(now).is_err() {
                return;
            }
            // An error is about a datagram sent earlier, or means that the queue is empty.
            let Ok((length, from)) = socket.recv_from(buffer) else {
                return;
            };
            if self.endpoint.admits(from, now) {
                self.endpoint.receive(id, from, &buffer[..length], now);
            }
        }
    }
}

fn poll_until(fds: &mut [PollFd<'_>], until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    // One millisecond more, so that work due at that time is due when this returns.
    let left = left.saturating_add(Duration::from_millis(1));
    let timeout = Timespec::try_from(left).ok();
    if let Err(why) = poll(fds, timeout.as_ref()) {
        tracing::debug!("waiting for multicast: {why}");
        thread::sleep(REST);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn nodes_on_one_link_find_each_other() {
        // Other runs of this test may be on the link.
        let run = std::process::id().to_le_bytes();
        let id = |n: u8| PeerId::from_bytes([run, [n; 4]].concat().repeat(4).try_into().unwrap());
        let found = Arc::new(Mutex::new(Vec::new()));
        let start = |n: u8, port: u16| {
            let found = found.clone();
            let note = move |sighting: &Sighting| {
                found.lock().push((n, sighting.id));
                true
            };
            Discovery::start(id(n), port, Arc::new(note)).unwrap()
        };
        let (listening, silent) = (start(1, 7), start(2, 0));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !found.lock().contains(&(2, id(1))) {
            assert!(Instant::now() < deadline, "nothing was found");
            thread::sleep(Duration::from_millis(20));
        }
        let begin = Instant::now();
        for discovery in [listening, silent] {
            discovery.stop(begin + Duration::from_secs(1));
        }
        assert!(begin.elapsed() < Duration::from_secs(2));
        let ours: Vec<_> = found.lock().iter().copied().collect();
        assert!(!ours.contains(&(1, id(1))) && !ours.contains(&(1, id(2))));
    }
}
