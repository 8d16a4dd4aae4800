//! Chooses the next task, and limits the workers that each class of work may occupy.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{CLASSES, KnownMember, MemberTable, State, WORKERS, WorkerTask};
use crate::concurrency::backoff::spread;
use crate::config::{CALL_DEADLINE, CONNECT_DEADLINE};
use crate::membership::candidate::{AddressOrigin, Candidate};
use crate::model::{Address, PeerId};

/// The number of workers each class of work may occupy: 0 hellos to present members; first tries of
/// addresses 1 that the user or the member itself gave, 2 of hearsay; further tries 3 of the
/// former, with probes of suspects, and 4 of the latter; 5 all tries through NATs, which may take
/// longer. All but the first leave some workers free,
/// and none can starve another: addresses that swallow packets, and members that report many of
/// them, delay only their own class.
const MAX_PER_CLASS: [usize; CLASSES] = [WORKERS, 6, 4, 3, 1, 4];

/// A suspect must answer its first hello within this time, and so must a member reported elsewhere.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Further hellos, to any member, may take as long as a new connection and an answer over it.
/// The one that failed has cost the old connection, and over a slow link its time is never
/// enough for both.
const REPROBE_DEADLINE: Duration = CONNECT_DEADLINE.saturating_add(PROBE_DEADLINE);

/// What is least goes first: whether it can wait for named addresses, how many dials its teller has
/// under way, and when it is due.
type Urgency = (bool, usize, Instant);

enum DueJob<'a> {
    Hello(PeerId),
    Dial(&'a Address, &'a Candidate),
}

impl KnownMember {
    /// Returns the class of its next hello; see [`MAX_PER_CLASS`].
    pub(super) fn class(&self) -> usize {
        match self.state {
            State::Suspect if self.failures > 0 => 3,
            _ => 0,
        }
    }
}

impl MemberTable {
    /// Returns the next task; `None` when nothing is due or all workers of the due
    /// classes are busy.
    pub(crate) fn next(&mut self, now: Instant) -> Option<WorkerTask> {
        self.sweep(now);
        self.spread_news(now);
        if self.save_due.is_some_and(|due| due <= now) {
            self.save_due = None;
            return Some(WorkerTask::Save);
        }
        let (class, job) = self.most_urgent(now)?;
        match job {
            DueJob::Hello(id) => self.begin_hello(id, class, now),
            DueJob::Dial(address, candidate) => {
                let task = WorkerTask::Dial {
                    address: address.clone(),
                    expected: candidate.expected(),
                    source: candidate.source(),
                };
                let address = address.clone();
                self.running[class] += 1;
                self.book.begin(&address, class, now);
                Some(task)
            }
        }
    }

    /// Returns when [`MemberTable::next`] will have a task, unless a worker becomes free or
    /// something changes first.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let first = |class| {
            let dial = self.book.waiting(class).map(|(due, ..)| due).next();
            let hello = self.members.first_hello(class).map(|(due, _)| due);
            dial.into_iter().chain(hello).min()
        };
        self.free_classes()
            .filter_map(first)
            .chain(self.save_due)
            .chain(self.news_due)
            .min()
    }

    /// Returns true while the first try of some address is under way, or begins by `deadline`, and
    /// may lead to a member that the user named or members know, and that this node has not met.
    pub(crate) fn is_getting_acquainted(&self, deadline: Instant) -> bool {
        self.book.iter().any(|(address, candidate)| {
            let due = self.book.due(candidate);
            candidate.awaits_first_try()
                && due.is_none_or(|due| due <= deadline)
                && !self.book.is_covered(address, candidate)
        })
    }

    /// Returns the classes of work that have a free worker, the most urgent first.
    fn free_classes(&self) -> impl Iterator<Item = usize> {
        let classes = 0..CLASSES;
        classes.filter(|class| self.running[*class] < MAX_PER_CLASS[*class])
    }

    /// Returns what to do now, and its class.
    fn most_urgent(&self, now: Instant) -> Option<(usize, DueJob<'_>)> {
        self.free_classes().find_map(|class| {
            let hello = self.members.first_hello(class);
            let hello = hello.filter(|(due, _)| *due <= now);
            let hello = hello.map(|(due, id)| ((false, 0, due), DueJob::Hello(id)));
            let urgent = hello.into_iter().chain(self.most_urgent_dial(class, now));
            let (_, job) = urgent.min_by_key(|(urgency, _)| *urgency)?;
            Some((class, job))
        })
    }

    /// Returns the dial of `class` to make now. Among equals, addresses that the user named go
    /// first, then those of tellers with the fewest dials under way: a teller of many dead
    /// addresses holds up only itself.
    fn most_urgent_dial(&self, class: usize, now: Instant) -> Option<(Urgency, DueJob<'_>)> {
        let due = self.book.waiting(class);
        let mut due = due.take_while(|(due, ..)| *due <= now).peekable();
        due.peek()?;
        let busy = self.busy_tellers();
        let urgency = |due: Instant, candidate: &Candidate| {
            let load = |origin| busy.get(origin).copied().unwrap_or(0);
            let load = candidate.origins().iter().map(load).min().unwrap_or(0);
            (candidate.named.is_none() && class == 1, load, due)
        };
        due.map(|(due, address, candidate)| {
            let job = DueJob::Dial(address, candidate);
            (urgency(due, candidate), job)
        })
        .min_by_key(|(urgency, _)| *urgency)
    }

    /// Returns the number of each teller's addresses being dialled.
    fn busy_tellers(&self) -> HashMap<AddressOrigin, usize> {
        let mut busy = HashMap::new();
        for candidate in self.book.under_way() {
            for origin in candidate.origins() {
                *busy.entry(*origin).or_default() += 1;
            }
        }
        busy
    }

    fn begin_hello(&mut self, id: PeerId, class: usize, now: Instant) -> Option<WorkerTask> {
        let refresh = self.members.refresh();
        let task = self.change(id, |entry| {
            entry.busy = Some(class);
            entry.said_hello(id, refresh, now);
            let within = match entry.state {
                State::Present if entry.doubted => PROBE_DEADLINE,
                State::Present if entry.failures == 0 => CALL_DEADLINE,
                State::Suspect | State::Unreached if entry.failures == 0 => PROBE_DEADLINE,
                _ => REPROBE_DEADLINE,
            };
            let turn = entry.turn;
            WorkerTask::Hello { id, turn, within }
        })?;
        self.running[class] += 1;
        Some(task)
    }
}

impl KnownMember {
    /// Notes that a hello goes out to `id` now, and schedules the next one after about `refresh`.
    pub(super) fn said_hello(&mut self, id: PeerId, refresh: Duration, now: Instant) {
        self.told = self.last_hello.replace(now);
        self.urgent_due = None;
        self.refresh_due = now + spread(refresh, &id);
    }
}
