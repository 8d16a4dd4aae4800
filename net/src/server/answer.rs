//! What each method does: one match from [`Request`] to [`Response`].

use std::net::IpAddr;

use super::Service;
use crate::merkle::Subtree;
use crate::types::PeerId;
use crate::wire::{
    self, Fault, FaultCode, HashesRequest, Request, Response, SearchPage, StatResponse,
};

/// Answers `request` of the member `caller`, who called from `remote`. May wait for a disk.
pub fn answer(
    service: &Service,
    caller: PeerId,
    remote: IpAddr,
    request: Request,
) -> Result<Response, Fault> {
    let share = service.share.as_deref();
    match request {
        Request::Hello(theirs) => Ok(Response::Hello(
            service.members.hello(caller, remote, theirs),
        )),
        Request::List(request) => match share {
            Some(share) => share.list(&request).map(Response::List),
            None => Err(nothing_shared()),
        },
        Request::Stat(request) => match share {
            Some(share) => share.stat(&request).map(Response::Stat),
            None => Ok(Response::Stat(StatResponse {
                attributes: vec![None; request.paths.len()],
            })),
        },
        Request::Search(request) => match share {
            Some(share) => share.search(&request).map(Response::Search),
            None => Ok(Response::Search(SearchPage {
                matches: Vec::new(),
                more: false,
            })),
        },
        Request::Hashes(request) => hashes(service, &request).map(Response::Hashes),
        Request::ListMethods => Ok(Response::ListMethods(
            wire::methods().map(String::from).collect(),
        )),
        Request::MethodHelp(method) => match wire::help(&method) {
            Some(help) => Ok(Response::MethodHelp(help.into())),
            None => Err(Fault::new(FaultCode::MethodNotFound, "no such method")),
        },
    }
}

/// From the share, which has all of a content or nothing; else from the cache, as far as it goes.
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

fn nothing_shared() -> Fault {
    Fault::new(FaultCode::NotFound, "this member shares nothing")
}
