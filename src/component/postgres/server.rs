//! What a server says of itself and of its databases; and whether it is a server at all, or a pooler before one.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Endpoint;
use super::facts::{DatabaseFacts, RoleSettings};
use super::{PostgresError, query};

/// The oldest server that is supported: the queries here need it.
const OLDEST: u32 = 10;

/// A server, as seen by one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// 150018.
    pub version_num: u32,
    /// A hot standby.
    pub in_recovery: bool,
    /// Superuser, or BYPASSRLS: row-level security does not hide rows.
    pub sees_all_rows: bool,
}

impl Server {
    /// 15 for 15.18.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// Asks the server behind `client`.
    ///
    /// # Errors
    /// [`PostgresError::TooOld`], [`PostgresError::Query`].
    pub async fn ask(client: &Client) -> Result<Self, PostgresError> {
        let sql = "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int,
            pg_catalog.pg_is_in_recovery(),
            (SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user)";
        let row = client.query_one(sql, &[]).await.map_err(query("ask for the server's version"))?;
        let version_num = u32::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        let server = Self { version: row.get(0), version_num, in_recovery: row.get(2), sees_all_rows: row.get(3) };
        if server.major() < OLDEST { Err(PostgresError::TooOld { version: server.version, oldest: OLDEST }) } else { Ok(server) }
    }
}

/// A database as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub facts: DatabaseFacts,
    pub allows_connections: bool,
    /// This user has the privilege CONNECT.
    pub may_connect: bool,
}

/// All databases of the server, by name.
///
/// # Errors
/// [`PostgresError::Query`].
pub async fn databases(client: &Client) -> Result<BTreeMap<String, Database>, PostgresError> {
    // Through JSON where a column depends on the version: datlocprovider is of 15, daticulocale of 15 and 16, datlocale of 17.
    let sql = "SELECT d.datname::text, pg_catalog.pg_encoding_to_char(d.encoding)::text, j->>'datcollate', j->>'datctype',
            COALESCE(j->>'datlocprovider', 'c'), COALESCE(j->>'datlocale', j->>'daticulocale'), j->>'daticurules',
            pg_catalog.pg_get_userbyid(d.datdba)::text, d.datacl::text[], pg_catalog.shobj_description(d.oid, 'pg_database'),
            d.datconnlimit, d.datistemplate, t.spcname::text, d.datallowconn, p.may_connect,
            CASE WHEN p.may_connect THEN pg_catalog.pg_database_size(d.oid) END
        FROM pg_catalog.pg_database d
            JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace,
            LATERAL (SELECT pg_catalog.to_jsonb(d) AS j) AS as_json,
            LATERAL (SELECT COALESCE(pg_catalog.has_database_privilege(d.oid, 'CONNECT'), false) AS may_connect) AS p";
    let rows = client.query(sql, &[]).await.map_err(query("list the databases"))?;
    let mut databases = BTreeMap::new();
    for row in &rows {
        let facts = DatabaseFacts {
            encoding: row.get(1),
            collate: row.get(2),
            ctype: row.get(3),
            locale_provider: Some(provider(row.get(4)).to_owned()),
            locale: row.get(5),
            icu_rules: row.get(6),
            owner: row.get(7),
            acl: row.get(8),
            comment: row.get(9),
            connection_limit: row.get(10),
            is_template: row.get(11),
            tablespace: row.get(12),
            size_bytes: row.get::<_, Option<i64>>(15).and_then(|size| u64::try_from(size).ok()),
            ..DatabaseFacts::default()
        };
        databases.insert(row.get(0), Database { facts, allows_connections: row.get(13), may_connect: row.get(14) });
    }
    let sql = "SELECT d.datname::text, r.rolname::text, s.setconfig FROM pg_catalog.pg_db_role_setting s
            JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
            LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        WHERE s.setrole = 0 OR r.oid IS NOT NULL ORDER BY 1, 2 NULLS FIRST";
    for row in client.query(sql, &[]).await.map_err(query("list the settings of the databases"))? {
        if let Some(database) = databases.get_mut(row.get::<_, &str>(0)) {
            database.facts.settings.push(RoleSettings { role: row.get(1), settings: row.get(2) });
        }
    }
    Ok(databases)
}

/// `datlocprovider`, as CREATE DATABASE spells it.
fn provider(letter: &str) -> &str {
    match letter {
        "c" | "d" => "libc",
        "i" => "icu",
        "b" => "builtin",
        other => other,
    }
}

/// What in the database behind `client` this user cannot dump, in sentences: `pg_dump` would fail over each.
///
/// # Errors
/// [`PostgresError::Query`].
pub async fn obstacles(client: &Client, database: &str, sees_all_rows: bool) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT c.oid::pg_catalog.regclass::text,
            COALESCE(NOT (pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')), false),
            COALESCE(c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')), false)
        FROM pg_catalog.pg_class c
        WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND c.oid >= 16384
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e')
        ORDER BY 1";
    let rows = client.query(sql, &[]).await.map_err(query("look for tables that cannot be read"))?;
    let named = |column: usize| -> Vec<String> { rows.iter().filter(|row| row.get(column)).map(|row| row.get(0)).collect() };
    let mut found = Vec::new();
    let unreadable = named(1);
    if !unreadable.is_empty() {
        found.push(format!("database `{database}`: this user may not read {} (grant it pg_read_all_data)", some_of(&unreadable)));
    }
    let filtered = named(2);
    if !sees_all_rows && !filtered.is_empty() {
        found.push(format!("database `{database}`: row-level security hides rows of {} (give this user BYPASSRLS)", some_of(&filtered)));
    }
    Ok(found)
}

/// Why a standby may be behind, or stay so, in sentences. Who is connected, everybody may see; what else the receiver is about, only some.
///
/// # Errors
/// [`PostgresError::Query`].
pub async fn standstill(client: &Client) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver), pg_catalog.pg_is_wal_replay_paused(),
            COALESCE(pg_catalog.pg_last_wal_receive_lsn() > pg_catalog.pg_last_wal_replay_lsn()
                AND pg_catalog.now() - pg_catalog.pg_last_xact_replay_timestamp() > interval '10 minutes', false),
            pg_catalog.to_char(pg_catalog.pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"')";
    let row = client.query_one(sql, &[]).await.map_err(query("ask what the standby receives"))?;
    let last = row.get::<_, Option<String>>(3).unwrap_or_else(|| "an unknown time".to_owned());
    let why = [
        (0, "is a standby that receives nothing from its primary now"),
        (1, "is a standby whose replay is paused"),
        (2, "is a standby that lags behind what it has received"),
    ];
    let found = why.into_iter().filter(|(column, _)| row.get(*column));
    Ok(found.map(|(_, why)| format!("the server {why}: the backup holds what was changed until {last}")).collect())
}

/// The first few names, and how many more there are.
fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown} and {} more", names.len() - 3) } else { shown }
}

/// Refuses a pooler that hands each transaction to any session (PgBouncer's `pool_mode` transaction or statement): an exported snapshot,
/// its locks and session settings would belong to somebody else.
///
/// Two clients with a session each have two backends. A pooler lends the backend of an idle client to the next one, and where it
/// does not, it may give the first client another one for its next transaction.
///
/// # Errors
/// [`PostgresError::Pooler`], [`PostgresError::Query`], those of connecting.
pub async fn refuse_pooler(endpoint: &Endpoint, client: &Client) -> Result<(), PostgresError> {
    let refuse = || PostgresError::Pooler { server: endpoint.to_string() };
    let before = backend(client).await?;
    let other = endpoint.connect(None).await?;
    match other.batch_execute("BEGIN").await {
        Ok(()) => {}
        // Statement pooling allows no transactions at all; a server has no reason to refuse one.
        Err(error) if error.as_db_error().is_some() => return Err(refuse()),
        Err(error) => return Err(query("begin a transaction")(error)),
    }
    let others = backend(&other).await?;
    let after = backend(client).await?;
    if others == before || others == after || before != after { Err(refuse()) } else { Ok(()) }
}

/// The simple protocol: prepared statements do not survive a pooler.
async fn backend(client: &Client) -> Result<String, PostgresError> {
    let messages = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await.map_err(query("ask for the backend"))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        let names = |n: usize| (0..n).map(|i| format!("t{i}")).collect::<Vec<_>>();
        assert_eq!(some_of(&names(2)), "`t0`, `t1`");
        assert_eq!(some_of(&names(5)), "`t0`, `t1`, `t2` and 2 more");
    }
}
