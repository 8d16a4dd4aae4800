//! `.tinyp2p/` in the root of the mount: never listed there, but there when asked for by name, so that
//! `find`, `cp -r` and indexers do not come across it.
//!
//! Its files are made when they are opened, from what this node knows, without asking anybody. Each open
//! file is one state, however long it is read. As in `/proc`, their size is told as 0: it is not known
//! before, and programs read such a file to its end.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tinyp2p_net::types::Kind;

use crate::errno::Error;
use crate::filesystem::{Attr, DirectoryEntry, Looked, ReadDone};
use crate::handles::Handles;
use crate::inodes::ROOT;
use crate::network::Network;
use crate::status::{Place, Report};
use crate::view::RESERVED;

/// The number of the directory; those of its files follow. Other inodes are counted from below and never
/// get here.
const DIRECTORY: u64 = 1 << 62;

/// Marks the handles of files that are open here; other handles never have it.
const OPEN: u64 = 1 << 63;

/// The files by name, in the order of their numbers, and what is in each.
const FILES: [(&str, fn(&Report) -> Vec<u8>); 2] = [
    ("status", |report| report.text().into_bytes()),
    ("status.json", |report| report.json().into_bytes()),
];

/// The directory and its files.
pub struct Hidden {
    network: Arc<dyn Network>,
    place: Place,
    open: Handles<Vec<u8>>,
}

/// True for the handle of a file that was opened here.
pub fn is_open(handle: u64) -> bool {
    handle & OPEN != 0
}

impl Hidden {
    /// Tells of the node behind `network`, which is at `place`.
    pub fn new(network: Arc<dyn Network>, place: Place) -> Self {
        Self {
            network,
            place,
            open: Handles::default(),
        }
    }

    /// Finds `name` in `parent`; `None` when that is somebody else's business.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Option<Result<Looked, Error>> {
        let number = match parent {
            ROOT if name == RESERVED => Some(DIRECTORY),
            DIRECTORY => {
                let mut names = FILES.iter().map(|(name, _)| name.as_bytes());
                names.position(|file| file == name).map(file_number)
            }
            _ => {
                return file(parent).map(|_| Err(Error::NotADirectory));
            }
        };
        let found = number.and_then(|number| self.attr(number));
        if found.is_none() && parent == ROOT {
            return None;
        }
        Some(Ok(
            found.map_or(Looked::Absent { certain: true }, Looked::Found)
        ))
    }

    /// What a `stat` tells; `None` when `number` is not one of these.
    pub fn attr(&self, number: u64) -> Option<Attr> {
        let kind = match number {
            DIRECTORY => Kind::Directory,
            number => file(number).map(|_| Kind::File)?,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.ok().and_then(|now| i64::try_from(now.as_nanos()).ok());
        Some(Attr {
            inode: number,
            kind,
            size: 0,
            mtime: now.unwrap_or(0),
        })
    }

    /// Hands the entries of the directory to `emit`, from `offset` on, until it has no room for one.
    pub fn list(
        &self,
        parent: Attr,
        offset: u64,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) {
        let dots = [
            (&b"."[..], self.attr(DIRECTORY)),
            (&b".."[..], Some(parent)),
        ];
        let files = FILES.iter().enumerate();
        let files =
            files.map(|(index, (name, _))| (name.as_bytes(), self.attr(file_number(index))));
        for (next, (name, attr)) in (1..).zip(dots.into_iter().chain(files)) {
            let Some(attr) = attr.filter(|_| next > offset) else {
                continue;
            };
            if !emit(DirectoryEntry { name, next, attr }) {
                return;
            }
        }
    }

    /// Opens a file, in its present state; `None` when `number` is not one of these.
    pub fn open(&self, number: u64) -> Option<Result<u64, Error>> {
        if number == DIRECTORY {
            return Some(Err(Error::IsADirectory));
        }
        let (_, content) = file(number)?;
        let report = Report::new(self.place.clone(), self.network.status());
        Some(Ok(self.open.insert(content(&report)) | OPEN))
    }

    /// Reads at most `size` bytes at `offset`, at once.
    pub fn read(&self, handle: u64, offset: u64, size: u32, done: ReadDone) {
        let Some(content) = self.open.get(handle & !OPEN) else {
            return done(Err(Error::UnknownHandle));
        };
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let end = start.saturating_add(size as usize).min(content.len());
        done(Ok(&content[start..end]));
    }

    /// Closes an open file.
    pub fn release(&self, handle: u64) {
        self.open.remove(handle & !OPEN);
    }
}

fn file_number(index: usize) -> u64 {
    DIRECTORY + 1 + index as u64
}

fn file(number: u64) -> Option<&'static (&'static str, fn(&Report) -> Vec<u8>)> {
    let index = number.checked_sub(DIRECTORY + 1)?;
    FILES.get(usize::try_from(index).ok()?)
}
