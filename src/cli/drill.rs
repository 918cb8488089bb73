//! `verify --drill`, and what the worker does by the cron expression `drill`: a backup is restored for a trial, and what that showed is
//! recorded beside it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Global, VerifyArgs};
use super::choose::Wanted;
use super::progress::Progress;
use super::{choose, identities, open_catalogs, or_cancelled, output};
use crate::assembly;
use crate::catalog::Catalog;
use crate::chain::describe;
use crate::clock::{Clock, SystemClock};
use crate::component::Destination;
use crate::config::Settings;
use crate::drill::{Drill, DrillError, Outcome, Part, Trial, findings};
use crate::error::Error;
use crate::manifest::{ComponentStatus, Manifest};
use crate::name::{BackupName, ComponentName, TargetName};
use crate::pipeline;
use crate::storage::Target;
use crate::verdict::{Found, Verdict};

pub(super) async fn run(global: &Global, settings: &Settings, args: VerifyArgs, cancel: &CancellationToken) -> Result<(), Error> {
    let (catalogs, unread) = open_catalogs(settings, args.target.as_ref()).await?;
    let wanted = Wanted { name: args.name.as_deref(), job: args.job.as_ref(), only: &args.only, before: args.before };
    let (target, manifest) = or_cancelled(cancel, choose::backup(&catalogs, unread, &wanted)).await?;
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "restored", progress.clone());
    let report = drill(settings, &target, manifest, &args.only, progress, cancel).await;
    drop(shown);
    let report = report?;
    report.print(args.json)?;
    report.result()
}

/// What a drill showed.
pub(super) struct Report {
    pub(super) name: BackupName,
    target: TargetName,
    trials: Vec<Trial>,
    /// Components of the job that the backup holds, and that were not asked for; or that it lost.
    left_out: Vec<ComponentName>,
    /// What is wrong with the list of checksums.
    sums: Option<Outcome>,
    took: Duration,
}

/// Drills the components `only` of a backup, or all that it holds, and records the verdict. Cancelled, all is removed before it returns.
pub(super) async fn drill(
    settings: &Settings,
    target: &Target,
    manifest: Manifest,
    only: &[ComponentName],
    progress: pipeline::Progress,
    cancel: &CancellationToken,
) -> Result<Report, Error> {
    let began = Instant::now();
    let identities = identities(settings, target, &manifest).await?;
    let catalog = Catalog::new(target.clone());
    let wanted = |name: &ComponentName| only.is_empty() || only.contains(name);
    let held = |c: &&crate::manifest::Component| c.status == ComponentStatus::Complete && wanted(&c.name);
    let part = |c: &crate::manifest::Component| Part {
        name: c.name.clone(),
        configured: assembly::restorer(settings, &c.name, c.kind, &Destination::Beside),
        anywhere: assembly::restorer(settings, &c.name, c.kind, &Destination::Throwaway(String::new())).expect("a destination is given"),
    };
    let parts: Vec<Part> = manifest.components.iter().filter(held).map(part).collect();
    if let Some(missing) = only.iter().find(|name| parts.iter().all(|part| part.name != **name)) {
        return Err(Error::NotFound {
            what: format!("backup `{}` holds no component `{missing}`", manifest.name),
            advice: Some(format!("It holds: {}.", manifest.components.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "))),
        });
    }
    let drilled: Vec<ComponentName> = parts.iter().map(|part| part.name.clone()).collect();
    let backed_up = manifest.components.iter().filter(|c| c.status != ComponentStatus::Skipped);
    let left_out: Vec<ComponentName> = backed_up.map(|c| c.name.clone()).filter(|name| !drilled.contains(name)).collect();
    let trials = match Drill::new(target, manifest.clone(), parts, identities, progress)?.run(cancel).await {
        Ok(trials) => trials,
        Err(DrillError::Cancelled) => return Err(Error::Cancelled),
        Err(error) => return Err(Error::Incomplete(describe(&error))),
    };
    let sums = match catalog.sums_match(&manifest).await {
        Ok(true) => None,
        Ok(false) => Some(Outcome::Damaged("`SHA256SUMS` is missing, or does not agree with the manifest".into())),
        Err(error) => Some(Outcome::Unable(describe(&error))),
    };
    let report = Report { name: manifest.name, target: target.name().clone(), trials, left_out, sums, took: began.elapsed() };
    report.record(&catalog).await;
    Ok(report)
}

impl Report {
    fn findings(&self) -> Vec<Found> {
        let whole = self.left_out.is_empty() && self.sums.is_none();
        let mut found = findings(&self.trials, whole, self.took);
        if matches!(self.sums, Some(Outcome::Damaged(_))) && !found.contains(&Found::Damaged) {
            found.push(Found::Damaged);
        }
        found
    }

    async fn record(&self, catalog: &Catalog) {
        let at = SystemClock.now();
        for found in self.findings() {
            if let Err(error) = catalog.record(&self.name, Verdict { at, found }).await {
                tracing::warn!("the drill of `{}` could not be recorded: {}", self.name, describe(&error));
            }
        }
    }

    /// What is wrong, a sentence each, of outcomes that `is` takes.
    fn reasons(&self, is: impl Fn(&Outcome) -> bool) -> Vec<String> {
        let trials = self.trials.iter().filter(|t| is(&t.outcome)).filter_map(|t| Some(format!("{}: {}", t.name, t.outcome.reason()?)));
        let sums = self.sums.iter().filter(|o| is(o)).filter_map(|o| o.reason().map(str::to_owned));
        trials.chain(sums).collect()
    }

    /// What was not tried.
    pub(super) fn gaps(&self) -> Vec<String> {
        let mut gaps = self.reasons(|o| matches!(o, Outcome::Incomplete(_)));
        gaps.extend(self.left_out.iter().map(|name| format!("{name}: not drilled")));
        gaps
    }

    fn print(&self, as_json: bool) -> Result<(), Error> {
        let seconds = |took: Duration| (took.as_secs_f64() * 10.0).round() / 10.0;
        if as_json {
            let trial = |t: &Trial| {
                json!({"name": t.name, "status": t.outcome.word(), "reason": t.outcome.reason(), "seconds": seconds(t.took),
                    "done": t.done, "warnings": t.warnings})
            };
            let trials: Vec<_> = self.trials.iter().map(trial).collect();
            return output::json(&json!({"name": self.name, "target": self.target, "status": self.status(), "seconds": seconds(self.took),
                "components": trials, "not_drilled": self.gaps()}));
        }
        let row = |t: &Trial| vec![t.name.to_string(), t.outcome.word().into(), format!("{:.1}", t.took.as_secs_f64())];
        output::table(&["Component", "Drill", "Seconds"], self.trials.iter().map(row).collect())?;
        for trial in &self.trials {
            trial.done.iter().try_for_each(|line| output::answer(&format!("{}: {line}", trial.name)))?;
            trial.warnings.iter().try_for_each(|line| output::answer(&format!("{}: warning: {line}", trial.name)))?;
        }
        for gap in self.gaps() {
            output::answer(&format!("not drilled: {gap}"))?;
        }
        output::answer(&format!(
            "{} from target {}: {} in {:.1} s, which is about what a restore takes.",
            self.name,
            self.target,
            self.status(),
            self.took.as_secs_f64()
        ))
    }

    fn status(&self) -> &'static str {
        match self.result() {
            Ok(()) if self.gaps().is_empty() => "passed",
            Ok(()) => "incomplete",
            Err(Error::Incomplete(_)) => "unable",
            Err(_) => "failed",
        }
    }

    /// Damage outweighs a failure, and that what could not be tried.
    pub(super) fn result(&self) -> Result<(), Error> {
        let of = |reasons: Vec<String>| format!("`{}` in target `{}`: {}", self.name, self.target, reasons.join("; "));
        let damaged = self.reasons(|o| matches!(o, Outcome::Damaged(_)));
        let differs = self.reasons(|o| matches!(o, Outcome::Differs(_)));
        if !damaged.is_empty() || !differs.is_empty() {
            return Err(Error::Integrity(format!("the drill failed: {}", of([damaged, differs].concat()))));
        }
        let failed = self.reasons(|o| matches!(o, Outcome::Failed(_)));
        if !failed.is_empty() {
            return Err(Error::Drill(format!("the drill failed: {}", of(failed))));
        }
        let unable = self.reasons(|o| matches!(o, Outcome::Unable(_)));
        if unable.is_empty() { Ok(()) } else { Err(Error::Incomplete(format!("the drill could not be carried out: {}", of(unable)))) }
    }
}
