//! Why the worker did not start or did not end well.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::schedule::TimetableError;

/// Each variant names action and subject.
#[derive(Debug, Error)]
pub enum WorkerError {
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("start the timetable")]
    Timetable(#[source] TimetableError),
    #[error("runs did not end within {} s after the stop and were cut: {}", .limit.as_secs(), .jobs.join(", "))]
    Drain { limit: Duration, jobs: Vec<String> },
}

impl WorkerError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("Another worker, or another program, uses this port: stop it, or set `worker.listen`.".into())
            }
            Self::Listen { .. } => Some("Set `worker.listen` to an address of this host, or to \"\" for none.".into()),
            Self::Timetable(_) | Self::Drain { .. } => None,
        }
    }
}
