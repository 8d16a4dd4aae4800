//! Telling the kernel that a name may mean something else by now.
//!
//! The kernel remembers for a second what a name was. When members report changes, that is
//! ended early: the name is marked as expired, so that its next use asks again. Unlike an
//! invalidation that leaves open files and working directories alone, whatever comes of the
//! question (Linux 6.2 and later can do it; fuser cannot yet, so the message is written here).
//!
//! The kernel takes the directory's lock for this, alone and whatever comes, which someone may hold
//! who waits for an answer of ours. While it waited, nobody could look anything up there; and if
//! this process were killed meanwhile, the thread that waits would keep the mount from dying with
//! it. So names in a directory in which an answer takes its time ([`Busy`]) are left to the second,
//! and so is what the thread cannot keep up with. What remains is the moment between a look and the
//! lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tinyp2p_net::model::{MAX_NAME_BYTES, Name, PeerId};

/// Names that may wait for the thread.
const MAX_WAITING: usize = 4096;

/// Names of one member's changes that may wait: a full poll. They have their turns with
/// those of others.
const MAX_OF_ONE: usize = 1024;

/// `FUSE_NOTIFY_INVAL_ENTRY` of linux/fuse.h: the code of the message.
const INVAL_ENTRY: i32 = 3;

/// `FUSE_EXPIRE_ONLY` of linux/fuse.h: the name is to be asked for again, not dropped.
const EXPIRE_ONLY: u32 = 1;

/// The size of `struct fuse_out_header` and `struct fuse_notify_inval_entry_out` together.
const HEAD: usize = 16 + 16;

/// The directories in which somebody waits for an answer, with the kernel's lock on them, and
/// how many do.
#[derive(Default)]
pub struct Busy(Mutex<HashMap<u64, usize>>);

/// Somebody who waits for an answer, until this is dropped.
pub struct WaitGuard {
    busy: Arc<Busy>,
    directory: u64,
}

impl Busy {
    /// Counts one who waits in `directory`. To be dropped when the kernel has its answer.
    pub fn enter(self: &Arc<Self>, directory: u64) -> WaitGuard {
        *self.0.lock().entry(directory).or_default() += 1;
        WaitGuard {
            busy: Arc::clone(self),
            directory,
        }
    }

    fn has(&self, directory: u64) -> bool {
        self.0.lock().contains_key(&directory)
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let mut waiting = self.busy.0.lock();
        if let Some(count) = waiting.get_mut(&self.directory) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.directory);
            }
        }
    }
}

/// The names that the kernel is to ask for again.
pub struct Expirer(Arc<Waitlist>);

/// Names that wait for the thread.
#[derive(Default)]
struct Waitlist {
    turns: Mutex<InvalidationQueue>,
    come: Condvar,
}

/// The names that wait, by whose changes they are. Pure.
#[derive(Default)]
struct InvalidationQueue {
    by_member: BTreeMap<PeerId, VecDeque<(u64, Name)>>,
    /// Whose turn was last.
    last: Option<PeerId>,
    count: usize,
    /// Nobody will put any more.
    is_closed: bool,
}

impl InvalidationQueue {
    /// Lets one more wait, if there is room for one of `member`: at the end of all, for one of
    /// those with most.
    fn put(&mut self, member: PeerId, parent: u64, name: Name) {
        let its = self.by_member.get(&member).map_or(0, VecDeque::len);
        if its >= MAX_OF_ONE {
            return;
        }
        if self.count >= MAX_WAITING {
            let longest = self.by_member.iter().max_by_key(|(_, names)| names.len());
            let Some((longest, length)) = longest.map(|(member, names)| (*member, names.len()))
            else {
                return;
            };
            if length <= its + 1 {
                return;
            }
            self.take_from(longest);
        }
        let names = self.by_member.entry(member).or_default();
        names.push_back((parent, name));
        self.count += 1;
    }

    /// The next one: of the member behind the one whose turn was last.
    fn take(&mut self) -> Option<(u64, Name)> {
        let behind = self.last.map(|last| {
            let behind = (Bound::Excluded(last), Bound::Unbounded);
            self.by_member
                .range(behind)
                .next()
                .map(|(member, _)| *member)
        });
        let first = self.by_member.first_key_value().map(|(member, _)| *member);
        let member = behind.flatten().or(first)?;
        self.last = Some(member);
        self.take_from(member)
    }

    fn take_from(&mut self, member: PeerId) -> Option<(u64, Name)> {
        let names = self.by_member.get_mut(&member)?;
        let name = names.pop_front();
        self.count -= usize::from(name.is_some());
        if names.is_empty() {
            self.by_member.remove(&member);
        }
        name
    }
}

impl Expirer {
    /// Writes to `device`, a descriptor of the mount's connection, unless the directory is `busy`.
    /// The thread ends with the value.
    pub fn start(device: OwnedFd, busy: Arc<Busy>) -> io::Result<Self> {
        let waiting = Arc::new(Waitlist::default());
        let names = Arc::clone(&waiting);
        let thread = std::thread::Builder::new().name("expire".into());
        thread.spawn(move || run(File::from(device), &busy, &names))?;
        Ok(Self(waiting))
    }

    /// Lets the kernel ask again for `name` in the directory `parent`, after changes of
    /// `member`. Never waits.
    pub fn expire(&self, member: PeerId, parent: u64, name: Name) {
        // Without room for it, the kernel asks after a second by itself.
        self.0.turns.lock().put(member, parent, name);
        self.0.come.notify_one();
    }
}

impl Drop for Expirer {
    fn drop(&mut self) {
        self.0.turns.lock().is_closed = true;
        self.0.come.notify_one();
    }
}

impl Waitlist {
    /// The next one, once there is one; `None` at the end.
    fn next(&self) -> Option<(u64, Name)> {
        let mut turns = self.turns.lock();
        while !turns.is_closed {
            let next = turns.take();
            if next.is_some() {
                return next;
            }
            self.come.wait(&mut turns);
        }
        None
    }
}

fn run(mut device: File, busy: &Busy, names: &Waitlist) {
    while let Some((parent, name)) = names.next() {
        if busy.has(parent) {
            continue;
        }
        let head = head(parent, name.as_bytes());
        let message = [&head[..], name.as_bytes(), &[0]].concat();
        // In one piece: each write is one message.
        match device.write(&message) {
            Ok(_) => {}
            // The kernel knows neither, or has forgotten them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(parent, %name, %error, "a name cannot be expired"),
        }
    }
}

/// What stands before the name: the length of the whole, the code, no request that it answers; the
/// directory, the length of the name, the flags. Numbers are in the machine's own order.
fn head(parent: u64, name: &[u8]) -> [u8; HEAD] {
    const { assert!(HEAD + MAX_NAME_BYTES < 4096, "in one piece") };
    let mut head = [0; HEAD];
    let length = (HEAD + name.len() + 1) as u32;
    head[0..4].copy_from_slice(&length.to_ne_bytes());
    head[4..8].copy_from_slice(&INVAL_ENTRY.to_ne_bytes());
    head[16..24].copy_from_slice(&parent.to_ne_bytes());
    head[24..28].copy_from_slice(&(name.len() as u32).to_ne_bytes());
    head[28..32].copy_from_slice(&EXPIRE_ONLY.to_ne_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_busy_until_all_are_answered() {
        let busy = Arc::new(Busy::default());
        let (first, second) = (busy.enter(7), busy.enter(7));
        assert!(busy.has(7) && !busy.has(8));
        drop(first);
        assert!(busy.has(7));
        drop(second);
        assert!(!busy.has(7) && busy.0.lock().is_empty());
    }

    #[test]
    fn flood_of_names_waits_behind_others() {
        let id = |n: u16| {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&n.to_le_bytes());
            PeerId::from_bytes(key)
        };
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let mut turns = InvalidationQueue::default();
        for number in 0..10 * MAX_OF_ONE {
            turns.put(id(1), 1, name(&number.to_string()));
        }
        assert_eq!(turns.count, MAX_OF_ONE);
        turns.put(id(2), 2, name("honest"));
        turns.put(id(2), 2, name("second"));
        let first: Vec<u64> = (0..4).filter_map(|_| Some(turns.take()?.0)).collect();
        assert_eq!(first, [1, 2, 1, 2]);
        for member in 3..20 {
            for number in 0..MAX_OF_ONE {
                turns.put(id(member), 1, name(&number.to_string()));
            }
        }
        assert!(turns.count <= MAX_WAITING);
        turns.put(id(30), 30, name("honest"));
        let taken: Vec<u64> = (0..25).filter_map(|_| Some(turns.take()?.0)).collect();
        assert!(taken.contains(&30));
        while turns.take().is_some() {}
        assert_eq!((turns.count, turns.by_member.len()), (0, 0));
    }

    #[test]
    fn the_message_is_what_linux_fuse_h_says() {
        let head = head(0x0102_0304_0506_0708, b"name");
        assert_eq!(head[0..4], 37_u32.to_ne_bytes());
        assert_eq!(head[4..8], 3_i32.to_ne_bytes());
        assert_eq!(head[8..16], [0; 8]);
        assert_eq!(head[16..24], 0x0102_0304_0506_0708_u64.to_ne_bytes());
        assert_eq!(head[24..28], 4_u32.to_ne_bytes());
        assert_eq!(head[28..32], 1_u32.to_ne_bytes());
    }
}
