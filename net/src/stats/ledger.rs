//! What came from each member: how many bytes, how fast, and for which files they were wrong. Stays
//! within its limits, whoever joins and whatever they send.
//!
//! The engine writes here once per piece, `status` reads. The lock is held for a look-up only.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use parking_lot::Mutex;

use crate::model::{PeerId, RelPath};
use crate::protocol::wire::Hello;

/// As many as a network may have. Beyond that, the member that was idle for longest makes room.
const MEMBERS: usize = Hello::MAX_MEMBERS;

/// Files that one member is blamed for by name; wrong bytes of further files are only counted.
const FILES_PER_MEMBER: usize = 64;

/// The limit for all members together. A path may have 4095 bytes.
const FILES: usize = 1024;

/// The ledger of a node.
pub struct Ledger {
    begun: Instant,
    accounts: Mutex<Accounts>,
}

/// What came from one member.
#[derive(Clone, Default, Debug)]
pub struct Account {
    /// Bytes of files, not counting wrong ones.
    pub received: u64,
    /// Pieces of files that had wrong bytes and were dropped.
    pub refused: u64,
    /// The files that the wrong bytes were sent for, and how often.
    pub blamed: BTreeMap<RelPath, u64>,
    pace: RateWindow,
}

/// What came from everybody.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Counted as [`Account::received`].
    pub received: u64,
    /// Counted as [`Account::refused`].
    pub refused: u64,
}

#[derive(Default)]
struct Accounts {
    of: HashMap<PeerId, Account>,
    /// Files in all accounts.
    files: usize,
    totals: Totals,
}

/// Bytes in the current second and in the one before.
#[derive(Clone, Copy, Default, Debug)]
struct RateWindow {
    second: u64,
    now: u64,
    before: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            accounts: Mutex::default(),
        }
    }
}

impl Ledger {
    /// Records that `bytes` of a file came from `member`.
    pub(crate) fn received(&self, member: PeerId, bytes: u64) {
        let second = self.begun.elapsed().as_secs();
        self.accounts.lock().received(member, bytes, second);
    }

    /// Records that a piece of `path` that `member` sent had wrong bytes.
    pub(crate) fn blame(&self, member: PeerId, path: &RelPath) {
        let second = self.begun.elapsed().as_secs();
        self.accounts.lock().blame(member, path, second);
    }

    /// Returns [`Account::received`] of `member`.
    pub fn received_from(&self, member: PeerId) -> u64 {
        let accounts = self.accounts.lock();
        accounts
            .of
            .get(&member)
            .map_or(0, |account| account.received)
    }

    /// Returns all accounts, each with its bytes of the last whole second, and the totals.
    pub(crate) fn read(&self) -> (HashMap<PeerId, (Account, u64)>, Totals) {
        let second = self.begun.elapsed().as_secs();
        let accounts = self.accounts.lock();
        let of = accounts.of.iter();
        let of = of.map(|(id, account)| (*id, (account.clone(), account.pace.rate(second))));
        (of.collect(), accounts.totals)
    }
}

impl Accounts {
    fn received(&mut self, member: PeerId, bytes: u64, second: u64) {
        self.totals.received += bytes;
        let account = self.account(member, second);
        account.received += bytes;
        account.pace.now += bytes;
    }

    fn blame(&mut self, member: PeerId, path: &RelPath, second: u64) {
        self.totals.refused += 1;
        let has_room = self.files < FILES;
        let account = self.account(member, second);
        account.refused += 1;
        if let Some(times) = account.blamed.get_mut(path) {
            *times += 1;
        } else if has_room && account.blamed.len() < FILES_PER_MEMBER {
            account.blamed.insert(path.clone(), 1);
            self.files += 1;
        }
    }

    fn account(&mut self, member: PeerId, second: u64) -> &mut Account {
        if self.of.len() >= MEMBERS && !self.of.contains_key(&member) {
            self.make_room();
        }
        let account = self.of.entry(member).or_default();
        account.pace.turn(second);
        account
    }

    fn make_room(&mut self) {
        let oldest = self.of.iter().min_by_key(|(_, it)| it.pace.second);
        if let Some(member) = oldest.map(|(member, _)| *member)
            && let Some(account) = self.of.remove(&member)
        {
            self.files -= account.blamed.len();
        }
    }
}

impl RateWindow {
    /// Moves the window to the current `second`.
    fn turn(&mut self, second: u64) {
        if second != self.second {
            let before = self.rate(second);
            let now = 0;
            *self = Self {
                second,
                now,
                before,
            };
        }
    }

    /// Returns the bytes of the second before `second`.
    fn rate(&self, second: u64) -> u64 {
        match second.checked_sub(self.second) {
            Some(0) => self.before,
            Some(1) => self.now,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer_id as id;

    fn path(number: usize) -> RelPath {
        RelPath::new(number.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn bytes_and_blame_are_kept_per_member() {
        let ledger = Ledger::default();
        ledger.received(id(1), 10);
        ledger.received(id(2), 5);
        ledger.blame(id(2), &path(7));
        ledger.blame(id(2), &path(7));
        let (of, totals) = ledger.read();
        let (one, two) = (&of[&id(1)].0, &of[&id(2)].0);
        assert_eq!((one.received, one.refused, one.blamed.len()), (10, 0, 0));
        assert_eq!((two.received, two.refused), (5, 2));
        assert_eq!(two.blamed, BTreeMap::from([(path(7), 2)]));
        assert_eq!((totals.received, totals.refused), (15, 2));
    }

    #[test]
    fn rate_is_the_volume_of_the_last_second() {
        let mut accounts = Accounts::default();
        let rate = |accounts: &Accounts, second| accounts.of[&id(1)].pace.rate(second);
        accounts.received(id(1), 3, 10);
        accounts.received(id(1), 4, 10);
        assert_eq!((rate(&accounts, 10), rate(&accounts, 11)), (0, 7));
        accounts.received(id(1), 5, 11);
        assert_eq!((rate(&accounts, 11), rate(&accounts, 12)), (7, 5));
        assert_eq!(rate(&accounts, 13), 0);
        accounts.received(id(1), 6, 20);
        assert_eq!((rate(&accounts, 20), rate(&accounts, 21)), (0, 6));
    }

    #[test]
    fn blamed_files_are_bounded_but_counted() {
        let mut accounts = Accounts::default();
        (0..100).for_each(|number| accounts.blame(id(1), &path(number), 0));
        let account = &accounts.of[&id(1)];
        assert_eq!(
            (account.blamed.len(), account.refused),
            (FILES_PER_MEMBER, 100)
        );
    }

    #[test]
    fn ledger_is_bounded_and_totals_continue() {
        let mut accounts = Accounts::default();
        for number in 0..3 * MEMBERS {
            accounts.received(id(number), 1, number as u64);
            (0..3).for_each(|file| accounts.blame(id(number), &path(file), number as u64));
            let files: usize = accounts.of.values().map(|it| it.blamed.len()).sum();
            assert!(accounts.of.len() <= MEMBERS && files <= FILES && files == accounts.files);
        }
        assert!(accounts.of.contains_key(&id(3 * MEMBERS - 1)));
        assert!(!accounts.of.contains_key(&id(0)));
        assert_eq!(accounts.totals.received, 3 * MEMBERS as u64);
        assert_eq!(accounts.totals.refused, 9 * MEMBERS as u64);
    }
}
