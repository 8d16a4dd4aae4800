//! Open files: what a handle reads, how it finds that again, and how it follows a file that grows.
//!
//! A handle keeps the content that it was opened with. With a root, that is looked for wherever
//! it is (`net/src/download`). Without one it is what its member has in one version; when that
//! is refused, the member is asked for the root that the version had. Of a file that was written
//! to a moment ago, the root is asked for when it is opened, as it may be in another version by
//! the first read.
//!
//! When the kernel has been told that the file has more bytes, a read behind the content's end goes
//! on with a content that begins with it, by the word of the one member that has the file. If there
//! is none, the file was written over, and the read fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tinyp2p_net::config::READ_DEADLINE;
use tinyp2p_net::content::merkle::TreeHasher;
use tinyp2p_net::download::{Availability, Download, ReaderPatience, UpcomingFiles};
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{ByteRange, ContentId, Kind, Mode, RelPath, UnixTime};
use tinyp2p_net::peer::Peer;
use tinyp2p_net::protocol::wire::{FaultCode, MAX_SMALL_FILE, Snapshot};

use super::{Filesystem, ReadDone, forbidden, is_hidden};
use crate::errno::Error;
use crate::vfs::handles::OpenFile;
use crate::vfs::inodes::{Inode, Pages};
use crate::vfs::open_content::ContentState;
use crate::view::Wait;

/// A file that was modified within this time of now, as far as the clocks of two machines agree,
/// may be in the middle of it.
const WRITTEN_LATELY: Duration = Duration::from_secs(60);

/// How often the content of a handle is looked for anew.
const MAX_RENEWALS: u32 = 64;

/// How often one read follows a file that goes on growing.
const MAX_STEPS: u32 = 8;

/// A handle, and what it has to do with the kernel's pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedHandle {
    /// The handle that is read.
    pub handle: u64,
    /// What becomes of the pages that the kernel has.
    pub pages: Pages,
}

/// A read that waits for its answer.
struct PendingRead {
    handle: u64,
    offset: u64,
    size: u32,
    patience: ReaderPatience,
    /// When it came.
    since: Instant,
    /// How often it has gone on to another content.
    steps: u32,
    done: ReadDone,
}

/// A member who is asked on behalf of a read, and by when it has to answer.
type AskedMember<'a> = (&'a dyn Peer, Instant);

impl PendingRead {
    /// What is asked on its behalf is answered by then.
    fn deadline(&self) -> Instant {
        self.since + READ_DEADLINE
    }

    /// False once it has taken as long as a read may.
    fn may_go_on(&self) -> bool {
        self.steps < MAX_STEPS && Instant::now() < self.deadline()
    }
}

impl Filesystem {
    /// Opens a file with the flags of open(2). The content that it has is what every read of this
    /// handle gets, or an error. No bytes are fetched yet, except those of a small file that was
    /// written to lately.
    pub fn open(&self, number: u64, flags: i32, wait: Wait) -> Result<OpenedHandle, Error> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(Error::ReadOnly);
        }
        if is_hidden(number) {
            let handle = self.hidden.open(number)?;
            return Ok(OpenedHandle {
                handle,
                pages: Pages::Keep,
            });
        }
        let inode = self.inode(number)?;
        if inode.kind() == Kind::Directory {
            return Err(Error::IsADirectory);
        }
        if inode.mode() == Mode::Unreadable {
            return Err(forbidden(&inode));
        }
        let sources = self.sources(&inode);
        let holder = sources.iter().find_map(|source| match source.has {
            Availability::File(version) => Some((source.peer.id(), version)),
            Availability::Blocks => None,
        });
        let Some(((member, version), size)) = holder.zip(inode.size.known()) else {
            // The kernel looks the name up again and comes back with what it leads to now.
            self.invalidate(&inode.path);
            return Err(Error::Replaced);
        };
        let listed = ContentState {
            member,
            version,
            content: inode.content(),
            size,
            renewals: 0,
        };
        let siblings = Arc::clone(&self.trees) as Arc<dyn UpcomingFiles>;
        let root = inode.root();
        let as_listed = self.engine.open_among(sources, size, root, siblings);
        let state = self.present_state(&inode, listed, &as_listed, wait)?;
        let begun = self.inodes.lock().begin_reading(number, state);
        let (content, pages) = begun.ok_or(Error::UnknownInode)?;
        let state = content.state();
        let download = if state == listed {
            as_listed
        } else {
            self.download(&inode.path, state)
        };
        let handle = self.files.insert(OpenFile {
            number,
            path: inode.path.clone(),
            content,
            download: Mutex::new((state, Arc::new(download))),
        });
        Ok(OpenedHandle { handle, pages })
    }

    /// What a file has that is said to be in state `listed`: that, unless it was written to
    /// lately. Then a small one is fetched `as_listed`, and of another one, or if that fails, its
    /// member is asked.
    fn present_state(
        &self,
        inode: &Inode,
        listed: ContentState,
        as_listed: &Download,
        wait: Wait,
    ) -> Result<ContentState, Error> {
        let is_certain = listed.content.is_some() || listed.size == 0;
        let peer = self.network.peer(listed.member);
        let peer = peer.filter(|peer| self.network.whole(peer.id()).is_none());
        let Some(peer) = peer.filter(|_| !is_certain && is_written_lately(inode)) else {
            return Ok(listed);
        };
        if listed.size <= MAX_SMALL_FILE && fetch_whole(as_listed, listed.size, wait)? {
            return Ok(listed);
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        match listed.ask_whole(&*peer, &inode.path, deadline) {
            // What was appended since it was looked up is a part of what is opened.
            Ok(Some(found)) => Ok(listed.at(found)),
            Ok(None) => {
                self.invalidate(&inode.path);
                Err(Error::Replaced)
            }
            // It cannot be told: what there is in this version has to do.
            Err(error) => {
                tracing::debug!(file = %inode.path, %error, "opened by its version alone");
                Ok(listed)
            }
        }
    }

    /// A reader of the content in `state` of the file that its member has, or had, at `path`.
    fn download(&self, path: &RelPath, state: ContentState) -> Download {
        let holder = [(state.member, Availability::File(state.version))];
        let root = state.content.map(|content| content.root);
        let sources = self.sources_among(path, holder.into_iter(), root, state.size);
        self.engine.open(sources, state.size, root)
    }

    /// What an open file reads now.
    fn current(&self, file: &OpenFile) -> (ContentState, Arc<Download>) {
        let state = file.content.state();
        let (of, download) = file.download.lock().clone();
        if of == state {
            return (state, download);
        }
        let download = Arc::new(self.download(&file.path, state));
        let mut current = file.download.lock();
        if current.0 == state {
            // Another read has been faster.
            return (state, Arc::clone(&current.1));
        }
        let before = std::mem::replace(&mut *current, (state, Arc::clone(&download)));
        drop(current);
        // Reads that wait for it are told so, and go on with this one.
        drop(before);
        (state, download)
    }

    /// Reads at most `size` bytes at `offset`. `done` is called exactly once, in bounded time:
    /// at once if the bytes are in memory, else from another thread, or from this one if it
    /// has the `patience`.
    pub fn read(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        size: u32,
        patience: ReaderPatience,
        done: ReadDone,
    ) {
        if is_hidden(handle) {
            return self.hidden.read(handle, offset, size, done);
        }
        self.go_on(PendingRead {
            handle,
            offset,
            size,
            patience,
            since: Instant::now(),
            steps: 0,
            done,
        });
    }

    fn go_on(self: &Arc<Self>, mut reading: PendingRead) {
        let Some(file) = self.files.get(reading.handle) else {
            return (reading.done)(Err(Error::UnknownHandle));
        };
        let (state, download) = self.current(&file);
        let wanted = reading.offset.saturating_add(u64::from(reading.size));
        let is_short = wanted > state.size;
        let number = file.number;
        if is_short && !self.inodes.lock().begin_short_read(number, state.size) {
            return self.follow(file, state, reading);
        }
        let range = ByteRange::new(reading.offset.min(state.size), wanted.min(state.size));
        // Weak, so that a parked read does not keep the mount alive that would have to end it.
        let filesystem = Arc::downgrade(self);
        let patience = reading.patience;
        let answer = move |result: Result<&[u8], NetError>| {
            let Some(filesystem) = filesystem.upgrade() else {
                return (reading.done)(result.map_err(Error::from));
            };
            match result {
                // Another read of this handle has gone on to another content meanwhile.
                Err(_) if file.content.state() != state && reading.may_go_on() => {
                    reading.steps += 1;
                    filesystem.go_on(reading);
                }
                Err(NetError::Changed { .. } | NetError::NotFound { .. })
                    if reading.may_go_on() && state.renewals < MAX_RENEWALS =>
                {
                    filesystem.find_again(&file, state, reading);
                }
                Err(error) => {
                    filesystem.note_failure(number, &file.path, &error);
                    (reading.done)(Err(of_read(error)));
                }
                Ok(bytes) => (reading.done)(Ok(bytes)),
            }
            if is_short {
                filesystem.inodes.lock().end_short_read(number);
            }
        };
        if range.is_empty() {
            answer(Ok(&[]));
        } else {
            download.read(range, patience, Box::new(answer));
        }
    }

    /// Finds the content of `file`, which its member does not give any more as it was asked for,
    /// and goes on `reading`: by the root that it had in the version of `state`, or as the
    /// beginning of what the file is now. The member may have forgotten a root that it told, as
    /// after a restart.
    fn find_again(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: ContentState,
        reading: PendingRead,
    ) {
        self.step(file, state, reading, |filesystem, file, state, asked| {
            let renewed = ContentState {
                renewals: state.renewals + 1,
                ..state
            };
            let after = match state.content {
                None => ContentState {
                    content: Some(root_of(file, state, asked)?),
                    ..renewed
                },
                Some(own) => renewed.at(filesystem.begins_with(file, state, own, asked)?),
            };
            file.content.go_on(state, after);
            Ok(())
        });
    }

    /// What the file of `state` is now, which has to begin with its `own` content.
    fn begins_with(
        &self,
        file: &OpenFile,
        state: ContentState,
        own: ContentId,
        (peer, deadline): AskedMember<'_>,
    ) -> Result<Snapshot, Error> {
        let question = (true, Some(own));
        let found = state.ask(peer, &file.path, question, deadline);
        let found = found.map_err(of_read)?;
        // That a file begins with a content is its member's word, which is good for a file that
        // nobody else has.
        let is_its_own = self.inode(file.number)?.sources.len() == 1;
        let is_good = found.content == own || (found.is_prefix && is_its_own);
        // Else it was written over: what was read is not a part of it.
        is_good.then_some(found).ok_or(Error::Replaced)
    }

    /// Follows `file`, which has grown beyond `state`, and goes on `reading`.
    fn follow(self: &Arc<Self>, file: Arc<OpenFile>, state: ContentState, reading: PendingRead) {
        self.step(&file, state, reading, |filesystem, file, state, asked| {
            let own = match state.content {
                Some(content) => content,
                None => filesystem.own_content(file, state, asked)?,
            };
            let inode = filesystem.inode(file.number)?;
            let sources = &mut inode.sources.iter();
            let latest = sources.find(|source| source.member.id == state.member);
            let latest = ContentState {
                version: latest.map_or(state.version, |source| source.version),
                size: inode.size.or_zero(),
                ..state
            };
            let found = filesystem.begins_with(file, latest, own, asked)?;
            if found.content.size <= state.size {
                return Err(Error::Replaced);
            }
            file.content.go_on(state, state.at(found));
            Ok(())
        });
    }

    /// Has the member of `file` asked, by `question`, on a thread of that member's; then
    /// goes on `reading`.
    fn step(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: ContentState,
        reading: PendingRead,
        question: fn(&Self, &OpenFile, ContentState, AskedMember<'_>) -> Result<(), Error>,
    ) {
        let Some(peer) = self
            .network
            .peer(state.member)
            .filter(|_| reading.may_go_on())
        else {
            return (reading.done)(Err(Error::Late));
        };
        // Whoever is not asked in the end, as too many wait for the member, has an answer
        // all the same.
        let waiting = Arc::new(Mutex::new(Some(reading)));
        let (filesystem, file, asked) =
            (Arc::downgrade(self), Arc::clone(file), Arc::clone(&waiting));
        let job = move || {
            let Some(mut reading) = asked.lock().take() else {
                return;
            };
            let Some(filesystem) = filesystem.upgrade() else {
                return (reading.done)(Err(Error::Replaced));
            };
            let outcome = if file.content.state() == state {
                question(&filesystem, &file, state, (&*peer, reading.deadline()))
            } else {
                // Another reader has been faster.
                Ok(())
            };
            match outcome {
                Ok(()) => {
                    reading.steps += 1;
                    reading.patience = ReaderPatience::None;
                    filesystem.go_on(reading);
                }
                Err(error) => {
                    tracing::info!(file = %file.path, %error, "cannot be read on");
                    if matches!(error, Error::Replaced) {
                        filesystem.give_up(file.number, &file.path);
                    }
                    (reading.done)(Err(error));
                }
            }
        };
        if !self.engine.ask(state.member, job)
            && let Some(reading) = waiting.lock().take()
        {
            (reading.done)(Err(Error::Overloaded));
        }
    }

    /// The content that the member had in the version of `state`, if it knows; or what is read of a
    /// small file: it was handed out in that version.
    fn own_content(
        &self,
        file: &OpenFile,
        state: ContentState,
        asked: AskedMember<'_>,
    ) -> Result<ContentId, Error> {
        match root_of(file, state, asked) {
            Err(Error::Replaced) if state.size <= MAX_SMALL_FILE => {}
            known => return known,
        }
        let (_, download) = self.current(file);
        let root = |bytes: &[u8]| {
            let mut hasher = TreeHasher::default();
            hasher.update(bytes);
            hasher.finish().map(|tree| tree.root())
        };
        let size = state.size;
        let root = download.read_by(ByteRange::new(0, size), asked.1, root);
        let root = root.transpose().map_err(of_read)?.flatten();
        let content = root.map(|root| ContentId { root, size });
        content.ok_or(Error::Replaced)
    }

    /// Closes an open file.
    pub fn release(&self, handle: u64) {
        if let Some(file) = self.files.remove(handle) {
            let number = file.number;
            drop(file);
            self.inodes.lock().end_reading(number);
        }
    }

    /// A content that is gone is not offered again: the next lookup asks, and the next
    /// open looks up.
    fn note_failure(&self, number: u64, path: &RelPath, error: &NetError) {
        if matches!(error, NetError::Forbidden { .. }) {
            // Whoever said so is in the log already, once. The next listing may say so, too.
            return self.invalidate(path);
        }
        tracing::info!(file = %path, %error, "cannot be read");
        if matches!(error, NetError::Changed { .. } | NetError::NotFound { .. }) {
            self.give_up(number, path);
        }
    }

    fn give_up(&self, number: u64, path: &RelPath) {
        self.invalidate(path);
        if let Some(inode) = self.inodes.lock().get_mut(number) {
            inode.is_replaced = true;
        }
    }
}

/// What the failure of a read means to whoever has the file open: that it is not there any more is
/// no absence of a name.
fn of_read(error: NetError) -> Error {
    match error {
        NetError::NotFound { .. } => Error::Replaced,
        NetError::Fault { fault, .. } if fault.is_absence() => Error::Replaced,
        other => other.into(),
    }
}

/// The content that the member had in the version of `state`, if it knows.
fn root_of(
    file: &OpenFile,
    state: ContentState,
    (peer, deadline): AskedMember<'_>,
) -> Result<ContentId, Error> {
    match state.ask(peer, &file.path, (false, None), deadline) {
        Ok(found) if found.version == state.version && found.content.size == state.size => {
            Ok(found.content)
        }
        Ok(_) => Err(Error::Replaced),
        Err(NetError::Fault { fault, .. }) if fault.code == FaultCode::MethodNotFound => {
            Err(Error::Replaced)
        }
        Err(error) => Err(of_read(error)),
    }
}

/// Has all of a small file fetched, which then stays with `download`. False if it is not there any
/// more as it was listed.
fn fetch_whole(download: &Download, size: u64, wait: Wait) -> Result<bool, Error> {
    let deadline = match wait {
        Wait::No => Instant::now(),
        Wait::Until(deadline) => deadline,
    };
    match (
        download.read_by(ByteRange::new(0, size), deadline, |_| ()),
        wait,
    ) {
        (Some(Err(NetError::Changed { .. } | NetError::NotFound { .. })), _) => Ok(false),
        (None, Wait::No) => Err(Error::NeedsNetwork),
        // What takes longer is waited for by the first read.
        (Some(_) | None, _) => Ok(true),
    }
}

/// True if the file may be in the middle of being written.
fn is_written_lately(inode: &Inode) -> bool {
    UnixTime::now().seconds().abs_diff(inode.mtime.seconds()) < WRITTEN_LATELY.as_secs()
}
