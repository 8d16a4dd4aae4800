//! Resolves a path from the root of the share: in one step if it is plain, one component at a time
//! through symbolic links and mounts.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::readlinkat;
use rustix::io::Errno;

use super::aside::Crossing;
use super::beneath::Mounts;
use super::crossing::Halt;
use super::mountinfo::Device;
use super::stat::FileState;
use super::{Pinned, PinnedNode, ShareTree, join};
use crate::model::{Kind, RelPath};

/// Limit on the links on one path, the same as the kernel's (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Limit on the components that one name of a directory may expand to.
const MAX_STEPS: usize = 1024;

/// A place in the tree and the way there.
#[derive(Clone, Debug)]
pub(crate) struct TreeSpot {
    /// The path with every link resolved.
    pub(super) real: RelPath,
    /// The real directories from which the way continued through a link to another directory.
    left: Vec<RelPath>,
    /// How many links the way has followed.
    links: usize,
}

impl ShareTree {
    /// Finds what `path` leads to. If nothing is served there, whatever the reason, the error is
    /// one that [`is_absence`](crate::share::errnos::is_absence) recognizes.
    pub(crate) fn find(self: &Arc<Self>, path: &RelPath) -> Result<PinnedNode, Errno> {
        match self.find_across(path, &[]) {
            Ok(found) => Ok(found),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Crossing(crossing)) => {
                let path = path.clone();
                self.cross(vec![crossing], move |tree, crossed| {
                    tree.find_across(&path, crossed)
                })
            }
        }
    }

    /// Like [`ShareTree::find`], but stops at anything that may stop responding and is not
    /// among the `crossed`.
    fn find_across(&self, path: &RelPath, crossed: &[Crossing]) -> Result<PinnedNode, Halt> {
        if !self.policy.serves(path) {
            return Err(Halt::Failed(Errno::NOENT));
        }
        if let Some(crossing) = self.crossing.as_ref().filter(|_| crossed.is_empty()) {
            return Err(Halt::Crossing(crossing.clone()));
        }
        match self.beneath.pin(path, Mounts::Stay) {
            Ok(handle) => {
                let state = FileState::of_pinned(&handle)?;
                if state.is_link() {
                    return self.walk(path, crossed);
                }
                let place = TreeSpot::reached_directly(path);
                Ok(PinnedNode::new(place, Pinned { handle, state }, crossed)?)
            }
            Err(Errno::LOOP | Errno::XDEV) => self.walk(path, crossed),
            Err(other) => Err(other.into()),
        }
    }

    /// Like [`ShareTree::find_across`], one component at a time.
    fn walk(&self, path: &RelPath, crossed: &[Crossing]) -> Result<PinnedNode, Halt> {
        let root = RelPath::root();
        let place = TreeSpot::reached_directly(&root);
        let mut found = PinnedNode::new(place, self.pin(&root)?, crossed)?;
        for component in path.components() {
            found = self.child(&found.place, found.state.device(), component, crossed)?;
        }
        Ok(found)
    }

    /// Finds what `name` leads to in the directory at `place`, which is on `device`.
    pub(super) fn child(
        &self,
        place: &TreeSpot,
        device: Device,
        name: &[u8],
        crossed: &[Crossing],
    ) -> Result<PinnedNode, Halt> {
        let mut real = place.real.clone();
        let mut links = place.links;
        let mut device = device;
        let mut reached = None;
        // The components still to be walked, the next one last.
        let mut pending = vec![name.to_vec()];
        for _ in 0..MAX_STEPS {
            let Some(component) = pending.pop() else {
                let pinned = match reached {
                    Some(pinned) => pinned,
                    None => self.pin(&real)?,
                };
                let mut crossed = crossed.to_vec();
                if let Some(own) = self.crossing_into(pinned.state.device(), &real)? {
                    crossed.retain(|known| known.spot != own.spot);
                    crossed.push(own);
                }
                let place = place.onward(real, links, &pinned.state)?;
                return Ok(PinnedNode::new(place, pinned, &crossed)?);
            };
            match &component[..] {
                b"" | b"." => {}
                b".." => {
                    (real, _) = real.split().ok_or(Errno::XDEV)?;
                    let pinned = self.pin(&real)?;
                    device = pinned.state.device();
                    reached = Some(pinned);
                }
                name => {
                    let next = join(&real, name)?;
                    self.enter(device, &real, crossed)?;
                    let pinned = self.pin(&next)?;
                    if pinned.state.is_link() {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Halt::Failed(Errno::LOOP));
                        }
                        pending.extend(target(&pinned.handle)?);
                    } else if pending.is_empty() || pinned.state.kind() == Some(Kind::Directory) {
                        real = next;
                        device = pinned.state.device();
                        reached = Some(pinned);
                    } else {
                        return Err(Halt::Failed(Errno::NOTDIR));
                    }
                }
            }
        }
        Err(Halt::Failed(Errno::LOOP))
    }
}

impl TreeSpot {
    fn reached_directly(path: &RelPath) -> Self {
        Self {
            real: path.clone(),
            left: Vec::new(),
            links: 0,
        }
    }

    /// Returns the place at `real`, one name below this one; an error if it is a directory that
    /// this name must not lead to.
    fn onward(&self, real: RelPath, links: usize, state: &FileState) -> Result<Self, Errno> {
        let mut left = self.left.clone();
        if links > self.links && state.kind() == Some(Kind::Directory) {
            left.push(self.real.clone());
            if left.iter().any(|passed| passed.is_within(&real)) {
                return Err(Errno::LOOP);
            }
        }
        Ok(Self { real, left, links })
    }
}

/// Returns the components of a link's target, last one first.
fn target(link: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let target = readlinkat(link, &b""[..], Vec::new())?.into_bytes();
    if target.starts_with(b"/") {
        return Err(Errno::XDEV);
    }
    let components = target.split(|byte| *byte == b'/').rev();
    Ok(components.map(<[u8]>::to_vec).collect())
}
