//! A job that copies: its targets get, of the backups of another target, what its own policy keeps there, and lose what it does not keep.
//!
//! Nothing is on record but the backups themselves. Each run looks at both sides and decides over all of them together, so that what a target
//! has lost to its policy is not copied again, and one that was out of reach for a week gets what it lacks. Backups that other jobs of the
//! same configuration write to such a target by themselves are none of its business.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError, Entry, candidates};
use crate::chain::explain;
use crate::clock::Clock;
use crate::copy::{Copied, CopyError, copy};
use crate::job::{Pruned, prune};
use crate::name::{BackupName, JobName, TargetName};
use crate::pipeline::Progress;
use crate::retention::{self, Candidate, Policy};
use crate::storage::{Lease, StorageError};

/// A job that copies, assembled for one run.
pub struct Mirror {
    pub source: TargetName,
    /// `None`: a directory that is not there.
    pub from: Option<Catalog>,
    /// The jobs whose backups `policy` removes in `to`; `None`: all that are copied. What is left of a job that is configured no more is copied
    /// and stays.
    pub governed: Option<Vec<JobName>>,
    pub to: Vec<Place>,
    pub policy: Policy,
    pub timeout: Option<Duration>,
}

/// A target that is filled by copying.
pub struct Place {
    pub catalog: Result<Catalog, StorageError>,
    /// Jobs that write there themselves.
    pub writers: Vec<JobName>,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    pub copied: Vec<(BackupName, TargetName, Copied)>,
    /// Removed by retention, in any target.
    pub pruned: Vec<BackupName>,
    /// What is not as it should be, a sentence each.
    pub failures: Vec<String>,
    /// Whether among them stored bytes are not what was written.
    pub damaged: bool,
}

/// Why a run ended early. What was copied until then stays.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// The target that is copied from cannot be listed, or all that is left to do waits for a lease.
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cancelled")]
    Cancelled,
}

impl MirrorError {
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_busy())
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Storage(error) => error.advice(),
            Self::Cancelled => None,
        }
    }
}

/// What all steps of a run share.
struct Run<'a> {
    from: &'a Catalog,
    governed: Option<Vec<JobName>>,
    policy: Policy,
    progress: &'a Progress,
    clock: &'a dyn Clock,
    cancel: CancellationToken,
    report: Report,
    /// Who held a lease.
    busy: Option<StorageError>,
}

/// Runs once; the report is what was done, however it ended.
pub async fn run(mirror: Mirror, progress: &Progress, clock: &dyn Clock, cancel: &CancellationToken) -> (Report, Result<(), MirrorError>) {
    let Mirror { source, from, governed, to, policy, timeout } = mirror;
    let Some(from) = from else {
        let failures = or_cancelled(cancel, orphans(&source, &to)).await;
        return match failures {
            Ok(failures) => (Report { failures, ..Report::default() }, Ok(())),
            Err(error) => (Report::default(), Err(error)),
        };
    };
    let cut = cancel.child_token();
    let (report, busy) = (Report::default(), None);
    let mut run = Run { from: &from, governed, policy, progress, clock, cancel: cut.clone(), report, busy };
    let ended = {
        let mut work = std::pin::pin!(run.fill_all(&source, to));
        tokio::select! {
            ended = &mut work => ended,
            () = limit(timeout) => {
                cut.cancel();
                work.await
            }
        }
    };
    let Run { mut report, busy, .. } = run;
    if matches!(ended, Err(MirrorError::Cancelled)) && !cancel.is_cancelled() {
        let limit = timeout.map(humantime::format_duration).map(|limit| limit.to_string()).unwrap_or_default();
        report.failures.push(format!("cut, because the run exceeded its `timeout` of {limit}; the next one goes on"));
        return (report, Ok(()));
    }
    match busy {
        // what has failed besides is worth more than to come again
        Some(busy) if ended.is_ok() && report.failures.is_empty() => (report, Err(busy.into())),
        Some(busy) => {
            report.failures.push(explain(&busy, busy.advice()));
            (report, ended)
        }
        None => (report, ended),
    }
}

async fn limit(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

async fn or_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, MirrorError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(MirrorError::Cancelled),
        done = work => Ok(done),
    }
}

/// A source without any backup, while there are copies of some, is more likely not mounted than new.
async fn orphans(source: &TargetName, places: &[Place]) -> Vec<String> {
    let mut found = Vec::new();
    for place in places {
        let to = match &place.catalog {
            Ok(to) => to,
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                found.push(explain(error, error.advice()));
                continue;
            }
        };
        match to.target().backup_names().await {
            Ok(names) if jobs(&names, &place.writers).is_empty() => {}
            Ok(_) => found.push(format!("target `{source}` holds no backup, and `{}` does: is it where it should be?", to.target().name())),
            Err(error) => found.push(explain(&error, error.advice())),
        }
    }
    found
}

impl Run<'_> {
    async fn fill_all(&mut self, name: &TargetName, places: Vec<Place>) -> Result<(), MirrorError> {
        let source = or_cancelled(&self.cancel, self.from.list(None)).await??;
        self.report.failures.extend(source.iter().filter_map(Entry::trouble));
        if source.is_empty() {
            let found = or_cancelled(&self.cancel, orphans(name, &places)).await?;
            self.report.failures.extend(found);
            return Ok(());
        }
        for place in places {
            let to = match &place.catalog {
                Ok(to) => to,
                Err(error) => {
                    self.report.failures.push(explain(error, error.advice()));
                    continue;
                }
            };
            let lacking = lacking(to, &place.writers, &source, &self.policy, self.clock.now());
            match or_cancelled(&self.cancel, lacking).await? {
                Ok(found) => {
                    for (job, names) in found {
                        self.fill(to, &job, names).await?;
                    }
                }
                Err(error) => self.report.failures.push(explain(&error, error.advice())),
            }
        }
        Ok(())
    }

    /// Copies what a target lacks of one job, and then removes what is too much there.
    async fn fill(&mut self, to: &Catalog, job: &JobName, names: Vec<BackupName>) -> Result<(), MirrorError> {
        let mut whole = true;
        for name in names {
            match copy(self.from, to, &name, self.progress, &self.cancel).await {
                Ok(copied) => {
                    tracing::info!(backup = %name, target = %to.target().name(), "backup copied");
                    self.report.copied.push((name, to.target().name().clone(), copied));
                }
                Err(CopyError::Cancelled) => return Err(MirrorError::Cancelled),
                Err(CopyError::Storage(error)) if error.is_busy() => {
                    self.busy = Some(error);
                    return Ok(());
                }
                Err(CopyError::Catalog(CatalogError::NotFound(name))) => tracing::info!(backup = %name, "removed before it was copied"),
                Err(error) => {
                    whole = false;
                    self.report.damaged |= error.is_damage();
                    self.report.failures.push(format!("{name}: {}", explain(&error, error.advice())));
                }
            }
        }
        // what is there stays until what shall replace it is there too
        if !whole || self.governed.as_ref().is_some_and(|governed| !governed.contains(job)) {
            return Ok(());
        }
        let holder = format!("retention after copying, process {}", std::process::id());
        let lease = match or_cancelled(&self.cancel, Lease::acquire(to.target(), job, &holder)).await? {
            Ok(lease) => lease,
            Err(error) if error.is_busy() => {
                self.busy = Some(error);
                return Ok(());
            }
            Err(error) => {
                self.report.failures.push(explain(&error, error.advice()));
                return Ok(());
            }
        };
        let Pruned { removed, failures, .. } = prune(to, job, &self.policy, self.clock.now()).await;
        lease.release().await;
        self.report.pruned.extend(removed);
        self.report.failures.extend(failures);
        Ok(())
    }
}

/// Since when the targets hold all that they should: `now`, or when the newest that they do hold was begun; `None`: they hold nothing.
///
/// # Errors
/// A sentence, when a target cannot say, or what there is to copy is not as it should be.
pub async fn last_complete(mirror: Mirror, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, String> {
    let told = |error: StorageError| explain(&error, error.advice());
    let source = match &mirror.from {
        Some(from) => from.list(None).await.map_err(told)?,
        None => Vec::new(),
    };
    let mut trouble: Vec<String> = source.iter().filter_map(Entry::trouble).collect();
    if source.is_empty() {
        trouble.extend(orphans(&mirror.source, &mirror.to).await);
    }
    if !trouble.is_empty() {
        return Err(trouble.join("; "));
    }
    let (mut lacks, mut newest) = (false, None);
    for place in mirror.to {
        let to = match place.catalog {
            Ok(to) => to,
            Err(error) if error.is_not_found() => {
                lacks |= !source.is_empty();
                continue;
            }
            Err(error) => return Err(told(error)),
        };
        for (job, names) in lacking(&to, &place.writers, &source, &mirror.policy, now).await.map_err(told)? {
            lacks |= !names.is_empty();
            newest = newest.max(to.last_complete(&job, now).await.map_err(told)?);
        }
    }
    Ok(if lacks { newest } else { Some(now) })
}

/// What `to` lacks of each job in the source, newest first.
async fn lacking(
    to: &Catalog,
    writers: &[JobName],
    source: &[Entry],
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<Vec<(JobName, Vec<BackupName>)>, StorageError> {
    let jobs = jobs(source.iter().map(Entry::name), writers);
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let there = to.list(None).await?;
    let there = candidates(&there, &to.verdicts().await?);
    // what was found of a backup in one target says nothing of its copy
    let source = candidates(source, &Default::default());
    let of = |job: &JobName, all: &[Candidate]| all.iter().filter(|found| found.name.job() == job).cloned().collect::<Vec<_>>();
    Ok(jobs.iter().map(|job| (job.clone(), wanted(policy, &of(job, &source), of(job, &there), now))).collect())
}

/// The jobs whose backups are copied to where `writers` write by themselves.
pub fn jobs<'a>(source: impl IntoIterator<Item = &'a BackupName>, writers: &[JobName]) -> BTreeSet<JobName> {
    source.into_iter().map(BackupName::job).filter(|job| !writers.contains(job)).cloned().collect()
}

/// The complete backups of one job in `source` that the policy would keep if they were `there`, and that are not; newest first.
fn wanted(policy: &Policy, source: &[Candidate], there: Vec<Candidate>, now: DateTime<Utc>) -> Vec<BackupName> {
    let held: BTreeSet<BackupName> = there.iter().map(|found| found.name.clone()).collect();
    let new: Vec<Candidate> = source.iter().filter(|found| found.complete && !held.contains(&found.name)).cloned().collect();
    let all: Vec<Candidate> = there.into_iter().chain(new).collect();
    let kept = retention::plan(policy, &all, now).into_iter().filter(|decision| decision.keep && !held.contains(&decision.name));
    kept.map(|decision| decision.name).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn day(day: u32, complete: bool) -> Candidate {
        let name = format!("job-2026-01-{day:02}-000000").parse().expect("a name");
        Candidate { name, complete, scope: Vec::new(), drilled: false }
    }

    fn days(policy: Policy, source: &[u32], there: &[u32]) -> Vec<String> {
        let of = |days: &[u32]| days.iter().map(|at| day(*at, true)).collect::<Vec<_>>();
        let now = "2026-06-01T00:00:00Z".parse().expect("a time");
        wanted(&policy, &of(source), of(there), now).iter().map(|name| name.to_string()["job-2026-01-".len()..][..2].to_owned()).collect()
    }

    #[test]
    fn what_the_policy_keeps_there_is_wanted_and_nothing_else() {
        let last = |n| Policy { last: NonZeroU32::new(n), ..Policy::default() };
        assert_eq!(days(last(3), &[1, 2, 3, 4, 5], &[]), ["05", "04", "03"]);
        assert_eq!(days(last(3), &[1, 2, 3, 4, 5], &[3, 4]), ["05"]);
        // what has gone by the policy does not come back, and what only the copy has counts
        assert_eq!(days(last(3), &[1, 2, 3, 4, 5], &[3, 4, 5]), [""; 0]);
        assert_eq!(days(last(2), &[1, 2], &[8, 9]), [""; 0]);
        assert_eq!(days(last(3), &[1, 2], &[8, 9]), ["02"]);
        let weekly = Policy { weekly: NonZeroU32::new(2), ..Policy::default() };
        assert_eq!(days(weekly, &[5, 6, 12, 13], &[]), ["13", "06"]);
    }

    #[test]
    fn partial_backups_are_not_copied() {
        let policy = Policy { last: NonZeroU32::new(3), ..Policy::default() };
        let now = "2026-06-01T00:00:00Z".parse().expect("a time");
        let wanted = wanted(&policy, &[day(1, true), day(2, false)], Vec::new(), now);
        assert_eq!(wanted, [day(1, true).name]);
    }
}
