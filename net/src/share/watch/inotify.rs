//! Noticing what changes in what others have been told of the share.
//!
//! inotify(7) tells which name of a watched directory has come, gone or changed. To answer for what
//! lies at a path, every directory on the way to it is watched, from the share's root down, each
//! before the next one is looked up: then nothing on the way can be moved or replaced unnoticed. A
//! watch lasts as long as the longest answer that relies on it, and a bit.
//!
//! What the system cannot watch, or not reliably, is not promised: paths that lead through symbolic
//! links or into other file systems, file systems that others can change behind our kernel's back,
//! and whatever is beyond the number of watches that we allow ourselves. Whoever asks for those has
//! to ask again.

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
use crate::error::Error;
use crate::model::{Name, RelPath, UnixTime};
use crate::protocol::wire::{Changes, ChangesRequest, Depth};
use crate::share::tree::anchor::Look;
use crate::share::tree::policy::Policy;
use crate::share::tree::{ShareTree, join};

/// Directories watched at most. The kernel keeps about a kilobyte for each.
const MAX_WATCHES: usize = 16_384;

/// In a storm of events, those who wait hear of it after so many.
const ANNOUNCED: usize = 256;

/// How often the watches that nobody needs any more are given back.
const SWEEP: Duration = Duration::from_secs(10);

/// The thread looks this often whether it is still wanted.
const IDLE: Duration = Duration::from_millis(500);

/// Changes that follow a first one within this time are told together with it.
const GATHERED: Duration = Duration::from_millis(20);

/// The watches of one share, and the journal of what they have shown.
pub(crate) struct ShareWatch {
    inotify: OwnedFd,
    room: usize,
    /// inotify_add_watch(2) happens under this lock, and so does the reading of what it shows:
    /// a watch must be in the table before its first event is looked for there. Neither waits
    /// for a disk.
    state: Mutex<State>,
    /// For those who wait on a thread; the others have `counter`.
    changed: Condvar,
    counter: tokio::sync::watch::Sender<u64>,
}

struct State {
    journal: Journal,
    table: WatchTable,
    /// Which of the directories that were found at the share's path one after the other the table
    /// is about, and what of it is served.
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
    /// Watches nothing yet of what is there at this `look`. The thread that this starts ends
    /// with the value.
    pub(crate) fn start(look: &Look) -> Result<Arc<Self>, Error> {
        Self::with_room(look, room())
    }

    /// The same, for at most `room` directories.
    pub(crate) fn with_room(look: &Look, room: usize) -> Result<Arc<Self>, Error> {
        let failed = |error: std::io::Error| Error::local("watching the share for changes", error);
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let start = UnixTime::now().in_64_bits().cast_unsigned();
        let watch = Arc::new(Self {
            inotify: inotify.map_err(|errno| failed(errno.into()))?,
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

    /// Takes note of what is at the share's path by now. If it is something else than before, all
    /// that was told of that has changed, and nothing of it is watched any more.
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

    /// Watches what lies at `path`, and below it if it is a directory: from the counter that this
    /// returns on, every change of that is in the journal, for [`PROMISE`](crate::config::PROMISE)
    /// at least. To be called before `path` is looked at. `None` if it cannot be watched.
    pub(crate) fn keep(&self, tree: &ShareTree, path: &RelPath, now: Instant) -> Option<u64> {
        let since = self.state.lock().journal.counter();
        let mut step = RelPath::root();
        let mut components = path.components();
        loop {
            match self.add(tree, &step, since, now) {
                Ok(true) => {}
                // Nothing there, or no directory: what is there instead shows in the one above.
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(path = %step, %error, "cannot be watched");
                    return None;
                }
            }
            // One at a time: a path may have thousands, the first of which is not there.
            let Some(component) = components.next() else {
                break;
            };
            step = join(&step, component).ok()?;
        }
        Some(since)
    }

    /// Watches one directory, those above it being watched since `since`. False if there is none at
    /// `path`.
    fn add(
        &self,
        tree: &ShareTree,
        path: &RelPath,
        since: u64,
        now: Instant,
    ) -> Result<bool, Errno> {
        {
            let mut state = self.state.lock();
            // What is in the table is about another directory than this request.
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
        // Of what is pinned, by the one name that cannot lead elsewhere.
        let name = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        let mut state = self.state.lock();
        if state.table.len() >= self.room {
            return Err(Errno::NOSPC);
        }
        // What was pinned may lie somewhere else by now. If that has not been noticed yet, it will
        // be, and takes this watch away again.
        let is_same = state.generation == tree.generation();
        if !is_same || state.journal.is_uprooted(path, since) {
            return Err(Errno::AGAIN);
        }
        let descriptor = inotify::add_watch(&self.inotify, name, events())?;
        state.table.insert(path.clone(), descriptor, now);
        Ok(true)
    }

    /// Notes that the attributes of a file have changed in a way that the system does not see.
    pub(crate) fn note(&self, paths: &[RelPath]) {
        let mut state = self.state.lock();
        let State { journal, table, .. } = &mut *state;
        let parent = |path: &RelPath| path.split().map_or(RelPath::root(), |(parent, _)| parent);
        for path in paths {
            if table.contains(&parent(path)) {
                journal.record(path.clone(), Depth::Entry);
            }
        }
        self.announce(&state);
    }

    /// What has changed, as soon as something has, or nothing when the time is up.
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

    /// The same, on a thread that may wait.
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

    /// Ends the thread, and the waiting of those who wait on one.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Takes in what has happened.
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
            // One at a time, and the lock let go in between, so that a storm does not shut
            // everybody out.
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
                // It has gone, or has been given back.
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
                        // Its modification time.
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
                // Whoever looks at the share's path next finds out what is there now.
                None if directory.is_root() && events.contains(ReadFlags::MOVE_SELF) => {}
                None if events.intersects(ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF) => {
                    table.remove_below(&directory, &self.inotify);
                    journal.record(directory, Depth::Tree);
                }
                // Who may enter it.
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

/// The path of `name` in `directory`, if something could be served there.
fn served(policy: &Policy, directory: &RelPath, name: &[u8]) -> Option<RelPath> {
    let path = directory.join(&Name::new(name).ok()?).ok()?;
    policy.serves(&path).then_some(path)
}

/// The thread: reads events until nobody needs them any more.
fn run(watch: &Weak<ShareWatch>) {
    // Mounts change what lies at a path without an event in any directory.
    let mounts = File::open("/proc/self/mountinfo").ok();
    let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
    loop {
        let Some(watch) = watch.upgrade() else { return };
        if watch.state.lock().stopped {
            return;
        }
        let mut descriptors = vec![PollFd::new(&watch.inotify, PollFlags::IN)];
        if let Some(mounts) = &mounts {
            descriptors.push(PollFd::new(mounts, PollFlags::PRI));
        }
        let idle = Timespec {
            tv_sec: 0,
            tv_nsec: IDLE.as_nanos() as i64,
        };
        let polled = poll(&mut descriptors, Some(&idle));
        let changed =
            |poll: &PollFd<'_>| poll.revents().intersects(PollFlags::PRI | PollFlags::ERR);
        let is_remounted = polled.is_ok() && descriptors.get(1).is_some_and(changed);
        drop(descriptors);
        if is_remounted {
            let mut state = watch.state.lock();
            state.journal.record_everything();
            watch.announce(&state);
        }
        watch.drain(&mut buffer);
    }
}

/// What of a directory is watched: names that come and go, and whatever changes a file or who
/// may read it.
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

/// How many watches we may take: half of those of this user, who has other programs.
fn room() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let limit = limit
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok());
    limit.map_or(MAX_WATCHES, |limit| (limit / 2).min(MAX_WATCHES))
}
