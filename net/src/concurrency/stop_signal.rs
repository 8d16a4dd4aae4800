//! Ends a thread that waits for file descriptors.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

/// A descriptor that becomes readable once, for good.
#[derive(Debug)]
pub(crate) struct StopSignal(OwnedFd);

impl StopSignal {
    /// Creates a signal that has not been raised.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Wakes whoever waits for it, now or later.
    pub(crate) fn raise(&self) {
        // Fails only if the counter is full, and then it is readable, too.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Returns what to wait for by poll(2).
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::event::{Timespec, poll};

    use super::*;

    #[test]
    fn raised_signal_stays_readable() {
        let signal = StopSignal::new().unwrap();
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let is_raised = || poll(&mut [signal.poll_fd()], Some(&at_once)).unwrap() == 1;
        assert!(!is_raised());
        signal.raise();
        assert!(is_raised() && is_raised());
    }
}
