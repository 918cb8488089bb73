//! `[postgres.NAME]`, `[redis.NAME]`, `[directory.NAME]` and `[bucket.NAME]` → [`ComponentOptions`].

use std::collections::BTreeMap;

use ignore::gitignore::GitignoreBuilder;

use super::ComponentOptions;
use super::layer::Origin;
use super::raw::{RawBucket, RawConfig, RawDirectory, RawPostgres, RawRedis};
use super::target;
use super::validate::{Check, filled};
use crate::component::Detail;
use crate::component::bucket::{BucketOptions, BucketPlace};
use crate::component::directory::DirectoryOptions;
use crate::component::postgres::{Jobs, PostgresOptions, Replica};
use crate::component::redis::{Method, RedisOptions};
use crate::secret::Secret;
use crate::storage::TargetOptions;

/// Every component whose keys make one; else the faults are in `check`.
pub(super) fn all(raw: &RawConfig, targets: &[TargetOptions], check: &mut Check<'_>) -> Vec<ComponentOptions> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let kinds = [
        ("postgres", raw.postgres.keys().collect::<Vec<_>>()),
        ("redis", raw.redis.keys().collect()),
        ("directory", raw.directory.keys().collect()),
        ("bucket", raw.bucket.keys().collect()),
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
    all.extend(raw.bucket.iter().filter_map(|(name, o)| Some(ComponentOptions::Bucket(bucket(name, o, targets, check)?))));
    all
}

fn postgres(name: &str, raw: &RawPostgres, check: &mut Check<'_>) -> Option<PostgresOptions> {
    if raw.from_replica && raw.replica_host.is_empty() && !check.is_faulty(&["postgres", name, "replica_host"]) {
        check.fault(&["postgres", name, "from_replica"], "`replica_host` is missing: where is the replica?");
    }
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
        replica: filled(&raw.replica_host).filter(|_| raw.from_replica).map(|host| Replica { host, port: raw.replica_port }),
        databases: raw.databases.clone(),
        globals: raw.globals,
        jobs: raw.jobs.0.parse().map_or(Jobs::Auto, Jobs::Number),
        fingerprint: detail(&raw.fingerprint),
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
    let url = if raw.url.0.is_none() && raw.host.is_empty() { Some(Secret::parse("redis://redis:6379/0")) } else { raw.url.0.clone() };
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
        fingerprint: detail(&raw.fingerprint),
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
        fingerprint: detail(&raw.fingerprint),
    })
}

fn bucket(name: &str, raw: &RawBucket, targets: &[TargetOptions], check: &mut Check<'_>) -> Option<BucketOptions> {
    let keys = raw.as_target();
    let place = target::bucket(name, &keys, check);
    let s3 = target::s3("bucket", name, &keys, check);
    let (bucket, prefix) = place?;
    let place = BucketPlace::new(&bucket, &prefix);
    let options = BucketOptions {
        name: check.name("bucket", name)?,
        place,
        targets: BucketPlace::of_targets(targets, &s3),
        s3,
        fingerprint: detail(&raw.fingerprint),
    };
    if options.is_among_backups() {
        check.fault(&["bucket", name, "url"], "a target stores backups there too: give the target a prefix of its own");
    }
    Some(options)
}

/// How much a fingerprint says; other words are a fault that was told already.
fn detail(word: &str) -> Detail {
    match word {
        "counts" => Detail::Counts,
        "off" => Detail::Off,
        _ => Detail::Full,
    }
}
