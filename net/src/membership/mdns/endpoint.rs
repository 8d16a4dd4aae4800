//! Multicast DNS for one service, without IO and without a clock: datagrams in, datagrams out.
//!
//! Everything is bounded, whatever arrives: the number of links by
//! [`MAX_LINKS`](super::links::MAX_LINKS), what is remembered by [`neighbours`](super::neighbours),
//! what is read by [`intake`](super::intake), and what is sent by a set of flags for each channel.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::intake::DatagramIntake;
use super::links::{ChannelId, LocalLink, PORT};
use super::message::{DnsMessage, DnsQuestion, OutgoingMessage, kind};
use super::neighbours::{LinkIndex, Neighbours, Sighting};
use super::record_state::{Jitter, RecordState};
use super::records::ServiceNames;
use super::responder::Responder;
use crate::concurrency::backoff::Backoff;
use crate::model::PeerId;

/// The delay before the first query on a channel, and the intervals between
/// queries (RFC 6762, section 5.2).
const FIRST_QUERY: (u64, u64) = (20, 120);
const QUERIES: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(3600),
};

/// The number of known answers in a query, such that it fits into a frame.
const MAX_KNOWN: usize = 16;

/// The number of questions in a query for missing records. At most one such query is
/// sent per second.
const MAX_MISSING: usize = 4;
const MISSING_GAP: Duration = Duration::from_secs(1);

/// A datagram to send on a channel.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) channel: ChannelId,
    /// The host to send it to; `None` for the multicast group.
    pub(super) to: Option<SocketAddr>,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
struct MulticastChannel {
    /// The addresses of this host that are announced there.
    addresses: Vec<IpAddr>,
    /// Absent in a node that announces nothing.
    state: Option<RecordState>,
    query_at: Instant,
    queries: u32,
    /// When missing records may be queried.
    missing_at: Instant,
}

/// One node on all of its links.
#[derive(Debug)]
pub(super) struct MdnsEndpoint {
    names: ServiceNames,
    responder: Option<Responder>,
    neighbours: Neighbours,
    intake: DatagramIntake,
    links: HashMap<LinkIndex, LocalLink>,
    channels: HashMap<ChannelId, MulticastChannel>,
    /// Answers to simple resolvers, one for each datagram read.
    answers: Vec<Datagram>,
    jitter: Jitter,
}

impl MdnsEndpoint {
    /// Creates the endpoint of the node `me`, which listens on `port`; 0 announces nothing.
    pub(super) fn new(me: PeerId, port: u16, seed: u64, now: Instant) -> Self {
        let names = ServiceNames::new();
        Self {
            responder: (port != 0).then(|| Responder::new(me, port, now)),
            neighbours: Neighbours::new(me, names.service.clone(), now),
            names,
            intake: DatagramIntake::new(now),
            links: HashMap::new(),
            channels: HashMap::new(),
            answers: Vec::new(),
            jitter: Jitter::new(seed),
        }
    }

    /// Sets the current links, and the channels that can send and receive.
    pub(super) fn set_links(
        &mut self,
        links: impl IntoIterator<Item = LocalLink>,
        channels: &[ChannelId],
        now: Instant,
    ) {
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
        self.channels.retain(|id, _| channels.contains(id));
        self.neighbours
            .keep_links(|link| channels.iter().any(|channel| channel.link == link));
        for id in channels {
            let Some(link) = self.links.get(&id.link) else {
                continue;
            };
            let addresses = link.announced();
            let jitter = &mut self.jitter;
            let channel = self
                .channels
                .entry(*id)
                .or_insert_with(|| MulticastChannel {
                    addresses: addresses.clone(),
                    state: self
                        .responder
                        .as_ref()
                        .map(|responder| responder.begin(jitter, now)),
                    query_at: now + jitter.between(FIRST_QUERY),
                    queries: 0,
                    missing_at: now,
                });
            if channel.addresses != addresses {
                channel.addresses = addresses;
                if let Some(state) = &mut channel.state {
                    Responder::moved(state, now);
                }
            }
        }
    }

    /// Returns true when a datagram from `sender` should be read.
    pub(super) fn admits(&mut self, sender: SocketAddr, now: Instant) -> bool {
        self.intake.admits(sender.ip(), now)
    }

    /// Handles a datagram that arrived by multicast on `channel`.
    pub(super) fn receive(&mut self, id: ChannelId, from: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let Some(message) = DnsMessage::read(bytes) else {
            return;
        };
        if !message.is_response {
            self.asked(id, from, &message, now);
            return;
        }
        // Responses are sent from that port (RFC 6762, section 6).
        if from.port() != PORT {
            return;
        }
        self.neighbours.hear(id.link, from.ip(), &message, now);
        if let Some((responder, state)) = self.responder.as_mut().zip(channel.state.as_mut())
            && responder.hear(state, &message, now)
        {
            self.rename(now);
        }
    }

    fn asked(&mut self, id: ChannelId, from: SocketAddr, query: &DnsMessage, now: Instant) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let Some((responder, state)) = self.responder.as_mut().zip(channel.state.as_mut()) else {
            return;
        };
        let (names, addresses) = (&self.names, &channel.addresses);
        if from.port() == PORT {
            let query = (from.ip(), query);
            let jitter = &mut self.jitter;
            if responder.asked(names, state, addresses, query, jitter, now) {
                self.rename(now);
            }
            return;
        }
        // Anybody may have forged the source address, so the answer goes only to hosts
        // on this link.
        let is_near = self
            .links
            .get(&id.link)
            .is_some_and(|link| link.reaches(from.ip()));
        if is_near && let Some(answer) = responder.asked_simply(names, state, addresses, query, now)
        {
            self.answers.push(Datagram {
                channel: id,
                to: Some(from),
                bytes: answer.to_wire(true),
            });
        }
    }

    fn rename(&mut self, now: Instant) {
        if let Some(responder) = &mut self.responder {
            let record_states = self.channels.values_mut();
            let record_states = record_states.filter_map(|channel| channel.state.as_mut());
            responder.rename(record_states, &mut self.jitter, now);
        }
    }

    /// Returns the datagrams to send now.
    pub(super) fn act(&mut self, now: Instant) -> Vec<Datagram> {
        let mut datagrams = std::mem::take(&mut self.answers);
        for (id, channel) in &mut self.channels {
            let mut send = |outgoing: OutgoingMessage, is_response| {
                datagrams.push(Datagram {
                    channel: *id,
                    to: None,
                    bytes: outgoing.to_wire(is_response),
                });
            };
            if let Some((responder, state)) = self.responder.as_mut().zip(channel.state.as_mut())
                && let Some((outgoing, is_response)) =
                    responder.act(&self.names, state, &channel.addresses, now)
            {
                send(outgoing, is_response);
            }
            if channel.query_at <= now {
                channel.queries = channel.queries.saturating_add(1);
                channel.query_at = now + QUERIES.full(channel.queries);
                let question = DnsQuestion {
                    name: self.names.service.clone(),
                    kind: kind::PTR,
                };
                let query = OutgoingMessage {
                    questions: vec![question],
                    answers: self.neighbours.known(id.link, MAX_KNOWN, now),
                    ..OutgoingMessage::default()
                };
                send(query, false);
            }
            if channel.missing_at <= now {
                let questions = self.neighbours.missing(id.link, MAX_MISSING, now);
                if !questions.is_empty() {
                    channel.missing_at = now + MISSING_GAP;
                    let query = OutgoingMessage {
                        questions,
                        ..OutgoingMessage::default()
                    };
                    send(query, false);
                }
            }
        }
        datagrams
    }

    /// Returns the nodes to report now.
    pub(super) fn sightings(&mut self, now: Instant) -> Vec<Sighting> {
        let zone = |link| Some(self.links.get(&link)?.name.clone());
        self.neighbours.sightings(zone, now)
    }

    /// Notes that `id`, one of the reported nodes, is in contact.
    pub(super) fn met(&mut self, id: PeerId) {
        self.neighbours.met(id);
    }

    /// Returns when [`MdnsEndpoint::act`] or [`MdnsEndpoint::sightings`] next has something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let channels = self.channels.values();
        let record_states = channels
            .clone()
            .filter_map(|channel| channel.state.as_ref()?.due());
        let queries = channels.map(|channel| channel.query_at);
        // Delayed by the gap between such queries.
        let missing = self.channels.iter().filter_map(|(id, channel)| {
            let wanted = self.neighbours.next_missing(id.link)?;
            Some(wanted.max(channel.missing_at))
        });
        let sightings = self.neighbours.next_sighting(now);
        let due = record_states.chain(queries).chain(missing);
        due.chain(sightings).min()
    }

    /// Returns the goodbye datagrams for all channels.
    pub(super) fn goodbye(&self) -> Vec<Datagram> {
        let channels = self.channels.iter();
        let goodbyes = channels.filter_map(|(id, channel)| {
            let (responder, state) = self.responder.as_ref().zip(channel.state.as_ref())?;
            let goodbye = responder.goodbye(&self.names, state, &channel.addresses)?;
            Some(Datagram {
                channel: *id,
                to: None,
                bytes: goodbye.to_wire(true),
            })
        });
        goodbyes.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
