//! A directory as a source of a backup: one pax tar, streamed as the tree is walked; and back, beside the old tree, then switched in.
//!
//! ```text
//! walk (blocking) → pipe → AsyncRead          AsyncRead → archive::read → unpack (blocking) → publish
//! ```
//!
//! Nothing here follows a symbolic link inside a tree or builds a path from a root and a name: all work goes by directory handles, so that
//! trees deeper than `PATH_MAX` are whole and no name, however hostile, leads outside. The one link that is followed is described at
//! [`followed::FOLLOWED`].

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, open};
use thiserror::Error;

use super::Detail;
use crate::name::ComponentName;

mod adopt;
mod ahead;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod archive;
mod attributes;
mod cache;
mod compare;
mod content;
mod difference;
mod fingerprint;
mod flush;
mod followed;
mod keeps;
mod ladder;
mod links;
mod owners;
mod part;
mod pick;
pub(super) mod pipe;
mod place;
mod restorer;
mod scout;
mod sides;
mod small;
mod source;
mod sparse;
mod standstill;
mod survey;
mod swap;
mod trash;
mod trouble;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod unpack;
mod usage;
mod walk;
mod warnings;
mod watch;

pub use restorer::DirectoryRestorer;
pub use source::DirectorySource;
pub use swap::Swap;

/// Removes the tree at `path`: by handles, however deep, directories that forbid it to their owner included, and never what is mounted in it.
///
/// # Errors
/// What the kernel says.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let parent = open(parent, ladder::DIRECTORY, Mode::empty())?;
    let name = CString::new(name.as_bytes())?;
    Ok(trash::remove(parent.as_fd(), &name)?)
}

/// Which tree to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryOptions {
    pub name: ComponentName,
    pub path: PathBuf,
    /// gitignore-style globs, relative to `path`.
    pub exclude: Vec<String>,
    /// A file that cannot be read: fail the component (false) or warn by name and go on (true).
    pub skip_unreadable: bool,
    /// False for the directories that are only built-in defaults: one that does not exist is absent rather than failed.
    pub required: bool,
    /// What is noted of the tree for a restore to be compared with.
    pub fingerprint: Detail,
}

impl DirectoryOptions {
    /// The whole tree at `path`, which must exist.
    pub fn new(name: ComponentName, path: PathBuf) -> Self {
        Self { name, path, exclude: Vec::new(), skip_unreadable: false, required: true, fingerprint: Detail::Full }
    }
}

/// What went wrong; each variant names action and subject.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("the directory {0} does not exist")]
    Missing(PathBuf),
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    #[error("a restore of {0} was interrupted, or is under way: its entries are half swapped")]
    HalfRestored(PathBuf),
    #[error("open the directory {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the pattern `{glob}` in `exclude` is not valid")]
    Exclude {
        glob: String,
        #[source]
        source: ignore::Error,
    },
    #[error("the pattern `{glob}` is not valid")]
    Pattern {
        glob: String,
        #[source]
        source: ignore::Error,
    },
    #[error("read `{path}` in {root}")]
    Read {
        root: PathBuf,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the extended attributes of `{path}` in {root} are too large to be stored")]
    AttributesTooLarge { root: PathBuf, path: String },
    #[error("`{path}` did not answer for {}", humantime::format_duration(*.after))]
    Hung { path: String, after: Duration },
    #[error("the work on {0} stopped unexpectedly")]
    Died(PathBuf),
    #[error("the backup holds no tar archive of this component")]
    NoArchive,
    #[error("the destination {path} cannot be used: {problem}")]
    Destination { path: PathBuf, problem: String },
    #[error("{path} has room for {available} bytes; the restore needs about {needed}")]
    Space { path: PathBuf, available: u64, needed: u64 },
    #[error("open the stored archive")]
    OpenArchive(#[source] io::Error),
    #[error("read the stored archive")]
    Archive(#[source] archive::ArchiveError),
    #[error("the archive is refused: `{path}` {problem}")]
    Refused { path: String, problem: &'static str },
    #[error("restore `{path}`")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("compare `{path}` with the backup")]
    Compare {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{action} {path}")]
    Switch {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read what the journal says of the restore of a directory")]
    Record(#[source] serde_json::Error),
    #[error("{path} is not a journal that this version reads")]
    Journal { path: PathBuf },
}

impl DirectoryError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Missing(path) => {
                format!("Create {}, mount it into the container, or take the component out of the configuration.", path.display())
            }
            Self::HalfRestored(_) => "Restore again, into the same directory: that brings the old entries back first.".to_owned(),
            Self::NotADirectory(_) => "Configure the directory itself, not a file in it.".to_owned(),
            Self::Read { source, .. } | Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "Run as a user that may read it (root, or with CAP_DAC_READ_SEARCH), exclude it, or set `skip_unreadable = true`."
                    .to_owned()
            }
            Self::Hung { .. } => {
                "Look at the file system that it lies on: one whose server is gone answers nothing. `stall_timeout` of the job \
                                  sets the limit."
                    .to_owned()
            }
            Self::Read { .. } => "Exclude it, or set `skip_unreadable = true`, if it is not needed.".to_owned(),
            Self::Space { .. } => "Make room, or restore into another place with `--into COMPONENT=/path`.".to_owned(),
            Self::Destination { .. } => "Choose another place with `--into COMPONENT=/path`.".to_owned(),
            Self::Archive(_) | Self::Refused { .. } => {
                "The old directory was left as it was. Try another target or an older backup.".to_owned()
            }
            Self::Journal { .. } => {
                "It was written by an interrupted restore; the old entries lie in `.backstay-old-…` beside it.".to_owned()
            }
            _ => return None,
        };
        Some(text)
    }
}
