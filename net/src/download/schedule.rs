//! Which holder of a file to ask next. Pure.
//!
//! Every holder has its own state: how fast it has been, whether it is resting after a failure,
//! whether it has been given up. Faster holders get more requests because they are free again
//! sooner. A slow one gets shorter requests, so that no reader waits long for it. One that lies or
//! has lost the file is not asked for it again.

use std::time::{Duration, Instant};

use super::holder::Delivery;
use crate::concurrency::backoff::Backoff;
use crate::error::Error;

/// Streams of one file from its only holder: while one copies, the other receives. More are no
/// faster, as measured.
const STREAMS_ALONE: usize = 2;

/// Streams of one file in all. Each takes a thread and a piece of memory.
const MAX_STREAMS: usize = 8;

/// The pauses before a failed holder is tried again.
const FAILURE_PAUSES: Backoff = Backoff {
    first: Duration::from_millis(200),
    cap: MAX_PAUSE,
};
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The pauses of an overtaken holder: each attempt costs a reader a moment.
const STALL_PAUSES: Backoff = Backoff {
    first: Duration::from_millis(1600),
    cap: Duration::from_secs(30),
};

/// A holder that breaks the protocol this often in one file is not asked for it again.
const MAX_STRIKES: u32 = 3;

/// Target duration of a request: short enough that other holders can help out, long enough that the
/// round trip does not matter.
const REQUEST_TIME: f64 = 0.5;

/// A holder whose answers start this late is far away. Nearby, even busy machines are faster.
const FAR: Duration = Duration::from_millis(5);

/// Streams to one holder far away. Each takes round trips to set up, and four whose requests end at
/// different times kept a 50 ms link as full as eight did.
const STREAMS_FAR: usize = 4;

/// How much to request from a source that may have nothing.
const TRIAL: u64 = 128 * 1024;

/// No request is shorter than this for slowness alone.
const MIN_REQUEST: u64 = 256 * 1024;

/// The holders of one file, by their index in the download's list.
pub(crate) struct Schedule {
    all: Vec<HolderState>,
    /// The first one is this node's own disk: as long as it delivers, no member is asked.
    first_is_local: bool,
    /// Whether to ask sources that may have nothing although others are known to have it.
    all_are_tried: bool,
}

#[derive(Default)]
struct HolderState {
    /// Not known to have anything until its first bytes are proven.
    is_doubtful: bool,
    /// Why the content is requested by its root: the named file has changed.
    moved: Option<Error>,
    streams: usize,
    /// Bytes per second, smoothed; `None` before the first measure.
    rate: Option<f64>,
    /// The shortest time in which an answer began: the round trip, without queueing. `None` before
    /// the first answer.
    distance: Option<Duration>,
    rest_until: Option<Instant>,
    failures: u32,
    stalls: u32,
    strikes: u32,
    lost: Option<Error>,
    /// Its last answer, if that says that it cannot deliver, for now at least.
    refusal: Option<Error>,
}

impl Schedule {
    /// Creates a schedule of `count` unmeasured holders, best first.
    pub(crate) fn new(count: usize, first_is_local: bool) -> Self {
        let all = (0..count).map(|_| HolderState::default()).collect();
        Self {
            all,
            first_is_local,
            all_are_tried: false,
        }
    }

    /// Records that `source` may have kept nothing, or only parts.
    pub(crate) fn doubt(&mut self, source: usize) {
        self.all[source].is_doubtful = true;
    }

    /// Records that the file named by `source` has changed or gone: its content is to be requested
    /// by its root.
    pub(crate) fn moved(&mut self, source: usize, why: &Error) {
        self.all[source].moved.get_or_insert_with(|| why.clone());
    }

    /// Returns true if the content of `source` is to be requested by its root.
    pub(crate) fn has_moved(&self, source: usize) -> bool {
        self.all[source].moved.is_some()
    }

    /// Sets whether to ask sources that may have nothing. When no other source is left, they are
    /// asked in any case.
    pub(crate) fn try_all(&mut self, all: bool) {
        self.all_are_tried = all;
    }

    /// Returns true if a request to `source` is a trial that nobody should wait for.
    pub(crate) fn is_trial(&self, source: usize, now: Instant) -> bool {
        self.all[source].is_untried() && self.has_sure_one(now)
    }

    fn has_sure_one(&self, now: Instant) -> bool {
        let mut all = self.all.iter();
        all.any(|source| !source.is_untried() && source.is_usable(now))
    }

    /// Takes over what is already known of the distance to `source`.
    pub(crate) fn locate(&mut self, source: usize, distance: Option<Duration>) {
        let nearer = |known: &Duration| distance.is_none_or(|distance| *known < distance);
        let this = &mut self.all[source];
        this.distance = this.distance.filter(nearer).or(distance);
    }

    /// Returns the holders that may take one more stream, best first: those known to have the
    /// content before those that may have nothing, then those with the fewest streams, and of those
    /// the fastest. A holder that was never measured counts as fast, so that all get a try.
    pub(crate) fn candidates(&self, now: Instant) -> Vec<usize> {
        let rate = |index: usize| self.all[index].rate.unwrap_or(f64::INFINITY);
        let trial = |index: usize| self.all[index].is_untried();
        let with_room = (0..self.all.len()).filter(|index| self.has_room(*index, now));
        let mut candidates: Vec<usize> = with_room.collect();
        candidates.sort_by(|a, b| {
            let by_streams = self.all[*a].streams.cmp(&self.all[*b].streams);
            let by_doubt = trial(*a).cmp(&trial(*b));
            by_doubt
                .then(by_streams)
                .then(rate(*b).total_cmp(&rate(*a)))
        });
        candidates
    }

    /// Returns how long a request to `source` should be when the window suggests `longest`.
    pub(crate) fn request_bytes(&self, source: usize, longest: u64) -> u64 {
        match self.all[source].rate {
            None if self.all[source].is_doubtful => TRIAL.min(longest),
            Some(rate) => ((rate * REQUEST_TIME) as u64).clamp(MIN_REQUEST.min(longest), longest),
            None => longest,
        }
    }

    /// Records that a stream to `source` begins.
    pub(crate) fn begin(&mut self, source: usize) {
        self.all[source].streams += 1;
    }

    /// Records that a stream to `source` ended, with any outcome.
    pub(crate) fn end(&mut self, source: usize) {
        self.all[source].streams -= 1;
    }

    /// Returns true if `source` may take one more stream.
    pub(crate) fn has_room(&self, source: usize, now: Instant) -> bool {
        let running: usize = self.all.iter().map(|source| source.streams).sum();
        let this = &self.all[source];
        self.usable(source, now)
            && this.streams < self.streams_each(source, now)
            && running < MAX_STREAMS
    }

    /// Returns how many streams `source` should have. The farther away it is, the more
    /// requests are under way at once, so that the link carries bytes while each of them waits
    /// for its first byte.
    fn streams_each(&self, source: usize, now: Instant) -> usize {
        if self.all[source].is_untried() {
            return 1;
        }
        let tried = |source: &usize| !self.all[*source].is_untried() && self.usable(*source, now);
        let alone = (0..self.all.len()).filter(tried).count() <= 1;
        let least = if alone { STREAMS_ALONE } else { 1 };
        let distance = self.all[source].distance.unwrap_or_default();
        let more = distance.as_micros() / FAR.as_micros();
        least.saturating_add(more as usize).min(STREAMS_FAR)
    }

    /// Returns how many streams there should be in all, and whether the nearest holder is far away.
    pub(crate) fn shape(&self, now: Instant) -> (usize, bool) {
        let usable = || (0..self.all.len()).filter(|source| self.usable(*source, now));
        let streams = usable().map(|source| self.streams_each(source, now)).sum();
        let nearest = usable().map(|source| self.all[source].distance).min();
        let is_far = nearest.flatten().is_some_and(|distance| distance >= FAR);
        (MAX_STREAMS.min(streams), is_far)
    }

    /// Records that a stream to `source` ended well.
    pub(crate) fn delivered(&mut self, source: usize, delivery: Delivery) {
        // Nothing came over the network, so nothing was measured.
        if delivery.bytes == 0 {
            return;
        }
        self.locate(source, Some(delivery.waited));
        let source = &mut self.all[source];
        let seconds = delivery.elapsed.as_secs_f64().max(1e-6);
        let rate = delivery.bytes as f64 / seconds;
        source.rate = Some(source.rate.map_or(rate, |old| 0.7 * old + 0.3 * rate));
        source.failures = 0;
        source.refusal = None;
        source.rest_until = None;
    }

    /// Returns why `source` does not deliver, if it has answered with a reason.
    pub(crate) fn refusal(&self, source: usize) -> Option<&Error> {
        let source = &self.all[source];
        source.lost.as_ref().or(source.refusal.as_ref())
    }

    /// Records that `source` failed: it rests, or is given up if the failure is permanent.
    pub(crate) fn failed(&mut self, source: usize, error: &Error, now: Instant) {
        let source = &mut self.all[source];
        // The holder is available at its new address; it has not failed.
        if matches!(error, Error::Moved { .. }) {
            source.rest_until = None;
            return;
        }
        if matches!(error, Error::Misbehaved { .. }) {
            source.strikes += 1;
        }
        // One that had some part may have another.
        let may_have_more = source.is_doubtful && source.rate.is_some();
        let lost = match error {
            Error::NotFound { .. } => !may_have_more,
            Error::Changed { .. } | Error::WrongBytes { .. } | Error::Forbidden { .. } => true,
            _ => false,
        };
        if lost || source.strikes >= MAX_STRIKES {
            let is_absence = matches!(error, Error::NotFound { .. });
            let moved = source.moved.clone().filter(|_| is_absence);
            source.lost = Some(moved.unwrap_or_else(|| error.clone()));
        }
        // A member that has failed to read one file is there, and may read others.
        source.refusal = (!error.is_absence()).then(|| error.clone());
        source.failures += 1;
        source.rest_until = Some(now + FAILURE_PAUSES.full(source.failures));
    }

    /// Records that `source` stalled while a reader waited: it rests, so that others go first.
    pub(crate) fn stalled(&mut self, source: usize, now: Instant) {
        let source = &mut self.all[source];
        source.rate = source.rate.map(|rate| rate / 4.0);
        source.stalls += 1;
        source.rest_until = Some(now + STALL_PAUSES.full(source.stalls));
    }

    /// Returns why no holder will ever deliver: the first one's reason, once all are given up.
    pub(crate) fn all_lost(&self) -> Option<Error> {
        let all = self.all.iter().all(|source| source.lost.is_some());
        self.all
            .first()
            .filter(|_| all)
            .and_then(|source| source.lost.clone())
    }

    /// Returns true if, with `source` resting, another holder could be asked, even on trial.
    pub(crate) fn alternative(&self, source: usize, now: Instant) -> bool {
        let mut others = (0..self.all.len()).filter(|other| *other != source);
        others.any(|other| self.all[other].is_usable(now) && !self.is_behind_local(other, now))
    }

    /// Returns how well `source` can be asked for leaves, lower being better; `None` when it
    /// cannot. One that sent wrong bytes still can: leaves carry their own proof.
    pub(crate) fn tells(&self, source: usize, now: Instant) -> Option<u8> {
        let this = &self.all[source];
        match &this.lost {
            Some(Error::WrongBytes { .. }) => Some(1),
            _ => this.is_usable(now).then_some(0),
        }
    }

    fn usable(&self, source: usize, now: Instant) -> bool {
        self.all[source].is_usable(now)
            && !self.is_behind_local(source, now)
            && self.may_be_tried(source, now)
    }

    fn is_behind_local(&self, source: usize, now: Instant) -> bool {
        self.first_is_local && source > 0 && self.all[0].is_usable(now)
    }

    /// Allows one trial at a time, and none for a reader that others serve and that needs few.
    fn may_be_tried(&self, source: usize, now: Instant) -> bool {
        let this = &self.all[source];
        // An overtaken holder rests, though its stream may still run.
        let under_way =
            |other: &HolderState| other.is_untried() && other.streams > 0 && other.is_usable(now);
        !this.is_untried()
            || this.streams > 0
            || (self.all_are_tried || !self.has_sure_one(now)) && !self.all.iter().any(under_way)
    }
}

impl HolderState {
    fn is_untried(&self) -> bool {
        self.is_doubtful && self.rate.is_none()
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.lost.is_none() && self.rest_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(bytes: u64, waited: u64, elapsed: u64) -> Delivery {
        Delivery {
            bytes,
            waited: Duration::from_millis(waited),
            elapsed: Duration::from_millis(elapsed),
        }
    }

    fn first(sources: &Schedule, now: Instant) -> Option<usize> {
        sources.candidates(now).first().copied()
    }

    fn timeout() -> Error {
        Error::Timeout { who: "x".into() }
    }

    #[test]
    fn holders_get_one_stream_before_a_second() {
        let (mut sources, now) = (Schedule::new(3, false), Instant::now());
        let mut asked = Vec::new();
        while let Some(source) = sources.candidates(now).first().copied() {
            sources.begin(source);
            asked.push(source);
        }
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2]);
    }

    #[test]
    fn sole_remaining_holder_gets_two_streams() {
        let (mut sources, now) = (Schedule::new(2, false), Instant::now());
        sources.failed(0, &timeout(), now);
        for _ in 0..2 {
            assert_eq!(sources.candidates(now).first().copied(), Some(1));
            sources.begin(1);
        }
        assert_eq!(sources.candidates(now).first().copied(), None);
        assert_eq!(first(&sources, now + Duration::from_millis(201)), Some(0));
    }

    #[test]
    fn others_are_asked_once_own_disk_lost_it() {
        let (mut sources, now) = (Schedule::new(3, true), Instant::now());
        sources.begin(0);
        sources.begin(0);
        assert_eq!(sources.candidates(now).first().copied(), None);
        sources.failed(0, &Error::Changed { who: "me".into() }, now);
        assert_eq!(sources.candidates(now).first().copied(), Some(1));
    }

    #[test]
    fn moved_file_is_tried_by_root_first() {
        let (mut sources, now) = (Schedule::new(1, false), Instant::now());
        sources.moved(0, &Error::Changed { who: "x".into() });
        assert!(sources.has_moved(0));
        assert_eq!(
            (first(&sources, now), sources.all_lost().is_none()),
            (Some(0), true)
        );
        sources.failed(0, &Error::NotFound { who: "x".into() }, now);
        assert!(matches!(sources.all_lost(), Some(Error::Changed { .. })));
    }

    #[test]
    fn doubtful_sources_are_tried_one_by_one() {
        let (mut sources, now) = (Schedule::new(4, false), Instant::now());
        for source in 1..4 {
            sources.doubt(source);
        }
        let ask = |sources: &mut Schedule| {
            let asked: Vec<usize> = std::iter::from_fn(|| {
                let source = sources.candidates(now).first().copied()?;
                sources.begin(source);
                Some(source)
            })
            .collect();
            asked
        };
        assert_eq!(ask(&mut sources), [0, 0]);
        sources.try_all(true);
        assert_eq!(ask(&mut sources), [1]);
        assert!(sources.is_trial(1, now));
        assert_eq!(sources.request_bytes(1, 4 << 20), TRIAL);
        sources.end(1);
        sources.failed(1, &Error::NotFound { who: "x".into() }, now);
        assert_eq!(ask(&mut sources), [2]);
        sources.end(2);
        sources.delivered(2, delivery(TRIAL, 1, 100));
        assert_eq!(ask(&mut sources), [2, 3]);
    }

    #[test]
    fn doubtful_sources_are_the_last_resort() {
        let (mut sources, now) = (Schedule::new(2, false), Instant::now());
        sources.doubt(1);
        sources.failed(0, &timeout(), now);
        assert_eq!(sources.candidates(now).first().copied(), Some(1));
        assert!(!sources.is_trial(1, now));
        sources.delivered(1, delivery(TRIAL, 1, 100));
        sources.failed(1, &Error::NotFound { who: "x".into() }, now);
        assert!(sources.all_lost().is_none());
        assert_eq!(first(&sources, now + MAX_PAUSE), Some(0));
    }

    #[test]
    fn stalled_trial_blocks_no_other_trials() {
        let (mut sources, now) = (Schedule::new(3, false), Instant::now());
        sources.doubt(1);
        sources.doubt(2);
        sources.failed(0, &Error::Changed { who: "x".into() }, now);
        assert_eq!(sources.candidates(now), [1, 2]);
        sources.begin(1);
        assert!(!sources.candidates(now).contains(&2));
        assert!(sources.alternative(1, now));
        sources.stalled(1, now);
        assert_eq!(sources.candidates(now), [2]);
    }

    #[test]
    fn stalled_holder_is_backed_by_a_trial() {
        let (mut sources, now) = (Schedule::new(2, false), Instant::now());
        sources.doubt(1);
        sources.begin(0);
        assert!(sources.alternative(0, now));
        sources.stalled(0, now);
        assert_eq!(sources.candidates(now), [1]);
    }

    #[test]
    fn slow_holders_get_short_late_requests() {
        let (mut sources, now) = (Schedule::new(2, false), Instant::now());
        sources.delivered(0, delivery(500_000, 0, 1000));
        sources.delivered(1, delivery(50_000_000, 0, 1000));
        assert_eq!(sources.candidates(now).first().copied(), Some(1));
        assert_eq!(sources.request_bytes(0, 4 << 20), MIN_REQUEST);
        assert_eq!(sources.request_bytes(1, 4 << 20), 4 << 20);
    }

    #[test]
    fn distant_holder_gets_more_streams() {
        let (mut sources, now) = (Schedule::new(1, false), Instant::now());
        sources.delivered(0, delivery(4 << 20, 150, 175));
        sources.delivered(0, delivery(4 << 20, 20, 45));
        assert_eq!(sources.shape(now), (STREAMS_FAR, true));
        let mut streams = 0;
        while !sources.candidates(now).is_empty() {
            sources.begin(0);
            streams += 1;
        }
        assert_eq!(streams, STREAMS_FAR);
    }

    #[test]
    fn near_holder_keeps_a_file_from_being_far() {
        let (mut sources, now) = (Schedule::new(2, false), Instant::now());
        sources.delivered(0, delivery(4 << 20, 50, 75));
        sources.delivered(1, delivery(4 << 20, 1, 75));
        assert_eq!(sources.shape(now), (STREAMS_FAR + 1, false));
    }

    #[test]
    fn backoff_is_bounded_and_ends_with_a_byte() {
        let (mut sources, now) = (Schedule::new(1, false), Instant::now());
        for _ in 0..20 {
            sources.failed(0, &timeout(), now);
        }
        assert_eq!(
            first(&sources, now + MAX_PAUSE - Duration::from_millis(1)),
            None
        );
        assert_eq!(first(&sources, now + MAX_PAUSE), Some(0));
        sources.delivered(0, delivery(1, 0, 1000));
        assert_eq!(sources.candidates(now).first().copied(), Some(0));
    }

    #[test]
    fn file_is_lost_once_every_holder_lost_it() {
        let (mut sources, now) = (Schedule::new(2, false), Instant::now());
        sources.failed(0, &Error::Changed { who: "a".into() }, now);
        assert!(sources.all_lost().is_none());
        sources.failed(1, &Error::WrongBytes { who: "b".into() }, now);
        assert!(matches!(sources.all_lost(), Some(Error::Changed { .. })));
        assert_eq!(first(&sources, now + MAX_PAUSE), None);
    }
}
