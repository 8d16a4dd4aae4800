//! The answers given on behalf of a server of 2004: its names as one flat directory, and leaves of
//! the files fetched from it.

use std::time::Instant;

use super::{LegacyPeer, NEVER};
use crate::content::merkle::{SUBTREE_BLOCKS, Subtree};
use crate::error::Error;
use crate::model::{Attributes, Entry, FileSize, Kind, Mode, RelPath, Root, Version};
use crate::protocol::wire::{
    HashesRequest, ListRequest, Listing, Response, SearchPage, SearchRequest, StatRequest,
    StatResponse,
};
use crate::share::names::pattern::Pattern;
use crate::share::names::pattern::patience::{SearchTime, TimeIsUp};

impl LegacyPeer {
    pub(super) fn listing(
        &self,
        request: &ListRequest,
        deadline: Instant,
    ) -> Result<Response, Error> {
        if !request.directory.is_root() {
            return if request.watch {
                Ok(Response::NoDirectory {
                    counter: Some(NEVER),
                })
            } else {
                Err(self.not_found())
            };
        }
        let state = self.list(deadline)?;
        let now = Instant::now();
        let files = state.names.readable(now);
        let behind =
            files.filter(|(name, _)| request.after.as_ref().is_none_or(|after| *name > after));
        let max = (request.limit as usize).min(Listing::MAX_ENTRIES);
        let mut entries: Vec<Entry> = behind
            .take(max + 1)
            .map(|(name, seen)| Entry {
                name: name.clone(),
                attributes: seen.attributes(),
            })
            .collect();
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Response::List(Listing {
            version: Version(state.names.mtime.in_64_bits().cast_unsigned()),
            mtime: state.names.mtime,
            entries,
            more,
            counter: None,
        }))
    }

    pub(super) fn stat(&self, request: &StatRequest, deadline: Instant) -> Result<Response, Error> {
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
                    mode: Mode::Plain,
                    size: FileSize::ZERO,
                    mtime: state.names.mtime,
                    version: Version(state.names.mtime.in_64_bits().cast_unsigned()),
                    root: None,
                });
            };
            let seen = state.names.files.get(&name);
            let seen = seen.filter(|seen| parent.is_root() && seen.is_readable(now));
            seen.map(|seen| seen.attributes())
        });
        Ok(Response::Stat(StatResponse {
            attributes: attributes.collect(),
            counter: None,
        }))
    }

    pub(super) fn search(
        &self,
        request: &SearchRequest,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let pattern = Pattern::new(&request.pattern).map_err(|fault| Error::Fault {
            who: self.who(),
            fault,
        })?;
        let (now, root) = (Instant::now(), RelPath::root());
        let is_behind = |path: &RelPath| request.after.as_ref().is_none_or(|after| path > after);
        // Matching takes so long that the lock must not be held for it.
        let listed: Vec<(RelPath, Attributes)> = {
            let state = self.list(deadline)?;
            let files = state.names.readable(now);
            let files =
                files.filter_map(|(name, seen)| Some((root.join(name).ok()?, seen.attributes())));
            files.filter(|(path, _)| is_behind(path)).collect()
        };
        let max = (request.limit as usize).min(SearchPage::MAX_MATCHES);
        let mut patience = SearchTime::new(deadline);
        let mut matches = Vec::new();
        for (path, attributes) in listed {
            let is_match = pattern.matches(path.as_bytes(), &mut patience);
            if is_match.map_err(|TimeIsUp| self.timeout())? {
                matches.push((path, attributes));
            }
            if matches.len() > max {
                break;
            }
        }
        let more = matches.len() > max;
        matches.truncate(max);
        Ok(Response::Search(SearchPage { matches, more }))
    }

    pub(super) fn hashes(
        &self,
        request: &HashesRequest,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let name = {
            let state = self.state.lock();
            let mut files = state.names.files.iter();
            let has_it = |root: Option<Root>| root == Some(request.root);
            let found = files.find(|(_, seen)| has_it(seen.attributes().root));
            let (name, seen) = found.ok_or_else(|| self.not_found())?;
            (name.clone(), seen.version)
        };
        let (_, content, _) = self.content(&name.0, name.1, deadline)?;
        let part = content.tree.and_then(|tree| {
            let whole: Subtree = tree.subtree(request.first / SUBTREE_BLOCKS)?;
            match request.span {
                SUBTREE_BLOCKS => Some(whole),
                span => whole.narrow(request.first, span),
            }
        });
        part.map(Response::Hashes).ok_or_else(|| self.not_found())
    }
}
