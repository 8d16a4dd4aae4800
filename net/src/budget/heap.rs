//! Returns freed memory to the system.
//!
//! glibc keeps freed memory in the arena of the thread that allocated it. Many short-lived threads
//! receive the answers of members, so a node that was once sent too much would stay that large.
//! After much has been freed, the allocator is asked to return all free pages: a few milliseconds
//! for each 100 MB that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Less than this is not worth a walk through the arenas.
const WORTH_IT: usize = 16 << 20;

/// The delay before a trim, so that memory freed together is returned together. It also limits how
/// often trims happen.
const DELAY: Duration = Duration::from_secs(1);

/// If this much is freed between two trims, another one follows. The last trim comes when frees
/// have become rare.
const GOES_ON: usize = 1 << 20;

/// Requests a trim once enough has been freed.
#[derive(Default)]
pub(crate) struct Trimmer {
    freed: AtomicUsize,
    is_due: AtomicBool,
}

impl Trimmer {
    /// Records that `bytes` were freed, or are about to be.
    pub(crate) fn freed(self: &Arc<Self>, bytes: usize) {
        let freed = self.freed.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if freed < WORTH_IT || self.is_due.swap(true, Ordering::SeqCst) {
            return;
        }
        let trimmer = Arc::clone(self);
        let thread = std::thread::Builder::new().name("trim".into());
        let spawned = thread.spawn(move || {
            loop {
                std::thread::sleep(DELAY);
                let freed = trimmer.freed.swap(0, Ordering::SeqCst);
                trim();
                if freed < GOES_ON && trimmer.is_done() {
                    break;
                }
            }
        });
        if spawned.is_err() {
            self.is_due.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the thread's turn. If so much was freed since its last check that another trim is due,
    /// the thread takes that turn too: whoever freed the memory saw that a trim was due already.
    fn is_done(&self) -> bool {
        self.is_due.store(false, Ordering::SeqCst);
        self.freed.load(Ordering::SeqCst) < WORTH_IT || self.is_due.swap(true, Ordering::SeqCst)
    }
}

/// Returns all free pages of all arenas to the system.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks, may be called from any thread at any
    // time, and touches no memory that is in use. There is no safe interface to it.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators return large pieces on their own.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn one_trim_covers_all_frees_before_it() {
        let trimmer = Arc::new(Trimmer::default());
        trimmer.freed(WORTH_IT - 1);
        assert!(!trimmer.is_due.load(Ordering::Relaxed));
        trimmer.freed(1);
        trimmer.freed(WORTH_IT);
        assert!(trimmer.is_due.load(Ordering::Relaxed));
        let deadline = Instant::now() + Duration::from_secs(10);
        while trimmer.is_due.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(trimmer.freed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn free_during_a_trim_causes_another() {
        let trimmer = Trimmer::default();
        trimmer.is_due.store(true, Ordering::Relaxed);
        trimmer.freed.store(WORTH_IT, Ordering::Relaxed);
        assert!(!trimmer.is_done() && trimmer.is_due.load(Ordering::Relaxed));
        trimmer.freed.store(WORTH_IT - 1, Ordering::Relaxed);
        assert!(trimmer.is_done() && !trimmer.is_due.load(Ordering::Relaxed));
    }
}
