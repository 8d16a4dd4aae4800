//! The step into a file system that may stop responding.

use std::sync::Arc;

use rustix::io::Errno;

use super::aside::{Crossing, PATIENCE, Spot};
use super::mountinfo::{Answerer, Device};
use super::{PinnedNode, ShareTree};
use crate::model::RelPath;

/// How many file systems that may stop responding one path may cross.
const MAX_CROSSINGS: usize = 16;

/// Why a walk stops.
#[derive(Debug)]
pub(super) enum Halt {
    /// Nothing is served there, or this machine could not find out.
    Failed(Errno),
    /// The way continues into something that may stop responding.
    Crossing(Crossing),
}

impl From<Errno> for Halt {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

impl ShareTree {
    /// Runs `way` where it can be abandoned. Repeats it from each further thing that may stop
    /// responding, with the `crossed` ones known.
    pub(super) fn cross<T: Send + 'static>(
        self: &Arc<Self>,
        mut crossed: Vec<Crossing>,
        way: impl Fn(&Self, &[Crossing]) -> Result<T, Halt> + Send + Sync + 'static,
    ) -> Result<T, Errno> {
        let way = Arc::new(way);
        while let Some(last) = crossed.last().filter(|_| crossed.len() <= MAX_CROSSINGS) {
            let (tree, way, known) = (Arc::clone(self), Arc::clone(&way), crossed.clone());
            let job = move || way(&tree, &known);
            match self.aside.run(last, PATIENCE, job)? {
                Ok(found) => return Ok(found),
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::Crossing(next)) => crossed.push(next),
            }
        }
        Err(Errno::LOOP)
    }

    /// Runs `work` on `found`: directly, or where it can be abandoned if the file system
    /// may stop responding.
    pub(in crate::share) fn on<T: Send + 'static>(
        self: &Arc<Self>,
        found: &PinnedNode,
        work: impl FnOnce(&Self, &PinnedNode) -> T + Send + 'static,
    ) -> Result<T, Errno> {
        match found.crossed.last() {
            None => Ok(work(self, found)),
            Some(crossing) => {
                let (tree, found) = (Arc::clone(self), found.clone());
                let job = move || work(&tree, &found);
                self.aside.run(crossing, PATIENCE, job)
            }
        }
    }

    /// Checks the step from a directory on `device` at `real` to what is in it.
    pub(super) fn enter(
        &self,
        device: Device,
        real: &RelPath,
        crossed: &[Crossing],
    ) -> Result<(), Halt> {
        match self.crossing_into(device, real)? {
            Some(crossing) if !crossed.iter().any(|known| known.spot == crossing.spot) => {
                Err(Halt::Crossing(crossing))
            }
            _ => Ok(()),
        }
    }

    /// Returns a crossing if what is on `device` may stop responding. For the shared directory's
    /// own file system that is already known.
    pub(super) fn crossing_into(
        &self,
        device: Device,
        real: &RelPath,
    ) -> Result<Option<Crossing>, Errno> {
        if device == self.root.device() {
            return Ok(self.crossing.clone());
        }
        let may_stop = self.mounts.answerer(device)? == Some(Answerer::Other);
        Ok(may_stop.then(|| Crossing {
            spot: Spot::Device(device),
            at: real.clone(),
        }))
    }
}
