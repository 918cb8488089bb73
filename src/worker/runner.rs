//! What the worker needs of the rest: jobs to plan, a way to run one, and when it last succeeded.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::plan::PlannedJob;
use crate::name::{BackupName, JobName};

/// The jobs of one configuration.
#[async_trait]
pub trait Runner: Send + Sync {
    fn jobs(&self) -> Vec<PlannedJob>;

    /// Runs `job` for the slot that has come. Ends soon after `cancel`, with what it began undone.
    async fn run(&self, job: &JobName, slot: DateTime<Utc>, cancel: CancellationToken) -> RunOutcome;

    /// Restores the newest complete backup of `job` for a trial. Ends soon after `cancel`, with nothing left behind.
    async fn drill(&self, job: &JobName, cancel: CancellationToken) -> DrillOutcome;

    /// When the newest complete backup of `job` was begun; `None`: there is none.
    ///
    /// # Errors
    /// A sentence, when the targets cannot say.
    async fn last_complete(&self, job: &JobName) -> Result<Option<DateTime<Utc>>, String>;
}

/// Reads the configuration again. The error names all its faults.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Runner>, String>> + Send + Sync>;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOutcome {
    Complete,
    /// A part failed; the text says which and why.
    Incomplete(String),
    Failed(String),
    /// Another run, of this host or another, holds the job or a target.
    Busy,
    Cancelled,
}

impl RunOutcome {
    /// One word for logs and answers.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete(_) => "incomplete",
            Self::Failed(_) => "failed",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
        }
    }

    /// What went wrong.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Incomplete(text) | Self::Failed(text) => Some(text),
            Self::Complete | Self::Busy | Self::Cancelled => None,
        }
    }
}

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrillOutcome {
    /// The backup of this name can be restored.
    Passed(BackupName),
    /// As far as it was tried; the text says what was not.
    Incomplete(BackupName, String),
    /// There is nothing to try yet.
    NoBackup,
    /// The backup cannot be restored, or is not what was backed up.
    Failed(String),
    /// It could not be carried out, so that nobody knows.
    Unable(String),
    Cancelled,
}

impl DrillOutcome {
    /// One word for logs and answers.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Incomplete(..) => "incomplete",
            Self::NoBackup => "no backup",
            Self::Failed(_) => "failed",
            Self::Unable(_) => "unable",
            Self::Cancelled => "cancelled",
        }
    }

    /// What went wrong, or what was not tried.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Incomplete(_, text) | Self::Failed(text) | Self::Unable(text) => Some(text),
            Self::Passed(_) | Self::NoBackup | Self::Cancelled => None,
        }
    }

    /// Whether somebody must look.
    pub fn is_alarming(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Unable(_))
    }

    /// Whether it says anything, so that what an earlier one said is of the past.
    pub fn is_answer(&self) -> bool {
        !matches!(self, Self::NoBackup | Self::Cancelled)
    }
}
