//! Postgres.

use std::num::NonZeroU32;
use std::path::PathBuf;

use thiserror::Error;

use crate::name::ComponentName;
use crate::secret::Secret;

pub mod facts;
pub mod globals;
pub mod helper;
pub mod script;
pub mod sql;

/// What went wrong; each variant names action and subject.
#[derive(Debug, Error)]
pub enum PostgresError {}

impl PostgresError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match *self {}
    }
}

/// How to reach a server and what to take from it. Unset connection values fall back to libpq's `PG*` variables, then to libpq's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    pub name: ComponentName,
    /// `postgres://…` or `key=value …`, as libpq understands it; keys below win over it.
    pub url: Option<Secret>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub database: Option<String>,
    pub sslmode: Option<String>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    /// Empty: the one of the connection. `["*"]`: all but templates.
    pub databases: Vec<String>,
    /// Roles and tablespaces too.
    pub globals: bool,
    /// Streams of a dump.
    pub jobs: NonZeroU32,
}
