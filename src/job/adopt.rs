//! What a run that died had stored, taken over by the next one in place of reading its source again.
//!
//! It is copied under the name of this run, and never used where it lies: a process that only slept removes what it had stored when it
//! wakes, and the day's sweep removes it if it does not. So each backup has its own objects, as ever.

use std::sync::Arc;

use chrono::SecondsFormat;
use futures_util::future::join_all;

use super::component::{self, Outcome};
use super::journal::{Part, Record};
use super::lane::Lane;
use super::transfer::Transfer;
use crate::catalog::Catalog;
use crate::chain::describe;
use crate::component::Source;
use crate::encryption::Lock;
use crate::name::{ArtifactPath, BackupName};
use crate::storage::{Copy, StorageError};

/// Takes over what the run of a backup has stored as `part`, if there is one, or reads `source`, as [`component::store`] does.
pub(super) async fn or_store(source: &dyn Source, transfer: Transfer, asked: bool, part: Option<(BackupName, Part)>) -> Outcome {
    let Some((from, part)) = part else { return component::store(source, transfer, asked).await };
    let copied = match adopt(&transfer, &from, &part).await {
        Ok(outcome) => return outcome,
        Err(copied) => copied,
    };
    let (backup, lanes) = (transfer.backup.clone(), transfer.lanes.clone());
    let outcome = component::store(source, transfer, asked).await;
    for path in copied {
        if outcome.stored.contains(&path) {
            continue;
        }
        for lane in &lanes {
            if let Err(error) = lane.target().delete(&lane.target().layout().artifact(&backup, &path)).await {
                tracing::warn!("{}", describe(&error));
            }
        }
    }
    outcome
}

/// What the artifacts of a source that says `identity` are known by, when a run that died has stored them; `None`: it is read in any case.
///
/// The record of them lies in the target, where somebody else may have put it: nothing is taken from there to be signed. Nor does it tell
/// to which passphrase they are encrypted.
pub(super) fn identity(identity: Option<String>, lock: Option<&Lock>, signed: bool) -> Option<String> {
    match lock {
        _ if signed => None,
        None => identity,
        Some(Lock::Passphrase(_)) => None,
        Some(lock) => identity.map(|identity| format!("{identity} to {}", lock.recipients().join(" "))),
    }
}

/// Copies the artifacts of `part`, which the run of `from` has stored, in every open lane.
///
/// # Errors
/// What has to be removed when the source was read instead: a path that was not stored again.
pub(super) async fn adopt(transfer: &Transfer, from: &BackupName, part: &Part) -> Result<Outcome, Vec<ArtifactPath>> {
    let component = &part.component;
    let refuse = |why: String| tracing::info!(component = %component.name, "what {from} had stored is not used, it is read again: {why}");
    let open: Vec<&Arc<Lane>> = transfer.lanes.iter().filter(|lane| lane.is_open()).collect();
    let looks = tokio::select! {
        looks = join_all(open.iter().map(|lane| look(lane, from, part))) => looks,
        () = transfer.cancel.cancelled() => return Err(Vec::new()),
    };
    if let Some(why) = looks.into_iter().find_map(Result::err) {
        refuse(why);
        return Err(Vec::new());
    }
    let paths: Vec<ArtifactPath> = component.artifacts.iter().map(|artifact| artifact.path.clone()).collect();
    let copies = join_all(open.iter().map(|lane| copy(transfer, lane, from, part))).await;
    let failed = open.iter().zip(copies).filter(|(lane, _)| lane.is_open()).find_map(|(_, copied)| copied.err());
    if let Some(error) = failed {
        refuse(describe(&error));
        return Err(paths);
    }
    if !open.iter().any(|lane| lane.is_open()) || transfer.cancel.is_cancelled() {
        return Err(paths);
    }
    let finished = part.finished.to_rfc3339_opts(SecondsFormat::Secs, true);
    let warning = format!("{} was not read again: it was stored at {finished} by {}, which was interrupted", component.name, part.read_by);
    tracing::warn!("{warning}");
    let mut component = component.clone();
    component.warnings.push(warning);
    Ok(Outcome { component, stored: paths, adopted: Some(part.clone()) })
}

/// Whether all of it is there, of a run that made no backup.
async fn look(lane: &Lane, from: &BackupName, part: &Part) -> Result<(), String> {
    let target = lane.target();
    let said = |error: StorageError| describe(&error);
    if Catalog::new(target.clone()).exists(from).await.map_err(said)? {
        return Err(format!("target `{}` has a backup of that name", target.name()));
    }
    for artifact in &part.component.artifacts {
        let found = target.look_at(&target.layout().artifact(from, &artifact.path)).await.map_err(said)?;
        if found.is_none_or(|meta| meta.size != artifact.stored_bytes) {
            return Err(format!("`{}` is not whole in target `{}`", artifact.path, target.name()));
        }
    }
    Ok(())
}

/// A lane whose target does not say what became of a copy is closed: what is read again must not meet a copy that comes later.
async fn copy(transfer: &Transfer, lane: &Lane, from: &BackupName, part: &Part) -> Result<(), StorageError> {
    let (target, layout, stop) = (lane.target(), lane.target().layout(), lane.closed());
    let copies = async {
        for artifact in &part.component.artifacts {
            let copy = Copy {
                from: &layout.artifact(from, &artifact.path),
                to: &layout.artifact(&transfer.backup, &artifact.path),
                bytes: artifact.stored_bytes,
                content_type: artifact.content_type(),
                stall: transfer.stall,
            };
            target.copy(&copy, &stop).await?;
        }
        Ok(())
    };
    tokio::pin!(copies);
    let copied = loop {
        tokio::select! {
            copied = &mut copies => break copied,
            () = transfer.cancel.cancelled(), if !stop.is_cancelled() => stop.cancel(),
        }
    };
    if let Err(error @ StorageError::Stalled { .. }) = &copied {
        lane.fail(error);
    }
    copied
}

/// Removes what a run that died had stored of the components in its record, once another backup holds them: nobody would miss it before the sweep does
/// so a day later. Its claim stays until then, so that nobody else takes its name while its process may wake.
pub(super) async fn clear(lane: &Lane, left: &Record) {
    let catalog = Catalog::new(lane.target().clone());
    let clear = async {
        if !catalog.exists(&left.backup).await? {
            for artifact in left.components().flat_map(|component| &component.artifacts) {
                lane.target().delete(&lane.target().layout().artifact(&left.backup, &artifact.path)).await?;
            }
        }
        Ok::<_, StorageError>(())
    };
    if let Err(error) = clear.await {
        tracing::debug!("{}; it is removed a day from now", describe(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::{EncryptionOptions, KeyPair, To};

    #[test]
    fn what_is_signed_or_encrypted_otherwise_is_read_again() {
        let source = || Some("digest".to_owned());
        let pairs = [KeyPair::generate(), KeyPair::generate()];
        let to = |pairs: &[KeyPair]| {
            let to = To::Recipients(pairs.iter().map(|pair| pair.recipient().parse().expect("a key")).collect());
            EncryptionOptions { to, ..EncryptionOptions::default() }.lock().expect("a lock")
        };
        let passphrase = EncryptionOptions::by_passphrase("x").lock().expect("a lock");
        assert_eq!(identity(source(), None, false), source());
        let (one, both) = (identity(source(), to(&pairs[..1]).as_ref(), false), identity(source(), to(&pairs).as_ref(), false));
        assert!(one.is_some() && both.is_some() && one != both && one != source() && both != source());
        assert_eq!(one, identity(source(), to(&pairs[..1]).as_ref(), false));
        for (lock, signed) in [(passphrase, false), (None, true), (to(&pairs), true)] {
            assert_eq!(identity(source(), lock.as_ref(), signed), None);
        }
        assert_eq!(identity(None, to(&pairs).as_ref(), false), None);
    }
}
