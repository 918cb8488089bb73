//! [`Restorer`] of a directory.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::adopt::{Record, adopt};
use super::compare::{Verdict, explain, judge, settle};
use super::fingerprint::Expected;
use super::part;
use super::pick::Pick;
use super::place::Place;
use super::sides::Sides;
use super::standstill::{Waits, moving};
use super::swap::Swap;
use super::unpack::{Unpacked, unpack};
use super::usage;
use super::{DirectoryError, DirectoryOptions};
use crate::component::{
    ByteStream, ComponentError, Destination, Intent, Left, Plan, RestoreOptions, Restored, Restorer, RunContext, Staged, StoredComponent,
};
use crate::manifest::{Artifact, Component, Format};
use crate::name::{ComponentName, RestoreId};

/// How long a file system may keep a restore waiting, unless a job says.
const STALL: Duration = Duration::from_secs(600);

/// Bytes read from the stream at once.
const BUFFER: usize = 512 << 10;

/// Puts a directory back.
#[derive(Debug, Clone)]
pub struct DirectoryRestorer {
    options: DirectoryOptions,
}

impl DirectoryRestorer {
    pub fn new(options: DirectoryOptions) -> Self {
        Self { options }
    }

    fn destination(&self, options: &RestoreOptions) -> Result<PathBuf, DirectoryError> {
        match &options.to {
            Destination::Configured if options.is_partial() => Ok(part::beside(&self.options.path, &options.stamp)),
            Destination::Configured => Ok(self.options.path.clone()),
            Destination::Into(path) | Destination::Throwaway(path) => Ok(PathBuf::from(path.strip_prefix("file://").unwrap_or(path))),
            Destination::Beside => Err(DirectoryError::Destination {
                path: self.options.path.clone(),
                problem: "a tree beside it would be found by a backup of what it lies in".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Restorer for DirectoryRestorer {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    async fn plan(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Plan, ComponentError> {
        let part = &part.component;
        let artifact = archive_of(part)?.clone();
        let followed = part.facts.get("followed").and_then(|fact| fact.as_str()).map(str::to_owned);
        let needed = needed(part, &artifact);
        let (path, keep_old) = (self.destination(options)?, options.keep_old);
        let (partial, globs, live) = (options.is_partial(), options.paths.clone(), self.options.path.clone());
        moving(path.clone(), STALL, Waits::default(), move || {
            if partial {
                Pick::new(&globs)?;
                let place = part::place(&path, &live)?;
                return Ok(Plan { steps: part::steps(&place, &artifact, &globs, &live), ..Plan::default() });
            }
            let place = Place::find(&path)?;
            enough_space(&place, needed)?;
            let interrupted = place.inside && Swap::interrupted(&place.target)?.is_some();
            let mut steps = steps(&place, &artifact, keep_old, interrupted, followed.as_deref());
            let (more, facts) = usage::describe(&place, needed);
            steps.extend(more);
            Ok(Plan { steps, facts, replaces: place.exists && !place.empty })
        })
        .await
    }

    async fn intent(&self, _: &Component, options: &RestoreOptions, id: RestoreId) -> Result<Intent, ComponentError> {
        let path = self.destination(options)?;
        let place = moving(path.clone(), STALL, Waits::default(), move || Ok(Place::find(&path)?)).await?;
        let record = Record::intent(&place, &id.to_string());
        Ok(Intent { places: vec![format!("directory {}", place.target.display())], record: json!(record) })
    }

    async fn adopt(&self, left: &Left) -> Result<Box<dyn Staged>, ComponentError> {
        let path = self.destination(&left.options)?;
        let record: Record = serde_json::from_value(left.record.clone()).map_err(DirectoryError::Record)?;
        let stall = left.stall.unwrap_or(STALL);
        let sides = moving(path.clone(), stall, Waits::default(), move || Ok(adopt(&record, &path)?)).await?;
        let done = vec![format!("what an earlier restore had unpacked is in service as {}", sides.place().target.display())];
        Ok(Box::new(StagedDirectory::new(sides, done, Vec::new(), &left.options, stall)))
    }

    async fn stage(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError> {
        let artifact = archive_of(&part.component)?;
        let needed = needed(&part.component, artifact);
        let path = self.destination(options)?;
        let (partial, live) = (options.is_partial(), self.options.path.clone());
        let stall = run.stall.unwrap_or(STALL);
        let place = moving(path.clone(), stall, Waits::default(), {
            let path = path.clone();
            move || {
                if partial {
                    return Ok(part::place(&path, &live)?);
                }
                let place = Place::find(&path)?;
                enough_space(&place, needed)?;
                if place.inside
                    && let Some(swap) = Swap::interrupted(&place.target)?
                {
                    tracing::warn!(path = %place.target.display(), "bringing back what an interrupted restore had moved");
                    swap.undo()?;
                }
                Ok(place)
            }
        })
        .await?;
        let expected = match part.fingerprint().await.map_err(ComponentError::Fingerprint)? {
            Some(noted) if !options.is_partial() => Some(Expected::read(&noted).map_err(ComponentError::Fingerprint)?),
            _ => None,
        };
        let stream = (part.open)(artifact).await.map_err(DirectoryError::OpenArchive)?;
        // whoever drops this future stops the blocking work, which then removes the new tree
        let cancel = run.cancel.child_token();
        let stop = cancel.clone().drop_guard();
        let (handle, suffix) = (Handle::current(), run.id.to_string());
        let (open, artifact) = (part.open.clone(), artifact.clone());
        let globs = options.paths.clone();
        let waits = Waits::default();
        let waiting = waits.clone();
        let staged = moving(path.clone(), stall, waits.clone(), move || {
            let mut sides = Sides::create(place, &suffix)?;
            let feed = |stream| {
                BufReader::with_capacity(BUFFER, Feed { stream, handle: handle.clone(), cancel: cancel.clone(), waiting: waiting.clone() })
            };
            let again = || waiting.during(|| handle.block_on(open(&artifact))).map(feed).map_err(DirectoryError::OpenArchive);
            let result = (|| -> Result<_, ComponentError> {
                let (unpacked, warnings) = if partial {
                    part::unpack(feed(stream), again, &sides, &globs, &cancel)?
                } else {
                    unpack(feed(stream), sides.staging()?, &cancel)?
                };
                let found = settle(sides.staging()?, sides.place().target.clone(), expected.as_ref(), &cancel)?;
                let compared = match judge(expected.as_ref(), found.as_ref(), &unpacked, partial) {
                    Verdict::Same(compared) => Ok(compared),
                    Verdict::Differs(expected, found) => Err(explain(again()?, &sides.staging()?, expected, &unpacked, found, &cancel)?),
                };
                Ok((unpacked, warnings, compared))
            })();
            match result {
                Ok((unpacked, warnings, Ok(compared))) => {
                    sides.complete(&suffix)?;
                    Ok((sides, unpacked, warnings, compared))
                }
                Ok((.., Err(differences))) => Err(ComponentError::Differs(differences)),
                Err(_) if cancel.is_cancelled() => Err(ComponentError::Cancelled),
                Err(error) => Err(error),
            }
        })
        .await;
        stop.disarm();
        let (sides, Unpacked { entries, bytes, .. }, warnings, compared) = staged.map_err(|error| match error {
            // nobody can tell what the thread that hangs has made, nor remove it
            ComponentError::Directory(DirectoryError::Hung { .. }) => {
                ComponentError::LeftBehind { left: format!("a new directory in {}", path.display()), source: Box::new(error) }
            }
            error => error,
        })?;
        let done = vec![format!("restored {entries} entries, {bytes} bytes, to {}", sides.place().target.display()), compared];
        Ok(Box::new(StagedDirectory::new(sides, done, warnings, options, stall)))
    }
}

/// A tree that is complete and waits beside its destination.
struct StagedDirectory {
    target: PathBuf,
    /// Absent only while work on it is under way.
    sides: Option<Sides>,
    record: Record,
    /// What was unpacked and compared, in sentences.
    done: Vec<String>,
    warnings: Vec<String>,
    keep_old: bool,
    /// It must not take the place of anything.
    partial: bool,
    stall: Duration,
}

impl StagedDirectory {
    fn new(sides: Sides, done: Vec<String>, warnings: Vec<String>, options: &RestoreOptions, stall: Duration) -> Self {
        let (target, record) = (sides.place().target.clone(), sides.record().clone());
        Self { target, record, sides: Some(sides), done, warnings, keep_old: options.keep_old, partial: options.is_partial(), stall }
    }
}

#[async_trait]
impl Staged for StagedDirectory {
    fn record(&self) -> Value {
        json!(self.record)
    }

    async fn publish(&mut self) -> Result<(), ComponentError> {
        let Some(mut sides) = self.sides.take() else { return Err(DirectoryError::Died(self.target.clone()).into()) };
        let partial = self.partial;
        let (sides, result) = moving(self.target.clone(), self.stall, Waits::default(), move || {
            let result = if partial { part::still_empty(sides.place()).and_then(|()| sides.publish()) } else { sides.publish() };
            Ok((sides, result))
        })
        .await?;
        self.sides = Some(sides);
        Ok(result?)
    }

    async fn finish(self: Box<Self>) -> Result<Restored, ComponentError> {
        let Self { target, sides, mut done, warnings, keep_old, stall, .. } = *self;
        let Some(sides) = sides else { return Err(DirectoryError::Died(target).into()) };
        let kept = moving(target.clone(), stall, Waits::default(), move || Ok(sides.finish(keep_old)?)).await?;
        done.extend(kept.map(|path| format!("the old directory is kept as {}", path.display())));
        Ok(Restored { done, warnings })
    }

    async fn undo(mut self: Box<Self>) -> Result<(), ComponentError> {
        let Some(sides) = self.sides.take() else { return Err(DirectoryError::Died(self.target).into()) };
        moving(self.target.clone(), self.stall, Waits::default(), move || Ok(sides.undo()?)).await
    }
}

/// The stream of an artifact, for a blocking reader; a cancelled run is a read error.
struct Feed {
    stream: ByteStream,
    handle: Handle,
    cancel: CancellationToken,
    waiting: Waits,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { stream, handle, cancel, waiting } = self;
        let read = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(io::Error::other(ComponentError::Cancelled)),
                result = stream.read(buffer) => result,
            }
        };
        waiting.during(|| handle.block_on(read))
    }
}

fn archive_of(part: &Component) -> Result<&Artifact, DirectoryError> {
    let mut content = part.content();
    match (content.next(), content.next()) {
        (Some(artifact), None) if artifact.format == Format::Tar => Ok(artifact),
        _ => Err(DirectoryError::NoArchive),
    }
}

/// Bytes that the new tree takes at least: its content if the backup says how much that is, otherwise the whole archive.
fn needed(part: &Component, artifact: &Artifact) -> u64 {
    part.facts.get("bytes").and_then(serde_json::Value::as_u64).unwrap_or(artifact.raw_bytes).min(artifact.raw_bytes)
}

fn enough_space(place: &Place, needed: u64) -> Result<(), DirectoryError> {
    match place.available() {
        Some(available) if available < needed => Err(DirectoryError::Space { path: place.base().to_owned(), available, needed }),
        _ => Ok(()),
    }
}

fn steps(place: &Place, artifact: &Artifact, keep_old: bool, interrupted: bool, followed: Option<&str>) -> Vec<String> {
    let target = place.target.display();
    let mut steps = Vec::new();
    if interrupted {
        steps.push(format!("first bring back what an interrupted restore had moved in {target}"));
    }
    steps.push(format!("unpack {} ({} bytes) into a new directory in {}", artifact.path, artifact.raw_bytes, place.base().display()));
    match (place.exists, place.inside) {
        (false, _) => steps.push(format!("put it in place as {target}, which does not exist yet")),
        (true, false) => steps.push(format!("exchange it with {target}{}", if place.empty { ", which is empty" } else { "" })),
        (true, true) => steps.push(format!("swap the entries of {target} one by one, as it is a mount point or may not be renamed")),
    }
    if place.exists && !place.empty {
        let fate = if keep_old { "keep the old directory under another name" } else { "remove the old directory" };
        steps.push(format!("{fate}, with every file in it that the backup does not hold"));
    }
    if let Some(followed) = followed {
        steps.push(format!("note: a link was followed when the backup was made ({followed}); it is restored as a directory"));
    }
    if !geteuid().is_root() {
        steps.push("note: this does not run as root, so owners and devices may not be set".to_owned());
    }
    steps.extend(place.leftovers().iter().map(|path| leftover(path)));
    steps
}

fn leftover(path: &Path) -> String {
    format!(
        "note: {} is left from an earlier restore and may hold the only copy of old files; remove it when it is not needed any more",
        path.display()
    )
}
