//! Bringing a backup back: a plan that touches nothing, then all components staged beside what is in service, then all switched.
//!
//! Order laws: everything is staged, and with that verified, before anything is switched; switches go PostgreSQL, directories, Redis; if
//! one fails, those before it are switched back. What was replaced is dropped only after the last switch. Each of these steps is on record
//! in a [`journal`] before it is made, so that another process can end what this one has begun ([`recover`]).

pub mod entry;
pub mod journal;
pub mod recover;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::component::{
    ArtifactOpener, ComponentError, Destination, Plan, RestoreOptions, Restored, Restorer, RunContext, Staged, StoredComponent,
};
use crate::encryption::Identities;
use crate::fetch;
use crate::manifest::{self, ComponentStatus, Kind, Manifest};
use crate::name::{BackupName, ComponentName, RestoreId};
use crate::pipeline::{Progress, UnpackError};
use crate::storage::Target;
use entry::{Ending, Entry, Step};
use journal::{Journal, JournalError, Ledger};

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
    #[error("the restore failed ({cause}), and bringing back what was there before failed for {}", undo.join("; "))]
    NotUndone { cause: String, undo: Vec<String> },
    #[error("everything is restored, but something was left behind: {}", reasons.join("; "))]
    NotCleaned { reasons: Vec<String> },
    #[error("the restore was cancelled: what was there before is in service")]
    Cancelled,
    #[error("keep the journal of the restore")]
    Journal(#[from] JournalError),
    #[error("another restore, of backup `{backup}`, is under way and replaces {place}: {holder}")]
    Busy { backup: BackupName, place: String, holder: String },
    #[error("a restore of backup `{backup}` that was begun at {} was not finished, and has switched some components", begun.format("%Y-%m-%d %H:%M:%S UTC"))]
    Unfinished { backup: BackupName, begun: DateTime<Utc>, journal: String },
    #[error("take over the unfinished restore of `{component}`")]
    NotTaken {
        component: ComponentName,
        #[source]
        source: ComponentError,
    },
    #[error("resume the restore of `{component}`")]
    NotResumed {
        component: ComponentName,
        #[source]
        source: ComponentError,
    },
    #[error("bring back what was there before: {}", reasons.join("; "))]
    NotRolledBack { reasons: Vec<String> },
    #[error("this restore was being rolled back when it was interrupted: what it had made is not whole any more")]
    OnlyBack,
    #[error("this restore had switched everything and was removing the old state when it was interrupted")]
    OnlyForward,
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
            Self::NotUndone { .. } => {
                Some("Do not start the application. Remove the cause, then run `restore --rollback`: the old state still exists.".into())
            }
            Self::NotCleaned { .. } => Some("The restored state is in service. `restore --resume` tries again to remove the rest.".into()),
            Self::Journal(_) => Some("Allow this user to write to the target, or to $STATE_DIRECTORY.".into()),
            Self::Busy { .. } => {
                Some("Wait for it to end. One that was killed is noticed two minutes later, and at once on its own machine.".into())
            }
            Self::Unfinished { journal, .. } => Some(format!(
                "Run `restore --resume` to go on with it, or `restore --rollback` to bring back what was there before; then restore what you \
                 want. Its journal is {journal}."
            )),
            Self::NotTaken { source, .. } => source.advice().or_else(|| Some(AGAIN.into())),
            Self::NotResumed { source, .. } => source.advice().map(|advice| format!("{advice} {AGAIN}")).or_else(|| Some(AGAIN.into())),
            Self::NotRolledBack { .. } => {
                Some("Do not start the application. Remove the cause, then run `restore --rollback` again.".into())
            }
            Self::OnlyBack => Some("Run `restore --rollback`.".into()),
            Self::OnlyForward => Some("Run `restore --resume`.".into()),
            Self::Cancelled => None,
        }
    }
}

const AGAIN: &str = "Do not start the application. Remove the cause, then run `restore --resume` again, or `restore --rollback`.";

/// One component of a restore.
pub struct Part {
    pub restorer: Arc<dyn Restorer>,
    pub options: RestoreOptions,
}

/// Each of `parts` with what the backup holds of the component that `name` says, in the order in which they are switched.
///
/// # Errors
/// [`RestoreError::NotInBackup`] and [`RestoreError::Lost`].
pub fn chosen<P>(
    manifest: &Manifest,
    parts: Vec<P>,
    name: impl Fn(&P) -> &ComponentName,
) -> Result<Vec<(manifest::Component, P)>, RestoreError> {
    let mut chosen = Vec::new();
    for part in parts {
        let (backup, component) = (manifest.name.clone(), name(&part).clone());
        match manifest.component(&component) {
            None => return Err(RestoreError::NotInBackup { backup, component }),
            Some(held) if held.status != ComponentStatus::Complete => {
                let reason = held.reason.clone().unwrap_or_default();
                return Err(RestoreError::Lost { backup, component, reason });
            }
            Some(held) => chosen.push((held.clone(), part)),
        }
    }
    chosen.sort_by_key(|(component, _)| match component.kind {
        Kind::Postgres => 0,
        Kind::Directory => 1,
        Kind::Bucket => 2,
        Kind::Redis => 3,
    });
    Ok(chosen)
}

/// A restore, ready to be planned and carried out.
pub struct Restore {
    target: Target,
    manifest: Manifest,
    open: ArtifactOpener,
    parts: Vec<(manifest::Component, Part)>,
}

impl Restore {
    /// Of the components `parts` from a backup in `target`, decrypted by `identities` if need be. The order of the parts is settled here.
    ///
    /// # Errors
    /// [`RestoreError::NotInBackup`] and [`RestoreError::Lost`].
    pub fn new(
        target: &Target,
        manifest: Manifest,
        parts: Vec<Part>,
        identities: Identities,
        progress: Progress,
    ) -> Result<Self, RestoreError> {
        let parts = chosen(&manifest, parts, |part| part.restorer.name())?;
        let open = fetch::opener(target.clone(), manifest.name.clone(), identities, progress);
        Ok(Self { target: target.clone(), manifest, open, parts })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a component goes.
    pub fn destination(&self, name: &ComponentName) -> Option<&Destination> {
        self.parts.iter().find(|(component, _)| component.name == *name).map(|(_, part)| &part.options.to)
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

    /// What it is about to make under the mark `id`, for its journal. Touches nothing.
    ///
    /// # Errors
    /// [`RestoreError::Refused`].
    pub async fn steps(&self, id: RestoreId) -> Result<Vec<Step>, RestoreError> {
        let mut steps = Vec::new();
        for (component, part) in &self.parts {
            let intent = part.restorer.intent(component, &part.options, id).await;
            let intent = intent.map_err(|source| RestoreError::Refused { component: component.name.clone(), source })?;
            steps.push(Step {
                component: component.name.clone(),
                kind: component.kind,
                options: entry::without_passwords(&part.options),
                places: intent.places,
                staged: false,
                record: intent.record,
            });
        }
        Ok(steps)
    }

    /// What it would replace. Touches nothing.
    ///
    /// # Errors
    /// [`RestoreError::Refused`].
    pub async fn places(&self) -> Result<Vec<String>, RestoreError> {
        Ok(self.steps(RestoreId::random()).await?.into_iter().flat_map(|step| step.places).collect())
    }

    /// Opens its journal.
    ///
    /// # Errors
    /// [`RestoreError::Busy`] and [`RestoreError::Unfinished`] when another has one for the same places; [`RestoreError::Journal`].
    pub async fn begin(&self, ledger: &Ledger, safety: Option<BackupName>, now: DateTime<Utc>) -> Result<Journal, RestoreError> {
        let id = RestoreId::random();
        let mut entry = Entry::new(id, self.manifest.name.clone(), self.target.name().clone(), now, self.steps(id).await?);
        entry.safety = safety;
        let journal = Journal::create(&self.target, entry).await?;
        let places: Vec<String> = journal.entry().parts.iter().flat_map(|part| part.places.clone()).collect();
        let others = ledger.find().await;
        match others.iter().filter(|found| found.entry.id != id && found.is_in_the_way()).find_map(|found| found.conflict(&places)) {
            None => {
                ledger.forget_runs().await;
                Ok(journal)
            }
            Some(error) => {
                journal.close().await?;
                Err(error)
            }
        }
    }

    /// Carries it out. A cancellation counts until the first switch; from then on it runs to its end. Without a journal nobody can end what
    /// this process has begun: that is for places that are thrown away.
    ///
    /// # Errors
    /// [`RestoreError`]; as long as something is left of it, the journal stays.
    pub async fn execute(
        &self,
        journal: Option<Journal>,
        cancel: &CancellationToken,
    ) -> Result<Vec<(ComponentName, Restored)>, RestoreError> {
        let mut log = Log(journal);
        let mut staged: Vec<(ComponentName, Box<dyn Staged>)> = Vec::new();
        let id = log.0.as_ref().map_or_else(RestoreId::random, |journal| journal.entry().id);
        for (at, (component, part)) in self.parts.iter().enumerate() {
            tracing::info!(component = %component.name, "staging");
            let run = RunContext { cancel: cancel.child_token(), id, stall: Some(self.target.stall()), ..RunContext::default() };
            let stored = StoredComponent { component: component.clone(), open: self.open.clone() };
            let mut result = part.restorer.stage(&stored, &part.options, &run).await;
            // what failed has left nothing, so that it can be done anew
            if let Err(error) = &result
                && fetch::is_sound_after_all(&self.open, component, error).await
            {
                result = part.restorer.stage(&stored, &part.options, &run).await;
            }
            match result {
                Ok(state) => {
                    let noted = log.staged(at, state.record()).await;
                    staged.push((component.name.clone(), state));
                    if let Err(error) = noted {
                        return Err(undo(log, staged, Cause::Journal(error), cancel).await);
                    }
                }
                Err(source) => return Err(undo(log, staged, Cause::Component(component.name.clone(), source), cancel).await),
            }
        }
        if cancel.is_cancelled()
            && let Some((component, _)) = self.parts.last()
        {
            return Err(undo(log, staged, Cause::Component(component.name.clone(), ComponentError::Cancelled), cancel).await);
        }
        for at in 0..staged.len() {
            if let Err(error) = log.switching(at).await {
                return Err(undo(log, staged, Cause::Journal(error), cancel).await);
            }
            let (name, state) = &mut staged[at];
            tracing::info!(component = %name, "switching");
            if let Err(source) = state.publish().await {
                let name = name.clone();
                return Err(undo(log, staged, Cause::Component(name, source), cancel).await);
            }
        }
        if let Err(error) = log.ending(Ending::New).await {
            // what is removed now nobody could tell from what is to come back
            log.release().await;
            return Err(RestoreError::NotCleaned { reasons: vec![chain::describe(&error)] });
        }
        let restored = recover::finish(staged).await;
        match &restored {
            Ok(_) => log.close().await,
            Err(_) => log.release().await,
        }
        restored
    }
}

/// The journal, if there is one.
struct Log(Option<Journal>);

impl Log {
    async fn staged(&mut self, at: usize, record: Value) -> Result<(), JournalError> {
        match &mut self.0 {
            Some(journal) => journal.staged(at, record).await,
            None => Ok(()),
        }
    }

    async fn switching(&mut self, at: usize) -> Result<(), JournalError> {
        match &mut self.0 {
            Some(journal) => journal.switching(at).await,
            None => Ok(()),
        }
    }

    async fn ending(&mut self, ending: Ending) -> Result<(), JournalError> {
        match &mut self.0 {
            Some(journal) => journal.ending(ending).await,
            None => Ok(()),
        }
    }

    /// What it tells of is over, whether that can be noted or not: then it is found again, and nothing is to be done.
    async fn close(self) {
        if let Some(journal) = self.0
            && let Err(error) = journal.close().await
        {
            tracing::warn!("{}: the next restore removes it", chain::describe(&error));
        }
    }

    async fn release(self) {
        if let Some(journal) = self.0 {
            journal.release().await;
        }
    }
}

/// Why everything is brought back.
enum Cause {
    Component(ComponentName, ComponentError),
    Journal(JournalError),
}

/// Brings everything back, in reverse order, and says why.
async fn undo(mut log: Log, staged: Vec<(ComponentName, Box<dyn Staged>)>, cause: Cause, cancel: &CancellationToken) -> RestoreError {
    let left = matches!(cause, Cause::Component(_, ComponentError::LeftBehind { .. }));
    if (left || !staged.is_empty())
        && let Err(error) = log.ending(Ending::Old).await
    {
        tracing::warn!("{}: everything is brought back all the same", chain::describe(&error));
    }
    let mut failures = Vec::new();
    if let Cause::Component(name, ComponentError::LeftBehind { left, .. }) = &cause {
        failures.push(format!("{name}: {left}"));
    }
    for (name, state) in staged.into_iter().rev() {
        if let Err(error) = state.undo().await {
            failures.push(format!("{name}: {}", chain::describe(&error)));
        }
    }
    if !failures.is_empty() {
        log.release().await;
        let cause = match &cause {
            Cause::Component(name, source) => format!("`{name}`: {}", chain::describe(source)),
            Cause::Journal(error) => chain::describe(error),
        };
        return RestoreError::NotUndone { cause, undo: failures };
    }
    log.close().await;
    match cause {
        _ if cancel.is_cancelled() => RestoreError::Cancelled,
        Cause::Component(component, source) => RestoreError::Failed { component, source },
        Cause::Journal(error) => RestoreError::Journal(error),
    }
}
