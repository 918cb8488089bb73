//! Raw values → [`Settings`]: everything that takes more than one key, or more than its type, to judge. Nothing stops at the first fault.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::ValueKind;
use ignore::gitignore::GitignoreBuilder;

use super::error::Fault;
use super::keys::{self, Kind};
use super::layer::{Merged, Origin};
use super::raw::{RawConfig, RawDirectory, RawJob, RawPostgres, RawRedis};
use super::{ComponentOptions, JobSettings, LoadOptions, Settings, WorkerSettings, target};
use crate::component::directory::DirectoryOptions;
use crate::component::postgres::PostgresOptions;
use crate::component::redis::{Method, RedisOptions};
use crate::manifest::Encoding;
use crate::name::{ComponentName, TargetName};
use crate::pipeline::Codec;
use crate::retention::Policy;
use crate::schedule::{Schedule, ScheduleError};
use crate::storage::{Location, TargetOptions};

/// What is judged, what it is judged by, and what was found wrong so far.
pub(super) struct Check<'a> {
    pub options: &'a LoadOptions,
    pub merged: &'a Merged,
    pub faults: &'a mut Vec<Fault>,
}

impl Check<'_> {
    /// A fault of the key or section at `path`, told at its value or header, else at the header of its section.
    pub fn fault(&mut self, path: &[&str], text: impl Into<String>) {
        let section = &path[..path.len().saturating_sub(1)];
        let origin = self.merged.section(path).or_else(|| self.merged.origin(path)).or_else(|| self.merged.section(section)).cloned();
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
    let components = components(raw, check);
    let jobs: Vec<_> = raw.jobs.iter().filter_map(|(name, job)| self::job(name, job, raw, check)).collect();
    let worker = worker(&raw.worker.listen, check);
    same_places(&targets, check);
    for job in &jobs {
        backups_within_sources(job, &targets, &components, check);
    }
    check.faults.is_empty().then_some(Settings { jobs, targets, components, worker })
}

/// A value that this version would ignore is refused.
fn not_in_this_version(check: &mut Check<'_>) {
    for section in keys::sections() {
        let names = if section.named { check.merged.names(&section.name) } else { vec![String::new()] };
        for name in &names {
            let prefix: Vec<&str> = if section.named { vec![&section.name, name] } else { vec![&section.name] };
            if let Some(why) = &section.later {
                check.fault(&prefix, why.clone());
                continue;
            }
            for key in &section.keys {
                let path: Vec<&str> = prefix.iter().copied().chain([key.name.as_str()]).collect();
                let (Some(why), Some(value)) = (&key.later, check.merged.value(&path)) else { continue };
                let unused = match &value.kind {
                    ValueKind::String(text) => text.is_empty(),
                    ValueKind::Array(items) => items.is_empty(),
                    ValueKind::Table(items) => items.is_empty(),
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
        let same = |other: &&TargetOptions| other.location == target.location && other.s3.endpoint == target.s3.endpoint;
        if let Some(other) = targets[..at].iter().find(same) {
            check.fault(&["targets", target.name.as_str(), "url"], format!("is the same place as [targets.{}]", other.name));
        }
    }
}

/// A target inside of a directory that goes into it: each backup would hold all the ones before it.
fn backups_within_sources(job: &JobSettings, targets: &[TargetOptions], components: &[ComponentOptions], check: &mut Check<'_>) {
    for directory in components {
        let ComponentOptions::Directory(directory) = directory else { continue };
        if !job.components.contains(&directory.name) {
            continue;
        }
        for target in targets.iter().filter(|t| job.targets.contains(&t.name)) {
            let Location::File(at) = &target.location else { continue };
            let Ok(inside) = at.strip_prefix(&directory.path) else { continue };
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

fn is_excluded(globs: &[String], inside: &Path) -> bool {
    let mut builder = GitignoreBuilder::new("");
    for glob in globs {
        if builder.add_line(None, glob).is_err() {
            return false;
        }
    }
    !inside.as_os_str().is_empty() && builder.build().is_ok_and(|g| g.matched_path_or_any_parents(inside, true).is_ignore())
}

fn components(raw: &RawConfig, check: &mut Check<'_>) -> Vec<ComponentOptions> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let kinds = [
        ("postgres", raw.postgres.keys().collect::<Vec<_>>()),
        ("redis", raw.redis.keys().collect()),
        ("directory", raw.directory.keys().collect()),
    ];
    for (kind, names) in &kinds {
        for name in names {
            if let Some(other) = seen.insert(name, kind) {
                // told where the user wrote it, since one of the two may be a default
                let (at, other) = if check.merged.is_ours(&[kind, name]) { (*kind, other) } else { (other, *kind) };
                check.fault(&[at, name], format!("[{other}.{name}] has the same name; the names of components are unique"));
            }
        }
    }
    let postgres = raw.postgres.iter().filter_map(|(name, o)| Some(ComponentOptions::Postgres(self::postgres(name, o, check)?)));
    let mut all: Vec<_> = postgres.collect();
    all.extend(raw.redis.iter().filter_map(|(name, o)| Some(ComponentOptions::Redis(redis(name, o, check)?))));
    all.extend(raw.directory.iter().filter_map(|(name, o)| Some(ComponentOptions::Directory(directory(name, o, check)?))));
    all
}

/// `None` for the empty string.
pub(super) fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn postgres(name: &str, raw: &RawPostgres, check: &mut Check<'_>) -> Option<PostgresOptions> {
    let path = |text: &str, check: &Check<'_>| filled(text).map(|p| if p == "system" { p.into() } else { check.absolute(p) });
    Some(PostgresOptions {
        name: check.name("postgres", name)?,
        url: raw.url.0.clone(),
        host: filled(&raw.host),
        port: raw.port,
        user: filled(&raw.user),
        password: raw.password.0.clone(),
        database: filled(&raw.database),
        sslmode: filled(&raw.sslmode),
        sslrootcert: path(&raw.sslrootcert, check),
        sslcert: path(&raw.sslcert, check),
        sslkey: path(&raw.sslkey, check),
        databases: raw.databases.clone(),
        globals: raw.globals,
        jobs: NonZeroU32::new(raw.jobs).unwrap_or(NonZeroU32::MIN),
    })
}

fn redis(name: &str, raw: &RawRedis, check: &mut Check<'_>) -> Option<RedisOptions> {
    let method = match raw.method.as_str() {
        "replication" => Method::Replication,
        "bgsave" => Method::Bgsave,
        _ => Method::Auto,
    };
    if method == Method::Bgsave && raw.rdb_path.is_empty() && !check.is_faulty(&["redis", name, "rdb_path"]) {
        check.fault(&["redis", name, "method"], "`bgsave` needs `rdb_path`, where the server's RDB file can be read from here");
    }
    // authentik no longer has a Redis: one that only its defaults name may be gone
    let host_is_set = check.merged.origin(&["redis", name, "host"]).is_some_and(|o| *o != Origin::AuthentikDefault);
    let url = if raw.url.0.is_none() && raw.host.is_empty() {
        Some(crate::secret::Secret::parse("redis://redis:6379/0"))
    } else {
        raw.url.0.clone()
    };
    Some(RedisOptions {
        name: check.name("redis", name)?,
        url,
        host: filled(&raw.host),
        port: raw.port,
        username: filled(&raw.username),
        password: raw.password.0.clone(),
        db: raw.db,
        tls: raw.tls,
        ca_file: filled(&raw.ca_file).map(|p| check.absolute(p)),
        method,
        rdb_path: filled(&raw.rdb_path).map(|p| check.absolute(p)),
        required: host_is_set || check.merged.is_ours(&["redis", name]),
    })
}

fn directory(name: &str, raw: &RawDirectory, check: &mut Check<'_>) -> Option<DirectoryOptions> {
    let path = ["directory", name, "path"];
    if raw.path.is_empty() {
        if !check.is_faulty(&path) {
            check.fault(&path, "is missing: which directory is it?");
        }
        return None;
    }
    let mut globs = GitignoreBuilder::new("/");
    for glob in &raw.exclude {
        if let Err(e) = globs.add_line(None, glob) {
            check.fault(&["directory", name, "exclude"], format!("`{glob}` is not a glob: {e}"));
        }
    }
    Some(DirectoryOptions {
        name: check.name("directory", name)?,
        path: check.absolute(&raw.path),
        exclude: raw.exclude.clone(),
        skip_unreadable: raw.skip_unreadable,
        required: check.merged.is_ours(&["directory", name]),
    })
}

fn worker(listen: &str, check: &mut Check<'_>) -> WorkerSettings {
    let listen = filled(listen).and_then(|text| {
        let listen = text.parse();
        if listen.is_err() {
            check.fault(&["worker", "listen"], format!("`{text}` is not an address and a port, such as `127.0.0.1:9717` or `[::]:9717`"));
        }
        listen.ok()
    });
    WorkerSettings { listen }
}

fn job(name: &str, raw: &RawJob, config: &RawConfig, check: &mut Check<'_>) -> Option<JobSettings> {
    let components: Vec<&str> =
        config.postgres.keys().chain(config.redis.keys()).chain(config.directory.keys()).map(String::as_str).collect();
    let targets: Vec<&str> = config.targets.keys().map(String::as_str).collect();
    let components: Vec<ComponentName> = chosen(&raw.components, &components, &["jobs", name, "components"], "component", check);
    let targets: Vec<TargetName> = chosen(&raw.targets, &targets, &["jobs", name, "targets"], "target", check);
    let timeout = duration(&raw.timeout, &["jobs", name, "timeout"], check);
    let stall_timeout = duration(&raw.stall_timeout, &["jobs", name, "stall_timeout"], check);
    if stall_timeout == Some(Duration::ZERO) {
        check.fault(&["jobs", name, "stall_timeout"], "must be longer than 0s: a stream that stalls would hold the job for ever");
    }
    Some(JobSettings {
        schedule: schedule(name, raw, check),
        components,
        targets,
        policy: policy(name, raw, check),
        codec: codec(name, raw, check)?,
        catch_up: raw.catch_up,
        jitter: duration(&raw.jitter, &["jobs", name, "jitter"], check)?,
        timeout: timeout.filter(|t| !t.is_zero()),
        stall_timeout: stall_timeout?,
        name: check.name("jobs", name)?,
    })
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

fn schedule(name: &str, raw: &RawJob, check: &mut Check<'_>) -> Option<Schedule> {
    if raw.schedule.is_empty() {
        return None;
    }
    let from_tz = raw.timezone.is_empty();
    // POSIX lets the name of a zone begin with a colon
    let tz = check.options.env.get("TZ").map(|z| z.trim_start_matches(':').to_owned()).filter(|z| !z.is_empty());
    let zone = if from_tz { tz.unwrap_or_else(|| "UTC".into()) } else { raw.timezone.clone() };
    match Schedule::parse(&raw.schedule, &zone) {
        Ok(schedule) => Some(schedule),
        Err(e @ ScheduleError::Zone(_)) if from_tz => {
            let text = format!("{e}; set `timezone` of the job, or `TZ` to a name such as `Europe/Berlin`");
            check.faults.push(Fault::new(Origin::Variable("TZ".into()), format!("jobs.{name}.timezone"), text));
            None
        }
        Err(e) => {
            let key = if matches!(e, ScheduleError::Zone(_)) { "timezone" } else { "schedule" };
            check.fault(&["jobs", name, key], e.to_string());
            None
        }
    }
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

/// A reference such as `env://NAME` in a key that is not a secret would be taken for a host or a path.
fn misplaced_references(check: &mut Check<'_>) {
    for section in keys::sections() {
        for name in if section.named { check.merged.names(&section.name) } else { vec![String::new()] } {
            for key in section.keys.iter().filter(|k| k.kind == Kind::Text && !k.secret) {
                let path: Vec<&str> = if section.named { vec![&section.name, &name, &key.name] } else { vec![&section.name, &key.name] };
                let Some(ValueKind::String(text)) = check.merged.value(&path).map(|v| &v.kind) else { continue };
                // authentik's variables are resolved already
                if text.starts_with("env://") && check.merged.origin(&path).is_some_and(Origin::is_ours) {
                    check.fault(&path, "`env://` is read in secrets only; set the key by its `BACKSTAY__` variable instead");
                }
            }
        }
    }
}
