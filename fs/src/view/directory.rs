//! One merged directory, and what each member said to make it.
//!
//! What every member said is kept beside what was made of it, so that one member can be asked again and the others not. Where
//! one member has the directory alone, which is what most large ones are like, its part is read back from the items.
//! All of it counts in the budget of answers for as long as anybody holds the directory.

use std::collections::BTreeSet;
use std::sync::Arc;

use tinyp2p_net::budget::{Reservation, Weigh, heap};
use tinyp2p_net::types::{Attributes, Entry, Kind, Name, PeerId};

use super::merge::{self, Item, Member, Merged, Source};

/// A directory as the mount shows it. Never changes; a newer state is another value.
#[derive(Debug)]
pub struct Directory {
    /// The newest modification time among the members that have it, nanoseconds since 1970; `None` for
    /// the root while nobody shares anything.
    pub mtime: Option<i64>,
    /// Its entries by name.
    pub items: Vec<Item>,
    /// The members that did not answer.
    pub silent: Vec<Arc<str>>,
    /// What each member that has it said.
    parts: Vec<Part>,
    /// The indices of items that stand for another content of a name, by that name.
    renamed: Vec<u32>,
}

/// What one member said of a directory, on its way into one.
#[derive(Debug)]
pub struct Said {
    /// Who.
    pub member: Arc<Member>,
    /// The directory's modification time there, nanoseconds since 1970.
    pub mtime: i64,
    /// Its entries by name.
    pub entries: Vec<Entry>,
    /// The bytes that they take, and what is made of them.
    pub held: Reservation,
}

/// What one member said of a directory.
#[derive(Debug)]
struct Part {
    member: Arc<Member>,
    mtime: i64,
    /// `None` if it is all that the items have.
    entries: Option<Box<[Entry]>>,
    held: Reservation,
}

impl Directory {
    /// Merges what was `said`. `is_shown` tells which names there may be; `preferred` comes first among the sources of
    /// what it has.
    pub fn merged(
        said: Vec<Said>,
        mut silent: Vec<Arc<str>>,
        preferred: Option<PeerId>,
        is_shown: impl Fn(&Name) -> bool,
    ) -> Self {
        let is_alone = said.len() == 1;
        let mut parts = Vec::with_capacity(said.len());
        let mut listings = Vec::with_capacity(said.len());
        for Said {
            member,
            mtime,
            entries,
            held,
        } in said
        {
            let kept = (!is_alone).then(|| entries.as_slice().into());
            listings.push((Arc::clone(&member), entries));
            parts.push(Part {
                member,
                mtime,
                entries: kept,
                held,
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
        let bytes: usize = items.iter().map(weight).sum();
        for part in &mut parts {
            // Several have been merged, so that nobody knows whose an item is: as much stays as an entry of each takes.
            let its = part.entries.as_deref().map(<[Entry]>::weight);
            part.held.shrink_to(its.unwrap_or(bytes));
        }
        let renamed = (0..)
            .zip(&items)
            .filter(|(_, item)| item.original.is_some());
        let mut renamed: Vec<u32> = renamed.map(|(index, _)| index).collect();
        renamed.sort_by(|a, b| original(&items, *a).cmp(&original(&items, *b)));
        Self {
            mtime: parts.iter().map(|part| part.mtime).max(),
            items,
            silent,
            parts,
            renamed,
        }
    }

    /// Bytes of memory, as far as they count.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.held.bytes()).sum()
    }

    /// The member whose part takes the most.
    pub fn largest_part(&self) -> Option<PeerId> {
        let largest = self.parts.iter().max_by_key(|part| part.held.bytes());
        largest.map(|part| part.member.id)
    }

    /// Those who have it, and its modification time at each.
    pub fn holders(&self) -> impl Iterator<Item = (PeerId, i64)> {
        self.parts.iter().map(|part| (part.member.id, part.mtime))
    }

    /// The same, under which names.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.parts.iter().map(|part| &*part.member)
    }

    /// What `member` said of `name`.
    pub fn said_of(&self, member: PeerId, name: &Name) -> Option<(Arc<Member>, Attributes)> {
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

    /// All that the members who are `wanted` said, again. Those for which there is no room are named.
    pub fn said_by(&self, wanted: impl Fn(PeerId) -> bool) -> (Vec<Said>, Vec<Arc<str>>) {
        let (mut all, mut left_out) = (Vec::new(), Vec::new());
        for part in self.parts.iter().filter(|part| wanted(part.member.id)) {
            match self.again(part) {
                Some(said) => all.push(said),
                None => left_out.push(Arc::clone(&part.member.name)),
            }
        }
        (all, left_out)
    }

    fn again(&self, part: &Part) -> Option<Said> {
        let mut held = part.held.another();
        let weight = match &part.entries {
            Some(entries) => entries.weight(),
            None => self.items.iter().map(entry_weight).sum(),
        };
        held.grow(weight).ok()?;
        let entry = |item: &Item| {
            Some(Entry {
                name: item.name_at_members().clone(),
                attributes: attributes(item)?,
            })
        };
        let entries = match &part.entries {
            Some(entries) => entries.to_vec(),
            None => self.items.iter().filter_map(entry).collect(),
        };
        Some(Said {
            member: Arc::clone(&part.member),
            mtime: part.mtime,
            entries,
            held,
        })
    }

    /// How other contents of `names` are shown.
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

/// What the only member that has `item` said of it.
fn attributes(item: &Item) -> Option<Attributes> {
    Some(Attributes {
        kind: item.kind,
        size: if item.kind == Kind::Directory {
            0
        } else {
            item.size
        },
        mtime: item.mtime,
        version: item.sources.first()?.version,
        root: item.root,
    })
}

/// What an item takes in memory.
pub fn weight(item: &Item) -> usize {
    let original = item.original.as_ref();
    let original = original.map_or(0, |name| heap(name.as_bytes().len()));
    let sources = heap(16 + item.sources.len() * size_of::<Source>());
    size_of::<Item>() + heap(item.name.as_bytes().len()) + original + sources
}

fn entry_weight(item: &Item) -> usize {
    // As of an entry, without making one.
    weight(item) + 2 * item.name.weight() + size_of::<Attributes>()
}
