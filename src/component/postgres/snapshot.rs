//! A snapshot of one database that several `pg_dump`s can share, taken so that no table can be empty in it by accident.
//!
//! A snapshot alone does not protect: a table that is TRUNCATEd or rewritten between `pg_export_snapshot()` and the moment at which
//! `pg_dump` locks it reads as **empty, without an error**, because such commands are not MVCC-safe (PostgreSQL's documentation, "Caveats").
//! So the order is: list the tables, lock all of them, only then take the snapshot, and check that every table that the snapshot shows is
//! among the locked ones; if not, start again. The locks and the snapshot live in one idle transaction, the exporter's.
//!
//! An ACCESS EXCLUSIVE request that queues behind the exporter blocks `pg_dump` in turn, and the server cannot see that deadlock: waits
//! are short, and whoever ran into one drops the snapshot and starts again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::PostgresError;
use super::connect::Endpoint;
use super::sql::ident;

/// Objects below this are the system's own (`FirstNormalObjectId` of PostgreSQL's `access/transam.h`).
const FIRST_NORMAL_OID: u32 = 16384;

/// Tables in one LOCK command.
const BATCH: usize = 200;

/// What a configured server or role may limit, and an exporter that sleeps for hours must not be subject to. Each where it exists.
const TIMEOUTS: &[&str] = &["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"];

/// How long to wait for locks, and how often to start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the locks of a database, each time.
    pub lock_wait: Duration,
    /// At least 1.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { lock_wait: Duration::from_secs(30), attempts: 3 }
    }
}

impl Patience {
    /// All waits together, those of [`Snapshot::take`] for each attempt at a dump and that of `pg_dump` itself, end before a stream that
    /// stands still for `stall` is cut: what is in the way can only be named here.
    #[must_use]
    pub fn within(self, stall: Option<Duration>) -> Self {
        let waits = self.attempts.saturating_mul(self.attempts.saturating_add(1));
        // half of it, since asking and connecting take time too
        let lock_wait = stall.map_or(self.lock_wait, |stall| self.lock_wait.min(stall / waits.saturating_mul(2).max(1)));
        Self { lock_wait, ..self }
    }
}

/// An exported snapshot, valid for as long as this value lives.
#[derive(Debug)]
pub struct Snapshot {
    id: String,
    taken: DateTime<Utc>,
    database: String,
    exporter: Client,
}

/// Why a snapshot has to be tried again.
enum Again {
    Locked,
    Changed,
}

impl Snapshot {
    /// Takes a snapshot of the endpoint's database.
    ///
    /// # Errors
    /// [`PostgresError::Locked`] when the locks are not to be had, [`PostgresError::Changing`] when tables come faster than they can be
    /// locked, and those of connecting and querying.
    pub async fn take(endpoint: &Endpoint, patience: &Patience) -> Result<Self, PostgresError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let exporter = endpoint.connect(None).await?;
            let again = match try_take(&exporter, endpoint.database(), patience).await? {
                Ok((id, taken)) => return Ok(Self { id, taken, database: endpoint.database().to_owned(), exporter }),
                Err(again) => again,
            };
            tracing::info!(database = endpoint.database(), attempt, "snapshot not taken: tables are locked or changing; once more");
            if attempt >= patience.attempts {
                return Err(match again {
                    Again::Locked => locked(endpoint, patience).await,
                    Again::Changed => PostgresError::Changing { database: endpoint.database().to_owned(), attempts: attempt },
                });
            }
        }
    }

    /// As `pg_dump --snapshot=` takes it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of its database.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// Whether the session that holds it is known to have ended.
    pub(super) fn is_lost(&self) -> bool {
        self.exporter.is_closed()
    }

    /// The session that holds it, which sees what the snapshot shows.
    pub(super) fn exporter(&self) -> &Client {
        &self.exporter
    }

    /// The moment of the snapshot, by the server's clock.
    pub fn taken(&self) -> DateTime<Utc> {
        self.taken
    }

    /// Gives the locks back.
    ///
    /// # Errors
    /// [`PostgresError::SnapshotLost`] when the exporter had died: whoever imported the snapshot may have read tables that were no longer
    /// protected.
    pub async fn release(&self) -> Result<(), PostgresError> {
        let lost = |source| PostgresError::SnapshotLost { database: self.database.clone(), source };
        self.exporter.batch_execute("SELECT 1; COMMIT").await.map_err(lost)
    }
}

async fn try_take(exporter: &Client, database: &str, patience: &Patience) -> Result<Result<(String, DateTime<Utc>), Again>, PostgresError> {
    let fault = |doing: &str| {
        let doing = format!("{doing} of database `{database}`");
        move |source| PostgresError::Query { doing, source }
    };
    prepare(exporter).await.map_err(fault("prepare a snapshot"))?;
    let listed = tables(exporter).await.map_err(fault("list the tables"))?;
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '{}ms'", patience.lock_wait.as_millis().max(1));
    exporter.batch_execute(&begin).await.map_err(fault("begin a snapshot"))?;
    let listed: Vec<&(u32, String)> = listed.iter().collect();
    for batch in listed.chunks(BATCH) {
        let names: Vec<_> = batch.iter().map(|(_, name)| format!("ONLY {name}")).collect();
        match exporter.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))).await {
            Ok(()) => {}
            Err(error) => match error.code() {
                Some(code) if is_lock_trouble(code) => return Ok(Err(Again::Locked)),
                Some(code) if is_gone(code) => return Ok(Err(Again::Changed)),
                _ => return Err(fault("lock the tables")(error)),
            },
        }
    }
    let query = "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.clock_timestamp()";
    let row = exporter.query_one(query, &[]).await.map_err(fault("export a snapshot"))?;
    let (id, taken) = (row.get(0), DateTime::<Utc>::from(row.get::<_, std::time::SystemTime>(1)));
    // From here on the exporter sees what pg_dump will see.
    let shown = tables(exporter).await.map_err(fault("list the tables"))?;
    let held = held(exporter).await.map_err(fault("list the locks"))?;
    Ok(if all_held(&shown, &held) { Ok((id, taken)) } else { Err(Again::Changed) })
}

async fn prepare(exporter: &Client) -> Result<(), tokio_postgres::Error> {
    // An empty search_path: nobody's own functions or operators come before the system's.
    exporter.batch_execute("SELECT pg_catalog.set_config('search_path', '', false)").await?;
    let timeouts = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY ($1)";
    exporter.query(timeouts, &[&TIMEOUTS]).await?;
    Ok(())
}

/// Tables whose data `pg_dump` may read, by id and by quoted name. Those that this user may not read are left out: if `pg_dump` needs one,
/// it fails and says so.
async fn tables(client: &Client) -> Result<BTreeSet<(u32, String)>, tokio_postgres::Error> {
    let query = "SELECT c.oid, n.nspname::text, c.relname::text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= $1
          AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')";
    let rows = client.query(query, &[&FIRST_NORMAL_OID]).await?;
    Ok(rows.iter().map(|row| (row.get(0), format!("{}.{}", ident(row.get(1)), ident(row.get(2))))).collect())
}

/// The tables that this session has locked. A lock is taken by name, and between listing and locking a name may have changed hands.
async fn held(client: &Client) -> Result<BTreeSet<u32>, tokio_postgres::Error> {
    let query = "SELECT relation FROM pg_catalog.pg_locks
        WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted
          AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";
    Ok(client.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

fn all_held(shown: &BTreeSet<(u32, String)>, held: &BTreeSet<u32>) -> bool {
    shown.iter().all(|(oid, _)| held.contains(oid))
}

fn is_lock_trouble(code: &SqlState) -> bool {
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
}

fn is_gone(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_OBJECT, SqlState::WRONG_OBJECT_TYPE].contains(code)
}

/// A session that holds, or waits for, a lock that keeps everybody else from reading a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    /// Empty if it has none, or if we may not see it.
    pub application: String,
    /// When its query began; `None` if we may not see it.
    pub since: Option<DateTime<Utc>>,
    pub table: String,
    /// `false`: it waits for the lock itself.
    pub granted: bool,
    /// Of the sessions that it waits for.
    pub behind: Vec<i32>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.granted { "is locked" } else { "is waited for" };
        write!(f, "{} {verb} by process {} (application `{}`", self.table, self.pid, self.application)?;
        if let Some(since) = self.since {
            write!(f, ", its query began at {}", since.format("%Y-%m-%d %H:%M:%S UTC"))?;
        }
        f.write_str(")")?;
        if !self.granted && !self.behind.is_empty() {
            let pids: Vec<_> = self.behind.iter().map(ToString::to_string).collect();
            write!(f, ", held up by process {}", pids.join(", "))?;
        }
        Ok(())
    }
}

/// The error for locks that were not to be had, with the sessions that stand in the way. Without their queries: those may hold anything.
pub(super) async fn locked(endpoint: &Endpoint, patience: &Patience) -> PostgresError {
    let holders = match endpoint.connect(None).await {
        Ok(client) => holders(&client).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    PostgresError::Locked {
        database: endpoint.database().to_owned(),
        seconds: (patience.lock_wait.as_secs_f32() * 10.0).round() / 10.0,
        attempts: patience.attempts,
        holders,
    }
}

async fn holders(client: &Client) -> Result<Vec<Holder>, tokio_postgres::Error> {
    let query = "SELECT l.pid, COALESCE(a.application_name, ''), a.query_start, l.relation::pg_catalog.regclass::text, l.granted,
            CASE WHEN l.granted THEN '{}' ELSE pg_catalog.pg_blocking_pids(l.pid) END
        FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation >= $1
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
        ORDER BY l.granted DESC, a.query_start LIMIT 5";
    let rows = client.query(query, &[&FIRST_NORMAL_OID]).await?;
    let holder = |row: &tokio_postgres::Row| Holder {
        pid: row.get(0),
        application: row.get(1),
        since: row.get::<_, Option<std::time::SystemTime>>(2).map(DateTime::from),
        table: row.get(3),
        granted: row.get(4),
        behind: row.get(5),
    };
    Ok(rows.iter().map(holder).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_given_up_before_the_stream_is_cut() {
        let wait = |stall| Patience::default().within(stall).lock_wait;
        assert_eq!(wait(None), Duration::from_secs(30));
        assert_eq!(wait(Some(Duration::from_secs(3600))), Duration::from_secs(30));
        assert_eq!(wait(Some(Duration::from_secs(600))), Duration::from_secs(25));
        assert_eq!(wait(Some(Duration::from_secs(24))), Duration::from_secs(1));
    }

    #[test]
    fn a_table_that_the_snapshot_shows_must_be_locked_itself() {
        let check = |shown: &[(u32, &str)], held: &[u32], expected| {
            let shown = shown.iter().map(|(oid, name)| (*oid, (*name).to_owned())).collect();
            assert_eq!(all_held(&shown, &held.iter().copied().collect()), expected);
        };
        check(&[], &[], true);
        check(&[(1, "a")], &[1, 2], true);
        check(&[(1, "a"), (3, "new")], &[1, 2], false);
        // locked by name, but the name had come to mean another table
        check(&[(1, "a")], &[9], false);
    }
}
