//! The database of roots: what survives a restart, and what damage cannot do.

use std::fs;

use proptest::prelude::*;
use redb::{Database, TableDefinition};

use super::*;
use crate::content::merkle::{SUBTREE_BLOCKS, leaf};

fn tree(blocks: u64) -> HashTree {
    HashTree::new(
        (0..blocks)
            .map(|block| leaf(&block.to_le_bytes()))
            .collect(),
    )
    .unwrap()
}

fn path_of(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn place(text: &str) -> FileLocation {
    FileLocation {
        path: path_of(text),
        inode: 7,
        size: 1,
    }
}

#[test]
fn roots_and_leaves_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/roots.redb");
    let tree = tree(1300);
    let roots = Roots::open(&path).unwrap();
    assert!(roots.insert(Version(7), place("a/b"), &tree));
    roots.flush().unwrap();
    drop(roots);
    let roots = Roots::open(&path).unwrap();
    let known = roots.of([Version(8), Version(7)].into_iter());
    assert_eq!(known, [None, Some(tree.root())]);
    assert_eq!(roots.place(tree.root()).unwrap(), Some(place("a/b")));
    for index in 0..3 {
        let first = index * SUBTREE_BLOCKS;
        let kept = roots.subtree(tree.root(), first, SUBTREE_BLOCKS).unwrap();
        assert_eq!(kept, tree.subtree(index));
    }
    let behind = roots.subtree(tree.root(), 3 * SUBTREE_BLOCKS, SUBTREE_BLOCKS);
    assert_eq!(behind.unwrap(), None);
}

#[test]
fn a_damaged_database_is_begun_afresh() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.redb");
    fs::write(&path, vec![0x5a; 100_000]).unwrap();
    let roots = Roots::open(&path).unwrap();
    assert!(roots.insert(Version(1), place("a"), &tree(2)));
    roots.flush().unwrap();
    drop(roots);
    assert_eq!(
        Roots::open(&path).unwrap().of([Version(1)].into_iter()),
        [Some(tree(2).root())]
    );
}

#[test]
fn database_in_use_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.redb");
    let first = Roots::open(&path).unwrap();
    assert!(first.insert(Version(1), place("a"), &tree(1)));
    let second = Roots::open(&path).unwrap();
    assert!(second.insert(Version(2), place("b"), &tree(2)));
    assert_eq!(
        first.of([Version(1), Version(2)].into_iter()),
        [Some(tree(1).root()), None]
    );
}

#[test]
fn last_hashed_place_counts() {
    let directory = tempfile::tempdir().unwrap();
    let roots = Roots::open(&directory.path().join("roots.redb")).unwrap();
    let (tree, root) = (tree(1), tree(1).root());
    let (a, b, c) = (place("a"), place("b"), place("c"));
    assert!(roots.insert(Version(1), a.clone(), &tree));
    assert!(roots.insert(Version(2), b.clone(), &tree));
    assert_eq!(roots.place(root).unwrap().as_ref(), Some(&b));
    assert!(!roots.add_place(root, a.clone()).unwrap());
    roots.forget_place(root, &a.path).unwrap();
    assert_eq!(roots.place(root).unwrap().as_ref(), Some(&b));
    assert!(roots.is_complete(Version(1)) && !roots.is_complete(Version(3)));
    roots.forget_place(root, &b.path).unwrap();
    assert!(!roots.is_complete(Version(1)));
    assert_eq!(roots.place(root).unwrap(), None);
    assert!(roots.add_place(root, c.clone()).unwrap());
    assert_eq!(roots.place(root).unwrap(), Some(c));
}

/// What is known of each of a few files: its version, its root, and what an honest member answers.
struct Known(Vec<(Version, HashTree)>);

impl Known {
    fn new() -> Self {
        let blocks = [1, 2, 3, 17, 500, 513, 1300];
        // Each file has its own content, and many are small, so that rows fill several pages.
        let sizes = blocks.into_iter().chain(std::iter::repeat_n(1, 300));
        let tree = |(number, blocks): (u64, u64)| {
            let leaves =
                (0..blocks).map(|block| leaf(&[number, block].map(u64::to_le_bytes).concat()));
            (Version(number), HashTree::new(leaves.collect()).unwrap())
        };
        Self((1..).zip(sizes).map(tree).collect())
    }

    fn write(&self, path: &Path) {
        let roots = Roots::open(path).unwrap();
        for (version, tree) in &self.0 {
            let name = format!("file {}", version.0);
            assert!(roots.insert(*version, place(&name), tree));
        }
        roots.flush().unwrap();
    }

    /// Requests everything from a node with the database at `path`. Returns how much of
    /// it is known.
    fn check(&self, path: &Path) -> usize {
        let roots = Roots::open(path).unwrap();
        let mut known = 0;
        let asked = self.0.iter().map(|(version, _)| *version);
        for ((version, tree), root) in self.0.iter().zip(roots.of(asked)) {
            assert!(root.is_none_or(|root| root == tree.root()), "{version:?}");
            known += usize::from(root.is_some());
            roots.is_complete(*version);
            let _a_hint = roots.place(tree.root());
            for index in (0..).take_while(|index| tree.subtree(*index).is_some()) {
                let first = index * SUBTREE_BLOCKS;
                // Damage may be found only here; what was there is recomputed then.
                if let Ok(Some(leaves)) = roots.subtree(tree.root(), first, SUBTREE_BLOCKS) {
                    assert_eq!(Some(leaves), tree.subtree(index));
                    known += 1;
                }
            }
        }
        let (version, tree) = &self.0[0];
        // Damage found here does not keep what is learned now from being remembered.
        for _ in 0..2 {
            assert!(roots.insert(*version, place("again"), tree));
            let _may_meet_damage = roots.flush();
        }
        assert!(roots.insert(*version, place("again"), tree));
        roots.flush().unwrap();
        assert_eq!(roots.of([*version].into_iter()), [Some(tree.root())]);
        known
    }
}

/// A file of roots, to be damaged.
struct Sample {
    directory: tempfile::TempDir,
    known: Known,
    sound: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let known = Known::new();
        let path = directory.path().join("sound");
        known.write(&path);
        let sound = fs::read(&path).unwrap();
        Self {
            directory,
            known,
            sound,
        }
    }

    fn check(&self, bytes: &[u8]) -> usize {
        let path = self.directory.path().join("damaged");
        fs::write(&path, bytes).unwrap();
        self.known.check(&path)
    }

    /// Returns where the file contains anything: most of it is empty.
    fn used(&self) -> Vec<usize> {
        let pages = self.sound.chunks(PAGE).enumerate();
        let used = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        used.map(|(number, _)| number * PAGE).collect()
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.used().into_iter().flat_map(|page| page..page + PAGE)
    }
}

/// The unit in which the database reads and writes.
const PAGE: usize = 4096;

#[test]
fn a_sound_database_knows_everything() {
    let sample = Sample::new();
    let subtrees = 307 + 1 + 2;
    assert_eq!(sample.check(&sample.sound), 307 + subtrees);
}

/// One kind of damage to a file. Numbers are positions in it, in parts per million.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, usize, u8),
    Cut(usize),
    Swap(usize, usize),
    Copy(usize, usize),
    Tear(usize, usize),
    Fill(usize, u8),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>, used: &[usize]) {
        let page = |place: usize| used[place % used.len()];
        match *self {
            Self::Flip(place, byte, bit) => bytes[page(place) + byte % PAGE] ^= 1 << (bit % 8),
            Self::Cut(place) => bytes.truncate(page(place) + place % PAGE),
            Self::Swap(a, b) => {
                let (a, b) = (page(a), page(b));
                let was = bytes[a..a + PAGE].to_vec();
                bytes.copy_within(b..b + PAGE, a);
                bytes[b..b + PAGE].copy_from_slice(&was);
            }
            Self::Copy(a, b) => bytes.copy_within(page(a)..page(a) + PAGE, page(b)),
            Self::Tear(a, b) => {
                let half = PAGE / 2;
                bytes.copy_within(page(a) + half..page(a) + PAGE, page(b) + half);
            }
            Self::Fill(a, byte) => bytes[page(a)..page(a) + PAGE].fill(byte),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0..1_000_000_usize;
    let two = (at.clone(), at.clone());
    prop_oneof![
        4 => (at.clone(), at.clone(), 0..8_u8).prop_map(|(a, b, bit)| Damage::Flip(a, b, bit)),
        1 => at.clone().prop_map(Damage::Cut),
        1 => two.clone().prop_map(|(a, b)| Damage::Swap(a, b)),
        1 => two.clone().prop_map(|(a, b)| Damage::Copy(a, b)),
        1 => two.prop_map(|(a, b)| Damage::Tear(a, b)),
        1 => (at, any::<u8>()).prop_map(|(a, byte)| Damage::Fill(a, byte)),
    ]
}

#[test]
fn no_file_damage_yields_a_wrong_root() {
    let sample = Sample::new();
    let used = sample.used();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(48));
    let several = prop::collection::vec(damage(), 1..4);
    let checked = runner.run(&several, |several| {
        let mut bytes = sample.sound.clone();
        for damage in &several {
            if bytes.len() == sample.sound.len() {
                damage.apply(&mut bytes, &used);
            }
        }
        sample.check(&bytes);
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn no_flipped_bit_yields_a_wrong_root() {
    let sample = Sample::new();
    let mut bytes = sample.sound.clone();
    // A prime, so that every offset within a row comes up.
    for place in (0..PAGE).step_by(199).chain(sample.places().step_by(8191)) {
        let bit = 1 << (place % 8);
        bytes[place] ^= bit;
        sample.check(&bytes);
        bytes[place] ^= bit;
    }
}

/// The previous format, whose rows prove nothing, and one that happens to use our names.
#[test]
fn database_of_another_format_is_recreated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.redb");
    let old: TableDefinition<u64, [u8; 32]> = TableDefinition::new("roots");
    let odd: TableDefinition<u64, u64> = TableDefinition::new("checked roots");
    let begin: [&dyn Fn(&redb::WriteTransaction); 2] = [
        &|write| {
            write.open_table(old).unwrap().insert(1, [7; 32]).unwrap();
        },
        &|write| {
            write.open_table(odd).unwrap().insert(1, 7).unwrap();
        },
    ];
    for fill in begin {
        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        fill(&write);
        write.commit().unwrap();
        drop(database);
        let roots = Roots::open(&path).unwrap();
        assert_eq!(roots.of([Version(1)].into_iter()), [None]);
        assert!(roots.insert(Version(1), place("a"), &tree(2)));
        roots.flush().unwrap();
        drop(roots);
        let roots = Roots::open(&path).unwrap();
        assert_eq!(roots.of([Version(1)].into_iter()), [Some(tree(2).root())]);
        fs::remove_file(&path).unwrap();
    }
}
