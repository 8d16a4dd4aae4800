//! Telling the kernel that a name may mean something else by now.
//!
//! The kernel remembers what it was told of a name for a second. When members have news, that is ended early: the
//! name is marked as expired, so that its next use asks again. Unlike an invalidation that leaves open files and
//! working directories alone, whatever comes of the question (Linux 6.2 and later can do it; fuser cannot yet, so
//! the message is written here).
//!
//! The kernel takes the directory's lock for this, which someone may hold who waits for an answer of ours. So it is done
//! by a thread that nothing waits for, and what it cannot keep up with is left to the second.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tinyp2p_net::types::{MAX_NAME_BYTES, Name};

/// Names that may wait for the thread.
const MOST_WAITING: usize = 4096;

/// `FUSE_NOTIFY_INVAL_ENTRY` of linux/fuse.h: the code of the message.
const INVAL_ENTRY: i32 = 3;

/// `FUSE_EXPIRE_ONLY` of linux/fuse.h: the name is to be asked for again, not dropped.
const EXPIRE_ONLY: u32 = 1;

/// The size of `struct fuse_out_header` and `struct fuse_notify_inval_entry_out` together.
const HEAD: usize = 16 + 16;

/// The names that the kernel is to ask for again.
pub struct Expirer(SyncSender<(u64, Name)>);

impl Expirer {
    /// Writes to `device`, a descriptor of the mount's connection. The thread ends with the value.
    pub fn start(device: OwnedFd) -> io::Result<Self> {
        let (sender, names) = sync_channel(MOST_WAITING);
        let thread = std::thread::Builder::new().name("expire".into());
        thread.spawn(move || run(File::from(device), &names))?;
        Ok(Self(sender))
    }

    /// Lets the kernel ask again for `name` in the directory `parent`. Never waits.
    pub fn expire(&self, parent: u64, name: Name) {
        // Full, or at its end: the kernel asks after a second by itself.
        let _ = self.0.try_send((parent, name));
    }
}

fn run(mut device: File, names: &Receiver<(u64, Name)>) {
    while let Ok((parent, name)) = names.recv() {
        let head = head(parent, name.as_bytes());
        let message = [&head[..], name.as_bytes(), &[0]].concat();
        match device.write_vectored(&[IoSlice::new(&message)]) {
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
