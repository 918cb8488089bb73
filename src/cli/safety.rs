//! The safety backup: what a restore is about to replace, stored in the job's targets before anything is touched.

use tokio_util::sync::CancellationToken;

use super::args::Global;
use super::output;
use super::progress::Progress;
use crate::assembly;
use crate::chain::describe;
use crate::clock::SystemClock;
use crate::component::{Destination, Plan};
use crate::config::{JobSettings, Settings};
use crate::error::Error;
use crate::job::{self, Job, JobError, Request};
use crate::manifest::Manifest;
use crate::name::{BackupName, ComponentName};
use crate::pipeline::Engine;
use crate::restore::Restore;
use crate::storage::Target;

/// What is to be backed up, and by which job.
pub(super) struct Safety<'a> {
    job: &'a JobSettings,
    only: Vec<ComponentName>,
    settings: &'a Settings,
}

impl<'a> Safety<'a> {
    /// Of what `plan` replaces where the configuration has it; `None` if that is nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] when no job backs all of it up.
    pub(super) fn of(settings: &'a Settings, restore: &Restore, plan: &[(ComponentName, Plan)]) -> Result<Option<Self>, Error> {
        let configured = |name: &ComponentName| restore.destination(name) == Some(&Destination::Configured);
        let replaced = plan.iter().filter(|(name, plan)| plan.replaces && configured(name));
        let only: Vec<ComponentName> = replaced.map(|(name, _)| name.clone()).collect();
        if only.is_empty() {
            return Ok(None);
        }
        let backs_up = |job: &&JobSettings| only.iter().all(|name| job.components.contains(name));
        let own = settings.jobs.iter().find(|job| job.name == restore.manifest().job).filter(backs_up);
        match own.or_else(|| settings.jobs.iter().find(backs_up)) {
            Some(job) => Ok(Some(Self { job, only, settings })),
            None => Err(Error::Usage {
                what: format!("no job here backs up all that would be replaced: {}", list(&only)),
                advice: Some(WITHOUT.into()),
            }),
        }
    }

    /// In a sentence.
    pub(super) fn told(&self) -> String {
        format!("First back up what is replaced ({}), as job {} does.", list(&self.only), self.job.name)
    }

    /// Why there is probably no room, if that can be known: what is replaced takes about as much as what replaces it.
    async fn no_room(&self, job: &Job, backup: &Manifest) -> Option<String> {
        let stored: u64 = self.only.iter().filter_map(|name| backup.component(name)).map(|c| c.stored_bytes()).sum();
        let needed = stored.saturating_add(stored / 4);
        for (name, target) in job.targets.iter().filter_map(|(name, target)| Some((name, target.as_ref().ok()?))) {
            if let Some(free) = target.free_space().await.filter(|free| *free < needed) {
                let (free, needed) = (output::size(free), output::size(needed));
                return Some(format!("target `{name}` has {free} left, and the safety backup may take {needed}"));
            }
        }
        None
    }

    /// Makes it. Its name, or `None` where there is no room and it was confirmed to go on without.
    ///
    /// # Errors
    /// Whatever keeps it from being whole: then nothing was touched yet.
    pub(super) async fn make(
        &self,
        global: &Global,
        restore: &Restore,
        asked: bool,
        cancel: &CancellationToken,
    ) -> Result<Option<BackupName>, Error> {
        // what a replica has not received yet is replaced too
        let job = assembly::job(&self.settings.without_replicas(), self.job).await?;
        if let Some(why) = self.no_room(&job, restore.manifest()).await {
            return match if asked {
                output::confirm(&format!("There may be no room: {why}. Restore without a safety backup?"))
            } else {
                None
            } {
                Some(true) => Ok(None),
                _ => Err(Error::Usage { what: format!("nothing was changed: {why}"), advice: Some(WITHOUT.into()) }),
            };
        }
        let targets: Vec<Target> = job.targets.iter().filter_map(|(_, target)| target.as_ref().ok().cloned()).collect();
        let engine = Engine::for_this_machine();
        let shown = Progress::show(global, "safety backup: read", engine.progress.clone());
        let request = Request { only: self.only.clone(), replaced_by: Some(restore.manifest().name.clone()), ..Request::default() };
        let report = job::run(job, request, &engine, &SystemClock, cancel).await;
        drop(shown);
        let report = report.map_err(|error| match error {
            JobError::NothingLeft { .. } | JobError::NoTarget { .. } => {
                Error::Incomplete(format!("nothing was changed: there is no safety backup: {}. {WITHOUT}", describe(&error)))
            }
            error => error.into(),
        })?;
        let lost: Vec<String> =
            report.manifest.components.iter().filter_map(|c| Some(format!("{}: {}", c.name, c.reason.as_ref()?))).collect();
        if !lost.is_empty() {
            return Err(Error::Incomplete(format!(
                "nothing was changed: the safety backup {} lacks {}. {WITHOUT}",
                report.manifest.name,
                lost.join("; ")
            )));
        }
        // restores run as root, and the worker has to read, count and remove what they store
        for target in targets.iter().filter(|target| report.targets.iter().any(|t| t.name == *target.name() && t.failure.is_none())) {
            if let Err(error) = target.hand_over(&report.manifest.name).await {
                output::story(&format!("warning: {}", describe(&error)));
            }
        }
        for target in report.targets.iter().filter_map(|t| Some((&t.name, t.failure.as_ref()?))) {
            output::story(&format!("warning: the safety backup is not in target {}: {}", target.0, target.1));
        }
        output::story(&format!("What is replaced was backed up as {}.", report.manifest.name));
        Ok(Some(report.manifest.name))
    }
}

const WITHOUT: &str = "Give --no-safety-backup to restore without one.";

fn list(names: &[ComponentName]) -> String {
    names.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(", ")
}
