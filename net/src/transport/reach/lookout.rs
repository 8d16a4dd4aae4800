//! Looks after the endpoint: whether a relay answers, and by which way each connection goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Inner, ReachState, paths, state_of};
use crate::model::EndpointKey;
use crate::transport::route::Route;

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(15);

/// Without a relay for this long, the engine is told to look at the network again: it has been seen
/// to hang on to what no longer works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks after `inner` until its endpoint is closed. `has_relays` if it should be connected to one.
pub(super) async fn run(inner: Arc<Inner>, has_relays: bool) {
    let mut relay = RelayWatch::new(Instant::now());
    let mut routes = HashMap::new();
    let mut is_missing = false;
    while !inner.endpoint.is_closed() {
        tokio::time::sleep(LOOK).await;
        let ReachState {
            relay: answers,
            problem,
            ..
        } = state_of(&inner.endpoint);
        if has_relays && relay.is_nudge_due(answers.is_some(), Instant::now()) {
            tracing::debug!("no relay has answered for a while");
            inner.endpoint.network_change().await;
        }
        match &problem {
            Some(why) if !is_missing => tracing::warn!("no relay answers: {why}"),
            None if is_missing => tracing::info!("a relay answers again"),
            _ => {}
        }
        is_missing = problem.is_some();
        report(&inner, &mut routes);
    }
}

/// Logs each change of a way once.
fn report(inner: &Inner, known: &mut HashMap<EndpointKey, Route>) {
    let mut routes = HashMap::new();
    for (endpoint, shared) in inner.open.all() {
        let Some(state) = paths::state(&shared.connection) else {
            continue;
        };
        if known.get(&endpoint) != Some(&state.route) {
            match &state.route {
                Route::Relayed(host) => tracing::info!("{endpoint} is reached through {host}"),
                Route::Direct | Route::Tcp => tracing::info!("{endpoint} is reached directly"),
            }
        }
        routes.insert(endpoint, state.route);
    }
    *known = routes;
}

/// Since when no relay has answered.
struct RelayWatch {
    missing_since: Option<Instant>,
}

impl RelayWatch {
    fn new(now: Instant) -> Self {
        Self {
            missing_since: Some(now),
        }
    }

    /// Returns true once for each stretch of [`PATIENCE`] without a relay.
    fn is_nudge_due(&mut self, is_connected: bool, now: Instant) -> bool {
        if is_connected {
            self.missing_since = None;
            return false;
        }
        let since = *self.missing_since.get_or_insert(now);
        let is_due = now.saturating_duration_since(since) >= PATIENCE;
        if is_due {
            self.missing_since = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_is_nudged_once_a_minute_without_a_relay() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut watch = RelayWatch::new(begun);
        assert!(!watch.is_nudge_due(false, at(45)));
        assert!(watch.is_nudge_due(false, at(60)));
        assert!(!watch.is_nudge_due(false, at(75)));
        assert!(watch.is_nudge_due(false, at(120)));
        assert!(!watch.is_nudge_due(true, at(135)));
        assert!(!watch.is_nudge_due(false, at(150)));
        assert!(watch.is_nudge_due(false, at(210)));
    }
}
