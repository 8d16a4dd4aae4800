//! Notifies the kernel that a name may mean something else now, or that a file has grown.
//!
//! The kernel caches the meaning of a name for a second. When members report changes, that ends
//! early: the name is marked as expired, so that its next use asks again. Unlike an invalidation,
//! this leaves open files and working directories alone, whatever the answer is. (Linux 6.2 and
//! later support it; fuser does not yet, so the message is written here.)
//!
//! For this, the kernel takes the directory's lock, exclusively and uninterruptibly. The holder of
//! the lock may be waiting for an answer from this process. Until it has the lock, nobody can look
//! anything up there; and if this process is killed, the waiting thread keeps the mount from dying
//! with it. So names in a directory in which an answer takes its time ([`Busy`]) are left to expire
//! after the second, and so are names that the thread cannot keep up with. What remains is the
//! moment between the check and the lock.
//!
//! A page of a file is dropped by the thread that is about to report the file's new size. For this,
//! the kernel takes the page's lock, which a read of that page holds until it is answered, by
//! another thread and within its deadline.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tinyp2p_net::model::{MAX_NAME_BYTES, Name, PeerId};

/// The maximum number of names that wait for the thread.
const MAX_WAITING: usize = 4096;

/// The maximum number of names that wait for one member's changes: a full poll. Members take turns.
const MAX_OF_ONE: usize = 1024;

/// `FUSE_NOTIFY_INVAL_ENTRY` of linux/fuse.h: the code of the message.
const INVAL_ENTRY: i32 = 3;

/// `FUSE_NOTIFY_INVAL_INODE` of linux/fuse.h: the code of the message.
const INVAL_INODE: i32 = 2;

/// The size of `struct fuse_out_header` and `struct fuse_notify_inval_inode_out` together.
const INVAL_INODE_BYTES: usize = 16 + 24;

/// `FUSE_EXPIRE_ONLY` of linux/fuse.h: the kernel asks for the name again instead of dropping it.
const EXPIRE_ONLY: u32 = 1;

/// The size of `struct fuse_out_header` and `struct fuse_notify_inval_entry_out` together.
const HEAD: usize = 16 + 16;

/// The directories in which somebody waits for an answer while holding the kernel's lock on them,
/// and how many do.
#[derive(Default)]
pub struct Busy(Mutex<HashMap<u64, usize>>);

/// One caller that waits for an answer, until this is dropped.
pub struct WaitGuard {
    busy: Arc<Busy>,
    directory: u64,
}

impl Busy {
    /// Counts one more caller that waits in `directory`. Drop the guard when the kernel
    /// has its answer.
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

/// The names that the kernel should ask for again, and a way to the pages that it has.
pub struct Expirer {
    waiting: Arc<Waitlist>,
    device: Arc<File>,
}

/// Names that wait for the thread.
#[derive(Default)]
struct Waitlist {
    turns: Mutex<InvalidationQueue>,
    come: Condvar,
}

/// The waiting names, by the member whose changes they are. Pure.
#[derive(Default)]
struct InvalidationQueue {
    by_member: BTreeMap<PeerId, VecDeque<(u64, Name)>>,
    /// The member whose turn was last.
    last: Option<PeerId>,
    count: usize,
    /// True once no more names will come.
    is_closed: bool,
}

impl InvalidationQueue {
    /// Queues one more name, if there is room for one of `member`. If the whole queue is full, a
    /// name of the member with the most makes room.
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

    /// Takes the next name, of the member after the one whose turn was last.
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
    /// Starts a thread that writes to `device`, a descriptor of the mount's connection, unless the
    /// directory is `busy`. The thread ends with the value.
    pub fn start(device: OwnedFd, busy: Arc<Busy>) -> io::Result<Self> {
        let (waiting, device) = (Arc::new(Waitlist::default()), Arc::new(File::from(device)));
        let (names, names_device) = (Arc::clone(&waiting), Arc::clone(&device));
        let thread = std::thread::Builder::new().name("expire".into());
        thread.spawn(move || run(&names_device, &busy, &names))?;
        Ok(Self { waiting, device })
    }

    /// Makes the kernel drop the page that holds the byte at `offset` of the file `number`. Waits
    /// for a read of that page, so no thread that takes requests from the kernel may call this.
    pub fn drop_page(&self, number: u64, offset: u64) {
        match (&*self.device).write(&inval_inode(number, offset)) {
            Ok(_) => {}
            // The kernel has forgotten the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(number, %error, "a page cannot be dropped"),
        }
    }

    /// Makes the kernel ask again for `name` in the directory `parent`, after changes of
    /// `member`. Never waits.
    pub fn expire(&self, member: PeerId, parent: u64, name: Name) {
        // If there is no room for it, the kernel still asks again after a second.
        self.waiting.turns.lock().put(member, parent, name);
        self.waiting.come.notify_one();
    }
}

impl Drop for Expirer {
    fn drop(&mut self) {
        self.waiting.turns.lock().is_closed = true;
        self.waiting.come.notify_one();
    }
}

impl Waitlist {
    /// Waits for the next name and returns it, or `None` at the end.
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

fn run(mut device: &File, busy: &Busy, names: &Waitlist) {
    while let Some((parent, name)) = names.next() {
        if busy.has(parent) {
            continue;
        }
        let head = head(parent, name.as_bytes());
        let message = [&head[..], name.as_bytes(), &[0]].concat();
        // In one piece: each write is one message.
        match device.write(&message) {
            Ok(_) => {}
            // The kernel does not know the directory or the name, or has forgotten it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(parent, %name, %error, "a name cannot be expired"),
        }
    }
}

/// Returns what precedes the name: the length of the whole message, the code, no request to answer,
/// the directory, the length of the name, and the flags. Numbers are in native byte order.
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

/// Returns the message that invalidates one byte of a file, and so its page: the length of the
/// message, the code, no request to answer, the file, and the range.
fn inval_inode(number: u64, offset: u64) -> [u8; INVAL_INODE_BYTES] {
    let mut message = [0; INVAL_INODE_BYTES];
    message[0..4].copy_from_slice(&(INVAL_INODE_BYTES as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&INVAL_INODE.to_ne_bytes());
    message[16..24].copy_from_slice(&number.to_ne_bytes());
    message[24..32].copy_from_slice(&offset.to_ne_bytes());
    message[32..40].copy_from_slice(&1_u64.to_ne_bytes());
    message
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
    fn page_message_is_that_of_linux_fuse_h() {
        let message = inval_inode(0x0102_0304_0506_0708, 0x1_0000_0000);
        assert_eq!(message[0..4], 40_u32.to_ne_bytes());
        assert_eq!(message[4..8], 2_i32.to_ne_bytes());
        assert_eq!(message[8..16], [0; 8]);
        assert_eq!(message[16..24], 0x0102_0304_0506_0708_u64.to_ne_bytes());
        assert_eq!(message[24..32], 0x1_0000_0000_u64.to_ne_bytes());
        assert_eq!(message[32..40], 1_u64.to_ne_bytes());
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
