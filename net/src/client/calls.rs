//! Calls that take more than one message: a whole directory, a whole search.

use std::time::Instant;

use super::Peer;
use crate::error::Error;
use crate::types::{Attributes, RelPath};
use crate::wire::{
    ListRequest, Listing, Request, Response, SearchPage, SearchRequest, StatRequest,
};

/// The most entries of one directory that a member may send; beyond it the listing is an error. At
/// the 60 to 100 bytes that an entry takes in memory this is about 100 MB.
pub const MAX_DIRECTORY: usize = 1_000_000;

/// What a member said, and what it takes to go by it for longer than a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told<T> {
    /// What.
    pub answer: T,
    /// The member's change counter before it looked, if it watches what it told: `tinyp2p.changes`
    /// since then says when the answer no longer holds.
    pub counter: Option<u64>,
}

/// All pages of `directory` as one listing; `None` where there is no directory.
pub fn list(
    peer: &dyn Peer,
    directory: &RelPath,
    deadline: Instant,
) -> Result<Told<Option<Listing>>, Error> {
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
                return Ok(Told {
                    answer: None,
                    counter,
                });
            }
            _ => return Err(unexpected(peer)),
        };
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
        if !more {
            so_far.more = false;
            let counter = so_far.counter;
            return Ok(Told {
                answer: whole,
                counter,
            });
        }
        if empty || so_far.entries.len() > MAX_DIRECTORY {
            return Err(Error::misbehaved(
                peer.id().short(),
                "a directory that does not end",
            ));
        }
    }
}

/// The attributes of one path; `None` when it is not shared.
pub fn stat(
    peer: &dyn Peer,
    path: &RelPath,
    deadline: Instant,
) -> Result<Told<Option<Attributes>>, Error> {
    let request = Request::Stat(StatRequest {
        paths: vec![path.clone()],
        watch: true,
    });
    match peer.call(&request, deadline)? {
        Response::Stat(found) if found.attributes.len() == 1 => Ok(Told {
            answer: found.attributes[0],
            counter: found.counter,
        }),
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

/// Every match of `pattern`, at most `most` of them.
///
/// # Errors
/// As any call's; also when there are more, or when they do not all come by `deadline`.
pub fn search(
    peer: &dyn Peer,
    pattern: &str,
    most: usize,
    deadline: Instant,
) -> Result<Vec<(RelPath, Attributes)>, Error> {
    let who = || peer.id().short();
    let found = search_while(peer, pattern, deadline, |found| {
        found < most && Instant::now() < deadline
    })?;
    match found.trouble {
        Some(error) => Err(error),
        None if found.is_all => Ok(found.files),
        None if found.files.len() >= most => {
            Err(Error::misbehaved(who(), "a search that does not end"))
        }
        None => Err(Error::Timeout { who: who() }),
    }
}

/// The first matches of `pattern`, page by page. Before each further page, `go_on` is told how many there
/// are and says whether to ask for it. When one does not come, those before it count.
///
/// # Errors
/// As any call's, when there is nothing that counts.
pub fn search_while(
    peer: &dyn Peer,
    pattern: &str,
    deadline: Instant,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Matches, Error> {
    let mut found = Matches::default();
    loop {
        let request = Request::Search(SearchRequest {
            pattern: pattern.to_owned(),
            after: found.files.last().map(|(path, _)| path.clone()),
            limit: SearchPage::MAX_MATCHES as u32,
        });
        let page = match peer.call(&request, deadline) {
            Ok(Response::Search(page)) => page,
            Ok(_) => return Err(unexpected(peer)),
            Err(error) if found.files.is_empty() => return Err(error),
            Err(error) => {
                found.trouble = Some(error);
                return Ok(found);
            }
        };
        found.files.extend(page.matches);
        found.is_all = !page.more;
        // A page without matches has run out of time; the same call goes on where it ended.
        if found.is_all || !go_on(found.files.len()) {
            return Ok(found);
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

    use crate::testing::MemoryPeer;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn a_directory_of_many_pages_comes_whole_and_in_order() {
        let peer = MemoryPeer::new(1);
        let count = 2 * Listing::MAX_ENTRIES + 5;
        for index in 0..count {
            peer.put(&format!("d/{index:06}"), "x", 1);
        }
        let told = list(&peer, &RelPath::new(b"d").unwrap(), soon()).unwrap();
        let whole = told.answer.unwrap();
        assert_eq!(whole.entries.len(), count);
        assert!(whole.entries.is_sorted_by(|a, b| a.name < b.name) && !whole.more);
        assert_eq!(peer.calls(), 3);
    }

    #[test]
    fn what_is_not_there_is_none_and_not_an_error() {
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
        let found = search(&peer, r"\.txt$", 10_000, soon()).unwrap();
        assert_eq!(found.len(), SearchPage::MAX_MATCHES + 3);
    }

    #[test]
    fn a_search_ends_where_its_asker_has_enough_and_says_so() {
        let peer = MemoryPeer::new(1);
        for index in 0..3 * SearchPage::MAX_MATCHES {
            peer.put(&format!("{index}"), "x", 1);
        }
        let some = search_while(&peer, "", soon(), |found| found < 2000).unwrap();
        assert_eq!(
            (some.files.len(), some.is_all),
            (2 * SearchPage::MAX_MATCHES, false)
        );
        let all = search_while(&peer, "", soon(), |_| true).unwrap();
        assert_eq!(
            (all.files.len(), all.is_all),
            (3 * SearchPage::MAX_MATCHES, true)
        );
        assert!(search(&peer, "", 2000, soon()).is_err());
    }
}
