//! PostgreSQL: one server, its databases, its roles.

use std::num::NonZeroU32;
use std::path::PathBuf;

use thiserror::Error;
use tokio_postgres::error::SqlState;

use crate::component::Detail;
use crate::name::ComponentName;
use crate::process::ProcessError;
use crate::secret::{Secret, SecretError};

mod account;
mod adopt;
mod alive;
mod analyze;
mod apply;
pub mod archive;
mod binaries;
mod connect;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod conninfo;
mod contents;
mod destination;
mod dump;
mod dumpall;
pub mod facts;
pub mod fingerprint;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod globals;
mod group;
mod helper;
mod inspect;
mod lines;
mod load;
mod load_script;
mod passfile;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod plain;
mod plan;
mod proof;
mod readback;
mod recreate;
mod resolve;
mod restore;
mod restore_error;
mod rows;
mod schema;
/// Public so that `fuzz/` and tests can feed it hostile bytes.
pub mod script;
mod selection;
mod server;
mod snapshot;
mod source;
mod sql;
mod staged;
mod streams;
mod surroundings;
mod swap;
mod table_name;
mod tables;
mod tap;
mod tls;
mod witness;
mod workload;

pub use account::Accounts;
pub use binaries::{Binary, Tool};
pub use connect::Endpoint;
pub use contents::{Contents, DatabaseContents};
pub use dump::{Dump, Order};
pub use restore::PostgresRestorer;
pub use restore_error::RestoreError;
pub use snapshot::{Holder, Patience, Snapshot};
pub use source::PostgresSource;
pub use table_name::TableName;

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
    #[error("no {tool} here fits a PostgreSQL {server} server: {}", binaries::list_majors(found))]
    NoClient { tool: &'static str, server: u32, found: Vec<u32> },
    /// An archive of such a client sets what the server does not know, so that it could not be restored to the server it came from.
    #[error("pg_dump {client} is too new for a PostgreSQL {server} server")]
    Unrestorable { server: u32, client: u32 },
    #[error("PostgreSQL {version} is not supported: the oldest is {oldest}")]
    TooOld { version: String, oldest: u32 },
    #[error("what answers at {server} is a pooler that shares sessions between transactions, which a consistent dump cannot go through")]
    Pooler { server: String },
    #[error("the server has no database {}", quoted(names))]
    NoDatabase { names: Vec<String> },
    #[error("lock the tables of database `{database}`: waited {seconds} s, {attempts} times{}", list(holders))]
    Locked { database: String, seconds: f32, attempts: u32, holders: Vec<snapshot::Holder> },
    #[error("take a snapshot of database `{database}`: its tables changed in each of {attempts} attempts")]
    Changing { database: String, attempts: u32 },
    #[error("the session that held the snapshot of database `{database}` ended before its dump did: the dump may be incomplete")]
    SnapshotLost {
        database: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("dump database `{database}`")]
    Dump {
        database: String,
        #[source]
        source: std::io::Error,
    },
    #[error("dump database `{database}`: pg_dump wrote nothing")]
    NothingDumped { database: String },
    #[error("dump database `{database}`: a stream of pg_dump begins as no archive")]
    Head {
        database: String,
        #[source]
        source: archive::ArchiveError,
    },
    /// `table`: quoted, with its schema.
    /// `what`: a sentence.
    #[error("dump database `{database}`: {what}")]
    Lacks { database: String, what: String },
    #[error("dump database `{database}` in several streams: the rows of {table} are not in the one archive where they should be")]
    Split { database: String, table: String },
    #[error("dump database `{database}`: another of its streams failed")]
    Together { database: String },
    /// What a restore made differs from what was backed up, in sentences.
    #[error("the restored database differs: {}", .0.join("; "))]
    Differs(Vec<String>),
    #[error(transparent)]
    Restore(#[from] restore_error::RestoreError),
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
            Self::Restore(error) => error.advice(),
            Self::Unrestorable { server, .. } => {
                Some(format!("Install the PostgreSQL {server} client programs, so that the backup can be restored to this server."))
            }
            Self::Pooler { .. } => Some("Point the component at the PostgreSQL server itself, or at a pool with session pooling.".into()),
            Self::Lacks { .. } => Some(
                "The backup would not hold all that is there. Report it; `fingerprint = \"off\"` of this component makes a backup without the check."
                    .into(),
            ),
            Self::Split { .. } => Some("Set `jobs` of this component to 1, and report it.".into()),
            Self::NoDatabase { .. } => Some("Correct `databases`, or use [\"*\"] for all of them.".into()),
            Self::Locked { .. } => {
                Some("Run the backup when no migration or VACUUM FULL runs, or end the process that holds the lock.".into())
            }
            Self::Changing { .. } => Some("Run the backup when tables are not created and dropped all the time.".into()),
            Self::Dump { source, .. } => match source.get_ref().and_then(|e| e.downcast_ref::<Self>()) {
                Some(error) => error.advice(),
                None => ProcessError::of(source).and_then(ProcessError::stderr).and_then(dump::advice),
            },
            Self::Query { source, .. } if source.code() == Some(&SqlState::OUT_OF_MEMORY) => {
                Some("The server's lock table is full: raise its max_locks_per_transaction.".into())
            }
            Self::Query { source, .. } if source.code() == Some(&SqlState::DISK_FULL) => Some(restore_error::NO_ROOM.into()),
            Self::Connect { source, .. } if source.code() == Some(&SqlState::INVALID_PASSWORD) => {
                Some("Check user and password; a secret file loses one line end at its end, nothing else.".into())
            }
            _ => None,
        }
    }
}

/// An error of a query that was for `doing`.
fn query(doing: &str) -> impl Fn(tokio_postgres::Error) -> PostgresError {
    move |source| PostgresError::Query { doing: doing.to_owned(), source }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn list(holders: &[snapshot::Holder]) -> String {
    holders.iter().map(|holder| format!("; {holder}")).collect()
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
    /// What to dump from, in place of the server itself.
    pub replica: Option<Replica>,
    /// Empty: the one of the connection. `["*"]`: all but templates.
    pub databases: Vec<String>,
    /// Roles and tablespaces too.
    pub globals: bool,
    pub jobs: Jobs,
    /// How much of a database is noted at a backup and compared after a restore.
    pub fingerprint: Detail,
}

/// A hot standby, reached as its server but for what is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub host: String,
    /// `None`: that of the server.
    pub port: Option<u16>,
}

/// Streams of a dump of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// At most so many.
    Number(NonZeroU32),
    /// As many as gain something.
    Auto,
}

impl Default for Jobs {
    fn default() -> Self {
        Self::Number(NonZeroU32::MIN)
    }
}

impl PostgresOptions {
    /// Nothing configured but the name: the server that libpq's variables name, its one database, its globals.
    pub fn new(name: ComponentName) -> Self {
        Self {
            name,
            url: None,
            host: None,
            port: None,
            user: None,
            password: None,
            database: None,
            sslmode: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            replica: None,
            databases: Vec::new(),
            globals: true,
            jobs: Jobs::default(),
            fingerprint: Detail::default(),
        }
    }

    /// The server to dump from.
    #[must_use]
    fn dumped_from(self) -> Self {
        match self.replica {
            Some(Replica { host, port }) => Self { host: Some(host), port: port.or(self.port), replica: None, ..self },
            None => self,
        }
    }
}
