//! The report on a running node: one text for people, one JSON object for programs. The object
//! appears in `.tinyp2p/status.json` and in the output of `tinyp2p status --json`;
//! SEMANTICS.md lists its fields.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tinyp2p_net::stats::status::{LegacyStatus, MemberStatus, Presence, ReachStatus, Status};

use super::format::{duration, route, shown, size};

/// The directories that a node uses on this machine.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NodeLocation {
    /// The mountpoint, if the node mounts.
    pub mountpoint: Option<PathBuf>,
    /// The directory that it shares, if any.
    pub share: Option<PathBuf>,
}

/// A search in a mount that did not show the requested files.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchTrouble {
    /// The pattern, with unprintable characters escaped.
    pub pattern: String,
    /// The problem with it, in words.
    pub problem: String,
    /// Seconds since it was last looked at.
    pub seconds: u64,
}

/// A node's status, together with its place on this machine.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// The process id of the node.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// The mountpoint; `None` for a node that only serves. Bytes that are not UTF-8 are replaced.
    pub mountpoint: Option<String>,
    /// The directory that it shares.
    pub share: Option<String>,
    /// Searches in its mount that failed or found too much, the latest first.
    pub searches: Vec<SearchTrouble>,
    /// The state of the node in its network.
    #[serde(flatten)]
    pub status: Status,
}

impl NodeReport {
    /// Creates the report of a node that runs in this process.
    pub fn new(place: NodeLocation, status: Status) -> Self {
        let text = |path: PathBuf| Path::to_string_lossy(&path).into_owned();
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mountpoint: place.mountpoint.map(text),
            share: place.share.map(text),
            searches: Vec::new(),
            status,
        }
    }

    /// Adds the searches that went wrong.
    pub fn with_searches(self, searches: Vec<SearchTrouble>) -> Self {
        Self { searches, ..self }
    }

    /// Returns one JSON object on one line, with a trailing newline.
    pub fn json(&self) -> String {
        // Only strings and numbers: nothing can fail.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Returns a few lines for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let status = &self.status;
        writeln!(
            out,
            "{} (node {}, pid {}, port {}, up {})",
            shown(&status.name),
            short(&status.peer_id),
            self.pid,
            status.port,
            duration(status.uptime_seconds)
        )?;
        if let Some(mountpoint) = &self.mountpoint {
            writeln!(out, "  mounted  {}", shown(mountpoint))?;
        }
        match &self.share {
            Some(share) => writeln!(out, "  sharing  {}{}", shown(share), problem(status))?,
            None => writeln!(out, "  sharing  nothing")?,
        }
        for directory in &status.unreadable {
            let (path, problem) = (shown(&directory.path), shown(&directory.problem));
            let since = duration(directory.seconds);
            writeln!(out, "  trouble  {path}, since {since}: {problem}")?;
        }
        let (received, refused) = (size(status.received), refused(status.refused));
        writeln!(out, "  received {received}{refused}")?;
        let (held, budget) = (size(status.memory.held), size(status.memory.budget));
        writeln!(out, "  memory   {held} of {budget}")?;
        let cache = &status.cache;
        if let Some(directory) = &cache.directory {
            let (held, limit) = (size(cache.held), size(cache.limit));
            writeln!(out, "  cache    {held} of {limit} in {}", shown(directory))?;
        } else {
            writeln!(out, "  cache    none on disk")?;
        }
        if let Some(legacy) = &status.legacy {
            writeln!(
                out,
                "  legacy   not safe from eavesdroppers: speaks the protocol of 2004{}",
                called(legacy)
            )?;
        }
        if let Some(reach) = &status.reach {
            writeln!(out, "  reach    {}", place(reach))?;
        }
        if status.members.is_empty() {
            writeln!(out, "  members  none yet")?;
        } else {
            let states = status.members.iter().map(|member| member.state);
            let present = states.filter(|state| *state == Presence::Present).count();
            let absent = status.members.len() - present;
            writeln!(out, "  members  {present} present, {absent} absent")?;
        }
        let names = status.members.iter().map(|member| shown(&member.name));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        for member in &status.members {
            write_member(out, member, width)?;
        }
        for search in &self.searches {
            let (pattern, problem) = (shown(&search.pattern), shown(&search.problem));
            let ago = duration(search.seconds);
            writeln!(out, "  search   {pattern}, {ago} ago: {problem}")?;
        }
        Ok(())
    }
}

fn write_member(out: &mut String, member: &MemberStatus, width: usize) -> fmt::Result {
    let state = match member.state {
        Presence::Present => "present",
        Presence::Absent => "absent",
    };
    write!(
        out,
        "    {:width$}  {}  {state:7} {}  {}",
        shown(&member.name),
        short(&member.peer_id),
        duration(member.state_seconds),
        member.address.as_deref().map_or("-".into(), shown),
    )?;
    if let Some(way) = &member.route {
        out.push_str(&route(way));
    }
    if member.received > 0 {
        write!(out, "  received {}", size(member.received))?;
    }
    if member.rate > 0 {
        write!(out, ", {}/s now", size(member.rate))?;
    }
    writeln!(out)?;
    if let (Some(error), Some(seconds)) = (&member.last_error, member.last_error_seconds) {
        let ago = duration(seconds);
        writeln!(out, "      last error, {ago} ago: {}", shown(error))?;
    }
    for blame in &member.blamed {
        let times = match blame.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        let path = shown(&blame.path);
        writeln!(out, "      sent wrong bytes of {path}{times}")?;
    }
    let named: u64 = member.blamed.iter().map(|blame| blame.times).sum();
    match member.refused.saturating_sub(named) {
        0 => Ok(()),
        more => writeln!(out, "      sent wrong bytes {more} more times"),
    }
}

/// Says how the node takes part through NATs.
fn place(reach: &ReachStatus) -> String {
    let relay = match (&reach.relay, &reach.problem) {
        (Some(host), _) => format!("by {}", shown(host)),
        (None, Some(why)) => format!("no relay answers ({})", shown(why)),
        (None, None) => "without a relay".to_owned(),
    };
    let udp = match (reach.udp, reach.symmetric_nat) {
        (Some(false), _) => "; no UDP gets out, so that everything is relayed",
        (_, Some(true)) => {
            "; this router's NAT gives every destination another port, so that most is relayed"
        }
        _ => "",
    };
    relay + udp
}

/// Says how programs of 2004 can reach the node, and which of them it knows.
fn called(legacy: &LegacyStatus) -> String {
    let mut text = match legacy.urls.first() {
        Some(url) => format!(" as {}", shown(url)),
        None => String::new(),
    };
    if !legacy.servers.is_empty() {
        let servers: Vec<String> = legacy.servers.iter().map(|url| shown(url)).collect();
        text += &format!(", with {}", servers.join(", "));
    }
    text
}

/// Says that nothing is shared at the moment.
fn problem(status: &Status) -> String {
    let problem = status.share_problem.as_deref();
    problem.map_or_else(String::new, |why| {
        format!(" (nothing for now: {})", shown(why))
    })
}

fn refused(pieces: u64) -> String {
    match pieces {
        0 => String::new(),
        1 => ", 1 piece refused".to_owned(),
        more => format!(", {more} pieces refused"),
    }
}

/// Returns enough of a peer id to distinguish the members of one network.
fn short(peer_id: &str) -> String {
    shown(peer_id).chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use tinyp2p_net::model::text::HOSTILE;
    use tinyp2p_net::stats::status::{
        Blame, CacheStatus, MemoryStatus, RouteKind, RouteStatus, Unreadable,
    };

    use super::*;

    #[test]
    fn no_text_of_others_drives_a_terminal() {
        let hostile: String = HOSTILE.into_iter().collect();
        let mut report = report();
        report.status.name.clone_from(&hostile);
        let member = MemberStatus {
            name: hostile.clone(),
            address: Some(hostile.clone()),
            route: Some(RouteStatus {
                kind: RouteKind::Relayed,
                relay: Some(hostile.clone()),
                ..RouteStatus::default()
            }),
            last_error: Some(hostile.clone()),
            blamed: vec![Blame {
                path: hostile.clone(),
                times: 1,
            }],
            ..MemberStatus::default()
        };
        report.status.members.push(member);
        report.status.share_problem = Some(hostile.clone());
        report.status.unreadable.push(Unreadable {
            path: hostile.clone(),
            problem: hostile.clone(),
            seconds: 1,
        });
        report.status.reach = Some(ReachStatus {
            problem: Some(hostile.clone()),
            ..ReachStatus::default()
        });
        report.status.legacy = Some(LegacyStatus {
            urls: vec![hostile.clone()],
            servers: vec![hostile],
        });
        let text = report.text();
        for c in HOSTILE.into_iter().filter(|c| *c != '\n') {
            assert!(!text.contains(c), "{:?}", c.escape_unicode());
        }
    }

    fn report() -> NodeReport {
        let present = MemberStatus {
            name: "ann".into(),
            peer_id: "abcdefghijkl".into(),
            address: Some("10.0.0.1:15204".into()),
            state: Presence::Present,
            state_seconds: 61,
            received: 3 << 20,
            rate: 1024,
            route: Some(RouteStatus {
                kind: RouteKind::Relayed,
                relay: Some("relay.example".into()),
                round_trip_us: Some(40_000),
                relayed: 1 << 20,
                direct: 1 << 10,
            }),
            ..MemberStatus::default()
        };
        let absent = MemberStatus {
            name: "liar".into(),
            peer_id: "mnopqrstuvwx".into(),
            last_error: Some("it\nlied".into()),
            last_error_seconds: Some(3600),
            blamed: vec![
                Blame {
                    path: "d/once\x1b[2J".into(),
                    times: 1,
                },
                Blame {
                    path: "twice".into(),
                    times: 2,
                },
            ],
            refused: 8,
            ..MemberStatus::default()
        };
        let status = Status {
            reach: Some(ReachStatus {
                ticket: Some("tinyp2p:abc".into()),
                relay: Some("relay.example".into()),
                symmetric_nat: Some(true),
                ..ReachStatus::default()
            }),
            name: "box".into(),
            peer_id: "yzyzyzyzyzyz".into(),
            port: 15204,
            protocol: 2,
            uptime_seconds: 90_000,
            members: vec![present, absent],
            memory: MemoryStatus {
                held: 0,
                budget: 128 << 20,
            },
            cache: CacheStatus {
                directory: Some("/cache".into()),
                held: 1 << 20,
                limit: 1 << 30,
            },
            received: 3 << 20,
            refused: 8,
            share_problem: Some("it is not there".into()),
            unreadable: vec![Unreadable {
                path: "d/nfs".into(),
                problem: "its file system does not answer".into(),
                seconds: 61,
            }],
            legacy: Some(LegacyStatus {
                urls: vec!["http://box:15204".into(), "http://10.0.0.2:15204".into()],
                servers: vec!["http://old:80".into()],
            }),
        };
        let place = NodeLocation {
            mountpoint: Some("/mnt/p2p".into()),
            share: Some("/srv".into()),
        };
        let trouble = SearchTrouble {
            pattern: "ab(c".into(),
            problem: "unclosed group".into(),
            seconds: 5,
        };
        NodeReport {
            pid: 7,
            searches: vec![trouble],
            ..NodeReport::new(place, status)
        }
    }

    #[test]
    fn status_text_shows_members_and_blame() {
        let expected = "\
box (node yzyzyzyz, pid 7, port 15204, up 1 d 1 h)
  mounted  /mnt/p2p
  sharing  /srv (nothing for now: it is not there)
  trouble  d/nfs, since 1 min 1 s: its file system does not answer
  received 3.0 MiB, 8 pieces refused
  memory   0 B of 128.0 MiB
  cache    1.0 MiB of 1.0 GiB in /cache
  legacy   not safe from eavesdroppers: speaks the protocol of 2004 as http://box:15204, with http://old:80
  reach    by relay.example; this router's NAT gives every destination another port, so that most is relayed
  members  1 present, 1 absent
    ann   abcdefgh  present 1 min 1 s  10.0.0.1:15204 relayed by relay.example, 40 ms, 1.0 KiB direct, 1.0 MiB relayed  received 3.0 MiB, 1.0 KiB/s now
    liar  mnopqrst  absent  0 s  -
      last error, 1 h 0 min ago: it\\nlied
      sent wrong bytes of d/once\\u{1b}[2J
      sent wrong bytes of twice (2 times)
      sent wrong bytes 5 more times
  search   ab(c, 5 s ago: unclosed group
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn lone_node_is_described_too() {
        let text = NodeReport::new(NodeLocation::default(), Status::default()).text();
        for line in [
            "sharing  nothing",
            "cache    none on disk",
            "members  none yet",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("mounted"));
    }

    #[test]
    fn status_line_round_trips() {
        let line = report().json();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<NodeReport>(&line).unwrap(), report());
    }

    #[test]
    fn report_of_other_version_can_be_read() {
        let text = "{\"pid\":3,\"name\":\"box\",\"news\":[1],\"members\":[{\"name\":\"ann\"}]}";
        let report: NodeReport = serde_json::from_str(text).unwrap();
        assert_eq!((report.pid, &*report.status.name), (3, "box"));
        assert_eq!(report.status.members[0].name, "ann");
    }

    /// Collects the path of every field; `[]` is any element.
    fn fields(value: &serde_json::Value, path: &str, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                for (name, value) in object {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    into.push(path.clone());
                    fields(value, &path, into);
                }
            }
            serde_json::Value::Array(array) => {
                for value in array.iter().take(1) {
                    fields(value, &format!("{path}[]"), into);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn the_fields_are_those_in_semantics_md() {
        let mut report = report();
        report.status.members.reverse();
        report.status.members[0].route = Some(RouteStatus::default());
        let value = serde_json::to_value(&report).unwrap();
        let mut ours = Vec::new();
        fields(&value, "", &mut ours);
        ours.sort();
        let text = include_str!("../../SEMANTICS.md");
        let section = text
            .split("\n## ")
            .find(|part| part.starts_with("Status"))
            .unwrap();
        let rows = section.split("\n| field |").nth(1).unwrap().lines();
        let rows = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut documented: Vec<String> = rows.map(str::to_owned).collect();
        documented.sort();
        assert_eq!(ours, documented);
    }
}
