//! The order in which files are fetched, so that an absent member delays only its own files.
//!
//! Pure. Files that only unresponsive members have are put aside. Such a member is retried every
//! few seconds, with one file at a time. When it answers, its files are taken up again; when it has
//! not answered for long, they fail.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::model::PeerId;

use super::plan::Job;

/// Pause between one attempt at an unresponsive member and the next.
const RETRY: Duration = Duration::from_secs(5);

/// A member that has not answered for this long is given up; one that restarts is back sooner.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How likely a member is to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The member is present, as far as is known.
    Present,
    /// The member did not answer recently.
    Away,
    /// The member has not answered for so long that nobody waits for it.
    Lost,
}

/// A period in which a member does not answer.
#[derive(Debug)]
struct Absence {
    since: Instant,
    /// Time of the next attempt.
    next: Instant,
    /// Whether an attempt is in progress.
    tried: bool,
    lost: bool,
    /// The reason, in one line for people.
    why: String,
}

/// One file to fetch now.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) job: Job,
    /// Whether this run has started the file before.
    pub(super) begun: bool,
    /// The member to try although it is away.
    pub(super) probe: Option<PeerId>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum NextTask {
    /// There is a file to fetch.
    Task(Box<Task>),
    /// All holders of this file are lost, for this reason.
    Failed(Arc<Job>, String),
    /// Nothing to do before this time or a change.
    Wait(Instant),
    /// Nothing is left to do.
    Done,
}

/// The files to fetch, and the members that do not answer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In the order of their paths; files that were put aside come last.
    ready: VecDeque<(Arc<Job>, bool)>,
    /// Files with at least one holder away, and none present.
    aside: VecDeque<(Arc<Job>, bool)>,
    /// Number of files handed out and not finished; they may come back.
    under_way: usize,
    absences: HashMap<PeerId, Absence>,
}

impl Queue {
    pub(super) fn new(jobs: &[Arc<Job>]) -> Self {
        Self {
            ready: jobs.iter().map(|job| (Arc::clone(job), false)).collect(),
            ..Self::default()
        }
    }

    /// Returns the next file, preferring one with a present holder.
    pub(super) fn next(&mut self, now: Instant) -> NextTask {
        while let Some((job, begun)) = self.ready.pop_front() {
            match self.prospect(&job) {
                Standing::Present => return self.hand_out(job, begun, None),
                Standing::Away => self.aside.push_back((job, begun)),
                Standing::Lost => {
                    let why = job.holders.first().map(|holder| holder.member.id);
                    let why = why.and_then(|id| self.absences.get(&id));
                    let why = why.map(|absence| absence.why.clone()).unwrap_or_default();
                    return NextTask::Failed(job, why);
                }
            }
        }
        self.probe(now).unwrap_or_else(|| self.pause(now))
    }

    /// Returns one file of a member that is due for an attempt.
    fn probe(&mut self, now: Instant) -> Option<NextTask> {
        let due = |absence: &Absence| !absence.lost && !absence.tried && absence.next <= now;
        if !self.absences.values().any(due) {
            return None;
        }
        let (place, member) = self
            .aside
            .iter()
            .enumerate()
            .find_map(|(place, (job, _))| {
                let mut members = job.holders.iter().map(|holder| holder.member.id);
                let member = members.find(|id| self.absences.get(id).is_some_and(due))?;
                Some((place, member))
            })?;
        let (job, begun) = self.aside.remove(place)?;
        if let Some(absence) = self.absences.get_mut(&member) {
            absence.tried = true;
        }
        Some(self.hand_out(job, begun, Some(member)))
    }

    fn hand_out(&mut self, job: Arc<Job>, begun: bool, probe: Option<PeerId>) -> NextTask {
        self.under_way += 1;
        let job = Arc::unwrap_or_clone(job);
        NextTask::Task(Box::new(Task { job, begun, probe }))
    }

    fn pause(&self, now: Instant) -> NextTask {
        if self.under_way == 0 && self.aside.is_empty() {
            return NextTask::Done;
        }
        let waiting = self.absences.values().filter(|a| !a.lost && !a.tried);
        let next = waiting.map(|absence| absence.next).filter(|at| *at > now);
        NextTask::Wait(next.min().unwrap_or(now + RETRY))
    }

    /// Returns the best standing among the holders.
    fn prospect(&self, job: &Job) -> Standing {
        let mut best = Standing::Lost;
        for holder in &job.holders {
            match self.standing(holder.member.id) {
                Standing::Present => return Standing::Present,
                Standing::Away => best = Standing::Away,
                Standing::Lost => {}
            }
        }
        best
    }

    /// Returns how likely a member is to answer.
    pub(super) fn standing(&self, member: PeerId) -> Standing {
        match self.absences.get(&member) {
            None => Standing::Present,
            Some(Absence { lost: false, .. }) => Standing::Away,
            Some(_) => Standing::Lost,
        }
    }

    /// Records that a task has ended, with or without the file.
    pub(super) fn ended(&mut self, probe: Option<PeerId>) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(absence) = probe.and_then(|id| self.absences.get_mut(&id)) {
            absence.tried = false;
        }
    }

    /// Puts back a file that no holder could send now, but one may later.
    pub(super) fn put_back(&mut self, job: Job) {
        self.ready.push_back((Arc::new(job), true));
    }

    /// Records that a member did not answer.
    pub(super) fn silent(&mut self, member: PeerId, why: String, now: Instant) {
        let absence = self.absences.entry(member).or_insert_with(|| Absence {
            since: now,
            next: now,
            tried: false,
            lost: false,
            why: String::new(),
        });
        absence.next = now + RETRY;
        absence.why = why;
        if now.duration_since(absence.since) >= GIVE_UP {
            absence.lost = true;
            self.take_up();
        }
    }

    /// Records that a member answered.
    pub(super) fn answered(&mut self, member: PeerId) {
        if self.absences.remove(&member).is_some() {
            self.take_up();
        }
    }

    /// Reconsiders all files that were put aside.
    fn take_up(&mut self) {
        self.ready.append(&mut self.aside);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tinyp2p_net::model::{RelPath, Version};

    use super::super::plan::Holder;
    use super::*;
    use crate::network::MemberRef;

    fn id(member: u8) -> PeerId {
        PeerId::from_bytes([member; 32])
    }

    fn queue(jobs: &[Job]) -> Queue {
        let jobs: Vec<Arc<Job>> = jobs.iter().cloned().map(Arc::new).collect();
        Queue::new(&jobs)
    }

    fn job(name: &str, members: &[u8]) -> Job {
        let path = RelPath::new(name.as_bytes()).unwrap();
        let (directory, name) = path.split().unwrap();
        let holders = members.iter().map(|member| Holder {
            member: Arc::new(MemberRef {
                id: id(*member),
                name: format!("m{member}").into(),
            }),
            path: path.clone(),
            version: Version(1),
        });
        Job {
            directory,
            name,
            size: 1.into(),
            mtime: 1.into(),
            root: None,
            holders: holders.collect(),
        }
    }

    fn task(next: NextTask) -> (String, Option<PeerId>) {
        match next {
            NextTask::Task(task) => (task.job.path(), task.probe),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn absent_members_files_come_last_singly() {
        let now = Instant::now();
        let mut queue = queue(&[
            job("a", &[1]),
            job("b", &[1]),
            job("c", &[2]),
            job("d", &[1, 2]),
        ]);
        assert_eq!(task(queue.next(now)), ("a".to_owned(), None));
        queue.silent(id(1), "away".to_owned(), now);
        queue.put_back(job("a", &[1]));
        queue.ended(None);
        assert_eq!(task(queue.next(now)), ("c".to_owned(), None));
        assert_eq!(task(queue.next(now)), ("d".to_owned(), None));
        assert!(matches!(queue.next(now), NextTask::Wait(at) if at == now + RETRY));
        let later = now + RETRY;
        assert_eq!(task(queue.next(later)), ("b".to_owned(), Some(id(1))));
        assert!(matches!(queue.next(later), NextTask::Wait(_)));
        queue.answered(id(1));
        queue.ended(Some(id(1)));
        assert_eq!(task(queue.next(later)), ("a".to_owned(), None));
    }

    #[test]
    fn a_member_that_never_answers_is_given_up() {
        let start = Instant::now();
        let mut now = start;
        let mut queue = queue(&[job("a", &[1]), job("b", &[1])]);
        task(queue.next(now));
        queue.silent(id(1), "away".to_owned(), now);
        queue.put_back(job("a", &[1]));
        queue.ended(None);
        let mut tries = 0;
        loop {
            match queue.next(now) {
                NextTask::Task(task) => {
                    assert_eq!(task.probe, Some(id(1)));
                    tries += 1;
                    queue.silent(id(1), "away".to_owned(), now);
                    queue.put_back(task.job);
                    queue.ended(task.probe);
                }
                NextTask::Wait(at) => {
                    assert!(at > now);
                    now = at;
                }
                NextTask::Failed(_, why) => {
                    assert_eq!(why, "away");
                    break;
                }
                NextTask::Done => panic!("not done"),
            }
        }
        assert_eq!(now, start + GIVE_UP);
        assert_eq!(tries, 12);
        assert!(matches!(queue.next(now), NextTask::Failed(..)));
        assert!(matches!(queue.next(now), NextTask::Done));
    }

    #[test]
    fn queue_waits_while_a_file_may_return() {
        let now = Instant::now();
        let mut queue = queue(&[job("a", &[1])]);
        task(queue.next(now));
        assert!(matches!(queue.next(now), NextTask::Wait(_)));
        queue.ended(None);
        assert!(matches!(queue.next(now), NextTask::Done));
    }
}
