//! Chooses the next task, and limits the workers that each class of work may occupy.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{KnownMember, MemberTable, State, WORKERS, WorkerTask};
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
const MAX_PER_CLASS: [usize; super::CLASSES] = [WORKERS, 6, 4, 3, 1, 4];

/// A suspect must answer its first hello within this time, and so must a member reported elsewhere.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Further hellos, to any member, may take as long as a new connection and an answer over it.
/// The one that failed has cost the old connection, and over a slow link its time is never
/// enough for both.
const REPROBE_DEADLINE: Duration = CONNECT_DEADLINE.saturating_add(PROBE_DEADLINE);

enum DueJob<'a> {
    Hello(PeerId),
    Dial(&'a Address, &'a Candidate),
}

impl KnownMember {
    /// Returns the class of its next hello; see [`MAX_PER_CLASS`].
    fn class(&self) -> usize {
        match self.state {
            State::Suspect if self.failures > 0 => 3,
            _ => 0,
        }
    }
}

impl Candidate {
    fn class(&self, address: &Address) -> usize {
        match (self.is_hearsay(), self.failures) {
            _ if address.as_reach().is_some() => 5,
            (false, 0) => 1,
            (true, 0) => 2,
            (false, _) => 3,
            (true, _) => 4,
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
        let busy = self.busy_tellers();
        // Among equals, addresses that the user named go first, then those of tellers with the
        // fewest dials under way: a teller of many dead addresses holds up only itself.
        let urgency = |class: usize, due: Instant, job: &DueJob<'_>| match job {
            DueJob::Hello(_) => (class, false, 0, due),
            DueJob::Dial(_, c) => {
                let load = |origin| busy.get(origin).copied().unwrap_or(0);
                let load = c.origins().iter().map(load).min().unwrap_or(0);
                (class, c.named.is_none() && class == 1, load, due)
            }
        };
        let (class, _, job) = self
            .jobs()
            .filter(|(_, due, _)| *due <= now)
            .min_by_key(|(class, due, job)| urgency(*class, *due, job))?;
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
        self.jobs()
            .map(|(_, due, _)| due)
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
                && !self.is_covered(address, candidate.belief)
        })
    }

    /// Returns all jobs that wait for their time, in the classes that have a free worker.
    fn jobs(&self) -> impl Iterator<Item = (usize, Instant, DueJob<'_>)> {
        let hellos = self.members.iter().filter_map(|(id, entry)| {
            let idle = entry.busy.is_none() && entry.address.is_some();
            idle.then(|| (entry.class(), entry.hello_due(), DueJob::Hello(*id)))
        });
        let dials = self.book.iter().filter_map(|(address, candidate)| {
            let due = self.book.due(candidate)?;
            let wanted = !self.is_covered(address, candidate.belief);
            wanted.then(|| {
                (
                    candidate.class(address),
                    due,
                    DueJob::Dial(address, candidate),
                )
            })
        });
        hellos
            .chain(dials)
            .filter(|(class, ..)| self.running[*class] < MAX_PER_CLASS[*class])
    }

    /// Returns the number of each teller's addresses being dialled.
    fn busy_tellers(&self) -> HashMap<AddressOrigin, usize> {
        let mut busy = HashMap::new();
        for (_, candidate) in self.book.iter().filter(|(_, c)| c.dialling.is_some()) {
            for origin in candidate.origins() {
                *busy.entry(*origin).or_default() += 1;
            }
        }
        busy
    }

    fn begin_hello(&mut self, id: PeerId, class: usize, now: Instant) -> Option<WorkerTask> {
        let refresh = self.refresh();
        let entry = self.members.get_mut(&id)?;
        self.running[class] += 1;
        entry.busy = Some(class);
        entry.said_hello(id, refresh, now);
        let within = match entry.state {
            State::Present if entry.doubted => PROBE_DEADLINE,
            State::Present if entry.failures == 0 => CALL_DEADLINE,
            State::Suspect | State::Unreached if entry.failures == 0 => PROBE_DEADLINE,
            _ => REPROBE_DEADLINE,
        };
        Some(WorkerTask::Hello {
            id,
            turn: entry.turn,
            within,
        })
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
