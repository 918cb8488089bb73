//! `copy`: backups from one target into another; and `backup` of a job that does so.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{CopyArgs, Global};
use super::progress::Progress;
use super::{choose_targets, or_cancelled, output};
use crate::assembly;
use crate::catalog::{Catalog, CatalogError, Entry};
use crate::chain::explain;
use crate::clock::SystemClock;
use crate::config::{CopySettings, Settings};
use crate::copy::{Copied, CopyError, copy};
use crate::error::Error;
use crate::manifest::Status;
use crate::mirror::{self, MirrorError};
use crate::name::{BackupName, JobName, TargetName};
use crate::pipeline;
use crate::storage::Access;

pub(super) async fn run(global: &Global, settings: &Settings, args: CopyArgs, cancel: &CancellationToken) -> Result<(), Error> {
    if args.from == args.to {
        return Err(Error::Usage { what: "--from and --to are the same target".into(), advice: None });
    }
    let from = open(settings, &args.from, Access::Read).await?;
    let to = open(settings, &args.to, Access::Write).await?;
    let (names, mut failures) = match args.all {
        true => or_cancelled(cancel, missing(&from, &to, args.job.as_ref())).await?,
        false => (parsed(&args)?, Vec::new()),
    };
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "copied", progress.clone());
    let (mut rows, mut damaged) = (Vec::new(), false);
    let mut ended = Ok(());
    for name in names {
        match copy(&from, &to, &name, &progress, cancel).await {
            Ok(copied) => rows.push((name, copied)),
            Err(CopyError::Cancelled) => {
                ended = Err(Error::Cancelled);
                break;
            }
            Err(CopyError::Storage(error)) if error.is_busy() => {
                ended = Err(error.into());
                break;
            }
            Err(CopyError::Catalog(error @ CatalogError::NotFound(_))) if !args.all => {
                ended = Err(error.into());
                break;
            }
            Err(error) => {
                damaged |= error.is_damage();
                failures.push(format!("{name}: {}", explain(&error, error.advice())));
            }
        }
    }
    drop(shown);
    let copied: Vec<Row> = rows.into_iter().map(|(name, copied)| (name, args.to.clone(), copied)).collect();
    match args.json {
        true => output::json(&copied.iter().map(|row| to_json(&args.from, row)).collect::<Vec<_>>())?,
        false => table(&copied)?,
    }
    ended?;
    result(&failures, damaged)
}

/// One run of a job that copies, now.
pub(super) async fn job(
    global: &Global,
    settings: &Settings,
    copy: &CopySettings,
    json: bool,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "copied", progress.clone());
    let mirror = or_cancelled(cancel, assembly::mirror(settings, copy, Access::Write)).await?;
    let (report, ended) = mirror::run(mirror, &progress, &SystemClock, cancel).await;
    drop(shown);
    if json {
        let status = if ended.is_ok() && report.failures.is_empty() { "complete" } else { "partial" };
        let copied: Vec<_> = report.copied.iter().map(|row| to_json(&copy.from, row)).collect();
        let answer = json!({
            "name": null, "job": copy.name, "status": status, "targets": copy.targets, "components": [], "copied": copied,
            "pruned": report.pruned, "failures": report.failures,
        });
        output::json(&answer)?;
    } else {
        table(&report.copied)?;
        for name in &report.pruned {
            output::answer(&format!("removed by retention: {name}"))?;
        }
    }
    ended.map_err(|error| match error {
        MirrorError::Cancelled => Error::Cancelled,
        MirrorError::Storage(error) => error.into(),
    })?;
    result(&report.failures, report.damaged)
}

fn result(failures: &[String], damaged: bool) -> Result<(), Error> {
    match failures.is_empty() {
        true => Ok(()),
        false if damaged => Err(Error::Integrity(failures.join("; "))),
        false => Err(Error::Incomplete(failures.join("; "))),
    }
}

async fn open(settings: &Settings, name: &TargetName, access: Access) -> Result<Catalog, Error> {
    let mut opened = assembly::targets(settings, choose_targets(settings, Some(name))?, access).await;
    let (_, target) = opened.pop().expect("one was chosen");
    Ok(Catalog::new(target?).with(&settings.encryption.trust()))
}

fn parsed(args: &CopyArgs) -> Result<Vec<BackupName>, Error> {
    let parse = |name: &String| {
        name.parse().map_err(|_| Error::NotFound {
            what: format!("there is no backup `{name}`"),
            advice: Some("`listbackups` shows what there is.".into()),
        })
    };
    args.names.iter().map(parse).collect()
}

/// The complete backups of `from` that `to` lacks, newest first; and which cannot be told, with the reason.
async fn missing(from: &Catalog, to: &Catalog, job: Option<&JobName>) -> Result<(Vec<BackupName>, Vec<String>), Error> {
    let there: Vec<BackupName> = to.list(job).await?.iter().filter_map(|entry| entry.summary()).map(|found| found.name.clone()).collect();
    let all = from.list(job).await?;
    let failures = all.iter().filter_map(Entry::trouble).collect();
    let complete = all.iter().filter_map(Entry::summary).filter(|found| found.status == Status::Complete);
    let mut names: Vec<BackupName> = complete.map(|found| found.name.clone()).filter(|name| !there.contains(name)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.created()));
    Ok((names, failures))
}

type Row = (BackupName, TargetName, Copied);

fn to_json(from: &TargetName, (name, to, copied): &Row) -> Value {
    let (status, bytes) = match copied {
        Copied::Sent(bytes) => ("copied", *bytes),
        Copied::Found => ("there", 0),
    };
    json!({"name": name, "from": from, "to": to, "status": status, "stored_bytes": bytes})
}

fn table(rows: &[Row]) -> Result<(), Error> {
    let row = |(name, to, copied): &Row| {
        let (result, sent) = match copied {
            Copied::Sent(bytes) => ("copied", output::size(*bytes)),
            Copied::Found => ("was there", String::new()),
        };
        vec![name.to_string(), to.to_string(), result.to_owned(), sent]
    };
    output::table(&["Name", "Target", "Result", "Sent"], rows.iter().map(row).collect())
}
