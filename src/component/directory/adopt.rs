//! Takes over the trees of a restore that died.
//!
//! The new tree is known by the inode of its root, whichever name it bears, so that the names and that number say how far a switch came:
//!
//! ```text
//! destination   …new-…   …old-…      beside the destination
//! old           NEW      -           staged; or nothing was there, and nothing is
//! -             NEW      old         the old one has made room (file systems that cannot exchange two names)
//! NEW           old      -           exchanged, the old one without its name yet
//! NEW           -        old         switched
//! old           -        NEW         on the way back
//! ```
//!
//! Inside a mount point the journal of the swap says it.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, open, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::DirectoryError;
use super::archive::{Time, pax};
use super::ladder::DIRECTORY;
use super::place::{NEW, OLD, Place};
use super::sides::{Sides, State};
use super::swap::{Swap, modified_time};

/// What the journal says of a restore of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The destination, without symbolic links; absent where that is not UTF-8.
    #[serde(default)]
    target: Option<PathBuf>,
    suffix: String,
    inside: bool,
    /// Whether there was something to replace.
    existed: bool,
    /// Of the root of the new tree; absent until that is complete.
    #[serde(default)]
    inode: Option<u64>,
    /// When the directory that holds both trees was last modified before, and the root of the new tree: seconds since 1970.
    #[serde(default)]
    modified: Option<String>,
    #[serde(default)]
    new_modified: Option<String>,
}

impl Record {
    /// Before anything is made.
    pub fn intent(place: &Place, suffix: &str) -> Self {
        Self {
            target: place.target.to_str().map(PathBuf::from),
            suffix: suffix.to_owned(),
            inside: place.inside,
            existed: place.exists,
            inode: None,
            modified: None,
            new_modified: None,
        }
    }

    /// With the new tree complete, its root open as `staging`.
    pub fn staged(place: &Place, suffix: &str, modified: Time, staging: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self {
            inode: Some(rustix::fs::fstat(staging)?.st_ino),
            modified: Some(pax::put_time(modified)),
            new_modified: Some(pax::put_time(modified_time(staging)?)),
            ..Self::intent(place, suffix)
        })
    }
}

/// The trees of that restore, as they lie now. `path` is the destination as it is configured.
///
/// # Errors
/// [`DirectoryError::Switch`] when they cannot be looked at, [`DirectoryError::Journal`] when a swap's journal cannot be understood,
/// [`DirectoryError::Destination`] when the destination is gone.
pub fn adopt(record: &Record, path: &Path) -> Result<Sides, DirectoryError> {
    let place = place(record, path)?;
    let base_path = place.base().to_owned();
    let failed = |source: Errno| DirectoryError::Switch { action: "look into", path: base_path.clone(), source: source.into() };
    let base = open(place.base(), DIRECTORY, Mode::empty()).map_err(failed)?;
    let time = |text: &Option<String>| text.as_deref().and_then(|text| pax::time(text.as_bytes()));
    let modified = match time(&record.modified) {
        Some(modified) => modified,
        None => modified_time(base.as_fd()).map_err(failed)?,
    };
    let (new, old) = (place.side(NEW, &record.suffix), place.side(OLD, &record.suffix));
    let state = if place.inside {
        match Swap::left(&place.target, &record.suffix, time(&record.new_modified))? {
            Some(swap) => State::Swapped(swap),
            None => State::Staged,
        }
    } else {
        let root = |name: &CStr| inode(base.as_fd(), name).map_err(failed);
        let found = Found { target: root(&place.entry())?, new: root(&new)?, old: root(&old)? };
        found.state(record)
    };
    Ok(Sides::adopted(place, base, (new, old), modified, state, record.clone()))
}

/// Where the three names lead.
struct Found {
    target: Option<u64>,
    new: Option<u64>,
    old: Option<u64>,
}

impl Found {
    fn state(&self, record: &Record) -> State {
        let ours = |inode: Option<u64>| inode.is_some() && inode == record.inode;
        if ours(self.target) {
            // an old tree that should be there and is not must be missed, not passed over
            return if self.new.is_some() { State::Exchanged } else { State::Switched { had_old: self.old.is_some() || record.existed } };
        }
        if ours(self.old) {
            return State::Returned;
        }
        if self.target.is_none() && self.old.is_some() { State::Vacant } else { State::Staged }
    }
}

fn inode(base: BorrowedFd<'_>, name: &CStr) -> Result<Option<u64>, Errno> {
    match statat(base, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// As it was then: whether it can be renamed may have changed since.
fn place(record: &Record, path: &Path) -> Result<Place, DirectoryError> {
    let Some(target) = record.target.clone() else {
        return Ok(Place { inside: record.inside, ..Place::find(path)? });
    };
    let gone = || DirectoryError::Destination { path: target.clone(), problem: "the directory above it is gone".to_owned() };
    let parent = target.parent().filter(|parent| parent.is_dir()).ok_or_else(gone)?.to_owned();
    let name = target.file_name().unwrap_or_else(|| OsStr::from_bytes(b"")).to_owned();
    Ok(Place { exists: record.existed, empty: false, inside: record.inside, parent, name, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_TREE: u64 = 7;
    const OLD_TREE: u64 = 3;

    fn check(target: Option<u64>, new: Option<u64>, old: Option<u64>, existed: bool, expected: &str) {
        let record = Record {
            target: None,
            suffix: "0000000a".into(),
            inside: false,
            existed,
            inode: Some(NEW_TREE),
            modified: None,
            new_modified: None,
        };
        let state = Found { target, new, old }.state(&record);
        let name = match state {
            State::Staged => "staged",
            State::Vacant => "vacant",
            State::Exchanged => "exchanged",
            State::Switched { had_old: true } => "switched",
            State::Switched { had_old: false } => "created",
            State::Returned => "returned",
            State::Swapped(_) | State::Over => "other",
        };
        assert_eq!(name, expected, "{target:?} {new:?} {old:?}");
    }

    #[test]
    fn the_names_say_how_far_a_switch_came() {
        let (ours, theirs) = (Some(NEW_TREE), Some(OLD_TREE));
        check(theirs, ours, None, true, "staged");
        check(None, ours, None, false, "staged");
        check(None, ours, theirs, true, "vacant");
        check(ours, theirs, None, true, "exchanged");
        check(ours, None, theirs, true, "switched");
        check(ours, None, None, false, "created");
        check(theirs, None, ours, true, "returned");
        // undone already
        check(theirs, None, None, true, "staged");
        // the old one was lost: to undo must fail, not to take the new one away too
        check(ours, None, None, true, "switched");
    }
}
