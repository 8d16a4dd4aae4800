//! Networks that mix the programs of 2004 and of today. Whoever joins first, everyone gets
//! everything; and a program of 2004 that stops holds up nobody.
//!
//! The members of 2004 are `data/legacy/server.py` and `data/legacy/client.py`, on Python 2.7
//! where it is available.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::content::{MIB, names, pattern};
use crate::harness::process::{eventually, sh, within};
use crate::harness::swarm::{Node, PASSWORD, Swarm, tinyp2p};
use crate::legacy::{Client, bytes, calls_of, names_in, python, texts};
use crate::legacy_client::{Old, same, shows};

const LIMIT: Duration = Duration::from_secs(60);

/// Time for the members of a network of four to find each other, on a machine that is busy with
/// six such networks.
const FOUND: Duration = Duration::from_secs(30);

/// Time limit for everything that does not involve a stopped member, or that waits for it
/// only for a moment.
const PROMPT: Duration = Duration::from_secs(8);

/// Time after which a program that needs a stopped member gets an error: see the bounds
/// in `net/PROTOCOL.md`, 10.2.
const GIVEN_UP: Duration = Duration::from_secs(25);

/// A stopped member is retried at doubling intervals; this is the longest wait after it stopped
/// for half a minute.
const BACK: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Old,
    New,
}

use Kind::{New as N, Old as O};

/// Every order in which two programs of each kind can join.
const ORDERS: [[Kind; 4]; 6] = [
    [O, O, N, N],
    [O, N, O, N],
    [O, N, N, O],
    [N, O, O, N],
    [N, O, N, O],
    [N, N, O, O],
];

type File = (String, Vec<u8>);

enum Program {
    Old(Old),
    New(Node),
}

/// A member of the network, of either kind.
struct Member {
    program: Program,
    /// Its own name, if it is of today.
    name: String,
    url: String,
    files: Vec<File>,
}

/// The members in the order in which they joined.
struct Network {
    members: Vec<Member>,
}

impl Network {
    /// Lets everyone join. Each member joins the existing one that `whom` selects, and has the
    /// files of [`files`] and `more`.
    fn join(
        swarm: &Swarm,
        label: &str,
        order: [Kind; 4],
        whom: impl Fn(usize) -> usize,
        more: impl Fn(usize) -> Vec<File>,
        is_slow: bool,
    ) -> Self {
        let mut members: Vec<Member> = Vec::new();
        for (number, kind) in order.into_iter().enumerate() {
            let known = (number > 0).then(|| members[whom(number)].url.clone());
            let name = format!("{label}-{number}");
            let files = [files(number), more(number)].concat();
            members.push(match kind {
                O => {
                    let old = Old::begin(swarm, &name, &files, known.as_deref(), is_slow);
                    Member {
                        name,
                        url: old.url.clone(),
                        program: Program::Old(old),
                        files,
                    }
                }
                N => {
                    let node = swarm.node(&name).option("--legacy");
                    let node = files.iter().fold(node, |n, (name, b)| n.file(name, b));
                    let node = known.into_iter().fold(node, Node::peer_at).mount();
                    Member {
                        name,
                        url: format!("http://{}", node.address()),
                        program: Program::New(node),
                        files,
                    }
                }
            });
        }
        Self { members }
    }

    fn mounts(&self) -> impl Iterator<Item = &Node> {
        self.members
            .iter()
            .filter_map(|member| match &member.program {
                Program::New(node) => Some(node),
                Program::Old(_) => None,
            })
    }

    /// Returns the names of all files, sorted.
    fn names(&self) -> Vec<&str> {
        let files = self.members.iter().flat_map(|member| &member.files);
        let mut names: Vec<&str> = files.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn urls(&self) -> BTreeSet<String> {
        self.members.iter().map(|m| m.url.clone()).collect()
    }

    /// Returns the member of 2004 that joined with this number.
    fn old(&self, number: usize) -> &Old {
        match &self.members[number].program {
            Program::Old(old) => old,
            Program::New(_) => panic!("{number} is of today"),
        }
    }
}

/// Returns the files that only the member with this number has.
fn files(number: usize) -> Vec<File> {
    let seed = number as u64 + 1;
    let text =
        format!("the text of {number}, <b>&amp; ]]> \"all\"\n\tof it\n").repeat(100 + number);
    vec![
        (format!("{number}.txt"), text.into_bytes()),
        (format!("{number}.bin"), pattern(seed, MIB / 4 + seed)),
    ]
}

fn nothing_more(_: usize) -> Vec<File> {
    Vec::new()
}

/// Checks that the mount of `node` shows what the members have: all together, and each on its own.
fn shows_everything(network: &Network, node: &Node) {
    eventually(FOUND, "everything is there", || {
        names(&node.mountpoint()) == network.names()
    });
    let itself = format!("http://{}", node.address());
    for member in &network.members {
        // A member known by a URL of 2004 is shown under it, whether it is of 2004 or of today.
        let shown = match &member.program {
            Program::New(_) if member.url == itself => &member.name,
            _ => &member.url["http://".len()..],
        };
        let own = node.at(format!(".tinyp2p/peers/{shown}"));
        let mut expected: Vec<&str> = member.files.iter().map(|(name, _)| &name[..]).collect();
        expected.sort_unstable();
        eventually(FOUND, &format!("{own:?} has {expected:?}"), || {
            own.exists() && names(&own) == expected
        });
        for (name, content) in &member.files {
            same(&node.at(name), content);
            same(&own.join(name), content);
        }
    }
}

/// Returns the URLs that the server at `url` says it knows.
fn told(url: &str) -> BTreeSet<String> {
    let result = Client::at(url.to_owned()).call(0, json!([]));
    // A server that knows no other answers with a fault.
    let urls = result["list"].as_array().map(|_| texts(&result["list"]));
    let urls = urls.unwrap_or_default().into_iter().map(String::from_utf8);
    urls.collect::<Result<_, _>>().expect("UTF-8")
}

/// Checks that a client of 2004 that knows one server learns of all others from it, and
/// gets a text from each.
fn a_client_gets_everything(network: &Network, from: &Member) {
    eventually(FOUND, "it tells of everyone", || {
        let mut told = told(&from.url);
        if let Program::Old(_) = from.program {
            // A server of 2004 lists itself only if another program has announced it to it.
            told.insert(from.url.clone());
        }
        told == network.urls()
    });
    let clients = network.members.iter();
    let clients: Vec<Client> = clients.map(|m| Client::at(m.url.clone())).collect();
    let calls = network.members.iter().zip(&clients);
    let calls = calls.flat_map(|(member, client)| {
        let (name, _) = &member.files[0];
        [(client, 1, json!(r"\.txt$")), (client, 2, json!(name))]
    });
    let results = calls_of(&calls.collect::<Vec<_>>());
    let (results, _) = results.as_chunks();
    for (member, [names, fetched]) in network.members.iter().zip(results) {
        let (name, text) = &member.files[0];
        // Python 3 cannot send byte strings.
        let form = match member.program {
            Program::Old(_) if !python().is_2 => "binary",
            _ => "text",
        };
        assert_eq!(names_in(names), [&name[..]], "{}", member.url);
        assert_eq!(bytes(&fetched[form]), *text, "{name} of {}", member.url);
    }
}

/// Runs `work` for all orders at the same time, on threads named after the order.
fn in_every_order(work: impl Fn(usize, [Kind; 4]) + Sync) {
    thread::scope(|scope| {
        for (number, order) in ORDERS.into_iter().enumerate() {
            let work = &work;
            thread::Builder::new()
                .name(format!("{order:?}"))
                .spawn_scoped(scope, move || work(number, order))
                .expect("start a thread");
        }
    });
}

#[test]
fn any_join_order_gives_all_files_to_all() {
    let swarm = Swarm::new();
    in_every_order(|number, order| {
        let previous = |number| number - 1;
        let network = Network::join(
            &swarm,
            &number.to_string(),
            order,
            previous,
            nothing_more,
            false,
        );
        network
            .mounts()
            .for_each(|node| shows_everything(&network, node));
        for member in &network.members {
            a_client_gets_everything(&network, member);
        }
    });
}

#[test]
fn first_node_may_be_joined_by_all_others() {
    let swarm = Swarm::new();
    in_every_order(|number, order| {
        let network = Network::join(
            &swarm,
            &number.to_string(),
            order,
            |_| 0,
            nothing_more,
            false,
        );
        network
            .mounts()
            .for_each(|node| shows_everything(&network, node));
    });
}

#[test]
fn mixed_network_copies_50_mb_byte_exact() {
    let swarm = Swarm::new();
    let large = pattern(77, 50_000_000);
    let more = |number| match number {
        2 => vec![("large".to_owned(), large.clone())],
        _ => Vec::new(),
    };
    let network = Network::join(&swarm, "m", [N, O, O, N], |number| number - 1, more, false);
    for (number, node) in network.mounts().enumerate() {
        shows(node, &network.names());
        let copy = swarm.path(&format!("copy{number}"));
        let from = node.at("large");
        sh("cp", &[&from.to_string_lossy(), &copy.to_string_lossy()]);
        assert!(fs::read(&copy).expect("read the copy") == large);
    }
}

/// Reads `path` on its own thread; sends the result and how long it took.
fn reading(path: &Path) -> mpsc::Receiver<(std::io::Result<Vec<u8>>, Duration)> {
    let (path, begun) = (path.to_owned(), Instant::now());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let read = fs::read(path);
        let _ = sender.send((read, begun.elapsed()));
    });
    ended
}

#[test]
fn stopped_server_fails_only_its_readers() {
    let swarm = Swarm::new();
    // Longer than what is fetched just to determine a size.
    let long = pattern(78, 66 * MIB);
    let more = |number| match number {
        1 => vec![
            ("long".to_owned(), long.clone()),
            ("unread".to_owned(), b"not yet".to_vec()),
        ],
        _ => Vec::new(),
    };
    let network = Network::join(&swarm, "m", [N, O, O, N], |number| number - 1, more, true);
    for node in network.mounts() {
        shows(node, &network.names());
    }
    let mounts: Vec<&Node> = network.mounts().collect();
    let within_it = reading(&mounts[0].at("long"));
    let stopped = network.old(1);
    stopped.wait_until_half_is_sent();
    stopped.signal(Signal::STOP);
    let unread = mounts.iter().map(|node| reading(&node.at("unread")));
    let unread: Vec<_> = unread.collect();
    let others = network.members.iter().enumerate();
    let others = others.filter(|(number, _)| *number != 1).map(|(_, m)| m);
    let others: Vec<&File> = others.flat_map(|member| &member.files).collect();
    let all_are_served = |node: &Node| {
        let (mountpoint, own) = (node.mountpoint(), node.at(".tinyp2p"));
        let shown = within(PROMPT, "a listing", move || names(&mountpoint));
        for (name, content) in &others {
            assert!(shown.contains(name), "{shown:?}");
            let path = node.at(name);
            let read = within(PROMPT, name, move || fs::read(path));
            assert!(read.expect("read a file") == *content, "{name}");
        }
        within(PROMPT, "what the program tells", move || {
            fs::read(own.join("status")).expect("read the status");
            names(&own.join("peers"))
        });
        // A client of 2004 also learns of the stopped server: nothing is ever
        // removed from the list.
        let begun = Instant::now();
        assert_eq!(told(&format!("http://{}", node.address())), network.urls());
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    };
    mounts.iter().for_each(|node| all_are_served(node));
    for reader in [&within_it].into_iter().chain(&unread) {
        let (read, took) = reader.recv_timeout(LIMIT).expect("a reader that hangs");
        let read = read.map(|read| read.len());
        assert!(read.is_err() && took < GIVEN_UP, "{read:?} after {took:?}");
    }
    mounts.iter().for_each(|node| all_are_served(node));
    stopped.signal(Signal::CONT);
    for node in &mounts {
        eventually(BACK, "all is there again", || {
            names(&node.mountpoint()) == network.names()
        });
        for (name, content) in network.members.iter().flat_map(|m| &m.files) {
            same(&node.at(name), content);
        }
    }
}

/// Runs `tinyp2p get --legacy` into a new directory, which is returned.
fn get(swarm: &Swarm, pattern: &str, url: &str, fetched: usize) -> std::path::PathBuf {
    let target = swarm.directory("target");
    let to = target.to_string_lossy();
    let arguments = ["get", "--legacy", "-d", &to, PASSWORD, pattern, url];
    let finished = tinyp2p(swarm, &arguments, LIMIT).expect_success();
    let told = format!("{fetched} fetched");
    assert!(finished.text().starts_with(&told), "{finished}");
    assert!(finished.text().contains("0 existed"), "{finished}");
    target
}

#[test]
fn get_fetches_each_match_of_a_node_once() {
    let swarm = Swarm::new();
    let random = pattern(1, 3 * MIB + 1);
    let node = swarm
        .node("a")
        .file("a.bin", &random)
        .file("b.bin", "two\r\n")
        .file("c.txt", "3")
        .option("--legacy")
        .serve();
    let url = format!("http://{}", node.address());
    let target = get(&swarm, r"\.bin$", &url, 2);
    assert_eq!(names(&target), ["a.bin", "b.bin"]);
    same(&target.join("a.bin"), &random);
    same(&target.join("b.bin"), b"two\r\n");
}

#[test]
fn get_fetches_each_mixed_match_once() {
    for is_old_asked in [false, true] {
        let swarm = Swarm::new();
        let random = pattern(2, MIB + 1);
        let at_both: &[u8] = b"the same at both";
        let files = [("old.bin", &b"\x00\xff\r"[..]), ("both.bin", at_both)];
        let old = Old::begin(&swarm, "old", &files, None, false);
        let node = swarm
            .node("new")
            .file("new.bin", &random)
            .file("both.bin", at_both)
            .file("c.txt", "3")
            .option("--legacy")
            .peer_at(&old.url)
            .serve();
        let url = format!("http://{}", node.address());
        eventually(FOUND, "they know one another", || {
            told(&url).contains(&old.url) && told(&old.url).contains(&url)
        });
        let asked = if is_old_asked { &old.url } else { &url };
        let target = get(&swarm, r"\.bin$", asked, 3);
        assert_eq!(names(&target), ["both.bin", "new.bin", "old.bin"]);
        same(&target.join("both.bin"), at_both);
        same(&target.join("new.bin"), &random);
        same(&target.join("old.bin"), b"\x00\xff\r");
    }
}
