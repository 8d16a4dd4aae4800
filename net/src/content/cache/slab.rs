//! One file of equal slots. Its length never exceeds its share of the cache.
//!
//! Reading and writing race on purpose: no lock is held over IO. A slot that is overwritten while
//! it is read fails its check and is a miss, like one that a crash has torn.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::pwritev;

use super::index::SlabIndex;
use super::own_file;
use super::slot::{HEADER, Header, first_block, key};
use crate::content::merkle::{BLOCK, Verified};
use crate::model::{ContentId, Root};

/// What goes into one slot.
pub(super) struct SlotWrite {
    pub(super) header: Header,
    /// Proven bytes; at most as many as the slot has room for.
    pub(super) content: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl SlotWrite {
    /// Returns how many blocks the slot has.
    pub(super) fn span(&self) -> u64 {
        self.header.proof.span
    }

    pub(super) fn content(&self) -> &[u8] {
        (*self.content).as_ref()
    }
}

/// Slots of `span` blocks each.
pub(super) struct Slab {
    file: File,
    /// Blocks of content in a slot.
    pub(super) span: u64,
    index: Mutex<SlabIndex>,
    /// The slots that existed at start, which [`Slab::scan`] has to read.
    old_slots: u32,
}

impl Slab {
    /// Opens or creates the file at `path`, cut to at most `bytes`.
    pub(super) fn open(path: &Path, span: u64, bytes: u64) -> io::Result<Self> {
        let file = own_file::open(path, rustix::process::geteuid())?;
        let metadata = file.metadata()?;
        let slot_bytes = Self::slot_bytes(span);
        let capacity = u32::try_from(bytes / slot_bytes).unwrap_or(u32::MAX);
        // The last slot may be shorter than the others.
        let old_slots = u32::try_from(metadata.len().div_ceil(slot_bytes))
            .unwrap_or(u32::MAX)
            .min(capacity);
        file.set_len(u64::from(old_slots) * slot_bytes)?;
        let mut index = SlabIndex::new(capacity);
        index.reserve(old_slots);
        Ok(Self {
            file,
            span,
            index: Mutex::new(index),
            old_slots,
        })
    }

    /// Returns the file of this slab.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn slot_bytes(span: u64) -> u64 {
        HEADER as u64 + span * BLOCK
    }

    fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * Self::slot_bytes(self.span)
    }

    /// Reads the headers that an earlier process left. Proves nothing; reading does. Ends early
    /// when `stop` returns true.
    pub(super) fn scan(&self, stop: impl Fn() -> bool) {
        let mut header = [0; HEADER];
        for slot in (0..self.old_slots).take_while(|_| !stop()) {
            let read = self.file.read_exact_at(&mut header, self.offset(slot));
            let header = read.ok().and_then(|()| Header::decode(&header));
            let sound = header.filter(|header| header.proof.span == self.span);
            self.index
                .lock()
                .found(slot, sound.map(|header| header.key()));
        }
    }

    /// Returns up to `max` blocks of `content` from block `first` on that lie in one slot, if they
    /// are present and sound.
    ///
    /// A damaged slot is dropped, but not one that merely fails to match the request: anybody can
    /// name another size, or make up a root with the same key in the index.
    pub(super) fn get(
        &self,
        content: ContentId,
        first: u64,
        max: u64,
    ) -> Option<Verified<Vec<u8>>> {
        let key = key(&content.root, first / self.span * self.span);
        let slot = self.index.lock().find(key)?;
        let bytes = match self.header(slot).filter(|header| header.key() == key) {
            Some(header) if !header.is_of(content) => return None,
            Some(header) => self.read(slot, header, content, first, max),
            None => None,
        };
        if bytes.is_none() {
            // The slot is torn, damaged, or was overwritten just now. In the last case it has a new
            // owner, and must not be dropped.
            let mut index = self.index.lock();
            if index.find(key) == Some(slot) {
                index.release(slot);
            }
        }
        bytes
    }

    fn read(
        &self,
        slot: u32,
        header: Header,
        content: ContentId,
        first: u64,
        max: u64,
    ) -> Option<Verified<Vec<u8>>> {
        let before = first.checked_sub(header.proof.first)?.checked_mul(BLOCK)?;
        if header.proof.span != self.span {
            return None;
        }
        let length = header
            .content_bytes()
            .checked_sub(before)?
            .min(max.saturating_mul(BLOCK));
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.file
            .read_exact_at(&mut bytes, self.offset(slot) + HEADER as u64 + before)
            .ok()?;
        let leaves = header.leaves_for(content)?;
        leaves.check(first.checked_mul(BLOCK)?, bytes).ok()
    }

    fn header(&self, slot: u32) -> Option<Header> {
        let mut header = [0; HEADER];
        let read = self.file.read_exact_at(&mut header, self.offset(slot));
        read.ok().and_then(|()| Header::decode(&header))
    }

    /// Returns the header of the slot that contains `block` of `root`, if its hashes are sound. The
    /// request may be made up, so no slot is dropped for not matching it.
    pub(super) fn proven_header(&self, root: Root, block: u64) -> Option<Header> {
        let first = block / self.span * self.span;
        let slot = self.index.lock().find(key(&root, first))?;
        let header = self.header(slot)?;
        let sound = header.content.root == root
            && (header.proof.first, header.proof.span) == (first, self.span)
            && header.proof.clone().prove(header.content).is_some();
        sound.then_some(header)
    }

    /// Returns true if the block is here, according to the index.
    pub(super) fn holds(&self, root: &Root, first: u64) -> bool {
        self.index.lock().holds(key(root, first))
    }

    /// Returns how many bytes of `content` seem to be here.
    pub(super) fn bytes_of(&self, content: ContentId) -> u64 {
        let index = self.index.lock();
        let firsts = index.keys().map(|key| first_block(&content.root, key));
        let starts = firsts.filter_map(|first| first.checked_mul(BLOCK));
        let lengths = starts.filter_map(|start| content.size.checked_sub(start));
        lengths.map(|left| left.min(self.span * BLOCK)).sum()
    }

    /// Writes blocks to as many slots, evicting those that were not used recently if need be.
    /// Neighbouring slots are written at once. After an error, the rest of `writes` is not written.
    pub(super) fn put(&self, mut writes: &[SlotWrite]) -> io::Result<()> {
        while !writes.is_empty() {
            let mut slots = self.take(writes.len());
            if slots.is_empty() {
                return Ok(());
            }
            // Free slots come in any order, and so may blocks.
            slots.sort_unstable();
            let (now, later) = writes.split_at(slots.len());
            self.write_to(&slots, now)?;
            writes = later;
        }
        Ok(())
    }

    /// Takes up to `max` slots to write to. There are fewer in a cache of few slots.
    fn take(&self, max: usize) -> Vec<u32> {
        let mut index = self.index.lock();
        std::iter::from_fn(|| index.take()).take(max).collect()
    }

    /// Writes each of `writes` to the slot at its position in `slots`, which were taken for it.
    fn write_to(&self, slots: &[u32], writes: &[SlotWrite]) -> io::Result<()> {
        let headers: Vec<_> = writes.iter().map(|write| write.header.encode()).collect();
        let mut done = 0;
        let mut written = Ok(());
        while done < slots.len() && written.is_ok() {
            let count = self.neighbours(&slots[done..], &writes[done..]);
            let run = done..done + count;
            written = self
                .write_run(slots[done], &headers[run.clone()], &writes[run])
                .map(|whole| {
                    let mut index = self.index.lock();
                    for at in done..done + whole {
                        index.fill(slots[at], writes[at].header.key());
                    }
                    done += whole;
                });
        }
        let mut index = self.index.lock();
        slots[done..].iter().for_each(|slot| index.release(*slot));
        written
    }

    /// Returns how many slots from the first on follow each other without a gap in the file: each
    /// but the last must be full.
    fn neighbours(&self, slots: &[u32], writes: &[SlotWrite]) -> usize {
        let full = (self.span * BLOCK) as usize;
        let pairs = slots.windows(2).zip(writes);
        1 + pairs
            .take_while(|(pair, write)| pair[0] + 1 == pair[1] && write.content().len() == full)
            .count()
    }

    /// Writes neighbouring slots from `slot` on. Returns how many are whole: at least one, and
    /// fewer than wanted after a short write.
    fn write_run(
        &self,
        slot: u32,
        headers: &[[u8; HEADER]],
        writes: &[SlotWrite],
    ) -> io::Result<usize> {
        let at = self.offset(slot);
        let pairs = headers.iter().zip(writes);
        let parts = pairs.flat_map(|(header, write)| [&header[..], write.content()]);
        let slices: Vec<_> = parts.map(IoSlice::new).collect();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = pwritev(&self.file, &slices, at)?;
        if written == length {
            return Ok(writes.len());
        }
        match written / Self::slot_bytes(self.span) as usize {
            0 => {
                // Most likely from a full disk; then the next write reports the error.
                self.file.write_all_at(&slices[0], at)?;
                self.file.write_all_at(&slices[1], at + HEADER as u64)?;
                Ok(1)
            }
            whole => Ok(whole),
        }
    }

    /// Returns the number of slots that hold something.
    pub(super) fn filled(&self) -> usize {
        self.index.lock().filled()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::harness::{Content, content};
    use super::*;
    use crate::content::merkle::SUBTREE_BLOCKS;

    /// Returns what goes into the slot of the piece that begins at block `first`.
    fn piece(of: &Content, first: u64) -> SlotWrite {
        let subtree = of.tree.subtree(first / SUBTREE_BLOCKS).unwrap();
        let leaves = subtree.prove(of.id()).unwrap();
        let end = of.size().min((first + 8) * BLOCK);
        let bytes = of.bytes[(first * BLOCK) as usize..end as usize].to_vec();
        SlotWrite {
            header: Header::new(&leaves, first, 8).unwrap(),
            content: Arc::new(bytes),
        }
    }

    fn slab(directory: &Path, slots: u64) -> Slab {
        let path = directory.join("large");
        Slab::open(&path, 8, slots * Slab::slot_bytes(8)).unwrap()
    }

    fn held(slab: &Slab, of: &Content, firsts: &[u64]) -> Vec<u64> {
        let get = |first: &&u64| slab.get(of.id(), **first, 8).is_some();
        firsts.iter().filter(get).copied().collect()
    }

    #[test]
    fn a_run_with_a_short_piece_and_gaps_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let slab = slab(directory.path(), 16);
        let (long, short) = (content(8 << 17, 1), content((3 << 17) - 5, 2));
        let firsts = |of: &Content| (0..of.size().div_ceil(BLOCK)).step_by(8);
        let of_short = firsts(&short).map(|first| piece(&short, first));
        // Its last piece does not fill its slot, and others follow.
        let run: Vec<_> = of_short
            .chain(firsts(&long).map(|first| piece(&long, first)))
            .collect();
        slab.put(&run).unwrap();
        // Freed slots are a gap in what is written next.
        for first in [0, 16, 24] {
            let slot = slab.index.lock().find(key(&long.tree.root(), first));
            slab.index.lock().release(slot.unwrap());
        }
        let other = content(6 << 17, 3);
        let run: Vec<_> = firsts(&other).map(|first| piece(&other, first)).collect();
        slab.put(&run).unwrap();
        assert_eq!(held(&slab, &short, &[0, 8, 16]), [0, 8, 16]);
        assert_eq!(
            held(&slab, &long, &[0, 8, 16, 24, 32, 40, 48, 56]),
            [8, 32, 40, 48, 56]
        );
        assert_eq!(held(&slab, &other, &[0, 8, 16, 24, 32, 40]).len(), 6);
    }

    #[test]
    fn a_run_longer_than_the_cache_leaves_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let (slab, long) = (slab(directory.path(), 3), content(8 << 17, 1));
        let run: Vec<_> = (0..64).step_by(8).map(|at| piece(&long, at)).collect();
        slab.put(&run).unwrap();
        assert_eq!(slab.filled(), 3);
        assert!(!held(&slab, &long, &[56]).is_empty());
        let length = slab.file.metadata().unwrap().len();
        assert_eq!(length, 3 * Slab::slot_bytes(8));
    }
}
