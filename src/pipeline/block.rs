//! Blocks of memory that are used again and again.
//!
//! Megabytes that are allocated on one thread and freed on another stay with the C library, arena by arena: an upload of random bytes to
//! S3 held 133 MiB where the budget allows 96. So the bulk of a stream lives in blocks that are mapped once, go round between sources and
//! targets, and are unmapped when the last stream has ended.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of a block.
pub(super) const BLOCK: usize = 1 << 20;

/// Blocks that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<MmapMut>>);

impl Pool {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<MmapMut>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A block, of which some bytes are filled. Dropping it gives its memory back to the pool, and its share to the budget.
pub(super) struct Block {
    /// None only while it is dropped.
    memory: Option<MmapMut>,
    filled: usize,
    pool: Arc<Pool>,
    _share: OwnedSemaphorePermit,
}

impl Block {
    /// An empty block of `pool`, for which `share` was taken from the budget.
    pub(super) fn new(pool: &Arc<Pool>, share: OwnedSemaphorePermit) -> io::Result<Self> {
        let memory = match pool.with(Vec::pop) {
            Some(memory) => memory,
            None => MmapMut::map_anon(BLOCK)?,
        };
        Ok(Self { memory: Some(memory), filled: 0, pool: Arc::clone(pool), _share: share })
    }

    pub(super) fn len(&self) -> usize {
        self.filled
    }

    /// What is not filled yet.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().map(|memory| &mut memory[self.filled..]).unwrap_or_default()
    }

    /// So many bytes of [`Block::space`] were filled.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(BLOCK);
    }

    /// Takes as many of `bytes` as it has space for; their number.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        self.advance(n);
        n
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// What is filled, to be shared and cut without a copy.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_deref().map(|memory| &memory[..self.filled]).unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.with(|free| free.push(memory));
        }
    }
}
