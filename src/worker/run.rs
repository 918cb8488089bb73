//! One run, or one drill, as a task: jitter and panics.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::plan::PlannedJob;
use super::runner::{DrillOutcome, RunOutcome, Runner};
use crate::name::JobName;

/// One run: waits out the jitter, and turns a panic into a failure.
pub async fn execute(runner: Arc<dyn Runner>, plan: PlannedJob, slot: DateTime<Utc>, cancel: CancellationToken) -> RunOutcome {
    let wait = match u64::try_from(plan.jitter.as_millis()) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(jitter) => Duration::from_millis(rand::random_range(0..jitter)),
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = cancel.cancelled() => return RunOutcome::Cancelled,
    }
    let run = guarded(async move { runner.run(&plan.name, slot, cancel).await });
    run.await.unwrap_or_else(|_| RunOutcome::Failed("the run ended in a panic, which is a fault of this program".into()))
}

/// One drill: turns a panic into a failure.
pub async fn drill(runner: Arc<dyn Runner>, job: JobName, cancel: CancellationToken) -> DrillOutcome {
    let drill = guarded(async move { runner.drill(&job, cancel).await });
    drill.await.unwrap_or_else(|_| DrillOutcome::Unable("the drill ended in a panic, which is a fault of this program".into()))
}

/// Runs `work` as a task of its own, in the current span, so that its panic ends nothing else; dropping it aborts the task.
pub async fn guarded<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, JoinError> {
    let mut set = JoinSet::new();
    set.spawn(work.in_current_span());
    match set.join_next().await {
        Some(result) => result,
        None => std::future::pending().await,
    }
}
