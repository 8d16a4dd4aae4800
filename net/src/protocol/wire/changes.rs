//! `tinyp2p.changes`: a long poll for changes in a share.

use std::collections::HashSet;
use std::time::Duration;

use super::columns::{join, split};
use super::fields::{Fields, Refusal, structure};
use crate::model::RelPath;
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.changes";

pub(super) const HELP: &str = "\
struct tinyp2p.changes(struct)
What has changed since a counter, among the answers that were given with one; waits for the first change.
Parameter: since (i8, a counter that this member has told), wait (int, the max milliseconds to wait, at
max 10000). Result: counter (i8, to ask with the next time), paths (base64, each path ended by a NUL), and
depths (string, one letter per path: 'e' its own attributes may have changed, 't' so may all that lies at
or below it). The empty path with 't' means everything.";

/// Asks what has changed since `since`; the answer comes as soon as something changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangesRequest {
    /// A counter from an earlier answer of the same member.
    pub since: u64,
    /// How long to wait for a change, at most [`ChangesRequest::MAX_WAIT`].
    pub wait: Duration,
}

impl ChangesRequest {
    /// The longest time for which a caller may wait.
    pub const MAX_WAIT: Duration = Duration::from_secs(10);

    pub(super) fn to_value(self) -> Value {
        structure([
            ("since", counter_to_value(self.since)),
            ("wait", Value::Int(self.wait.as_millis() as i64)),
        ])
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let since = counter(&mut fields, "since")?;
        let wait = Duration::from_millis(fields.integer("wait")?);
        if wait > Self::MAX_WAIT {
            let max = Self::MAX_WAIT.as_millis() as usize;
            return Err(Refusal::too_much(max, "milliseconds of wait"));
        }
        Ok(Self { since, wait })
    }
}

/// How much of the tree at a path a change concerns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Depth {
    /// The attributes of the entry itself.
    Entry,
    /// The entry and everything below it: any of it may have appeared, vanished or been replaced.
    Tree,
}

/// A part of the tree where earlier answers may no longer hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Change {
    /// The path that has changed.
    pub path: RelPath,
    /// How much of the tree at that path has changed.
    pub depth: Depth,
}

impl Change {
    /// Creates the change that covers the whole share.
    pub fn everything() -> Self {
        Self {
            path: RelPath::root(),
            depth: Depth::Tree,
        }
    }
}

/// The changes up to `counter`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The counter for the next request; more may have changed since.
    pub counter: u64,
    /// The changes, in no order, none twice; empty when the time ran out.
    pub changes: Vec<Change>,
}

impl Changes {
    /// The most changes in one answer; the next answer brings the rest at once.
    pub const MAX_CHANGES: usize = 1024;

    pub(super) fn to_value(&self) -> Value {
        let letter = |change: &Change| match change.depth {
            Depth::Entry => 'e',
            Depth::Tree => 't',
        };
        let paths = self.changes.iter().map(|change| change.path.as_bytes());
        structure([
            ("counter", counter_to_value(self.counter)),
            ("paths", join(paths)),
            (
                "depths",
                Value::String(self.changes.iter().map(letter).collect()),
            ),
        ])
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let depths = fields.text("depths")?;
        if depths.len() > Self::MAX_CHANGES {
            return Err(Refusal::too_much(Self::MAX_CHANGES, "changes"));
        }
        let paths = fields.bytes("paths")?;
        let rows = split(&paths, depths.len())?.zip(depths.bytes());
        let change = |(path, letter): (&[u8], u8)| {
            let depth = match letter {
                b'e' => Depth::Entry,
                b't' => Depth::Tree,
                _ => return Err(Refusal::invalid("an unknown depth of a change")),
            };
            let path = RelPath::new(path)?;
            Ok(Change { path, depth })
        };
        let changes = rows.map(change).collect::<Result<Vec<_>, Refusal>>()?;
        let paths: HashSet<&RelPath> = changes.iter().map(|change| &change.path).collect();
        if paths.len() < changes.len() {
            return Err(Refusal::invalid("a path twice among the changes"));
        }
        Ok(Self {
            changes,
            counter: counter(&mut fields, "counter")?,
        })
    }
}

/// Encodes a counter: 64 bits, read as signed.
fn counter_to_value(counter: u64) -> Value {
    Value::Int(counter.cast_signed())
}

fn counter(fields: &mut Fields, name: &str) -> Result<u64, Refusal> {
    Ok(fields.integer::<i64>(name)?.cast_unsigned())
}

/// Returns the member of an answer that has a counter.
pub(super) fn counter_member(counter: Option<u64>) -> Option<(&'static str, Value)> {
    counter.map(|counter| ("counter", counter_to_value(counter)))
}

/// Reads the counter of an answer, present if the callee watches it.
pub(super) fn optional_counter(fields: &mut Fields) -> Result<Option<u64>, Refusal> {
    match fields.optional("counter") {
        None => Ok(None),
        Some(Value::Int(counter)) => Ok(Some(counter.cast_unsigned())),
        Some(_) => Err(Refusal::invalid("'counter' must be an integer")),
    }
}
