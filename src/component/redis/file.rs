//! A restore into a file: `--into redis=file:///path/dump.rdb`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::{Builder, TempPath};

use super::RedisError;
use super::keep::{copy, on_disk, remove, sync_directory};
use crate::component::{ByteStream, ComponentError, Restored, Staged};
use crate::name::RestoreId;

/// A whole RDB beside the place that it will have.
pub struct FileStaged {
    record: Record,
    state: State,
    /// What was compared, as a sentence.
    pub compared: Option<String>,
}

/// What the journal says of a restore into a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    path: PathBuf,
    /// The name until it is put in place.
    beside: PathBuf,
    /// Of the file; absent until it is whole.
    inode: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Beside,
    InPlace,
    /// Neither: it was undone, or never begun.
    Gone,
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

impl Record {
    pub fn intent(path: &Path, id: RestoreId) -> Self {
        Self { path: path.to_owned(), beside: directory(path).join(beside(id)), inode: None }
    }
}

fn beside(id: RestoreId) -> String {
    format!(".backstay-{id}.rdb")
}

impl FileStaged {
    /// Writes the stream beside `path`, mode 0600; an error leaves nothing.
    pub async fn write(path: PathBuf, id: RestoreId, stream: ByteStream) -> Result<Self, RedisError> {
        free(&path).await?;
        let failed = |source| RedisError::File { action: "write beside", path: path.clone(), source };
        let file = Builder::new().prefix(&beside(id)).rand_bytes(0).tempfile_in(directory(&path)).map_err(failed)?;
        let (file, _) = copy(stream, file).await.map_err(failed)?;
        let inode = file.as_file().metadata().map_err(failed)?.ino();
        file.keep().map_err(|e| failed(e.error))?;
        Ok(Self { record: Record { inode: Some(inode), ..Record::intent(&path, id) }, state: State::Beside, compared: None })
    }

    /// That of a restore that died, wherever it is now.
    pub async fn adopt(record: Record) -> Result<Self, RedisError> {
        let inode = async |path: &Path| match tokio::fs::symlink_metadata(path).await {
            Ok(found) => Ok(Some(found.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RedisError::File { action: "look at", path: path.to_owned(), source }),
        };
        let (at, there) = (inode(&record.path).await?, inode(&record.beside).await?);
        let state = match (at, there) {
            (Some(found), _) if record.inode == Some(found) => State::InPlace,
            (_, Some(_)) => State::Beside,
            _ => State::Gone,
        };
        Ok(Self { record, state, compared: None })
    }

    /// What was written, from the disk.
    pub async fn written(&self) -> Result<ByteStream, RedisError> {
        let path = &self.record.beside;
        let failed = |source| RedisError::File { action: "read back", path: path.clone(), source };
        Ok(Box::new(tokio::fs::File::open(path).await.map_err(failed)?))
    }
}

#[async_trait]
impl Staged for FileStaged {
    fn record(&self) -> Value {
        json!(self.record)
    }

    async fn publish(&mut self) -> Result<(), ComponentError> {
        if self.state == State::InPlace {
            return Ok(());
        }
        let Record { path, beside, .. } = self.record.clone();
        let placed = on_disk(move || {
            TempPath::try_from_path(beside)?.persist_noclobber(&path).map_err(|e| e.error)?;
            sync_directory(&path)
        });
        placed.await.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => RedisError::Exists(self.record.path.clone()),
            _ => RedisError::File { action: "put in place", path: self.record.path.clone(), source },
        })?;
        self.state = State::InPlace;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Restored, ComponentError> {
        let path = &self.record.path;
        let mut done = vec![format!("{} holds the RDB.", path.display())];
        done.extend(self.compared.clone());
        done.extend(howto(path));
        Ok(Restored { done, warnings: Vec::new() })
    }

    async fn undo(self: Box<Self>) -> Result<(), ComponentError> {
        if self.state == State::InPlace {
            remove(&self.record.path).await?;
        }
        Ok(remove(&self.record.beside).await?)
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
