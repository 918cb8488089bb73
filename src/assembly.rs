//! From settings to working parts: the one place that knows every kind of component and target.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::component::bucket::{BucketOptions, BucketPlace, BucketRestorer, BucketSource, BucketToDirectory};
use crate::component::directory::{DirectoryOptions, DirectoryRestorer, DirectorySource};
use crate::component::postgres::{PostgresOptions, PostgresRestorer, PostgresSource};
use crate::component::redis::{RedisOptions, RedisRestorer, RedisSource};
use crate::component::{Destination, Detail, Restorer, Source};
use crate::config::{ComponentOptions, CopySettings, JobSettings, Settings};
use crate::encryption::EncryptionError;
use crate::job::Job;
use crate::manifest::Kind;
use crate::mirror::{Mirror, Place};
use crate::name::{ComponentName, TargetName};
use crate::storage::{Access, Location, StorageError, Target, TargetOptions};

/// The source of a component.
pub fn source(options: &ComponentOptions) -> Arc<dyn Source> {
    match options {
        ComponentOptions::Postgres(options) => Arc::new(PostgresSource::new(options.clone())),
        ComponentOptions::Redis(options) => Arc::new(RedisSource::new(options.clone())),
        ComponentOptions::Directory(options) => Arc::new(DirectorySource::new(options.clone())),
        ComponentOptions::Bucket(options) => Arc::new(BucketSource::new(options.clone())),
    }
}

/// The restorer of a component of a backup, which is of that kind, for a destination: what is configured under its name, or what the
/// destination says by itself. `None`: nothing says where it should go.
pub fn restorer(settings: &Settings, name: &ComponentName, kind: Kind, to: &Destination) -> Option<Arc<dyn Restorer>> {
    // a place of its own has nothing to do with what is configured
    let elsewhere = matches!(to, Destination::Throwaway(_));
    let configured = settings.components.iter().find(|options| options.name() == name && !elsewhere);
    let to = match to {
        Destination::Into(text) | Destination::Throwaway(text) => Some(text.as_str()),
        Destination::Configured | Destination::Beside => None,
    };
    Some(match (kind, configured, to) {
        (Kind::Directory | Kind::Bucket, _, Some(to)) if to.starts_with(BUCKET) => {
            Arc::new(BucketRestorer::new(bucket_at(settings, name, to)))
        }
        (Kind::Postgres, Some(ComponentOptions::Postgres(options)), _) => Arc::new(PostgresRestorer::new(options.clone())),
        (Kind::Redis, Some(ComponentOptions::Redis(options)), _) => Arc::new(RedisRestorer::new(options.clone())),
        (Kind::Directory, Some(ComponentOptions::Directory(options)), _) => Arc::new(DirectoryRestorer::new(options.clone())),
        (Kind::Bucket, Some(ComponentOptions::Bucket(options)), None) => Arc::new(BucketRestorer::new(options.clone())),
        (_, _, None) => return None,
        (Kind::Postgres, ..) => Arc::new(PostgresRestorer::new(PostgresOptions::new(name.clone()))),
        (Kind::Redis, ..) => Arc::new(RedisRestorer::new(RedisOptions::new(name.clone()))),
        (Kind::Directory, ..) => Arc::new(DirectoryRestorer::new(DirectoryOptions::new(name.clone(), "/".into()))),
        (Kind::Bucket, ..) => Arc::new(BucketToDirectory::new(name.clone())),
    })
}

/// What the destinations in a bucket begin with.
const BUCKET: &str = "s3://";

/// A bucket that a destination names, with the keys of whatever is configured in it: the component itself, another, or a target.
fn bucket_at(settings: &Settings, name: &ComponentName, to: &str) -> BucketOptions {
    let bucket = to[BUCKET.len()..].split('/').next().unwrap_or_default();
    let buckets = settings.components.iter().filter_map(|options| match options {
        ComponentOptions::Bucket(options) => Some(options),
        _ => None,
    });
    let (own, others): (Vec<_>, Vec<_>) = buckets.partition(|options| options.name == *name);
    let mut same = own.into_iter().chain(others).filter(|options| options.place.bucket == bucket);
    let known = || {
        let inside = |target: &&TargetOptions| matches!(&target.location, Location::S3 { bucket: other, .. } if other == bucket);
        settings.targets.iter().find(inside).and_then(TargetOptions::s3).cloned().unwrap_or_default()
    };
    let place = BucketPlace::new(bucket, "");
    match same.next() {
        Some(options) => BucketOptions { name: name.clone(), place, ..options.clone() },
        None => {
            let s3 = known();
            let targets = BucketPlace::of_targets(&settings.targets, &s3);
            BucketOptions { name: name.clone(), place, s3, targets, fingerprint: Detail::Full }
        }
    }
}

/// Opens the targets that are named; secrets are read now.
pub async fn targets<'a>(
    settings: &'a Settings,
    names: impl IntoIterator<Item = &'a TargetName>,
    access: Access,
) -> Vec<(TargetName, Result<Target, StorageError>)> {
    let options = |name: &TargetName| -> Option<&TargetOptions> { settings.targets.iter().find(|t| t.name == *name) };
    let open = async |options: &TargetOptions| {
        // what a job allows its uploads, its downloads may take too
        let stalls = settings.jobs.iter().filter(|job| job.targets.contains(&options.name)).map(|job| job.stall_timeout);
        let copies = settings.copies.iter().filter(|copy| copy.from == options.name || copy.targets.contains(&options.name));
        let longest = stalls.chain(copies.map(|copy| copy.stall_timeout)).max();
        (options.name.clone(), Target::open_in_time(options, access, longest).await)
    };
    let known: Vec<&TargetOptions> = names.into_iter().filter_map(options).collect();
    futures_util::future::join_all(known.into_iter().map(open)).await
}

/// A job for one run.
///
/// # Errors
/// When what it is to encrypt with cannot be read: then it must not run.
pub async fn job(settings: &Settings, job: &JobSettings) -> Result<Job, EncryptionError> {
    let component = |name: &ComponentName| settings.components.iter().find(|c| c.name() == name);
    Ok(Job {
        name: job.name.clone(),
        sources: job.components.iter().filter_map(component).map(source).collect(),
        targets: targets(settings, &job.targets, Access::Write).await,
        policy: job.policy,
        codec: job.codec,
        lock: settings.encryption.lock()?,
        authenticity: settings.encryption.authenticity()?,
        stall_timeout: job.stall_timeout,
        timeout: job.timeout,
    })
}

/// A job that copies, for one run.
///
/// # Errors
/// When the target that it copies from cannot be opened.
pub async fn mirror(settings: &Settings, copy: &CopySettings, access: Access) -> Result<Mirror, StorageError> {
    let trust = settings.encryption.trust();
    let catalog = |target: Target| Catalog::new(target).with(&trust);
    let from = match targets(settings, [&copy.from], Access::Read).await.pop().map(|(_, target)| target) {
        Some(Ok(target)) => Some(catalog(target)),
        Some(Err(error)) if !error.is_not_found() => return Err(error),
        _ => None,
    };
    let to = targets(settings, &copy.targets, access).await.into_iter();
    let to = to.map(|(name, target)| Place { catalog: target.map(catalog), writers: settings.writers(&name).cloned().collect() });
    let (source, governed) = (copy.from.clone(), settings.governed(copy));
    Ok(Mirror { source, from, governed, to: to.collect(), policy: copy.policy, timeout: copy.timeout })
}
