//! Removes a tree: by handles, however deep, and never what is mounted in it.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, StatxAttributes, StatxFlags, chmodat, fchmod, fstat, openat, statx, unlinkat};
use rustix::io::Errno;

use super::ladder::{DIRECTORY, Ladder, Names, identity};

/// Removes `name` and everything in it; what is not there is removed already.
///
/// # Errors
/// What the kernel says; `EXDEV` for a directory on which something is mounted, whose content was not touched.
pub fn remove(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let root = match open_to_empty(parent, name) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, name, AtFlags::empty()),
        Err(error) => return Err(error),
    };
    empty(root)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn empty(root: OwnedFd) -> Result<(), Errno> {
    let device = fstat(&root)?.st_dev;
    let names = Names::read(rustix::fd::AsFd::as_fd(&root))?;
    let mut ladder = Ladder::new(root, (names, CString::default()))?;
    loop {
        if let Some((name, kind)) = ladder.value_mut().0.take_next() {
            let name = name.to_owned();
            if !matches!(kind, FileType::Directory | FileType::Unknown) {
                gone(unlinkat(ladder.handle(), &name, AtFlags::empty()))?;
                continue;
            }
            match open_to_empty(ladder.handle(), &name) {
                Ok(child) => {
                    let stat = fstat(&child)?;
                    if stat.st_dev != device {
                        return Err(Errno::XDEV);
                    }
                    let names = Names::read(rustix::fd::AsFd::as_fd(&child))?;
                    ladder.push(child, identity(&stat), (names, name));
                }
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => gone(unlinkat(ladder.handle(), &name, AtFlags::empty()))?,
                Err(error) => return Err(error),
            }
        } else if let Some((child, (_, name))) = ladder.pop()? {
            drop(child);
            gone(unlinkat(ladder.handle(), &name, AtFlags::REMOVEDIR))?;
        } else {
            return Ok(());
        }
    }
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Opens a directory whose entries are to be removed, which its owner may have forbidden to himself.
fn open_to_empty(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let directory = match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            openat(parent, name, DIRECTORY, Mode::empty())?
        }
        result => result?,
    };
    if is_mount_point(rustix::fd::AsFd::as_fd(&directory)) {
        return Err(Errno::XDEV);
    }
    if Mode::from_raw_mode(fstat(&directory)?.st_mode).contains(Mode::RWXU) {
        return Ok(directory);
    }
    // where this fails, removing an entry fails too and says why
    let _ = fchmod(&directory, Mode::RWXU);
    Ok(directory)
}

/// Whether something is mounted here, bind mounts of the same file system included (statx(2), `STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
pub fn is_mount_point(directory: BorrowedFd<'_>) -> bool {
    statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
