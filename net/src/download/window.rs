//! What one reader will want next, guessed from its reads so far. Pure.
//!
//! A run of reads that move forward makes a window ahead of the reader. The window grows only when
//! the reader is *starved* (asks for bytes that have not arrived): a slow reader never gets a large
//! window, and a fast one gets what its link needs after a few round trips. A jump ends the run,
//! after which only what is read is fetched, so random reads cost about what they deliver.

use crate::model::ByteRange;

/// All requests are multiples of this: one leaf of a BEP 52 hash tree.
pub(crate) const LEAF: u64 = 16 * 1024;

/// The first window of a run: two of the kernel's 128 KiB readaheads, so that one request is under
/// way while the other is being consumed.
const FIRST_WINDOW: u64 = 256 * 1024;

/// The largest window of a holder nearby. At 32 MiB, two streams of 4 MiB requests never run dry.
pub(crate) const MAX_WINDOW: u64 = 32 * 1024 * 1024;

/// The largest window of a holder far away: what the link holds has to fit (31 MB for 5 Gbit/s at
/// 50 ms), and as much again, because requests end at different times.
pub(crate) const MAX_FAR_WINDOW: u64 = 64 * 1024 * 1024;

/// The longest request to a holder nearby, and to one far away.
const MAX_REQUEST: u64 = 4 * 1024 * 1024;
const MAX_FAR_REQUEST: u64 = 16 * 1024 * 1024;

/// A read this far before or behind the current position of the run still belongs to it: the
/// kernel's readahead arrives out of order, and players skip back and forth.
const TOLERANCE: u64 = 1024 * 1024;

/// The current guess about one reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// The end of the furthest read of this run.
    position: u64,
    /// How many bytes behind `position` are wanted before anyone reads them.
    ahead: u64,
    /// The number of requests under way at once, as far as is known.
    streams: u64,
    is_far: bool,
}

impl Window {
    /// Creates the window of a new reader. A first read at the start of the file begins a run.
    pub(crate) fn new() -> Self {
        Self {
            position: 0,
            ahead: 0,
            streams: 2,
            is_far: false,
        }
    }

    /// Sets how many requests should be under way at once to keep the link to the holders busy, and
    /// whether their answers take long to begin.
    pub(crate) fn tune(&mut self, streams: usize, is_far: bool) {
        (self.streams, self.is_far) = (streams.max(1) as u64, is_far);
    }

    /// Records a read of `range`, which has not fully arrived when `starved`. The window grows
    /// only while memory allows (`may_grow`). Returns true if this is a jump: what was wanted
    /// before no longer is.
    pub(crate) fn read(&mut self, range: ByteRange, starved: bool, may_grow: bool) -> bool {
        let near = range.start <= self.position + TOLERANCE.max(self.ahead)
            && range.start + TOLERANCE >= self.position;
        if !near {
            *self = Self {
                position: range.end,
                ahead: 0,
                ..*self
            };
            return true;
        }
        self.position = self.position.max(range.end);
        if starved && (may_grow || self.ahead < FIRST_WINDOW) {
            // Far away, each step takes a round trip.
            let (growth, most) = if self.is_far {
                (8, MAX_FAR_WINDOW)
            } else {
                (2, MAX_WINDOW)
            };
            self.ahead = (self.ahead * growth).clamp(FIRST_WINDOW, most.max(self.ahead));
        }
        false
    }

    /// Returns the bytes to fetch although nobody waits for them yet, from the
    /// reader's current leaf.
    pub(crate) fn ahead(&self, size: u64) -> ByteRange {
        let end = (self.position + self.ahead).next_multiple_of(LEAF);
        ByteRange::new(self.position.min(size) / LEAF * LEAF, end.min(size))
    }

    /// Returns the bytes that are worth keeping once they have arrived.
    pub(crate) fn keep(&self) -> ByteRange {
        let end = self.position + TOLERANCE.max(self.ahead + LEAF);
        // A reader whose window could not grow keeps less behind it too, so that many readers fit.
        let behind = self.ahead.clamp(FIRST_WINDOW, TOLERANCE);
        ByteRange::new(self.position.saturating_sub(behind), end)
    }

    /// Returns true for a run that is long enough to be worth the help of many.
    pub(crate) fn is_running(&self) -> bool {
        self.ahead >= TOLERANCE
    }

    /// Halves the window when memory is short.
    pub(crate) fn shrink(&mut self) {
        self.ahead = (self.ahead / 2).max(FIRST_WINDOW.min(self.ahead));
    }

    /// Returns how long one request of this run should be, such that all requests under way
    /// fill the window.
    pub(crate) fn request_bytes(&self) -> u64 {
        let longest = if self.is_far {
            MAX_FAR_REQUEST
        } else {
            MAX_REQUEST
        };
        (self.ahead / self.streams).clamp(FIRST_WINDOW, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::new(start, start + len)
    }

    #[test]
    fn starved_reader_soon_gets_a_full_window() {
        let mut window = Window::new();
        for index in 0..8 {
            assert!(!window.read(range(index * 128 * KIB, 128 * KIB), true, true));
        }
        assert_eq!(window.ahead(u64::MAX / 2).len(), MAX_WINDOW);
    }

    #[test]
    fn far_holder_gets_a_large_window_faster() {
        let mut window = Window::new();
        window.tune(4, true);
        for index in 0..4 {
            window.read(range(index * 128 * KIB, 128 * KIB), true, true);
        }
        assert_eq!(window.ahead(1 << 40).len(), MAX_FAR_WINDOW);
        assert_eq!(window.request_bytes(), MAX_FAR_WINDOW / 4);
    }

    #[test]
    fn unstarved_reader_keeps_its_window() {
        let mut window = Window::new();
        window.read(range(0, 128 * KIB), true, true);
        let first = window.ahead(1 << 40).len();
        for index in 1..100 {
            window.read(range(index * 128 * KIB, 128 * KIB), false, true);
        }
        assert_eq!(window.ahead(1 << 40).len(), first);
    }

    #[test]
    fn random_reads_want_nothing_ahead() {
        let mut window = Window::new();
        for start in [700 * MIB, 13 * MIB, 999 * MIB, 400 * MIB] {
            assert!(window.read(range(start, 4 * KIB), true, true));
            assert!(window.ahead(1 << 40).len() <= LEAF);
        }
    }

    #[test]
    fn out_of_order_readahead_keeps_the_run() {
        let mut window = Window::new();
        window.read(range(0, 128 * KIB), true, true);
        assert!(!window.read(range(256 * KIB, 128 * KIB), true, true));
        assert!(!window.read(range(128 * KIB, 128 * KIB), true, true));
        assert!(window.keep().start == 0 && window.keep().end > 512 * KIB);
    }

    #[test]
    fn low_memory_keeps_windows_from_growing() {
        let mut window = Window::new();
        for index in 0..8 {
            window.read(range(index * 128 * KIB, 128 * KIB), true, false);
        }
        assert!(window.ahead(1 << 40).len() < FIRST_WINDOW + LEAF);
        window.shrink();
        assert!(window.ahead(1 << 40).len() < FIRST_WINDOW + LEAF);
    }

    #[test]
    fn the_window_ends_with_the_file() {
        let mut window = Window::new();
        window.read(range(0, 10), true, true);
        assert_eq!(window.ahead(10), range(0, 10));
        assert_eq!(window.ahead(100), range(0, 100));
    }
}
