//! Which backup a command means.

use crate::catalog::{Catalog, CatalogError, Entry};
use crate::chain::describe;
use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::manifest::{Manifest, Status, Summary};
use crate::name::{BackupName, ComponentName, JobName};
use crate::storage::Target;

use super::moment::Moment;

/// What was typed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// A name, or `latest`; may be left out where `before` is given.
    pub(super) name: Option<&'a str>,
    /// The rest is for `latest`: of this job.
    pub(super) job: Option<&'a JobName>,
    /// Complete in these components.
    pub(super) only: &'a [ComponentName],
    /// Finished before.
    pub(super) before: Option<Moment>,
}

/// The backup of that name, or the newest complete one that serves, and a target that holds it. `unread` says why targets are not among
/// the catalogs.
pub(super) async fn backup(catalogs: &[Catalog], unread: Vec<String>, wanted: &Wanted<'_>) -> Result<(Target, Manifest), Error> {
    match wanted.name {
        None | Some("latest") => latest(catalogs, unread, wanted).await,
        Some(name) if wanted.before.is_some() => Err(Error::Usage {
            what: format!("`{name}` names one backup, and --before looks for one"),
            advice: Some("Leave one of both out.".into()),
        }),
        Some(name) => named(catalogs, unread, name).await,
    }
}

async fn named(catalogs: &[Catalog], unread: Vec<String>, text: &str) -> Result<(Target, Manifest), Error> {
    let mut trouble = unread;
    let mut damaged = None;
    if let Ok(name) = text.parse::<BackupName>() {
        for catalog in catalogs {
            match catalog.find(&name).await {
                Ok(manifest) => return Ok((catalog.target().clone(), manifest)),
                Err(CatalogError::NotFound(_)) => {}
                Err(error @ (CatalogError::Damaged { .. } | CatalogError::Untrusted { .. })) => damaged = Some(error),
                Err(CatalogError::Storage(error)) => trouble.push(describe(&error)),
            }
        }
    }
    if let Some(error) = damaged {
        return Err(error.into());
    }
    Err(not_found(format!("there is no backup `{text}`"), trouble))
}

/// The newest complete backup of one job that holds what is asked for.
async fn latest(catalogs: &[Catalog], unread: Vec<String>, wanted: &Wanted<'_>) -> Result<(Target, Manifest), Error> {
    let now = SystemClock.now();
    let before = wanted.before.map(|moment| moment.at(now));
    let mut trouble = unread;
    let mut later: Option<BackupName> = None;
    let mut found: Vec<(&Catalog, Summary)> = Vec::new();
    let mut damaged = Vec::new();
    for catalog in catalogs {
        match catalog.list(wanted.job).await {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Entry::Sound(backup) if !serves(&backup, wanted.only) => {}
                        Entry::Sound(backup) if before.is_none_or(|before| backup.finished < before) => found.push((catalog, *backup)),
                        Entry::Sound(backup) => {
                            later = Some(later.map_or_else(|| backup.name.clone(), |known| known.min(backup.name.clone())));
                        }
                        Entry::Damaged(name, error) => damaged.push((name, error)),
                        Entry::Unread(_, error) => trouble.push(describe(&error)),
                    }
                }
            }
            Err(error) => trouble.push(describe(&error)),
        }
    }
    if !trouble.is_empty() {
        // an unreachable target may hold a newer one: `latest` would lie
        let text = format!("which backup is the latest cannot be told: {}; name a backup, or give --target", trouble.join("; "));
        return Err(Error::Incomplete(text));
    }
    let mut jobs: Vec<&JobName> = found.iter().map(|(_, backup)| &backup.job).collect();
    jobs.sort();
    jobs.dedup();
    if jobs.len() > 1 {
        let jobs = jobs.iter().map(|j| j.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::Usage { what: "`latest` of which job?".into(), advice: Some(format!("Give --job with one of: {jobs}.")) });
    }
    // of equal names the first target wins, as it is configured
    found.reverse();
    let newest = found.into_iter().max_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let Some((catalog, newest)) = newest else {
        return Err(match (before, later) {
            (None, _) => not_found("there is no complete backup".into(), trouble),
            (Some(before), oldest) => Error::NotFound {
                what: format!("there is no complete backup that was finished before {}", before.format("%Y-%m-%d %H:%M:%S UTC")),
                advice: Some(match oldest {
                    Some(name) => format!("The oldest is `{name}`."),
                    None => "`listbackups` shows what there is.".into(),
                }),
            },
        });
    };
    for (name, error) in damaged.iter().filter(|(name, _)| *name > newest.name && before.is_none_or(|before| name.created() < before)) {
        tracing::warn!("backup `{name}` is newer, but {error}: `{}` is taken", newest.name);
    }
    if newest.name.is_ahead(now) {
        return Err(Error::Usage {
            what: format!("which backup is the latest cannot be told: `{}` is dated in the future", newest.name),
            advice: Some("Name a backup. This machine's clock is wrong, or that of the host which made it was.".into()),
        });
    }
    Ok((catalog.target().clone(), catalog.find(&newest.name).await?))
}

fn serves(backup: &Summary, only: &[ComponentName]) -> bool {
    backup.status == Status::Complete
        && backup.replaced_by.is_none()
        && if only.is_empty() { backup.only.is_empty() } else { only.iter().all(|name| backup.components.contains(name)) }
}

pub(super) fn not_found(what: String, trouble: Vec<String>) -> Error {
    if trouble.is_empty() {
        return Error::NotFound { what, advice: Some("`listbackups` shows what there is.".into()) };
    }
    Error::Incomplete(format!("{what} in the targets that could be read; others could not: {}", trouble.join("; ")))
}
