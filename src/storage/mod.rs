//! Targets: where backups go, over any [`object_store::ObjectStore`].

mod azure;
mod bucket;
mod client;
mod compose;
mod copy;
mod error;
mod file;
mod folders;
mod gcs;
mod identity;
pub mod layout;
mod lease;
mod limit;
mod objects;
mod options;
mod owner;
mod patient;
mod read;
mod retry;
mod s3;
mod sftp;
mod sse;
mod sweep;
mod target;
mod upload;
mod webdav;

pub use azure::{AzureCredentials, AzureOptions};
pub use copy::Copy;
pub use error::StorageError;
pub use gcs::{GcsCredentials, GcsOptions};
pub use lease::{Lease, Subject};
pub use limit::Limiter;
pub use objects::{Described, Listed, ObjectError, Objects, Reading, USER, Writing};
pub use options::{
    Addressing, Checksum, KINDS, Location, Profile, S3Options, TargetOptions, TokenChoice, TokenProvider, TokenSource, WebIdentity,
};
pub use read::Stored;
pub use sftp::{SftpCredentials, SftpOptions, SftpPlace, answer, is_asked};
pub use sse::Sse;
pub use target::{Access, Target};
pub use upload::{PIECE, Shape, Upload};
pub use webdav::{WebDavCredentials, WebDavOptions};
