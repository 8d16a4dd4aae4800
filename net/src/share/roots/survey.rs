//! Goes through all files of the share once, to find those without a root.
//!
//! Nothing is opened for that: a directory is pinned, and its files are queried by their names in
//! it. Many files are collected before they are looked up together, in the order of the database.
//! Those without a root come out in the order of their directories.
//!
//! Links are passed over: a link's target has a path of its own. What lies in a file system that
//! may stop responding is queried where that can be abandoned, as for a listing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use super::store::{FileLocation, MissingOf, Roots};
use crate::error::Error;
use crate::model::{Kind, Name, RelPath, Root, Version};
use crate::share::Share;
use crate::share::errnos::is_exhaustion;
use crate::share::names::name_list::{EntryHint, NameList};
use crate::share::tree::nearby::NearbyDirectory;
use crate::share::tree::{ShareTree, join};

/// Files that are collected before they are looked up: three megabytes of memory.
const AT_ONCE: usize = 32_768;

/// Names that one step queries, which takes a millisecond if the disk is not needed.
const STEP: usize = 256;

/// A walk through the share.
#[derive(Default)]
pub(super) struct RootSurvey {
    /// The directories on the way to where it is; the last one is being walked.
    levels: Vec<SurveyLevel>,
    /// Files that have been queried and not yet looked up.
    collected: Vec<CollectedFile>,
    /// Files without a root, in the order in which they were found.
    rootless: VecDeque<(RelPath, Name)>,
    is_begun: bool,
}

struct SurveyLevel {
    path: RelPath,
    names: Arc<NameList>,
    /// The next name, and the next of the directories among them.
    name: usize,
    directory: usize,
}

struct CollectedFile {
    directory: RelPath,
    name: Name,
    version: Version,
    inode: u64,
    size: u64,
}

/// What a step of the walk has found.
pub(super) enum SurveyStep {
    /// There is more to walk.
    More,
    /// Contents whose place was not known.
    Places(Vec<(Root, FileLocation)>),
    /// Files of one directory that may have no root, at most as many as one step queries.
    Rootless(RelPath, Vec<Name>),
    /// Everything has been walked.
    End,
}

impl RootSurvey {
    /// Makes one step, of a few milliseconds unless the disk is slow.
    ///
    /// # Errors
    /// The database cannot be read, or this machine has run out of a resource. The survey can go
    /// on, but what is missing in between may not be found.
    pub(super) fn step(&mut self, share: &Share, roots: &Roots) -> Result<SurveyStep, Error> {
        if let Some((directory, name)) = self.rootless.pop_front() {
            return Ok(self.rootless_of(directory, name));
        }
        let tree = match share.tree() {
            Ok(tree) => tree,
            Err(error) if is_exhaustion(error) => return Err(exhausted(error)),
            // Another survey begins when there is something again.
            Err(_) => return Ok(SurveyStep::End),
        };
        if !self.is_begun {
            self.is_begun = true;
            self.enter(share, &tree, RelPath::root())?;
        }
        let is_over = !self.walk(share, &tree)?;
        if self.collected.len() >= AT_ONCE || (is_over && !self.collected.is_empty()) {
            return Ok(SurveyStep::Places(self.look_up(roots)?));
        }
        Ok(if is_over {
            SurveyStep::End
        } else {
            SurveyStep::More
        })
    }

    /// Takes all that directly follow in the same directory.
    fn rootless_of(&mut self, directory: RelPath, first: Name) -> SurveyStep {
        let mut names = vec![first];
        while names.len() < STEP
            && self
                .rootless
                .front()
                .is_some_and(|(other, _)| *other == directory)
            && let Some((_, name)) = self.rootless.pop_front()
        {
            names.push(name);
        }
        SurveyStep::Rootless(directory, names)
    }

    /// Queries the next names, or enters the next directory. Returns false at the end.
    fn walk(&mut self, share: &Share, tree: &Arc<ShareTree>) -> Result<bool, Error> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        if level.name < level.names.len() {
            let end = level.names.len().min(level.name + STEP);
            let range = level.name..end;
            level.name = end;
            collect(tree, level, range, &mut self.collected);
            return Ok(true);
        }
        let Some(index) = level.names.directory(level.directory) else {
            self.levels.pop();
            return Ok(true);
        };
        level.directory += 1;
        if let Ok(path) = join(&level.path, level.names.get(index).0) {
            self.enter(share, tree, path)?;
        }
        Ok(true)
    }

    /// Enters a directory, unless it is gone or cannot be read.
    fn enter(&mut self, share: &Share, tree: &Arc<ShareTree>, path: RelPath) -> Result<(), Error> {
        match share.real_names(tree, &path) {
            Ok(names) => self.levels.push(SurveyLevel {
                path,
                names,
                name: 0,
                directory: 0,
            }),
            Err(error) if is_exhaustion(error) => return Err(exhausted(error)),
            Err(error) => tracing::debug!(%path, %error, "is not looked through for roots"),
        }
        Ok(())
    }

    /// Looks all collected files up. Returns those whose content is known to lie nowhere.
    fn look_up(&mut self, roots: &Roots) -> Result<Vec<(Root, FileLocation)>, Error> {
        let collected = std::mem::take(&mut self.collected);
        let versions: Vec<Version> = collected.iter().map(|file| file.version).collect();
        let mut places = Vec::new();
        for (file, missing) in collected.into_iter().zip(roots.missing(&versions)?) {
            match missing {
                MissingOf::Nothing => {}
                MissingOf::Root => self.rootless.push_back((file.directory, file.name)),
                MissingOf::Place(root) => {
                    if let Ok(path) = file.directory.join(&file.name) {
                        let (inode, size) = (file.inode, file.size);
                        places.push((root, FileLocation { path, inode, size }));
                    }
                }
            }
        }
        Ok(places)
    }
}

/// Adds the files with these numbers to what is `collected`.
fn collect(
    tree: &Arc<ShareTree>,
    level: &SurveyLevel,
    numbers: Range<usize>,
    collected: &mut Vec<CollectedFile>,
) {
    let Ok(pinned) = tree.find(&level.path) else {
        return;
    };
    let files = numbers.filter(|number| level.names.get(*number).1 == EntryHint::File);
    let mut add = |number, version, inode, size| {
        if size > 0
            && let Ok(name) = Name::new(level.names.get(number).0)
        {
            let directory = level.path.clone();
            collected.push(CollectedFile {
                directory,
                name,
                version,
                inode,
                size,
            });
        }
    };
    if let Some(nearby) = NearbyDirectory::new(&pinned) {
        for number in files {
            if let Some(state) = nearby.state(level.names.get(number).0) {
                add(number, state.version(), state.inode(), state.size());
            }
        }
        return;
    }
    let numbers: Vec<usize> = files.collect();
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
        return;
    };
    let Ok(entries) = tree.entries(&pinned, &level.names, *first..last + 1) else {
        return;
    };
    for (number, entry) in (*first..).zip(entries) {
        if let Ok(Some(file)) = entry
            && file.kind == Kind::File
            && numbers.binary_search(&number).is_ok()
        {
            // Its number is not known without another query.
            add(number, file.version, 0, file.size.or_zero());
        }
    }
}

fn exhausted(error: Errno) -> Error {
    Error::local("looking through the share for content roots", error)
}
