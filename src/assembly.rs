//! From settings to working parts: the one place that knows every kind of component and target.

use std::sync::Arc;

use crate::component::directory::{DirectoryOptions, DirectoryRestorer, DirectorySource};
use crate::component::postgres::{PostgresOptions, PostgresRestorer, PostgresSource};
use crate::component::redis::{RedisOptions, RedisRestorer, RedisSource};
use crate::component::{Restorer, Source};
use crate::config::{ComponentOptions, JobSettings, Settings};
use crate::job::Job;
use crate::manifest::Kind;
use crate::name::{ComponentName, TargetName};
use crate::storage::{Access, StorageError, Target, TargetOptions};

/// The source of a component.
pub fn source(options: &ComponentOptions) -> Arc<dyn Source> {
    match options {
        ComponentOptions::Postgres(options) => Arc::new(PostgresSource::new(options.clone())),
        ComponentOptions::Redis(options) => Arc::new(RedisSource::new(options.clone())),
        ComponentOptions::Directory(options) => Arc::new(DirectorySource::new(options.clone())),
    }
}

/// The restorer of a component that is configured and of the kind that the backup holds.
pub fn restorer(options: &ComponentOptions, kind: Kind) -> Option<Arc<dyn Restorer>> {
    match (options, kind) {
        (ComponentOptions::Postgres(options), Kind::Postgres) => Some(Arc::new(PostgresRestorer::new(options.clone()))),
        (ComponentOptions::Redis(options), Kind::Redis) => Some(Arc::new(RedisRestorer::new(options.clone()))),
        (ComponentOptions::Directory(options), Kind::Directory) => Some(Arc::new(DirectoryRestorer::new(options.clone()))),
        _ => None,
    }
}

/// The restorer of a component that this host's configuration does not know; its destination must be given.
pub fn unconfigured_restorer(name: ComponentName, kind: Kind) -> Arc<dyn Restorer> {
    match kind {
        Kind::Postgres => Arc::new(PostgresRestorer::new(PostgresOptions::new(name))),
        Kind::Redis => Arc::new(RedisRestorer::new(RedisOptions::new(name))),
        Kind::Directory => Arc::new(DirectoryRestorer::new(DirectoryOptions::new(name, "/".into()))),
    }
}

/// Opens the targets that are named; secrets are read now.
pub fn targets<'a>(
    settings: &'a Settings,
    names: impl IntoIterator<Item = &'a TargetName>,
    access: Access,
) -> Vec<(TargetName, Result<Target, StorageError>)> {
    let options = |name: &TargetName| -> Option<&TargetOptions> { settings.targets.iter().find(|t| t.name == *name) };
    let open = |options: &TargetOptions| {
        // what a job allows its uploads, its downloads may take too
        let stalls = settings.jobs.iter().filter(|job| job.targets.contains(&options.name)).map(|job| job.stall_timeout);
        let target = Target::open(options, access);
        match stalls.max() {
            Some(stall) => target.map(|target| target.with_stall(stall)),
            None => target,
        }
    };
    names.into_iter().filter_map(options).map(|o| (o.name.clone(), open(o))).collect()
}

/// A job for one run.
pub fn job(settings: &Settings, job: &JobSettings) -> Job {
    let component = |name: &ComponentName| settings.components.iter().find(|c| c.name() == name);
    Job {
        name: job.name.clone(),
        sources: job.components.iter().filter_map(component).map(source).collect(),
        targets: targets(settings, &job.targets, Access::Write),
        policy: job.policy,
        codec: job.codec,
        stall_timeout: job.stall_timeout,
        timeout: job.timeout,
    }
}
