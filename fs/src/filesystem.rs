//! What each operation on the mount does, without FUSE: tests call it as the kernel would.
//!
//! Every operation that may need the network takes a [`Wait`]. With [`Wait::No`] it answers from memory
//! or fails with [`Error::NeedsNetwork`] and has changed nothing; with a deadline it answers by then. The
//! rest never waits. [`Filesystem::read`] does not wait either: its answer comes by callback.
//!
//! Lock order: none of the locks here is held while another is taken, or over the network, but that an
//! [`OpenContent`](crate::open_content::OpenContent) may be looked at under that of the inodes.

mod listing;
mod reading;
mod xattrs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tinyp2p_net::client::Need;
use tinyp2p_net::config::{CALL_DEADLINE, READ_DEADLINE};
use tinyp2p_net::download::{Engine, Has, Source};
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::follow::{Listener, News};
use tinyp2p_net::types::{Kind, MAX_NAME_BYTES, Mode, Name, PeerId, RelPath, Root, UnixTime};
use tinyp2p_net::wire::Change;

use crate::errno::Error;
use crate::expire::Expirer;
use crate::handles::{Handles, Listed, OpenDirectory, OpenFile};
use crate::hidden::{Hidden, is_hidden};
use crate::inodes::{Inode, Inodes, ROOT, Tree};
use crate::network::Network;
use crate::search::Searches;
use crate::sources;
use crate::status::Place;
use crate::trees::Trees;
use crate::view::{Found, View, Wait, merge, turn};
pub use reading::Opened;
pub use xattrs::{XATTR_CACHED, XATTR_INFO, XATTR_ROOT, XATTR_SOURCES};

/// The block size that `df` counts in.
pub const STATFS_BLOCK: u64 = 4096;

/// How much longer than other operations an open may take that has to fetch the whole file: as long as a read may,
/// less the way through the kernel.
const WHOLE_FILE: Duration = READ_DEADLINE
    .saturating_sub(CALL_DEADLINE)
    .saturating_sub(Duration::from_secs(1));

/// What a `stat` of one thing tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Its inode number.
    pub inode: u64,
    /// File or directory.
    pub kind: Kind,
    /// What can be done with it.
    pub mode: Mode,
    /// Bytes; 0 for a directory; [`UNKNOWN_SIZE`](tinyp2p_net::types::Attributes::UNKNOWN_SIZE) while nobody
    /// who has the file tells.
    pub size: u64,
    /// Modification time.
    pub mtime: UnixTime,
    /// True for a file that somebody has open: it may have grown a moment later.
    pub may_grow: bool,
}

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Looked {
    /// It is there, and has been counted as told to the kernel.
    Found(Attr),
    /// Nobody who answered has it.
    Absent {
        /// True if everybody answered, so that the kernel may remember the absence.
        certain: bool,
    },
}

/// One entry of an open directory.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The offset of the entry behind it.
    pub next: u64,
    /// What a `stat` of it tells.
    pub attr: Attr,
}

/// Figures for `df`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Blocks of [`STATFS_BLOCK`] bytes; never 0.
    pub blocks: u64,
    /// Names; never 0.
    pub files: u64,
}

/// A reader's callback: the bytes that it asked for, fewer only at the end of the file.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8], Error>) + Send>;

/// The mount, without the mount.
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
    /// Set once, when the kernel has said that it knows expiry.
    expirer: OnceLock<Expirer>,
}

impl Filesystem {
    /// The tree of `network`, read through `engine`. Where several members have the same, it is read
    /// from `this_node`, if that is one of them.
    pub fn new(network: Arc<dyn Network>, engine: Arc<Engine>, this_node: Option<PeerId>) -> Self {
        let view = Arc::new(View::new(Arc::clone(&network), this_node));
        let searches = Arc::new(Searches::new(Arc::clone(&network), this_node));
        let hidden = Hidden::new(
            Arc::clone(&network),
            Arc::clone(&view),
            Arc::clone(&searches),
            Place::default(),
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

    /// Lets the kernel ask again for names of which members have news.
    pub fn expire_by(&self, expirer: Expirer) {
        // A second mount of the same filesystem would have to live without.
        let _ = self.expirer.set(expirer);
    }

    /// Says in its status that it is at `place`.
    pub fn at(mut self, place: Place) -> Self {
        self.hidden = Hidden::new(
            Arc::clone(&self.network),
            Arc::clone(&self.view),
            Arc::clone(&self.searches),
            place,
        );
        self
    }

    /// What is searched for in `.tinyp2p/search`.
    pub fn searches(&self) -> &Arc<Searches> {
        &self.searches
    }

    /// Finds `name` in the directory `parent`. What is found counts as told to the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8], wait: Wait) -> Result<Looked, Error> {
        let what = match self.hidden.has(parent, name) {
            true if parent == ROOT => Listed::Own,
            _ => self.listed(parent)?,
        };
        if what == Listed::Own {
            return self.hidden.lookup(parent, name);
        }
        let name = Name::new(name).map_err(|_| match name.len() {
            0..=MAX_NAME_BYTES => Error::NotFound,
            _ => Error::NameTooLong,
        })?;
        let (tree, directory) = match what {
            Listed::Tree(tree, path) => (tree, path),
            Listed::Found(pattern) => return self.look_up_found(&pattern, &name, wait),
            Listed::Members | Listed::Own => return Ok(self.look_up_member(&name)),
        };
        match self.view(tree).find(&directory, &name, wait)? {
            Found::Nothing { certain } => Ok(Looked::Absent { certain }),
            Found::Item(item) => {
                let path = join(&directory, item.name_at_members())?;
                let mut inodes = self.inodes.lock();
                Ok(Looked::Found(Attr::told(inodes.look_up(tree, path, &item))))
            }
        }
    }

    /// The kernel forgets what it was told `count` times.
    pub fn forget(&self, number: u64, count: u64) {
        match is_hidden(number) {
            true => self.hidden.forget(number, count),
            false => self.inodes.lock().forget(number, count),
        }
    }

    /// What a `stat` tells. A file's content is the same as long as its inode is, unless somebody has it open, who may
    /// see it grow; so only such a one and a directory's modification time have to be asked for. While nobody
    /// answers, what was known last holds.
    pub fn getattr(&self, number: u64, wait: Wait) -> Result<Attr, Error> {
        if is_hidden(number) {
            return self.hidden.attr(number);
        }
        let inode = self.inode(number)?;
        let mut attr = Attr::of(number, &inode);
        let Some(tree) = inode.tree() else {
            let is_open = self.inodes.lock().is_open(number);
            return match is_open {
                true => self.open_attr(number, &inode, wait),
                false => Ok(attr),
            };
        };
        match self.view(tree).mtime(&inode.path, wait) {
            Ok(mtime) => attr.mtime = mtime,
            Err(Error::Silent(_)) => {}
            // Nobody shares anything: the root is there all the same.
            Err(Error::NotFound) if number == ROOT => {}
            Err(error) => return Err(error),
        }
        if let Some(inode) = self.inodes.lock().get_mut(number) {
            inode.mtime = attr.mtime;
        }
        Ok(attr)
    }

    /// What a `stat` tells of a file that somebody has open: what its member says that it is by now.
    fn open_attr(&self, number: u64, inode: &Inode, wait: Wait) -> Result<Attr, Error> {
        let holder = inode.sources.first().map(|source| source.member.id);
        let holder = holder.filter(|holder| self.network.whole(*holder).is_none());
        if let Some(holder) = holder
            && let Some((directory, name)) = inode.path.split()
        {
            let view = self.trees.of(holder, Instant::now());
            match view.find(&directory, &name, wait) {
                Ok(Found::Item(item)) => self.inodes.lock().follow(number, &item),
                Err(Error::NeedsNetwork) => return Err(Error::NeedsNetwork),
                Ok(Found::Nothing { .. }) | Err(_) => {}
            }
        }
        let now = self.inode(number)?;
        Ok(Attr {
            may_grow: true,
            ..Attr::of(number, &now)
        })
    }

    /// Whether `mask`, as of access(2), is allowed.
    pub fn access(&self, number: u64, mask: i32) -> Result<(), Error> {
        let attr = match is_hidden(number) {
            true => self.hidden.attr(number)?,
            false => Attr::of(number, &self.inode(number)?),
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

    /// Opens a directory. It is fetched when its first entry is asked for: most programs that open a
    /// directory only want to name files in it.
    pub fn opendir(&self, number: u64) -> Result<u64, Error> {
        Ok(self.directories.insert(OpenDirectory {
            what: self.listed(number)?,
            number,
            snapshot: Mutex::new(None),
            ahead: Mutex::default(),
        }))
    }

    /// Hands the entries of an open directory to `emit`, from `offset` on, until it returns `false`
    /// because it has no room for that entry. Each entry that it took counts as told to the kernel,
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

    /// Makes ready what the reader of an open directory will ask for next, while it looks at what it got. To be
    /// called after the answer was sent.
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

    /// Sees to it that the file `number` can be opened. Does nothing unless it is one of a member that tells
    /// names and no sizes: that is fetched whole, if it was not just now. It may take as long as a read
    /// may; a file that has not come by then goes on coming, and the error says so.
    pub fn prepare(&self, number: u64, wait: Wait) -> Result<(), Error> {
        if is_hidden(number) {
            return Ok(());
        }
        let inode = self.inode(number)?;
        let is_other = |(id, has): (PeerId, Has)| {
            matches!(has, Has::File(_)) && self.network.whole(id).is_none()
        };
        let sources = inode.sources.iter();
        let wholes = sources.filter_map(|s| Some((self.network.whole(s.member.id)?, s)));
        let wholes: Vec<_> = wholes.collect();
        if wholes.is_empty() || inode.kind() != Kind::File || inode.readable().any(is_other) {
            return Ok(());
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let deadline = deadline + WHOLE_FILE;
        // They may have other contents under the name, which is not known before: whoever has it, will do.
        let mut failure = Error::Replaced;
        for (index, (whole, source)) in wholes.iter().enumerate() {
            let until = turn(deadline, wholes.len() - index);
            match whole.measure(&inode.path, Need::Bytes, until) {
                Ok(attributes) if attributes.version == source.version => {
                    let said = vec![(Arc::clone(&source.member), attributes)];
                    let name = inode.path.split().map(|(_, name)| name);
                    let item = name.and_then(|name| merge::name(&name, said, None));
                    if let Some(item) = item {
                        self.inodes.lock().measure(&inode.path, &item);
                    }
                    return Ok(());
                }
                Ok(_) | Err(NetError::NotFound { .. }) => {}
                Err(error) => failure = error.into(),
            }
        }
        if matches!(failure, Error::Replaced) {
            self.invalidate(&inode.path);
        }
        Err(failure)
    }

    /// Who can be asked for the bytes of a file: its holders, and members who may have kept blocks of it.
    fn sources(&self, inode: &Inode) -> Vec<Source> {
        let holders = inode.readable().filter(|_| !inode.is_replaced);
        self.sources_among(&inode.path, holders, inode.root(), inode.size)
    }

    /// The same for a content of which these are the `holders`, at `path`.
    fn sources_among(
        &self,
        path: &RelPath,
        holders: impl Iterator<Item = (PeerId, Has)>,
        root: Option<Root>,
        size: u64,
    ) -> Vec<Source> {
        let peer = |(id, has)| Some((self.network.peer(id)?, has));
        sources::sources(
            &*self.network,
            self.this_node,
            path,
            holders.filter_map(peer),
            root,
            size,
        )
    }

    /// Figures for `df`, from what was listed lately. Everything there is is in use.
    pub fn statfs(&self) -> Statistics {
        let known = self.view.known();
        Statistics {
            blocks: known.bytes.div_ceil(STATFS_BLOCK).max(1),
            files: (known.items as u64).max(1),
        }
    }

    /// Ends what is known of `path`, through whatever tree it was seen.
    fn invalidate(&self, path: &RelPath) {
        self.view.invalidate(path);
        self.trees.invalidate(path);
        self.searches.invalidate(path);
    }

    fn inode(&self, number: u64) -> Result<Inode, Error> {
        let inodes = self.inodes.lock();
        inodes.get(number).cloned().ok_or(Error::UnknownInode)
    }

    /// What the directory `number` is a list of.
    fn listed(&self, number: u64) -> Result<Listed, Error> {
        if is_hidden(number) {
            return self.hidden.listed(number);
        }
        let inode = self.inode(number)?;
        let tree = inode.tree().ok_or(Error::NotADirectory)?;
        if inode.mode() == Mode::Unreadable {
            return Err(forbidden(&inode));
        }
        Ok(Listed::Tree(tree, inode.path))
    }

    /// The tree that `tree` names; found files lie in no directory of theirs, so theirs is the mount.
    fn view(&self, tree: Tree) -> Arc<View> {
        match tree {
            Tree::Merged | Tree::Found => Arc::clone(&self.view),
            Tree::Member(member) => self.trees.of(member, Instant::now()),
        }
    }
}

impl Listener for Filesystem {
    fn news(&self, member: PeerId, news: &News) {
        // First here: the kernel may ask again at once.
        self.view.take_in(member, news);
        self.trees.take_in(member, news);
        if let (News::Changed(changes), Some(expirer)) = (news, self.expirer.get()) {
            self.expire(member, changes, expirer);
        }
    }
}

impl Filesystem {
    /// Expires the names of all that may have changed, in directories that the kernel knows. What lies below
    /// them shows when they are looked up again.
    fn expire(&self, member: PeerId, changes: &[Change], expirer: &Expirer) {
        let mut names: BTreeMap<RelPath, BTreeSet<Name>> = BTreeMap::new();
        for (directory, name) in changes.iter().filter_map(|change| change.path.split()) {
            names.entry(directory).or_default().insert(name);
        }
        for (directory, mut names) in names {
            let (parent, own) = {
                let inodes = self.inodes.lock();
                let number = |tree| inodes.directory(tree, &directory);
                (number(Tree::Merged), number(Tree::Member(member)))
            };
            for (own, name) in own
                .iter()
                .flat_map(|own| names.iter().map(move |n| (own, n)))
            {
                expirer.expire(member, *own, name.clone());
            }
            let Some(parent) = parent else { continue };
            // What one name means decides under which other names its conflicts are shown.
            let shown = self.view.conflicts_of(&directory, &names);
            names.extend(shown);
            for name in names {
                expirer.expire(member, parent, name);
            }
        }
    }
}

impl Attr {
    fn told((number, inode): (u64, &Inode)) -> Self {
        Self::of(number, inode)
    }

    fn of(number: u64, inode: &Inode) -> Self {
        Self {
            inode: number,
            kind: inode.kind(),
            mode: inode.mode(),
            size: inode.size,
            mtime: inode.mtime,
            may_grow: false,
        }
    }
}

/// Why nothing can be done with what none of its holders can read.
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
