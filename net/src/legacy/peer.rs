//! A server of 2004 as a member like any other.
//!
//! It tells names and nothing else, so what a file is shows once it was fetched whole ([`Whole::measure`]): then it
//! has a size, a content root and a version, lies in the [`Store`], and is read, checked and passed on like any
//! file of any member. Before, it has the attributes of [`Attributes::UNKNOWN_SIZE`].
//!
//! The server takes one call at a time, so calls have turns. Fetching has a thread of its own, which goes on for as
//! long as somebody waits, or may come back soon; while it does, the names are those of before. Those who only
//! want to know a size may not make it send all that it has: they have a little time in every ten seconds, and
//! long files are not fetched for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use super::Url;
use super::client::{Allowance, Caller, Told};
use super::store::{Kept, Store, Writer, read_at};
use crate::client::{ByteStream, Need, Peer, Whole};
use crate::error::Error;
use crate::merkle::{SUBTREE_BLOCKS, Subtree, Tree, TreeHasher};
use crate::share::pattern::Pattern;
use crate::types::{Attributes, ByteRange, Entry, Kind, Name, PeerId, RelPath, Root, Version};
use crate::wire::{
    BatchAnswer, BatchItem, Changes, Fault, FaultCode, HashesRequest, ListRequest, Listing,
    MAX_SMALL_FILE, Request, Response, SearchPage, SearchRequest, StatRequest, StatResponse,
};

/// A content that was fetched is that of the file for this long: nobody tells when it changes.
const FRESH: Duration = Duration::from_secs(30);

/// Names are not asked for again within this time, so that a listing, and a search and a look-up right
/// behind it, cost one call.
const JUST_LISTED: Duration = Duration::from_millis(500);

/// A name whose contents the server could not give is left out for this long. Mostly it is a directory.
const UNREADABLE: Duration = Duration::from_secs(60);

/// The same for what certainly is a directory.
const DIRECTORY: Duration = Duration::from_secs(600);

/// A listing takes this much longer for telling the directories among names that are new.
const PROBING: Duration = Duration::from_millis(250);

/// Whoever opens a file and is told to come back finds the fetching going on for this long.
const COME_BACK: Duration = Duration::from_secs(60);

/// A fetch for somebody who needs the bytes has to begin to bring some within this time: before its first byte, the
/// server reads all of the file, and perhaps serves another caller.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// Those who only want to know sizes may use [`LOOKING`] of each such time.
const WINDOW: Duration = Duration::from_secs(10);

/// See [`WINDOW`].
const LOOKING: Duration = Duration::from_secs(3);

/// A byte of contents takes this many in a document at most.
const MOST_PER_BYTE: u64 = 6;

/// What is around them there, generously.
const ENVELOPE: u64 = 4 << 10;

/// A file whose document is longer is not fetched just to know its size.
const MAX_LOOK: u64 = 64 << 20;

/// The counter of what never changes: that there is nothing below the top.
const NEVER: u64 = 0;

/// Reports that the server does not answer.
pub(super) type Report = Box<dyn Fn(&Error) + Send + Sync>;

/// One server.
pub struct OldPeer {
    inner: Arc<Inner>,
}

struct Inner {
    id: PeerId,
    caller: Caller,
    store: Arc<Store>,
    report: Report,
    /// Held for look-ups, never over IO.
    state: Mutex<State>,
    /// A call or a fetch has ended.
    changed: Condvar,
}

struct State {
    files: BTreeMap<Name, Seen>,
    /// When the server last told its names.
    listed: Option<Instant>,
    /// When they last were others than before, nanoseconds since 1970.
    mtime: i64,
    /// True while somebody calls.
    is_called: bool,
    fetch: Option<Arc<Fetch>>,
    looks: Looks,
    has_told_left_out: bool,
}

/// What is known of one name.
struct Seen {
    /// When it was first seen, or last seen with other contents; nanoseconds since 1970.
    mtime: i64,
    /// Grows with each other content.
    version: Version,
    content: Option<Content>,
    unreadable_until: Option<Instant>,
    /// Whether it is a directory was asked.
    is_probed: bool,
    /// It took too long to be fetched for its size alone.
    is_long: bool,
}

struct Content {
    size: u64,
    /// `None` for an empty file.
    tree: Option<Arc<Tree>>,
    kept: Arc<Kept>,
    fetched: Instant,
}

/// A download that is under way.
struct Fetch {
    name: Name,
    need: Need,
    wanted_until: Mutex<Instant>,
    outcome: Mutex<Option<Result<(), Error>>>,
}

/// The time that was spent on those who only want to know sizes.
struct Looks {
    since: Instant,
    spent: Duration,
}

impl OldPeer {
    /// The server that `caller` calls, whose files are kept in `store`.
    pub(super) fn new(caller: Caller, store: Arc<Store>, report: Report) -> Self {
        let state = State {
            files: BTreeMap::new(),
            listed: None,
            mtime: nanoseconds(),
            is_called: false,
            fetch: None,
            looks: Looks {
                since: Instant::now(),
                spent: Duration::ZERO,
            },
            has_told_left_out: false,
        };
        let inner = Inner {
            id: id_of(caller.url()),
            caller,
            store,
            report,
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whom it is about.
    pub(super) fn url(&self) -> &Url {
        self.inner.caller.url()
    }

    /// Operation 0, when it is this node's turn: `None` when it did not come to that, because another call went
    /// on for longer than `patience`. Then the server is there.
    pub(super) fn servers(
        &self,
        ours: Option<&Url>,
        patience: Duration,
    ) -> Option<Result<Told, Error>> {
        let _turn = self.inner.turn(Instant::now() + patience)?;
        Some(self.inner.caller.servers(ours))
    }
}

/// The id of a server, made of its URL. It is no key: nobody proves anything by it.
pub(super) fn id_of(url: &Url) -> PeerId {
    let mut hasher = Sha256::new();
    hasher.update(b"tinyp2p 2004 server\0");
    hasher.update(url.as_str().as_bytes());
    PeerId::from_bytes(hasher.finalize().into())
}

/// The turn to call, until it is dropped.
struct Turn<'a>(&'a Inner);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_called = false;
        self.0.changed.notify_all();
    }
}

impl Inner {
    /// The turn to call, if it comes by `deadline`.
    fn turn(&self, deadline: Instant) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        while state.is_called {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return None;
            }
        }
        state.is_called = true;
        Some(Turn(self))
    }

    fn who(&self) -> String {
        self.caller.place().to_owned()
    }

    fn timeout(&self) -> Error {
        Error::Timeout { who: self.who() }
    }

    /// Makes sure that the names are known: asks for them unless that was done just now, or a fetch is under way.
    fn list(&self, deadline: Instant) -> Result<MutexGuard<'_, State>, Error> {
        let is_known = |state: &State, now: Instant| {
            state.listed.is_some_and(|listed| {
                state.fetch.is_some() || now.saturating_duration_since(listed) < JUST_LISTED
            })
        };
        let state = self.state.lock();
        if is_known(&state, Instant::now()) {
            return Ok(state);
        }
        drop(state);
        let turn = self.turn(deadline).ok_or_else(|| self.timeout())?;
        let state = self.state.lock();
        // Whoever had the turn before may have asked.
        if is_known(&state, Instant::now()) {
            drop(state);
            drop(turn);
            return Ok(self.state.lock());
        }
        drop(state);
        let names = self.caller.names(deadline);
        let names = names.inspect_err(|error| self.note(error));
        let mut state = self.state.lock();
        let outcome = names.map(|names| self.take_in(&mut state, names));
        let new: Vec<Name> = match outcome {
            Ok(()) => state.unprobed(),
            Err(_) => Vec::new(),
        };
        drop(state);
        self.probe(new);
        drop(turn);
        outcome.map(|()| self.state.lock())
    }

    fn note(&self, error: &Error) {
        if error.is_absence() || matches!(error, Error::Refused { .. } | Error::Misbehaved { .. }) {
            (self.report)(error);
        }
    }

    /// Tells directories from files among these names, as far as the time for that goes; the rest has its turn
    /// with the next listing, and counts as files until then.
    fn probe(&self, names: Vec<Name>) {
        let deadline = Instant::now() + PROBING;
        for name in names {
            let Ok(is_directory) = self.caller.is_directory(name.as_bytes(), deadline) else {
                return;
            };
            if let Some(seen) = self.state.lock().files.get_mut(&name) {
                seen.is_probed = true;
                if is_directory {
                    seen.unreadable_until = Some(Instant::now() + DIRECTORY);
                }
            }
        }
    }

    /// These are the names now.
    fn take_in(&self, state: &mut State, names: Vec<Vec<u8>>) {
        let count = names.len();
        let names: BTreeSet<Name> = names.into_iter().filter_map(plain_name).collect();
        let left_out = count - names.len();
        // Nobody has to hear of these: every directory may have some.
        let names: BTreeSet<Name> = names.into_iter().filter(|n| !n.is_hidden()).collect();
        if left_out > 0 && !std::mem::replace(&mut state.has_told_left_out, true) {
            let server = self.caller.place();
            tracing::warn!(
                server,
                "{left_out} of its {count} names are no plain names of files, and left out"
            );
        }
        let now = nanoseconds();
        let before = state.files.len();
        state.files.retain(|name, _| names.contains(name));
        let mut is_new = before != state.files.len();
        for name in names {
            state.files.entry(name).or_insert_with_key(|name| {
                is_new = true;
                Seen {
                    mtime: now,
                    version: version_of(self.caller.url(), name, now),
                    content: None,
                    unreadable_until: None,
                    is_probed: false,
                    is_long: false,
                }
            });
        }
        if is_new {
            state.mtime = now;
        }
        state.listed = Some(Instant::now());
    }

    fn listing(&self, request: &ListRequest, deadline: Instant) -> Result<Response, Error> {
        if !request.directory.is_root() {
            return match request.watch {
                true => Ok(Response::NoDirectory {
                    counter: Some(NEVER),
                }),
                false => Err(Error::NotFound { who: self.who() }),
            };
        }
        let state = self.list(deadline)?;
        let now = Instant::now();
        let files = state.files.iter();
        let behind = files.filter(|(name, seen)| {
            seen.is_readable(now) && request.after.as_ref().is_none_or(|after| *name > after)
        });
        let most = (request.limit as usize).min(Listing::MAX_ENTRIES);
        let mut entries: Vec<Entry> = behind
            .take(most + 1)
            .map(|(name, seen)| Entry {
                name: name.clone(),
                attributes: seen.attributes(),
            })
            .collect();
        let more = entries.len() > most;
        entries.truncate(most);
        Ok(Response::List(Listing {
            version: Version(state.mtime.cast_unsigned()),
            mtime: state.mtime,
            entries,
            more,
            counter: None,
        }))
    }

    fn stat(&self, request: &StatRequest, deadline: Instant) -> Result<Response, Error> {
        let is_deep = |path: &RelPath| path.components().count() > 1;
        if request.paths.iter().all(is_deep) {
            return Ok(Response::Stat(StatResponse {
                attributes: vec![None; request.paths.len()],
                counter: request.watch.then_some(NEVER),
            }));
        }
        let state = self.list(deadline)?;
        let now = Instant::now();
        let attributes = request.paths.iter().map(|path| {
            let Some((parent, name)) = path.split() else {
                return Some(Attributes {
                    kind: Kind::Directory,
                    size: 0,
                    mtime: state.mtime,
                    version: Version(state.mtime.cast_unsigned()),
                    root: None,
                });
            };
            let seen = state.files.get(&name).filter(|seen| seen.is_readable(now));
            seen.filter(|_| parent.is_root()).map(Seen::attributes)
        });
        Ok(Response::Stat(StatResponse {
            attributes: attributes.collect(),
            counter: None,
        }))
    }

    fn search(&self, request: &SearchRequest, deadline: Instant) -> Result<Response, Error> {
        let pattern = Pattern::new(&request.pattern).map_err(|fault| Error::Fault {
            who: self.who(),
            fault,
        })?;
        let state = self.list(deadline)?;
        let (now, root) = (Instant::now(), RelPath::root());
        let files = state.files.iter().filter(|(_, seen)| seen.is_readable(now));
        let found = files.filter(|(name, _)| pattern.matches(name.as_bytes()));
        let found =
            found.filter_map(|(name, seen)| Some((root.join(name).ok()?, seen.attributes())));
        let behind = found.filter(|(path, _)| request.after.as_ref().is_none_or(|a| path > a));
        let most = (request.limit as usize).min(SearchPage::MAX_MATCHES);
        let mut matches: Vec<_> = behind.take(most + 1).collect();
        let more = matches.len() > most;
        matches.truncate(most);
        Ok(Response::Search(SearchPage { matches, more }))
    }

    fn hashes(&self, request: &HashesRequest) -> Result<Response, Error> {
        let tree = {
            let state = self.state.lock();
            let trees = state.files.values().filter_map(|seen| {
                let tree = seen.content.as_ref()?.tree.as_ref()?;
                (tree.root() == request.root).then(|| Arc::clone(tree))
            });
            trees.into_iter().next()
        };
        let part = tree.and_then(|tree| {
            let whole: Subtree = tree.subtree(request.first / SUBTREE_BLOCKS)?;
            match request.span {
                SUBTREE_BLOCKS => Some(whole),
                span => whole.narrow(request.first, span),
            }
        });
        part.map(Response::Hashes)
            .ok_or_else(|| Error::NotFound { who: self.who() })
    }

    /// The kept bytes of the file at `path`, in `version`; fetched again if they had to go.
    fn content(
        self: &Arc<Self>,
        path: &RelPath,
        version: Version,
        deadline: Instant,
    ) -> Result<(Arc<File>, u64), Error> {
        let name = self.top(path)?;
        for is_last in [false, true] {
            {
                let state = self.state.lock();
                let seen = state.files.get(&name);
                let seen = seen.ok_or_else(|| Error::NotFound { who: self.who() })?;
                if seen.version != version {
                    return Err(Error::Changed { who: self.who() });
                }
                if let Some(content) = &seen.content
                    && let Some(file) = content.kept.open()
                {
                    return Ok((file, content.size));
                }
            }
            if !is_last {
                self.measure(path, Need::Bytes, deadline)?;
            }
        }
        Err(Error::Changed { who: self.who() })
    }

    /// The name of what lies at the top.
    fn top(&self, path: &RelPath) -> Result<Name, Error> {
        let split = path.split().filter(|(parent, _)| parent.is_root());
        let not_found = || Error::NotFound { who: self.who() };
        split.map(|(_, name)| name).ok_or_else(not_found)
    }

    fn measure(
        self: &Arc<Self>,
        path: &RelPath,
        need: Need,
        deadline: Instant,
    ) -> Result<Attributes, Error> {
        let name = self.top(path)?;
        let mut state = self.state.lock();
        if !state.files.contains_key(&name) {
            drop(state);
            state = self.list(deadline)?;
        }
        loop {
            let now = Instant::now();
            let seen = state.files.get(&name).filter(|seen| seen.is_readable(now));
            let seen = seen.ok_or_else(|| Error::NotFound { who: self.who() })?;
            let attributes = seen.attributes();
            if seen.suffices(need, now) || (need == Need::Size && !state.may_look(seen, now)) {
                return Ok(attributes);
            }
            let fetch = match &state.fetch {
                Some(fetch) => Arc::clone(fetch),
                None => {
                    let fetch = self.begin(&name, need, deadline)?;
                    state.fetch = Some(Arc::clone(&fetch));
                    fetch
                }
            };
            // What is fetched for its size alone may be given up; then the bytes are fetched anew.
            let is_ours = fetch.name == name && (need == Need::Size || fetch.need == Need::Bytes);
            if is_ours {
                fetch.want_until(need, deadline);
            }
            while fetch.outcome.lock().is_none() {
                if self.changed.wait_until(&mut state, deadline).timed_out() {
                    return match need {
                        Need::Size => Ok(attributes),
                        Need::Bytes => Err(Error::Unfinished { who: self.who() }),
                    };
                }
            }
            let outcome = fetch.outcome.lock().clone();
            match outcome {
                Some(Err(error)) if is_ours => {
                    return match (need, &error) {
                        (Need::Size, Error::NotFound { .. } | Error::Refused { .. })
                        | (Need::Bytes, _) => Err(error),
                        // Not known yet is all that there is to say.
                        (Need::Size, _) => Ok(attributes),
                    };
                }
                _ if Instant::now() >= deadline => {
                    return match need {
                        Need::Size => Ok(attributes),
                        Need::Bytes => Err(Error::Unfinished { who: self.who() }),
                    };
                }
                _ => {}
            }
        }
    }

    /// Starts to fetch `name`.
    fn begin(
        self: &Arc<Self>,
        name: &Name,
        need: Need,
        deadline: Instant,
    ) -> Result<Arc<Fetch>, Error> {
        let fetch = Arc::new(Fetch {
            name: name.clone(),
            need,
            wanted_until: Mutex::new(deadline),
            outcome: Mutex::default(),
        });
        let landing = Landing {
            inner: Arc::clone(self),
            fetch: Arc::clone(&fetch),
            outcome: Err(self.timeout()),
        };
        std::thread::Builder::new()
            .name("fetch-2004".into())
            .spawn(move || landing.run())
            .map_err(|error| Error::local("starting a thread", error))?;
        Ok(fetch)
    }

    /// Fetches all of a file.
    fn bring(&self, fetch: &Fetch) -> Result<Content, Error> {
        let (begun, until) = (Instant::now(), || *fetch.wanted_until.lock());
        let _turn = self.turn(until()).ok_or_else(|| self.timeout())?;
        let name = &fetch.name;
        let keeping = |error| Error::local(format!("keeping {name}"), error);
        let most = self.store.limit();
        let (document, begin) = match fetch.need {
            Need::Size => (MAX_LOOK, until()),
            Need::Bytes => (
                most.saturating_mul(MOST_PER_BYTE).saturating_add(ENVELOPE),
                begun + FIRST_BYTE,
            ),
        };
        let allowance = Allowance {
            most,
            document,
            begin,
            is_wanted: &|| Instant::now() < until(),
        };
        let mut keeper = Keeper {
            writer: self.store.begin().map_err(keeping)?,
            hasher: TreeHasher::default(),
        };
        let size = self
            .caller
            .contents(name.as_bytes(), &allowance, &mut keeper)?;
        tracing::debug!(
            server = self.caller.place(),
            %name,
            size,
            milliseconds = begun.elapsed().as_millis(),
            "fetched"
        );
        Ok(Content {
            size,
            tree: keeper.hasher.finish().map(Arc::new),
            kept: keeper.writer.finish().map_err(keeping)?,
            fetched: Instant::now(),
        })
    }
}

/// Where a file goes as it comes.
struct Keeper {
    writer: Writer,
    hasher: TreeHasher,
}

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.append(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Fetch {
    fn want_until(&self, need: Need, deadline: Instant) {
        let until = match need {
            Need::Size => deadline,
            Need::Bytes => deadline + COME_BACK,
        };
        let mut wanted_until = self.wanted_until.lock();
        *wanted_until = until.max(*wanted_until);
    }
}

/// Ends a fetch when it is dropped, so that nobody waits for one that panicked.
struct Landing {
    inner: Arc<Inner>,
    fetch: Arc<Fetch>,
    outcome: Result<Content, Error>,
}

impl Landing {
    fn run(mut self) {
        let begun = Instant::now();
        self.outcome = self.inner.bring(&self.fetch);
        let mut state = self.inner.state.lock();
        if self.fetch.need == Need::Size {
            state.looks.spend(begun.elapsed(), Instant::now());
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let gone = Err(self.inner.timeout());
        let outcome = std::mem::replace(&mut self.outcome, gone);
        // Who only looks has less patience than would tell whether the server is there.
        if let (Err(error), Need::Bytes) = (&outcome, self.fetch.need) {
            self.inner.note(error);
        }
        let mut before = None;
        let mut state = self.inner.state.lock();
        let seen = state.files.get_mut(&self.fetch.name);
        let outcome = match (outcome, seen) {
            (Ok(content), Some(seen)) => {
                before = seen.take(content, self.inner.caller.url(), &self.fetch.name);
                Ok(())
            }
            (Ok(_), None) => Err(Error::NotFound {
                who: self.inner.who(),
            }),
            (Err(error), seen) => {
                if let Some(seen) = seen {
                    match error {
                        Error::NotFound { .. } => {
                            seen.unreadable_until = Some(Instant::now() + UNREADABLE);
                        }
                        _ => seen.is_long |= self.fetch.need == Need::Size,
                    }
                }
                Err(error)
            }
        };
        *self.fetch.outcome.lock() = Some(outcome);
        state.fetch = None;
        drop(state);
        drop(before);
        self.inner.changed.notify_all();
    }
}

impl State {
    fn unprobed(&self) -> Vec<Name> {
        let files = self.files.iter();
        let unprobed = files.filter(|(_, seen)| !seen.is_probed && seen.content.is_none());
        unprobed.map(|(name, _)| name.clone()).collect()
    }

    fn may_look(&self, seen: &Seen, now: Instant) -> bool {
        !seen.is_long && self.looks.may_go_on(now)
    }
}

impl Looks {
    fn may_go_on(&self, now: Instant) -> bool {
        self.spent < LOOKING || now.saturating_duration_since(self.since) >= WINDOW
    }

    fn spend(&mut self, time: Duration, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.spent) = (now, Duration::ZERO);
        }
        self.spent += time;
    }
}

impl Seen {
    fn is_readable(&self, now: Instant) -> bool {
        self.unreadable_until.is_none_or(|until| until <= now)
    }

    fn suffices(&self, need: Need, now: Instant) -> bool {
        self.content.as_ref().is_some_and(|content| match need {
            Need::Size => true,
            Need::Bytes => {
                let is_fresh = now.saturating_duration_since(content.fetched) < FRESH;
                is_fresh && content.kept.open().is_some()
            }
        })
    }

    fn attributes(&self) -> Attributes {
        let content = self.content.as_ref();
        Attributes {
            kind: Kind::File,
            size: content.map_or(Attributes::UNKNOWN_SIZE, |content| content.size),
            mtime: self.mtime,
            version: self.version,
            root: content.and_then(|content| Some(content.tree.as_ref()?.root())),
        }
    }

    /// These are its contents now. Returns those of before.
    fn take(&mut self, content: Content, url: &Url, name: &Name) -> Option<Content> {
        let is_other = self.content.as_ref().is_some_and(|before| {
            before.size != content.size || root(&before.tree) != root(&content.tree)
        });
        if is_other {
            self.mtime = nanoseconds().max(self.mtime + 1);
            self.version = version_of(url, name, self.mtime);
        }
        self.unreadable_until = None;
        self.is_long = false;
        self.content.replace(content)
    }
}

fn root(tree: &Option<Arc<Tree>>) -> Option<Root> {
    tree.as_ref().map(|tree| tree.root())
}

/// The version of what `name` was first seen to be at `time`: the first content that is fetched has it, and
/// every other one another.
fn version_of(url: &Url, name: &Name, time: i64) -> Version {
    let mut hasher = Sha256::new();
    hasher.update(url.as_str().as_bytes());
    hasher.update([0]);
    hasher.update(name.as_bytes());
    hasher.update([0]);
    hasher.update(time.to_be_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let (first, _) = digest.as_chunks::<8>();
    Version(u64::from_be_bytes(first[0]))
}

/// A name that a file of a share may have and that can be asked for: the argument of a call is text of XML.
fn plain_name(bytes: Vec<u8>) -> Option<Name> {
    let text = std::str::from_utf8(&bytes).ok()?;
    let is_sayable = |c: char| !matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if !text.chars().all(is_sayable) {
        return None;
    }
    Name::new(bytes).ok()
}

fn nanoseconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.ok().and_then(|now| i64::try_from(now.as_nanos()).ok());
    now.unwrap_or(0)
}

impl Peer for OldPeer {
    fn id(&self) -> PeerId {
        self.inner.id
    }

    fn call(&self, request: &Request, deadline: Instant) -> Result<Response, Error> {
        match request {
            Request::List(request) => self.inner.listing(request, deadline),
            Request::Stat(request) => self.inner.stat(request, deadline),
            Request::Search(request) => self.inner.search(request, deadline),
            Request::Hashes(request) => self.inner.hashes(request),
            Request::Changes(request) => {
                std::thread::sleep(request.wait);
                Ok(Response::Changes(Changes {
                    counter: NEVER,
                    changes: Vec::new(),
                }))
            }
            Request::Hello(_) | Request::ListMethods | Request::MethodHelp(_) => {
                Err(Error::Fault {
                    who: self.inner.who(),
                    fault: Fault::new(FaultCode::MethodNotFound, "a server of 2004"),
                })
            }
        }
    }

    fn open(
        &self,
        path: &RelPath,
        version: Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<Box<dyn ByteStream>, Error> {
        let (file, size) = self.inner.content(path, version, deadline)?;
        if range.end > size {
            return Err(Error::Changed {
                who: self.inner.who(),
            });
        }
        Ok(Box::new(KeptStream {
            file,
            remaining: range,
        }))
    }

    fn open_content(
        &self,
        _: Root,
        _: ByteRange,
        _: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        Err(Error::NotFound {
            who: self.inner.who(),
        })
    }

    fn fetch(&self, files: &[BatchItem], deadline: Instant) -> Result<Vec<BatchAnswer>, Error> {
        let answer = |item: &BatchItem| {
            let (file, size) = match self.inner.content(&item.path, item.version, deadline) {
                Ok(found) => found,
                Err(Error::Changed { .. }) => return BatchAnswer::Changed,
                Err(Error::NotFound { .. }) => return BatchAnswer::NotFound,
                Err(_) => return BatchAnswer::Failed,
            };
            if size > MAX_SMALL_FILE {
                return BatchAnswer::TooLarge;
            }
            let (mut bytes, mut at) = (vec![0; size as usize], 0);
            while at < bytes.len() {
                match read_at(&file, at as u64, &mut bytes[at..]) {
                    Ok(count) if count > 0 => at += count,
                    _ => return BatchAnswer::Failed,
                }
            }
            BatchAnswer::Whole(bytes)
        };
        Ok(files.iter().map(answer).collect())
    }
}

impl Whole for OldPeer {
    fn measure(&self, path: &RelPath, need: Need, deadline: Instant) -> Result<Attributes, Error> {
        self.inner.measure(path, need, deadline)
    }
}

struct KeptStream {
    file: Arc<File>,
    remaining: ByteRange,
}

impl ByteStream for KeptStream {
    fn read(&mut self, buffer: &mut [u8], _: Instant) -> Result<usize, Error> {
        let most = usize::try_from(self.remaining.len()).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match read_at(&self.file, self.remaining.start, &mut buffer[..most]) {
            Ok(count) if count > 0 => {
                self.remaining.start += count as u64;
                Ok(count)
            }
            Ok(_) => Err(Error::Local {
                what: "reading a file that was fetched".into(),
                why: "it has become shorter".into(),
            }),
            Err(error) => Err(Error::local("reading a file that was fetched", error)),
        }
    }
}

impl std::fmt::Debug for OldPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OldPeer({})", self.url())
    }
}

#[cfg(test)]
mod tests;
