//! Redis.

use std::path::PathBuf;

use thiserror::Error;

use crate::name::ComponentName;
use crate::secret::Secret;

/// What went wrong; each variant names action and subject.
#[derive(Debug, Error)]
pub enum RedisError {}

impl RedisError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match *self {}
    }
}

/// How to reach a server and how to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisOptions {
    pub name: ComponentName,
    /// `redis://` or `rediss://[user[:password]@]host[:port][/db]`; keys below win over it.
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
