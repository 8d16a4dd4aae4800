//! Everything that decides which peers may speak, in one bundle that server and client share.
//!
//! One process has one [`Gate`]. It is also where time enters: the tables behind it take `now`,
//! but their callers outside do not have to. Locks are held for one look-up each and never over
//! IO. State that outlives this process is in the [`GuessRecord`]. The gate consults it before
//! each dialled run, and adds each stranger's failure to it in the background, where no caller
//! waits for a disk.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::admission::Admission;
use super::credentials::Credentials;
use super::identity::Identity;
use super::limits::{
    AddressSource, CallerStanding, GuessOutcome, GuessRecord, GuessRefusal, Hold, Inbound,
    InboundRun, Outbound, OutboundRun, RememberedKeys,
};
use super::password::Stretched;
use super::tls::{self, Alpn};
use crate::error::Error;
use crate::model::PeerId;

/// A pairing run that takes longer than this has failed.
pub(crate) const PAIRING_DEADLINE: Duration = Duration::from_secs(10);

/// This node's key, its form of the password, the keys that proved it, and the limits
/// on guessing it.
pub struct Gate {
    identity: Identity,
    credentials: Credentials,
    admission: Admission,
    /// Keys that proved a password before this process began; they admit nobody.
    remembered: RememberedKeys,
    inbound: Arc<Mutex<Inbound>>,
    /// Notified whenever an inbound run ends.
    inbound_ended: Notify,
    outbound: Mutex<Outbound>,
    record: GuessRecord,
    server: Arc<rustls::ServerConfig>,
    pair: Arc<rustls::ClientConfig>,
    http: Arc<rustls::ClientConfig>,
}

impl Gate {
    /// Creates a gate that has admitted nobody yet. The guesses in `record` count.
    pub fn new(
        identity: Identity,
        stretched: Stretched,
        record: GuessRecord,
    ) -> Result<Self, Error> {
        let credentials = Credentials::new(stretched, identity.id())
            .map_err(|error| Error::local("password", error))?;
        let mut inbound = Inbound::default();
        record.update(|all, now| inbound.learn(all.inbound, now));
        Ok(Self {
            server: tls::server_config(&identity)?,
            pair: tls::client_config(&identity, Alpn::Pair)?,
            http: tls::client_config(&identity, Alpn::Http)?,
            identity,
            credentials,
            admission: Admission::default(),
            remembered: record.known_keys(),
            inbound: Arc::new(Mutex::new(inbound)),
            inbound_ended: Notify::new(),
            outbound: Mutex::default(),
            record,
        })
    }

    /// Returns this node's own key.
    pub fn id(&self) -> PeerId {
        self.identity.id()
    }

    /// Returns the TLS configuration for accepted connections.
    pub fn tls_server(&self) -> Arc<rustls::ServerConfig> {
        self.server.clone()
    }

    /// Returns the TLS configuration for dialled connections.
    pub fn tls_client(&self, alpn: Alpn) -> Arc<rustls::ClientConfig> {
        match alpn {
            Alpn::Pair => self.pair.clone(),
            Alpn::Http => self.http.clone(),
        }
    }

    /// Returns true when `peer` has proved the password less than 24 hours ago.
    pub fn is_admitted(&self, peer: PeerId) -> bool {
        self.admission.is_admitted(peer, Instant::now())
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn admit(&self, peer: PeerId) {
        self.admission.admit(peer, Instant::now());
        let record = self.record.clone();
        in_background(move || record.note_known(peer));
    }

    /// Charges a run to `caller`. If the limit of runs under way is reached, waits for one to end,
    /// until `patience` is over: honest members often arrive together.
    pub(crate) async fn begin_inbound(
        &self,
        caller: PeerId,
        source: IpAddr,
        patience: tokio::time::Instant,
    ) -> Result<InboundGuard<'_>, Duration> {
        loop {
            // Registered before the table is queried, so that no ending is missed in between.
            let ended = self.inbound_ended.notified();
            match self.try_inbound(caller, source, Instant::now()) {
                Ok(run) => {
                    return Ok(InboundGuard {
                        gate: self,
                        source,
                        run: Some(run),
                    });
                }
                Err(GuessRefusal::Later(wait)) => return Err(wait),
                Err(GuessRefusal::Full) => tokio::time::timeout_at(patience, ended)
                    .await
                    .map_err(|_| Duration::from_secs(1))?,
            }
        }
    }

    /// Begins a run at once or refuses it. A key that recently proved the password has its own
    /// count, even after its admission has ended: that is when members come to renew it.
    fn try_inbound(
        &self,
        caller: PeerId,
        source: IpAddr,
        now: Instant,
    ) -> Result<InboundRun, GuessRefusal> {
        let standing = if self.admission.is_known(caller, now) {
            CallerStanding::Known
        } else if self.remembered.contains(caller, now) {
            CallerStanding::Remembered
        } else {
            CallerStanding::Unknown
        };
        self.inbound.lock().begin(caller, standing, source, now)
    }

    fn end_inbound(&self, run: InboundRun, source: IpAddr, proved: bool) {
        let now = Instant::now();
        let mut inbound = self.inbound.lock();
        let failed = inbound.end(run, proved, now);
        let report = if proved { None } else { inbound.report(now) };
        drop(inbound);
        self.inbound_ended.notify_waiters();
        if let Some(began) = failed {
            self.record_inbound(began);
        }
        if let Some(gap) = report {
            tracing::warn!(
                "many wrong passwords lately, the last from {source}: strangers may try one every \
                 {} s for now; members are not affected",
                gap.as_secs()
            );
        }
    }

    /// Records a stranger's failed run, and learns what other nodes recorded. The table above has
    /// counted it already, and lets few fail at once, so few of these are under way.
    fn record_inbound(&self, began: Instant) {
        let (record, inbound) = (self.record.clone(), self.inbound.clone());
        let job = move || {
            let all = record.update(|all, now| {
                all.inbound.add(began, now);
                all.inbound
            });
            inbound.lock().learn(all, Instant::now());
        };
        in_background(job);
    }

    /// Charges a run with whoever answers at `who`.
    pub(crate) fn begin_outbound(
        &self,
        who: &str,
        source: AddressSource,
    ) -> Result<OutboundGuard<'_>, Error> {
        let begun = self.record.update(|all, now| {
            let mut outbound = self.outbound.lock();
            outbound.begin(&mut all.outbound, who, source, now)
        });
        match begun {
            Ok(run) => Ok(OutboundGuard {
                gate: self,
                run: Some(run),
            }),
            // The peer that is there now was not tried, and may be a different one.
            Err(Hold::Refused(_)) if source == AddressSource::Named => {
                Err(Error::Refused { who: who.into() })
            }
            Err(Hold::Refused(wait) | Hold::Budget(wait)) => Err(Error::Later {
                who: who.into(),
                seconds: whole_seconds(wait),
            }),
        }
    }
}

/// Runs `job` where no caller waits for a disk; at once in a thread that may block.
fn in_background(job: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(job)),
        Err(_) => job(),
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("id", &self.id()).finish()
    }
}

/// Rounds up to whole seconds: at least one, and no more than fits into a frame.
pub(crate) fn whole_seconds(wait: Duration) -> u16 {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    u16::try_from(seconds as u64).unwrap_or(u16::MAX)
}

/// A run that a stranger or a member began here. When dropped, it counts as a wrong guess, and so
/// does a run that breaks off, times out or fails in any way.
pub(crate) struct InboundGuard<'a> {
    gate: &'a Gate,
    source: IpAddr,
    run: Option<InboundRun>,
}

impl InboundGuard<'_> {
    /// Settles the run at no cost: the caller has proved the password.
    pub(crate) fn proved(mut self) {
        self.settle(true);
    }

    fn settle(&mut self, proved: bool) {
        if let Some(run) = self.run.take() {
            self.gate.end_inbound(run, self.source, proved);
        }
    }
}

impl Drop for InboundGuard<'_> {
    fn drop(&mut self) {
        self.settle(false);
    }
}

/// A run that this node began. When dropped, it costs nothing: the other side has learnt nothing
/// until its KE2 was tried.
pub(crate) struct OutboundGuard<'a> {
    gate: &'a Gate,
    run: Option<OutboundRun>,
}

impl OutboundGuard<'_> {
    /// Settles the run: both sides have proved the password.
    pub(crate) fn paired(mut self) {
        self.settle(GuessOutcome::Paired);
    }

    /// Settles the run: the other side has had a guess, and it was wrong.
    pub(crate) fn wrong_password(mut self) {
        self.settle(GuessOutcome::WrongPassword);
    }

    fn settle(&mut self, outcome: GuessOutcome) {
        if let Some(run) = self.run.take() {
            self.gate.record.update(|all, now| {
                let mut outbound = self.gate.outbound.lock();
                outbound.end(&mut all.outbound, run, outcome, now);
            });
        }
    }
}

impl Drop for OutboundGuard<'_> {
    fn drop(&mut self) {
        self.settle(GuessOutcome::Nothing);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    impl Gate {
        /// Returns the keys that have proved the password.
        pub(crate) fn admission(&self) -> &Admission {
            &self.admission
        }

        /// Returns the current count of wrong guesses by strangers, which decays by one an hour.
        pub(crate) fn inbound_failures(&self) -> u32 {
            self.inbound.lock().failures(Instant::now())
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn key(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    /// Creates a gate that admitted `key(1)` at `start` and is flooded with wrong guesses by `now`.
    fn flooded(start: Instant, now: Instant) -> Gate {
        let identity = Identity::ephemeral().unwrap();
        let gate = Gate::new(identity, Stretched::for_tests(1), GuessRecord::in_memory()).unwrap();
        gate.admission.admit(key(1), start);
        let runs: Vec<_> = (0..8)
            .map(|number| {
                let from = Ipv4Addr::new(10, 0, 0, number);
                gate.try_inbound(key(2), from.into(), now).unwrap()
            })
            .collect();
        let mut inbound = gate.inbound.lock();
        for run in runs {
            inbound.end(run, false, now);
        }
        drop(inbound);
        gate
    }

    fn is_held_off(gate: &Gate, caller: PeerId, now: Instant) -> bool {
        matches!(
            gate.try_inbound(caller, SOURCE, now),
            Err(GuessRefusal::Later(_))
        )
    }

    #[test]
    fn lapsed_member_renews_during_a_flood() {
        let start = Instant::now();
        let now = start + 25 * HOUR;
        let gate = flooded(start, now);
        assert!(is_held_off(&gate, key(2), now));
        assert!(!gate.admission.is_admitted(key(1), now));
        let run = gate.try_inbound(key(1), SOURCE, now).unwrap();
        gate.inbound.lock().end(run, true, now);
        gate.admission.admit(key(1), now);
        assert!(gate.admission.is_admitted(key(1), now + 23 * HOUR));
    }

    #[test]
    fn known_key_passes_a_flood_unadmitted() {
        let state = tempfile::tempdir().unwrap();
        let start = || {
            let identity = Identity::ephemeral().unwrap();
            let record = GuessRecord::open(state.path());
            Gate::new(identity, Stretched::for_tests(1), record).unwrap()
        };
        let gate = start();
        gate.admit(key(1));
        for _ in 0..13 {
            gate.record_inbound(Instant::now());
        }
        drop(gate);
        let gate = start();
        let now = Instant::now();
        assert!(is_held_off(&gate, key(2), now));
        assert!(!gate.is_admitted(key(1)));
        let run = gate.try_inbound(key(1), SOURCE, now).unwrap();
        gate.inbound.lock().end(run, true, now);
        // Neither data derived from the password nor the key itself is on disk.
        let bytes = std::fs::read(state.path().join("known-keys")).unwrap();
        assert!(!bytes.windows(8).any(|window| window == [1; 8]));
    }

    #[test]
    fn member_is_a_stranger_after_two_days() {
        let start = Instant::now();
        let now = start + 48 * HOUR;
        assert!(is_held_off(&flooded(start, now), key(1), now));
        let before = now - Duration::from_secs(1);
        assert!(!is_held_off(&flooded(start, before), key(1), before));
    }

    #[test]
    fn lapsed_key_has_ten_guesses_an_hour() {
        let start = Instant::now();
        let now = start + 25 * HOUR;
        let gate = flooded(start, now);
        for _ in 0..10 {
            let run = gate.try_inbound(key(1), SOURCE, now).unwrap();
            gate.inbound.lock().end(run, false, now);
        }
        assert!(is_held_off(&gate, key(1), now));
        assert!(!is_held_off(&gate, key(1), now + HOUR));
    }
}
