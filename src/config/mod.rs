//! Configuration: layers → raw structs → [`Settings`], every fault at once.
//!
//! Later layers win: built-in defaults < `AUTHENTIK_*` < the file < `$CREDENTIALS_DIRECTORY` < `BACKSTAY__SECTION__NAME__KEY`. Each layer is
//! checked strictly by itself, so that a fault is told at its line or variable; the `config` crate merges them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::component::bucket::BucketOptions;
use crate::component::directory::DirectoryOptions;
use crate::component::postgres::PostgresOptions;
use crate::component::redis::RedisOptions;
use crate::encryption::EncryptionOptions;
use crate::name::{ComponentName, JobName, TargetName};
use crate::pipeline::Codec;
use crate::process::Priority;
use crate::retention::Policy;
use crate::schedule::Schedule;
use crate::storage::{Location, TargetOptions};

mod authentik;
mod component;
mod defaults;
mod encryption;
mod environment;
mod error;
mod file;
mod job;
mod keys;
mod layer;
mod raw;
mod reference;
mod show;
mod target;
#[cfg(test)]
mod tests;
mod validate;

pub use error::{ConfigError, Fault};
pub use layer::Origin;
pub use reference::{example, reference, schema};
pub use show::{Row, show, show_json};

/// What [`load`] looks at.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The file named by `--config`.
    pub file: Option<PathBuf>,
    /// The environment of the process.
    pub env: BTreeMap<String, String>,
    /// Where relative paths start; empty: the working directory of the process.
    pub cwd: PathBuf,
    /// `/`, but for tests: where `/etc` and the marks of a container are looked for.
    pub root: PathBuf,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { file: None, env: BTreeMap::new(), cwd: PathBuf::new(), root: "/".into() }
    }
}

impl LoadOptions {
    /// With the environment of this process.
    pub fn from_process(file: Option<PathBuf>) -> Self {
        // what is not UTF-8 keeps a mark by which `load` refuses it, if it is ours
        let env = std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect();
        Self { file, env, ..Self::default() }
    }
}

/// A configuration that was loaded.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What an operator should know of what was configured elsewhere, in sentences.
    pub notes: Vec<String>,
    values: layer::Merged,
}

/// Reads all layers and judges them.
///
/// # Errors
/// [`ConfigError`] with every fault that was found; exit code 78.
pub fn load(options: &LoadOptions) -> Result<Loaded, ConfigError> {
    let mut faults = Vec::new();
    let mut broken = false;
    let mut file = None;
    let mut from_file = layer::Layer::default();
    match file::find(options) {
        Ok(None) => {}
        Ok(Some(found)) => {
            let parsed = file::parse(&found);
            faults.extend(parsed.faults);
            from_file = parsed.layer;
            broken = parsed.broken;
            file = Some(found.path);
        }
        Err(fault) => {
            faults.push(fault);
            broken = true;
        }
    }
    let (authentik, mut notes) = authentik::layer(options, &mut faults);
    let credentials = environment::credentials(&options.env, &mut faults);
    let ours = environment::layer(&options.env, &mut faults);
    // without the file, half of what is configured would be told as missing
    if broken {
        return Err(ConfigError::new(faults));
    }
    let mut layers = vec![authentik, from_file, credentials, ours];
    layers.insert(0, defaults::layer(&layers, options));
    defaults::let_urls_replace_keys(&mut layers);
    let merged = layer::Merged::new(&layers).and_then(|merged| Ok((merged.deserialize::<raw::RawConfig>()?, merged)));
    let (raw, values) = match merged {
        Ok(both) => both,
        Err(_) => {
            // each value was checked against its type before; the crate's own message could quote one
            faults.push(Fault::new(None, "configuration", "the layers do not fit together"));
            return Err(ConfigError::new(faults));
        }
    };
    let mut check = validate::Check { options, merged: &values, faults: &mut faults };
    match validate::settings(&raw, &mut check) {
        Some(settings) => {
            let local = |target: &TargetOptions| matches!(target.location, Location::File(_));
            if options.env.contains_key("KUBERNETES_SERVICE_HOST") && settings.targets.iter().all(local) {
                notes.push(
                    "backups in a directory of a pod go with it, unless that is a volume: configure an S3 target, or mount one".to_owned(),
                );
            }
            Ok(Loaded { settings, file, notes, values })
        }
        None => Err(ConfigError::new(faults)),
    }
}

/// A whole, valid configuration. Every name that a job uses exists.
#[derive(Debug, Clone)]
pub struct Settings {
    pub jobs: Vec<JobSettings>,
    pub copies: Vec<CopySettings>,
    pub targets: Vec<TargetOptions>,
    pub components: Vec<ComponentOptions>,
    pub encryption: EncryptionOptions,
    pub worker: WorkerSettings,
}

/// One `[jobs.NAME]`.
#[derive(Debug, Clone)]
pub struct JobSettings {
    pub name: JobName,
    /// `None`: only by hand.
    pub schedule: Option<Schedule>,
    /// When the newest complete backup is restored for a trial; `None`: only by hand.
    pub drill: Option<Schedule>,
    /// At least one.
    pub components: Vec<ComponentName>,
    /// At least one.
    pub targets: Vec<TargetName>,
    pub policy: Policy,
    pub codec: Codec,
    pub catch_up: bool,
    pub jitter: Duration,
    /// Of a whole run; `None`: no limit.
    pub timeout: Option<Duration>,
    /// A stream that does not move for this long is cut.
    pub stall_timeout: Duration,
}

/// One `[jobs.NAME]` with `copy_from`.
#[derive(Debug, Clone)]
pub struct CopySettings {
    pub name: JobName,
    pub from: TargetName,
    /// At least one, and not `from`.
    pub targets: Vec<TargetName>,
    pub when: When,
    pub policy: Policy,
    pub catch_up: bool,
    pub jitter: Duration,
    /// Of a whole run; `None`: no limit.
    pub timeout: Option<Duration>,
    /// A stream that does not move for this long is cut.
    pub stall_timeout: Duration,
}

/// When a job that copies runs.
#[derive(Debug, Clone)]
pub enum When {
    Scheduled(Box<Schedule>),
    /// After every run of the worker that wrote to the target that is copied from.
    Follows,
    /// Only by hand.
    Asked,
}

impl Settings {
    /// The same, with every PostgreSQL dumped from the server itself.
    #[must_use]
    pub fn without_replicas(&self) -> Self {
        let mut settings = self.clone();
        for component in &mut settings.components {
            if let ComponentOptions::Postgres(options) = component {
                options.replica = None;
            }
        }
        settings
    }

    /// The jobs that write to a target by themselves.
    pub fn writers(&self, target: &TargetName) -> impl Iterator<Item = &JobName> {
        self.jobs.iter().filter(|job| job.targets.contains(target)).map(|job| &job.name)
    }

    /// The jobs after which one that copies `from` a target has something to do: those that write there, or copy to it.
    pub fn before_copying(&self, from: &TargetName) -> Vec<JobName> {
        let copies = self.copies.iter().filter(|copy| copy.targets.contains(from)).map(|copy| &copy.name);
        self.writers(from).chain(copies).cloned().collect()
    }

    /// The jobs whose backups come to where `copy` copies from, by the way of other targets too; `None`: nothing here makes any, so that nobody
    /// can tell.
    pub fn governed(&self, copy: &CopySettings) -> Option<Vec<JobName>> {
        let (mut sources, mut at) = (vec![&copy.from], 0);
        while let Some(source) = sources.get(at).copied() {
            let before = self.copies.iter().filter(|other| other.targets.contains(source)).map(|other| &other.from);
            let new: Vec<_> = before.filter(|from| !sources.contains(from)).collect();
            sources.extend(new);
            at += 1;
        }
        let jobs: Vec<JobName> = sources.into_iter().flat_map(|source| self.writers(source)).cloned().collect();
        (!jobs.is_empty()).then_some(jobs)
    }
}

/// A component of any kind.
#[derive(Debug, Clone)]
pub enum ComponentOptions {
    Postgres(PostgresOptions),
    Redis(RedisOptions),
    Directory(DirectoryOptions),
    Bucket(BucketOptions),
}

impl ComponentOptions {
    pub fn name(&self) -> &ComponentName {
        match self {
            Self::Postgres(o) => &o.name,
            Self::Redis(o) => &o.name,
            Self::Directory(o) => &o.name,
            Self::Bucket(o) => &o.name,
        }
    }
}

/// `[worker]`.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// `None`: no HTTP.
    pub listen: Option<SocketAddr>,
    pub priority: Priority,
}
