//! The one symbolic link that a walk follows.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::ladder::{DIRECTORY, identity};

/// An entry of this name at the top of the tree, if it is an absolute link to a directory that
/// neither lies in the tree nor holds it. authentik 2025.12 and later keep `/data/media` as a link to the volume `/media`.
pub const FOLLOWED: &CStr = c"media";

/// The directory behind [`FOLLOWED`] and the text of the link, if it is to be followed.
pub fn followed(root: BorrowedFd<'_>, name: &CStr) -> Option<(OwnedFd, Vec<u8>)> {
    let text = readlinkat(root, name, Vec::new()).ok()?.into_bytes();
    if !text.starts_with(b"/") {
        return None;
    }
    let target = openat(root, name, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()).ok()?;
    let apart = !lies_in(target.as_fd(), root).ok()? && !lies_in(root, target.as_fd()).ok()?;
    apart.then_some((target, text))
}

/// Whether `inner` is `outer` or lies somewhere below it.
fn lies_in(inner: BorrowedFd<'_>, outer: BorrowedFd<'_>) -> Result<bool, Errno> {
    let outer = identity(&fstat(outer)?);
    let mut at = identity(&fstat(inner)?);
    let mut handle = openat(inner, c".", DIRECTORY | OFlags::PATH, Mode::empty())?;
    loop {
        if at == outer {
            return Ok(true);
        }
        let above = openat(&handle, c"..", DIRECTORY | OFlags::PATH, Mode::empty())?;
        let next = identity(&fstat(&above)?);
        if next == at {
            return Ok(false);
        }
        (handle, at) = (above, next);
    }
}
