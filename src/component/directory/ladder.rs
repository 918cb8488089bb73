//! Directory handles from a root down to where work is going on, for trees deeper than a path or the table of open files can be.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, Stat, fstat, openat, seek};
use rustix::io::Errno;

/// Handles that stay open; those further up are closed and opened again through `..` when the way leads back to them.
const OPEN: usize = 64;

/// How directories are opened: never through a symbolic link.
pub const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What tells one object of the file system from every other.
pub type Identity = (u64, u64);

/// Device and inode.
pub fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// A root and the directories on the way down from it, each with what its user keeps about it.
pub struct Ladder<T> {
    steps: Vec<Step<T>>,
}

struct Step<T> {
    handle: Option<Arc<OwnedFd>>,
    identity: Identity,
    value: T,
}

impl<T> Ladder<T> {
    /// # Errors
    /// When `root` cannot be asked for its identity.
    pub fn new(root: OwnedFd, value: T) -> Result<Self, Errno> {
        let identity = identity(&fstat(&root)?);
        Ok(Self { steps: vec![Step { handle: Some(Arc::new(root)), identity, value }] })
    }

    /// Directories below the root.
    pub fn depth(&self) -> usize {
        self.steps.len() - 1
    }

    /// The directory at the bottom.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.last().handle.as_ref().expect("the last step is open").as_fd()
    }

    /// The directory at the bottom, for whoever needs it open for longer than the ladder does.
    pub fn shared(&self) -> Arc<OwnedFd> {
        Arc::clone(self.last().handle.as_ref().expect("the last step is open"))
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.steps[0].handle.as_ref().expect("the root is never closed").as_fd()
    }

    pub fn value(&self) -> &T {
        &self.last().value
    }

    pub fn value_mut(&mut self) -> &mut T {
        &mut self.steps.last_mut().expect("the root is never popped").value
    }

    /// Goes down into `directory`, a child of the last one.
    pub fn push(&mut self, directory: OwnedFd, identity: Identity, value: T) {
        self.steps.push(Step { handle: Some(Arc::new(directory)), identity, value });
        if let Some(far) = self.steps.len().checked_sub(OPEN).filter(|far| *far > 0) {
            self.steps[far].handle = None;
        }
    }

    /// Goes up; the root stays. The handle that was left is given back.
    ///
    /// # Errors
    /// `ESTALE` when the directory above is no longer the one that led down.
    pub fn pop(&mut self) -> Result<Option<(Arc<OwnedFd>, T)>, Errno> {
        if self.steps.len() == 1 {
            return Ok(None);
        }
        let step = self.steps.pop().expect("more than the root");
        let child = step.handle.expect("the last step is open");
        let parent = self.steps.last_mut().expect("the root is never popped");
        if parent.handle.is_none() {
            let handle = openat(&child, c"..", DIRECTORY, Mode::empty())?;
            if identity(&fstat(&handle)?) != parent.identity {
                return Err(Errno::STALE);
            }
            parent.handle = Some(Arc::new(handle));
        }
        Ok(Some((child, step.value)))
    }

    fn last(&self) -> &Step<T> {
        self.steps.last().expect("the root is never popped")
    }
}

/// The names in a directory, kept densely and sorted by their bytes; taken from the front.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    /// Where a name begins in `bytes` (it ends in NUL), and its type if the file system told it; in descending order. Narrow numbers, since a
    /// directory may have millions of names.
    entries: Vec<(u32, FileType)>,
}

impl Names {
    /// Reads a whole directory.
    ///
    /// # Errors
    /// What the kernel says; `EOVERFLOW` for a directory whose names take more than 4 GiB.
    pub fn read(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        // the handle may have been read before
        seek(directory, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut names = Self::default();
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes_with_nul();
            if name != b".\0" && name != b"..\0" {
                let at = u32::try_from(names.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
                names.entries.push((at, entry.file_type()));
                names.bytes.extend_from_slice(name);
            }
        }
        let Self { bytes, entries } = &mut names;
        // two names differ before either's NUL has been passed, so that their ends need not be looked for
        let from = |at: u32| usize::try_from(at).map_or(&[][..], |at| &bytes[at..]);
        entries.sort_unstable_by(|a, b| from(b.0).cmp(from(a.0)));
        Ok(names)
    }

    /// The next name, with its type as the directory had it.
    pub fn take_next(&mut self) -> Option<(&CStr, FileType)> {
        self.entries.pop().map(|(at, kind)| (name_at(&self.bytes, at), kind))
    }
}

fn name_at(bytes: &[u8], at: u32) -> &CStr {
    usize::try_from(at).ok().and_then(|at| CStr::from_bytes_until_nul(&bytes[at..]).ok()).unwrap_or_default()
}
