//! Directories of every kind: one state of each is taken when its first entry is requested, then
//! handed out entry by entry.

use std::sync::Arc;

use tinyp2p_net::model::{Name, RelPath, UnixTime};

use super::control_fs::{MEMBERS, is_hidden};
use super::handles::{DirectoryKind, DirectorySnapshot, OpenDirectory, UpcomingEntries};
use super::inodes::{Inodes, ROOT, Vantage};
use super::{Attr, DirectoryEntry, Filesystem, LookupResult, join};
use crate::errno::Error;
use crate::view::{NameLookup, Wait};

/// The maximum number of entries that are prepared ahead: about as many as fit the largest answer.
const MAX_AHEAD: usize = 1024;

impl Filesystem {
    /// Does the work of [`Filesystem::readdirplus`] for what is `open`.
    pub(super) fn list(
        &self,
        open: &OpenDirectory,
        offset: u64,
        wait: Wait,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let begun = open.snapshot.lock().clone().filter(|_| offset > 0);
        let snapshot = match (begun, &open.what) {
            (Some(snapshot), _) => Some(snapshot),
            (None, DirectoryKind::Own) => None,
            (None, what) => {
                let snapshot = self.snapshot(what, wait)?;
                *open.snapshot.lock() = Some(snapshot.clone());
                Some(snapshot)
            }
        };
        let dots = self.dots(open, snapshot.as_ref())?;
        let mut has_emitted = false;
        for ((next, name), attr) in (1..).zip([&b"."[..], b".."]).zip(dots) {
            if next > offset && !emit(DirectoryEntry { name, next, attr }) {
                return Ok(());
            }
            has_emitted |= next > offset;
        }
        let Some(snapshot) = snapshot else {
            return self.hidden.list(open.number, offset, emit);
        };
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        let mut ahead = open.ahead.lock();
        let mut inodes = self.inodes.lock();
        ahead.has_left_out &= first > 0;
        let mut ready = ahead.take(first, &mut inodes).into_iter();
        let mut reached = first;
        for index in first..snapshot.len() {
            let number = match ready.next() {
                Some(number) => number,
                None => snapshot.assign(index, &open.what, &mut inodes),
            };
            // A path that is too long cannot be named in any other way either.
            ahead.has_left_out |= number.is_none();
            let entry = number.and_then(|number| Some((number, inodes.get(number)?)));
            if let Some((number, inode)) = entry {
                let attr = Attr {
                    // The kernel asks again, and hears of the new size then.
                    may_grow: inodes.growing_from(number).is_some(),
                    ..Attr::of(number, inode)
                };
                let (name, next) = (snapshot.name(index), index as u64 + 3);
                if !emit(DirectoryEntry { name, next, attr }) {
                    inodes.forget(number, 1);
                    break;
                }
                has_emitted = true;
            }
            reached = index + 1;
        }
        for number in ready.flatten() {
            inodes.forget(number, 1);
        }
        (ahead.reached, ahead.last) = (reached, reached - first.min(reached));
        // After everything that can be named, the program must learn that this was not all.
        if !has_emitted && ahead.has_left_out && reached >= snapshot.len() {
            return Err(Error::NameTooLong);
        }
        Ok(())
    }

    /// Does the work of [`Filesystem::readdirplus_ahead`] for what is `open`.
    pub(super) fn list_ahead(&self, open: &OpenDirectory) {
        let Some(snapshot) = open.snapshot.lock().clone() else {
            return;
        };
        let mut ahead = open.ahead.lock();
        if ahead.is_closed || !ahead.numbers.is_empty() {
            return;
        }
        let entries = ahead.reached
            ..snapshot
                .len()
                .min(ahead.reached + ahead.last.min(MAX_AHEAD));
        let mut inodes = self.inodes.lock();
        ahead.numbers = entries
            .map(|index| snapshot.assign(index, &open.what, &mut inodes))
            .collect();
    }

    /// Takes back what was assigned ahead and is no longer requested.
    pub(super) fn close(&self, open: &OpenDirectory) {
        let mut ahead = open.ahead.lock();
        ahead.is_closed = true;
        ahead.take(usize::MAX, &mut self.inodes.lock());
    }

    /// Takes the present state of a directory.
    fn snapshot(&self, what: &DirectoryKind, wait: Wait) -> Result<DirectorySnapshot, Error> {
        Ok(match what {
            DirectoryKind::Tree(tree, path) => {
                DirectorySnapshot::Directory(self.view(*tree).list(path, wait)?)
            }
            DirectoryKind::Found(pattern) => {
                DirectorySnapshot::Found(self.searches.find(pattern, wait)?)
            }
            DirectoryKind::Members | DirectoryKind::Own => {
                DirectorySnapshot::Members(self.network.members().into())
            }
        })
    }

    /// Returns `.` and `..` of a directory whose `snapshot` has just been taken.
    fn dots(
        &self,
        open: &OpenDirectory,
        snapshot: Option<&DirectorySnapshot>,
    ) -> Result<[Attr; 2], Error> {
        if let Some(DirectorySnapshot::Directory(listing)) = snapshot
            && let Some(mtime) = listing.mtime
            && let Some(inode) = self.inodes.lock().get_mut(open.number)
        {
            inode.mtime = mtime;
        }
        let above = match &open.what {
            DirectoryKind::Tree(tree, path) => match (path.split(), tree) {
                (Some((above, _)), _) => self.inodes.lock().directory(*tree, &above),
                (None, Vantage::Member(_)) => Some(MEMBERS),
                (None, _) => Some(ROOT),
            },
            _ => Some(self.hidden.parent(open.number)),
        };
        let attr = |number| {
            if is_hidden(number) {
                self.hidden.attr(number)
            } else {
                Ok(Attr::of(number, &self.inode(number)?))
            }
        };
        let itself = attr(open.number)?;
        // The kernel may have forgotten the parent of an open directory; then nobody looks at this.
        let above = above.and_then(|above| attr(above).ok());
        Ok([itself, above.unwrap_or(itself)])
    }

    /// Finds the top of a member's own tree. Asks nobody, so it exists whether or not
    /// the member answers.
    pub(super) fn look_up_member(&self, name: &Name) -> LookupResult {
        let members = self.network.members();
        let mut members = members.iter();
        match members.find(|member| member.name.as_bytes() == name.as_bytes()) {
            Some(member) => {
                let mut inodes = self.inodes.lock();
                let mtime = inodes.get(ROOT).map_or(UnixTime::EPOCH, |root| root.mtime);
                LookupResult::Found(Attr::assigned(inodes.look_up_top(member, mtime)))
            }
            // It may appear at any moment.
            None => LookupResult::Absent { certain: false },
        }
    }

    /// Finds a file of `pattern` by the name under which it is shown there.
    pub(super) fn look_up_found(
        &self,
        pattern: &Arc<str>,
        name: &Name,
        wait: Wait,
    ) -> Result<LookupResult, Error> {
        let matches = self.searches.find(pattern, wait)?;
        let Some(file) = matches.look_up(name) else {
            let certain = matches.is_all;
            return Ok(LookupResult::Absent { certain });
        };
        let directory = file.path.split().map(|(directory, _)| directory);
        let directory = directory.unwrap_or_else(RelPath::root);
        let found = NameLookup::Item(file.item.clone());
        let NameLookup::Item(item) = self.view.measured(&directory, found, wait)? else {
            return Ok(LookupResult::Absent { certain: false });
        };
        let path = file.path.clone();
        let assigned = Attr::assigned(self.inodes.lock().look_up(Vantage::Found, path, &item));
        self.grown(assigned, wait).map(LookupResult::Found)
    }
}

impl DirectorySnapshot {
    fn len(&self) -> usize {
        match self {
            Self::Directory(directory) => directory.items.len(),
            Self::Members(members) => members.len(),
            Self::Found(matches) => matches.files.len(),
        }
    }

    fn name(&self, index: usize) -> &[u8] {
        match self {
            Self::Directory(directory) => directory.items[index].name.as_bytes(),
            Self::Members(members) => members[index].name.as_bytes(),
            Self::Found(matches) => matches.files[index].item.name.as_bytes(),
        }
    }

    /// Returns the number of one entry of `what`, of which this is a state, and counts
    /// it as assigned.
    fn assign(&self, index: usize, what: &DirectoryKind, inodes: &mut Inodes) -> Option<u64> {
        let (number, _) = match (self, what) {
            (Self::Directory(directory), DirectoryKind::Tree(tree, path)) => {
                let item = directory.items.get(index)?;
                let path = join(path, item.name_at_members()).ok()?;
                inodes.look_up(*tree, path, item)
            }
            (Self::Members(members), _) => {
                let mtime = inodes.get(ROOT)?.mtime;
                inodes.look_up_top(members.get(index)?, mtime)
            }
            (Self::Found(matches), _) => {
                let file = matches.files.get(index)?;
                inodes.look_up(Vantage::Found, file.path.clone(), &file.item)
            }
            // A state belongs to the directory that it was taken from.
            (Self::Directory(_), _) => return None,
        };
        Some(number)
    }
}

impl UpcomingEntries {
    /// Takes the numbers that are ready from the entry `first` on, and takes back all others.
    fn take(&mut self, first: usize, inodes: &mut Inodes) -> Vec<Option<u64>> {
        let numbers = std::mem::take(&mut self.numbers);
        if self.reached == first {
            return numbers;
        }
        for number in numbers.into_iter().flatten() {
            inodes.forget(number, 1);
        }
        Vec::new()
    }
}
