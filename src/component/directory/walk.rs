//! Walks a tree and writes it as an archive: sorted, by directory handles, each file opened once, small ones read ahead.
//!
//! ```text
//! Scout (what comes next) → Ahead (threads that read small files) → Walk (in order) → PipeWriter
//! ```
//!
//! Invariant: what a header announced is what follows it, whatever happens to the file meanwhile; a file that changed is named in a warning.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use ignore::gitignore::Gitignore;
use rustix::fs::{AtFlags, FileType, Stat, fstat, major, minor, readlinkat, statat};
use rustix::io::{Errno, pread};

use super::ahead::{Ahead, Died, THREADS};
use super::archive::{Member, MemberKind, padding, shown, write};
use super::attributes::{AttributeReader, Subject};
use super::cache::Cache;
use super::content::Content;
use super::fingerprint::Fingerprint;
use super::ladder::{DIRECTORY, identity};
use super::links::Links;
use super::owners::Owners;
use super::pipe::PipeWriter;
use super::place::is_own;
use super::scout::{Directory, Found, Scout, What, excluded, last, open_quietly, resolve};
use super::small::{AT_HAND, Batch, Change, FILE, Outcome, Shared, SmallFiles, describe};
use super::trouble::{Halt, Trouble};
use super::warnings::Warnings;
use super::watch::{Seat, Watch};
use super::{DirectoryError, DirectoryOptions, sparse};
use crate::component::Detail;

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

/// What a walk has to tell.
#[derive(Debug)]
pub struct Walked {
    pub tally: Tally,
    pub warnings: Vec<String>,
    /// Of what was stored, which is what a file was before it changed.
    pub print: Fingerprint,
}

/// A walk under way.
pub struct Walk {
    root: PathBuf,
    exclude: Arc<Gitignore>,
    skip_unreadable: bool,
    out: PipeWriter,
    shared: Arc<Shared>,
    links: Links,
    attributes: AttributeReader,
    tally: Tally,
    print: Fingerprint,
    warnings: Warnings,
    seat: Seat,
    /// Relative path of the entry at hand, and its headers.
    path: Vec<u8>,
    header: Vec<u8>,
}

impl Walk {
    /// `exclude` is matched against relative paths; `watch` is told what it is at.
    pub fn new(options: DirectoryOptions, exclude: Gitignore, out: PipeWriter, watch: Watch) -> Self {
        let seat = watch.seat();
        let shared = Shared { owners: Owners::of_system(), cache: Cache::default(), detail: options.fingerprint, watch };
        Self {
            root: options.path,
            exclude: Arc::new(exclude),
            skip_unreadable: options.skip_unreadable,
            out,
            shared: Arc::new(shared),
            links: Links::default(),
            attributes: AttributeReader::default(),
            tally: Tally::default(),
            print: Fingerprint::default(),
            warnings: Warnings::default(),
            seat,
            path: Vec::new(),
            header: Vec::new(),
        }
    }

    /// Writes the whole tree and the end mark of the archive. The caller ends the stream: with [`PipeWriter::finish`], or by failing it.
    pub fn run(mut self, root: OwnedFd) -> (PipeWriter, Result<Walked, Halt>) {
        let result = self.tree(root);
        (self.out, result.map(|()| Walked { tally: self.tally, warnings: self.warnings.into_sentences(), print: self.print }))
    }

    fn tree(&mut self, root: OwnedFd) -> Result<(), Halt> {
        let ahead = Ahead::new(Scout::new(root, Arc::clone(&self.exclude)).watched(self.shared.watch.seat()));
        let result = thread::scope(|scope| {
            // threads are joined when the scope ends, also by a panic: they must be told before
            let close = Close(&ahead);
            let start = || {
                let shared = Arc::clone(&self.shared);
                thread::Builder::new().name("read-ahead".to_owned()).spawn_scoped(scope, || ahead.read_ahead(shared))
            };
            // as many as the system allows; the walk does what nobody does for it
            let threads: Vec<_> = (0..THREADS).map_while(|_| start().ok()).collect();
            let result = self.batches(&ahead);
            drop(close);
            if threads.into_iter().any(|thread| thread.join().is_err()) { Err(self.died()) } else { result }
        });
        result?;
        let end = write::end(self.out.written());
        Ok(self.out.write(&end)?)
    }

    fn batches(&mut self, ahead: &Ahead) -> Result<(), Halt> {
        let mut files = SmallFiles::new(Arc::clone(&self.shared), AT_HAND);
        while let Some(batch) = ahead.next(&mut files).map_err(|Died| self.died())? {
            self.batch(batch)?;
        }
        Ok(())
    }

    fn batch(&mut self, batch: Batch) -> Result<(), Halt> {
        self.print.merge(&batch.print);
        let mut sent = 0;
        for (found, outcome) in batch.entries {
            self.out.check()?;
            match outcome {
                Outcome::Left => {
                    self.found(found)?;
                    self.seat.rest();
                }
                Outcome::Read { bytes, size, change } => {
                    self.path = found.path;
                    self.note_unusual();
                    self.out.write(&batch.bytes[sent..sent + bytes])?;
                    sent += bytes;
                    self.note_change(change);
                    self.tally.files += 1;
                    self.tally.bytes += size;
                }
            }
        }
        Ok(())
    }

    /// Stores what no thread has read ahead.
    fn found(&mut self, found: Found) -> Result<(), Halt> {
        self.path = found.path;
        self.seat.at(&self.path);
        let stored = match found.what {
            What::Directory(directory) => return self.directory(*directory),
            What::Entry { within, listed } => {
                self.note_unusual();
                self.entry(within.as_fd(), listed)
            }
            What::Excluded => {
                self.tally.excluded += 1;
                Ok(())
            }
            What::Unreadable(error) => Err(error.into()),
            What::Lost(error) => Err(Halt::Failed(self.read_error(error)).into()),
        };
        match stored {
            Ok(()) => Ok(()),
            Err(Trouble::Halt(halt)) => Err(halt),
            Err(Trouble::Vanished) => {
                let path = &self.path;
                self.warnings
                    .add("vanished while the directory was read", || format!("`{}` vanished while the directory was read", shown(path)));
                Ok(())
            }
            Err(Trouble::Unreadable(error)) => self.unreadable(error),
            Err(Trouble::Changed) => self.unreadable(Errno::AGAIN),
        }
    }

    fn entry(&mut self, within: BorrowedFd<'_>, listed: FileType) -> Result<(), Trouble> {
        let name = CString::new(last(&self.path)).map_err(|_| Errno::INVAL)?;
        let mut kind = listed;
        // an entry may be replaced by one of another type between listing and opening; one that goes on doing so is unreadable
        for _ in 0..4 {
            match self.try_entry(within, &name, kind) {
                Err(Trouble::Changed) => kind = FileType::Unknown,
                result => return result,
            }
        }
        Err(Trouble::Changed)
    }

    fn try_entry(&mut self, within: BorrowedFd<'_>, name: &CStr, listed: FileType) -> Result<(), Trouble> {
        let kind = resolve(within, name.to_bytes(), listed)?;
        if listed == FileType::Unknown && excluded(&self.exclude, &self.path, kind) {
            self.tally.excluded += 1;
            return Ok(());
        }
        match kind {
            FileType::RegularFile => self.file(within, name),
            // it was something else when it was listed, so nobody has gone into it
            FileType::Directory => {
                let directory = open_quietly(within, name.to_bytes(), DIRECTORY)?;
                Ok(self.late_directory(directory, fstat(within)?.st_dev)?)
            }
            _ => self.special(within, name),
        }
    }

    fn late_directory(&mut self, directory: OwnedFd, above: u64) -> Result<(), Halt> {
        let mut scout = Scout::below(directory, self.path.clone(), above, Arc::clone(&self.exclude));
        while let Some(found) = scout.next() {
            self.out.check()?;
            self.found(found)?;
        }
        Ok(())
    }

    fn directory(&mut self, directory: Directory) -> Result<(), Halt> {
        self.note_unusual();
        let member = Member { xattrs: directory.attributes, ..self.bare_member(&directory.stat, MemberKind::Directory) };
        self.emit(&member)?;
        self.note(&member, None);
        self.tally.directories += 1;
        if directory.mounted && self.tally.mounts.len() < LISTED {
            self.tally.mounts.push(shown(&self.path));
        }
        if directory.followed.is_some() {
            self.tally.followed = directory.followed;
        }
        Ok(())
    }

    /// Names what does not belong into a tree that is in service.
    fn note_unusual(&mut self) {
        let path = &self.path;
        if !path.contains(&b'/') && is_own(OsStr::from_bytes(path)) {
            self.warnings
                .add("left from a restore", || format!("`{}` is left from a restore; it is stored like everything else", shown(path)));
        }
    }

    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Trouble> {
        let file = open_quietly(directory, name.to_bytes(), FILE)?;
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
        let fate = Cache::begin(file.as_fd(), member.size);
        let content = self.content(file.as_fd(), &stat, &extents)?;
        self.note(&member, Some(content));
        self.zeros(padding(member.size) as u64)?;
        Cache::end(file.as_fd(), fate);
        self.tally.files += 1;
        self.tally.bytes += member.size;
        self.remember(&stat);
        Ok(())
    }

    /// Exactly the bytes that the header announced. What is not there is written as zeros.
    fn content(&mut self, file: BorrowedFd<'_>, before: &Stat, extents: &[(u64, u64)]) -> Result<Content, Halt> {
        let hashed = self.shared.detail == Detail::Full;
        let (mut content, mut end) = (Content::default(), 0);
        let mut missing = 0;
        let mut broken = false;
        for (offset, length) in extents {
            content.skip(offset - end);
            end = offset + length;
            let mut done = 0;
            while done < *length && !broken {
                let space = self.out.space()?;
                self.seat.moved();
                let want = usize::try_from(length - done).map_or(space.len(), |left| left.min(space.len()));
                match pread(file, &mut space[..want], offset + done) {
                    Ok(0) => break,
                    Ok(got) => {
                        if hashed {
                            content.update(&space[..got]);
                        }
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
            content.skip(length - done);
            self.zeros(length - done)?;
        }
        if broken {
            let path = &self.path;
            self.warnings.add("stored with zeros", || {
                format!("`{}` is stored with {missing} bytes of zeros in place of what could not be read", shown(path))
            });
        } else {
            self.note_change(Change::of(file, before, missing));
        }
        Ok(content)
    }

    fn note_change(&mut self, change: Option<Change>) {
        let path = &self.path;
        match change {
            None => {}
            Some(Change::Shrank { missing }) => self.warnings.add("shrank while it was read", || {
                format!("`{}` shrank while it was read: {missing} bytes of it are stored as zeros", shown(path))
            }),
            Some(Change::Grew { stored }) => self.warnings.add("changed while it was read", || {
                format!("`{}` changed while it was read: its first {stored} bytes are stored", shown(path))
            }),
            Some(Change::Modified) => {
                self.warnings.add("changed while it was read", || format!("`{}` changed while it was read", shown(path)));
            }
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
        self.note(&member, None);
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
        self.note(&member, None);
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
        describe(self.path.clone(), stat, kind, &self.shared.owners)
    }

    fn emit(&mut self, member: &Member) -> Result<(), Halt> {
        self.header.clear();
        write::member(member, &mut self.header).map_err(|write::TooLarge| {
            Halt::Failed(DirectoryError::AttributesTooLarge { root: self.root.clone(), path: shown(&self.path) })
        })?;
        Ok(self.out.write(&self.header)?)
    }

    /// Takes what was stored into the fingerprint.
    fn note(&mut self, member: &Member, content: Option<Content>) {
        match self.shared.detail {
            Detail::Full => self.print.add(member, content.map(Content::finish).as_ref()),
            Detail::Counts => self.print.count(member),
            Detail::Off => {}
        }
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
            return Err(Halt::Failed(self.read_error(error)));
        }
        let path = &self.path;
        self.warnings.add("could not be read", || format!("`{}` could not be read: {}", shown(path), io::Error::from(error)));
        Ok(())
    }

    fn read_error(&self, error: Errno) -> DirectoryError {
        DirectoryError::Read { root: self.root.clone(), path: shown(&self.path), source: error.into() }
    }

    fn died(&self) -> Halt {
        Halt::Failed(DirectoryError::Died(self.root.clone()))
    }
}

/// Closes what reads ahead when the walk leaves it.
struct Close<'a>(&'a Ahead);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
