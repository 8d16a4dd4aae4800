//! One file of equal slots. Its length never exceeds its share of the cache.
//!
//! Reading and writing race on purpose: no lock is held over IO. A slot that is overwritten while
//! it is read fails its check and is a miss, like one that a crash has torn.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;
use rustix::io::pwritev;

use super::index::SlabIndex;
use super::own_file;
use super::slot::{HEADER, Header, first_block, key};
use crate::content::merkle::{BLOCK, Verified};
use crate::model::{ContentId, Root};

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

    /// Writes one slot, evicting one that was not used recently if need be.
    pub(super) fn put(&self, header: &Header, content: &[u8]) -> io::Result<()> {
        let Some(slot) = self.index.lock().take() else {
            return Ok(());
        };
        let written = self.write(slot, &header.encode(), content);
        let mut index = self.index.lock();
        match written {
            Ok(()) => index.fill(slot, header.key()),
            Err(_) => index.release(slot),
        }
        written
    }

    fn write(&self, slot: u32, header: &[u8; HEADER], content: &[u8]) -> io::Result<()> {
        let at = self.offset(slot);
        let both = [IoSlice::new(header), IoSlice::new(content)];
        if pwritev(&self.file, &both, at)? == HEADER + content.len() {
            return Ok(());
        }
        // A short write, most likely from a full disk; the next write reports the error.
        self.file.write_all_at(header, at)?;
        self.file.write_all_at(content, at + HEADER as u64)
    }

    /// Returns the number of slots that hold something.
    pub(super) fn filled(&self) -> usize {
        self.index.lock().filled()
    }
}
