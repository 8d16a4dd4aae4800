//! Members behind routers find one another by one ticket, and what is between them may fail.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use tinyp2p_net::transport::dial::Dial;
use tinyp2p_net::transport::reach::{EndpointPlace, Reach, ReachConfig};
use tokio::io::AsyncReadExt;

use crate::harness::content::{names, pattern};
use crate::harness::hosts::Host;
use crate::harness::nat::{Lab, Nat, Relay, Sent};
use crate::harness::process::{Finished, eventually, run};
use crate::harness::swarm::{Node, PASSWORD, Swarm, TINYP2P, program};

/// Time until a ticket has led to the files of its node, and until a way is a direct one.
const SOON: Duration = Duration::from_secs(5);

/// Time limit for what has its own deadline.
const LIMIT: Duration = Duration::from_secs(60);

const MIB: usize = 1 << 20;

/// A lab with a relay in it.
struct Friends {
    relay: Relay,
    lab: Lab,
    swarm: Swarm,
}

impl Friends {
    fn behind(nats: &[Nat]) -> Self {
        Self::with(Swarm::new(), nats)
    }

    /// The same, while nothing else takes time on this machine.
    fn alone_behind(nats: &[Nat]) -> Self {
        Self::with(Swarm::alone(), nats)
    }

    fn with(swarm: Swarm, nats: &[Nat]) -> Self {
        let lab = Lab::new(nats);
        let relay = Relay::start(lab.relay());
        Self { relay, lab, swarm }
    }

    /// A node in the home of that index, which takes part by the relay.
    fn node(&self, name: &str, home: usize) -> Node {
        let reach = format!("--reach={}", self.relay.reach());
        let node = self.guest(name, home).option(reach);
        node.file(format!("of {name}"), name)
    }

    /// A node in the home of that index, which knows of no relay.
    fn guest(&self, name: &str, home: usize) -> Node {
        self.swarm.node(name).on(self.lab.home(home)).everywhere()
    }

    /// What `tinyp2p invite` prints in the home of that index.
    fn ticket(&self, node: &Node, home: usize) -> String {
        let finished = self.command(node, home, &["invite"]).expect_success();
        let first = finished.text().lines().next().map(str::to_owned);
        first.expect("a ticket")
    }

    fn command(&self, node: &Node, home: usize, arguments: &[&str]) -> Finished {
        let directory = node.state();
        let directory = directory.parent().expect("a home");
        let mut command = program(TINYP2P, directory, Some(self.lab.home(home)));
        run(command.args(arguments), LIMIT)
    }

    /// How `node`, in the home of that index, reaches each member: name and kind of route.
    fn routes(&self, node: &Node, home: usize) -> Vec<(String, String)> {
        let finished = self.command(node, home, &["status", "--json"]);
        let text = finished.text();
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let members = status["members"].as_array().expect("members");
        let members = members.iter().map(|member| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            (text(&member["name"]), text(&member["route"]["kind"]))
        });
        members.collect()
    }

    /// Waits until `node` reaches `member` in that way.
    fn until_reached(&self, (node, home): (&Node, usize), member: &str, kind: &str) {
        eventually(SOON, &format!("{member} is {kind}"), || {
            let routes = self.routes(node, home);
            routes.contains(&(member.to_owned(), kind.to_owned()))
        });
    }
}

fn until_listed(node: &Node, all: &[&str]) {
    let mountpoint = node.mountpoint();
    eventually(SOON, &format!("{all:?} in a mount"), || {
        names(&mountpoint) == all
    });
}

/// A file that is read in the background, as a whole.
struct Copy {
    child: Child,
    begun: Instant,
}

impl Copy {
    fn of(source: &Path, target: &Path) -> Self {
        let child = Command::new("cp").arg(source).arg(target).spawn();
        Self {
            child: child.expect("cp"),
            begun: Instant::now(),
        }
    }

    fn is_past(&self, target: &Path, bytes: usize) -> bool {
        fs::metadata(target).is_ok_and(|metadata| metadata.len() >= bytes as u64)
    }

    /// Waits for its end, which must be a good one; returns how long it took.
    fn finish(mut self) -> Duration {
        eventually(LIMIT * 2, "the copy ends", || {
            let ended = self.child.try_wait().expect("wait for cp");
            if let Some(status) = ended {
                assert!(status.success(), "{status}");
            }
            ended.is_some()
        });
        self.begun.elapsed()
    }
}

/// Serves a file of `bytes` behind one router, and mounts behind the other; returns the ends of the
/// copy and the two nodes.
fn sharing(friends: &Friends, bytes: usize) -> (Node, Node) {
    let owner = friends.node("a", 0).file("big", content(bytes)).serve();
    let ticket = friends.ticket(&owner, 0);
    let reader = friends.guest("b", 1).peer_at(ticket).mount();
    until_listed(&reader, &["big", "of a"]);
    (owner, reader)
}

/// Copies what is shared over lines of 100 Mbit/s; returns which part of the lines that used.
fn share_of_line(nat: Nat, kind: &str) -> f64 {
    const BYTES: usize = 48 * MIB;
    let friends = Friends::alone_behind(&[nat, nat]);
    let (_owner, reader) = sharing(&friends, BYTES);
    friends.until_reached((&reader, 1), "a", kind);
    friends.lab.shape(0, 100);
    friends.lab.shape(1, 100);
    let target = friends.swarm.path("copy");
    let took = Copy::of(&reader.at("big"), &target).finish();
    assert!(fs::read(&target).expect("the copy") == content(BYTES));
    BYTES as f64 * 8.0 / took.as_secs_f64() / 100e6
}

#[test]
fn ticket_leads_straight_through_two_routers() {
    let share = share_of_line(Nat::PortPreserving, "direct");
    assert!(share > 0.8, "{share:.2} of the line");
}

#[test]
fn symmetric_routers_are_passed_by_the_relay() {
    let share = share_of_line(Nat::Symmetric, "relayed");
    assert!(share > 0.8, "{share:.2} of the line");
}

#[test]
fn members_without_udp_are_passed_by_the_relay() {
    let share = share_of_line(Nat::UdpDropped, "relayed");
    assert!(share > 0.8, "{share:.2} of the line");
}

#[test]
fn one_ticket_each_connects_three_members() {
    let friends = Friends::behind(&[Nat::PortPreserving; 3]);
    let first = friends.node("a", 0).mount();
    let ticket = friends.ticket(&first, 0);
    let others: Vec<Node> = [("b", 1), ("c", 2)]
        .map(|(name, home)| {
            let node = friends.guest(name, home).peer_at(&ticket);
            node.file(format!("of {name}"), name).mount()
        })
        .into();
    for node in others.iter().chain([&first]) {
        until_listed(node, &["of a", "of b", "of c"]);
    }
}

#[test]
fn direct_way_outlives_the_relay() {
    const BYTES: usize = 64 * MIB;
    let mut friends = Friends::behind(&[Nat::PortPreserving; 3]);
    let (owner, reader) = sharing(&friends, BYTES);
    friends.until_reached((&reader, 1), "a", "direct");
    friends.lab.shape(0, 100);
    let target = friends.swarm.path("copy");
    let copy = Copy::of(&reader.at("big"), &target);
    eventually(SOON, "some of it is there", || {
        copy.is_past(&target, 4 * MIB)
    });
    friends.relay.kill();
    copy.finish();
    assert!(fs::read(&target).expect("the copy") == content(BYTES));
    // Whoever comes while the relay is away joins once it is back.
    let ticket = friends.ticket(&owner, 0);
    let late = friends.guest("c", 2).peer_at(ticket).mount();
    assert!(names(&late.mountpoint()).is_empty());
    friends.relay.restart();
    let mountpoint = late.mountpoint();
    eventually(LIMIT, "who waited has joined", || {
        names(&mountpoint) == ["big", "of a"]
    });
}

#[test]
fn killed_member_is_back_soon_after_its_start() {
    let friends = Friends::behind(&[Nat::PortPreserving; 2]);
    let (mut owner, reader) = sharing(&friends, MIB);
    friends.until_reached((&reader, 1), "a", "direct");
    owner.kill();
    owner.start();
    let path = reader.at("big");
    eventually(3 * SOON, "its files can be read again", || {
        fs::read(&path).is_ok_and(|bytes| bytes == content(MIB))
    });
}

#[test]
fn loss_of_the_relay_is_nothing_to_tcp_members() {
    let mut friends = Friends::behind(&[Nat::PortPreserving]);
    let owner = friends.node("a", 0).serve();
    let address = owner.address();
    let ticket = friends.ticket(&owner, 0);
    friends.relay.kill();
    let second = friends.swarm.node("b").on(friends.lab.home(0));
    let second = second.at_port(15998).peer_at(ticket);
    let second = second.peer_at(address).mount();
    until_listed(&second, &["of a"]);
    friends.until_reached((&second, 0), "a", "tcp");
}

#[test]
fn copy_survives_a_new_address_of_the_router() {
    const BYTES: usize = 64 * MIB;
    let friends = Friends::behind(&[Nat::PortPreserving; 2]);
    let (_owner, reader) = sharing(&friends, BYTES);
    friends.until_reached((&reader, 1), "a", "direct");
    friends.lab.shape(0, 40);
    let target = friends.swarm.path("copy");
    let copy = Copy::of(&reader.at("big"), &target);
    eventually(SOON, "some of it is there", || {
        copy.is_past(&target, 2 * MIB)
    });
    friends.lab.renumber(1, 77);
    copy.finish();
    assert!(fs::read(&target).expect("the copy") == content(BYTES));
}

#[test]
fn sleepers_wake_elsewhere_and_go_on() {
    let friends = Friends::behind(&[Nat::PortPreserving; 3]);
    let (_owner, reader) = sharing(&friends, 4 * MIB);
    friends.until_reached((&reader, 1), "a", "direct");
    {
        let _both = [0, 1].map(|home| friends.lab.home(home).freeze());
        // What is waited for is the time itself: after half a minute, connections are given up.
        thread::sleep(Duration::from_secs(60));
        friends.lab.carry(1, 2, 9);
    }
    let (source, target) = (reader.at("big"), friends.swarm.path("copy"));
    eventually(LIMIT, "it can be read again", || {
        let copied = run(Command::new("cp").arg(&source).arg(&target), LIMIT);
        copied.code() == 0
    });
    assert!(fs::read(&target).expect("the copy") == content(4 * MIB));
}

/// With a receive window that is too large for it, the engine ends a connection when a full queue
/// drops every second packet of a long stretch: too many pieces wait out of order.
#[test]
fn lost_packets_end_no_connection() {
    const PIECE: usize = 256 << 10;
    let _turn = Swarm::new();
    let lab = Lab::new(&[Nat::PortPreserving]);
    let mut tc = lab.home(0).command("tc");
    let queue = "qdisc add dev lo root tbf rate 200mbit burst 64k limit 1500k";
    run(tc.args(queue.split(' ')), LIMIT).expect_success();
    lab.home(0).enter(|| {
        let [sender, receiver] = [1, 2].map(|seed| {
            let config = ReachConfig { relays: Vec::new() };
            let place = EndpointPlace {
                at: (Ipv4Addr::UNSPECIFIED, 0).into(),
                own: vec![Ipv4Addr::LOCALHOST.into()],
                accepts: true,
            };
            Reach::start(&config, &[seed; 32], &place).expect("an endpoint")
        });
        let mut calls = receiver.take_calls().expect("calls");
        let deadline = Instant::now() + LIMIT;
        let link = sender
            .dial(&receiver.address().into(), deadline)
            .expect("a link");
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in content(48 * MIB).chunks(PIECE) {
                    link.write_all(piece, deadline)
                        .expect("the connection holds");
                }
            });
            let threads = tokio::runtime::Builder::new_current_thread().build();
            let received = threads.expect("a runtime").block_on(async {
                let mut call = calls.recv().await.expect("a stream");
                let mut received = vec![0; 48 * MIB];
                call.stream
                    .read_exact(&mut received)
                    .await
                    .expect("all of it");
                received
            });
            assert!(received == content(48 * MIB));
        });
    });
}

/// Runs `peers` with some password in a home, by a ticket.
fn strangers(friends: &Friends, home: &Host, password: &str, ticket: &str) -> Finished {
    let directory = friends.swarm.directory(&format!("guest-{password}"));
    let mut command = program(TINYP2P, &directory, Some(home));
    command.args(["peers", "--no-discovery", "--state-dir"]);
    command
        .arg(directory.join("state"))
        .args([password, ticket]);
    run(&mut command, LIMIT)
}

#[test]
fn wrong_password_by_relay_costs_a_guess() {
    let friends = Friends::behind(&[Nat::Symmetric; 2]);
    let owner = friends.node("a", 0).serve();
    let ticket = friends.ticket(&owner, 0);
    let home = friends.lab.home(1);
    for guess in 0..5 {
        let refused = strangers(&friends, home, &format!("wrong {guess}"), &ticket);
        assert_eq!(refused.code(), 3, "{refused}");
    }
    // All strangers behind relays are one source, whatever their keys.
    let sixth = strangers(&friends, home, "wrong 5", &ticket);
    assert_eq!(sixth.code(), 1, "{sixth}");
    let text = sixth.to_string();
    assert!(text.contains("takes no new members for"), "{text}");
}

#[test]
fn flood_of_guesses_by_relay_keeps_no_member_out() {
    let friends = Friends::behind(&[Nat::Symmetric; 3]);
    let owner = friends.node("a", 0).serve();
    let ticket = friends.ticket(&owner, 0);
    let member = friends.guest("b", 1).peer_at(&ticket).mount();
    until_listed(&member, &["of a"]);
    let home = friends.lab.home(2);
    for guess in 0..6 {
        strangers(&friends, home, &format!("wrong {guess}"), &ticket);
    }
    let text = fs::read_to_string(member.at("of a"));
    assert_eq!(text.expect("a file of the member"), "a");
}

#[test]
fn nothing_is_sent_to_third_parties_without_reach() {
    let friends = Friends::behind(&[Nat::PortPreserving; 2]);
    let home = friends.lab.home(0);
    let sent = Sent::by(home);
    let owner = friends.guest("a", 0).file("of a", "a").serve();
    let second = friends.swarm.node("b").on(home);
    let second = second.at_port(15998).peer(&owner);
    let second = second.discovering(true).mount();
    until_listed(&second, &["of a"]);
    let strange: Vec<String> = sent
        .destinations()
        .into_iter()
        .filter(|to| !to.starts_with("udp 224.0.0.251:") && !to.starts_with("udp [ff02::fb]:"))
        .collect();
    assert_eq!(strange, Vec::<String>::new());
}

#[test]
fn ticket_of_a_node_that_is_gone_ends_in_time() {
    let friends = Friends::behind(&[Nat::PortPreserving; 2]);
    let mut owner = friends.node("a", 0).serve();
    let ticket = friends.ticket(&owner, 0);
    owner.kill();
    let begun = Instant::now();
    let gone = strangers(&friends, friends.lab.home(1), PASSWORD, &ticket);
    assert_eq!(gone.code(), 1, "{gone}");
    assert!(begun.elapsed() < Duration::from_secs(13), "{gone}");
    let text = gone.to_string();
    assert!(
        text.contains("nobody answers there by 203.0.113.1"),
        "{text}"
    );
}

#[test]
fn relay_that_refuses_the_token_is_named() {
    let friends = Friends::behind(&[Nat::PortPreserving]);
    let (_, token) = friends.relay.reach().split_once("token=").expect("a token");
    let token = token.split('&').next().expect("a token");
    let wrong = friends
        .relay
        .reach()
        .replace(token, "another-token-than-that");
    let node = friends
        .guest("a", 0)
        .option(format!("--reach={wrong}"))
        .serve();
    eventually(SOON, "the status says why", || {
        let status = friends.command(&node, 0, &["status"]).text();
        status.contains("no relay answers (203.0.113.1: it refuses the token)")
    });
}

#[test]
fn broken_ticket_is_wrong_usage() {
    let swarm = Swarm::new();
    let directory = swarm.directory("guest");
    let mut command = program(TINYP2P, &directory, None);
    let broken = run(command.args(["peers", PASSWORD, "tinyp2p:abc"]), LIMIT);
    assert_eq!(broken.code(), 2, "{broken}");
    assert!(
        broken.to_string().contains("not a whole ticket"),
        "{broken}"
    );
}

fn content(bytes: usize) -> Vec<u8> {
    pattern(1, bytes as u64)
}
