//! Swaps the entries of a directory that cannot itself be renamed, such as a mounted volume.
//!
//! Everything lies inside the directory: the new entries in `.backstay-new-<suffix>`, the old ones in `.backstay-old-<suffix>`, both on the
//! same file system, so that each entry moves by one rename. `.backstay-journal`, text, says how far the swap is, and is written through
//! before each phase begins:
//!
//! ```text
//! backstay-journal 1
//! suffix 1f0c9a3e
//! phase out          old entries move out, into .backstay-old-…; all others that lie in the directory are old
//! phase in           new entries move in, from .backstay-new-…; all others that lie in the directory are new
//! phase done         the new entries are in service
//! modified 1700000000.5   of the directory, before the restore began
//! ```
//!
//! A restore that finds a journal in phase `out` or `in` brings the old entries back first.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, fchmod, fchown, fremovexattr, fstat, fsync, futimens, mkdirat,
    openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::archive::{Time, pax};
use super::attributes::{self, AttributeReader, Subject};
use super::ladder::{DIRECTORY, Names};
use super::place::{JOURNAL, NEW, OLD, is_own};
use super::sides::move_entry;
use super::{DirectoryError, trash};

const JOURNAL_NEW: &str = ".backstay-journal.new";
const MAGIC: &str = "backstay-journal 1";
/// A journal is three short lines.
const MAX_JOURNAL: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Out,
    In,
    Done,
}

impl Phase {
    const ALL: [(Self, &'static str); 3] = [(Self::Out, "out"), (Self::In, "in"), (Self::Done, "done")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(phase, _)| *phase == self).map_or("", |(_, word)| word)
    }
}

/// A swap under way.
pub struct Swap {
    path: PathBuf,
    top: OwnedFd,
    new: CString,
    old: CString,
    phase: Phase,
    /// When the directory, and the root of the new tree, were last modified: moving entries changes both.
    old_time: Time,
    new_time: Time,
}

impl Swap {
    /// Writes the journal and makes room for the old entries. `modified` is when the directory was, before anything was put into it.
    pub fn begin(top: BorrowedFd<'_>, path: &Path, new: &CStr, old: &CStr, modified: Time) -> Result<Self, DirectoryError> {
        let top = top.try_clone_to_owned().map_err(|source| DirectoryError::Switch { action: "open", path: path.to_owned(), source })?;
        let mut swap = Self {
            path: path.to_owned(),
            top,
            new: new.to_owned(),
            old: old.to_owned(),
            phase: Phase::Out,
            old_time: modified,
            new_time: Time::default(),
        };
        swap.new_time = swap.with_new(modified_time).map_err(|e| swap.failed("look at", new, e))?;
        mkdirat(&swap.top, old, Mode::RWXU).map_err(|e| swap.failed("create", old, e))?;
        let begun = swap.prepare(modified);
        if begun.is_err() {
            // empty, or the error would have come later; where this fails the next plan names it
            let _ = unlinkat(&swap.top, old, AtFlags::REMOVEDIR);
        }
        begun.map(|()| swap)
    }

    fn prepare(&mut self, modified: Time) -> Result<(), DirectoryError> {
        self.with_sides(|top, _, old| copy_dress(top, old, modified)).map_err(|e| self.failed("prepare", &self.old, e))?;
        self.enter(Phase::Out)
    }

    /// Moves the old entries out and the new ones in, as far as that is still to be done.
    pub fn run(&mut self) -> Result<(), DirectoryError> {
        if self.phase == Phase::Out {
            self.with_sides(|top, _, old| move_all(top, old)).map_err(|e| self.failed("move the entries out of", c"", e))?;
            self.enter(Phase::In)?;
        }
        if self.phase == Phase::In {
            self.with_sides(|top, new, _| move_all(new, top).and_then(|()| copy_dress(new, top, self.new_time)))
                .map_err(|e| self.failed("move the new entries into", c"", e))?;
            self.enter(Phase::Done)?;
        }
        Ok(())
    }

    /// Brings the old entries back from any phase, and removes the new ones and the journal.
    pub fn undo(mut self) -> Result<(), DirectoryError> {
        match mkdirat(&self.top, &self.new, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed("create", &self.new, error)),
        }
        if self.phase != Phase::Out {
            self.with_sides(|top, new, _| move_all(top, new)).map_err(|e| self.failed("move the new entries out of", c"", e))?;
            // from here on what lies in the directory is old: an undo that is itself interrupted must not be taken for a swap that was
            self.enter(Phase::Out)?;
        }
        self.with_sides(|top, _, old| move_all(old, top)).map_err(|e| self.failed("bring the old entries back into", c"", e))?;
        trash::remove(self.top.as_fd(), &self.new).map_err(|e| self.failed("remove", &self.new, e))?;
        // as long as there is a journal, an undo that is interrupted is done again
        self.dress_as(&self.old, self.old_time)?;
        self.drop_journal()?;
        trash::remove(self.top.as_fd(), &self.old).map_err(|e| self.failed("remove", &self.old, e))?;
        set_modified_time(self.top.as_fd(), self.old_time).map_err(|e| self.failed("set the time of", c"", e))
    }

    /// Gives the directory the owner, attributes and mode that the root of one of its trees has.
    fn dress_as(&self, side: &CStr, modified: Time) -> Result<(), DirectoryError> {
        let dress = openat(&self.top, side, DIRECTORY, Mode::empty()).map_err(|e| self.failed("open", side, e))?;
        copy_dress(dress.as_fd(), self.top.as_fd(), modified).map_err(|e| self.failed("set the owner and mode of", c"", e))
    }

    /// Removes what the swap needed; what became of the old entries is the caller's business.
    pub fn finish(self) -> Result<(), DirectoryError> {
        // the directory is dressed as the new tree's root since `run`; only its time is changed by what is removed from it
        trash::remove(self.top.as_fd(), &self.new).map_err(|e| self.failed("remove", &self.new, e))?;
        self.drop_journal()?;
        set_modified_time(self.top.as_fd(), self.new_time).map_err(|e| self.failed("set the time of", c"", e))
    }

    /// The swap that an interrupted restore left in `path` and that has to be undone; none if there is no journal, or the swap was done.
    ///
    /// # Errors
    /// [`DirectoryError::Journal`] when there is a journal that cannot be understood.
    pub fn interrupted(path: &Path) -> Result<Option<Self>, DirectoryError> {
        Ok(Self::found(path)?.filter(|swap| swap.phase != Phase::Done))
    }

    /// The swap of the restore with that suffix, in any phase. `new_time`: when the root of its new tree was last modified.
    ///
    /// # Errors
    /// [`DirectoryError::Journal`] when there is a journal that cannot be understood, or that of another restore.
    pub fn left(path: &Path, suffix: &str, new_time: Option<Time>) -> Result<Option<Self>, DirectoryError> {
        let Some(swap) = Self::found(path)? else { return Ok(None) };
        if swap.new.to_bytes().strip_prefix(NEW.as_bytes()) != Some(suffix.as_bytes()) {
            return Err(DirectoryError::Journal { path: path.join(JOURNAL) });
        }
        Ok(Some(Self { new_time: new_time.unwrap_or(swap.new_time), ..swap }))
    }

    fn found(path: &Path) -> Result<Option<Self>, DirectoryError> {
        let failed = |name: &str, source| DirectoryError::Switch { action: "read", path: path.join(name), source };
        let top = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(top) => top,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(failed("", error.into())),
        };
        let file = match openat(&top, JOURNAL, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(JOURNAL, error.into())),
        };
        let mut text = String::new();
        file.take(MAX_JOURNAL).read_to_string(&mut text).map_err(|source| failed(JOURNAL, source))?;
        let (suffix, phase, old_time) = parse(&text).ok_or_else(|| DirectoryError::Journal { path: path.join(JOURNAL) })?;
        let name = |kind: &str| CString::new(format!("{kind}{suffix}")).map_err(|_| DirectoryError::Journal { path: path.join(JOURNAL) });
        Ok(Some(Self { path: path.to_owned(), top, new: name(NEW)?, old: name(OLD)?, phase, old_time, new_time: Time::default() }))
    }

    fn enter(&mut self, phase: Phase) -> Result<(), DirectoryError> {
        let suffix = self.new.to_string_lossy().replacen(NEW, "", 1);
        let text = format!("{MAGIC}\nsuffix {suffix}\nphase {}\nmodified {}\n", phase.word(), pax::put_time(self.old_time));
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(openat(&self.top, JOURNAL_NEW, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            renameat(&self.top, JOURNAL_NEW, &self.top, JOURNAL)?;
            Ok(fsync(&self.top)?)
        };
        write().map_err(|source| DirectoryError::Switch { action: "write", path: self.path.join(JOURNAL), source })?;
        self.phase = phase;
        Ok(())
    }

    fn drop_journal(&self) -> Result<(), DirectoryError> {
        match unlinkat(&self.top, JOURNAL, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => {
                return Err(DirectoryError::Switch { action: "remove", path: self.path.join(JOURNAL), source: source.into() });
            }
        }
        fsync(&self.top).map_err(|e| self.failed("write through", c"", e))
    }

    fn with_sides<T>(&self, work: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        let new = openat(&self.top, &self.new, DIRECTORY, Mode::empty())?;
        let old = openat(&self.top, &self.old, DIRECTORY, Mode::empty())?;
        work(self.top.as_fd(), new.as_fd(), old.as_fd())
    }

    fn with_new<T>(&self, work: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        work(openat(&self.top, &self.new, DIRECTORY, Mode::empty())?.as_fd())
    }

    fn failed(&self, action: &'static str, name: &CStr, source: Errno) -> DirectoryError {
        DirectoryError::Switch { action, path: self.path.join(OsStr::from_bytes(name.to_bytes())), source: source.into() }
    }
}

fn parse(text: &str) -> Option<(&str, Phase, Time)> {
    let mut lines = text.lines();
    if lines.next() != Some(MAGIC) {
        return None;
    }
    let suffix = lines.next()?.strip_prefix("suffix ")?;
    let word = lines.next()?.strip_prefix("phase ")?;
    let modified = pax::time(lines.next()?.strip_prefix("modified ")?.as_bytes())?;
    let valid = !suffix.is_empty() && suffix.len() <= 32 && suffix.bytes().all(|b| b.is_ascii_hexdigit());
    let (phase, _) = Phase::ALL.into_iter().find(|(_, known)| *known == word)?;
    valid.then_some((suffix, phase, modified))
}

/// Moves every entry but those of restores; what appears meanwhile is moved too.
fn move_all(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let mut names = Names::read(from)?;
        let mut moved = false;
        while let Some((name, _)) = names.take_next() {
            if is_own(OsStr::from_bytes(name.to_bytes())) {
                continue;
            }
            match move_entry(from, name, to, name) {
                Ok(()) => moved = true,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        if !moved {
            fsync(from)?;
            return fsync(to);
        }
    }
}

/// When a directory was last modified.
pub fn modified_time(directory: BorrowedFd<'_>) -> Result<Time, Errno> {
    let stat = fstat(directory)?;
    Ok(Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) })
}

/// Sets when a directory was last modified, if that is allowed.
pub fn set_modified_time(directory: BorrowedFd<'_>, time: Time) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) },
    };
    may_not(futimens(directory, &times))
}

/// Gives `to` the owner, attributes and mode of `from`, and a time; an owner that may not be set stays.
fn copy_dress(from: BorrowedFd<'_>, to: BorrowedFd<'_>, modified: Time) -> Result<(), Errno> {
    let stat = fstat(from)?;
    let before: Stat = fstat(to)?;
    if (stat.st_uid, stat.st_gid) != (before.st_uid, before.st_gid) {
        match fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    let mut reader = AttributeReader::default();
    let wanted = reader.read(Subject::Open(from))?;
    for (name, _) in reader.read(Subject::Open(to))? {
        if !wanted.iter().any(|(other, _)| *other == name) {
            may_not(fremovexattr(to, name.as_slice()))?;
        }
    }
    for (name, value) in &wanted {
        may_not(attributes::set(Subject::Open(to), name, value))?;
    }
    may_not(fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)))?;
    set_modified_time(to, modified)
}

/// What only the owner or root may do is left undone.
fn may_not(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}
