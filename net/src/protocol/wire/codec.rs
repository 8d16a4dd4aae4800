//! Converts requests and responses to documents and back: the bodies of `POST /RPC2`.
//!
//! Decoding checks everything that PROTOCOL.md promises, so that later code need not check again: a
//! listing is sorted and within the requested limit, names are names, sizes are sizes.

use super::fields::{Fields, Refusal, text};
use super::limits::{CALL_LIMITS, RESPONSE_LIMITS};
use super::{
    Changes, ChangesRequest, HashesRequest, Hello, ListRequest, Request, Response, SearchPage,
    SearchRequest, Snapshot, SnapshotRequest,
};
use super::{
    StatRequest, StatResponse, changes, hashes, hello, list, search, snapshot, stat, system,
};
use crate::model::fault::{Fault, FaultCode, one_line};
use crate::protocol::xmlrpc::{self, MethodResponse, Value};

/// Why a response holds no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResponseError {
    /// The callee declined the request.
    #[error(transparent)]
    Fault(Fault),
    /// The callee broke the protocol; the text says which rule.
    #[error("{0}")]
    Malformed(String),
}

/// Encodes the body of a call. It may exceed [`MAX_CALL_BYTES`](super::MAX_CALL_BYTES) for a batch
/// of very long paths; the callee then refuses it by name.
pub fn encode_call(request: &Request) -> Vec<u8> {
    let params = match request {
        Request::Hello(hello) => vec![hello.to_value()],
        Request::List(list) => vec![list.to_value()],
        Request::Stat(stat) => vec![stat.to_value()],
        Request::Search(search) => vec![search.to_value()],
        Request::Changes(changes) => vec![changes.to_value()],
        Request::Hashes(hashes) => vec![hashes.to_value()],
        Request::Snapshot(snapshot) => vec![snapshot.to_value()],
        Request::ListMethods => Vec::new(),
        Request::MethodHelp(method) => vec![Value::from(&**method)],
    };
    xmlrpc::write_call(request.method(), &params)
}

/// Decodes the body of a call. The fault is the answer to send to the caller.
pub fn decode_call(body: &[u8]) -> Result<Request, Fault> {
    let call = xmlrpc::read_call(body, &CALL_LIMITS).map_err(refuse_document)?;
    let params = call.params;
    let request = match &*call.method {
        hello::NAME => Request::Hello(Hello::from_fields(Fields::of_params(params)?)?),
        list::NAME => Request::List(ListRequest::from_fields(Fields::of_params(params)?)?),
        stat::NAME => Request::Stat(StatRequest::from_fields(Fields::of_params(params)?)?),
        search::NAME => Request::Search(SearchRequest::from_fields(Fields::of_params(params)?)?),
        changes::NAME => Request::Changes(ChangesRequest::from_fields(Fields::of_params(params)?)?),
        hashes::NAME => Request::Hashes(HashesRequest::from_fields(Fields::of_params(params)?)?),
        snapshot::NAME => {
            Request::Snapshot(SnapshotRequest::from_fields(Fields::of_params(params)?)?)
        }
        system::LIST_METHODS => {
            system::nothing(&params)?;
            Request::ListMethods
        }
        system::METHOD_HELP => Request::MethodHelp(system::one_name(params)?),
        _ => {
            let text = "no such method; system.listMethods names them all";
            return Err(Fault::new(FaultCode::MethodNotFound, text));
        }
    };
    Ok(request)
}

/// Encodes the body of a response.
pub fn encode_response(response: &Result<Response, Fault>) -> Vec<u8> {
    let value = match response {
        Ok(Response::Hello(hello)) => hello.to_value(),
        Ok(Response::List(listing)) => listing.to_value(),
        Ok(Response::NoDirectory { counter }) => list::no_directory(*counter),
        Ok(Response::Stat(answers)) => answers.to_value(),
        Ok(Response::Search(page)) => page.to_value(),
        Ok(Response::Changes(changes)) => changes.to_value(),
        Ok(Response::Hashes(subtree)) => hashes::to_value(subtree),
        Ok(Response::Snapshot(snapshot)) => snapshot.to_value(),
        Ok(Response::ListMethods(names)) => system::names_to_value(names),
        Ok(Response::MethodHelp(text)) => Value::from(&**text),
        Err(fault) => return xmlrpc::write_fault(fault.code.number(), &one_line(&fault.message)),
    };
    xmlrpc::write_response(&value)
}

/// Decodes the body of the response to `request`, and checks that it fits the request.
pub fn decode_response(request: &Request, body: &[u8]) -> Result<Response, ResponseError> {
    let outcome = xmlrpc::read_response(body, &RESPONSE_LIMITS)
        .map_err(|error| ResponseError::Malformed(error.to_string()))?;
    match outcome {
        MethodResponse::Returned(value) => {
            result(request, value).map_err(|refusal| ResponseError::Malformed(refusal.into_text()))
        }
        MethodResponse::Fault { code, message } => {
            let code = FaultCode::from_number(code);
            Err(ResponseError::Fault(Fault::new(code, one_line(&message))))
        }
    }
}

fn result(request: &Request, value: Value) -> Result<Response, Refusal> {
    Ok(match request {
        Request::Hello(_) => Response::Hello(Hello::from_fields(Fields::of(value)?)?),
        Request::List(request) => list::from_fields(Fields::of(value)?, request)?,
        Request::Stat(request) => {
            Response::Stat(StatResponse::from_fields(Fields::of(value)?, request)?)
        }
        Request::Search(request) => {
            Response::Search(SearchPage::from_fields(Fields::of(value)?, request)?)
        }
        Request::Changes(_) => Response::Changes(Changes::from_fields(Fields::of(value)?)?),
        Request::Hashes(request) => {
            Response::Hashes(hashes::from_fields(Fields::of(value)?, request)?)
        }
        Request::Snapshot(request) => {
            Response::Snapshot(Snapshot::from_fields(Fields::of(value)?, request)?)
        }
        Request::ListMethods => Response::ListMethods(system::names_from_value(value)?),
        Request::MethodHelp(_) => Response::MethodHelp(text(value, "help")?),
    })
}

fn refuse_document(error: xmlrpc::Error) -> Fault {
    let code = match error {
        xmlrpc::Error::NotWellFormed(_) => FaultCode::NotWellFormed,
        xmlrpc::Error::NotXmlRpc(_) => FaultCode::InvalidRequest,
        xmlrpc::Error::Limit { .. } => FaultCode::LimitExceeded,
    };
    Fault::new(code, error.to_string())
}
