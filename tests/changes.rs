//! Members' changes to their shares, seen on another member's mount: a thousand random changes,
//! each checked against a model of the union.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::harness::process::{eventually, run, signal};
use crate::harness::slow_link::SlowLink;
use crate::harness::swarm::{Node, Swarm};

/// Time until all files have their roots, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Names of files and directories: few, so that they clash often.
const NAMES: [&str; 6] = ["a", "b.txt", "c.tar.gz", "d", ".e", "f g.ogg"];

/// Depth of nested directories.
const DEPTH: usize = 3;

/// The content of a file as readers see it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    bytes: Vec<u8>,
    mtime: SystemTime,
}

/// The object at one path of one share.
#[derive(Clone, PartialEq, Eq)]
enum Thing {
    Directory,
    File(Content),
}

/// What a mount shows at a path.
#[derive(Clone, PartialEq, Eq)]
enum Shown {
    Directory,
    File { size: u64, mtime: SystemTime },
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::File { size, mtime } => {
                let mtime = mtime.duration_since(UNIX_EPOCH).unwrap_or_default();
                write!(f, "{size} bytes of {}", mtime.as_secs())
            }
        }
    }
}

type Tree = BTreeMap<PathBuf, Shown>;

/// A small random number generator (xorshift), so that a failure can be reproduced from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.roll(of.len())])
    }
}

/// One member's share and the expected files in it.
struct Model {
    root: PathBuf,
    /// The name in the names of its conflicts.
    name: String,
    /// The id by which members are sorted.
    peer_id: String,
    things: BTreeMap<PathBuf, Thing>,
}

/// Modification time of the first file, in seconds since 1970; each file gets another one.
const EPOCH: u64 = 1_000_000_000;

struct World {
    shares: Vec<Model>,
    dice: Dice,
    written: u64,
}

impl World {
    fn new(shares: Vec<Model>, seed: u64) -> Self {
        Self {
            shares,
            dice: Dice(seed | 1),
            written: 0,
        }
    }

    /// Returns a content that has never existed before.
    fn content(&mut self) -> Content {
        self.written += 1;
        let bytes = match self.dice.roll(8) {
            0 => Vec::new(),
            _ => format!("content {} ", self.written)
                .repeat(1 + self.dice.roll(50))
                .into_bytes(),
        };
        Content {
            bytes,
            mtime: UNIX_EPOCH + Duration::from_secs(EPOCH + self.written),
        }
    }

    /// Changes one share at random, on disk and in the model. Returns a description of the change.
    fn step(&mut self) -> String {
        loop {
            let index = self.dice.roll(self.shares.len());
            if let Some(done) = self.try_step(index) {
                return format!("{}: {done}", self.shares[index].name);
            }
        }
    }

    fn try_step(&mut self, index: usize) -> Option<String> {
        let share = &self.shares[index];
        let files: Vec<PathBuf> = share.paths(|thing| matches!(thing, Thing::File(_)));
        let mut directories = share.paths(|thing| *thing == Thing::Directory);
        directories.push(PathBuf::new());
        let file = self.dice.pick(&files).cloned();
        let new = {
            let directory = self.dice.pick(&directories)?;
            let name = self.dice.pick(&NAMES)?;
            Some(directory.join(name)).filter(|path| path.components().count() <= DEPTH)
        };
        let free = new.filter(|path| !share.things.contains_key(path));
        match self.dice.roll(12) {
            0 | 1 => {
                let (path, content) = (free?, self.content());
                self.shares[index].write(&path, content);
                Some(format!("create {path:?}"))
            }
            2 => {
                let (path, content) = (file?, self.content());
                self.shares[index].write(&path, content);
                Some(format!("rewrite {path:?}"))
            }
            3 => {
                let (path, content) = (file?, self.content());
                self.shares[index].replace(&path, content);
                Some(format!("replace {path:?}"))
            }
            4 => {
                let (path, more) = (file?, self.content());
                self.shares[index].append(&path, &more);
                Some(format!("append to {path:?}"))
            }
            5 => {
                let path = file?;
                fs::remove_file(self.shares[index].root.join(&path)).expect("remove");
                self.shares[index].things.remove(&path);
                Some(format!("remove {path:?}"))
            }
            6 => {
                let path = free?;
                fs::create_dir(self.shares[index].root.join(&path)).expect("make a directory");
                self.shares[index]
                    .things
                    .insert(path.clone(), Thing::Directory);
                Some(format!("mkdir {path:?}"))
            }
            7 if directories.len() > 1 => {
                directories.pop();
                let path = self.dice.pick(&directories)?.clone();
                fs::remove_dir_all(self.shares[index].root.join(&path)).expect("remove all");
                self.shares[index]
                    .things
                    .retain(|known, _| !known.starts_with(&path));
                Some(format!("rm -r {path:?}"))
            }
            8 => {
                let (from, to) = (file?, free?);
                self.shares[index].rename(&from, &to);
                Some(format!("mv {from:?} {to:?}"))
            }
            9 if directories.len() > 1 => {
                directories.pop();
                let (from, to) = (self.dice.pick(&directories)?.clone(), free?);
                let deep = self.shares[index].depth_below(&from) + to.components().count();
                if to.starts_with(&from) || deep > DEPTH {
                    return None;
                }
                self.shares[index].rename(&from, &to);
                Some(format!("mv directory {from:?} {to:?}"))
            }
            10 => {
                let path = file?;
                self.written += 1;
                let mtime = UNIX_EPOCH + Duration::from_secs(EPOCH + self.written);
                self.shares[index].touch(&path, mtime);
                Some(format!("touch {path:?}"))
            }
            11 => {
                // A copy of another member's file, as `cp -p` would make it.
                let other = (index + 1) % self.shares.len();
                let theirs = self.shares[other].paths(|thing| matches!(thing, Thing::File(_)));
                let path = self.dice.pick(&theirs)?.clone();
                let there = self.shares[index].things.get(&path);
                let parent = path.parent()?;
                let has_parent = parent.as_os_str().is_empty()
                    || self.shares[index].things.get(parent) == Some(&Thing::Directory);
                if there == Some(&Thing::Directory) || !has_parent {
                    return None;
                }
                let Some(Thing::File(content)) = self.shares[other].things.get(&path).cloned()
                else {
                    return None;
                };
                self.shares[index].write(&path, content);
                Some(format!("copy of {path:?}"))
            }
            _ => None,
        }
    }

    /// Returns what every mount shows once all files have their content roots.
    fn union(&self) -> Tree {
        let first = |path: &PathBuf| self.outcomes(path).into_iter().next();
        self.paths().iter().filter_map(first).flatten().collect()
    }

    /// Returns true if a mount may show `found` now. Identical files are merged only once all the
    /// roots that prove it are known.
    fn allows(&self, found: &Tree) -> bool {
        let mut rest = found.clone();
        let is_right = self.paths().iter().all(|path| {
            let labels = self
                .shares
                .iter()
                .map(|share| conflict_name(path, &share.name));
            let names: Vec<PathBuf> = labels.chain([path.clone()]).collect();
            let seen: Tree = names
                .into_iter()
                .filter_map(|name| rest.remove_entry(&name))
                .collect();
            self.outcomes(path).contains(&seen)
        });
        is_right && rest.is_empty()
    }

    fn paths(&self) -> BTreeSet<PathBuf> {
        let paths = self.shares.iter().flat_map(|share| share.things.keys());
        paths.filter(|path| !is_hidden(path)).cloned().collect()
    }

    /// Returns what may be shown for one path; the first entry applies when everything is known.
    fn outcomes(&self, path: &PathBuf) -> Vec<Tree> {
        let mut files: Vec<(&Model, &Content)> = Vec::new();
        let mut is_directory = false;
        for share in &self.shares {
            match share.things.get(path) {
                None => {}
                Some(Thing::Directory) => is_directory = true,
                Some(Thing::File(content)) => files.push((share, content)),
            }
        }
        let groupings = groupings(&files).into_iter();
        let outcomes = groupings.flat_map(|groups| {
            let orders = orders(groups).into_iter();
            orders.map(|groups| fragment(path, is_directory, &groups))
        });
        outcomes.collect()
    }
}

/// Files that are known to be identical.
type Group<'a> = Vec<(&'a Model, &'a Content)>;

/// Returns the ways in which files may be known to be identical, beginning with the one in which
/// all identical files are merged.
fn groupings<'a>(files: &[(&'a Model, &'a Content)]) -> Vec<Vec<Group<'a>>> {
    let Some((first, rest)) = files.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for grouping in groupings(rest) {
        let same = |group: &Group| {
            let (_, content) = group[0];
            // Empty files are always identical.
            content.bytes == first.1.bytes
        };
        let joined = grouping.iter().position(same);
        if let Some(index) = joined {
            let mut joined = grouping.clone();
            joined[index].insert(0, *first);
            all.push(joined);
        }
        if joined.is_none() || !first.1.bytes.is_empty() {
            let mut apart = grouping;
            apart.push(vec![*first]);
            all.push(apart);
        }
    }
    all.sort_by_key(Vec::len);
    all
}

/// Returns the orders of the groups by rank: most holders first, then the newest. Groups of equal
/// rank may come in any order.
fn orders(groups: Vec<Group>) -> Vec<Vec<Group>> {
    if groups.is_empty() {
        return vec![groups];
    }
    let rank = |group: &Group| (group.len(), newest(group));
    let highest = groups.iter().map(rank).max();
    let mut all = Vec::new();
    for index in (0..groups.len()).filter(|index| Some(rank(&groups[*index])) == highest) {
        let mut rest = groups.clone();
        let first = rest.remove(index);
        for mut order in orders(rest) {
            order.insert(0, first.clone());
            all.push(order);
        }
    }
    all
}

fn newest(group: &Group) -> SystemTime {
    let mtimes = group.iter().map(|(_, content)| content.mtime);
    mtimes.max().expect("a holder")
}

/// Returns the entries shown for `path`.
fn fragment(path: &Path, is_directory: bool, groups: &[Group]) -> Tree {
    let mut tree = Tree::new();
    if is_directory {
        tree.insert(path.to_owned(), Shown::Directory);
    }
    for (index, group) in groups.iter().enumerate() {
        let (_, content) = group[0];
        let shown = Shown::File {
            size: content.bytes.len() as u64,
            mtime: newest(group),
        };
        let name = if index == 0 && !is_directory {
            path.to_owned()
        } else {
            let label = group.iter().map(|(share, _)| share);
            let label = label.min_by_key(|share| &share.peer_id).expect("a holder");
            conflict_name(path, &label.name)
        };
        tree.insert(name, shown);
    }
    tree
}

impl Model {
    fn paths(&self, is_wanted: impl Fn(&Thing) -> bool) -> Vec<PathBuf> {
        let wanted = self.things.iter().filter(|(_, thing)| is_wanted(thing));
        wanted.map(|(path, _)| path.clone()).collect()
    }

    fn depth_below(&self, directory: &Path) -> usize {
        let below = self
            .things
            .keys()
            .filter(|path| path.starts_with(directory));
        let depths = below.map(|path| path.components().count());
        depths.max().unwrap_or(0) - directory.components().count()
    }

    fn write(&mut self, path: &Path, content: Content) {
        let place = self.root.join(path);
        fs::write(&place, &content.bytes).expect("write");
        set_mtime(&place, content.mtime);
        self.things.insert(path.to_owned(), Thing::File(content));
    }

    /// Saves as careful programs do: a new file replaces the old one.
    fn replace(&mut self, path: &Path, content: Content) {
        let place = self.root.join(path);
        let new = place.with_file_name(".new");
        fs::write(&new, &content.bytes).expect("write");
        set_mtime(&new, content.mtime);
        fs::rename(&new, &place).expect("replace");
        self.things.insert(path.to_owned(), Thing::File(content));
    }

    fn append(&mut self, path: &Path, more: &Content) {
        let Some(Thing::File(content)) = self.things.get_mut(path) else {
            panic!("{path:?} is no file");
        };
        let place = self.root.join(path);
        let mut file = File::options().append(true).open(&place).expect("open");
        file.write_all(&more.bytes).expect("append");
        drop(file);
        content.bytes.extend_from_slice(&more.bytes);
        content.mtime = more.mtime;
        set_mtime(&place, more.mtime);
    }

    fn touch(&mut self, path: &Path, mtime: SystemTime) {
        set_mtime(&self.root.join(path), mtime);
        if let Some(Thing::File(content)) = self.things.get_mut(path) {
            content.mtime = mtime;
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        fs::rename(self.root.join(from), self.root.join(to)).expect("rename");
        let moved: Vec<PathBuf> = self
            .things
            .keys()
            .filter(|p| p.starts_with(from))
            .cloned()
            .collect();
        for path in moved {
            let rest = path.strip_prefix(from).expect("below");
            let new = if rest.as_os_str().is_empty() {
                to.to_owned()
            } else {
                to.join(rest)
            };
            let thing = self.things.remove(&path).expect("known");
            self.things.insert(new, thing);
        }
    }
}

fn set_mtime(path: &Path, mtime: SystemTime) {
    let file = File::options().write(true).open(path).expect("open");
    file.set_modified(mtime).expect("set the time");
}

fn is_hidden(path: &Path) -> bool {
    path.components()
        .any(|component| component.as_os_str().to_string_lossy().starts_with('.'))
}

/// Returns a name of the form `stem (member).ext`.
fn conflict_name(path: &Path, member: &str) -> PathBuf {
    let name = path
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (&*name, ""),
    };
    path.with_file_name(format!("{stem} ({member}){extension}"))
}

/// Returns everything in a mount; `None` if something vanished during the walk.
fn shown(mount: &Path) -> Option<Tree> {
    let mut tree = Tree::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(mount.join(&directory)).ok()? {
            let entry = entry.ok()?;
            let path = directory.join(entry.file_name());
            let found = entry.metadata().ok()?;
            if found.is_dir() {
                pending.push(path.clone());
                tree.insert(path, Shown::Directory);
            } else {
                let mtime =
                    UNIX_EPOCH + Duration::new(found.mtime() as u64, found.mtime_nsec() as u32);
                let size = found.size();
                tree.insert(path, Shown::File { size, mtime });
            }
        }
    }
    Some(tree)
}

/// Returns only the differences, for messages.
fn difference(expected: &Tree, found: &Tree) -> String {
    let mut lines = Vec::new();
    for path in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (wanted, seen) = (expected.get(path), found.get(path));
        if wanted != seen {
            lines.push(format!("{path:?}: {seen:?} in place of {wanted:?}"));
        }
    }
    lines.join("\n")
}

/// Starts three members: two serve, the third mounts and shares, too.
fn three(swarm: &Swarm, option: Option<&str>) -> (Vec<Node>, World) {
    let with = |node: Node| match option {
        Some(option) => node.log_level("info").option(option),
        None => node.log_level("info"),
    };
    let a = with(swarm.node("ann")).file("a of ann", "a").serve();
    let b = with(swarm.node("bob"))
        .file("a of bob", "b")
        .peer(&a)
        .serve();
    let c = with(swarm.node("cat"))
        .file("a of cat", "c")
        .peer(&a)
        .peer(&b)
        .mount();
    world(vec![a, b, c])
}

/// Does the same, but the third one hears of the others only over links.
fn three_apart(swarm: &Swarm) -> (Vec<Node>, World, [SlowLink; 2]) {
    let over_a_link = |name: &str| {
        let node = swarm.node(name).file(format!("a of {name}"), "x");
        let link = SlowLink::to(node.socket());
        let address = link.address().to_string();
        (node.option("--advertise").option(address), link)
    };
    let (a, to_a) = over_a_link("ann");
    let (b, to_b) = over_a_link("bob");
    let a = a.serve();
    let b = b.peer_at(to_a.address().to_string()).serve();
    let c = swarm
        .node("cat")
        .file("a of cat", "x")
        .peer_at(to_a.address().to_string())
        .log_level("debug")
        .mount();
    let (nodes, world) = world(vec![a, b, c]);
    (nodes, world, [to_a, to_b])
}

/// Waits until all three appear in the mount of the last one, then empties their shares.
fn world(nodes: Vec<Node>) -> (Vec<Node>, World) {
    let c = &nodes[2];
    eventually(Duration::from_secs(20), "all are there", || {
        fs::read_dir(c.mountpoint()).is_ok_and(|found| found.count() == 3)
    });
    let ids = ["ann", "bob", "cat"].map(|name| {
        let path = c.at(format!("a of {name}"));
        let mut value = [0; 512];
        let length = rustix::fs::getxattr(&path, c"user.tinyp2p.sources", &mut value[..]);
        let told = String::from_utf8_lossy(&value[..length.expect("its sources")]).into_owned();
        let id = told.trim().rsplit(' ').next().expect("a peer id");
        // In base32 the digits come after the letters, so this makes texts sort like the bytes.
        let later = |c: char| {
            c.to_digit(10)
                .map_or(c, |digit| (b'{' + digit as u8) as char)
        };
        id.chars().map(later).collect::<String>()
    });
    for (node, name) in nodes.iter().zip(["ann", "bob", "cat"]) {
        fs::remove_file(node.share().join(format!("a of {name}"))).expect("remove");
    }
    let shares = nodes.iter().zip(ids).zip(["ann", "bob", "cat"]);
    let shares = shares.map(|((node, peer_id), name)| Model {
        root: node.share().to_owned(),
        name: name.into(),
        peer_id,
        things: BTreeMap::new(),
    });
    let seed = std::env::var("TINYP2P_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seed = seed.unwrap_or(now.as_nanos() as u64);
    eprintln!("TINYP2P_TEST_SEED={seed}");
    let world = World::new(shares.collect(), seed);
    (nodes, world)
}

/// Makes `steps` changes and checks the mount after each, which must be right before `limit`.
/// Returns how long each took, sorted.
fn changes_are_seen(
    nodes: &[Node],
    world: &mut World,
    steps: usize,
    limit: Duration,
) -> Vec<Duration> {
    let mount = nodes[2].mountpoint();
    let mut open = Vec::new();
    let mut taken = Vec::with_capacity(steps);
    let mut history = Vec::new();
    for step in 0..steps {
        history.push(world.step());
        let begun = Instant::now();
        let expected = loop {
            let found = shown(&mount);
            if let Some(found) = found.clone().filter(|found| world.allows(found)) {
                break found;
            }
            let late = begun.elapsed() > limit;
            assert!(
                !late,
                "step {step}: not within {limit:?}\n{}\nafter {:#?}",
                found.map_or("it kept changing".into(), |found| difference(
                    &world.union(),
                    &found
                )),
                &history[history.len().saturating_sub(8)..],
            );
            std::thread::yield_now();
        };
        taken.push(begun.elapsed());
        // Files that stay open while their names come to mean something else.
        let files: Vec<&PathBuf> = expected
            .keys()
            .filter(|path| expected[*path] != Shown::Directory)
            .collect();
        if let Some(path) = world.dice.pick(&files) {
            read_is_right(world, &mount, path, &expected, begun + limit);
            open.push(File::open(mount.join(path)).expect("open"));
            if open.len() > 16 {
                open.remove(0);
            }
        }
    }
    // In the end, identical files are merged.
    eventually(SOON, "doubles are seen once", || {
        shown(&mount).as_ref() == Some(&world.union())
    });
    taken.sort();
    taken
}

/// Checks that the file has one of the contents that members have at its path, with the size shown.
///
/// When one of two members with the same content changes its copy, and no root has proven yet that
/// the two were the same, the listing looks right before the change is known. A reader may then get
/// ESTALE until `deadline`.
fn read_is_right(world: &World, mount: &Path, path: &Path, expected: &Tree, deadline: Instant) {
    let bytes = loop {
        match fs::read(mount.join(path)) {
            Ok(bytes) => break bytes,
            Err(error) => {
                let is_stale = error.raw_os_error() == Some(Errno::STALE.raw_os_error());
                let may_be = is_stale && Instant::now() < deadline;
                assert!(may_be, "{path:?}: {error}");
            }
        }
    };
    let fits = |share: &Model| {
        let mut things = share.things.iter();
        things.any(|(known, thing)| {
            let mut holders = world.shares.iter();
            let is_it =
                known == path || holders.any(|holder| conflict_name(known, &holder.name) == path);
            is_it && matches!(thing, Thing::File(content) if content.bytes == bytes)
        })
    };
    assert!(
        world.shares.iter().any(fits),
        "{path:?} has bytes that nobody wrote there"
    );
    let Shown::File { size, .. } = expected[path] else {
        return;
    };
    assert_eq!(bytes.len() as u64, size, "{path:?}");
}

#[test]
fn thousand_changes_each_show_in_a_second() {
    let swarm = Swarm::alone();
    let (nodes, mut world) = three(&swarm, None);
    let taken = changes_are_seen(&nodes, &mut world, 1000, Duration::from_secs(1));
    eprintln!(
        "seen after {:?} (median), {:?} (99 %), {:?} (all)",
        taken[500], taken[990], taken[999]
    );
}

#[test]
fn unwatched_changes_show_in_two_seconds() {
    let swarm = Swarm::alone();
    let (nodes, mut world) = three(&swarm, Some("--no-watch"));
    // Two seconds, plus the time to walk everything.
    let taken = changes_are_seen(&nodes, &mut world, 30, Duration::from_millis(2500));
    eprintln!("seen after {:?} (median), {:?} (all)", taken[15], taken[29]);
}

#[test]
fn changes_show_despite_cut_polls() {
    let swarm = Swarm::alone();
    let (nodes, mut world, links) = three_apart(&swarm);
    for link in &links {
        link.cut_when_idle(Duration::from_millis(200));
    }
    let mount = nodes[2].mountpoint();
    let cuts = || nodes[2].log().matches("no longer heard of").count();
    for _ in 0..8 {
        let before = cuts();
        eventually(Duration::from_secs(20), "both polls are cut", || {
            // Each walk starts another poll.
            shown(&mount);
            cuts() >= before + links.len()
        });
        changes_are_seen(&nodes, &mut world, 1, Duration::from_millis(2500));
    }
}

#[test]
fn changes_show_despite_dead_connections() {
    let swarm = Swarm::alone();
    let (nodes, mut world, links) = three_apart(&swarm);
    // Waits until the polls are under way.
    changes_are_seen(&nodes, &mut world, 10, Duration::from_millis(2500));
    let mount = nodes[2].mountpoint();
    let lost = || links.iter().map(SlowLink::lost).sum::<u64>();
    let mut rounds = 0;
    // Whether a connection is in use at that moment is random.
    while rounds < 3 || (lost() == 0 && rounds < 10) {
        rounds += 1;
        for link in &links {
            link.swallow();
        }
        let change = world.step();
        // A poll is given up after 8 s, and earlier answers then stay valid for two more.
        eventually(Duration::from_millis(10_500), &change, || {
            shown(&mount).is_some_and(|found| world.allows(&found))
        });
    }
    assert!(lost() > 0, "nothing was lost");
}

#[test]
fn second_find_of_same_tree_costs_no_call() {
    let swarm = Swarm::alone();
    let mut members: Vec<Node> = Vec::new();
    for member in ["ann", "bob"] {
        let mut node = swarm.node(member);
        for number in 0..10 {
            node = node
                .file(format!("both/{number}/of {member}"), "x")
                .file(format!("{member}/{number}/deep/er"), "x");
        }
        if let Some(first) = members.first() {
            node = node.peer(first);
        }
        members.push(node.serve());
    }
    let mount = swarm.node("cat").peer(&members[0]).mount();
    let find = || {
        let mut find = std::process::Command::new("find");
        find.arg(mount.mountpoint())
            .args(["-printf", "%p %s %T@\n"]);
        run(&mut find, Duration::from_secs(60))
            .expect_success()
            .text()
    };
    eventually(Duration::from_secs(20), "all are there", || {
        find().lines().count() == 1 + 1 + 10 + 20 + 2 * (1 + 3 * 10)
    });
    let calls = || -> usize {
        let count = |member: &Node| {
            let log = member.log();
            let looks = ["list", "stat", "search", "hashes"];
            let counts = looks.map(|call| log.matches(&format!("call=\"tinyp2p.{call}\"")).count());
            counts.iter().sum::<usize>()
        };
        members.iter().map(count).sum()
    };
    // Content roots become known in the first seconds, which counts as a change.
    let mut seen = (calls(), find());
    eventually(Duration::from_secs(60), "a find that costs nothing", || {
        // Longer than an unwatched answer stays valid, here and in the kernel.
        std::thread::sleep(Duration::from_millis(2500));
        let before = calls();
        let again = find();
        let is_free = (before, &again) == (calls(), &seen.1);
        seen = (calls(), again);
        is_free
    });
}

#[test]
fn change_beside_a_waiter_blocks_nobody() {
    let swarm = Swarm::alone();
    let a = swarm
        .node("ann")
        .file("d/known", "1")
        .file("e/known", "1")
        .serve();
    // Bob has the directories, too; otherwise it would be known that nothing in them is his.
    let b = swarm
        .node("bob")
        .peer(&a)
        .file("of bob", "1")
        .file("d/his", "1")
        .file("e/his", "1")
        .serve();
    let mut c = swarm.node("cat").peer(&a).peer(&b).mount();
    eventually(Duration::from_secs(20), "all are there", || {
        ["d/known", "of bob"].iter().all(|path| c.at(path).exists())
    });
    // Both waits are for bob, who may have such a file; the second one ends with the mount.
    for is_killed in [false, true] {
        let directory = ["d", "e"][usize::from(is_killed)];
        // The path to the directory is known, to the kernel as well, so that the wait is inside it.
        eventually(Duration::from_secs(20), "the way is known", || {
            shown_names(&c.mountpoint()).contains(&"of bob".to_owned()) && c.at(directory).exists()
        });
        b.freeze();
        let (at, begun) = (c.at(format!("{directory}/nobody has this")), Instant::now());
        let waiting = std::thread::spawn(move || at.exists());
        // Changes at intervals for a while, as by a program that writes there.
        let mut number = 0;
        while begun.elapsed() < Duration::from_millis(800) {
            number += 1;
            let new = format!("{directory}/new {number}");
            fs::write(a.share().join(new), "x").expect("write");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!waiting.is_finished(), "nobody waits for bob");
        if is_killed {
            // The rest of the mount stays in place until somebody accesses it.
            signal(c.pid(), Signal::KILL);
        }
        let answered = || waiting.is_finished();
        let limit = Instant::now() + Duration::from_secs(5);
        while !answered() && Instant::now() < limit {
            std::thread::yield_now();
        }
        if !answered() {
            // Otherwise neither the mount nor the waiting thread could be killed.
            abort(&c.mountpoint());
            panic!("whoever waits has no answer");
        }
        assert!(!waiting.join().expect("an answer"));
        b.thaw();
        if is_killed {
            c.crash();
        }
    }
}

fn shown_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

/// Aborts the kernel's side of the mount at `path`, as an administrator
/// can (umount2(2), `MNT_FORCE`).
fn abort(path: &Path) {
    // It may report that it is busy, but it has released the waiting threads nevertheless.
    let _ = unmount(path, UnmountFlags::FORCE);
}
