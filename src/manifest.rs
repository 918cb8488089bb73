//! The record that makes a backup exist, `manifest.json`, format 1, or 2 where artifacts are encrypted.
//!
//! The manifest proves its own integrity: its last member, `integrity`, is the SHA-256 of the whole file with the 64 hex digits of that
//! value written as zeros. That finds damage, not forgery: a manifest may be signed as well (`signer` and `signature`, before `integrity`; see
//! docs/encryption.md), over the whole file with the digits of signature and integrity written as zeros. Readers ignore members they do not know; every format ever written stays readable.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::name::{ArtifactPath, BackupName, ComponentName, JobName};
use crate::signature::{SIGNATURE, SigningKey, VerifyingKey};

mod bounded;
mod summary;

pub use bounded::{JsonError, from_json};
pub use summary::Summary;

/// The format that this version writes, but for what is encrypted.
pub const FORMAT: u32 = 1;

/// Format 1 in which artifacts may be encrypted: a reader of format 1 alone would take their ciphertext for damage.
pub const FORMAT_ENCRYPTED: u32 = 2;

/// Largest manifest that is read, in bytes: a hostile one cannot exhaust memory.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most memory that its values may take, in bytes. One of ten thousand databases takes about 50 MiB.
const MAX_MEMORY: usize = 128 << 20;

/// Most bytes that all artifacts of a backup may claim together: an exbibyte.
const MOST_CLAIMED: u64 = 1 << 60;

const MARK: &str = "\"integrity\": \"sha256:";
const DIGITS: usize = 64;
const SIGNATURE_MARK: &str = "\"signature\": \"ed25519:";
const SIGNATURE_DIGITS: usize = 2 * SIGNATURE;
/// Bytes at the end of a manifest in which its last member begins.
const TAIL: usize = 1 << 10;

/// What is known of a component's source, under names that its kind defines.
pub type Facts = BTreeMap<String, Value>;

/// A committed run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub name: BackupName,
    pub job: JobName,
    pub created: DateTime<Utc>,
    pub finished: DateTime<Utc>,
    /// `backstay <version>`.
    pub tool: String,
    pub host: String,
    pub status: Status,
    /// The scheduled moment that this run served; absent for a run by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<DateTime<Utc>>,
    /// The components that were asked for, sorted, where that was not the whole job; empty for the whole job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<ComponentName>,
    /// Of a safety backup: the backup that was restored right after, over what this one holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<BackupName>,
    /// The age public keys that its artifacts are encrypted to; none for a passphrase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    pub components: Vec<Component>,
}

/// Whether every component of the run is in the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Complete,
    Partial,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
        }
    }
}

/// What a component is a source of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Postgres,
    Redis,
    Directory,
    Bucket,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Directory => "directory",
            Self::Bucket => "bucket",
        }
    }
}

/// One source's part of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    pub name: ComponentName,
    pub kind: Kind,
    pub status: ComponentStatus,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Wall-clock seconds from opening the source to its last stored byte.
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: Facts,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What its source held, by the words of its kind; a large one is an artifact of [`Format::Fingerprint`] instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Value>,
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
}

impl Component {
    /// What it restores from: every artifact but a fingerprint.
    pub fn content(&self) -> impl Iterator<Item = &Artifact> {
        self.artifacts.iter().filter(|a| a.format != Format::Fingerprint)
    }

    pub fn raw_bytes(&self) -> u64 {
        self.artifacts.iter().map(|a| a.raw_bytes).sum()
    }

    pub fn stored_bytes(&self) -> u64 {
        self.artifacts.iter().map(|a| a.stored_bytes).sum()
    }
}

/// How a component of a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentStatus {
    Complete,
    Failed,
    /// There was nothing to back up, and nobody had asked for it by name.
    Skipped,
}

impl ComponentStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One stored object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to the backup.
    pub path: ArtifactPath,
    pub format: Format,
    pub encoding: Encoding,
    /// After it was compressed; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The database that a PostgreSQL artifact holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Bytes of the stream as its source gave it.
    pub raw_bytes: u64,
    /// Bytes of the stored object.
    pub stored_bytes: u64,
    /// Of the stored object, lower-case hex.
    pub sha256: String,
    /// Of the raw stream, lower-case hex.
    pub blake3: String,
}

impl Artifact {
    /// MIME type of the stored object; there is none of age's own.
    pub fn content_type(&self) -> &'static str {
        match self.encryption {
            Some(_) => "application/octet-stream",
            None => self.encoding.content_type().unwrap_or(self.format.content_type()),
        }
    }
}

/// What the raw stream of an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `pg_dump --format=custom`.
    PgCustom,
    /// `pg_dumpall --globals-only`: roles and tablespaces as SQL.
    PgGlobals,
    /// `pg_dump --format=plain`, which others wrote: it lies at the root of the target.
    PgPlain,
    /// A Redis or Valkey RDB.
    Rdb,
    /// POSIX.1-2001 (pax) tar.
    Tar,
    /// JSON: what the source held, for a restore to be compared with. Nothing is restored from it.
    Fingerprint,
}

impl Format {
    /// MIME type of the raw stream.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::PgGlobals | Self::PgPlain => "application/sql",
            Self::Tar => "application/x-tar",
            Self::Fingerprint => "application/json",
            Self::PgCustom | Self::Rdb => "application/octet-stream",
        }
    }
}

/// How the raw stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    None,
}

impl Encoding {
    /// What the file's name ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
            Self::None => "",
        }
    }

    /// Of a file that is compressed so; `None`: its own.
    pub fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Gzip => Some("application/gzip"),
            Self::Zstd => Some("application/zstd"),
            Self::None => None,
        }
    }
}

/// How what is compressed is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// age-encryption.org/v1.
    Age,
}

impl Encryption {
    /// What the file's name ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Age => ".age",
        }
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("the manifest's own checksum does not match: it was changed or cut after it was written")]
    Damaged,
    #[error("it is the manifest of another backup, `{0}`: was the folder copied or renamed?")]
    Misplaced(BackupName),
    #[error("the manifest is sound but cannot be read: was it written by a newer version?")]
    Unreadable(#[source] JsonError),
    #[error("its manifest is not signed")]
    Unsigned,
    #[error("its manifest is signed by {0}, who is not among `encryption.trusted_signers`")]
    Stranger(String),
    #[error("the signature of its manifest is not one of {0}: it was forged, or changed after it was signed")]
    Forged(String),
    #[error("the manifest claims more bytes than any store holds")]
    Senseless,
    #[error("the manifest has format {0}; this version reads up to {FORMAT_ENCRYPTED}: use a newer backstay")]
    Format(u32),
}

impl Manifest {
    /// The bytes to store, ending in the checksum over themselves.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.sealed(None)
    }

    /// The same, signed.
    pub fn to_signed_bytes(&self, key: &SigningKey) -> Vec<u8> {
        self.sealed(Some(key))
    }

    fn sealed(&self, key: Option<&SigningKey>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Sealed<'a> {
            #[serde(flatten)]
            manifest: &'a Manifest,
            #[serde(skip_serializing_if = "Option::is_none")]
            signer: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            signature: Option<String>,
            integrity: String,
        }
        let sealed = Sealed {
            manifest: self,
            signer: key.map(|key| key.public().to_string()),
            signature: key.map(|_| format!("ed25519:{}", "0".repeat(SIGNATURE_DIGITS))),
            integrity: format!("sha256:{}", "0".repeat(DIGITS)),
        };
        let mut bytes = serde_json::to_vec_pretty(&sealed).expect("a manifest has string keys only");
        bytes.push(b'\n');
        if let Some(key) = key {
            let at = signature_at(&bytes).expect("the mark was just written");
            let signature = key.sign(&bytes);
            bytes[at..at + SIGNATURE_DIGITS].copy_from_slice(signature.as_bytes());
        }
        let at = digits_at(&bytes).expect("the mark was just written");
        let digits = sha256_hex(&bytes);
        bytes[at..at + DIGITS].copy_from_slice(digits.as_bytes());
        bytes
    }

    /// Reads a manifest back.
    ///
    /// # Errors
    /// [`ManifestError::Damaged`] if a single bit differs from what was written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = unseal(bytes)?;
        can_be_added(manifest.artifacts())?;
        Ok(manifest)
    }

    pub fn component(&self, name: &ComponentName) -> Option<&Component> {
        self.components.iter().find(|c| c.name == *name)
    }

    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        self.components.iter().flat_map(|c| &c.artifacts)
    }

    /// Whether a reader needs an identity.
    pub fn is_encrypted(&self) -> bool {
        self.artifacts().any(|artifact| artifact.encryption.is_some())
    }

    pub fn raw_bytes(&self) -> u64 {
        self.components.iter().map(Component::raw_bytes).sum()
    }

    pub fn stored_bytes(&self) -> u64 {
        self.components.iter().map(Component::stored_bytes).sum()
    }
}

/// The content of a manifest, if it is as it was written.
fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let at = digits_at(bytes).ok_or(ManifestError::Damaged)?;
    let (before, digits, after) = (&bytes[..at], &bytes[at..at + DIGITS], &bytes[at + DIGITS..]);
    let sealed = Sha256::new().chain_update(before).chain_update([b'0'; DIGITS]).chain_update(after).finalize();
    if hex(&sealed).as_bytes() != digits {
        return Err(ManifestError::Damaged);
    }
    let format = from_json::<Versioned>(bytes, MAX_MEMORY).map_err(ManifestError::Unreadable)?.format;
    if !(FORMAT..=FORMAT_ENCRYPTED).contains(&format) {
        return Err(ManifestError::Format(format));
    }
    from_json(bytes, MAX_MEMORY).map_err(ManifestError::Unreadable)
}

impl ManifestError {
    /// Whether it says nothing of damage, but that nobody who is trusted has vouched for it.
    pub fn is_distrust(&self) -> bool {
        matches!(self, Self::Unsigned | Self::Stranger(_) | Self::Forged(_))
    }
}

/// Sees that one of `trusted` has signed a manifest, of which nothing was believed yet; without any, that need not be.
///
/// # Errors
/// [`ManifestError::Unsigned`], [`ManifestError::Stranger`] and [`ManifestError::Forged`]; [`ManifestError::Damaged`].
pub fn authenticate(bytes: &[u8], trusted: &[VerifyingKey]) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    struct Signed {
        signer: Option<String>,
    }
    if trusted.is_empty() {
        return Ok(());
    }
    let integrity = digits_at(bytes).ok_or(ManifestError::Damaged)?;
    let at = signature_at(bytes).ok_or(ManifestError::Unsigned)?;
    let signature = String::from_utf8_lossy(&bytes[at..at + SIGNATURE_DIGITS]);
    let mut signed = bytes.to_vec();
    signed[at..at + SIGNATURE_DIGITS].fill(b'0');
    signed[integrity..integrity + DIGITS].fill(b'0');
    if trusted.iter().any(|key| key.verifies(&signed, &signature)) {
        return Ok(());
    }
    // of no weight: only to say what is wrong
    let signer = from_json::<Signed>(bytes, MAX_MEMORY).map_err(ManifestError::Unreadable)?.signer;
    let claimed = signer.and_then(|text| text.parse::<VerifyingKey>().ok()).ok_or(ManifestError::Unsigned)?;
    Err(if trusted.contains(&claimed) { ManifestError::Forged(claimed.to_string()) } else { ManifestError::Stranger(claimed.to_string()) })
}

/// From here on, sums of what the artifacts say are sums of numbers that can be added.
fn can_be_added<'a>(artifacts: impl Iterator<Item = &'a Artifact>) -> Result<(), ManifestError> {
    let sum = artifacts.flat_map(|artifact| [artifact.raw_bytes, artifact.stored_bytes]).fold(0u64, u64::saturating_add);
    if sum > MOST_CLAIMED { Err(ManifestError::Senseless) } else { Ok(()) }
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where the checksum's digits begin: after the last mark, with room for all of them.
fn digits_at(bytes: &[u8]) -> Option<usize> {
    last(bytes, MARK, DIGITS)
}

/// The same of the signature's.
fn signature_at(bytes: &[u8]) -> Option<usize> {
    last(bytes, SIGNATURE_MARK, SIGNATURE_DIGITS)
}

/// Behind the last `mark`, where there is room for so many digits.
fn last(bytes: &[u8], mark: &str, digits: usize) -> Option<usize> {
    let mark = mark.as_bytes();
    // they are the last members: to look for them in the whole of a hostile manifest takes long
    let before = bytes.len().saturating_sub(TAIL);
    let at = before + bytes[before..].windows(mark.len()).rposition(|w| w == mark)? + mark.len();
    (at + digits <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests;
