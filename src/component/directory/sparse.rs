//! Where the data of a file lies, asked of the file system (lseek(2), `SEEK_DATA` and `SEEK_HOLE`).

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

use super::archive::MAX_EXTENTS;

/// The data extents of a file with holes; `None` for one without, or when the file system does not tell.
///
/// A hole at the end is told by an extent of length zero at the file's size, as GNU tar has it.
pub fn extents(file: BorrowedFd<'_>, stat: &Stat) -> Option<Vec<(u64, u64)>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if size == 0 || allocated >= size {
        return None;
    }
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < size => data,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let hole = seek(file, SeekFrom::Hole(data)).ok()?.min(size);
        if hole <= data {
            return None;
        }
        let end = if extents.len() + 2 < MAX_EXTENTS { hole } else { size };
        extents.push((data, end - data));
        at = end;
    }
    let stored: u64 = extents.iter().map(|(_, length)| length).sum();
    if stored == size {
        return None;
    }
    if extents.last().is_none_or(|(offset, length)| offset + length < size) {
        extents.push((size, 0));
    }
    Some(extents)
}
