//! Many small files in one answer, each with its own status.
//!
//! The files are opened and read one after another, as a request for each would do it: a file that
//! changes while it is read is reported as changed. The size of the answer is limited, and so is
//! the cost of a request.

use std::io;
use std::time::Instant;

use crate::content::read_full::read_full;
use crate::model::{Kind, Version};
use crate::protocol::wire::{BatchAnswer, BatchBody, BatchItem, FaultCode, MAX_SMALL_FILE};
use crate::share::{Asker, Share, SharedFile, is_changed};

/// Returns the whole response to `items`. Files whose turn comes after `until` are not looked for,
/// and have to be requested separately.
pub(crate) fn answer(
    share: Option<&Share>,
    items: &[BatchItem],
    asker: Asker,
    until: Instant,
) -> Vec<u8> {
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

/// Reads one file, for `asker`, with its current version; `fits` returns whether this many bytes
/// may be sent.
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
    if file.size() > MAX_SMALL_FILE || !fits(file.size()) {
        return (version, BatchAnswer::TooLarge);
    }
    let answer = match read_whole(&file, file.size() as usize) {
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
    let filled = read_full(0, &mut bytes, |at, part| file.read_at(at, part))?;
    if filled < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::RelPath;
    use crate::protocol::wire::decode_answers;
    use crate::server::harness::TestNode;
    use crate::share::BUDGET;

    #[test]
    fn no_file_is_sought_past_the_deadline() {
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
            let body = crate::service::batch::answer(
                node.service.share.as_deref(),
                &items,
                Asker::Nobody,
                until,
            );
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
