//! One node as one sender announces it: what was said of it so far, what is missing, and whether it
//! is worth a report.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::message::DnsRecord;
use super::name::DnsName;
use crate::model::PeerId;

/// The most addresses of one instance.
pub(super) const MAX_ADDRESSES: usize = crate::protocol::wire::MemberRecord::MAX_ADDRESSES;

/// What has not changed is reported again no sooner than this: it may have come back.
pub(super) const REPEAT: Duration = Duration::from_secs(120);

/// How often what is missing of an instance is asked for, and after what time.
const MAX_ASKED: u8 = 3;
pub(super) const ASK_AFTER: Duration = Duration::from_millis(500);

/// What the `v` key of the TXT record says: the generation of the protocol.
pub(super) const VERSION: &str = "2";

/// Who is where: all that there is to say of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Located {
    pub(super) id: PeerId,
    /// In order, and whether it was the sender's.
    pub(super) addresses: Vec<(IpAddr, bool)>,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NeighbourAddress {
    ip: IpAddr,
    /// It is the sender's own.
    is_source: bool,
    pub(super) announced: Instant,
}

#[derive(Debug)]
pub(super) struct ServiceInstance {
    /// When it was last announced.
    pub(super) announced: Instant,
    pub(super) expires: Instant,
    /// Where it is, once that was said.
    pub(super) target: Option<(DnsName, u16)>,
    /// Who it is, once that was said; `None` inside when it is no node of this protocol.
    pub(super) id: Option<Option<PeerId>>,
    pub(super) addresses: Vec<NeighbourAddress>,
    /// What was reported, and when.
    pub(super) reported: Option<(Located, Instant)>,
    pub(super) is_changed: bool,
    /// When it is reported again, and how often it was; nothing once it is in contact.
    pub(super) repeat: Option<(Instant, u32)>,
    pub(super) asked: u8,
    pub(super) ask_at: Instant,
}

impl ServiceInstance {
    /// All of it, once it is known.
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

    /// True when `located` is not what was reported lately.
    pub(super) fn is_unreported(&self, located: &Located, now: Instant) -> bool {
        match &self.reported {
            Some((reported, at)) => reported != located || *at + REPEAT <= now,
            None => true,
        }
    }

    /// True while something is missing and worth a question.
    pub(super) fn is_wanting(&self) -> bool {
        let is_other = self.id == Some(None);
        let lacks = self.target.is_none() || self.id.is_none() || self.addresses.is_empty();
        lacks && !is_other && self.asked < MAX_ASKED
    }

    /// True when it is to be reported again although it has not changed.
    pub(super) fn is_repeated(&self, now: Instant) -> bool {
        self.repeat.is_some_and(|(at, _)| at <= now)
    }

    pub(super) fn add(&mut self, record: &DnsRecord, ip: IpAddr, is_source: bool, now: Instant) {
        self.is_changed = true;
        // One message may hold several addresses, each of which replaces what was there before
        // (RFC 6762, section 10.2).
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

/// Who a TXT record says it is; `None` for what is not a node of this protocol.
pub(super) fn read_text(text: &[u8]) -> Option<PeerId> {
    let (mut id, mut version) = (None, None);
    let mut rest = text;
    while let [length, behind @ ..] = rest {
        let (pair, behind) = behind.split_at_checked(usize::from(*length))?;
        rest = behind;
        let Some((key, value)) = std::str::from_utf8(pair).ok()?.split_once('=') else {
            continue;
        };
        // The first of several counts (RFC 6763, section 6.4).
        match &*key.to_ascii_lowercase() {
            "id" => id = id.or(Some(value)),
            "v" => version = version.or(Some(value)),
            _ => {}
        }
    }
    (version? == VERSION).then(|| id?.parse().ok())?
}

/// With its zone if it is link-local IPv6, so that it can be dialled from here.
pub(super) fn spell(ip: IpAddr, zone: Option<&str>) -> Option<String> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(format!("{v6}%{}", zone?)),
        ip => Some(ip.to_string()),
    }
}
