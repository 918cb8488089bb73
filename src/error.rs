//! The top error, and the exit codes of the contract.

use thiserror::Error;

use crate::catalog::{CatalogError, DISTRUST};
use crate::config::ConfigError;
use crate::encryption::EncryptionError;
use crate::export::ExportError;
use crate::job::JobError;
use crate::restore::RestoreError;
use crate::storage::StorageError;
use crate::worker::WorkerError;
use crate::worker::health::HealthError;

/// How a command ends that did not do all that it was asked for.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{what}")]
    Usage { what: String, advice: Option<String> },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{what}")]
    NotFound { what: String, advice: Option<String> },
    /// What is needed to encrypt or decrypt is not configured, or is wrong.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Stored bytes are not what was written.
    #[error("{0}")]
    Integrity(String),
    /// They are not of somebody who is trusted.
    #[error("{0}")]
    Distrust(String),
    /// A backup could not be restored for a trial.
    #[error("{0}")]
    Drill(String),
    #[error(transparent)]
    Export(#[from] ExportError),
    /// What succeeded is kept; what did not was named before.
    #[error("{0}")]
    Incomplete(String),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The exit code of the contract.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Config(_) | Self::Encryption(_) => 78,
            Self::NotFound { .. } => 10,
            Self::Job(error) => match error {
                JobError::NoSuchComponent { .. } => 10,
                JobError::Busy(..) => 11,
                JobError::NoTarget { .. } | JobError::NothingLeft { .. } => 3,
                JobError::Served(_) => 0,
                JobError::Cancelled => 130,
            },
            Self::Catalog(error) => match error {
                CatalogError::NotFound(_) => 10,
                CatalogError::Damaged { .. } | CatalogError::Untrusted { .. } => 12,
                CatalogError::Storage(error) => storage_code(error),
            },
            Self::Storage(error) => storage_code(error),
            Self::Restore(error) => match error {
                error if error.is_missing() => 10,
                RestoreError::NotCleaned { .. } => 3,
                RestoreError::Cancelled => 130,
                RestoreError::Busy { .. } => 11,
                RestoreError::Unfinished { .. } | RestoreError::OnlyBack | RestoreError::OnlyForward => 2,
                RestoreError::NotInBackup { .. }
                | RestoreError::Lost { .. }
                | RestoreError::Refused { .. }
                | RestoreError::Failed { .. }
                | RestoreError::NotUndone { .. }
                | RestoreError::NotTaken { .. }
                | RestoreError::NotResumed { .. }
                | RestoreError::NotRolledBack { .. }
                | RestoreError::Journal(_) => {
                    if error.is_damage() {
                        12
                    } else {
                        1
                    }
                }
            },
            Self::Integrity(_) | Self::Distrust(_) => 12,
            Self::Export(error) => match error {
                ExportError::NotInBackup { .. } => 10,
                ExportError::Destination { .. } => 2,
                ExportError::Cancelled => 130,
                error if error.is_damage() => 12,
                _ => 1,
            },
            Self::Incomplete(_) => 3,
            Self::Drill(_) | Self::Worker(_) | Self::Health(_) | Self::Io { .. } => 1,
            Self::Cancelled => 130,
        }
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Usage { advice, .. } | Self::NotFound { advice, .. } => advice.clone(),
            Self::Config(error) => error.advice(),
            Self::Encryption(error) => error.advice(),
            Self::Job(error) => error.advice(),
            Self::Catalog(CatalogError::Storage(error)) | Self::Storage(error) => error.advice(),
            Self::Catalog(CatalogError::NotFound(_)) => Some("`listbackups` shows what there is.".into()),
            Self::Catalog(CatalogError::Damaged { .. }) => Some("Use another target's copy (--target), or another backup.".into()),
            Self::Catalog(error @ CatalogError::Untrusted { .. }) => error.advice(),
            Self::Restore(error) => error.advice(),
            Self::Worker(error) => error.advice(),
            Self::Health(error) => error.advice(),
            Self::Integrity(_) => Some("Restore from another target or an older backup; check the store's disks.".into()),
            Self::Distrust(_) => Some(DISTRUST.to_owned()),
            Self::Drill(_) => {
                Some("Nothing in service was changed. Try an older backup, and find out what this one lacks before it is needed.".into())
            }
            Self::Export(error) => error.advice(),
            Self::Incomplete(_) | Self::Io { .. } | Self::Cancelled => None,
        }
    }
}

fn storage_code(error: &StorageError) -> u8 {
    if error.is_busy() { 11 } else { 1 }
}
