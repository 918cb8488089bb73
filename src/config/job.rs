//! `[jobs.NAME]` → [`JobSettings`], and what jobs, targets and components must not be to each other.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ignore::gitignore::GitignoreBuilder;

use super::error::Fault;
use super::layer::Origin;
use super::raw::{RawConfig, RawJob};
use super::validate::Check;
use super::{ComponentOptions, CopySettings, JobSettings, When, keys};
use crate::manifest::Encoding;
use crate::name::{ComponentName, TargetName};
use crate::pipeline::Codec;
use crate::retention::Policy;
use crate::schedule::{Schedule, ScheduleError};
use crate::storage::{Location, TargetOptions};

/// The job, if its keys make one; else the faults are in `check`.
pub(super) fn options(name: &str, raw: &RawJob, config: &RawConfig, check: &mut Check<'_>) -> Option<JobSettings> {
    let components: Vec<&str> = (config.postgres.keys())
        .chain(config.redis.keys())
        .chain(config.directory.keys())
        .chain(config.bucket.keys())
        .map(String::as_str)
        .collect();
    let components: Vec<ComponentName> = chosen(&raw.components, &components, &["jobs", name, "components"], "component", check);
    let times = times(name, raw, check);
    Some(JobSettings {
        schedule: schedule(name, raw, ("schedule", &raw.schedule), check),
        drill: schedule(name, raw, ("drill", &raw.drill), check),
        components,
        targets: targets(name, raw, config, check)?,
        policy: policy(name, raw, check),
        codec: codec(name, raw, check)?,
        catch_up: raw.catch_up,
        jitter: times.jitter?,
        timeout: times.timeout.filter(|t| !t.is_zero()),
        stall_timeout: times.stall?,
        name: check.name("jobs", name)?,
    })
}

/// A job that copies, if its keys make one; else the faults are in `check`.
pub(super) fn copy(name: &str, raw: &RawJob, config: &RawConfig, check: &mut Check<'_>) -> Option<CopySettings> {
    for key in ["components", "compression", "level", "drill"] {
        let path = ["jobs", name, key];
        if check.merged.value(&path).is_some() {
            check.fault(&path, "is nothing of a job that copies: it copies backups as they are (set it for the job that makes them)");
        }
    }
    let keeps = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"];
    if !keeps.iter().any(|key| check.merged.value(&["jobs", name, key]).is_some()) {
        // what lies there already is not cut to a number that nobody has said
        check.fault(
            &["jobs", name, "keep_last"],
            "is missing: how many backups shall be kept where they are copied to? (or another `keep_…`)",
        );
    }
    let known: Vec<&str> = config.targets.keys().map(String::as_str).collect();
    let from: Vec<TargetName> = chosen(std::slice::from_ref(&raw.copy_from), &known, &["jobs", name, "copy_from"], "target", check);
    if raw.targets.contains(&raw.copy_from) {
        check.fault(&["jobs", name, "targets"], format!("`{}` is what is copied from: name another", raw.copy_from));
    }
    let times = times(name, raw, check);
    let when = match schedule(name, raw, ("schedule", &raw.schedule), check) {
        _ if check.merged.value(&["jobs", name, "schedule"]).is_none() => When::Follows,
        Some(schedule) => When::Scheduled(Box::new(schedule)),
        None => When::Asked,
    };
    Some(CopySettings {
        from: from.into_iter().next()?,
        targets: targets(name, raw, config, check)?,
        when,
        policy: policy(name, raw, check),
        catch_up: raw.catch_up,
        jitter: times.jitter?,
        timeout: times.timeout.filter(|t| !t.is_zero()),
        stall_timeout: times.stall?,
        name: check.name("jobs", name)?,
    })
}

/// What jobs that copy must not be to each other.
pub(super) fn copies_fit_together(copies: &[CopySettings], check: &mut Check<'_>) {
    for (at, copy) in copies.iter().enumerate() {
        let same = |other: &&CopySettings| other.targets.iter().any(|target| copy.targets.contains(target));
        if let Some(other) = copies[..at].iter().find(same) {
            let text = format!(
                "[jobs.{}] copies there as well, and each would remove what the other keeps: put all `keep_…` into one",
                other.name
            );
            check.fault(&["jobs", copy.name.as_str(), "targets"], text);
        }
    }
    let follows = |copy: &&CopySettings| matches!(copy.when, When::Follows);
    for copy in copies.iter().filter(follows) {
        // where its own copies would be copied on to
        let (mut reached, mut at) = (copy.targets.clone(), 0);
        while let Some(target) = reached.get(at).cloned() {
            for other in copies.iter().filter(follows).filter(|other| other.from == target) {
                let new: Vec<_> = other.targets.iter().filter(|target| !reached.contains(target)).cloned().collect();
                reached.extend(new);
            }
            at += 1;
        }
        // told already where it names its own source
        if reached.contains(&copy.from) && !copy.targets.contains(&copy.from) {
            let text = "what it copies comes back, so that it would run for ever: give it a `schedule`";
            check.fault(&["jobs", copy.name.as_str(), "copy_from"], text);
        }
    }
}

/// Where a job writes to, unless there is nothing.
fn targets(name: &str, raw: &RawJob, config: &RawConfig, check: &mut Check<'_>) -> Option<Vec<TargetName>> {
    let path = ["jobs", name, "targets"];
    let all: Vec<&str> = config.targets.keys().map(String::as_str).collect();
    if !raw.targets.is_empty() {
        return Some(chosen(&raw.targets, &all, &path, "target", check));
    }
    let filled = |job: &RawJob, target: &str| match job.targets.as_slice() {
        [] => target != job.copy_from,
        named => named.iter().any(|named| named == target),
    };
    let copied = |target: &&str| match raw.copy_from.as_str() {
        "" => config.jobs.values().any(|job| all.contains(&job.copy_from.as_str()) && filled(job, target)),
        from => *target == from,
    };
    let own: Vec<&str> = all.iter().copied().filter(|target| !copied(target)).collect();
    if own.is_empty() {
        check.fault(&path, "is empty, and there is no other target: where should the backups go?");
        return None;
    }
    Some(chosen(&[], &own, &path, "target", check))
}

struct Times {
    jitter: Option<Duration>,
    timeout: Option<Duration>,
    stall: Option<Duration>,
}

fn times(name: &str, raw: &RawJob, check: &mut Check<'_>) -> Times {
    let timeout = duration(&raw.timeout, &["jobs", name, "timeout"], check);
    let stall = duration(&raw.stall_timeout, &["jobs", name, "stall_timeout"], check);
    if stall == Some(Duration::ZERO) {
        check.fault(&["jobs", name, "stall_timeout"], "must be longer than 0s: a stream that stalls would hold the job for ever");
    }
    Times { jitter: duration(&raw.jitter, &["jobs", name, "jitter"], check), timeout, stall }
}

/// The names in a list, each of which must exist; an empty list means all.
fn chosen<N: FromStr>(list: &[String], known: &[&str], path: &[&str], what: &str, check: &mut Check<'_>) -> Vec<N> {
    let mut unique = BTreeSet::new();
    let mut names = Vec::new();
    let wanted: Vec<&str> = if list.is_empty() { known.to_vec() } else { list.iter().map(String::as_str).collect() };
    for name in wanted {
        match name.parse() {
            Ok(parsed) if known.contains(&name) => {
                if unique.insert(name) {
                    names.push(parsed);
                }
            }
            _ => {
                let hint = keys::suggest(name, known.iter().copied()).map_or_else(
                    || format!("; there are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
                    |k| format!(" (did you mean `{k}`?)"),
                );
                check.fault(path, format!("there is no {what} `{name}`{hint}"));
            }
        }
    }
    names
}

/// The schedule that a key of the job holds.
fn schedule(name: &str, raw: &RawJob, (key, text): (&str, &str), check: &mut Check<'_>) -> Option<Schedule> {
    if text.is_empty() {
        return None;
    }
    let from_tz = raw.timezone.is_empty();
    let zone = if from_tz { check.options.env.get("TZ").map_or("UTC".into(), |tz| zone_of_tz(tz)) } else { raw.timezone.clone() };
    match Schedule::parse(text, &zone) {
        Ok(schedule) => Some(schedule),
        Err(e @ ScheduleError::Zone(_)) if from_tz => {
            let text = format!("{e}; set `timezone` of the job, or `TZ` to a name such as `Europe/Berlin`");
            check.faults.push(Fault::new(Origin::Variable("TZ".into()), format!("jobs.{name}.timezone"), text));
            None
        }
        Err(e) => {
            let key = if matches!(e, ScheduleError::Zone(_)) { "timezone" } else { key };
            check.fault(&["jobs", name, key], e.to_string());
            None
        }
    }
}

/// The zone that `$TZ` names, as far as it is one of IANA: POSIX lets it begin with a colon, and libc takes the path of a zone file.
fn zone_of_tz(tz: &str) -> String {
    let tz = tz.strip_prefix(':').unwrap_or(tz);
    if tz.is_empty() {
        return "UTC".into();
    }
    let file = if tz.starts_with('/') { resolved(Path::new(tz)).display().to_string() } else { tz.to_owned() };
    file.split_once("/zoneinfo/").map_or(tz.to_owned(), |(_, zone)| zone.to_owned())
}

fn policy(name: &str, raw: &RawJob, check: &mut Check<'_>) -> Policy {
    let policy = Policy {
        last: NonZeroU32::new(raw.keep_last),
        hourly: NonZeroU32::new(raw.keep_hourly),
        daily: NonZeroU32::new(raw.keep_daily),
        weekly: NonZeroU32::new(raw.keep_weekly),
        monthly: NonZeroU32::new(raw.keep_monthly),
        yearly: NonZeroU32::new(raw.keep_yearly),
    };
    if policy == Policy::default() {
        check.fault(&["jobs", name, "keep_last"], "the job would keep nothing: at least one `keep_…` must be 1 or more");
    }
    policy
}

fn codec(name: &str, raw: &RawJob, check: &mut Check<'_>) -> Option<Codec> {
    let encoding = match raw.compression.as_str() {
        "zstd" => Encoding::Zstd,
        "none" => Encoding::None,
        _ => Encoding::Gzip,
    };
    let codec = Codec::new(encoding, raw.level);
    if let Err(text) = &codec {
        check.fault(&["jobs", name, "level"], format!("{} of `{}`", text, raw.compression));
    }
    codec.ok()
}

/// `1h 30m`, or `0`.
fn duration(text: &str, path: &[&str], check: &mut Check<'_>) -> Option<Duration> {
    if text.is_empty() || text == "0" {
        return Some(Duration::ZERO);
    }
    let duration = humantime::parse_duration(text);
    if duration.is_err() {
        check.fault(path, format!("`{text}` is not a duration, such as `90s`, `10m` or `1h 30m`"));
    }
    duration.ok()
}

/// A target inside of a directory that goes into it: each backup would hold all the ones before it.
pub(super) fn backups_within_sources(job: &JobSettings, targets: &[TargetOptions], components: &[ComponentOptions], check: &mut Check<'_>) {
    for directory in components {
        let ComponentOptions::Directory(directory) = directory else { continue };
        if !job.components.contains(&directory.name) {
            continue;
        }
        for target in targets.iter().filter(|t| job.targets.contains(&t.name)) {
            let Location::File(at) = &target.location else { continue };
            let at = resolved(at);
            let Ok(inside) = at.strip_prefix(resolved(&directory.path)) else { continue };
            if !is_excluded(&directory.exclude, inside) {
                let text = format!(
                    "lies inside of [directory.{0}] ({1}), so that each backup of job `{2}` would hold the ones before it: \
                     `exclude` it there, or list other `components` in the job",
                    directory.name,
                    directory.path.display(),
                    job.name
                );
                check.fault(&["targets", target.name.as_str(), "url"], text);
            }
        }
    }
}

/// Without links and `..`, as far as the path exists.
fn resolved(path: &Path) -> PathBuf {
    let ancestors = path.ancestors().find_map(|a| Some((a.canonicalize().ok()?, path.strip_prefix(a).ok()?)));
    // joining nothing would leave a slash at the end
    ancestors.map_or(path.to_owned(), |(real, rest)| real.join(rest).components().collect())
}

fn is_excluded(globs: &[String], inside: &Path) -> bool {
    let mut builder = GitignoreBuilder::new("");
    for glob in globs {
        if builder.add_line(None, glob).is_err() {
            return false;
        }
    }
    !inside.as_os_str().is_empty() && builder.build().is_ok_and(|g| g.matched_path_or_any_parents(inside, true).is_ignore())
}
