//! Looks at a tree that was unpacked, for its fingerprint: every entry is found, and every file read, anew.
//!
//! ```text
//! Scout (what is there) → Survey (kinds, counts, names of one file) → threads (contents and attributes of files)
//! ```
//!
//! Nobody else writes to the tree meanwhile. Where the mode of a file keeps its own owner out, which happens when someone else than root
//! restores what root has saved, it is lifted for as long as it is read.

use std::ffi::{CStr, CString};
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ignore::gitignore::Gitignore;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, chmodat, fchmod, fstat, major, minor, readlinkat, statat};
use rustix::io::{Errno, pread};
use tokio_util::sync::CancellationToken;

use super::DirectoryError;
use super::archive::{Member, MemberKind, shown};
use super::attributes::{AttributeReader, Subject};
use super::content::{Content, Hash};
use super::fingerprint::Fingerprint;
use super::ladder::{DIRECTORY, identity};
use super::links::Links;
use super::owners::Owners;
use super::scout::{Found, Scout, What, last, open_quietly};
use super::small::{FILE, describe};
use super::sparse;
use super::standstill::HELPER;
use super::unpack::descend;
use crate::component::Detail;

/// Most threads that read files.
const THREADS: usize = 4;
/// Files that are handed to a thread at once, and how many such hands may wait.
const BATCH: usize = 32;
const DEPTH: usize = 16;
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Directories inside one another that keep their owner out.
const LIFTED: usize = 64;

/// The fingerprint of the tree at `root`; `path` is for messages.
///
/// # Errors
/// [`DirectoryError::Read`] when something in it cannot be read, `ECANCELED` among them.
pub fn survey(root: OwnedFd, path: PathBuf, detail: Detail, cancel: &CancellationToken) -> Result<Fingerprint, DirectoryError> {
    let failed = |(at, error): Failed| DirectoryError::Read { root: path.clone(), path: shown(&at), source: error.into() };
    let handle = root.try_clone().map_err(|_| failed((Vec::new(), Errno::MFILE)))?;
    let (sender, receiver) = sync_channel(DEPTH);
    let queue = Mutex::new(receiver);
    thread::scope(|scope| {
        let readers = if detail == Detail::Full { thread::available_parallelism().map_or(1, NonZero::get).min(THREADS) } else { 0 };
        let start = || thread::Builder::new().name(HELPER.to_owned()).spawn_scoped(scope, || Reader::new(cancel).run(&queue));
        // with none at all, the survey reads by itself
        let threads: Vec<_> = (0..readers).map_while(|_| start().ok()).collect();
        let mut survey = Survey {
            root: handle,
            detail,
            print: Fingerprint::default(),
            links: Links::default(),
            own: Reader::new(cancel),
            batch: Vec::new(),
            sender: (!threads.is_empty()).then_some(sender),
            lifted: 0,
        };
        let mut result = survey.all(Scout::unfollowed(root)).and_then(|()| survey.flush());
        let Survey { mut print, own, sender, .. } = survey;
        // the end, for the threads
        drop(sender);
        print.merge(&own.print);
        for thread in threads {
            match thread.join() {
                Ok(Ok(part)) => print.merge(&part),
                // the cause of what the survey may have seen as a thread that is gone
                Ok(Err(error)) => result = Err(error),
                Err(_) => return Err(DirectoryError::Died(path.clone())),
            }
        }
        result.map(|()| print).map_err(failed)
    })
}

/// Path and reason.
type Failed = (Vec<u8>, Errno);

/// A file with one name.
struct Task {
    path: Vec<u8>,
    within: Arc<OwnedFd>,
}

struct Survey<'a> {
    root: OwnedFd,
    detail: Detail,
    print: Fingerprint,
    links: Links,
    own: Reader<'a>,
    batch: Vec<Task>,
    sender: Option<SyncSender<Vec<Task>>>,
    /// Directories that were made readable for a while, around the one at hand.
    lifted: usize,
}

impl Survey<'_> {
    fn all(&mut self, mut scout: Scout) -> Result<(), Failed> {
        while let Some(found) = scout.next() {
            let Found { path, what } = found;
            if self.own.cancel.is_cancelled() {
                return Err((path, Errno::CANCELED));
            }
            match what {
                What::Directory(directory) => {
                    let member = Member {
                        xattrs: directory.attributes,
                        ..describe(path, &directory.stat, MemberKind::Directory, &Owners::default())
                    };
                    self.add(&member);
                }
                What::Entry { within, .. } => self.entry(path, &within)?,
                What::Unreadable(Errno::ACCESS) => self.closed(path)?,
                What::Unreadable(error) | What::Lost(error) => return Err((path, error)),
                What::Excluded => {}
            }
        }
        Ok(())
    }

    /// A directory whose mode keeps its own owner out. Its mode is given back when all that lies in it was looked at.
    fn closed(&mut self, path: Vec<u8>) -> Result<(), Failed> {
        let name = last(&path);
        let above = &path[..path.len() - name.len()];
        let failed = |error| (path.clone(), error);
        let within = descend(self.root.as_fd(), above).map_err(failed)?;
        let (directory, mode) = lifted(within.as_fd(), name, DIRECTORY).map_err(failed)?;
        if self.lifted == LIFTED {
            return Err(failed(Errno::ACCESS));
        }
        let device = fstat(&within).map_err(failed)?.st_dev;
        let back = directory.try_clone().map_err(|_| failed(Errno::MFILE))?;
        fchmod(&directory, mode | Mode::RWXU).map_err(failed)?;
        self.lifted += 1;
        let mut scout = Scout::below(directory, path.clone(), device, Arc::new(Gitignore::empty()));
        let result = match scout.next() {
            // as it is for everybody else
            Some(Found { what: What::Directory(found), path }) => {
                let member = describe(path, &found.stat, MemberKind::Directory, &Owners::default());
                self.add(&Member { mode: mode.as_raw_mode() & 0o7777, xattrs: found.attributes, ..member });
                self.all(scout)
            }
            _ => Err(failed(Errno::ACCESS)),
        };
        self.lifted -= 1;
        fchmod(&back, mode).map_err(failed)?;
        result
    }

    fn add(&mut self, member: &Member) {
        if self.detail == Detail::Full { self.print.add(member, None) } else { self.print.count(member) }
    }

    fn entry(&mut self, path: Vec<u8>, within: &Arc<OwnedFd>) -> Result<(), Failed> {
        let known = |error| (path.clone(), error);
        let name = CString::new(last(&path)).map_err(|_| known(Errno::INVAL))?;
        let stat = statat(within, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(known)?;
        let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.find(identity(&stat)) {
                self.add(&describe(path, &stat, MemberKind::HardLink(first), &Owners::default()));
                return Ok(());
            }
            #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
            self.links.add(identity(&stat), u64::from(stat.st_nlink), &path);
        }
        if !file {
            let member = self.special(path, within.as_fd(), &name, &stat)?;
            self.add(&member);
            return Ok(());
        }
        if self.detail != Detail::Full {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            self.print.count(&Member { size, ..describe(path, &stat, MemberKind::File, &Owners::default()) });
            return Ok(());
        }
        let task = Task { path, within: Arc::clone(within) };
        if self.sender.is_none() || self.lifted > 0 {
            return self.own.file(&task);
        }
        self.batch.push(task);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Failed> {
        let batch = std::mem::take(&mut self.batch);
        match (&self.sender, batch.is_empty()) {
            // a thread that is gone tells why when it is joined
            (Some(sender), false) => sender.send(batch).map_err(|_| (Vec::new(), Errno::CANCELED)),
            _ => Ok(()),
        }
    }

    fn special(&mut self, path: Vec<u8>, within: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<Member, Failed> {
        let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
        let failed = |error| (path.clone(), error);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => MemberKind::Symlink(readlinkat(within, name, Vec::new()).map_err(failed)?.into_bytes()),
            FileType::Fifo => MemberKind::Fifo,
            FileType::CharacterDevice => MemberKind::CharDevice { major, minor },
            FileType::BlockDevice => MemberKind::BlockDevice { major, minor },
            // a socket, which no archive holds
            _ => return Err((path, Errno::NXIO)),
        };
        let xattrs =
            if self.detail == Detail::Full { self.own.attributes.read(Subject::Named(within, name)).map_err(failed)? } else { Vec::new() };
        Ok(Member { xattrs, ..describe(path, stat, kind, &Owners::default()) })
    }
}

/// Reads files, with buffers of its own.
struct Reader<'a> {
    cancel: &'a CancellationToken,
    attributes: AttributeReader,
    buffer: Vec<u8>,
    print: Fingerprint,
}

impl<'a> Reader<'a> {
    fn new(cancel: &'a CancellationToken) -> Self {
        Self { cancel, attributes: AttributeReader::default(), buffer: vec![0; BUFFER], print: Fingerprint::default() }
    }

    fn run(mut self, queue: &Mutex<Receiver<Vec<Task>>>) -> Result<Fingerprint, Failed> {
        loop {
            let batch = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return Ok(self.print) };
            for task in batch {
                self.file(&task)?;
            }
        }
    }

    fn file(&mut self, task: &Task) -> Result<(), Failed> {
        self.read(task).map_err(|error| (task.path.clone(), error))
    }

    fn read(&mut self, task: &Task) -> Result<(), Errno> {
        let file = open(task.within.as_fd(), last(&task.path))?;
        let stat = fstat(&file)?;
        let xattrs = self.attributes.read(Subject::Open(file.as_fd()))?;
        let content = content(file.as_fd(), &stat, &mut self.buffer, self.cancel)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let member = Member { size, xattrs, ..describe(task.path.clone(), &stat, MemberKind::File, &Owners::default()) };
        self.print.add(&member, Some(&content));
        Ok(())
    }
}

/// Opens a file, past a mode that keeps its owner out.
pub fn open(within: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    match open_quietly(within, name, FILE) {
        Err(Errno::ACCESS) => lifted(within, name, FILE).map(|(file, _)| file),
        result => result,
    }
}

/// Opens what its mode keeps its owner from, which is then as it was. The mode is given, too.
fn lifted(within: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<(OwnedFd, Mode), Errno> {
    let mode = Mode::from_raw_mode(statat(within, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    // a symbolic link has no mode that keeps anybody out, so that none is followed here
    chmodat(within, name, mode | Mode::RUSR | Mode::XUSR, AtFlags::empty())?;
    let opened = open_quietly(within, name, flags);
    chmodat(within, name, mode, AtFlags::empty())?;
    opened.map(|opened| (opened, mode))
}

/// The hash of a whole file.
///
/// # Errors
/// What the kernel says; `ECANCELED`; `EIO` when the file is shorter than it was.
pub fn content(file: BorrowedFd<'_>, stat: &Stat, buffer: &mut [u8], cancel: &CancellationToken) -> Result<Hash, Errno> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let extents = sparse::extents(file, stat).unwrap_or_else(|| vec![(0, size)]);
    let (mut content, mut at) = (Content::default(), 0);
    for (offset, length) in extents {
        content.skip(offset - at);
        at = offset;
        while at < offset + length {
            if cancel.is_cancelled() {
                return Err(Errno::CANCELED);
            }
            let want = usize::try_from(offset + length - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            match pread(file, &mut buffer[..want], at) {
                Ok(0) => return Err(Errno::IO),
                Ok(got) if at == 0 && got as u64 == size => return Ok(super::content::hash(&buffer[..got])),
                Ok(got) => {
                    content.update(&buffer[..got]);
                    at += got as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(content.finish())
}
