//! What people and programs are told of a running node: one text, one JSON object. The object is what
//! `.tinyp2p/status.json` has and `tinyp2p status --json` prints; SEMANTICS.md lists its fields.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tinyp2p_net::status::{MemberStatus, Presence, Status};
use tinyp2p_net::types::escaped;

/// Where a node is on this machine.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Place {
    /// Where it mounts, if it does.
    pub mountpoint: Option<PathBuf>,
    /// The directory that it shares, if any.
    pub share: Option<PathBuf>,
}

/// A node's status, with what this machine has to do with it.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Its process.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// Where it mounts; `None` for one that only serves. What is not UTF-8 is replaced.
    pub mountpoint: Option<String>,
    /// The directory that it shares.
    pub share: Option<String>,
    /// What it does in its network.
    #[serde(flatten)]
    pub status: Status,
}

impl Report {
    /// The report of a node that runs in this process.
    pub fn new(place: Place, status: Status) -> Self {
        let text = |path: PathBuf| Path::to_string_lossy(&path).into_owned();
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mountpoint: place.mountpoint.map(text),
            share: place.share.map(text),
            status,
        }
    }

    /// One JSON object on one line, with the line's end.
    pub fn json(&self) -> String {
        // Strings and numbers only: there is nothing that could fail.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// A few lines for people.
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
            Some(share) => writeln!(out, "  sharing  {}", shown(share))?,
            None => writeln!(out, "  sharing  nothing")?,
        }
        writeln!(
            out,
            "  received {}{}",
            size(status.received),
            refused(status.refused)
        )?;
        let memory = &status.memory;
        writeln!(
            out,
            "  memory   {} of {}",
            size(memory.held),
            size(memory.budget)
        )?;
        let cache = &status.cache;
        if let Some(directory) = &cache.directory {
            let (held, limit) = (size(cache.held), size(cache.limit));
            writeln!(out, "  cache    {held} of {limit} in {}", shown(directory))?;
        } else {
            writeln!(out, "  cache    none on disk")?;
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
        writeln!(
            out,
            "      sent wrong bytes of {}{times}",
            shown(&blame.path)
        )?;
    }
    let named: u64 = member.blamed.iter().map(|blame| blame.times).sum();
    match member.refused.saturating_sub(named) {
        0 => Ok(()),
        more => writeln!(out, "      sent wrong bytes {more} more times"),
    }
}

fn refused(pieces: u64) -> String {
    match pieces {
        0 => String::new(),
        1 => ", 1 piece refused".to_owned(),
        more => format!(", {more} pieces refused"),
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// The two largest units of a time.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// As much of a peer id as tells the members of one network apart.
fn short(peer_id: &str) -> String {
    shown(peer_id).chars().take(8).collect()
}

/// Text that others have a say in, so that it cannot drive a terminal or begin a line of its own.
fn shown(text: &str) -> String {
    escaped(text.as_bytes())
}
