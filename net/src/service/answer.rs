//! Implements each method: one match from [`Request`] to [`Response`].

use std::time::{Duration, Instant};

use super::Service;
use crate::config::READ_DEADLINE;
use crate::content::merkle::Subtree;
use crate::fairness::Claimant;
use crate::model::CallSource;
use crate::model::PeerId;
use crate::protocol::wire::{
    self, Change, Changes, ChangesRequest, Fault, FaultCode, HashesRequest, Request, Response,
    SearchPage, StatResponse,
};
use crate::share::Asker;

/// Time limit of a snapshot: less than the wait of the reader that needs it.
const SNAPSHOT: Duration = READ_DEADLINE.saturating_sub(Duration::from_secs(5));

/// The change counter where nothing ever changes.
const NEVER: u64 = 0;

/// Answers `request` of the member `caller`, which came from `source`. May wait for a disk.
pub fn answer(
    service: &Service,
    caller: PeerId,
    source: CallSource,
    request: Request,
) -> Result<Response, Fault> {
    let (share, asker) = (service.share.as_deref(), Asker::Member(caller));
    match request {
        Request::Hello(theirs) => Ok(Response::Hello(
            service.members.hello(caller, source, theirs),
        )),
        Request::List(request) => match share {
            Some(share) => share.list(&request, asker),
            None if request.watch => Ok(Response::NoDirectory {
                counter: Some(NEVER),
            }),
            None => Err(nothing_shared()),
        },
        Request::Stat(request) => match share {
            Some(share) => share.stat(&request, asker).map(Response::Stat),
            None => Ok(Response::Stat(StatResponse {
                attributes: vec![None; request.paths.len()],
                counter: request.watch.then_some(NEVER),
            })),
        },
        Request::Search(request) => match share {
            Some(share) => {
                let caller = Claimant::member(caller, source.ip());
                share.search(&request, caller).map(Response::Search)
            }
            None => Ok(Response::Search(SearchPage {
                matches: Vec::new(),
                more: false,
            })),
        },
        Request::Changes(request) => match share {
            Some(share) => share.wait_for_changes(&request).map(Response::Changes),
            None => {
                if request.since == NEVER {
                    std::thread::sleep(request.wait);
                }
                Ok(Response::Changes(of_nothing(&request)))
            }
        },
        Request::Hashes(request) => hashes(service, &request).map(Response::Hashes),
        Request::Snapshot(request) => match share {
            Some(share) => {
                let until = Instant::now() + SNAPSHOT;
                share
                    .snapshot(&request, asker, until)
                    .map(Response::Snapshot)
            }
            None => Err(nothing_shared()),
        },
        Request::ListMethods => Ok(Response::ListMethods(
            wire::methods().map(String::from).collect(),
        )),
        Request::MethodHelp(method) => match wire::help(&method) {
            Some(help) => Ok(Response::MethodHelp(help.into())),
            None => Err(Fault::new(FaultCode::MethodNotFound, "no such method")),
        },
    }
}

/// Asks the share, which has all of a content or nothing; else the cache, as far as it goes.
fn hashes(service: &Service, request: &HashesRequest) -> Result<Subtree, Fault> {
    let shared = match &service.share {
        Some(share) => share.hashes(request),
        None => Err(nothing_shared()),
    };
    shared.or_else(|fault| {
        let cache = service.cache.as_ref();
        cache
            .and_then(|cache| cache.hashes(request.root, request.first, request.span))
            .ok_or(fault)
    })
}

/// Answers as [`answer`] does for callers that may wait long, without occupying a thread.
pub(crate) async fn changes(service: &Service, request: ChangesRequest) -> Result<Response, Fault> {
    match service.share.as_deref() {
        Some(share) => share.changes(&request).await.map(Response::Changes),
        None => {
            if request.since == NEVER {
                tokio::time::sleep(request.wait).await;
            }
            Ok(Response::Changes(of_nothing(&request)))
        }
    }
}

/// Returns the changes of a node without a share. It has none for as long as it runs; a caller with
/// another counter has it from an earlier run.
fn of_nothing(request: &ChangesRequest) -> Changes {
    let changes = match request.since {
        NEVER => Vec::new(),
        _ => vec![Change::everything()],
    };
    Changes {
        counter: NEVER,
        changes,
    }
}

fn nothing_shared() -> Fault {
    Fault::new(FaultCode::NotFound, "this member shares nothing")
}
