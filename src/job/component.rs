//! One component's part in a run: its streams, one after the other, into the lanes.

use std::time::Instant;

use super::transfer::Transfer;
use crate::chain::explain;
use crate::component::{ComponentError, Notes, RunContext, Source};
use crate::manifest::{Component, ComponentStatus, Facts, Kind};
use crate::name::{ArtifactPath, ComponentName};

/// A component's end, with every object that it has stored, whether it is in the manifest or not.
pub(super) struct Outcome {
    pub(super) component: Component,
    pub(super) stored: Vec<ArtifactPath>,
}

/// Reads `source` to its end and stores it in every open lane. `asked`: it was asked for by name, so that it may not be skipped.
pub(super) async fn store(source: &dyn Source, transfer: Transfer, asked: bool) -> Outcome {
    let began = Instant::now();
    let notes = Notes::default();
    let run = RunContext { cancel: transfer.cancel.clone(), notes: notes.clone() };
    let mut stored = Vec::new();
    let mut artifacts = Vec::new();
    let result: Result<(), (String, bool)> = async {
        let opened = tokio::select! {
            opened = source.open(&run) => opened,
            () = transfer.cancel.cancelled() => Err(ComponentError::Cancelled),
        };
        let opened = opened.map_err(|e| (explain(&e, e.advice()), matches!(e, ComponentError::Absent(_)) && !asked))?;
        for artifact in opened {
            let artifact = transfer.run(artifact, &mut stored).await.map_err(|e| (explain(&e, e.advice()), false))?;
            artifacts.push(artifact);
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
            Component { status: ComponentStatus::Complete, reason: None, seconds, facts, warnings, artifacts, ..base }
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
    Outcome { component, stored }
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
        artifacts: Vec::new(),
    }
}
