//! Redis as a source: one artifact, `dump.rdb`.

use std::io::ErrorKind;
use std::path::Path;

use async_trait::async_trait;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::bgsave::fresh_file;
use super::control::Control;
use super::endpoint::Endpoint;
use super::fingerprint::Fingerprint;
use super::info::Info;
use super::rdb::RdbReader;
use super::replication::{Transfer, probe, resync};
use super::{Method, RedisError, RedisOptions};
use crate::component::{Artifact, ByteStream, ComponentError, Detail, Notes, RunContext, Source};
use crate::manifest::{Facts, Format, Kind};
use crate::name::ComponentName;

/// Reads one server. Connections are made anew for every run.
#[derive(Debug, Clone)]
pub struct RedisSource {
    options: RedisOptions,
}

impl RedisSource {
    pub fn new(options: RedisOptions) -> Self {
        Self { options }
    }

    /// Connects and asks; a server that nobody asked for by name may be absent.
    async fn survey(&self) -> Result<(Endpoint, Control, Info), ComponentError> {
        let endpoint = Endpoint::configured(&self.options)?;
        let mut control = match Control::open(&endpoint).await {
            Err(error @ RedisError::Connect { .. }) if !self.options.required => {
                return Err(ComponentError::Absent(format!("no Redis answers at {}: {}", endpoint.display(), root(&error))));
            }
            other => other?,
        };
        let info = control.info().await?;
        if info.is_cluster() {
            return Err(RedisError::Cluster { at: control.at.clone() }.into());
        }
        if self.options.method == Method::Bgsave && self.options.rdb_path.is_none() {
            return Err(RedisError::NoRdbPath.into());
        }
        Ok((endpoint, control, info))
    }

    /// Whether replication is allowed, as far as it can be told without starting it.
    async fn probe(&self, endpoint: &Endpoint, info: &Info) -> Result<&'static str, RedisError> {
        if self.options.method == Method::Bgsave {
            return self.readable().await.map(|()| "bgsave");
        }
        match probe(endpoint, info.server().number().0).await {
            Ok(_) => Ok("replication"),
            Err(refused @ RedisError::Refused { .. }) => {
                self.fallback(refused)?;
                self.readable().await.map(|()| "bgsave")
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the server's file can be read; it may not be there yet, but its directory is.
    async fn readable(&self) -> Result<(), RedisError> {
        let path = self.options.rdb_path.as_deref().ok_or(RedisError::NoRdbPath)?;
        match tokio::fs::File::open(path).await {
            Err(e) if e.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => Ok(()),
            Err(source) => Err(RedisError::File { action: "read the RDB", path: path.to_owned(), source }),
            Ok(_) => Ok(()),
        }
    }

    /// Whether the BGSAVE way is open after that refusal.
    fn fallback(&self, refused: RedisError) -> Result<(), RedisError> {
        match (refused, self.options.method, &self.options.rdb_path) {
            (RedisError::Refused { reply, .. }, Method::Auto, Some(_)) if !passing(&reply) => Ok(()),
            (RedisError::Refused { at, reply, .. }, Method::Auto, None) if !passing(&reply) => Err(RedisError::NoWay { at, reply }),
            (error, ..) => Err(error),
        }
    }
}

/// A refusal that says nothing about what is allowed.
fn passing(reply: &str) -> bool {
    ["LOADING", "NOMASTERLINK", "NOAUTH", "MASTERDOWN"].iter().any(|code| reply.starts_with(code))
}

fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[async_trait]
impl Source for RedisSource {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    fn kind(&self) -> Kind {
        Kind::Redis
    }

    async fn check(&self) -> Result<Facts, ComponentError> {
        let (endpoint, _control, info) = self.survey().await?;
        let mut facts = facts(&info);
        facts.insert("method".to_owned(), self.probe(&endpoint, &info).await?.into());
        Ok(facts)
    }

    async fn open(&self, run: &RunContext) -> Result<Vec<Artifact>, ComponentError> {
        let cancelled = run.cancel.clone();
        let (endpoint, control, info) = cancelled.run_until_cancelled(self.survey()).await.ok_or(ComponentError::Cancelled)??;
        for (key, value) in facts(&info) {
            run.notes.fact(&key, value);
        }
        if info.is("master_link_status", "down") {
            run.notes.warn(format!("Redis at {} is a replica whose link to its master is down: its data may be old.", control.at));
        }
        // Mostly an upper bound: an RDB is denser than the memory that it describes.
        let estimate = info.number("used_memory_dataset").or_else(|| info.number("used_memory"));
        let source = self.clone();
        let (cancel, notes) = (run.cancel.clone(), run.notes.clone());
        let open = async move {
            let stream = source.stream(endpoint, &info, &notes);
            until(&cancel, stream).await
        };
        Ok(vec![Artifact { file: "dump.rdb".to_owned(), format: Format::Rdb, database: None, estimate, open: open.boxed() }])
    }
}

async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T, RedisError>>) -> Result<T, ComponentError> {
    Ok(cancel.run_until_cancelled(work).await.ok_or(ComponentError::Cancelled)??)
}

impl RedisSource {
    /// Starts the RDB by the configured method.
    async fn stream(&self, endpoint: Endpoint, info: &Info, notes: &Notes) -> Result<ByteStream, RedisError> {
        if self.options.method != Method::Bgsave {
            match self.replicate(&endpoint, info, notes).await {
                Err(refused @ RedisError::Refused { command: "PSYNC" | "REPLCONF", .. }) => self.fallback(refused)?,
                other => return other,
            }
        }
        let path = self.options.rdb_path.as_deref().ok_or(RedisError::NoRdbPath)?;
        let mut control = Control::open(&endpoint).await?;
        let (file, _) = fresh_file(&mut control, path).await?;
        notes.fact("method", "bgsave");
        Ok(verified(file, notes, self.options.fingerprint))
    }

    async fn replicate(&self, endpoint: &Endpoint, info: &Info, notes: &Notes) -> Result<ByteStream, RedisError> {
        let known_bad = info.is("rdb_last_bgsave_status", "err");
        let resync = match resync(endpoint, if known_bad { Transfer::Diskless } else { Transfer::Disk }).await {
            // Its disk may have turned out to be full or not writable. From its memory it can still send.
            Err(RedisError::NoRdb { .. }) if !known_bad => resync(endpoint, Transfer::Diskless).await?,
            other => other?,
        };
        notes.fact("method", "replication");
        notes.fact("replication_id", resync.replication_id);
        notes.fact("replication_offset", resync.offset.parse::<u64>().unwrap_or_default());
        Ok(verified(resync.stream, notes, self.options.fingerprint))
    }
}

fn verified(stream: impl tokio::io::AsyncRead + Send + Unpin + 'static, notes: &Notes, detail: Detail) -> ByteStream {
    let notes = notes.clone();
    Box::new(RdbReader::new(stream, move |found| {
        notes.fact("rdb_version", found.summary.version);
        if let Some(fingerprint) = Fingerprint::of(&found, detail).and_then(|noted| noted.noted()) {
            notes.fingerprint(fingerprint);
        }
        if let Err(reason) = &found.keys {
            tracing::info!("the keys of the RDB cannot be counted: {reason}");
        }
        if !found.summary.checksum {
            notes.warn("The RDB carries no checksum of its own (rdbchecksum no): damage inside the server cannot be told.");
        }
    }))
}

/// What a restore, or a reader of the manifest, wants to know.
fn facts(info: &Info) -> Facts {
    let server = info.server();
    let keys: serde_json::Map<String, Value> = info.keys().into_iter().map(|(db, keys)| (db.to_string(), keys.into())).collect();
    let mut facts = Facts::from([
        ("server".to_owned(), server.family().into()),
        ("server_version".to_owned(), server.version().into()),
        ("role".to_owned(), info.text("role").unwrap_or("unknown").into()),
        ("keys".to_owned(), Value::Object(keys)),
        ("aof_enabled".to_owned(), info.is("aof_enabled", "1").into()),
        ("modules".to_owned(), json!(info.modules())),
    ]);
    for (fact, key) in [("used_memory", "used_memory"), ("functions", "number_of_functions")] {
        facts.extend(info.number(key).map(|n| (fact.to_owned(), n.into())));
    }
    facts
}
