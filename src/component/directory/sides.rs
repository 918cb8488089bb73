//! The new and the old tree on both sides of the switch.
//!
//! Normally both lie beside the destination, as `.<name>.backstay-new-<suffix>` and `.<name>.backstay-old-<suffix>`, and the switch is one
//! exchange of two names. Where the directory itself cannot be renamed they lie inside it, and [`super::swap`] moves its entries.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, RenameFlags, fsync, mkdirat, open, openat, removexattr, renameat_with, statat, syncfs, unlinkat};
use rustix::io::Errno;

use super::adopt::Record;
use super::archive::Time;
use super::ladder::DIRECTORY;
use super::place::{NEW, OLD, Place};
use super::swap::{Swap, modified_time, set_modified_time};
use super::{DirectoryError, trash};

/// A restore between its first directory and its end. Dropped before the switch, it removes what it made itself.
pub struct Sides {
    place: Place,
    base: OwnedFd,
    target: CString,
    new: CString,
    old: CString,
    /// When the directory that holds the sides was last modified, before they were put there.
    modified: Time,
    state: State,
    record: Record,
    /// Another process has made them, and another may have to go on.
    adopted: bool,
}

/// How far a switch came. A dead restore may leave any of them.
pub enum State {
    Staged,
    /// The old tree has made room and lies under its own name; nothing is in service.
    Vacant,
    /// The new tree is in service; the old one lies where that was staged.
    Exchanged,
    /// The new tree is in service; the old one, if there was one, lies under its own name.
    Switched {
        had_old: bool,
    },
    /// The old tree is in service again; the new one lies where that was kept.
    Returned,
    Swapped(Swap),
    Over,
}

impl Sides {
    /// Makes the empty directory for the new tree. Nobody else may enter it.
    ///
    /// # Errors
    /// [`DirectoryError::Switch`].
    pub fn create(place: Place, suffix: &str) -> Result<Self, DirectoryError> {
        let base_path = place.base().to_owned();
        let failed =
            |source: Errno| DirectoryError::Switch { action: "create a directory in", path: base_path.clone(), source: source.into() };
        let base = open(&base_path, DIRECTORY, Mode::empty()).map_err(failed)?;
        let modified = modified_time(base.as_fd()).map_err(failed)?;
        let target = place.entry();
        let (new, old) = (place.side(NEW, suffix), place.side(OLD, suffix));
        mkdirat(&base, &new, Mode::RWXU).map_err(failed)?;
        let record = Record::intent(&place, suffix);
        let sides = Self { place, base, target, new, old, modified, state: State::Staged, record, adopted: false };
        // an ACL that the directory above hands down would be handed on to everything that is unpacked
        let path = sides.path(&sides.new);
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            match removexattr(&path, name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(sides)
    }

    /// Those that another restore has left.
    pub fn adopted(place: Place, base: OwnedFd, (new, old): (CString, CString), modified: Time, state: State, record: Record) -> Self {
        Self { target: place.entry(), place, base, new, old, modified, state, record, adopted: true }
    }

    /// Notes what tells the new tree, now that it is complete.
    ///
    /// # Errors
    /// [`DirectoryError::Switch`].
    pub fn complete(&mut self, suffix: &str) -> Result<(), DirectoryError> {
        let staging = self.staging()?;
        let record = Record::staged(&self.place, suffix, self.modified, staging.as_fd());
        self.record = record.map_err(|e| self.failed("look at", &self.new, e))?;
        Ok(())
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The directory of the new tree.
    pub fn staging(&self) -> Result<OwnedFd, DirectoryError> {
        openat(&self.base, &self.new, DIRECTORY, Mode::empty()).map_err(|e| self.failed("open", &self.new, e))
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Puts the new tree in service.
    ///
    /// # Errors
    /// The old tree is in service then.
    pub fn publish(&mut self) -> Result<(), DirectoryError> {
        match &self.state {
            State::Staged | State::Swapped(_) => {}
            State::Switched { .. } | State::Over => return Ok(()),
            State::Vacant => {
                rename(self.base.as_fd(), &self.new, &self.target).map_err(|e| self.failed("put in place", &self.target, e))?;
                return self.switched(true);
            }
            State::Exchanged => {
                rename(self.base.as_fd(), &self.new, &self.old).map_err(|e| self.failed("rename", &self.new, e))?;
                return self.switched(true);
            }
            State::Returned => {
                let base = self.base.as_fd();
                renameat_with(base, &self.old, base, &self.target, RenameFlags::EXCHANGE)
                    .map_err(|e| self.failed("exchange", &self.target, e))?;
                return self.switched(true);
            }
        }
        if self.place.inside {
            let mut swap = match std::mem::replace(&mut self.state, State::Over) {
                State::Swapped(swap) => swap,
                state => {
                    self.state = state;
                    Swap::begin(self.base.as_fd(), &self.place.target, &self.new, &self.old, self.modified)?
                }
            };
            let result = swap.run();
            if result.is_err() {
                // if even this fails, both sides stay for the next restore to find by the journal
                self.state = State::Over;
                swap.undo()?;
                self.state = State::Staged;
            } else {
                self.state = State::Swapped(swap);
            }
            return result;
        }
        let had_old = match statat(&self.base, &self.target, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => true,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(self.failed("look at", &self.target, error)),
        };
        if had_old {
            self.exchange(&self.new, &self.old)?;
        } else {
            rename(self.base.as_fd(), &self.new, &self.target).map_err(|e| self.failed("put in place", &self.target, e))?;
        }
        self.switched(had_old)
    }

    fn switched(&mut self, had_old: bool) -> Result<(), DirectoryError> {
        self.state = State::Switched { had_old };
        self.sync()
    }

    /// Puts the tree that lies at `from` in the destination's place, and what was there at `to`: in one step where the file system can.
    fn exchange(&self, from: &CStr, to: &CStr) -> Result<(), DirectoryError> {
        let base = self.base.as_fd();
        match renameat_with(base, from, base, &self.target, RenameFlags::EXCHANGE) {
            Ok(()) => rename(base, from, to).map_err(|error| {
                // both names exist: if not even this succeeds, the old tree lies at `from`, which the next plan reports
                let _ = renameat_with(base, from, base, &self.target, RenameFlags::EXCHANGE);
                self.failed("rename", from, error)
            }),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rename(base, &self.target, to).map_err(|e| self.failed("rename", &self.target, e))?;
                rename(base, from, &self.target).map_err(|error| {
                    let _ = rename(base, to, &self.target);
                    self.failed("put in place", &self.target, error)
                })
            }
            Err(error) => Err(self.failed("exchange", &self.target, error)),
        }
    }

    /// After `publish`: removes the old tree, or says where it is kept.
    ///
    /// # Errors
    /// The new tree is in service; what is left of the old one is named.
    pub fn finish(mut self, keep_old: bool) -> Result<Option<PathBuf>, DirectoryError> {
        let state = std::mem::replace(&mut self.state, State::Over);
        match state {
            State::Switched { had_old: false } | State::Over => return Ok(None),
            State::Staged => {
                self.state = State::Staged;
                return Ok(None);
            }
            _ => {}
        }
        let kept = self.path(&self.old);
        if !keep_old {
            // a crash of the whole machine must not find the new tree empty and the old one gone
            syncfs(&self.base).map_err(|e| self.failed("write through", c"", e))?;
            trash::remove(self.base.as_fd(), &self.old).map_err(|e| self.failed("remove the old tree", &self.old, e))?;
        }
        if let State::Swapped(swap) = state {
            swap.finish()?;
        }
        self.sync()?;
        Ok(keep_old.then_some(kept))
    }

    /// Brings the old tree back and removes the new one.
    ///
    /// # Errors
    /// What could not be brought back is named.
    pub fn undo(mut self) -> Result<(), DirectoryError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => return Ok(()),
            State::Staged => self.remove_unused_old()?,
            State::Vacant => {
                rename(self.base.as_fd(), &self.old, &self.target).map_err(|e| self.failed("bring back", &self.target, e))?;
            }
            State::Exchanged => {
                let base = self.base.as_fd();
                renameat_with(base, &self.new, base, &self.target, RenameFlags::EXCHANGE)
                    .map_err(|e| self.failed("exchange", &self.target, e))?;
            }
            State::Returned => rename(self.base.as_fd(), &self.old, &self.new).map_err(|e| self.failed("rename", &self.old, e))?,
            State::Switched { had_old: true } => self.exchange(&self.old, &self.new)?,
            State::Switched { had_old: false } => {
                rename(self.base.as_fd(), &self.target, &self.new).map_err(|e| self.failed("take out of service", &self.target, e))?;
            }
            State::Swapped(swap) => return swap.undo(),
        }
        self.remove_new().map_err(|e| self.failed("remove the new tree", &self.new, e))?;
        self.sync()
    }

    /// Inside a mount point a directory for the old entries is made before the journal, and removed after it: it is empty then.
    fn remove_unused_old(&self) -> Result<(), DirectoryError> {
        match unlinkat(&self.base, &self.old, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", &self.old, error)),
        }
    }

    /// Leaves no trace of the new tree, not even in the time of a directory that it lay in.
    fn remove_new(&self) -> Result<(), Errno> {
        trash::remove(self.base.as_fd(), &self.new)?;
        if self.place.inside { set_modified_time(self.base.as_fd(), self.modified) } else { Ok(()) }
    }

    fn sync(&self) -> Result<(), DirectoryError> {
        fsync(&self.base).map_err(|e| self.failed("write through", c"", e))
    }

    fn path(&self, name: &CStr) -> PathBuf {
        self.place.base().join(std::ffi::OsStr::from_bytes(name.to_bytes()))
    }

    fn failed(&self, action: &'static str, name: &CStr, source: Errno) -> DirectoryError {
        DirectoryError::Switch { action, path: self.path(name), source: source.into() }
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        if matches!(self.state, State::Staged)
            && !self.adopted
            && let Err(error) = self.remove_new()
        {
            tracing::warn!(path = %self.path(&self.new).display(), %error, "the unfinished new tree could not be removed");
        }
    }
}

/// Renames within one directory and never over something.
pub fn rename(base: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<(), Errno> {
    move_entry(base, from, base, to)
}

/// Renames and never over something, as far as the file system can promise that.
pub fn move_entry(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, new_name: &CStr) -> Result<(), Errno> {
    match renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => renameat_with(from, name, to, new_name, RenameFlags::empty()),
            Err(error) => Err(error),
        },
        result => result,
    }
}
