//! A server of 2004 as a member like any other.
//!
//! It lists names and nothing else, so the properties of a file are unknown until all of it has
//! been fetched ([`Whole::measure`]). Then the file has a size, a content root and a version, is
//! kept in the [`LegacyStore`], and is read, checked and passed on like any file of any member.
//! Before that, it has the attributes of [`FileSize::UNKNOWN`](crate::model::FileSize::UNKNOWN).
//!
//! The server takes one call at a time, so calls take turns.

mod answers;
mod fetch;
mod names;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use self::fetch::{Fetch, Looks};
use self::names::ServerNames;
use super::Url;
use super::client::{LegacyClient, ServersReply};
use super::store::{KeptFile, LegacyContent, LegacyStore};
use crate::content::read_full::read_full;
use crate::error::Error;
use crate::model::{Attributes, ByteRange, Name, PeerId, RelPath, Root, Version};
use crate::peer::{ByteStream, Peer, Purpose, Whole};
use crate::protocol::wire::{
    BatchAnswer, BatchItem, Changes, Fault, FaultCode, MAX_SMALL_FILE, Request, Response,
};

/// Names are not requested again within this time, so that a listing, and a search and a lookup
/// right after it, cost one call.
const JUST_LISTED: Duration = Duration::from_millis(500);

/// A listing may take this much longer to detect the directories among new names.
const PROBING: Duration = Duration::from_millis(250);

/// The time reserved for delivering an answer to its caller.
const HANDING_OVER: Duration = Duration::from_millis(200);

/// The counter of an unchanging state: there is nothing below the top.
const NEVER: u64 = 0;

/// Reports that the server does not answer.
pub(super) type ReportSilence = Box<dyn Fn(&Error) + Send + Sync>;

/// One server of 2004 as a [`Peer`].
pub struct LegacyPeer {
    /// For the threads that fetch.
    this: Weak<Self>,
    id: PeerId,
    caller: LegacyClient,
    store: Arc<LegacyStore>,
    report: ReportSilence,
    /// Held for lookups, never across IO.
    state: Mutex<State>,
    /// Signals that a call has ended.
    changed: Condvar,
}

struct State {
    names: ServerNames,
    /// When the server last listed its names.
    listed: Option<Instant>,
    /// True while a call is under way.
    is_called: bool,
    fetch: Option<Arc<Fetch>>,
    looks: Looks,
    has_warned_of_left_out: bool,
}

impl LegacyPeer {
    /// Creates the peer for the server that `caller` calls; its files are kept in `store`.
    pub(super) fn new(
        caller: LegacyClient,
        store: Arc<LegacyStore>,
        report: ReportSilence,
    ) -> Arc<Self> {
        let state = State {
            names: ServerNames::default(),
            listed: None,
            is_called: false,
            fetch: None,
            looks: Looks::from(Instant::now()),
            has_warned_of_left_out: false,
        };
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            id: id_of(caller.url()),
            caller,
            store,
            report,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// Returns the URL of the server.
    pub(super) fn url(&self) -> &Url {
        self.caller.url()
    }

    /// Calls operation 0 when it is this node's turn. Returns `None` without calling when another
    /// call took longer than `patience`; then the server is there.
    pub(super) fn servers(
        &self,
        ours: Option<&Url>,
        patience: Duration,
    ) -> Option<Result<ServersReply, Error>> {
        let _turn = self.turn(Instant::now() + patience)?;
        Some(self.caller.servers(ours))
    }

    /// Waits for the turn to call until `deadline`.
    fn turn(&self, deadline: Instant) -> Option<CallTurn<'_>> {
        let mut state = self.state.lock();
        while state.is_called {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return None;
            }
        }
        state.is_called = true;
        Some(CallTurn(self))
    }

    fn who(&self) -> String {
        self.caller.place().to_owned()
    }

    fn timeout(&self) -> Error {
        Error::Timeout { who: self.who() }
    }

    fn not_found(&self) -> Error {
        Error::NotFound { who: self.who() }
    }

    /// Ensures that the names are known: requests them unless that was done just now, or a fetch
    /// is under way.
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
        // The previous holder of the turn may have requested them.
        if is_known(&state, Instant::now()) {
            drop(state);
            drop(turn);
            return Ok(self.state.lock());
        }
        drop(state);
        let names = self.caller.names(deadline);
        let names = names.inspect_err(|error| self.note(error));
        let mut state = self.state.lock();
        let outcome = names.map(|names| self.apply(&mut state, names));
        let new: Vec<Name> = match outcome {
            Ok(()) => state.names.unprobed(),
            Err(_) => Vec::new(),
        };
        drop(state);
        self.probe(new, deadline);
        drop(turn);
        outcome.map(|()| self.state.lock())
    }

    fn note(&self, error: &Error) {
        if error.is_absence() || matches!(error, Error::Refused { .. } | Error::Misbehaved { .. }) {
            (self.report)(error);
        }
    }

    /// Distinguishes directories from files among `names`, as far as time allows. The rest is
    /// probed at the next listing, and counts as files until then.
    fn probe(&self, names: Vec<Name>, deadline: Instant) {
        let deadline = deadline.checked_sub(HANDING_OVER).unwrap_or(deadline);
        let deadline = deadline.min(Instant::now() + PROBING);
        for name in names {
            if Instant::now() >= deadline {
                return;
            }
            let Ok(is_directory) = self.caller.is_directory(name.as_bytes(), deadline) else {
                return;
            };
            if let Some(seen) = self.state.lock().names.files.get_mut(&name) {
                seen.is_directory(is_directory, Instant::now());
            }
        }
    }

    /// Sets the current names of the server.
    fn apply(&self, state: &mut State, names: Vec<Vec<u8>>) {
        let count = names.len();
        let left_out = state.names.apply(self.caller.url(), names);
        if left_out > 0 && !std::mem::replace(&mut state.has_warned_of_left_out, true) {
            let server = self.caller.place();
            tracing::warn!(
                server,
                "{left_out} of its {count} names are no plain names of files, and left out"
            );
        }
        state.listed = Some(Instant::now());
    }

    /// Returns the kept content of the file `name` in `version`, and its size. Fetches it again if
    /// it was evicted.
    fn content(
        &self,
        name: &Name,
        version: Version,
        deadline: Instant,
    ) -> Result<(Arc<KeptFile>, LegacyContent, u64), Error> {
        for is_last in [false, true] {
            {
                let state = self.state.lock();
                let seen = state.names.files.get(name);
                let seen = seen.ok_or_else(|| self.not_found())?;
                if seen.version != version {
                    return Err(Error::Changed { who: self.who() });
                }
                if let Some(fetched) = &seen.fetched
                    && let Some(content) = fetched.kept.open()
                {
                    return Ok((Arc::clone(&fetched.kept), content, fetched.size));
                }
            }
            if !is_last {
                self.measure_name(name, Purpose::Bytes, deadline)?;
            }
        }
        Err(Error::Changed { who: self.who() })
    }

    /// Returns the name in a path at the top.
    fn top(&self, path: &RelPath) -> Result<Name, Error> {
        let split = path.split().filter(|(parent, _)| parent.is_root());
        split.map(|(_, name)| name).ok_or_else(|| self.not_found())
    }
}

/// Derives the id of a server from its URL. It is not a key, and proves nothing.
pub(super) fn id_of(url: &Url) -> PeerId {
    let mut hasher = Sha256::new();
    hasher.update(b"tinyp2p 2004 server\0");
    hasher.update(url.as_str().as_bytes());
    PeerId::from_bytes(hasher.finalize().into())
}

/// The turn to call, held until dropped.
struct CallTurn<'a>(&'a LegacyPeer);

impl Drop for CallTurn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_called = false;
        self.0.changed.notify_all();
    }
}

impl Peer for LegacyPeer {
    fn id(&self) -> PeerId {
        self.id
    }

    fn call(&self, request: &Request, deadline: Instant) -> Result<Response, Error> {
        match request {
            Request::List(request) => self.listing(request, deadline),
            Request::Stat(request) => self.stat(request, deadline),
            Request::Search(request) => self.search(request, deadline),
            Request::Hashes(request) => self.hashes(request, deadline),
            Request::Changes(request) => {
                std::thread::sleep(request.wait);
                Ok(Response::Changes(Changes {
                    counter: NEVER,
                    changes: Vec::new(),
                }))
            }
            Request::Hello(_)
            | Request::Snapshot(_)
            | Request::ListMethods
            | Request::MethodHelp(_) => Err(Error::Fault {
                who: self.who(),
                fault: Fault::new(FaultCode::MethodNotFound, "a server of 2004"),
            }),
        }
    }

    fn open(
        &self,
        path: &RelPath,
        version: Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<Box<dyn ByteStream>, Error> {
        let name = self.top(path)?;
        let (kept, content, size) = self.content(&name, version, deadline)?;
        if range.end > size {
            return Err(Error::Changed { who: self.who() });
        }
        Ok(Box::new(KeptStream {
            kept,
            content,
            remaining: range,
        }))
    }

    fn open_content(
        &self,
        _: Root,
        _: ByteRange,
        _: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        Err(Error::NotFound { who: self.who() })
    }

    fn fetch(&self, files: &[BatchItem], deadline: Instant) -> Result<Vec<BatchAnswer>, Error> {
        let answer = |item: &BatchItem| {
            let name = self.top(&item.path);
            let found = name.and_then(|name| self.content(&name, item.version, deadline));
            let (content, size) = match found {
                Ok((_, content, size)) => (content, size),
                Err(Error::Changed { .. }) => return BatchAnswer::Changed,
                Err(Error::NotFound { .. }) => return BatchAnswer::NotFound,
                Err(_) => return BatchAnswer::Failed,
            };
            if size > MAX_SMALL_FILE {
                return BatchAnswer::TooLarge;
            }
            let mut bytes = vec![0; size as usize];
            match read_full(0, &mut bytes, |at, part| content.file.read_at(at, part)) {
                Ok(filled) if filled == bytes.len() => BatchAnswer::Whole(bytes),
                _ => BatchAnswer::Failed,
            }
        };
        Ok(files.iter().map(answer).collect())
    }
}

impl Whole for LegacyPeer {
    fn measure(
        &self,
        path: &RelPath,
        need: Purpose,
        deadline: Instant,
    ) -> Result<Attributes, Error> {
        self.measure_name(&self.top(path)?, need, deadline)
    }
}

struct KeptStream {
    kept: Arc<KeptFile>,
    content: LegacyContent,
    remaining: ByteRange,
}

impl ByteStream for KeptStream {
    fn read(&mut self, buffer: &mut [u8], _: Instant) -> Result<usize, Error> {
        let max = usize::try_from(self.remaining.len()).unwrap_or(usize::MAX);
        let max = max.min(buffer.len());
        if max == 0 {
            return Ok(0);
        }
        self.kept.touch();
        let file = &self.content.file;
        match file.read_at(self.remaining.start, &mut buffer[..max]) {
            Ok(count) if count > 0 => {
                self.remaining.start += count as u64;
                Ok(count)
            }
            Ok(_) => Err(Error::local(
                "reading a file that was fetched",
                "it has become shorter",
            )),
            Err(error) => Err(Error::local("reading a file that was fetched", error)),
        }
    }
}

#[cfg(test)]
mod tests;
