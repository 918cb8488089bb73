//! What all streams of a process share: memory and threads.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::encode::Shelf;

const KIB: usize = 1 << 10;

/// Memory for bytes in flight. A chunk takes its share before it is read and gives it back when every target has stored it.
///
/// A stream holds back up to one unfinished part. So that streams can never starve each other, each is admitted with the size of its
/// part, and the parts of all admitted streams take at most two thirds of the budget.
#[derive(Debug, Clone)]
pub struct Budget {
    bytes: Arc<Semaphore>,
    parts: Arc<Semaphore>,
    largest_part: usize,
}

impl Budget {
    /// A budget of `bytes`, at least 6 MiB.
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.max(6 << 20);
        let parts = bytes / 3 * 2;
        Self { bytes: Arc::new(Semaphore::new(bytes / KIB)), parts: Arc::new(Semaphore::new(parts / KIB)), largest_part: parts }
    }

    /// Largest part that a stream can ask for, in bytes.
    pub fn largest_part(&self) -> usize {
        self.largest_part
    }

    /// Waits until a stream with parts of `part_size` bytes fits beside those that run.
    pub(super) async fn admit(&self, part_size: usize) -> OwnedSemaphorePermit {
        acquire(&self.parts, part_size.min(self.largest_part)).await
    }

    /// Makes an admission larger, if there is room now. Without waiting: two streams that waited for each other's room would wait for ever.
    pub(super) fn enlarge(&self, admission: &mut OwnedSemaphorePermit, part_size: usize) -> bool {
        let wanted = permits(part_size.min(self.largest_part)) as usize;
        let Ok(more) = u32::try_from(wanted.saturating_sub(admission.num_permits())) else { return false };
        match self.parts.clone().try_acquire_many_owned(more) {
            Ok(room) => {
                admission.merge(room);
                true
            }
            Err(_) => false,
        }
    }

    pub(super) async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        acquire(&self.bytes, bytes).await
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let permits = permits(bytes);
    semaphore.clone().acquire_many_owned(permits).await.expect("the budget is never closed")
}

/// Permits are KiB, rounded up.
pub(super) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX)
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
    pub(super) slots: Arc<Semaphore>,
    encoders: Arc<Mutex<Weak<Shelf>>>,
}

impl Engine {
    /// `threads` chunks are compressed at once, over all streams.
    pub fn new(budget: Budget, threads: usize) -> Self {
        let threads = threads.max(1);
        Self { budget, progress: Progress::default(), threads, slots: Arc::new(Semaphore::new(threads)), encoders: Arc::default() }
    }

    /// The encoders, to be held while a stream runs.
    pub(super) fn encoders(&self) -> Arc<Shelf> {
        Shelf::shared(&self.encoders, self.threads)
    }

    /// One thread a core, and 96 MiB: with what the process needs besides, it stays under 128 MiB.
    pub fn for_this_machine() -> Self {
        Self::new(Budget::new(96 << 20), std::thread::available_parallelism().map_or(2, usize::from))
    }
}
