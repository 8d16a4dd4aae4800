//! Fifty members, three of which cause trouble for all others: a frozen one, one behind a very slow
//! link, and one that leaves and comes back every few seconds.
//!
//! Starting so many takes half a minute, so one network serves all checks in turn. Speed is
//! compared with the speed a minute earlier in the same network, when all members were well.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Timespec, Timestamps};
use serde_json::Value;

use crate::harness::content::names;
use crate::harness::process::{eventually, within};
use crate::harness::slow_link::SlowLink;
use crate::harness::swarm::{Node, Swarm};

/// Number of all members, including those in trouble and those that mount.
const MEMBERS: usize = 50;

/// Members that mount; the others serve.
const MOUNTS: usize = 2;

/// Time limit for a lookup or a listing.
const DEADLINE: Duration = Duration::from_secs(3);

/// Extra time on a machine where fifty nodes share two processors.
const SLACK: Duration = Duration::from_secs(1);

/// Delay of bytes to and from the slow member.
const DELAY: Duration = Duration::from_millis(700);

/// Time until all members know each other once the last one has started.
const CONVERGED: Duration = Duration::from_secs(60);

/// Time until returning files are visible again.
const BACK: Duration = Duration::from_secs(60);

/// Number of listings, and of lookups, that are timed for one figure.
const ROUNDS: usize = 20;

/// How many times as long a listing or a lookup may take with members in trouble as without.
const FACTOR: f64 = 3.0;

/// Smaller differences are noise of the machine.
const NOISE: Duration = Duration::from_millis(50);

/// Directories at every member: each is listed or looked into once, so no answer
/// comes from a cache.
const DIRECTORIES: usize = 5 * ROUNDS;

#[test]
fn troubled_members_slow_no_others() {
    let swarm = Swarm::alone();
    let mut network = Network::start(&swarm);
    network.everybody_knows_everybody();
    network.print_sizes("at rest");
    let mut fresh = Fresh::default();

    let all: BTreeSet<String> = network.files_of(|_| true);
    let before = network.figures(&mut fresh, &all, &all);
    println!("all well: {before}");

    network.frozen().freeze();
    network.link.delay(DELAY);
    let flapping = network.flap();
    // The first requests pay for discovering the unresponsive members: one deadline each at most.
    for directory in (0..4).map(|_| fresh.next()) {
        network.list(0, &directory, &network.healthy(), &all);
        network.list(1, &directory, &network.healthy(), &all);
    }
    let with = network.figures(&mut fresh, &network.healthy(), &all);
    println!("three in trouble: {with}");
    network.print_sizes("with three in trouble");
    with.assert_near(&before);
    network.absences_are_told_in_time(&mut fresh);
    network.files_of_the_slow_one_are_found(&mut fresh, &all);
    network.end_flapping(flapping);

    network.frozen().thaw();
    network.link.delay(Duration::ZERO);
    network.everybody_knows_everybody();
    eventually(BACK, "all files are back", || {
        (0..MOUNTS).all(|mount| network.names(mount, "d0") == all)
    });
}

/// The median and maximum duration of listings and lookups.
struct Figures {
    listing: [Duration; 2],
    lookup: [Duration; 2],
}

impl Figures {
    fn assert_near(&self, before: &Self) {
        for (what, now, then) in [
            ("listing", self.listing[0], before.listing[0]),
            ("lookup", self.lookup[0], before.lookup[0]),
        ] {
            assert!(
                now < then.mul_f64(FACTOR) + NOISE,
                "the median {what} takes {now:?}, and took {then:?} when all were well"
            );
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([listing, slowest], [lookup, latest]) = (self.listing, self.lookup);
        write!(
            f,
            "listing {listing:.1?}, at worst {slowest:.1?}; lookup {lookup:.1?}, at worst {latest:.1?}"
        )
    }
}

/// Directories that nobody has accessed yet.
#[derive(Default)]
struct Fresh {
    used: usize,
}

impl Fresh {
    fn next(&mut self) -> String {
        assert!(self.used < DIRECTORIES, "all directories were looked at");
        self.used += 1;
        format!("d{}", self.used - 1)
    }
}

struct Network {
    /// In the order of their numbers, as are all ranges below. The flapping node is missing
    /// while a thread owns it.
    nodes: Vec<Node>,
    link: SlowLink,
    runtime: PathBuf,
    flapping: Option<Node>,
}

/// Numbers of the members that will be in trouble; those that mount come first.
const FROZEN: usize = MEMBERS - 3;
const SLOW: usize = MEMBERS - 2;

impl Network {
    /// Starts all nodes through one or two known ones, which are not the first to be present.
    fn start(swarm: &Swarm) -> Self {
        let runtime = swarm.directory("runtime");
        let mut nodes: Vec<Option<Node>> = (0..MEMBERS).map(|n| Some(node(swarm, n))).collect();
        let known: Vec<String> = (10..12)
            .map(|known| nodes[known].as_ref().expect("is there").address())
            .collect();
        let slow = nodes[SLOW].take().expect("is there");
        let link = SlowLink::to(slow.socket());
        nodes[SLOW] = Some(
            slow.option("--advertise")
                .option(link.address().to_string()),
        );
        let begun = Instant::now();
        // A step without a common divisor with their number visits each once.
        for number in (0..MEMBERS).map(|n| (n * 17 + 3) % MEMBERS) {
            let mut node = nodes[number].take().expect("not started yet");
            for peer in known.iter().take(1 + number % 2) {
                if *peer != node.address() {
                    node = node.peer_at(peer);
                }
            }
            let node = node.runtime(&runtime).log_level("info");
            nodes[number] = Some(if number < MOUNTS {
                node.mount()
            } else {
                node.serve()
            });
        }
        println!("{MEMBERS} members started in {:.1?}", begun.elapsed());
        let mut nodes: Vec<Node> = nodes.into_iter().flatten().collect();
        let flapping = nodes.pop();
        Self {
            nodes,
            link,
            runtime,
            flapping,
        }
    }

    fn frozen(&self) -> &Node {
        &self.nodes[FROZEN]
    }

    /// Returns the running nodes, without the flapping one while a thread owns it.
    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain(&self.flapping)
    }

    fn everybody_knows_everybody(&self) {
        let begun = Instant::now();
        for node in self.running() {
            let left = CONVERGED.saturating_sub(begun.elapsed());
            eventually(left, "a node knows all others", || {
                present(&self.runtime, node) == MEMBERS - 1
            });
        }
        println!("everybody knew everybody after {:.1?}", begun.elapsed());
    }

    /// Returns what a directory shows if exactly the members that `which` selects answer.
    fn files_of(&self, which: impl Fn(usize) -> bool) -> BTreeSet<String> {
        let own = (0..MEMBERS).filter(|n| which(*n)).map(of);
        own.chain(["same".to_owned()]).collect()
    }

    fn healthy(&self) -> BTreeSet<String> {
        self.files_of(|n| n < FROZEN)
    }

    fn names(&self, mount: usize, directory: &str) -> BTreeSet<String> {
        let path = self.nodes[mount].at(directory);
        fs::read_dir(path).map_or_else(
            |_| BTreeSet::new(),
            |entries| {
                let names = entries.map_while(Result::ok).map(|entry| entry.file_name());
                names
                    .map(|name| name.to_string_lossy().into_owned())
                    .collect()
            },
        )
    }

    /// Lists a directory: in time, with all of `least`, nothing beyond `most`, and each name once.
    fn list(
        &self,
        mount: usize,
        directory: &str,
        least: &BTreeSet<String>,
        most: &BTreeSet<String>,
    ) -> Duration {
        let path = self.nodes[mount].at(directory);
        // Finding the directory is a separate lookup with its own deadline.
        in_time("finding a directory", {
            let path = path.clone();
            move || assert!(path.is_dir(), "{path:?} is not there")
        });
        let (listed, took) = in_time("a listing", move || names(&path));
        let set: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(set.len(), listed.len(), "names twice: {listed:?}");
        let missing: Vec<_> = least.difference(&set).collect();
        assert!(missing.is_empty(), "{directory} lacks {missing:?}");
        // The copies are one file once its members have hashed them.
        let is_double = |name: &&String| name.starts_with("same (");
        let beyond: Vec<_> = set
            .difference(most)
            .filter(|name| !is_double(name))
            .collect();
        assert!(beyond.is_empty(), "{directory} has {beyond:?}");
        took
    }

    /// Looks up a healthy member's file in a directory that was not listed.
    fn look_up(&self, mount: usize, directory: &str, owner: usize) -> Duration {
        let path = self.nodes[mount].at(directory).join(of(owner));
        in_time("finding a directory", {
            let path = path.parent().expect("a parent").to_owned();
            move || assert!(path.is_dir(), "{path:?} is not there")
        });
        let (size, took) = in_time("a lookup", move || fs::metadata(path).map(|m| m.len()));
        assert_eq!(size.expect("it is there"), of(owner).len() as u64);
        took
    }

    fn figures(
        &self,
        fresh: &mut Fresh,
        least: &BTreeSet<String>,
        most: &BTreeSet<String>,
    ) -> Figures {
        let mut listings: Vec<Duration> = Vec::new();
        let mut lookups: Vec<Duration> = Vec::new();
        for round in 0..ROUNDS {
            let mount = round % MOUNTS;
            listings.push(self.list(mount, &fresh.next(), least, most));
            let owner = MOUNTS + round % (FROZEN - MOUNTS);
            lookups.push(self.look_up(mount, &fresh.next(), owner));
        }
        Figures {
            listing: median_and_worst(listings),
            lookup: median_and_worst(lookups),
        }
    }

    /// Checks lookups of names that nobody has, as programs make them. Members for which
    /// nobody waits may have them, so a lookup takes as long as the slow member, and no longer
    /// than the deadline.
    fn absences_are_told_in_time(&self, fresh: &mut Fresh) {
        for probe in [".hidden", ".git", "desktop.ini", "folder.jpg"] {
            let directory = self.nodes[0].at(fresh.next());
            assert!(directory.is_dir());
            let (found, took) = in_time("an absence", move || directory.join(probe).exists());
            assert!(!found);
            println!("nobody has {probe}: told after {took:.1?}");
        }
    }

    /// Checks that they are found by name as soon as the link permits; and in a listing at the
    /// latest when its answer has come.
    fn files_of_the_slow_one_are_found(&self, fresh: &mut Fresh, all: &BTreeSet<String>) {
        let directory = fresh.next();
        eventually(BACK, "a file of the slow member is found by name", || {
            self.nodes[0].at(&directory).join(of(SLOW)).exists()
        });
        let directory = fresh.next();
        eventually(BACK, "a file of the slow member is listed", || {
            let names = self.names(0, &directory);
            assert!(names.is_subset(all), "{names:?}");
            names.contains(&of(SLOW))
        });
    }

    /// Lets the last member leave without notice and return, until [`Network::end_flapping`].
    fn flap(&mut self) -> Flapping {
        let mut node = self.flapping.take().expect("it runs");
        let enough = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                node.kill();
                thread::sleep(Duration::from_secs(2));
                node.start();
                thread::sleep(Duration::from_secs(3));
            }
            node
        });
        Flapping { enough, thread }
    }

    fn end_flapping(&mut self, flapping: Flapping) {
        flapping.enough.store(true, Ordering::Relaxed);
        let node = flapping.thread.join();
        self.flapping = Some(node.expect("it could always be started again"));
    }

    /// Prints what fifty members cost each of them.
    fn print_sizes(&self, when: &str) {
        let sizes = self.running().map(|node| size(node.pid()));
        let sizes: Vec<[u64; 2]> = sizes.collect();
        let most = |which: usize, of: &[[u64; 2]]| of.iter().map(|s| s[which]).max();
        let (mounts, serves) = sizes.split_at(MOUNTS);
        for (what, of) in [("mounts", mounts), ("serves", serves)] {
            let [threads, memory] = [0, 1].map(|which| most(which, of).unwrap_or(0));
            println!("{when}: {what} have up to {threads} threads and {memory} KiB");
            assert!(threads < 250, "{threads} threads");
            assert!(memory < 200 * 1024, "{memory} KiB of memory");
        }
    }
}

struct Flapping {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Node>,
}

/// Creates a member that shares, in each directory, a file of its own and one that all have.
fn node(swarm: &Swarm, number: usize) -> Node {
    let node = swarm.node(&format!("m{number}"));
    for directory in 0..DIRECTORIES {
        let directory = node.share().join(format!("d{directory}"));
        fs::create_dir(&directory).expect("make a directory");
        fs::write(directory.join(of(number)), of(number)).expect("write a file");
        write_old(&directory.join("same"));
    }
    node
}

/// Writes a file that is identical everywhere, including its time, before anybody knows its root.
fn write_old(path: &Path) {
    let file = fs::File::create(path).expect("create a file");
    fs::write(path, "the same everywhere").expect("write a file");
    let then = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: then,
        last_modification: then,
    };
    rustix::fs::futimens(file, &times).expect("set a file's time");
}

/// Returns the name, and the content, of the file that only this member has.
fn of(number: usize) -> String {
    format!("of {number}")
}

/// Returns the number of other members that are present, according to this node.
fn present(runtime: &Path, node: &Node) -> usize {
    let socket = runtime.join(format!("tinyp2p/{}.sock", node.pid()));
    let mut text = String::new();
    let read = UnixStream::connect(socket).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.read_to_string(&mut text)
    });
    let object = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    let object: Value = object.unwrap_or_default();
    let members = object["members"].as_array().into_iter().flatten();
    members
        .filter(|member| member["state"] == "present")
        .count()
}

/// Returns the threads, and the KiB of resident memory, of a process.
fn size(pid: u32) -> [u64; 2] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    ["Threads:", "VmRSS:"].map(|field| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    })
}

fn in_time<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (T, Duration) {
    within(DEADLINE + SLACK, what, move || {
        let begun = Instant::now();
        (work(), begun.elapsed())
    })
}

fn median_and_worst(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort();
    [times[times.len() / 2], times[times.len() - 1]]
}
