//! What each operation on the mount does, without FUSE: tests call it as the kernel would.
//!
//! Every operation that may need the network takes a [`Wait`]. With [`Wait::No`] it answers from
//! memory, or fails with [`Error::NeedsNetwork`] and changes nothing; with a deadline it answers by
//! then. No other operation waits. Neither does [`Filesystem::read`], which answers by callback.
//!
//! Lock order: no lock here is held over the network. Where one is taken under another, it is the
//! entries ahead of an open directory (`readdir`), then the inodes, then an
//! [`OpenContent`](self::open_content::OpenContent).

mod attr;
mod changes;
pub mod content_sources;
pub mod control_fs;
pub mod handles;
pub mod inodes;
pub mod member_trees;
pub mod open_content;
pub(crate) mod readdir;
mod reading;
mod sources;
mod xattrs;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tinyp2p_net::download::Engine;
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{FileSize, Kind, MAX_NAME_BYTES, Mode, Name, PeerId, RelPath, UnixTime};

use crate::errno::Error;
use crate::kernel_cache::Expirer;
use crate::network::Network;
use crate::report::status::NodeLocation;
use crate::search::Searches;
use crate::view::{NameLookup, View, Wait};
pub use attr::{Attr, DirectoryEntry, LookupResult, ReadDone, STATFS_BLOCK, Statistics};
use control_fs::{Hidden, is_hidden};
use handles::{DirectoryKind, Handles, OpenDirectory, OpenFile};
use inodes::{Inode, Inodes, ROOT, Vantage};
use member_trees::Trees;
pub use reading::OpenedHandle;
pub use xattrs::{XATTR_CACHED, XATTR_INFO, XATTR_ROOT, XATTR_SOURCES};

/// The operations of a mount, without the mount itself.
pub struct Filesystem {
    network: Arc<dyn Network>,
    this_node: Option<PeerId>,
    engine: Arc<Engine>,
    view: Arc<View>,
    trees: Arc<Trees>,
    searches: Arc<Searches>,
    inodes: Mutex<Inodes>,
    files: Handles<OpenFile>,
    directories: Handles<OpenDirectory>,
    pub(crate) hidden: Hidden,
    /// Set once, when the kernel has reported that it supports expiry.
    expirer: OnceLock<Expirer>,
}

impl Filesystem {
    /// Creates the tree of `network`, read through `engine`. Content that `this_node` has, too, is
    /// read from that node.
    pub fn new(network: Arc<dyn Network>, engine: Arc<Engine>, this_node: Option<PeerId>) -> Self {
        let view = Arc::new(View::new(Arc::clone(&network), this_node));
        let searches = Arc::new(Searches::new(Arc::clone(&network), this_node));
        let hidden = Hidden::new(
            Arc::clone(&network),
            Arc::clone(&view),
            Arc::clone(&searches),
        );
        Self {
            trees: Arc::new(Trees::new(Arc::clone(&network), Arc::clone(&view))),
            view,
            searches,
            hidden,
            network,
            this_node,
            engine,
            inodes: Mutex::new(Inodes::new(UnixTime::now())),
            files: Handles::default(),
            directories: Handles::default(),
            expirer: OnceLock::new(),
        }
    }

    /// Makes the kernel ask again for names that members report as changed.
    pub fn expire_by(&self, expirer: Expirer) {
        // A second mount of the same filesystem would have to do without.
        let _ = self.expirer.set(expirer);
    }

    /// Sets the `location` that its status shows.
    pub fn at(mut self, location: NodeLocation) -> Self {
        self.hidden.location = location;
        self
    }

    /// Returns the searches of `.tinyp2p/search`.
    pub fn searches(&self) -> &Arc<Searches> {
        &self.searches
    }

    /// Finds `name` in the directory `parent`. Counts what it finds as assigned to the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8], wait: Wait) -> Result<LookupResult, Error> {
        let what = if parent == ROOT && self.hidden.has(parent, name) {
            DirectoryKind::Own
        } else {
            self.listed(parent)?
        };
        if what == DirectoryKind::Own {
            return self.hidden.lookup(parent, name);
        }
        let name = Name::new(name).map_err(|_| match name.len() {
            0..=MAX_NAME_BYTES => Error::NotFound,
            _ => Error::NameTooLong,
        })?;
        let (tree, directory) = match what {
            DirectoryKind::Tree(tree, path) => (tree, path),
            DirectoryKind::Found(pattern) => return self.look_up_found(&pattern, &name, wait),
            DirectoryKind::Members | DirectoryKind::Own => return Ok(self.look_up_member(&name)),
        };
        match self.view(tree).find(&directory, &name, wait)? {
            NameLookup::Nothing { certain } => Ok(LookupResult::Absent { certain }),
            NameLookup::Item(item) => {
                let path = join(&directory, item.name_at_members())?;
                let assigned = Attr::assigned(self.inodes.lock().look_up(tree, path, &item));
                self.grown(assigned, wait).map(LookupResult::Found)
            }
        }
    }

    /// Takes back `count` assignments that the kernel has forgotten.
    pub fn forget(&self, number: u64, count: u64) {
        if is_hidden(number) {
            self.hidden.forget(number, count);
        } else {
            self.inodes.lock().forget(number, count);
        }
    }

    /// Returns what a `stat` shows. A file's content is fixed for the life of its inode, unless
    /// somebody has it open and may see it grow. So only such a file and a directory's modification
    /// time have to be asked for. While nobody answers, the last known value holds.
    pub fn getattr(&self, number: u64, wait: Wait) -> Result<Attr, Error> {
        if is_hidden(number) {
            return self.hidden.attr(number);
        }
        self.finish_growth(number, wait)?;
        let inode = self.inode(number)?;
        let mut attr = Attr::of(number, &inode);
        let Some(tree) = inode.tree() else {
            let is_open = self.inodes.lock().is_open(number);
            return if is_open {
                self.open_attr(number, &inode, wait)
            } else {
                Ok(attr)
            };
        };
        match self.view(tree).mtime(&inode.path, wait) {
            Ok(mtime) => attr.mtime = mtime,
            Err(Error::Silent(_)) => {}
            // Nobody shares anything, but the root exists.
            Err(Error::NotFound) if number == ROOT => {}
            Err(error) => return Err(error),
        }
        if let Some(inode) = self.inodes.lock().get_mut(number) {
            inode.mtime = attr.mtime;
        }
        Ok(attr)
    }

    /// Returns what a `stat` shows of an open file: what its member says that it is now.
    fn open_attr(&self, number: u64, inode: &Inode, wait: Wait) -> Result<Attr, Error> {
        let holder = inode.sources.first().map(|source| source.member.id);
        let holder = holder.filter(|holder| self.network.whole(*holder).is_none());
        if let Some(holder) = holder
            && let Some((directory, name)) = inode.path.split()
        {
            let view = self.trees.of(holder, Instant::now());
            match view.find(&directory, &name, wait) {
                Ok(NameLookup::Item(item)) => self.inodes.lock().follow(number, &item),
                Err(Error::NeedsNetwork) => return Err(Error::NeedsNetwork),
                Ok(NameLookup::Nothing { .. }) | Err(_) => {}
            }
        }
        self.finish_growth(number, wait)?;
        let now = self.inode(number)?;
        Ok(Attr {
            may_grow: true,
            ..Attr::of(number, &now)
        })
    }

    /// Returns `attr`, which was just assigned, with the size to which the file has grown. If that
    /// has to wait, takes the assignment back.
    fn grown(&self, attr: Attr, wait: Wait) -> Result<Attr, Error> {
        let size = self.finish_growth(attr.inode, wait).inspect_err(|_| {
            self.inodes.lock().forget(attr.inode, 1);
        })?;
        let size = size.unwrap_or(attr.size);
        Ok(Attr { size, ..attr })
    }

    /// Tells the kernel of the new size of an open file that has grown, after it has dropped the
    /// page in which the file ended. Returns that size. The kernel may have to wait for a read of
    /// that page, and the event loops have to take that read: so they never wait here.
    fn finish_growth(&self, number: u64, wait: Wait) -> Result<Option<FileSize>, Error> {
        let Some(from) = self.inodes.lock().growing_from(number) else {
            return Ok(None);
        };
        if let Wait::No = wait {
            return Err(Error::NeedsNetwork);
        }
        if let Some(expirer) = self.expirer.get() {
            expirer.drop_page(number, from);
        }
        let mut inodes = self.inodes.lock();
        inodes.finish_growth(number);
        Ok(inodes.latest_size(number))
    }

    /// Checks whether `mask`, as in access(2), is allowed.
    pub fn access(&self, number: u64, mask: i32) -> Result<(), Error> {
        let attr = if is_hidden(number) {
            self.hidden.attr(number)?
        } else {
            Attr::of(number, &self.inode(number)?)
        };
        if mask & libc::W_OK != 0 {
            return Err(Error::ReadOnly);
        }
        match (attr.kind, attr.mode) {
            (_, Mode::Unreadable) if mask & (libc::R_OK | libc::X_OK) != 0 => {
                Err(forbidden(&self.inode(number)?))
            }
            // On a mount with `noexec` the kernel does not even ask.
            (Kind::File, Mode::Plain) if mask & libc::X_OK != 0 => Err(Error::NotExecutable),
            _ => Ok(()),
        }
    }

    /// Opens a directory. It is fetched when its first entry is requested: most programs that open
    /// a directory only want to name files in it.
    pub fn opendir(&self, number: u64) -> Result<u64, Error> {
        Ok(self.directories.insert(OpenDirectory {
            what: self.listed(number)?,
            number,
            snapshot: Mutex::new(None),
            ahead: Mutex::default(),
        }))
    }

    /// Passes the entries of an open directory to `emit`, from `offset` on, until it returns
    /// `false` because an entry does not fit. Counts each accepted entry as assigned to the kernel,
    /// except `.` and `..`. Offset 0 begins with the directory's present state.
    pub fn readdirplus(
        &self,
        handle: u64,
        offset: u64,
        wait: Wait,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let open = self.directories.get(handle).ok_or(Error::UnknownHandle)?;
        self.list(&open, offset, wait, emit)
    }

    /// Prepares what the reader of an open directory will request next, while it processes the last
    /// reply. Must be called after that reply was sent.
    pub fn readdirplus_ahead(&self, handle: u64) {
        if let Some(open) = self.directories.get(handle) {
            self.list_ahead(&open);
        }
    }

    /// Closes an open directory.
    pub fn releasedir(&self, handle: u64) {
        if let Some(open) = self.directories.remove(handle) {
            self.close(&open);
        }
    }

    /// Returns figures for `df`, from what was listed recently. Everything counts as in use.
    pub fn statfs(&self) -> Statistics {
        let known = self.view.known();
        Statistics {
            blocks: known.bytes.div_ceil(STATFS_BLOCK).max(1),
            files: (known.items as u64).max(1),
        }
    }

    /// Invalidates what is known of `path`, in all trees.
    fn invalidate(&self, path: &RelPath) {
        self.view.invalidate(path);
        self.trees.invalidate(path);
        self.searches.invalidate(path);
    }

    fn inode(&self, number: u64) -> Result<Inode, Error> {
        let inodes = self.inodes.lock();
        inodes.get(number).cloned().ok_or(Error::UnknownInode)
    }

    /// Returns what the directory `number` lists.
    fn listed(&self, number: u64) -> Result<DirectoryKind, Error> {
        if is_hidden(number) {
            return self.hidden.listed(number);
        }
        let inode = self.inode(number)?;
        let tree = inode.tree().ok_or(Error::NotADirectory)?;
        if inode.mode() == Mode::Unreadable {
            return Err(forbidden(&inode));
        }
        Ok(DirectoryKind::Tree(tree, inode.path))
    }

    /// Returns the tree that `tree` names. Found files have no directories of their own, so their
    /// tree is the mount.
    fn view(&self, tree: Vantage) -> Arc<View> {
        match tree {
            Vantage::Merged | Vantage::Found => Arc::clone(&self.view),
            Vantage::Member(member) => self.trees.of(member, Instant::now()),
        }
    }
}

/// Returns the error for anything that none of its holders can read.
fn forbidden(inode: &Inode) -> Error {
    let names = inode.sources.iter().map(|source| &*source.member.name);
    let names: Vec<&str> = names.collect();
    let who = names.join(", ");
    NetError::Forbidden { who }.into()
}

fn join(directory: &RelPath, name: &Name) -> Result<RelPath, Error> {
    directory.join(name).map_err(|_| Error::NameTooLong)
}

#[cfg(test)]
mod tests;
