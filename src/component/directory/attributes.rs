//! Extended attributes, ACLs among them (`system.posix_acl_*`), of open files and of names in a directory.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

/// Largest list of names and largest value (limits.h: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX: usize = 64 << 10;

/// Names and values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Whose attributes: of an open file or directory, or of what a name in a directory stands for, a link itself included.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a CStr),
}

/// Reads attributes with one buffer for all files.
pub struct AttributeReader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Default for AttributeReader {
    fn default() -> Self {
        Self { names: vec![0; MAX], value: vec![0; MAX] }
    }
}

impl AttributeReader {
    /// All attributes; none where the file system has no notion of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&mut self, subject: Subject<'_>) -> Result<Attributes, Errno> {
        let listed = match subject {
            Subject::Open(file) => flistxattr(file, &mut self.names[..]),
            Subject::Named(directory, name) => llistxattr(path(directory, name), &mut self.names[..]),
        };
        let length = match listed {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => 0,
            // `/proc` is not mounted: what cannot be opened keeps its attributes to itself
            Err(Errno::NOENT) if matches!(subject, Subject::Named(..)) => 0,
            Err(error) => return Err(error),
        };
        let mut attributes = Vec::new();
        for name in self.names[..length].split_inclusive(|b| *b == 0) {
            let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::IO)?;
            let got = match subject {
                Subject::Open(file) => fgetxattr(file, name, &mut self.value[..]),
                Subject::Named(directory, of) => lgetxattr(path(directory, of), name, &mut self.value[..]),
            };
            match got {
                Ok(length) => attributes.push((name.to_bytes().to_vec(), self.value[..length].to_vec())),
                // removed since they were listed, or listed only (`system.nfs4_acl` of some file systems)
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(attributes)
    }
}

/// Sets an attribute.
///
/// # Errors
/// What the kernel says.
pub fn set(subject: Subject<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    match subject {
        Subject::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
        Subject::Named(directory, of) => lsetxattr(path(directory, of), name, value, XattrFlags::empty()),
    }
}

/// There is no `getxattrat` on the kernels that are in use; the magic links of `/proc` do the same.
fn path(directory: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
    path
}
