//! `worker` and `healthcheck`: the service, over the jobs of the configuration.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::args::Global;
use super::{drill, load_config, output};
use crate::assembly;
use crate::catalog::Catalog;
use crate::chain::{describe, explain};
use crate::clock::{Clock, SystemClock};
use crate::config::{CopySettings, Settings, When};
use crate::error::Error;
use crate::job::{self, JobError, Request};
use crate::manifest::Manifest;
use crate::mirror::{self, MirrorError};
use crate::name::JobName;
use crate::pipeline::{Engine, Progress};
use crate::signature::Authenticity;
use crate::storage::{Access, StorageError, Target};
use crate::worker::{DrillOutcome, Ended, Options, Pace, PlannedJob, RunOutcome, Runner, Worker, health, signals};

pub(super) async fn run(global: &Global) -> Result<(), Error> {
    let orders = signals::orders().map_err(|source| Error::Io { action: "listen for signals".into(), source })?;
    let engine = Engine::for_this_machine();
    let loaded = load_config(global)?;
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let settings = loaded.settings;
    let listen = settings.worker.listen;
    let runner: Arc<dyn Runner> = Arc::new(Jobs { settings, engine: engine.clone() });
    let global = global.clone();
    let reload = Arc::new(move || -> futures_util::future::BoxFuture<'static, Result<Arc<dyn Runner>, String>> {
        let (global, engine) = (global.clone(), engine.clone());
        Box::pin(async move {
            let settings = load_config(&global).map_err(|e| describe(&e))?.settings;
            Ok(Arc::new(Jobs { settings, engine }) as Arc<dyn Runner>)
        })
    });
    let options = Options { runner, reload, clock: Arc::new(SystemClock), listen, pace: Pace::default() };
    match Worker::start(options).await?.run(orders).await? {
        Ended::Drained => Ok(()),
        Ended::Forced => Err(Error::Cancelled),
    }
}

pub(super) async fn healthcheck(settings: &Settings) -> Result<(), Error> {
    let Some(listen) = settings.worker.listen else {
        return Err(Error::Usage {
            what: "the worker does not listen".into(),
            advice: Some("Set `worker.listen`, such as \"127.0.0.1:9717\".".into()),
        });
    };
    health::probe(listen).await?;
    output::answer("ok")
}

/// The jobs of one configuration.
struct Jobs {
    settings: Settings,
    engine: Engine,
}

#[async_trait]
impl Runner for Jobs {
    fn jobs(&self) -> Vec<PlannedJob> {
        let backups = self.settings.jobs.iter().map(|job| PlannedJob {
            name: job.name.clone(),
            schedule: job.schedule.clone(),
            copies: false,
            follows: Vec::new(),
            drill: job.drill.clone(),
            catch_up: job.catch_up,
            jitter: job.jitter,
            timeout: job.timeout,
        });
        let copies = self.settings.copies.iter().map(|copy| {
            let (schedule, follows) = match &copy.when {
                When::Scheduled(schedule) => (Some(*schedule.clone()), Vec::new()),
                When::Follows => (None, self.settings.before_copying(&copy.from)),
                When::Asked => (None, Vec::new()),
            };
            let CopySettings { name, catch_up, jitter, timeout, .. } = copy.clone();
            PlannedJob { name, schedule, copies: true, follows, drill: None, catch_up, jitter, timeout }
        });
        backups.chain(copies).collect()
    }

    async fn run(&self, name: &JobName, slot: DateTime<Utc>, cancel: CancellationToken) -> RunOutcome {
        if let Some(copy) = self.settings.copies.iter().find(|copy| copy.name == *name) {
            return self.copy(copy, &cancel).await;
        }
        let Some(settings) = self.settings.jobs.iter().find(|j| j.name == *name) else {
            return RunOutcome::Failed(format!("job `{name}` is not configured"));
        };
        let job = match assembly::job(&self.settings, settings).await {
            Ok(job) => job,
            Err(error) => return RunOutcome::Failed(describe(&error)),
        };
        let request = Request { slot: Some(slot), ..Request::default() };
        match job::run(job, request, &self.engine, &SystemClock, &cancel).await {
            Ok(report) if report.is_whole() => RunOutcome::Complete,
            Ok(report) => RunOutcome::Incomplete(report.shortcomings().join("; ")),
            Err(JobError::Busy(..)) => RunOutcome::Busy,
            Err(JobError::Cancelled) => RunOutcome::Cancelled,
            // another worker did the work
            Err(JobError::Served(_)) => RunOutcome::Complete,
            Err(error) => RunOutcome::Failed(describe(&error)),
        }
    }

    async fn drill(&self, name: &JobName, cancel: CancellationToken) -> DrillOutcome {
        let Some(settings) = self.settings.jobs.iter().find(|j| j.name == *name) else {
            return DrillOutcome::Unable(format!("job `{name}` is not configured"));
        };
        let mut newest: Option<(Target, Manifest)> = None;
        let mut trouble = Vec::new();
        for (_, target) in assembly::targets(&self.settings, &settings.targets, Access::Read).await {
            match newest_in(target, name, &self.settings.encryption.trust()).await {
                // of equal names the first target wins, as it is configured
                Ok(Some((_, found))) if newest.as_ref().is_some_and(|(_, known)| known.name >= found.name) => {}
                Ok(Some(found)) => newest = Some(found),
                Ok(None) => {}
                Err(error) => trouble.push(describe(&error)),
            }
        }
        let Some((target, manifest)) = newest else {
            return if trouble.is_empty() { DrillOutcome::NoBackup } else { DrillOutcome::Unable(trouble.join("; ")) };
        };
        trouble.iter().for_each(|why| tracing::warn!("a newer backup may be in a target that cannot be asked: {why}"));
        let backup = manifest.name.clone();
        match drill::drill(&self.settings, &target, manifest, &[], Progress::default(), &cancel).await {
            Ok(report) => match report.result() {
                Ok(()) if report.gaps().is_empty() => DrillOutcome::Passed(backup),
                Ok(()) => DrillOutcome::Incomplete(backup, report.gaps().join("; ")),
                Err(Error::Incomplete(reason)) => DrillOutcome::Unable(reason),
                Err(error) => DrillOutcome::Failed(describe(&error)),
            },
            Err(Error::Cancelled) => DrillOutcome::Cancelled,
            Err(error) => DrillOutcome::Unable(describe(&error)),
        }
    }

    async fn last_complete(&self, name: &JobName) -> Result<Option<DateTime<Utc>>, String> {
        if let Some(copy) = self.settings.copies.iter().find(|copy| copy.name == *name) {
            let mirror = assembly::mirror(&self.settings, copy, Access::Read).await.map_err(|error| explain(&error, error.advice()))?;
            return mirror::last_complete(mirror, SystemClock.now()).await;
        }
        let Some(settings) = self.settings.jobs.iter().find(|j| j.name == *name) else { return Ok(None) };
        let trust = self.settings.encryption.trust();
        let mut newest = None;
        let mut trouble = Vec::new();
        for (_, target) in assembly::targets(&self.settings, &settings.targets, Access::Read).await {
            let last = match target {
                Ok(target) => Catalog::new(target).with(&trust).last_complete(name, SystemClock.now()).await,
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            };
            match last {
                Ok(last) => newest = newest.max(last),
                Err(error) => trouble.push(describe(&error)),
            }
        }
        if newest.is_none() && !trouble.is_empty() { Err(trouble.join("; ")) } else { Ok(newest) }
    }
}

impl Jobs {
    async fn copy(&self, copy: &CopySettings, cancel: &CancellationToken) -> RunOutcome {
        let mirror = match assembly::mirror(&self.settings, copy, Access::Write).await {
            Ok(mirror) => mirror,
            Err(error) => return RunOutcome::Failed(explain(&error, error.advice())),
        };
        match mirror::run(mirror, &Progress::default(), &SystemClock, cancel).await {
            (report, Ok(())) if report.failures.is_empty() => RunOutcome::Complete,
            (report, Ok(())) => RunOutcome::Incomplete(report.failures.join("; ")),
            (_, Err(MirrorError::Cancelled)) => RunOutcome::Cancelled,
            (_, Err(error)) if error.is_busy() => RunOutcome::Busy,
            (_, Err(error)) => RunOutcome::Failed(explain(&error, error.advice())),
        }
    }
}

/// The newest complete backup of the whole job in a target, which may not exist yet.
async fn newest_in(
    target: Result<Target, StorageError>,
    job: &JobName,
    trust: &Authenticity,
) -> Result<Option<(Target, Manifest)>, StorageError> {
    let target = match target {
        Ok(target) => target,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Catalog::new(target.clone()).with(trust).newest(job).await?.map(|manifest| (target, manifest)))
}
