//! Directory.

use std::path::PathBuf;

use thiserror::Error;

use crate::name::ComponentName;

/// What went wrong; each variant names action and subject.
#[derive(Debug, Error)]
pub enum DirectoryError {}

impl DirectoryError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match *self {}
    }
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
}
