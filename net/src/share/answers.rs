//! What a share answers about names: pages of directories, and the attributes of paths.

use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::errnos::is_absence;
use super::faults::{fault, internal, page_limit, too_slow, unreadable};
use super::names;
use super::roots::wishes::{Asker, Interest};
use super::tree::ShareTree;
use super::{BUDGET, Share};
use crate::model::{Attributes, Kind, Name, RelPath};
use crate::protocol::wire::{
    Fault, FaultCode, ListRequest, Listing, Response, StatRequest, StatResponse,
};

impl Share {
    /// Returns one page of a directory, for `asker`.
    pub fn list(&self, request: &ListRequest, asker: Asker) -> Result<Response, Fault> {
        let until = Instant::now() + BUDGET;
        let (counter, listing) = match self.tree() {
            Ok(tree) => (
                self.keep(&tree, &request.directory, request.watch),
                self.listing(&tree, request, asker, until),
            ),
            Err(error) => (None, Err(fault(error))),
        };
        match listing {
            Ok((mut listing, is_all_watched)) => {
                listing.counter = counter.filter(|_| is_all_watched);
                Ok(Response::List(listing))
            }
            Err(fault) if request.watch && fault.is_absence() => {
                Ok(Response::NoDirectory { counter })
            }
            Err(fault) => Err(fault),
        }
    }

    /// Returns the page, and whether a watch of the directory covers everything it shows.
    pub(super) fn listing(
        &self,
        tree: &Arc<ShareTree>,
        request: &ListRequest,
        asker: Asker,
        until: Instant,
    ) -> Result<(Listing, bool), Fault> {
        let (mut listing, is_all_watched) = self.list_names(tree, request, until)?;
        let names: Vec<Name> = listing
            .entries
            .iter()
            .map(|entry| entry.name.clone())
            .collect();
        let found = listing
            .entries
            .iter_mut()
            .map(|entry| &mut entry.attributes);
        self.add_roots(found.collect(), (asker, Interest::Listed), |index| {
            request.directory.join(&names[index]).ok()
        });
        Ok((listing, is_all_watched))
    }

    fn list_names(
        &self,
        tree: &Arc<ShareTree>,
        request: &ListRequest,
        until: Instant,
    ) -> Result<(Listing, bool), Fault> {
        let limit = page_limit(request.limit, Listing::MAX_ENTRIES)?;
        let directory = tree.find(&request.directory).map_err(fault)?;
        if directory.state.kind() != Some(Kind::Directory) {
            return Err(Fault::new(FaultCode::NotADirectory, "not a directory"));
        }
        let names = self.names(tree, &directory).map_err(unreadable)?;
        let after = request.after.as_ref();
        let page = names::listing::page(tree, &directory, &names, after, limit, until);
        let page = page.map_err(|error| match error {
            Errno::TIMEDOUT => too_slow(),
            other => internal(other),
        });
        // The target of a link changes elsewhere.
        Ok((page?, !names.have_links()))
    }

    /// Returns the attributes of each path, for `asker`; `None` where nothing is served.
    pub fn stat(&self, request: &StatRequest, asker: Asker) -> Result<StatResponse, Fault> {
        self.stat_until(request, asker, Instant::now() + BUDGET)
    }

    pub(super) fn stat_until(
        &self,
        request: &StatRequest,
        asker: Asker,
        until: Instant,
    ) -> Result<StatResponse, Fault> {
        if request.paths.len() > StatRequest::MAX_PATHS {
            let message = format!("at most {} paths at a time", StatRequest::MAX_PATHS);
            return Err(Fault::new(FaultCode::LimitExceeded, message));
        }
        let tree = match self.tree() {
            Ok(tree) => tree,
            Err(error) if is_absence(error) => {
                let attributes = vec![None; request.paths.len()];
                return Ok(StatResponse {
                    attributes,
                    counter: None,
                });
            }
            Err(error) => return Err(internal(error)),
        };
        // Watch every path: the oldest counter covers them all, and if one path has no counter,
        // neither has the answer.
        let (mut counters, mut attributes) = (Vec::new(), Vec::new());
        for path in &request.paths {
            if Instant::now() >= until {
                return Err(too_slow());
            }
            counters.push(self.keep(&tree, path, request.watch));
            attributes.push(attributes_in(&tree, path)?);
        }
        let counter = counters.into_iter().collect::<Option<Vec<u64>>>();
        let counter = counter.and_then(|counters| counters.into_iter().min());
        let served = request
            .paths
            .iter()
            .zip(&attributes)
            .filter(|(_, found)| found.is_some());
        let paths: Vec<&RelPath> = served.map(|(path, _)| path).collect();
        let found = attributes.iter_mut().flatten().collect();
        // A file to be compared gets its root as early as one to be read.
        let interest = if request.compare {
            Interest::Opened
        } else {
            Interest::Listed
        };
        self.add_roots(found, (asker, interest), |index| Some(paths[index].clone()));
        Ok(StatResponse {
            attributes,
            counter,
        })
    }
}

/// Returns the attributes of what is at `path`; `None` where nothing is served.
fn attributes_in(tree: &Arc<ShareTree>, path: &RelPath) -> Result<Option<Attributes>, Fault> {
    match tree.find(path) {
        Ok(found) => Ok(tree.attributes(&found)),
        Err(error) if is_absence(error) => Ok(None),
        Err(error) => Err(internal(error)),
    }
}
