//! One page of a search, in bounded time.
//!
//! Every page walks the share from the place where the previous page ended, so a page costs only
//! what it examines. When its time is up, a page ends early. If it has found nothing by then, the
//! place is remembered here for a few seconds, so that the same request from the same caller
//! continues there. Callers neither use nor displace each other's places.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pattern::Pattern;
use super::pattern::patience::SearchTime;
use super::walk::{ShareWalk, WalkStep, WalkStop};
use crate::fairness::{Claimant, FairTable};
use crate::model::{Attributes, Kind, RelPath};
use crate::protocol::wire::{Fault, FaultCode, SearchPage, SearchRequest};
use crate::share::Share;
use crate::share::errnos::{is_absence, is_exhaustion};
use crate::share::faults::{internal, page_limit};
use crate::share::tree::ShareTree;

/// Extra time for the first name, if a page runs out of time on the way to where it continues.
const GRACE: Duration = Duration::from_millis(50);

/// Limit on the bytes of paths in one page. With everything around them, they fit into a
/// message twice over.
const MAX_BYTES: usize = 2 << 20;

/// Limit on remembered places, of all callers, at ten kilobytes each. A caller has one for each
/// search that it runs at the same time. When there are too many, a caller with more than a share
/// loses its oldest.
const MAX_PLACES: usize = 256;

/// How long a place is remembered. During that time, a file that appears before the place is not
/// found by those who continue the search, as with any page that has been passed.
const LIFETIME: Duration = Duration::from_secs(10);

/// The places where searches ended early, by caller.
#[derive(Debug)]
pub(crate) struct SearchPlaces(FairTable<SearchPlace>);

impl Default for SearchPlaces {
    fn default() -> Self {
        Self(FairTable::new(MAX_PLACES))
    }
}

#[derive(Debug)]
struct SearchPlace {
    pattern: String,
    after: Option<RelPath>,
    reached: RelPath,
    since: Instant,
}

impl Share {
    pub(crate) fn search_within(
        &self,
        request: &SearchRequest,
        caller: Claimant,
        budget: Duration,
    ) -> Result<SearchPage, Fault> {
        let started = Instant::now();
        let pattern = Pattern::new(&request.pattern)?;
        let limit = page_limit(request.limit, SearchPage::MAX_MATCHES)?;
        let reached = self.places.lock().take(caller, request, started);
        let after = reached.or_else(|| request.after.clone());
        let mut page = SearchPage {
            matches: Vec::new(),
            more: false,
        };
        let tree = match self.tree() {
            Ok(tree) => tree,
            Err(error) if is_absence(error) => return Ok(page),
            Err(error) => return Err(internal(error)),
        };
        let mut walk = ShareWalk::new(self, &tree, &pattern, after.clone()).map_err(internal)?;
        let (mut bytes, mut reached) = (0, None);
        let (mut patience, mut is_last_try) = (SearchTime::new(started + budget), false);
        loop {
            // Always make progress, however slow the way back to the place was.
            let has_progress = reached > after;
            let path = match walk.next(&mut patience) {
                Ok(None) => break,
                Ok(Some(WalkStep::Directory(path) | WalkStep::Passed(path))) => path,
                Ok(Some(WalkStep::Match(path))) => {
                    if let Some(attributes) = file_attributes(&tree, &path)? {
                        bytes += path.as_bytes().len();
                        page.matches.push((path.clone(), attributes));
                    }
                    path
                }
                Err(WalkStop::TimeIsUp) if !has_progress && !is_last_try => {
                    is_last_try = true;
                    patience = SearchTime::new(Instant::now() + GRACE);
                    continue;
                }
                Err(WalkStop::TimeIsUp) if !has_progress => return Err(takes_too_long()),
                Err(WalkStop::TimeIsUp) => {
                    page.more = true;
                    self.remember(request, caller, &page, reached);
                    break;
                }
                Err(WalkStop::Exhaustion(error)) => return Err(internal(error)),
            };
            reached = Some(path);
            if page.matches.len() == limit || bytes >= MAX_BYTES {
                page.more = true;
                break;
            }
            if Instant::now() >= patience.until() && reached > after {
                page.more = true;
                self.remember(request, caller, &page, reached);
                break;
            }
        }
        Ok(page)
    }

    /// Records that this page, and any request for what follows it, must continue after `reached`.
    fn remember(
        &self,
        request: &SearchRequest,
        caller: Claimant,
        page: &SearchPage,
        reached: Option<RelPath>,
    ) {
        let Some(reached) = reached else { return };
        let last = page.matches.last().map(|(path, _)| path.clone());
        let place = SearchPlace {
            pattern: request.pattern.clone(),
            after: last.or_else(|| request.after.clone()),
            reached,
            since: Instant::now(),
        };
        self.places.lock().put(caller, place);
    }
}

/// Returns the attributes of a regular file; `None` if there is none at `path` (any more).
fn file_attributes(tree: &Arc<ShareTree>, path: &RelPath) -> Result<Option<Attributes>, Fault> {
    match tree.find(path) {
        Ok(found) => Ok(tree.attributes(&found).filter(|a| a.kind == Kind::File)),
        Err(error) if is_exhaustion(error) => Err(internal(error)),
        Err(_) => Ok(None),
    }
}

/// The fault of a search that could not even pass one name in time.
fn takes_too_long() -> Fault {
    Fault::new(FaultCode::LimitExceeded, "the pattern takes too long")
}

impl SearchPlaces {
    /// Returns where this very request must continue, if it was cut short lately. Forgets the
    /// place, because a new search has to start at the beginning.
    fn take(&mut self, caller: Claimant, request: &SearchRequest, now: Instant) -> Option<RelPath> {
        self.0
            .retain(|place| now.saturating_duration_since(place.since) < LIFETIME);
        let same =
            |place: &SearchPlace| place.pattern == request.pattern && place.after == request.after;
        let (id, _) = self.0.of(caller).find(|(_, place)| same(place))?;
        Some(self.0.leave(caller, id)?.reached)
    }

    fn put(&mut self, caller: Claimant, place: SearchPlace) {
        self.0.enter(caller, place, |_| true);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::PeerId;

    fn request(pattern: &str) -> SearchRequest {
        SearchRequest {
            pattern: pattern.into(),
            after: None,
            limit: 1,
        }
    }

    fn place(pattern: &str, since: Instant) -> SearchPlace {
        SearchPlace {
            pattern: pattern.into(),
            after: None,
            reached: RelPath::new(b"reached").unwrap(),
            since,
        }
    }

    fn caller(number: u8) -> Claimant {
        Claimant::member(PeerId::from_bytes([number; 32]), [10, 0, 0, 1].into())
    }

    #[test]
    fn search_place_serves_one_continuation() {
        let (mut places, now) = (SearchPlaces::default(), Instant::now());
        let me = caller(1);
        places.put(me, place("a", now));
        assert_eq!(places.take(me, &request("b"), now), None);
        let mut later_page = request("a");
        later_page.after = RelPath::new(b"x").ok();
        assert_eq!(places.take(me, &later_page, now), None);
        assert!(places.take(me, &request("a"), now).is_some());
        assert_eq!(places.take(me, &request("a"), now), None);
    }

    #[test]
    fn places_are_few_and_short_lived() {
        let (mut places, now) = (SearchPlaces::default(), Instant::now());
        let me = caller(1);
        places.put(me, place("a", now));
        assert_eq!(places.take(me, &request("a"), now + LIFETIME), None);
        for index in 0..=MAX_PLACES {
            places.put(me, place(&index.to_string(), now));
        }
        assert_eq!(places.0.len(), MAX_PLACES);
        assert_eq!(places.take(me, &request("0"), now), None);
    }

    #[test]
    fn no_member_takes_another_ones_place() {
        let (mut places, now) = (SearchPlaces::default(), Instant::now());
        places.put(caller(1), place("a", now));
        assert_eq!(places.take(caller(2), &request("a"), now), None);
        for index in 0..MAX_PLACES * 2 {
            places.put(caller(2), place(&index.to_string(), now));
        }
        assert!(places.take(caller(1), &request("a"), now).is_some());
    }
}
