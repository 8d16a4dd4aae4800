//! Extended attributes: what is known of a file or directory beyond what a `stat` shows.
//!
//! They are found when requested by name. All but one are answered from memory.
//! [`XATTR_INFO`] names the other contents of the same path; for that, the directory is
//! listed if it was not listed recently.

use std::collections::HashMap;

use tinyp2p_net::model::{Kind, RelPath};

use super::Filesystem;
use super::control_fs::is_hidden;
use super::inodes::{Inode, ROOT};
use crate::errno::Error;
use crate::report::info::{Info, InfoHolder};
use crate::view::Wait;
use crate::view::conflicts::Evidence;
use crate::view::merge::Item;

/// Extended attribute: the content root, 64 hexadecimal digits.
pub const XATTR_ROOT: &[u8] = b"user.tinyp2p.root";
/// Extended attribute: who has it, one `name peerid` a line.
pub const XATTR_SOURCES: &[u8] = b"user.tinyp2p.sources";
/// Extended attribute: how many of the file's bytes this node holds, in decimal.
pub const XATTR_CACHED: &[u8] = b"user.tinyp2p.cached";
/// Extended attribute: all of that and more, as one JSON object ([`Info`]).
pub const XATTR_INFO: &[u8] = b"user.tinyp2p.info";

impl Filesystem {
    /// The value of one extended attribute.
    pub fn xattr(&self, number: u64, name: &[u8], wait: Wait) -> Result<Vec<u8>, Error> {
        if !name.starts_with(b"user.") {
            return Err(Error::NoNamespace);
        }
        if is_hidden(number) {
            return Err(Error::NoAttribute);
        }
        let inode = self.inode(number)?;
        match name {
            XATTR_ROOT => {
                let root = inode.root().ok_or(Error::NoAttribute)?;
                Ok(root.to_string().into_bytes())
            }
            XATTR_SOURCES if !inode.sources.is_empty() => Ok(describe_sources(&inode)),
            XATTR_CACHED if inode.kind() == Kind::File => {
                Ok(self.cached(number, &inode).to_string().into_bytes())
            }
            XATTR_INFO => Ok(self.info(number, &inode, wait)?.value().into_bytes()),
            _ => Err(Error::NoAttribute),
        }
    }

    fn info(&self, number: u64, inode: &Inode, wait: Wait) -> Result<Info, Error> {
        let (conflicts, comparing) = self.conflicts(inode, wait)?;
        let status = self.network.status().members.into_iter();
        let mut places: HashMap<String, _> = status
            .map(|member| (member.peer_id, (member.address, member.route)))
            .collect();
        let mut members: Vec<_> = inode.sources.iter().map(|s| (*s.member).clone()).collect();
        if number == ROOT {
            // The root is never looked up, and everybody has one.
            members = self.network.members();
        }
        let sources = members.into_iter().map(|member| {
            let peer_id = member.id.to_string();
            let (address, route) = places.remove(&peer_id).unwrap_or_default();
            InfoHolder {
                name: member.name.to_string(),
                address,
                route,
                peer_id,
            }
        });
        Ok(Info {
            kind: match inode.kind() {
                Kind::File => "file".to_owned(),
                Kind::Directory => "directory".to_owned(),
            },
            size: inode.size.or_zero(),
            mtime: inode.mtime.in_nanoseconds(),
            root: inode.root().map(|root| root.to_string()),
            sources: sources.collect(),
            cached: self.cached(number, inode),
            conflicts,
            comparing,
        })
    }

    /// Returns the names in the merged tree of other contents of the same path, and those of them
    /// that may be the same for all that is known. What cannot be known counts as none.
    fn conflicts(&self, inode: &Inode, wait: Wait) -> Result<(Vec<String>, Vec<String>), Error> {
        let Some((directory, name)) = RelPath::split(&inode.path) else {
            return Ok(Default::default());
        };
        let listing = match self.view.list(&directory, wait) {
            Ok(listing) => listing,
            Err(Error::NeedsNetwork) => return Err(Error::NeedsNetwork),
            Err(_) => return Ok(Default::default()),
        };
        let of_path = || {
            let items = listing.items.iter();
            items.filter(|item| *item.name_at_members() == name)
        };
        let this = of_path().find(|item| inode.is(item));
        let text = |item: &Item| String::from_utf8_lossy(item.name.as_bytes()).into_owned();
        let (mut conflicts, mut comparing) = (Vec::new(), Vec::new());
        for other in of_path().filter(|item| !inode.is(item)) {
            conflicts.push(text(other));
            if this.is_some_and(|this| Evidence::between(this, other) == Evidence::Open) {
                comparing.push(text(other));
            }
        }
        Ok((conflicts, comparing))
    }

    /// Returns how many bytes of a file this node holds: on disk, or in memory if that is more.
    fn cached(&self, number: u64, inode: &Inode) -> u64 {
        let content = inode.content();
        let on_disk = content.map_or(0, |content| self.engine.cached_bytes(content));
        let files = self.files.all().into_iter();
        let held = files.filter(|file| file.number == number);
        let held = held.map(|file| file.download.lock().1.held_bytes()).max();
        on_disk.max(held.unwrap_or(0))
    }
}

/// One `name peerid` a line.
fn describe_sources(inode: &Inode) -> Vec<u8> {
    let sources = inode.sources.iter();
    let lines = sources.map(|source| format!("{} {}", source.member.name, source.member.id));
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}
