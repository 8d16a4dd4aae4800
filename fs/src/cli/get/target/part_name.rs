//! The name of a file until it is complete.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use data_encoding::BASE32_NOPAD as BASE32;
use sha2::{Digest, Sha256};
use tinyp2p_net::model::{MAX_NAME_BYTES, Name};

use crate::cli::get::plan::{Holder, Job};

const SUFFIX: &[u8] = b".tinyp2p-part";

/// How many bytes of NAME the name of a part contains, for people, so that the whole
/// name is not too long.
const MAX_NAME_IN_PART: usize = 180;

/// Characters of a digest in the name of a part: 16 bytes in base32.
const DIGEST_CHARS: usize = 26;

const _: () = assert!(
    1 + MAX_NAME_IN_PART + 1 + DIGEST_CHARS + 1 + DIGEST_CHARS + SUFFIX.len() <= MAX_NAME_BYTES
);

/// The name of a part: `.NAME.TARGET+CONTENT.tinyp2p-part`. TARGET is a digest of the file's whole
/// final name. CONTENT is a digest of its content root; while that is unknown, `-` replaces the
/// `+`, and CONTENT is a digest of the holder, path and version. NAME is the beginning of the
/// final name, for people. So a part belongs to one file and one content, however similar names
/// and versions look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PartName {
    whole: Vec<u8>,
    target: String,
    is_of_root: bool,
}

impl PartName {
    /// Creates the name for the file of `job`, from its content root or, while that is unknown,
    /// from what its holder has.
    pub(super) fn new(job: &Job) -> Self {
        match job.root {
            Some(root) => Self::with(&job.name, &digest(&[root.as_bytes()]), true),
            None => Self::of_version(&job.name, &job.holders[0]),
        }
    }

    pub(super) fn of_version(name: &Name, holder: &Holder) -> Self {
        let content = digest(&[
            holder.member.id.as_bytes(),
            &holder.version.0.to_be_bytes(),
            holder.path.as_bytes(),
        ]);
        Self::with(name, &content, false)
    }

    fn with(name: &Name, content: &str, is_of_root: bool) -> Self {
        let target = digest(&[name.as_bytes()]);
        let name = name.as_bytes();
        let kept = &name[..name.len().min(MAX_NAME_IN_PART)];
        let sign = if is_of_root { "+" } else { "-" };
        let digests = format!(".{target}{sign}{content}");
        Self {
            whole: [b".", kept, digests.as_bytes(), SUFFIX].concat(),
            target,
            is_of_root,
        }
    }

    /// Parses a name that [`PartName::new`] may have created.
    pub(super) fn parse(whole: &[u8]) -> Option<Self> {
        let rest = whole.strip_prefix(b".")?.strip_suffix(SUFFIX)?;
        let (rest, content) = rest.split_last_chunk::<DIGEST_CHARS>()?;
        let (sign, rest) = rest.split_last()?;
        let is_of_root = match sign {
            b'+' => true,
            b'-' => false,
            _ => return None,
        };
        let (rest, target) = rest.split_last_chunk::<DIGEST_CHARS>()?;
        let is_digest = |chars: &[u8]| BASE32.decode(&chars.to_ascii_uppercase()).is_ok();
        let is_ours = rest.ends_with(b".") && is_digest(target) && is_digest(content);
        is_ours.then(|| Self {
            whole: whole.to_vec(),
            target: String::from_utf8_lossy(target).into_owned(),
            is_of_root,
        })
    }

    /// Returns true for a part of the file with this final name.
    pub(super) fn is_of(&self, name: &Name) -> bool {
        self.target == digest(&[name.as_bytes()])
    }

    /// Returns true if the part belongs to content with a known root.
    pub(super) fn is_of_root(&self) -> bool {
        self.is_of_root
    }

    /// Returns true if the part is the beginning of the content of `job`, and not
    /// of something else.
    pub(super) fn is_usable_for(&self, job: &Job) -> bool {
        let mut holders = job.holders.iter();
        (job.root.is_some() && Self::new(job) == *self)
            || holders.any(|holder| Self::of_version(&job.name, holder) == *self)
    }

    pub(super) fn as_path(&self) -> &OsStr {
        OsStr::from_bytes(&self.whole)
    }
}

/// Returns the first half of a digest over all `fields`, of which only the last may vary in length.
fn digest(fields: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(field);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    BASE32.encode(&digest[..16]).to_ascii_lowercase()
}
