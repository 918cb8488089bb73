//! Raw values → [`Settings`]: everything that takes more than one key, or more than its type, to judge. Nothing stops at the first fault.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use config::ValueKind;

use super::error::Fault;
use super::keys::{self, Kind};
use super::layer::{Merged, Origin};
use super::raw::{RawConfig, RawWorker};
use super::{LoadOptions, Settings, WorkerSettings, component, encryption, job, target};
use crate::process::{IoPriority, Priority};
use crate::storage::TargetOptions;

/// What is judged, what it is judged by, and what was found wrong so far.
pub(super) struct Check<'a> {
    pub options: &'a LoadOptions,
    pub merged: &'a Merged,
    pub faults: &'a mut Vec<Fault>,
}

impl Check<'_> {
    /// A fault of the key or section at `path`, told at its value or header, else at the header of its section.
    pub fn fault(&mut self, path: &[&str], text: impl Into<String>) {
        let around = |len| self.merged.section(&path[..len]).or_else(|| self.merged.origin(&path[..len]));
        let origin = (1..=path.len()).rev().find_map(around).cloned();
        self.faults.push(Fault::new(origin, path.join("."), text));
    }

    /// Whether something is known to be wrong with that key already, so that its absence is no news.
    pub fn is_faulty(&self, path: &[&str]) -> bool {
        let key = path.join(".");
        self.faults.iter().any(|f| f.key == key)
    }

    /// A path against the working directory.
    pub fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.options.cwd.join(path);
        let absolute = std::path::absolute(&path).unwrap_or(path);
        // `./x` of a working directory reads better without the dot
        absolute.components().collect()
    }

    /// A name that was checked when its layer was read.
    pub fn name<N: FromStr>(&mut self, section: &str, name: &str) -> Option<N> {
        name.parse().inspect_err(|_| self.fault(&[section, name], "is not a valid name")).ok()
    }
}

/// Settings, if nothing is wrong; else the faults are in `check`.
pub(super) fn settings(raw: &RawConfig, check: &mut Check<'_>) -> Option<Settings> {
    not_in_this_version(check);
    misplaced_references(check);
    let targets: Vec<_> = raw.targets.iter().filter_map(|(name, target)| target::options(name, target, check)).collect();
    let components = component::all(raw, &targets, check);
    let (copies, jobs): (Vec<_>, Vec<_>) = raw.jobs.iter().partition(|(_, job)| !job.copy_from.is_empty());
    let jobs: Vec<_> = jobs.into_iter().filter_map(|(name, job)| job::options(name, job, raw, check)).collect();
    let copies: Vec<_> = copies.into_iter().filter_map(|(name, job)| job::copy(name, job, raw, check)).collect();
    job::copies_fit_together(&copies, check);
    let encryption = encryption::options(&raw.encryption, check);
    let worker = worker(&raw.worker, check);
    same_places(&targets, check);
    for job in &jobs {
        job::backups_within_sources(job, &targets, &components, check);
    }
    check.faults.is_empty().then_some(Settings { jobs, copies, targets, components, encryption, worker })
}

/// A value that this version would ignore is refused.
fn not_in_this_version(check: &mut Check<'_>) {
    for section in keys::sections() {
        for name in &check.merged.names_in(section) {
            if let Some(why) = &section.later {
                check.fault(&section.path(name), why.clone());
                continue;
            }
            for key in &section.keys {
                let path = section.path_of(name, key);
                let (Some(why), Some(value)) = (&key.later, check.merged.value(&path)) else { continue };
                let unused = match &value.kind {
                    ValueKind::String(text) => text.is_empty(),
                    ValueKind::Array(items) => items.is_empty(),
                    ValueKind::I64(number) => key.default.as_i64() == Some(*number),
                    _ => false,
                };
                if !unused {
                    check.fault(&path, why.clone());
                }
            }
        }
    }
}

/// Two targets of one place would each refuse what the other wrote.
fn same_places(targets: &[TargetOptions], check: &mut Check<'_>) {
    for (at, target) in targets.iter().enumerate() {
        let same = |other: &&TargetOptions| other.location.is_same_place(&target.location);
        if let Some(other) = targets[..at].iter().find(same) {
            check.fault(&["targets", target.name.as_str(), "url"], format!("is the same place as [targets.{}]", other.name));
        }
    }
}

/// `None` for the empty string.
pub(super) fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn worker(raw: &RawWorker, check: &mut Check<'_>) -> WorkerSettings {
    let listen = filled(&raw.listen).and_then(|text| {
        let listen = text.parse();
        if listen.is_err() {
            check.fault(&["worker", "listen"], format!("`{text}` is not an address and a port, such as `127.0.0.1:9717` or `[::]:9717`"));
        }
        listen.ok()
    });
    let io = match raw.ionice.as_str() {
        "best-effort" => IoPriority::BestEffort,
        "idle" => IoPriority::Idle,
        _ => IoPriority::Unchanged,
    };
    // its range was checked with its type
    WorkerSettings { listen, priority: Priority { nice: u8::try_from(raw.nice).unwrap_or(0), io } }
}

/// A reference such as `env://NAME` in a key that is not a secret would be taken for a host or a path.
fn misplaced_references(check: &mut Check<'_>) {
    for section in keys::sections() {
        for name in &check.merged.names_in(section) {
            for key in section.keys.iter().filter(|k| k.kind == Kind::Text && !k.secret) {
                let path = section.path_of(name, key);
                let Some(ValueKind::String(text)) = check.merged.value(&path).map(|v| &v.kind) else { continue };
                // authentik's variables are resolved already
                if text.starts_with("env://") && check.merged.origin(&path).is_some_and(Origin::is_ours) {
                    check.fault(&path, "`env://` is read in secrets only; set the key by its `BACKSTAY__` variable instead");
                }
            }
        }
    }
}
