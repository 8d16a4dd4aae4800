//! A file or directory that the kernel knows, and whether what members say later is still the same.

use std::sync::Arc;

use tinyp2p_net::download::Availability;
use tinyp2p_net::model::{ContentId, FileSize, Kind, Mode, PeerId, RelPath, Root, UnixTime};

use crate::vfs::open_content::ContentState;
use crate::view::identity::{InodeIdentity, Vantage};
use crate::view::merge::{EntrySource, Item, mode_of};

/// A file or directory that the kernel knows.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its path at the members that have it.
    pub path: RelPath,
    /// What it is.
    pub identity: InodeIdentity,
    /// How much content there is; none for a directory.
    pub size: FileSize,
    /// Nanoseconds since 1970.
    pub mtime: UnixTime,
    /// The members that had it when it was last seen, the best one to read from first.
    pub sources: Arc<[EntrySource]>,
    /// True once this content has turned out to be gone.
    pub is_replaced: bool,
    pub(super) lookups: u64,
}

impl Inode {
    /// File or directory.
    pub fn kind(&self) -> Kind {
        match self.identity {
            InodeIdentity::Directory(_) => Kind::Directory,
            InodeIdentity::Root { .. } | InodeIdentity::Empty | InodeIdentity::Source { .. } => {
                Kind::File
            }
        }
    }

    /// The content root, if it is known.
    pub fn root(&self) -> Option<Root> {
        match self.identity {
            InodeIdentity::Root { root, .. } => Some(root),
            _ => None,
        }
    }

    /// The content, if its root is known.
    pub fn content(&self) -> Option<ContentId> {
        match self.identity {
            InodeIdentity::Root { root, size } => Some(ContentId { root, size }),
            _ => None,
        }
    }

    /// What can be done with it.
    pub fn mode(&self) -> Mode {
        mode_of(&self.sources)
    }

    /// The tree that it is a directory of; `None` for a file.
    pub fn tree(&self) -> Option<Vantage> {
        match self.identity {
            InodeIdentity::Directory(tree) => Some(tree),
            _ => None,
        }
    }

    /// Returns true if this inode shows `item`, which is at the same path.
    pub fn is(&self, item: &Item) -> bool {
        match self.identity {
            InodeIdentity::Directory(_) => item.kind == Kind::Directory,
            InodeIdentity::Root { root, size } => item.root == Some(root) && item.size == size,
            InodeIdentity::Empty => item.kind == Kind::File && item.size == 0,
            InodeIdentity::Source {
                member,
                version,
                size,
            } => {
                let mut sources = item.sources.iter();
                item.kind == Kind::File
                    && (item.size == size || self.size == item.size)
                    && sources.any(|s| s.member.id == member && s.version == version)
            }
        }
    }

    /// Returns true if this inode stands for the content of `state`.
    pub(super) fn has(&self, state: ContentState) -> bool {
        match self.identity {
            InodeIdentity::Directory(_) => false,
            InodeIdentity::Empty => state.size == 0,
            InodeIdentity::Root { root, size } => state.content == Some(ContentId { root, size }),
            InodeIdentity::Source {
                member,
                version,
                size,
            } => {
                let stated = (state.member, state.version, FileSize::of(state.size));
                stated == (member, version, size)
            }
        }
    }

    /// Returns true if this file may have become `item`, at the same path: the same file at the
    /// only member that has it, with at least as many bytes. Reading it shows whether it still has
    /// its former bytes. A content that others have, too, does not become another one because one
    /// of them changed its file.
    pub(super) fn may_become(&self, item: &Item) -> bool {
        let [source] = &*self.sources else {
            return false;
        };
        let is_same = |other: &EntrySource| {
            other.member.id == source.member.id && other.version.file() == source.version.file()
        };
        self.kind() == Kind::File
            && item.kind == Kind::File
            && item.size.is_known()
            && self.size.is_known()
            && item.size.or_zero() >= self.size.or_zero()
            && item.sources.iter().any(is_same)
    }

    /// Adds what `item` says of the same file or directory.
    pub(super) fn learn(&mut self, item: &Item) {
        if self.sources.is_empty() {
            self.mtime = item.mtime;
            self.sources = Arc::clone(&item.sources);
            return;
        }
        self.mtime = self.mtime.max(item.mtime);
        if item
            .sources
            .iter()
            .all(|source| self.sources.contains(source))
        {
            return;
        }
        let mut sources = self.sources.to_vec();
        for source in item.sources.iter() {
            let known = sources
                .iter_mut()
                .find(|known| known.member.id == source.member.id);
            match known {
                Some(known) => *known = source.clone(),
                None => sources.push(source.clone()),
            }
        }
        self.sources = sources.into();
    }

    /// Returns the members whose bytes this inode may show, the best one first, with what each has.
    pub fn readable(&self) -> impl Iterator<Item = (PeerId, Availability)> {
        let has = |source: &EntrySource| match self.identity {
            InodeIdentity::Directory(_) => None,
            InodeIdentity::Root { .. } | InodeIdentity::Empty => {
                Some(Availability::File(source.version))
            }
            InodeIdentity::Source {
                member, version, ..
            } => {
                let is_this = source.member.id == member && source.version == version;
                is_this.then_some(Availability::File(version))
            }
        };
        let sources = self.sources.iter();
        let sources = sources.filter(|source| source.mode != Mode::Unreadable);
        sources.filter_map(move |source| Some((source.member.id, has(source)?)))
    }
}
