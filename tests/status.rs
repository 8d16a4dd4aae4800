//! The report of a node on itself: in its mount, and over its socket to `tinyp2p status`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::content::names;
use crate::harness::process::{Finished, eventually, run, sh, signal};
use crate::harness::swarm::{Node, Swarm, TINYP2P, program};

/// Time for nodes to meet and show it, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Time limit for a command that exits on its own within two seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs `tinyp2p status` as the user whose nodes run in `swarm`.
fn status(swarm: &Swarm, arguments: &[&str]) -> Finished {
    let mut command = program(TINYP2P, &swarm.path("a-home"), None);
    command.env("XDG_RUNTIME_DIR", runtime(swarm));
    run(command.arg("status").args(arguments), LIMIT)
}

/// Returns the directory of the sockets of the nodes in `swarm`.
fn runtime(swarm: &Swarm) -> PathBuf {
    swarm.directory("runtime")
}

fn sockets(swarm: &Swarm) -> Vec<String> {
    names(&runtime(swarm).join("tinyp2p"))
}

/// Returns the objects that `tinyp2p status --json` prints for the nodes of this test: it may also
/// see other nodes on this machine.
fn objects(swarm: &Swarm, nodes: &[&Node]) -> Vec<Value> {
    let lines = status(swarm, &["--json"]).text();
    let objects = lines.lines().map(|line| {
        let object: Value = serde_json::from_str(line).expect("a JSON object");
        object
    });
    objects
        .filter(|object| nodes.iter().any(|node| object["pid"] == node.pid()))
        .collect()
}

fn object_in_mount(mount: &Node) -> Value {
    let bytes = fs::read(mount.at(".tinyp2p/status.json")).expect("read the status");
    serde_json::from_slice(&bytes).expect("a JSON object")
}

#[test]
fn status_files_are_readable_by_cat_and_cp() {
    let swarm = Swarm::new();
    let a = swarm.node("a").file("x", "x").serve();
    let mount = swarm.node("mount").file("y", "y").peer(&a).mount();
    eventually(SOON, "they meet", || {
        object_in_mount(&mount)["members"][0]["state"] == "present"
    });
    let json = mount.at(".tinyp2p/status.json");
    let json = json.to_str().expect("a path");
    let copy = swarm.path("copy");
    sh("cp", &[json, copy.to_str().expect("a path")]);
    let copied = fs::read(copy).expect("read the copy");
    for bytes in [sh("cat", &[json]).stdout, copied] {
        let object: Value = serde_json::from_slice(&bytes).expect("a JSON object");
        assert_eq!(object["name"], "mount");
        assert_eq!(object["pid"], mount.pid());
        assert_eq!(
            object["mountpoint"],
            mount.mountpoint().to_str().expect("a path")
        );
        assert_eq!(object["share"], mount.share().to_str().expect("a path"));
        assert_eq!(object["members"][0]["name"], "a");
        assert_eq!(object["members"][0]["address"], a.address());
    }
    let text = sh(
        "cat",
        &[mount.at(".tinyp2p/status").to_str().expect("a path")],
    )
    .text();
    assert!(text.starts_with("mount (node "), "{text}");
    assert!(text.contains("1 present, 0 absent"), "{text}");
}

#[test]
fn no_walk_enters_the_status_directory() {
    let swarm = Swarm::new();
    let mount = swarm.node("mount").file("d/x", "x").mount();
    let root = mount.mountpoint();
    assert_eq!(names(&root), ["d"]);
    let found = sh("find", &[root.to_str().expect("a path")]).text();
    assert!(!found.contains(".tinyp2p"), "{found}");
    let own = ["conflicts", "peers", "search", "status", "status.json"];
    assert_eq!(names(&root.join(".tinyp2p")), own);
    let copy = swarm.path("copy");
    sh(
        "cp",
        &[
            "-a",
            root.to_str().expect("a path"),
            copy.to_str().expect("a path"),
        ],
    );
    assert_eq!(names(&copy), ["d"]);
}

#[test]
fn status_shows_reads_and_absent_members() {
    let swarm = Swarm::new();
    let mut a = swarm.node("a").file("x", vec![7; 300_000]).serve();
    let mount = swarm.node("mount").peer(&a).mount();
    eventually(SOON, "the file comes", || fs::read(mount.at("x")).is_ok());
    let object = object_in_mount(&mount);
    assert!(object["received"].as_u64() >= Some(300_000), "{object}");
    assert!(object["members"][0]["received"].as_u64() >= Some(300_000));
    assert_eq!(object["refused"], 0);
    a.kill();
    eventually(SOON, "it is absent", || {
        let member = &object_in_mount(&mount)["members"][0];
        member["state"] == "absent" && member["last_error"].is_string()
    });
}

#[test]
fn mount_and_serve_are_both_in_the_status() {
    let swarm = Swarm::new();
    let runtime = runtime(&swarm);
    let a = swarm.node("a").runtime(&runtime).serve();
    let mut mount = swarm.node("b").runtime(&runtime).peer(&a).mount();
    eventually(SOON, "both are seen", || {
        objects(&swarm, &[&a, &mount]).len() == 2
    });
    let objects = objects(&swarm, &[&a, &mount]);
    assert_eq!(
        (&objects[0]["name"], &objects[1]["name"]),
        (&"a".into(), &"b".into())
    );
    assert!(objects[0]["mountpoint"].is_null());
    assert_eq!(objects[0]["share"], a.share().to_str().expect("a path"));
    assert_eq!(
        objects[1]["mountpoint"],
        mount.mountpoint().to_str().expect("a path")
    );
    let keys = |object: &Value| {
        object
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    let (from_socket, from_mount): (Vec<String>, Vec<String>) =
        (keys(&objects[1]), keys(&object_in_mount(&mount)));
    assert_eq!(from_socket, from_mount);
    let text = status(&swarm, &[]).text();
    assert!(
        text.contains("a (node ") && text.contains("b (node "),
        "{text}"
    );
    assert!(!text.contains(crate::harness::swarm::PASSWORD));
    signal(mount.pid(), Signal::TERM);
    assert_eq!(mount.wait(LIMIT), 0);
    assert_eq!(sockets(&swarm), [format!("{}.sock", a.pid())]);
}

#[test]
fn dead_socket_goes_frozen_node_is_named() {
    let swarm = Swarm::new();
    let runtime = runtime(&swarm);
    let mut killed = swarm.node("killed").runtime(&runtime).serve();
    let frozen = swarm.node("frozen").runtime(&runtime).serve();
    eventually(SOON, "both are seen", || {
        objects(&swarm, &[&killed, &frozen]).len() == 2
    });
    killed.kill();
    frozen.freeze();
    let answer = status(&swarm, &[]);
    let line = format!("pid {} does not answer\n", frozen.pid());
    assert!(answer.text().ends_with(&line), "{answer}");
    assert_eq!(answer.code(), 1, "{answer}");
    assert!(answer.took < Duration::from_secs(5), "{answer}");
    let answer = status(&swarm, &["--json"]);
    assert!(answer.stderr.contains(line.trim_end()), "{answer}");
    assert_eq!(sockets(&swarm), [format!("{}.sock", frozen.pid())]);
    frozen.thaw();
    assert_eq!(objects(&swarm, &[&frozen]).len(), 1);
}

#[test]
fn absence_of_nodes_is_exit_code_one() {
    let swarm = Swarm::new();
    let dead = runtime(&swarm).join("tinyp2p");
    fs::create_dir(&dead).expect("make a directory");
    drop(UnixListener::bind(dead.join("1.sock")).expect("make a socket"));
    let answer = status(&swarm, &[]);
    assert!(sockets(&swarm).is_empty());
    // Unless a node of the person who runs the tests is running.
    if answer.stdout.is_empty() {
        assert_eq!(answer.code(), 1);
        assert_eq!(
            answer.stderr,
            "tinyp2p: no node of this user is running on this machine\n"
        );
    }
}

#[test]
fn unreading_status_client_harms_nothing() {
    let swarm = Swarm::new();
    let runtime = runtime(&swarm);
    let mut node = swarm.node("a").file("x", "x").runtime(&runtime).mount();
    eventually(SOON, "it is seen", || objects(&swarm, &[&node]).len() == 1);
    let path = runtime.join(format!("tinyp2p/{}.sock", node.pid()));
    let mut idle: Vec<UnixStream> = Vec::new();
    for _ in 0..20 {
        idle.push(UnixStream::connect(&path).expect("connect"));
    }
    // The node does not read what these clients send.
    for stream in &mut idle {
        let _ = stream.write_all(&[b'x'; 1000]);
    }
    assert_eq!(names(&node.mountpoint()), ["x"]);
    assert_eq!(objects(&swarm, &[&node]).len(), 1);
    signal(node.pid(), Signal::TERM);
    let since = Instant::now();
    assert_eq!(node.wait(LIMIT), 0);
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(sockets(&swarm).is_empty());
}

#[test]
fn watching_lasts_until_nobody_reads() {
    let swarm = Swarm::new();
    let runtime = runtime(&swarm);
    let node = swarm.node("a").runtime(&runtime).serve();
    eventually(SOON, "it is seen", || objects(&swarm, &[&node]).len() == 1);
    let mut command = program(TINYP2P, &swarm.path("a-home"), None);
    command.env("XDG_RUNTIME_DIR", &runtime);
    command.args(["status", "--json", "--watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut seen = 0;
    while seen < 2 {
        let line = lines.next().expect("it goes on").expect("read a line");
        let object: Value = serde_json::from_str(&line).expect("a JSON object");
        seen += u32::from(object["pid"] == node.pid());
    }
    drop(lines);
    let mut code = None;
    eventually(LIMIT, "it ends", || {
        code = child.try_wait().expect("wait").map(|status| status.code());
        code.is_some()
    });
    assert_eq!(code, Some(Some(0)));
}
