//! What can stop a walk, or be in the way of one entry.

use rustix::io::Errno;

use super::DirectoryError;
use super::pipe::Stopped;

/// Why a walk ended before its end.
#[derive(Debug)]
pub enum Halt {
    Stopped,
    Failed(DirectoryError),
}

impl From<Stopped> for Halt {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// What can happen to one entry.
pub enum Trouble {
    Vanished,
    /// It is no longer of the type it was listed with.
    Changed,
    Unreadable(Errno),
    Halt(Halt),
}

impl From<Halt> for Trouble {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Self {
        Self::Halt(stopped.into())
    }
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::STALE => Self::Vanished,
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Changed,
            error => Self::Unreadable(error),
        }
    }
}
