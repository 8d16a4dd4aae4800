//! Open files: what a handle reads, how it finds that again, and how it follows a file that grows.
//!
//! A handle keeps the content that it was opened with. A content with a root is read from any
//! member that has it (`net/src/download`). A content without a root is one version of a file at
//! one member; if the member refuses that version, it is asked for the root that the version had.
//! For a file that was written to a moment ago, the root is requested at open, because the first
//! read may find another version.
//!
//! Once the kernel knows of a larger size, a read past the content's end continues with a content
//! that begins with the old one, on the word of the one member that has the file. If there is no
//! such content, the file was overwritten and the read fails.

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

/// A file whose modification time is this close to now may still be changing, as far as the clocks
/// of two machines agree.
const WRITTEN_LATELY: Duration = Duration::from_secs(60);

/// The maximum number of times that a handle searches for its content again.
const MAX_RENEWALS: u32 = 64;

/// The maximum number of times that one read follows a growing file.
const MAX_STEPS: u32 = 8;

/// A new handle, and how it uses the kernel's cached pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedHandle {
    /// The handle that is read.
    pub handle: u64,
    /// What happens to the pages that the kernel has cached.
    pub pages: Pages,
}

/// A read that waits for its answer.
struct PendingRead {
    handle: u64,
    offset: u64,
    size: u32,
    patience: ReaderPatience,
    /// When the read arrived.
    since: Instant,
    /// How many times it has continued with another content.
    steps: u32,
    done: ReadDone,
}

/// A member to ask on behalf of a read, and the deadline for its answer.
type AskedMember<'a> = (&'a dyn Peer, Instant);

impl PendingRead {
    /// Returns the deadline for everything that is asked on behalf of the read: a second is left
    /// for the way through the kernel.
    fn deadline(&self) -> Instant {
        self.since + READ_DEADLINE.saturating_sub(Duration::from_secs(1))
    }

    /// Returns false once the read has used up its time or its steps.
    fn may_go_on(&self) -> bool {
        self.steps < MAX_STEPS && Instant::now() < self.deadline()
    }
}

impl Filesystem {
    /// Opens a file with the flags of open(2). Every read of the handle returns the content that
    /// the file has now, or an error. Fetches no bytes yet, except those of a small file that was
    /// written to recently.
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
        self.finish_growth(number, wait)?;
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
            // Makes the kernel look the name up again and open what it leads to now.
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

    /// Returns the content of a file that is listed in state `listed`. That is `listed` itself,
    /// unless the file was written to recently: then a small file is fetched `as_listed`; for a
    /// larger one, or if the fetch fails, its member is asked.
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
            // Bytes appended since the lookup are part of what is opened.
            Ok(Some(found)) => Ok(listed.at(found)),
            Ok(None) => {
                self.invalidate(&inode.path);
                Err(Error::Replaced)
            }
            // The member cannot say: the content in this version has to do.
            Err(error) => {
                tracing::debug!(file = %inode.path, %error, "opened by its version alone");
                Ok(listed)
            }
        }
    }

    /// Returns a reader of the content in `state`, which the file at `path` has or had
    /// at its member.
    fn download(&self, path: &RelPath, state: ContentState) -> Download {
        let holder = [(state.member, Availability::File(state.version))];
        let root = state.content.map(|content| content.root);
        let sources = self.sources_among(path, holder.into_iter(), root, state.size);
        self.engine.open(sources, state.size, root)
    }

    /// Returns what an open file reads now.
    fn current(&self, file: &OpenFile) -> (ContentState, Arc<Download>) {
        let state = file.content.state();
        let (of, download) = file.download.lock().clone();
        if of == state {
            return (state, download);
        }
        let download = Arc::new(self.download(&file.path, state));
        let mut current = file.download.lock();
        if current.0 == state {
            // Another read was faster.
            return (state, Arc::clone(&current.1));
        }
        let before = std::mem::replace(&mut *current, (state, Arc::clone(&download)));
        drop(current);
        // Reads that wait for the old download are notified and continue with this one.
        drop(before);
        (state, download)
    }

    /// Reads at most `size` bytes at `offset`. Calls `done` exactly once, in bounded time:
    /// immediately if the bytes are in memory, otherwise from another thread, or from this one if
    /// it has the `patience`.
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
        // Weak, so that a parked read does not keep alive the mount that would have to end it.
        let filesystem = Arc::downgrade(self);
        let patience = reading.patience;
        let answer = move |result: Result<&[u8], NetError>| {
            let Some(filesystem) = filesystem.upgrade() else {
                return (reading.done)(result.map_err(Error::from));
            };
            match result {
                // Another read of this handle has already continued with another content.
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

    /// Finds the content of `file` again after its member refused the request for it, then
    /// continues `reading`. Finds it by the root that it had in the version of `state`, or as the
    /// beginning of what the file is now. The member may have forgotten a root that it reported, as
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

    /// Returns what the file of `state` is now, which must begin with its `own` content.
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
        // That a file begins with a content is only its member's word. It suffices for a file that
        // nobody else has.
        let is_its_own = self.inode(file.number)?.sources.len() == 1;
        let is_good = found.content == own || (found.is_prefix && is_its_own);
        // Otherwise the file was overwritten, and what was read is no part of it.
        is_good.then_some(found).ok_or(Error::Replaced)
    }

    /// Follows `file`, which has grown beyond `state`, then continues `reading`.
    fn follow(self: &Arc<Self>, file: Arc<OpenFile>, state: ContentState, reading: PendingRead) {
        self.step(&file, state, reading, |filesystem, file, state, asked| {
            let own = match state.content {
                Some(content) => content,
                None => filesystem.own_content(file, state, asked)?,
            };
            let inode = filesystem.inode(file.number)?;
            let latest_size = filesystem.inodes.lock().latest_size(file.number);
            let sources = &mut inode.sources.iter();
            let latest = sources.find(|source| source.member.id == state.member);
            let latest = ContentState {
                version: latest.map_or(state.version, |source| source.version),
                size: latest_size.unwrap_or(inode.size).or_zero(),
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

    /// Asks the member of `file` the `question`, on a thread for that member,
    /// then continues `reading`.
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
        // A read whose question is rejected, because too many wait for the member, still
        // gets an answer.
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
                // Another reader was faster.
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

    /// Returns the content that the member had in the version of `state`, if the member knows
    /// it. For a small file, falls back to the content that the handle reads, which was handed
    /// out in that version.
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

    /// Records a failed read. A content that is gone is not offered again: the next lookup asks the
    /// members, and the next open looks up the name.
    fn note_failure(&self, number: u64, path: &RelPath, error: &NetError) {
        if matches!(error, NetError::Forbidden { .. }) {
            // The log already names the member that refused, once. The next listing may
            // say so, too.
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

/// Converts the failure of a read for a program that has the file open. For it, a file that no
/// longer exists is not an absent name.
fn of_read(error: NetError) -> Error {
    match error {
        NetError::NotFound { .. } => Error::Replaced,
        NetError::Fault { fault, .. } if fault.is_absence() => Error::Replaced,
        other => other.into(),
    }
}

/// Returns the content that the member had in the version of `state`, if the member knows it.
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

/// Fetches all of a small file, which then stays with `download`. Returns false if the file no
/// longer exists as it was listed.
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
        // The first read waits for what takes longer.
        (Some(_) | None, _) => Ok(true),
    }
}

/// Returns true if somebody may still be writing the file.
fn is_written_lately(inode: &Inode) -> bool {
    UnixTime::now().seconds().abs_diff(inode.mtime.seconds()) < WRITTEN_LATELY.as_secs()
}
