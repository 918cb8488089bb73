//! PostgreSQL: one server, its databases, its roles.

use std::num::NonZeroU32;
use std::path::PathBuf;

use thiserror::Error;

use crate::name::ComponentName;
use crate::process::ProcessError;
use crate::secret::{Secret, SecretError};

pub mod binaries;
pub mod connect;
pub mod conninfo;
pub mod tls;

pub mod facts;
pub mod globals;
pub mod helper;
pub mod script;
pub mod sql;

/// What went wrong; each variant names action and subject.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// `what` is a key of the configuration or of libpq; `why` never repeats a value that may be a secret.
    #[error("connection parameter `{what}`: {why}")]
    Options { what: &'static str, why: String },
    #[error("read the {what} of the connection")]
    Secret {
        what: &'static str,
        #[source]
        source: SecretError,
    },
    #[error("resolve host `{host}`")]
    Resolve {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("connect to PostgreSQL at {server}, database `{database}`")]
    Connect {
        server: String,
        database: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("connect to PostgreSQL at {server}: no answer within {seconds} s")]
    Timeout { server: String, seconds: u64 },
    #[error("set up an encrypted connection")]
    Tls(#[from] tls::TlsError),
    /// `doing` is what the query was for.
    #[error("{doing}")]
    Query {
        doing: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("no {tool} here fits a PostgreSQL {server} server: {}", found_majors(found))]
    NoClient { tool: &'static str, server: u32, found: Vec<u32> },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("cancelled")]
    Cancelled,
}

impl PostgresError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NoClient { server, .. } => Some(format!(
                "Install the PostgreSQL {server} client programs (Debian, Ubuntu: postgresql-client-{server} of apt.postgresql.org); an older \
                 client cannot dump a newer server."
            )),
            Self::Resolve { .. } | Self::Timeout { .. } => {
                Some("Check host and port, that the server runs, and that no firewall is in between.".into())
            }
            Self::Tls(tls::TlsError::NoRoot(_)) => {
                Some("Set sslrootcert to the file of the server's certificate authority, or to \"system\".".into())
            }
            _ => None,
        }
    }
}

fn found_majors(found: &[u32]) -> String {
    if found.is_empty() {
        return "none was found".into();
    }
    let found: Vec<_> = found.iter().map(u32::to_string).collect();
    format!("found only {}", found.join(", "))
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
