//! `tinyp2p get`: downloads everything that matches, as the client of 2004 did.
//!
//! [`plan`] decides what to fetch, from whom and under which name; [`queue`] decides the order;
//! [`target`] keeps the directory safe; [`fetch`] brings one file through the download engine, to
//! which [`upcoming`] announces what comes next. A few files are fetched at once.

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

/// Memory for a match besides the answer: its path once more, and an entry, an item, a job, and
/// their places in tables.
const JOB: (usize, usize) = (1, 440);

/// Files that are fetched at once: for small files, round trips take longer than the transfer.
const AT_ONCE: usize = 4;

/// Time for a member to hash a file when only its root shows whether the local file is the same:
/// enough for a gigabyte or more, on most machines.
const ROOT_PATIENCE: Duration = Duration::from_secs(10);

/// Interval at which the member is asked during that time.
const ROOT_POLL: Duration = Duration::from_millis(100);

/// Joins the network, searches and downloads.
pub(super) fn run(source: PasswordSource, args: GetArgs) -> Result<(), CommandFailure> {
    let failed = |e| CommandFailure::failed(format!("directory {}: {e}", args.directory.display()));
    // Before anybody is asked. A missing directory is created only when there is
    // something to put into it.
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
                // Each failed file has been printed, together with the member.
                _ => Err(CommandFailure::told(1)),
            }
        },
    )
}

/// Creates a progress bar, which is drawn on terminals only.
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

/// Counts of the jobs' outcomes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    fetched: u64,
    bytes: u64,
    existed: u64,
    left_out: u64,
    failed: u64,
}

impl Tally {
    /// Returns the number of files that have an outcome.
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

/// The workers that fetch at the same time, and what they share.
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
    /// Signals a change in the queue.
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
            // Parts that it has left are not among those found at the beginning.
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

    /// Determines the size of `job`: its holders list only names, so the whole file is requested.
    /// Returns the outcome if this ends the job.
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
                // The file is absent only if no holder failed in another way.
                Err(Error::NotFound { .. }) => {}
                Err(error) => failure = error,
            }
        }
        match failure {
            // A server of 2004 also lists the names of directories.
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

    /// Returns the current attributes of the file at `holder`, once it has hashed the file. `None`
    /// if that takes too long.
    fn look(&self, holder: &Holder) -> Option<Attributes> {
        let (member, deadline) = (holder.member.id, Instant::now() + ROOT_PATIENCE);
        let peer = self.peer(member)?;
        loop {
            // It first hashes what others request.
            let wanted = BTreeMap::from([(member, vec![holder.path.clone()])]);
            self.network.compare(wanted);
            let mut found = peer::stat(&*peer, &holder.path, deadline).ok()?.answer?;
            self.engine.disbelieve(member, &mut found);
            if found.root.is_some() {
                return Some(found);
            }
            if Instant::now() + ROOT_POLL >= deadline {
                return None;
            }
            thread::sleep(ROOT_POLL);
        }
    }

    /// Counts the outcome of a file, and prints the reason if it failed.
    fn settle(&self, job: &Job, outcome: &Result<Outcome, String>) {
        count(&mut self.tally.lock(), job, outcome);
        if let Err(why) = outcome {
            let text = format!("{}: {why}", job.path());
            self.bar.suspend(|| say(PROGRAM, &text));
        }
    }
}

/// How the workers reach and rate the members.
impl Crew<'_> {
    /// Returns the connection to a member. A member that is absent now may be back a moment later,
    /// so the connection from the start serves as a fallback.
    fn peer(&self, id: PeerId) -> Option<Arc<dyn Peer>> {
        let mut met = self.members.iter().filter(|member| member.id == id);
        let met = || met.next().map(|member| Arc::clone(&member.peer));
        self.network.peer(id).or_else(met)
    }

    fn standing(&self, member: PeerId) -> Standing {
        self.queue.lock().standing(member)
    }

    /// Records that a member did not answer.
    fn silent(&self, member: PeerId, error: &Error) {
        let why = error.to_string();
        self.queue.lock().silent(member, why, Instant::now());
        self.changed.notify_all();
    }

    /// Records that a holder is absent.
    fn has_left(&self, holder: &Holder) {
        let (who, why) = (
            holder.member.name.to_string(),
            "it has left the network".into(),
        );
        self.silent(holder.member.id, &Error::Unreachable { who, why });
    }

    /// Records that a member answered.
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

/// Returns the parts left by earlier runs, by directory. A directory that cannot be read is
/// reported when it is used.
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
