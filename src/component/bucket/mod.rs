//! A bucket as a source of a backup: one pax tar, streamed as the bucket is listed; and back, into a bucket or a directory.
//!
//! A member is an object: its path is the key as far as stock tools can unpack it, its extended attributes are its headers. So the archive of
//! a bucket is that of a directory too, and the other way round.

use thiserror::Error;

use super::Detail;
use crate::name::ComponentName;
use crate::storage::{Location, ObjectError, Objects, S3Options, StorageError, TargetOptions};

mod headers;
mod key;
mod moved;
mod objects;
mod print;
mod restorer;
mod source;
mod staged;
mod unpack;

pub use moved::BucketToDirectory;
pub use restorer::BucketRestorer;
pub use source::BucketSource;

/// What a restore puts into a bucket for as long as it lasts lies in a folder that begins with this, below its prefix; a backup leaves it out.
const STAGING: &str = ".backstay-restore-";

/// Which bucket to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketOptions {
    pub name: ComponentName,
    pub place: BucketPlace,
    pub s3: S3Options,
    /// Where backups are: nothing there is backed up, overwritten or deleted.
    pub targets: Vec<BucketPlace>,
    /// What is noted of the objects for a restore to be compared with.
    pub fingerprint: Detail,
}

/// A bucket, or what begins with a prefix in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    pub bucket: String,
    /// Empty, or with a slash at its end.
    pub prefix: String,
}

impl BucketPlace {
    /// `prefix` as a target's URL has it, without slashes at its ends.
    pub fn new(bucket: &str, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { bucket: bucket.to_owned(), prefix }
    }

    /// The places of those targets that may be on the same server as what is reached by `s3`.
    pub fn of_targets(targets: &[TargetOptions], s3: &S3Options) -> Vec<Self> {
        let server = |options: &S3Options| options.endpoint.as_ref().map(|url| url.trim_end_matches('/').to_ascii_lowercase());
        // where an endpoint is not set, the environment may
        let same = |other: &S3Options| server(other) == server(s3) || other.endpoint.is_none() || s3.endpoint.is_none();
        let places = targets.iter().filter_map(|target| match &target.location {
            Location::S3 { bucket, prefix, options } if same(options) => Some(Self::new(bucket, prefix)),
            _ => None,
        });
        places.collect()
    }

    fn holds(&self, bucket: &str, key: &str) -> bool {
        self.bucket == bucket && key.starts_with(&self.prefix)
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self) -> String {
        self.url_of(&self.prefix)
    }

    fn url_of(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket).trim_end_matches('/').to_owned()
    }
}

impl BucketOptions {
    fn objects(&self) -> Result<Objects, BucketError> {
        let name = self.name.as_str().parse().expect("components and targets are named alike");
        Ok(Objects::open(&name, &self.place.bucket, &self.s3)?)
    }

    /// Whether the object of a key below the prefix is none of the application's.
    fn is_left_out(&self, key: &str) -> bool {
        let whole = format!("{}{key}", self.place.prefix);
        key.split('/').any(|part| part.starts_with(STAGING)) || self.targets.iter().any(|target| target.holds(&self.place.bucket, &whole))
    }

    /// Whether all of the place is within a target.
    pub fn is_among_backups(&self) -> bool {
        self.targets.iter().any(|target| target.holds(&self.place.bucket, &self.place.prefix))
    }
}

/// What went wrong; each variant names action and subject.
#[derive(Debug, Error)]
pub enum BucketError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("set up the client of a bucket")]
    Setup(#[from] StorageError),
    #[error("the backup holds no archive of a bucket or a directory")]
    NoArchive,
    #[error("`{0}` is not a bucket to restore into: expected `s3://bucket/prefix`")]
    Destination(String),
    #[error("the destination in a bucket holds credentials")]
    Credentials,
    #[error("{0} is where a target keeps backups")]
    AmongBackups(String),
    #[error("what was stored for the restore of {0} is not whole any more")]
    NotWhole(String),
    #[error("a part of a bucket cannot be restored into a bucket")]
    Partial,
    #[error("read the stored archive")]
    OpenArchive(#[source] std::io::Error),
    #[error("read the stored archive")]
    Archive(#[source] super::directory::archive::ArchiveError),
    #[error("the archive is refused: the key `{key}` {problem}")]
    Refused { key: String, problem: &'static str },
    #[error("`{key}` has {size} bytes, more than can be put into a bucket")]
    TooLarge { key: String, size: u64 },
    #[error("read what the journal says of the restore of a bucket")]
    Record(#[source] serde_json::Error),
    #[error("the archive of {0} was given up")]
    Died(String),
}

impl BucketError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Object(error) => error.advice(),
            Self::Setup(error) => error.advice(),
            Self::Destination(_) => Some("Give `--into COMPONENT=s3://bucket/prefix`.".to_owned()),
            Self::Credentials => Some("Configure the bucket as a [bucket.NAME] or a target: its keys are used.".to_owned()),
            Self::AmongBackups(_) => Some("Give another prefix.".to_owned()),
            Self::NotWhole(_) => Some("Restore again; `restore --rollback` removes what is left.".to_owned()),
            Self::Partial => Some("Restore the part into a directory, with `--into COMPONENT=/path`.".to_owned()),
            Self::Archive(_) | Self::Refused { .. } => {
                Some("The bucket was left as it was. Try another target or an older backup.".to_owned())
            }
            Self::TooLarge { .. } => Some("Restore into a directory, with `--into COMPONENT=/path`, and upload it from there.".to_owned()),
            _ => None,
        }
    }
}
