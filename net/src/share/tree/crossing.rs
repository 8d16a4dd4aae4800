//! The step into a file system that may stop to answer.

use std::sync::Arc;

use rustix::io::Errno;

use super::aside::{Crossing, PATIENCE, Spot};
use super::mountinfo::{Answerer, Device};
use super::{PinnedNode, ShareTree};
use crate::model::RelPath;

/// How many file systems that may stop to answer one path may cross.
const MAX_CROSSINGS: usize = 16;

/// Why a way ends.
#[derive(Debug)]
pub(super) enum Halt {
    /// Nothing is served there, or this machine could not find out.
    Failed(Errno),
    /// It goes on into what may stop to answer.
    Crossing(Crossing),
}

impl From<Errno> for Halt {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

impl ShareTree {
    /// Takes `way` where it can be left behind, and on from each further thing that may stop to
    /// answer, the `crossed` ones being known.
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

    /// Does `work` on `found`: right here, or where it can be left behind if the file system may
    /// stop to answer.
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

    /// The step from a directory on `device` at `real` to what is in it.
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

    /// Set if what is on `device` may stop to answer. Of the shared directory's own file system
    /// that is known already.
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
