use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tinyp2p_net::content::merkle::TreeHasher;
use tinyp2p_net::model::{RelPath, Root};
use tinyp2p_net::peer::stat;
use tinyp2p_net::testing::{Behaviour, MemoryPeer};

use super::*;
use crate::view::merge::MemberRef;

const CONTENT: &[u8] = &[42; 300_000];

struct Network {
    members: HashMap<PeerId, Arc<MemoryPeer>>,
    silent: Mutex<HashSet<PeerId>>,
    directory: tempfile::TempDir,
    job: Job,
    /// The content root that the holders tell by now.
    root_now: Mutex<Option<Root>>,
}

impl Network {
    /// As many members that share the same file, each behaving as told.
    fn new(behaviours: &[Behaviour]) -> Self {
        let path = RelPath::new(b"x").unwrap();
        let mut members = HashMap::new();
        let mut holders = Vec::new();
        for (seed, behaviour) in (1..).zip(behaviours) {
            let peer = Arc::new(MemoryPeer::new(seed));
            let attributes = peer.put("x", CONTENT, 1);
            peer.behave(*behaviour);
            holders.push(Holder {
                member: Arc::new(MemberRef {
                    id: peer.id(),
                    name: format!("m{seed}").into(),
                }),
                path: path.clone(),
                version: attributes.version,
            });
            members.insert(peer.id(), peer);
        }
        let (directory, name) = path.split().unwrap();
        Self {
            members,
            silent: Mutex::default(),
            root_now: Mutex::default(),
            directory: tempfile::tempdir().unwrap(),
            job: Job {
                directory,
                name,
                size: CONTENT.len() as u64,
                mtime: 1.into(),
                root: None,
                holders,
            },
        }
    }

    fn peer(&self, holder: usize) -> &MemoryPeer {
        &self.members[&self.job.holders[holder].member.id]
    }

    fn fetch(&self) -> Result<Outcome, String> {
        self.fetch_task(&mut Task {
            job: self.job.clone(),
            begun: false,
            probe: None,
        })
    }

    fn fetch_task(&self, task: &mut Task) -> Result<Outcome, String> {
        let target = Target::open(self.directory.path()).unwrap().unwrap();
        let parts = target.parts(&self.job.directory).unwrap();
        fetch(task, &target, &parts, self, &ProgressBar::hidden())
    }

    fn fetched(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("x")).unwrap_or_default()
    }
}

impl Members for Network {
    fn find(&self, id: PeerId) -> Option<Arc<dyn Peer>> {
        let peer = self.members.get(&id)?;
        Some(Arc::clone(peer) as Arc<dyn Peer>)
    }

    fn standing(&self, id: PeerId) -> Standing {
        if self.silent.lock().contains(&id) {
            Standing::Away
        } else {
            Standing::Present
        }
    }

    fn silent(&self, id: PeerId, _: &Error) {
        self.silent.lock().insert(id);
    }

    fn answered(&self, id: PeerId) {
        self.silent.lock().remove(&id);
    }

    fn look(&self, holder: &Holder) -> Option<Attributes> {
        let peer = self.members.get(&holder.member.id)?;
        let deadline = Instant::now() + CALL_DEADLINE;
        let found = stat(&**peer, &holder.path, deadline).ok()?.answer?;
        Some(Attributes {
            root: *self.root_now.lock(),
            ..found
        })
    }
}

#[test]
fn a_file_arrives_once_and_is_then_left_alone() {
    let network = Network::new(&[Behaviour::Honest]);
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
    assert_eq!(network.fetch(), Ok(Outcome::Existed));
    assert_eq!(network.peer(0).opens(), 1);
}

#[test]
fn a_cut_connection_goes_on_where_it_was_cut() {
    let network = Network::new(&[Behaviour::CutAfter(200_000)]);
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
    assert_eq!(network.peer(0).opens(), 2);
}

#[test]
fn another_holder_takes_over_from_the_beginning() {
    let network = Network::new(&[Behaviour::Honest, Behaviour::Honest]);
    network.peer(0).put("x", "something else", 2);
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
}

#[test]
fn a_file_that_nobody_can_send_leaves_no_name() {
    let network = Network::new(&[Behaviour::Honest]);
    network.peer(0).put("x", "something else", 2);
    assert!(network.fetch().unwrap_err().contains("changed"));
    assert!(!network.directory.path().join("x").exists());
}

#[test]
fn a_second_run_fetches_only_what_is_missing() {
    let network = Network::new(&[Behaviour::CutAfter(1000)]);
    let target = Target::open(network.directory.path()).unwrap().unwrap();
    let Begin::Part(mut part) = target.begin(&network.job, &[]).unwrap() else {
        panic!("no part");
    };
    part.append(&CONTENT[..299_500]).unwrap();
    drop(part);
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
    assert_eq!(network.peer(0).opens(), 1);
}

#[test]
fn a_lying_member_is_replaced_by_an_honest_one() {
    let mut network = Network::new(&[Behaviour::Lying, Behaviour::Honest]);
    network.job.root = root_of(CONTENT);
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
    network.job.holders.truncate(1);
    std::fs::remove_file(network.directory.path().join("x")).unwrap();
    assert_eq!(
        network.fetch(),
        Err("m1 sent bytes that are not those of the file".to_owned())
    );
}

fn root_of(content: &[u8]) -> Option<Root> {
    let mut hasher = TreeHasher::default();
    hasher.update(content);
    hasher.finish().map(|tree| tree.root())
}

#[test]
fn a_file_that_is_only_touched_meanwhile_is_fetched_on() {
    let mut network = Network::new(&[Behaviour::Honest]);
    network.job.root = root_of(CONTENT);
    let target = Target::open(network.directory.path()).unwrap().unwrap();
    let Begin::Part(mut part) = target.begin(&network.job, &[]).unwrap() else {
        panic!("no part");
    };
    part.append(&CONTENT[..299_500]).unwrap();
    drop(part);
    network.peer(0).put("x", CONTENT, 7);
    *network.root_now.lock() = network.job.root;
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
    let there = network.directory.path().join("x").metadata().unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mtime_nsec(&there), 7);
}

#[test]
fn a_file_whose_content_changes_meanwhile_is_not_fetched_on() {
    let mut network = Network::new(&[Behaviour::Honest]);
    network.job.root = root_of(CONTENT);
    network.peer(0).put("x", "something else", 7);
    *network.root_now.lock() = root_of(b"something else");
    assert!(network.fetch().unwrap_err().contains("changed"));
    let left = network.directory.path().read_dir().unwrap().count();
    assert_eq!(left, 0, "what has no bytes is not left");
}

#[test]
fn a_member_is_not_blamed_for_what_an_earlier_run_left() {
    let mut network = Network::new(&[Behaviour::Honest]);
    network.job.root = root_of(CONTENT);
    let target = Target::open(network.directory.path()).unwrap().unwrap();
    let Begin::Part(mut part) = target.begin(&network.job, &[]).unwrap() else {
        panic!("no part");
    };
    part.append(&[0; 1000]).unwrap();
    drop(part);
    assert_eq!(network.fetch(), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT);
}

#[test]
fn a_member_that_is_away_is_tried_once_and_only_as_a_probe() {
    let network = Network::new(&[Behaviour::Gone]);
    assert_eq!(network.fetch(), Ok(Outcome::Postponed));
    assert_eq!(network.fetch(), Ok(Outcome::Postponed));
    assert_eq!(network.peer(0).opens(), 1);
    network.peer(0).behave(Behaviour::Honest);
    let mut task = Task {
        job: network.job.clone(),
        begun: true,
        probe: Some(network.peer(0).id()),
    };
    assert_eq!(network.fetch_task(&mut task), Ok(Outcome::Fetched));
    assert!(network.fetched() == CONTENT && network.silent.lock().is_empty());
}

#[test]
fn who_does_not_have_it_is_not_asked_again_when_another_returns() {
    let network = Network::new(&[Behaviour::Honest, Behaviour::Gone]);
    network.peer(0).put("x", "something else", 2);
    let mut task = Task {
        job: network.job.clone(),
        begun: false,
        probe: None,
    };
    assert_eq!(network.fetch_task(&mut task), Ok(Outcome::Postponed));
    assert_eq!(task.job.holders, network.job.holders[1..]);
}

#[test]
fn single_bytes_now_and_then_are_no_progress() {
    let mut patience = Patience::default();
    assert!(!patience.is_rewarded(Duration::from_secs(14), 1));
    assert!(!patience.is_rewarded(Duration::from_secs(1), 1));
    assert!(patience.left.is_zero());
    let mut patience = Patience::default();
    assert!(!patience.is_rewarded(Duration::from_secs(14), 1));
    assert!(patience.is_rewarded(Duration::from_millis(900), LEAST_PROGRESS));
    assert_eq!(patience.left, READ_DEADLINE);
}
