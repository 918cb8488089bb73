//! `copy`: backups from one target into another.

use std::collections::BTreeMap;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{CopyArgs, Global};
use super::progress::Progress;
use super::{choose_targets, output};
use crate::assembly;
use crate::catalog::{Catalog, CatalogError};
use crate::chain::explain;
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
    let names = if args.all { missing(&from, &to, args.job.as_ref()).await? } else { parsed(&args)? };
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "copied", progress.clone());
    let (mut rows, mut failures, mut damaged) = (Vec::new(), Vec::new(), false);
    let mut leases: BTreeMap<JobName, Lease> = BTreeMap::new();
    let mut ended = Ok(());
    for name in names {
        let result = match hold(&mut leases, &to, name.job()).await {
            Ok(lease) => copy(&from, &to, lease, &name, &progress, cancel).await,
            Err(error) => Err(error.into()),
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
    for lease in leases.into_values() {
        lease.release().await;
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

/// The complete backups of `from` that `to` lacks, newest first.
async fn missing(from: &Catalog, to: &Catalog, job: Option<&JobName>) -> Result<Vec<BackupName>, Error> {
    let there = to.list(job).await?;
    let complete = from
        .list(job)
        .await?
        .into_iter()
        .filter_map(|entry| entry.summary().filter(|summary| summary.status == Status::Complete).map(|summary| summary.name.clone()));
    let mut names: Vec<BackupName> = complete.filter(|name| there.iter().all(|entry| entry.name() != name)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.created()));
    Ok(names)
}

/// The lease of a job in the target that is written to: while it runs there, nothing is copied.
async fn hold<'a>(
    leases: &'a mut BTreeMap<JobName, Lease>,
    to: &Catalog,
    job: &JobName,
) -> Result<&'a Lease, crate::storage::StorageError> {
    if !leases.contains_key(job) {
        let holder = format!("a copy by process {}", std::process::id());
        leases.insert(job.clone(), Lease::acquire(to.target(), job, &holder).await?);
    }
    Ok(&leases[job])
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
