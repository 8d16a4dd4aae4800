//! Slow members in memory: who waits for them, and for what.

use super::*;
use crate::testing::{Behaviour, MemoryPeer};

/// Longer than a prompt answer takes.
const SLOW: Duration = Duration::from_millis(1200);

struct Network {
    fanout: Fanout,
    prompt: Vec<Arc<MemoryPeer>>,
    slow: Arc<MemoryPeer>,
}

impl Network {
    /// Four members with a directory of their own and one that all have; the last is known
    /// to be slow.
    fn new() -> Self {
        let peers = [1, 2, 3, 4].map(|seed| {
            let peer = Arc::new(MemoryPeer::new(seed));
            peer.put(&format!("d{seed}/x"), "x", 1);
            peer.put(&format!("d/of {seed}"), "x", 1);
            peer
        });
        let [a, b, c, slow] = peers;
        slow.behave(Behaviour::Slow(SLOW));
        let fanout = Fanout::default();
        for _ in 0..2 {
            fanout.pace.lock().note(slow.id(), SLOW);
        }
        Self {
            fanout,
            prompt: vec![a, b, c],
            slow,
        }
    }

    fn asked(&self) -> Vec<QueryTarget> {
        let peers = self.prompt.iter().chain([&self.slow]);
        let asked = peers.map(|peer| QueryTarget {
            name: peer.id().short().into(),
            peer: Arc::clone(peer) as Arc<dyn Peer>,
        });
        asked.collect()
    }

    fn list(&self, directory: &str) -> Vec<PeerReply<Watched<Option<Held<Listing>>>>> {
        let directory = RelPath::new(directory.as_bytes()).unwrap();
        self.fanout
            .list(&self.asked(), &Whom::default(), &directory, soon())
    }

    fn stat(&self, path: &str) -> Vec<PeerReply<Watched<Option<Attributes>>>> {
        let path = RelPath::new(path.as_bytes()).unwrap();
        self.fanout
            .stat(&self.asked(), &Whom::default(), &path, soon())
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn slow_member_is_skipped_if_others_answer() {
    let network = Network::new();
    let begun = Instant::now();
    let answers = network.list("d");
    assert!(begun.elapsed() < SLOW / 2);
    assert!(answers[..3].iter().all(|answer| answer.result.is_ok()));
    assert!(is_slow_error(&answers[3]));
    assert_eq!(answers.len(), 4);
    let begun = Instant::now();
    assert!(is_slow_error(&network.stat("d/of 1")[3]));
    assert!(begun.elapsed() < SLOW / 2);
}

#[test]
fn sole_slow_candidate_is_awaited() {
    let network = Network::new();
    let listed = network.list("d4").swap_remove(3).result.unwrap();
    assert!(listed.answer.is_some());
    let stat = |path: &str| network.stat(path).swap_remove(3).result.unwrap().answer;
    assert!(stat("d/of 4").is_some());
    assert_eq!(stat("nowhere"), None);
}

#[test]
fn late_listing_counts_for_the_next_lookup() {
    let network = Network::new();
    assert_eq!(network.list("d").len(), 4);
    let until = soon();
    let answers = loop {
        let answers = network.list("d");
        if answers.len() > 4 {
            break answers;
        }
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(is_slow_error(&answers[3]));
    assert_eq!(answers[4].member, network.slow.id());
    let said = answers[4].result.as_ref().unwrap().answer.as_ref().unwrap();
    assert_eq!(said.entries[0].name.to_string(), "of 4");
}

#[test]
fn prompt_answer_restores_the_wait() {
    let network = Network::new();
    network.slow.behave(Behaviour::Honest);
    let until = soon();
    while network
        .fanout
        .slow(&network.asked(), &Whom::default())
        .contains(&network.slow.id())
    {
        network.list("d");
        assert!(Instant::now() < until);
    }
    assert!(network.list("d")[3].result.is_ok());
}

#[test]
fn slow_members_full_backlog_fails_fast() {
    let network = Network::new();
    network.slow.behave(Behaviour::Frozen);
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(is_slow_error(&network.list("d")[3]));
    }
    assert!(begun.elapsed() < SLOW);
    assert!(network.slow.calls() <= CALLS_PER_MEMBER);
    network.slow.behave(Behaviour::Gone);
}
