//! What the worker needs of the rest: jobs to plan, a way to run one, and when it last succeeded.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::plan::PlannedJob;
use crate::name::JobName;

/// The jobs of one configuration.
#[async_trait]
pub trait Runner: Send + Sync {
    fn jobs(&self) -> Vec<PlannedJob>;

    /// Runs `job` for the slot that has come. Ends soon after `cancel`, with what it began undone.
    async fn run(&self, job: &JobName, slot: DateTime<Utc>, cancel: CancellationToken) -> RunOutcome;

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
