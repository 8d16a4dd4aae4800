//! The records that a node announces about itself.

use std::net::IpAddr;

use super::message::{DnsQuestion, DnsRecord, RecordData, kind};
use super::name::DnsName;
use super::service_instance::VERSION;
use crate::model::PeerId;

/// TTLs in seconds: of records about a host, and of all others (RFC 6762, section 10).
const HOST_TTL: u32 = 120;
const OTHER_TTL: u32 = 4500;

/// A set of record kinds.
pub(super) type Kinds = u8;
pub(super) const META: Kinds = 1;
pub(super) const POINTER: Kinds = 2;
pub(super) const SERVICE: Kinds = 4;
pub(super) const TEXT: Kinds = 8;
pub(super) const ADDRESSES: Kinds = 16;
pub(super) const UNIQUE: Kinds = SERVICE | TEXT | ADDRESSES;
pub(super) const ALL: Kinds = POINTER | UNIQUE;
pub(super) const KINDS: [Kinds; 5] = [META, POINTER, SERVICE, TEXT, ADDRESSES];

/// The names of this service type.
#[derive(Debug)]
pub(super) struct ServiceNames {
    /// The parent of all its instances.
    pub(super) service: DnsName,
    /// The name for enumerating service types (RFC 6763, section 9).
    meta: DnsName,
}

impl ServiceNames {
    pub(super) fn new() -> Self {
        Self {
            service: DnsName::new(["_tinyp2p", "_tcp", "local"]),
            meta: DnsName::new(["_services", "_dns-sd", "_udp", "local"]),
        }
    }
}

/// This node's names, and what it announces under them.
#[derive(Debug)]
pub(super) struct OwnRecords {
    pub(super) id: PeerId,
    pub(super) port: u16,
    pub(super) instance: DnsName,
    pub(super) host: DnsName,
}

impl OwnRecords {
    /// Creates the records under the `attempt`-th name, from 0.
    pub(super) fn new(id: PeerId, port: u16, attempt: u32) -> Self {
        let label = match attempt {
            0 => id.short(),
            more => format!("{}-{}", id.short(), more + 1),
        };
        Self::under(id, port, &label)
    }

    /// Creates the records under the name `label`.
    pub(super) fn under(id: PeerId, port: u16, label: &str) -> Self {
        Self {
            id,
            port,
            instance: DnsName::new([label, "_tinyp2p", "_tcp", "local"]),
            host: DnsName::new([&format!("tinyp2p-{label}"), "local"]),
        }
    }

    pub(super) fn service(&self) -> RecordData {
        RecordData::Service {
            host: self.host.clone(),
            port: self.port,
        }
    }

    pub(super) fn text(&self) -> RecordData {
        let pairs = [format!("id={}", self.id), format!("v={VERSION}")];
        let lengthy = pairs
            .iter()
            .map(|pair| [&[pair.len() as u8], pair.as_bytes()].concat());
        RecordData::Text(lengthy.collect::<Vec<_>>().concat())
    }

    pub(super) fn records(
        &self,
        kinds: Kinds,
        names: &ServiceNames,
        addresses: &[IpAddr],
    ) -> Vec<DnsRecord> {
        let record = |name: &DnsName, ttl, is_unique, data| DnsRecord {
            name: name.clone(),
            ttl,
            is_unique,
            data,
        };
        let mut records = Vec::new();
        if kinds & META != 0 {
            let data = RecordData::Pointer(names.service.clone());
            records.push(record(&names.meta, OTHER_TTL, false, data));
        }
        if kinds & POINTER != 0 {
            let data = RecordData::Pointer(self.instance.clone());
            records.push(record(&names.service, OTHER_TTL, false, data));
        }
        if kinds & SERVICE != 0 {
            records.push(record(&self.instance, HOST_TTL, true, self.service()));
        }
        if kinds & TEXT != 0 {
            records.push(record(&self.instance, OTHER_TTL, true, self.text()));
        }
        if kinds & ADDRESSES != 0 {
            let addresses = addresses.iter().map(|ip| RecordData::Address(*ip));
            records.extend(addresses.map(|data| record(&self.host, HOST_TTL, true, data)));
        }
        records
    }

    /// Returns the kinds that answer `question`.
    pub(super) fn answering(&self, question: &DnsQuestion, names: &ServiceNames) -> Kinds {
        let asks = |kind| question.kind == kind || question.kind == kind::ANY;
        let pick = |yes: bool, kinds| if yes { kinds } else { 0 };
        if question.name == names.meta {
            pick(asks(kind::PTR), META)
        } else if question.name == names.service {
            pick(asks(kind::PTR), POINTER)
        } else if question.name == self.instance {
            pick(asks(kind::SRV), SERVICE) | pick(asks(kind::TXT), TEXT)
        } else if question.name == self.host {
            pick(asks(kind::A) || asks(kind::AAAA), ADDRESSES)
        } else {
            0
        }
    }

    /// Returns true when `record` contradicts this node's records of the instance.
    pub(super) fn is_contradicted_by(&self, record: &DnsRecord) -> bool {
        record.name == self.instance
            && match &record.data {
                RecordData::Service { .. } => record.data != self.service(),
                RecordData::Text(_) => record.data != self.text(),
                RecordData::Pointer(_) | RecordData::Address(_) => false,
            }
    }
}

/// Adds the kinds that an asker will need next: those that a pointer or a service refers
/// to (RFC 6763, section 12).
pub(super) fn with_additional(kinds: Kinds) -> Kinds {
    if kinds & POINTER != 0 {
        kinds | UNIQUE
    } else if kinds & SERVICE != 0 {
        kinds | ADDRESSES
    } else {
        kinds
    }
}

/// Returns true when `known` has `ours` with at least half of its life left.
pub(super) fn is_known(ours: &DnsRecord, known: &[DnsRecord]) -> bool {
    let known = known.iter().filter(|record| record.ttl >= ours.ttl / 2);
    known.into_iter().any(|record| record.says_the_same(ours))
}
