//! `tinyp2p get`: download everything that matches, as the client of 2004 did.
//!
//! [`plan`] decides what to fetch from whom under which name, [`queue`] in which order, [`target`]
//! keeps the directory safe, [`fetch`] brings one file by the download engine, which is told what
//! comes next by [`upcoming`]; a few files are fetched at once.

mod fetch;
mod plan;
mod queue;
mod target;
mod upcoming;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tinyp2p_net::Node;
use tinyp2p_net::config::READ_DEADLINE;
use tinyp2p_net::download::Engine;
use tinyp2p_net::error::Error;
use tinyp2p_net::membership::Member;
use tinyp2p_net::model::{Attributes, PeerId, RelPath};
use tinyp2p_net::peer::{self, Peer, Purpose};

use super::CommandFailure;
use super::commands::search;
use super::first_contact;
use super::options::args::GetArgs;
use super::options::password::PasswordSource;
use super::output::{print, say};
use fetch::Outcome;
use plan::{Holder, Job};
use queue::{NextTask, Queue, Standing, Task};
use target::Target;
use upcoming::UpcomingJobs;

use crate::network::Network;

const PROGRAM: &str = "tinyp2p";

/// What is made of a match: its path once more, and an entry, an item, a job, their
/// places in tables.
const JOB: (usize, usize) = (1, 440);

/// Files that are fetched at once: small ones wait for round trips more than for the line.
const AT_ONCE: usize = 4;

/// A member that has to hash a file before it can be known whether what is here is the same gets
/// this long for it: a gigabyte or more, on most machines.
const ROOT_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked meanwhile.
const ROOT_POLL: Duration = Duration::from_millis(100);

/// Joins, searches, downloads.
pub(super) fn run(source: PasswordSource, args: GetArgs) -> Result<(), CommandFailure> {
    let failed = |e| CommandFailure::failed(format!("directory {}: {e}", args.directory.display()));
    // Before anybody is asked; but what is missing is made only when there is something to
    // put into it.
    let target = Target::open(&args.directory).map_err(failed)?;
    let (network, pattern) = (&args.find.network, &args.find.pattern);
    first_contact::as_guest(
        PROGRAM,
        network,
        args.find.peers,
        source,
        |joined, members| {
            let answers = search::ask(PROGRAM, &joined.node, pattern, JOB)?;
            let jobs = plan::jobs(answers.found, network.hidden);
            if jobs.is_empty() {
                return Err(search::nothing_matches(pattern));
            }
            let target = match target {
                Some(target) => target,
                None => Target::create(&args.directory).map_err(failed)?,
            };
            let bar = progress_bar(&jobs);
            let tally = fetch_all(jobs, &target, &joined.node, members, &bar);
            bar.finish_and_clear();
            print(tally.to_string().as_bytes())?;
            match tally.failed {
                0 => answers.missing.into_result(),
                // Each has been named, and the member with it.
                _ => Err(CommandFailure::told(1)),
            }
        },
    )
}

/// Drawn on terminals only.
fn progress_bar(jobs: &[Job]) -> ProgressBar {
    let bar = ProgressBar::new(
        jobs.iter()
            .filter(|job| job.size.is_known())
            .map(|job| job.size.or_zero())
            .sum(),
    );
    let template = "{percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// What became of the jobs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    fetched: u64,
    bytes: u64,
    existed: u64,
    left_out: u64,
    failed: u64,
}

impl Tally {
    /// The files that there is an outcome for.
    fn done(&self) -> u64 {
        self.fetched + self.existed + self.left_out + self.failed
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = HumanBytes(self.bytes);
        write!(
            f,
            "{} fetched ({bytes}), {} existed",
            self.fetched, self.existed
        )?;
        if self.left_out > 0 {
            write!(f, ", {} left out", self.left_out)?;
        }
        match self.failed {
            0 => writeln!(f),
            failed => writeln!(f, ", {failed} failed; run the same command again to resume"),
        }
    }
}

fn fetch_all(
    jobs: Vec<Job>,
    target: &Target,
    node: &Node,
    members: &[Member],
    bar: &ProgressBar,
) -> Tally {
    let parts = parts(&jobs, target);
    let jobs: Vec<Arc<Job>> = jobs.into_iter().map(Arc::new).collect();
    let crew = Crew {
        total: jobs.len(),
        parts,
        target,
        network: node,
        engine: node.engine(),
        this_node: node.id(),
        members,
        bar,
        queue: Mutex::new(Queue::new(&jobs)),
        upcoming: Arc::new(UpcomingJobs(jobs)),
        changed: Condvar::new(),
        tally: Mutex::default(),
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| crew.work());
        }
    });
    crew.tally.into_inner()
}

/// Those who fetch at the same time, and what they share.
struct Crew<'a> {
    total: usize,
    parts: HashMap<RelPath, Vec<Vec<u8>>>,
    target: &'a Target,
    network: &'a dyn Network,
    engine: &'a Engine,
    this_node: PeerId,
    members: &'a [Member],
    bar: &'a ProgressBar,
    queue: Mutex<Queue>,
    upcoming: Arc<UpcomingJobs>,
    /// Something in the queue changed.
    changed: Condvar,
    tally: Mutex<Tally>,
}

impl Crew<'_> {
    /// Fetches until nothing is left.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            match queue.next(Instant::now()) {
                NextTask::Done => return,
                NextTask::Wait(until) => {
                    self.changed.wait_until(&mut queue, until);
                }
                NextTask::Failed(job, why) => {
                    MutexGuard::unlocked(&mut queue, || self.settle(&job, &Err(why)));
                }
                NextTask::Task(task) => MutexGuard::unlocked(&mut queue, || self.fetch(*task)),
            }
        }
    }

    fn fetch(&self, mut task: Task) {
        let done = self.tally.lock().done();
        let path = task.job.path();
        self.bar
            .set_message(format!("{done} of {}, {path}", self.total));
        if !task.job.size.is_known() {
            let outcome = match self.target.has(&task.job) {
                Ok(true) => Some(Ok(Outcome::Existed)),
                Ok(false) => self.measure(&mut task.job).transpose(),
                Err(error) => Some(Err(error.to_string())),
            };
            if let Some(outcome) = outcome {
                self.settle(&task.job, &outcome);
                self.queue.lock().ended(task.probe);
                self.changed.notify_all();
                return;
            }
        }
        let directory = &task.job.directory;
        let parts = if task.begun {
            // What it has left is not among those that were here at the beginning.
            self.target.parts(directory).unwrap_or_default()
        } else {
            self.parts.get(directory).cloned().unwrap_or_default()
        };
        if Target::depends_on_root(&task.job, &parts) {
            let known = self.look(&task.job.holders[0]);
            let known = known.filter(|known| known.version == task.job.holders[0].version);
            task.job.root = known.and_then(|known| known.root);
        }
        let outcome = fetch::fetch(&mut task, &parts, self);
        if outcome != Ok(Outcome::Postponed) {
            self.settle(&task.job, &outcome);
        }
        let mut queue = self.queue.lock();
        queue.ended(task.probe);
        if outcome == Ok(Outcome::Postponed) {
            queue.put_back(task.job);
        }
        self.changed.notify_all();
    }

    /// Gives `job` its size: whoever has it tells names only, and is asked for all of it. What
    /// became of it, if that ends it.
    fn measure(&self, job: &mut Job) -> Result<Option<Outcome>, String> {
        let mut failure = Error::NotFound {
            who: job.holders[0].member.name.to_string(),
        };
        for holder in job.holders.clone() {
            let (path, who) = (&holder.path, &holder.member.name);
            let measured = loop {
                let Some(whole) = self.network.whole(holder.member.id) else {
                    break Err(Error::Timeout {
                        who: who.to_string(),
                    });
                };
                match whole.measure(path, Purpose::Bytes, Instant::now() + READ_DEADLINE) {
                    Err(Error::Unfinished { .. }) => {}
                    other => break other,
                }
            };
            match measured {
                Ok(found) => {
                    (job.size, job.mtime, job.root) = (found.size, found.mtime, found.root);
                    job.holders = vec![Holder {
                        version: found.version,
                        ..holder
                    }];
                    self.bar.inc_length(found.size.or_zero());
                    return Ok(None);
                }
                // Only if nobody failed in another way, nobody has it.
                Err(Error::NotFound { .. }) => {}
                Err(error) => failure = error,
            }
        }
        match failure {
            // Names of directories are among those that a server of 2004 tells.
            Error::NotFound { who } => {
                let path = job.path();
                let text =
                    format!("{path}: left out: {who} cannot give it, as if it were a directory");
                self.bar.suspend(|| say(PROGRAM, &text));
                Ok(Some(Outcome::LeftOut))
            }
            error => Err(error.to_string()),
        }
    }

    /// What the file is now at `holder`, as soon as that has hashed it. `None` if that takes long.
    fn look(&self, holder: &Holder) -> Option<Attributes> {
        let (member, deadline) = (holder.member.id, Instant::now() + ROOT_PATIENCE);
        let peer = self.peer(member)?;
        loop {
            // It hashes first what others ask for.
            let wanted = BTreeMap::from([(member, vec![holder.path.clone()])]);
            self.network.compare(wanted);
            let found = peer::stat(&*peer, &holder.path, deadline).ok()?.answer?;
            if found.root.is_some() {
                return Some(found);
            }
            if Instant::now() + ROOT_POLL >= deadline {
                return None;
            }
            thread::sleep(ROOT_POLL);
        }
    }

    /// Counts what became of a file, and says why if it failed.
    fn settle(&self, job: &Job, outcome: &Result<Outcome, String>) {
        count(&mut self.tally.lock(), job, outcome);
        if let Err(why) = outcome {
            let text = format!("{}: {why}", job.path());
            self.bar.suspend(|| say(PROGRAM, &text));
        }
    }
}

/// The members, as those who fetch see and judge them.
impl Crew<'_> {
    /// How a member is reached. One that is not there now may be by the next moment, as it
    /// was at first.
    fn peer(&self, id: PeerId) -> Option<Arc<dyn Peer>> {
        let mut met = self.members.iter().filter(|member| member.id == id);
        let met = || met.next().map(|member| Arc::clone(&member.peer));
        self.network.peer(id).or_else(met)
    }

    fn standing(&self, member: PeerId) -> Standing {
        self.queue.lock().standing(member)
    }

    /// A member did not answer.
    fn silent(&self, member: PeerId, error: &Error) {
        let why = error.to_string();
        self.queue.lock().silent(member, why, Instant::now());
        self.changed.notify_all();
    }

    /// A holder is not there.
    fn has_left(&self, holder: &Holder) {
        let (who, why) = (
            holder.member.name.to_string(),
            "it has left the network".into(),
        );
        self.silent(holder.member.id, &Error::Unreachable { who, why });
    }

    /// A member answered.
    fn answered(&self, member: PeerId) {
        self.queue.lock().answered(member);
        self.changed.notify_all();
    }
}

fn count(tally: &mut Tally, job: &Job, outcome: &Result<Outcome, String>) {
    match outcome {
        Ok(Outcome::Fetched) => {
            tally.fetched += 1;
            tally.bytes += job.size.or_zero();
        }
        Ok(Outcome::Existed) => tally.existed += 1,
        Ok(Outcome::LeftOut) => tally.left_out += 1,
        Ok(Outcome::Postponed) => {}
        Err(_) => tally.failed += 1,
    }
}

/// What earlier runs left, by directory. A directory that cannot be read says so when it is used.
fn parts(jobs: &[Job], target: &Target) -> HashMap<RelPath, Vec<Vec<u8>>> {
    let mut parts = HashMap::new();
    for job in jobs {
        parts
            .entry(job.directory.clone())
            .or_insert_with_key(|directory| target.parts(directory).unwrap_or_default());
    }
    for (directory, parts) in &parts {
        if let Err(error) = target.forget(directory, parts, jobs) {
            tracing::debug!(%directory, %error, "old parts stay");
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_sums_up_the_files() {
        let mut tally = Tally {
            fetched: 2,
            bytes: 2048,
            existed: 1,
            left_out: 0,
            failed: 0,
        };
        assert_eq!(tally.to_string(), "2 fetched (2.00 KiB), 1 existed\n");
        tally.left_out = 3;
        assert!(tally.to_string().ends_with("1 existed, 3 left out\n"));
        (tally.left_out, tally.failed) = (0, 1);
        assert!(
            tally
                .to_string()
                .ends_with("1 existed, 1 failed; run the same command again to resume\n")
        );
    }
}
