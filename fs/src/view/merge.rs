//! What several members say of one directory -> what the mount shows of it.
//!
//! Pure, and the same on every node of the network. The outcome depends on what was said and by
//! whom, never on the order of the answers or on the node that asks. (Only [`Item::sources`], which
//! no listing shows, begins with the member that the asker prefers to read from.)
//!
//! The rules apply to each name separately:
//! 1. Directories merge. A directory keeps its name against files.
//! 2. Files have the same content when their content roots and sizes are equal, and on no weaker
//!    evidence: anyone who wants to take a file's place can copy its size and time. A file
//!    without a root is a content of its own until its member names one. Empty files all have
//!    the same content.
//! 3. A content that somebody can read precedes one that none of its holders can. Then the content
//!    that most members hold keeps the plain name; ties go to the newer mtime, then to the smaller
//!    root, then to the smaller peer id.
//! 4. Every other content is shown as `name (member).ext`, after the member with the smallest peer
//!    id among its holders, or with a digest after the member's name (`distinct_names.rs`).
//! 5. A file whose member does not name its size (a server of 2004) is shown only where nobody has
//!    anything of which more is known: it may well be the same. All such files of one name are one
//!    entry until one has been fetched.
//!
//! The work is that of sorting the names, regardless of what they are and who has them. The budget
//! of answers bounds the number of names. If there are more conflicts than can be shown while
//! somebody waits, each member has an equal share.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tinyp2p_net::model::{
    Attributes, ContentId, Entry, FileSize, Kind, Mode, Name, PeerId, Root, UnixTime,
};

use super::distinct_names::DistinctNames;
use super::fair_share::share_fairly;
pub use super::item::{EntrySource, Item, mode_of};
use crate::network::MemberRef;

/// The maximum number of contents of one directory that are shown under another name. That takes
/// several times as long as merging a name: about half a second's work.
const MAX_CONFLICTS: usize = 200_000;

/// The kernel refuses a whole directory that holds a file larger than this, so members may
/// not name one.
const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// What one member says of one name.
struct Row {
    name: Name,
    member: Arc<MemberRef>,
    attributes: Attributes,
}

/// A merged directory.
#[derive(Debug, Default)]
pub struct Merged {
    /// Its names, sorted.
    pub items: Vec<Item>,
    /// The members that have more conflicts than can be shown of one member.
    pub left_out: Vec<Arc<MemberRef>>,
}

/// Merges whole listings of one directory while somebody waits. `preferred` comes first among the
/// sources of what it has.
pub fn merge(listings: Vec<(Arc<MemberRef>, Vec<Entry>)>, preferred: Option<PeerId>) -> Merged {
    merge_at_most(listings, preferred, MAX_CONFLICTS)
}

/// Merges in the same way, however many conflicts there are.
pub fn directory(
    listings: Vec<(Arc<MemberRef>, Vec<Entry>)>,
    preferred: Option<PeerId>,
) -> Vec<Item> {
    merge_at_most(listings, preferred, usize::MAX).items
}

fn merge_at_most(
    listings: Vec<(Arc<MemberRef>, Vec<Entry>)>,
    preferred: Option<PeerId>,
    max_conflicts: usize,
) -> Merged {
    let mut rows: Vec<Row> = Vec::with_capacity(listings.iter().map(|(_, list)| list.len()).sum());
    for (member, entries) in listings {
        rows.extend(entries.into_iter().map(|entry| Row {
            name: entry.name,
            member: Arc::clone(&member),
            attributes: entry.attributes,
        }));
    }
    rows.retain(Row::is_possible);
    // A stable sort made for sorted runs, which the listings are.
    rows.sort_by(|a, b| (&a.name, a.member.id).cmp(&(&b.name, b.member.id)));
    rows.dedup_by(|b, a| a.name == b.name && a.member.id == b.member.id);

    let mut items = Vec::with_capacity(rows.len());
    let mut conflicts = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while let Some(row) = rows.next() {
        if rows.peek().is_none_or(|next| next.name != row.name) {
            items.push(row.into_item());
            continue;
        }
        let mut same_name = vec![row];
        while let Some(row) = rows.next_if(|next| next.name == same_name[0].name) {
            same_name.push(row);
        }
        let mut contents = contents(same_name).into_iter();
        items.extend(contents.next().map(|plain| plain.into_item(preferred)));
        conflicts.extend(contents);
    }
    let left_out = share_fairly(&mut conflicts, max_conflicts, |content, note| {
        content.holders.iter().for_each(|row| note(&row.member));
    });
    if !conflicts.is_empty() {
        rename(conflicts, &mut items, preferred);
    }
    Merged { items, left_out }
}

/// Merges what members say of one path whose last component is `name`. Returns what keeps the plain
/// name, or `None` if nobody has anything there.
pub fn name(
    name: &Name,
    said: Vec<(Arc<MemberRef>, Attributes)>,
    preferred: Option<PeerId>,
) -> Option<Item> {
    let entries = said.into_iter().map(|(member, attributes)| {
        let name = name.clone();
        (member, vec![Entry { name, attributes }])
    });
    let items = directory(entries.collect(), preferred);
    items.into_iter().find(|item| item.name == *name)
}

/// Returns true for names that rule 4 may have made, so that only a listing can say what they mean.
pub fn may_be_conflict(name: &Name) -> bool {
    let bytes = name.as_bytes();
    bytes
        .windows(2)
        .position(|pair| pair == b" (")
        .is_some_and(|at| bytes[at..].contains(&b')'))
}

impl Row {
    fn is_possible(&self) -> bool {
        self.attributes.size.or_zero() <= MAX_FILE_BYTES
    }

    /// Converts a name that has one content at one member, as most do by far. It needs no ranking.
    fn into_item(self) -> Item {
        let Attributes {
            kind,
            mode,
            size,
            mtime,
            version,
            root,
        } = self.attributes;
        let root = root.filter(|_| kind == Kind::File && size.or_zero() > 0);
        let source = EntrySource {
            member: self.member,
            version,
            mode,
        };
        Item {
            name: self.name,
            original: None,
            kind,
            size: shown_size(kind, size),
            mtime,
            root,
            sources: Arc::new([source]),
        }
    }

    fn is_unmeasured(&self) -> bool {
        let Attributes { kind, size, .. } = self.attributes;
        kind == Kind::File && !size.is_known()
    }
}

/// One content of a name and everyone who has it, by peer id.
struct MergedContent {
    holders: Vec<Row>,
    root: Option<Root>,
}

/// Returns the contents of one name, the one that keeps the plain name first. All rows have the
/// same name and are sorted by peer id.
fn contents(rows: Vec<Row>) -> Vec<MergedContent> {
    let (unmeasured, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(Row::is_unmeasured);
    if rows.is_empty() {
        return vec![MergedContent::rootless(unmeasured)];
    }
    let (directories, files): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.attributes.kind == Kind::Directory);
    let mut contents = file_contents(files);
    contents.sort_by_cached_key(MergedContent::rank);
    if !directories.is_empty() {
        contents.insert(0, MergedContent::rootless(directories));
    }
    contents
}

/// Groups files by rule 2.
fn file_contents(files: Vec<Row>) -> Vec<MergedContent> {
    let mut rooted: BTreeMap<ContentId, Vec<Row>> = BTreeMap::new();
    let mut empty = Vec::new();
    let mut contents = Vec::new();
    for row in files {
        let Attributes { size, root, .. } = row.attributes;
        match root.zip(size.known()) {
            _ if size == FileSize::ZERO => empty.push(row),
            Some((root, size)) => rooted
                .entry(ContentId { root, size })
                .or_default()
                .push(row),
            None => contents.push(MergedContent::rootless(vec![row])),
        }
    }
    contents.extend(rooted.into_iter().map(|(content, holders)| MergedContent {
        holders,
        root: Some(content.root),
    }));
    if !empty.is_empty() {
        contents.push(MergedContent::rootless(empty));
    }
    contents
}

impl MergedContent {
    fn rootless(holders: Vec<Row>) -> Self {
        let root = None;
        Self { holders, root }
    }

    /// Rule 3: the smallest keeps the plain name.
    fn rank(&self) -> impl Ord + use<> {
        let is_readable = |row: &Row| row.attributes.mode != Mode::Unreadable;
        (
            !self.holders.iter().any(is_readable),
            Reverse(self.holders.len()),
            Reverse(self.newest()),
            (self.root.is_none(), self.root),
            self.label().id,
        )
    }

    fn newest(&self) -> UnixTime {
        let mtimes = self.holders.iter().map(|row| row.attributes.mtime);
        mtimes.max().unwrap_or_default()
    }

    /// The member after which this content is named when it loses its plain name.
    fn label(&self) -> &Arc<MemberRef> {
        &self.holders[0].member
    }

    fn into_item(mut self, preferred: Option<PeerId>) -> Item {
        let mtime = self.newest();
        let root = self.root;
        self.holders
            .sort_by_key(|row| (Some(row.member.id) != preferred, row.member.id));
        let Attributes { kind, size, .. } = self.holders[0].attributes;
        let name = self.holders[0].name.clone();
        let sources = self.holders.into_iter().map(|row| EntrySource {
            version: row.attributes.version,
            mode: row.attributes.mode,
            member: row.member,
        });
        Item {
            name,
            original: None,
            kind,
            size: shown_size(kind, size),
            mtime,
            root,
            sources: sources.collect(),
        }
    }
}

/// Returns the size to show: a directory has none, whatever its member says.
fn shown_size(kind: Kind, size: FileSize) -> FileSize {
    match kind {
        Kind::Directory => FileSize::ZERO,
        Kind::File => size,
    }
}

/// Rule 4: adds `conflicts` to `items` under free names, and sorts `items` again.
fn rename(conflicts: Vec<MergedContent>, items: &mut Vec<Item>, preferred: Option<PeerId>) {
    let is_in_use = |name: &Name| items.binary_search_by(|item| item.name.cmp(name)).is_ok();
    let mut names = DistinctNames::new(is_in_use);
    let renamed = conflicts.into_iter().map(|content| {
        let original = content.holders[0].name.clone();
        let label = content.label();
        let name = names.give(&original, label.name.as_bytes(), label.id.as_bytes());
        Item {
            name,
            original: Some(original),
            ..content.into_item(preferred)
        }
    });
    let mut renamed: Vec<Item> = renamed.collect();
    items.append(&mut renamed);
    items.sort_by(|a, b| a.name.cmp(&b.name));
}

#[cfg(test)]
mod tests;
