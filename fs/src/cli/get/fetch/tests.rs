use std::collections::HashMap;

use indicatif::ProgressBar;
use parking_lot::{Condvar, Mutex};
use tinyp2p_net::download::Engine;
use tinyp2p_net::model::RelPath;
use tinyp2p_net::testing::{Behaviour, MemoryPeer};

use super::super::queue::Queue;
use super::super::target::Target;
use super::super::upcoming::UpcomingJobs;
use super::*;
use crate::network::MemberRef;
use crate::testing::MemoryNetwork;

const CONTENT: &[u8] = &[42; 300_000];

struct Rig {
    network: MemoryNetwork,
    engine: Engine,
    queue: Mutex<Queue>,
    directory: tempfile::TempDir,
    job: Job,
}

impl Rig {
    /// Creates members that share the same file, each with its own behaviour. Without a root, a
    /// file has one holder.
    fn new(behaviours: &[Behaviour], is_rooted: bool) -> Self {
        let network = MemoryNetwork::default();
        let path = RelPath::new(b"x").unwrap();
        let (mut holders, mut root) = (Vec::new(), None);
        for (seed, behaviour) in (1..).zip(behaviours) {
            let peer = network.join(&format!("m{seed}"), seed);
            let attributes = if is_rooted {
                peer.put_rooted("x", CONTENT, 1)
            } else {
                peer.put("x", CONTENT, 1)
            };
            peer.behave(*behaviour);
            root = attributes.root;
            holders.push(Holder {
                member: Arc::new(MemberRef {
                    id: peer.id(),
                    name: format!("m{seed}").into(),
                }),
                path: path.clone(),
                version: attributes.version,
            });
        }
        let (directory, name) = path.split().unwrap();
        Self {
            network,
            engine: Engine::new(128 << 20, None, Box::new(|_, _| {})).unwrap(),
            queue: Mutex::default(),
            directory: tempfile::tempdir().unwrap(),
            job: Job {
                directory,
                name,
                size: (CONTENT.len() as u64).into(),
                mtime: 1.into(),
                root,
                holders,
            },
        }
    }

    fn unrooted(behaviour: Behaviour) -> Self {
        Self::new(&[behaviour], false)
    }

    fn rooted(behaviours: &[Behaviour]) -> Self {
        Self::new(behaviours, true)
    }

    fn peer(&self, holder: usize) -> Arc<MemoryPeer> {
        self.network.member(self.job.holders[holder].member.id)
    }

    /// Leaves the part of an earlier run that got as far as `bytes`.
    fn leave(&self, bytes: &[u8]) {
        let target = Target::open(self.directory.path()).unwrap().unwrap();
        let Begin::Part(mut part) = target.begin(&self.job, &[]).unwrap() else {
            panic!("no part");
        };
        part.append(bytes).unwrap();
    }

    fn task(&self) -> Task {
        Task {
            job: self.job.clone(),
            begun: false,
            probe: None,
        }
    }

    fn fetch(&self) -> Result<Outcome, String> {
        self.fetch_task(&mut self.task())
    }

    fn fetch_task(&self, task: &mut Task) -> Result<Outcome, String> {
        let target = Target::open(self.directory.path()).unwrap().unwrap();
        let parts = target.parts(&self.job.directory).unwrap();
        let crew = Crew {
            total: 1,
            parts: HashMap::new(),
            target: &target,
            network: &self.network,
            engine: &self.engine,
            this_node: PeerId::from_bytes([0; 32]),
            members: &[],
            bar: &ProgressBar::hidden(),
            queue: Mutex::new(std::mem::take(&mut *self.queue.lock())),
            upcoming: Arc::new(UpcomingJobs(Vec::new())),
            changed: Condvar::new(),
            tally: Mutex::default(),
        };
        let outcome = fetch(task, &parts, &crew);
        *self.queue.lock() = crew.queue.into_inner();
        outcome
    }

    fn is_silent(&self, holder: usize) -> bool {
        let member = self.job.holders[holder].member.id;
        self.queue.lock().standing(member) != Standing::Present
    }

    fn fetched(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("x")).unwrap_or_default()
    }

    fn left(&self) -> usize {
        self.directory.path().read_dir().unwrap().count()
    }
}

#[test]
fn fetched_file_is_left_alone() {
    for is_rooted in [false, true] {
        let rig = Rig::new(&[Behaviour::Honest], is_rooted);
        assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
        assert!(rig.fetched() == CONTENT);
        let opens = rig.peer(0).opens();
        assert_eq!(rig.fetch(), Ok(Outcome::Existed));
        assert_eq!(rig.peer(0).opens(), opens);
    }
}

#[test]
fn cut_connection_resumes_at_the_cut() {
    let rig = Rig::unrooted(Behaviour::CutAfter(200_000));
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    assert!(rig.fetched() == CONTENT);
}

#[test]
fn another_holder_takes_over() {
    for behaviour in [Behaviour::Gone, Behaviour::StallAfter(1000)] {
        let rig = Rig::rooted(&[behaviour, Behaviour::Honest]);
        assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
        assert!(rig.fetched() == CONTENT);
    }
    let rig = Rig::rooted(&[Behaviour::Honest, Behaviour::Honest]);
    rig.peer(0).put("x", "something else", 2);
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    assert!(rig.fetched() == CONTENT);
}

#[test]
fn holder_that_cannot_read_the_file_is_present() {
    for is_rooted in [false, true] {
        let rig = Rig::new(&[Behaviour::Exhausted], is_rooted);
        let begun = Instant::now();
        let why = rig.fetch().unwrap_err();
        assert!(why.contains("Too many open files"), "{why}");
        assert!(!rig.is_silent(0) && begun.elapsed() < READ_DEADLINE / 2);
    }
}

#[test]
fn unavailable_file_leaves_no_name() {
    let rig = Rig::unrooted(Behaviour::Honest);
    rig.peer(0).put("x", "something else", 2);
    assert!(rig.fetch().unwrap_err().contains("changed"));
    assert_eq!(rig.left(), 0);
}

#[test]
fn second_run_fetches_only_missing_files() {
    for is_rooted in [false, true] {
        // Too few bytes for the whole file.
        let rig = Rig::new(&[Behaviour::CutAfter(8000)], is_rooted);
        rig.leave(&CONTENT[..299_500]);
        assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
        assert!(rig.fetched() == CONTENT);
    }
}

#[test]
fn fetch_fails_over_from_liar_to_honest() {
    let mut rig = Rig::rooted(&[Behaviour::Lying, Behaviour::Honest]);
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    assert!(rig.fetched() == CONTENT);
    let honest = rig.job.holders.pop().unwrap();
    rig.network.leave(honest.member.id);
    std::fs::remove_file(rig.directory.path().join("x")).unwrap();
    for _ in 0..2 {
        assert_eq!(
            rig.fetch(),
            Err("m1 sent bytes that are not those of the file".to_owned())
        );
    }
}

#[test]
fn touched_file_is_fetched_to_its_end() {
    let rig = Rig::rooted(&[Behaviour::Honest]);
    rig.leave(&CONTENT[..299_500]);
    let peer = rig.peer(0);
    peer.put("x", "not hashed yet", 7);
    let hashing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        peer.put_rooted("x", CONTENT, 7);
    });
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    hashing.join().unwrap();
    assert!(rig.fetched() == CONTENT);
    let there = rig.directory.path().join("x").metadata().unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mtime_nsec(&there), 7);
}

#[test]
fn a_file_that_grows_meanwhile_is_fetched_on() {
    let rig = Rig::unrooted(Behaviour::Honest);
    rig.leave(&CONTENT[..299_500]);
    rig.peer(0).append("x", b"more", 7);
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    assert!(rig.fetched() == [CONTENT, b"more"].concat());
}

#[test]
fn a_file_that_is_written_over_meanwhile_is_fetched_anew() {
    let rig = Rig::unrooted(Behaviour::Honest);
    rig.leave(&CONTENT[..299_500]);
    rig.peer(0).change("x", 7, |content| content.fill(43));
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    assert!(rig.fetched() == [43; 300_000]);
}

#[test]
fn changed_file_ends_its_fetch() {
    let rig = Rig::rooted(&[Behaviour::Honest]);
    rig.peer(0).put_rooted("x", "something else", 7);
    assert!(rig.fetch().unwrap_err().contains("changed"));
    assert_eq!(rig.left(), 0, "what has no bytes is not left");
}

#[test]
fn earlier_runs_part_blames_no_member() {
    let rig = Rig::rooted(&[Behaviour::Honest]);
    rig.leave(&[0; 1000]);
    assert_eq!(rig.fetch(), Ok(Outcome::Fetched));
    assert!(rig.fetched() == CONTENT);
}

#[test]
fn a_member_that_has_left_is_put_off_at_once() {
    let rig = Rig::unrooted(Behaviour::Honest);
    rig.network.leave(rig.job.holders[0].member.id);
    assert_eq!(rig.fetch(), Ok(Outcome::Postponed));
    assert!(rig.is_silent(0));
}

#[test]
fn absent_member_gets_a_single_probe() {
    let rig = Rig::unrooted(Behaviour::Gone);
    assert_eq!(rig.fetch(), Ok(Outcome::Postponed));
    let opens = rig.peer(0).opens();
    assert_eq!(rig.fetch(), Ok(Outcome::Postponed));
    assert_eq!(rig.peer(0).opens(), opens);
    rig.peer(0).behave(Behaviour::Honest);
    let mut task = Task {
        begun: true,
        probe: Some(rig.peer(0).id()),
        ..rig.task()
    };
    assert_eq!(rig.fetch_task(&mut task), Ok(Outcome::Fetched));
    assert!(rig.fetched() == CONTENT && !rig.is_silent(0));
}

#[test]
fn holder_without_it_is_not_asked_again() {
    let rig = Rig::rooted(&[Behaviour::Honest, Behaviour::Gone]);
    rig.peer(0).put("x", "something else", 2);
    let mut task = rig.task();
    assert_eq!(rig.fetch_task(&mut task), Ok(Outcome::Postponed));
    assert_eq!(task.job.holders, rig.job.holders[1..]);
    assert!(rig.is_silent(1) && !rig.is_silent(0));
}
