//! Where a path of the share leads: the one file or directory that is served under it, if any.
//!
//! A path without links costs one `openat2`. If a symbolic link or a mount is on the way, the path
//! is walked one component at a time while the real path is tracked:
//! - A link is served as its target. Only relative links are followed. An absolute link is left out
//!   even if it leads back into the share, because it names a place of this machine and not of the
//!   share. Dangling links, loops, and links that lead outside are left out as well.
//! - The [policy] judges every step of the real path before it is touched. A link shows nothing
//!   that its target's own path would not.
//! - A link to a directory is left out if it leads back up, to a directory that contains (or is)
//!   one that the path has passed through. So every walk of the tree ends. (`find -L` reports such
//!   a link as a "file system loop".)
//! - Another mounted file system is served as part of the tree unless it is a mount of this
//!   program. Its root is inspected without querying the file system. Below the root, any access
//!   may hang unless the kernel itself answers for the file system. So the walk stops there with a
//!   [`Crossing`] and is repeated where it can be abandoned ([`self::aside`]).

pub(crate) mod access;
pub(crate) mod anchor;
pub(crate) mod aside;
pub(crate) mod beneath;
mod crossing;
pub(crate) mod file;
pub(crate) mod mountinfo;
pub(crate) mod nearby;
pub(crate) mod policy;
mod resolve;
mod settle;
pub(crate) mod stat;
pub(crate) mod unreadable;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::names::name_list::{EntryHint, NameList};
use crate::model::{Attributes, Kind, Name, RelPath};
use crate::share::errnos::is_absence;
use access::Rights;
use aside::{Aside, Crossing};
use beneath::{Beneath, Mounts, open_directory};
use crossing::Halt;
use file::Way;
use mountinfo::{Answerer, MountTable};
use policy::Policy;
use resolve::TreeSpot;
use stat::FileState;

/// The shared directory as one request found it, and the rules for what it serves.
#[derive(Debug)]
pub(crate) struct ShareTree {
    beneath: Beneath,
    policy: Arc<Policy>,
    mounts: Arc<MountTable>,
    rights: Rights,
    aside: Arc<Aside>,
    root: FileState,
    /// Set if the shared directory itself may stop responding.
    crossing: Option<Crossing>,
    generation: u64,
}

/// What a path leads to: a regular file or a directory, pinned.
#[derive(Clone, Debug)]
pub(crate) struct PinnedNode {
    place: TreeSpot,
    handle: Arc<OwnedFd>,
    /// What may stop responding on the way there. The last one answers for the pinned
    /// file or directory.
    crossed: Vec<Crossing>,
    /// The state when it was pinned.
    pub(crate) state: FileState,
}

/// Anything that a handle can pin.
struct Pinned {
    handle: OwnedFd,
    state: FileState,
}

impl ShareTree {
    /// Creates the tree below `beneath`, whose state is `root`.
    pub(crate) fn new(
        beneath: Beneath,
        policy: Arc<Policy>,
        (mounts, aside): (Arc<MountTable>, Arc<Aside>),
        root: FileState,
        (crossing, generation): (Option<Crossing>, u64),
    ) -> Self {
        Self {
            beneath,
            policy,
            mounts,
            rights: Rights::of_process(),
            aside,
            root,
            crossing,
            generation,
        }
    }

    /// Returns true if neither `path` nor anything on the way to it is left out.
    pub(crate) fn serves(&self, path: &RelPath) -> bool {
        self.policy.serves(path)
    }

    /// Returns which of the directories found in turn at the share's path this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Pins the directory at `path` if it lies right there. A symbolic link ([`Errno::LOOP`]) or a
    /// mount ([`Errno::XDEV`]) on the way is an error, and so is a share that may stop responding
    /// ([`Errno::OPNOTSUPP`]). `None` if there is nothing, or no directory.
    pub(crate) fn pin_directory(&self, path: &RelPath) -> Result<Option<OwnedFd>, Errno> {
        if !self.policy.serves(path) {
            return Ok(None);
        }
        if self.crossing.is_some() {
            return Err(Errno::OPNOTSUPP);
        }
        match self.beneath.pin(path, Mounts::Stay) {
            Ok(handle) => {
                let state = FileState::of_pinned(&handle)?;
                match state.kind() {
                    Some(Kind::Directory) => Ok(Some(handle)),
                    _ if state.is_link() => Err(Errno::LOOP),
                    _ => Ok(None),
                }
            }
            Err(error @ (Errno::LOOP | Errno::XDEV)) => Err(error),
            Err(error) if is_absence(error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pins what is at a real path whose parents have all been pinned this way before.
    fn pin(&self, real: &RelPath) -> Result<Pinned, Errno> {
        if !self.policy.serves(real) {
            return Err(Errno::NOENT);
        }
        let handle = self.beneath.pin(real, Mounts::Cross)?;
        let state = FileState::of_pinned(&handle)?;
        if self.is_ours(&state)? {
            return Err(Errno::NOENT);
        }
        Ok(Pinned { handle, state })
    }

    /// Returns true for what lies, or may lie, in a mount of this program.
    fn is_ours(&self, state: &FileState) -> Result<bool, Errno> {
        let device = state.device();
        if device == self.root.device() {
            return Ok(false);
        }
        let answerer = self.mounts.answerer(device)?;
        Ok(matches!(answerer, None | Some(Answerer::Ourselves)))
    }

    /// Returns the names in a directory that may be served, without checking what they lead to.
    /// Must be called through [`ShareTree::on`].
    pub(crate) fn names(&self, directory: &PinnedNode) -> Result<NameList, Errno> {
        let keep = self.policy.of_directory(&directory.place.real);
        NameList::read(&open_directory(&directory.handle)?, keep)
    }

    /// Returns what the listing of a directory shows for those of its `names` that have these
    /// numbers; `None` leaves a name out.
    pub(crate) fn entries(
        self: &Arc<Self>,
        directory: &PinnedNode,
        names: &Arc<NameList>,
        numbers: Range<usize>,
    ) -> Result<Vec<Result<Option<Attributes>, Errno>>, Errno> {
        let listed = Arc::clone(names);
        let range = numbers.clone();
        let entries = self.on(directory, move |tree, directory| {
            let entry = |number| {
                let (name, seen) = listed.get(number);
                tree.entry(directory, name, seen, &directory.crossed)
            };
            range.map(entry).collect::<Vec<_>>()
        })?;
        let whole = |(number, entry)| match entry {
            Ok(attributes) => Ok(attributes),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Crossing(crossing)) => {
                let (name, seen) = names.get(number);
                let (name, directory) = (name.to_vec(), directory.clone());
                let crossed = [&directory.crossed[..], &[crossing]].concat();
                self.cross(crossed, move |tree, crossed| {
                    tree.entry(&directory, &name, seen, crossed)
                })
            }
        };
        Ok(numbers.zip(entries).map(whole).collect())
    }

    fn entry(
        &self,
        directory: &PinnedNode,
        name: &[u8],
        seen: EntryHint,
        crossed: &[Crossing],
    ) -> Result<Option<Attributes>, Halt> {
        if seen != EntryHint::Link {
            let state = FileState::of_entry(&directory.handle, name)?;
            // An entry on the directory's own device lies in the same mount, or in another mount of
            // the same file system.
            let elsewhere = state.device() != directory.state.device();
            if elsewhere && self.is_ours(&state)? {
                return Ok(None);
            }
            if !state.is_link() {
                // Another file system might not answer. An open will find out.
                let mode = |kind| {
                    if elsewhere {
                        state.permissions().of_opened(kind)
                    } else {
                        self.rights.of_entry(&state, &directory.handle, name)
                    }
                };
                return Ok(state.attributes().map(|attributes| Attributes {
                    mode: mode(attributes.kind),
                    ..attributes
                }));
            }
        }
        let device = directory.state.device();
        let found = self.child(&directory.place, device, name, crossed)?;
        Ok(self.attributes(&found))
    }

    /// Returns what members see of `found`.
    pub(crate) fn attributes(&self, found: &PinnedNode) -> Option<Attributes> {
        let attributes = found.state.attributes()?;
        let mode = if found.crossed.is_empty() {
            self.rights.of_pinned(&found.state, &found.handle)
        } else {
            found.state.permissions().of_opened(attributes.kind)
        };
        Some(Attributes { mode, ..attributes })
    }

    /// Opens a file for reading and returns its state just after the open. The file may have been
    /// replaced since it was found. If another file took its place, that one is opened; if it is
    /// something that is not served, the error is one that [`is_absence`] recognizes.
    pub(crate) fn open(
        self: &Arc<Self>,
        found: &PinnedNode,
    ) -> Result<(OwnedFd, FileState), Errno> {
        self.on(found, |tree, found| {
            let file = tree.beneath.read(&found.place.real)?;
            let state = FileState::of(&file)?;
            let mounted_over = state.device() != found.state.device();
            if mounted_over || state.kind() != Some(Kind::File) {
                return Err(Errno::NOENT);
            }
            Ok((file, state))
        })?
    }

    /// Returns the way to the bytes of `found`, if that is not a short one.
    pub(crate) fn way(&self, found: &PinnedNode) -> Option<Way> {
        let crossing = found.crossed.last()?;
        Some(Way {
            aside: Arc::clone(&self.aside),
            crossing: crossing.clone(),
        })
    }
}

impl ShareTree {
    /// Opens at once a file that was found at `path` a moment ago; `None` if that would need a wait
    /// or a longer way.
    pub(crate) fn open_now(&self, path: &RelPath) -> Option<(OwnedFd, FileState)> {
        if self.crossing.is_some() || !self.policy.serves(path) {
            return None;
        }
        let file = self.beneath.read_now(path).ok()?;
        let state = FileState::of(&file).ok()?;
        (state.kind() == Some(Kind::File)).then_some((file, state))
    }
}

impl PinnedNode {
    fn new(place: TreeSpot, pinned: Pinned, crossed: &[Crossing]) -> Result<Self, Errno> {
        let Pinned { handle, state } = pinned;
        match state.kind() {
            Some(_) => Ok(Self {
                place,
                handle: Arc::new(handle),
                crossed: crossed.to_vec(),
                state,
            }),
            None => Err(Errno::NOENT),
        }
    }

    /// Returns the present state. The file system is always queried, local or not: reading the
    /// names would have to wait for it as well. Must be called through [`ShareTree::on`].
    pub(crate) fn present_state(&self) -> Result<FileState, Errno> {
        FileState::of_present(&self.handle)
    }

    /// Returns true if its file system may stop responding.
    pub(crate) fn may_stop(&self) -> bool {
        !self.crossed.is_empty()
    }

    /// Returns the path with every link resolved.
    pub(crate) fn real(&self) -> &RelPath {
        &self.place.real
    }
}

/// Returns `directory/name`, unless no request could spell it.
pub(crate) fn join(directory: &RelPath, name: &[u8]) -> Result<RelPath, Errno> {
    let name = Name::new(name).map_err(|_| Errno::NOENT)?;
    directory.join(&name).map_err(|_| Errno::NAMETOOLONG)
}
