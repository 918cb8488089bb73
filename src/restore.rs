//! Bringing a backup back: a plan that touches nothing, then all components staged beside what is in service, then all switched.
//!
//! Order laws: everything is staged, and with that verified, before anything is switched; switches go PostgreSQL, directories, Redis; if
//! one fails, those before it are switched back. What was replaced is dropped only after the last switch.

use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::component::{ArtifactOpener, ComponentError, Plan, RestoreOptions, Restored, Restorer, RunContext, Staged, StoredComponent};
use crate::fetch;
use crate::manifest::{self, ComponentStatus, Kind, Manifest};
use crate::name::{BackupName, ComponentName};
use crate::pipeline::{Progress, UnpackError};
use crate::storage::Target;

/// Why a restore did not happen, or not wholly.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("backup `{backup}` holds no component `{component}`")]
    NotInBackup { backup: BackupName, component: ComponentName },
    #[error("backup `{backup}` is partial and lacks `{component}`: {reason}")]
    Lost { backup: BackupName, component: ComponentName, reason: String },
    #[error("restore `{component}`: nothing was changed")]
    Refused {
        component: ComponentName,
        #[source]
        source: ComponentError,
    },
    #[error("restore `{component}`: what was there before is in service")]
    Failed {
        component: ComponentName,
        #[source]
        source: ComponentError,
    },
    #[error("restore `{component}` failed ({cause}), and bringing back what was there before failed for {}", undo.join("; "))]
    NotUndone { component: ComponentName, cause: String, undo: Vec<String> },
    #[error("everything is restored, but something was left behind: {}", reasons.join("; "))]
    NotCleaned { reasons: Vec<String> },
    #[error("the restore was cancelled: what was there before is in service")]
    Cancelled,
}

impl RestoreError {
    /// Whether the stored bytes are not what was written, or do not make what was backed up.
    pub fn is_damage(&self) -> bool {
        let differs = matches!(chain::find::<ComponentError>(self), Some(ComponentError::Differs(_)));
        differs || chain::find::<UnpackError>(self).is_some_and(UnpackError::is_damage)
    }

    /// Whether the backup does not hold what was asked for.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NotInBackup { .. } | Self::Lost { .. })
            || matches!(chain::find::<ComponentError>(self), Some(ComponentError::NotHeld { .. }))
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Lost { .. } => Some("Restore the others with --only, or choose a complete backup.".into()),
            Self::NotInBackup { .. } => Some("`listbackups` shows what each backup holds.".into()),
            error if error.is_damage() => Some("Restore from another target, or an older backup; check the store's disks.".into()),
            Self::Refused { source, .. } | Self::Failed { source, .. } => source.advice(),
            Self::NotUndone { .. } => Some("Do not start the application. The old state still exists under the names above.".into()),
            Self::NotCleaned { .. } => Some("Remove it by hand; the restored state is in service.".into()),
            Self::Cancelled => None,
        }
    }
}

/// One component of a restore.
pub struct Part {
    pub restorer: Arc<dyn Restorer>,
    pub options: RestoreOptions,
}

/// A restore, ready to be planned and carried out.
pub struct Restore {
    manifest: Manifest,
    open: ArtifactOpener,
    parts: Vec<(manifest::Component, Part)>,
}

impl Restore {
    /// Of the components `parts` from a backup in `target`. Their order is settled here.
    ///
    /// # Errors
    /// [`RestoreError::NotInBackup`] and [`RestoreError::Lost`].
    pub fn new(target: &Target, manifest: Manifest, parts: Vec<Part>, progress: Progress) -> Result<Self, RestoreError> {
        let mut chosen = Vec::new();
        for part in parts {
            let name = part.restorer.name().clone();
            let Some(component) = manifest.component(&name) else {
                return Err(RestoreError::NotInBackup { backup: manifest.name, component: name });
            };
            if component.status != ComponentStatus::Complete {
                let reason = component.reason.clone().unwrap_or_default();
                return Err(RestoreError::Lost { backup: manifest.name, component: name, reason });
            }
            chosen.push((component.clone(), part));
        }
        chosen.sort_by_key(|(component, _)| match component.kind {
            Kind::Postgres => 0,
            Kind::Directory => 1,
            Kind::Redis => 2,
        });
        let open = fetch::opener(target.clone(), manifest.name.clone(), progress);
        Ok(Self { manifest, open, parts: chosen })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What would happen. Touches nothing; refuses what is known to fail.
    pub async fn plan(&self) -> Result<Vec<(ComponentName, Plan)>, RestoreError> {
        let mut plans = Vec::new();
        for (component, part) in &self.parts {
            let stored = StoredComponent { component: component.clone(), open: self.open.clone() };
            let plan = part.restorer.plan(&stored, &part.options).await;
            let plan = plan.map_err(|source| RestoreError::Refused { component: component.name.clone(), source })?;
            plans.push((component.name.clone(), plan));
        }
        Ok(plans)
    }

    /// Carries it out. A cancellation counts until the first switch; from then on it runs to its end.
    pub async fn execute(&self, cancel: &CancellationToken) -> Result<Vec<(ComponentName, Restored)>, RestoreError> {
        let mut staged: Vec<(ComponentName, Box<dyn Staged>)> = Vec::new();
        for (component, part) in &self.parts {
            tracing::info!(component = %component.name, "staging");
            let run = RunContext { cancel: cancel.child_token(), ..RunContext::default() };
            let stored = StoredComponent { component: component.clone(), open: self.open.clone() };
            match part.restorer.stage(&stored, &part.options, &run).await {
                Ok(state) => staged.push((component.name.clone(), state)),
                Err(source) => return Err(undo(staged, component.name.clone(), source, cancel).await),
            }
        }
        if cancel.is_cancelled() {
            let last = self.parts.last().map(|(c, _)| c.name.clone());
            if let Some(component) = last {
                return Err(undo(staged, component, ComponentError::Cancelled, cancel).await);
            }
        }
        for at in 0..staged.len() {
            let (name, state) = &mut staged[at];
            tracing::info!(component = %name, "switching");
            if let Err(source) = state.publish().await {
                let name = name.clone();
                return Err(undo(staged, name, source, cancel).await);
            }
        }
        let mut restored = Vec::new();
        let mut reasons = Vec::new();
        for (name, state) in staged {
            match state.finish().await {
                Ok(done) => restored.push((name, done)),
                Err(error) => reasons.push(format!("{name}: {}", chain::describe(&error))),
            }
        }
        if reasons.is_empty() { Ok(restored) } else { Err(RestoreError::NotCleaned { reasons }) }
    }
}

/// Brings everything back, in reverse order, and says why.
async fn undo(
    staged: Vec<(ComponentName, Box<dyn Staged>)>,
    component: ComponentName,
    source: ComponentError,
    cancel: &CancellationToken,
) -> RestoreError {
    let mut failures = Vec::new();
    for (name, state) in staged.into_iter().rev() {
        if let Err(error) = state.undo().await {
            failures.push(format!("{name}: {}", chain::describe(&error)));
        }
    }
    if !failures.is_empty() {
        return RestoreError::NotUndone { component, cause: chain::describe(&source), undo: failures };
    }
    if cancel.is_cancelled() { RestoreError::Cancelled } else { RestoreError::Failed { component, source } }
}
