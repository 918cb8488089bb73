//! Finds what a walk is to store, in the order in which it is stored: by directory handles, names sorted by their bytes, a directory before
//! what is in it. It opens directories and reads their names and attributes; everything else it only names.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::Gitignore;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::archive::shown;
use super::attributes::{AttributeReader, Attributes, Subject};
use super::followed::{FOLLOWED, followed};
use super::ladder::{DIRECTORY, Ladder, Names, identity};
use super::watch::Seat;

/// Something in the tree.
pub struct Found {
    /// Relative to the root of the tree; empty for the root itself.
    pub path: Vec<u8>,
    pub what: What,
}

pub enum What {
    Directory(Box<Directory>),
    /// A name in a directory that is not, or no longer, known to be one.
    Entry {
        within: Arc<OwnedFd>,
        listed: FileType,
    },
    Excluded,
    /// It could not be read.
    Unreadable(Errno),
    /// The way back up is gone: nothing follows.
    Lost(Errno),
}

/// A directory that was opened.
pub struct Directory {
    pub stat: Stat,
    pub attributes: Attributes,
    /// Whether something is mounted on it.
    pub mounted: bool,
    /// The link that was followed to it, and where that leads.
    pub followed: Option<String>,
}

impl Found {
    /// The last part of its path.
    pub fn name(&self) -> &[u8] {
        last(&self.path)
    }

    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let attributes = match &self.what {
            What::Directory(directory) => directory.attributes.iter().map(|(name, value)| name.len() + value.len()).sum(),
            _ => 0,
        };
        self.path.len() + attributes + size_of::<Self>()
    }
}

/// The last part of a path.
pub fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// A directory on the way down.
struct Frame {
    names: Names,
    /// Length of its path, with the slash after it.
    path: usize,
    device: u64,
}

/// A search under way.
pub struct Scout {
    exclude: Arc<Gitignore>,
    attributes: AttributeReader,
    state: State,
    path: Vec<u8>,
    /// Whether it began at the root of the tree.
    whole: bool,
    /// Whether the link that may be followed is.
    follows: bool,
    seat: Seat,
}

enum State {
    /// The directory that it begins with, and the device of the one above.
    Fresh(OwnedFd, Option<u64>),
    Under(Box<Ladder<Frame>>),
    Over,
}

impl Scout {
    /// A search of the whole tree.
    pub fn new(root: OwnedFd, exclude: Arc<Gitignore>) -> Self {
        Self {
            exclude,
            attributes: AttributeReader::default(),
            state: State::Fresh(root, None),
            path: Vec::new(),
            whole: true,
            follows: true,
            seat: Seat::default(),
        }
    }

    /// Tells `seat` what it looks at.
    pub fn watched(self, seat: Seat) -> Self {
        Self { seat, ..self }
    }

    /// A search of the whole tree that takes every link for a link.
    pub fn unfollowed(root: OwnedFd) -> Self {
        Self { follows: false, ..Self::new(root, Arc::new(Gitignore::empty())) }
    }

    /// A search of `directory`, which lies at `path` in the tree, in a directory on the device `above`.
    pub fn below(directory: OwnedFd, path: Vec<u8>, above: u64, exclude: Arc<Gitignore>) -> Self {
        Self {
            exclude,
            attributes: AttributeReader::default(),
            state: State::Fresh(directory, Some(above)),
            path,
            whole: false,
            follows: false,
            seat: Seat::default(),
        }
    }

    /// What comes next; `None` at the end.
    pub fn next(&mut self) -> Option<Found> {
        self.seat.at(&self.path);
        let found = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => None,
            State::Fresh(directory, above) => Some(self.first(directory, above)),
            State::Under(mut ladder) => {
                let found = self.below_ladder(&mut ladder);
                if found.as_ref().is_some_and(|found| !matches!(found.what, What::Lost(_))) {
                    self.state = State::Under(ladder);
                }
                found
            }
        };
        self.seat.rest();
        found
    }

    fn first(&mut self, root: OwnedFd, above: Option<u64>) -> Found {
        let path = self.path.clone();
        let opened = self.open(root, above).and_then(|(directory, handle, names)| {
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            let frame = Frame { names, path: self.path.len(), device: directory.stat.st_dev };
            Ok((directory, Ladder::new(handle, frame)?))
        });
        let what = match opened {
            Ok((directory, ladder)) => {
                self.state = State::Under(Box::new(ladder));
                What::Directory(Box::new(directory))
            }
            Err(error) if self.whole => What::Lost(error),
            Err(error) => What::Unreadable(error),
        };
        Found { path, what }
    }

    fn below_ladder(&mut self, ladder: &mut Ladder<Frame>) -> Option<Found> {
        loop {
            self.path.truncate(ladder.value().path);
            if let Some((name, listed)) = ladder.value_mut().names.take_next() {
                self.path.extend_from_slice(name.to_bytes());
                let path = self.path.clone();
                self.seat.at(&path);
                let what = self.look(ladder, listed).unwrap_or_else(What::Unreadable);
                return Some(Found { path, what });
            }
            match ladder.pop() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Found { path: self.path.clone(), what: What::Lost(error) }),
            }
        }
    }

    fn look(&mut self, ladder: &mut Ladder<Frame>, listed: FileType) -> Result<What, Errno> {
        let name = last(&self.path);
        let kind = resolve(ladder.handle(), name, listed)?;
        if excluded(&self.exclude, &self.path, kind) {
            return Ok(What::Excluded);
        }
        let top = self.follows && ladder.depth() == 0;
        match kind {
            FileType::Directory => match open_quietly(ladder.handle(), name, DIRECTORY) {
                Ok(directory) => self.enter(ladder, directory, None),
                // it has become something else since it was listed
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Ok(What::Entry { within: ladder.shared(), listed: FileType::Unknown }),
                Err(error) => Err(error),
            },
            FileType::Symlink if top && name == FOLLOWED.to_bytes() => match followed(ladder.root(), FOLLOWED) {
                Some((directory, target)) => {
                    let link = format!("{} -> {}", shown(name), shown(&target));
                    self.enter(ladder, directory, Some(link))
                }
                None => Ok(What::Entry { within: ladder.shared(), listed: kind }),
            },
            _ => Ok(What::Entry { within: ladder.shared(), listed: kind }),
        }
    }

    fn enter(&mut self, ladder: &mut Ladder<Frame>, handle: OwnedFd, followed: Option<String>) -> Result<What, Errno> {
        let (directory, handle, names) = self.open(handle, Some(ladder.value().device))?;
        self.path.push(b'/');
        let frame = Frame { names, path: self.path.len(), device: directory.stat.st_dev };
        ladder.push(handle, identity(&directory.stat), frame);
        Ok(What::Directory(Box::new(Directory { followed, ..directory })))
    }

    fn open(&mut self, handle: OwnedFd, above: Option<u64>) -> Result<(Directory, OwnedFd, Names), Errno> {
        let stat = fstat(&handle)?;
        let attributes = self.attributes.read(Subject::Open(handle.as_fd()))?;
        let names = Names::read(handle.as_fd())?;
        let mounted = above.is_some_and(|above| above != stat.st_dev);
        Ok((Directory { stat, attributes, mounted, followed: None }, handle, names))
    }
}

/// The type of a name, asked for where the directory did not tell it.
pub fn resolve(directory: BorrowedFd<'_>, name: &[u8], listed: FileType) -> Result<FileType, Errno> {
    match listed {
        FileType::Unknown => Ok(FileType::from_raw_mode(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)),
        known => Ok(known),
    }
}

pub fn excluded(exclude: &Gitignore, path: &[u8], kind: FileType) -> bool {
    exclude.matched(Path::new(OsStr::from_bytes(path)), kind == FileType::Directory).is_ignore()
}

/// Opens without leaving a trace in the access time, where that is allowed: to the owner and to root.
pub fn open_quietly(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        result => result,
    }
}
