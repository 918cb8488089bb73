//! One run of a job: sources → pipeline → targets → manifest → retention.
//!
//! Order laws: artifacts, then the manifest, then retention. A component that fails does not fail the others, and neither does a target;
//! what is not in the manifest is removed again.
//!
//! A name is claimed by creating its list of checksums, create-only, before anything is stored under it: two runs that both believe to hold
//! the lease, on hosts whose clocks tell the same second at different times, never write to the same keys. The commit replaces that list.

mod adopt;
mod component;
mod enter;
mod estimate;
mod journal;
mod lane;
mod prune;
mod report;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures_util::future::join_all;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::chain::describe;
use crate::clock::Clock;
use crate::component::Source;
use crate::encryption::Lock;
use crate::manifest::{self, ComponentStatus, FORMAT, FORMAT_ENCRYPTED, Manifest, Status};
use crate::name::{ArtifactPath, BackupName, ComponentName, JobName, TargetName};
use crate::pipeline::{Codec, Engine};
use crate::retention::Policy;
use crate::signature::Authenticity;
use crate::storage::{Lease, StorageError, Target};

use component::{Outcome, failed};
use enter::enter;
use journal::{Journal, Part, Record};
use lane::Lane;
pub use prune::{Pruned, prune};
pub use report::{Report, TargetReport};
use transfer::Transfer;

/// A job, assembled for one run: its secrets were read for it.
pub struct Job {
    pub name: JobName,
    pub sources: Vec<Arc<dyn Source>>,
    /// A target that could not be opened fails the run's part in it, not the run.
    pub targets: Vec<(TargetName, Result<Target, StorageError>)>,
    pub policy: Policy,
    pub codec: Codec,
    /// What every artifact is encrypted with; `None`: nothing is encrypted.
    pub lock: Option<Lock>,
    /// By whom manifests are signed, and whose are believed.
    pub authenticity: Authenticity,
    pub stall_timeout: Duration,
    pub timeout: Option<Duration>,
}

impl Job {
    fn catalog(&self, target: &Target) -> Catalog {
        Catalog::new(target.clone()).with(&self.authenticity)
    }
}

/// What is asked of a run.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Components to take; empty for all.
    pub only: Vec<ComponentName>,
    /// The scheduled moment that the run serves.
    pub slot: Option<DateTime<Utc>>,
    /// The backup that is about to be restored over what this run takes: retention, which might remove it, is left to the next run.
    pub replaced_by: Option<BackupName>,
}

/// Why a run left no backup.
#[derive(Debug, Error)]
pub enum JobError {
    #[error("job `{job}` has no component `{component}`")]
    NoSuchComponent { job: JobName, component: ComponentName },
    #[error("job `{0}` is busy")]
    Busy(JobName, #[source] StorageError),
    /// A backup of this moment, or a later one, is already there: another worker has served the slot.
    #[error("the slot of {0} was already served")]
    Served(DateTime<Utc>),
    #[error("no target of job `{job}` can be used: {}", reasons.join("; "))]
    NoTarget { job: JobName, reasons: Vec<String> },
    #[error("every component of job `{job}` failed, nothing was kept: {}", reasons.join("; "))]
    NothingLeft { job: JobName, reasons: Vec<String> },
    #[error("the run was cancelled, nothing was kept")]
    Cancelled,
}

impl JobError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Busy(_, source) => source.advice(),
            _ => None,
        }
    }
}

/// Runs `job` once.
///
/// # Errors
/// [`JobError`] when no backup came of it. A backup that lacks something is a [`Report`].
pub async fn run(job: Job, request: Request, engine: &Engine, clock: &dyn Clock, cancel: &CancellationToken) -> Result<Report, JobError> {
    let sources = chosen(&job, &request.only)?;
    let mut reports = Vec::new();
    let (lanes, leases) = enter(&job, &mut reports, cancel).await?;
    let run = Run { job: &job, request: &request, engine, clock, cancel, lanes };
    let result = run.attempt(sources, &leases, reports).await;
    join_all(leases.into_iter().map(Lease::release)).await;
    result
}

fn chosen(job: &Job, only: &[ComponentName]) -> Result<Vec<Arc<dyn Source>>, JobError> {
    if let Some(unknown) = only.iter().find(|name| !job.sources.iter().any(|s| s.name() == *name)) {
        return Err(JobError::NoSuchComponent { job: job.name.clone(), component: unknown.clone() });
    }
    Ok(job.sources.iter().filter(|s| only.is_empty() || only.contains(s.name())).cloned().collect())
}

struct Run<'a> {
    job: &'a Job,
    request: &'a Request,
    engine: &'a Engine,
    clock: &'a dyn Clock,
    cancel: &'a CancellationToken,
    lanes: Vec<Arc<Lane>>,
}

impl Run<'_> {
    async fn attempt(&self, sources: Vec<Arc<dyn Source>>, leases: &[Lease], mut reports: Vec<TargetReport>) -> Result<Report, JobError> {
        self.refuse_served_slot().await?;
        let name = self.free_name().await?;
        tracing::info!(backup = %name, "run begins");
        let restores = self.look_for_restores().await;
        let last = self.last_backup().await;
        let (mut journal, left) = Journal::open(&self.lanes, &name, host()).await;
        // what is about to be replaced, or is being replaced, is backed up as it is now
        let left = left.filter(|_| self.request.replaced_by.is_none() && !restores).map(Arc::new);
        let outcomes = self.components(&name, sources, last, left.clone(), &mut journal).await;
        // before any commit: where it is, there is no manifest
        journal.close().await;

        let stopped = self.cancel.is_cancelled();
        let any = outcomes.iter().any(|o| o.component.status == ComponentStatus::Complete);
        let live = self.lanes.iter().any(|l| l.failure().is_none());
        let keeps = !stopped && any && live;
        for outcome in &outcomes {
            if !keeps || outcome.component.status != ComponentStatus::Complete {
                self.discard(&name, &outcome.stored).await;
            }
        }
        if !keeps {
            self.give_up(&name, &self.lanes).await;
        }
        if stopped {
            return Err(JobError::Cancelled);
        }
        if !live {
            let reasons = self.lanes.iter().filter_map(|l| l.failure()).chain(reports.into_iter().filter_map(|r| r.failure)).collect();
            return Err(JobError::NoTarget { job: self.job.name.clone(), reasons });
        }
        let components: Vec<_> = outcomes.into_iter().map(|o| o.component).collect();
        if !any {
            let reasons = components.iter().map(|c| format!("{}: {}", c.name, c.reason.as_deref().unwrap_or_default())).collect();
            return Err(JobError::NothingLeft { job: self.job.name.clone(), reasons });
        }

        let manifest = self.manifest(name, components);
        let mut pruned = Vec::new();
        for (report, removed) in
            join_all(self.lanes.iter().zip(leases).map(|(lane, lease)| self.conclude(lane, lease, &manifest, left.as_deref()))).await
        {
            reports.push(report);
            pruned.extend(removed);
        }
        if reports.iter().all(|r| r.failure.is_some()) {
            let reasons = reports.into_iter().filter_map(|r| r.failure).collect();
            return Err(JobError::NoTarget { job: self.job.name.clone(), reasons });
        }
        pruned.sort();
        pruned.dedup();
        Ok(Report { manifest, targets: reports, pruned })
    }

    /// A slot is served once, also when several workers have the same job: under the lease, the newest complete backup tells.
    async fn refuse_served_slot(&self) -> Result<(), JobError> {
        let Some(slot) = self.request.slot else { return Ok(()) };
        for lane in &self.lanes {
            match self.job.catalog(lane.target()).last_complete(&self.job.name, self.clock.now()).await {
                Ok(Some(last)) if last >= slot => return Err(JobError::Served(slot)),
                Ok(_) => {}
                Err(error) => lane.fail(&error),
            }
        }
        Ok(())
    }

    /// The name of this second, or of the next one if another run has it; claimed in every lane that is left open.
    async fn free_name(&self) -> Result<BackupName, JobError> {
        loop {
            let now = self.clock.now();
            let name = BackupName::new(self.job.name.clone(), now);
            if self.is_free(&name).await && self.claim(&name).await {
                return Ok(name);
            }
            let next = now.trunc_subsecs(0) + TimeDelta::seconds(1);
            tokio::select! {
                () = tokio::time::sleep((next - now).to_std().unwrap_or_default()) => {}
                () = self.cancel.cancelled() => return Err(JobError::Cancelled),
            }
        }
    }

    async fn is_free(&self, name: &BackupName) -> bool {
        let mut free = true;
        for lane in self.lanes.iter().filter(|l| l.failure().is_none()) {
            match lane.target().list(&lane.target().layout().backup(name)).await {
                Ok(objects) => free &= objects.is_empty(),
                Err(error) => lane.fail(&error),
            }
        }
        free
    }

    /// False when another run was faster in one of the lanes; then none is claimed.
    async fn claim(&self, name: &BackupName) -> bool {
        // unlike any other, so that one whose answer was lost is known again
        let claim = format!("# {} process {} is at work on this backup: {}\n", host(), std::process::id(), uuid::Uuid::new_v4());
        for (at, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.failure().is_none()) {
            match self.job.catalog(lane.target()).claim(name, claim.clone()).await {
                Ok(()) => {}
                Err(StorageError::Occupied { .. }) => {
                    self.give_up(name, &self.lanes[..at]).await;
                    return false;
                }
                Err(error) => lane.fail(&error),
            }
        }
        true
    }

    /// Removes the claim of a backup that does not come to be.
    async fn give_up(&self, name: &BackupName, lanes: &[Arc<Lane>]) {
        for lane in lanes {
            if let Err(error) = lane.target().delete(&lane.target().layout().sums(name)).await {
                tracing::warn!("{}; it is removed a day from now", describe(&error));
            }
        }
    }

    /// What is taken while a restore has switched some components and not others belongs to two moments. Whether there is one, as far as
    /// is known.
    async fn look_for_restores(&self) -> bool {
        let mut found = false;
        for target in self.lanes.iter().filter(|l| l.failure().is_none()).map(|l| l.target()) {
            let target_name = target.name();
            match target.list(&target.layout().restores()).await {
                Ok(journals) if journals.is_empty() => {}
                Ok(_) => {
                    found = true;
                    tracing::warn!(
                        target = %target_name,
                        "a restore is under way or was left unfinished: what is backed up now may be partly old and partly new \
                         (restore --resume or --rollback ends one that was interrupted)"
                    );
                }
                // whether the target works, the run itself will tell
                Err(error) => tracing::debug!("{}", describe(&error)),
            }
        }
        found
    }

    /// The newest complete backup of the job, in whichever target tells first. Only for estimates: without it, they are worse.
    async fn last_backup(&self) -> Option<Arc<Manifest>> {
        for lane in self.lanes.iter().filter(|l| l.failure().is_none()) {
            match self.job.catalog(lane.target()).newest(&self.job.name).await {
                Ok(Some(manifest)) => return Some(Arc::new(manifest)),
                Ok(None) => {}
                // whether the target works, the run itself will tell
                Err(error) => tracing::debug!("no estimate from the last backup: {}", describe(&error)),
            }
        }
        None
    }

    /// Takes over what the run before has `left` where that may be, and reads the rest.
    async fn components(
        &self,
        name: &BackupName,
        sources: Vec<Arc<dyn Source>>,
        last: Option<Arc<Manifest>>,
        left: Option<Arc<Record>>,
        journal: &mut Journal,
    ) -> Vec<Outcome> {
        let cancel = self.cancel.child_token();
        let mut tasks = JoinSet::new();
        let mut names = std::collections::HashMap::new();
        for (order, source) in sources.into_iter().enumerate() {
            let transfer = Transfer {
                backup: name.clone(),
                component: source.name().clone(),
                lanes: self.lanes.clone(),
                engine: self.engine.clone(),
                codec: self.job.codec,
                lock: self.job.lock.clone(),
                stall: self.job.stall_timeout,
                last: last.clone(),
                cancel: cancel.clone(),
            };
            let asked = self.request.only.contains(source.name());
            let identity = adopt::identity(source.identity(), self.job.lock.as_ref(), self.job.authenticity.signer.is_some());
            let part = left.as_ref().zip(identity.as_ref()).and_then(|(left, identity)| {
                let part = left.part(source.name(), identity, self.job.codec, &host(), self.clock.now())?;
                Some((left.backup.clone(), part.clone()))
            });
            let known = (order, source.name().clone(), source.kind(), identity);
            let task = tasks.spawn(async move { adopt::or_store(&*source, transfer, asked, part).await });
            names.insert(task.id(), known);
        }
        let deadline = async {
            match self.job.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let mut outcomes = Vec::new();
        let mut timed_out = false;
        loop {
            let ended = tokio::select! {
                ended = tasks.join_next_with_id() => ended,
                () = &mut deadline, if !timed_out => {
                    timed_out = true;
                    tracing::error!(job = %self.job.name, "the run exceeds its timeout; what has not ended is cut");
                    cancel.cancel();
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let (id, mut outcome) = match ended {
                Ok((id, outcome)) => (id, Ok(outcome)),
                Err(panic) => (panic.id(), Err(panic)),
            };
            let (order, component, kind, identity) = names.remove(&id).expect("every task was noted");
            if let Ok(o) = &mut outcome
                && timed_out
                && o.component.status == ComponentStatus::Failed
            {
                let limit = self.job.timeout.map(humantime::format_duration).map(|d| d.to_string()).unwrap_or_default();
                o.component.reason = Some(format!("cut, because the run exceeded its `timeout` of {limit}"));
            }
            let outcome = outcome.unwrap_or_else(|panic| Outcome {
                component: failed(component, kind, format!("internal error: {panic}")),
                stored: Vec::new(),
                adopted: None,
            });
            if let Some(identity) = identity
                && outcome.component.status == ComponentStatus::Complete
            {
                let read = || Part::new(identity, self.job.codec, self.clock.now(), name.clone(), outcome.component.clone());
                // the last that ends needs none
                journal.add(outcome.adopted.clone().unwrap_or_else(read), !names.is_empty()).await;
            }
            outcomes.push((order, outcome));
        }
        outcomes.sort_by_key(|(order, _)| *order);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn manifest(&self, name: BackupName, components: Vec<manifest::Component>) -> Manifest {
        let lost = components.iter().any(|c| c.status == ComponentStatus::Failed);
        let mut only = self.request.only.clone();
        only.sort();
        only.dedup();
        // a safety backup never counts as one of the whole job, nor is it the latest
        if only.len() == self.job.sources.len() && self.request.replaced_by.is_none() {
            only.clear();
        }
        Manifest {
            format: if self.job.lock.is_some() { FORMAT_ENCRYPTED } else { FORMAT },
            job: self.job.name.clone(),
            created: name.created(),
            name,
            finished: self.clock.now(),
            tool: format!("backstay {}", env!("CARGO_PKG_VERSION")),
            host: host(),
            status: if lost { Status::Partial } else { Status::Complete },
            slot: self.request.slot,
            only,
            replaced_by: self.request.replaced_by.clone(),
            recipients: self.job.lock.as_ref().map(Lock::recipients).unwrap_or_default(),
            components,
        }
    }

    /// The commit in one lane, and the retention after it; what retention removed.
    async fn conclude(&self, lane: &Lane, lease: &Lease, manifest: &Manifest, left: Option<&Record>) -> (TargetReport, Vec<BackupName>) {
        let (mut taken, mut unsure) = (false, false);
        if lane.failure().is_none()
            && let Err(error) = self.commit(lane, lease, manifest).await
        {
            // then what lies there belongs to another backup
            taken = matches!(error, StorageError::Occupied { .. });
            unsure = error.is_unsure();
            lane.fail(&error);
        }
        let mut report = TargetReport { name: lane.target().name().clone(), failure: lane.failure(), prune_failures: Vec::new() };
        let mut removed = Vec::new();
        if report.failure.is_none()
            && let Some(left) = left
        {
            adopt::clear(lane, left).await;
        }
        if report.failure.is_some() {
            if !taken {
                retract(lane, manifest, unsure).await;
            }
        } else if manifest.status == Status::Complete && self.request.replaced_by.is_none() {
            let catalog = self.job.catalog(lane.target());
            let outcome = prune(&catalog, &self.job.name, &self.job.policy, self.clock.now()).await;
            removed = outcome.removed;
            report.prune_failures = outcome.failures;
        }
        (report, removed)
    }

    async fn commit(&self, lane: &Lane, lease: &Lease, manifest: &Manifest) -> Result<(), StorageError> {
        lease.confirm().await?;
        self.job.catalog(lane.target()).commit(manifest).await?;
        // it may have taken long: see the lease's own words on that
        lease.ratify().await?;
        tracing::info!(backup = %manifest.name, target = %lane.target().name(), status = ?manifest.status, "backup committed");
        Ok(())
    }

    /// What cannot be removed now is swept later.
    async fn discard(&self, name: &BackupName, stored: &[ArtifactPath]) {
        for lane in &self.lanes {
            for path in stored {
                if let Err(error) = lane.target().delete(&lane.target().layout().artifact(name, path)).await {
                    tracing::warn!("{}; it is removed a day from now", describe(&error));
                    break;
                }
            }
        }
    }
}

/// Removes what a target holds of a backup that is not to be there, in the order of every removal: a store may have kept a manifest whose
/// answer was lost, and that manifest must never outlive its artifacts. `unsure`: it may even arrive there later. Then only the manifest is
/// removed, and the artifacts are left to the sweep, which removes them when a day has passed without one.
async fn retract(lane: &Lane, manifest: &Manifest, unsure: bool) {
    let catalog = Catalog::new(lane.target().clone());
    let removed = if unsure { catalog.withdraw(&manifest.name).await } else { catalog.remove(manifest).await };
    if let Err(error) = removed {
        tracing::warn!("{}; what is left of {} is removed a day from now if it has no manifest", describe(&error), manifest.name);
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
