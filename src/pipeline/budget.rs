//! What all streams of a process share: memory and threads.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::block::{BLOCK, Block, Pool};
use super::compressors::Compressors;

/// Blocks that hold bytes of two parts, or are not full yet.
const IN_PART: usize = 2;

/// Memory for bytes in flight. A chunk takes a block before it is read, and the block comes back when every target has stored what is in it.
///
/// A stream holds back up to one unfinished part, of which two blocks belong to it in part only: the one that is being filled, and the one
/// that the part before ended in. So that streams can never starve each other, each is admitted with what it may hold back, and all that
/// admitted streams hold back takes at most two thirds of the budget, and two blocks.
#[derive(Debug, Clone)]
pub struct Budget {
    blocks: Arc<Semaphore>,
    parts: Arc<Semaphore>,
    largest_part: usize,
    pool: Arc<Mutex<Weak<Pool>>>,
}

impl Budget {
    /// A budget of `bytes`, at least 8 MiB.
    pub fn new(bytes: usize) -> Self {
        let blocks = (bytes / BLOCK).max(8);
        let parts = blocks / 3 * 2;
        Self {
            blocks: Arc::new(Semaphore::new(blocks)),
            parts: Arc::new(Semaphore::new(parts + IN_PART)),
            largest_part: parts * BLOCK,
            pool: Arc::default(),
        }
    }

    /// Largest part that a stream can ask for, in bytes.
    pub fn largest_part(&self) -> usize {
        self.largest_part
    }

    /// Waits until a stream with parts of `part_size` bytes fits beside those that run.
    pub(super) async fn admit(&self, part_size: usize) -> OwnedSemaphorePermit {
        acquire(&self.parts, share(part_size.min(self.largest_part))).await
    }

    /// Makes an admission larger, if there is room now. Without waiting: two streams that waited for each other's room would wait for ever.
    pub(super) fn enlarge(&self, admission: &mut OwnedSemaphorePermit, part_size: usize) -> bool {
        let wanted = share(part_size.min(self.largest_part)) as usize;
        let Ok(more) = u32::try_from(wanted.saturating_sub(admission.num_permits())) else { return false };
        match self.parts.clone().try_acquire_many_owned(more) {
            Ok(room) => {
                admission.merge(room);
                true
            }
            Err(_) => false,
        }
    }

    /// Room for `bytes` that are no blocks and are needed for a moment, as far as the budget goes; to be asked for by who holds nothing yet.
    ///
    /// It is admitted like a stream first: what streams hold back beside it leaves that much free, so that it comes.
    pub(super) async fn set_aside(&self, bytes: usize) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let blocks = u32::try_from(bytes.div_ceil(BLOCK).min(self.largest_part / BLOCK / 2)).unwrap_or(u32::MAX);
        if blocks == 0 {
            return None;
        }
        let admission = acquire(&self.parts, blocks).await;
        Some((admission, acquire(&self.blocks, blocks).await))
    }

    /// The blocks of all streams, to be held while one runs.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let mut shared = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let pool = Arc::default();
            *shared = Arc::downgrade(&pool);
            pool
        })
    }

    /// Waits for an empty block.
    pub(super) async fn block(&self, pool: &Arc<Pool>) -> io::Result<Block> {
        Block::new(pool, acquire(&self.blocks, 1).await)
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, blocks: u32) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_many_owned(blocks).await.expect("the budget is never closed")
}

/// Blocks that a stream with such parts may hold back.
fn share(part_size: usize) -> u32 {
    u32::try_from(part_size.div_ceil(BLOCK) + IN_PART).unwrap_or(u32::MAX)
}

/// Bytes that went through so far, for whoever shows it. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Progress(pub Arc<AtomicU64>);

/// The budget, and how many chunks are compressed at once.
#[derive(Debug, Clone)]
pub struct Engine {
    pub budget: Budget,
    /// Raw bytes read from sources.
    pub progress: Progress,
    pub(super) threads: usize,
    compressors: Arc<Mutex<Weak<Compressors>>>,
}

impl Engine {
    /// `threads` chunks are compressed at once, over all streams.
    pub fn new(budget: Budget, threads: usize) -> Self {
        let threads = threads.max(1);
        Self { budget, progress: Progress::default(), threads, compressors: Arc::default() }
    }

    /// The threads that compress, to be held while a stream runs.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn compressors(&self) -> io::Result<Arc<Compressors>> {
        Compressors::shared(&self.compressors, self.threads)
    }

    /// One thread a core, and 96 MiB: with what the process needs besides, it stays under 128 MiB.
    pub fn for_this_machine() -> Self {
        Self::new(Budget::new(96 << 20), std::thread::available_parallelism().map_or(2, usize::from))
    }
}
