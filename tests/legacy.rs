//! The protocol of 2004: what its clients get from a node with `--legacy`, and
//! what they do not get.
//!
//! The clients are `data/legacy/client.py` on Python 2.7's own `xmlrpclib`, like the original.
//! Without Python 2.7, Python 3's library takes its place, and the test run reports that.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::content::pattern;
use crate::harness::process::{eventually, run};
use crate::harness::raw_peer::read_all;
use crate::harness::swarm::{Node, PASSWORD, Swarm, TINYP2P, program, tinyp2p};

const CLIENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/legacy/client.py"
);

/// Time limit for a few calls of a client.
const LIMIT: Duration = Duration::from_secs(60);

/// The Python interpreter for clients and servers.
pub(crate) struct Python {
    program: PathBuf,
    pub(crate) is_2: bool,
}

impl Python {
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// Returns the interpreter that `command` starts, if it has the required modules.
    fn found(command: &mut Command, modules: &str, is_2: bool) -> Option<Self> {
        // Its own path: the PATH may lead to a script that has to search for it each time.
        let script = format!("import sys, json, hashlib, {modules}; print(sys.executable)");
        let output = command.args(["-c", &script]).stderr(Stdio::null()).output();
        let output = output.ok().filter(|output| output.status.success())?;
        let path = String::from_utf8(output.stdout).ok()?;
        let program = PathBuf::from(path.trim_end());
        Some(Self { program, is_2 })
    }

    fn found_2(command: &mut Command) -> Option<Self> {
        Self::found(command, "xmlrpclib, SimpleXMLRPCServer", true)
    }
}

/// Finds the interpreter, once per run.
pub(crate) fn python() -> &'static Python {
    static FOUND: OnceLock<Python> = OnceLock::new();
    FOUND.get_or_init(|| {
        let versions = Command::new("pyenv").args(["versions", "--bare"]).output();
        let versions = versions.map_or(Vec::new(), |output| output.stdout);
        let versions = String::from_utf8_lossy(&versions).into_owned();
        let version = versions.lines().find(|version| version.starts_with("2.7"));
        let of_pyenv = || {
            let mut command = Command::new("python2.7");
            Python::found_2(command.env("PYENV_VERSION", version?))
        };
        let found = Python::found_2(&mut Command::new("python2.7")).or_else(of_pyenv);
        found.unwrap_or_else(|| {
            // Straight to the terminal: the output of a successful test is not shown.
            let _ = writeln!(
                std::io::stderr(),
                "no Python 2.7 here: clients of 2004 run on Python 3; left out is how Python 2 sends and \
                 takes byte strings"
            );
            let modules = "xmlrpc.client, xmlrpc.server";
            let found = Python::found(&mut Command::new("python3"), modules, false);
            found.expect("neither Python 2.7 nor Python 3 is here")
        })
    })
}

/// A client of 2004 that knows the URL of one node.
pub(crate) struct Client {
    password: String,
    url: String,
    called: String,
}

impl Client {
    fn of(node: &Node) -> Self {
        Self::at(format!("http://{}", node.address()))
    }

    pub(crate) fn at(url: String) -> Self {
        Self {
            password: PASSWORD.to_owned(),
            called: url.clone(),
            url,
        }
    }

    /// Returns the results of these operations, one call each.
    fn calls(&self, operations: &[(i64, Value)]) -> Vec<Value> {
        let calls = operations.iter();
        let calls = calls.map(|(number, argument)| (self, *number, argument.clone()));
        calls_of(&calls.collect::<Vec<_>>())
    }

    pub(crate) fn call(&self, number: i64, argument: impl Into<Value>) -> Value {
        self.calls(&[(number, argument.into())]).remove(0)
    }

    fn names(&self, pattern: &str) -> Vec<String> {
        names_in(&self.call(1, pattern))
    }
}

/// Returns the results of these clients' calls, one after the other.
pub(crate) fn calls_of(calls: &[(&Client, i64, Value)]) -> Vec<Value> {
    let described = calls.iter().map(|(client, number, argument)| {
        let Client {
            password,
            url,
            called,
        } = client;
        json!([password, url, called, number, argument])
    });
    let described: Vec<Value> = described.collect();
    let input = tempfile::tempfile().expect("make a file");
    (&input)
        .write_all(Value::from(described).to_string().as_bytes())
        .expect("write a file");
    std::io::Seek::rewind(&mut &input).expect("rewind a file");
    let mut command = python().command();
    let output = run(command.arg(CLIENT).stdin(input), LIMIT).expect_success();
    let lines = output.text();
    let results = lines.lines().map(serde_json::from_str::<Value>);
    let results: Vec<Value> = results.collect::<Result<_, _>>().expect("JSON lines");
    assert_eq!(results.len(), calls.len());
    results
}

/// Returns the names in a result of operation 1.
pub(crate) fn names_in(result: &Value) -> Vec<String> {
    let names = texts(&result["list"][0]["list"]);
    let names = names.into_iter().map(String::from_utf8);
    names.collect::<Result<_, _>>().expect("UTF-8")
}

pub(crate) fn texts(list: &Value) -> Vec<Vec<u8>> {
    let list = list.as_array().expect("an array");
    list.iter().map(|one| bytes(&one["text"])).collect()
}

pub(crate) fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().expect("a string");
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn is_fault(result: &Value) -> bool {
    result["fault"] == 1
}

#[test]
fn legacy_client_lists_and_fetches() {
    let swarm = Swarm::new();
    let text = "line\n".repeat(100_000);
    let node = swarm
        .node("a")
        .file("a.txt", &text)
        .file("b.txt", "<&>]]>")
        .file("c.mp3", pattern(1, 1_000_000))
        .file("dir.txt/below.txt", "x")
        .file(".hidden.txt", "x")
        .option("--legacy")
        .serve();
    let client = Client::of(&node);
    assert_eq!(client.names(""), ["a.txt", "b.txt", "c.mp3"]);
    assert_eq!(client.names(r"\.txt$"), ["a.txt", "b.txt"]);
    assert_eq!(client.names("^[bc]"), ["b.txt", "c.mp3"]);
    assert!(client.names("nothing").is_empty());
    let fetched = client.calls(&[
        (2, "a.txt".into()),
        (2, "b.txt".into()),
        (7, "b.txt".into()),
    ]);
    assert!(bytes(&fetched[0]["text"]) == text.as_bytes());
    assert_eq!(bytes(&fetched[1]["text"]), b"<&>]]>");
    assert_eq!(bytes(&fetched[2]["text"]), b"<&>]]>");
}

#[test]
fn non_ascii_contents_arrive_byte_exact() {
    let swarm = Swarm::new();
    let lines = "one\rtwo\r\nthree\n\r";
    let random = pattern(7, 3_000_000);
    let node = swarm
        .node("a")
        .file("lines", lines)
        .file("gr\u{fc}n.txt", "gr\u{fc}n \u{1f600}")
        .file("empty", "")
        .file("random", &random)
        .file("latin", b"caf\xe9")
        .option("--legacy")
        .serve();
    let client = Client::of(&node);
    assert_eq!(client.names("n.txt"), ["gr\u{fc}n.txt"]);
    let names = ["lines", "gr\u{fc}n.txt", "empty", "random", "latin"];
    let fetched = client.calls(&names.map(|name| (2, name.into())));
    assert_eq!(bytes(&fetched[0]["text"]), lines.as_bytes());
    assert_eq!(bytes(&fetched[1]["text"]), "gr\u{fc}n \u{1f600}".as_bytes());
    assert_eq!(bytes(&fetched[2]["text"]), b"");
    assert!(bytes(&fetched[3]["binary"]) == random);
    assert_eq!(bytes(&fetched[4]["binary"]), b"caf\xe9");
}

#[test]
fn wrong_password_gets_false_for_any_call() {
    let swarm = Swarm::new();
    let node = swarm.node("a").file("x", "x").option("--legacy").serve();
    let right = Client::of(&node);
    let wrong = Client {
        password: "other".to_owned(),
        ..Client::of(&node)
    };
    let elsewhere = Client {
        url: "http://elsewhere:15204".to_owned(),
        ..Client::of(&node)
    };
    let operations = [
        (0, json!(["http://10.9.8.7:1"])),
        (1, "".into()),
        (2, "x".into()),
        (2, "../x".into()),
    ];
    for client in [wrong, elsewhere] {
        for result in client.calls(&operations) {
            assert_eq!(result, json!({"boolean": false}));
        }
    }
    let servers = texts(&right.call(0, json!([]))["list"]);
    assert_eq!(
        servers,
        [right.url.as_bytes()],
        "a stranger told of a server"
    );
}

#[test]
fn only_the_top_of_the_share_is_served() {
    let swarm = Swarm::new();
    let node = swarm
        .node("a")
        .file("dir/below", "secret")
        .file(".hidden", "secret")
        .file("x", "x")
        .option("--legacy")
        .option("--hidden")
        .serve();
    fs::write(node.share().join("../x"), "secret").expect("write a file");
    std::os::unix::fs::symlink("/etc/passwd", node.share().join("link")).expect("make a link");
    let names = [
        "../x",
        "/etc/passwd",
        "dir/below",
        "./x",
        "dir",
        ".hidden",
        "..",
        ".",
        "",
        "x\0",
        "absent",
        "link",
    ];
    let client = Client::of(&node);
    let results = client.calls(&names.map(|name| (2, name.into())));
    for (name, result) in names.iter().zip(results) {
        assert!(is_fault(&result), "{name:?}: {result}");
    }
    assert_eq!(client.names(""), ["x"]);
}

#[test]
fn wrong_types_and_patterns_are_faults() {
    let swarm = Swarm::new();
    let node = swarm.node("a").file("x", "x").option("--legacy").serve();
    let results = Client::of(&node).calls(&[
        (0, "http://a:1".into()),
        (1, json!(["x"])),
        (1, 5.into()),
        (2, json!([])),
        (1, "(?=x)".into()),
        (1, "(".into()),
    ]);
    assert!(results.iter().all(is_fault), "{results:?}");
    let why = results[4]["why"].as_str().expect("a reason");
    assert!(why.contains("look-around"), "{why}");
}

#[test]
fn servers_tell_each_other_of_servers() {
    let swarm = Swarm::new();
    let node = swarm.node("a").option("--legacy").serve();
    let client = Client::of(&node);
    let told = [
        "http://10.9.8.7:1",
        "http://10.9.8.6:1/x",
        "javascript:x",
        &client.url,
    ];
    let servers = texts(&client.call(0, json!(told))["list"]);
    assert_eq!(servers, [client.url.as_bytes(), b"http://10.9.8.7:1"]);
    let many: Vec<String> = (0..500)
        .map(|n| format!("http://10.9.8.7:{}", n + 1))
        .collect();
    let servers = texts(&client.call(0, json!(many))["list"]);
    assert_eq!(servers.len(), 65, "this node and 64 others");
}

#[test]
fn node_answers_to_advertised_and_reached() {
    let swarm = Swarm::new();
    let node = swarm
        .node("a")
        .file("x", "x")
        .option("--legacy")
        .option("--advertise=box.example:8080")
        .serve();
    let advertised = Client {
        url: "http://box.example:8080".to_owned(),
        ..Client::of(&node)
    };
    for client in [advertised, Client::of(&node)] {
        assert_eq!(client.names(""), ["x"]);
    }
}

#[test]
fn a_mount_serves_clients_of_2004_too() {
    let swarm = Swarm::new();
    let node = swarm.node("a").file("x", "x").option("-olegacy").mount();
    let fetched = Client::of(&node).call(2, "x");
    assert_eq!(bytes(&fetched["text"]), b"x");
}

/// The limit in `net/PROTOCOL.md`, section 10.1.
const MAX_OF_ONE_ADDRESS: usize = 4;

/// Connects to `node` from a loopback address other than the usual one.
fn connect_from(address: Ipv4Addr, node: &Node) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("make a socket");
    let address = SocketAddr::from((address, 0));
    socket.bind(&address.into()).expect("bind a socket");
    socket.connect(&node.socket().into()).expect("connect");
    let stream = TcpStream::from(socket);
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("set a limit");
    stream
}

#[test]
fn hostile_connections_harm_nothing() {
    let swarm = Swarm::new();
    let node = swarm.node("a").file("x", "x").option("--legacy").serve();
    let bomb = "<!DOCTYPE a [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><methodCall>&b;</methodCall>";
    let deep = "<value><array><data>".repeat(40_000);
    let post = |body: &str| {
        let length = body.len();
        format!("POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let huge = post(&" ".repeat(4 << 20));
    // These stay open, as many as one address may have: heads and bodies that never end.
    let elsewhere = Ipv4Addr::new(127, 77, 0, 1);
    let beginnings = [
        &b"P"[..],
        b"POST /RPC2 HTTP/1.1\r\n",
        b"POST /RPC2 HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
        b"POST /RPC2 HTTP/1.1\r\nContent-Length: 99\r\n\r\n<",
    ];
    let is_refused = || {
        let mut socket = connect_from(elsewhere, &node);
        // The node may already have closed it.
        let _ = socket.write_all(&post("<methodCall/>"));
        read_all(&mut socket).is_empty()
    };
    let mut held: Vec<TcpStream> = Vec::new();
    eventually(
        Duration::from_secs(20),
        "one more is closed at once",
        || {
            // As many as there are places; otherwise the place of each last attempt may go to the
            // next one for ever.
            for begin in beginnings {
                let mut socket = connect_from(elsewhere, &node);
                // It may already have been closed.
                let _ = socket.write_all(begin);
                held.push(socket);
            }
            // Being refused once may mean that one of these has just ended.
            is_refused() && is_refused()
        },
    );
    assert!(held.len() >= MAX_OF_ONE_ADDRESS, "{} may stay", held.len());
    for request in [
        &b"\xff\x00\r\n\r\n"[..],
        b"GET /files/x HTTP/1.1\r\n\r\n",
        &post(bomb),
        &post(&deep),
        &huge,
    ] {
        let mut socket = TcpStream::connect(node.socket()).expect("connect");
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).expect("set a limit");
        // The node may close before it has read everything.
        let _ = socket.write_all(request);
        let answer = read_all(&mut socket);
        let shown = String::from_utf8_lossy(&answer);
        assert!(
            answer.len() < 1000 && !shown.contains("<string>x"),
            "{shown}"
        );
    }
    assert!(is_refused(), "the others are still there");
    assert_eq!(Client::of(&node).names(""), ["x"]);
    let found = tinyp2p(&swarm, &["search", PASSWORD, "x", &node.address()], LIMIT);
    assert_eq!(found.expect_success().text(), "x\n");
}

#[test]
fn legacy_risk_is_warned_of() {
    let swarm = Swarm::new();
    let runtime = swarm.directory("runtime");
    let node = swarm
        .node("a")
        .file("x", "x")
        .option("--legacy")
        .peer_at("http://10.255.255.1:1")
        .runtime(&runtime)
        .serve();
    eventually(LIMIT, "it says that it shares", || {
        node.log().contains("sharing")
    });
    let warning = "--legacy speaks the protocol of 2004, which is not safe from eavesdroppers";
    assert_eq!(node.log().matches(warning).count(), 1, "{}", node.log());
    let status = |arguments: &[&str]| {
        let mut command = program(TINYP2P, &swarm.path("a-home"), None);
        command.env("XDG_RUNTIME_DIR", &runtime);
        run(command.arg("status").args(arguments), LIMIT).text()
    };
    let text = status(&[]);
    assert!(text.contains("not safe from eavesdroppers"), "{text}");
    let object = status(&["--json"]);
    let own = format!("http://{}", node.address());
    let mine = object
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mine = { mine }
        .find(|object| object["pid"] == node.pid())
        .expect("this node");
    assert_eq!(mine["legacy"]["urls"][0], own.as_str());
    assert_eq!(mine["legacy"]["servers"], json!(["http://10.255.255.1:1"]));
}

#[test]
fn legacy_server_needs_the_option() {
    let swarm = Swarm::new();
    let failed = tinyp2p(&swarm, &["serve", PASSWORD, "http://127.0.0.1:1"], LIMIT);
    assert_eq!(failed.code(), 2);
    assert!(failed.stderr.contains("--legacy"), "{failed}");
}

#[test]
fn mount_warns_once_however_opted_in() {
    let swarm = Swarm::new();
    for (name, option) in [("a", "--legacy"), ("b", "-olegacy")] {
        let node = swarm.node(name).file("x", "x").option(option).mount();
        // Later actions do not make it warn again.
        assert_eq!(Client::of(&node).names(""), ["x"]);
        assert_eq!(fs::read(node.at("x")).expect("read a file"), b"x");
        let warnings = node.log().matches("not safe from eavesdroppers").count();
        assert_eq!(warnings, 1, "{option}: {}", node.log());
        let begin = "tinyp2p-mount: warning: --legacy";
        assert!(node.log().contains(begin), "{option}: {}", node.log());
    }
}

/// Returns every Python 2.7 on this machine that has what the clients and servers need: on the
/// path, and from pyenv.
fn pythons_2() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("python2.7"));
    let home = std::env::var_os("HOME").unwrap_or_default();
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(&home).join(".pyenv"));
    let versions = fs::read_dir(root.join("versions")).into_iter().flatten();
    let of_pyenv = versions.map(|version| {
        let version = version.expect("list a directory").path();
        version.join("bin/python2.7")
    });
    let found = on_path.chain(of_pyenv);
    let found = found.filter_map(|program| Python::found_2(&mut Command::new(program)));
    found.map(|python| python.program).collect()
}

#[test]
fn legacy_programs_run_on_python_2_7() {
    let script = "import sys, json; print(json.dumps(sys.version_info[:2]))";
    let version = run(python().command().args(["-c", script]), LIMIT).expect_success();
    let is_2_7 = version.text() == "[2, 7]\n";
    assert_eq!(is_2_7, python().is_2, "{version}");
    let present = pythons_2();
    assert!(is_2_7 || present.is_empty(), "{present:?} and {version}");
}
