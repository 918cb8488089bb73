//! What is stored, as the raw streams that it was made of.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::StreamExt;

use crate::component::{ArtifactOpener, ByteStream};
use crate::manifest::Format;
use crate::name::BackupName;
use crate::pipeline::{Progress, UnpackError, unpack};
use crate::storage::Target;

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
