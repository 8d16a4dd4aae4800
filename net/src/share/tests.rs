//! The share as its callers see it, over real directories.

#![allow(clippy::unwrap_used)]

mod files;
mod hung;
mod links;
mod mounted;
mod moved;
mod paging;
mod races;
mod rooted;
mod searches;
mod served;
mod watched;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::fairness::Claimant;
use crate::model::{Attributes, Entry, Name};
use crate::protocol::wire::{ListRequest, Listing, Response, StatRequest};

/// Returns the page of a directory in a response.
fn page_of(response: Response) -> Listing {
    match response {
        Response::List(page) => page,
        other => panic!("{other:?} in place of a page"),
    }
}

/// A share over a fresh directory, `served`, with `outside` beside it.
struct Fixture {
    base: TempDir,
    share: Share,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut ShareConfig)) -> Self {
        let base = tempfile::tempdir().unwrap();
        for directory in ["served", "outside"] {
            fs::create_dir(base.path().join(directory)).unwrap();
        }
        fs::write(base.path().join("outside/secret"), "secret").unwrap();
        let mut config = ShareConfig {
            directory: base.path().join("served"),
            hidden: false,
            excluded: Vec::new(),
        };
        adjust(&mut config);
        let share = Share::open(&config).unwrap();
        Self { base, share }
    }

    /// Returns the location of a shared path on this machine.
    fn at(&self, below: impl AsRef<[u8]>) -> PathBuf {
        let below = OsStr::from_bytes(below.as_ref());
        self.base.path().join("served").join(below)
    }

    /// Writes a file, and creates the directories that it needs.
    fn write(&self, below: impl AsRef<[u8]>, content: &str) {
        let place = self.at(below);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }

    fn link(&self, target: &str, below: &str) {
        let place = self.at(below);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, place).unwrap();
    }

    /// Lists a whole directory, in pages of `limit`.
    fn pages(&self, directory: &str, limit: u32) -> Result<Vec<Entry>, Fault> {
        let mut request = ListRequest {
            watch: false,
            directory: path(directory),
            after: None,
            limit,
        };
        let mut entries = Vec::new();
        loop {
            let page = page_of(self.share.list(&request, Asker::Nobody)?);
            assert!(page.entries.len() <= limit as usize);
            assert!(!page.more || !page.entries.is_empty());
            entries.extend(page.entries);
            if !page.more {
                return Ok(entries);
            }
            request.after = entries.last().map(|entry| entry.name.clone());
        }
    }

    /// Returns the names of a directory, escaped.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = self.pages(directory, 8192).unwrap();
        entries.iter().map(|entry| entry.name.to_string()).collect()
    }

    fn stat(&self, below: impl AsRef<[u8]>) -> Option<Attributes> {
        let paths = vec![RelPath::new(below.as_ref()).unwrap()];
        let response = self
            .share
            .stat(
                &StatRequest {
                    compare: false,
                    paths,
                    watch: false,
                },
                Asker::Nobody,
            )
            .unwrap();
        response.attributes[0]
    }

    fn read(&self, below: impl AsRef<[u8]>) -> Result<Vec<u8>, Fault> {
        let file = self
            .share
            .open_file(&RelPath::new(below.as_ref()).unwrap(), Asker::Nobody)?;
        let mut content = vec![0; file.size() as usize];
        let mut filled = 0;
        while filled < content.len() {
            filled += file.read_at(filled as u64, &mut content[filled..]).unwrap();
        }
        Ok(content)
    }

    /// Returns everything that a search finds, in pages of `limit`, escaped.
    fn search(&self, pattern: &str, limit: u32, budget: Duration) -> Vec<String> {
        let mut request = SearchRequest {
            pattern: pattern.into(),
            after: None,
            limit,
        };
        let mut found = Vec::new();
        loop {
            let page = self
                .share
                .search_within(&request, Claimant::itself(), budget)
                .unwrap();
            assert!(page.matches.len() <= limit as usize);
            if let Some((last, _)) = page.matches.last() {
                request.after = Some(last.clone());
            }
            found.extend(page.matches.into_iter().map(|(path, _)| path));
            if !page.more {
                assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
                return found.iter().map(RelPath::to_string).collect();
            }
        }
    }

    /// Asserts that nothing is served under the path, however it is requested.
    fn assert_absent(&self, below: &str) {
        assert_eq!(self.stat(below), None, "stat {below}");
        let fault = self
            .share
            .open_file(&path(below), Asker::Nobody)
            .unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "open {below}");
        let fault = self.pages(below, 1).unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "list {below}");
        let (parent, name) = path(below).split().unwrap();
        if let Ok(entries) = self.pages(std::str::from_utf8(parent.as_bytes()).unwrap(), 100) {
            assert!(entries.iter().all(|entry| entry.name != name), "{below}");
        }
        let found = self.search("", 100, BUDGET);
        assert!(!found.contains(&below.to_owned()), "search {below}");
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

/// Runs `work` and fails if it hangs.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    let result = result.recv_timeout(Duration::from_secs(30));
    result.expect("the share hangs, or failed")
}

/// Waits until `condition` becomes true.
fn soon(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true");
        thread::sleep(Duration::from_millis(1));
    }
}
