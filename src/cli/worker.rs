//! `worker` and `healthcheck`: the service, over the jobs of the configuration.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::args::Global;
use super::{load_config, output};
use crate::assembly;
use crate::catalog::Catalog;
use crate::chain::describe;
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::error::Error;
use crate::job::{self, JobError, Request};
use crate::name::JobName;
use crate::pipeline::Engine;
use crate::storage::Access;
use crate::worker::{Ended, Options, Pace, PlannedJob, RunOutcome, Runner, Worker, health, signals};

pub(super) async fn run(global: &Global) -> Result<(), Error> {
    let orders = signals::orders().map_err(|source| Error::Io { action: "listen for signals".into(), source })?;
    let engine = Engine::for_this_machine();
    let settings = load_config(global)?.settings;
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
        let planned = self.settings.jobs.iter().map(|job| PlannedJob {
            name: job.name.clone(),
            schedule: job.schedule.clone(),
            catch_up: job.catch_up,
            jitter: job.jitter,
            timeout: job.timeout,
        });
        planned.collect()
    }

    async fn run(&self, name: &JobName, slot: DateTime<Utc>, cancel: CancellationToken) -> RunOutcome {
        let Some(settings) = self.settings.jobs.iter().find(|j| j.name == *name) else {
            return RunOutcome::Failed(format!("job `{name}` is not configured"));
        };
        let job = assembly::job(&self.settings, settings);
        let request = Request { only: Vec::new(), slot: Some(slot) };
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

    async fn last_complete(&self, name: &JobName) -> Result<Option<DateTime<Utc>>, String> {
        let Some(settings) = self.settings.jobs.iter().find(|j| j.name == *name) else { return Ok(None) };
        let mut newest = None;
        let mut trouble = Vec::new();
        for (_, target) in assembly::targets(&self.settings, &settings.targets, Access::Read) {
            let last = match target {
                Ok(target) => job::last_complete(&Catalog::new(target), name, SystemClock.now()).await,
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
