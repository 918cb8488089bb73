//! Puts Redis back: into the running server, into another one, or into a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Holds, Record, look};
use super::compat::Server;
use super::control::{Control, text};
use super::endpoint::Endpoint;
use super::file::{self, FileStaged, free, howto};
use super::fingerprint::{Expected, Fingerprint, Found};
use super::info::Info;
use super::keys::KeyCounter;
use super::live::{LiveStaged, RdbOpener};
use super::master::History;
use super::rdb::Verifier;
use super::replication::probe;
use super::{RedisError, RedisOptions, abandoned, keep};
use crate::component::{
    ByteStream, ComponentError, Destination, Intent, Left, Plan, Progress, RestoreOptions, Restored, Restorer, RunContext, Staged,
    StoredComponent, state,
};
use crate::manifest::{self, Format};
use crate::name::{ComponentName, RestoreId};

const CHUNK: usize = 256 << 10;

/// How long a server may take nothing of what it is sent, unless a job says.
const STALL: Duration = Duration::from_secs(600);

/// Restores one component.
#[derive(Debug, Clone)]
pub struct RedisRestorer {
    options: RedisOptions,
}

/// A destination, parsed.
enum Place {
    Live(Endpoint),
    File(PathBuf),
}

impl RedisRestorer {
    pub fn new(options: RedisOptions) -> Self {
        Self { options }
    }

    fn place(&self, to: &Destination) -> Result<Place, RedisError> {
        let into = match to {
            Destination::Configured => return Ok(Place::Live(Endpoint::configured(&self.options)?)),
            Destination::Into(into) | Destination::Throwaway(into) => into,
            Destination::Beside => return Err(RedisError::Destination("a place beside the configured server".to_owned())),
        };
        match into.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => {
                let path = percent_decode_str(path).decode_utf8().map_err(|_| RedisError::Destination("that file".to_owned()))?;
                Ok(Place::File(PathBuf::from(path.as_ref())))
            }
            Some(("redis" | "rediss" | "valkey" | "valkeys" | "unix", _)) => {
                let mut endpoint = Endpoint::parse(into)?;
                endpoint.ca_file.clone_from(&self.options.ca_file);
                Ok(Place::Live(endpoint))
            }
            // The rest may hold a password.
            Some((scheme, _)) => Err(RedisError::Destination(format!("{scheme}://…"))),
            None => Err(RedisError::Destination("something that is no URL".to_owned())),
        }
    }
}

#[async_trait]
impl Restorer for RedisRestorer {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    async fn plan(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Plan, ComponentError> {
        let noted = noted(part).await?;
        let part = &part.component;
        let artifact = rdb_of(part)?;
        let (steps, replaces) = match self.place(&options.to)? {
            Place::File(path) => {
                free(&path).await?;
                let mut steps = vec![format!("Write {} bytes to {} (a new file, mode 0600).", artifact.raw_bytes, path.display())];
                steps.extend(howto(&path));
                (steps, false)
            }
            Place::Live(endpoint) => live_steps(&endpoint, part, noted.as_ref(), options).await?,
        };
        Ok(Plan { steps, replaces, ..Plan::default() })
    }

    async fn intent(&self, _: &manifest::Component, options: &RestoreOptions, id: RestoreId) -> Result<Intent, ComponentError> {
        Ok(match self.place(&options.to)? {
            Place::File(path) => {
                Intent { places: vec![format!("file {}", path.display())], record: json!(file::Record::intent(&path, id)) }
            }
            Place::Live(endpoint) => {
                let record = Record { kept: keep::path(&self.options.name, id), run: None, diskless: None };
                Intent { places: vec![format!("Redis {}", endpoint.display())], record: json!(record) }
            }
        })
    }

    async fn adopt(&self, left: &Left) -> Result<Box<dyn Staged>, ComponentError> {
        let record = left.record.clone();
        let endpoint = match self.place(&left.options.to)? {
            Place::File(_) => {
                let record = serde_json::from_value(record).map_err(RedisError::Journal)?;
                return Ok(Box::new(FileStaged::adopt(record).await?));
            }
            Place::Live(endpoint) => endpoint,
        };
        let record: Record = serde_json::from_value(record).map_err(RedisError::Journal)?;
        let history = History::of(left.id);
        let holds = match left.progress {
            Progress::Staging | Progress::Staged => Holds::Old,
            Progress::Switching => {
                look(&endpoint, &history, &record).await?;
                adopt::free(&endpoint, &record).await?;
                // what it was told before it was freed it may still have done
                look(&endpoint, &history, &record).await?
            }
        };
        let rdb = |stored: &StoredComponent| -> Result<(RdbOpener, u64), RedisError> {
            let artifact = rdb_of(&stored.component)?;
            Ok((opener(stored, artifact), artifact.raw_bytes))
        };
        let (open, length) = left.stored.as_ref().map(rdb).transpose()?.unzip();
        Ok(Box::new(LiveStaged {
            endpoint,
            open,
            length: length.unwrap_or_default(),
            expected: match &left.stored {
                Some(stored) => expected(stored).await?,
                None => Expected::default(),
            },
            keep_old: left.options.keep_old,
            cancel: CancellationToken::new(),
            history,
            record,
            holds,
            safety: left.safety.as_ref().map(rdb).transpose()?,
            stall: left.stall.unwrap_or(STALL),
            stranded: false,
            outcome: Restored::default(),
        }))
    }

    async fn stage(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError> {
        let staging = self.build(part, options, run);
        run.cancel.run_until_cancelled(staging).await.ok_or(ComponentError::Cancelled)?
    }
}

impl RedisRestorer {
    async fn build(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError> {
        let noted = noted(part).await?;
        let artifact = rdb_of(&part.component)?.clone();
        let open = opener(part, &artifact);
        let endpoint = match self.place(&options.to)? {
            Place::File(path) => {
                let stream = open().await.map_err(RedisError::Stored)?;
                let mut staged = FileStaged::write(path, run.id, stream).await?;
                match read_back(&staged, noted.as_ref()).await {
                    Ok(compared) => staged.compared = Some(compared),
                    Err(error) => {
                        Box::new(staged).undo().await?;
                        return Err(error);
                    }
                }
                return Ok(Box::new(staged));
            }
            Place::Live(endpoint) => endpoint,
        };
        let mut control = Control::open(&endpoint).await?;
        let Fit { info, abandoned } = fit(&mut control, &part.component, noted.as_ref()).await?;
        if abandoned {
            abandoned::free(&mut control).await?;
        }
        let diskless = control.config("repl-diskless-load").await?;
        drop(control);
        let found = prove(open().await.map_err(RedisError::Stored)?).await?;
        let summary = found.summary;
        if summary.bytes != artifact.raw_bytes {
            return Err(RedisError::Length { bytes: summary.bytes, noted: artifact.raw_bytes }.into());
        }
        compared(noted.as_ref(), &found)?;
        // Both a rehearsal of what `publish` does, and the surest word on what this server reads: it is what it writes.
        let record = Record { kept: keep::path(&self.options.name, run.id), run: info.text("run_id").map(str::to_owned), diskless };
        let rehearsed = keep::rehearse(&endpoint, &record.kept).await?;
        loads(&info, &part.component, summary.version, Some(rehearsed.version))?;
        Ok(Box::new(LiveStaged {
            endpoint,
            open: Some(open),
            length: summary.bytes,
            expected: Expected { rdb_version: summary.version, keys: found.keys, noted: noted_keys(&part.component) },
            keep_old: options.keep_old,
            cancel: run.cancel.clone(),
            history: History::of(run.id),
            record,
            holds: Holds::Old,
            safety: None,
            stall: run.stall.unwrap_or(STALL),
            stranded: false,
            outcome: Restored::default(),
        }))
    }
}

/// Opens the component's RDB as often as it is called.
fn opener(stored: &StoredComponent, artifact: &manifest::Artifact) -> RdbOpener {
    let (open, artifact) = (stored.open.clone(), artifact.clone());
    Arc::new(move || open(&artifact))
}

/// Reads the whole stream: its hash is proved by its end, its form here.
async fn prove(mut stream: ByteStream) -> Result<Found, RedisError> {
    let (mut verifier, mut counter) = (Verifier::default(), KeyCounter::default());
    let mut chunk = Vec::with_capacity(CHUNK);
    while stream.read_buf(&mut chunk).await.map_err(RedisError::Stored)? > 0 {
        verifier.update(&chunk).map_err(RedisError::Damaged)?;
        counter.update(&chunk);
        chunk.clear();
    }
    let summary = verifier.finish().map_err(RedisError::Damaged)?;
    Ok(Found { summary, keys: counter.finish() })
}

async fn noted(part: &StoredComponent) -> Result<Option<Fingerprint>, ComponentError> {
    let noted = part.fingerprint().await.map_err(ComponentError::Fingerprint)?;
    noted.map_or(Ok(None), |noted| Fingerprint::read(&noted))
}

/// What a server should hold of a backup whose RDB is not read before.
async fn expected(part: &StoredComponent) -> Result<Expected, ComponentError> {
    let keys = noted(part).await?.and_then(|noted| noted.keys());
    let rdb_version = part.component.facts.get("rdb_version").and_then(serde_json::Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Ok(Expected {
        rdb_version: rdb_version.unwrap_or_default(),
        keys: keys.ok_or_else(|| "its fingerprint holds no counts".to_owned()),
        noted: noted_keys(&part.component),
    })
}

/// Compares what lies on the disk now, rather than what came.
async fn read_back(staged: &FileStaged, noted: Option<&Fingerprint>) -> Result<String, ComponentError> {
    compared(noted, &prove(staged.written().await?).await?)
}

/// Whether an RDB is the one that was noted, as a sentence.
fn compared(noted: Option<&Fingerprint>, found: &Found) -> Result<String, ComponentError> {
    let Some(noted) = noted else { return Ok("Not compared: the backup holds no fingerprint that is known here.".to_owned()) };
    let differences = noted.differences(found);
    if !differences.is_empty() {
        return Err(ComponentError::Differs(differences));
    }
    Ok(match &found.keys {
        Ok(keys) => format!("Compared with the backup's fingerprint: {}.", keys.sentence()),
        Err(reason) => format!("Compared with the backup's fingerprint, but for the keys, which cannot be counted: {reason}."),
    })
}

fn rdb_of(part: &manifest::Component) -> Result<&manifest::Artifact, RedisError> {
    part.artifacts.iter().find(|a| a.format == Format::Rdb).ok_or(RedisError::NoArtifact)
}

fn noted_keys(part: &manifest::Component) -> u64 {
    let counts = part.facts.get("keys").and_then(|keys| keys.as_object());
    counts.map(|keys| keys.values().filter_map(serde_json::Value::as_u64).fold(0, u64::saturating_add)).unwrap_or_default()
}

async fn live_steps(
    endpoint: &Endpoint,
    part: &manifest::Component,
    noted: Option<&Fingerprint>,
    options: &RestoreOptions,
) -> Result<(Vec<String>, bool), ComponentError> {
    let mut control = Control::open(endpoint).await?;
    let Fit { info, abandoned } = fit(&mut control, part, noted).await?;
    // a replica of nobody has no data to give away
    if !abandoned {
        probe(endpoint, info.server().number().0).await?;
    }
    let keys: u64 = info.keys().values().sum();
    let at = &control.at;
    let mut steps = Vec::new();
    if abandoned {
        steps.push(format!("First make {at} a master again: a restore that was killed has left it a replica of nobody, without writes."));
    }
    steps.extend([
        format!("Read the RDB once and check it; keep what {} at {at} holds as an RDB in {}.", info.server(), state::directory().display()),
        format!(
            "Replace all {keys} keys of all databases of {at} by the backup's {}; it fetches the RDB from this program at {}.",
            noted_keys(part),
            control.local
        ),
        "Meanwhile its clients may read the old data, writes get READONLY errors, and while it loads everything gets LOADING errors."
            .to_owned(),
    ]);
    if info.number("connected_slaves").unwrap_or(0) > 0 {
        steps.push(format!("{at} has replicas: they follow, each by a full resynchronisation."));
    }
    let memory = part.facts.get("used_memory").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if info.number("maxmemory").is_some_and(|max| max > 0 && max < memory) {
        steps.push(format!("The data took {memory} bytes of memory, more than maxmemory of {at}: it may evict keys, or refuse writes."));
    }
    steps.extend(abandoned::kept().iter().map(|path| {
        format!(
            "Note: {} is left from an earlier restore and may hold the only copy of old data; remove it when it is not needed.",
            path.display()
        )
    }));
    if options.keep_old {
        steps.push("Leave the RDB of the old content there.".to_owned());
    }
    Ok((steps, keys > 0))
}

/// A server that would take the RDB.
struct Fit {
    info: Info,
    /// It has to be freed before.
    abandoned: bool,
}

/// Refuses a server that would not take the RDB, or would come to harm by it. Changes nothing.
async fn fit(control: &mut Control, part: &manifest::Component, noted: Option<&Fingerprint>) -> Result<Fit, RedisError> {
    let info = control.info().await?;
    let at = control.at.clone();
    if info.is_cluster() {
        return Err(RedisError::Cluster { at });
    }
    let abandoned = abandoned::is_abandoned(control, &info).await?;
    if let Some(master) = info.master().filter(|_| !abandoned) {
        return Err(RedisError::Replica { at, master });
    }
    if let Some(rdb) = part.facts.get("rdb_version").and_then(serde_json::Value::as_u64) {
        loads(&info, part, u32::try_from(rdb).unwrap_or(u32::MAX), None)?;
    }
    // a server ends itself over a database that it is not configured to have, and has dropped its data by then
    let highest = highest_database(part, noted);
    let databases = control.config("databases").await?.and_then(|n| n.parse::<u32>().ok());
    if let (Some(highest), Some(databases)) = (highest, databases)
        && highest >= databases
    {
        return Err(RedisError::Databases { at, databases, highest });
    }
    let has = info.modules();
    let modules = part.facts.get("modules").and_then(|m| m.as_array()).into_iter().flatten().filter_map(serde_json::Value::as_str);
    let missing: Vec<&str> = modules.filter(|needed| !has.iter().any(|name| name == needed)).collect();
    if !missing.is_empty() {
        return Err(RedisError::Modules { at, modules: missing.join(", ") });
    }
    if control.config("tls-replication").await?.as_deref() == Some("yes") {
        return Err(RedisError::TlsReplication { at });
    }
    // A Sentinel names its connections so (sentinel.c, `sentinelSetClientName`).
    let watched = control.call(&["CLIENT", "LIST"], &[]).await.is_ok_and(|list| text(&list).contains(" name=sentinel-"));
    if watched {
        return Err(RedisError::Sentinel { at });
    }
    Ok(Fit { info, abandoned })
}

/// By what was counted, else by what the server said of itself.
fn highest_database(part: &manifest::Component, noted: Option<&Fingerprint>) -> Option<u32> {
    if let Some(keys) = noted.and_then(Fingerprint::keys) {
        return keys.keys.keys().next_back().copied();
    }
    part.facts.get("keys")?.as_object()?.keys().filter_map(|database| database.parse().ok()).max()
}

fn loads(info: &Info, part: &manifest::Component, rdb: u32, writes: Option<u32>) -> Result<(), RedisError> {
    let server = info.server();
    if server.loads(rdb, writes) {
        return Ok(());
    }
    let fact = |key: &str| part.facts.get(key).and_then(|fact| fact.as_str());
    let wrote = match (fact("server"), fact("server_version")) {
        (Some("valkey"), Some(version)) => Server::valkey(version).to_string(),
        (Some(_), Some(version)) => Server::redis(version).to_string(),
        _ => "another server".to_owned(),
    };
    Err(RedisError::TooNew { server: server.to_string(), rdb, wrote, reads: server.reads(writes) })
}
