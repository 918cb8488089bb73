//! What came of a run.

use crate::manifest::{ComponentStatus, Manifest};
use crate::name::{BackupName, TargetName};

/// How a run ended that committed somewhere.
#[derive(Debug, Clone)]
pub struct Report {
    pub manifest: Manifest,
    pub targets: Vec<TargetReport>,
    /// Removed by retention, in any target.
    pub pruned: Vec<BackupName>,
}

/// A run's end in one target.
#[derive(Debug, Clone)]
pub struct TargetReport {
    pub name: TargetName,
    /// Why the backup is not there.
    pub failure: Option<String>,
    /// The backup is there, but what retention wanted to remove is too, for these reasons.
    pub prune_failures: Vec<String>,
}

impl Report {
    /// Whether everything that was asked for succeeded, retention included.
    pub fn is_whole(&self) -> bool {
        self.shortcomings().is_empty()
    }

    /// What failed, a sentence each.
    pub fn shortcomings(&self) -> Vec<String> {
        let components = self.manifest.components.iter().filter(|c| c.status == ComponentStatus::Failed);
        let components = components.map(|c| format!("component {}: {}", c.name, c.reason.as_deref().unwrap_or_default()));
        let targets = self.targets.iter().flat_map(|t| {
            let failure = t.failure.iter().map(|f| format!("target {}: {f}", t.name));
            failure.chain(t.prune_failures.iter().map(|f| format!("retention in target {}: {f}", t.name)))
        });
        components.chain(targets).collect()
    }
}

impl TargetReport {
    pub(super) fn failed(name: &TargetName, reason: String) -> Self {
        Self { name: name.clone(), failure: Some(reason), prune_failures: Vec::new() }
    }
}
