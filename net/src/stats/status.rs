//! What a node is doing, as plain data: [`Node::status`](crate::Node::status) builds it from
//! memory, without asking any member and without waiting.
//!
//! Programs read it as an object, so fields are only ever added; `fs/SEMANTICS.md` says what each
//! one means. Nothing in it is derived from the password.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ledger::Account;
use crate::membership::MemberHealth;
use crate::model::{PeerId, RelPath};
use crate::transport::route::{Route, RouteState};

/// The state of one node at one moment.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The node's name for itself.
    pub name: String,
    /// The member's peer id, 52 characters.
    pub peer_id: String,
    /// The TCP port that it listens on; 0 if it does not listen.
    pub port: u16,
    /// The version of the protocol that it speaks.
    pub protocol: u32,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// All other members, present or past, by their names.
    pub members: Vec<MemberStatus>,
    /// Bytes in memory that wait for readers.
    pub memory: MemoryStatus,
    /// Cached bytes on disk.
    pub cache: CacheStatus,
    /// Bytes of files that came from members and were right, as far as could be checked.
    pub received: u64,
    /// Pieces of files that came from members and were wrong.
    pub refused: u64,
    /// The protocol of 2004, which is not encrypted; `None` when it is not spoken.
    pub legacy: Option<LegacyStatus>,
    /// Why the shared directory is currently not shared at all, in words; `None` while it is
    /// shared, and for a node without one.
    pub share_problem: Option<String>,
    /// How this node takes part through NATs; `None` if it does not.
    pub reach: Option<ReachStatus>,
    /// Unreadable directories of the share, as far as somebody has come upon them.
    pub unreadable: Vec<Unreadable>,
}

/// A shared directory that cannot be read.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Unreadable {
    /// Its path in the share; unprintable characters are escaped.
    pub path: String,
    /// What is wrong with it, in words.
    pub problem: String,
    /// Seconds since the problem was found.
    pub seconds: u64,
}

/// The place of a node that takes part through NATs, as far as it has found out.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ReachStatus {
    /// What a friend gives in place of a PEER; `None` if nobody can call this node.
    pub ticket: Option<String>,
    /// The host of the relay to which it is connected.
    pub relay: Option<String>,
    /// Why it is connected to none, in words, if that is known.
    pub problem: Option<String>,
    /// Whether UDP reaches the relay; `None` until that is known.
    pub udp: Option<bool>,
    /// Whether its router gives each destination another port, so that direct ways to members
    /// behind other routers are unlikely.
    pub symmetric_nat: Option<bool>,
    /// Its public addresses, as relays see them.
    pub public_addresses: Vec<String>,
}

/// How a member is reached.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    /// The way that bytes take now.
    pub kind: RouteKind,
    /// The host of the relay, if it is relayed.
    pub relay: Option<String>,
    /// The round trip in microseconds, as far as it is known.
    pub round_trip_us: Option<u64>,
    /// Bytes sent and received by relays on the connection that there is, packets' heads included.
    pub relayed: u64,
    /// The same, through NATs without anybody between.
    pub direct: u64,
}

/// The kinds of ways to a member.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// By a TCP connection.
    #[default]
    Tcp,
    /// Through NATs, without anybody between.
    Direct,
    /// Through NATs, by a relay.
    Relayed,
}

impl From<RouteState> for RouteStatus {
    fn from(state: RouteState) -> Self {
        let (kind, relay) = match state.route {
            Route::Tcp => (RouteKind::Tcp, None),
            Route::Direct => (RouteKind::Direct, None),
            Route::Relayed(host) => (RouteKind::Relayed, Some(host)),
        };
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            kind,
            relay,
            round_trip_us: state.round_trip.map(microseconds),
            relayed: state.relayed,
            direct: state.direct,
        }
    }
}

/// A node in a network of 2004.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LegacyStatus {
    /// The URLs by which it can be, or was, called; none if it does not listen.
    pub urls: Vec<String>,
    /// The servers that it knows, without itself.
    pub servers: Vec<String>,
}

/// One member, as this node sees it.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Its display name: no two members have the same.
    pub name: String,
    /// The member's peer id, 52 characters.
    pub peer_id: String,
    /// Where it was last reached, if it was.
    pub address: Option<String>,
    /// How it is reached now; `None` while it is not, and for servers of 2004.
    pub route: Option<RouteStatus>,
    /// Whether it answers.
    pub state: Presence,
    /// Seconds since it entered that state.
    pub state_seconds: u64,
    /// The last failure with this member, if any.
    pub last_error: Option<String>,
    /// Seconds since that failure.
    pub last_error_seconds: Option<u64>,
    /// The files of which it sent wrong bytes.
    pub blamed: Vec<Blame>,
    /// How many wrong pieces of files it sent; possibly of more files than are blamed by name.
    pub refused: u64,
    /// Bytes of files that came from it and were not wrong.
    pub received: u64,
    /// How many of those came in the last whole second.
    pub rate: u64,
}

/// Whether a member answers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It answers when called.
    Present,
    /// It answered before, and does not now.
    #[default]
    Absent,
}

/// A file of which a member sent wrong bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Blame {
    /// Its path in that member's share; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// How many of its pieces were refused.
    pub times: u64,
}

/// Bytes on their way to readers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStatus {
    /// How many there are.
    pub held: u64,
    /// The limit that all open files together aim to stay below.
    pub budget: u64,
}

/// Bytes on disk.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    /// The directory; `None` if this node keeps nothing on disk.
    pub directory: Option<String>,
    /// How many there are.
    pub held: u64,
    /// The maximum number of bytes.
    pub limit: u64,
}

/// Returns the status of every other member, including those now known only by their wrong bytes.
pub(crate) fn members(
    standings: Vec<MemberHealth>,
    mut accounts: HashMap<PeerId, (Account, u64)>,
    now: Instant,
) -> Vec<MemberStatus> {
    let mut members: Vec<_> = standings
        .into_iter()
        .map(|standing| {
            let (account, rate) = accounts.remove(&standing.id).unwrap_or_default();
            let seconds = |since| now.saturating_duration_since(since).as_secs();
            let (last_error, last_error_at) = standing.trouble.unzip();
            MemberStatus {
                name: standing.name.to_string(),
                address: standing.address.map(|address| address.to_string()),
                route: standing.route.map(RouteStatus::from),
                state: if standing.is_present {
                    Presence::Present
                } else {
                    Presence::Absent
                },
                state_seconds: seconds(standing.since),
                last_error: last_error.map(|error| error.to_string()),
                last_error_seconds: last_error_at.map(seconds),
                ..counted(standing.id, account, rate)
            }
        })
        .collect();
    let forgotten = accounts.into_iter();
    let forgotten = forgotten.filter(|(_, (account, _))| account.refused > 0);
    members.extend(forgotten.map(|(id, (account, rate))| counted(id, account, rate)));
    members.sort_by(|a, b| (&a.name, &a.peer_id).cmp(&(&b.name, &b.peer_id)));
    members
}

/// Returns the ledger's figures for a member of which nothing else is known.
fn counted(id: PeerId, account: Account, rate: u64) -> MemberStatus {
    let blame = |(path, times): (RelPath, u64)| Blame {
        path: String::from_utf8_lossy(path.as_bytes()).into_owned(),
        times,
    };
    MemberStatus {
        name: id.short(),
        peer_id: id.to_string(),
        blamed: account.blamed.into_iter().map(blame).collect(),
        refused: account.refused,
        received: account.received,
        rate,
        ..MemberStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::model::Address;
    use crate::stats::ledger::Ledger;

    fn id(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    #[test]
    fn member_is_shown_with_its_bytes() {
        let (ledger, since) = (Ledger::default(), Instant::now());
        ledger.received(id(1), 10);
        ledger.blame(id(1), &RelPath::new(b"d/f\xff").unwrap());
        ledger.received(id(3), 10);
        let error = Error::Timeout { who: "ann".into() };
        let standing = |number, name: &str, is_present| MemberHealth {
            id: id(number),
            name: name.into(),
            address: Some(Address::new("10.0.0.1", 7)),
            is_present,
            since,
            trouble: (!is_present).then(|| (error.clone(), since)),
            route: None,
        };
        let standings = vec![standing(2, "bob", true), standing(1, "ann", false)];
        let now = since + Duration::from_secs(5);
        let members = members(standings, ledger.read().0, now);
        let names: Vec<_> = members.iter().map(|member| &*member.name).collect();
        assert_eq!(names, ["ann", "bob"], "whoever left is forgotten");
        let (ann, bob) = (&members[0], &members[1]);
        assert_eq!((ann.state, ann.state_seconds), (Presence::Absent, 5));
        assert_eq!(
            ann.last_error.as_deref(),
            Some("ann did not answer in time")
        );
        assert_eq!(ann.last_error_seconds, Some(5));
        assert_eq!((ann.received, ann.refused), (10, 1));
        let blame = Blame {
            path: "d/f\u{fffd}".into(),
            times: 1,
        };
        assert_eq!(ann.blamed, [blame]);
        assert_eq!((bob.state, bob.received), (Presence::Present, 0));
        assert_eq!((&bob.last_error, bob.last_error_seconds), (&None, None));
        assert_eq!(bob.address.as_deref(), Some("10.0.0.1:7"));
    }

    #[test]
    fn wrong_bytes_are_blamed_on_forgotten_too() {
        let ledger = Ledger::default();
        ledger.blame(id(1), &RelPath::new(b"f").unwrap());
        let members = members(Vec::new(), ledger.read().0, Instant::now());
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].peer_id, id(1).to_string());
        assert_eq!(members[0].blamed[0].path, "f");
    }
}
