//! `listbackups`: what is in the targets, merged by name.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::args::ListArgs;
use super::{choose_job, legacy, open_catalogs, output, recover};
use crate::catalog::Entry;
use crate::chain::explain;
use crate::config::Settings;
use crate::error::Error;
use crate::manifest::Summary;
use crate::name::{BackupName, ComponentName, JobName, TargetName};
use crate::verdict::Known;

/// One backup, and the targets that hold it.
struct Row {
    name: BackupName,
    targets: Vec<TargetName>,
    /// `None` if every copy is damaged or cannot be read.
    summary: Option<Summary>,
    /// Targets whose copy is damaged.
    damaged: Vec<TargetName>,
    /// Targets whose copy was signed by nobody who is trusted.
    untrusted: Vec<TargetName>,
    /// When a copy was last read back and found sound.
    verified: Option<DateTime<Utc>>,
    /// When a copy last passed a drill, and how many seconds that took.
    drilled: Option<(DateTime<Utc>, u64)>,
    /// When the last drill of a copy failed.
    drill_failed: Option<DateTime<Utc>>,
}

pub(super) async fn run(settings: &Settings, args: ListArgs) -> Result<(), Error> {
    let (catalogs, mut unread) = open_catalogs(settings, args.target.as_ref()).await?;
    let mut rows: BTreeMap<BackupName, Row> = BTreeMap::new();
    let mut dumps = Vec::new();
    for catalog in &catalogs {
        // a dump of old is of no job
        if args.job.is_none() {
            match crate::legacy::list(catalog.target()).await {
                Ok(found) => legacy::merge(&mut dumps, catalog.target().name(), found),
                Err(error) => unread.push(explain(&error, error.advice())),
            }
        }
        match catalog.list(args.job.as_ref()).await {
            Ok(entries) => {
                for entry in entries {
                    if let Entry::Unread(_, error) = &entry {
                        unread.push(explain(error, error.advice()));
                    }
                    merge(&mut rows, catalog.target().name(), entry);
                }
            }
            Err(error) => unread.push(explain(&error, error.advice())),
        }
        match catalog.verdicts().await {
            Ok(verdicts) => {
                for (name, known) in verdicts {
                    if let Some(row) = rows.get_mut(&name) {
                        row.judge(catalog.target().name(), &known);
                    }
                }
            }
            Err(error) => unread.push(explain(&error, error.advice())),
        }
    }
    recover::mention(&catalogs).await;
    if let Some(job) = &args.job
        && rows.is_empty()
        && unread.is_empty()
    {
        // a job that is no longer configured may still have backups; one that is neither is a slip of the pen
        choose_job(settings, Some(job))?;
    }
    if args.json {
        output::json(&dumps.iter().map(legacy::Row::to_json).chain(rows.values().map(Row::to_json)).collect::<Vec<_>>())?;
    } else {
        let heading = ["Name", "Created", "Job", "Components", "Size", "Stored", "Status", "Verified"];
        output::table(&heading, dumps.iter().map(legacy::Row::to_columns).chain(rows.values().map(Row::to_columns)).collect())?;
    }
    if unread.is_empty() { Ok(()) } else { Err(Error::Incomplete(format!("the list is incomplete: {}", unread.join("; ")))) }
}

fn merge(rows: &mut BTreeMap<BackupName, Row>, target: &TargetName, entry: Entry) {
    let row = rows.entry(entry.name().clone()).or_insert_with(|| Row {
        name: entry.name().clone(),
        targets: Vec::new(),
        summary: None,
        damaged: Vec::new(),
        untrusted: Vec::new(),
        verified: None,
        drilled: None,
        drill_failed: None,
    });
    row.targets.push(target.clone());
    match entry {
        Entry::Sound(summary) => row.summary = Some(*summary),
        Entry::Damaged(_, error) if error.is_distrust() => row.untrusted.push(target.clone()),
        Entry::Damaged(..) => row.damaged.push(target.clone()),
        Entry::Unread(..) => {}
    }
}

impl Row {
    fn job(&self) -> &JobName {
        self.name.job()
    }

    /// A copy that is damaged, or that a drill could not restore, is said even where another is sound.
    fn status(&self) -> &'static str {
        match &self.summary {
            _ if !self.untrusted.is_empty() => "untrusted",
            _ if !self.damaged.is_empty() => "damaged",
            _ if self.drill_failed.is_some() => "drill-failed",
            Some(summary) => summary.status.as_str(),
            None => "unreadable",
        }
    }

    fn judge(&mut self, target: &TargetName, known: &Known) {
        if known.is_damaged() && !self.damaged.contains(target) {
            self.damaged.push(target.clone());
        }
        self.verified = self.verified.max(known.verified());
        self.drilled = self.drilled.max(known.drilled());
        self.drill_failed = self.drill_failed.max(known.drill_failed());
    }

    /// The backup whose restore replaced what this one holds; `None`: it is none that was made for safety.
    fn replaced_by(&self) -> Option<&BackupName> {
        self.summary.as_ref().and_then(|s| s.replaced_by.as_ref())
    }

    /// Of a drill that is as new as the verification, one date says both.
    fn trials(&self) -> String {
        let show = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S");
        match (self.verified, self.drilled) {
            (None, _) => "-".into(),
            (Some(at), None) => show(at).to_string(),
            (Some(at), Some((drilled, _))) if at == drilled => format!("{} drilled", show(at)),
            (Some(at), Some((drilled, _))) => format!("{} drilled {}", show(at), drilled.format("%Y-%m-%d")),
        }
    }

    fn components(&self) -> Vec<&str> {
        self.summary.iter().flat_map(|s| &s.components).map(ComponentName::as_str).collect()
    }

    fn to_columns(&self) -> Vec<String> {
        let size = |bytes: fn(&Summary) -> u64| self.summary.as_ref().map_or("-".into(), |s| output::size(bytes(s)));
        vec![
            self.name.to_string(),
            self.name.created().format("%Y-%m-%d %H:%M:%S").to_string(),
            self.job().to_string(),
            self.components().join(","),
            size(|s| s.raw_bytes),
            size(|s| s.stored_bytes),
            self.status().to_owned() + if self.replaced_by().is_some() { ", safety" } else { "" },
            self.trials(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "created": self.name.created(), "job": self.job(),
            "target": self.targets.iter().map(TargetName::as_str).collect::<Vec<_>>().join(","), "targets": self.targets,
            "damaged_targets": self.damaged, "untrusted_targets": self.untrusted, "status": self.status(), "components": self.components(),
            "raw_bytes": self.summary.as_ref().map(|s| s.raw_bytes),
            "stored_bytes": self.summary.as_ref().map(|s| s.stored_bytes),
            "replaced_by": self.replaced_by(),
            "verified": self.verified, "drilled": self.drilled.map(|(at, _)| at), "drill_seconds": self.drilled.map(|(_, seconds)| seconds),
            "drill_failed": self.drill_failed,
        })
    }
}
