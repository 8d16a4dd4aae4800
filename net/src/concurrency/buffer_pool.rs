//! Reusable memory for pieces of files: a fresh allocation for each would cost page faults on every
//! byte that streams through.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A pool that buffers come from and return to.
pub(crate) struct BufferPool {
    size: usize,
    max_spare: usize,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Creates a pool of buffers of up to `size` bytes that keeps at most `max_spare` ready.
    pub(crate) fn new(size: usize, max_spare: usize) -> Arc<Self> {
        let spare = Mutex::default();
        Arc::new(Self {
            size,
            max_spare,
            spare,
        })
    }

    /// Returns a buffer of `len` bytes with any contents. Short buffers do not come from the pool,
    /// so that a buffer never takes more than twice the memory of its bytes.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> PooledBuffer {
        if len < self.size / 2 || len > self.size {
            return vec![0; len].into();
        }
        let spare = self.spare.lock().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; self.size]);
        let home = Arc::downgrade(self);
        PooledBuffer { bytes, len, home }
    }
}

/// Bytes that return to their pool when dropped.
pub(crate) struct PooledBuffer {
    bytes: Vec<u8>,
    len: usize,
    home: Weak<BufferPool>,
}

impl PooledBuffer {
    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(pool) = self.home.upgrade() else {
            return;
        };
        let mut spare = pool.spare.lock();
        if spare.len() < pool.max_spare {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Bytes that came in a buffer of their own.
impl From<Vec<u8>> for PooledBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        let (len, home) = (bytes.len(), Weak::new());
        Self { bytes, len, home }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_buffers_come_back_and_few_are_kept() {
        let pool = BufferPool::new(16, 2);
        let mut first = pool.take(16);
        first.fill(7);
        first.truncate(3);
        assert_eq!(&*first, [7, 7, 7]);
        drop(first);
        assert_eq!(
            &*pool.take(12),
            [7; 12],
            "the same memory, as long as was asked for"
        );
        let many: Vec<_> = (0..5).map(|_| pool.take(9)).collect();
        drop(many);
        assert_eq!(pool.spare.lock().len(), 2);
    }

    #[test]
    fn short_and_long_ones_are_not_kept() {
        let pool = BufferPool::new(16, 2);
        assert_eq!((pool.take(7).len(), pool.take(17).len()), (7, 17));
        assert!(pool.spare.lock().is_empty());
        drop(pool.take(16));
        let late = pool.take(16);
        drop(pool);
        drop(late);
    }
}
