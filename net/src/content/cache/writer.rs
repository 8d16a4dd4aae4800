//! The thread that writes to the cache, a gathered run of blocks at a time.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::SlabStore;
use super::slab::SlotWrite;

/// How often the writer wakes while there is something to write; it also wakes when the backlog is
/// a quarter full. Waking it for each block would take time from those who wait for blocks.
const GATHER: Duration = Duration::from_millis(20);

/// The most blocks in one system call: eight large slots, or 64 small ones. File systems reserve
/// room for each call, and that costs more than the copy when the call is for one slot.
const RUN_BLOCKS: u64 = 64;

/// How often the writer checks whether the files are still in place: people empty
/// caches by `rm -rf`.
const LOOK: Duration = Duration::from_secs(1);

/// After a failed write (a full disk, most likely), nothing is written for this long.
const PAUSE: Duration = Duration::from_secs(30);

impl SlabStore {
    /// Writes what is queued until the cache is dropped.
    pub(super) fn write_all(&self, queue: &Receiver<SlotWrite>) {
        // Best effort: without the permission, the thread simply competes like any other.
        let _ = rustix::process::setpriority_process(None, 19);
        let mut paused_until: Option<Instant> = None;
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= LOOK && !self.stopped.load(Ordering::Relaxed) {
                self.look_after_files();
                looked = Instant::now();
            }
            let first = match queue.recv_timeout(LOOK) {
                Ok(write) => write,
                Err(RecvTimeoutError::Timeout) if !self.stopped.load(Ordering::Relaxed) => continue,
                Err(_) => return,
            };
            let mut writes = std::iter::once(first).chain(queue.try_iter()).peekable();
            while let Some(first) = writes.next() {
                let span = first.span();
                let mut run = vec![first];
                while run.len() < most_in_run(span)
                    && let Some(next) = writes.next_if(|next| next.span() == span)
                {
                    run.push(next);
                }
                self.write(&run, span, &mut paused_until);
            }
            if !self.stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(GATHER);
            }
        }
    }

    /// Writes blocks that all go to slots of `span` blocks.
    fn write(&self, run: &[SlotWrite], span: u64, paused_until: &mut Option<Instant>) {
        let bytes: usize = run.iter().map(|write| write.content().len()).sum();
        self.backlog.fetch_sub(bytes as u64, Ordering::Relaxed);
        if paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let Some(disk) = self.disk() else {
            return;
        };
        *paused_until = disk.slab(span).put(run).err().map(|error| {
            let pause = PAUSE.as_secs();
            tracing::warn!(%error, "the cache cannot be written to; trying again in {pause} s");
            Instant::now() + PAUSE
        });
    }
}

/// Returns how many slots of `span` blocks are written at once.
fn most_in_run(span: u64) -> usize {
    (RUN_BLOCKS / span).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cache::PIECE_BLOCKS;
    use crate::content::merkle::BLOCK;

    #[test]
    fn a_run_fits_one_system_call() {
        assert_eq!((most_in_run(1), most_in_run(PIECE_BLOCKS)), (64, 8));
        // A header and a content each; the kernel takes 1024 slices.
        assert!(2 * most_in_run(1) <= 1024 && RUN_BLOCKS * BLOCK == 1 << 20);
    }
}
