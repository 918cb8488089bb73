//! `restore`: finds the backup, plans, asks, carries out.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Global, RestoreArgs};
use super::choose::Wanted;
use super::progress::Progress;
use super::recover::Finder;
use super::safety::Safety;
use super::{choose, identities, legacy, open_catalogs, or_cancelled, output, part, recover};
use crate::assembly;
use crate::clock::{Clock, SystemClock};
use crate::component::{Destination, RestoreOptions, Restored};
use crate::config::Settings;
use crate::error::Error;
use crate::manifest::{ComponentStatus, Facts, Kind, Manifest};
use crate::name::ComponentName;
use crate::pipeline;
use crate::restore::{Part, Restore};

pub(super) async fn run(global: &Global, settings: &Settings, args: RestoreArgs, cancel: &CancellationToken) -> Result<(), Error> {
    if args.resume || args.rollback {
        return recover::run(global, settings, args, cancel).await;
    }
    let destinations = args.into.iter().map(|text| parse_destination(text)).collect::<Result<Vec<_>, _>>()?;
    let (catalogs, unread) = open_catalogs(settings, args.target.as_ref()).await?;
    let wanted = Wanted { name: args.name.as_deref(), job: args.job.as_ref(), only: &args.only, before: args.before };
    let (target, manifest) = match legacy::find(settings, &catalogs, &unread, wanted.name, &args.only, cancel).await? {
        Some(found) => found,
        None => or_cancelled(cancel, choose::backup(&catalogs, unread, &wanted)).await?,
    };
    let progress = pipeline::Progress::default();
    let parts = parts(settings, &manifest, &args, destinations)?;
    let identities = identities(settings, &target, &manifest).await?;
    let restore = Restore::new(&target, manifest, parts, identities, progress.clone())?;
    let finder = Finder::open(settings).await?;
    finder.make_way(&restore, false).await?;
    let plan = or_cancelled(cancel, restore.plan()).await?;

    let say: fn(&str) -> Result<(), Error> = if args.dry_run && !args.json {
        output::answer
    } else {
        |line| {
            output::story(line);
            Ok(())
        }
    };
    say(&format!("Restore {} from target {}:", restore.manifest().name, target.name()))?;
    for (component, plan) in &plan {
        say(&format!("  {component}:"))?;
        plan.steps.iter().try_for_each(|step| say(&format!("    {step}")))?;
    }
    let safety = if args.no_safety_backup { None } else { Safety::of(settings, &restore, &plan)? };
    if let Some(safety) = &safety {
        say(&format!("  {}", safety.told()))?;
    }
    if args.dry_run {
        if args.json {
            let components = plan
                .iter()
                .map(|(name, plan)| {
                    let facts = plan.facts.iter().map(|(key, value)| (key.clone(), value.clone()));
                    let own = [("name".to_owned(), json!(name)), ("steps".to_owned(), json!(plan.steps))];
                    facts.chain(own).collect::<Facts>()
                })
                .collect::<Vec<_>>();
            output::json(&json!({"name": restore.manifest().name, "target": target.name(), "components": components}))?;
        }
        return Ok(());
    }
    if !args.yes {
        confirmed()?;
    }

    finder.make_way(&restore, true).await?;
    let safety = match safety {
        Some(safety) => safety.make(global, &restore, !args.yes, cancel).await?,
        None => None,
    };
    let journal = restore.begin(&finder.ledger, safety, SystemClock.now()).await?;
    let shown = Progress::show(global, "fetched", progress);
    let restored = restore.execute(Some(journal), cancel).await;
    drop(shown);
    let restored = restored?;
    if args.json {
        let components = restored.iter().map(|(name, r)| json!({"name": name, "done": r.done, "warnings": r.warnings})).collect::<Vec<_>>();
        return output::json(&json!({"name": restore.manifest().name, "target": target.name(), "components": components}));
    }
    print_restored(restored)
}

/// What came of each component.
pub(super) fn print_restored(restored: Vec<(ComponentName, Restored)>) -> Result<(), Error> {
    for (component, restored) in restored {
        restored.done.iter().try_for_each(|line| output::answer(&format!("{component}: {line}")))?;
        restored.warnings.iter().try_for_each(|line| output::answer(&format!("{component}: warning: {line}")))?;
    }
    Ok(())
}

pub(super) fn confirmed() -> Result<(), Error> {
    match output::confirm("Are you sure you want to continue?") {
        Some(true) => Ok(()),
        Some(false) => Err(Error::Usage { what: "not confirmed; nothing was changed".into(), advice: None }),
        None => Err(Error::Usage {
            what: "a restore needs confirmation, and there is no terminal to ask on; nothing was changed".into(),
            advice: Some("Give --yes to restore without being asked.".into()),
        }),
    }
}

pub(super) fn parse_destination(text: &str) -> Result<(ComponentName, String), Error> {
    let usage = || Error::Usage {
        what: format!("`--into {}` is not COMPONENT=DESTINATION", text.split_once('=').map_or("…", |(name, _)| name)),
        advice: Some("For example `--into media=/tmp/look`.".into()),
    };
    let (name, to) = text.split_once('=').ok_or_else(usage)?;
    if to.is_empty() {
        return Err(usage());
    }
    Ok((name.parse().map_err(|_| usage())?, to.to_owned()))
}

/// What to restore: what was asked for, or everything that the backup holds.
fn parts(
    settings: &Settings,
    manifest: &Manifest,
    args: &RestoreArgs,
    mut destinations: Vec<(ComponentName, String)>,
) -> Result<Vec<Part>, Error> {
    let lost: Vec<&str> = manifest.components.iter().filter(|c| c.status == ComponentStatus::Failed).map(|c| c.name.as_str()).collect();
    let names = part::names(manifest, args)?;
    if args.only.is_empty() && !lost.is_empty() {
        output::story(&format!("This backup is partial: it lacks {}, which stays as it is.", lost.join(", ")));
    }
    let asked = RestoreOptions {
        to: Destination::Configured,
        keep_old: args.keep_old,
        databases: args.database.clone(),
        tables: args.table.clone(),
        paths: args.path.clone(),
        delete_extra: args.delete_extra,
        no_owner: args.no_owner,
        jobs: args.jobs,
        stamp: SystemClock.now().format("%Y%m%d-%H%M%S").to_string(),
    };
    let mut parts = Vec::new();
    let mut kinds = Vec::new();
    for name in names {
        let kind = manifest.component(&name).map(|c| c.kind).ok_or_else(|| Error::NotFound {
            what: format!("backup `{}` holds no component `{name}`", manifest.name),
            advice: Some(format!("It holds: {}.", manifest.components.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "))),
        })?;
        kinds.push(kind);
        let into = destinations.iter().position(|(n, _)| *n == name).map(|at| destinations.swap_remove(at).1);
        let to = into.map_or(Destination::Configured, Destination::Into);
        let restorer = match assembly::restorer(settings, &name, kind, &to) {
            Some(restorer) => restorer,
            None => {
                return Err(Error::Usage {
                    what: format!("component `{name}` is not configured here as a {} component: where should it go?", kind.as_str()),
                    advice: Some(format!("Give --into {name}=DESTINATION, leave it out with --only, or configure it.")),
                });
            }
        };
        parts.push(Part { restorer, options: RestoreOptions { to, ..asked.clone() } });
    }
    let ours = [("--no-owner", args.no_owner), ("--jobs", args.jobs.is_some())].into_iter().find(|(_, given)| *given);
    if let Some((option, _)) = ours.filter(|_| !kinds.contains(&Kind::Postgres)) {
        return Err(Error::Usage { what: format!("{option} is for PostgreSQL, and no such component is restored"), advice: None });
    }
    if let Some((name, _)) = destinations.first() {
        return Err(Error::Usage { what: format!("`--into {name}=…` names a component that is not restored"), advice: None });
    }
    Ok(parts)
}
