//! The names that a user writes and that become keys in a target: parsed once, valid from then on.
//!
//! A job, component or target is `[a-z0-9][a-z0-9-]*`, at most [`MAX_LEN`] bytes, so that a name can stand in an object key, a file
//! name and an environment variable without escaping. A backup is `<job>-YYYY-MM-DD-HHMMSS` in UTC.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest job, component or target name, in bytes.
pub const MAX_LEN: usize = 64;

const TIME_FORMAT: &str = "%Y-%m-%d-%H%M%S";
/// By how much the clocks of two hosts may differ before a backup counts as dated in the future.
const SKEW: TimeDelta = TimeDelta::minutes(10);
const TIME_LEN: usize = "2020-10-03-115557".len();

/// Why a text is not a name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("`{0}` is not a valid name: it must be 1 to {MAX_LEN} of a-z, 0-9 and `-`, and begin with a letter or digit")]
    Name(String),
    #[error("`{0}` is not the name of a backup (expected `<job>-YYYY-MM-DD-HHMMSS`)")]
    Backup(String),
    #[error("`{0}` is not a valid artifact path (expected `<component>/<file>`)")]
    Artifact(String),
    #[error("`{0}` is not the mark of a restore (expected 8 hex digits)")]
    Restore(String),
}

fn is_valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=MAX_LEN).contains(&bytes.len()) && bytes[0] != b'-' && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

macro_rules! text_type {
    ($(#[$doc:meta])* $type:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let parse: fn(&str) -> Result<(), NameError> = $parse;
                parse(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.to_string()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

fn plain(text: &str) -> Result<(), NameError> {
    if is_valid(text) { Ok(()) } else { Err(NameError::Name(text.into())) }
}

text_type!(
    /// A job: a named set of components with a schedule, targets and a retention policy.
    JobName,
    plain
);
text_type!(
    /// A component: one source of a job.
    ComponentName,
    plain
);
text_type!(
    /// A target: where backups go.
    TargetName,
    plain
);
text_type!(
    /// Where an artifact lies within its backup: `<component>/<file>`, exactly two segments.
    ///
    /// The file is 1 to 250 bytes of `A-Z a-z 0-9 . _ - %`, does not begin with a dot, so that no path, however hostile the manifest
    /// it was read from, can leave the folder of its backup.
    ArtifactPath,
    |text| {
        let valid = text.split_once('/').is_some_and(|(component, file)| {
            is_valid(component)
                && (1..=250).contains(&file.len())
                && !file.starts_with('.')
                && file.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'%'))
        });
        if valid { Ok(()) } else { Err(NameError::Artifact(text.into())) }
    }
);

/// The mark of one restore, 8 hex digits: everything that it makes for itself bears it, wherever that lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RestoreId(u32);

impl RestoreId {
    pub fn random() -> Self {
        Self(rand::random())
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

/// A new one.
impl Default for RestoreId {
    fn default() -> Self {
        Self::random()
    }
}

impl FromStr for RestoreId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let hex = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = u32::from_str_radix(text, 16).ok().filter(|_| hex);
        number.map(Self).ok_or_else(|| NameError::Restore(text.to_owned()))
    }
}

impl TryFrom<String> for RestoreId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<RestoreId> for String {
    fn from(id: RestoreId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for RestoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for RestoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ArtifactPath {
    /// The path of `file` of `component`.
    pub fn new(component: &ComponentName, file: &str) -> Result<Self, NameError> {
        format!("{component}/{file}").parse()
    }

    /// The file's name, without its component.
    pub fn file(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, file)| file)
    }
}

/// Turns any text, such as the name of a database, into a file name that [`ArtifactPath`] accepts: bytes outside `A-Z a-z 0-9 _ -`
/// (and dots that are not leading) are written as `%XX`, and a name that would grow past 200 bytes is cut and told apart by its hash.
pub fn file_stem(text: &str) -> String {
    let mut stem = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => stem.push(char::from(byte)),
            b'.' if at > 0 => stem.push('.'),
            _ => stem.push_str(&format!("%{byte:02X}")),
        }
    }
    if stem.len() > 200 {
        let hash = blake3::hash(text.as_bytes()).to_hex();
        stem.truncate(180);
        stem.push('-');
        stem.push_str(&hash[..16]);
    }
    stem
}

/// The name of a backup: its job and the second, in UTC, at which its run began.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupName {
    job: JobName,
    created: DateTime<Utc>,
}

impl BackupName {
    /// Names the backup of `job` that began at `created`; fractions of a second are dropped.
    pub fn new(job: JobName, created: DateTime<Utc>) -> Self {
        Self { job, created: created.trunc_subsecs(0) }
    }

    pub fn job(&self) -> &JobName {
        &self.job
    }

    pub fn created(&self) -> DateTime<Utc> {
        self.created
    }

    /// Whether it is dated in the future: some host's clock was wrong. It must not pass for the newest backup, or a served slot.
    pub fn is_ahead(&self, now: DateTime<Utc>) -> bool {
        self.created > now + SKEW
    }
}

/// By time, then by job.
impl Ord for BackupName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.created, &self.job).cmp(&(other.created, &other.job))
    }
}

impl PartialOrd for BackupName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for BackupName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let invalid = || NameError::Backup(text.into());
        let split = text.len().checked_sub(TIME_LEN + 1).filter(|at| text.is_char_boundary(*at)).ok_or_else(invalid)?;
        let (job, time) = text.split_at(split);
        let time = time.strip_prefix('-').ok_or_else(invalid)?;
        let created = NaiveDateTime::parse_from_str(time, TIME_FORMAT).map_err(|_| invalid())?.and_utc();
        let name = Self { job: job.parse().map_err(|_| invalid())?, created };
        // chrono accepts spellings that we never write (a sign, missing zeros): one backup has one name
        if name.to_string() == text { Ok(name) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for BackupName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<BackupName> for String {
    fn from(name: BackupName) -> String {
        name.to_string()
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.job, self.created.format(TIME_FORMAT)))
    }
}

impl fmt::Debug for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_contract_says() {
        for good in ["a", "0", "media", "custom-templates", "a-"] {
            assert!(good.parse::<JobName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "../x", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<JobName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_backup_name_round_trips_and_sorts_by_time() {
        let old: BackupName = "zeta-2020-10-03-115557".parse().expect("valid");
        let new: BackupName = "a-1-2021-10-03-115557".parse().expect("valid");
        assert_eq!((old.job().as_str(), new.job().as_str()), ("zeta", "a-1"));
        assert_eq!(new.to_string(), "a-1-2021-10-03-115557");
        assert!(old < new);
    }

    #[test]
    fn what_is_not_a_backup_name_is_refused() {
        for bad in [
            "",
            "default",
            "default-2020-10-03-115557.psql",
            "-2020-10-03-115557",
            "default-2020-13-03-115557",
            "default-2020-10-3-1155570",
            "é-2020-10-03-11555",
            "x-+020-10-03-115557",
        ] {
            assert!(bad.parse::<BackupName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_artifact_path_cannot_leave_its_backup() {
        assert!("postgres/app.dump.gz".parse::<ArtifactPath>().is_ok());
        for bad in [
            "",
            "postgres",
            "postgres/",
            "postgres/../x",
            "/etc/passwd",
            "../postgres/x",
            "postgres/a/b",
            "postgres/..",
            "postgres/.x",
            "postgres/a\\b",
            "postgres/a\0",
        ] {
            assert!(bad.parse::<ArtifactPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_database_name_becomes_a_file_name_of_its_own() {
        let component: ComponentName = "postgres".parse().expect("valid");
        let long = "ü".repeat(63);
        let names = ["app", "..", ".x", "a/b", "a b", "a%20b", "\"q\"", "ü", &long];
        let stems: std::collections::BTreeSet<_> = names.iter().map(|n| file_stem(n)).collect();
        assert_eq!(stems.len(), names.len());
        for stem in stems {
            ArtifactPath::new(&component, &format!("{stem}.dump.gz")).expect("a valid path");
        }
    }
}
