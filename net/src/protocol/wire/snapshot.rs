//! `tinyp2p.snapshot`: the root of the content that a file has, or had in a certain version.

use super::fields::{Fields, Refusal, members};
use crate::model::{ContentId, RelPath, Root, Version};
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.snapshot";

pub(super) const HELP: &str = "\
struct tinyp2p.snapshot(struct)
The content that a file had in a version, if that is known, or else has now. Parameter: path (string or
base64), version (i8), size (i8, what the caller knows the file to have), read (boolean, may be left out: whether
the file is to be read if need be), root and prefix (base64 and i8, may be left out: a content with which the file
may begin). Result: version (i8), size (i8), root (base64, 32 bytes), begins (boolean: whether it begins with that
content).";

/// Asks for the content of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRequest {
    /// Where the file lies, or lay.
    pub path: RelPath,
    /// The version that the caller knows.
    pub version: Version,
    /// The file's size as the caller knows it; a smaller size will not do.
    pub size: u64,
    /// Whether to read the file to compute its root, which takes a while. The answer then describes
    /// the present content, which may be another version.
    pub may_read: bool,
    /// A content that the file may begin with.
    pub prefix: Option<ContentId>,
}

/// The content of one file at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The version of the file: the requested one, or a later one.
    pub version: Version,
    /// The content of the file in that version.
    pub content: ContentId,
    /// Whether it begins with [`SnapshotRequest::prefix`].
    pub is_prefix: bool,
}

impl SnapshotRequest {
    pub(super) fn to_value(&self) -> Value {
        let path = Value::from_bytes_text(self.path.as_bytes());
        let needed = [
            ("path", path),
            ("version", version_to_value(self.version)),
            ("size", Value::Int(self.size as i64)),
        ];
        let read = self.may_read.then_some(("read", Value::Boolean(true)));
        let prefix = self.prefix.into_iter().flat_map(|prefix| {
            [
                ("root", Value::Bytes(prefix.root.as_bytes().to_vec())),
                ("prefix", Value::Int(prefix.size as i64)),
            ]
        });
        members(needed.into_iter().chain(read).chain(prefix))
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let prefix = match fields.optional("prefix") {
            None => None,
            Some(Value::Int(size)) => Some(ContentId {
                size: u64::try_from(size).map_err(|_| Refusal::invalid("'prefix' is negative"))?,
                root: root(&mut fields)?,
            }),
            Some(_) => return Err(Refusal::invalid("'prefix' must be an integer")),
        };
        Ok(Self {
            path: fields.path("path")?,
            version: version(&mut fields)?,
            size: fields.integer("size")?,
            may_read: fields.optional_flag("read")?,
            prefix,
        })
    }
}

impl Snapshot {
    pub(super) fn to_value(self) -> Value {
        let root = self.content.root.as_bytes().to_vec();
        let all = [
            ("version", version_to_value(self.version)),
            ("size", Value::Int(self.content.size as i64)),
            ("root", Value::Bytes(root)),
            ("begins", Value::Boolean(self.is_prefix)),
        ];
        members(all.into_iter())
    }

    /// Reads the answer to `request`. Nothing in it is proven.
    pub(super) fn from_fields(
        mut fields: Fields,
        request: &SnapshotRequest,
    ) -> Result<Self, Refusal> {
        let size: u64 = fields.integer("size")?;
        let is_prefix = fields.boolean("begins")?;
        if size == 0 {
            return Err(Refusal::invalid("an empty file has no root"));
        }
        if is_prefix && request.prefix.is_none_or(|prefix| prefix.size > size) {
            return Err(Refusal::invalid("a file that begins with more than it has"));
        }
        Ok(Self {
            version: version(&mut fields)?,
            content: ContentId {
                root: root(&mut fields)?,
                size,
            },
            is_prefix,
        })
    }
}

/// Encodes a version: its 64 bits, read as signed.
fn version_to_value(version: Version) -> Value {
    Value::Int(version.0.cast_signed())
}

fn version(fields: &mut Fields) -> Result<Version, Refusal> {
    Ok(Version(fields.integer::<i64>("version")?.cast_unsigned()))
}

fn root(fields: &mut Fields) -> Result<Root, Refusal> {
    let root = fields.bytes("root")?.try_into();
    root.map(Root::from_bytes)
        .map_err(|_| Refusal::invalid("'root' must have 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64) -> ContentId {
        ContentId {
            root: Root::from_bytes([3; 32]),
            size,
        }
    }

    fn request(prefix: Option<ContentId>) -> SnapshotRequest {
        SnapshotRequest {
            path: RelPath::new(b"a/log").unwrap(),
            version: Version(u64::MAX - 1),
            size: 7,
            may_read: prefix.is_some(),
            prefix,
        }
    }

    fn fields(value: Value) -> Fields {
        Fields::of(value).unwrap()
    }

    #[test]
    fn request_and_answer_survive_the_round_trip() {
        for prefix in [None, Some(content(5))] {
            let request = request(prefix);
            let read = SnapshotRequest::from_fields(fields(request.to_value()));
            assert_eq!(read, Ok(request.clone()));
            let answer = Snapshot {
                version: Version(u64::MAX),
                content: content(9),
                is_prefix: prefix.is_some(),
            };
            let read = Snapshot::from_fields(fields(answer.to_value()), &request);
            assert_eq!(read, Ok(answer));
        }
    }

    #[test]
    fn answers_that_cannot_be_are_refused() {
        let answer = |size, is_prefix| Snapshot {
            version: Version(1),
            content: content(size),
            is_prefix,
        };
        for (asked, answer) in [
            (None, answer(0, false)),
            (None, answer(9, true)),
            (Some(content(10)), answer(9, true)),
        ] {
            let value = fields(answer.to_value());
            assert!(Snapshot::from_fields(value, &request(asked)).is_err());
        }
    }
}
