//! Which names of the merged tree are other contents of the same path, in the directories listed so
//! far: what `.tinyp2p/conflicts` shows.
//!
//! Pure. Each listing replaces what was known of its directory. A resolved conflict disappears when
//! its directory is listed again, or a directory above it that no longer contains it. Only
//! conflicts are kept, and only a bounded number.

use std::collections::BTreeMap;
use std::fmt::Write;

use tinyp2p_net::model::{Kind, Name, RelPath};

use super::merge::{EntrySource, Item};

/// The maximum number of conflicts that are kept, for a text that people read.
const MAX_CONFLICTS: usize = 10_000;

/// The maximum number of bytes of paths and names that are kept. A text of that size shows
/// enough conflicts, too.
const MAX_BYTES: usize = 4 << 20;

/// The conflicts by directory.
#[derive(Default)]
pub struct Conflicts {
    by_directory: BTreeMap<RelPath, Vec<Conflict>>,
    count: usize,
    bytes: usize,
    /// True once a conflict was left out.
    is_cut: bool,
}

struct Conflict {
    /// The name that another content keeps.
    plain: Name,
    /// The name under which this one is shown.
    shown: Name,
    evidence: Evidence,
}

/// What is known about two contents of one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// They differ in size or root, or one of them is a directory.
    Different,
    /// They have the same size, but the root of one is not known yet: they may turn out to
    /// be the same.
    Open,
    /// The member named the root of a content for its file, and sent other bytes.
    Disproved,
}

impl Evidence {
    /// Returns what distinguishes the content of `item` from that of `other`, disregarding lies.
    pub fn between(item: &Item, other: &Item) -> Self {
        let are_alike =
            item.kind == Kind::File && other.kind == Kind::File && item.size == other.size;
        if are_alike && (item.root.is_none() || other.root.is_none()) {
            Self::Open
        } else {
            Self::Different
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Different => "",
            Self::Open => ", which may be the same: one of them is not hashed yet",
            Self::Disproved => {
                ", for which its member named the root of another content, and sent other bytes"
            }
        }
    }
}

/// The conflicts of one directory, as far as they can be kept. They are found before the lock is
/// taken, so that nobody waits for them.
#[derive(Default)]
pub struct SeenConflicts {
    found: Vec<Conflict>,
    is_cut: bool,
}

impl SeenConflicts {
    /// Finds the conflicts among `items`, which are sorted by name. `is_disproved` returns true for
    /// a source whose content is known not to be the one that it named.
    pub fn among(items: &[Item], is_disproved: impl Fn(&EntrySource) -> bool) -> Self {
        let mut seen = Self::default();
        for item in items {
            let Some(plain) = &item.original else {
                continue;
            };
            if seen.found.len() == MAX_CONFLICTS {
                seen.is_cut = true;
                break;
            }
            let kept = items.binary_search_by(|item| item.name.cmp(plain));
            let evidence = match kept {
                _ if item.sources.iter().any(&is_disproved) => Evidence::Disproved,
                Ok(kept) => Evidence::between(item, &items[kept]),
                Err(_) => Evidence::Different,
            };
            seen.found.push(Conflict {
                plain: plain.clone(),
                shown: item.name.clone(),
                evidence,
            });
        }
        seen
    }
}

impl Conflict {
    /// Returns roughly what they take in `directory`.
    fn size(&self, directory: &RelPath) -> usize {
        let texts = [
            directory.as_bytes(),
            self.plain.as_bytes(),
            self.shown.as_bytes(),
        ];
        texts.iter().map(|text| text.len()).sum()
    }
}

impl Conflicts {
    /// Replaces what is known of `directory` by what was just `seen` among its `items`; none if
    /// it is gone.
    pub fn update(&mut self, directory: &RelPath, items: &[Item], seen: SeenConflicts) {
        self.forget(directory);
        self.forget_below(directory, items);
        let SeenConflicts { mut found, is_cut } = seen;
        self.is_cut |= is_cut;
        let mut fitting = 0;
        for conflict in &found {
            let bytes = conflict.size(directory);
            if self.count == MAX_CONFLICTS || self.bytes + bytes > MAX_BYTES {
                self.is_cut = true;
                break;
            }
            self.count += 1;
            self.bytes += bytes;
            fitting += 1;
        }
        found.truncate(fitting);
        if !found.is_empty() {
            self.by_directory.insert(directory.clone(), found);
        }
    }

    /// Returns a line with the number of conflicts, then a line for each, sorted by
    /// directory and name.
    pub fn text(&self) -> String {
        let mut text = match self.count {
            1 => "1 conflict".to_owned(),
            count => format!("{count} conflicts"),
        };
        text.push_str(" in the directories that were listed since the mount");
        text.push_str(if self.is_cut {
            "; there were more, which are left out here\n"
        } else {
            "; 'find MOUNTPOINT >/dev/null' first makes this complete\n"
        });
        for (directory, conflicts) in &self.by_directory {
            for Conflict {
                plain,
                shown,
                evidence,
            } in conflicts
            {
                if !directory.is_root() {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{directory}/");
                }
                let _ = writeln!(text, "{plain}: also {shown}{}", evidence.text());
            }
        }
        text
    }

    fn forget(&mut self, directory: &RelPath) {
        for conflict in self.by_directory.remove(directory).unwrap_or_default() {
            self.count -= 1;
            self.bytes -= conflict.size(directory);
        }
    }

    /// Forgets everything below `directory` that lies in none of the directories among `items`.
    fn forget_below(&mut self, directory: &RelPath, items: &[Item]) {
        let is_there = |name: &[u8]| {
            let found = items.binary_search_by(|item| item.name.as_bytes().cmp(name));
            found.is_ok_and(|index| items[index].kind == Kind::Directory)
        };
        let above = directory.as_bytes();
        let below = self.by_directory.range(directory..);
        let below = below.take_while(|(path, _)| path.as_bytes().starts_with(above));
        let gone = below.filter(|(path, _)| {
            let mut components = path.components();
            let is_below = directory
                .components()
                .all(|component| components.next() == Some(component));
            is_below && components.next().is_some_and(|name| !is_there(name))
        });
        let gone: Vec<RelPath> = gone.map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.forget(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tinyp2p_net::model::{Mode, PeerId, Root, Version};

    use super::*;
    use crate::network::MemberRef;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn item(shown: &str, original: Option<&str>, kind: Kind) -> Item {
        Item {
            name: name(shown),
            original: original.map(name),
            kind,
            size: 0.into(),
            mtime: 0.into(),
            root: None,
            sources: Arc::new([]),
        }
    }

    fn conflict(shown: &str, plain: &str) -> Item {
        Item {
            size: 1.into(),
            ..item(shown, Some(plain), Kind::File)
        }
    }

    impl Conflicts {
        fn see(&mut self, directory: &RelPath, items: &[Item]) {
            self.update(directory, items, SeenConflicts::among(items, |_| false));
        }
    }

    fn lines(conflicts: &Conflicts) -> Vec<String> {
        conflicts.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn conflicts_last_until_seen_resolved() {
        let mut conflicts = Conflicts::default();
        assert!(lines(&conflicts)[0].starts_with("0 conflicts in"));
        let plain = item("a.ogg", None, Kind::File);
        conflicts.see(
            &path("m"),
            &[conflict("a (bob).ogg", "a.ogg"), plain.clone()],
        );
        conflicts.see(
            &path(""),
            &[
                conflict("x (ann)\n", "x\n"),
                item("m", None, Kind::Directory),
            ],
        );
        let shown = lines(&conflicts);
        assert!(shown[0].starts_with("2 conflicts in"), "{shown:?}");
        assert_eq!(
            shown[1..],
            ["x\\n: also x (ann)\\n", "m/a.ogg: also a (bob).ogg"]
        );
        conflicts.see(&path("m"), &[plain]);
        assert_eq!(lines(&conflicts).len(), 2);
        conflicts.see(&path(""), &[]);
        assert_eq!((conflicts.count, conflicts.bytes), (0, 0));
    }

    #[test]
    fn unproven_difference_is_shown_as_such() {
        let sized = |item: Item, size, root: Option<u8>| Item {
            size,
            root: root.map(|byte| Root::from_bytes([byte; 32])),
            ..item
        };
        let source = EntrySource {
            member: Arc::new(MemberRef {
                id: PeerId::from_bytes([3; 32]),
                name: "eve".into(),
            }),
            version: Version(7),
            mode: Mode::Plain,
        };
        let lied = Item {
            sources: Arc::new([source]),
            ..sized(conflict("x (eve)", "x"), 5.into(), None)
        };
        let items = [
            sized(item("x", None, Kind::File), 5.into(), Some(1)),
            sized(conflict("x (ann)", "x"), 5.into(), None),
            sized(conflict("x (bob)", "x"), 6.into(), None),
            sized(conflict("x (carl)", "x"), 5.into(), Some(2)),
            lied,
        ];
        let mut conflicts = Conflicts::default();
        let seen = SeenConflicts::among(&items, |source| source.version == Version(7));
        conflicts.update(&path(""), &items, seen);
        let shown = lines(&conflicts);
        assert!(shown[1].starts_with("x: also x (ann), which may be the same"));
        assert_eq!(shown[2..4], ["x: also x (bob)", "x: also x (carl)"]);
        assert!(shown[4].starts_with("x: also x (eve), for which its member named"));
    }

    #[test]
    fn conflicts_end_with_their_parent() {
        let mut conflicts = Conflicts::default();
        for directory in ["d", "d/e/f", "d-", "d/g", "dd"] {
            conflicts.see(&path(directory), &[conflict("x (a)", "x")]);
        }
        let kept = [item("g", None, Kind::Directory)];
        conflicts.see(&path("d"), &kept);
        let shown = ["d-/x: also x (a)", "d/g/x: also x (a)", "dd/x: also x (a)"];
        assert_eq!(lines(&conflicts)[1..], shown);
        conflicts.see(&path("d"), &[]);
        assert_eq!(lines(&conflicts)[1..], [shown[0], shown[2]]);
    }

    #[test]
    fn too_many_conflicts_are_cut_and_counted() {
        let mut conflicts = Conflicts::default();
        let many: Vec<Item> = (0..MAX_CONFLICTS + 1)
            .map(|n| conflict(&format!("{n:06} (a)"), "x"))
            .collect();
        conflicts.see(&path("d"), &many);
        let shown = lines(&conflicts);
        assert_eq!(shown.len(), 1 + MAX_CONFLICTS);
        assert!(shown[0].contains("there were more"), "{}", shown[0]);
        conflicts.see(&path("d"), &[]);
        let long = "x".repeat(4000).replace("xxxxx", "xxxx/");
        for n in 0..2000 {
            conflicts.see(&path(&format!("{long}{n}")), &[conflict("y (a)", "y")]);
        }
        assert!(conflicts.bytes <= MAX_BYTES && conflicts.count > 1000);
    }

    #[test]
    fn one_directorys_conflicts_are_bounded() {
        let many: Vec<Item> = (0..20 * MAX_CONFLICTS)
            .map(|n| conflict(&format!("{n:06} (a)"), "x"))
            .collect();
        let seen = SeenConflicts::among(&many, |_| false);
        assert!(seen.found.len() == MAX_CONFLICTS && seen.is_cut);
    }

    #[test]
    fn no_name_in_the_text_drives_a_terminal() {
        let hostile: String = tinyp2p_net::model::text::HOSTILE
            .into_iter()
            .filter(|c| *c != '\0')
            .collect();
        let mut conflicts = Conflicts::default();
        conflicts.see(
            &path(&hostile),
            &[conflict(&format!("{hostile} (a)"), &hostile)],
        );
        let text = conflicts.text();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            hostile
                .chars()
                .filter(|c| *c != '\n')
                .all(|c| !text.contains(c))
        );
    }
}
