//! Readers next to an owner who changes the files at random and is killed and restarted now and
//! then; and a model that says what the readers may get.
//!
//! Each file has a history of states. A state appends to the previous one, or replaces it. Readers
//! know which states a file had while they opened it. The bytes they read must begin one of these
//! states; they may continue with bytes that were appended to it. A read may fail only if the bytes
//! that the file was opened with were overwritten.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::harness::content::pattern;
use crate::harness::swarm::{Node, Swarm};

/// Duration of the test run.
const TIME: Duration = Duration::from_secs(45);

/// Number of files, each with a thread that changes it and others that read it.
const FILES: usize = 8;

/// Limit on the age of what a mount shows.
const FRESH: Duration = Duration::from_secs(2);

/// Interval at which the owner is killed and restarted.
const RESTARTS: Duration = Duration::from_secs(15);

/// Time after a restart during which the owner may seem away.
const BACK: Duration = Duration::from_secs(10);

/// Number of readers per file.
const READERS: usize = 2;

/// One file at the owner.
struct Modelled {
    share: PathBuf,
    /// Its number, and how often it was renamed.
    number: usize,
    renamed: usize,
    /// The last state of each run of appends: a file opened during a run has a beginning of it.
    runs: Vec<Vec<u8>>,
    /// When the last run began.
    since: Instant,
    /// The changes made, to help find the cause of a failure.
    done: Vec<(Instant, u64)>,
}

impl Modelled {
    fn path(&self) -> PathBuf {
        let directory = format!("{}-d{}", self.number, self.renamed / 2);
        self.share
            .join(directory)
            .join(format!("f{}", self.renamed % 2))
    }

    fn below_share(&self) -> PathBuf {
        let path = self.path();
        path.strip_prefix(&self.share).expect("below").to_owned()
    }

    fn content(&mut self) -> &mut Vec<u8> {
        self.runs.last_mut().expect("a state")
    }

    /// Replaces the bytes of the file from now on.
    fn begin_run(&mut self, content: Vec<u8>) {
        self.runs.push(content);
        self.since = Instant::now();
    }

    /// Makes one change to the file. Every state is in the history before anybody can read it.
    fn change(&mut self, chance: &mut Chance) {
        let (path, what) = (self.path(), chance.below(11));
        self.done.push((Instant::now(), what));
        match what {
            0 => {
                let mode = 0o600 + chance.below(2) as u32 * 0o44;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            }
            1 => {
                let link = self
                    .share
                    .join(format!(".link-{}-{}", self.number, chance.next()));
                fs::hard_link(&path, &link).expect("link");
                fs::remove_file(link).expect("unlink");
            }
            2 => touch(&path),
            3 => self.rename(self.renamed ^ 1),
            4 => {
                // To another directory, which is new, or through a new name of the directory.
                let before = path.parent().expect("a parent").to_owned();
                self.renamed += 2;
                let after = self.path();
                fs::rename(before, after.parent().expect("a parent")).expect("rename");
            }
            5..=7 => {
                let more = pattern(chance.next(), 8 * (1 + chance.below(5000)));
                self.content().extend_from_slice(&more);
                let mut file = File::options().append(true).open(&path).expect("open");
                file.write_all(&more).expect("append");
            }
            8 => {
                let content = self.new_content(chance);
                self.begin_run(content.clone());
                let new = self.share.join(format!(".new-{}", self.number));
                fs::write(&new, content).expect("write");
                fs::rename(new, path).expect("replace");
            }
            9 => {
                let length = self.content().len() / 2;
                let content = self.content()[..length].to_vec();
                self.begin_run(content);
                let file = File::options().write(true).open(&path).expect("open");
                file.set_len(length as u64).expect("truncate");
            }
            _ => {
                // In a single write, so that there is no intermediate state.
                let mut content = self.new_content(chance);
                let length = self.content().len();
                if content.len() < length {
                    content.resize(length, 0x5a);
                }
                self.begin_run(content.clone());
                let file = File::options().write(true).open(&path).expect("open");
                file.write_all_at(&content, 0).expect("write over");
            }
        }
    }

    fn rename(&mut self, renamed: usize) {
        let before = self.path();
        self.renamed = renamed;
        fs::rename(before, self.path()).expect("rename");
    }

    /// Describes the latest changes, and how long ago they were.
    fn history(&self) -> String {
        let lately = self.done.iter().rev().take(12);
        let lately = lately.map(|(at, what)| format!("{what} {:?} ago", at.elapsed()));
        lately.collect::<Vec<_>>().join(", ")
    }

    fn new_content(&self, chance: &mut Chance) -> Vec<u8> {
        pattern(chance.next(), 8 * (1000 + chance.below(250_000)))
    }
}

fn touch(path: &Path) {
    let file = File::options().write(true).open(path).expect("open");
    file.set_modified(SystemTime::now()).expect("touch");
}

/// Pseudo-random numbers, the same in each run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Counts of the readers' results.
#[derive(Default)]
struct Tally {
    whole: AtomicUsize,
    stale: AtomicUsize,
    absent: AtomicUsize,
    /// The time when the owner was last away.
    away: Mutex<Option<Instant>>,
}

impl Tally {
    /// Returns true if the owner was away so recently that its return may not be known yet.
    fn was_away(&self) -> bool {
        let away = *self.away.lock();
        away.is_some_and(|since| since.elapsed() < BACK)
    }
}

/// Opens a file and reads it to its end, slowly; panics if the model does not allow the result.
fn read_once(reader: &Node, file: &Mutex<Modelled>, chance: &mut Chance, tally: &Tally) {
    let (below, first_run, is_new) = {
        let file = file.lock();
        let is_new = file.runs.len() > 1 && file.since.elapsed() < FRESH;
        (file.below_share(), file.runs.len() - 1, is_new)
    };
    let opened = Instant::now();
    let mut open = match File::open(reader.mountpoint().join(&below)) {
        Ok(open) => open,
        // It was renamed, or replaced twice during the lookup, or its owner is away.
        Err(error) if is_absence(&error) || tally.was_away() => {
            tally.absent.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(20));
            return;
        }
        Err(error) => panic!("{}: {error} at open", below.display()),
    };
    let (mut read, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    let failure = loop {
        match open.read(&mut chunk) {
            Ok(0) => break None,
            Ok(count) => read.extend_from_slice(&chunk[..count]),
            Err(error) => break Some(error),
        }
        thread::sleep(Duration::from_millis(chance.below(40)));
    };
    let file = file.lock();
    let oldest = if is_new {
        first_run.saturating_sub(2)
    } else {
        first_run
    };
    let runs = &file.runs[oldest..];
    let begun = runs.iter().filter(|run| run.starts_with(&read));
    assert!(
        begun.count() > 0,
        "{}: a mixture of {} bytes, opened {:?} ago ({first_run}): {}; {}",
        below.display(),
        read.len(),
        opened.elapsed(),
        described(&file.runs, &read),
        file.history(),
    );
    match failure {
        None => {
            tally.whole.fetch_add(1, Ordering::SeqCst);
        }
        Some(error) => {
            let was_written_over = file.runs.len() > first_run + 1 || is_new;
            if tally.was_away() {
                // An owner that has just started does not know what it answered before.
                return;
            }
            // The kernel turns this into EIO for a reader that waits for a page requested
            // by another reader.
            let is_allowed = matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EIO));
            assert!(is_allowed, "{}: {error}", below.display());
            assert!(
                was_written_over,
                "{}: {error} after {} bytes, opened {:?} ago, though nothing was written over: {}",
                below.display(),
                read.len(),
                opened.elapsed(),
                file.history(),
            );
            tally.stale.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Describes which runs the bytes read match, to help find the cause of a failure.
fn described(runs: &[Vec<u8>], read: &[u8]) -> String {
    let common = |run: &Vec<u8>| run.iter().zip(read).take_while(|(a, b)| a == b).count();
    let alike = |run: &Vec<u8>| run.iter().zip(read).filter(|(a, b)| a == b).count();
    let runs = runs.iter().enumerate().rev().take(4);
    let told = runs.map(|(number, run)| {
        format!(
            "{number}: {} of {} bytes, {} alike",
            common(run),
            run.len(),
            alike(run)
        )
    });
    told.collect::<Vec<_>>().join(", ")
}

fn is_absence(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESTALE)
}

#[test]
fn readers_get_what_they_opened() {
    let swarm = Swarm::alone();
    let owner = swarm.node("owner");
    let files: Vec<Arc<Mutex<Modelled>>> = (0..FILES)
        .map(|number| {
            let mut file = Modelled {
                share: owner.share().to_owned(),
                number,
                renamed: 0,
                runs: Vec::new(),
                since: Instant::now(),
                done: Vec::new(),
            };
            let content = file.new_content(&mut Chance(number as u64));
            let path = file.path();
            fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
            fs::write(path, &content).expect("write");
            file.begin_run(content);
            Arc::new(Mutex::new(file))
        })
        .collect();
    let mut owner = owner.serve();
    let reader = Arc::new(
        swarm
            .node("reader")
            .option("--cache-size=0")
            .peer(&owner)
            .mount(),
    );
    let (tally, is_over) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let mut threads = Vec::new();
    for (seed, file) in (1000..).zip(&files) {
        let (file, is_over) = (Arc::clone(file), Arc::clone(&is_over));
        threads.push(thread::spawn(move || {
            let mut chance = Chance(seed);
            while !is_over.load(Ordering::SeqCst) {
                file.lock().change(&mut chance);
                // Now and then there is a pause long enough for a file to get its root.
                let pause = match chance.below(12) {
                    0 => 5000,
                    _ => 20 + chance.below(600),
                };
                thread::sleep(Duration::from_millis(pause));
            }
        }));
    }
    for (seed, file) in (2000..).zip(files.iter().flat_map(|file| [file; READERS])) {
        let (file, reader, tally) = (Arc::clone(file), Arc::clone(&reader), Arc::clone(&tally));
        let is_over = Arc::clone(&is_over);
        threads.push(thread::spawn(move || {
            let mut chance = Chance(seed);
            while !is_over.load(Ordering::SeqCst) {
                read_once(&reader, &file, &mut chance, &tally);
            }
        }));
    }
    let (until, mut restart_at) = (Instant::now() + TIME, Instant::now() + RESTARTS);
    while Instant::now() < until && !threads.iter().any(thread::JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(50));
        if Instant::now() >= restart_at {
            *tally.away.lock() = Some(Instant::now());
            owner.kill();
            owner.start();
            restart_at = Instant::now() + RESTARTS;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let outcomes: Vec<thread::Result<()>> =
        threads.into_iter().map(thread::JoinHandle::join).collect();
    assert!(
        outcomes.iter().all(Result::is_ok),
        "what the model does not allow has happened"
    );
    let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
    let (whole, stale, absent) = (
        count(&tally.whole),
        count(&tally.stale),
        count(&tally.absent),
    );
    println!("{whole} whole, {stale} stale, {absent} absent");
    assert!(
        whole > 200 && stale > 0,
        "{whole} whole, {stale} stale, {absent} absent"
    );
}
