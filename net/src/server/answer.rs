//! What each method does: one match from [`Request`] to [`Response`].

use std::net::IpAddr;

use super::Service;
use crate::types::PeerId;
use crate::wire::{self, Fault, FaultCode, Request, Response, SearchPage, StatResponse};

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
        Request::Hashes(request) => match share {
            Some(share) => share.hashes(&request).map(Response::Hashes),
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

fn nothing_shared() -> Fault {
    Fault::new(FaultCode::NotFound, "this member shares nothing")
}
