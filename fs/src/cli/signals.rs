//! When to stop: on a signal, or when the mount is gone. Stopping takes bounded time.

use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::CommandFailure;

/// A stop is promised within five seconds; the process needs some of that to shut down.
const STOP_DEADLINE: Duration = Duration::from_millis(4500);

/// The reason for a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StopReason {
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// Somebody has unmounted the filesystem.
    Unmounted,
}

/// Sends the first signal as a [`StopReason`]. The process exits when stopping takes too long, and
/// at once on a second signal.
pub(super) fn on_signals(events: Sender<StopReason>) -> Result<(), CommandFailure> {
    let mut wanted = vec![SIGTERM, SIGINT];
    // nohup(1) makes the process ignore SIGHUP on purpose.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let failed = |e| CommandFailure::failed(format!("cannot watch for signals: {e}"));
    let mut signals = Signals::new(wanted).map_err(failed)?;
    let watch = move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            thread::spawn(|| {
                thread::sleep(STOP_DEADLINE);
                tracing::warn!("stopping took too long");
                std::process::exit(1);
            });
            // The receiver is gone when the command is about to exit on its own.
            let _ = events.send(StopReason::Signal);
        }
        if signals.next().is_some() {
            std::process::exit(1);
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .map_err(failed)?;
    Ok(())
}

/// Reads the mask `SigIgn` from proc_pid_status(5).
fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| ignored_mask(&status))
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn ignored_mask(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_mask(status), Some(0x1001));
        assert_eq!(ignored_mask("Name:\tx\n"), None);
        assert!(!is_ignored(SIGTERM));
    }
}
