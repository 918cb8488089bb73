//! A restore into a file: `--into redis=file:///path/dump.rdb`.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tempfile::{Builder, NamedTempFile};

use super::RedisError;
use super::keep::{copy, on_disk};
use crate::component::{ByteStream, ComponentError, Restored, Staged};

/// A whole RDB beside the place that it will have.
pub struct FileStaged {
    path: PathBuf,
    /// Taken by `publish`.
    file: Option<NamedTempFile>,
}

/// Refuses a path where something is already, or whose directory is not there.
pub async fn free(path: &Path) -> Result<(), RedisError> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(_) => return Err(RedisError::Exists(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(RedisError::File { action: "look at", path: path.to_owned(), source }),
    }
    let dir = directory(path);
    match tokio::fs::metadata(&dir).await {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(RedisError::File { action: "write to the directory", path: dir, source: io::ErrorKind::NotADirectory.into() }),
        Err(source) => Err(RedisError::File { action: "write to the directory", path: dir, source }),
    }
}

impl FileStaged {
    /// Writes the stream beside `path`, mode 0600; an error leaves nothing.
    pub async fn write(path: PathBuf, stream: ByteStream) -> Result<Self, RedisError> {
        free(&path).await?;
        let failed = |source| RedisError::File { action: "write beside", path: path.clone(), source };
        let file = Builder::new().prefix(".backstay-").suffix(".rdb").tempfile_in(directory(&path)).map_err(failed)?;
        let (file, _) = copy(stream, file).await.map_err(failed)?;
        Ok(Self { path, file: Some(file) })
    }
}

#[async_trait]
impl Staged for FileStaged {
    async fn publish(&mut self) -> Result<(), ComponentError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let path = self.path.clone();
        let placed = on_disk(move || {
            file.persist_noclobber(&path).map_err(|e| e.error)?;
            std::fs::File::open(directory(&path))?.sync_all()
        });
        placed.await.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => RedisError::Exists(self.path.clone()),
            _ => RedisError::File { action: "put in place", path: self.path.clone(), source },
        })?;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Restored, ComponentError> {
        let mut done = vec![format!("{} holds the RDB.", self.path.display())];
        done.extend(howto(&self.path));
        Ok(Restored { done, warnings: Vec::new() })
    }

    async fn undo(self: Box<Self>) -> Result<(), ComponentError> {
        // Not yet published: the temporary file goes by itself.
        if self.file.is_none() {
            tokio::fs::remove_file(&self.path).await.or_else(|source| match source.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(RedisError::File { action: "remove", path: self.path.clone(), source }),
            })?;
        }
        Ok(())
    }
}

/// How a server loads that file, in sentences.
pub fn howto(path: &Path) -> [String; 3] {
    let path = path.display();
    [
        format!("To load it: stop the server, copy {path} to <dir>/dump.rdb, owned by the server's user, and start it."),
        "A server with appendonly yes ignores dump.rdb. From 7.0 on: empty <dir>/appendonlydir, copy the file there as \
         appendonly.aof.1.base.rdb, and write appendonly.aof.manifest with the line `file appendonly.aof.1.base.rdb seq 1 type b`."
            .to_owned(),
        "Redis 6.2 with appendonly yes: copy the file to <dir>/appendonly.aof.".to_owned(),
    ]
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}
