//! What a restore must know of the server that it goes to, asked in one go, and what forbids a restore (pure).

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::Endpoint;
use super::helper;
use super::recreate::Host;
use super::restore_error::RestoreError;
use super::{PostgresError, globals, query};

/// A server before a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// `user@host:port`.
    pub at: String,
    /// `15.18 (Debian …)`.
    pub version: String,
    pub standby: bool,
    pub creator: bool,
    pub host: Host,
    pub databases: Vec<Existing>,
}

/// A database that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Existing {
    pub oid: u32,
    pub name: String,
    pub allows_connections: bool,
    /// `datconnlimit` is -2: an interrupted DROP DATABASE; it can only be dropped.
    pub invalid: bool,
    /// Whether the user may rename and drop it.
    pub owned: bool,
    pub sessions: i64,
    pub prepared_transactions: i64,
    pub slots: Vec<String>,
    pub subscriptions: Vec<String>,
}

/// Settings of a role must not come between: a restore writes, and waits as long as it must, but not for ever for a lock.
const SESSION: &str = "SET default_transaction_read_only = off; SET statement_timeout = 0; SET lock_timeout = '30s'; \
     SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; SET search_path = pg_catalog";

const SERVER: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4, pg_is_in_recovery(), \
     current_user::text, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user";

/// `pg_signal_backend` and the like are not asked for: who may not end a session learns it when it is to be ended.
const DATABASES: &str = "SELECT d.oid, d.datname::text, d.datallowconn, d.datconnlimit = -2, pg_has_role(d.datdba, 'USAGE'), \
     (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'), \
     (SELECT count(*) FROM pg_prepared_xacts p WHERE p.database = d.datname), \
     ARRAY(SELECT s.slot_name::text FROM pg_replication_slots s WHERE s.database = d.datname ORDER BY 1), \
     ARRAY(SELECT s.subname::text FROM pg_subscription s WHERE s.subdbid = d.oid ORDER BY 1) \
     FROM pg_database d ORDER BY d.datname";

/// Connects to a database that is none of `busy`, and says which one of the endpoint's servers answered.
///
/// # Errors
/// [`RestoreError::NoGround`] when all that could serve are to be replaced; those of [`Endpoint::settle`].
pub async fn connect(endpoint: &Endpoint, busy: &[&str]) -> Result<(Endpoint, Client), PostgresError> {
    let mut last = None;
    for database in ["postgres", "template1", endpoint.database()] {
        if busy.contains(&database) {
            continue;
        }
        match endpoint.settle(Some(database)).await {
            Ok((endpoint, client)) => {
                client.batch_execute(SESSION).await.map_err(query("prepare a session"))?;
                return Ok((endpoint.with_database(database), client));
            }
            Err(error) if is_about_the_database(&error) => last = Some(last.unwrap_or(error)),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| RestoreError::NoGround { server: endpoint.to_string(), database: busy.join("\", \"") }.into()))
}

/// Whether another database of the same server may let us in: this one is missing, closed or full, or not for us.
fn is_about_the_database(error: &PostgresError) -> bool {
    let about = [
        SqlState::UNDEFINED_DATABASE,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    ];
    matches!(error, PostgresError::Connect { source, .. } if source.code().is_some_and(|code| about.contains(code)))
}

/// Connects to `database` itself.
///
/// # Errors
/// Those of [`Endpoint::connect`].
pub async fn connect_to(endpoint: &Endpoint, database: &str) -> Result<Client, PostgresError> {
    let client = endpoint.connect(Some(database)).await?;
    client.batch_execute(SESSION).await.map_err(query("prepare a session"))?;
    Ok(client)
}

/// Asks the server.
///
/// # Errors
/// [`PostgresError::Query`].
pub async fn inspect(client: &Client, at: String) -> Result<Server, PostgresError> {
    let row = client.query_one(SERVER, &[]).await.map_err(query("ask for the server's version"))?;
    let number: i32 = row.get(1);
    let major = u32::try_from(number / 10_000).unwrap_or(0);
    let superuser = row.get(4);
    let mut server = Server {
        at,
        version: row.get(0),
        standby: row.get(2),
        creator: superuser || row.get(5),
        host: Host { major, user: row.get(3), superuser, ..Host::default() },
        databases: Vec::new(),
    };
    reread_globals(client, &mut server.host).await?;
    for row in client.query(DATABASES, &[]).await.map_err(query("list the databases"))? {
        server.databases.push(Existing {
            oid: row.get(0),
            name: row.get(1),
            allows_connections: row.get(2),
            invalid: row.get(3),
            owned: row.get(4),
            sessions: row.get(5),
            prepared_transactions: row.get(6),
            slots: row.get(7),
            subscriptions: row.get(8),
        });
    }
    Ok(server)
}

/// Asks for roles and tablespaces, again after some were created.
///
/// # Errors
/// [`PostgresError::Query`].
pub async fn reread_globals(client: &Client, host: &mut Host) -> Result<(), PostgresError> {
    // From 16 on, to give something to a role takes the right to become it.
    let right = if host.major >= 16 { "SET" } else { "MEMBER" };
    let roles = format!("SELECT rolname::text, pg_has_role(oid, '{right}') FROM pg_roles");
    let rows = client.query(&roles, &[]).await.map_err(query("list the roles"))?;
    host.roles = rows.iter().map(|row| row.get(0)).collect();
    host.may_own = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    let rows = client.query("SELECT spcname::text FROM pg_tablespace", &[]).await.map_err(query("list the tablespaces"))?;
    host.tablespaces = rows.iter().map(|row| row.get(0)).collect();
    Ok(())
}

impl Server {
    pub fn database(&self, name: &str) -> Option<&Existing> {
        self.databases.iter().find(|d| d.name == name)
    }

    /// Helper databases of restores that were interrupted, or that kept the old state.
    pub fn leftovers(&self) -> Vec<(&str, helper::Role)> {
        self.databases.iter().filter_map(|d| Some((d.name.as_str(), helper::Role::of(&d.name)?))).collect()
    }

    pub fn present(&self) -> globals::Present {
        globals::Present { roles: self.host.roles.clone(), tablespaces: self.host.tablespaces.clone() }
    }

    /// Refuses what is known to fail, or to lose something, when `names` are restored from a server of major version `backup`.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn allow(&self, names: &[&str], backup: Option<u32>) -> Result<(), RestoreError> {
        if let Some(backup) = backup.filter(|backup| *backup > self.host.major) {
            return Err(RestoreError::Older { backup, server: self.at.clone(), found: self.host.major });
        }
        if self.standby {
            return Err(RestoreError::Standby(self.at.clone()));
        }
        if !self.creator {
            return Err(RestoreError::NotCreator { user: self.host.user.clone(), server: self.at.clone() });
        }
        names.iter().filter_map(|name| self.database(name)).try_for_each(|existing| existing.allow(&self.host))
    }
}

impl Existing {
    /// Refuses to replace a database that other things hang on.
    fn allow(&self, host: &Host) -> Result<(), RestoreError> {
        let database = || self.name.clone();
        if self.invalid {
            return Err(RestoreError::Invalid(database()));
        }
        if !self.owned && !host.superuser {
            return Err(RestoreError::NotOwner { user: host.user.clone(), database: database() });
        }
        let tied = |by: String| Err(RestoreError::Tied { database: database(), by });
        match (self.subscriptions.first(), self.slots.first(), self.prepared_transactions) {
            (Some(name), _, _) => tied(format!("the subscription \"{name}\"")),
            (_, Some(name), _) => tied(format!("the logical replication slot \"{name}\"")),
            (_, _, 1..) => tied(format!("{} prepared transaction(s)", self.prepared_transactions)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(change: impl FnOnce(&mut Server, &mut Existing)) -> Server {
        let mut server = Server { creator: true, ..Server::default() };
        server.host.major = 15;
        let mut app = Existing { name: "app".into(), owned: true, ..Existing::default() };
        change(&mut server, &mut app);
        server.databases.push(app);
        server
    }

    fn refusal(change: impl FnOnce(&mut Server, &mut Existing)) -> String {
        server(change).allow(&["app", "new"], Some(15)).map_or_else(|e| e.to_string(), |()| "allowed".into())
    }

    #[test]
    fn what_would_fail_or_lose_something_is_refused() {
        assert_eq!(refusal(|_, _| {}), "allowed");
        assert_eq!(refusal(|s, _| s.host.major = 17), "allowed");
        for (refusal, word) in [
            (refusal(|s, _| s.host.major = 14), "older"),
            (refusal(|s, _| s.standby = true), "standby"),
            (refusal(|s, _| s.creator = false), "create databases"),
            (refusal(|_, d| d.invalid = true), "interrupted"),
            (refusal(|_, d| d.owned = false), "own"),
            (refusal(|_, d| d.slots = vec!["cdc".into()]), "\"cdc\""),
            (refusal(|_, d| d.subscriptions = vec!["sub".into()]), "\"sub\""),
            (refusal(|_, d| d.prepared_transactions = 2), "2 prepared"),
        ] {
            assert!(refusal.contains(word), "{refusal}");
        }
    }

    #[test]
    fn what_hangs_on_other_databases_is_no_matter() {
        let server = server(|_, d| (d.name, d.slots) = ("other".into(), vec!["cdc".into()]));
        assert!(server.allow(&["app"], Some(15)).is_ok());
    }

    #[test]
    fn leftovers_are_seen() {
        let server = server(|_, d| d.name = "app_backstay_new_0123abcd".into());
        assert_eq!(server.leftovers(), [("app_backstay_new_0123abcd", helper::Role::New)]);
    }
}
