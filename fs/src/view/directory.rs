//! One merged directory, and what each member said of it.
//!
//! Each member's answer is kept beside the merged result, so that one member can be asked again
//! without the others: the next directory shares their answers with this one. If one member alone
//! has the directory, as with most large ones, its part is read back from the items. All of it
//! counts towards the budget of answers, once, for as long as anybody holds it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use tinyp2p_net::budget::{Held, Reservation, entry_of, heap, merging, text, unmerged};
use tinyp2p_net::model::{Attributes, Entry, Name, PeerId, RelPath, UnixTime};
use tinyp2p_net::protocol::wire::Listing;

use super::NameLookup;
use super::merge::{self, EntrySource, Item, Merged};
use super::upcoming_files::ByNumber;
use crate::errno::Error;
use crate::network::MemberRef;

/// A directory as the mount shows it. Immutable; a newer state is another value.
#[derive(Debug)]
pub struct MergedDirectory {
    /// The newest modification time among the members that have it, nanoseconds since 1970; `None`
    /// for the root while nobody shares anything.
    pub mtime: Option<UnixTime>,
    /// Its entries by name.
    pub items: Vec<Item>,
    /// The members that did not answer.
    pub silent: Vec<Arc<str>>,
    /// The silent members that answered that they do not know.
    pub failing: Vec<Arc<str>>,
    /// What each member that has the directory said.
    parts: Vec<MemberPart>,
    /// The indices of items that show another content of a name, sorted by that name.
    renamed: Vec<u32>,
    /// Created when somebody reads the entries in that order.
    by_number: OnceLock<ByNumber>,
}

/// What one member said of a directory, on its way into a merged one.
#[derive(Debug)]
pub struct Said {
    member: Arc<MemberRef>,
    mtime: UnixTime,
    entries: Entries,
    /// Memory for what is made of the entries.
    making: Reservation,
}

/// The entries that a member named, sorted by name, and the bytes that they take.
#[derive(Debug)]
enum Entries {
    /// They have just arrived.
    Fresh(Vec<Entry>, Reservation),
    /// Another directory holds them, too.
    Shared(SharedEntries),
}

type SharedEntries = Arc<Held<Box<[Entry]>>>;

/// Room to merge again what a member said earlier.
pub struct Again {
    part: usize,
    held: Reservation,
}

/// What one member said of a directory.
#[derive(Debug)]
struct MemberPart {
    member: Arc<MemberRef>,
    mtime: UnixTime,
    /// `None` if the items hold all of it.
    entries: Option<SharedEntries>,
    /// Memory for what was made of it.
    held: Reservation,
}

impl Said {
    /// What `member` has just said.
    pub fn fresh(member: Arc<MemberRef>, listing: Held<Listing>) -> Self {
        let (Listing { mtime, entries, .. }, mut making) = listing.into_parts();
        let held = making.split(unmerged(&entries));
        Self {
            member,
            mtime,
            entries: Entries::Fresh(entries, held),
            making,
        }
    }

    /// Returns the member that said it.
    pub fn member(&self) -> PeerId {
        self.member.id
    }
}

impl Entries {
    fn shared(self) -> SharedEntries {
        match self {
            Self::Fresh(entries, held) => Arc::new(Held::new(entries.into_boxed_slice(), held)),
            Self::Shared(entries) => entries,
        }
    }

    /// Returns the entries, only to be merged.
    fn alone(self) -> (Vec<Entry>, Reservation) {
        match self {
            Self::Fresh(entries, held) => (entries, held),
            Self::Shared(entries) => match Arc::try_unwrap(entries) {
                Ok(held) => {
                    let (entries, held) = held.into_parts();
                    (entries.into_vec(), held)
                }
                // The other holder accounts for the bytes.
                Err(entries) => (entries.to_vec(), entries.reservation().another()),
            },
        }
    }
}

impl MergedDirectory {
    /// Returns the entries in the order of their numbers. The directory is at `path`.
    pub(super) fn by_number(&self, path: &RelPath) -> &ByNumber {
        self.by_number
            .get_or_init(|| ByNumber::new(path, &self.items))
    }

    /// Merges what was `said`. `is_shown` decides which names may appear; `preferred` comes first
    /// among the sources of what it has.
    pub fn merged(
        said: Vec<Said>,
        mut silent: Vec<Arc<str>>,
        preferred: Option<PeerId>,
        is_shown: impl Fn(&Name) -> bool,
    ) -> Self {
        let is_alone = said.len() == 1;
        let mut parts = Vec::with_capacity(said.len());
        let mut listings = Vec::with_capacity(said.len());
        // Held until all is merged.
        let mut unmerged = Vec::new();
        for said in said {
            let kept = if is_alone {
                let (entries, held) = said.entries.alone();
                listings.push((Arc::clone(&said.member), entries));
                unmerged.push(held);
                None
            } else {
                let entries = said.entries.shared();
                listings.push((Arc::clone(&said.member), entries.to_vec()));
                Some(entries)
            };
            parts.push(MemberPart {
                member: said.member,
                mtime: said.mtime,
                entries: kept,
                held: said.making,
            });
        }
        let Merged {
            mut items,
            left_out,
        } = merge::merge(listings, preferred);
        for member in left_out {
            tracing::warn!(member = %member.name, "names too much of one directory to be shown");
            silent.push(Arc::clone(&member.name));
        }
        items.retain(|item| is_shown(&item.name));
        settle(&mut parts, unmerged, &items);
        let renamed = (0..)
            .zip(&items)
            .filter(|(_, item)| item.original.is_some());
        let mut renamed: Vec<u32> = renamed.map(|(index, _)| index).collect();
        renamed.sort_by(|a, b| original(&items, *a).cmp(&original(&items, *b)));
        Self {
            mtime: parts.iter().map(|part| part.mtime).max(),
            items,
            silent,
            failing: Vec::new(),
            parts,
            renamed,
            by_number: OnceLock::new(),
        }
    }

    /// Sets the members that said that they do not know.
    pub fn without(self, failing: Vec<Arc<str>>) -> Self {
        Self { failing, ..self }
    }

    /// Returns what `name` is in the directory.
    pub(super) fn look_up(&self, name: &Name) -> Result<NameLookup, Error> {
        match self.items.binary_search_by(|item| item.name.cmp(name)) {
            Ok(index) => Ok(NameLookup::Item(self.items[index].clone())),
            Err(_) if !self.failing.is_empty() => Err(Error::Failing(self.failing.join(", "))),
            Err(_) => Ok(NameLookup::Nothing {
                certain: self.silent.is_empty(),
            }),
        }
    }

    /// Returns the bytes of memory that count towards the budget.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(MemberPart::bytes).sum()
    }

    /// Returns the member whose part takes the most memory.
    pub fn largest_part(&self) -> Option<PeerId> {
        let largest = self.parts.iter().max_by_key(|part| part.bytes());
        largest.map(|part| part.member.id)
    }

    /// Returns the members that have the directory, with its modification time at each.
    pub fn holders(&self) -> impl Iterator<Item = (PeerId, UnixTime)> {
        self.parts.iter().map(|part| (part.member.id, part.mtime))
    }

    /// Returns the same members with their names.
    pub fn members(&self) -> impl Iterator<Item = &MemberRef> {
        self.parts.iter().map(|part| &*part.member)
    }

    /// Returns what `member` said of `name`.
    pub fn said_of(&self, member: PeerId, name: &Name) -> Option<(Arc<MemberRef>, Attributes)> {
        let part = self.parts.iter().find(|part| part.member.id == member)?;
        let attributes = match &part.entries {
            Some(entries) => {
                let index = entries.binary_search_by(|entry| entry.name.cmp(name));
                entries[index.ok()?].attributes
            }
            None => {
                let index = self.items.binary_search_by(|item| item.name.cmp(name));
                attributes(&self.items[index.ok()?])?
            }
        };
        Some((Arc::clone(&part.member), attributes))
    }

    /// Reserves room to merge again what the `wanted` members said. Returns `None` if there
    /// is not enough.
    pub fn room(&self, wanted: impl Fn(PeerId) -> bool) -> Option<Vec<Again>> {
        let parts = self.parts.iter().enumerate();
        let parts = parts.filter(|(_, part)| wanted(part.member.id));
        let room = parts.map(|(index, part)| {
            let bytes = match &part.entries {
                Some(entries) => entries.iter().map(merging).sum(),
                None => self.items.iter().map(entry_weight).sum(),
            };
            let mut held = part.held.another();
            held.grow(bytes).ok()?;
            Some(Again { part: index, held })
        });
        room.collect()
    }

    /// Returns what a member said, in the room reserved for it.
    pub fn say(&self, again: Again) -> Said {
        let part = &self.parts[again.part];
        let mut making = again.held;
        let entries = match &part.entries {
            Some(entries) => Entries::Shared(Arc::clone(entries)),
            None => {
                let entry = |item: &Item| {
                    Some(Entry {
                        name: item.name_at_members().clone(),
                        attributes: attributes(item)?,
                    })
                };
                let entries: Vec<Entry> = self.items.iter().filter_map(entry).collect();
                let held = making.split(unmerged(&entries));
                Entries::Fresh(entries, held)
            }
        };
        Said {
            member: Arc::clone(&part.member),
            mtime: part.mtime,
            entries,
            making,
        }
    }

    /// Returns the names under which other contents of `names` are shown.
    pub fn conflicts_of<'a>(&'a self, names: &'a BTreeSet<Name>) -> impl Iterator<Item = &'a Name> {
        names.iter().flat_map(move |name| {
            let before = |index: &u32| original(&self.items, *index) < Some(name);
            let first = self.renamed.partition_point(before);
            let items = self.renamed[first..].iter();
            let items = items.map(|index| &self.items[*index as usize]);
            let its = items.take_while(move |item| item.original.as_ref() == Some(name));
            its.map(|item| &item.name)
        })
    }
}

fn original(items: &[Item], index: u32) -> Option<&Name> {
    items[index as usize].original.as_ref()
}

/// Returns what the only member that has `item` said of it.
fn attributes(item: &Item) -> Option<Attributes> {
    let source = item.sources.first()?;
    Some(Attributes {
        kind: item.kind,
        mode: source.mode,
        size: item.size,
        mtime: item.mtime,
        version: source.version,
        root: item.root,
    })
}

/// Releases what merging took for `parts` beyond what `items` need.
fn settle(parts: &mut [MemberPart], unmerged: Vec<Reservation>, items: &[Item]) {
    if let [
        MemberPart {
            entries: None,
            held,
            ..
        },
    ] = parts
    {
        // The names are in the items now.
        for more in unmerged {
            held.join(more);
        }
        return held.shrink_to(items.iter().map(weight).sum());
    }
    // It is no longer known whose entry became which item, except for items renamed after a member.
    let mut named: HashMap<PeerId, usize> = HashMap::new();
    for item in items.iter().filter(|item| item.original.is_some()) {
        for source in item.sources.iter() {
            *named.entry(source.member.id).or_default() += text(&item.name);
        }
    }
    let each = size_of::<Item>() + heap(COUNTERS + size_of::<EntrySource>());
    for part in parts {
        let count = part.entries.as_deref().map_or(0, |entries| entries.len());
        let named = named.get(&part.member.id).copied().unwrap_or(0);
        part.held.shrink_to(count * each + named);
    }
}

impl MemberPart {
    fn bytes(&self) -> usize {
        let entries = self.entries.as_deref();
        self.held.bytes() + entries.map_or(0, |entries| entries.reservation().bytes())
    }
}

/// The bytes of the reference counters of a shared value.
const COUNTERS: usize = 16;

/// Returns the bytes of memory that an item takes.
pub fn weight(item: &Item) -> usize {
    let original = item.original.as_ref().map_or(0, text);
    let sources = heap(COUNTERS + item.sources.len() * size_of::<EntrySource>());
    size_of::<Item>() + text(&item.name) + original + sources
}

/// Returns the weight of the entry that became `item`, without creating one.
fn entry_weight(item: &Item) -> usize {
    entry_of(item.name_at_members())
}
