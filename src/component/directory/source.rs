//! [`Source`] of a directory.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{Mode, OFlags, fstatvfs, open};
use rustix::io::Errno;

use super::ladder::DIRECTORY;
use super::pipe::pipe;
use super::swap::Swap;
use super::trouble::Halt;
use super::walk::{Walk, Walked};
use super::watch::Watch;
use super::{DirectoryError, DirectoryOptions};
use crate::component::{Artifact, ByteStream, ComponentError, Detail, Notes, RunContext, Source};
use crate::manifest::{Facts, Format, Kind};
use crate::name::ComponentName;

/// A check waits no longer for a file system.
const CHECK: Duration = Duration::from_secs(30);

/// A directory that is backed up as one tar archive.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    options: DirectoryOptions,
}

impl DirectorySource {
    pub fn new(options: DirectoryOptions) -> Self {
        Self { options }
    }

    /// Opens the root; a root that is itself a symbolic link is followed. It has to answer within `patience`.
    async fn root(&self, watch: &Watch, patience: Option<Duration>) -> Result<Root, ComponentError> {
        Watch::refuse_if_hung(&self.options.path)?;
        let (options, seat, died) = (self.options.clone(), watch.seat(), || DirectoryError::Died(self.options.path.clone()));
        let kept = watch.clone();
        let opened = tokio::task::spawn_blocking(move || {
            seat.at(b"");
            let root = open_root(&options);
            seat.rest();
            drop(kept);
            root
        });
        match patience {
            None => opened.await.map_err(|_| died())?,
            Some(patience) => match tokio::time::timeout(patience, opened).await {
                Ok(opened) => opened.map_err(|_| died())?,
                Err(_) => Err(watch.give_up(patience).unwrap_or_else(died).into()),
            },
        }
    }
}

#[async_trait]
impl Source for DirectorySource {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn identity(&self) -> Option<String> {
        let DirectoryOptions { name, path, exclude, skip_unreadable, required, fingerprint } = &self.options;
        // another version may store it otherwise
        let decides = (env!("CARGO_PKG_VERSION"), name, path, exclude, skip_unreadable, required, fingerprint);
        Some(blake3::hash(format!("{decides:?}").as_bytes()).to_hex().to_string())
    }

    async fn check(&self) -> Result<Facts, ComponentError> {
        matcher(&self.options.exclude)?;
        self.root(&Watch::new(&self.options.path), Some(CHECK)).await?;
        Ok(Facts::from([("path".to_owned(), self.options.path.to_string_lossy().into())]))
    }

    async fn open(&self, run: &RunContext) -> Result<Vec<Artifact>, ComponentError> {
        let exclude = matcher(&self.options.exclude)?;
        let watch = Watch::new(&self.options.path);
        let Root { handle, used } = self.root(&watch, run.stall.map(patience)).await?;
        run.notes.fact("path", self.options.path.to_string_lossy());
        let (options, run) = (self.options.clone(), run.clone());
        let stream = async move { Ok(stream(handle, options, exclude, run, watch)) };
        let file = format!("{}.tar", self.options.name);
        Ok(vec![Artifact { file, format: Format::Tar, database: None, estimate: used, open: Box::pin(stream) }])
    }
}

/// A tree that was opened.
struct Root {
    handle: OwnedFd,
    used: Option<u64>,
}

/// How long to wait for an answer: less than until the stream is cut by somebody who cannot name what hangs.
fn patience(stall: Duration) -> Duration {
    stall - (stall / 16).min(Duration::from_secs(5))
}

/// What the file system of the tree holds: more than the tree, never less unless others are mounted below, and known without a walk. It
/// keeps the parts of a large upload equal and few enough.
fn used_bytes(root: &OwnedFd) -> Option<u64> {
    let stat = fstatvfs(root).ok()?;
    Some(stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize))
}

/// Starts the walk on a blocking thread; it goes as fast as the stream is read.
fn stream(root: OwnedFd, options: DirectoryOptions, exclude: Gitignore, run: RunContext, watch: Watch) -> ByteStream {
    let (writer, reader) = pipe(run.cancel.clone());
    let reader = match run.stall.map(patience) {
        None => reader,
        Some(patience) => {
            let watch = watch.clone();
            reader.within(patience, Box::new(move || watch.give_up(patience).map(failure)))
        }
    };
    tokio::task::spawn_blocking(move || {
        let detail = options.fingerprint;
        let walk = Walk::new(options, exclude, writer, watch);
        let (writer, result) = walk.run(root);
        match result {
            Ok(walked) => {
                note(&run.notes, walked, detail);
                // a reader that is gone has no use for the end
                let _ = writer.finish();
            }
            Err(Halt::Stopped) => writer.fail(io::Error::other(ComponentError::Cancelled)),
            Err(Halt::Failed(error)) => writer.fail(failure(error)),
        }
    });
    Box::new(reader)
}

/// As a component's, for whoever looks for advice.
fn failure(error: DirectoryError) -> io::Error {
    io::Error::other(ComponentError::from(error))
}

fn note(notes: &Notes, walked: Walked, detail: Detail) {
    let Walked { tally, warnings, print } = walked;
    if let Some(fingerprint) = print.noted(detail) {
        notes.fingerprint(fingerprint);
    }
    for (key, count) in [
        ("files", tally.files),
        ("directories", tally.directories),
        ("symlinks", tally.symlinks),
        ("hard_links", tally.hard_links),
        ("others", tally.others),
        ("bytes", tally.bytes),
    ] {
        notes.fact(key, count);
    }
    if tally.excluded > 0 {
        notes.fact("excluded", tally.excluded);
    }
    if tally.socket_count > 0 {
        notes.fact("skipped_sockets", tally.socket_count);
        notes.fact("sockets", tally.sockets.clone());
    }
    if !tally.mounts.is_empty() {
        notes.fact("mounts", tally.mounts.clone());
    }
    if let Some(followed) = &tally.followed {
        notes.fact("followed", followed.clone());
    }
    for warning in warnings {
        notes.warn(warning);
    }
}

fn open_root(options: &DirectoryOptions) -> Result<Root, ComponentError> {
    let path = &options.path;
    let root = open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(|error| match error {
        Errno::NOENT if options.required => DirectoryError::Missing(path.clone()).into(),
        Errno::NOENT => ComponentError::Absent(format!("the directory {} does not exist", path.display())),
        Errno::NOTDIR => DirectoryError::NotADirectory(path.clone()).into(),
        error => DirectoryError::Open { path: path.clone(), source: error.into() }.into(),
    })?;
    // part of its entries lie aside, or are those of another time
    match Swap::interrupted(path)? {
        Some(_) => Err(DirectoryError::HalfRestored(path.clone()).into()),
        None => Ok(Root { used: used_bytes(&root), handle: root }),
    }
}

/// Patterns relative to the root of the tree.
fn matcher(globs: &[String]) -> Result<Gitignore, DirectoryError> {
    let mut builder = GitignoreBuilder::new(Path::new(""));
    for glob in globs {
        builder.add_line(None, glob).map_err(|source| DirectoryError::Exclude { glob: glob.clone(), source })?;
    }
    builder.build().map_err(|source| DirectoryError::Exclude { glob: globs.join(", "), source })
}
