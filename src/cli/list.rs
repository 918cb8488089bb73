//! `listbackups`: what is in the targets, merged by name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::ListArgs;
use super::backup::status_word;
use super::{choose_job, choose_targets, output};
use crate::assembly;
use crate::catalog::{Catalog, Entry};
use crate::chain::describe;
use crate::config::Settings;
use crate::error::Error;
use crate::manifest::{ComponentStatus, Manifest};
use crate::name::{BackupName, JobName, TargetName};
use crate::storage::Access;

/// One backup, and the targets that hold it.
struct Row {
    name: BackupName,
    targets: Vec<TargetName>,
    /// `None` if every copy is damaged.
    manifest: Option<Manifest>,
    /// Targets whose copy is damaged.
    damaged: Vec<TargetName>,
}

pub(super) async fn run(settings: &Settings, args: ListArgs) -> Result<(), Error> {
    let (catalogs, mut unread) = open(settings, args.target.as_ref())?;
    let mut rows: BTreeMap<BackupName, Row> = BTreeMap::new();
    for catalog in &catalogs {
        match catalog.list(args.job.as_ref()).await {
            Ok(entries) => entries.into_iter().for_each(|entry| merge(&mut rows, catalog.target().name(), entry)),
            Err(error) => unread.push(explain(&error, error.advice())),
        }
    }
    if let Some(job) = &args.job
        && rows.is_empty()
        && unread.is_empty()
    {
        // a job that is no longer configured may still have backups; one that is neither is a slip of the pen
        choose_job(settings, Some(job))?;
    }
    if args.json {
        output::json(&rows.values().map(Row::to_json).collect::<Vec<_>>())?;
    } else {
        let heading = ["Name", "Created", "Job", "Components", "Size", "Stored", "Status", "Verified"];
        output::table(&heading, rows.values().map(Row::to_columns).collect())?;
    }
    if unread.is_empty() { Ok(()) } else { Err(Error::Incomplete(format!("the list is incomplete: {}", unread.join("; ")))) }
}

/// The catalogs to read, and why others cannot be opened. A file target whose directory does not exist yet holds no backups.
pub(super) fn open(settings: &Settings, target: Option<&TargetName>) -> Result<(Vec<Catalog>, Vec<String>), Error> {
    let (mut catalogs, mut unread) = (Vec::new(), Vec::new());
    for (name, target) in assembly::targets(settings, choose_targets(settings, target)?, Access::Read) {
        match target {
            Ok(target) => catalogs.push(Catalog::new(target)),
            Err(error) if error.is_not_found() => tracing::warn!(target = %name, "{}: nothing was backed up there yet", describe(&error)),
            Err(error) => unread.push(explain(&error, error.advice())),
        }
    }
    Ok((catalogs, unread))
}

fn explain(error: &(dyn std::error::Error + 'static), advice: Option<String>) -> String {
    [Some(describe(error)), advice].into_iter().flatten().collect::<Vec<_>>().join(". ")
}

fn merge(rows: &mut BTreeMap<BackupName, Row>, target: &TargetName, entry: Entry) {
    let row = rows.entry(entry.name().clone()).or_insert_with(|| Row {
        name: entry.name().clone(),
        targets: Vec::new(),
        manifest: None,
        damaged: Vec::new(),
    });
    row.targets.push(target.clone());
    match entry {
        Entry::Sound(manifest) => row.manifest = Some(*manifest),
        Entry::Damaged(..) => row.damaged.push(target.clone()),
    }
}

impl Row {
    fn job(&self) -> &JobName {
        self.name.job()
    }

    /// A copy that is damaged is said even where another is sound.
    fn status(&self) -> &'static str {
        match &self.manifest {
            Some(manifest) if self.damaged.is_empty() => status_word(manifest.status),
            _ => "damaged",
        }
    }

    fn components(&self) -> Vec<&str> {
        let components = self.manifest.iter().flat_map(|m| &m.components);
        components.filter(|c| c.status == ComponentStatus::Complete).map(|c| c.name.as_str()).collect()
    }

    fn to_columns(&self) -> Vec<String> {
        let size = |f: fn(&Manifest) -> u64| self.manifest.as_ref().map_or("-".into(), |m| output::size(f(m)));
        vec![
            self.name.to_string(),
            self.name.created().format("%Y-%m-%d %H:%M:%S").to_string(),
            self.job().to_string(),
            self.components().join(","),
            size(Manifest::raw_bytes),
            size(Manifest::stored_bytes),
            self.status().into(),
            "-".into(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "created": self.name.created(), "job": self.job(),
            "target": self.targets.iter().map(TargetName::as_str).collect::<Vec<_>>().join(","), "targets": self.targets,
            "damaged_targets": self.damaged, "status": self.status(), "components": self.components(),
            "raw_bytes": self.manifest.as_ref().map(Manifest::raw_bytes),
            "stored_bytes": self.manifest.as_ref().map(Manifest::stored_bytes),
            "verified": Value::Null,
        })
    }
}
