//! Host names to IP addresses, in bounded time.
//!
//! The system's resolver cannot be given a deadline or be interrupted, so each lookup runs in a
//! thread of its own and is left behind when it is late; a late answer is still remembered. Only a
//! few may be under way at once. Addresses written as numbers never come here.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// A dialled name is looked up again after this time; lanes are opened more often than that.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Names remembered at most; all are dropped when there would be more.
const MOST_NAMES: usize = 1024;

/// Lookups under way at most, so that a broken resolver cannot pile up threads.
const MOST_LOOKUPS: usize = 16;

/// Addresses of one name that are tried at most.
const MOST_ADDRESSES: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Names {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<String, (Instant, Vec<IpAddr>)>,
    lookups: usize,
}

impl Names {
    /// The addresses of `host`, at least one.
    pub(super) fn resolve(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Error> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let now = Instant::now();
        {
            let mut table = self.table.lock();
            match table.known.get(host) {
                Some((at, ips)) if now < *at + REMEMBERED_FOR => return Ok(ips.clone()),
                _ => {}
            }
            if table.lookups >= MOST_LOOKUPS {
                return Err(unknown(host, "too many names are being looked up"));
            }
            table.lookups += 1;
        }
        self.look_up(host, deadline.saturating_duration_since(now))
    }

    /// Drops what is known of `host`.
    pub(super) fn forget(&self, host: &str) {
        self.table.lock().known.remove(host);
    }

    fn look_up(&self, host: &str, patience: Duration) -> Result<Vec<IpAddr>, Error> {
        let (sender, receiver) = sync_channel(1);
        let (table, name) = (self.table.clone(), host.to_owned());
        let spawned = thread::Builder::new()
            .name("tinyp2p-names".into())
            .spawn(move || {
                let found = ask_system(&name);
                table.lock().finish(name, &found);
                // Nobody listens any more when the answer is late.
                let _ = sender.send(found);
            });
        if let Err(error) = spawned {
            self.table.lock().lookups -= 1;
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

impl Table {
    fn finish(&mut self, name: String, found: &Result<Vec<IpAddr>, String>) {
        self.lookups -= 1;
        if let Ok(ips) = found {
            if self.known.len() >= MOST_NAMES {
                self.known.clear();
            }
            self.known.insert(name, (Instant::now(), ips.clone()));
        }
    }
}

fn ask_system(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|e| e.to_string())?;
    let ips: Vec<IpAddr> = found.map(|a| a.ip()).take(MOST_ADDRESSES).collect();
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
        let names = Names::default();
        let now = Instant::now();
        assert_eq!(names.resolve("::1", now).unwrap().len(), 1);
        assert_eq!(names.resolve("127.0.0.1", now).unwrap().len(), 1);
    }

    #[test]
    fn a_name_is_remembered_until_it_is_forgotten() {
        let names = Names::default();
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(!names.resolve("localhost", deadline).unwrap().is_empty());
        let past = Instant::now() - Duration::from_secs(1);
        assert!(names.resolve("localhost", past).is_ok());
        names.forget("localhost");
        assert!(names.table.lock().known.is_empty());
    }
}
