//! Publishes this node's records by multicast: probing, announcing, answering, goodbye (RFC 6762,
//! sections 6, 8 and 10) for the records of one instance of one service.
//!
//! The pending output of a channel is a set of five record kinds and one time, so no number of
//! questions makes it grow, and no record is sent more than once a second.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::message::{DnsMessage, DnsQuestion, DnsRecord, OutgoingMessage, RecordData, kind};
use super::name::DnsName;
use super::record_state::{AnnounceStage, DEFENCE_GAP, GAP, Jitter, RecordState};
use super::records::{
    ALL, KINDS, Kinds, META, OwnRecords, POINTER, ServiceNames, UNIQUE, is_known, with_additional,
};
use crate::fairness::{Refill, TokenBucket};
use crate::model::PeerId;

/// The maximum TTL in an answer to a simple resolver (section 6.7).
const SIMPLE_TTL: u32 = 10;

/// The number of probes, and the time between two of them (section 8.1).
const PROBES: u8 = 3;
const PROBE_GAP: Duration = Duration::from_millis(250);
/// The maximum random delay before the first.
const PROBE_DELAY: u64 = 250;

/// The number of announcements, and the time between two of them (section 8.3).
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_GAP: Duration = Duration::from_millis(1100);

/// Random delays, in milliseconds, before an answer that others may give as well: the usual one,
/// and the one while the asker has more known answers to send (sections 6 and 7.2).
const SHARED_DELAY: (u64, u64) = (20, 120);
const TRUNCATED_DELAY: (u64, u64) = (400, 500);

/// After this many names were taken by others, the next one is drawn at random, announced without
/// probing, and kept. Names mean nothing here, and nobody else has that one by accident: an
/// attacker is claiming every name, and a node that kept probing would never be found.
const MAX_RENAMES: u32 = 4;
/// The wait after a simultaneous probe by another host, and how many of those mean that the
/// name is taken.
const TIE_PAUSE: Duration = Duration::from_secs(1);
const MAX_TIES: u8 = 2;
/// A name in use is defended, and probed again no sooner than this.
const CONFLICT_GAP: Duration = Duration::from_secs(10);

/// The rate of answers to simple resolvers, which go to an address that the asker chose.
const SIMPLE_PER_SECOND: u32 = 10;

/// This node as a responder. The caller keeps its state for each channel.
#[derive(Debug)]
pub(super) struct Responder {
    ours: OwnRecords,
    attempt: u32,
    /// When a conflict last caused the name to be probed.
    contested: Option<Instant>,
    simple: TokenBucket,
}

impl Responder {
    /// Creates a responder which announces that the node `id` listens on `port`.
    pub(super) fn new(id: PeerId, port: u16, now: Instant) -> Self {
        Self {
            ours: OwnRecords::new(id, port, 0),
            attempt: 0,
            contested: None,
            simple: TokenBucket::new(
                Refill {
                    burst: 2 * SIMPLE_PER_SECOND,
                    per_second: SIMPLE_PER_SECOND,
                },
                now,
            ),
        }
    }

    /// Returns true once the name is final.
    fn is_settled(&self) -> bool {
        self.attempt >= MAX_RENAMES
    }

    fn first_stage(&self) -> AnnounceStage {
        if self.is_settled() {
            AnnounceStage::Announcing(0)
        } else {
            AnnounceStage::Probing(0)
        }
    }

    /// Returns the initial state of a new channel.
    pub(super) fn begin(&self, jitter: &mut Jitter, now: Instant) -> RecordState {
        RecordState {
            stage: self.first_stage(),
            next: now + jitter.between((0, PROBE_DELAY)),
            ties: 0,
            pending: None,
            sent: [None; KINDS.len()],
        }
    }

    /// Handles a change of a channel's addresses.
    pub(super) fn moved(state: &mut RecordState, now: Instant) {
        if !matches!(state.stage, AnnounceStage::Probing(_)) {
            (state.stage, state.next) = (AnnounceStage::Announcing(0), now);
        }
    }

    /// Takes in the response `message`, perhaps this node's own. Returns true when the name belongs
    /// to another host: every channel must then start over, by [`Responder::rename`].
    pub(super) fn hear(
        &mut self,
        state: &mut RecordState,
        message: &DnsMessage,
        now: Instant,
    ) -> bool {
        if self.is_settled() {
            return false;
        }
        let contradicted = message
            .records()
            .any(|r| r.ttl > 0 && self.ours.is_contradicted_by(r));
        if !contradicted {
            return false;
        }
        if matches!(state.stage, AnnounceStage::Probing(_)) {
            return true;
        }
        // This node had it first. An honest host gives way to the probes.
        let is_recent = |at: Instant| now.saturating_duration_since(at) < CONFLICT_GAP;
        if !self.contested.is_some_and(is_recent) {
            self.contested = Some(now);
            state.restart(now);
        }
        false
    }

    /// Takes another name from now on.
    pub(super) fn rename<'a>(
        &mut self,
        record_states: impl Iterator<Item = &'a mut RecordState>,
        jitter: &mut Jitter,
        now: Instant,
    ) {
        self.attempt = self.attempt.saturating_add(1);
        let (id, port) = (self.ours.id, self.ours.port);
        self.ours = if self.is_settled() {
            OwnRecords::under(
                id,
                port,
                &format!("{}-{:016x}", id.short(), jitter.number()),
            )
        } else {
            OwnRecords::new(id, port, self.attempt)
        };
        let delay = jitter.between((0, PROBE_DELAY));
        for state in record_states {
            state.restart(now + delay);
            state.stage = self.first_stage();
            state.ties = 0;
        }
    }

    /// Takes in a multicast query; [`RecordState::due`] says when to send the answer. Returns true
    /// when the name belongs to another host, as in [`Responder::hear`].
    pub(super) fn asked(
        &mut self,
        names: &ServiceNames,
        state: &mut RecordState,
        addresses: &[IpAddr],
        (from, query): (IpAddr, &DnsMessage),
        jitter: &mut Jitter,
        now: Instant,
    ) -> bool {
        let rivals = query
            .authority
            .iter()
            .filter(|r| r.name == self.ours.instance);
        let is_probe = rivals.clone().next().is_some();
        if matches!(state.stage, AnnounceStage::Probing(_)) {
            let ours = self.ours.service().to_wire();
            let is_lost = |record: &DnsRecord| match &record.data {
                RecordData::Service { .. } => record.data.to_wire() > ours,
                _ => false,
            };
            if rivals.into_iter().any(is_lost) {
                state.ties += 1;
                state.restart(now + TIE_PAUSE);
            }
            return state.ties > MAX_TIES;
        }
        self.suppress(names, state, addresses, (from, query));
        let kinds = self.wanted(names, addresses, query);
        if kinds == 0 {
            return false;
        }
        let delay = if is_probe || kinds & (META | POINTER) == 0 {
            Duration::ZERO
        } else if query.is_truncated {
            jitter.between(TRUNCATED_DELAY)
        } else {
            jitter.between(SHARED_DELAY)
        };
        let pending = state.want(with_additional(kinds), now + delay);
        pending.is_defence |= is_probe;
        if is_probe {
            pending.due = now;
        }
        if query.is_truncated {
            pending.truncated_by = Some(from);
        }
        false
    }

    /// Returns the kinds that `query` asks for and does not list as known.
    fn wanted(&self, names: &ServiceNames, addresses: &[IpAddr], query: &DnsMessage) -> Kinds {
        let questions = query.questions.iter();
        let kinds = questions.fold(0, |kinds, asked| kinds | self.ours.answering(asked, names));
        let known = |kind: &Kinds| {
            let records = self.ours.records(*kind, names, addresses);
            records.iter().all(|ours| is_known(ours, &query.answers))
        };
        let unknown = KINDS
            .iter()
            .filter(|kind| kinds & **kind != 0 && !known(kind));
        unknown.fold(0, |kinds, kind| kinds | kind)
    }

    /// Drops the pending answer if the asker turns out to know it already.
    fn suppress(
        &self,
        names: &ServiceNames,
        state: &mut RecordState,
        addresses: &[IpAddr],
        (from, query): (IpAddr, &DnsMessage),
    ) {
        let Some(pending) = &mut state.pending else {
            return;
        };
        if pending.truncated_by != Some(from) || !query.questions.is_empty() {
            return;
        }
        let ours = self.ours.records(POINTER, names, addresses);
        if ours.iter().all(|ours| is_known(ours, &query.answers)) {
            state.pending = None;
        }
    }

    /// Answers a resolver that knows nothing of multicast: it asks from a port of its own and
    /// expects the answer there (RFC 6762, section 6.7).
    pub(super) fn asked_simply(
        &mut self,
        names: &ServiceNames,
        state: &RecordState,
        addresses: &[IpAddr],
        query: &DnsMessage,
        now: Instant,
    ) -> Option<OutgoingMessage> {
        let kinds = self.wanted(names, addresses, query);
        if matches!(state.stage, AnnounceStage::Probing(_))
            || kinds == 0
            || self.simple.take(now).is_err()
        {
            return None;
        }
        let plain = |mut record: DnsRecord| {
            (record.ttl, record.is_unique) = (record.ttl.min(SIMPLE_TTL), false);
            record
        };
        let records = |kinds| self.ours.records(kinds, names, addresses);
        let additional = with_additional(kinds) & !kinds;
        Some(OutgoingMessage {
            id: query.id,
            questions: query.questions.clone(),
            answers: records(kinds).into_iter().map(plain).collect(),
            additional: records(additional).into_iter().map(plain).collect(),
            ..OutgoingMessage::default()
        })
    }

    /// Returns the message to send now on a channel, and whether it is a response.
    pub(super) fn act(
        &mut self,
        names: &ServiceNames,
        state: &mut RecordState,
        addresses: &[IpAddr],
        now: Instant,
    ) -> Option<(OutgoingMessage, bool)> {
        if state.due().is_none_or(|due| now < due) {
            return None;
        }
        while state.stage != AnnounceStage::Established && state.next <= now {
            match state.stage {
                AnnounceStage::Probing(sent) if sent < PROBES => {
                    state.stage = AnnounceStage::Probing(sent + 1);
                    state.next = now + PROBE_GAP;
                    return Some((self.probe(names, addresses), false));
                }
                AnnounceStage::Probing(_) => {
                    (state.stage, state.ties) = (AnnounceStage::Announcing(0), 0);
                }
                AnnounceStage::Announcing(sent) if sent < ANNOUNCEMENTS => {
                    state.stage = AnnounceStage::Announcing(sent + 1);
                    state.next = now + ANNOUNCE_GAP;
                    state.want(ALL, now);
                }
                _ => state.stage = AnnounceStage::Established,
            }
        }
        let gap = match &state.pending {
            Some(pending) if now < pending.due => return None,
            Some(pending) if pending.is_defence => DEFENCE_GAP,
            Some(_) => GAP,
            None => return None,
        };
        let kinds = state.pending.as_ref().map_or(0, |pending| pending.kinds);
        if state
            .allowed(kinds, gap)
            .is_some_and(|allowed| now < allowed)
        {
            return None;
        }
        state.pending = None;
        for (sent, kind) in state.sent.iter_mut().zip(KINDS) {
            if kinds & kind != 0 {
                *sent = Some(now);
            }
        }
        Some((self.response(kinds, names, addresses), true))
    }

    fn probe(&self, names: &ServiceNames, addresses: &[IpAddr]) -> OutgoingMessage {
        let ask = |name: &DnsName| DnsQuestion {
            name: name.clone(),
            kind: kind::ANY,
        };
        let mut authority = self.ours.records(UNIQUE, names, addresses);
        for record in &mut authority {
            // Proposed, not asserted (section 10.2).
            record.is_unique = false;
        }
        OutgoingMessage {
            questions: vec![ask(&self.ours.instance), ask(&self.ours.host)],
            authority,
            ..OutgoingMessage::default()
        }
    }

    fn response(
        &self,
        kinds: Kinds,
        names: &ServiceNames,
        addresses: &[IpAddr],
    ) -> OutgoingMessage {
        OutgoingMessage {
            answers: self.ours.records(kinds, names, addresses),
            ..OutgoingMessage::default()
        }
    }

    /// Announces that this node is gone, where its presence was announced.
    pub(super) fn goodbye(
        &self,
        names: &ServiceNames,
        state: &RecordState,
        addresses: &[IpAddr],
    ) -> Option<OutgoingMessage> {
        if matches!(state.stage, AnnounceStage::Probing(_)) {
            return None;
        }
        let mut goodbye = self.response(ALL, names, addresses);
        for record in &mut goodbye.answers {
            record.ttl = 0;
        }
        Some(goodbye)
    }
}
