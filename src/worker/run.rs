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

/// One run: waits out the jitter, and turns a panic into a failure. `next`: how long it is until the job's next slot.
pub async fn execute(
    runner: Arc<dyn Runner>,
    plan: PlannedJob,
    (slot, next): (DateTime<Utc>, Option<Duration>),
    cancel: CancellationToken,
) -> RunOutcome {
    let wait = delay(plan.jitter, next, rand::random());
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = cancel.cancelled() => return RunOutcome::Cancelled,
    }
    let run = guarded(async move { runner.run(&plan.name, slot, cancel).await });
    run.await.unwrap_or_else(|_| RunOutcome::Failed("the run ended in a panic, which is a fault of this program".into()))
}

/// How long a run waits: any part of the jitter, as `share` of all `u64` is drawn, and never until the next slot, which would be left out.
fn delay(jitter: Duration, next: Option<Duration>, share: u64) -> Duration {
    let most = next.map_or(jitter, |next| jitter.min(next)).as_nanos();
    Duration::from_nanos(u64::try_from((most.min(u128::from(u64::MAX)) * u128::from(share)) >> 64).unwrap_or(0))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_begins_within_its_jitter_and_before_the_next_slot(
            jitter in 0u64..100_000_000, next in prop::option::of(0u64..100_000_000), share: u64
        ) {
            let (jitter, next) = (Duration::from_millis(jitter), next.map(Duration::from_millis));
            let wait = delay(jitter, next, share);
            for most in [Some(jitter), next].into_iter().flatten() {
                prop_assert!(wait < most || (wait == Duration::ZERO && most == Duration::ZERO), "{wait:?} of {most:?}");
            }
        }
    }

    #[test]
    fn the_whole_jitter_is_used_and_evenly() {
        let minute = Duration::from_secs(60);
        let eighth = |n: u64| delay(minute, None, n << 61);
        assert_eq!((0..8).map(|n| eighth(n).as_millis()).collect::<Vec<_>>(), [0, 7500, 15000, 22500, 30000, 37500, 45000, 52500]);
        assert!(delay(minute, Some(minute * 60), u64::MAX) > minute * 99 / 100);
        assert_eq!(delay(Duration::MAX, Some(minute), 1 << 63), minute / 2);
        assert_eq!(delay(minute, Some(Duration::ZERO), u64::MAX), Duration::ZERO);
    }
}
