//! The page behind the one that was just sent, made while the caller still reads that one.
//!
//! Whoever lists a directory of many pages asks for one after the other, and takes some time over
//! each. So that neither side waits for the other, the next page is begun as soon as one is sent.
//! It is given out only to the very request that it was made for, and only for a moment, as it
//! tells how things were when it was begun.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::model::PeerId;
use crate::protocol::wire::{ListRequest, Listing, Response};

/// A page that is asked for later than this after it was begun is made anew.
const KEPT: Duration = Duration::from_millis(200);

/// An encoded page, and what a caller will ask for next if it wants all.
pub(crate) type Page = (Vec<u8>, Option<ListRequest>);

/// The pages that were begun, one for each member.
#[derive(Default)]
pub(crate) struct PagePrefetch(Mutex<HashMap<PeerId, PrefetchedPage>>);

struct PrefetchedPage {
    request: ListRequest,
    since: Instant,
    page: JoinHandle<Option<Page>>,
}

impl PagePrefetch {
    /// The page that was begun for this very request, if any was.
    pub(crate) async fn take(&self, member: PeerId, request: &ListRequest) -> Option<Page> {
        let begun = self.0.lock().remove(&member)?;
        if begun.request != *request || begun.since.elapsed() >= KEPT {
            return None;
        }
        begun.page.await.ok()?
    }

    /// Notes that the answer to `request` is being made. It is forgotten when it is not asked for.
    pub(crate) fn put(
        self: &Arc<Self>,
        member: PeerId,
        request: ListRequest,
        page: JoinHandle<Option<Page>>,
    ) {
        let since = Instant::now();
        let begun = PrefetchedPage {
            request,
            since,
            page,
        };
        self.0.lock().insert(member, begun);
        let ahead = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            let mut begun = ahead.0.lock();
            if begun.get(&member).is_some_and(|begun| begun.since == since) {
                begun.remove(&member);
            }
        });
    }
}

/// What a caller who has sent `request` and got `response` asks for next, if that is a page with
/// more behind it.
pub(crate) fn next(request: &ListRequest, response: &Response) -> Option<ListRequest> {
    let Response::List(Listing { entries, more, .. }) = response else {
        return None;
    };
    let last = entries.last().filter(|_| *more)?;
    Some(ListRequest {
        after: Some(last.name.clone()),
        ..request.clone()
    })
}
