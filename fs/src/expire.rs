//! Telling the kernel that a name may mean something else by now.
//!
//! The kernel remembers what it was told of a name for a second. When members have news, that is ended early: the
//! name is marked as expired, so that its next use asks again. Unlike an invalidation that leaves open files and
//! working directories alone, whatever comes of the question (Linux 6.2 and later can do it; fuser cannot yet, so
//! the message is written here).
//!
//! The kernel takes the directory's lock for this, alone and whatever comes, which someone may hold who waits for an answer
//! of ours. While it waited, nobody could look anything up there; and if this process were killed meanwhile, the
//! thread that waits would keep the mount from dying with it. So names in a directory in which an answer takes its
//! time ([`Busy`]) are left to the second, and so is what the thread cannot keep up with. What remains is the moment
//! between a look and the lock.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use tinyp2p_net::types::{MAX_NAME_BYTES, Name};

/// Names that may wait for the thread.
const MOST_WAITING: usize = 4096;

/// `FUSE_NOTIFY_INVAL_ENTRY` of linux/fuse.h: the code of the message.
const INVAL_ENTRY: i32 = 3;

/// `FUSE_EXPIRE_ONLY` of linux/fuse.h: the name is to be asked for again, not dropped.
const EXPIRE_ONLY: u32 = 1;

/// The size of `struct fuse_out_header` and `struct fuse_notify_inval_entry_out` together.
const HEAD: usize = 16 + 16;

/// The directories in which somebody waits for an answer, with the kernel's lock on them, and how many do.
#[derive(Default)]
pub struct Busy(Mutex<HashMap<u64, usize>>);

/// Somebody who waits for an answer, until this is dropped.
pub struct Waiting {
    busy: Arc<Busy>,
    directory: u64,
}

impl Busy {
    /// Counts one who waits in `directory`. To be dropped when the kernel has its answer.
    pub fn enter(self: &Arc<Self>, directory: u64) -> Waiting {
        *self.0.lock().entry(directory).or_default() += 1;
        Waiting {
            busy: Arc::clone(self),
            directory,
        }
    }

    fn has(&self, directory: u64) -> bool {
        self.0.lock().contains_key(&directory)
    }
}

impl Drop for Waiting {
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
pub struct Expirer(SyncSender<(u64, Name)>);

impl Expirer {
    /// Writes to `device`, a descriptor of the mount's connection, unless the directory is `busy`. The thread ends
    /// with the value.
    pub fn start(device: OwnedFd, busy: Arc<Busy>) -> io::Result<Self> {
        let (sender, names) = sync_channel(MOST_WAITING);
        let thread = std::thread::Builder::new().name("expire".into());
        thread.spawn(move || run(File::from(device), &busy, &names))?;
        Ok(Self(sender))
    }

    /// Lets the kernel ask again for `name` in the directory `parent`. Never waits.
    pub fn expire(&self, parent: u64, name: Name) {
        // Full, or at its end: the kernel asks after a second by itself.
        let _ = self.0.try_send((parent, name));
    }
}

fn run(mut device: File, busy: &Busy, names: &Receiver<(u64, Name)>) {
    while let Ok((parent, name)) = names.recv() {
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

/// What stands before the name: the length of the whole, the code, no request that it answers; the directory, the length of
/// the name, the flags. Numbers are in the machine's own order.
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
    fn a_directory_is_busy_until_the_last_one_has_its_answer() {
        let busy = Arc::new(Busy::default());
        let (first, second) = (busy.enter(7), busy.enter(7));
        assert!(busy.has(7) && !busy.has(8));
        drop(first);
        assert!(busy.has(7));
        drop(second);
        assert!(!busy.has(7) && busy.0.lock().is_empty());
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
