//! Where a restore goes, found out and judged before anything is touched.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open, statvfs};

use super::DirectoryError;
use super::ladder::DIRECTORY;
use super::trash::is_mount_point;

/// Names beside or in the destination that belong to restores.
pub const NEW: &str = ".backstay-new-";
pub const OLD: &str = ".backstay-old-";
pub const JOURNAL: &str = ".backstay-journal";

/// Longest part of the destination's own name in the names beside it, in bytes: the whole must stay below 255.
const STEM: usize = 200;

/// A destination that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Without symbolic links.
    pub target: PathBuf,
    pub parent: PathBuf,
    pub name: OsString,
    pub exists: bool,
    pub empty: bool,
    /// The directory itself cannot be renamed (something is mounted on it, or its parent may not be written): its entries are swapped.
    pub inside: bool,
}

impl Place {
    /// Finds out about `path`.
    ///
    /// # Errors
    /// [`DirectoryError::Destination`] with the reason why a restore to it would fail or destroy something.
    pub fn find(path: &Path) -> Result<Self, DirectoryError> {
        let refuse = |problem: &str| DirectoryError::Destination { path: path.to_owned(), problem: problem.to_owned() };
        if !path.is_absolute() {
            return Err(refuse("it is not an absolute path"));
        }
        let target = match (path.canonicalize(), path.symlink_metadata()) {
            (Ok(target), _) => target,
            (Err(error), Ok(_)) => return Err(refuse(&format!("it cannot be resolved: {error}"))),
            (Err(_), Err(_)) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(refuse("it does not end in the name of a directory"));
                };
                let parent = parent.canonicalize().map_err(|error| refuse(&format!("the directory above it cannot be used: {error}")))?;
                parent.join(name)
            }
        };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(refuse("it is the root of the file system"));
        };
        let (parent, name) = (parent.to_owned(), name.to_owned());
        let exists = target.symlink_metadata().is_ok();
        let mut place = Self { target, parent, name, exists, empty: true, inside: false };
        if exists {
            let directory = open(&place.target, DIRECTORY, Mode::empty())
                .map_err(|error| refuse(&format!("it cannot be opened as a directory: {}", std::io::Error::from(error))))?;
            place.empty = std::fs::read_dir(&place.target).is_ok_and(|mut entries| entries.next().is_none());
            place.inside = is_mount_point(directory.as_fd()) || !writable(&place.parent);
            if let Some(mount) = mounts_below(&place.target).first() {
                return Err(refuse(&format!("something is mounted inside it, at {}: unmount that first", mount.display())));
            }
        }
        let written = if place.inside { &place.target } else { &place.parent };
        if !writable(written) {
            return Err(refuse(&format!("{} may not be written", written.display())));
        }
        Ok(place)
    }

    /// The directory in which the new and the old tree lie under their names until the restore is over.
    pub fn base(&self) -> &Path {
        if self.inside { &self.target } else { &self.parent }
    }

    /// Its name in the directory above.
    pub fn entry(&self) -> CString {
        CString::new(self.name.as_bytes()).unwrap_or_default()
    }

    /// The name of a tree beside (or in) the destination; `kind` is [`NEW`] or [`OLD`].
    pub fn side(&self, kind: &str, suffix: &str) -> CString {
        let name = [self.prefix(kind).as_slice(), suffix.as_bytes()].concat();
        CString::new(name).unwrap_or_default()
    }

    fn prefix(&self, kind: &str) -> Vec<u8> {
        if self.inside {
            return kind.as_bytes().to_vec();
        }
        let stem = self.name.as_bytes();
        [b".", &stem[..stem.len().min(STEM)], kind.as_bytes()].concat()
    }

    /// What earlier restores that were killed, or that kept the old tree, left behind.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let prefixes = [self.prefix(NEW), self.prefix(OLD)];
        let entries = std::fs::read_dir(self.base()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name()).filter(|name| prefixes.iter().any(|p| name.as_bytes().starts_with(p)));
        let mut found: Vec<PathBuf> = names.map(|name| self.base().join(name)).collect();
        found.sort();
        found
    }

    /// Bytes that may still be written there; `None` when the file system does not tell.
    pub fn available(&self) -> Option<u64> {
        let stat = statvfs(self.base()).ok()?;
        (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn writable(directory: &Path) -> bool {
    accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
        && open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// Mount points below `path`, from proc(5) `mountinfo`, whose fifth field is the mount point with octal escapes.
fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    let points = points.map(|field| PathBuf::from(OsString::from_vec(unescape(field))));
    points.filter(|point| point.starts_with(path) && point != path).collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Whether a name at the top of a mounted directory belongs to a restore.
pub fn is_own(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(NEW.as_bytes()) || name.starts_with(OLD.as_bytes()) || name.starts_with(JOURNAL.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c\"), br"/a b\c\");
    }

    #[test]
    fn what_cannot_be_a_destination_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("written");
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).expect("a link");
        for bad in
            [Path::new("relative"), Path::new("/"), Path::new("/.."), &file, &dir.path().join("no/where"), &dir.path().join("dangling")]
        {
            assert!(Place::find(bad).is_err(), "{}", bad.display());
        }
    }

    #[test]
    fn a_symbolic_link_stands_for_its_target() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("real")).expect("created");
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("a link");
        let place = Place::find(&dir.path().join("link")).expect("usable");
        assert_eq!(place.target, dir.path().canonicalize().expect("it exists").join("real"));
        assert!(place.exists && place.empty && !place.inside);
    }

    #[test]
    fn a_name_of_255_bytes_has_room_for_its_sides() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::find(&dir.path().join("x".repeat(255))).expect("usable");
        assert!(place.side(NEW, "01234567").as_bytes().len() <= 255);
    }
}
