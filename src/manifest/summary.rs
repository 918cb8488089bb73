//! A manifest in few bytes.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Artifact, ComponentStatus, Kind, ManifestError, Status, can_be_added, unseal};
use crate::name::{BackupName, ComponentName, JobName};

/// What a list of backups shows of a manifest. Thousands of whole ones, with what their fingerprints say, would fill the memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub name: BackupName,
    pub job: JobName,
    pub finished: DateTime<Utc>,
    pub status: Status,
    pub only: Vec<ComponentName>,
    pub replaced_by: Option<BackupName>,
    /// Those that are complete.
    pub components: Vec<ComponentName>,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
}

impl Summary {
    /// Reads what is summed up out of a manifest, and looks at the form of all else that a restore goes by.
    ///
    /// # Errors
    /// Those of [`Manifest::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Listed {
            name: BackupName,
            job: JobName,
            finished: DateTime<Utc>,
            status: Status,
            #[serde(default)]
            only: Vec<ComponentName>,
            replaced_by: Option<BackupName>,
            components: Vec<Part>,
        }
        #[derive(Deserialize)]
        struct Part {
            name: ComponentName,
            #[serde(rename = "kind")]
            _kind: Kind,
            status: ComponentStatus,
            #[serde(default)]
            artifacts: Vec<Artifact>,
        }
        let Listed { name, job, finished, status, only, replaced_by, components } = unseal(bytes)?;
        can_be_added(components.iter().flat_map(|c| &c.artifacts))?;
        let sum = |bytes: fn(&Artifact) -> u64| components.iter().flat_map(|c| &c.artifacts).map(bytes).sum();
        let (raw_bytes, stored_bytes) = (sum(|a| a.raw_bytes), sum(|a| a.stored_bytes));
        let components = components.into_iter().filter(|c| c.status == ComponentStatus::Complete).map(|c| c.name).collect();
        Ok(Self { name, job, finished, status, only, replaced_by, components, raw_bytes, stored_bytes })
    }
}
