//! Lets one caller ask, while others that want the same answer wait for it.
//!
//! Nobody waits forever: each waits until its own deadline, and if the caller that asks panics, the
//! next waiting one asks in its place. Different keys do not wait for each other, except for the
//! limit on keys in flight. No lock is held while somebody asks.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Answers of type `T` in flight, each under its key.
pub struct SingleFlight<K: Hash + Eq, T> {
    max_flights: usize,
    flights: Mutex<HashMap<K, Arc<Flight<Option<T>>>>>,
    landed: Condvar,
}

impl<K: Hash + Eq + Clone, T: Clone> SingleFlight<K, T> {
    /// Allows at most `max_flights` keys in flight at once; callers for another key wait.
    pub fn new(max_flights: usize) -> Self {
        Self {
            max_flights,
            flights: Mutex::default(),
            landed: Condvar::new(),
        }
    }

    /// Returns the answer to `key`: the result of `ask`, or of another caller that is already
    /// asking. Returns `None` if there is none by `deadline`.
    pub fn run(&self, key: &K, deadline: Instant, ask: impl FnOnce() -> T) -> Option<T> {
        let mut flights = self.flights.lock();
        loop {
            if let Some(flight) = flights.get(key).cloned() {
                drop(flights);
                if let Some(answer) = flight.wait(deadline)? {
                    return Some(answer);
                }
                // The caller that asked has panicked.
                flights = self.flights.lock();
            } else if flights.len() < self.max_flights {
                break;
            } else if self.landed.wait_until(&mut flights, deadline).timed_out() {
                return None;
            }
        }
        let flight = Arc::new(Flight::default());
        flights.insert(key.clone(), Arc::clone(&flight));
        drop(flights);
        let mut landing = Landing {
            of: self,
            key,
            flight,
            answer: None,
        };
        landing.answer = Some(ask());
        landing.answer.clone()
    }
}

/// Ends a flight when dropped, even by a panic.
struct Landing<'a, K: Hash + Eq, T> {
    of: &'a SingleFlight<K, T>,
    key: &'a K,
    flight: Arc<Flight<Option<T>>>,
    answer: Option<T>,
}

impl<K: Hash + Eq, T> Drop for Landing<'_, K, T> {
    fn drop(&mut self) {
        self.of.flights.lock().remove(self.key);
        self.flight.land(self.answer.take());
        self.of.landed.notify_all();
    }
}

/// One answer in flight, for all who wait for it.
pub(crate) struct Flight<T> {
    answer: Mutex<Option<T>>,
    landed: Condvar,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self {
            answer: Mutex::new(None),
            landed: Condvar::new(),
        }
    }
}

impl<T> Flight<T> {
    /// Gives the answer to every waiting caller.
    pub(crate) fn land(&self, answer: T) {
        *self.answer.lock() = Some(answer);
        self.landed.notify_all();
    }

    /// Waits for the answer; `None` if it has not come by `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<T>
    where
        T: Clone,
    {
        let mut answer = self.answer.lock();
        let is_under_way = |answer: &mut Option<T>| answer.is_none();
        self.landed
            .wait_while_until(&mut answer, is_under_way, deadline);
        answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::testing::eventually;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// Returns how many wait for the answer to `key`, besides the map and the one who asks.
    fn waiting<T>(flights: &SingleFlight<&'static str, T>) -> usize {
        let flights = flights.flights.lock();
        flights
            .get("key")
            .map_or(0, |flight| Arc::strong_count(flight) - 2)
    }

    #[test]
    fn those_who_wait_get_the_same_answer() {
        let flights = SingleFlight::new(usize::MAX);
        let (go_on, may_go_on) = channel();
        thread::scope(|scope| {
            let (begun, has_begun) = channel();
            let first = scope.spawn(|| {
                flights.run(&"key", soon(), move || {
                    begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    1
                })
            });
            has_begun.recv().unwrap();
            let second = scope.spawn(|| flights.run(&"key", soon(), || 2));
            eventually("all others wait", || waiting(&flights) == 1);
            go_on.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Some(1));
            assert_eq!(second.join().unwrap(), Some(1));
        });
        assert_eq!(flights.run(&"key", soon(), || 3), Some(3));
    }

    #[test]
    fn a_panic_lets_the_next_one_ask() {
        let flights = SingleFlight::new(1);
        let (begun, has_begun) = channel();
        thread::scope(|scope| {
            let flights = &flights;
            scope.spawn(move || {
                let ask = || -> u8 {
                    begun.send(()).unwrap();
                    eventually("all others wait", || waiting(flights) == 4);
                    panic!("of the one who asks")
                };
                let outcome = catch_unwind(AssertUnwindSafe(|| flights.run(&"key", soon(), ask)));
                assert!(outcome.is_err());
            });
            has_begun.recv().unwrap();
            let others = [(); 4].map(|()| scope.spawn(|| flights.run(&"key", soon(), || 2)));
            for other in others {
                assert_eq!(other.join().unwrap(), Some(2));
            }
        });
    }

    #[test]
    fn waiter_gives_up_at_its_own_deadline() {
        let flights = SingleFlight::new(1);
        let late = || Instant::now() + Duration::from_millis(5);
        let outcome = flights.run(&"key", soon(), || {
            assert_eq!(flights.run(&"key", late(), || 1), None);
            assert_eq!(
                flights.run(&"other", late(), || 1),
                None,
                "there is a bound"
            );
            2
        });
        assert_eq!(outcome, Some(2));
    }

    #[test]
    fn two_keys_do_not_wait_for_each_other() {
        let flights = SingleFlight::new(2);
        let both = Barrier::new(2);
        thread::scope(|scope| {
            for key in ["a", "b"] {
                let (flights, both) = (&flights, &both);
                scope.spawn(move || flights.run(&key, soon(), || both.wait().is_leader()));
            }
        });
    }

    #[test]
    fn an_end_makes_room_for_the_next_key() {
        let flights = SingleFlight::new(1);
        thread::scope(|scope| {
            let runs = [1, 2, 3].map(|key| {
                scope.spawn({
                    let flights = &flights;
                    move || flights.run(&key, soon(), || key)
                })
            });
            let answers = runs.map(|run| run.join().unwrap());
            assert_eq!(answers, [Some(1), Some(2), Some(3)]);
        });
    }
}
