//! What every [`Link`] must do, as tests that run over each of them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::dial::Link;

/// The other end of a link, as a test drives it.
pub(super) trait FarEnd: Send {
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]);
    /// Waits for `count` bytes.
    fn receive(&mut self, count: usize) -> Vec<u8>;
    /// Says that no more bytes come.
    fn finish(&mut self);
}

/// Makes a link and its other end.
pub(super) type Pair = (Arc<dyn Link>, Box<dyn FarEnd>);

/// More than any link and network holds on the way.
const TOO_MUCH: usize = 64 << 20;

fn after(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

pub(super) fn bytes_pass_both_ways_in_order((link, mut far): Pair) {
    link.write_all(b"hello ", after(5000)).unwrap();
    link.write_all(b"there", after(5000)).unwrap();
    assert_eq!(far.receive(11), b"hello there");
    far.send(b"welcome");
    let mut buffer = [0; 7];
    let mut filled = 0;
    while filled < buffer.len() {
        filled += link.read(&mut buffer[filled..], after(5000)).unwrap();
    }
    assert_eq!(&buffer, b"welcome");
}

pub(super) fn end_is_a_read_of_nothing((link, mut far): Pair) {
    far.send(b"x");
    far.finish();
    let mut buffer = [0; 8];
    assert_eq!(link.read(&mut buffer, after(5000)).unwrap(), 1);
    assert_eq!(link.read(&mut buffer, after(5000)).unwrap(), 0);
}

pub(super) fn read_ends_at_its_deadline((link, _far): Pair) {
    let begun = Instant::now();
    let error = link.read(&mut [0; 8], after(200)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(200) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

pub(super) fn write_to_a_full_link_ends_at_its_deadline((link, _far): Pair) {
    let begun = Instant::now();
    let error = link.write_all(&vec![0; TOO_MUCH], after(300)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

pub(super) fn shutdown_wakes_a_reader_at_once((link, _far): Pair) {
    let reader = Arc::clone(&link);
    let reading = thread::spawn(move || reader.read(&mut [0; 8], after(20_000)));
    // So that it waits by then; nothing shows that. If it does not, the test asks less.
    thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    link.shutdown();
    assert!(matches!(reading.join().unwrap(), Ok(0) | Err(_)));
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(!link.is_quiet());
    assert!(matches!(
        link.read(&mut [0; 8], after(1000)),
        Ok(0) | Err(_)
    ));
}

pub(super) fn shutdown_wakes_a_writer_at_once((link, _far): Pair) {
    let writer = Arc::clone(&link);
    let writing = thread::spawn(move || writer.write_all(&vec![0; TOO_MUCH], after(20_000)));
    // The same.
    thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    link.shutdown();
    writing.join().unwrap().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
}

pub(super) fn idle_link_is_quiet_until_something_comes((link, mut far): Pair) {
    assert!(link.is_quiet());
    far.send(b"x");
    let deadline = after(5000);
    while link.is_quiet() {
        assert!(Instant::now() < deadline, "it never notices");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn closed_link_is_not_quiet((link, mut far): Pair) {
    far.finish();
    let deadline = after(5000);
    while link.is_quiet() {
        assert!(Instant::now() < deadline, "it never notices");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn retired_link_fails_when_nothing_comes((link, mut far): Pair) {
    assert!(!link.is_retired());
    link.retire();
    assert!(link.is_retired());
    far.send(b"x");
    assert_eq!(link.read(&mut [0; 8], after(5000)).unwrap(), 1);
    let begun = Instant::now();
    let error = link.read(&mut [0; 8], after(10_000)).unwrap_err();
    let error = super::dial::broken("x", &error);
    assert!(
        matches!(error, crate::error::Error::Moved { .. }),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(4));
}

/// Makes a test of each claim above for the links that `$pair` makes.
macro_rules! link_conforms {
    ($pair:path: $($claim:ident),* $(,)?) => {$(
        #[test]
        fn $claim() {
            $crate::transport::conformance::$claim($pair());
        }
    )*};
    ($pair:path) => {
        $crate::transport::conformance::link_conforms!($pair:
            bytes_pass_both_ways_in_order,
            end_is_a_read_of_nothing,
            read_ends_at_its_deadline,
            write_to_a_full_link_ends_at_its_deadline,
            shutdown_wakes_a_reader_at_once,
            shutdown_wakes_a_writer_at_once,
            idle_link_is_quiet_until_something_comes,
            closed_link_is_not_quiet,
            retired_link_fails_when_nothing_comes,
        );
    };
}
pub(super) use link_conforms;
