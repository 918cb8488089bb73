//! `prune`: retention, now or as a plan.

use serde_json::json;

use super::args::PruneArgs;
use super::{choose_job, choose_targets, output};
use crate::assembly;
use crate::catalog::{Catalog, candidates};
use crate::chain::describe;
use crate::clock::{Clock, SystemClock};
use crate::config::{JobSettings, Settings};
use crate::error::Error;
use crate::job::{self, Pruned};
use crate::name::TargetName;
use crate::retention::{self, Decision};
use crate::signature::Authenticity;
use crate::storage::{Access, Lease, StorageError, Target};

pub(super) async fn run(settings: &Settings, args: PruneArgs) -> Result<(), Error> {
    let jobs = match &args.job {
        Some(name) => vec![choose_job(settings, Some(name))?],
        None => settings.jobs.iter().collect(),
    };
    let wanted = choose_targets(settings, args.target.as_ref())?;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for job in jobs {
        let names = job.targets.iter().filter(|t| wanted.contains(t));
        for (name, target) in assembly::targets(settings, names, if args.dry_run { Access::Read } else { Access::Write }).await {
            match prune(job, target, &settings.encryption.trust(), args.dry_run).await {
                Ok((decisions, failed)) => {
                    failures.extend(failed);
                    rows.extend(decisions.into_iter().map(|d| (job.name.clone(), name.clone(), d)));
                }
                Err(error) if error.is_busy() => return Err(error.into()),
                Err(error) if error.is_not_found() && args.dry_run => tracing::warn!("{}", describe(&error)),
                Err(error) => failures.push(describe(&error)),
            }
        }
    }
    if args.json {
        let row = |(job, target, d): &(_, TargetName, Decision)| json!({"name": d.name, "job": job, "target": target, "keep": d.keep, "reason": d.reason});
        output::json(&rows.iter().map(row).collect::<Vec<_>>())?;
    } else {
        let done = if args.dry_run { "would be removed" } else { "removed" };
        let row = |(_, target, d): (_, TargetName, Decision)| {
            vec![d.name.to_string(), target.to_string(), if d.keep { "kept".into() } else { done.into() }, d.reason]
        };
        output::table(&["Name", "Target", "Decision", "Reason"], rows.into_iter().map(row).collect())?;
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Incomplete(format!("retention is incomplete: {}", failures.join("; ")))) }
}

async fn prune(
    job: &JobSettings,
    target: Result<Target, StorageError>,
    trust: &Authenticity,
    dry_run: bool,
) -> Result<(Vec<Decision>, Vec<String>), StorageError> {
    let target = target?;
    let catalog = Catalog::new(target.clone()).with(trust);
    if dry_run {
        let entries = catalog.list(Some(&job.name)).await?;
        let candidates = candidates(&entries, &catalog.verdicts().await?);
        return Ok((retention::plan(&job.policy, &candidates, SystemClock.now()), Vec::new()));
    }
    let lease = Lease::acquire(&target, &job.name, &format!("prune, process {}", std::process::id())).await?;
    let Pruned { mut decisions, removed, failures } = job::prune(&catalog, &job.name, &job.policy, SystemClock.now()).await;
    lease.release().await;
    decisions.retain(|d| d.keep || removed.contains(&d.name));
    Ok((decisions, failures))
}
