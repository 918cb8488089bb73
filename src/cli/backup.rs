//! `backup`: one run, now.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{BackupArgs, Global};
use super::progress::Progress;
use super::{choose_job, copy, output};
use crate::assembly;
use crate::chain::describe;
use crate::clock::SystemClock;
use crate::config::Settings;
use crate::error::Error;
use crate::job::{self, JobError, Report, Request};
use crate::manifest::ComponentStatus;
use crate::pipeline::Engine;

pub(super) async fn run(global: &Global, settings: &Settings, args: BackupArgs, cancel: &CancellationToken) -> Result<(), Error> {
    if let Some(copies) = settings.copies.iter().find(|copy| args.job.as_ref() == Some(&copy.name)) {
        if !args.only.is_empty() {
            let what = format!("job `{}` copies backups as they are: --only cannot divide them", copies.name);
            return Err(Error::Usage { what, advice: None });
        }
        return copy::job(global, settings, copies, args.json, cancel).await;
    }
    let settings_of_job = choose_job(settings, args.job.as_ref())?;
    let job = tokio::select! {
        job = assembly::job(settings, settings_of_job) => job?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    let engine = Engine::for_this_machine();
    let progress = Progress::show(global, "read", engine.progress.clone());
    let request = Request { only: args.only, ..Request::default() };
    let report = job::run(job, request, &engine, &SystemClock, cancel).await;
    drop(progress);
    match &report {
        Ok(report) if args.json => output::json(&to_json(report))?,
        Ok(report) => print(report)?,
        Err(error) if args.json => output::json(&failed_json(error))?,
        Err(_) => {}
    }
    verdict(&report?)
}

/// The same members as [`to_json`], for a script that looks at `status`.
fn failed_json(error: &JobError) -> Value {
    json!({"name": null, "status": "failed", "reason": describe(error), "target": "", "targets": [], "components": [], "pruned": []})
}

/// Exit code 3 unless everything that was asked for is stored everywhere.
fn verdict(report: &Report) -> Result<(), Error> {
    if report.is_whole() {
        return Ok(());
    }
    Err(Error::Incomplete(format!("the backup is incomplete: {}", report.shortcomings().join("; "))))
}

fn print(report: &Report) -> Result<(), Error> {
    let manifest = &report.manifest;
    let stored: Vec<&str> = report.targets.iter().filter(|t| t.failure.is_none()).map(|t| t.name.as_str()).collect();
    output::answer(&format!("{} ({}) in {}", manifest.name, manifest.status.as_str(), stored.join(", ")))?;
    for component in &manifest.components {
        let line = match component.status {
            ComponentStatus::Complete => format!(
                "  {}: {}, stored {}, {:.1} s",
                component.name,
                output::size(component.raw_bytes()),
                output::size(component.stored_bytes()),
                component.seconds
            ),
            status => format!("  {}: {}: {}", component.name, status.as_str(), component.reason.as_deref().unwrap_or_default()),
        };
        output::answer(&line)?;
        for warning in &component.warnings {
            output::answer(&format!("    warning: {warning}"))?;
        }
    }
    for name in &report.pruned {
        output::answer(&format!("  removed by retention: {name}"))?;
    }
    Ok(())
}

fn to_json(report: &Report) -> Value {
    let stored: Vec<&str> = report.targets.iter().filter(|t| t.failure.is_none()).map(|t| t.name.as_str()).collect();
    let failed: Vec<Value> = report
        .targets
        .iter()
        .filter(|t| t.failure.is_some() || !t.prune_failures.is_empty())
        .map(|t| json!({"name": t.name, "reason": t.failure, "retention": t.prune_failures}))
        .collect();
    let components: Vec<Value> = report
        .manifest
        .components
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "kind": c.kind, "status": c.status, "reason": c.reason,
                "raw_bytes": c.raw_bytes(), "stored_bytes": c.stored_bytes(), "uploaded_bytes": c.stored_bytes() * stored.len() as u64,
                "seconds": c.seconds, "warnings": c.warnings,
            })
        })
        .collect();
    json!({
        "name": report.manifest.name, "job": report.manifest.job, "created": report.manifest.created,
        "status": report.manifest.status, "target": stored.join(","), "targets": stored, "failed_targets": failed,
        "components": components, "pruned": report.pruned,
    })
}
