//! Reads files and leaves the page cache as it was: a backup that goes through a whole tree must not push out what the application has there.
//!
//! A large file whose first page was not there when it was opened is dropped as a whole once it was read; of one that was there, at least in
//! part, nothing is dropped. Small files are read at one go, and the pages that this brings in are dropped with it (`RWF_DONTCACHE`, Linux
//! 6.14 with ext4, XFS, Btrfs); elsewhere they are left to the kernel, which gives up pages that were read once before all others. Large files
//! are not read in that way: where a piece ends in the middle of a large folio, the kernel drops it and reads it again for the next piece.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// `RWF_DONTCACHE` (linux/fs.h).
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// From this size on the kernel is told what to expect, in bytes.
const LARGE: u64 = 1 << 20;

/// What is known of the file system of a walk.
#[derive(Debug, Default)]
pub struct Cache {
    /// Whether a file system of the tree refused [`DONTCACHE`].
    plain: AtomicBool,
}

/// What becomes of the pages of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They are dropped when it was read.
    Drop,
    Leave,
}

impl Cache {
    /// Reads what is likely to be a whole file, from an offset on; otherwise as pread(2) does.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let flags = if self.plain.load(Ordering::Relaxed) { ReadWriteFlags::empty() } else { DONTCACHE };
        match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, flags) {
            // older kernels and other file systems
            Err(Errno::OPNOTSUPP | Errno::INVAL) if flags == DONTCACHE => {
                self.plain.store(true, Ordering::Relaxed);
                preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::empty())
            }
            result => result,
        }
    }

    /// To be called before a file of `size` bytes is read piece by piece.
    pub fn begin(file: BorrowedFd<'_>, size: u64) -> Fate {
        if size < LARGE {
            return Fate::Leave;
        }
        let fate = fate(file);
        // only advice: where it is not taken, nothing is lost
        let _ = fadvise(file, 0, None, Advice::Sequential);
        fate
    }

    /// To be called when it was read.
    pub fn end(file: BorrowedFd<'_>, fate: Fate) {
        if fate == Fate::Drop {
            let _ = fadvise(file, 0, None, Advice::DontNeed);
        }
    }
}

/// Asks for the first byte without waiting for the disk. Where the file system cannot say, or the disk is faster than the question, the pages
/// stay: to keep what is of no use costs less than to drop what is.
fn fate(file: BorrowedFd<'_>) -> Fate {
    match preadv2(file, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => Fate::Drop,
        _ => Fate::Leave,
    }
}
