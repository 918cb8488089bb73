//! A backup as plain files: verified, decrypted, decompressed, with the stock commands that restore just these.

mod instructions;

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::fs::{DirBuilder, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::component::ArtifactOpener;
use crate::encryption::Identities;
use crate::fetch;
use crate::manifest::{Artifact, Component, ComponentStatus, Encryption, Manifest, hex};
use crate::name::{BackupName, ComponentName};
use crate::pipeline::{Progress, UnpackError};
use crate::storage::Target;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// Why a backup was not exported. Nothing is left in the directory.
#[derive(Debug, Error)]
pub enum ExportError {
    #[error("backup `{backup}` holds no component `{component}`")]
    NotInBackup { backup: BackupName, component: ComponentName },
    #[error("{}: {problem}", path.display())]
    Destination { path: PathBuf, problem: String },
    #[error("read `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the export was cancelled")]
    Cancelled,
}

impl ExportError {
    /// Whether the stored bytes are not what was written.
    pub fn is_damage(&self) -> bool {
        chain::find::<UnpackError>(self).is_some_and(UnpackError::is_damage)
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NotInBackup { .. } => Some("`listbackups` shows what each backup holds.".into()),
            Self::Destination { .. } => Some("Give a directory that does not exist yet, or an empty one, where there is room.".into()),
            error if error.is_damage() => Some("Export from another target, or an older backup; check the store's disks.".into()),
            Self::Read { .. } | Self::Write { .. } | Self::Cancelled => None,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Paths below the directory.
    pub files: Vec<String>,
    /// Of the exported content.
    pub bytes: u64,
}

/// Writes the components `only` (none: all) of a backup into `directory`, as `<component>/<file>` beside `SHA256SUMS`, `RESTORE.md` and the
/// manifest.
///
/// # Errors
/// [`ExportError`]; what was written by then is removed.
pub async fn export(
    target: &Target,
    manifest: &Manifest,
    only: &[ComponentName],
    directory: &Path,
    identities: Identities,
    progress: Progress,
    cancel: &CancellationToken,
) -> Result<Exported, ExportError> {
    let components = chosen(manifest, only)?;
    let made = prepare(directory, components.iter().map(|c| c.raw_bytes()).sum()).await?;
    let open = fetch::opener(target.clone(), manifest.name.clone(), identities, progress);
    let written = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(ExportError::Cancelled),
        written = write(&open, manifest, &components, directory) => written,
    };
    if written.is_err()
        && let Err(error) = clear(directory, made).await
    {
        tracing::warn!("what an export wrote to {} could not be removed: {error}", directory.display());
    }
    written
}

fn chosen<'a>(manifest: &'a Manifest, only: &[ComponentName]) -> Result<Vec<&'a Component>, ExportError> {
    let held: Vec<&Component> = manifest.components.iter().filter(|c| c.status == ComponentStatus::Complete).collect();
    if let Some(missing) = only.iter().find(|name| !held.iter().any(|c| c.name == **name)) {
        return Err(ExportError::NotInBackup { backup: manifest.name.clone(), component: missing.clone() });
    }
    Ok(held.into_iter().filter(|c| only.is_empty() || only.contains(&c.name)).collect())
}

/// Makes the directory, or sees that it is empty; whether it was made.
async fn prepare(directory: &Path, bytes: u64) -> Result<bool, ExportError> {
    let problem = |problem: String| ExportError::Destination { path: directory.to_owned(), problem };
    let made = match DirBuilder::new().mode(0o700).create(directory).await {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = tokio::fs::read_dir(directory).await.map_err(|e| problem(e.to_string()))?;
            if entries.next_entry().await.map_err(|e| problem(e.to_string()))?.is_some() {
                return Err(problem("it is not empty".into()));
            }
            false
        }
        Err(error) => return Err(problem(error.to_string())),
    };
    if let Ok(stat) = rustix::fs::statvfs(directory)
        && stat.f_bavail.saturating_mul(stat.f_frsize) < bytes
    {
        if made {
            // it is empty
            let _ = tokio::fs::remove_dir(directory).await;
        }
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        return Err(problem(format!("{bytes} bytes are needed, {free} are free")));
    }
    Ok(made)
}

async fn write(open: &ArtifactOpener, manifest: &Manifest, components: &[&Component], directory: &Path) -> Result<Exported, ExportError> {
    let mut exported = Exported { files: Vec::new(), bytes: 0 };
    let mut sums = String::new();
    for component in components {
        let folder = directory.join(component.name.as_str());
        DirBuilder::new().mode(0o700).create(&folder).await.map_err(|source| ExportError::Write { path: folder.clone(), source })?;
        for artifact in &component.artifacts {
            let plain = plain_path(artifact);
            let to = directory.join(&plain);
            let sha256 = match copy(open, artifact, &to).await {
                Err(error) if fetch::is_sound_after_all(open, component, &error).await => {
                    tokio::fs::remove_file(&to).await.map_err(|source| ExportError::Write { path: to.clone(), source })?;
                    copy(open, artifact, &to).await?
                }
                copied => copied?,
            };
            sums.push_str(&format!("{sha256}  {plain}\n"));
            exported.files.push(plain);
            exported.bytes += artifact.raw_bytes;
        }
    }
    for (name, text) in [
        ("SHA256SUMS", sums.into_bytes()),
        ("RESTORE.md", instructions::text(manifest, components).into_bytes()),
        ("manifest.json", manifest.to_bytes()),
    ] {
        let path = directory.join(name);
        let written = async {
            let mut file = create(&path).await?;
            file.write_all(&text).await?;
            file.sync_all().await
        };
        written.await.map_err(|source| ExportError::Write { path: path.clone(), source })?;
        exported.files.push(name.to_owned());
    }
    Ok(exported)
}

/// The path of an artifact's content: that of the stored object without the suffixes of its encryption and its compression.
fn plain_path(artifact: &Artifact) -> String {
    let path = artifact.path.to_string();
    let compressed = path.strip_suffix(artifact.encryption.map_or("", Encryption::suffix)).unwrap_or(&path);
    compressed.strip_suffix(artifact.encoding.suffix()).unwrap_or(compressed).to_owned()
}

/// The SHA-256 of what was written.
async fn copy(open: &ArtifactOpener, artifact: &Artifact, to: &Path) -> Result<String, ExportError> {
    let read = |source| ExportError::Read { path: artifact.path.to_string(), source };
    let write = |source| ExportError::Write { path: to.to_owned(), source };
    let mut stream = open(artifact).await.map_err(read)?;
    let mut file = create(to).await.map_err(write)?;
    let (mut buffer, mut sha256) = (vec![0; BUFFER], Sha256::new());
    loop {
        let n = stream.read(&mut buffer).await.map_err(read)?;
        if n == 0 {
            break;
        }
        sha256.update(&buffer[..n]);
        file.write_all(&buffer[..n]).await.map_err(write)?;
    }
    file.sync_all().await.map_err(write)?;
    Ok(hex(&sha256.finalize()))
}

async fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await
}

/// Removes what was written into a directory that was made, or was empty.
async fn clear(directory: &Path, made: bool) -> io::Result<()> {
    if made {
        return tokio::fs::remove_dir_all(directory).await;
    }
    let mut entries = tokio::fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_type().await?.is_dir() {
            tokio::fs::remove_dir_all(entry.path()).await?;
        } else {
            tokio::fs::remove_file(entry.path()).await?;
        }
    }
    Ok(())
}
