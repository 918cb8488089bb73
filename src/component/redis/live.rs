//! A restore into a running server: we are its master for the time of one full resynchronisation.
//!
//! Until the last byte came, the server keeps what it has; then it drops that and loads. So everything that can be known is checked before,
//! and what it has is kept as an RDB, to be given back the same way.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::adopt::{Holds, Record, free};
use super::bgsave::persist;
use super::control::{Control, POLL};
use super::endpoint::Endpoint;
use super::fingerprint::{Expected, Held};
use super::info::Info;
use super::keys::Keys;
use super::master::{History, Master, Replica};
use super::{RedisError, abandoned, keep};
use crate::component::{ByteStream, ComponentError, Restored, Staged};

/// How long a server has for connecting back. It tries every second.
const CONNECT_BACK: Duration = Duration::from_secs(30);
/// Questions in a row that may fail while it loads.
const PATIENCE: u32 = 10;
/// What is changed for the time of the transfer and set back afterwards.
const BORROWED: [&str; 3] = ["repl-diskless-load", "masteruser", "masterauth"];

/// Opens the RDB to load; it ends only if its hash matched.
pub type RdbOpener = Arc<dyn Fn() -> BoxFuture<'static, io::Result<ByteStream>> + Send + Sync>;

/// A checked RDB that waits to be loaded by a running server.
pub struct LiveStaged {
    pub endpoint: Endpoint,
    /// The RDB to load; `None` where only the old state can come back.
    pub open: Option<RdbOpener>,
    /// Of the RDB, in bytes.
    pub length: u64,
    /// What the server should hold then.
    pub expected: Expected,
    pub keep_old: bool,
    pub cancel: CancellationToken,
    pub history: History,
    pub record: Record,
    pub holds: Holds,
    /// A copy of the old content that is not on this host, and its length in bytes.
    pub safety: Option<(RdbOpener, u64)>,
    /// How long it may take nothing of what it is sent.
    pub stall: Duration,
    /// It was not set back to its own master.
    pub stranded: bool,
    pub outcome: Restored,
}

#[async_trait]
impl Staged for LiveStaged {
    fn record(&self) -> Value {
        json!(self.record)
    }

    async fn publish(&mut self) -> Result<(), ComponentError> {
        if self.holds == Holds::New {
            self.save().await;
            return Ok(());
        }
        let at = self.endpoint.display();
        let Some(open) = self.open.clone() else { return Err(RedisError::NoArtifact.into()) };
        if self.holds == Holds::Old {
            // Hours may have passed since it was staged.
            let keeping = keep::keep(&self.endpoint, &self.record.kept);
            self.cancel.run_until_cancelled(keeping).await.ok_or(ComponentError::Cancelled)??;
        }
        let rdb = Rdb { stream: open(), length: self.length, stall: self.stall };
        match load(&self.endpoint, rdb, Some(&self.expected), &self.history, &self.cancel).await {
            Ok(compared) => {
                self.outcome.done.push(format!("Redis at {at} loaded the RDB: {compared}."));
                self.holds = Holds::New;
            }
            Err(Failed { error, dropped: false, stranded }) => {
                self.stranded = stranded;
                return Err(error);
            }
            Err(Failed { error, dropped: true, .. }) => {
                self.holds = Holds::Unknown;
                self.give_back().await?;
                return Err(error);
            }
        }
        self.save().await;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Restored, ComponentError> {
        let kept = &self.record.kept;
        if self.keep_old && keep::kept(kept).await?.is_some() {
            self.outcome.done.push(format!("What it held before is kept in {}.", kept.display()));
        } else {
            keep::remove(kept).await?;
        }
        Ok(std::mem::take(&mut self.outcome))
    }

    async fn undo(mut self: Box<Self>) -> Result<(), ComponentError> {
        if self.stranded {
            free(&self.endpoint, &self.record).await?;
        }
        if self.holds != Holds::Old {
            self.give_back().await?;
        }
        Ok(keep::remove(&self.record.kept).await?)
    }
}

impl LiveStaged {
    async fn save(&mut self) {
        if let Err(error) = save(&self.endpoint).await {
            self.outcome.warnings.push(format!(
                "Redis at {} holds the restored data but could not save it to its disk ({error}): have it saved before it is restarted.",
                self.endpoint.display()
            ));
        }
    }

    /// Loads what was kept; where that fails, its file stays. Not to be cancelled: it is what brings the old data back.
    async fn give_back(&mut self) -> Result<(), RedisError> {
        let at = self.endpoint.display();
        let path = self.record.kept.clone();
        let failed = |source| RedisError::NotGivenBack { at: at.clone(), kept: path.clone(), source: Box::new(source) };
        let (open, length) = match (keep::kept(&path).await?, &self.safety) {
            (Some(length), _) => {
                let path = path.clone();
                let open: RdbOpener = Arc::new(move || {
                    let path = path.clone();
                    Box::pin(async move { Ok(Box::new(tokio::fs::File::open(path).await?) as ByteStream) })
                });
                (open, length)
            }
            (None, Some((open, length))) => {
                tracing::warn!(at, "what it held right before is not on this host: the safety backup is loaded");
                (open.clone(), *length)
            }
            (None, None) => return Err(RedisError::Lost { at, kept: path }),
        };
        // under a history that means nothing: it holds the old data then
        let rdb = Rdb { stream: open(), length, stall: self.stall };
        let given = match load(&self.endpoint, rdb, None, &History::random(), &CancellationToken::new()).await {
            Ok(_) => save(&self.endpoint).await,
            Err(Failed { error: ComponentError::Redis(error), .. }) => Err(error),
            Err(Failed { error, .. }) => Err(RedisError::NotLoaded { at: at.clone(), reason: error.to_string() }),
        };
        given.map_err(failed)?;
        self.holds = Holds::Old;
        Ok(())
    }
}

async fn save(endpoint: &Endpoint) -> Result<(), RedisError> {
    persist(&mut Control::open(endpoint).await?).await
}

/// What a server is to load.
struct Rdb {
    stream: BoxFuture<'static, io::Result<ByteStream>>,
    /// In bytes.
    length: u64,
    stall: Duration,
}

/// A load that failed.
struct Failed {
    error: ComponentError,
    /// The server had the whole RDB, so it may have dropped what it held.
    dropped: bool,
    /// It did not answer when it was to be set back.
    stranded: bool,
}

impl From<RedisError> for Failed {
    fn from(error: RedisError) -> Self {
        Self { error: error.into(), dropped: false, stranded: false }
    }
}

/// Has the server load that RDB. Returns what was compared, as a sentence. Whatever happens, it is a master again afterwards.
async fn load(
    endpoint: &Endpoint,
    rdb: Rdb,
    expected: Option<&Expected>,
    history: &History,
    cancel: &CancellationToken,
) -> Result<String, Failed> {
    let mut control = Control::open(endpoint).await?;
    let at = control.at.clone();
    let on = control.local.to_string();
    let listen = |source| RedisError::Listen { at: at.clone(), on: on.clone(), source };
    let master = Master::bind(control.local).await.map_err(listen)?;
    let address = master.address().map_err(listen)?;
    let borrowed = Borrowed::of(&mut control, &master.password).await?;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let (loaded, reset) = match control.call(&["REPLICAOF"], &[&host, &port]).await {
        Err(error @ RedisError::Refused { .. }) => (Err(error.into()), borrowed.give_back(&mut control).await),
        Err(error) => (Err(error.into()), reset(endpoint, control, &borrowed).await),
        Ok(_) => {
            let loaded = serve(endpoint, &mut control, &master, (rdb, history), expected, cancel).await;
            if let Err(Failed { error, .. }) = &loaded {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                tracing::warn!(at, "{error}{cause}: it becomes its own master again");
            }
            (loaded, reset(endpoint, control, &borrowed).await)
        }
    };
    match (loaded, reset) {
        (loaded, Ok(())) => loaded,
        (Ok(_), Err(source)) => {
            Err(Failed { error: RedisError::NotReset { at, source: Box::new(source) }.into(), dropped: true, stranded: true })
        }
        (Err(failed), Err(reset)) => {
            tracing::error!(at, %reset, "Redis could not be set back to its own master; send it REPLICAOF NO ONE");
            Err(Failed { stranded: true, ..failed })
        }
    }
}

/// Makes the server its own master again, on a new connection if the old one broke.
async fn reset(endpoint: &Endpoint, mut control: Control, borrowed: &Borrowed) -> Result<(), RedisError> {
    let mut alone = control.call(&["REPLICAOF", "NO", "ONE"], &[]).await;
    if alone.is_err() {
        control = Control::open(endpoint).await?;
        alone = control.call(&["REPLICAOF", "NO", "ONE"], &[]).await;
    }
    borrowed.give_back(&mut control).await?;
    alone.map(drop)
}

async fn serve(
    endpoint: &Endpoint,
    control: &mut Control,
    master: &Master,
    (rdb, history): (Rdb, &History),
    expected: Option<&Expected>,
    cancel: &CancellationToken,
) -> Result<String, Failed> {
    let at = control.at.clone();
    let send = |source| RedisError::Send { at: at.clone(), source };
    // a replica neither expires nor, mostly, evicts: what goes from here on goes while it loads or after
    let before = control.info().await?;
    let transfer = async {
        let mut replica = match timeout(CONNECT_BACK, master.replica()).await {
            Ok(replica) => replica.map_err(send)?,
            Err(_) => {
                let from = master.address().map_err(send)?.to_string();
                return Err(RedisError::Unreached { at: at.clone(), from, seconds: CONNECT_BACK.as_secs() });
            }
        };
        replica.feed(rdb.stream, rdb.length, history, rdb.stall).await.map_err(send)?;
        Ok(replica)
    };
    let Some(replica) = cancel.run_until_cancelled(transfer).await else {
        return Err(Failed { error: ComponentError::Cancelled, dropped: false, stranded: false });
    };
    // From here on it loads, and stopping would only leave it empty.
    let (held, now) = loaded(endpoint, control, replica?).await.map_err(|e| Failed { error: e.into(), dropped: true, stranded: false })?;
    let held = Held { gone: gone(&now).saturating_sub(gone(&before)), ..held };
    let judged = expected.map_or(Ok(String::new()), |expected| expected.judge(&held));
    judged.map_err(|differences| Failed { error: ComponentError::Differs(differences), dropped: true, stranded: false })
}

/// Waits until the server has loaded, and counts its keys while it is still a replica: as such it keeps expired ones.
async fn loaded(endpoint: &Endpoint, control: &mut Control, mut replica: Replica) -> Result<(Held, Info), RedisError> {
    let at = control.at.clone();
    let up = async {
        let mut patience = PATIENCE;
        loop {
            match control.info().await {
                Ok(info) if info.is("master_link_status", "up") && info.is("master_sync_in_progress", "0") && info.is("loading", "0") => {
                    return Ok((held(&info), info));
                }
                Ok(_) => patience = PATIENCE,
                Err(error) if patience == 0 => return Err(error),
                // A server with a `timeout` has closed the connection while the RDB was on its way.
                Err(_) => {
                    patience -= 1;
                    if let Ok(fresh) = Control::open(endpoint).await {
                        *control = fresh;
                    }
                }
            }
            sleep(POLL).await;
        }
    };
    tokio::select! {
        held = up => held,
        gone = replica.attend() => {
            let why = gone.err().map(|e| format!(" ({e})")).unwrap_or_default();
            Err(RedisError::NotLoaded { at, reason: format!("it closed the connection{why}; its log says why") })
        }
    }
}

fn held(info: &Info) -> Held {
    let libraries = info.number("number_of_libraries").unwrap_or(0);
    Held { keys: Keys { keys: info.keys(), libraries }, gone: 0, writable: info.is("slave_read_only", "0") }
}

/// Keys that the server gave up since it started.
fn gone(info: &Info) -> u64 {
    info.number("evicted_keys").unwrap_or(0) + info.number("expired_keys").unwrap_or(0)
}

/// Settings as they were.
struct Borrowed(Vec<(&'static str, String)>);

impl Borrowed {
    /// Notes the settings, then: load from a file, so that a cut stream changes nothing, and sign in to us with the one-time password.
    async fn of(control: &mut Control, password: &str) -> Result<Self, RedisError> {
        let mut before = Vec::new();
        for key in BORROWED {
            if let Some(value) = control.config(key).await? {
                before.push((key, value));
            }
        }
        let borrowed = Self(before);
        for (key, value) in [("repl-diskless-load", "disabled"), ("masteruser", abandoned::USER), ("masterauth", password)] {
            if let Err(error) = control.set_config(key, value).await {
                if let Err(reset) = borrowed.give_back(control).await {
                    tracing::error!(at = control.at, %reset, "settings of Redis could not be set back");
                }
                return Err(error);
            }
        }
        Ok(borrowed)
    }

    async fn give_back(&self, control: &mut Control) -> Result<(), RedisError> {
        for (key, value) in &self.0 {
            control.set_config(key, value).await?;
        }
        Ok(())
    }
}
