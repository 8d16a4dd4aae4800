//! `POST /batch`: many small files in one exchange, so that a directory of them does not cost a
//! round trip for each.
//!
//! The format is plain binary rather than XML-RPC, because base64 would make the bytes a third
//! larger. All integers are big-endian. PROTOCOL.md, section 7.1, has the layout.

use crate::model::{MAX_PATH_BYTES, RelPath, Version};

/// The most files in one request.
pub const MAX_BATCH_FILES: usize = 128;

/// The largest file that travels this way, in bytes. For larger files, a request of their own costs
/// less than the transfer.
pub const MAX_SMALL_FILE: u64 = 64 << 10;

/// The longest request, in bytes.
pub const MAX_BATCH_REQUEST: usize = MAX_BATCH_FILES * (ITEM_HEAD + MAX_PATH_BYTES);

/// The longest response, in bytes. Files that would exceed it are answered as too large.
pub const MAX_BATCH_RESPONSE: usize = 4 << 20;

/// The bytes before each path: version and length.
const ITEM_HEAD: usize = 8 + 2;

/// The bytes before each file's content: status, version and length.
const ANSWER_HEAD: usize = 2 + 8 + 4;

/// One file that is requested.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchItem {
    /// Where it lies in the share.
    pub path: RelPath,
    /// The version that the file must be in.
    pub version: Version,
}

/// The result for one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchAnswer {
    /// All bytes of the file, in the requested version.
    Whole(Vec<u8>),
    /// Nothing is shared there.
    NotFound,
    /// The file is in another version.
    Changed,
    /// The file is larger than [`MAX_SMALL_FILE`], or the response is full.
    TooLarge,
    /// The file is shared, but the callee itself may not read it.
    Forbidden,
    /// The callee's own disk or system failed.
    Failed,
}

impl BatchAnswer {
    /// Returns the corresponding HTTP status code.
    fn status(&self) -> u16 {
        match self {
            Self::Whole(_) => 200,
            Self::NotFound => 404,
            Self::Forbidden => 403,
            Self::Changed => 412,
            Self::TooLarge => 413,
            Self::Failed => 500,
        }
    }
}

/// Encodes the body of a request for `items`.
pub fn encode_batch(items: &[BatchItem]) -> Vec<u8> {
    let mut body = Vec::new();
    for item in items {
        let path = item.path.as_bytes();
        body.extend_from_slice(&item.version.0.to_be_bytes());
        // No path is longer than 4095 bytes.
        body.extend_from_slice(&(path.len() as u16).to_be_bytes());
        body.extend_from_slice(path);
    }
    body
}

/// Decodes the body of a request: 1 to [`MAX_BATCH_FILES`] files. The error says what is
/// wrong with it.
pub fn decode_batch(body: &[u8]) -> Result<Vec<BatchItem>, &'static str> {
    let mut rest = Rest(body);
    let mut items = Vec::new();
    while !rest.0.is_empty() {
        if items.len() == MAX_BATCH_FILES {
            return Err("more files than a batch may have");
        }
        let version = Version(u64::from_be_bytes(rest.take()?));
        let length = u16::from_be_bytes(rest.take()?);
        let path = RelPath::new(rest.bytes(usize::from(length))?).map_err(|_| "not a path")?;
        items.push(BatchItem { path, version });
    }
    if items.is_empty() {
        return Err("a batch without files");
    }
    Ok(items)
}

/// The body of a response under construction.
#[derive(Default)]
pub struct BatchBody(Vec<u8>);

impl BatchBody {
    /// Returns true if `size` bytes of another file fit, with room for the heads of
    /// `others` after it.
    pub fn has_room(&self, size: u64, others: usize) -> bool {
        let taken = self.0.len() + (1 + others) * ANSWER_HEAD;
        (taken as u64).saturating_add(size) <= MAX_BATCH_RESPONSE as u64
    }

    /// Adds the answer for the next file, whose present version is `version` if known.
    pub fn push(&mut self, version: Option<Version>, answer: &BatchAnswer) {
        let bytes: &[u8] = match answer {
            BatchAnswer::Whole(bytes) => bytes,
            _ => &[],
        };
        let version = version.map_or(0, |version| version.0);
        self.0.extend_from_slice(&answer.status().to_be_bytes());
        self.0.extend_from_slice(&version.to_be_bytes());
        // No file is longer than 64 KiB.
        self.0
            .extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// Returns the whole body.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Decodes the body of the response to a request for `items`: one answer each, in their order. The
/// error says which rule it breaks.
pub fn decode_answers(items: &[BatchItem], body: &[u8]) -> Result<Vec<BatchAnswer>, &'static str> {
    let mut rest = Rest(body);
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let status = u16::from_be_bytes(rest.take()?);
        let version = Version(u64::from_be_bytes(rest.take()?));
        let length = u32::from_be_bytes(rest.take()?);
        if u64::from(length) > MAX_SMALL_FILE || (status != 200 && length != 0) {
            return Err("more bytes than an answer in a batch may have");
        }
        let bytes = rest.bytes(length as usize)?;
        answers.push(match status {
            200 if version != item.version => {
                return Err("a file in another version than asked for");
            }
            200 => BatchAnswer::Whole(bytes.to_vec()),
            403 => BatchAnswer::Forbidden,
            404 => BatchAnswer::NotFound,
            412 => BatchAnswer::Changed,
            413 => BatchAnswer::TooLarge,
            500 => BatchAnswer::Failed,
            _ => return Err("an unknown status in a batch"),
        });
    }
    if rest.0.is_empty() {
        Ok(answers)
    } else {
        Err("more answers than files in a batch")
    }
}

/// The part of a body that is still unread.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a batch cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("a batch cut short")?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_item() -> impl Strategy<Value = BatchItem> {
        (vec(1u8..=255, 1..40), any::<u64>()).prop_filter_map("no path", |(bytes, version)| {
            let path = RelPath::new(&bytes).ok()?;
            Some(BatchItem {
                path,
                version: Version(version),
            })
        })
    }

    fn any_answer() -> impl Strategy<Value = BatchAnswer> {
        prop_oneof![
            vec(any::<u8>(), 0..300).prop_map(BatchAnswer::Whole),
            Just(BatchAnswer::NotFound),
            Just(BatchAnswer::Changed),
            Just(BatchAnswer::TooLarge),
            Just(BatchAnswer::Forbidden),
            Just(BatchAnswer::Failed),
        ]
    }

    fn encode_answers(answered: &[(BatchItem, BatchAnswer)]) -> Vec<u8> {
        let mut body = BatchBody::default();
        for (item, answer) in answered {
            body.push(Some(item.version), answer);
        }
        body.finish()
    }

    fn item(path: &[u8]) -> BatchItem {
        BatchItem {
            path: RelPath::new(path).unwrap(),
            version: Version(7),
        }
    }

    proptest! {
        #[test]
        fn requests_survive_the_round_trip(items in vec(any_item(), 1..=MAX_BATCH_FILES)) {
            let body = encode_batch(&items);
            prop_assert!(body.len() <= MAX_BATCH_REQUEST);
            prop_assert_eq!(decode_batch(&body), Ok(items));
        }

        #[test]
        fn answers_survive_the_round_trip(answered in vec((any_item(), any_answer()), 1..20)) {
            let body = encode_answers(&answered);
            let (items, answers): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
            prop_assert_eq!(decode_answers(&items, &body), Ok(answers));
        }

        #[test]
        fn short_or_long_body_is_refused(
            answered in vec((any_item(), any_answer()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut body = encode_answers(&answered);
            let (items, _): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
            prop_assert!(decode_answers(&items, &body[..cut.index(body.len())]).is_err());
            body.push(0);
            prop_assert!(decode_answers(&items, &body).is_err());
        }

        #[test]
        fn no_bytes_make_the_readers_panic(body in vec(any::<u8>(), 0..600)) {
            let _ = decode_batch(&body);
            let _ = decode_answers(&[item(b"a"), item(b"b")], &body);
        }
    }

    #[test]
    fn requests_beyond_the_bounds_are_refused() {
        let items = vec![item(b"a"); MAX_BATCH_FILES + 1];
        assert!(decode_batch(&encode_batch(&items)).is_err());
        assert!(decode_batch(&[]).is_err());
        let mut escape = encode_batch(&[item(b"xx")]);
        let end = escape.len();
        escape[end - 2..].copy_from_slice(b"..");
        assert!(decode_batch(&escape).is_err());
    }

    #[test]
    fn unrequested_answers_are_refused() {
        let items = [item(b"a")];
        let answer = |status: u16, version: u64, length: u32, bytes: usize| {
            let mut body = Vec::new();
            body.extend_from_slice(&status.to_be_bytes());
            body.extend_from_slice(&version.to_be_bytes());
            body.extend_from_slice(&length.to_be_bytes());
            body.resize(body.len() + bytes, 0);
            decode_answers(&items, &body)
        };
        assert_eq!(answer(200, 7, 1, 1), Ok(vec![BatchAnswer::Whole(vec![0])]));
        assert!(answer(200, 8, 1, 1).is_err());
        assert!(answer(206, 7, 1, 1).is_err());
        assert!(answer(404, 7, 1, 1).is_err());
        let too_long = MAX_SMALL_FILE as u32 + 1;
        assert!(answer(200, 7, too_long, too_long as usize).is_err());
        assert!(answer(200, 7, u32::MAX, 0).is_err());
    }

    #[test]
    fn full_response_has_room_for_every_head() {
        let mut body = BatchBody::default();
        let mut left = MAX_BATCH_FILES;
        while left > 0 {
            left -= 1;
            let fits = body.has_room(MAX_SMALL_FILE, left);
            let answer = if fits {
                BatchAnswer::Whole(vec![1; MAX_SMALL_FILE as usize])
            } else {
                BatchAnswer::TooLarge
            };
            body.push(None, &answer);
        }
        let length = body.finish().len();
        assert!(length <= MAX_BATCH_RESPONSE && length > MAX_BATCH_RESPONSE - (70 << 10));
    }
}
