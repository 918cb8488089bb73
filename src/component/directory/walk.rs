//! Walks a tree and writes it as an archive: sorted, by directory handles, each file opened once.
//!
//! Invariant: what a header announced is what follows it, whatever happens to the file meanwhile; a file that changed is named in a warning.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::Gitignore;
use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags, Stat, fadvise, fstat, major, minor, openat, readlinkat, statat};
use rustix::io::{Errno, pread};

use super::archive::{Member, MemberKind, Time, padding, shown, write};
use super::attributes::{AttributeReader, Subject};
use super::followed::{FOLLOWED, followed};
use super::ladder::{DIRECTORY, Ladder, Names, identity};
use super::links::Links;
use super::owners::Owners;
use super::pipe::PipeWriter;
use super::place::is_own;
use super::trouble::{Halt, Trouble};
use super::warnings::Warnings;
use super::{DirectoryError, sparse};

/// From this size on the page cache is told what to expect, in bytes.
const LARGE: u64 = 1 << 20;

/// Names that a fact lists.
const LISTED: usize = 100;

/// What was found, for the manifest.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub hard_links: u64,
    pub others: u64,
    pub excluded: u64,
    /// Bytes of file content that were stored; holes are not counted.
    pub bytes: u64,
    pub socket_count: u64,
    /// The first sockets, which are not stored.
    pub sockets: Vec<String>,
    /// Directories on which something is mounted; what is mounted is stored.
    pub mounts: Vec<String>,
    /// The link that was followed, and where it leads.
    pub followed: Option<String>,
}

/// A directory on the way down.
struct Frame {
    names: Names,
    /// Length of its path, with the slash after it.
    path: usize,
    device: u64,
}

/// A walk under way.
pub struct Walk {
    root: PathBuf,
    exclude: Gitignore,
    skip_unreadable: bool,
    out: PipeWriter,
    owners: Owners,
    links: Links,
    attributes: AttributeReader,
    tally: Tally,
    warnings: Warnings,
    /// Relative path of the entry at hand, and its headers.
    path: Vec<u8>,
    header: Vec<u8>,
}

impl Walk {
    /// `root` is for messages; `exclude` is matched against relative paths.
    pub fn new(root: PathBuf, exclude: Gitignore, skip_unreadable: bool, out: PipeWriter) -> Self {
        Self {
            root,
            exclude,
            skip_unreadable,
            out,
            owners: Owners::of_system(),
            links: Links::default(),
            attributes: AttributeReader::default(),
            tally: Tally::default(),
            warnings: Warnings::default(),
            path: Vec::new(),
            header: Vec::new(),
        }
    }

    /// Writes the whole tree and the end mark of the archive. The caller ends the stream: with [`PipeWriter::finish`], or by failing it.
    pub fn run(mut self, root: OwnedFd) -> (PipeWriter, Result<(Tally, Vec<String>), Halt>) {
        let result = self.tree(root);
        (self.out, result.map(|()| (self.tally, self.warnings.into_sentences())))
    }

    fn tree(&mut self, root: OwnedFd) -> Result<(), Halt> {
        let stat = fstat(&root).map_err(|e| self.failed(e))?;
        let member = self.member(&stat, MemberKind::Directory, Subject::Open(root.as_fd())).map_err(|e| self.failed(e))?;
        self.emit(&member)?;
        self.tally.directories += 1;
        let names = Names::read(root.as_fd()).map_err(|e| self.failed(e))?;
        let frame = Frame { names, path: 0, device: stat.st_dev };
        let mut ladder = Ladder::new(root, frame).map_err(|e| self.failed(e))?;
        loop {
            self.out.check()?;
            self.path.truncate(ladder.value().path);
            if let Some((name, kind)) = ladder.value_mut().names.take_next() {
                let name = name.to_owned();
                self.path.extend_from_slice(name.to_bytes());
                self.entry(&mut ladder, name, kind)?;
            } else if ladder.pop().map_err(|e| self.failed(e))?.is_none() {
                break;
            }
        }
        let end = write::end(self.out.written());
        Ok(self.out.write(&end)?)
    }

    fn entry(&mut self, ladder: &mut Ladder<Frame>, name: CString, listed: FileType) -> Result<(), Halt> {
        let mut kind = listed;
        // an entry may be replaced by one of another type between listing and opening; one that goes on doing so is unreadable
        for _ in 0..4 {
            match self.try_entry(ladder, &name, kind) {
                Ok(()) => return Ok(()),
                Err(Trouble::Halt(halt)) => return Err(halt),
                Err(Trouble::Vanished) => {
                    let path = shown(&self.path);
                    self.warnings
                        .add("vanished while the directory was read", || format!("`{path}` vanished while the directory was read"));
                    return Ok(());
                }
                Err(Trouble::Unreadable(error)) => return self.unreadable(error),
                Err(Trouble::Changed) => kind = FileType::Unknown,
            }
        }
        self.unreadable(Errno::AGAIN)
    }

    fn try_entry(&mut self, ladder: &mut Ladder<Frame>, name: &CStr, listed: FileType) -> Result<(), Trouble> {
        let mut kind = listed;
        if kind == FileType::Unknown {
            kind = FileType::from_raw_mode(statat(ladder.handle(), name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        }
        if self.exclude.matched(Path::new(OsStr::from_bytes(&self.path)), kind == FileType::Directory).is_ignore() {
            self.tally.excluded += 1;
            return Ok(());
        }
        if ladder.depth() == 0 && is_own(OsStr::from_bytes(name.to_bytes())) {
            let path = shown(&self.path);
            self.warnings.add("left from a restore", || format!("`{path}` is left from a restore; it is stored like everything else"));
        }
        match kind {
            FileType::RegularFile => self.file(ladder.handle(), name),
            FileType::Directory => {
                let directory = open_quietly(ladder.handle(), name, DIRECTORY)?;
                self.directory(ladder, directory)
            }
            FileType::Symlink if ladder.depth() == 0 && name == FOLLOWED => match followed(ladder.root(), name) {
                Some((directory, target)) => {
                    self.tally.followed = Some(format!("{} -> {}", shown(name.to_bytes()), shown(&target)));
                    self.directory(ladder, directory)
                }
                None => self.special(ladder.handle(), name),
            },
            _ => self.special(ladder.handle(), name),
        }
    }

    fn directory(&mut self, ladder: &mut Ladder<Frame>, directory: OwnedFd) -> Result<(), Trouble> {
        let stat = fstat(&directory)?;
        let member = self.member(&stat, MemberKind::Directory, Subject::Open(directory.as_fd()))?;
        let names = Names::read(directory.as_fd())?;
        self.emit(&member)?;
        self.tally.directories += 1;
        if stat.st_dev != ladder.value().device && self.tally.mounts.len() < LISTED {
            self.tally.mounts.push(shown(&self.path));
        }
        self.path.push(b'/');
        ladder.push(directory, identity(&stat), Frame { names, path: self.path.len(), device: stat.st_dev });
        Ok(())
    }

    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Trouble> {
        // O_NONBLOCK: what was a file when it was listed may be a fifo by now
        let file = open_quietly(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY)?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Trouble::Changed);
        }
        if self.linked(&stat)? {
            return Ok(());
        }
        let extents = sparse::extents(file.as_fd(), &stat);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let kind = extents.clone().map_or(MemberKind::File, |extents| MemberKind::Sparse { real: size, extents });
        let extents = extents.unwrap_or_else(|| vec![(0, size)]);
        let mut member = self.member(&stat, kind, Subject::Open(file.as_fd()))?;
        member.size = extents.iter().map(|(_, length)| length).sum();
        self.emit(&member)?;
        if size >= LARGE {
            // only advice: where it is not taken, nothing is lost
            let _ = fadvise(&file, 0, None, Advice::Sequential);
        }
        self.content(file.as_fd(), &stat, &extents)?;
        self.zeros(padding(member.size) as u64)?;
        if size >= LARGE {
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        self.tally.files += 1;
        self.tally.bytes += member.size;
        self.remember(&stat);
        Ok(())
    }

    /// Exactly the bytes that the header announced. What is not there is written as zeros.
    fn content(&mut self, file: BorrowedFd<'_>, before: &Stat, extents: &[(u64, u64)]) -> Result<(), Halt> {
        let mut missing = 0;
        let mut broken = false;
        for (offset, length) in extents {
            let mut done = 0;
            while done < *length && !broken {
                let space = self.out.space()?;
                let want = usize::try_from(length - done).map_or(space.len(), |left| left.min(space.len()));
                match pread(file, &mut space[..want], offset + done) {
                    Ok(0) => break,
                    Ok(got) => {
                        self.out.advance(got);
                        done += got as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => {
                        self.unreadable(error)?;
                        broken = true;
                    }
                }
            }
            missing += length - done;
            self.zeros(length - done)?;
        }
        if broken {
            let path = &self.path;
            self.warnings.add("stored with zeros", || {
                format!("`{}` is stored with {missing} bytes of zeros in place of what could not be read", shown(path))
            });
        } else {
            self.note_change(file, before, missing);
        }
        Ok(())
    }

    fn note_change(&mut self, file: BorrowedFd<'_>, before: &Stat, missing: u64) {
        let now = fstat(file).ok();
        let moved = |now: &Stat| (now.st_size, now.st_mtime, now.st_mtime_nsec) != (before.st_size, before.st_mtime, before.st_mtime_nsec);
        let path = &self.path;
        if missing > 0 {
            self.warnings.add("shrank while it was read", || {
                format!("`{}` shrank while it was read: {missing} bytes of it are stored as zeros", shown(path))
            });
        } else if let Some(now) = now.filter(moved) {
            self.warnings.add("changed while it was read", || {
                let grown =
                    if now.st_size > before.st_size { format!(": its first {} bytes are stored", before.st_size) } else { String::new() };
                format!("`{}` changed while it was read{grown}", shown(path))
            });
        }
    }

    /// Links, fifos and devices; sockets are only noted.
    fn special(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Trouble> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => MemberKind::Symlink(readlinkat(directory, name, Vec::new())?.into_bytes()),
            FileType::Fifo => MemberKind::Fifo,
            FileType::CharacterDevice => MemberKind::CharDevice { major: device.0, minor: device.1 },
            FileType::BlockDevice => MemberKind::BlockDevice { major: device.0, minor: device.1 },
            FileType::Socket => {
                self.tally.socket_count += 1;
                if self.tally.sockets.len() < LISTED {
                    self.tally.sockets.push(shown(&self.path));
                }
                return Ok(());
            }
            _ => return Err(Trouble::Changed),
        };
        if self.linked(&stat)? {
            return Ok(());
        }
        let member = self.member(&stat, kind, Subject::Named(directory, name))?;
        self.emit(&member)?;
        match member.kind {
            MemberKind::Symlink(_) => self.tally.symlinks += 1,
            _ => self.tally.others += 1,
        }
        self.remember(&stat);
        Ok(())
    }

    /// Stores another name of a file that is in the archive already.
    fn linked(&mut self, stat: &Stat) -> Result<bool, Trouble> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.find(identity(stat)) else { return Ok(false) };
        let member = Member { xattrs: Vec::new(), ..self.bare_member(stat, MemberKind::HardLink(first)) };
        self.emit(&member)?;
        self.tally.hard_links += 1;
        Ok(true)
    }

    fn remember(&mut self, stat: &Stat) {
        if stat.st_nlink > 1 {
            #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
            self.links.add(identity(stat), u64::from(stat.st_nlink), &self.path);
        }
    }

    fn member(&mut self, stat: &Stat, kind: MemberKind, subject: Subject<'_>) -> Result<Member, Errno> {
        let xattrs = self.attributes.read(subject)?;
        Ok(Member { xattrs, ..self.bare_member(stat, kind) })
    }

    fn bare_member(&self, stat: &Stat, kind: MemberKind) -> Member {
        Member {
            path: self.path.clone(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: self.owners.user(stat.st_uid).to_vec(),
            group: self.owners.group(stat.st_gid).to_vec(),
            modified: Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            xattrs: Vec::new(),
            size: 0,
        }
    }

    fn emit(&mut self, member: &Member) -> Result<(), Halt> {
        self.header.clear();
        write::member(member, &mut self.header).map_err(|write::TooLarge| {
            Halt::Failed(DirectoryError::AttributesTooLarge { root: self.root.clone(), path: shown(&self.path) })
        })?;
        Ok(self.out.write(&self.header)?)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), Halt> {
        while count > 0 {
            let space = self.out.space()?;
            let length = usize::try_from(count).map_or(space.len(), |count| count.min(space.len()));
            space[..length].fill(0);
            self.out.advance(length);
            count -= length as u64;
        }
        Ok(())
    }

    /// Fails, or notes it and goes on if the user chose so. Running out of handles or memory is nobody's choice.
    fn unreadable(&mut self, error: Errno) -> Result<(), Halt> {
        if !self.skip_unreadable || matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM) {
            return Err(self.failed(error));
        }
        let path = &self.path;
        self.warnings.add("could not be read", || format!("`{}` could not be read: {}", shown(path), io::Error::from(error)));
        Ok(())
    }

    fn failed(&self, error: Errno) -> Halt {
        Halt::Failed(DirectoryError::Read { root: self.root.clone(), path: shown(&self.path), source: error.into() })
    }
}

/// Opens without leaving a trace in the access time, where that is allowed: to the owner and to root.
fn open_quietly(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        result => result,
    }
}
