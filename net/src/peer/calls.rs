//! Calls that take more than one message: a whole directory, a whole search.

use std::sync::Arc;
use std::time::Instant;

use super::Peer;
use crate::budget::{ByteBudget, Held, Weigh};
use crate::error::Error;
use crate::model::{Attributes, RelPath};
use crate::protocol::wire::{
    ListRequest, Listing, Request, Response, SearchPage, SearchRequest, Snapshot, SnapshotRequest,
    StatRequest,
};

/// A member's answer, and the counter needed to keep it valid for longer than a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watched<T> {
    /// The answer as the member gave it.
    pub answer: T,
    /// The member's change counter from before it read its share, if it watches what it reported:
    /// calling `tinyp2p.changes` since then shows when the answer no longer holds.
    pub counter: Option<u64>,
}

/// Returns all pages of `directory` as one listing; `None` where there is no directory. Each page
/// is charged to `budget`, which also ends a directory that does not end, or not soon enough.
///
/// # Errors
/// Those of any call, and of [`Reservation::grow`](crate::budget::Reservation::grow).
pub fn list(
    peer: &dyn Peer,
    directory: &RelPath,
    budget: &Arc<ByteBudget>,
    deadline: Instant,
) -> Result<Watched<Option<Held<Listing>>>, Error> {
    let mut reservation = budget.reserve(peer.id());
    let mut whole: Option<Listing> = None;
    loop {
        let after = whole.as_ref().and_then(|so_far| so_far.entries.last());
        let request = ListRequest {
            directory: directory.clone(),
            after: after.map(|entry| entry.name.clone()),
            limit: Listing::MAX_ENTRIES as u32,
            watch: true,
        };
        let page = match peer.call(&Request::List(request), deadline)? {
            Response::List(page) => page,
            Response::NoDirectory { counter } => {
                return Ok(Watched {
                    answer: None,
                    counter,
                });
            }
            _ => return Err(unexpected(peer)),
        };
        reservation.grow(page.entries.weight())?;
        let (more, empty) = (page.more, page.entries.is_empty());
        let so_far = match &mut whole {
            None => whole.insert(page),
            Some(so_far) => {
                // The first page's counter is the oldest, and holds only if all pages are watched.
                so_far.counter = so_far.counter.filter(|_| page.counter.is_some());
                so_far.entries.extend(page.entries);
                so_far
            }
        };
        if more && empty {
            let what = "a directory that does not end";
            return Err(Error::misbehaved(peer.id().short(), what));
        }
        so_far.more = more;
        if !more {
            let counter = so_far.counter;
            return Ok(Watched {
                answer: whole.map(|whole| Held::new(whole, reservation)),
                counter,
            });
        }
    }
}

/// Returns the attributes of one path; `None` when it is not shared.
pub fn stat(
    peer: &dyn Peer,
    path: &RelPath,
    deadline: Instant,
) -> Result<Watched<Option<Attributes>>, Error> {
    let request = Request::Stat(StatRequest {
        compare: false,
        paths: vec![path.clone()],
        watch: true,
    });
    match peer.call(&request, deadline)? {
        Response::Stat(found) if found.attributes.len() == 1 => Ok(Watched {
            answer: found.attributes[0],
            counter: found.counter,
        }),
        _ => Err(unexpected(peer)),
    }
}

/// Returns the content of a file at a member, by its root.
///
/// # Errors
/// Those of any call; the fault [`FaultCode::NotFound`](crate::protocol::wire::FaultCode::NotFound)
/// if the content cannot be determined.
pub fn snapshot(
    peer: &dyn Peer,
    request: &SnapshotRequest,
    deadline: Instant,
) -> Result<Snapshot, Error> {
    match peer.call(&Request::Snapshot(request.clone()), deadline)? {
        Response::Snapshot(snapshot) => Ok(snapshot),
        _ => Err(unexpected(peer)),
    }
}

/// The matches that one member found.
#[derive(Clone, Default, Debug)]
pub struct Matches {
    /// Path and attributes of each match, sorted by the bytes of their paths.
    pub files: Vec<(RelPath, Attributes)>,
    /// False when there may be more after the last one.
    pub is_all: bool,
    /// Why a requested further page did not come.
    pub trouble: Option<Error>,
}

/// Room for matches, and for what is made from them.
#[derive(Clone, Default, Debug)]
pub struct Room {
    /// The budget shared by all answers.
    pub budget: Arc<ByteBudget>,
    /// How many copies of a path are needed in addition to the match itself.
    pub paths: usize,
    /// The further bytes made from each match.
    pub each: usize,
}

impl Room {
    fn weight(&self, matches: &[(RelPath, Attributes)]) -> usize {
        let made = |(path, _): &(RelPath, Attributes)| self.each + self.paths * path.weight();
        matches.weight() + matches.iter().map(made).sum::<usize>()
    }
}

/// Returns every match of `pattern`, as far as there is `room`.
///
/// # Errors
/// Those of any call; also when not all matches come by `deadline`, or there is no room for all.
pub fn search(
    peer: &dyn Peer,
    pattern: &str,
    room: &Room,
    deadline: Instant,
) -> Result<Held<Matches>, Error> {
    let found = search_while(peer, pattern, room, deadline, |_| Instant::now() < deadline)?;
    match &found.trouble {
        Some(error) => Err(error.clone()),
        None if found.is_all => Ok(found),
        None => Err(Error::Timeout {
            who: peer.id().short(),
        }),
    }
}

/// Returns the first matches of `pattern`, page by page. Before each further page, `go_on` gets
/// their number and decides whether to request it. If a page does not come, or there is no `room`
/// for it, the matches before it count.
///
/// # Errors
/// Those of any call, when there are no matches to return.
pub fn search_while(
    peer: &dyn Peer,
    pattern: &str,
    room: &Room,
    deadline: Instant,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Held<Matches>, Error> {
    let mut reservation = room.budget.reserve(peer.id());
    let mut found = Matches::default();
    loop {
        let request = SearchRequest {
            pattern: pattern.to_owned(),
            after: found.files.last().map(|(path, _)| path.clone()),
            limit: SearchPage::MAX_MATCHES as u32,
        };
        let page = match peer.call(&Request::Search(request), deadline) {
            Ok(Response::Search(page)) => Ok(page),
            Ok(_) => return Err(unexpected(peer)),
            Err(error) => Err(error),
        };
        let page = page.and_then(|page| {
            reservation.grow(room.weight(&page.matches))?;
            Ok(page)
        });
        let page = match page {
            Ok(page) => page,
            Err(error) if found.files.is_empty() => return Err(error),
            Err(error) => {
                found.trouble = Some(error);
                return Ok(Held::new(found, reservation));
            }
        };
        found.files.extend(page.matches);
        found.is_all = !page.more;
        // A page without matches ran out of time; the same call continues where it ended.
        if found.is_all || !go_on(found.files.len()) {
            return Ok(Held::new(found, reservation));
        }
    }
}

fn unexpected(peer: &dyn Peer) -> Error {
    Error::misbehaved(peer.id().short(), "an answer to another question")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::testing::{Behaviour, MemoryPeer};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn paged_directory_is_whole_and_in_order() {
        let peer = MemoryPeer::new(1);
        let count = 2 * Listing::MAX_ENTRIES + 5;
        for index in 0..count {
            peer.put(&format!("d/{index:06}"), "x", 1);
        }
        let directory = RelPath::new(b"d").unwrap();
        let told = list(&peer, &directory, &Arc::default(), soon()).unwrap();
        let whole = told.answer.unwrap();
        assert_eq!(whole.entries.len(), count);
        assert!(whole.entries.is_sorted_by(|a, b| a.name < b.name) && !whole.more);
        assert_eq!(peer.calls(), 3);
    }

    #[test]
    fn missing_entry_is_none_and_no_error() {
        let peer = MemoryPeer::new(1);
        let here = peer.put("here", "x", 1);
        let stat = |path: &str| stat(&peer, &RelPath::new(path.as_bytes()).unwrap(), soon());
        assert_eq!(stat("here").unwrap().answer, Some(here));
        assert_eq!(stat("gone").unwrap().answer, None);
    }

    #[test]
    fn a_search_gathers_all_its_pages() {
        let peer = MemoryPeer::new(1);
        for index in 0..SearchPage::MAX_MATCHES + 3 {
            peer.put(&format!("{index}/a.txt"), "x", 1);
        }
        peer.put("b.bin", "x", 1);
        let found = search(&peer, r"\.txt$", &Room::default(), soon()).unwrap();
        assert_eq!(found.files.len(), SearchPage::MAX_MATCHES + 3);
    }

    #[test]
    fn search_stops_and_says_so_when_satisfied() {
        let peer = MemoryPeer::new(1);
        for index in 0..3 * SearchPage::MAX_MATCHES {
            peer.put(&format!("{index}"), "x", 1);
        }
        let some = search_while(&peer, "", &Room::default(), soon(), |found| found < 2000).unwrap();
        assert_eq!(
            (some.files.len(), some.is_all),
            (2 * SearchPage::MAX_MATCHES, false)
        );
        let all = search_while(&peer, "", &Room::default(), soon(), |_| true).unwrap();
        assert_eq!(
            (all.files.len(), all.is_all),
            (3 * SearchPage::MAX_MATCHES, true)
        );
    }

    #[test]
    fn endless_responses_are_bounded() {
        let (peer, budget) = (MemoryPeer::new(1), ByteBudget::new(64 << 20));
        peer.behave(Behaviour::Endless);
        let room = Room {
            budget: Arc::clone(&budget),
            ..Room::default()
        };
        let listed = list(&peer, &RelPath::root(), &budget, soon()).unwrap_err();
        assert!(matches!(listed, Error::Misbehaved { .. }), "{listed}");
        let found = search(&peer, "", &room, soon()).unwrap_err();
        assert!(matches!(found, Error::Misbehaved { .. }), "{found}");
        let some = search_while(&peer, "", &room, soon(), |_| true).unwrap();
        assert!(!some.is_all && some.trouble.is_some() && !some.files.is_empty());
        assert!(budget.held() > 0 && budget.held() <= budget.most_of_one());
        drop(some);
        assert_eq!(budget.held(), 0);
    }
}
