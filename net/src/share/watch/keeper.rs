//! Checks the share while no requests arrive. Those who were shown it must be notified when its
//! path leads to another directory, to none, or to the old one again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::share::Share;
use crate::share::watch::inotify::ShareWatch;

/// How often the share's path is looked up while anything in it is watched. A lookup costs one
/// open, and a shorter delay would go unnoticed.
const PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked up for the log and the status alone.
const LONG_PAUSE: Duration = Duration::from_secs(6);

/// The signals to the thread.
#[derive(Debug, Default)]
pub(crate) struct KeeperThread {
    signals: Mutex<KeeperSignals>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct KeeperSignals {
    is_stopped: bool,
    is_watched: bool,
}

impl KeeperThread {
    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.signals.lock().is_stopped = true;
        self.changed.notify_all();
    }

    /// Notes whether anything in the share is watched. That is asked under the lock, so that of two
    /// who note it, the one who asked last is right.
    pub(crate) fn note_use(&self, watch: &ShareWatch) {
        let mut signals = self.signals.lock();
        let was_watched = std::mem::replace(&mut signals.is_watched, watch.is_in_use());
        if signals.is_watched && !was_watched {
            self.changed.notify_all();
        }
    }

    /// Waits for the next round. Returns false when there is none.
    fn pause(&self) -> bool {
        let begun = Instant::now();
        let mut signals = self.signals.lock();
        while !signals.is_stopped {
            let pause = if signals.is_watched {
                PAUSE
            } else {
                LONG_PAUSE
            };
            let deadline = begun + pause;
            if self.changed.wait_until(&mut signals, deadline).timed_out() {
                return true;
            }
        }
        false
    }
}

/// Starts the thread. It ends with the share.
pub(crate) fn start(share: &Arc<Share>) -> Result<(), Error> {
    let (keeper, share) = (Arc::clone(&share.keeper), Arc::downgrade(share));
    let thread = std::thread::Builder::new().name("share".into());
    let spawned = thread.spawn(move || run(&keeper, &share));
    spawned
        .map(drop)
        .map_err(|error| Error::local("starting a thread", error))
}

fn run(keeper: &KeeperThread, share: &Weak<Share>) {
    let mut generation = None;
    while keeper.pause() {
        let Some(share) = share.upgrade() else { return };
        if let Some(watch) = &share.watch {
            keeper.note_use(watch);
        }
        share.look_after();
        let current = Some(share.anchor.generation());
        if std::mem::replace(&mut generation, current) != current {
            share.wanted.wake();
        }
    }
}

impl Share {
    /// Runs one round of all checks.
    pub(crate) fn look_after(&self) {
        // The lookup itself reports what there is to report.
        let Ok(tree) = self.tree() else { return };
        for directory in self.unreadable.paths() {
            let outcome = self.real_names(&tree, &directory).map(drop);
            // If it cannot even be found, nothing was recorded.
            if let Err(error) = outcome {
                self.unreadable.note(&directory, Err(error), Instant::now());
            }
        }
    }
}
