//! Finding members on the local network without being told an address: DNS-SD over multicast DNS
//! (RFC 6763, RFC 6762), service `_tinyp2p._tcp`.
//!
//! What is announced can be read by anyone on the link, so it holds the peer id, the port and the
//! addresses of this host, and nothing that depends on the password, the user or the share. What
//! is heard was said by anyone on the link, so it is only ever an address to try.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mdns_sd::{Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};

use crate::error::Error;
use crate::types::{Address, PeerId};

const SERVICE: &str = "_tinyp2p._tcp.local.";

/// What the `v` key of the TXT record says: the generation of the protocol.
const VERSION: &str = "2";

/// How often the browsing thread looks whether it is to stop, and tries to subscribe.
const TICK: Duration = Duration::from_millis(250);

/// The most addresses taken from one announcement.
const MAX_ADDRESSES: usize = crate::wire::MemberRecord::MAX_ADDRESSES;

/// Told who was announced, and where.
pub(crate) type Found = Arc<dyn Fn(PeerId, &[Address]) + Send + Sync>;

/// Announces this node and listens for others, until stopped.
pub(crate) struct Discovery {
    daemon: ServiceDaemon,
    announced: Option<String>,
    stopping: Arc<AtomicBool>,
}

impl Discovery {
    /// Starts on all interfaces, those that come up later included. `port` is what this node
    /// listens on; 0 announces nothing.
    ///
    /// # Errors
    /// [`Error::Local`] when there are no threads or file descriptors left. That multicast does
    /// not work on some interface is not an error.
    pub(crate) fn start(me: PeerId, port: u16, found: Found) -> Result<Self, Error> {
        let daemon = ServiceDaemon::new().map_err(failed)?;
        let announced = match port {
            0 => None,
            port => {
                let service = announcement(me, port).map_err(failed)?;
                let name = service.get_fullname().to_owned();
                daemon.register(service).map_err(failed)?;
                Some(name)
            }
        };
        let stopping = Arc::new(AtomicBool::new(false));
        let (browser, stop) = (daemon.clone(), stopping.clone());
        thread::Builder::new()
            .name("discovery".into())
            .spawn(move || browse(&browser, me, &found, &stop))
            .map_err(|why| Error::local("starting a thread", why))?;
        Ok(Self {
            daemon,
            announced,
            stopping,
        })
    }

    /// Says goodbye to the link (RFC 6762, section 10.1) and stops, by `deadline`.
    pub(crate) fn stop(self, deadline: Instant) {
        self.stopping.store(true, Ordering::Relaxed);
        let left = || deadline.saturating_duration_since(Instant::now());
        if let Some(name) = &self.announced
            && let Ok(done) = self.daemon.unregister(name)
        {
            let _ = done.recv_timeout(left());
        }
        if let Ok(done) = self.daemon.shutdown() {
            let _ = done.recv_timeout(left());
        }
    }
}

fn failed(why: mdns_sd::Error) -> Error {
    Error::Local {
        what: "finding members on the local network".into(),
        why: why.to_string(),
    }
}

fn announcement(me: PeerId, port: u16) -> mdns_sd::Result<ServiceInfo> {
    let id = me.to_string();
    let host = format!("tinyp2p-{}.local.", me.short());
    let properties = [("id", id.as_str()), ("v", VERSION)];
    let service = ServiceInfo::new(SERVICE, &me.short(), &host, "", port, &properties[..])?;
    Ok(service.enable_addr_auto())
}

fn browse(daemon: &ServiceDaemon, me: PeerId, found: &Found, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        match daemon.browse(SERVICE) {
            Ok(events) => listen(&events, me, found, stopping),
            Err(mdns_sd::Error::DaemonShutdown) => return,
            Err(error) => tracing::debug!("discovery: {error}"),
        }
        // The subscription ended because its events were not taken fast enough, or could not be
        // had yet. What was missed is still in the daemon's cache and is reported again.
        thread::sleep(TICK);
    }
}

/// Returns when the subscription ends.
fn listen(events: &Receiver<ServiceEvent>, me: PeerId, found: &Found, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        match events.recv_timeout(TICK) {
            Ok(ServiceEvent::ServiceResolved(service)) => {
                if let Some((id, addresses)) = read(&service).filter(|(id, _)| *id != me) {
                    tracing::debug!("multicast says that {id:?} is at {addresses:?}");
                    found(id, &addresses);
                }
            }
            Ok(_) => {}
            Err(_) if events.is_disconnected() && events.is_empty() => return,
            Err(_) => {}
        }
    }
}

/// Who is announced, and where it can be dialled; `None` for what is not a node of this protocol.
fn read(service: &ResolvedService) -> Option<(PeerId, Vec<Address>)> {
    if service.get_property_val_str("v") != Some(VERSION) {
        return None;
    }
    let id = service.get_property_val_str("id")?.parse().ok()?;
    let mut addresses: Vec<Address> = service
        .addresses
        .iter()
        .map(|ip| Address::new(spell(ip), service.port))
        .collect();
    // A set has no order of its own, and bounds must not depend on chance.
    addresses.sort();
    addresses.truncate(MAX_ADDRESSES);
    Some((id, addresses))
}

/// With its zone if it is link-local IPv6, so that it can be dialled from here.
fn spell(ip: &ScopedIp) -> String {
    match ip.to_ip_addr() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(_) => ip.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn resolved(properties: &[(&str, &str)], ips: &str) -> ResolvedService {
        ServiceInfo::new(SERVICE, "x", "x.local.", ips, 7, properties)
            .unwrap()
            .as_resolved_service()
    }

    #[test]
    fn an_announcement_says_who_and_where_and_nothing_else() {
        let service = announcement(id(1), 7).unwrap();
        let short = id(1).short();
        assert_eq!(service.get_fullname(), format!("{short}.{SERVICE}"));
        assert_eq!(service.get_hostname(), format!("tinyp2p-{short}.local."));
        let mut properties: Vec<String> = service
            .get_properties()
            .iter()
            .map(|property| format!("{}={}", property.key(), property.val_str()))
            .collect();
        properties.sort();
        assert_eq!(properties, [format!("id={}", id(1)), "v=2".into()]);
    }

    #[test]
    fn an_announcement_is_read_back() {
        let text = id(1).to_string();
        let service = resolved(&[("id", &text), ("v", "2")], "10.0.0.1,2001:db8::1");
        let addresses = vec![Address::new("10.0.0.1", 7), Address::new("2001:db8::1", 7)];
        assert_eq!(read(&service), Some((id(1), addresses)));
    }

    #[test]
    fn what_is_not_a_node_of_this_protocol_is_passed_over() {
        let text = id(1).to_string();
        for properties in [
            &[("id", text.as_str())][..],
            &[("id", text.as_str()), ("v", "3")],
            &[("v", "2")],
            &[("id", "../etc"), ("v", "2")],
        ] {
            assert_eq!(read(&resolved(properties, "10.0.0.1")), None);
        }
    }

    #[test]
    fn nodes_on_one_link_find_each_other_and_not_themselves() {
        // Other runs of this test may be on the link.
        let run = std::process::id().to_le_bytes();
        let id = |n: u8| PeerId::from_bytes([run, [n; 4]].concat().repeat(4).try_into().unwrap());
        let found = Arc::new(Mutex::new(Vec::new()));
        let start = |n: u8, port: u16| {
            let found = found.clone();
            let note = move |other, _: &[Address]| found.lock().push((n, other));
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
