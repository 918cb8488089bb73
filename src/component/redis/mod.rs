//! Redis and Valkey: an RDB read over the replication protocol, verified on its way, and put back by acting as the target's master.
//!
//! A backup needs `+ping +info +replconf +psync` (and `+bgsave` for [`Method::Bgsave`]). A live restore needs, on the target, also
//! `+replicaof +config|get +config|set +bgsave`, and `+client|list` to notice a Sentinel.

use std::path::PathBuf;

use super::Detail;
use crate::name::ComponentName;
use crate::secret::Secret;

mod abandoned;
mod adopt;
mod bgsave;
mod compat;
mod connect;
mod control;
mod endpoint;
mod error;
mod file;
mod fingerprint;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod info;
mod keep;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod keys;
mod live;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod master;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod rdb;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod replication;
mod restore;
mod source;

pub use error::RedisError;
pub use restore::RedisRestorer;
pub use source::RedisSource;

/// How to reach a server and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisOptions {
    pub name: ComponentName,
    /// `redis://` or `rediss://[user[:password]@]host[:port][/db]`, or `unix:///path`; keys below win over it.
    pub url: Option<Secret>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub db: Option<i64>,
    pub tls: bool,
    /// PEM, in place of the system's roots.
    pub ca_file: Option<PathBuf>,
    pub method: Method,
    /// Where the server's RDB can be read, for [`Method::Bgsave`].
    pub rdb_path: Option<PathBuf>,
    /// False for a server that only authentik's defaults name: if it does not answer, it is absent rather than failed.
    pub required: bool,
    /// What is noted of the data for a restore to be compared with.
    pub fingerprint: Detail,
}

impl RedisOptions {
    /// Nothing configured but the name: the server at localhost.
    pub fn new(name: ComponentName) -> Self {
        Self {
            name,
            url: None,
            host: None,
            port: None,
            username: None,
            password: None,
            db: None,
            tls: false,
            ca_file: None,
            method: Method::Auto,
            rdb_path: None,
            required: true,
            fingerprint: Detail::Full,
        }
    }
}

/// How the RDB is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Replication; where the server refuses it, BGSAVE if `rdb_path` is set.
    #[default]
    Auto,
    Replication,
    Bgsave,
}
