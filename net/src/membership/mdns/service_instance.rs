//! One node as one sender announces it: what is known of it so far, what is missing, and whether it
//! is worth a report.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::message::DnsRecord;
use super::name::DnsName;
use crate::model::PeerId;

/// The maximum number of addresses of one instance.
pub(super) const MAX_ADDRESSES: usize = crate::protocol::wire::MemberRecord::MAX_ADDRESSES;

/// An unchanged instance is reported again no sooner than this: it may have come back.
pub(super) const REPEAT: Duration = Duration::from_secs(120);

/// How often to query the missing records of an instance, and after what time.
const MAX_ASKED: u8 = 3;
pub(super) const ASK_AFTER: Duration = Duration::from_millis(500);

/// The `v` key of the TXT record: the generation of the protocol.
pub(super) const VERSION: &str = "2";

/// Who and where a node is: everything known of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Located {
    pub(super) id: PeerId,
    /// The addresses, sorted, and whether each was the sender's.
    pub(super) addresses: Vec<(IpAddr, bool)>,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NeighbourAddress {
    ip: IpAddr,
    /// True if it is the sender's own.
    is_source: bool,
    pub(super) announced: Instant,
}

#[derive(Debug)]
pub(super) struct ServiceInstance {
    /// When it was last announced.
    pub(super) announced: Instant,
    pub(super) expires: Instant,
    /// Where it is, once that is known.
    pub(super) target: Option<(DnsName, u16)>,
    /// Who it is, once that is known; `None` inside when it is not a node of this protocol.
    pub(super) id: Option<Option<PeerId>>,
    pub(super) addresses: Vec<NeighbourAddress>,
    /// The last report and its time.
    pub(super) reported: Option<(Located, Instant)>,
    pub(super) is_changed: bool,
    /// When to report it again, and how often it was reported; `None` once it is in contact.
    pub(super) repeat: Option<(Instant, u32)>,
    pub(super) asked: u8,
    pub(super) ask_at: Instant,
}

impl ServiceInstance {
    /// Returns the complete location, once it is known.
    pub(super) fn located(&self) -> Option<Located> {
        let (port, id) = (self.target.as_ref()?.1, self.id??);
        let addresses = self.addresses.iter();
        let mut addresses: Vec<_> = addresses.map(|one| (one.ip, one.is_source)).collect();
        addresses.sort();
        (!addresses.is_empty() && port != 0).then_some(Located {
            id,
            addresses,
            port,
        })
    }

    /// Returns true when `located` was not reported lately.
    pub(super) fn is_unreported(&self, located: &Located, now: Instant) -> bool {
        match &self.reported {
            Some((reported, at)) => reported != located || *at + REPEAT <= now,
            None => true,
        }
    }

    /// Returns true while something is missing and worth a query.
    pub(super) fn is_wanting(&self) -> bool {
        let is_other = self.id == Some(None);
        let lacks = self.target.is_none() || self.id.is_none() || self.addresses.is_empty();
        lacks && !is_other && self.asked < MAX_ASKED
    }

    /// Returns true when it is due for another report although it has not changed.
    pub(super) fn is_repeated(&self, now: Instant) -> bool {
        self.repeat.is_some_and(|(at, _)| at <= now)
    }

    pub(super) fn add(&mut self, record: &DnsRecord, ip: IpAddr, is_source: bool, now: Instant) {
        self.is_changed = true;
        // One message may hold several addresses, each of which replaces earlier
        // ones (RFC 6762, section 10.2).
        let is_old = |at: Instant| at + Duration::from_secs(1) < now;
        let replaced = |held: &NeighbourAddress| {
            record.is_unique && is_old(held.announced) && held.ip.is_ipv4() == ip.is_ipv4()
        };
        self.addresses
            .retain(|held| held.ip != ip && !replaced(held));
        if record.ttl > 0 && self.addresses.len() < MAX_ADDRESSES {
            self.addresses.push(NeighbourAddress {
                ip,
                is_source,
                announced: now,
            });
        }
    }
}

/// Returns the id in a TXT record; `None` if it is not from a node of this protocol.
pub(super) fn read_text(text: &[u8]) -> Option<PeerId> {
    let (mut id, mut version) = (None, None);
    let mut rest = text;
    while let [length, behind @ ..] = rest {
        let (pair, behind) = behind.split_at_checked(usize::from(*length))?;
        rest = behind;
        let Some((key, value)) = std::str::from_utf8(pair).ok()?.split_once('=') else {
            continue;
        };
        // The first of several values counts (RFC 6763, section 6.4).
        match &*key.to_ascii_lowercase() {
            "id" => id = id.or(Some(value)),
            "v" => version = version.or(Some(value)),
            _ => {}
        }
    }
    (version? == VERSION).then(|| id?.parse().ok())?
}

/// Formats `ip`, with its zone if it is link-local IPv6, so that it can be dialled from here.
pub(super) fn spell(ip: IpAddr, zone: Option<&str>) -> Option<String> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(format!("{v6}%{}", zone?)),
        ip => Some(ip.to_string()),
    }
}
