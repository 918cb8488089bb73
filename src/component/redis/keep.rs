//! The current content of a server, kept as an RDB in a temporary file while a restore replaces it.

use std::io::{self, Write};
use std::path::PathBuf;

use tempfile::{Builder, NamedTempFile};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::RedisError;
use super::endpoint::Endpoint;
use super::rdb::{RdbSummary, Verifier};
use super::replication::{Transfer, resync};

/// Of the files' names.
pub const PREFIX: &str = "backstay-redis-";
pub const SUFFIX: &str = ".rdb";

const CHUNK: usize = 256 << 10;

/// A verified RDB in a file that only its owner may read; gone when dropped, unless told to stay.
#[derive(Debug)]
pub struct Kept {
    file: NamedTempFile,
    pub summary: RdbSummary,
}

impl Kept {
    /// Reads the server's content into the directory for temporary files.
    ///
    /// # Errors
    /// [`RedisError::Keep`] when that cannot hold it.
    pub async fn of(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let dir = std::env::temp_dir();
        let failed = |source| RedisError::Keep { path: dir.clone(), source };
        // `tempfile` creates with mode 0600.
        let file = Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(&dir).map_err(failed)?;
        let resync = resync(endpoint, Transfer::Disk).await?;
        let (file, summary) = copy(resync.stream, file).await.map_err(failed)?;
        Ok(Self { file, summary })
    }

    pub fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// Keeps the file for good.
    pub fn stay(self) -> Result<PathBuf, RedisError> {
        let path = self.path();
        let kept = self.file.into_temp_path().keep();
        kept.map_err(|e| RedisError::Keep { path, source: e.error })
    }
}

/// Copies a whole RDB into the file and onto its disk.
///
/// # Errors
/// When the stream is not a whole RDB, or the disk is full.
pub async fn copy(mut stream: impl AsyncRead + Unpin, mut file: NamedTempFile) -> io::Result<(NamedTempFile, RdbSummary)> {
    let mut verifier = Verifier::default();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        if stream.read_buf(&mut chunk).await? == 0 {
            break;
        }
        verifier.update(&chunk)?;
        file = on_disk(move || file.write_all(&chunk).map(|()| file)).await?;
    }
    let summary = verifier.finish()?;
    let file = on_disk(move || file.as_file().sync_all().map(|()| file)).await?;
    Ok((file, summary))
}

/// Runs what may wait for a disk on a thread that may.
pub async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => Err(io::Error::other(panicked)),
    }
}
