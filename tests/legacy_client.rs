//! The other half of the protocol of 2004: its servers as members, in the mount and
//! for `tinyp2p get`.
//!
//! The servers are `data/legacy/server.py` on Python 2.7's own `SimpleXMLRPCServer`, like the
//! original: one call at a time, HTTP/1.0, raw bytes in strings. Without Python 2.7, Python 3's
//! library takes its place and sends contents as base64; the test run reports that. Hostile servers
//! are plain sockets.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::Signal;

use crate::harness::content::{MIB, names, pattern};
use crate::harness::process::{eventually, run, sh, signal, within};
use crate::harness::swarm::{Node, PASSWORD, Swarm, is_mounted, next_address, tinyp2p};
use crate::legacy::python;

const SERVER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/legacy/server.py"
);

const OLD_PORT: u16 = 15998;

/// Time for members to find each other, on a busy machine.
const FOUND: Duration = Duration::from_secs(15);

const LIMIT: Duration = Duration::from_secs(60);

/// A server of 2004; killed when dropped.
pub(crate) struct Old {
    pub(crate) url: String,
    directory: PathBuf,
    child: Child,
    /// The lines of its standard output. All are read: Python 2 reports broken connections there,
    /// and exits if nobody reads them.
    output: mpsc::Receiver<String>,
}

impl Old {
    /// Starts one with these files, which joins the server at `other`.
    fn start(swarm: &Swarm, name: &str, files: &[(&str, &[u8])], other: Option<&str>) -> Self {
        Self::begin(swarm, name, files, other, false)
    }

    /// Does the same; a slow server takes seconds for long files, and reports when it
    /// has sent half of one.
    pub(crate) fn begin(
        swarm: &Swarm,
        name: &str,
        files: &[(impl AsRef<Path>, impl AsRef<[u8]>)],
        other: Option<&str>,
        is_slow: bool,
    ) -> Self {
        let directory = swarm.directory(name);
        for (name, content) in files {
            fs::write(directory.join(name), content).expect("write a file");
        }
        if !python().is_2 {
            eprintln!("servers of 2004 run on Python 3: left out is how Python 2 sends raw bytes");
        }
        let host = next_address().to_string();
        let mut command = python().command();
        command.arg(SERVER).args(is_slow.then_some("--slow"));
        command.args([PASSWORD, &host, &OLD_PORT.to_string()]);
        command.args(other).current_dir(&directory);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("start Python");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test may have ended already.
                let _ = sender.send(line);
            }
        });
        let old = Self {
            url: format!("http://{host}:{OLD_PORT}"),
            directory,
            child,
            output,
        };
        old.wait_until("ready");
        old
    }

    /// Waits until it has printed the line `said`.
    fn wait_until(&self, said: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) if line == said => return,
                Ok(_) => {}
                Err(error) => panic!("{} has not said {said:?}: {error}", self.url),
            }
        }
    }

    /// Waits until it has sent half of a long file.
    pub(crate) fn wait_until_half_is_sent(&self) {
        self.wait_until("half");
    }

    /// Returns the name under which it is shown.
    pub(crate) fn name(&self) -> &str {
        &self.url["http://".len()..]
    }

    pub(crate) fn signal(&self, what: Signal) {
        signal(self.child.id(), what);
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a mount that knows the servers at `urls`.
fn mount(swarm: &Swarm, name: &str, urls: &[&str]) -> Node {
    let node = swarm.node(name).option("--legacy");
    let node = urls.iter().fold(node, |node, url| node.peer_at(*url));
    node.mount()
}

pub(crate) fn shows(node: &Node, expected: &[&str]) {
    let what = format!("{expected:?} are there");
    eventually(FOUND, &what, || names(&node.mountpoint()) == expected);
}

pub(crate) fn same(path: &Path, expected: &[u8]) {
    let path = path.to_owned();
    let shown = path.display().to_string();
    let read = within(LIMIT, "a file is read", move || fs::read(path));
    assert!(read.expect("read a file") == expected, "{shown}");
}

#[test]
fn legacy_files_are_byte_exact() {
    let swarm = Swarm::new();
    let random = pattern(3, 3 * MIB + 5);
    let files: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("gr\u{fc}n & <co>.txt", b"one\rtwo\r\n&amp;<x>\n\r"),
        ("latin", b"caf\xe9 \x00\x01\xff"),
        ("random", &random),
    ];
    let old = Old::start(&swarm, "old", &files, None);
    fs::create_dir(old.directory.join("sub")).expect("make a directory");
    fs::write(old.directory.join(".hidden"), "x").expect("write a file");
    let node = mount(&swarm, "a", &[&old.url]);
    let all = files.map(|(name, _)| name);
    shows(&node, &all);
    for (name, content) in files {
        same(&node.at(name), content);
        let size = fs::metadata(node.at(name)).expect("look at a file").len();
        assert_eq!(size, content.len() as u64, "{name}");
        let own = format!(".tinyp2p/peers/{}/{name}", old.name());
        same(&node.at(own), content);
    }
    same(&node.at(".tinyp2p/search/rand/random"), &random);
    let copies = swarm.path("copies");
    let from = node.mountpoint();
    sh(
        "cp",
        &["-r", &from.to_string_lossy(), &copies.to_string_lossy()],
    );
    assert_eq!(names(&copies), all);
    for (name, content) in files {
        same(&copies.join(name), content);
    }
}

#[test]
fn file_of_unknown_size_is_copied_whole() {
    let swarm = Swarm::new();
    // More than is fetched just to determine a size.
    let large = pattern(5, 97 * MIB);
    let old = Old::start(&swarm, "old", &[("first", b"1")], None);
    let node = mount(&swarm, "a", &[&old.url]);
    shows(&node, &["first"]);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    for (number, tool) in [&["cp"][..], &["gio", "copy"], &["cat"]].iter().enumerate() {
        let name = format!("large{number}");
        fs::write(old.directory.join(&name), &large).expect("write a file");
        eventually(FOUND, "it is shown", || {
            names(&node.mountpoint()).contains(&name)
        });
        let size = fs::metadata(node.at(&name)).expect("look at a file").len();
        assert_eq!(size, 0, "not known yet");
        let (from, to) = (text(node.at(&name)), swarm.path(&name));
        match tool {
            ["cat"] => {
                let output = fs::File::create(&to).expect("make a file");
                let mut command = Command::new("cat");
                let status = command.arg(&from).stdout(output).status();
                assert!(status.expect("run cat").success());
            }
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                run(
                    command.args(arguments).args([&from, &text(to.clone())]),
                    LIMIT,
                )
                .expect_success();
            }
            [] => unreachable!("every tool has a name"),
        }
        assert!(fs::read(&to).expect("read the copy") == large, "{tool:?}");
        let size = fs::metadata(node.at(&name)).expect("look at a file").len();
        assert_eq!(size, large.len() as u64, "known by now");
    }
}

#[test]
fn servers_are_found_through_one_another_and_hear_of_this_node() {
    let swarm = Swarm::new();
    let first = Old::start(&swarm, "one", &[("a", b"1")], None);
    let second = Old::start(&swarm, "two", &[("b", b"2")], Some(&first.url));
    let node = mount(&swarm, "node", &[&first.url]);
    shows(&node, &["a", "b"]);
    let third = Old::start(&swarm, "three", &[("c", b"3")], Some(&second.url));
    shows(&node, &["a", "b", "c"]);
    let members = names(&node.at(".tinyp2p/peers"));
    for old in [&first, &second, &third] {
        assert!(
            members.iter().any(|member| member == old.name()),
            "{members:?}"
        );
    }
    let status = fs::read_to_string(node.at(".tinyp2p/status")).expect("read the status");
    assert!(
        status.contains(third.name()) && status.contains("not safe"),
        "{status}"
    );
}

#[test]
fn frozen_server_costs_its_deadline_once() {
    let swarm = Swarm::alone();
    let frozen = Old::start(&swarm, "one", &[("a", b"1")], None);
    let other = Old::start(&swarm, "two", &[("b", b"2")], None);
    let node = mount(&swarm, "node", &[&frozen.url, &other.url]);
    shows(&node, &["a", "b"]);
    frozen.signal(Signal::STOP);
    eventually(FOUND, "it is away", || names(&node.mountpoint()) == ["b"]);
    for _ in 0..3 {
        // Longer than the second for which an answer is valid.
        thread::sleep(Duration::from_millis(1100));
        let begun = Instant::now();
        assert_eq!(names(&node.mountpoint()), ["b"]);
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "nobody waits for it again: {took:?}"
        );
    }
    same(&node.at("b"), b"2");
    frozen.signal(Signal::CONT);
    shows(&node, &["a", "b"]);
    same(&node.at("a"), b"1");
}

#[test]
fn shared_name_fails_over_to_a_live_server() {
    let swarm = Swarm::new();
    let files = |who: &str| ["x", "y"].map(|name| (name, format!("{name} of {who}").into_bytes()));
    let [ann, bob] = ["ann", "bob"].map(|who| {
        let files = files(who);
        let files = files.each_ref().map(|(name, bytes)| (*name, &bytes[..]));
        Old::start(&swarm, who, &files, None)
    });
    let node = mount(&swarm, "node", &[&ann.url, &bob.url]);
    for (stopped, name, expected) in [(&ann, "x", "x of bob"), (&bob, "y", "y of ann")] {
        eventually(LIMIT, "both are there", || {
            let status = fs::read_to_string(node.at(".tinyp2p/status"));
            status.is_ok_and(|status| status.contains("2 present"))
        });
        shows(&node, &["x", "y"]);
        stopped.signal(Signal::STOP);
        eventually(Duration::from_secs(10), "it is read from the other", || {
            fs::read(node.at(name)).is_ok_and(|bytes| bytes == expected.as_bytes())
        });
        stopped.signal(Signal::CONT);
    }
}

#[test]
fn other_contents_are_another_file() {
    let swarm = Swarm::new();
    let old = Old::start(&swarm, "old", &[("x", b"before")], None);
    let node = mount(&swarm, "a", &[&old.url]);
    shows(&node, &["x"]);
    same(&node.at("x"), b"before");
    fs::write(old.directory.join("x"), "and afterwards").expect("write a file");
    let limit = Duration::from_secs(45);
    eventually(limit, "the new contents are there", || {
        fs::read(node.at("x")).is_ok_and(|read| read == b"and afterwards")
    });
}

#[test]
fn get_fetches_matches_and_keeps_existing() {
    let swarm = Swarm::new();
    let random = pattern(9, 50 * MIB);
    let first = Old::start(
        &swarm,
        "one",
        &[("a.bin", &random), ("old.bin", b"theirs")],
        None,
    );
    fs::create_dir(first.directory.join("dir.bin")).expect("make a directory");
    let second = Old::start(
        &swarm,
        "two",
        &[("b.bin", b"2"), ("c.txt", b"3")],
        Some(&first.url),
    );
    let target = swarm.directory("target");
    fs::write(target.join("old.bin"), "mine").expect("write a file");
    let to = target.to_string_lossy();
    let arguments = [
        "get",
        "--legacy",
        "-d",
        &to,
        PASSWORD,
        r"\.bin$",
        &second.url,
    ];
    let finished = tinyp2p(&swarm, &arguments, LIMIT).expect_success();
    assert!(finished.text().contains("2 fetched"), "{finished}");
    assert!(finished.text().contains("1 existed"), "{finished}");
    assert_eq!(names(&target), ["a.bin", "b.bin", "old.bin"]);
    same(&target.join("a.bin"), &random);
    same(&target.join("b.bin"), b"2");
    same(&target.join("old.bin"), b"mine");
}

#[test]
fn wrong_password_is_found_out_first() {
    let swarm = Swarm::new();
    let old = Old::start(&swarm, "old", &[("x", b"1")], None);
    let arguments = [
        "search",
        "--legacy",
        "a-wrong-password-of-length",
        "x",
        &old.url,
    ];
    let finished = tinyp2p(&swarm, &arguments, LIMIT);
    assert_eq!(finished.code(), 3, "{finished}");
    let arguments = ["search", PASSWORD, "x", &old.url];
    let finished = tinyp2p(&swarm, &arguments, LIMIT);
    assert_eq!(finished.code(), 2, "without --legacy: {finished}");
}

/// Starts a server that accepts any token and answers with `serve`, which gets the request.
fn hostile(serve: impl Fn(&str, &mut TcpStream) + Send + 'static) -> String {
    let address = next_address();
    let listener = TcpListener::bind((address, OLD_PORT)).expect("listen");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let asked = call(&mut stream);
            serve(&asked, &mut stream);
        }
    });
    format!("http://{address}:{OLD_PORT}")
}

/// Reads the call that arrives on `stream`.
fn call(stream: &mut TcpStream) -> String {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.trim_ascii_end().ends_with(b"</methodCall>") {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

fn document(value: &str) -> Vec<u8> {
    format!(
        "HTTP/1.0 200 OK\r\nContent-type: text/xml\r\n\r\n<?xml version='1.0'?><methodResponse><params><param>\
         <value>{value}</value></param></params></methodResponse>"
    )
    .into_bytes()
}

fn list(names: &[&str]) -> String {
    let values = names.iter();
    let values: String = values
        .map(|name| format!("<value><string>{name}</string></value>"))
        .collect();
    format!("<array><data>{values}</data></array>")
}

fn nested(names: &[&str]) -> String {
    format!("<array><data><value>{}</value></data></array>", list(names))
}

/// Starts a server that answers operation 0, so that it is a member; it returns `names` for
/// operation 1 and `contents` for others.
fn answering(names: Vec<u8>, contents: Vec<u8>) -> String {
    hostile(move |request, stream| {
        let answer = match request {
            asked if asked.contains("<int>0</int>") || asked.contains("<i4>0</i4>") => {
                document(&list(&["http://127.0.0.1:1"]))
            }
            asked if asked.contains("<int>1</int>") || asked.contains("<i4>1</i4>") => {
                names.clone()
            }
            _ => contents.clone(),
        };
        let _ = stream.write_all(&answer);
    })
}

/// A path to which hostile servers try to write.
const PASSWD: &str = "/etc/passwd";

/// Returns every file below `directory` with one of these names, except in mounts.
fn files_named(directory: &Path, wanted: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(directory) {
        let path = directory.join(&name);
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_directory && !is_mounted(&path) {
            found.extend(files_named(&path, wanted));
        } else if wanted.contains(&&name[..]) {
            found.push(path);
        }
    }
    found
}

#[test]
fn hostile_server_is_harmless_and_logged() {
    let swarm = Swarm::new();
    let passwd = fs::read(PASSWD).expect("read a file");
    let good = Old::start(&swarm, "good", &[("good", b"1")], None);
    let wrong_names = nested(&["../x", "/etc/passwd", "a/b", "..", ".", "", "&#0;", "fine"]);
    let bomb = b"HTTP/1.0 200 OK\r\n\r\n<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaaaaaa'>\
        <!ENTITY b '&a;&a;&a;&a;'>]><methodResponse>&b;"
        .to_vec();
    let many = document(&nested(&vec!["0123456789"; 1_000_000]));
    let redirect = b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".to_vec();
    let servers = [
        answering(document(&wrong_names), document("<string>x</string>")),
        answering(bomb.clone(), bomb),
        answering(many, document("<int>5</int>")),
        answering(redirect.clone(), redirect),
        answering(document(&list(&["not nested"])), Vec::new()),
    ];
    let mut urls: Vec<&str> = servers.iter().map(String::as_str).collect();
    urls.push(&good.url);
    let node = mount(&swarm, "a", &urls);
    let begun = Instant::now();
    shows(&node, &["fine", "good"]);
    same(&node.at("good"), b"1");
    assert!(begun.elapsed() < FOUND);
    for url in &servers {
        let place = &url["http://".len()..];
        eventually(FOUND, &format!("{place} is named"), || {
            let log = node.log();
            let mut lines = log.lines();
            lines.any(|line| line.contains("WARN") && line.contains(place))
        });
    }
    same(&node.at("fine"), b"x");
    // This directory is above the share, the state, the cache and the mount, so it contains every
    // place that a name with `..` may lead to.
    let left = files_named(&swarm.path(""), &["x", "b", "passwd"]);
    assert!(left.is_empty(), "{left:?}");
    let working = std::env::current_dir().expect("a working directory");
    assert!(!working.join("../x").exists() && !working.join("a").exists());
    assert_eq!(fs::read(PASSWD).expect("read a file"), passwd);
    let members = names(&node.at(".tinyp2p/peers"));
    assert!(members.iter().any(|member| member == good.name()));
}

#[test]
fn endless_contents_fail_in_bounded_time() {
    let swarm = Swarm::alone();
    let member = |asked: &str, stream: &mut TcpStream| -> bool {
        let answer = match asked {
            asked if asked.contains(">0</") => document(&list(&["http://127.0.0.1:1"])),
            asked if asked.contains(">1</") => document(&nested(&["endless", "drip"])),
            asked if asked.contains("/.") => document("<boolean>1</boolean>"),
            _ => return false,
        };
        let _ = stream.write_all(&answer);
        true
    };
    let url = hostile(move |asked, stream| {
        if member(asked, stream) {
            return;
        }
        let head = b"HTTP/1.0 200 OK\r\n\r\n<methodResponse><params><param><value><string>";
        let _ = stream.write_all(head);
        let is_drip = asked.contains("drip");
        let piece = vec![b'x'; if is_drip { 1 } else { 1 << 20 }];
        while stream.write_all(&piece).is_ok() {
            if is_drip {
                thread::sleep(Duration::from_millis(500));
            }
        }
    });
    let node = swarm
        .node("a")
        .option("--legacy")
        .option("--cache-size=64M")
        .peer_at(&url)
        .mount();
    shows(&node, &["drip", "endless"]);
    for name in ["endless", "drip"] {
        let path = node.at(name);
        let begun = Instant::now();
        let read = within(LIMIT, "an error", move || fs::read(path));
        assert!(read.is_err(), "{name}: {read:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
    }
    assert!(node.log().contains("larger than the cache"), "it says why");
}

/// Starts a server that gives out contents by name, or returns a fault.
fn serving(names: &'static [&'static str], contents: fn(&str) -> Option<&'static str>) -> String {
    hostile(move |asked, stream| {
        let answer = match asked {
            asked if asked.contains("<int>0</int>") => document(&list(&["http://127.0.0.1:1"])),
            asked if asked.contains("<int>1</int>") => document(&nested(names)),
            asked => {
                let name = asked_for(asked);
                let directory = name
                    .strip_suffix("/.")
                    .is_none_or(|name| contents(name).is_none());
                match contents(&name) {
                    Some(text) => document(&format!("<string>{text}</string>")),
                    None => fault(if directory { 21 } else { 20 }),
                }
            }
        };
        let _ = stream.write_all(&answer);
    })
}

/// Returns the name in a call of operation 2, as it is written there.
fn asked_for(call: &str) -> String {
    let name = call.rsplit_once("</string>").map_or("", |(begin, _)| begin);
    name.rsplit_once("<string>")
        .map_or("", |(_, name)| name)
        .to_owned()
}

/// Returns Python's fault for a path that cannot be opened.
fn fault(number: u32) -> Vec<u8> {
    format!(
        "HTTP/1.0 200 OK\r\n\r\n<?xml version='1.0'?><methodResponse><fault><value><struct>\
         <member><name>faultCode</name><value><int>1</int></value></member>\
         <member><name>faultString</name><value><string>[Errno {number}]</string></value></member>\
         </struct></value></fault></methodResponse>"
    )
    .into_bytes()
}

#[test]
fn hostile_names_keep_get_in_its_directory() {
    let swarm = Swarm::new();
    let passwd = fs::read(PASSWD).expect("read a file");
    let url = serving(
        &[
            "../evil",
            "/etc/passwd",
            "a/evil",
            "sub/evil",
            "evil&#0;",
            "evil\0",
            ".evil",
            "..",
            ".",
            "",
            "./evil",
            "directory",
            "sub",
            "link",
            "twice",
            "fine",
            "twice",
            "no\u{1}evil",
        ],
        |name| match name {
            "directory" | "directory/." => None,
            "fine" | "twice" => Some("what is asked for"),
            name if name.ends_with("/.") => None,
            _ => Some("evil"),
        },
    );
    let target = swarm.directory("outside/target");
    fs::create_dir(target.join("sub")).expect("make a directory");
    std::os::unix::fs::symlink("../evil", target.join("link")).expect("make a link");
    let to = target.to_string_lossy();
    let arguments = ["get", "--legacy", "-d", &to, PASSWORD, "", &url];
    let finished = tinyp2p(&swarm, &arguments, LIMIT).expect_success();
    // The paths `sub` and `link` exist already.
    let told = "2 fetched (34 B), 2 existed\n";
    assert_eq!(finished.text(), told, "{finished}");
    let is_warning = |line: &str| line.contains("WARN") && line.contains(&url["http://".len()..]);
    let warnings = finished.stderr.lines().filter(|line| is_warning(line));
    let warnings: Vec<&str> = warnings.collect();
    assert!(
        matches!(warnings[..], [one] if one.contains("left out")),
        "{finished}"
    );
    assert_eq!(
        names(&target),
        ["fine", "link", "sub", "twice"],
        "{finished}"
    );
    same(&target.join("fine"), b"what is asked for");
    same(&target.join("twice"), b"what is asked for");
    assert_eq!(names(&target.join("sub")), [""; 0]);
    assert_eq!(names(&swarm.path("outside")), ["target"]);
    let left = files_named(&swarm.path(""), &["evil", ".evil", "passwd", "directory"]);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read(PASSWD).expect("read a file"), passwd);
}

#[test]
fn get_fetches_one_of_two_same_named_files() {
    let swarm = Swarm::new();
    let first = Old::start(
        &swarm,
        "one",
        &[("same", b"equal"), ("other", b"the first")],
        None,
    );
    let files: [(&str, &[u8]); 2] = [("same", b"equal"), ("other", b"the second")];
    let second = Old::start(&swarm, "two", &files, Some(&first.url));
    let target = swarm.directory("target");
    let to = target.to_string_lossy();
    let arguments = ["get", "--legacy", "-d", &to, PASSWORD, "", &second.url];
    let finished = tinyp2p(&swarm, &arguments, LIMIT).expect_success();
    assert!(finished.text().contains("2 fetched"), "{finished}");
    assert_eq!(names(&target), ["other", "same"]);
    same(&target.join("same"), b"equal");
    let other = fs::read(target.join("other")).expect("read a file");
    assert!(other == b"the first" || other == b"the second", "{other:?}");
}

/// A server that takes any number of calls at the same time, and counts them.
#[derive(Default)]
struct Counting {
    /// The connections that may still be in use, with their numbers.
    open: Mutex<Vec<(usize, TcpStream)>>,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Counting {
    /// Starts a server with files of these names, each of which contains its own name.
    fn start(names: &'static [&'static str]) -> (String, Arc<Self>) {
        let address = next_address();
        let listener = TcpListener::bind((address, OLD_PORT)).expect("listen");
        let counting = Arc::new(Self::default());
        let shared = Arc::clone(&counting);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (number, counting) = (shared.count(&stream), Arc::clone(&shared));
                thread::spawn(move || counting.answer(number, stream, names));
            }
        });
        (format!("http://{address}:{OLD_PORT}"), counting)
    }

    fn count(&self, stream: &TcpStream) -> usize {
        let number = self.all.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock();
        // Callers that hung up have ended their calls.
        open.retain(|(_, stream)| !has_hung_up(stream));
        open.push((number, stream.try_clone().expect("share a socket")));
        self.most.fetch_max(open.len(), Ordering::SeqCst);
        number
    }

    fn answer(&self, number: usize, mut stream: TcpStream, names: &[&str]) {
        let asked = call(&mut stream);
        // Long enough for other calls to arrive.
        let is_list = asked.contains("<int>1</int>");
        thread::sleep(Duration::from_millis(if is_list { 100 } else { 20 }));
        let answer = match asked.as_str() {
            asked if asked.contains("<int>0</int>") => document(&list(&["http://127.0.0.1:1"])),
            asked if asked.contains("<int>1</int>") => document(&nested(names)),
            asked if asked.contains("/.<") => fault(20),
            asked => document(&format!("<string>{}</string>", asked_for(asked))),
        };
        // Before the answer: afterwards the next call could come before the removal.
        self.open.lock().retain(|(other, _)| *other != number);
        let _ = stream.write_all(&answer);
    }

    /// Resets the maximum once no call is open.
    fn begin_anew(&self) {
        eventually(LIMIT, "all calls have ended", || {
            let mut open = self.open.lock();
            open.retain(|(_, stream)| !has_hung_up(stream));
            open.is_empty()
        });
        self.most.store(0, Ordering::SeqCst);
    }
}

fn has_hung_up(stream: &TcpStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(stream, &mut [0; 1], flags) {
        Ok((_, count)) => count == 0,
        Err(error) => error != Errno::AGAIN,
    }
}

#[test]
fn server_gets_one_call_at_a_time() {
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let swarm = Swarm::new();
    let (url, counting) = Counting::start(&NAMES);
    let calls = [(); 2].map(|()| TcpStream::connect(&url["http://".len()..]).expect("connect"));
    eventually(LIMIT, "it counts", || {
        counting.most.load(Ordering::SeqCst) == 2
    });
    drop(calls);
    counting.begin_anew();
    let node = mount(&swarm, "a", &[&url]);
    shows(&node, &NAMES);
    let before = counting.all.load(Ordering::SeqCst);
    let (all, own) = (node.mountpoint(), url["http://".len()..].to_owned());
    let own = node.at(format!(".tinyp2p/peers/{own}"));
    for (round, unread) in NAMES.chunks(4).enumerate() {
        // Longer than the second for which an answer is valid, so that each of these
        // requests names, too.
        thread::sleep(Duration::from_millis(1100));
        let search = node.at(format!(".tinyp2p/search/[a-f{round}]"));
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(names(&all), NAMES));
            scope.spawn(|| assert_eq!(names(&own), NAMES));
            scope.spawn(|| assert_eq!(names(&search), NAMES[..6]));
            for name in unread {
                let path = node.at(name);
                scope.spawn(move || same(&path, name.as_bytes()));
            }
        });
    }
    let calls = counting.all.load(Ordering::SeqCst) - before;
    assert!(calls > NAMES.len(), "{calls} calls");
    assert_eq!(counting.most.load(Ordering::SeqCst), 1);
}
