//! A hash that is computed beside its stream, by a thread of its own: so that it does not add up with decompression.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Blocks, of 1 MiB at most, that wait for the hash.
const AHEAD: usize = 4;

/// What takes bytes in their order.
pub(super) trait Hash: Send + 'static {
    fn add(&mut self, bytes: &[u8]);
}

impl Hash for Sha256 {
    fn add(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Hash for blake3::Hasher {
    fn add(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// A hash under way. Dropped, its thread ends.
pub(super) struct Beside<H> {
    blocks: SyncSender<Bytes>,
    thread: JoinHandle<H>,
}

impl<H: Hash> Beside<H> {
    /// # Errors
    /// That of a thread that cannot be started.
    pub(super) fn start(mut hash: H) -> io::Result<Self> {
        let (blocks, inbox) = sync_channel::<Bytes>(AHEAD);
        let thread = Builder::new().name("hash".to_owned()).spawn(move || {
            inbox.iter().for_each(|block| hash.add(&block));
            hash
        })?;
        Ok(Self { blocks, thread })
    }

    pub(super) fn add(&self, block: Bytes) {
        // a thread that is gone has panicked, which the end will tell
        let _ = self.blocks.send(block);
    }

    /// The hash of all that was added.
    pub(super) fn finish(self) -> H {
        drop(self.blocks);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
