//! Resolves host names to IP addresses, in bounded time.
//!
//! The system's resolver can neither take a deadline nor be interrupted. So each lookup runs in a
//! thread of its own, which is abandoned when it is late; a late answer is still remembered. The
//! number of lookups under way is limited, separately for names that the user typed and for names
//! that others announced. So announced names whose servers do not answer, which anybody can
//! announce, delay only each other. Addresses written as numbers are never looked up.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// A dialled name is looked up again after this time; connections are opened more often than that.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// The most names remembered of each kind; when there would be more, all of that kind are dropped.
const MAX_NAMES: usize = 1024;

/// The most lookups under way of each kind, so that a broken resolver cannot pile up threads.
const MAX_LOOKUPS: usize = 16;

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Queries the system's resolver; in tests, a substitute.
type AskSystem = fn(&str) -> Result<Vec<IpAddr>, String>;

/// Resolves names, in two separate pools that share nothing.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// Host names that the user typed, in canonical spelling.
    typed: HashSet<String>,
    of_typed: Lookups,
    of_told: Lookups,
    ask: AskSystem,
}

/// The lookups of one kind of name.
#[derive(Debug, Default, Clone)]
struct Lookups(Arc<Mutex<LookupTable>>);

#[derive(Debug, Default)]
struct LookupTable {
    known: HashMap<String, (Instant, Vec<IpAddr>)>,
    under_way: usize,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new([])
    }
}

impl Resolver {
    /// Creates a resolver for a user who typed the hosts `typed`.
    pub(crate) fn new(typed: impl IntoIterator<Item = String>) -> Self {
        Self {
            typed: typed.into_iter().collect(),
            of_typed: Lookups::default(),
            of_told: Lookups::default(),
            ask: ask_system,
        }
    }

    /// Returns the addresses of `host`, at least one.
    pub(crate) fn resolve(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Error> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let now = Instant::now();
        let lookups = self.lookups(host);
        if let Some(ips) = lookups.0.lock().begin(host, now)? {
            return Ok(ips);
        }
        lookups.look_up(host, self.ask, deadline.saturating_duration_since(now))
    }

    /// Drops the remembered addresses of `host`.
    pub(crate) fn forget(&self, host: &str) {
        self.lookups(host).0.lock().known.remove(host);
    }

    fn lookups(&self, host: &str) -> &Lookups {
        if self.typed.contains(host) {
            &self.of_typed
        } else {
            &self.of_told
        }
    }
}

impl Lookups {
    fn look_up(
        &self,
        host: &str,
        ask: AskSystem,
        patience: Duration,
    ) -> Result<Vec<IpAddr>, Error> {
        let (sender, receiver) = sync_channel(1);
        let (table, name) = (self.0.clone(), host.to_owned());
        let spawned = thread::Builder::new()
            .name("tinyp2p-names".into())
            .spawn(move || {
                let found = ask(&name);
                table.lock().finish(name, &found);
                // Nobody is waiting any more when the answer is late.
                let _ = sender.send(found);
            });
        if let Err(error) = spawned {
            self.0.lock().under_way -= 1;
            return Err(Error::local("starting a thread", error));
        }
        match receiver.recv_timeout(patience) {
            Ok(Ok(ips)) => Ok(ips),
            Ok(Err(why)) => Err(unknown(host, &why)),
            Err(RecvTimeoutError::Timeout) => Err(Error::Timeout { who: host.into() }),
            Err(RecvTimeoutError::Disconnected) => Err(unknown(host, "the lookup failed")),
        }
    }
}

impl LookupTable {
    /// Returns the remembered addresses of `host`; if there are none, counts a new lookup
    /// as under way.
    fn begin(&mut self, host: &str, now: Instant) -> Result<Option<Vec<IpAddr>>, Error> {
        match self.known.get(host) {
            Some((at, ips)) if now < *at + REMEMBERED_FOR => return Ok(Some(ips.clone())),
            _ => {}
        }
        if self.under_way >= MAX_LOOKUPS {
            return Err(unknown(host, "too many names are being looked up"));
        }
        self.under_way += 1;
        Ok(None)
    }

    fn finish(&mut self, name: String, found: &Result<Vec<IpAddr>, String>) {
        self.under_way -= 1;
        if let Ok(ips) = found {
            if self.known.len() >= MAX_NAMES {
                self.known.clear();
            }
            self.known.insert(name, (Instant::now(), ips.clone()));
        }
    }
}

fn ask_system(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|e| e.to_string())?;
    let ips: Vec<IpAddr> = found.map(|a| a.ip()).take(MAX_ADDRESSES).collect();
    if ips.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(ips)
}

fn unknown(host: &str, why: &str) -> Error {
    Error::Unreachable {
        who: host.into(),
        why: why.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_lookup() {
        let names = Resolver::default();
        let now = Instant::now();
        assert_eq!(names.resolve("::1", now).unwrap().len(), 1);
        assert_eq!(names.resolve("127.0.0.1", now).unwrap().len(), 1);
    }

    #[test]
    fn resolved_name_is_kept_until_forgotten() {
        let names = Resolver::default();
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(!names.resolve("localhost", deadline).unwrap().is_empty());
        let past = Instant::now() - Duration::from_secs(1);
        assert!(names.resolve("localhost", past).is_ok());
        names.forget("localhost");
        assert!(names.of_told.0.lock().known.is_empty());
    }

    /// Does not answer for names that begin with `slow` within the time of this test.
    fn ask_slowly(name: &str) -> Result<Vec<IpAddr>, String> {
        if name.starts_with("slow") {
            thread::sleep(Duration::from_secs(3600));
        }
        Ok(vec![IpAddr::from([10, 0, 0, 1])])
    }

    fn slowly(typed: &[&str]) -> Resolver {
        Resolver {
            ask: ask_slowly,
            ..Resolver::new(typed.iter().map(|name| (*name).to_owned()))
        }
    }

    /// Looks up `count` names that do not answer, and returns how many lookups began.
    fn flood(names: &Resolver, count: usize, prefix: &str) -> usize {
        let begun = (0..count).filter(|number| {
            let outcome = names.resolve(&format!("{prefix}{number}"), Instant::now());
            matches!(outcome, Err(Error::Timeout { .. }))
        });
        begun.count()
    }

    #[test]
    fn unresolvable_names_pile_up_no_threads() {
        let names = slowly(&[]);
        assert_eq!(flood(&names, 100, "slow"), MAX_LOOKUPS);
        let deadline = Instant::now() + Duration::from_secs(10);
        let outcome = names.resolve("told.example", deadline);
        assert!(matches!(outcome, Err(Error::Unreachable { .. })));
    }

    #[test]
    fn slow_foreign_names_delay_no_typed_ones() {
        let names = slowly(&["typed.example"]);
        flood(&names, 100, "slow");
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(names.resolve("typed.example", deadline).is_ok());
        names.forget("typed.example");
        assert!(names.resolve("typed.example", deadline).is_ok());
    }

    #[test]
    fn remembered_names_are_bounded() {
        let mut table = LookupTable::default();
        for number in 0..3 * MAX_NAMES {
            table.under_way += 1;
            table.finish(number.to_string(), &Ok(Vec::new()));
            assert!(table.known.len() <= MAX_NAMES);
        }
    }
}
