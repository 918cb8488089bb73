//! Retention, carried out. What to remove was decided before; this removes it, and sweeps what dead runs left.

use chrono::{DateTime, Utc};

use crate::catalog::{Catalog, CatalogError, candidates};
use crate::chain::{describe, explain};
use crate::name::{BackupName, JobName};
use crate::retention::{self, Decision, Policy};

/// What retention did in one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub decisions: Vec<Decision>,
    pub removed: Vec<BackupName>,
    /// Why something that should go is still there.
    pub failures: Vec<String>,
}

/// Applies `policy` to the backups of `job` in one target. The caller holds the job's lease there.
pub async fn prune(catalog: &Catalog, job: &JobName, policy: &Policy, now: DateTime<Utc>) -> Pruned {
    let mut pruned = Pruned::default();
    let entries = match catalog.list(Some(job)).await {
        Ok(entries) => entries,
        Err(error) => return Pruned { failures: vec![describe(&error)], ..pruned },
    };
    // without them, the one backup that is known to be restorable could go
    let verdicts = match catalog.verdicts().await {
        Ok(verdicts) => verdicts,
        Err(error) => return Pruned { failures: vec![describe(&error)], ..pruned },
    };
    pruned.decisions = retention::plan(policy, &candidates(&entries, &verdicts), now);
    for decision in pruned.decisions.iter().filter(|d| !d.keep) {
        let removed = async { catalog.remove(&catalog.find(&decision.name).await?).await.map_err(CatalogError::from) };
        match removed.await {
            Ok(()) => {
                tracing::info!(backup = %decision.name, target = %catalog.target().name(), reason = decision.reason, "backup removed");
                pruned.removed.push(decision.name.clone());
            }
            Err(error) => {
                tracing::error!("{}", describe(&error));
                pruned.failures.push(explain(&error, error.advice()));
            }
        }
    }
    match catalog.sweep(job, now).await {
        Ok(swept) => swept.iter().for_each(|name| tracing::info!(backup = %name, "removed what an unfinished run had left")),
        Err(error) => pruned.failures.push(describe(&error)),
    }
    pruned
}
