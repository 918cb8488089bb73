//! Unpacks an archive below a directory handle and nowhere else.
//!
//! Every name is taken apart and opened component by component without following links; everything is created anew, so that an entry can
//! neither overwrite nor lead through another one. An archive that tries is refused as a whole.

use std::collections::HashSet;
use std::ffi::CString;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat, fchmod, fchown, fstat,
    ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};
use tokio_util::sync::CancellationToken;

use super::DirectoryError;
use super::archive::read::Reader;
use super::archive::{Member, MemberKind, Time, shown};
use super::attributes::{self, Subject};
use super::fingerprint::Fingerprint;
use super::flush::Flush;
use super::keeps::Keeps;
use super::ladder::{DIRECTORY, Ladder, identity};
use super::pick::{Borrowed, Choice, Pick};
use super::warnings::Warnings;

/// Longest name of a single entry that any file system of Linux takes, in bytes.
const NAME_MAX: usize = 255;

/// Most memory that is taken for what is to be set later, or is remembered, of an archive: a real tree needs some MiB. Bounds what a hostile
/// one can claim, each of whose directories may have names and attributes of many MiB.
pub const MAX_REMEMBERED: usize = 64 << 20;

/// What was unpacked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
    /// By how much the tree is known to differ from the archive: what could not be set or created, each with a warning.
    pub known: Fingerprint,
}

/// A directory that is being filled.
struct Level {
    /// Length of its path in [`Unpacker::path`].
    path: usize,
    end: End,
}

/// What is set when the last entry of a directory is in place.
enum End {
    /// All that the archive says.
    Member(Box<Member>),
    /// The time that it had before it was entered once more.
    Time(Time),
    /// The root: set at the very end.
    Root,
}

struct Unpacker {
    keeps: Keeps,
    ladder: Ladder<Level>,
    /// Of the directory at the bottom of the ladder, without a slash at its end.
    path: Vec<u8>,
    root: Option<Member>,
    warnings: Warnings,
    unpacked: Unpacked,
    /// Devices that only root may create: links to them cannot be made either.
    skipped: HashSet<Vec<u8>>,
    /// Bytes that `ladder` and `skipped` take.
    remembered: usize,
}

/// Unpacks the whole stream into `staging`, an empty directory. Only a part of it is written through to the disk yet.
///
/// # Errors
/// [`DirectoryError`]; what was unpacked so far is the caller's to remove.
pub fn unpack(stream: impl BufRead, staging: OwnedFd, cancel: &CancellationToken) -> Result<(Unpacked, Vec<String>), DirectoryError> {
    unpack_each(stream, staging, cancel, Unpacker::member)
}

/// As [`unpack`], of what `pick` wants only. What it says is borrowed is still to be unpacked, by [`unpack_borrowed`].
///
/// # Errors
/// As [`unpack`].
pub fn unpack_picked(
    stream: impl BufRead,
    staging: OwnedFd,
    pick: &mut Pick,
    cancel: &CancellationToken,
) -> Result<(Unpacked, Vec<String>), DirectoryError> {
    unpack_each(stream, staging, cancel, |unpacker, member, reader| {
        let choice = pick.look(&member);
        if pick.is_overfull() {
            return Err(refused(&member.path, "is one name too many to be remembered: restore the whole archive"));
        }
        match choice {
            Choice::Leave => Ok(()),
            Choice::Take(above) => {
                above.into_iter().try_for_each(|directory| unpacker.member(directory, reader))?;
                unpacker.member(member, reader)
            }
            Choice::Borrow(above) => above.into_iter().try_for_each(|directory| unpacker.member(directory, reader)),
        }
    })
}

/// Unpacks files under other names than their first, from the same archive read once more, into what [`unpack_picked`] has made.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_borrowed(
    stream: impl BufRead,
    staging: OwnedFd,
    mut borrowed: Borrowed,
    cancel: &CancellationToken,
) -> Result<(Unpacked, Vec<String>), DirectoryError> {
    let done = unpack_each(stream, staging, cancel, |unpacker, member, reader| {
        if member.path.is_empty() {
            return unpacker.member(member, reader);
        }
        let mut names = borrowed.remove(&member.path).unwrap_or_default().into_iter();
        let Some(name) = names.next() else { return Ok(()) };
        let links: Vec<Member> = names.map(|path| Member { path, kind: MemberKind::HardLink(name.clone()), ..Member::default() }).collect();
        unpacker.member(Member { path: name, ..member }, reader)?;
        links.into_iter().try_for_each(|link| unpacker.member(link, reader))
    })?;
    match borrowed.into_values().flatten().next() {
        Some(path) => Err(refused(&path, "is a hard link to what is not in it")),
        None => Ok(done),
    }
}

/// Gives each member of the archive to `each`, and finishes what that made.
fn unpack_each<R: BufRead>(
    stream: R,
    staging: OwnedFd,
    cancel: &CancellationToken,
    mut each: impl FnMut(&mut Unpacker, Member, &mut Reader<R>) -> Result<(), DirectoryError>,
) -> Result<(Unpacked, Vec<String>), DirectoryError> {
    let failed = |error: Errno| DirectoryError::Write { path: ".".to_owned(), source: error.into() };
    let handle = staging.try_clone().map_err(|source| DirectoryError::Write { path: ".".to_owned(), source })?;
    let keeps = Keeps::of(handle.as_fd()).map_err(failed)?;
    let mut flush = Flush::start(handle.try_clone().map_err(|source| DirectoryError::Write { path: ".".to_owned(), source })?);
    let mut unpacker = Unpacker {
        keeps,
        ladder: Ladder::new(staging, Level { path: 0, end: End::Root }).map_err(failed)?,
        path: Vec::new(),
        root: None,
        warnings: Warnings::default(),
        unpacked: Unpacked::default(),
        skipped: HashSet::new(),
        remembered: 0,
    };
    let mut reader = Reader::new(stream);
    while let Some(member) = reader.next_member().map_err(DirectoryError::Archive)? {
        if cancel.is_cancelled() {
            return Err(failed(Errno::CANCELED));
        }
        each(&mut unpacker, member, &mut reader)?;
        flush.look(&unpacker.unpacked);
    }
    while unpacker.ladder.depth() > 0 {
        unpacker.up()?;
    }
    match unpacker.root.take() {
        Some(root) => unpacker.dress(Subject::Open(handle.as_fd()), &root)?,
        None => return Err(refused(b"", "is not in it")),
    }
    flush.finish().map_err(failed)?;
    Ok((unpacker.unpacked, unpacker.warnings.into_sentences()))
}

fn refused(path: &[u8], problem: &'static str) -> DirectoryError {
    DirectoryError::Refused { path: shown(path), problem }
}

fn write_error(path: &[u8], error: Errno) -> DirectoryError {
    DirectoryError::Write { path: shown(path), source: error.into() }
}

/// Directory and name of a path that stays below the root.
pub fn split(path: &[u8]) -> Result<(&[u8], CString), &'static str> {
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" => return Err("is an absolute path or has an empty part"),
            b"." | b".." => return Err("has a part that leads elsewhere"),
            _ if part.len() > NAME_MAX => return Err("has a part of more than 255 bytes"),
            _ if part.contains(&0) => return Err("has a NUL in it"),
            _ => {}
        }
    }
    let slash = path.iter().rposition(|b| *b == b'/');
    let name = CString::new(&path[slash.map_or(0, |at| at + 1)..]).map_err(|_| "has a NUL in it")?;
    Ok((&path[..slash.unwrap_or(0)], name))
}

/// Opens a directory below `from`, component by component.
pub fn descend(from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at = from.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        at = openat(&at, part, DIRECTORY, Mode::empty())?;
    }
    Ok(at)
}

impl Unpacker {
    fn member<R: BufRead>(&mut self, member: Member, reader: &mut Reader<R>) -> Result<(), DirectoryError> {
        self.unpacked.entries += 1;
        if member.path.is_empty() {
            if member.kind != MemberKind::Directory || self.root.is_some() {
                return Err(refused(b"", "is in it twice, or is not a directory"));
            }
            self.root = Some(member);
            return Ok(());
        }
        let (directory, name) = split(&member.path).map_err(|problem| refused(&member.path, problem))?;
        self.go_to(directory, &member.path)?;
        match &member.kind {
            MemberKind::Directory => self.directory(&name, member),
            MemberKind::File => {
                let size = member.size;
                self.file(&name, &member, size, &[(0, size)], reader)
            }
            MemberKind::Sparse { real, extents } => self.file(&name, &member, *real, extents, reader),
            MemberKind::HardLink(target) => self.hard_link(&name, &member, target),
            _ => self.special(&name, &member),
        }
    }

    /// Leaves directories and enters others until `directory` is at the bottom.
    fn go_to(&mut self, directory: &[u8], member: &[u8]) -> Result<(), DirectoryError> {
        while !holds(&self.path, directory) {
            self.up()?;
        }
        let below = directory[self.path.len()..].split(|b| *b == b'/').filter(|part| !part.is_empty());
        for part in below {
            let handle = openat(self.ladder.handle(), part, DIRECTORY, Mode::empty()).map_err(|error| match error {
                Errno::NOENT => refused(member, "lies in a directory that does not come before it"),
                Errno::NOTDIR | Errno::LOOP => refused(member, "leads through something that is not a directory"),
                error => write_error(member, error),
            })?;
            let stat = fstat(&handle).map_err(|e| write_error(member, e))?;
            self.extend_path(part);
            let time = Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
            self.ladder.push(handle, identity(&stat), Level { path: self.path.len(), end: End::Time(time) });
        }
        Ok(())
    }

    fn remember(&mut self, path: &[u8], bytes: usize) -> Result<(), DirectoryError> {
        self.remembered += bytes;
        if self.remembered > MAX_REMEMBERED {
            return Err(refused(path, "lies below directories of more attributes than any real tree has, or is one device too many"));
        }
        Ok(())
    }

    fn skip(&mut self, path: &[u8]) -> Result<(), DirectoryError> {
        self.remember(path, path.len() + size_of::<Vec<u8>>())?;
        self.skipped.insert(path.to_owned());
        Ok(())
    }

    fn extend_path(&mut self, part: &[u8]) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(part);
    }

    /// Leaves the directory at the bottom, which gets its owner, attributes, mode and time now: what came into it has changed them.
    fn up(&mut self) -> Result<(), DirectoryError> {
        let left = self.ladder.pop().map_err(|e| write_error(&self.path, e))?;
        if let Some((handle, level)) = left {
            match level.end {
                End::Member(member) => {
                    self.remembered = self.remembered.saturating_sub(member.memory());
                    self.dress(Subject::Open(handle.as_fd()), &member)?;
                }
                End::Time(time) => futimens(&handle, &times(time)).map_err(|e| write_error(&self.path, e))?,
                End::Root => {}
            }
        }
        let length = self.ladder.value().path;
        self.path.truncate(length);
        Ok(())
    }

    fn directory(&mut self, name: &CString, member: Member) -> Result<(), DirectoryError> {
        self.remember(&member.path, member.memory())?;
        let failed = |error| created(&member.path, error);
        mkdirat(self.ladder.handle(), name, Mode::RWXU).map_err(failed)?;
        let handle = openat(self.ladder.handle(), name, DIRECTORY, Mode::empty()).map_err(failed)?;
        let identity = identity(&fstat(&handle).map_err(failed)?);
        self.extend_path(name.to_bytes());
        self.ladder.push(handle, identity, Level { path: self.path.len(), end: End::Member(Box::new(member)) });
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        name: &CString,
        member: &Member,
        size: u64,
        extents: &[(u64, u64)],
        reader: &mut Reader<R>,
    ) -> Result<(), DirectoryError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // nobody else may enter the staging directory, so that the mode may be there from the first; what it lacks is added at the end
        let mode = Mode::from_raw_mode(member.mode & 0o777) | Mode::RUSR | Mode::WUSR;
        let file = openat(self.ladder.handle(), name, flags, mode).map_err(|e| created(&member.path, e))?;
        if matches!(member.kind, MemberKind::Sparse { .. }) {
            ftruncate(&file, size).map_err(|e| write_error(&member.path, e))?;
        }
        for (offset, length) in extents {
            let mut done = 0;
            while done < *length {
                let data = reader.data().map_err(DirectoryError::Archive)?;
                let got = usize::try_from(length - done).map_or(data.len(), |left| left.min(data.len()));
                write_at(file.as_fd(), &data[..got], offset + done).map_err(|e| write_error(&member.path, e))?;
                reader.consume(got);
                done += got as u64;
            }
            self.unpacked.bytes += length;
        }
        self.dress(Subject::Open(file.as_fd()), member)
    }

    fn hard_link(&mut self, name: &CString, member: &Member, target: &[u8]) -> Result<(), DirectoryError> {
        let (directory, first) = split(target).map_err(|_| refused(&member.path, "is a hard link that leads out of the directory"))?;
        let from = descend(self.ladder.root(), directory);
        match from.and_then(|from| linkat(&from, &first, self.ladder.handle(), name, AtFlags::empty())) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) if self.skipped.contains(target) => {
                self.skip(&member.path)?;
                self.unpacked.known.subtract(member);
                self.warnings
                    .add("not created: only root may", || format!("`{}` was not created: it links to a device", shown(&member.path)));
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM) => {
                Err(refused(&member.path, "is a hard link to what is not a file that comes before it"))
            }
            Err(error) => Err(created(&member.path, error)),
        }
    }

    fn special(&mut self, name: &CString, member: &Member) -> Result<(), DirectoryError> {
        let directory = self.ladder.handle();
        let node = |kind, device: Dev| mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device);
        let result = match &member.kind {
            MemberKind::Symlink(text) => symlinkat(text.as_slice(), directory, name),
            MemberKind::CharDevice { major, minor } => node(FileType::CharacterDevice, makedev(*major, *minor)),
            MemberKind::BlockDevice { major, minor } => node(FileType::BlockDevice, makedev(*major, *minor)),
            _ => node(FileType::Fifo, 0),
        };
        match result {
            Ok(()) => {
                let directory =
                    directory.try_clone_to_owned().map_err(|source| DirectoryError::Write { path: shown(&member.path), source })?;
                self.dress(Subject::Named(directory.as_fd(), name), member)
            }
            Err(Errno::PERM) if matches!(member.kind, MemberKind::CharDevice { .. } | MemberKind::BlockDevice { .. }) => {
                self.skip(&member.path)?;
                self.unpacked.known.subtract(member);
                let path = shown(&member.path);
                self.warnings.add("not created: only root may", || format!("`{path}` was not created: only root may create a device"));
                Ok(())
            }
            Err(error) => Err(created(&member.path, error)),
        }
    }

    /// Owner, then attributes (capabilities are lost when the owner changes), then mode (an ACL changes it), then time.
    fn dress(&mut self, subject: Subject<'_>, member: &Member) -> Result<(), DirectoryError> {
        let failed = |error| write_error(&member.path, error);
        let (uid, gid) = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
        let (owned, created_with) = match subject {
            Subject::Open(file) => {
                let stat = fstat(file).map_err(failed)?;
                let owned = if (stat.st_uid, stat.st_gid) == (member.uid, member.gid) { Ok(()) } else { fchown(file, uid, gid) };
                (owned, Some(stat.st_mode & 0o7777))
            }
            Subject::Named(directory, name) => (chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW), None),
        };
        // what it has in the end, as far as it is not what the archive says
        let mut got: Option<Member> = None;
        let mut mode = member.mode;
        match owned {
            Ok(()) => {}
            Err(Errno::PERM | Errno::INVAL) => {
                // a program must not run with the rights of whoever happens to own it now
                mode &= !0o6000;
                let now = status(subject).map_err(failed)?;
                got = Some(Member { mode, uid: now.st_uid, gid: now.st_gid, ..member.clone() });
                self.warnings.add("owner not set", || {
                    format!("the owner of `{}` ({}:{}) could not be set", shown(&member.path), member.uid, member.gid)
                });
            }
            Err(error) => return Err(failed(error)),
        }
        for (name, value) in &member.xattrs {
            match attributes::set(subject, name, value) {
                Ok(()) => {}
                Err(
                    error @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSPC | Errno::TOOBIG | Errno::NOENT),
                ) => {
                    got.get_or_insert_with(|| member.clone()).xattrs.retain(|(set, _)| set != name);
                    self.warnings.add("attribute not set", || {
                        let reason = io::Error::from(error);
                        format!("the attribute `{}` of `{}` could not be set: {reason}", shown(name), shown(&member.path))
                    });
                }
                Err(error) => return Err(failed(error)),
            }
        }
        // most files got theirs when they were created
        let has_mode = member.xattrs.is_empty() && created_with == Some(mode);
        let (mode, times) = (Mode::from_raw_mode(mode), times(member.modified));
        match subject {
            Subject::Open(file) => {
                if !has_mode {
                    fchmod(file, mode).map_err(failed)?;
                }
                futimens(file, &times).map_err(failed)?;
            }
            Subject::Named(directory, name) => {
                if !matches!(member.kind, MemberKind::Symlink(_)) {
                    chmodat(directory, name, mode, AtFlags::empty()).map_err(failed)?;
                }
                utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            }
        }
        if self.keeps.may_differ(member) {
            let stat = status(subject).map_err(failed)?;
            let wanted = got.as_ref().unwrap_or(member);
            if let Some(kept) = self.keeps.what_it_can(wanted, &stat) {
                self.warnings.add("not kept by the file system", || {
                    format!("the file system does not keep all that the archive says of `{}`: {}", shown(&member.path), self.keeps)
                });
                got = Some(kept);
            }
        }
        if let Some(got) = got {
            self.unpacked.known.subtract_attributes(member);
            self.unpacked.known.add_attributes(&got);
        }
        Ok(())
    }
}

/// Whether `directory` is `outer` or lies below it.
fn holds(outer: &[u8], directory: &[u8]) -> bool {
    outer.is_empty() || directory.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn status(subject: Subject<'_>) -> Result<Stat, Errno> {
    match subject {
        Subject::Open(file) => fstat(file),
        Subject::Named(directory, name) => statat(directory, name, AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn created(path: &[u8], error: Errno) -> DirectoryError {
    match error {
        Errno::EXIST => refused(path, "is in it twice"),
        error => write_error(path, error),
    }
}

fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: i64::from(modified.nanos) },
    }
}

fn write_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
