//! `copy`: backups from one target into another.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{CopyArgs, Global};
use super::progress::Progress;
use super::{choose_targets, or_cancelled, output};
use crate::assembly;
use crate::catalog::{Catalog, CatalogError, Entry};
use crate::chain::{describe, explain};
use crate::config::Settings;
use crate::copy::{Copied, CopyError, copy};
use crate::error::Error;
use crate::manifest::Status;
use crate::name::{BackupName, JobName, TargetName};
use crate::pipeline;
use crate::storage::{Access, Lease};

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
        // for one backup at a time: a run of the job that is due meanwhile is not kept waiting for all of them
        let holder = format!("a copy by process {}", std::process::id());
        let acquired = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CopyError::Cancelled),
            acquired = Lease::acquire(to.target(), name.job(), &holder) => acquired.map_err(CopyError::from),
        };
        let result = match acquired {
            Ok(lease) => {
                let copied = copy(&from, &to, &lease, &name, &progress, cancel).await;
                lease.release().await;
                copied
            }
            Err(error) => Err(error),
        };
        match result {
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
    report(&args, rows)?;
    ended?;
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
    let (mut names, mut failures) = (Vec::new(), Vec::new());
    for entry in from.list(job).await? {
        match entry {
            Entry::Sound(found) if found.status == Status::Complete && !there.contains(&found.name) => names.push(found.name.clone()),
            Entry::Sound(_) => {}
            Entry::Damaged(name, error) => failures.push(format!("{name}: {}", describe(&error))),
            Entry::Unread(name, error) => failures.push(format!("{name}: {}", explain(&error, error.advice()))),
        }
    }
    names.sort_by_key(|name| std::cmp::Reverse(name.created()));
    Ok((names, failures))
}

fn report(args: &CopyArgs, rows: Vec<(BackupName, Copied)>) -> Result<(), Error> {
    if args.json {
        let row = |(name, copied): &(BackupName, Copied)| match copied {
            Copied::Sent(bytes) => json!({"name": name, "from": args.from, "to": args.to, "status": "copied", "stored_bytes": bytes}),
            Copied::Found => json!({"name": name, "from": args.from, "to": args.to, "status": "there", "stored_bytes": 0}),
        };
        return output::json(&rows.iter().map(row).collect::<Vec<_>>());
    }
    let row = |(name, copied): (BackupName, Copied)| match copied {
        Copied::Sent(bytes) => vec![name.to_string(), "copied".into(), output::size(bytes)],
        Copied::Found => vec![name.to_string(), "was there".into(), String::new()],
    };
    output::table(&["Name", "Result", "Sent"], rows.into_iter().map(row).collect())
}
