//! Checks the share while no requests arrive. Those who were shown it must be notified when its
//! path leads to another directory, to none, or to the old one again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::share::Share;

/// How often the share's path is looked up. A lookup costs one open, and a shorter delay
/// would go unnoticed.
const PAUSE: Duration = Duration::from_millis(500);

/// The signal that ends the thread.
#[derive(Debug, Default)]
pub(crate) struct KeeperThread {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl KeeperThread {
    /// Ends the thread.
    pub(crate) fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for the next round. Returns false when there is none.
    fn pause(&self) -> bool {
        let deadline = Instant::now() + PAUSE;
        let mut stopped = self.stopped.lock();
        while !*stopped {
            if self.changed.wait_until(&mut stopped, deadline).timed_out() {
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
    while keeper.pause() {
        let Some(share) = share.upgrade() else { return };
        share.look_after();
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
