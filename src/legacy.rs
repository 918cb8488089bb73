//! authentik's own backups of old: plain SQL of `pg_dump`, at the root of a target, without a manifest.
//!
//! Up to 2021.4 they are named `default-[HOST-]YYYY-MM-DD-HHMMSS.psql`, later `authentik-backup-[VERSION-]YYYY-MM-DD-HHMMSS.sql`. They are
//! listed and restored, and never changed or deleted. Nobody has recorded what they hold: before a restore they are read once, to its end,
//! and then restored as if that had been their manifest.

use std::io;

use chrono::{DateTime, NaiveDateTime, Utc};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::component::structure::END_OF_DUMP;
use crate::manifest::{Artifact, Component, ComponentStatus, Encoding, FORMAT, Facts, Format, Kind, Manifest, Status};
use crate::name::{ArtifactPath, BackupName, ComponentName, JobName};
use crate::pipeline::{Surveyed, survey};
use crate::storage::{StorageError, Target};

const TIME: &str = "%Y-%m-%d-%H%M%S";
const TIME_LENGTH: usize = "2020-10-03-115557".len();

/// A dump as it lies in a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// Its name there, and the name by which it is restored.
    pub file: String,
    /// By its name; by the store's clock if that has no time.
    pub created: DateTime<Utc>,
    pub bytes: u64,
}

/// Why a dump is not to be restored.
#[derive(Debug, Error)]
pub enum LegacyError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("read `{file}`")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("`{0}` is cut, or no dump of pg_dump: its last line is missing")]
    Cut(String),
    #[error("cancelled")]
    Cancelled,
}

impl LegacyError {
    /// Whether the stored bytes are no whole dump, rather than out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Cut(_) => true,
            Self::Read { source, .. } => matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
            Self::Storage(_) | Self::Cancelled => false,
        }
    }
}

/// Whether a file of that name is such a dump.
pub fn is_dump(file: &str) -> bool {
    let plain = plain(file);
    let named =
        (plain.starts_with("default-") && plain.ends_with(".psql")) || (plain.starts_with("authentik-backup-") && plain.ends_with(".sql"));
    // any other could not be asked for
    named && path(file).is_some()
}

fn plain(file: &str) -> &str {
    file.strip_suffix(".gz").unwrap_or(file)
}

fn encoding(file: &str) -> Encoding {
    if file.ends_with(".gz") { Encoding::Gzip } else { Encoding::None }
}

/// The time that a name ends in.
fn created(file: &str) -> Option<DateTime<Utc>> {
    let (stem, _) = plain(file).rsplit_once('.')?;
    let time = stem.get(stem.len().checked_sub(TIME_LENGTH)?..)?;
    NaiveDateTime::parse_from_str(time, TIME).ok().map(|time| time.and_utc())
}

/// The dumps of a target, the oldest first.
///
/// # Errors
/// Those of the target.
pub async fn list(target: &Target) -> Result<Vec<Dump>, StorageError> {
    let mut dumps = Vec::new();
    for file in target.root_names().await?.iter().filter(|file| is_dump(file)) {
        dumps.extend(find(target, file).await?);
    }
    dumps.sort_by(|a, b| (a.created, &a.file).cmp(&(b.created, &b.file)));
    Ok(dumps)
}

/// The dump of that name, if it is one and is there.
///
/// # Errors
/// Those of the target.
pub async fn find(target: &Target, file: &str) -> Result<Option<Dump>, StorageError> {
    let Some(path) = path(file).filter(|_| is_dump(file)) else { return Ok(None) };
    let found = target.look_at(&target.layout().legacy(&path)).await?;
    Ok(found.map(|object| Dump { file: file.to_owned(), created: created(file).unwrap_or(object.last_modified), bytes: object.size }))
}

/// Its component does not matter: the key is made of the file alone.
fn path(file: &str) -> Option<ArtifactPath> {
    format!("legacy/{file}").parse().ok()
}

/// Reads `dump` to its end and writes the manifest that it never had, of a backup of `component`.
///
/// # Errors
/// [`LegacyError`]: a dump that is not whole is refused here, before anything is touched.
pub async fn describe(target: &Target, dump: &Dump, component: ComponentName, cancel: &CancellationToken) -> Result<Manifest, LegacyError> {
    let path: ArtifactPath = ArtifactPath::new(&component, &dump.file).map_err(|_| LegacyError::Cut(dump.file.clone()))?;
    let stored = target.legacy(&path, dump.bytes).await?;
    let surveyed = cancel.run_until_cancelled(survey(encoding(&dump.file), stored)).await.ok_or(LegacyError::Cancelled)?;
    let Surveyed { packed, head, tail } = surveyed.map_err(|source| LegacyError::Read { file: dump.file.clone(), source })?;
    if !tail.split(|b| *b == b'\n').any(|line| line.trim_ascii_end() == END_OF_DUMP) {
        return Err(LegacyError::Cut(dump.file.clone()));
    }
    let artifact = Artifact {
        path,
        format: Format::PgPlain,
        encoding: encoding(&dump.file),
        encryption: None,
        database: None,
        raw_bytes: packed.raw_bytes,
        stored_bytes: packed.stored_bytes,
        sha256: packed.sha256,
        blake3: packed.blake3,
    };
    let component = Component {
        name: component,
        kind: Kind::Postgres,
        status: ComponentStatus::Complete,
        reason: None,
        seconds: 0.0,
        facts: versions(&String::from_utf8_lossy(&head)),
        warnings: Vec::new(),
        fingerprint: None,
        artifacts: vec![artifact],
    };
    let job: JobName = "legacy".parse().expect("a valid name");
    Ok(Manifest {
        format: FORMAT,
        name: BackupName::new(job.clone(), dump.created),
        job,
        created: dump.created,
        finished: dump.created,
        tool: "authentik".to_owned(),
        host: String::new(),
        status: Status::Complete,
        slot: None,
        only: Vec::new(),
        replaced_by: None,
        recipients: Vec::new(),
        components: vec![component],
    })
}

/// What the head of a dump says of the server and of `pg_dump`.
fn versions(head: &str) -> Facts {
    let said = |mark: &str| head.lines().find_map(|line| line.strip_prefix(mark)).map(|version| version.trim().into());
    let facts = [("server_version", said("-- Dumped from database version ")), ("client_version", said("-- Dumped by pg_dump version "))];
    facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_times_are_known_and_nothing_else() {
        for (file, time) in [
            ("default-2020-10-03-115557.psql", Some("2020-10-03T11:55:57Z")),
            ("default-worker-1-2020-10-03-115557.psql.gz", Some("2020-10-03T11:55:57Z")),
            ("authentik-backup-2021.5.1-2021-05-12-000000.sql", Some("2021-05-12T00:00:00Z")),
            ("authentik-backup-2021-05-12-000000.sql.gz", Some("2021-05-12T00:00:00Z")),
            ("authentik-backup-of-monday.sql", None),
        ] {
            assert!(is_dump(file), "{file}");
            assert_eq!(created(file).map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)).as_deref(), time, "{file}");
        }
        for file in
            ["default.psql", "default-2020-10-03-115557", "other-2020-10-03-115557.psql", "authentik-backup-.txt", "default-a b.psql"]
        {
            assert!(!is_dump(file), "{file}");
        }
    }

    #[test]
    fn a_dump_says_its_versions() {
        let head =
            "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 12.8 (Debian)\n-- Dumped by pg_dump version 12.9\n";
        let facts = versions(head);
        assert_eq!((facts["server_version"].as_str(), facts["client_version"].as_str()), (Some("12.8 (Debian)"), Some("12.9")));
        assert!(versions("SELECT 1;").is_empty());
    }
}
