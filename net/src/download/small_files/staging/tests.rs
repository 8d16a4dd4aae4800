use proptest::prelude::*;

use super::readahead::{MIN_BATCH_BYTES, PAUSE, SECOND_WITHIN, SLOW};
use super::*;
use crate::model::Version;

type TestShelf = Staging<usize, u64>;

const MEMBER: PeerId = PeerId::from_bytes([1; 32]);

fn directory() -> RelPath {
    RelPath::new(b"d").unwrap()
}

fn file(number: usize, size: u64) -> SmallFile {
    SmallFile {
        path: RelPath::new(format!("d/{number:06}").as_bytes()).unwrap(),
        version: Version(number as u64),
        size,
        root: None,
    }
}

/// A directory of small files, a reader, and a member that answers at once or later.
struct Walker {
    staging: TestShelf,
    count: usize,
    size: u64,
    now: Instant,
    batches: Vec<Batch>,
    requests: usize,
    singles: usize,
    fetched: usize,
}

impl Walker {
    fn new(count: usize, size: u64) -> Self {
        Self {
            staging: Staging::default(),
            count,
            size,
            now: Instant::now(),
            batches: Vec::new(),
            requests: 0,
            singles: 0,
            fetched: 0,
        }
    }

    fn files(&self, from: usize, max: usize) -> Vec<SmallFile> {
        let end = self.count.min(from + max);
        (from..end).map(|number| file(number, self.size)).collect()
    }

    fn send(&mut self, batch: Option<Batch>) -> bool {
        let Some(batch) = batch else { return false };
        self.requests += 1;
        self.fetched += batch.files.len();
        self.batches.push(batch);
        true
    }

    /// Reads one file, as `Reader` does. Returns false if it takes a request of its own.
    fn read(&mut self, number: usize) -> bool {
        let key = file(number, self.size).key(MEMBER);
        match self.staging.find(&[key], number, self.now) {
            StagedFile::Here(_, run) | StagedFile::Coming(run) => {
                if let Some(next) = self.staging.next(run, self.now) {
                    let last: usize = String::from_utf8_lossy(&next.after.as_bytes()[2..])
                        .parse()
                        .unwrap();
                    let files = self.files(last + 1, next.max);
                    let batch = self.staging.go_on(run, &files, self.now);
                    self.send(batch);
                }
                true
            }
            StagedFile::Spoiled(..) => false,
            StagedFile::Nothing => {
                let walk = (&directory(), &file(number, self.size).path);
                let max = self.staging.miss(walk, MEMBER, self.now);
                let batch = max.and_then(|(max, _)| {
                    let files = self.files(number, max);
                    self.staging.begin(
                        (directory(), ReadingOrder::ByName),
                        MEMBER,
                        files,
                        number,
                        self.now,
                    )
                });
                let is_sent = self.send(batch);
                self.singles += usize::from(!is_sent);
                is_sent
            }
        }
    }

    /// Delivers all batches; returns the readers that waited.
    fn land(&mut self) -> Vec<usize> {
        let mut readers = Vec::new();
        for batch in std::mem::take(&mut self.batches) {
            let landed = batch
                .files
                .iter()
                .map(|file| FetchOutcome::Here(file.version.0));
            let replies = self.staging.land(&batch, landed.collect(), self.now);
            readers.extend(replies.into_iter().map(|(reader, _)| reader));
        }
        readers
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.staging.tidy(self.now);
    }
}

#[test]
fn a_lone_small_file_is_read_alone() {
    let mut walker = Walker::new(1000, 4096);
    assert!(!walker.read(0));
    walker.pass(SECOND_WITHIN);
    assert!(!walker.read(1));
    assert_eq!(walker.requests, 0);
}

#[test]
fn ordered_reader_fetches_nothing_twice() {
    let mut walker = Walker::new(10_000, 4096);
    for number in 0..10_000 {
        walker.read(number);
        walker.land();
    }
    assert_eq!((walker.singles, walker.fetched), (1, 9_999));
    assert!(walker.requests < 120, "{} requests", walker.requests);
    assert_eq!(walker.staging.bytes, 0);
}

#[test]
fn batches_stay_ahead_of_a_slow_reader() {
    let mut walker = Walker::new(1000, 4096);
    for number in 0..1000 {
        walker.read(number);
        walker.land();
        if number > 1 {
            let key = file(number, 4096).key(MEMBER);
            assert!(
                !walker.staging.files.contains_key(&key),
                "{number} was read"
            );
        }
    }
    assert_eq!(walker.singles, 1);
}

#[test]
fn distant_reader_gets_several_batches() {
    let mut walker = Walker::new(5000, 1000);
    let (mut rounds, mut number) = (0, 0);
    // All requested files arrive one round later; the reader reads on until it has to wait.
    while number < 5000 {
        while number < 5000 {
            let is_here = |walker: &Walker| {
                let key = file(number, 1000).key(MEMBER);
                let file = walker.staging.files.get(&key);
                file.is_some_and(|file| matches!(file.state, State::Here(_)))
            };
            let was_here = is_here(&walker);
            walker.read(number);
            number += 1;
            if !was_here {
                break;
            }
        }
        walker.land();
        rounds += 1;
    }
    assert!(rounds < 40, "{rounds} round trips");
}

#[test]
fn random_reads_cost_little_extra() {
    let mut walker = Walker::new(100_000, 4096);
    let mut number = 1;
    for _ in 0..1000 {
        number = (number * 48_271) % 99_991;
        walker.read(number);
        walker.land();
        walker.now += Duration::from_millis(1);
    }
    assert!(walker.fetched < 1000, "{} files", walker.fetched);
}

#[test]
fn unread_files_are_dropped_in_time() {
    let mut walker = Walker::new(1000, 4096);
    for number in 0..3 {
        walker.read(number);
        walker.land();
    }
    assert!(walker.staging.bytes > 0);
    walker.pass(KEPT);
    let staging = &walker.staging;
    assert_eq!(
        (staging.bytes, staging.files.len(), staging.runs.len()),
        (0, 0, 0)
    );
    assert!(staging.walks.is_empty());
}

#[test]
fn late_files_are_dropped_after_a_timeout() {
    let mut walker = Walker::new(1000, 4096);
    walker.read(0);
    assert!(walker.read(1));
    walker.now += PATIENCE;
    let (waiting, _) = walker.staging.tidy(walker.now);
    assert_eq!(waiting, [1]);
    assert!(walker.land().is_empty());
    assert_eq!((walker.staging.bytes, walker.staging.files.len()), (0, 0));
}

#[test]
fn failed_member_is_not_retried_at_once() {
    let mut walker = Walker::new(1000, 4096);
    walker.read(0);
    walker.read(1);
    let batch = walker.batches.remove(0);
    assert_eq!(walker.staging.fail(&batch, true, walker.now), [1]);
    assert!(!walker.read(2) && !walker.read(3));
    walker.now += PAUSE;
    walker.read(4);
    assert!(walker.read(5));
}

#[test]
fn spoiled_file_is_reported_once() {
    let mut walker = Walker::new(1000, 4096);
    walker.read(0);
    walker.read(1);
    let batch = walker.batches.remove(0);
    let wrong = || Error::WrongBytes { who: "x".into() };
    let landed = batch.files.iter().map(|_| FetchOutcome::Spoiled(wrong()));
    let replies = walker.staging.land(&batch, landed.collect(), walker.now);
    assert!(matches!(replies[..], [(1, FetchOutcome::Spoiled(_))]));
    let key = [file(2, 4096).key(MEMBER)];
    let found = walker.staging.find(&key, 2, walker.now);
    assert!(matches!(found, StagedFile::Spoiled(..)));
    let found = walker.staging.find(&key, 2, walker.now);
    assert!(matches!(found, StagedFile::Nothing));
}

#[test]
fn batches_shrink_for_a_slow_member() {
    let mut walker = Walker::new(10_000, 4096);
    let mut longest = usize::MAX;
    for number in 0..2000 {
        walker.read(number);
        if let Some(batch) = walker.batches.last() {
            longest = batch.files.len();
            walker.now += SLOW + Duration::from_millis(1);
        }
        walker.land();
    }
    assert!(
        longest <= MIN_BATCH_BYTES as usize / 4096,
        "{longest} files"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize),
    Land,
    Fail,
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..300_usize).prop_map(Step::Read),
        2 => Just(Step::Land),
        1 => Just(Step::Fail),
        1 => (0..6000_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens in whatever order: every waiting reader is notified in the end, the room is
    /// never exceeded, and the sums are right.
    #[test]
    fn waits_end_and_shelf_space_is_bounded(
        steps in prop::collection::vec(any_step(), 1..200),
        run_length in 1..40_usize,
        size in 1..60_000_u64,
    ) {
        let mut walker = Walker::new(400, size);
        let (mut waiting, mut told) = (0, 0);
        for step in steps {
            match step {
                Step::Read(from) => for number in from..from + run_length {
                    let key = file(number, size).key(MEMBER);
                    let was_here = matches!(
                        walker.staging.files.get(&key).map(|file| &file.state),
                        Some(State::Here(_))
                    );
                    let waits = walker.read(number) && !was_here;
                    waiting += usize::from(waits);
                },
                Step::Land => told += walker.land().len(),
                Step::Fail => if let Some(batch) = walker.batches.pop() {
                    told += walker.staging.fail(&batch, true, walker.now).len();
                },
                Step::Pass(millis) => {
                    walker.now += Duration::from_millis(millis);
                    told += walker.staging.tidy(walker.now).0.len();
                }
            }
            let staging = &walker.staging;
            prop_assert!(staging.bytes <= ROOM);
            prop_assert_eq!(staging.bytes, staging.files.values().map(|file| file.bytes).sum::<u64>());
            for (number, run) in &staging.runs {
                let ahead = staging.files.values().filter(|file| {
                    let has_reader = match &file.state {
                        State::Coming(readers) => !readers.is_empty(),
                        State::Here(_) => false,
                        State::Spoiled(_) => true,
                    };
                    file.run == *number && !has_reader
                });
                prop_assert_eq!(run.ahead, ahead.count());
            }
        }
        walker.now += KEPT;
        told += walker.staging.tidy(walker.now).0.len();
        prop_assert_eq!(waiting, told);
        prop_assert_eq!(walker.staging.bytes, 0);
        prop_assert!(walker.staging.files.is_empty() && walker.staging.runs.is_empty());
    }
}
