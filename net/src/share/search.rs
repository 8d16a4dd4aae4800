//! One page of a search, in bounded time.
//!
//! The share is walked for every page, from the place where the page before ended; a page costs
//! what it looks at. When a page's time is up it ends early; should it have found nothing by then,
//! the place is remembered here for a few seconds, so that whoever asks the same again goes on from
//! there.

use std::time::{Duration, Instant};

use super::pattern::Pattern;
use super::pattern::patience::Patience;
use super::tree::is_exhaustion;
use super::walk::{Step, Stop, Walk};
use super::{Asker, Share, internal, page_limit};
use crate::types::{Attributes, Kind, RelPath};
use crate::wire::{Fault, FaultCode, SearchPage, SearchRequest};

/// A page whose time was up on the way to where it goes on has so much more for the first name there.
const GRACE: Duration = Duration::from_millis(50);

/// The most bytes of paths in one page; what is around them fits a message twice over.
const MAX_BYTES: usize = 2 << 20;

/// The most places remembered, at ten kilobytes each.
const MAX_PLACES: usize = 512;

/// The most of one member, which searches one thing at a time.
const MAX_PLACES_EACH: usize = 8;

/// How long one is remembered. While it is, a file that appears before the place is not found by
/// those who continue the search, as with any page that was turned already.
const LIFETIME: Duration = Duration::from_secs(10);

/// The places where searches ended early, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

#[derive(Debug)]
struct Place {
    asker: Asker,
    pattern: String,
    after: Option<RelPath>,
    reached: RelPath,
    since: Instant,
}

impl Share {
    pub(super) fn search_within(
        &self,
        request: &SearchRequest,
        asker: Asker,
        budget: Duration,
    ) -> Result<SearchPage, Fault> {
        let started = Instant::now();
        let pattern = Pattern::new(&request.pattern)?;
        let limit = page_limit(request.limit, SearchPage::MAX_MATCHES)?;
        let reached = self.places.lock().take(request, asker, started);
        let after = reached.or_else(|| request.after.clone());
        let mut walk = Walk::new(self, &pattern, after.clone()).map_err(internal)?;
        let mut page = SearchPage {
            matches: Vec::new(),
            more: false,
        };
        let (mut bytes, mut reached) = (0, None);
        let (mut patience, mut is_last_try) = (Patience::new(started + budget), false);
        loop {
            // Never without progress, however slow the way back to the place was.
            let has_progress = reached > after;
            let path = match walk.next(&mut patience) {
                Ok(None) => break,
                Ok(Some(Step::Directory(path) | Step::Passed(path))) => path,
                Ok(Some(Step::Match(path))) => {
                    if let Some(attributes) = self.file_attributes(&path)? {
                        bytes += path.as_bytes().len();
                        page.matches.push((path.clone(), attributes));
                    }
                    path
                }
                Err(Stop::TimeIsUp) if !has_progress && !is_last_try => {
                    is_last_try = true;
                    patience = Patience::new(Instant::now() + GRACE);
                    continue;
                }
                Err(Stop::TimeIsUp) if !has_progress => return Err(takes_too_long()),
                Err(Stop::TimeIsUp) => {
                    page.more = true;
                    self.remember(request, asker, &page, reached);
                    break;
                }
                Err(Stop::Exhaustion(error)) => return Err(internal(error)),
            };
            reached = Some(path);
            if page.matches.len() == limit || bytes >= MAX_BYTES {
                page.more = true;
                break;
            }
            if Instant::now() >= patience.until() && reached > after {
                page.more = true;
                self.remember(request, asker, &page, reached);
                break;
            }
        }
        Ok(page)
    }

    /// Attributes of a regular file; `None` when there is none at `path` (any more).
    fn file_attributes(&self, path: &RelPath) -> Result<Option<Attributes>, Fault> {
        match self.tree.find(path) {
            Ok(found) => Ok(found.state.attributes().filter(|a| a.kind == Kind::File)),
            Err(error) if is_exhaustion(error) => Err(internal(error)),
            Err(_) => Ok(None),
        }
    }

    /// Notes that the page, and whoever asks for what follows it, has to go on behind `reached`.
    fn remember(
        &self,
        request: &SearchRequest,
        asker: Asker,
        page: &SearchPage,
        reached: Option<RelPath>,
    ) {
        let Some(reached) = reached else { return };
        let last = page.matches.last().map(|(path, _)| path.clone());
        let place = Place {
            asker,
            pattern: request.pattern.clone(),
            after: last.or_else(|| request.after.clone()),
            reached,
            since: Instant::now(),
        };
        self.places.lock().put(place);
    }
}

/// A search that could not even pass one name in time.
fn takes_too_long() -> Fault {
    Fault::new(FaultCode::LimitExceeded, "the pattern takes too long")
}

impl Places {
    /// Where this very request of `asker` has to go on, if it was cut short lately. Forgets the place, as a
    /// search that starts anew has to start at the beginning.
    fn take(&mut self, request: &SearchRequest, asker: Asker, now: Instant) -> Option<RelPath> {
        self.0
            .retain(|place| now.saturating_duration_since(place.since) < LIFETIME);
        let same = |place: &Place| {
            place.asker == asker && place.pattern == request.pattern && place.after == request.after
        };
        let index = self.0.iter().position(same)?;
        Some(self.0.remove(index).reached)
    }

    /// Remembers a place. It takes that of an older one of the same member, or of one that has more.
    fn put(&mut self, place: Place) {
        let of = |asker: Asker| move |place: &Place| place.asker == asker;
        let count = |places: &[Place], asker| places.iter().filter(|p| of(asker)(p)).count();
        let crowded = if count(&self.0, place.asker) >= MAX_PLACES_EACH {
            Some(place.asker)
        } else if self.0.len() >= MAX_PLACES {
            let askers = self.0.iter().map(|place| place.asker);
            askers.max_by_key(|asker| count(&self.0, *asker))
        } else {
            None
        };
        let oldest = crowded.and_then(|asker| self.0.iter().position(of(asker)));
        if let Some(oldest) = oldest {
            self.0.remove(oldest);
        }
        self.0.push(place);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::PeerId;

    fn request(pattern: &str) -> SearchRequest {
        SearchRequest {
            pattern: pattern.into(),
            after: None,
            limit: 1,
        }
    }

    fn place(pattern: &str, since: Instant) -> Place {
        Place {
            asker: Asker::Nobody,
            pattern: pattern.into(),
            after: None,
            reached: RelPath::new(b"reached").unwrap(),
            since,
        }
    }

    #[test]
    fn a_place_is_for_one_continuation_of_the_same_search() {
        let (mut places, now) = (Places::default(), Instant::now());
        places.put(place("a", now));
        assert_eq!(places.take(&request("b"), Asker::Nobody, now), None);
        let mut later_page = request("a");
        later_page.after = RelPath::new(b"x").ok();
        assert_eq!(places.take(&later_page, Asker::Nobody, now), None);
        assert!(places.take(&request("a"), Asker::Nobody, now).is_some());
        assert_eq!(places.take(&request("a"), Asker::Nobody, now), None);
    }

    #[test]
    fn places_are_few_and_short_lived() {
        let (mut places, now) = (Places::default(), Instant::now());
        places.put(place("a", now));
        assert_eq!(
            places.take(&request("a"), Asker::Nobody, now + LIFETIME),
            None
        );
        for index in 0..=MAX_PLACES_EACH {
            places.put(place(&index.to_string(), now));
        }
        assert_eq!(places.0.len(), MAX_PLACES_EACH);
        assert_eq!(places.take(&request("0"), Asker::Nobody, now), None);
    }

    #[test]
    fn nobody_takes_or_evicts_the_place_of_another() {
        let (mut places, now) = (Places::default(), Instant::now());
        let member = |number: u16| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            Asker::Member(PeerId::from_bytes(id))
        };
        let put = |places: &mut Places, asker, pattern: &str| {
            places.put(Place {
                asker,
                ..place(pattern, now)
            });
        };
        put(&mut places, member(0), "a");
        assert_eq!(places.take(&request("a"), member(1), now), None);
        for number in 0..100_u32 {
            put(&mut places, member(1), &number.to_string());
        }
        assert_eq!(places.0.len(), 1 + MAX_PLACES_EACH);
        for number in 0..2 * MAX_PLACES as u32 {
            put(
                &mut places,
                member(2 + number as u16 / 4),
                &number.to_string(),
            );
        }
        assert_eq!(places.0.len(), MAX_PLACES);
        assert!(places.take(&request("a"), member(0), now).is_some());
    }
}
