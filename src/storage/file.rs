//! A target in a local directory. Writes are made durable (fsync of file and directories) before they count.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use object_store::local::LocalFileSystem;

use super::error::StorageError;
use crate::name::TargetName;

pub(super) fn open(target: &TargetName, path: &Path, create: bool) -> Result<LocalFileSystem, StorageError> {
    let directory = |source: io::Error| StorageError::Directory { target: target.clone(), path: path.display().to_string(), source };
    if create {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(directory)?;
    }
    if !std::fs::metadata(path).map_err(directory)?.is_dir() {
        return Err(directory(io::ErrorKind::NotADirectory.into()));
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|e| StorageError::Setup { target: target.clone(), source: e.into() })?;
    Ok(store.with_fsync(true).with_automatic_cleanup(true))
}

/// The names in the directory, without those that are not UTF-8: a stray file must not hide the backups beside it.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_string().ok())).filter_map(Result::transpose).collect()
}
