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

/// What a member said, and what it takes to go by it for longer than a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watched<T> {
    /// What the member said.
    pub answer: T,
    /// The member's change counter before it looked, if it watches what it told: `tinyp2p.changes`
    /// since then says when the answer no longer holds.
    pub counter: Option<u64>,
}

/// All pages of `directory` as one listing; `None` where there is no directory. It is held in
/// `budget`, page by page: a directory that does not end, or not soon enough, ends there.
///
/// # Errors
/// As any call's, and as [`Reservation::grow`](crate::budget::Reservation::grow)'s.
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
                // The first page's counter is the oldest; all pages have to be watched.
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

/// The attributes of one path; `None` when it is not shared.
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

/// The content of a file at a member, by its root.
///
/// # Errors
/// As any call's; the fault [`FaultCode::NotFound`](crate::protocol::wire::FaultCode::NotFound)
/// when it cannot be told.
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

/// What one member found.
#[derive(Clone, Default, Debug)]
pub struct Matches {
    /// Path and attributes of each match, sorted by the bytes of their paths.
    pub files: Vec<(RelPath, Attributes)>,
    /// False when there may be more behind the last one.
    pub is_all: bool,
    /// Why a further page did not come, if it was asked for.
    pub trouble: Option<Error>,
}

/// Room for what is found, and for what is made of it.
#[derive(Clone, Default, Debug)]
pub struct Room {
    /// What everybody's answers take their bytes from.
    pub budget: Arc<ByteBudget>,
    /// How often the bytes of a path are needed beside the match itself.
    pub paths: usize,
    /// What else is made of a match, in bytes.
    pub each: usize,
}

impl Room {
    fn weight(&self, matches: &[(RelPath, Attributes)]) -> usize {
        let made = |(path, _): &(RelPath, Attributes)| self.each + self.paths * path.weight();
        matches.weight() + matches.iter().map(made).sum::<usize>()
    }
}

/// Every match of `pattern`, as far as there is `room`.
///
/// # Errors
/// As any call's; also when they do not all come by `deadline`, or there is no room for all.
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

/// The first matches of `pattern`, page by page. Before each further page, `go_on` is told how many
/// there are and says whether to ask for it. When one does not come, or there is no `room` for it,
/// those before it count.
///
/// # Errors
/// As any call's, when there is nothing that counts.
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
        // A page without matches has run out of time; the same call goes on where it ended.
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
