//! Endless connections, from strangers and from members, keep no member out.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tinyp2p_net::auth::{AddressSource, Alpn, Gate, GuessRecord, Identity, Password};
use tinyp2p_net::budget::ByteBudget;
use tinyp2p_net::client::http_peer::Client;
use tinyp2p_net::model::Address;
use tinyp2p_net::transport::dial::TcpDialer;

use crate::harness::process::{eventually, within};
use crate::harness::swarm::{Node, PASSWORD, Swarm, detach, is_mounted, next_address, tinyp2p};

const SOON: Duration = Duration::from_secs(10);

/// Time limit for a member's actions during a flood, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(15);

/// The sockets of a flood, half of them from each of two addresses.
const SOCKETS: usize = 300;

/// Raises the limit on open files: each socket needs a descriptor here, too.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("raise the number of open files");
}

/// Opens a connection to `to` from the address `from`.
fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

fn state_of_all_members(mount: &Node) -> Vec<String> {
    let bytes = fs::read(mount.at(".tinyp2p/status.json")).expect("read the status");
    let status: Value = serde_json::from_slice(&bytes).expect("a JSON object");
    let members = status["members"].as_array().expect("members").iter();
    members
        .map(|member| member["state"].as_str().expect("a state").to_owned())
        .collect()
}

/// A network of two whose first member is flooded, with checks of its service.
struct Flooded {
    swarm: Swarm,
    node: Node,
    mount: Node,
}

impl Flooded {
    fn new() -> Self {
        let swarm = Swarm::alone();
        let node = swarm.node("a").file("file", "content").serve();
        let mount = swarm.node("mount").peer(&node).mount();
        eventually(SOON, "they meet", || mount.at("file").exists());
        Self { swarm, node, mount }
    }

    /// Checks that newcomers find it, and that members list and read files they
    /// have not seen before.
    fn expect_service(&self) {
        for round in 0..2 {
            let name = format!("new {round}");
            let directory = self.node.share().join(&name);
            fs::create_dir(&directory).expect("make a directory");
            fs::write(directory.join("file"), &name).expect("write a file");
            let (listed, file) = (self.mount.at(&name), self.mount.at(format!("{name}/file")));
            let read = within(LIMIT, "a member lists and reads", move || {
                let listed = fs::read_dir(listed).expect("list").count();
                (listed, fs::read(file).expect("read"))
            });
            assert_eq!(read, (1, name.into_bytes()));
            let address = self.node.address();
            let found = tinyp2p(&self.swarm, &["search", PASSWORD, "file", &address], LIMIT);
            assert!(found.expect_success().text().contains("file"));
            assert_eq!(state_of_all_members(&self.mount), ["present"]);
        }
        let newcomer = self.swarm.node("new").peer(&self.node).mount();
        eventually(LIMIT, "a new mount shows the files", || {
            newcomer.at("file").exists()
        });
    }
}

/// Holds sockets open that send `start` and nothing more, and reopens them when they are closed.
fn expect_service_during(start: &'static [u8]) {
    raise_open_files();
    let flooded = Flooded::new();
    let (target, over) = (flooded.node.socket(), AtomicBool::new(false));
    let sources = [next_address(), next_address()];
    thread::scope(|scope| {
        let over = &over;
        let (filled, is_filled) = std::sync::mpsc::channel();
        scope.spawn(move || {
            let mut held: Vec<Option<TcpStream>> = Vec::new();
            held.resize_with(SOCKETS, || None);
            while !over.load(Ordering::Relaxed) {
                for (number, place) in held.iter_mut().enumerate() {
                    if place.as_ref().is_some_and(is_open) {
                        continue;
                    }
                    let socket = connect(sources[number % 2], target);
                    *place = socket.ok().filter(|mut socket| {
                        // It may have been closed again already.
                        socket.write_all(start).is_ok()
                    });
                }
                let _ = filled.send(held.iter().flatten().count());
                thread::sleep(Duration::from_millis(500));
            }
        });
        let ending = Ending(over);
        let count = is_filled.recv().expect("the flood has begun");
        assert!(count >= SOCKETS / 2, "only {count} sockets were opened");
        flooded.expect_service();
        drop(ending);
    });
}

/// Ends the flood when the test ends, for whatever reason.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_open(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let seen = socket.read(&mut [0]);
    seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn silent_sockets_keep_no_member_out() {
    expect_service_during(b"");
}

#[test]
fn half_open_records_keep_no_member_out() {
    expect_service_during(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
}

#[test]
fn an_end_within_a_record_keeps_nobody_out() {
    let flooded = Flooded::new();
    let record = [&b"\x16\x03\x01\x02\x00"[..], &[1; 95]].concat();
    let ended: Vec<_> = [1, 4, 100]
        .iter()
        .map(|length| {
            let mut socket = connect(next_address(), flooded.node.socket()).expect("connect");
            socket.write_all(&record[..*length]).expect("send");
            socket.shutdown(Shutdown::Write).expect("end");
            socket
        })
        .collect();
    flooded.expect_service();
    drop(ended);
}

/// Opens connections as one member and leaves them idle.
fn idle(
    address: SocketAddr,
    from: Ipv4Addr,
    count: usize,
) -> Vec<StreamOwned<ClientConnection, TcpStream>> {
    let password = Password::new(PASSWORD.into()).expect("a password");
    let identity = Identity::ephemeral().expect("a key");
    let gate = Arc::new(
        Gate::new(identity, password.stretch(), GuessRecord::in_memory()).expect("a gate"),
    );
    let client = Client::new(
        Arc::clone(&gate),
        Arc::new(TcpDialer::default()),
        ByteBudget::new(1 << 20),
    );
    let at = Address::new(address.ip().to_string(), address.port());
    let by = Instant::now() + SOON;
    let paired = client.connect(&at, None, AddressSource::Named, by);
    paired.expect("pair").close();
    let open = |_| {
        let socket = connect(from, address).ok()?;
        socket.set_read_timeout(Some(SOON)).ok()?;
        let name = "node".try_into().expect("a name");
        let tls = ClientConnection::new(gate.tls_client(Alpn::Http), name).ok()?;
        let mut tls = StreamOwned::new(tls, socket);
        tls.conn.complete_io(&mut tls.sock).ok()?;
        Some(tls)
    };
    (0..count).filter_map(open).collect()
}

#[test]
fn idle_connections_of_many_keys_make_room() {
    raise_open_files();
    let flooded = Flooded::new();
    let (target, from) = (flooded.node.socket(), next_address());
    // More than any node accepts.
    let held: Vec<_> = thread::scope(|scope| {
        let keys: Vec<_> = (0..18)
            .map(|_| scope.spawn(move || idle(target, from, 64)))
            .collect();
        let held = keys.into_iter().map(|key| key.join().expect("a key"));
        held.flatten().collect()
    });
    assert!(held.len() >= 512, "only {} connections", held.len());
    flooded.expect_service();
}

#[test]
fn a_node_takes_the_open_files_it_may_have() {
    let swarm = Swarm::new();
    let node = swarm.node("a");
    fs::create_dir(node.mountpoint()).expect("make a mountpoint");
    let command = node.mount_command();
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -S -n 256 && exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(Stdio::null());
    let mut child = limited.spawn().expect("start a node");
    let path = format!("/proc/{}/limits", child.id());
    let is_raised = || {
        let limits = fs::read_to_string(&path).expect("read limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = line.expect("a line").split_whitespace().collect();
        // The two are equal in the shell, too, before it lowers its own limit.
        words[3] == words[4] && is_mounted(&node.mountpoint())
    };
    let raised = std::panic::catch_unwind(|| eventually(SOON, "it takes all", is_raised));
    child.kill().expect("kill a node");
    child.wait().expect("wait for a node");
    detach(&node.mountpoint());
    raised.expect("raised");
}
