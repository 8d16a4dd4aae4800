//! Nodes on a link in memory, honest and not.

use proptest::prelude::*;

use super::*;
use crate::membership::mdns::message::{DnsRecord, RecordData};
use crate::membership::mdns::name::DnsName;
use crate::membership::mdns::neighbours::MAX_INSTANCES;
use crate::model::Address;

const LINK: LinkIndex = 3;
/// A link with nobody on it but the node itself.
const QUIET_LINK: LinkIndex = 4;
const V4: ChannelId = ChannelId {
    link: LINK,
    is_v4: true,
};
const STEP: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(addresses: &[&str]) -> LocalLink {
    LocalLink {
        index: LINK,
        name: "eth0".into(),
        addresses: addresses.iter().map(|text| (ip(text), 24)).collect(),
    }
}

/// Creates a node whose address on the link is 10.0.0.`n`.
fn node(n: u8, port: u16, now: Instant) -> MdnsEndpoint {
    let mut node = MdnsEndpoint::new(id(n), port, u64::from(n) * 0x9e37_79b9, now);
    let quiet = LocalLink {
        index: QUIET_LINK,
        ..link(&["10.9.0.1"])
    };
    let links = [link(&[&format!("10.0.0.{n}"), "fe80::1"]), quiet];
    let quiet_channel = ChannelId {
        link: QUIET_LINK,
        is_v4: true,
    };
    node.set_links(links, &[V4, quiet_channel], now);
    node
}

fn from(n: u8) -> SocketAddr {
    SocketAddr::new(ip(&format!("10.0.0.{n}")), PORT)
}

/// The nodes of one link, and its traffic.
struct TestLink {
    now: Instant,
    nodes: Vec<(u8, MdnsEndpoint)>,
    found: Vec<(u8, Sighting)>,
    sent: Vec<(u8, DnsMessage)>,
    /// The node that nobody hears.
    mute: Option<u8>,
    /// True if every node found is in contact at once.
    meets: bool,
}

impl TestLink {
    fn new(nodes: impl IntoIterator<Item = (u8, u16)>) -> Self {
        let now = Instant::now();
        let nodes = nodes.into_iter().map(|(n, port)| (n, node(n, port, now)));
        Self {
            now,
            nodes: nodes.collect(),
            found: Vec::new(),
            sent: Vec::new(),
            mute: None,
            meets: true,
        }
    }

    fn tell(&mut self, sender: SocketAddr, bytes: &[u8]) {
        for (_, node) in &mut self.nodes {
            if node.admits(sender, self.now) {
                node.receive(V4, sender, bytes, self.now);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for index in 0..self.nodes.len() {
                let (n, node) = &mut self.nodes[index];
                let n = *n;
                let datagrams = node.act(self.now);
                let next = node.next(self.now).unwrap();
                assert!(next > self.now, "node {n} would act without end");
                for sighting in node.sightings(self.now) {
                    if self.meets {
                        node.met(sighting.id);
                    }
                    self.found.push((n, sighting));
                }
                for datagram in datagrams.into_iter().filter(|it| it.channel == V4) {
                    assert!(datagram.bytes.len() <= 1400, "{}", datagram.bytes.len());
                    self.sent
                        .push((n, DnsMessage::read(&datagram.bytes).unwrap()));
                    if self.mute != Some(n) && datagram.to.is_none() {
                        self.tell(from(n), &datagram.bytes);
                    }
                }
            }
        }
    }

    fn has_found(&self, who: u8, whom: u8) -> bool {
        let mut found = self.found.iter();
        found.any(|(n, found)| *n == who && found.id == id(whom))
    }

    fn responses(&self) -> usize {
        self.sent
            .iter()
            .filter(|(_, message)| message.is_response)
            .count()
    }
}

fn name(label: &str) -> DnsName {
    DnsName::new([label, "_tinyp2p", "_tcp", "local"])
}

fn record(name: DnsName, data: RecordData) -> DnsRecord {
    DnsRecord {
        name,
        ttl: 120,
        is_unique: false,
        data,
    }
}

fn text(id: &str, version: &str) -> RecordData {
    let pairs = [format!("id={id}"), format!("v={version}")];
    let pairs = pairs.map(|pair| [&[pair.len() as u8], pair.as_bytes()].concat());
    RecordData::Text(pairs.concat())
}

/// Returns the records with which a node at `host` announces `label`.
fn announcement(label: &str, text: RecordData, host: &str) -> Vec<DnsRecord> {
    let host_name = DnsName::new([label, "local"]);
    let service = RecordData::Service {
        host: host_name.clone(),
        port: 7,
    };
    vec![
        record(
            ServiceNames::new().service,
            RecordData::Pointer(name(label)),
        ),
        record(name(label), service),
        record(name(label), text),
        record(host_name, RecordData::Address(ip(host))),
    ]
}

fn response(answers: Vec<DnsRecord>) -> Vec<u8> {
    let outgoing = OutgoingMessage {
        answers,
        ..OutgoingMessage::default()
    };
    outgoing.to_wire(true)
}

fn query(name: &DnsName, kind: u16) -> OutgoingMessage {
    OutgoingMessage {
        questions: vec![DnsQuestion {
            name: name.clone(),
            kind,
        }],
        ..OutgoingMessage::default()
    }
}

#[test]
fn neighbours_meet_within_two_seconds() {
    let mut wire = TestLink::new([(1, 7), (2, 0), (3, 9)]);
    wire.run(2 * SECOND);
    for (who, whom) in [(1, 3), (2, 1), (2, 3), (3, 1)] {
        assert!(wire.has_found(who, whom), "{who} has not found {whom}");
    }
    assert!((1..=3).all(|n| !wire.has_found(n, n) && !wire.has_found(n, 2)));
    let at_1 = |(_, found): &&(u8, Sighting)| found.id == id(1);
    let (_, Sighting { addresses, .. }) = wire.found.iter().find(at_1).unwrap();
    let addresses: Vec<_> = addresses.iter().map(|(at, _)| at.clone()).collect();
    let expected = [Address::new("10.0.0.1", 7), Address::new("fe80::1%eth0", 7)];
    assert_eq!(addresses[..], expected);
}

#[test]
fn announcement_names_only_id_and_address() {
    let mut wire = TestLink::new([(1, 7)]);
    wire.run(5 * SECOND);
    let mut said: Vec<DnsRecord> = Vec::new();
    for (_, message) in &wire.sent {
        for record in message.records().filter(|_| message.is_response) {
            if !said.contains(record) {
                said.push(record.clone());
            }
        }
    }
    let short = id(1).short();
    let host = DnsName::new([&format!("tinyp2p-{short}"), "local"]);
    let unique = |name, ttl, data| DnsRecord {
        name,
        ttl,
        is_unique: true,
        data,
    };
    let pointer = DnsRecord {
        ttl: 4500,
        ..record(
            ServiceNames::new().service,
            RecordData::Pointer(name(&short)),
        )
    };
    let service = RecordData::Service {
        host: host.clone(),
        port: 7,
    };
    let expected = [
        pointer,
        unique(name(&short), 120, service),
        unique(name(&short), 4500, text(&id(1).to_string(), "2")),
        unique(host.clone(), 120, RecordData::Address(ip("10.0.0.1"))),
        unique(host, 120, RecordData::Address(ip("fe80::1"))),
    ];
    assert_eq!(said, expected);
    // Twice, and never again unasked.
    assert_eq!(wire.responses(), 2);
    wire.run(100 * SECOND);
    assert_eq!(wire.responses(), 2);
}

#[test]
fn goodbye_and_return_are_noticed_at_once() {
    let mut wire = TestLink::new([(1, 7), (2, 9)]);
    wire.run(3 * SECOND);
    assert!(wire.has_found(2, 1));
    let goodbye = wire.nodes[0].1.goodbye().remove(0);
    wire.tell(from(1), &goodbye.bytes);
    assert_eq!(wire.nodes[1].1.neighbours.len(), 1, "itself alone");
    wire.found.clear();
    wire.nodes[0].1 = node(1, 7, wire.now);
    wire.run(2 * SECOND);
    assert!(wire.has_found(2, 1));
}

#[test]
fn a_flood_keeps_no_more_than_the_bound() {
    let mut wire = TestLink::new([(1, 7), (2, 9)]);
    wire.run(3 * SECOND);
    let mut number = 0u32;
    for _ in 0..300 {
        for _ in 0..100 {
            let records = (0..20).flat_map(|_| {
                number += 1;
                let fake = format!("fake-{number}-{}", "x".repeat(40));
                announcement(&fake, text(&id(9).to_string(), "2"), "10.0.0.99")
            });
            let bytes = response(records.collect());
            wire.tell(from(99), &bytes);
        }
        wire.run(STEP);
    }
    let honest: Vec<usize> = wire.nodes.iter().map(|(_, n)| n.neighbours.len()).collect();
    assert!(honest.iter().all(|len| *len <= MAX_INSTANCES), "{honest:?}");
    let reports = wire
        .found
        .iter()
        .filter(|(n, found)| *n == 1 && found.id == id(9));
    assert!(
        reports.count() <= 100 + 50 * 4,
        "all of these are looked at"
    );
    // A newcomer is found while this goes on, and earlier nodes are still known.
    let now = wire.now;
    wire.nodes.push((3, node(3, 8, now)));
    for _ in 0..200 {
        for _ in 0..100 {
            number += 1;
            let fake = format!("fake-{number}");
            let records = announcement(&fake, text(&id(9).to_string(), "2"), "10.0.0.99");
            wire.tell(from(99), &response(records));
        }
        wire.run(STEP);
    }
    for (who, whom) in [(1, 3), (2, 3), (3, 1), (3, 2)] {
        assert!(wire.has_found(who, whom), "{who} has not found {whom}");
    }
}

#[test]
fn endless_questions_get_bounded_answers() {
    let mut wire = TestLink::new([(1, 7)]);
    wire.run(5 * SECOND);
    wire.sent.clear();
    let names = [
        ServiceNames::new().service,
        name(&id(1).short()),
        DnsName::new(["_services", "_dns-sd", "_udp", "local"]),
        DnsName::new([&format!("tinyp2p-{}", id(1).short()), "local"]),
    ];
    for _ in 0..1000 {
        for name in &names {
            wire.tell(from(9), &query(name, kind::ANY).to_wire(false));
        }
        wire.run(STEP);
    }
    let responses = wire.responses();
    assert!((5..=11).contains(&responses), "{responses}");
}

#[test]
fn known_answers_are_not_given_again() {
    let mut wire = TestLink::new([(1, 7)]);
    wire.run(5 * SECOND);
    let before = wire.responses();
    let mut asking = query(&ServiceNames::new().service, kind::PTR);
    let known = |ttl| DnsRecord {
        ttl,
        ..record(
            ServiceNames::new().service,
            RecordData::Pointer(name(&id(1).short())),
        )
    };
    asking.answers = vec![known(2250)];
    wire.tell(from(9), &asking.to_wire(false));
    wire.run(2 * SECOND);
    assert_eq!(wire.responses(), before);
    asking.answers = vec![known(2249)];
    wire.tell(from(9), &asking.to_wire(false));
    wire.run(2 * SECOND);
    assert_eq!(wire.responses(), before + 1);
    let mut sent = wire.sent.iter().rev();
    let (_, answer) = sent.find(|(_, message)| message.is_response).unwrap();
    assert_eq!(answer.records().count(), 5, "with all that it leads to");
}

#[test]
fn known_answers_may_follow_the_question() {
    let mut wire = TestLink::new([(1, 7)]);
    wire.run(5 * SECOND);
    let before = wire.responses();
    let mut asking = query(&ServiceNames::new().service, kind::PTR).to_wire(false);
    asking[2] |= 0x02;
    wire.tell(from(9), &asking);
    let known = OutgoingMessage {
        answers: vec![DnsRecord {
            ttl: 4500,
            ..record(
                ServiceNames::new().service,
                RecordData::Pointer(name(&id(1).short())),
            )
        }],
        ..OutgoingMessage::default()
    };
    wire.run(20 * STEP);
    wire.tell(from(9), &known.to_wire(false));
    wire.run(2 * SECOND);
    assert_eq!(wire.responses(), before);
}

#[test]
fn simple_link_resolver_is_answered() {
    let mut wire = TestLink::new([(1, 7)]);
    wire.run(5 * SECOND);
    let mut asking = query(&name(&id(1).short()), kind::SRV);
    asking.id = 77;
    let (node, now) = (&mut wire.nodes[0].1, wire.now);
    let mut answers = |sender: &str| {
        for _ in 0..1000 {
            let sender = sender.parse().unwrap();
            node.receive(V4, sender, &asking.to_wire(false), now);
        }
        node.act(now)
    };
    assert!(answers("192.0.2.1:4000").is_empty(), "it is on no link");
    let answers = answers("10.0.0.9:4000");
    assert!(answers.len() <= 20, "{}", answers.len());
    assert_eq!(answers[0].to, Some("10.0.0.9:4000".parse().unwrap()));
    let answer = DnsMessage::read(&answers[0].bytes).unwrap();
    assert_eq!((answer.id, &answer.questions), (77, &asking.questions));
    assert!(
        answer
            .records()
            .all(|record| record.ttl <= 10 && !record.is_unique)
    );
}

#[test]
fn a_taken_name_is_left_to_its_owner() {
    let mut wire = TestLink::new([(1, 7), (2, 0)]);
    let owner = announcement(&id(1).short(), text("somebody else", "2"), "10.0.0.9");
    for _ in 0..100 {
        let probed = |(n, message): &(u8, DnsMessage)| {
            *n == 1
                && message
                    .authority
                    .iter()
                    .any(|r| r.name == name(&id(1).short()))
        };
        if wire.sent.iter().any(probed) {
            wire.sent.clear();
            wire.tell(from(9), &response(owner.clone()));
        }
        wire.run(STEP);
    }
    wire.run(3 * SECOND);
    assert!(wire.has_found(2, 1), "by its other name");
    let other = name(&format!("{}-2", id(1).short()));
    let says = |message: &DnsMessage| message.records().any(|record| record.name == other);
    assert!(
        wire.sent
            .iter()
            .any(|(n, message)| *n == 1 && says(message))
    );
}

#[test]
fn a_name_in_use_is_defended() {
    let mut wire = TestLink::new([(1, 7), (2, 0)]);
    wire.run(5 * SECOND);
    wire.sent.clear();
    let mut probe = query(&name(&id(1).short()), kind::ANY);
    probe.authority = announcement(&id(1).short(), text("x", "2"), "10.0.0.9").split_off(1);
    wire.tell(from(9), &probe.to_wire(false));
    wire.run(STEP);
    assert_eq!(wire.responses(), 1, "at once");
    // Another host that claims it anyway makes it probe again, but not all the time.
    wire.sent.clear();
    for _ in 0..500 {
        let claim = announcement(&id(1).short(), text("x", "2"), "10.0.0.9");
        if wire.sent.is_empty() {
            wire.tell(from(9), &response(claim));
        }
        wire.run(STEP);
    }
    let probes = wire
        .sent
        .iter()
        .filter(|(_, m)| !m.authority.is_empty())
        .count();
    assert_eq!(probes, 3);
    assert!(wire.responses() >= 2);
}

#[test]
fn what_is_said_in_pieces_is_put_together() {
    let mut wire = TestLink::new([(2, 0)]);
    wire.run(SECOND);
    wire.sent.clear();
    let pieces = announcement("piecemeal", text(&id(1).to_string(), "2"), "10.0.0.1");
    wire.tell(from(1), &response(vec![pieces[0].clone()]));
    wire.run(SECOND);
    let asked = |wire: &TestLink, name: &DnsName| {
        let asks =
            |(_, message): &(u8, DnsMessage)| message.questions.iter().any(|q| q.name == *name);
        wire.sent.iter().any(asks)
    };
    assert!(asked(&wire, &name("piecemeal")));
    for piece in &pieces[1..3] {
        wire.tell(from(1), &response(vec![piece.clone()]));
    }
    wire.run(3 * SECOND);
    assert!(asked(&wire, &DnsName::new(["piecemeal", "local"])));
    assert!(wire.found.is_empty());
    wire.tell(from(1), &response(vec![pieces[3].clone()]));
    wire.run(STEP);
    assert!(wire.has_found(2, 1));
}

#[test]
fn non_nodes_on_the_link_are_ignored() {
    let mut wire = TestLink::new([(2, 0)]);
    let whole = id(1).to_string();
    let texts = [
        text(&whole, "3"),
        text("../etc", "2"),
        RecordData::Text(format!("\x37id={whole}").into_bytes()),
        RecordData::Text(b"\x03v=2".to_vec()),
        RecordData::Text(b"\xff".to_vec()),
        RecordData::Text(Vec::new()),
    ];
    for (n, text) in texts.into_iter().enumerate() {
        let fake = announcement(&format!("fake{n}"), text, "10.0.0.1");
        wire.tell(from(1), &response(fake));
    }
    // Nor does one from another port, as a stranger far away might send it.
    let good = announcement("good", text(&whole, "2"), "10.0.0.1");
    wire.tell("10.0.0.1:4000".parse().unwrap(), &response(good));
    wire.run(3 * SECOND);
    assert!(wire.found.is_empty());
}

#[test]
fn what_stays_the_same_is_reported_once() {
    let mut wire = TestLink::new([(2, 0)]);
    let tell = |wire: &mut TestLink, host: &str| {
        let said = announcement("a", text(&id(1).to_string(), "2"), host);
        wire.tell(from(1), &response(said));
        wire.run(STEP);
    };
    for _ in 0..100 {
        tell(&mut wire, "10.0.0.1");
    }
    assert_eq!(wire.found.len(), 1);
    tell(&mut wire, "10.0.0.7");
    assert_eq!(wire.found.len(), 2);
    wire.run(121 * SECOND);
    assert_eq!(wire.found.len(), 2);
}

#[test]
fn unmet_neighbour_is_reported_repeatedly() {
    let mut wire = TestLink::new([(2, 0)]);
    wire.meets = false;
    let said = announcement("a", text(&id(1).to_string(), "2"), "10.0.0.1");
    wire.tell(from(1), &response(said));
    wire.run(20 * SECOND);
    let found = wire.found.iter();
    let repeated: Vec<bool> = found.map(|(_, found)| found.is_repeated).collect();
    assert_eq!(repeated, [false, true, true], "after 3 s and after 6 more");
    wire.run(100 * SECOND);
    assert_eq!(wire.found.len(), 6, "for longer and longer");
    wire.meets = true;
    wire.run(200 * SECOND);
    assert_eq!(wire.found.len(), 6, "what was announced for 120 s is over");
}

#[test]
fn announcements_resist_change_by_others() {
    let mut wire = TestLink::new([(2, 0)]);
    let honest = announcement("a", text(&id(1).to_string(), "2"), "10.0.0.1");
    wire.tell(from(1), &response(honest.clone()));
    wire.run(STEP);
    wire.found.clear();
    let mut goodbye = honest.clone();
    goodbye.iter_mut().for_each(|record| record.ttl = 0);
    wire.tell(from(9), &response(goodbye));
    let mut other = announcement("a", text("x", "9"), "10.0.0.9");
    other.iter_mut().for_each(|record| record.is_unique = true);
    wire.tell(from(9), &response(other));
    wire.run(2 * SECOND);
    wire.tell(from(1), &response(vec![honest[0].clone()]));
    wire.run(121 * SECOND - 3 * SECOND);
    assert!(wire.found.is_empty(), "nothing has changed");
    wire.run(2 * SECOND);
    wire.tell(from(1), &response(honest));
    wire.run(STEP);
    let (_, found) = wire.found.last().unwrap();
    assert_eq!(found.id, id(1));
    assert_eq!(found.addresses, [(Address::new("10.0.0.1", 7), true)]);
}

#[test]
fn others_announcement_stops_no_answer() {
    let mut wire = TestLink::new([(1, 7)]);
    wire.run(5 * SECOND);
    // Another host took the name of node 1 first.
    wire.meets = false;
    let now = wire.now;
    wire.nodes.push((2, node(2, 0, now)));
    let (_, newcomer) = &mut wire.nodes[1];
    let mut fake = announcement(&id(1).short(), text(&id(1).to_string(), "2"), "10.0.0.9");
    fake.iter_mut().for_each(|record| record.ttl = 4500);
    newcomer.receive(V4, from(9), &response(fake), now);
    wire.run(2 * SECOND);
    let honest = |(_, found): &(u8, Sighting)| {
        let mut addresses = found.addresses.iter();
        addresses.any(|(at, is_source)| *is_source && at.as_tcp().unwrap().host == "10.0.0.1")
    };
    assert!(wire.found.iter().any(honest), "{:?}", wire.found);
}

#[test]
fn claiming_every_name_silences_nobody() {
    for ties in [false, true] {
        let mut wire = TestLink::new([(1, 7), (2, 0)]);
        let begin = wire.now;
        while !wire.has_found(2, 1) {
            assert!(wire.now - begin < 30 * SECOND, "never announced");
            wire.run(STEP);
            let Some((_, probe)) = wire.sent.iter().rfind(|(_, m)| !m.authority.is_empty()) else {
                continue;
            };
            let taken = probe.questions[0].name.clone();
            let service = RecordData::Service {
                host: DnsName::new(["zzzzzzzz", "local"]),
                port: 65535,
            };
            let claim = record(taken.clone(), service);
            if ties {
                let mut rival = query(&taken, kind::ANY);
                rival.authority = vec![claim];
                wire.tell(from(9), &rival.to_wire(false));
            } else {
                wire.tell(from(9), &response(vec![claim]));
            }
        }
        // Nor later.
        wire.run(5 * SECOND);
        let (_, announced) = wire.sent.iter().rfind(|(_, m)| m.is_response).unwrap();
        let ours = announced.records().find_map(|r| match &r.data {
            RecordData::Pointer(instance) => Some(instance.clone()),
            _ => None,
        });
        let claim = record(ours.unwrap(), text("x", "2"));
        wire.sent.clear();
        for _ in 0..100 {
            wire.tell(from(9), &response(vec![claim.clone()]));
            wire.run(STEP);
        }
        let asks = |(_, m): &(u8, DnsMessage)| !m.authority.is_empty();
        assert!(!wire.sent.iter().any(asks), "it is not asked for again");
    }
}

#[test]
fn many_instances_of_a_host_cost_little() {
    let mut wire = TestLink::new([(2, 0)]);
    let shared = DnsName::new(["shared", "local"]);
    for n in 0..MAX_INSTANCES {
        let mut fake = announcement(
            &format!("fake{n}"),
            text(&id(3).to_string(), "2"),
            "10.0.0.9",
        );
        fake.truncate(3);
        let service = RecordData::Service {
            host: shared.clone(),
            port: 7,
        };
        fake[1] = record(name(&format!("fake{n}")), service);
        let (now, bytes) = (wire.now, response(fake));
        wire.nodes[0].1.receive(V4, from(9), &bytes, now);
    }
    let addresses = (0..64).map(|n| {
        record(
            shared.clone(),
            RecordData::Address(ip(&format!("10.1.0.{n}"))),
        )
    });
    let bytes = response(addresses.collect());
    let begin = Instant::now();
    for _ in 0..50 {
        let now = wire.now;
        wire.nodes[0].1.receive(V4, from(9), &bytes, now);
    }
    println!("{:?} for each", begin.elapsed() / 50);
    assert!(
        begin.elapsed() < 50 * Duration::from_millis(4),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_moved_node_says_where_it_is_now() {
    let mut wire = TestLink::new([(1, 7), (2, 0)]);
    wire.run(5 * SECOND);
    wire.found.clear();
    let now = wire.now;
    wire.nodes[0]
        .1
        .set_links([link(&["10.0.0.77"])], &[V4], now);
    wire.run(3 * SECOND);
    let (_, found) = wire.found.last().unwrap();
    let has = |host| {
        found
            .addresses
            .iter()
            .any(|(at, _)| at.as_tcp().unwrap().host == host)
    };
    assert!(has("10.0.0.77") && !has("10.0.0.1"));
}

#[test]
fn what_was_heard_on_a_link_goes_with_it() {
    let mut wire = TestLink::new([(1, 7), (2, 0)]);
    wire.run(3 * SECOND);
    let (node, now) = (&mut wire.nodes[1].1, wire.now);
    assert_eq!(node.neighbours.len(), 1);
    node.set_links([], &[], now);
    assert_eq!(node.neighbours.len(), 0);
    assert!(node.act(now + SECOND).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_input_never_bloats_a_node(
        seeds in proptest::collection::vec((any::<u8>(), 0usize..200, any::<u8>(), 0u8..6), 1..200),
    ) {
        let mut wire = TestLink::new([(1, 7)]);
        wire.run(5 * SECOND);
        wire.sent.clear();
        let short = id(1).short();
        for (n, at, value, form) in seeds {
            let label = if form == 0 { short.clone() } else { format!("n{n}") };
            let said = announcement(&label, text(&id(n).to_string(), "2"), "10.0.0.9");
            let mut bytes = match form {
                0..3 => response(said),
                3 => query(&name(&short), kind::ANY).to_wire(false),
                _ => OutgoingMessage { authority: said, ..query(&name(&short), kind::ANY) }.to_wire(false),
            };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            wire.tell(from(n), &bytes);
            wire.run(STEP);
        }
        wire.mute = Some(1);
        wire.run(10 * SECOND);
        prop_assert!(wire.nodes[0].1.neighbours.len() <= MAX_INSTANCES);
        // In 12 seconds: probes, announcements, answers, and a question a second.
        prop_assert!(wire.sent.len() <= 60, "{}", wire.sent.len());
    }
}
