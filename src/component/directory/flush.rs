//! What is unpacked goes to the disk while more comes, so that the end does not wait for all of it.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rustix::fs::syncfs;
use rustix::io::Errno;

use super::unpack::Unpacked;

/// Bytes between one time and the next.
const EACH: u64 = 32 << 20;

/// What an entry counts for itself: about what its inode and its name take.
const ENTRY: u64 = 1 << 10;

/// A thread that writes through to the disk whenever enough has come together. Dropped, it ends with what it is at.
pub struct Flush {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<Result<(), Errno>>>,
    /// What had been unpacked when it was last woken.
    seen: u64,
}

impl Flush {
    /// For the file system of `tree`. If there can be no thread, all is written through at the end, as it is anyway.
    pub fn start(tree: OwnedFd) -> Self {
        // while it is at work it need not be woken more than once
        let (wake, woken) = sync_channel(1);
        let thread = Builder::new().name("flush".to_owned()).spawn(move || woken.iter().try_for_each(|()| syncfs(&tree)));
        Self { wake: Some(wake), thread: thread.ok(), seen: 0 }
    }

    pub fn look(&mut self, unpacked: &Unpacked) {
        let all = unpacked.bytes + unpacked.entries * ENTRY;
        if let Some(wake) = &self.wake
            && all - self.seen >= EACH
        {
            self.seen = all;
            let _ = wake.try_send(());
        }
    }

    /// # Errors
    /// Why something could not be written through. Whoever asks for that later is not told: an error is reported once.
    pub fn finish(mut self) -> Result<(), Errno> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Errno> {
        self.wake = None;
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
