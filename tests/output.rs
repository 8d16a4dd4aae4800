//! Output that cannot be written: a disk is full, or the reader is gone.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::process::{eventually, signal};
use crate::harness::swarm::{MOUNT, Node, PASSWORD, Swarm, TINYP2P, is_mounted, program};

const LIMIT: Duration = Duration::from_secs(30);

/// Destinations at which output is lost.
#[derive(Clone, Copy, Debug)]
enum Sink {
    Full,
    Closed,
}

impl Sink {
    fn open(self) -> Stdio {
        match self {
            Self::Full => {
                let full = File::options().write(true).open("/dev/full");
                full.expect("open /dev/full").into()
            }
            Self::Closed => {
                let (reader, writer) = std::io::pipe().expect("make a pipe");
                drop(reader);
                writer.into()
            }
        }
    }
}

/// Waits for the exit code, and kills the command if it does not exit.
fn code(mut child: Child, what: &str) -> i32 {
    let mut code = None;
    eventually(LIMIT, &format!("{what} ends"), || {
        code = child.try_wait().expect("wait for a command");
        code.is_some()
    });
    let status = code.expect("it has ended");
    status.code().unwrap_or(-1)
}

/// Returns a `tinyp2p` command with its own state, which prints much on standard error.
fn command(swarm: &Swarm, arguments: &[&str]) -> Command {
    let home = swarm.directory("command");
    let mut command = program(TINYP2P, &home, None);
    command.args(arguments);
    command
}

fn talkative<'a>(arguments: &[&'a str], peer: &'a str) -> Vec<&'a str> {
    let network = ["--no-discovery", "--log", "trace", peer];
    arguments.iter().copied().chain(network).collect()
}

#[test]
fn lost_messages_end_no_command() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "x").serve();
    let address = a.address();
    let out = swarm.directory("out");
    let out = out.to_string_lossy();
    // In this order: commands that fail, warn, and log.
    let commands: [(i32, Vec<&str>); 10] = [
        (2, vec!["nonsense"]),
        (2, vec![]),
        (1, vec!["info", "/nonexistent"]),
        (1, vec!["unmount", "/nonexistent"]),
        (1, vec!["status", "--json"]),
        (3, talkative(&["search", "pw", "file"], &address)),
        (0, talkative(&["search", PASSWORD, "file"], &address)),
        (1, talkative(&["search", PASSWORD, "absent"], &address)),
        (0, talkative(&["peers", PASSWORD], &address)),
        (
            0,
            talkative(&["get", PASSWORD, "file", "-d", &out], &address),
        ),
    ];
    for sink in [Sink::Full, Sink::Closed] {
        for (expected, arguments) in &commands {
            let mut command = command(&swarm, arguments);
            command.stdout(Stdio::null()).stderr(sink.open());
            let child = command.spawn().expect("start a command");
            let what = format!("{arguments:?} with {sink:?}");
            assert_eq!(code(child, &what), *expected, "{what}");
        }
    }
}

#[test]
fn unwritable_results_are_a_failure() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("file", "x").serve();
    let address = a.address();
    let out = swarm.directory("out");
    let out = out.to_string_lossy();
    let quiet = |arguments: &[&'static str]| -> Vec<String> {
        let network = ["--no-discovery", &address];
        let all = arguments.iter().copied().chain(network);
        all.map(ToOwned::to_owned).collect()
    };
    let mut get = quiet(&["get", PASSWORD, "file", "-d"]);
    get.insert(4, out.into_owned());
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let commands: [Vec<String>; 6] = [
        words(&["--help"]),
        words(&["--version"]),
        words(&["status"]),
        quiet(&["search", PASSWORD, "file"]),
        quiet(&["peers", PASSWORD]),
        get,
    ];
    for arguments in commands {
        for (sink, expected) in [(Sink::Full, 1), (Sink::Closed, 0)] {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = command(&swarm, &arguments);
            // The directory of the node's socket.
            command.env("XDG_RUNTIME_DIR", swarm.path("a"));
            command.stdout(sink.open()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("start a command");
            let mut errors = child.stderr.take().expect("standard error is piped");
            let what = format!("{arguments:?} with {sink:?}");
            assert_eq!(code(child, &what), expected, "{what}");
            let mut said = String::new();
            errors.read_to_string(&mut said).expect("read");
            let is_told = said.starts_with("tinyp2p: cannot write the output: ");
            assert_eq!(is_told, expected == 1, "{what}: {said}");
        }
    }
}

/// Starts a long-running command with an extensive log.
fn staying(node: &Node, mut command: Command, sink: Sink) -> Child {
    command.stdout(sink.open()).stderr(sink.open());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", node.address()))
}

#[test]
fn mount_and_serve_survive_lost_messages() {
    for sink in [Sink::Full, Sink::Closed] {
        let swarm = Swarm::new();
        let a = swarm.node("a").file("file", "x");
        let mut serve = program(TINYP2P, &swarm.path("a"), None);
        serve.args(["serve", PASSWORD, "--no-discovery", "--log", "trace"]);
        serve
            .args(["--listen", &a.address(), "--share"])
            .arg(a.share());
        let serving = staying(&a, serve, sink);

        let b = swarm.node("b");
        fs::create_dir(b.mountpoint()).expect("make a mountpoint");
        let mut mount = program(MOUNT, &swarm.path("b"), None);
        mount.args(["-f", PASSWORD]).arg(b.mountpoint());
        mount.args([&a.address(), "--no-discovery", "--no-share"]);
        mount.args(["--listen", &b.address(), "--log", "trace"]);
        let mounted = staying(&b, mount, sink);
        eventually(LIMIT, "the file is read", || {
            fs::read(b.at("file")).is_ok_and(|bytes| bytes == b"x")
        });
        let absent = fs::read(b.at("absent")).expect_err("there is no such file");
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        for child in [mounted, serving] {
            signal(child.id(), Signal::TERM);
            assert_eq!(code(child, "it"), 0, "with {sink:?}");
        }
        assert!(!is_mounted(&b.mountpoint()));
    }
}
