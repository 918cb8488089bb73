//! Targets: where backups go, over any [`object_store::ObjectStore`].

mod error;
mod file;
pub mod layout;
mod lease;
mod options;
mod s3;
mod target;
mod upload;

pub use error::StorageError;
pub use lease::Lease;
pub use options::{Addressing, Checksum, Location, S3Options, TargetOptions};
pub use target::{Access, Target};
pub use upload::{Piece, Upload};
