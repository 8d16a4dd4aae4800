//! The names of one directory, sorted, in a form that stays small for a million of them.
//!
//! Two orders are kept: that of the names, for listings, and that of the paths below them, for
//! walks. They differ for directories only: `a.b` sorts before everything in `a`.

use std::cmp::Ordering;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use crate::model::Kind;
use crate::share::errnos::is_exhaustion;
use crate::share::tree::stat::FileState;

/// Bytes of names that one `getdents64(2)` call may return.
const BUFFER: usize = 64 * 1024;

/// What reading a directory reveals about a name without a further query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryHint {
    /// A regular file.
    File,
    /// It is a directory.
    Directory,
    /// A symbolic link, whatever its target.
    Link,
}

/// Sorted names, all in one buffer. Each takes eight bytes besides the name itself, and four more
/// for a directory.
#[derive(Debug, Default)]
pub(crate) struct NameList {
    bytes: Vec<u8>,
    slots: Vec<NameSlot>,
    /// The slots of directories, in the order of the paths below these.
    directories: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct NameSlot {
    start: u32,
    length: u8,
    seen: EntryHint,
}

impl NameList {
    /// Reads a directory from its current position. Leaves out what `keep` rejects, anything that
    /// is neither file, directory nor link, and the two names that every directory has.
    pub(crate) fn read(directory: &OwnedFd, keep: impl Fn(&[u8]) -> bool) -> Result<Self, Errno> {
        let mut names = Self::default();
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || !keep(name) {
                continue;
            }
            if let Some(seen) = seen(directory, name, entry.file_type())? {
                names.push(name, seen)?;
            }
        }
        names.sort();
        Ok(names)
    }

    fn push(&mut self, name: &[u8], seen: EntryHint) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::NOMEM)?;
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.slots.push(NameSlot {
            start,
            length,
            seen,
        });
        Ok(())
    }

    /// Sorts by bytes. A directory that changes while it is read may return a name twice.
    fn sort(&mut self) {
        let (bytes, slots) = (&self.bytes, &mut self.slots);
        slots.sort_unstable_by(|a, b| a.name(bytes).cmp(b.name(bytes)));
        slots.dedup_by(|a, b| a.name(bytes) == b.name(bytes));
        slots.shrink_to_fit();
        self.put_bytes_in_order();
        self.find_directories();
    }

    /// Reorders the bytes, because a search reads all names one after the other. In the order of a
    /// directory's hash table, most names would be a cache miss, which takes longer than the match.
    fn put_bytes_in_order(&mut self) {
        let total = self.slots.iter().map(|slot| usize::from(slot.length)).sum();
        let mut ordered = Vec::with_capacity(total);
        for slot in &mut self.slots {
            let name = slot.name(&self.bytes);
            // There are no more bytes than before, and those fitted.
            slot.start = ordered.len() as u32;
            ordered.extend_from_slice(name);
        }
        self.bytes = ordered;
    }

    fn find_directories(&mut self) {
        let numbered = (0_u32..).zip(&self.slots);
        let directories = numbered.filter(|(_, slot)| slot.seen == EntryHint::Directory);
        let mut directories: Vec<u32> = directories.map(|(number, _)| number).collect();
        let entry = |number: u32| self.slots[number as usize].entry(&self.bytes);
        directories.sort_unstable_by(|a, b| path_order(entry(*a), entry(*b)));
        directories.shrink_to_fit();
        self.directories = directories;
    }

    /// Returns the number of names.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many bytes of memory they take.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.capacity()
            + self.slots.capacity() * size_of::<NameSlot>()
            + self.directories.capacity() * size_of::<u32>()
    }

    /// Returns true if one of them is a symbolic link.
    pub(crate) fn have_links(&self) -> bool {
        self.slots.iter().any(|slot| slot.seen == EntryHint::Link)
    }

    /// Returns the name at `index`, which must be less than [`NameList::len`].
    pub(crate) fn get(&self, index: usize) -> (&[u8], EntryHint) {
        self.slots[index].entry(&self.bytes)
    }

    /// Returns the index of the first name that sorts after `after`.
    pub(crate) fn behind(&self, after: &[u8]) -> usize {
        self.slots
            .partition_point(|slot| slot.name(&self.bytes) <= after)
    }

    /// Returns the index of the name at `position` among those of directories, which are in the
    /// order of the paths below them; `None` past the last.
    pub(crate) fn directory(&self, position: usize) -> Option<usize> {
        self.directories
            .get(position)
            .map(|number| *number as usize)
    }

    /// Returns the position of the first directory that may contain something after
    /// `after`, a path.
    pub(crate) fn directory_behind(&self, after: &[u8]) -> usize {
        self.directories.partition_point(|number| {
            let name = self.slots[*number as usize].name(&self.bytes);
            lies_before(name, after)
        })
    }

    /// Returns the index of the first name that, if it were a file's, would sort after all
    /// paths below `directory`.
    pub(crate) fn behind_directory(&self, directory: &[u8]) -> usize {
        let below = (directory, EntryHint::Directory);
        self.slots.partition_point(|slot| {
            let file = (slot.name(&self.bytes), EntryHint::File);
            path_order(file, below).is_lt()
        })
    }
}

/// Returns true if every path below the directory `name` sorts before `after`.
fn lies_before(name: &[u8], after: &[u8]) -> bool {
    match after.strip_prefix(name) {
        Some(rest) => rest.first().is_some_and(|byte| *byte > b'/'),
        None => name < after,
    }
}

/// Compares the paths that begin with these two names: by bytes, with a `/` after the name
/// of a directory.
fn path_order((a, a_seen): (&[u8], EntryHint), (b, b_seen): (&[u8], EntryHint)) -> Ordering {
    let common = a.len().min(b.len());
    let next = |name: &[u8], seen| {
        let end = (seen == EntryHint::Directory).then_some(b'/');
        name.get(common).copied().or(end)
    };
    a[..common]
        .cmp(&b[..common])
        .then_with(|| next(a, a_seen).cmp(&next(b, b_seen)))
}

impl NameSlot {
    fn entry(self, bytes: &[u8]) -> (&[u8], EntryHint) {
        (self.name(bytes), self.seen)
    }

    fn name(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..][..usize::from(self.length)]
    }
}

/// Classifies the entry as a kind that may be served. Queries the file system if the directory does
/// not report the type.
fn seen(directory: &OwnedFd, name: &[u8], file_type: FileType) -> Result<Option<EntryHint>, Errno> {
    Ok(match file_type {
        FileType::RegularFile => Some(EntryHint::File),
        FileType::Directory => Some(EntryHint::Directory),
        FileType::Symlink => Some(EntryHint::Link),
        FileType::Unknown => match FileState::of_entry(directory, name) {
            Ok(state) => match state.kind() {
                Some(Kind::File) => Some(EntryHint::File),
                Some(Kind::Directory) => Some(EntryHint::Directory),
                None => state.is_link().then_some(EntryHint::Link),
            },
            Err(error) if is_exhaustion(error) => return Err(error),
            Err(_) => None,
        },
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Returns names as if a directory with these entries had been read.
    pub(in crate::share) fn names(entries: &[(&str, EntryHint)]) -> NameList {
        let mut names = NameList::default();
        for (name, seen) in entries {
            names.push(name.as_bytes(), *seen).unwrap();
        }
        names.sort();
        names
    }

    #[test]
    fn names_are_sorted_by_bytes_and_told_once() {
        let names = names(&[
            ("b", EntryHint::File),
            ("a0", EntryHint::File),
            ("a", EntryHint::Directory),
            ("b", EntryHint::File),
        ]);
        let all: Vec<_> = (0..names.len()).map(|index| names.get(index).0).collect();
        assert_eq!(all, [&b"a"[..], b"a0", b"b"]);
    }

    #[test]
    fn page_resumes_behind_a_deleted_name_too() {
        let names = names(&[("a", EntryHint::File), ("c", EntryHint::File)]);
        assert_eq!(names.behind(b""), 0);
        assert_eq!(names.behind(b"a"), 1);
        assert_eq!(names.behind(b"b"), 1);
        assert_eq!(names.behind(b"c"), 2);
    }
}
