//! The columns of `list`, `search` and `stat`: one value per attribute for all entries together.
//!
//! If each entry were a struct, it would cost some 450 bytes of tags. In columns it costs its name
//! and 33 bytes, or 76 with a root, and is decoded without any tags. Numbers are big-endian 64-bit;
//! each name ends with a NUL byte, which no name can contain.

use super::fields::{Fields, Refusal, text};
use crate::model::{Attributes, Kind, Mode, Root, UnixTime, Version};
use crate::protocol::xmlrpc::Value;

/// Bytes of a full mtime.
const LONG_MTIME: usize = 12;

/// The attribute columns of a message, one element per entry in each.
#[derive(Default)]
pub(super) struct Columns {
    kinds: String,
    sizes: Vec<u8>,
    mtimes: Vec<u8>,
    versions: Vec<u8>,
    roots: Vec<u8>,
    /// Empty when all modes are plain.
    modes: String,
    /// Empty when all mtimes fit into 64 bits.
    long_mtimes: Vec<u8>,
}

impl Columns {
    /// Creates the columns of `rows`; `None` is a path where nothing is shared.
    pub(super) fn of<'a>(rows: impl Iterator<Item = Option<&'a Attributes>> + Clone) -> Self {
        let mut columns = Self::default();
        let any_root = rows.clone().flatten().any(|row| row.root.is_some());
        let any_mode = rows.clone().flatten().any(|row| row.mode != Mode::Plain);
        if any_mode {
            let modes = rows
                .clone()
                .map(|row| row.map_or(Mode::Plain, |row| row.mode));
            columns.modes = modes.map(letter).collect();
        }
        let mut mtimes = rows.clone().flatten().map(|row| row.mtime);
        if mtimes.any(|mtime| long_mtime(mtime).is_some()) {
            let mtimes = rows
                .clone()
                .map(|row| row.map(|row| row.mtime).unwrap_or_default());
            columns.long_mtimes = mtimes.flat_map(to_long).collect();
        }
        for row in rows {
            columns.push(row, any_root);
        }
        columns
    }

    fn push(&mut self, row: Option<&Attributes>, with_root: bool) {
        let (kind, size, mtime, version, root) = match row {
            None => ('-', 0, 0, 0, None),
            Some(row) => {
                let kind = match row.kind {
                    Kind::File => 'f',
                    Kind::Directory => 'd',
                };
                let mtime = row.mtime.in_64_bits();
                (kind, row.size.or_zero(), mtime, row.version.0, row.root)
            }
        };
        self.kinds.push(kind);
        self.sizes.extend_from_slice(&size.to_be_bytes());
        self.mtimes.extend_from_slice(&mtime.to_be_bytes());
        self.versions.extend_from_slice(&version.to_be_bytes());
        if with_root {
            let root = root.map_or([0; 32], |root| *root.as_bytes());
            self.roots.extend_from_slice(&root);
        }
    }

    /// Returns the columns as members of a result.
    pub(super) fn into_members(self) -> impl Iterator<Item = (&'static str, Value)> {
        let always = [
            ("kinds", Value::String(self.kinds)),
            ("sizes", Value::Bytes(self.sizes)),
            ("mtimes", Value::Bytes(self.mtimes)),
            ("versions", Value::Bytes(self.versions)),
            ("roots", Value::Bytes(self.roots)),
        ];
        let modes = Some(self.modes).filter(|modes| !modes.is_empty());
        let modes = modes.map(|modes| ("modes", Value::String(modes)));
        let long_mtimes = Some(self.long_mtimes).filter(|mtimes| !mtimes.is_empty());
        let long_mtimes = long_mtimes.map(|mtimes| ("long_mtimes", Value::Bytes(mtimes)));
        always.into_iter().chain(modes).chain(long_mtimes)
    }

    /// Takes the columns from a result of at most `max` entries; checks that all have
    /// the same length.
    pub(super) fn take(fields: &mut Fields, max: usize) -> Result<Self, Refusal> {
        let columns = Self {
            kinds: fields.text("kinds")?,
            sizes: fields.bytes("sizes")?,
            mtimes: fields.bytes("mtimes")?,
            versions: fields.bytes("versions")?,
            roots: fields.bytes("roots")?,
            modes: match fields.optional("modes") {
                Some(modes) => text(modes, "modes")?,
                None => String::new(),
            },
            long_mtimes: fields.optional_bytes("long_mtimes")?.unwrap_or_default(),
        };
        let entries = columns.len();
        if entries > max {
            return Err(Refusal::too_much(max, "entries"));
        }
        let numbers = [&columns.sizes, &columns.mtimes, &columns.versions];
        let agree = numbers.iter().all(|column| column.len() == entries * 8)
            && (columns.roots.is_empty() || columns.roots.len() == entries * 32)
            && (columns.modes.is_empty() || columns.modes.len() == entries)
            && (columns.long_mtimes.is_empty()
                || columns.long_mtimes.len() == entries * LONG_MTIME);
        if !agree {
            return Err(Refusal::invalid("the columns differ in length"));
        }
        Ok(columns)
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Returns the entries in order, each checked.
    pub(super) fn rows(&self) -> impl Iterator<Item = Result<Option<Attributes>, Refusal>> {
        let (roots, modes) = (self.roots.as_chunks().0, self.modes.as_bytes());
        let long_mtimes = self.long_mtimes.as_chunks().0;
        self.kinds
            .bytes()
            .zip(self.sizes.as_chunks().0)
            .zip(self.mtimes.as_chunks().0)
            .zip(self.versions.as_chunks().0)
            .enumerate()
            .map(|(i, (((kind, size), mtime), version))| {
                let root = roots.get(i).filter(|root| **root != [0; 32]);
                let mtime = match long_mtimes.get(i) {
                    Some(mtime) => from_long(*mtime)?,
                    None => i64::from_be_bytes(*mtime).into(),
                };
                let row = |kind| Attributes {
                    kind,
                    mode: modes.get(i).map_or(Mode::Plain, |letter| mode(*letter)),
                    size: u64::from_be_bytes(*size).into(),
                    mtime,
                    version: Version(u64::from_be_bytes(*version)),
                    root: root.copied().map(Root::from_bytes),
                };
                match kind {
                    b'f' => checked(row(Kind::File)).map(Some),
                    b'd' => checked(row(Kind::Directory)).map(Some),
                    b'-' => Ok(None),
                    _ => Err(Refusal::invalid("an unknown kind of entry")),
                }
            })
    }
}

/// Encodes an mtime in full if 64 bits of nanoseconds cannot hold it: seconds, then
/// the remaining nanoseconds.
pub(super) fn long_mtime(mtime: UnixTime) -> Option<[u8; LONG_MTIME]> {
    let is_long = mtime != UnixTime::from(mtime.in_64_bits());
    is_long.then(|| to_long(mtime))
}

fn to_long(mtime: UnixTime) -> [u8; LONG_MTIME] {
    let mut bytes = [0; LONG_MTIME];
    bytes[..8].copy_from_slice(&mtime.seconds().to_be_bytes());
    bytes[8..].copy_from_slice(&mtime.nanoseconds().to_be_bytes());
    bytes
}

/// Decodes an mtime that [`long_mtime`] encoded.
pub(super) fn from_long(
    [a, b, c, d, e, f, g, h, nanoseconds @ ..]: [u8; LONG_MTIME],
) -> Result<UnixTime, Refusal> {
    let seconds = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mtime = UnixTime::new(seconds, u32::from_be_bytes(nanoseconds));
    mtime.ok_or_else(|| Refusal::invalid("an mtime with a second or more of nanoseconds"))
}

/// Returns the letter for a mode in the column `modes`.
fn letter(mode: Mode) -> char {
    match mode {
        Mode::Plain => 'r',
        Mode::Executable => 'x',
        Mode::Unreadable => '-',
    }
}

/// Returns the mode of a letter. Unknown letters count as plain.
fn mode(letter: u8) -> Mode {
    match letter {
        b'x' => Mode::Executable,
        b'-' => Mode::Unreadable,
        _ => Mode::Plain,
    }
}

fn checked(row: Attributes) -> Result<Attributes, Refusal> {
    if i64::try_from(row.size.or_zero()).is_err() {
        return Err(Refusal::invalid("a size beyond 2^63 - 1"));
    }
    if row.kind == Kind::Directory && (row.size != 0 || row.root.is_some()) {
        return Err(Refusal::invalid("a directory with a size or a root"));
    }
    Ok(row)
}

/// Joins names, or paths, into one column.
pub(super) fn join<'a>(names: impl Iterator<Item = &'a [u8]>) -> Value {
    let mut column = Vec::new();
    for name in names {
        column.extend_from_slice(name);
        column.push(0);
    }
    Value::Bytes(column)
}

/// Splits a column that [`join`] made into exactly `count` names.
pub(super) fn split(column: &[u8], count: usize) -> Result<impl Iterator<Item = &[u8]>, Refusal> {
    let names = column.split_inclusive(|b| *b == 0);
    let whole = column.last().is_none_or(|last| *last == 0);
    if !whole || names.clone().count() != count {
        return Err(Refusal::invalid("as many names as entries are expected"));
    }
    Ok(names.map(|name| name.strip_suffix(&[0]).unwrap_or(name)))
}
