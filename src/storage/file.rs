//! A target in a local directory. Writes are made durable (fsync of file and directories) before they count.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use object_store::local::LocalFileSystem;
use rustix::fs::{Advice, fadvise};
use tokio::sync::mpsc;

use super::error::StorageError;
use super::read::Stored;
use super::target::{Target, generic};
use crate::name::TargetName;

/// Bytes that are read from a file at once.
const BLOCK: usize = 1 << 20;

/// Blocks that wait for whoever reads the stream.
const BLOCKS_AHEAD: usize = 2;

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

/// The `size` bytes of `file`, read by one thread from front to back.
pub(super) fn stream(target: Target, key: object_store::path::Path, file: File, size: u64) -> Stored {
    let (out, blocks) = mpsc::channel(BLOCKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(file, &out) {
            // nobody reads any more: nobody needs the error
            let _ = out.blocking_send(Err(error));
        }
    });
    let state = Some((blocks, size));
    let stream = futures_util::stream::unfold(state, move |state| {
        let (target, key) = (target.clone(), key.clone());
        async move {
            let (mut blocks, left) = state?;
            let block = match blocks.recv().await {
                Some(block) => block,
                None if left == 0 => return None,
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            };
            let next = block.as_ref().map_or(None, |block| Some((blocks, left.saturating_sub(block.len() as u64))));
            if let Ok(block) = &block {
                target.wait_for(block.len() as u64).await;
            }
            Some((block.map_err(|error| target.call("read", &key)(generic(error))), next))
        }
    });
    stream.boxed()
}

fn read(mut file: File, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    // advice only: file systems that do not take it are read all the same
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    loop {
        let mut block = Vec::with_capacity(BLOCK);
        Read::by_ref(&mut file).take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() || out.blocking_send(Ok(block.into())).is_err() {
            return Ok(());
        }
    }
}
