//! Puts loaded databases in service, all at once, and takes that back.
//!
//! Both renames of every database happen in one transaction, so that there is no moment at which a name leads nowhere. `ALTER DATABASE …
//! RENAME` locks the database before it looks for sessions and then waits up to 5 s for them to end (`RenameDatabase` and
//! `CountOtherDBBackends` of PostgreSQL's `src/backend/commands/dbcommands.c` and `storage/ipc/procarray.c`); a second connection ends them
//! meanwhile, and who connects anew waits at the lock, then finds the new database. So the old one need not be closed beforehand, and a
//! restore that is killed at any moment leaves it open, under its own name.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::Endpoint;
use super::facts::DatabaseFacts;
use super::inspect::{self, Existing, connect, connect_to};
use super::restore_error::RestoreError;
use super::sql::ident;
use super::{PostgresError, query, recreate};

/// How long sessions are ended and a swap is tried again, usually.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two rounds of ending sessions.
const ROUND: Duration = Duration::from_millis(100);

/// A loaded database and the name that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The name in service.
    pub name: String,
    /// Helper database with the new state.
    pub new: String,
    /// Of `new`, as it was created; a database of another number is not ours to touch.
    pub new_oid: u32,
    /// The name that the old state gets.
    pub old: String,
    pub facts: DatabaseFacts,
    /// What was in service when the swap was made, until then when it was loaded; `None`: nothing.
    pub replaced: Option<Replaced>,
}

/// A database that made room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub oid: u32,
    pub allowed_connections: bool,
}

impl Replaced {
    pub fn of(existing: &Existing) -> Self {
        Self { oid: existing.oid, allowed_connections: existing.allows_connections }
    }
}

/// The databases that must not be connected to while `pairs` are renamed.
pub fn busy(pairs: &[Pair]) -> Vec<&str> {
    pairs.iter().flat_map(|p| [p.name.as_str(), p.new.as_str(), p.old.as_str()]).collect()
}

fn names(pairs: &[Pair]) -> String {
    pairs.iter().map(|p| ident(&p.name)).collect::<Vec<_>>().join(", ")
}

/// Puts every `new` in service. After an error, nothing is changed. With `fresh`, nothing may be replaced.
///
/// # Errors
/// [`RestoreError::Tied`] and the like if something came to hang on an old database meanwhile, [`RestoreError::Exists`],
/// [`RestoreError::Busy`], [`RestoreError::Swap`].
pub async fn swap_in(endpoint: &Endpoint, pairs: &mut [Pair], fresh: bool, patience: Duration) -> Result<(), PostgresError> {
    let (_, client) = connect(endpoint, &busy(pairs)).await?;
    let server = inspect::inspect(&client, endpoint.to_string()).await?;
    let targets: Vec<&str> = pairs.iter().map(|p| p.name.as_str()).collect();
    server.allow(&targets, None)?;
    if let Some(database) = targets.iter().find(|name| fresh && server.database(name).is_some()) {
        return Err(RestoreError::Exists { database: (*database).to_owned(), server: server.at.clone() }.into());
    }
    for pair in &mut *pairs {
        pair.replaced = server.database(&pair.name).map(Replaced::of);
    }
    let oids: Vec<u32> = pairs.iter().flat_map(|p| [Some(p.new_oid), p.replaced.map(|r| r.oid)]).flatten().collect();
    transact(endpoint, client, &swap_sql(pairs), &oids, (pairs, |pair| (&pair.name, pair.new_oid)), patience).await
}

fn swap_sql(pairs: &[Pair]) -> Vec<String> {
    let mut sql = Vec::new();
    for Pair { name, new, old, facts, replaced, .. } in pairs {
        if replaced.is_some() {
            sql.push(format!("ALTER DATABASE {} RENAME TO {}", ident(name), ident(old)));
            sql.push(format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", ident(old)));
        }
        sql.push(format!("ALTER DATABASE {} RENAME TO {}", ident(new), ident(name)));
        sql.push(recreate::open(name, facts));
    }
    sql
}

/// Puts every old database back in service, and the new ones aside, closed.
///
/// # Errors
/// [`RestoreError::Moved`], [`RestoreError::Busy`], [`RestoreError::Swap`]: then the new state is in service still.
pub async fn swap_back(endpoint: &Endpoint, pairs: &[Pair], patience: Duration) -> Result<(), PostgresError> {
    let (_, client) = connect(endpoint, &busy(pairs)).await?;
    for pair in pairs {
        let theirs = [(&pair.name, Some(pair.new_oid)), (&pair.old, pair.replaced.map(|r| r.oid))];
        for (name, oid) in theirs {
            if oid.is_some() && oid_of(&client, name).await? != oid {
                return Err(RestoreError::Moved(name.clone()).into());
            }
        }
    }
    let oids: Vec<u32> = pairs.iter().flat_map(|p| [Some(p.new_oid), p.replaced.map(|r| r.oid)]).flatten().collect();
    transact(endpoint, client, &swap_back_sql(pairs), &oids, (pairs, |pair| (&pair.new, pair.new_oid)), patience).await
}

fn swap_back_sql(pairs: &[Pair]) -> Vec<String> {
    let mut sql = Vec::new();
    for Pair { name, new, old, replaced, .. } in pairs {
        sql.push(format!("ALTER DATABASE {} RENAME TO {}", ident(name), ident(new)));
        sql.push(format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", ident(new)));
        if let Some(replaced) = replaced {
            sql.push(format!("ALTER DATABASE {} RENAME TO {}", ident(old), ident(name)));
            sql.push(format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}", ident(name), replaced.allowed_connections));
        }
    }
    sql
}

/// A name, and the number of the database that bears it once a transaction is committed.
type Outcome = fn(&Pair) -> (&String, u32);

/// Runs `sql` in one transaction while sessions of the databases `oids` are ended; again, as long as it is sessions that are in the way.
async fn transact(
    endpoint: &Endpoint,
    mut client: Client,
    sql: &[String],
    oids: &[u32],
    (pairs, outcome): (&[Pair], Outcome),
    patience: Duration,
) -> Result<(), PostgresError> {
    let script = format!("BEGIN READ WRITE; SET LOCAL lock_timeout = '10s'; {}; COMMIT", sql.join("; "));
    let (_, other) = connect(endpoint, &busy(pairs)).await?;
    let deadline = Instant::now() + patience;
    loop {
        let attempt = tokio::select! {
            attempt = client.batch_execute(&script) => attempt,
            never = end_sessions(&other, oids) => match never {},
        };
        let Err(error) = attempt else { return Ok(()) };
        if client.is_closed() {
            // The answer to COMMIT may be what was lost: the server knows.
            (_, client) = connect(endpoint, &busy(pairs)).await?;
            if is_done(&client, pairs, outcome).await? {
                return Ok(());
            }
        } else if let Err(error) = client.batch_execute("ROLLBACK").await {
            return Err(query("roll the swap back")(error));
        }
        let in_the_way = [SqlState::OBJECT_IN_USE, SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        if !error.code().is_some_and(|code| in_the_way.contains(code)) {
            return Err(RestoreError::Swap { databases: names(pairs), source: error }.into());
        }
        if Instant::now() >= deadline {
            let sessions = sessions(&client, oids).await?;
            return Err(RestoreError::Busy { databases: names(pairs), sessions }.into());
        }
        tracing::warn!(databases = names(pairs), %error, "sessions came back while databases were swapped; again");
    }
}

async fn is_done(client: &Client, pairs: &[Pair], outcome: Outcome) -> Result<bool, PostgresError> {
    let Some(pair) = pairs.first() else { return Ok(true) };
    let (name, oid) = outcome(pair);
    Ok(oid_of(client, name).await? == Some(oid))
}

/// The number of a database.
///
/// # Errors
/// [`PostgresError::Query`].
pub async fn oid_of(client: &Client, name: &str) -> Result<Option<u32>, PostgresError> {
    let found = client.query_opt("SELECT oid FROM pg_database WHERE datname = $1::text::name", &[&name]).await;
    Ok(found.map_err(query("look a database up"))?.map(|row| row.get(0)))
}

/// Ends what a process that is no more has sent and the server has not finished, by the `marks` in its text; returns when it is over. A
/// server notices only when it answers that nobody is there, so that a database may be created or renamed long after who asked for it died.
///
/// # Errors
/// [`PostgresError::Query`]; [`RestoreError::Busy`].
pub async fn silence(client: &Client, marks: &[&str], patience: Duration) -> Result<(), PostgresError> {
    const DOING: &str = "end what a restore that died has sent";
    const END: &str = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state <> 'idle' \
         AND EXISTS (SELECT FROM unnest($1::text[]) mark WHERE position(mark IN query) > 0)";
    let deadline = Instant::now() + patience;
    loop {
        let left = client.query(END, &[&marks]).await.map_err(query(DOING))?;
        let Some(first) = left.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            let sessions = format!("pid {}", first.get::<_, i32>(0));
            return Err(RestoreError::Busy { databases: marks.join(", "), sessions }.into());
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Ends sessions of these databases, round after round.
async fn end_sessions(client: &Client, oids: &[u32]) -> std::convert::Infallible {
    loop {
        end_sessions_once(client, oids).await;
        tokio::time::sleep(ROUND).await;
    }
}

/// A session that we may not end, or that ended by itself, is passed over.
async fn end_sessions_once(client: &Client, oids: &[u32]) {
    const LIST: &str = "SELECT pid FROM pg_stat_activity WHERE datid = ANY ($1) AND pid <> pg_backend_pid()";
    for row in client.query(LIST, &[&oids]).await.unwrap_or_default() {
        let pid: i32 = row.get(0);
        if let Err(error) = client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await {
            tracing::debug!(pid, %error, "end a session");
        }
    }
}

async fn sessions(client: &Client, oids: &[u32]) -> Result<String, PostgresError> {
    const LIST: &str = "SELECT coalesce(usename::text, backend_type), coalesce(nullif(application_name, ''), '?'), pid \
         FROM pg_stat_activity WHERE datid = ANY ($1) AND pid <> pg_backend_pid() ORDER BY pid LIMIT 10";
    let rows = client.query(LIST, &[&oids]).await.map_err(query("list sessions"))?;
    let list: Vec<_> =
        rows.iter().map(|row| format!("{} ({}, pid {})", row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, i32>(2))).collect();
    Ok(if list.is_empty() { "none that we may see".into() } else { list.join(", ") })
}

/// Drops the database `name`, whatever state it is in, if its number is `oid`; one that is not there is fine. Without a number, the name
/// alone must tell that it is ours.
///
/// # Errors
/// [`PostgresError::Query`]; [`RestoreError::Busy`].
pub async fn drop_helper(
    endpoint: &Endpoint,
    client: &Client,
    name: &str,
    oid: Option<u32>,
    patience: Duration,
) -> Result<(), PostgresError> {
    const DOING: &str = "drop a helper database";
    let deadline = Instant::now() + patience;
    let Some(found) = oid_of(client, name).await?.filter(|found| oid.is_none_or(|oid| oid == *found)) else { return Ok(()) };
    drop_subscriptions(endpoint, client, name, found).await?;
    let close = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false IS_TEMPLATE false", ident(name));
    if let Err(error) = client.batch_execute(&close).await {
        // An interrupted DROP left it invalid: it cannot be altered, only dropped.
        tracing::debug!(database = name, %error, "close a helper database");
    }
    let sql = format!("DROP DATABASE IF EXISTS {}", ident(name));
    loop {
        // It is closed: who is ended now does not come back.
        end_sessions_once(client, &[found]).await;
        match client.batch_execute(&sql).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() != Some(&SqlState::OBJECT_IN_USE) => return Err(query(DOING)(error)),
            Err(_) if Instant::now() >= deadline => {
                let sessions = sessions(client, &[found]).await?;
                return Err(RestoreError::Busy { databases: ident(name), sessions }.into());
            }
            Err(error) => tracing::debug!(database = name, %error, "again"),
        }
    }
}

/// A database with subscriptions cannot be dropped. Those of a restored one are disabled and have never had a slot of their own.
async fn drop_subscriptions(endpoint: &Endpoint, client: &Client, name: &str, oid: u32) -> Result<(), PostgresError> {
    const DOING: &str = "drop the subscriptions of a helper database";
    let rows = client.query("SELECT subname::text FROM pg_subscription WHERE subdbid = $1", &[&oid]).await.map_err(query(DOING))?;
    if rows.is_empty() {
        return Ok(());
    }
    client.batch_execute(&format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", ident(name))).await.map_err(query(DOING))?;
    let inside = connect_to(endpoint, name).await?;
    for row in rows {
        let subscription = ident(row.get(0));
        for change in ["DISABLE", "SET (slot_name = NONE)"] {
            inside.batch_execute(&format!("ALTER SUBSCRIPTION {subscription} {change}")).await.map_err(query(DOING))?;
        }
        inside.batch_execute(&format!("DROP SUBSCRIPTION {subscription}")).await.map_err(query(DOING))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(replaced: Option<Replaced>) -> Pair {
        Pair {
            name: "a\"b".into(),
            new: "n".into(),
            new_oid: 2,
            old: "o".into(),
            facts: DatabaseFacts { connection_limit: Some(5), ..DatabaseFacts::default() },
            replaced,
        }
    }

    const OLD: Replaced = Replaced { oid: 1, allowed_connections: false };

    #[test]
    fn the_old_makes_room_before_the_new_takes_its_name() {
        assert_eq!(
            swap_sql(&[pair(Some(OLD))]),
            [
                "ALTER DATABASE \"a\"\"b\" RENAME TO \"o\"",
                "ALTER DATABASE \"o\" WITH ALLOW_CONNECTIONS false",
                "ALTER DATABASE \"n\" RENAME TO \"a\"\"b\"",
                "ALTER DATABASE \"a\"\"b\" WITH ALLOW_CONNECTIONS true CONNECTION LIMIT 5",
            ]
        );
        assert_eq!(swap_sql(&[pair(None)]).len(), 2);
    }

    #[test]
    fn the_way_back_restores_names_and_openness() {
        assert_eq!(
            swap_back_sql(&[pair(Some(OLD))]),
            [
                "ALTER DATABASE \"a\"\"b\" RENAME TO \"n\"",
                "ALTER DATABASE \"n\" WITH ALLOW_CONNECTIONS false",
                "ALTER DATABASE \"o\" RENAME TO \"a\"\"b\"",
                "ALTER DATABASE \"a\"\"b\" WITH ALLOW_CONNECTIONS false",
            ]
        );
    }
}
