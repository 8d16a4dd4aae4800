//! `tinyp2p.hashes`: part of the hash tree of one content, so that its blocks can be checked one by
//! one.

use super::fields::{Fields, Refusal, structure};
use crate::content::merkle::{Hash, SUBTREE_BLOCKS, Subtree};
use crate::model::Root;
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.hashes";

pub(super) const HELP: &str = "\
struct tinyp2p.hashes(struct)
The hashes of consecutive blocks (16 KiB) of a content, with the proof that they belong to its root
(BEP 52). Parameter: root (base64, 32 bytes), first (int, the number of the first block, a multiple of
span), span (int, a power of two up to 512). Result: leaves (base64, 32 bytes for each block that the
content has there), uncles (base64, the sibling on each level up to the root, lowest first).";

/// The most uncles; a file of 2^63 bytes has fewer levels.
const MAX_UNCLES: usize = 64;

/// Asks for the leaves of `span` blocks of `root` from block `first` on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashesRequest {
    /// The content whose tree is requested.
    pub root: Root,
    /// The number of the first block, a multiple of `span`.
    pub first: u64,
    /// How many blocks: a power of two up to [`SUBTREE_BLOCKS`].
    pub span: u64,
}

impl HashesRequest {
    pub(super) fn to_value(&self) -> Value {
        structure([
            ("root", Value::Bytes(self.root.as_bytes().to_vec())),
            ("first", Value::Int(self.first as i64)),
            ("span", Value::Int(self.span as i64)),
        ])
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let root = fields.bytes("root")?.try_into();
        let root = root.map_err(|_| Refusal::invalid("'root' must have 32 bytes"))?;
        let (first, span): (u64, u64) = (fields.integer("first")?, fields.integer("span")?);
        if !span.is_power_of_two() || span > SUBTREE_BLOCKS || !first.is_multiple_of(span) {
            return Err(Refusal::invalid(
                "'span' must be a power of two up to 512 that divides 'first'",
            ));
        }
        Ok(Self {
            root: Root::from_bytes(root),
            first,
            span,
        })
    }
}

pub(super) fn to_value(subtree: &Subtree) -> Value {
    structure([
        ("leaves", Value::Bytes(subtree.leaves.concat())),
        ("uncles", Value::Bytes(subtree.uncles.concat())),
    ])
}

/// Reads the answer to `request`. Nothing in it is proven yet.
pub(super) fn from_fields(mut fields: Fields, request: &HashesRequest) -> Result<Subtree, Refusal> {
    let leaves = hashes(&fields.bytes("leaves")?, request.span as usize, "leaves")?;
    let uncles = hashes(&fields.bytes("uncles")?, MAX_UNCLES, "uncles")?;
    Ok(Subtree {
        first: request.first,
        span: request.span,
        leaves,
        uncles,
    })
}

fn hashes(bytes: &[u8], max: usize, name: &str) -> Result<Vec<Hash>, Refusal> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(Refusal::Invalid(format!(
            "'{name}' must have 32 bytes per hash"
        )));
    }
    if hashes.len() > max {
        return Err(Refusal::too_much(max, name));
    }
    Ok(hashes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::of(value).unwrap()
    }

    #[test]
    fn request_and_answer_survive_the_round_trip() {
        let request = HashesRequest {
            root: Root::from_bytes([3; 32]),
            first: 1024,
            span: 512,
        };
        assert_eq!(
            HashesRequest::from_fields(fields(request.to_value())),
            Ok(request.clone())
        );
        let subtree = Subtree {
            first: 1024,
            span: 512,
            leaves: vec![[1; 32], [2; 32]],
            uncles: vec![[4; 32]],
        };
        assert_eq!(
            from_fields(fields(to_value(&subtree)), &request),
            Ok(subtree)
        );
    }

    #[test]
    fn surplus_leaves_are_refused() {
        let request = HashesRequest {
            root: Root::from_bytes([3; 32]),
            first: 0,
            span: 2,
        };
        for leaves in [vec![0; 96], vec![0; 33]] {
            let answer = structure([
                ("leaves", Value::Bytes(leaves)),
                ("uncles", Value::Bytes(vec![])),
            ]);
            assert!(from_fields(fields(answer), &request).is_err());
        }
    }

    #[test]
    fn spans_that_no_subtree_has_are_refused() {
        for (first, span) in [(0, 0), (0, 3), (0, 1024), (4, 8), (-1, 1)] {
            let root = ("root", Value::Bytes(vec![0; 32]));
            let call = structure([
                root,
                ("first", Value::Int(first)),
                ("span", Value::Int(span)),
            ]);
            assert!(
                HashesRequest::from_fields(fields(call)).is_err(),
                "{first} {span}"
            );
        }
    }
}
