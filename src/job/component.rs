//! One component's part in a run: its streams into the lanes, one after the other, but those of one database side by side.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;

use super::journal::Part;
use super::transfer::{STALLED, Transfer, TransferError};
use crate::chain::explain;
use crate::component::{Artifact, ByteStream, ComponentError, Notes, RunContext, Source};
use crate::manifest::{self, Component, ComponentStatus, Facts, Format, Kind};
use crate::name::{ArtifactPath, ComponentName};

/// Longest fingerprint, in bytes of JSON, that is part of the manifest: a catalog reads the manifests of all its backups.
const INLINE_FINGERPRINT: usize = 16 << 10;

/// A component's end, with every object that it has stored, whether it is in the manifest or not.
pub(super) struct Outcome {
    pub(super) component: Component,
    pub(super) stored: Vec<ArtifactPath>,
    /// What it was taken over from, where it was not read.
    pub(super) adopted: Option<Part>,
}

/// Reads `source` to its end and stores it in every open lane. `asked`: it was asked for by name, so that it may not be skipped.
pub(super) async fn store(source: &dyn Source, transfer: Transfer, asked: bool) -> Outcome {
    let began = Instant::now();
    // a stream that fails ends those beside it, and no other component
    let transfer = Transfer { cancel: transfer.cancel.child_token(), ..transfer };
    let notes = Notes::default();
    let run = RunContext { cancel: transfer.cancel.clone(), notes: notes.clone(), stall: Some(transfer.stall), ..RunContext::default() };
    let mut stored = Vec::new();
    let mut artifacts = Vec::new();
    let mut fingerprint = None;
    let result: Result<(), (String, bool)> = async {
        let opened = tokio::select! {
            opened = tokio::time::timeout(transfer.stall, source.open(&run)) => opened.map_err(|_| (idle(transfer.stall), false))?,
            () = transfer.cancel.cancelled() => Err(ComponentError::Cancelled),
        };
        let opened = opened.map_err(|e| (explain(&e, e.advice()), matches!(e, ComponentError::Absent(_)) && !asked))?;
        for group in groups(opened) {
            let group = side_by_side(&transfer, group, &mut stored).await;
            artifacts.extend(group.map_err(|e| (explain(&e, e.advice()), false))?);
        }
        fingerprint = notes.take_fingerprint();
        // the manifest is what is left in the clear
        let secret = transfer.lock.is_some();
        if let Some(large) = fingerprint.take_if(|f| secret || f.to_string().len() > INLINE_FINGERPRINT) {
            let kept = transfer.run(beside(&large), &mut stored).await;
            artifacts.extend(kept.map_err(|e| (explain(&e, e.advice()), false))?);
        }
        Ok(())
    }
    .await;
    let (facts, warnings) = notes.take();
    let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let base = failed(source.name().clone(), source.kind(), String::new());
    let component = match result {
        Ok(()) => {
            tracing::info!(component = %source.name(), seconds, bytes = artifacts.iter().map(|a| a.raw_bytes).sum::<u64>(), "component stored");
            Component { status: ComponentStatus::Complete, reason: None, seconds, facts, warnings, fingerprint, artifacts, ..base }
        }
        Err((reason, true)) => {
            tracing::info!(component = %source.name(), "skipped: {reason}");
            Component { status: ComponentStatus::Skipped, reason: Some(reason), seconds, facts, warnings, ..base }
        }
        Err((reason, false)) => {
            tracing::error!(component = %source.name(), "{reason}");
            Component { reason: Some(reason), seconds, facts, warnings, ..base }
        }
    };
    Outcome { component, stored, adopted: None }
}

fn idle(after: Duration) -> String {
    format!("the source did not answer within {}. {STALLED}", humantime::format_duration(after))
}

/// A fingerprint as an artifact of its own.
fn beside(fingerprint: &Value) -> Artifact {
    let text = format!("{fingerprint}\n");
    Artifact {
        file: "fingerprint.json".to_owned(),
        format: Format::Fingerprint,
        database: None,
        estimate: Some(text.len() as u64),
        open: Box::pin(async move { Ok(Box::new(Cursor::new(text)) as ByteStream) }),
    }
}

/// What may flow at once: consecutive artifacts of one database, which share its snapshot, and those of none before them.
fn groups(artifacts: Vec<Artifact>) -> Vec<Vec<Artifact>> {
    let mut groups: Vec<Vec<Artifact>> = Vec::new();
    for artifact in artifacts {
        match groups.last_mut() {
            Some(group) if group.iter().all(|other| other.database.is_none() || other.database == artifact.database) => {
                group.push(artifact)
            }
            _ => groups.push(vec![artifact]),
        }
    }
    groups
}

/// Stores `group`, in its order. The first failure is the group's: it ends the others, each of which aborts its uploads.
async fn side_by_side(
    transfer: &Transfer,
    group: Vec<Artifact>,
    stored: &mut Vec<ArtifactPath>,
) -> Result<Vec<manifest::Artifact>, TransferError> {
    let mut running: FuturesUnordered<_> = (group.into_iter().enumerate())
        .map(|(at, artifact)| async move {
            let mut stored = Vec::new();
            let result = transfer.run(artifact, &mut stored).await;
            (at, result, stored)
        })
        .collect();
    let mut done = BTreeMap::new();
    let mut failure = None;
    while let Some((at, result, paths)) = running.next().await {
        stored.extend(paths);
        match result {
            Ok(Some(artifact)) => drop(done.insert(at, artifact)),
            Ok(None) => {}
            Err(error) => {
                transfer.cancel.cancel();
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or_else(|| Ok(done.into_values().collect()), Err)
}

/// The record of a component that failed.
pub(super) fn failed(name: ComponentName, kind: Kind, reason: String) -> Component {
    Component {
        name,
        kind,
        status: ComponentStatus::Failed,
        reason: Some(reason),
        seconds: 0.0,
        facts: Facts::new(),
        warnings: Vec::new(),
        fingerprint: None,
        artifacts: Vec::new(),
    }
}
