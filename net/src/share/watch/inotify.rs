//! Notices changes to the parts of the share that were shown to others.
//!
//! inotify(7) reports which name of a watched directory has appeared, disappeared or changed. To
//! cover what lies at a path, every directory on the way is watched, from the share's root down,
//! each before the next one is looked up. So nothing on the way can be moved or replaced unnoticed.
//! A watch lasts a little longer than the longest answer that relies on it.
//!
//! Nothing is promised where the system cannot watch reliably: paths through symbolic links or into
//! other file systems, file systems that others can change behind our kernel's back, and anything
//! beyond the number of watches that we allow ourselves. For those, clients have to ask again.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::journal::Journal;
use super::watch_table::WatchTable;
use crate::concurrency::stop_signal::StopSignal;
use crate::error::Error;
use crate::model::{Name, RelPath, UnixTime};
use crate::protocol::wire::{Change, Changes, ChangesRequest, Depth};
use crate::share::tree::anchor::Look;
use crate::share::tree::policy::Policy;
use crate::share::tree::{ShareTree, join};

/// Limit on watched directories. The kernel keeps about a kilobyte for each.
const MAX_WATCHES: usize = 16_384;

/// In a storm of events, waiting clients are notified after this many.
const ANNOUNCED: usize = 256;

/// How often unused watches are removed.
const SWEEP: Duration = Duration::from_secs(15);

/// Changes that follow a first one within this time are reported together with it.
const GATHERED: Duration = Duration::from_millis(20);

/// The watches of one share, and the journal of the changes they have shown.
pub(crate) struct ShareWatch {
    inotify: OwnedFd,
    /// Readable once the thread has to end.
    stop_signal: StopSignal,
    room: usize,
    /// This lock is held during inotify_add_watch(2) and while reading the events: a watch must be
    /// in the table before its first event is looked up there. Neither waits for a disk.
    state: Mutex<State>,
    /// Wakes those who wait on a thread; the others use `counter`.
    changed: Condvar,
    counter: tokio::sync::watch::Sender<u64>,
}

struct State {
    journal: Journal,
    table: WatchTable,
    /// Which of the directories found in turn at the share's path the table covers, and what of
    /// it is served.
    generation: u64,
    policy: Arc<Policy>,
    swept: Instant,
    stopped: bool,
}

impl std::fmt::Debug for ShareWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl ShareWatch {
    /// Starts with no watches on the directory found by `look`. The thread that this starts ends
    /// with the value.
    pub(crate) fn start(look: &Look) -> Result<Arc<Self>, Error> {
        Self::with_room(look, room())
    }

    /// Like [`ShareWatch::start`], for at most `room` directories.
    pub(crate) fn with_room(look: &Look, room: usize) -> Result<Arc<Self>, Error> {
        let failed = |error: std::io::Error| Error::local("watching the share for changes", error);
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let start = UnixTime::now().in_64_bits().cast_unsigned();
        let watch = Arc::new(Self {
            inotify: inotify.map_err(|errno| failed(errno.into()))?,
            stop_signal: StopSignal::new().map_err(failed)?,
            room,
            state: Mutex::new(State {
                journal: Journal::new(start),
                table: WatchTable::default(),
                generation: look.generation,
                policy: Arc::clone(&look.policy),
                swept: Instant::now(),
                stopped: false,
            }),
            changed: Condvar::new(),
            counter: tokio::sync::watch::Sender::new(start),
        });
        let weak = Arc::downgrade(&watch);
        let thread = std::thread::Builder::new().name("watch".into());
        thread.spawn(move || run(&weak)).map_err(failed)?;
        Ok(watch)
    }

    /// Records what is at the share's path by now. If it is not the same as before, everything
    /// shown of the previous directory has changed, and none of it is watched any longer.
    pub(crate) fn follow(&self, look: &Look) {
        let mut state = self.state.lock();
        if look.generation <= state.generation {
            return;
        }
        state.generation = look.generation;
        state.policy = Arc::clone(&look.policy);
        state.table.clear(&self.inotify);
        state.journal.record_everything();
        self.announce(&state);
    }

    /// Watches what lies at `path`, and below it if it is a directory. From the returned counter
    /// on, every change to it is in the journal, for at least [`PROMISE`](crate::config::PROMISE).
    /// Must be called before `path` is read. `None` if it cannot be watched.
    pub(crate) fn keep(&self, tree: &ShareTree, path: &RelPath, now: Instant) -> Option<u64> {
        let since = self.state.lock().journal.counter();
        let mut step = RelPath::root();
        let mut components = path.components();
        loop {
            match self.add(tree, &step, since, now) {
                Ok(true) => {}
                // Nothing there, or no directory: the parent's watch shows what
                // appears there instead.
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(path = %step, %error, "cannot be watched");
                    return None;
                }
            }
            // One at a time: a path may have thousands of components, the first of which
            // does not exist.
            let Some(component) = components.next() else {
                break;
            };
            step = join(&step, component).ok()?;
        }
        Some(since)
    }

    /// Watches one directory whose ancestors have been watched since `since`. Returns false if
    /// there is none at `path`.
    fn add(
        &self,
        tree: &ShareTree,
        path: &RelPath,
        since: u64,
        now: Instant,
    ) -> Result<bool, Errno> {
        {
            let mut state = self.state.lock();
            // The table is about another directory than this request.
            if state.generation != tree.generation() {
                return Err(Errno::AGAIN);
            }
            if state.table.extend(path, now) {
                return Ok(true);
            }
        }
        let Some(pinned) = tree.pin_directory(path)? else {
            return Ok(false);
        };
        // Watch the pinned directory by the only name that cannot lead elsewhere.
        let name = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        let mut state = self.state.lock();
        if state.table.len() >= self.room {
            return Err(Errno::NOSPC);
        }
        // The pinned directory may lie elsewhere by now. If that has not been noticed yet, it will
        // be, and removes this watch again.
        let is_same = state.generation == tree.generation();
        if !is_same || state.journal.is_uprooted(path, since) {
            return Err(Errno::AGAIN);
        }
        let descriptor = inotify::add_watch(&self.inotify, name, events())?;
        state.table.insert(path.clone(), descriptor, now);
        Ok(true)
    }

    /// Returns true if `directory` is watched, so that others may rely on what they were shown.
    pub(crate) fn is_watched(&self, directory: &RelPath) -> bool {
        self.state.lock().table.contains(directory)
    }

    /// Records changes that the system does not see, in directories that were watched.
    pub(crate) fn note(&self, changes: Vec<Change>) {
        let mut state = self.state.lock();
        for Change { path, depth } in changes {
            state.journal.record(path, depth);
        }
        self.announce(&state);
    }

    /// Returns the changes as soon as there are any, or none when the time is up.
    pub(crate) async fn changes(&self, request: &ChangesRequest) -> Changes {
        let mut counter = self.counter.subscribe();
        let moved = counter.wait_for(|counter| *counter != request.since);
        let moved = tokio::time::timeout(request.wait, moved).await;
        let has_moved = moved.is_ok_and(|moved| moved.is_ok());
        if has_moved {
            tokio::time::sleep(GATHERED).await;
        }
        self.since(request.since)
    }

    /// Like [`ShareWatch::changes`], on a thread that may block.
    pub(crate) fn wait_for_changes(&self, request: &ChangesRequest) -> Changes {
        let deadline = Instant::now() + request.wait;
        let mut state = self.state.lock();
        while state.journal.counter() == request.since && !state.stopped {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let is_worth_gathering = state.journal.counter() != request.since && !state.stopped;
        drop(state);
        if is_worth_gathering {
            std::thread::sleep(GATHERED);
        }
        self.since(request.since)
    }

    fn since(&self, since: u64) -> Changes {
        let state = self.state.lock();
        state.journal.since(since).unwrap_or(Changes {
            counter: since,
            changes: Vec::new(),
        })
    }

    /// Ends the thread, and wakes those who wait on a thread.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.stop_signal.raise();
        self.changed.notify_all();
    }

    /// Returns true while something is watched.
    pub(crate) fn is_in_use(&self) -> bool {
        !self.state.lock().table.is_empty()
    }

    /// Processes the pending events.
    fn drain(&self, buffer: &mut [MaybeUninit<u8>]) {
        let mut reader = inotify::Reader::new(&self.inotify, buffer);
        for count in 1_usize.. {
            let mut state = self.state.lock();
            if state.stopped {
                return;
            }
            if count.is_multiple_of(ANNOUNCED) {
                self.announce(&state);
                self.sweep(&mut state, Instant::now());
            }
            // Read one event at a time and release the lock in between, so that a storm does not
            // shut out everyone else.
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    tracing::warn!(%error, "changes of the share cannot be read");
                    state.journal.record_everything();
                    break;
                }
            };
            let name = event.file_name().map(|name| name.to_bytes());
            self.apply(&mut state, event.wd(), event.events(), name);
        }
        let mut state = self.state.lock();
        self.announce(&state);
        self.sweep(&mut state, Instant::now());
    }

    fn apply(&self, state: &mut State, wd: i32, events: ReadFlags, name: Option<&[u8]>) {
        let State {
            journal,
            table,
            policy,
            ..
        } = state;
        if events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            return journal.record_everything();
        }
        let directories = table.of_descriptor(wd);
        for directory in directories {
            if events.contains(ReadFlags::IGNORED) {
                // The watch is gone, or was removed.
                table.forget(&directory);
                continue;
            }
            let is_directory = events.contains(ReadFlags::ISDIR);
            match name {
                Some(name) => {
                    let has_come_or_gone = events.intersects(
                        ReadFlags::CREATE
                            | ReadFlags::DELETE
                            | ReadFlags::MOVED_FROM
                            | ReadFlags::MOVED_TO,
                    );
                    if has_come_or_gone {
                        // Its modification time has changed.
                        journal.record(directory.clone(), Depth::Entry);
                    }
                    let Some(path) = served(policy, &directory, name) else {
                        continue;
                    };
                    let depth = if has_come_or_gone || is_directory {
                        Depth::Tree
                    } else {
                        Depth::Entry
                    };
                    if has_come_or_gone && is_directory {
                        table.remove_below(&path, &self.inotify);
                    }
                    journal.record(path, depth);
                }
                // The next lookup of the share's path finds out what is there now.
                None if directory.is_root() && events.contains(ReadFlags::MOVE_SELF) => {}
                None if events.intersects(ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF) => {
                    table.remove_below(&directory, &self.inotify);
                    journal.record(directory, Depth::Tree);
                }
                // The permission to enter it has changed.
                None => journal.record(directory, Depth::Tree),
            }
        }
    }

    fn announce(&self, state: &State) {
        let counter = state.journal.counter();
        let is_new = self.counter.send_if_modified(|last| {
            let is_new = *last != counter;
            *last = counter;
            is_new
        });
        if is_new {
            self.changed.notify_all();
        }
    }

    fn sweep(&self, state: &mut State, now: Instant) {
        if now.saturating_duration_since(state.swept) < SWEEP {
            return;
        }
        state.swept = now;
        state.table.expire(&self.inotify, now);
    }
}

/// Returns the path of `name` in `directory`, if something could be served there.
fn served(policy: &Policy, directory: &RelPath, name: &[u8]) -> Option<RelPath> {
    let path = directory.join(&Name::new(name).ok()?).ok()?;
    policy.serves(&path).then_some(path)
}

/// Runs the thread: reads events until nobody needs them any longer.
fn run(watch: &Weak<ShareWatch>) {
    // Mounts change what lies at a path without an event in any directory.
    let mounts = File::open("/proc/self/mountinfo").ok();
    let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
    loop {
        let Some(watch) = watch.upgrade() else { return };
        if watch.state.lock().stopped {
            return;
        }
        let mut descriptors = vec![
            PollFd::new(&watch.inotify, PollFlags::IN),
            watch.stop_signal.poll_fd(),
        ];
        if let Some(mounts) = &mounts {
            descriptors.push(PollFd::new(mounts, PollFlags::PRI));
        }
        let polled = poll(&mut descriptors, Timespec::try_from(SWEEP).ok().as_ref());
        let changed =
            |poll: &PollFd<'_>| poll.revents().intersects(PollFlags::PRI | PollFlags::ERR);
        let is_remounted = polled.is_ok() && descriptors.get(2).is_some_and(changed);
        drop(descriptors);
        if is_remounted {
            let mut state = watch.state.lock();
            state.journal.record_everything();
            watch.announce(&state);
        }
        watch.drain(&mut buffer);
    }
}

/// Returns the events to watch in a directory: names that appear and disappear, and whatever
/// changes a file or who may read it.
fn events() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

/// Returns how many watches we may take: half of this user's limit, because other
/// programs need some.
fn room() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let limit = limit
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok());
    limit.map_or(MAX_WATCHES, |limit| (limit / 2).min(MAX_WATCHES))
}
