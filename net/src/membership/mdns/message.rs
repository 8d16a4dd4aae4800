//! DNS messages (RFC 1035, section 4), as far as multicast DNS uses them.
//!
//! Anyone on the link can send anything, so reading allocates at most a small multiple of what
//! arrived, and stops after a number of records that no honest node exceeds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::DnsName;

/// The maximum number of questions and records read from one message; any further ones are left
/// unread. A node answers with six records and its addresses.
const MAX_QUESTIONS: usize = 16;
const MAX_RECORDS: usize = 64;

/// The maximum number of bytes kept of a TXT record; our own have fewer than 100.
const MAX_TEXT: usize = 512;

const HEADER: usize = 12;
const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_AUTHORITATIVE: u16 = 0x0400;
const FLAG_TRUNCATED: u16 = 0x0200;
/// The opcode and the response code; both must be zero (RFC 6762, sections 18.3 and 18.11).
const MASK_CODES: u16 = 0x780f;

const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
/// In a record: this is the complete set for its name and type. In a question: a unicast
/// response is preferred.
const CLASS_TOP_BIT: u16 = 0x8000;

/// The numbers of record types.
pub(super) mod kind {
    pub(in super::super) const A: u16 = 1;
    pub(in super::super) const PTR: u16 = 12;
    pub(in super::super) const TXT: u16 = 16;
    pub(in super::super) const AAAA: u16 = 28;
    pub(in super::super) const SRV: u16 = 33;
    pub(in super::super) const ANY: u16 = 255;
}

/// A received message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DnsMessage {
    pub(super) id: u16,
    pub(super) is_response: bool,
    /// More known answers follow in another message.
    pub(super) is_truncated: bool,
    pub(super) questions: Vec<DnsQuestion>,
    /// The records of the answer, authority and additional sections.
    pub(super) answers: Vec<DnsRecord>,
    pub(super) authority: Vec<DnsRecord>,
    pub(super) additional: Vec<DnsRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsQuestion {
    pub(super) name: DnsName,
    pub(super) kind: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsRecord {
    pub(super) name: DnsName,
    /// In seconds; 0 is a goodbye.
    pub(super) ttl: u32,
    /// Earlier records of that name and type are no longer valid.
    pub(super) is_unique: bool,
    pub(super) data: RecordData,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordData {
    Pointer(DnsName),
    Service { host: DnsName, port: u16 },
    Text(Vec<u8>),
    Address(IpAddr),
}

impl DnsMessage {
    /// Reads a datagram; `None` when it is not a message, or one of another use of DNS. Records of
    /// other types and classes are skipped.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let flags = word(2)?;
        if flags & MASK_CODES != 0 {
            return None;
        }
        let (mut at, mut questions) = (HEADER, Vec::new());
        let asked = usize::from(word(4)?);
        for _ in 0..asked.min(MAX_QUESTIONS) {
            let (name, behind) = DnsName::read(bytes, at)?;
            let (kind, class) = (word(behind)?, word(behind + 2)? & !CLASS_TOP_BIT);
            at = behind + 4;
            if class == CLASS_IN || class == CLASS_ANY {
                questions.push(DnsQuestion { name, kind });
            }
        }
        // If some questions were left unread, the start of the records is unknown.
        let [answers, authority, additional] = if asked > MAX_QUESTIONS {
            Default::default()
        } else {
            read_sections(bytes, at)?
        };
        Some(Self {
            id: word(0)?,
            is_response: flags & FLAG_RESPONSE != 0,
            is_truncated: flags & FLAG_TRUNCATED != 0,
            questions,
            answers,
            authority,
            additional,
        })
    }

    /// Returns the records of all sections.
    pub(super) fn records(&self) -> impl Iterator<Item = &DnsRecord> {
        let sections = self.answers.iter().chain(&self.authority);
        sections.chain(&self.additional)
    }
}

/// Reads the three record sections, the first of which begins at `at`.
fn read_sections(bytes: &[u8], mut at: usize) -> Option<[Vec<DnsRecord>; 3]> {
    let (mut sections, mut left) = ([const { Vec::new() }; 3], MAX_RECORDS);
    for (section, place) in sections.iter_mut().zip([6, 8, 10]) {
        let count: [u8; 2] = *bytes.get(place..)?.first_chunk()?;
        for _ in 0..u16::from_be_bytes(count) {
            if left == 0 {
                return Some(sections);
            }
            let (record, behind) = DnsRecord::read(bytes, at)?;
            section.extend(record);
            at = behind;
            left -= 1;
        }
    }
    Some(sections)
}

impl DnsRecord {
    /// Reads the record at `at`, `None` if it is of no use here, and the position of the next one.
    fn read(bytes: &[u8], at: usize) -> Option<(Option<Self>, usize)> {
        let (name, at) = DnsName::read(bytes, at)?;
        let [k1, k2, c1, c2, t1, t2, t3, t4, l1, l2] = *bytes.get(at..)?.first_chunk()?;
        let class = u16::from_be_bytes([c1, c2]);
        let start = at + 10;
        let behind = start + usize::from(u16::from_be_bytes([l1, l2]));
        let body = bytes.get(start..behind)?;
        let data = if class & !CLASS_TOP_BIT == CLASS_IN {
            RecordData::read(u16::from_be_bytes([k1, k2]), bytes, start, body)
        } else {
            None
        };
        let record = data.map(|data| Self {
            name,
            ttl: u32::from_be_bytes([t1, t2, t3, t4]),
            is_unique: class & CLASS_TOP_BIT != 0,
            data,
        });
        Some((record, behind))
    }

    /// Returns true when `other` has the same name and data, perhaps with another TTL.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.name == other.name && self.data == other.data
    }
}

impl RecordData {
    fn read(kind: u16, message: &[u8], start: usize, body: &[u8]) -> Option<Self> {
        let name_at = |at: usize| {
            let (name, behind) = DnsName::read(message, at)?;
            (behind == start + body.len()).then_some(name)
        };
        match kind {
            kind::PTR => Some(Self::Pointer(name_at(start)?)),
            kind::SRV => Some(Self::Service {
                port: u16::from_be_bytes(*body.get(4..)?.first_chunk()?),
                host: name_at(start + 6)?,
            }),
            kind::TXT => Some(Self::Text(body[..body.len().min(MAX_TEXT)].to_vec())),
            kind::A => {
                let octets: [u8; 4] = body.try_into().ok()?;
                Some(Self::Address(Ipv4Addr::from(octets).into()))
            }
            kind::AAAA => {
                let octets: [u8; 16] = body.try_into().ok()?;
                Some(Self::Address(Ipv6Addr::from(octets).into()))
            }
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> u16 {
        match self {
            Self::Pointer(_) => kind::PTR,
            Self::Service { .. } => kind::SRV,
            Self::Text(_) => kind::TXT,
            Self::Address(IpAddr::V4(_)) => kind::A,
            Self::Address(IpAddr::V6(_)) => kind::AAAA,
        }
    }

    /// Returns the bytes on the wire, with names uncompressed.
    pub(super) fn to_wire(&self) -> Vec<u8> {
        match self {
            Self::Pointer(name) => name.as_wire().to_vec(),
            // Priority and weight are zero: there is one target.
            Self::Service { host, port } => {
                [&[0; 4][..], &port.to_be_bytes(), host.as_wire()].concat()
            }
            Self::Text(text) => text.clone(),
            Self::Address(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Self::Address(IpAddr::V6(ip)) => ip.octets().to_vec(),
        }
    }
}

/// A message to send. It fits into a frame without name compression.
#[derive(Clone, Debug, Default)]
pub(super) struct OutgoingMessage {
    /// The id and questions of a query, and those of an answer to a simple resolver.
    pub(super) id: u16,
    pub(super) questions: Vec<DnsQuestion>,
    pub(super) answers: Vec<DnsRecord>,
    pub(super) authority: Vec<DnsRecord>,
    pub(super) additional: Vec<DnsRecord>,
}

impl OutgoingMessage {
    /// Returns the message as a datagram.
    pub(super) fn to_wire(&self, is_response: bool) -> Vec<u8> {
        let flags = if is_response {
            FLAG_RESPONSE | FLAG_AUTHORITATIVE
        } else {
            0
        };
        let sections = [&self.answers, &self.authority, &self.additional];
        let counts = [self.questions.len()].into_iter();
        let counts = counts.chain(sections.iter().map(|section| section.len()));
        let mut wire = [self.id.to_be_bytes(), flags.to_be_bytes()].concat();
        for count in counts {
            wire.extend((count as u16).to_be_bytes());
        }
        for question in &self.questions {
            wire.extend(question.name.as_wire());
            wire.extend([question.kind.to_be_bytes(), CLASS_IN.to_be_bytes()].concat());
        }
        for record in sections.into_iter().flatten() {
            let top = if record.is_unique { CLASS_TOP_BIT } else { 0 };
            let data = record.data.to_wire();
            wire.extend(record.name.as_wire());
            wire.extend(record.data.kind().to_be_bytes());
            wire.extend((CLASS_IN | top).to_be_bytes());
            wire.extend(record.ttl.to_be_bytes());
            wire.extend((data.len() as u16).to_be_bytes());
            wire.extend(data);
        }
        wire
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(label: &str, data: RecordData) -> DnsRecord {
        DnsRecord {
            name: DnsName::new([label, "local"]),
            ttl: 120,
            is_unique: true,
            data,
        }
    }

    fn sample() -> OutgoingMessage {
        let host = DnsName::new(["box", "local"]);
        OutgoingMessage {
            id: 7,
            questions: vec![DnsQuestion {
                name: host.clone(),
                kind: kind::ANY,
            }],
            answers: vec![
                record("a", RecordData::Pointer(host.clone())),
                record("b", RecordData::Service { host, port: 9 }),
            ],
            authority: vec![record("c", RecordData::Text(b"\x03v=2".to_vec()))],
            additional: vec![
                record("d", RecordData::Address("10.0.0.1".parse().unwrap())),
                record("e", RecordData::Address("fe80::1".parse().unwrap())),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let sent = sample();
        let read = DnsMessage::read(&sent.to_wire(true)).unwrap();
        assert!(read.is_response && read.id == 7);
        assert_eq!(read.questions, sent.questions);
        assert_eq!(read.answers, sent.answers);
        assert_eq!(read.authority, sent.authority);
        assert_eq!(read.additional, sent.additional);
        assert!(!DnsMessage::read(&sent.to_wire(false)).unwrap().is_response);
    }

    #[test]
    fn whatever_is_cut_off_is_no_message() {
        let whole = sample().to_wire(true);
        for length in 0..whole.len() {
            assert_eq!(DnsMessage::read(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn other_uses_of_dns_are_no_messages() {
        for (byte, value) in [(2, 0x08), (2, 0x78), (3, 0x03)] {
            let mut bytes = sample().to_wire(false);
            bytes[byte] |= value;
            assert_eq!(DnsMessage::read(&bytes), None);
        }
    }

    #[test]
    fn huge_counts_are_read_in_bounds() {
        let mut bytes = sample().to_wire(true);
        for at in [6, 8, 10] {
            bytes[at] = 0xff;
            assert_eq!(
                DnsMessage::read(&bytes),
                None,
                "more is promised than there is"
            );
            bytes[at] = 0;
        }
        let address = record("d", RecordData::Address("10.0.0.1".parse().unwrap()));
        let many = OutgoingMessage {
            answers: vec![address; 300],
            ..OutgoingMessage::default()
        };
        let read = DnsMessage::read(&many.to_wire(true)).unwrap();
        assert_eq!(read.records().count(), MAX_RECORDS);
        let question = sample().questions.remove(0);
        let asked = OutgoingMessage {
            questions: vec![question; 300],
            ..sample()
        };
        let read = DnsMessage::read(&asked.to_wire(false)).unwrap();
        assert_eq!(read.questions.len(), MAX_QUESTIONS);
        assert_eq!(read.records().count(), 0);
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_in_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            if let Some(message) = DnsMessage::read(&bytes) {
                prop_assert!(message.questions.len() <= MAX_QUESTIONS);
                prop_assert!(message.records().count() <= MAX_RECORDS);
            }
        }

        #[test]
        fn a_damaged_message_is_read_in_bounds(
            damage in proptest::collection::vec((0usize..300, any::<u8>()), 1..20),
        ) {
            let mut bytes = sample().to_wire(true);
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some(message) = DnsMessage::read(&bytes) {
                prop_assert!(message.records().count() <= MAX_RECORDS);
            }
        }
    }
}
