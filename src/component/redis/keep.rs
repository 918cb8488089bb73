//! The current content of a server, kept as an RDB in a file while a restore replaces it.
//!
//! The file lies where a later process finds it, under the mark of its restore, and has its name only when it is whole and on its disk: so
//! if it is not there, the server had not been touched.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::RedisError;
use super::endpoint::Endpoint;
use super::rdb::{RdbSummary, Verifier};
use super::replication::{Transfer, resync};
use crate::component::state;
use crate::name::{ComponentName, RestoreId};

/// Of the files' names.
pub const PREFIX: &str = "backstay-redis-";
pub const SUFFIX: &str = ".rdb";

const CHUNK: usize = 256 << 10;

/// Where the content of that component is kept while that restore is under way.
pub fn path(component: &ComponentName, id: RestoreId) -> PathBuf {
    state::directory().join(format!("{PREFIX}{component}-{id}{SUFFIX}"))
}

/// Reads the server's content into a file that is gone at the end: a rehearsal.
///
/// # Errors
/// [`RedisError::Keep`] when there is no room for it.
pub async fn rehearse(endpoint: &Endpoint, path: &Path) -> Result<RdbSummary, RedisError> {
    remove(path).await?;
    Ok(read(endpoint, path).await?.1)
}

/// Keeps the server's content as `path`, in place of what was kept there before.
///
/// # Errors
/// [`RedisError::Keep`] when there is no room for it.
pub async fn keep(endpoint: &Endpoint, path: &Path) -> Result<(), RedisError> {
    // only one copy is on the disk at a time
    remove(path).await?;
    let (file, _) = read(endpoint, path).await?;
    let to = path.to_owned();
    let placed = on_disk(move || {
        file.persist(&to).map_err(|e| e.error)?;
        sync_directory(&to)
    });
    placed.await.map_err(|source| RedisError::Keep { path: path.to_owned(), source })
}

/// The length in bytes of what is kept as `path`; `None` if nothing is.
///
/// # Errors
/// [`RedisError::File`].
pub async fn kept(path: &Path) -> Result<Option<u64>, RedisError> {
    match tokio::fs::metadata(path).await {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RedisError::File { action: "look at", path: path.to_owned(), source }),
    }
}

/// Removes what is kept as `path`, if anything is, and what was about to be.
///
/// # Errors
/// [`RedisError::File`].
pub async fn remove(path: &Path) -> Result<(), RedisError> {
    let gone = path.to_owned();
    let removed = on_disk(move || {
        for gone in [part(&gone), gone] {
            match std::fs::remove_file(&gone) {
                Ok(()) => sync_directory(&gone)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    removed.await.map_err(|source| RedisError::File { action: "remove", path: path.to_owned(), source })
}

/// The name of what is not yet whole: a process that is killed leaves it.
fn part(path: &Path) -> PathBuf {
    path.with_extension("part")
}

async fn read(endpoint: &Endpoint, path: &Path) -> Result<(NamedTempFile, RdbSummary), RedisError> {
    let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    let failed = |source| RedisError::Keep { path: dir.clone(), source };
    // `tempfile` creates with mode 0600.
    let part = part(path);
    let name = part.file_name().unwrap_or_default();
    let file = Builder::new().prefix(name).rand_bytes(0).tempfile_in(&dir).map_err(failed)?;
    let resync = resync(endpoint, Transfer::Disk).await?;
    copy(resync.stream, file).await.map_err(failed)
}

/// Writes the entries of the directory of `path` through.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
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
