//! How much memory values take.

use crate::model::{Attributes, Entry, Name, RelPath};
use crate::protocol::wire::Change;

/// The additional memory that merging needs for one entry, apart from a name of its own: a row, an
/// item, its one source. An entry that gets a name of its own needs less of this.
const MERGING: usize = 192;

/// Returns the cost of an allocation of `bytes`: glibc's header and its units of 16 bytes.
pub const fn heap(bytes: usize) -> usize {
    match (bytes + 8).next_multiple_of(16) {
        ..32 => 32,
        rounded => rounded,
    }
}

/// A value whose memory can be computed, including its own struct.
pub trait Weigh {
    /// Returns how many bytes of memory the value takes.
    fn weight(&self) -> usize;
}

/// Returns the memory of the bytes of `name`, however many share them. The counters of the shared
/// allocation precede the bytes.
pub fn text(name: &Name) -> usize {
    heap(16 + name.as_bytes().len())
}

/// Returns the memory of an entry with this name, including what merging adds.
pub fn entry_of(name: &Name) -> usize {
    size_of::<Entry>() + 2 * text(name) + MERGING
}

/// Returns the memory that merging adds to `entry`, most of it only briefly.
pub fn merging(entry: &Entry) -> usize {
    MERGING + text(&entry.name)
}

/// Returns the memory that `entries` take once they are merged.
pub fn unmerged(entries: &[Entry]) -> usize {
    let one = |entry: &Entry| size_of::<Entry>() + text(&entry.name);
    entries.iter().map(one).sum()
}

impl Weigh for RelPath {
    fn weight(&self) -> usize {
        // The counters of the shared allocation precede the bytes.
        size_of::<Self>() + heap(16 + self.as_bytes().len())
    }
}

impl Weigh for Entry {
    /// Includes what merging adds.
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
