//! `verify`: reads backups back, and records what was found beside them.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Global, VerifyArgs};
use super::choose::Wanted;
use super::progress::Progress;
use super::{choose, open_catalogs, or_cancelled, output};
use crate::catalog::{Catalog, CatalogError};
use crate::chain::{describe, explain};
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::encryption::Identities;
use crate::error::Error;
use crate::manifest::Manifest;
use crate::name::{BackupName, TargetName};
use crate::pipeline;
use crate::verdict::{Found, Verdict};
use crate::verify::{Finding, Findings, VerifyError, verify};

/// What is known about a backup in one target.
struct Row {
    name: BackupName,
    target: TargetName,
    outcome: Outcome,
}

enum Outcome {
    Read(Findings),
    /// The manifest itself.
    Damaged(String),
    /// Nobody who is trusted has signed it.
    Untrusted(String),
    Unread(String),
}

pub(super) async fn run(global: &Global, settings: &Settings, args: VerifyArgs, cancel: &CancellationToken) -> Result<(), Error> {
    let (catalogs, mut unread) = open_catalogs(settings, args.target.as_ref()).await?;
    let name = match args.name.as_deref() {
        None if args.all => None,
        Some(text) if text != "latest" && args.before.is_none() => {
            Some(text.parse::<BackupName>().map_err(|_| choose::not_found(format!("there is no backup `{text}`"), Vec::new()))?)
        }
        name => {
            let wanted = Wanted { name, job: args.job.as_ref(), only: &[], before: args.before };
            Some(or_cancelled(cancel, choose::backup(&catalogs, unread.clone(), &wanted)).await?.1.name)
        }
    };
    let identities = settings.encryption.identities()?;
    let progress = pipeline::Progress::default();
    let shown = Progress::show(global, "read back", progress.clone());
    let mut rows = Vec::new();
    for catalog in &catalogs {
        let names = match &name {
            Some(name) => vec![name.clone()],
            None => match or_cancelled(cancel, async { Ok::<_, Error>(catalog.target().backup_names().await) }).await? {
                Ok(all) => all.into_iter().filter(|name| args.job.as_ref().is_none_or(|job| name.job() == job)).collect(),
                Err(error) => {
                    unread.push(explain(&error, error.advice()));
                    continue;
                }
            },
        };
        for name in names {
            rows.extend(or_cancelled(cancel, check(catalog, name, &identities, &progress, cancel)).await?);
        }
    }
    drop(shown);
    if rows.is_empty()
        && let Some(name) = name
    {
        return Err(choose::not_found(format!("there is no backup `{name}`"), unread));
    }
    print(&rows, args.json)?;
    if rows.iter().any(|row| row.status() == "intact") {
        output::story(
            "intact: encrypted, and there is no identity here, so that only the stored bytes were compared, not what they hold. That is not \
             recorded as a verification; set `encryption.identity_file` for one.",
        );
    }
    verdict(&rows, unread)
}

/// `None`: there is no such backup here.
async fn check(
    catalog: &Catalog,
    name: BackupName,
    identities: &Identities,
    progress: &pipeline::Progress,
    cancel: &CancellationToken,
) -> Result<Option<Row>, Error> {
    let outcome = match catalog.find(&name).await {
        Ok(manifest) => match verify(catalog, &manifest, identities, progress, cancel).await {
            Ok(findings) => {
                record(catalog, &manifest, &findings).await;
                Outcome::Read(findings)
            }
            Err(VerifyError::Cancelled) => return Err(Error::Cancelled),
        },
        Err(CatalogError::NotFound(_)) => return Ok(None),
        Err(CatalogError::Damaged { source, .. }) => Outcome::Damaged(describe(&source)),
        Err(CatalogError::Untrusted { source, .. }) => Outcome::Untrusted(describe(&source)),
        Err(CatalogError::Storage(error)) => Outcome::Unread(explain(&error, error.advice())),
    };
    Ok(Some(Row { name, target: catalog.target().name().clone(), outcome }))
}

/// What could not be read is no verdict; nor is it that ciphertext is what was written, if nobody looked at what it holds.
async fn record(catalog: &Catalog, manifest: &Manifest, findings: &Findings) {
    let sound = findings.damaged().next().is_none();
    if sound && (findings.unread().next().is_some() || !findings.is_full()) {
        return;
    }
    if let Err(error) =
        catalog.record(&manifest.name, Verdict { at: SystemClock.now(), found: if sound { Found::Sound } else { Found::Damaged } }).await
    {
        tracing::warn!("the verification of `{}` could not be recorded: {}", manifest.name, describe(&error));
    }
}

impl Row {
    fn damage(&self) -> Vec<String> {
        match &self.outcome {
            Outcome::Read(findings) => findings.damaged().collect(),
            Outcome::Damaged(why) | Outcome::Untrusted(why) => vec![why.clone()],
            Outcome::Unread(_) => Vec::new(),
        }
    }

    fn unread(&self) -> Vec<String> {
        match &self.outcome {
            Outcome::Read(findings) => findings.unread().collect(),
            Outcome::Damaged(_) | Outcome::Untrusted(_) => Vec::new(),
            Outcome::Unread(why) => vec![why.clone()],
        }
    }

    fn is_full(&self) -> bool {
        matches!(&self.outcome, Outcome::Read(findings) if findings.is_full())
    }

    fn status(&self) -> &'static str {
        match () {
            () if matches!(self.outcome, Outcome::Untrusted(_)) => "untrusted",
            () if !self.damage().is_empty() => "damaged",
            () if !self.unread().is_empty() => "unreadable",
            () if !self.is_full() => "intact",
            () => "sound",
        }
    }

    fn objects(&self) -> &[(String, Finding)] {
        if let Outcome::Read(findings) = &self.outcome { &findings.objects } else { &[] }
    }
}

fn print(rows: &[Row], as_json: bool) -> Result<(), Error> {
    if as_json {
        let object = |(path, finding): &(String, Finding)| {
            let (status, text) = match finding {
                Finding::Sound(text) => ("sound", text.as_str()),
                Finding::Intact => ("intact", "encrypted: what is stored is what was written; what it holds was not looked at"),
                Finding::Damaged(text) => ("damaged", text.as_str()),
                Finding::Unread(text) => ("unreadable", text.as_str()),
            };
            json!({"path": path, "status": status, "found": text})
        };
        let row = |row: &Row| {
            json!({"name": row.name, "target": row.target, "status": row.status(), "damage": row.damage(), "unreadable": row.unread(),
                "objects": row.objects().iter().map(object).collect::<Vec<_>>()})
        };
        return output::json(&rows.iter().map(row).collect::<Vec<_>>());
    }
    let row = |row: &Row| {
        let objects = row.objects().len().to_string();
        vec![row.name.to_string(), row.target.to_string(), row.status().into(), objects]
    };
    output::table(&["Name", "Target", "Found", "Objects"], rows.iter().map(row).collect())
}

/// Damage outweighs what could not be read.
fn verdict(rows: &[Row], mut unread: Vec<String>) -> Result<(), Error> {
    let of = |row: &Row, why: Vec<String>| format!("`{}` in target `{}`: {}", row.name, row.target, why.join("; "));
    let damaged: Vec<String> = rows.iter().filter(|r| !r.damage().is_empty()).map(|r| of(r, r.damage())).collect();
    if !damaged.is_empty() {
        return Err(match rows.iter().any(|r| r.status() == "damaged") {
            true => Error::Integrity(format!("damaged: {}", damaged.join("; "))),
            false => Error::Distrust(format!("not trusted: {}", damaged.join("; "))),
        });
    }
    unread.extend(rows.iter().filter(|r| !r.unread().is_empty()).map(|r| of(r, r.unread())));
    if unread.is_empty() { Ok(()) } else { Err(Error::Incomplete(format!("not everything could be read: {}", unread.join("; ")))) }
}
