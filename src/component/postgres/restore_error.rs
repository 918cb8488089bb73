//! Why a restore of PostgreSQL was refused or failed.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio_postgres::error::SqlState;

use crate::process::ProcessError;

/// Each variant names action and subject. Whatever it is, the databases that were in service are still in service, unless it says otherwise.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("the backup holds no database")]
    Empty,
    #[error("the backup's artifact `{0}` does not say of which database it is")]
    Nameless(String),
    #[error("the backup does not hold exactly one archive with the schema of database \"{0}\"")]
    Archives(String),
    #[error("the backup of database \"{database}\" lacks the archive `{archive}`, which holds the rows of some tables")]
    Lacks { database: String, archive: String },
    /// `why` never repeats the destination: it may hold a password.
    #[error("destination of the restore: {0}")]
    Destination(String),
    #[error("the backup is of a PostgreSQL {backup} server; {server} is a PostgreSQL {found} server, which is older")]
    Older { backup: u32, server: String, found: u32 },
    #[error(
        "no pg_restore here can read an archive of pg_dump {dump} and write to a PostgreSQL {server} server: {}",
        super::binaries::list_majors(found)
    )]
    NoClient { dump: u32, server: u32, found: Vec<u32> },
    /// In bytes; `path` is the data directory.
    #[error("{server} has room for {} in {}; the restore needs {} at least", bytesize::ByteSize(*available).display().iec(), path.display(), bytesize::ByteSize(*needed).display().iec())]
    Space { server: String, path: std::path::PathBuf, available: u64, needed: u64 },
    #[error("{0} is a standby, which takes no writes")]
    Standby(String),
    #[error("user \"{user}\" may not create databases on {server}")]
    NotCreator { user: String, server: String },
    #[error("user \"{user}\" does not own database \"{database}\" and cannot replace it")]
    NotOwner { user: String, database: String },
    /// `by`: what hangs on the database, such as `the subscription "s"`.
    #[error("database \"{database}\" cannot be replaced: {by} hangs on it")]
    Tied { database: String, by: String },
    #[error("database \"{0}\" is what an interrupted DROP DATABASE left")]
    Invalid(String),
    #[error("{server} has no database to work from while \"{database}\" is replaced")]
    NoGround { server: String, database: String },
    #[error("open artifact `{path}`")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },
    /// The stream's own error: damage, if it says so.
    #[error("read artifact `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is too large for what it should be: more than {limit} bytes of roles and tablespaces")]
    TooLarge { path: String, limit: u64 },
    #[error("read `{path}` as what pg_dumpall writes")]
    Script {
        path: String,
        #[source]
        source: super::script::ScriptError,
    },
    #[error("load database \"{database}\"")]
    Load {
        database: String,
        #[source]
        source: ProcessError,
    },
    /// The stream ended as it should: it was written so.
    #[error("`{path}` is not an archive that can be restored")]
    Archive {
        path: String,
        #[source]
        source: super::archive::ArchiveError,
    },
    #[error("the backup holds several databases, \"{0}\": tables of which?")]
    WhichDatabase(String),
    #[error("single tables cannot be taken out of `{path}`: {why}")]
    Unselectable { path: String, why: String },
    #[error("`{path}` does not hold the rows of table {table}, as it should")]
    NoRows { path: String, table: String },
    #[error("database \"{database}\" exists on {server}: tables go into a new one only")]
    Exists { database: String, server: String },
    #[error("psql {psql} would obey any command that is hidden in `{path}`: it does not know \\restrict")]
    Unrestricted { psql: String, path: String },
    #[error("`{path}` cannot be handed to psql")]
    Plain {
        path: String,
        #[source]
        source: super::plain::PlainError,
    },
    #[error("`{0}` changed while it was restored: its table of contents is another one")]
    Differs(String),
    #[error("write the table of contents of an archive to a temporary directory")]
    Stage(#[source] io::Error),
    #[error("load the rows of table \"{table}\"")]
    Rows {
        table: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("load the rows of table \"{table}\": {sent} were sent, and the server took {taken}")]
    RowCount { table: String, sent: u64, taken: u64 },
    #[error("pg_restore stopped reading large objects")]
    PipeClosed,
    /// `sessions`: who is still there.
    #[error("swap in database(s) {databases}: sessions did not end: {sessions}")]
    Busy { databases: String, sessions: String },
    #[error("swap in database(s) {databases}")]
    Swap {
        databases: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("bring the old state back: somebody renamed or replaced database \"{0}\" meanwhile")]
    Moved(String),
    #[error("PostgreSQL at {server} did not answer for {}", humantime::format_duration(*.after))]
    Silent { server: String, after: Duration },
    /// `by`: who has what is waited for.
    #[error("a session of database \"{databases}\" waited for a lock for {}, held by {by}", humantime::format_duration(*.after))]
    Held { databases: String, by: String, after: Duration },
    #[error("the server did not say whether databases were swapped")]
    Unsure,
    #[error("the journal of the restore is of another server than {0}")]
    OtherServer(String),
    #[error("read what the journal says of the restore of PostgreSQL")]
    Journal(#[source] serde_json::Error),
    /// What is left, by name.
    /// After the switch: the restored databases are in service.
    #[error("what was replaced could not be dropped: database {}", .0.join(", database "))]
    NotDropped(Vec<String>),
    #[error("remove what the restore made: {0} is left over")]
    LeftOver(String),
}

impl RestoreError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Older { backup, .. } => {
                format!("Restore to a PostgreSQL {backup} server or a newer one: --into COMPONENT=postgres://host.")
            }
            Self::NoClient { dump, server, .. } => match (*dump, *server) {
                (17.., ..17) => format!(
                    "Restore to a PostgreSQL 17 server or a newer one: what pg_restore {dump} sends, PostgreSQL {server} does not understand."
                ),
                _ => format!("Install the PostgreSQL {dump} client programs (Debian, Ubuntu: postgresql-client-{dump})."),
            },
            Self::Space { .. } => {
                "Old and new databases lie side by side until the swap. Make room, or restore to another server with --into COMPONENT=postgres://host.".into()
            }
            Self::Standby(_) => "Name the primary with --into COMPONENT=postgres://host.".into(),
            Self::NotCreator { user, .. } => {
                format!("As a superuser: ALTER ROLE {} CREATEDB; or restore as another user.", super::sql::ident(user))
            }
            Self::NotOwner { .. } => "Restore as its owner or as a superuser, or under another name with --into COMPONENT=NAME.".into(),
            Self::Tied { .. } => {
                "It would go on with the old database and be lost with it. Drop it first, or restore under another name with --into COMPONENT=NAME."
                    .into()
            }
            Self::Invalid(name) => format!("Drop it first: DROP DATABASE {}.", super::sql::ident(name)),
            Self::NoGround { .. } => "Allow this user to connect to \"postgres\" or \"template1\".".into(),
            Self::Load { source, .. } => return load_advice(source),
            Self::Unrestricted { .. } => "Update the PostgreSQL client programs: 15.14, 16.10, 17.6, 18 and later know it (CVE-2025-8714).".into(),
            Self::WhichDatabase(_) => "Name one with --database.".into(),
            Self::Unselectable { .. } => "Restore the whole database under another name: --into COMPONENT=NAME, without --table.".into(),
            Self::Exists { .. } => "Name another one with --into COMPONENT=NAME, or none.".into(),
            Self::Stage(_) => "Make room in the temporary directory ($TMPDIR, else /tmp), and let this user write there.".into(),
            Self::Rows { source, .. } if source.code() == Some(&SqlState::DISK_FULL) => NO_ROOM.into(),
            Self::Busy { .. } => "Stop what connects so often, or restore as a superuser, who may end any session.".into(),
            Self::Silent { .. } => "Look at the server: it takes connections and answers nothing. `stall_timeout` of the job sets the limit.".into(),
            Self::Held { .. } => "`SELECT pg_terminate_backend(PROCESS)` ends it. `stall_timeout` of the job sets the limit.".into(),
            Self::OtherServer(_) => "Run it where the restore was begun, with the same configuration.".into(),
            Self::NotDropped(_) => "Drop it by hand: nothing uses it.".into(),
            Self::LeftOver(_) => "Nothing uses it: drop it once the server answers again.".into(),
            _ => return None,
        };
        Some(text)
    }
}

pub(super) const NO_ROOM: &str = "Make room on the database server: old and new database lie side by side until the swap.";

/// What PostgreSQL's own words mean for a restore.
fn load_advice(error: &ProcessError) -> Option<String> {
    let stderr = error.stderr()?;
    let text = if stderr.contains("role \"") && stderr.contains("does not exist") {
        "Create the role first: it is not in the backup's globals, or this user could not create it."
    } else if stderr.contains("extension \"") && stderr.contains("not available") {
        "Install the extension's package on the database server first."
    } else if stderr.contains("permission denied to create extension") {
        "Restore as a superuser: the extension is not a trusted one."
    } else if stderr.contains("No space left") {
        NO_ROOM
    } else {
        return None;
    };
    Some(text.into())
}
