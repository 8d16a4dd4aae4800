//! The page behind the one just sent, prepared while the caller still reads that one.
//!
//! A caller that lists a directory of many pages requests one after another, and takes some time
//! over each. So that neither side waits for the other, the next page is begun as soon as one is
//! sent. It is used only for the very request that it was made for, and only for a moment, as it
//! shows the directory as it was then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::model::PeerId;
use crate::protocol::wire::{ListRequest, Listing, Response};

/// A page requested later than this after it was begun is rebuilt.
const KEPT: Duration = Duration::from_millis(200);

/// An encoded page, and the next request of a caller that wants all pages.
pub(crate) type Page = (Vec<u8>, Option<ListRequest>);

/// The pages under way, one for each member.
#[derive(Default)]
pub(crate) struct PagePrefetch(Mutex<HashMap<PeerId, PrefetchedPage>>);

struct PrefetchedPage {
    request: ListRequest,
    since: Instant,
    page: JoinHandle<Option<Page>>,
}

impl PagePrefetch {
    /// Returns the page that was begun for this very request, if any was.
    pub(crate) async fn take(&self, member: PeerId, request: &ListRequest) -> Option<Page> {
        let begun = self.0.lock().remove(&member)?;
        if begun.request != *request || begun.since.elapsed() >= KEPT {
            return None;
        }
        begun.page.await.ok()?
    }

    /// Stores the answer to `request` that is being made. It is dropped if it is not requested.
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

/// Returns the next request of a caller that sent `request` and got `response`, if that is a page
/// with more behind it.
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
