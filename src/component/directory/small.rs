//! Reads small files ahead of their turn, as the bytes that the archive will have of them: headers, content and padding.
//!
//! Whatever is not plain (several names, holes, an error of any kind, no memory left) is left to the walk, which does it in its turn.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::Errno;

use super::archive::{BLOCK, Member, MemberKind, Time, padding, write};
use super::attributes::{AttributeReader, Subject};
use super::cache::Cache;
use super::content;
use super::fingerprint::Fingerprint;
use super::owners::Owners;
use super::scout::{Found, What, open_quietly};
use super::sparse;
use super::watch::{Seat, Watch};
use crate::component::Detail;

/// Files up to this size are read ahead, in bytes.
pub const AHEAD: u64 = 256 << 10;

/// Larger ones are not worth a second copy in memory, where nobody is ahead.
pub const AT_HAND: u64 = 16 << 10;

/// Bytes that all walks of the process together hold of files that were read ahead.
const MOST: usize = 8 << 20;

/// Room that a batch asks for first: enough for most.
const FIRST: usize = 32 << 10;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// How a file is opened: what was one when it was listed may be a fifo by now, hence `O_NONBLOCK`.
pub const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// What the threads of a walk share.
#[derive(Debug, Default)]
pub struct Shared {
    pub owners: Owners,
    pub cache: Cache,
    pub detail: Detail,
    pub watch: Watch,
}

/// Some of what is to be stored, in order, and what was read of it ahead.
pub struct Batch {
    pub entries: Vec<(Found, Outcome)>,
    /// Of all that was stored, one after the other.
    pub bytes: Vec<u8>,
    /// Of all that was read.
    pub print: Fingerprint,
    held: Held,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it is still to be done.
    Left,
    /// Its share of the batch's bytes, and how long the file in it is.
    Read { bytes: usize, size: u64, change: Option<Change> },
}

/// What happened to a file while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// So many bytes were not there any more.
    Shrank {
        missing: u64,
    },
    /// The first `stored` bytes of a longer file are stored.
    Grew {
        stored: u64,
    },
    Modified,
}

impl Change {
    /// `before` is from before the first byte was read. Asks once more how the file is now.
    pub fn of(file: BorrowedFd<'_>, before: &Stat, missing: u64) -> Option<Self> {
        if missing > 0 {
            return Some(Self::Shrank { missing });
        }
        let now = fstat(file).ok()?;
        if now.st_size > before.st_size {
            return Some(Self::Grew { stored: u64::try_from(before.st_size).unwrap_or(0) });
        }
        let same = (now.st_size, now.st_mtime, now.st_mtime_nsec) == (before.st_size, before.st_mtime, before.st_mtime_nsec);
        (!same).then_some(Self::Modified)
    }
}

/// A part of [`MOST`].
#[derive(Debug, Default)]
struct Held(usize);

impl Held {
    fn grow(&mut self, more: usize) -> bool {
        let taken = HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| held.checked_add(more).filter(|held| *held <= MOST));
        if taken.is_ok() {
            self.0 += more;
        }
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Batch {
    /// Nothing of it was read yet.
    pub fn of(found: Vec<Found>) -> Self {
        Self {
            entries: found.into_iter().map(|found| (found, Outcome::Left)).collect(),
            bytes: Vec::new(),
            print: Fingerprint::default(),
            held: Held::default(),
        }
    }
}

/// Room in a batch for so many bytes more, if there is any.
fn reserve(bytes: &mut Vec<u8>, held: &mut Held, more: usize) -> bool {
    let needed = bytes.len() + more;
    if needed <= bytes.capacity() {
        return true;
    }
    let capacity = needed.max(2 * bytes.capacity()).max(FIRST);
    if !held.grow(capacity - bytes.capacity()) {
        return false;
    }
    bytes.reserve_exact(capacity - bytes.len());
    true
}

/// Reads small files, with buffers of its own.
pub struct SmallFiles {
    shared: Arc<Shared>,
    largest: u64,
    attributes: AttributeReader,
    header: Vec<u8>,
    seat: Seat,
}

impl SmallFiles {
    /// Reads files of up to `largest` bytes.
    pub fn new(shared: Arc<Shared>, largest: u64) -> Self {
        let seat = shared.watch.seat();
        Self { shared, largest, attributes: AttributeReader::default(), header: Vec::new(), seat }
    }

    /// Reads all of `batch` that can be read ahead.
    pub fn fill(&mut self, batch: &mut Batch) {
        let Batch { entries, bytes, print, held } = batch;
        for (found, outcome) in entries {
            let start = bytes.len();
            match self.read(found, bytes, print, held) {
                Ok(read) if read != Outcome::Left => *outcome = read,
                _ => bytes.truncate(start),
            }
        }
        self.seat.rest();
    }

    fn read(&mut self, found: &mut Found, bytes: &mut Vec<u8>, print: &mut Fingerprint, held: &mut Held) -> Result<Outcome, Errno> {
        let What::Entry { within, listed: FileType::RegularFile } = &found.what else { return Ok(Outcome::Left) };
        self.seat.at(&found.path);
        let start = bytes.len();
        let file = open_quietly(within.as_fd(), found.name(), FILE)?;
        let stat = fstat(&file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink < 2 && size <= self.largest;
        if !plain || sparse::extents(file.as_fd(), &stat).is_some() {
            return Ok(Outcome::Left);
        }
        let xattrs = self.attributes.read(Subject::Open(file.as_fd()))?;
        let path = std::mem::take(&mut found.path);
        let member = Member { size, xattrs, ..describe(path, &stat, MemberKind::File, &self.shared.owners) };
        self.header.clear();
        let headed = write::member(&member, &mut self.header);
        let content = usize::try_from(size).unwrap_or(usize::MAX);
        let whole = self.header.len() + content.saturating_add(BLOCK);
        if headed.is_err() || !reserve(bytes, held, whole) {
            found.path = member.path;
            return Ok(Outcome::Left);
        }
        bytes.extend_from_slice(&self.header);
        let from = bytes.len();
        bytes.resize(from + content + padding(size), 0);
        let (mut done, mut change) = (0, None);
        while done < content {
            match self.shared.cache.read(file.as_fd(), &mut bytes[from + done..from + content], done as u64) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(Errno::INTR) => {}
                Err(error) => {
                    found.path = member.path;
                    return Err(error);
                }
            }
        }
        if content > 0 {
            change = Change::of(file.as_fd(), &stat, (content - done) as u64);
        }
        match self.shared.detail {
            Detail::Full => print.add(&member, Some(&content::hash(&bytes[from..from + content]))),
            Detail::Counts => print.count(&member),
            Detail::Off => {}
        }
        found.path = member.path;
        Ok(Outcome::Read { bytes: bytes.len() - start, size, change })
    }
}

/// What a header says of a file system object, but for its size and attributes.
pub fn describe(path: Vec<u8>, stat: &Stat, kind: MemberKind, owners: &Owners) -> Member {
    Member {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        user: owners.user(stat.st_uid).to_vec(),
        group: owners.group(stat.st_gid).to_vec(),
        modified: Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        xattrs: Vec::new(),
        size: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_happened_meanwhile_is_told_apart() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"12345").expect("written");
        let before = fstat(&file).expect("a file");
        assert_eq!(Change::of(file.as_fd(), &before, 0), None);
        assert_eq!(Change::of(file.as_fd(), &before, 2), Some(Change::Shrank { missing: 2 }));
        let mut earlier = before;
        earlier.st_mtime -= 1;
        assert_eq!(Change::of(file.as_fd(), &earlier, 0), Some(Change::Modified));
        file.write_all(b"6").expect("written");
        assert_eq!(Change::of(file.as_fd(), &before, 0), Some(Change::Grew { stored: 5 }));
    }

    #[test]
    fn no_more_is_held_than_may_be() {
        let (mut bytes, mut held) = (Vec::new(), Held::default());
        let mut other = (Vec::new(), Held::default());
        while reserve(&mut bytes, &mut held, 200_000) {
            bytes.resize(bytes.len() + 200_000, 0);
            assert!(bytes.capacity() <= held.0 && held.0 <= MOST);
        }
        assert!(!reserve(&mut other.0, &mut other.1, MOST), "what one walk holds is not there for another");
        drop(held);
        assert!(reserve(&mut other.0, &mut other.1, 200_000), "what was given back is");
    }
}
