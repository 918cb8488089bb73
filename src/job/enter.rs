//! Taking the lease of a job in all its targets, side by side: one that does not answer, which takes minutes, keeps no other waiting.
//!
//! Of two hosts that want the same targets at once each may get one of them. Then the first of these, by name, decides: who found it taken,
//! and holds none before it, gives everything back at once; who holds it waits for the others a little. So one of the two runs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use super::report::TargetReport;
use super::{Job, JobError, host};
use crate::chain::{describe, explain};
use crate::name::TargetName;
use crate::storage::{Lease, StorageError, Target};

/// Between two looks at a lease that another holds.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a target that comes before one that is taken may need to answer, so as to count.
const SETTLE: Duration = Duration::from_secs(3);

/// How long who holds the first of them waits for the rest: longer than [`SETTLE`], after which the other gives them back.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the lease in one target.
#[derive(Debug)]
enum Door {
    /// No answer yet.
    Asked,
    Held(Lease),
    /// It cannot be used.
    Shut(String),
    /// Another holds it, as far as was seen at first then.
    Taken(StorageError, Instant),
}

/// Takes the lease of the job in every target that can be used; adds those that cannot to `reports`.
///
/// # Errors
/// [`JobError::Busy`] if another run holds it in any of them, and [`JobError::Cancelled`]. Then none is held.
pub(super) async fn enter(
    job: &Job,
    reports: &mut Vec<TargetReport>,
    cancel: &CancellationToken,
) -> Result<(Vec<Arc<Lane>>, Vec<Lease>), JobError> {
    let stop = CancellationToken::new();
    let mut asking = JoinSet::new();
    let ask = |asking: &mut JoinSet<_>, at: usize, target: &Target, pause: Duration| {
        let (target, job, stop) = (target.clone(), job.name.clone(), stop.clone());
        let holder = format!("{} process {}", host(), std::process::id());
        asking.spawn(async move {
            let stopped = tokio::time::timeout(pause, stop.cancelled()).await.is_ok();
            if stopped { None } else { Some((at, Lease::acquire(&target, &job, &holder).await)) }
        });
    };
    let names: Vec<&TargetName> = job.targets.iter().map(|(name, _)| name).collect();
    let mut doors = Vec::new();
    for (at, (_, target)) in job.targets.iter().enumerate() {
        doors.push(match target {
            Ok(target) => {
                ask(&mut asking, at, target, Duration::ZERO);
                Door::Asked
            }
            Err(error) => Door::Shut(explain(error, error.advice())),
        });
    }
    let refused = loop {
        let answer = tokio::select! {
            biased;
            () = cancel.cancelled() => break Some(JobError::Cancelled),
            answer = asking.join_next() => answer,
        };
        let Some(answer) = answer else { break None };
        let Some((at, acquired)) = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) else { continue };
        match acquired {
            Ok(lease) => doors[at] = Door::Held(lease),
            Err(error) if error.is_busy() => {
                let since = if let Door::Taken(_, since) = &doors[at] { *since } else { Instant::now() };
                doors[at] = Door::Taken(error, since);
                if let Ok(target) = &job.targets[at].1 {
                    ask(&mut asking, at, target, PAUSE);
                }
            }
            Err(error) => {
                tracing::error!(target = %names[at], "{}", describe(&error));
                doors[at] = Door::Shut(explain(&error, error.advice()));
            }
        }
        if let Some(at) = hopeless(&names, &doors, Instant::now())
            && let Door::Taken(error, _) = std::mem::replace(&mut doors[at], Door::Asked)
        {
            break Some(JobError::Busy(job.name.clone(), error));
        }
    };
    let failure = match refused {
        Some(refused) => refused,
        None if doors.iter().any(|door| matches!(door, Door::Held(_))) => {
            let (mut lanes, mut leases) = (Vec::new(), Vec::new());
            for ((name, target), door) in job.targets.iter().zip(doors) {
                match (door, target) {
                    (Door::Held(lease), Ok(target)) => {
                        lanes.push(Arc::new(Lane::new(target.clone(), &lease)));
                        leases.push(lease);
                    }
                    (Door::Shut(reason), _) => reports.push(TargetReport::failed(name, reason)),
                    _ => {}
                }
            }
            return Ok((lanes, leases));
        }
        None => {
            let reasons = doors.iter().filter_map(|door| if let Door::Shut(reason) = door { Some(reason.clone()) } else { None }).collect();
            JobError::NoTarget { job: job.name.clone(), reasons }
        }
    };
    stop.cancel();
    let wait = if cancel.is_cancelled() { Duration::ZERO } else { SETTLE };
    give_back(doors, asking, wait).await;
    Err(failure)
}

/// The target whose lease another holds, and will not give back to this run.
fn hopeless(names: &[&TargetName], doors: &[Door], now: Instant) -> Option<usize> {
    let taken = doors.iter().enumerate().filter_map(|(at, door)| if let Door::Taken(_, since) = door { Some((at, *since)) } else { None });
    let before = |at: usize, which: fn(&Door) -> bool| names.iter().zip(doors).any(|(name, door)| *name < names[at] && which(door));
    taken.into_iter().find_map(|(at, since)| {
        let patience = if before(at, |door| matches!(door, Door::Held(_))) {
            PATIENCE
        } else if before(at, |door| matches!(door, Door::Asked)) {
            SETTLE
        } else {
            Duration::ZERO
        };
        (now.duration_since(since) >= patience).then_some(at)
    })
}

/// What a target that does not answer in time grants after all is given back when it does, while this process lives.
async fn give_back(doors: Vec<Door>, mut asking: JoinSet<Option<(usize, Result<Lease, StorageError>)>>, wait: Duration) {
    let late = tokio::spawn(async move {
        while let Some(answer) = asking.join_next().await {
            if let Ok(Some((_, Ok(lease)))) = answer {
                lease.release().await;
            }
        }
    });
    let held = doors.into_iter().filter_map(|door| if let Door::Held(lease) = door { Some(lease) } else { None });
    join_all(held.map(Lease::release)).await;
    let _ = tokio::time::timeout(wait, late).await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::Encoding;
    use crate::pipeline::Codec;
    use crate::retention::Policy;
    use crate::signature::Authenticity;
    use crate::storage::{Access, Location, TargetOptions};

    fn job(targets: &[(&str, &Path)]) -> Job {
        let open = |(name, path): &(&str, &Path)| {
            let name: TargetName = name.parse().expect("a name");
            let location = Location::File(path.to_path_buf());
            let options = TargetOptions { name: name.clone(), location, limit: None };
            (name, Target::open(&options, Access::Write))
        };
        Job {
            name: "default".parse().expect("a name"),
            sources: Vec::new(),
            targets: targets.iter().map(open).collect(),
            policy: Policy::default(),
            codec: Codec::new(Encoding::None, 0).expect("a codec"),
            lock: None,
            authenticity: Authenticity::default(),
            stall_timeout: Duration::from_secs(60),
            timeout: None,
        }
    }

    async fn try_to_enter(job: &Job) -> Result<Vec<Lease>, JobError> {
        enter(job, &mut Vec::new(), &CancellationToken::new()).await.map(|(_, leases)| leases)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_two_that_come_at_once_one_gets_everything() {
        let (a, b) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (a, b) = (("a", a.path()), ("b", b.path()));
        let orders = [job(&[a, b]), job(&[b, a])];
        for round in 0..100 {
            let mut entered = Vec::new();
            for outcome in join_all(orders.iter().map(try_to_enter)).await {
                match outcome {
                    Ok(leases) => entered.push(leases),
                    Err(error) => assert!(matches!(error, JobError::Busy(..)), "{error:?}"),
                }
            }
            assert_eq!(entered.iter().map(Vec::len).collect::<Vec<_>>(), [2], "round {round}");
            join_all(entered.into_iter().flatten().map(Lease::release)).await;
        }
    }

    #[tokio::test]
    async fn one_that_is_refused_gives_back_what_it_took() {
        let (a, b) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let other = try_to_enter(&job(&[("a", a.path())])).await.expect("free");
        let begun = Instant::now();
        assert!(matches!(try_to_enter(&job(&[("a", a.path()), ("b", b.path())])).await, Err(JobError::Busy(..))));
        assert!(begun.elapsed() < SETTLE + PATIENCE, "{:?}", begun.elapsed());
        let free = try_to_enter(&job(&[("b", b.path())])).await.expect("it was given back");
        assert_eq!((other.len(), free.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_target_that_cannot_be_used_is_told_of_and_the_others_are_held() {
        let (a, b) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        std::fs::write(a.path().join("file"), "x").expect("written");
        let mut reports = Vec::new();
        let job = job(&[("a", &a.path().join("file/below")), ("b", b.path())]);
        let (lanes, leases) = enter(&job, &mut reports, &CancellationToken::new()).await.expect("one is left");
        assert_eq!((lanes.len(), leases.len(), reports.len()), (1, 1, 1));
        assert_eq!(reports[0].name.as_str(), "a");
    }
}
