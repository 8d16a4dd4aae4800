//! The names of one directory, sorted, in a form that is small for a million of them.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::state::State;
use crate::types::Kind;

/// Bytes of names that one `getdents64(2)` call may return.
const BUFFER: usize = 64 * 1024;

/// What reading a directory says of a name without asking further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, to whatever.
    Link,
}

/// Sorted names, all in one buffer: eight bytes apiece beside the names themselves.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u32,
    length: u8,
    seen: Seen,
}

impl Names {
    /// Reads a directory from where it stands, leaving out what `keep` refuses, what is neither
    /// file, directory nor link, and the two names that every directory has.
    pub(super) fn read(directory: &OwnedFd, keep: impl Fn(&[u8]) -> bool) -> Result<Self, Errno> {
        let mut names = Self::default();
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || !keep(name) {
                continue;
            }
            if let Some(seen) = seen(directory, name, entry.file_type()) {
                names.push(name, seen)?;
            }
        }
        names.sort();
        Ok(names)
    }

    fn push(&mut self, name: &[u8], seen: Seen) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::NOMEM)?;
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.slots.push(Slot {
            start,
            length,
            seen,
        });
        Ok(())
    }

    /// Sorts by bytes. A directory that changes while it is read may tell a name twice.
    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.slots
            .sort_unstable_by(|a, b| a.name(bytes).cmp(b.name(bytes)));
        self.slots.dedup_by(|a, b| a.name(bytes) == b.name(bytes));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of memory that they take.
    pub(super) fn weight(&self) -> usize {
        self.bytes.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    /// True if one of them is a symbolic link.
    pub(super) fn have_links(&self) -> bool {
        self.slots.iter().any(|slot| slot.seen == Seen::Link)
    }

    /// The name at `index`, which must be less than [`Names::len`].
    pub(super) fn get(&self, index: usize) -> (&[u8], Seen) {
        let slot = self.slots[index];
        (slot.name(&self.bytes), slot.seen)
    }

    /// The index of the first name that sorts behind `after`.
    pub(super) fn behind(&self, after: &[u8]) -> usize {
        self.slots
            .partition_point(|slot| slot.name(&self.bytes) <= after)
    }
}

impl Slot {
    fn name(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..][..usize::from(self.length)]
    }
}

/// Sorts the entry into a kind that may be served; asks where the file system does not say.
fn seen(directory: &OwnedFd, name: &[u8], file_type: FileType) -> Option<Seen> {
    match file_type {
        FileType::RegularFile => Some(Seen::File),
        FileType::Directory => Some(Seen::Directory),
        FileType::Symlink => Some(Seen::Link),
        FileType::Unknown => {
            let state = State::of_entry(directory, name).ok()?;
            match state.kind() {
                Some(Kind::File) => Some(Seen::File),
                Some(Kind::Directory) => Some(Seen::Directory),
                None => state.is_link().then_some(Seen::Link),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// Names as a directory with these entries would have given them.
    pub(in crate::share) fn names(entries: &[(&str, Seen)]) -> Names {
        let mut names = Names::default();
        for (name, seen) in entries {
            names.push(name.as_bytes(), *seen).unwrap();
        }
        names.sort();
        names
    }

    #[test]
    fn names_are_sorted_by_bytes_and_told_once() {
        let names = names(&[
            ("b", Seen::File),
            ("a0", Seen::File),
            ("a", Seen::Directory),
            ("b", Seen::File),
        ]);
        let all: Vec<_> = (0..names.len()).map(|index| names.get(index).0).collect();
        assert_eq!(all, [&b"a"[..], b"a0", b"b"]);
    }

    #[test]
    fn a_page_goes_on_behind_a_name_whether_or_not_that_still_exists() {
        let names = names(&[("a", Seen::File), ("c", Seen::File)]);
        assert_eq!(names.behind(b""), 0);
        assert_eq!(names.behind(b"a"), 1);
        assert_eq!(names.behind(b"b"), 1);
        assert_eq!(names.behind(b"c"), 2);
    }
}
