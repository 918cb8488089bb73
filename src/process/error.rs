//! Why a child process is no success.

use std::io;
use std::process::ExitStatus;

use thiserror::Error;

use super::Stderr;
use super::child::MAX_OUTPUT;

/// `program` is a file name without its directory.
#[derive(Debug, Error)]
pub enum ProcessError {
    #[error("start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed ({status}){}", tail(stderr))]
    Failed { program: String, status: ExitStatus, stderr: Stderr },
    #[error("read the output of {program}")]
    Output {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} wrote more than {MAX_OUTPUT} bytes to its standard output")]
    TooMuch { program: String },
    #[error("read what was to be fed to {program}")]
    Input {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} was stopped: cancelled")]
    Cancelled { program: String },
}

impl ProcessError {
    /// The [`ProcessError`] that a stream of [`Command::stream`] failed with, if it was one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|e| e.downcast_ref())
    }

    /// What the child last wrote to stderr, if it ran and failed.
    pub fn stderr(&self) -> Option<&Stderr> {
        match self {
            Self::Failed { stderr, .. } => Some(stderr),
            _ => None,
        }
    }
}

fn tail(stderr: &Stderr) -> String {
    if stderr.lines.is_empty() { String::new() } else { format!(": {stderr}") }
}
