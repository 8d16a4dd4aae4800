//! What several members say of one directory -> what the mount shows of it.
//!
//! Pure, and the same on every node of the network: the outcome depends on what was said and by
//! whom, never on the order of the answers or on who asks (only [`Item::sources`], which nobody
//! sees in a listing, begins with the member that the asker would rather read from).
//!
//! The rules (design, section 3), each name by itself:
//! 1. Directories merge. A directory keeps its name against files.
//! 2. Files have the same content when their content roots are equal. While a root is unknown, equal
//!    size and mtime stand in for it, for display. Empty files all have the same content.
//! 3. The content that most members hold keeps the plain name; ties go to the newer mtime, then to
//!    the smaller root, then to the smaller peer id.
//! 4. Every other content is shown as `name (member).ext`, after the member with the smallest peer id
//!    among its holders. A name that somebody really uses is never taken for this: the peer id's
//!    beginning, then a number, are added to the member's name until the result is free.
//! 5. A file whose member does not tell its size (a server of 2004) is shown only where nobody has anything of which
//!    more is known: it may well be the same. All such files of one name are one entry, until one was fetched.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tinyp2p_net::types::{Attributes, Entry, Kind, MAX_NAME_BYTES, Name, PeerId, Root, Version};

/// The longest extension that stays behind the member's name; a longer one is no extension.
const MAX_EXTENSION_BYTES: usize = 32;

/// The longest part of a member's name that is put into a file name.
const MAX_LABEL_BYTES: usize = 80;

/// The kernel refuses a whole directory that holds a file larger than this, so no member may name one.
const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Who said something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The member's identity.
    pub id: PeerId,
    /// How it is shown to people; unique in the network.
    pub name: Arc<str>,
}

/// One member that has an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Who.
    pub member: Arc<Member>,
    /// The state of the entry at that member.
    pub version: Version,
    /// True when this member itself says that its file has the item's root.
    pub names_root: bool,
}

/// One name of a merged directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The name in the mount.
    pub name: Name,
    /// The name at the members, where the mount shows another one.
    pub original: Option<Name>,
    /// File or directory.
    pub kind: Kind,
    /// Bytes of content; 0 for a directory; [`Attributes::UNKNOWN_SIZE`] if nobody who has it tells.
    pub size: u64,
    /// The newest modification time among the sources, nanoseconds since 1970.
    pub mtime: i64,
    /// The content root, when a source knows it.
    pub root: Option<Root>,
    /// Who has it, the best one to read from first; never empty.
    pub sources: Arc<[Source]>,
}

impl Item {
    /// False for a file of which only the name is known.
    pub fn is_measured(&self) -> bool {
        self.size != Attributes::UNKNOWN_SIZE
    }

    /// The name at the members that have it.
    pub fn name_at_members(&self) -> &Name {
        self.original.as_ref().unwrap_or(&self.name)
    }
}

/// What one member says of one name.
struct Row {
    name: Name,
    member: Arc<Member>,
    attributes: Attributes,
}

/// Merges whole listings of one directory. The result is sorted by name. `preferred` comes first
/// among the sources of what it has.
pub fn directory(listings: Vec<(Arc<Member>, Vec<Entry>)>, preferred: Option<PeerId>) -> Vec<Item> {
    let mut rows: Vec<Row> = Vec::with_capacity(listings.iter().map(|(_, list)| list.len()).sum());
    for (member, entries) in listings {
        rows.extend(entries.into_iter().map(|entry| Row {
            name: entry.name,
            member: Arc::clone(&member),
            attributes: entry.attributes,
        }));
    }
    rows.retain(Row::is_possible);
    // Stable and made for sorted runs, which is what the listings are.
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
    if !conflicts.is_empty() {
        rename(conflicts, &mut items, preferred);
    }
    items
}

/// Merges what members say of one path whose last component is `name`: what keeps the plain name, or
/// `None` if nobody has anything there.
pub fn name(
    name: &Name,
    said: Vec<(Arc<Member>, Attributes)>,
    preferred: Option<PeerId>,
) -> Option<Item> {
    let entries = said.into_iter().map(|(member, attributes)| {
        let name = name.clone();
        (member, vec![Entry { name, attributes }])
    });
    let items = directory(entries.collect(), preferred);
    items.into_iter().find(|item| item.name == *name)
}

/// True for names that rule 4 may have made, so that only a listing can tell what they mean.
pub fn may_be_conflict(name: &Name) -> bool {
    let bytes = name.as_bytes();
    bytes
        .windows(2)
        .position(|pair| pair == b" (")
        .is_some_and(|at| bytes[at..].contains(&b')'))
}

impl Row {
    fn is_possible(&self) -> bool {
        self.attributes.size <= MAX_FILE_BYTES || self.is_unmeasured()
    }

    /// By far the most names have one content at one member, which needs no ranking.
    fn into_item(self) -> Item {
        let Attributes {
            kind,
            size,
            mtime,
            version,
            root,
        } = self.attributes;
        let root = root.filter(|_| kind == Kind::File && size > 0);
        Item {
            name: self.name,
            original: None,
            kind,
            size: if kind == Kind::Directory { 0 } else { size },
            mtime,
            root,
            sources: Arc::new([Source {
                member: self.member,
                version,
                names_root: root.is_some(),
            }]),
        }
    }

    fn is_unmeasured(&self) -> bool {
        let Attributes { kind, size, .. } = self.attributes;
        kind == Kind::File && size == Attributes::UNKNOWN_SIZE
    }
}

/// One content of a name and everyone who has it, by peer id.
struct Content {
    holders: Vec<Row>,
    root: Option<Root>,
}

/// The contents that one name has, the one that keeps the plain name first. All rows have the same
/// name and come by peer id.
fn contents(rows: Vec<Row>) -> Vec<Content> {
    let (unmeasured, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(Row::is_unmeasured);
    if rows.is_empty() {
        return vec![Content {
            holders: unmeasured,
            root: None,
        }];
    }
    let (directories, files): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.attributes.kind == Kind::Directory);
    let mut contents = file_contents(files);
    contents.sort_by_cached_key(Content::rank);
    if !directories.is_empty() {
        contents.insert(
            0,
            Content {
                holders: directories,
                root: None,
            },
        );
    }
    contents
}

/// Groups files by rule 2.
fn file_contents(files: Vec<Row>) -> Vec<Content> {
    let mut rooted: BTreeMap<(Root, u64), Vec<Row>> = BTreeMap::new();
    let mut unrooted: BTreeMap<(u64, i64), Vec<Row>> = BTreeMap::new();
    for row in files {
        let Attributes {
            size, mtime, root, ..
        } = row.attributes;
        match root {
            _ if size == 0 => unrooted.entry((0, 0)).or_default().push(row),
            Some(root) => rooted.entry((root, size)).or_default().push(row),
            None => unrooted.entry((size, mtime)).or_default().push(row),
        }
    }
    let mut contents: Vec<Content> = rooted
        .into_iter()
        .map(|((root, _), holders)| Content {
            holders,
            root: Some(root),
        })
        .collect();
    // Counted before anyone joins, so that it does not matter who joins first.
    let counts: Vec<usize> = contents
        .iter()
        .map(|content| content.holders.len())
        .collect();
    let rooted = contents.len();
    for ((size, mtime), mut holders) in unrooted {
        let looks_alike = |content: &Content| {
            let mut attributes = content.holders.iter().map(|row| &row.attributes);
            attributes.any(|a| a.root.is_some() && a.size == size && a.mtime == mtime)
        };
        let joined = (0..rooted)
            .filter(|index| looks_alike(&contents[*index]))
            .max_by_key(|index| (counts[*index], Reverse(contents[*index].root)));
        match joined {
            Some(index) => {
                contents[index].holders.append(&mut holders);
                contents[index].holders.sort_by_key(|row| row.member.id);
            }
            None => contents.push(Content {
                holders,
                root: None,
            }),
        }
    }
    contents
}

impl Content {
    /// Rule 3: the smallest keeps the plain name.
    fn rank(&self) -> impl Ord + use<> {
        (
            Reverse(self.holders.len()),
            Reverse(self.newest()),
            (self.root.is_none(), self.root),
            self.label().id,
        )
    }

    fn newest(&self) -> i64 {
        let mtimes = self.holders.iter().map(|row| row.attributes.mtime);
        mtimes.max().unwrap_or(0)
    }

    /// The member after which this content is named when it loses its plain name.
    fn label(&self) -> &Member {
        &self.holders[0].member
    }

    fn into_item(mut self, preferred: Option<PeerId>) -> Item {
        let mtime = self.newest();
        let root = self.root;
        self.holders.sort_by_key(|row| {
            let is_preferred = Some(row.member.id) == preferred;
            (row.attributes.root != root, !is_preferred, row.member.id)
        });
        let Attributes { kind, size, .. } = self.holders[0].attributes;
        let name = self.holders[0].name.clone();
        let sources = self.holders.into_iter().map(|row| Source {
            names_root: root.is_some() && row.attributes.root == root,
            version: row.attributes.version,
            member: row.member,
        });
        Item {
            name,
            original: None,
            kind,
            size: if kind == Kind::Directory { 0 } else { size },
            mtime,
            root,
            sources: sources.collect(),
        }
    }
}

/// Rule 4: adds `conflicts` to `items` under names that are free, and sorts `items` again.
fn rename(conflicts: Vec<Content>, items: &mut Vec<Item>, preferred: Option<PeerId>) {
    let mut taken: BTreeSet<Name> = BTreeSet::new();
    let mut renamed = Vec::with_capacity(conflicts.len());
    for content in conflicts {
        let original = content.holders[0].name.clone();
        let is_free = |name: &Name| {
            !taken.contains(name) && items.binary_search_by(|item| item.name.cmp(name)).is_err()
        };
        // More attempts than there are names cannot all be taken.
        let name = (0..=items.len() + taken.len() + 1)
            .filter_map(|attempt| conflict_name(&original, content.label(), attempt))
            .find(is_free);
        let Some(name) = name else { continue };
        taken.insert(name.clone());
        renamed.push(Item {
            name,
            original: Some(original),
            ..content.into_item(preferred)
        });
    }
    items.append(&mut renamed);
    items.sort_by(|a, b| a.name.cmp(&b.name));
}

/// `name (member).ext` for the first attempt, and ever more particular ones after it.
fn conflict_name(name: &Name, member: &Member, attempt: usize) -> Option<Name> {
    let label = truncated(member.name.as_bytes(), MAX_LABEL_BYTES).iter();
    let mut mark: Vec<u8> = label
        .map(|b| if matches!(b, b'/' | 0) { b'_' } else { *b })
        .collect();
    if attempt > 0 {
        mark.extend_from_slice(format!("-{}", member.id.short()).as_bytes());
    }
    if attempt > 1 {
        mark.extend_from_slice(format!(" {attempt}").as_bytes());
    }
    marked(name, &mark)
}

/// `name (mark).ext`, where what stands before the mark is cut, between characters, so that the whole is not
/// too long; `None` if the mark is no part of a name, or too long itself.
pub fn marked(name: &Name, mark: &[u8]) -> Option<Name> {
    let suffix = [b" (", mark, b")"].concat();
    let (stem, extension) = split_extension(name.as_bytes());
    let room = MAX_NAME_BYTES.saturating_sub(suffix.len() + extension.len());
    let bytes = [truncated(stem, room), &suffix, extension].concat();
    Name::new(bytes).ok()
}

/// `a.tar.gz` -> `a.tar`, `.gz`. A dot at the very beginning makes a hidden name, not an extension.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let is_extension = |dot: &usize| {
        name[..*dot].iter().any(|b| *b != b'.') && name.len() - dot <= MAX_EXTENSION_BYTES
    };
    name.split_at(dot.filter(is_extension).unwrap_or(name.len()))
}

/// At most `limit` bytes of `bytes`, cut between characters if it is UTF-8.
fn truncated(bytes: &[u8], limit: usize) -> &[u8] {
    if bytes.len() <= limit {
        return bytes;
    }
    let cut = &bytes[..limit];
    match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => &cut[..error.valid_up_to()],
        _ => cut,
    }
}

#[cfg(test)]
mod tests;
