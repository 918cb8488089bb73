//! The backups of a target.
//!
//! Invariant: a backup exists exactly when its manifest exists. Artifacts are stored first and the manifest last; a removal takes the
//! manifest first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt};
use object_store::path::Path;
use thiserror::Error;

use crate::chain::{describe, explain};
use crate::manifest::{self, Manifest, ManifestError, Status, Summary};
use crate::name::{ArtifactPath, BackupName, JobName};
use crate::retention::Candidate;
use crate::signature::Authenticity;
use crate::storage::{StorageError, Target, layout};
use crate::verdict::{Known, Verdict};

/// Manifests that are read at once.
const PARALLEL: usize = 32;

/// Backups among which a complete one is looked for.
const LAST_FEW: usize = 5;

/// How long the objects of a run without a manifest are left alone: it may still be under way.
const GRACE: TimeDelta = TimeDelta::hours(24);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// What to do about backups that nobody has signed who is trusted.
pub const DISTRUST: &str = "Somebody else may have put it there. If you know who made it, add that key to `encryption.trusted_signers`; backups \
    from before signatures need a configuration without it.";

/// What can go wrong with a catalog.
#[derive(Debug, Error)]
pub enum CatalogError {
    #[error("there is no backup `{0}`")]
    NotFound(BackupName),
    #[error("backup `{name}` in target `{target}` is damaged")]
    Damaged {
        name: BackupName,
        target: String,
        #[source]
        source: ManifestError,
    },
    /// Nobody who is trusted has signed it.
    #[error("backup `{name}` in target `{target}` is not trusted")]
    Untrusted {
        name: BackupName,
        target: String,
        #[source]
        source: ManifestError,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl CatalogError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Storage(error) => error.advice(),
            Self::Untrusted { .. } => Some(DISTRUST.to_owned()),
            Self::NotFound(_) | Self::Damaged { .. } => None,
        }
    }
}

/// One backup as it was found.
#[derive(Debug)]
pub enum Entry {
    Sound(Box<Summary>),
    /// It has a manifest, which is not what was written, or not by somebody who is trusted.
    Damaged(BackupName, ManifestError),
    /// Its manifest cannot be read now; the others can.
    Unread(BackupName, StorageError),
}

impl Entry {
    pub fn name(&self) -> &BackupName {
        match self {
            Self::Sound(summary) => &summary.name,
            Self::Damaged(name, _) | Self::Unread(name, _) => name,
        }
    }

    /// Which backup it is and why it is not sound, with what can be done about it.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Sound(_) => None,
            Self::Damaged(name, error) => Some(format!("{name}: {}", describe(error))),
            Self::Unread(name, error) => Some(format!("{name}: {}", explain(error, error.advice()))),
        }
    }

    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Sound(summary) => Some(summary),
            Self::Damaged(..) | Self::Unread(..) => None,
        }
    }
}

/// The backups of one target.
#[derive(Debug, Clone)]
pub struct Catalog {
    target: Target,
    authenticity: Authenticity,
}

impl Catalog {
    pub fn new(target: Target) -> Self {
        Self { target, authenticity: Authenticity::default() }
    }

    /// The same, whose manifests are signed, and believed only when they are.
    #[must_use]
    pub fn with(self, authenticity: &Authenticity) -> Self {
        Self { authenticity: authenticity.clone(), ..self }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Every backup, of `job` if one is given; oldest first.
    pub async fn list(&self, job: Option<&JobName>) -> Result<Vec<Entry>, StorageError> {
        let names = self.target.backup_names().await?;
        let wanted = names.into_iter().filter(|n| job.is_none_or(|job| n.job() == job));
        // tasks of their own, so that manifests are read on every core
        let look = |name: BackupName| {
            let catalog = self.clone();
            let looking = tokio::spawn(async move { catalog.look(name.clone()).await.unwrap_or_else(|e| Some(Entry::Unread(name, e))) });
            async move { looking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) }
        };
        Ok(stream::iter(wanted).map(look).buffered(PARALLEL).filter_map(std::future::ready).collect().await)
    }

    /// The manifest of a backup.
    ///
    /// # Errors
    /// [`CatalogError::NotFound`] and [`CatalogError::Damaged`] besides those of the target.
    pub async fn find(&self, name: &BackupName) -> Result<Manifest, CatalogError> {
        self.find_with_bytes(name).await.map(|(manifest, _)| manifest)
    }

    /// As [`Catalog::find`], with the very bytes that are stored.
    ///
    /// # Errors
    /// As there.
    pub async fn find_with_bytes(&self, name: &BackupName) -> Result<(Manifest, Bytes), CatalogError> {
        match self.find_once(name).await {
            // it may have been changed on its way
            Err(CatalogError::Damaged { .. } | CatalogError::Untrusted { .. }) => self.find_once(name).await,
            found => found,
        }
    }

    async fn find_once(&self, name: &BackupName) -> Result<(Manifest, Bytes), CatalogError> {
        let Some(bytes) = self.read(name).await? else { return Err(CatalogError::NotFound(name.clone())) };
        let damaged = |source: ManifestError| {
            let (name, target) = (name.clone(), self.target.name().to_string());
            match source.is_distrust() {
                true => CatalogError::Untrusted { name, target, source },
                false => CatalogError::Damaged { name, target, source },
            }
        };
        let manifest = Manifest::from_bytes(&bytes).map_err(damaged)?;
        manifest::authenticate(&bytes, &self.authenticity.trusted).map_err(damaged)?;
        in_place(name, &manifest.name, &manifest.job).map_err(damaged)?;
        Ok((manifest, bytes))
    }

    /// The newest complete backup of the whole `job`, if there is one among the last few.
    pub async fn newest(&self, job: &JobName) -> Result<Option<Manifest>, StorageError> {
        let names = self.target.backup_names().await?;
        for name in names.into_iter().rev().filter(|name| name.job() == job).take(LAST_FEW) {
            match self.find(&name).await {
                Ok(manifest) if manifest.status == Status::Complete && manifest.only.is_empty() => return Ok(Some(manifest)),
                Ok(_) | Err(CatalogError::NotFound(_) | CatalogError::Damaged { .. } | CatalogError::Untrusted { .. }) => {}
                Err(CatalogError::Storage(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// When the newest complete backup of the whole `job` began; those dated in the future tell nothing, nor do those that cannot be read.
    pub async fn last_complete(&self, job: &JobName, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, StorageError> {
        let names = self.target.backup_names().await?;
        for name in names.into_iter().rev().filter(|name| name.job() == job && !name.is_ahead(now)) {
            match self.look(name).await {
                Ok(Some(Entry::Sound(found))) if found.status == Status::Complete && found.only.is_empty() => {
                    return Ok(Some(found.name.created()));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{}", describe(&error)),
            }
        }
        Ok(None)
    }

    /// `None`: there is no such backup.
    async fn look(&self, name: BackupName) -> Result<Option<Entry>, StorageError> {
        match self.look_once(name.clone()).await {
            Ok(Some(Entry::Damaged(..))) => self.look_once(name).await,
            found => found,
        }
    }

    async fn look_once(&self, name: BackupName) -> Result<Option<Entry>, StorageError> {
        let Some(bytes) = self.read(&name).await? else { return Ok(None) };
        let summary = Summary::from_bytes(&bytes)
            .and_then(|summary| in_place(&name, &summary.name, &summary.job).map(|()| summary))
            .and_then(|summary| manifest::authenticate(&bytes, &self.authenticity.trusted).map(|()| summary));
        Ok(Some(summary.map_or_else(|error| Entry::Damaged(name, error), |summary| Entry::Sound(Box::new(summary)))))
    }

    /// `None`: there is no manifest, and so no such backup.
    async fn read(&self, name: &BackupName) -> Result<Option<Bytes>, StorageError> {
        match self.target.read(&self.target.layout().manifest(name), manifest::MAX_BYTES).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the name for one run, by a list of checksums that says only that; `claim` is its content.
    ///
    /// # Errors
    /// [`StorageError::Occupied`] when the name is taken.
    pub async fn claim(&self, name: &BackupName, claim: String) -> Result<(), StorageError> {
        self.target.create(&self.target.layout().sums(name), claim.into(), TEXT).await
    }

    /// What [`Catalog::claim`] has left there; the list of checksums, once the backup exists.
    pub async fn claimed_by(&self, name: &BackupName) -> Result<String, StorageError> {
        let bytes = self.target.read(&self.target.layout().sums(name), manifest::MAX_BYTES).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes the backup exist: its artifacts are already stored, now the list of checksums and, last and create-only, the manifest.
    pub async fn commit(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let bytes = match &self.authenticity.signer {
            Some(key) => manifest.to_signed_bytes(key),
            None => manifest.to_bytes(),
        };
        self.commit_bytes(manifest, bytes.into()).await
    }

    /// As [`Catalog::commit`], of a manifest that was read elsewhere: with its very bytes, what a later version has put into it included.
    pub async fn commit_bytes(&self, manifest: &Manifest, bytes: Bytes) -> Result<(), StorageError> {
        let layout = self.target.layout();
        let sums = Bytes::from(sums(manifest, &bytes));
        self.target.write(&layout.sums(&manifest.name), sums.clone(), TEXT).await?;
        self.settle(&layout.sums(&manifest.name), sums, TEXT).await?;
        self.target.create(&layout.manifest(&manifest.name), bytes.clone(), JSON).await?;
        self.settle(&layout.manifest(&manifest.name), bytes, JSON).await
    }

    /// Sees that what was just stored is what was sent: not every server looks, and what proves the artifacts must itself be whole.
    async fn settle(&self, key: &Path, bytes: Bytes, content_type: &'static str) -> Result<(), StorageError> {
        if self.is_stored(key, &bytes).await {
            return Ok(());
        }
        self.target.write(key, bytes.clone(), content_type).await?;
        match self.is_stored(key, &bytes).await {
            true => Ok(()),
            false => Err(StorageError::Garbled { target: self.target.name().clone(), key: key.to_string() }),
        }
    }

    /// False only if other bytes came twice. A right to read is nothing that a backup must have.
    async fn is_stored(&self, key: &Path, bytes: &Bytes) -> bool {
        for _ in 0..2 {
            match self.target.read(key, manifest::MAX_BYTES).await {
                Ok(found) if found != *bytes => {}
                Ok(_) => return true,
                Err(error) => {
                    tracing::debug!("what was stored could not be read back: {}", describe(&error));
                    return true;
                }
            }
        }
        false
    }

    /// Whether the list of checksums is the one that belongs to the manifest. A list that is missing does not. One that differs is read a
    /// second time.
    pub async fn sums_match(&self, manifest: &Manifest) -> Result<bool, StorageError> {
        Ok(self.sums_match_once(manifest).await? || self.sums_match_once(manifest).await?)
    }

    async fn sums_match_once(&self, manifest: &Manifest) -> Result<bool, StorageError> {
        let layout = self.target.layout();
        let expected = sums(manifest, &self.target.read(&layout.manifest(&manifest.name), manifest::MAX_BYTES).await?);
        match self.target.read(&layout.sums(&manifest.name), manifest::MAX_BYTES).await {
            Ok(found) => Ok(found == expected),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Records what a verification or a drill found, in place of the earlier ones that it outdates.
    pub async fn record(&self, name: &BackupName, verdict: Verdict) -> Result<(), StorageError> {
        let layout = self.target.layout();
        let earlier = self.target.list(&layout.verdicts_of(name)).await?;
        let key = layout.verdict(name, &verdict.to_string());
        self.target.write(&key, verdict.to_string().into(), TEXT).await?;
        let outdated = |location: &Path| location.filename().and_then(Verdict::parse).is_some_and(|earlier| verdict.outdates(&earlier));
        for object in earlier.into_iter().filter(|o| o.location != key && outdated(&o.location)) {
            self.target.delete(&object.location).await?;
        }
        Ok(())
    }

    /// What verifications and drills have found of each backup that had any.
    pub async fn verdicts(&self) -> Result<BTreeMap<BackupName, Known>, StorageError> {
        let layout = self.target.layout();
        let mut all: BTreeMap<BackupName, Known> = BTreeMap::new();
        for object in self.target.list(&layout.verdicts()).await? {
            if let Some(name) = layout.verdict_of(&object.location)
                && let Some(verdict) = object.location.filename().and_then(Verdict::parse)
            {
                all.entry(name).or_default().add(verdict);
            }
        }
        Ok(all)
    }

    /// Removes a backup: from the first deletion on it does not exist. Touches only what the manifest names.
    pub async fn remove(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let layout = self.target.layout();
        self.withdraw(&manifest.name).await?;
        for artifact in manifest.artifacts() {
            self.target.delete(&layout.artifact(&manifest.name, &artifact.path)).await?;
        }
        self.target.delete(&layout.sums(&manifest.name)).await?;
        self.forget(&manifest.name).await
    }

    /// Removes what runs of `job` that never committed have left, a day after they began. Only objects that such a run would have written
    /// are touched. Returns the names that were cleared; what cannot be cleared is logged, and tried again after the next run.
    pub async fn sweep(&self, job: &JobName, now: DateTime<Utc>) -> Result<Vec<BackupName>, StorageError> {
        let mut swept = Vec::new();
        for name in self.target.backup_names().await? {
            if name.job() != job || now - name.created() < GRACE {
                continue;
            }
            match self.sweep_one(&name, now).await {
                Ok(true) => swept.push(name),
                Ok(false) => {}
                Err(error) => tracing::warn!("could not remove what an unfinished run had left: {}", describe(&error)),
            }
        }
        if let Err(error) = self.sweep_verdicts(job, now).await {
            tracing::warn!("could not remove what was found of backups that are no more: {}", describe(&error));
        }
        if let Err(error) = self.target.sweep(job, now - GRACE).await {
            tracing::warn!("could not remove what an unfinished run had left: {}", describe(&error));
        }
        Ok(swept)
    }

    /// A removal that was interrupted has left those of a backup that is no more.
    async fn sweep_verdicts(&self, job: &JobName, now: DateTime<Utc>) -> Result<(), StorageError> {
        let old = |name: &BackupName| name.job() == job && now - name.created() >= GRACE;
        let names: BTreeSet<BackupName> = self.verdicts().await?.into_keys().filter(old).collect();
        for name in names {
            if !self.exists(&name).await? {
                self.forget(&name).await?;
            }
        }
        Ok(())
    }

    /// Removes the manifest only: from then on there is no backup of that name.
    pub async fn withdraw(&self, name: &BackupName) -> Result<(), StorageError> {
        self.target.delete(&self.target.layout().manifest(name)).await
    }

    async fn forget(&self, name: &BackupName) -> Result<(), StorageError> {
        for object in self.target.list(&self.target.layout().verdicts_of(name)).await? {
            self.target.delete(&object.location).await?;
        }
        Ok(())
    }

    /// Whether there is a backup of that name, sound or not. A list may lack an object that is there, so its manifest itself is asked for.
    pub async fn exists(&self, name: &BackupName) -> Result<bool, StorageError> {
        Ok(self.target.look_at(&self.target.layout().manifest(name)).await?.is_some())
    }

    async fn sweep_one(&self, name: &BackupName, now: DateTime<Utc>) -> Result<bool, StorageError> {
        let prefix = self.target.layout().backup(name);
        let objects = self.target.list(&prefix).await?;
        let manifest = self.target.layout().manifest(name);
        let young = objects.iter().any(|o| now - o.last_modified < GRACE);
        if objects.is_empty() || young || objects.iter().any(|o| o.location == manifest) {
            return Ok(false);
        }
        if self.exists(name).await? {
            return Ok(false);
        }
        for object in &objects {
            let below = object.location.as_ref().strip_prefix(prefix.as_ref()).unwrap_or_default().trim_start_matches('/');
            if below == layout::SUMS || below.parse::<ArtifactPath>().is_ok() {
                self.target.delete(&object.location).await?;
            }
        }
        Ok(true)
    }
}

/// A manifest that was moved under another name is not that backup.
fn in_place(asked: &BackupName, name: &BackupName, job: &JobName) -> Result<(), ManifestError> {
    if name == asked && job == asked.job() { Ok(()) } else { Err(ManifestError::Misplaced(name.clone())) }
}

/// The list of checksums of a backup with that manifest, in the format of `sha256sum`: digest, two spaces, path.
pub fn sums(manifest: &Manifest, manifest_bytes: &[u8]) -> String {
    let artifacts = manifest.artifacts().map(|a| format!("{}  {}\n", a.sha256, a.path));
    artifacts.chain([format!("{}  {}\n", manifest::sha256_hex(manifest_bytes), layout::MANIFEST)]).collect()
}

/// What retention needs to know of the sound backups, with what [`Catalog::verdicts`] says of them.
pub fn candidates(entries: &[Entry], verdicts: &BTreeMap<BackupName, Known>) -> Vec<Candidate> {
    let sound = entries.iter().filter_map(Entry::summary);
    sound
        .map(|m| Candidate {
            name: m.name.clone(),
            complete: m.status == Status::Complete,
            scope: m.only.iter().map(ToString::to_string).collect(),
            drilled: verdicts.get(&m.name).is_some_and(Known::is_restorable),
        })
        .collect()
}
