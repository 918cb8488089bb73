//! A target in a local directory, through object_store's `LocalFileSystem`, and what that leaves to us.
//!
//! A power cut may come at any moment. So every object is written under a name of its own (`<name>#<number>`), flushed, given its name, and
//! the directories down to it are flushed before it counts: that much object_store does when it is asked to (`with_fsync`). It does not
//! flush a deletion, so that a manifest could come back after its artifacts are gone; it does not flush the directory of the target when
//! that is new; and it does not list, and so never finds, the files under names of their own that a killed process has left.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use object_store::local::LocalFileSystem;
use rustix::fs::{Advice, fadvise};
use tokio::sync::mpsc;

use super::error::StorageError;
use super::patient::{Patience, Patient};
use super::read::{Stored, in_time};
use super::target::{Target, generic};
use crate::name::TargetName;

/// Bytes that are read from a file at once.
const BLOCK: usize = 1 << 20;

/// Blocks that wait for whoever reads the stream.
const BLOCKS_AHEAD: usize = 2;

/// Waits for as long as the file system takes; what is asked of the store later ends within `patience`.
pub(super) fn open(target: &TargetName, path: &Path, create: bool, patience: Patience) -> Result<Patient, StorageError> {
    let directory = |source: io::Error| StorageError::Directory { target: target.clone(), path: path.display().to_string(), source };
    if create {
        create_durably(path).map_err(directory)?;
    }
    if !std::fs::metadata(path).map_err(directory)?.is_dir() {
        return Err(directory(io::ErrorKind::NotADirectory.into()));
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|e| StorageError::Setup { target: target.clone(), source: e.into() })?;
    Ok(Patient::new(store.with_fsync(true).with_automatic_cleanup(true), patience))
}

/// Creates a directory and those above it, and flushes every directory that got an entry by that.
fn create_durably(path: &Path) -> io::Result<()> {
    let existing = path.ancestors().find(|above| above.as_os_str().is_empty() || above.exists());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // from the first that was there down to the one that holds the new directory
    for above in path.ancestors().skip(1).take_while(|above| existing.is_some_and(|existing| above.starts_with(existing))) {
        sync_directory(above)?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// After a deletion of what was at `key`: removes directories above it that are empty now, and flushes the one that is left. What is deleted
/// after this returns is gone later, also after a power cut.
pub(super) fn settle_deletion(root: &Path, key: &str) -> io::Result<()> {
    let mut directory = root.join(key).parent().map(Path::to_owned).unwrap_or_else(|| root.to_owned());
    while directory != root && directory.starts_with(root) {
        match std::fs::remove_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
        directory.pop();
    }
    loop {
        match sync_directory(&directory) {
            // another has removed it meanwhile
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != root => directory.pop(),
            synced => return synced,
        };
    }
}

/// The names in the directory, without those that are not UTF-8: a stray file must not hide the backups beside it.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_string().ok())).filter_map(Result::transpose).collect()
}

/// Gives everything in `path` to the owner of `root`, if this process may do that: what root stores in the target of a service has to be
/// the service's.
pub(super) fn hand_over(root: &Path, path: &Path) -> io::Result<()> {
    let (owner, ours) = (std::fs::metadata(root)?, std::fs::symlink_metadata(path)?);
    if !rustix::process::geteuid().is_root() || (owner.uid(), owner.gid()) == (ours.uid(), ours.gid()) {
        return Ok(());
    }
    if ours.is_dir() {
        for entry in std::fs::read_dir(path)? {
            hand_over(root, &entry?.path())?;
        }
    }
    std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))
}

/// Removes what writes that never ended have left in the tree `dir`: files under the names that object_store gives them until they are whole
/// (`name#1`), if they were last written `before`, and directories that hold nothing, `dir` too.
pub(super) fn sweep(dir: &Path, before: Option<SystemTime>) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            sweep(&path, before)?;
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_unfinished) {
            let age = |before: SystemTime| entry.metadata().and_then(|meta| meta.modified()).map(|written| written < before);
            if before.map_or(Ok(true), age)? {
                std::fs::remove_file(&path)?;
            }
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
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
            let block = match in_time(&target, &key, blocks.recv()).await {
                Ok(Some(block)) => block,
                Ok(None) if left == 0 => return None,
                Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(silent) => return Some((Err(silent), None)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_never_ended_is_removed_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let backup = dir.path().join("backup");
        for path in ["media/media.tar#1", "dead/deep/b.tar#12", "notes/a#b", "notes/#", "notes/c#", "plain"] {
            let path = backup.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::write(path, "x").expect("written");
        }
        std::os::unix::fs::symlink(dir.path(), backup.join("link#1")).expect("a link");
        let names = |dir: &Path| -> Vec<String> {
            let mut names: Vec<_> =
                std::fs::read_dir(dir).expect("read").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        // one that was just written to may still be whole in a moment
        sweep(&backup, Some(SystemTime::UNIX_EPOCH)).expect("swept");
        assert_eq!(names(&backup), ["dead", "link#1", "media", "notes", "plain"]);
        sweep(&backup, None).expect("swept");
        assert_eq!(names(&backup), ["link#1", "notes", "plain"]);
        assert_eq!(names(&backup.join("notes")), ["#", "a#b", "c#"]);
        sweep(&dir.path().join("missing"), None).expect("nothing to do");
    }

    #[test]
    fn directories_without_anything_go_with_the_last_object_and_the_target_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("a/b/c")).expect("created");
        std::fs::write(dir.path().join("a/x"), "x").expect("written");
        settle_deletion(dir.path(), "a/b/c/gone").expect("settled");
        assert!(!dir.path().join("a/b").exists() && dir.path().join("a/x").exists());
        std::fs::remove_file(dir.path().join("a/x")).expect("removed");
        settle_deletion(dir.path(), "a/x").expect("settled");
        assert!(!dir.path().join("a").exists() && dir.path().exists());
        settle_deletion(dir.path(), "x").expect("settled");
    }

    #[test]
    fn a_directory_is_created_with_those_above_it() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["a/b/c", "a", "a/d"] {
            create_durably(&dir.path().join(path)).expect("created");
            assert!(dir.path().join(path).is_dir());
        }
        std::fs::write(dir.path().join("file"), "x").expect("written");
        assert!(create_durably(&dir.path().join("file/below")).is_err());
    }

    #[test]
    fn what_root_stores_is_given_to_the_owner_of_the_target() {
        if !rustix::process::geteuid().is_root() {
            // only root may give something away
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("backup/media")).expect("created");
        std::fs::write(dir.path().join("backup/media/a"), "x").expect("written");
        std::os::unix::fs::symlink("/etc", dir.path().join("backup/link")).expect("a link");
        std::os::unix::fs::chown(dir.path(), Some(1234), Some(4321)).expect("root");
        hand_over(dir.path(), &dir.path().join("backup")).expect("done");
        for path in ["backup", "backup/media", "backup/media/a", "backup/link"] {
            let found = std::fs::symlink_metadata(dir.path().join(path)).expect("it is there");
            assert_eq!((found.uid(), found.gid()), (1234, 4321), "{path}");
        }
        assert_eq!(std::fs::metadata("/etc").expect("it is there").uid(), 0);
    }
}
