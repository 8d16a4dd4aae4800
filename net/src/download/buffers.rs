//! Memory for pieces, used again and again: a fresh allocation per piece would cost page faults on
//! every byte that streams through (perf notes, section 3).

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Buffers that lie ready, at most: 4 MiB in all, enough for two streams.
const SPARE: usize = 32;

/// Where buffers come from and return to.
pub(crate) struct Pool {
    size: usize,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A pool of buffers that hold up to `size` bytes.
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            size,
            spare: Mutex::default(),
        })
    }

    /// A buffer of `len` bytes with any contents. Short ones do not come from the pool, so that
    /// what a buffer takes in memory is never more than twice what it holds.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if len <= self.size / 2 || len > self.size {
            return Buffer {
                bytes: vec![0; len],
                len,
                home: Weak::new(),
            };
        }
        let spare = self.spare.lock().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; self.size]);
        Buffer {
            bytes,
            len,
            home: Arc::downgrade(self),
        }
    }
}

/// Bytes that return to their pool when dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    home: Weak<Pool>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(pool) = self.home.upgrade() else {
            return;
        };
        let mut spare = pool.spare.lock();
        if spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Bytes that came in a buffer of their own.
impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            len: bytes.len(),
            bytes,
            home: Weak::new(),
        }
    }
}
