//! What is stored, as the raw streams that it was made of.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::StreamExt;

use crate::chain;
use crate::component::{ArtifactOpener, ByteStream};
use crate::encryption::{EncryptionError, HEADER, Identities, OpenError};
use crate::manifest::{Artifact, Component, Format, Manifest};
use crate::name::BackupName;
use crate::pipeline::{Progress, UnpackError, read_over, unpack};
use crate::storage::{Stored, Target};

/// Whether what was just read of `component` and found to be other than what was written is as it was written when it is read again: then a
/// byte was changed on its way, and whoever failed for it may begin anew. `error` is why it failed.
pub async fn is_sound_after_all(
    open: &ArtifactOpener,
    component: &Component,
    error: &(dyn std::error::Error + Send + Sync + 'static),
) -> bool {
    let Some(different) = chain::find::<UnpackError>(error).filter(|cause| cause.is_different()) else { return false };
    let Some(artifact) = component.artifacts.iter().find(|artifact| artifact.path.to_string() == different.path()) else { return false };
    let sound = pass_over(open, artifact).await.is_ok();
    if sound {
        tracing::warn!("{different}, when it was read; read again, it is whole: look for what changes bytes on the way to the target");
    }
    sound
}

/// Reads an artifact to its end, which is proof that it is what was written; how many raw bytes it has.
///
/// # Errors
/// [`UnpackError`] in an [`io::Error`].
pub async fn pass_over(open: &ArtifactOpener, artifact: &Artifact) -> io::Result<u64> {
    tokio::io::copy(&mut open(artifact).await?, &mut tokio::io::sink()).await
}

/// Opens the artifacts of `backup` in `target`, decrypted by `identities` if need be; what is fetched is counted in `progress`, as stored
/// bytes. Errors of the streams are [`UnpackError`] in an [`io::Error`].
pub fn opener(target: Target, backup: BackupName, identities: Identities, progress: Progress) -> ArtifactOpener {
    Arc::new(move |artifact| {
        let (target, backup, progress, artifact) = (target.clone(), backup.clone(), progress.clone(), artifact.clone());
        let identities = identities.clone();
        Box::pin(async move {
            let stored = stored(&target, &backup, &artifact, &progress).await.map_err(io::Error::other)?;
            Ok(Box::new(unpack(&artifact, &identities, stored)) as ByteStream)
        })
    })
}

/// Reads an artifact to its end and sees that it is, byte for byte, what was stored; what it means is not looked at.
///
/// # Errors
/// [`UnpackError`].
pub async fn read_stored(target: &Target, backup: &BackupName, artifact: &Artifact, progress: &Progress) -> Result<(), UnpackError> {
    read_over(artifact, stored(target, backup, artifact, progress).await?).await
}

async fn stored(target: &Target, backup: &BackupName, artifact: &Artifact, progress: &Progress) -> Result<Stored, UnpackError> {
    let stored = match artifact.format {
        Format::PgPlain => target.legacy(&artifact.path, artifact.stored_bytes).await,
        _ => target.stream(backup, &artifact.path, artifact.stored_bytes).await,
    };
    let stored = stored.map_err(|source| {
        let missing = source.is_not_found();
        let source = io::Error::other(source);
        let path = artifact.path.to_string();
        if missing { UnpackError::Missing { path, source } } else { UnpackError::Fetch { path, source } }
    })?;
    let progress = progress.clone();
    let counted = stored.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            progress.0.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    Ok(counted.boxed())
}

/// Sees that `identities` open what `manifest` holds, before anything is done that needs it. What is damaged or cannot be read is left to
/// whoever reads it.
///
/// # Errors
/// [`EncryptionError::NoIdentity`] and [`EncryptionError::WrongIdentity`].
pub async fn unlock(target: &Target, manifest: &Manifest, identities: &Identities) -> Result<(), EncryptionError> {
    // all are encrypted to the same keys
    let Some(artifact) = manifest.artifacts().find(|artifact| artifact.encryption.is_some()) else { return Ok(()) };
    let to = match manifest.recipients.as_slice() {
        [] => "with a passphrase".to_owned(),
        recipients => format!("to {}", recipients.join(", ")),
    };
    if identities.is_empty() {
        return Err(EncryptionError::NoIdentity { to });
    }
    let Ok(mut stored) = stored(target, &manifest.name, artifact, &Progress::default()).await else { return Ok(()) };
    let mut begin = Vec::new();
    while begin.len() < HEADER {
        match stored.next().await {
            Some(Ok(chunk)) => begin.extend_from_slice(&chunk),
            Some(Err(_)) => return Ok(()),
            None => break,
        }
    }
    let identities = identities.clone();
    let opened = tokio::task::spawn_blocking(move || identities.open(io::Cursor::new(begin)).map(drop));
    match opened.await {
        Ok(Err(OpenError::Locked)) => Err(EncryptionError::WrongIdentity { to }),
        _ => Ok(()),
    }
}
