//! Where a path of the share leads: the one file or directory that is served under it, if any.
//!
//! A path without links costs one `openat2`. Where a symbolic link or a mount is on the way, it
//! is walked one component at a time, the real path being kept in hand:
//! - A link is served as what it leads to. Relative links only: an absolute one is left out even
//!   if it leads back into the share, as it names a place of this machine and not of the share.
//!   So are dangling links, loops, and links that lead outside.
//! - The [policy] judges the real path, every step of it, before it is touched: a
//!   link shows nothing that its target's own path would not.
//! - A link to a directory is left out where it leads back up, to a directory that holds (or is)
//!   one that the path has passed through, so that every walk of the tree ends. (`find -L`
//!   reports the same as a "file system loop".)
//! - Another mounted file system is served as part of the tree unless it is a mount of this
//!   program. Its root is looked at without asking it anything. What lies below may hang whoever
//!   looks at it, unless the kernel answers for it by itself: so the way ends there with a
//!   [`Crossing`], and is walked again where it can be left behind ([`self::aside`]).

pub(crate) mod access;
pub(crate) mod anchor;
pub(crate) mod aside;
pub(crate) mod beneath;
mod crossing;
pub(crate) mod file;
pub(crate) mod mountinfo;
pub(crate) mod policy;
mod resolve;
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

/// The shared directory as one request found it, and the rules of what is served from it.
#[derive(Debug)]
pub(crate) struct ShareTree {
    beneath: Beneath,
    policy: Arc<Policy>,
    mounts: Arc<MountTable>,
    rights: Rights,
    aside: Arc<Aside>,
    root: FileState,
    /// Set where the shared directory itself may stop to answer.
    crossing: Option<Crossing>,
    generation: u64,
}

/// What a path leads to: a regular file or a directory, pinned.
#[derive(Clone, Debug)]
pub(crate) struct PinnedNode {
    place: TreeSpot,
    handle: Arc<OwnedFd>,
    /// What may stop to answer on the way there; the last one is what has to answer for it.
    crossed: Vec<Crossing>,
    /// Its state when it was pinned.
    pub(crate) state: FileState,
}

/// Anything that a handle can pin.
struct Pinned {
    handle: OwnedFd,
    state: FileState,
}

impl ShareTree {
    /// The tree below `beneath`, which is in the state `root`.
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

    /// True when nothing on the way to `path` is left out, nor `path` itself.
    pub(crate) fn serves(&self, path: &RelPath) -> bool {
        self.policy.serves(path)
    }

    /// Which of the directories that were found at the share's path, one after the other, this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Pins the directory at `path` if it lies right there: neither a symbolic link nor a mount is
    /// on the way, which are errors ([`Errno::LOOP`], [`Errno::XDEV`]), and so is a share that may
    /// stop to answer ([`Errno::OPNOTSUPP`]). `None` where there is nothing, or no directory.
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

    /// Pins what is at a real path all of whose parents have been pinned this way before.
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

    /// True for what lies in a mount of this program, or may do so.
    fn is_ours(&self, state: &FileState) -> Result<bool, Errno> {
        let device = state.device();
        if device == self.root.device() {
            return Ok(false);
        }
        let answerer = self.mounts.answerer(device)?;
        Ok(matches!(answerer, None | Some(Answerer::Ourselves)))
    }

    /// The names in a directory that may be served, without asking what they lead to. To be called
    /// [`ShareTree::on`] it.
    pub(crate) fn names(&self, directory: &PinnedNode) -> Result<NameList, Errno> {
        let keep = self.policy.of_directory(&directory.place.real);
        NameList::read(&open_directory(&directory.handle)?, keep)
    }

    /// What a directory's listing says of those of its `names` that have these numbers; `None`
    /// leaves a name out.
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
            // Whoever is on the same device as the directory lies in the same mount, or in one
            // of the same file system.
            let elsewhere = state.device() != directory.state.device();
            if elsewhere && self.is_ours(&state)? {
                return Ok(None);
            }
            if !state.is_link() {
                // Another file system might not answer; an open of what is there will tell.
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

    /// What members see of what was found.
    pub(crate) fn attributes(&self, found: &PinnedNode) -> Option<Attributes> {
        let attributes = found.state.attributes()?;
        let mode = if found.crossed.is_empty() {
            self.rights.of_pinned(&found.state, &found.handle)
        } else {
            found.state.permissions().of_opened(attributes.kind)
        };
        Some(Attributes { mode, ..attributes })
    }

    /// Opens a file for reading; its state is that of the moment after. The file may have been
    /// replaced since it was found: by another file, which is opened then, or by what is not
    /// served, which is an error that [`is_absence`] knows.
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

    /// The way to the bytes of a file that was found, if that is not a short one.
    pub(crate) fn way(&self, found: &PinnedNode) -> Option<Way> {
        let crossing = found.crossed.last()?;
        Some(Way {
            aside: Arc::clone(&self.aside),
            crossing: crossing.clone(),
        })
    }
}

impl ShareTree {
    /// Opens a file right away that was found at `path` a moment ago; `None` where that would take
    /// a wait, or a longer way.
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

    /// Its state by now, of which the file system is asked, wherever that is: what its names cost
    /// to read would have to wait for it as well. To be called [`ShareTree::on`] it.
    pub(crate) fn present_state(&self) -> Result<FileState, Errno> {
        FileState::of_present(&self.handle)
    }

    /// True if its file system may stop to answer.
    pub(crate) fn may_stop(&self) -> bool {
        !self.crossed.is_empty()
    }

    /// Its path with every link resolved.
    pub(crate) fn real(&self) -> &RelPath {
        &self.place.real
    }
}

/// `directory/name`, unless no request could spell it.
pub(crate) fn join(directory: &RelPath, name: &[u8]) -> Result<RelPath, Errno> {
    let name = Name::new(name).map_err(|_| Errno::NOENT)?;
    directory.join(&name).map_err(|_| Errno::NAMETOOLONG)
}
