//! Configuration: layers → raw structs → [`Settings`], every fault at once.

use std::net::SocketAddr;
use std::time::Duration;

use crate::component::directory::DirectoryOptions;
use crate::component::postgres::PostgresOptions;
use crate::component::redis::RedisOptions;
use crate::name::{ComponentName, JobName, TargetName};
use crate::pipeline::Codec;
use crate::retention::Policy;
use crate::schedule::Schedule;
use crate::storage::TargetOptions;

/// A whole, valid configuration. Every name that a job uses exists.
#[derive(Debug, Clone)]
pub struct Settings {
    pub jobs: Vec<JobSettings>,
    pub targets: Vec<TargetOptions>,
    pub components: Vec<ComponentOptions>,
    pub worker: WorkerSettings,
}

/// One `[jobs.NAME]`.
#[derive(Debug, Clone)]
pub struct JobSettings {
    pub name: JobName,
    /// `None`: only by hand.
    pub schedule: Option<Schedule>,
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

/// A component of any kind.
#[derive(Debug, Clone)]
pub enum ComponentOptions {
    Postgres(PostgresOptions),
    Redis(RedisOptions),
    Directory(DirectoryOptions),
}

impl ComponentOptions {
    pub fn name(&self) -> &ComponentName {
        match self {
            Self::Postgres(o) => &o.name,
            Self::Redis(o) => &o.name,
            Self::Directory(o) => &o.name,
        }
    }
}

/// `[worker]`.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// `None`: no HTTP.
    pub listen: Option<SocketAddr>,
}
