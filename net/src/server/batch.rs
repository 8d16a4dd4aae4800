//! `POST /batch`: many small files in one response, each with its own status.
//!
//! The files are opened and read one after the other on one blocking thread of the caller's own, as
//! `GET /files/PATH` would do it: what changes while it is read is answered as changed. The response
//! is put together before it is sent; its size is bounded, and so is what a request can cost.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::Body;
use super::routes::{Caller, status};
use super::rpc::read_body;
use crate::share::{Asker, BUDGET, Share, SharedFile, is_changed};
use crate::types::{Kind, Version};
use crate::wire::{
    BatchAnswer, BatchBody, BatchItem, FaultCode, MAX_BATCH_REQUEST, MAX_SMALL_FILE, decode_batch,
};

/// Answers one batch.
pub(super) async fn serve(request: Request<Incoming>, caller: &Caller) -> Response<Body> {
    let body = match read_body(request, MAX_BATCH_REQUEST, caller).await {
        Ok(body) => body,
        Err(code) => return status(code),
    };
    let Ok(items) = decode_batch(&body) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let share = caller.context.service.share.clone();
    let asker = Asker::Member(caller.connection.member);
    let work = caller
        .connection
        .work
        .run(move || answer(share.as_deref(), &items, asker, Instant::now() + BUDGET));
    match work.await {
        Ok(encoded) => {
            let mut response = Response::new(Body::full(Bytes::from(encoded)));
            let octets = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, octets);
            response
        }
        Err(error) => {
            tracing::error!(%error, "a batch could not be answered");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// The whole response to `items`. What comes later than `until` is not looked for, and has to be asked for by itself.
fn answer(share: Option<&Share>, items: &[BatchItem], asker: Asker, until: Instant) -> Vec<u8> {
    let mut body = BatchBody::default();
    for (index, item) in items.iter().enumerate() {
        let others = items.len() - index - 1;
        let (version, answer) = match share {
            // Not even looked for.
            Some(_) if Instant::now() >= until => (None, BatchAnswer::TooLarge),
            Some(share) => read(share, item, asker, |size| body.has_room(size, others)),
            None => (None, BatchAnswer::NotFound),
        };
        body.push(version, &answer);
    }
    body.finish()
}

/// One file, for `asker`, with the version that it is in; `fits` tells whether so many bytes may be sent.
pub(crate) fn read(
    share: &Share,
    item: &BatchItem,
    asker: Asker,
    fits: impl Fn(u64) -> bool,
) -> (Option<Version>, BatchAnswer) {
    let file = match share.open_file(&item.path, asker) {
        Ok(file) => file,
        Err(fault) if fault.code == FaultCode::Internal => {
            tracing::warn!(path = %item.path, %fault, "a shared file cannot be opened");
            return (None, BatchAnswer::Failed);
        }
        Err(fault) if fault.code == FaultCode::Forbidden => {
            return (None, BatchAnswer::Forbidden);
        }
        Err(_) => return (None, BatchAnswer::NotFound),
    };
    let attributes = file.attributes();
    let version = Some(attributes.version);
    if attributes.kind != Kind::File {
        return (None, BatchAnswer::NotFound);
    }
    if attributes.version != item.version {
        return (version, BatchAnswer::Changed);
    }
    if attributes.size > MAX_SMALL_FILE || !fits(attributes.size) {
        return (version, BatchAnswer::TooLarge);
    }
    let answer = match read_whole(&file, attributes.size as usize) {
        Ok(bytes) => BatchAnswer::Whole(bytes),
        Err(error) if is_changed(&error) => BatchAnswer::Changed,
        Err(error) => {
            tracing::warn!(path = %item.path, %error, "a shared file cannot be read");
            BatchAnswer::Failed
        }
    };
    (version, answer)
}

fn read_whole(file: &SharedFile, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::server::harness::TestNode;
    use crate::types::RelPath;
    use crate::wire::decode_answers;

    #[test]
    fn files_are_not_looked_for_when_the_time_is_up() {
        let node = TestNode::start(1);
        let item = BatchItem {
            version: node.put("f", b"0123"),
            path: RelPath::new(b"f").unwrap(),
        };
        let nowhere = BatchItem {
            version: item.version,
            path: RelPath::new(b"nowhere").unwrap(),
        };
        let items = [item, nowhere];
        let answer = |until| {
            let body = super::answer(node.service.share.as_deref(), &items, Asker::Nobody, until);
            <[BatchAnswer; 2]>::try_from(decode_answers(&items, &body).unwrap()).unwrap()
        };
        assert_eq!(answer(Instant::now()), [const { BatchAnswer::TooLarge }; 2]);
        let whole = BatchAnswer::Whole(b"0123".to_vec());
        assert_eq!(
            answer(Instant::now() + BUDGET),
            [whole, BatchAnswer::NotFound]
        );
    }
}
