//! Returns by content root what a file contained in a certain version, or contains now, for readers
//! of files that are written to while they read.
//!
//! A known root is returned, whatever the file has become since. Otherwise the file is read at
//! once to compute it. A file that only grows during the read is read twice: what is equal both
//! times was in the file in between, all at the same moment. So an append is never assumed; the
//! bytes are compared.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::captures::Captured;
use super::relocate::Whereabouts;
use super::store::FileLocation;
use crate::content::merkle::{BLOCK, Hash, HashTree, SUBTREE_BLOCKS, TreeHasher, leaf};
use crate::content::read_full::read_full;
use crate::model::{ContentId, RelPath, Root};
use crate::protocol::wire::{Fault, FaultCode, Snapshot, SnapshotRequest};
use crate::share::faults::fault;
use crate::share::{Asker, Share, SharedFile};

/// Limit on files that are read at the same time for this.
const MAX_READERS: usize = 2;

/// The largest file that is read for this: several seconds of work.
const MAX_BYTES: u64 = 8 << 30;

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// Limit on the time for reading a file.
const MAX_TIME: Duration = Duration::from_secs(8);

/// A write(2) marks the file before it stores its bytes, and not again. A file that changed less
/// than this long ago may be in the middle of a write, as far as its state shows.
const IN_FLIGHT: Duration = Duration::from_millis(300);

/// The turns of callers that read a file for its root.
#[derive(Default, Debug)]
pub(crate) struct HashTurns {
    busy: Mutex<Vec<(Asker, RelPath)>>,
    ended: Condvar,
}

/// A turn; it ends when this is dropped.
struct HashTurn<'a> {
    turns: &'a HashTurns,
    path: &'a RelPath,
}

impl HashTurns {
    /// Waits until nobody else reads this file, nothing is read for `asker`, and not too much is
    /// read for others.
    fn take<'a>(&'a self, asker: Asker, path: &'a RelPath, until: Instant) -> Option<HashTurn<'a>> {
        let mut busy = self.busy.lock();
        let is_mine = |(other, at): &(Asker, RelPath)| *other == asker || at == path;
        while busy.len() >= MAX_READERS || busy.iter().any(is_mine) {
            if self.ended.wait_until(&mut busy, until).timed_out() {
                return None;
            }
        }
        busy.push((asker, path.clone()));
        Some(HashTurn { turns: self, path })
    }

    /// Waits until `moment`.
    fn pause(&self, moment: Instant) {
        let mut busy = self.busy.lock();
        while !self.ended.wait_until(&mut busy, moment).timed_out() {}
    }
}

impl Drop for HashTurn<'_> {
    fn drop(&mut self) {
        self.turns.busy.lock().retain(|(_, path)| path != self.path);
        self.turns.ended.notify_all();
    }
}

impl Share {
    /// Returns the content of the file that `request` names, found by `until`.
    ///
    /// # Errors
    /// [`FaultCode::NotFound`] if there is no such file, or the content cannot be determined;
    /// [`FaultCode::LimitExceeded`] if the file is too large or the time did not suffice.
    pub fn snapshot(
        &self,
        request: &SnapshotRequest,
        asker: Asker,
        until: Instant,
    ) -> Result<Snapshot, Fault> {
        if let Some(known) = self.known_state(request) {
            return Ok(known);
        }
        let (path, file) = self.file_of(request, until)?;
        let attributes = file.attributes();
        if attributes.size == 0 {
            return Err(Fault::new(FaultCode::NotFound, "the file is empty"));
        }
        if let Some(root) = self.root_of(attributes.version) {
            let size = file.size();
            let prefix = match request.prefix {
                Some(prefix) => self.begins_with((root, size), &file, prefix)?,
                None => false,
            };
            return Ok(Snapshot {
                version: attributes.version,
                content: ContentId { root, size },
                is_prefix: prefix,
            });
        }
        if !request.may_read {
            self.wanted_now(asker, &path, &file);
            return Err(Fault::new(FaultCode::NotFound, "its root is not known yet"));
        }
        let until = until.min(Instant::now() + MAX_TIME);
        let captured = self.capture(asker, (&path, request.size), file, until)?;
        let is_prefix = match request.prefix {
            Some(prefix) => {
                let file = self.tree_file(&path)?;
                begins_with(captured.tree.leaves(), captured.place.size, &file, prefix)
                    .map_err(unreadable)?
            }
            None => false,
        };
        Ok(Snapshot {
            version: captured.version,
            content: captured.content(),
            is_prefix,
        })
    }

    /// Returns the content of the exact version requested, if it is known.
    fn known_state(&self, request: &SnapshotRequest) -> Option<Snapshot> {
        if request.prefix.is_some() {
            return None;
        }
        let version = request.version;
        let content = match self.root_of(version) {
            Some(root) => ContentId {
                root,
                size: self.place_of(root)?.size,
            },
            None => self.captures.of_version(version)?.content(),
        };
        Some(Snapshot {
            version,
            content,
            is_prefix: false,
        })
    }

    /// Returns the requested file: at its path or, if it has moved and had the requested prefix,
    /// wherever it is.
    fn file_of(
        &self,
        request: &SnapshotRequest,
        until: Instant,
    ) -> Result<(RelPath, SharedFile), Fault> {
        let is_it = |file: &SharedFile| file.attributes().version.file() == request.version.file();
        let here = self.tree_file(&request.path);
        let root = request.prefix.map(|prefix| prefix.root);
        let place = root.and_then(|root| Some((root, self.place_of(root)?)));
        if let Some((root, place)) = place
            && !here.as_ref().is_ok_and(is_it)
            && let Whereabouts::At(path) = self.find_again(root, &place, until)?
            && let Ok(file) = self.tree_file(&path)
            && is_it(&file)
        {
            return Ok((path, file));
        }
        Ok((request.path.clone(), here?))
    }

    /// Reads the present content of the file. Reuses a recent read if that covers as much as the
    /// caller knows of.
    fn capture(
        &self,
        asker: Asker,
        (path, size): (&RelPath, u64),
        file: SharedFile,
        until: Instant,
    ) -> Result<Arc<Captured>, Fault> {
        let too_slow = || Fault::new(FaultCode::LimitExceeded, "not enough time to read the file");
        let mut file = file;
        // A waiting caller keeps nobody else from a turn.
        let _turn = loop {
            let turn = self.turns.take(asker, path, until);
            let turn = turn.ok_or_else(too_slow)?;
            let last = self
                .captures
                .last_at(path)
                .filter(|last| last.version.file() == file.attributes().version.file());
            let Some(last) = last else { break turn };
            let again_at = last.again_at();
            let is_enough = last.place.size >= size;
            let is_soon = Instant::now() < again_at;
            if last.version == file.attributes().version || (is_enough && is_soon) {
                return Ok(last);
            }
            if !is_soon {
                break turn;
            }
            drop(turn);
            if again_at >= until {
                return Err(too_slow());
            }
            self.turns.pause(again_at);
            file = self.tree_file(path)?;
        };
        if file.size() > MAX_BYTES {
            let text = format!("a file of more than {} GiB", MAX_BYTES >> 30);
            return Err(Fault::new(FaultCode::LimitExceeded, text));
        }
        let begun = Instant::now();
        let tree = read_twice_if_need_be(&file, until).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => too_slow(),
            io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::UnexpectedEof => {
                Fault::new(FaultCode::NotFound, "the file is being written over")
            }
            _ => unreadable(error),
        })?;
        let (place, version) = (file.place(path), file.attributes().version);
        let captured = Captured::new(tree, place, version, begun, Instant::now());
        let captured = Arc::new(captured);
        self.captures.put(Arc::clone(&captured));
        Ok(captured)
    }

    /// Finds where the file is now that was at `place` when it had the content of `root`.
    fn find_again(
        &self,
        root: Root,
        place: &FileLocation,
        until: Instant,
    ) -> Result<Whereabouts, Fault> {
        let tree = self.tree().map_err(fault)?;
        Ok(self.relocations.find(&tree, (root, place), until))
    }

    /// Returns true if the content of `file`, with this root and size, begins with `prefix`.
    fn begins_with(
        &self,
        (root, size): (Root, u64),
        file: &SharedFile,
        prefix: ContentId,
    ) -> Result<bool, Fault> {
        if prefix.size > size || prefix.size == 0 || prefix.size > MAX_BYTES {
            return Ok(false);
        }
        let trees = self.trees();
        let blocks = prefix.size.div_ceil(BLOCK);
        let mut leaves = Vec::new();
        for first in (0..blocks).step_by(SUBTREE_BLOCKS as usize) {
            let subtree = trees.subtree(root, first, SUBTREE_BLOCKS);
            let subtree =
                subtree.map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
            match subtree {
                Some(subtree) => leaves.extend(subtree.leaves),
                None => return Ok(false),
            }
        }
        begins_with(&leaves, size, file, prefix).map_err(unreadable)
    }
}

fn unreadable(error: io::Error) -> Fault {
    match error.raw_os_error() {
        Some(number) => fault(rustix::io::Errno::from_raw_os_error(number)),
        None => Fault::new(FaultCode::Internal, "the file cannot be read"),
    }
}

/// Returns the hash tree of `file`: for the state in which it was opened, or for one moment since
/// if it only grows.
fn read_twice_if_need_be(file: &SharedFile, until: Instant) -> io::Result<HashTree> {
    let size = file.size();
    let changed = || io::ErrorKind::StaleNetworkFileHandle.into();
    let first = read(file, size, until)?.ok_or_else(changed)?;
    let (opened, now) = file.states()?;
    if opened == now && !file.changed_within(IN_FLIGHT) {
        return Ok(first);
    }
    // No other file can have taken its place: this one is open.
    if now.size() < size {
        return Err(changed());
    }
    let second = read(file, size, until)?.ok_or_else(changed)?;
    if first.root() == second.root() {
        Ok(first)
    } else {
        Err(changed())
    }
}

/// Returns the tree of the first `size` bytes, in whatever state the file is; `None` if
/// it has fewer.
fn read(file: &SharedFile, size: u64, until: Instant) -> io::Result<Option<HashTree>> {
    let (mut hasher, mut at) = (TreeHasher::default(), 0);
    let mut chunk = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    while at < size {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let max = chunk.len().min(usize::try_from(size - at).unwrap_or(CHUNK));
        match file.read_any(at, &mut chunk[..max])? {
            0 => return Ok(None),
            count => {
                hasher.update(&chunk[..count]);
                at += count as u64;
            }
        }
    }
    Ok(hasher.finish())
}

/// Returns true if a content of `size` bytes with these `leaves`, which `file` has or had, begins
/// with `prefix`. The leaves decide for all whole blocks, and the rest is read again.
fn begins_with(
    leaves: &[Hash],
    size: u64,
    file: &SharedFile,
    prefix: ContentId,
) -> io::Result<bool> {
    let whole = (prefix.size / BLOCK) as usize;
    let rest = (prefix.size % BLOCK) as usize;
    if prefix.size > size || prefix.size == 0 || leaves.len() < whole + usize::from(rest > 0) {
        return Ok(false);
    }
    let mut own: Vec<Hash> = leaves[..whole].to_vec();
    if rest > 0 {
        let start = whole as u64 * BLOCK;
        let mut block = vec![0; (size.min(start + BLOCK) - start) as usize];
        let filled = read_full(start, &mut block, |at, part| file.read_any(at, part))?;
        if filled < block.len() {
            return Ok(false);
        }
        // It has to be the block that the leaf was computed from.
        if leaves[whole] != leaf(&block) {
            return Ok(false);
        }
        own.push(leaf(&block[..rest]));
    }
    Ok(HashTree::new(own).is_some_and(|tree| tree.root() == prefix.root))
}
