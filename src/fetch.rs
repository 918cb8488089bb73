//! What is stored, as the raw streams that it was made of.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::StreamExt;

use crate::chain;
use crate::component::{ArtifactOpener, ByteStream};
use crate::manifest::{Artifact, Component, Format};
use crate::name::BackupName;
use crate::pipeline::{Progress, UnpackError, unpack};
use crate::storage::Target;

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

/// Opens the artifacts of `backup` in `target`; what is fetched is counted in `progress`, as stored bytes. Errors of the streams are
/// [`UnpackError`] in an [`io::Error`].
pub fn opener(target: Target, backup: BackupName, progress: Progress) -> ArtifactOpener {
    Arc::new(move |artifact| {
        let (target, backup, progress, artifact) = (target.clone(), backup.clone(), progress.clone(), artifact.clone());
        Box::pin(async move {
            let stored = match artifact.format {
                Format::PgPlain => target.legacy(&artifact.path, artifact.stored_bytes).await,
                _ => target.stream(&backup, &artifact.path, artifact.stored_bytes).await,
            };
            let stored = stored.map_err(|source| {
                let missing = source.is_not_found();
                let source = io::Error::other(source);
                let path = artifact.path.to_string();
                io::Error::other(if missing { UnpackError::Missing { path, source } } else { UnpackError::Fetch { path, source } })
            })?;
            let counted = stored.inspect(move |chunk| {
                if let Ok(chunk) = chunk {
                    progress.0.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            });
            Ok(Box::new(unpack(&artifact, counted)) as ByteStream)
        })
    })
}
