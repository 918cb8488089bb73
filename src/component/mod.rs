//! The sources of a backup and their restorers. What belongs to one format stays together, in a folder of its own.
//!
//! Laws of a [`Source`]: the end of its stream means that the stream is complete; a producer that failed yields an error, never an end.
//! Laws of a [`Restorer`]: `plan` touches nothing; `stage` builds the new state beside the old one and leaves the old one in service;
//! only `publish` switches, and until `finish` the old state can be brought back by `undo`.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use crate::manifest::{self, Facts, Format, Kind};
use crate::name::{ComponentName, RestoreId};

pub mod bucket;
pub mod directory;
pub mod postgres;
pub mod redis;
pub mod state;
pub mod structure;

/// A stream of bytes whose end means that it is complete.
pub type ByteStream = Box<dyn AsyncRead + Send + Unpin>;

/// Opens the raw (decoded, verified) stream of a stored artifact; may be called more than once. The stream ends only after both hashes of
/// the manifest matched; until then it yields an error.
pub type ArtifactOpener = Arc<dyn Fn(&manifest::Artifact) -> BoxFuture<'static, std::io::Result<ByteStream>> + Send + Sync>;

/// One source of a job.
#[async_trait]
pub trait Source: Send + Sync {
    fn name(&self) -> &ComponentName;
    fn kind(&self) -> Kind;

    /// Credentials, versions, reachability; writes nothing.
    async fn check(&self) -> Result<Facts, ComponentError>;

    /// A digest of everything that decides what is stored of it, but for what it holds at the time: what a run that died has stored of a
    /// source with the same may stand in for reading it again soon after. `None`: it is always read.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Connects and says which artifacts there are. What is learnt on the way (facts, warnings) goes to `run.notes`.
    ///
    /// # Errors
    /// [`ComponentError::Absent`] when there is nothing to back up and the user did not ask for it.
    async fn open(&self, run: &RunContext) -> Result<Vec<Artifact>, ComponentError>;
}

/// A stream that is about to be stored.
pub struct Artifact {
    /// File name without the suffix of the compression, valid for [`crate::name::ArtifactPath`]: `app.dump`, `dump.rdb`, `media.tar`.
    pub file: String,
    pub format: Format,
    /// The database that it holds, for PostgreSQL. Artifacts of one database stand together, and flow side by side, as do those of none with
    /// the ones that follow; they must not wait for one another, since there may be memory for one at a time.
    pub database: Option<String>,
    /// About how many raw bytes will come, if that can be known.
    pub estimate: Option<u64>,
    /// Starts the stream; called once, when its turn has come. [`ComponentError::Absent`]: there is nothing to store after all.
    pub open: BoxFuture<'static, Result<ByteStream, ComponentError>>,
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact").field("file", &self.file).field("format", &self.format).finish_non_exhaustive()
    }
}

/// How much a fingerprint says of what a source held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// Every value.
    #[default]
    Full,
    /// How many there are.
    Counts,
    /// There is none.
    Off,
}

/// What a run gives to its components.
#[derive(Debug, Clone, Default)]
pub struct RunContext {
    pub cancel: CancellationToken,
    pub notes: Notes,
    /// Of a restore: the mark of everything that it makes for itself.
    pub id: RestoreId,
    /// After how long without a byte a stream is cut: whoever waits for something that can be named, gives up before.
    pub stall: Option<Duration>,
}

/// Facts and warnings of one component, gathered while its streams flow. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    facts: Facts,
    warnings: Vec<String>,
    fingerprint: Option<Value>,
}

impl Notes {
    pub fn fact(&self, key: &str, value: impl Into<Value>) {
        self.with(|noted| noted.facts.insert(key.to_owned(), value.into()));
    }

    /// What the source held, in the words of its kind: what a restore is compared with. Has to be noted before the component's last stream
    /// ends.
    pub fn fingerprint(&self, fingerprint: Value) {
        self.with(|noted| noted.fingerprint = Some(fingerprint));
    }

    /// Something odd that did not stop the run; a whole sentence that names its subject.
    pub fn warn(&self, warning: impl Into<String>) {
        let warning = warning.into();
        tracing::warn!("{warning}");
        self.with(|noted| noted.warnings.push(warning));
    }

    /// All facts and warnings so far.
    pub fn take(&self) -> (Facts, Vec<String>) {
        self.with(|noted| (std::mem::take(&mut noted.facts), std::mem::take(&mut noted.warnings)))
    }

    pub fn take_fingerprint(&self) -> Option<Value> {
        self.with(|noted| noted.fingerprint.take())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Noted) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where a restore goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// Where the configuration says that the component lives.
    #[default]
    Configured,
    /// `--into COMPONENT=…`, in the words of the component's kind.
    Into(String),
    /// As `Into`, but the place exists for this restore only and is gone afterwards: nothing outside of it may be made.
    Throwaway(String),
    /// Beside what is configured, to be compared and removed again: it is never switched in, and nothing else is made or changed. Only
    /// PostgreSQL has such a place.
    Beside,
}

/// A component as it lies in a backup.
#[derive(Clone)]
pub struct StoredComponent {
    pub component: manifest::Component,
    pub open: ArtifactOpener,
}

/// Largest fingerprint that is read, in bytes: a hostile one cannot exhaust memory. A table takes about 150.
const MAX_FINGERPRINT: u64 = 32 << 20;
/// Most memory that its values may take, in bytes.
const MAX_FINGERPRINT_MEMORY: usize = 256 << 20;

impl StoredComponent {
    /// What the source held, wherever it is stored; `None` for a backup that was made without.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, larger than 32 MiB, or no JSON.
    pub async fn fingerprint(&self) -> std::io::Result<Option<Value>> {
        let Some(artifact) = self.component.artifacts.iter().find(|a| a.format == Format::Fingerprint) else {
            return Ok(self.component.fingerprint.clone());
        };
        if artifact.raw_bytes > MAX_FINGERPRINT {
            return Err(std::io::Error::other(format!("`{}` is larger than any fingerprint", artifact.path)));
        }
        let mut bytes = Vec::new();
        (self.open)(artifact).await?.read_to_end(&mut bytes).await?;
        manifest::from_json(&bytes, MAX_FINGERPRINT_MEMORY).map(Some).map_err(std::io::Error::other)
    }
}

/// What a restore asks of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreOptions {
    pub to: Destination,
    /// Leave what was replaced standing, under another name.
    pub keep_old: bool,
    /// PostgreSQL: only these databases, each whole. Empty: all.
    pub databases: Vec<String>,
    /// PostgreSQL: only these tables, of the only database. They go into a new database.
    pub tables: Vec<postgres::TableName>,
    /// Directories: only what these gitignore-style globs match. It goes into a new directory.
    pub paths: Vec<String>,
    /// Buckets: delete what the backup does not hold.
    pub delete_extra: bool,
    /// PostgreSQL: what is restored belongs to who restores; no roles, no privileges.
    pub no_owner: bool,
    /// PostgreSQL: sessions at once; otherwise as many as the server and this machine have room for.
    pub jobs: Option<NonZeroU32>,
    /// Ends the names of new places that nobody named: when the restore was asked for, `20260131-030405`.
    pub stamp: String,
}

impl RestoreOptions {
    /// Whether something smaller than a database or a directory is asked for. It is put beside what is in service, never in its place, and
    /// the fingerprint of the whole says nothing about it.
    pub fn is_partial(&self) -> bool {
        !self.tables.is_empty() || !self.paths.is_empty()
    }
}

/// What a restore would do; printed before it asks for confirmation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In sentences.
    pub steps: Vec<String>,
    /// The same for scripts.
    pub facts: Facts,
    /// Whether something that is there now would be replaced.
    pub replaces: bool,
}

/// What a restore is about to make, noted before it makes anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// What it would replace, each in words that are the same for every restore that would replace it too; no secret.
    pub places: Vec<String>,
    /// What [`Restorer::adopt`] needs to find whatever was made. No secret.
    pub record: Value,
}

/// What a restore has left that died, as its journal knows it.
#[derive(Clone)]
pub struct Left {
    pub id: RestoreId,
    pub progress: Progress,
    /// Of [`Staged::record`], or of [`Intent::record`] where the component was not yet staged.
    pub record: Value,
    pub options: RestoreOptions,
    /// As that of [`RunContext`].
    pub stall: Option<Duration>,
    /// The component in the backup that was restored; `None` where it is not needed, because the old state is to come back.
    pub stored: Option<StoredComponent>,
    /// The component in the backup that was made right before, of what was in service then, if there is one.
    pub safety: Option<StoredComponent>,
}

/// How far a component was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its staging may have begun.
    Staging,
    /// It was staged; its switch had not begun.
    Staged,
    /// Its switch had begun, and may have ended.
    Switching,
}

/// Puts a component back.
#[async_trait]
pub trait Restorer: Send + Sync {
    fn name(&self) -> &ComponentName;

    /// Refuses what is known to fail (versions, privileges, space, a bad destination) and says what will happen. Touches nothing.
    async fn plan(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Plan, ComponentError>;

    /// What `stage` would make under the mark `id`. Touches nothing.
    async fn intent(&self, part: &manifest::Component, options: &RestoreOptions, id: RestoreId) -> Result<Intent, ComponentError>;

    /// Takes over what a restore has left that died, wherever it stopped, also in the midst of `publish`, `finish` or `undo`: then these do
    /// what is still to be done of them. Nothing that the dead one had begun goes on once this returns. Changes nothing else.
    ///
    /// # Errors
    /// When what is there cannot be what that restore has left.
    async fn adopt(&self, left: &Left) -> Result<Box<dyn Staged>, ComponentError>;

    /// Builds the new state beside the old one. An error or a cancellation leaves nothing behind, but for [`ComponentError::LeftBehind`].
    async fn stage(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError>;
}

/// A restored state that waits to be switched in.
#[async_trait]
pub trait Staged: Send {
    /// What [`Restorer::adopt`] needs when this process is no more. No secret.
    fn record(&self) -> Value;

    /// Switches the new state in. After an error the old state is in service, and [`Staged::undo`] cleans up.
    async fn publish(&mut self) -> Result<(), ComponentError>;

    /// After `publish`: drops what was replaced, or leaves it where the user asked for it.
    async fn finish(self: Box<Self>) -> Result<Restored, ComponentError>;

    /// Before or after `publish`, in place of `finish`: brings the old state back and removes the new one.
    async fn undo(self: Box<Self>) -> Result<(), ComponentError>;
}

/// What a restore of one component did, in sentences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    pub done: Vec<String>,
    pub warnings: Vec<String>,
}

/// What went wrong with a component. Each kind has its own enum, whose variants name action and subject.
#[derive(Debug, Error)]
pub enum ComponentError {
    #[error(transparent)]
    Postgres(#[from] postgres::PostgresError),
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Directory(#[from] directory::DirectoryError),
    #[error(transparent)]
    Bucket(#[from] bucket::BucketError),
    /// Nothing to back up, and nobody asked for it by name: a note, not a failure.
    #[error("{0}")]
    Absent(String),
    /// The new state was built, and is not what was backed up: it was not switched in.
    #[error("what was restored differs from what was backed up: {}", .0.join("; "))]
    Differs(Vec<String>),
    /// The backup holds the component, and not the part of it that was asked for.
    #[error("the backup does not hold {what}")]
    NotHeld { what: String, advice: Option<String> },
    #[error("the fingerprint of the backup cannot be read")]
    Fingerprint(#[source] std::io::Error),
    /// A restore that failed and could not remove what it had made: that is to be done later.
    #[error("{left} could not be removed after it failed")]
    LeftBehind {
        left: String,
        #[source]
        source: Box<ComponentError>,
    },
    #[error("cancelled")]
    Cancelled,
}

impl ComponentError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Postgres(e) => e.advice(),
            Self::Redis(e) => e.advice(),
            Self::Directory(e) => e.advice(),
            Self::Bucket(e) => e.advice(),
            Self::Differs(_) => Some("Do not trust this backup: try an older one, or another target's copy.".into()),
            Self::NotHeld { advice, .. } => advice.clone(),
            Self::LeftBehind { source, .. } => source.advice(),
            Self::Absent(_) | Self::Fingerprint(_) | Self::Cancelled => None,
        }
    }
}
