//! A backup from one target into another: the same bytes under the same name, proven on the way.
//!
//! Order as in every backup: artifacts, then the list of checksums, then the manifest, create-only. What an earlier copy that died has left is
//! read back, and not sent again where it is what the manifest says.

use bytes::Bytes;
use futures_util::stream::StreamExt;
use object_store::PutPayload;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError, sums};
use crate::chain::describe;
use crate::manifest::{Artifact, Manifest, hex};
use crate::name::{ArtifactPath, BackupName};
use crate::pipeline::Progress;
use crate::storage::{Lease, Shape, StorageError, Target, Upload};

/// Bytes of a piece of an upload: with those under way, and the ranges that are read ahead, memory is flat.
const PIECE: u64 = 8 << 20;

/// The most where the store has so few parts that smaller ones do not do.
const LARGEST_PIECE: u64 = 20 << 20;

/// What the claim of a copy begins with.
const CLAIM: &str = "# a copy of target ";

/// What became of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// So many bytes were sent.
    Sent(u64),
    /// The same backup was there.
    Found,
}

/// Why there is no copy.
#[derive(Debug, Error)]
pub enum CopyError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("target `{target}` holds another backup of the name `{name}`")]
    Other { name: BackupName, target: String },
    #[error("target `{target}` holds what a run has left of `{name}`, or is at work on")]
    Taken { name: BackupName, target: String },
    #[error("`{path}` of `{name}` in target `{target}` is not what was written")]
    Damaged { name: BackupName, path: ArtifactPath, target: String },
    #[error("`{path}` of `{name}` is larger than what target `{target}` takes in its {parts} parts")]
    TooLarge { name: BackupName, path: ArtifactPath, target: String, parts: u32 },
    #[error("cancelled")]
    Cancelled,
}

impl CopyError {
    /// Whether a run, or another copy, has the lease.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_busy())
    }

    /// Whether stored bytes are not what was written.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Catalog(CatalogError::Damaged { .. } | CatalogError::Untrusted { .. }))
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Storage(error) | Self::Catalog(CatalogError::Storage(error)) => error.advice(),
            Self::Other { .. } => {
                Some("Nothing was overwritten. Two installations must not share a target: give each its prefix.".to_owned())
            }
            Self::Taken { .. } => Some("A run of the job that writes there sweeps it a day after it began.".to_owned()),
            Self::Damaged { .. } => Some("`verify` says what else is; nothing of it exists in the other target.".to_owned()),
            Self::TooLarge { .. } => {
                Some("Divide what the component backs up, or copy to S3, which joins parts: nothing of it was sent.".to_owned())
            }
            Self::Catalog(error) => error.advice(),
            Self::Cancelled => None,
        }
    }
}

/// Copies one backup, under the lease of its job in the target that it goes to: for one at a time, so that a run of the job there is not kept
/// waiting for many.
///
/// # Errors
/// [`CopyError`]; then the target has no backup of that name, but what was stored of it stays for the next attempt, or is swept a day later.
pub async fn copy(
    from: &Catalog,
    to: &Catalog,
    name: &BackupName,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Copied, CopyError> {
    let holder = format!("a copy by process {}", std::process::id());
    let lease = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(CopyError::Cancelled),
        lease = Lease::acquire(to.target(), name.job(), &holder) => lease?,
    };
    let copied = under_lease(from, to, &lease, name, progress, cancel).await;
    lease.release().await;
    copied
}

async fn under_lease(
    from: &Catalog,
    to: &Catalog,
    lease: &Lease,
    name: &BackupName,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Copied, CopyError> {
    let begun = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(CopyError::Cancelled),
        begun = begin(from, to, name) => begun?,
    };
    let Some((manifest, bytes)) = begun else { return Ok(Copied::Found) };
    let mut sent = 0;
    for artifact in manifest.artifacts() {
        let there = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(CopyError::Cancelled),
            there = is_there(to.target(), name, artifact) => there?,
        };
        if there {
            continue;
        }
        let send = || send(from.target(), to.target(), name, artifact, progress, cancel);
        match send().await {
            // a byte may have been changed on its way here
            Err(error @ CopyError::Damaged { .. }) => {
                tracing::warn!("{}; it is read a second time", describe(&error));
                send().await?;
            }
            sent => sent?,
        }
        sent += artifact.stored_bytes;
    }
    lease.confirm().await?;
    to.commit_bytes(&manifest, bytes).await?;
    if let Err(error) = lease.ratify().await {
        // whoever has the lease now may have swept what it is made of
        to.withdraw(name).await?;
        return Err(error.into());
    }
    Ok(Copied::Sent(sent))
}

/// Finds the backup and claims its name in the target that it goes to; `None` if the same one is there.
async fn begin(from: &Catalog, to: &Catalog, name: &BackupName) -> Result<Option<(Manifest, Bytes)>, CopyError> {
    let (manifest, bytes) = from.find_with_bytes(name).await?;
    match to.find_with_bytes(name).await {
        Ok((_, found)) if found == bytes => return Ok(None),
        Ok(_) | Err(CatalogError::Damaged { .. } | CatalogError::Untrusted { .. }) => {
            return Err(CopyError::Other { name: name.clone(), target: to.target().name().to_string() });
        }
        Err(CatalogError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let claim = format!("{CLAIM}{} is on its way: {}\n", from.target().name(), uuid::Uuid::new_v4());
    match to.claim(name, claim).await {
        Ok(()) => Ok(Some((manifest, bytes))),
        // under the lease, the copy that had begun it is no more; a run may only have slept, and removes what it believes to be its own
        Err(StorageError::Occupied { .. }) if is_a_copys(&to.claimed_by(name).await?, &manifest, &bytes) => Ok(Some((manifest, bytes))),
        Err(StorageError::Occupied { .. }) => Err(CopyError::Taken { name: name.clone(), target: to.target().name().to_string() }),
        Err(error) => Err(error.into()),
    }
}

/// Whether what lies there in place of the list of checksums was left by a copy: its claim, or the list itself, which is its last step but one.
fn is_a_copys(found: &str, manifest: &Manifest, bytes: &[u8]) -> bool {
    found.starts_with(CLAIM) || found == sums(manifest, bytes)
}

/// Whether an artifact is stored already, as the manifest says.
async fn is_there(target: &Target, name: &BackupName, artifact: &Artifact) -> Result<bool, StorageError> {
    let found = target.look_at(&target.layout().artifact(name, &artifact.path)).await?;
    if found.is_none_or(|found| found.size != artifact.stored_bytes) {
        return Ok(false);
    }
    let mut stored = target.stream(name, &artifact.path, artifact.stored_bytes).await?;
    let mut hasher = Sha256::new();
    while let Some(chunk) = stored.next().await {
        hasher.update(&chunk?);
    }
    Ok(hex(&hasher.finalize()) == artifact.sha256)
}

/// Sends one artifact, and compares it with the manifest while it flows.
async fn send(
    from: &Target,
    to: &Target,
    name: &BackupName,
    artifact: &Artifact,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<(), CopyError> {
    let piece_size = piece_size(to, artifact.stored_bytes);
    if let Some(parts) = to.max_parts().filter(|parts| !to.joins() && artifact.stored_bytes.div_ceil(piece_size) > u64::from(*parts)) {
        return Err(CopyError::TooLarge { name: name.clone(), path: artifact.path.clone(), target: to.name().to_string(), parts });
    }
    let mut stored = from.stream(name, &artifact.path, artifact.stored_bytes).await?;
    let shape = Shape { piece: piece_size, estimate: Some(artifact.stored_bytes) };
    let content_type = artifact.content_type();
    let key = to.layout().artifact(name, &artifact.path);
    let upload = Upload::start(to, key, content_type, shape, to.stall(), cancel.child_token());
    let mut hasher = Sha256::new();
    let (mut piece, mut length) = (Vec::new(), 0);
    let read = async {
        while let Some(chunk) = stored.next().await {
            let mut chunk = chunk?;
            hasher.update(&chunk);
            progress.0.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::Relaxed);
            while !chunk.is_empty() {
                let room = usize::try_from(piece_size - length).unwrap_or(usize::MAX);
                let part = chunk.split_to(room.min(chunk.len()));
                length += part.len() as u64;
                piece.push(part);
                if length == piece_size && !flush(&upload, &mut piece, &mut length).await {
                    return Ok(false);
                }
            }
        }
        Ok::<bool, CopyError>(length == 0 || flush(&upload, &mut piece, &mut length).await)
    };
    let read = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(CopyError::Cancelled),
        read = read => read,
    };
    let whole = match read {
        // why it takes no more, its end says
        Ok(false) => true,
        Ok(true) => hex(&hasher.finalize()) == artifact.sha256,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    if !whole {
        upload.abort().await;
        return Err(CopyError::Damaged { name: name.clone(), path: artifact.path.clone(), target: from.name().to_string() });
    }
    Ok(upload.finish().await?)
}

/// A store that joins pieces takes any; for another, all that it takes has to be enough, as far as memory goes.
fn piece_size(to: &Target, bytes: u64) -> u64 {
    match to.max_parts().filter(|_| !to.joins()) {
        Some(most) => bytes.div_ceil(u64::from(most.max(1))).clamp(PIECE, LARGEST_PIECE),
        None => PIECE,
    }
}

async fn flush(upload: &Upload, piece: &mut Vec<Bytes>, length: &mut u64) -> bool {
    *length = 0;
    upload.send(std::mem::take(piece).into_iter().collect::<PutPayload>()).await
}
