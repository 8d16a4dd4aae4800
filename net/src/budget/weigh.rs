//! What things take in memory.

use crate::model::{Attributes, Entry, Name, RelPath};
use crate::protocol::wire::Change;

/// What merging makes of one entry at the same time, but for a name of its own: a row, an item, its
/// one source. A name of its own goes with less of it.
const MERGING: usize = 192;

/// What an allocation of `bytes` costs: glibc's header and its units of 16 bytes.
pub const fn heap(bytes: usize) -> usize {
    match (bytes + 8).next_multiple_of(16) {
        ..32 => 32,
        rounded => rounded,
    }
}

/// What something takes in memory, its own struct included.
pub trait Weigh {
    /// The bytes that the value takes in memory.
    fn weight(&self) -> usize;
}

/// What the bytes of `name` take, however many share them. The counters of the shared allocation
/// stand before the bytes.
pub fn text(name: &Name) -> usize {
    heap(16 + name.as_bytes().len())
}

/// What an entry of this name takes, with what merging makes of it.
pub fn entry_of(name: &Name) -> usize {
    size_of::<Entry>() + 2 * text(name) + MERGING
}

/// What merging makes of `entry` beside it: most of it for a moment only.
pub fn merging(entry: &Entry) -> usize {
    MERGING + text(&entry.name)
}

/// What `entries` take once they are merged.
pub fn unmerged(entries: &[Entry]) -> usize {
    let one = |entry: &Entry| size_of::<Entry>() + text(&entry.name);
    entries.iter().map(one).sum()
}

impl Weigh for RelPath {
    fn weight(&self) -> usize {
        // The counters of the shared allocation stand before the bytes.
        size_of::<Self>() + heap(16 + self.as_bytes().len())
    }
}

impl Weigh for Entry {
    /// With what merging makes of it.
    fn weight(&self) -> usize {
        entry_of(&self.name)
    }
}

impl Weigh for (RelPath, Attributes) {
    fn weight(&self) -> usize {
        size_of::<Attributes>() + self.0.weight()
    }
}

impl Weigh for Change {
    fn weight(&self) -> usize {
        8 + self.path.weight()
    }
}

impl<T: Weigh> Weigh for [T] {
    fn weight(&self) -> usize {
        self.iter().map(Weigh::weight).sum()
    }
}
