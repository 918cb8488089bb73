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
use crate::mirror::{self, Mirror};
use crate::name::{JobName, TargetName};
use crate::retention::{self, Decision, Policy};
use crate::signature::Authenticity;
use crate::storage::{Access, Lease, StorageError, Target};

pub(super) async fn run(settings: &Settings, args: PruneArgs) -> Result<(), Error> {
    let wanted = choose_targets(settings, args.target.as_ref())?;
    let access = if args.dry_run { Access::Read } else { Access::Write };
    let mut rows = Vec::new();
    let (rules, mut failures) = rules(settings, args.job.as_ref()).await?;
    for rule in rules.into_iter().filter(|rule| wanted.contains(&rule.target)) {
        for (name, target) in assembly::targets(settings, [rule.target], access).await {
            match prune(&rule, target, &settings.encryption.trust(), args.dry_run).await {
                Ok((decisions, failed)) => {
                    failures.extend(failed);
                    rows.extend(decisions.into_iter().map(|d| (rule.of.clone(), name.clone(), d)));
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

/// What a job keeps in one target, of the backups of that job, or of another if it copies.
struct Rule<'a> {
    of: &'a JobName,
    backups: JobName,
    policy: Policy,
    target: &'a TargetName,
}

/// Those of a job, or of all; and why others cannot be told.
async fn rules<'a>(settings: &'a Settings, job: Option<&'a JobName>) -> Result<(Vec<Rule<'a>>, Vec<String>), Error> {
    let (mut rules, mut failures) = (Vec::new(), Vec::new());
    let copies = settings.copies.iter().filter(|copy| job.is_none_or(|job| copy.name == *job));
    for copy in copies.clone() {
        let names = match assembly::mirror(settings, copy, Access::Read).await {
            Ok(Mirror { from: Some(from), .. }) => from.target().backup_names().await,
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        match names {
            Ok(names) => {
                for target in &copy.targets {
                    let writers: Vec<JobName> = settings.writers(target).cloned().collect();
                    let governed = settings.governed(copy);
                    let jobs = mirror::jobs(&names, &writers).into_iter();
                    let jobs = jobs.filter(|job| governed.as_ref().is_none_or(|governed| governed.contains(job)));
                    rules.extend(jobs.map(|backups| Rule { of: &copy.name, backups, policy: copy.policy, target }));
                }
            }
            Err(error) => failures.push(describe(&error)),
        }
    }
    let jobs: Vec<&JobSettings> = match job {
        None => settings.jobs.iter().collect(),
        Some(_) if copies.count() > 0 => Vec::new(),
        name => vec![choose_job(settings, name)?],
    };
    for job in jobs {
        let rule = |target| Rule { of: &job.name, backups: job.name.clone(), policy: job.policy, target };
        rules.extend(job.targets.iter().map(rule));
    }
    Ok((rules, failures))
}

async fn prune(
    rule: &Rule<'_>,
    target: Result<Target, StorageError>,
    trust: &Authenticity,
    dry_run: bool,
) -> Result<(Vec<Decision>, Vec<String>), StorageError> {
    let target = target?;
    let catalog = Catalog::new(target.clone()).with(trust);
    let Rule { backups: job, policy, .. } = rule;
    if dry_run {
        let entries = catalog.list(Some(job)).await?;
        let candidates = candidates(&entries, &catalog.verdicts().await?);
        return Ok((retention::plan(policy, &candidates, SystemClock.now()), Vec::new()));
    }
    let lease = Lease::acquire(&target, job, &format!("prune, process {}", std::process::id())).await?;
    let Pruned { mut decisions, removed, failures } = job::prune(&catalog, job, policy, SystemClock.now()).await;
    lease.release().await;
    decisions.retain(|d| d.keep || removed.contains(&d.name));
    Ok((decisions, failures))
}
