//! Ends a restore that died: everything goes to the new state, or everything back to the old one.
//!
//! Both may themselves be killed at any moment and be done again. What is to be removed is on record before it is removed, so that neither
//! goes on from where the other has begun to remove.

use std::sync::Arc;

use super::RestoreError;
use super::entry::{Ending, Step};
use super::journal::Journal;
use crate::chain;
use crate::component::{Left, RestoreOptions, Restored, Restorer, Staged, StoredComponent};
use crate::name::ComponentName;

/// What is needed for one component of a journal, in the order of its parts.
pub struct Takeover {
    pub restorer: Arc<dyn Restorer>,
    /// Those on record, with the passwords that are not.
    pub options: RestoreOptions,
    /// In the backup that was restored; needed to resume.
    pub stored: Option<StoredComponent>,
    /// In the backup that was made right before.
    pub safety: Option<StoredComponent>,
}

impl Takeover {
    async fn adopt(&self, journal: &Journal, at: usize) -> Result<Box<dyn Staged>, RestoreError> {
        let entry = journal.entry();
        let Step { component, record, .. } = &entry.parts[at];
        let left = Left {
            id: entry.id,
            progress: entry.progress(at),
            record: record.clone(),
            options: self.options.clone(),
            stall: journal.stall(),
            stored: self.stored.clone(),
            safety: self.safety.clone(),
        };
        let adopted = self.restorer.adopt(&left).await;
        adopted.map_err(|source| RestoreError::NotTaken { component: component.clone(), source })
    }
}

/// Switches everything in that is not yet, and removes what was replaced. All must have been staged.
///
/// # Errors
/// [`RestoreError::NotTaken`], [`RestoreError::NotResumed`], [`RestoreError::NotCleaned`], [`RestoreError::Journal`]: the journal stays, to
/// be resumed or, before [`RestoreError::NotCleaned`], rolled back.
pub async fn resume(mut journal: Journal, parts: &[Takeover]) -> Result<Vec<(ComponentName, Restored)>, RestoreError> {
    let result = forward(&mut journal, parts).await;
    end(journal, result).await
}

/// Brings everything back that is switched, and removes what was made.
///
/// # Errors
/// [`RestoreError::NotRolledBack`], [`RestoreError::Journal`]: the journal stays.
pub async fn roll_back(mut journal: Journal, parts: &[Takeover]) -> Result<(), RestoreError> {
    let result = back(&mut journal, parts).await;
    end(journal, result).await
}

async fn end<T>(journal: Journal, result: Result<T, RestoreError>) -> Result<T, RestoreError> {
    match &result {
        Ok(_) => journal.close().await?,
        Err(_) => journal.release().await,
    }
    result
}

async fn forward(journal: &mut Journal, parts: &[Takeover]) -> Result<Vec<(ComponentName, Restored)>, RestoreError> {
    let switched = match journal.entry().ending() {
        Some(Ending::New) => true,
        Some(Ending::Old) => return Err(RestoreError::OnlyBack),
        None => false,
    };
    let mut states = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        states.push((part.restorer.name().clone(), part.adopt(journal, at).await?));
    }
    if !switched {
        for (at, (name, state)) in states.iter_mut().enumerate() {
            journal.switching(at).await?;
            tracing::info!(component = %name, "switching");
            state.publish().await.map_err(|source| RestoreError::NotResumed { component: name.clone(), source })?;
        }
        journal.ending(Ending::New).await?;
    }
    finish(states).await
}

/// Removes what was replaced everywhere, whatever fails.
pub(super) async fn finish(states: Vec<(ComponentName, Box<dyn Staged>)>) -> Result<Vec<(ComponentName, Restored)>, RestoreError> {
    let (mut restored, mut reasons) = (Vec::new(), Vec::new());
    for (name, state) in states {
        match state.finish().await {
            Ok(done) => restored.push((name, done)),
            Err(error) => reasons.push(format!("{name}: {}", chain::describe(&error))),
        }
    }
    if reasons.is_empty() { Ok(restored) } else { Err(RestoreError::NotCleaned { reasons }) }
}

async fn back(journal: &mut Journal, parts: &[Takeover]) -> Result<(), RestoreError> {
    if journal.entry().ending() == Some(Ending::New) {
        return Err(RestoreError::OnlyForward);
    }
    journal.ending(Ending::Old).await?;
    let mut reasons = Vec::new();
    for (at, part) in parts.iter().enumerate().rev() {
        let name = part.restorer.name();
        tracing::info!(component = %name, "rolling back");
        let undone = match part.adopt(journal, at).await {
            Ok(state) => state.undo().await.map_err(|error| chain::describe(&error)),
            Err(error) => Err(chain::describe(&error)),
        };
        reasons.extend(undone.err().map(|why| format!("{name}: {why}")));
    }
    if reasons.is_empty() { Ok(()) } else { Err(RestoreError::NotRolledBack { reasons }) }
}
