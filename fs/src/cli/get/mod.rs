//! `tinyp2p get`: download everything that matches, as the client of 2004 did.
//!
//! [`plan`] decides what to fetch from whom under which name, [`target`] keeps the directory safe,
//! [`fetch`] brings one file; a few of them run at once.

mod fetch;
mod plan;
mod target;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tinyp2p_net::client::Peer;
use tinyp2p_net::peers::Member;
use tinyp2p_net::types::{PeerId, RelPath};

use super::args::GetArgs;
use super::join::{self, Joined};
use super::password::Source;
use super::{Failure, print, search};
use fetch::Outcome;
use plan::Job;
use target::Target;

const PROGRAM: &str = "tinyp2p";

/// Files that are fetched at once: small ones wait for round trips more than for the line.
const AT_ONCE: usize = 4;

/// Joins, searches, downloads.
pub(super) fn run(source: Source, args: GetArgs) -> Result<(), Failure> {
    let target = Target::open(&args.directory)
        .map_err(|e| Failure::failed(format!("directory {}: {e}", args.directory.display())))?;
    let (network, pattern) = (&args.find.network, &args.find.pattern);
    join::as_guest(
        PROGRAM,
        network,
        args.find.peers,
        source,
        |joined, members| {
            let answers = search::ask(PROGRAM, &joined.node, pattern)?;
            let jobs = plan::jobs(answers.found, network.hidden);
            if jobs.is_empty() {
                return Err(search::nothing_matches(pattern));
            }
            let bar = progress_bar(&jobs);
            let tally = fetch_all(jobs, &target, joined, members, &bar);
            bar.finish_and_clear();
            print(tally.to_string().as_bytes())?;
            match tally.failed {
                0 => answers.missing.into_result(),
                // Each has been named, and the member with it.
                _ => Err(Failure::told(1)),
            }
        },
    )
}

/// Drawn on terminals only.
fn progress_bar(jobs: &[Job]) -> ProgressBar {
    let bar = ProgressBar::new(jobs.iter().map(|job| job.size).sum());
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
    failed: u64,
}

impl Tally {
    /// The files that there is an outcome for.
    fn done(&self) -> u64 {
        self.fetched + self.existed + self.failed
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
        match self.failed {
            0 => writeln!(f),
            failed => writeln!(f, ", {failed} failed; run the same command again to resume"),
        }
    }
}

fn fetch_all(
    jobs: Vec<Job>,
    target: &Target,
    joined: &Joined,
    members: &[Member],
    bar: &ProgressBar,
) -> Tally {
    let parts = parts(&jobs, target);
    let total = jobs.len();
    let jobs = Mutex::new(jobs.into_iter());
    let tally = Mutex::new(Tally::default());
    let find = |id| find(joined, members, id);
    let work = || {
        loop {
            let Some(job) = jobs.lock().next() else {
                return;
            };
            let done = tally.lock().done();
            bar.set_message(format!("{done} of {total}, {}", job.path()));
            let none = Vec::new();
            let parts = parts.get(&job.directory).unwrap_or(&none);
            let outcome = fetch::fetch(&job, target, parts, &find, bar);
            count(&mut tally.lock(), &job, &outcome);
            if let Err(why) = outcome {
                bar.suspend(|| eprintln!("{PROGRAM}: {}: {why}", job.path()));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    tally.into_inner()
}

fn count(tally: &mut Tally, job: &Job, outcome: &Result<Outcome, String>) {
    match outcome {
        Ok(Outcome::Fetched) => {
            tally.fetched += 1;
            tally.bytes += job.size;
        }
        Ok(Outcome::Existed) => tally.existed += 1,
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
    parts
}

/// A member that has left and returned has another connection than it had at first.
fn find(joined: &Joined, members: &[Member], id: PeerId) -> Option<Arc<dyn Peer>> {
    let present = joined.node.present();
    let member = present.iter().chain(members).find(|member| member.id == id);
    member.map(|member| Arc::clone(&member.peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_became_of_the_files() {
        let mut tally = Tally {
            fetched: 2,
            bytes: 2048,
            existed: 1,
            failed: 0,
        };
        assert_eq!(tally.to_string(), "2 fetched (2.00 KiB), 1 existed\n");
        tally.failed = 1;
        assert!(
            tally
                .to_string()
                .ends_with("1 existed, 1 failed; run the same command again to resume\n")
        );
    }
}
