//! Proof that a stored backup is whole, without restoring it: every stored byte is read back and compared with the manifest, what comes
//! out is taken apart to its end.

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::chain;
use crate::component::ArtifactOpener;
use crate::component::structure::{self, StructureError};
use crate::encryption::Identities;
use crate::fetch;
use crate::manifest::{Artifact, Manifest};
use crate::pipeline::{Progress, UnpackError};

/// Why a backup could not be verified at all.
#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("the verification was cancelled")]
    Cancelled,
}

/// What was found out about one stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Whole; what it holds, as a short text.
    Sound(String),
    /// Encrypted, and without an identity only compared: what is stored is what was written, whatever it holds.
    Intact,
    /// Not what was written, or not a whole file of its format; why.
    Damaged(String),
    /// It could not be read, which says nothing about it.
    Unread(String),
}

/// What was found out about a backup in one target.
#[derive(Debug, Clone)]
pub struct Findings {
    /// By path, in the manifest's order, `SHA256SUMS` last.
    pub objects: Vec<(String, Finding)>,
}

impl Findings {
    /// Whether what the objects hold was looked at, too.
    pub fn is_full(&self) -> bool {
        self.objects.iter().all(|(_, finding)| *finding != Finding::Intact)
    }

    /// Sentences that name their objects.
    pub fn damaged(&self) -> impl Iterator<Item = String> {
        self.objects.iter().filter_map(|(_, f)| if let Finding::Damaged(why) = f { Some(why.clone()) } else { None })
    }

    /// Sentences that name their objects.
    pub fn unread(&self) -> impl Iterator<Item = String> {
        self.objects.iter().filter_map(|(_, f)| if let Finding::Unread(why) = f { Some(why.clone()) } else { None })
    }
}

/// Reads a backup back. A damaged object does not keep the others from being read. Without `identities`, what is encrypted is compared with
/// what was stored, and no more.
///
/// # Errors
/// [`VerifyError`]; what is wrong with the objects is in the [`Findings`].
pub async fn verify(
    catalog: &Catalog,
    manifest: &Manifest,
    identities: &Identities,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Findings, VerifyError> {
    let open = fetch::opener(catalog.target().clone(), manifest.name.clone(), identities.clone(), progress.clone());
    let mut objects = Vec::new();
    for artifact in manifest.artifacts() {
        let finding = async {
            match artifact.encryption {
                Some(_) if identities.is_empty() => compare(catalog, manifest, artifact, progress).await,
                _ => read(&open, artifact).await,
            }
        };
        let finding = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(VerifyError::Cancelled),
            finding = finding => finding,
        };
        objects.push((artifact.path.to_string(), finding));
    }
    let sums = match catalog.sums_match(manifest).await {
        Ok(true) => Finding::Sound("agrees with the manifest".into()),
        Ok(false) => Finding::Damaged("`SHA256SUMS` is missing, or does not agree with the manifest".into()),
        Err(error) => Finding::Unread(chain::describe(&error)),
    };
    objects.push(("SHA256SUMS".to_owned(), sums));
    Ok(Findings { objects })
}

/// What differs is read a second time, as below.
async fn compare(catalog: &Catalog, manifest: &Manifest, artifact: &Artifact, progress: &Progress) -> Finding {
    let once = || fetch::read_stored(catalog.target(), &manifest.name, artifact, progress);
    let compared = match once().await {
        Err(error) if error.is_different() => once().await,
        compared => compared,
    };
    match compared {
        Ok(()) => Finding::Intact,
        Err(error) if error.is_damage() => Finding::Damaged(chain::describe(&error)),
        Err(error) => Finding::Unread(chain::describe(&error)),
    }
}

/// What differs is read a second time: a byte that was changed on its way says nothing about the one that is stored.
async fn read(open: &ArtifactOpener, artifact: &Artifact) -> Finding {
    match read_once(open, artifact).await {
        (Finding::Damaged(why), true) => {
            let (second, _) = read_once(open, artifact).await;
            if let Finding::Sound(_) = second {
                tracing::warn!("{why}, when it was read; read again, it is whole: look for what changes bytes on the way to the target");
            }
            second
        }
        (finding, _) => finding,
    }
}

/// The finding, and whether it is that other bytes came than were written.
async fn read_once(open: &ArtifactOpener, artifact: &Artifact) -> (Finding, bool) {
    let error = match walk(open, artifact).await {
        Ok(found) => return (Finding::Sound(found), false),
        Err(error) => error,
    };
    // bytes that are not what was written make no sense either: only the end of the stream tells damage from a dump that was bad from the start
    let error = match chain::find::<UnpackError>(&error) {
        None if error.is_damage() => fetch::pass_over(open, artifact).await.err().map_or(error, StructureError::Read),
        _ => error,
    };
    match chain::find::<UnpackError>(&error) {
        Some(cause) if cause.is_damage() => (Finding::Damaged(chain::describe(cause)), cause.is_different()),
        Some(cause) => (Finding::Unread(chain::describe(cause)), false),
        None if error.is_damage() => {
            (Finding::Damaged(format!("`{}` is as it was written, but {}", artifact.path, chain::describe(&error))), false)
        }
        None => (Finding::Unread(format!("`{}`: {}", artifact.path, chain::describe(&error))), false),
    }
}

async fn walk(open: &ArtifactOpener, artifact: &Artifact) -> Result<String, StructureError> {
    structure::walk(artifact.format, open(artifact).await.map_err(StructureError::Read)?).await
}
