//! Work over many entries, split between two threads: a page of a directory takes a system call and
//! a database look-up for each entry, and the caller waits for all of them.

use std::ops::Range;
use std::thread;

/// Fewer entries take less time than starting a thread for them, or not much more.
const WORTH_A_THREAD: usize = 1024;

/// Returns what `work` makes of `range`: in one piece, or in two consecutive pieces.
pub(crate) fn in_halves<R: Send>(
    range: Range<usize>,
    work: impl Fn(Range<usize>) -> R + Sync,
) -> Vec<R> {
    if range.len() < WORTH_A_THREAD {
        return vec![work(range)];
    }
    let middle = range.start + range.len() / 2;
    let (first, second) = (range.start..middle, middle..range.end);
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("page".into());
        let other = helper.spawn_scoped(scope, || work(second.clone()));
        let first = work(first);
        let second = match other {
            Ok(other) => other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // Without a thread it only takes longer.
            Err(_) => work(second.clone()),
        };
        vec![first, second]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_the_range_in_order() {
        for range in [0..0, 7..9, 0..WORTH_A_THREAD, 5..3 * WORTH_A_THREAD] {
            let pieces = in_halves(range.clone(), |piece| piece.collect::<Vec<usize>>());
            assert!(pieces.len() <= 2);
            assert_eq!(pieces.concat(), range.collect::<Vec<usize>>());
        }
    }

    #[test]
    #[should_panic(expected = "of the second")]
    fn a_panic_of_the_other_thread_is_not_lost() {
        in_halves(0..WORTH_A_THREAD, |piece| {
            assert_eq!(piece.start, 0, "of the second");
        });
    }
}
