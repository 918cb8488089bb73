//! What a plan says of the server beside what forbids a restore: how large databases are that are replaced, who is cut off, how much room
//! there is. What this user may not know, or what lies on another machine, is left open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_postgres::Client;

use super::{PostgresError, query};

/// Groups of sessions that are named, of one database.
const SHOWN: usize = 5;

/// A server, seen before a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Bytes of the databases that are there, by name.
    pub sizes: BTreeMap<String, u64>,
    /// Sessions in them.
    pub sessions: BTreeMap<String, Vec<Group>>,
    /// Room in the data directory, where that can be seen from here.
    pub room: Option<Room>,
}

/// Sessions of one user and program in one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub user: String,
    pub application: String,
    pub count: i64,
    /// Whether this user may end them.
    pub may_end: bool,
}

/// Free space of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub path: PathBuf,
    pub bytes: u64,
}

const SIZES: &str = "SELECT datname::text, pg_database_size(oid) FROM pg_database WHERE datname = ANY ($1) \
     AND (has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE'))";

/// The type of a session that is somebody else's is hidden from who may not see it.
const SESSIONS: &str = "SELECT a.datname::text, coalesce(a.usename::text, '?'), coalesce(nullif(a.application_name, ''), '?'), count(*), \
     bool_and(m.rolsuper OR coalesce(pg_has_role(a.usesysid, 'USAGE'), false) \
         OR (pg_has_role('pg_signal_backend', 'USAGE') AND NOT coalesce(r.rolsuper, true))) \
     FROM pg_stat_activity a JOIN pg_roles m ON m.rolname = current_user LEFT JOIN pg_roles r ON r.oid = a.usesysid \
     WHERE a.datname = ANY ($1) AND a.pid <> pg_backend_pid() AND coalesce(a.backend_type, 'client backend') = 'client backend' \
     GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2, 3";

impl Surroundings {
    /// Asks about the databases `names`.
    ///
    /// # Errors
    /// [`PostgresError::Query`].
    pub async fn ask(client: &Client, names: &[&str]) -> Result<Self, PostgresError> {
        let mut found = Self::default();
        for row in client.query(SIZES, &[&names]).await.map_err(query("ask how large the databases are"))? {
            found.sizes.insert(row.get(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0));
        }
        for row in client.query(SESSIONS, &[&names]).await.map_err(query("ask who uses the databases"))? {
            let group = Group { user: row.get(1), application: row.get(2), count: row.get(3), may_end: row.get(4) };
            found.sessions.entry(row.get(0)).or_default().push(group);
        }
        found.room = room(client).await;
        Ok(found)
    }

    /// Who is cut off from `database`, in words.
    pub fn cut(&self, database: &str) -> String {
        let groups = self.sessions.get(database).map(Vec::as_slice).unwrap_or_default();
        let total: i64 = groups.iter().map(|group| group.count).sum();
        let named =
            groups.iter().take(SHOWN).map(|g| format!("{} of \"{}\" ({})", g.count, g.user, g.application)).collect::<Vec<_>>().join(", ");
        let more = if groups.len() > SHOWN { ", …" } else { "" };
        match total {
            0 => "no session uses it now".to_owned(),
            1 => format!("1 session is cut: {named}"),
            n => format!("{n} sessions are cut: {named}{more}"),
        }
    }

    /// Users whose sessions in `database` this user may not end.
    pub fn beyond_reach(&self, database: &str) -> Vec<&str> {
        let groups = self.sessions.get(database).map(Vec::as_slice).unwrap_or_default();
        let mut users: Vec<&str> = groups.iter().filter(|group| !group.may_end).map(|group| group.user.as_str()).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// For scripts.
    pub fn sessions_json(&self, database: &str) -> Value {
        let groups = self.sessions.get(database).map(Vec::as_slice).unwrap_or_default();
        groups.iter().map(|g| json!({"user": g.user, "application": g.application, "count": g.count, "may_end": g.may_end})).collect()
    }
}

/// The data directory's room, if it is on this machine: its control file says whose it is.
async fn room(client: &Client) -> Option<Room> {
    const WHERE: &str = "SELECT current_setting('data_directory'), (SELECT system_identifier FROM pg_control_system())";
    let row = client.query_one(WHERE, &[]).await.ok()?;
    let (path, identifier) = (PathBuf::from(row.get::<_, String>(0)), row.get::<_, i64>(1));
    if system_identifier(&path).await? != identifier.cast_unsigned() {
        return None;
    }
    let stat = statvfs(&path).ok()?;
    (stat.f_blocks > 0).then(|| Room { path, bytes: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

/// The first field of `ControlFileData` (PostgreSQL's `src/include/catalog/pg_control.h`), in the machine's own byte order.
async fn system_identifier(data: &Path) -> Option<u64> {
    let mut file = tokio::fs::File::open(data.join("global/pg_control")).await.ok()?;
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).await.ok()?;
    Some(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(groups: &[(&str, i64, bool)]) -> Surroundings {
        let group = |(user, count, may_end): &(&str, i64, bool)| Group {
            user: (*user).to_owned(),
            application: "x".into(),
            count: *count,
            may_end: *may_end,
        };
        Surroundings { sessions: [("app".to_owned(), groups.iter().map(group).collect())].into(), ..Surroundings::default() }
    }

    #[test]
    fn who_is_cut_off_is_named() {
        assert_eq!(seen(&[]).cut("app"), "no session uses it now");
        assert_eq!(seen(&[]).cut("other"), "no session uses it now");
        assert_eq!(seen(&[("a", 1, true)]).cut("app"), "1 session is cut: 1 of \"a\" (x)");
        assert_eq!(seen(&[("a", 3, true), ("b", 1, false)]).cut("app"), "4 sessions are cut: 3 of \"a\" (x), 1 of \"b\" (x)");
        assert!(seen(&[("a", 1, true); 9]).cut("app").ends_with(", …"));
    }

    #[test]
    fn who_cannot_be_ended_is_told() {
        assert_eq!(seen(&[("a", 1, true), ("b", 1, false), ("b", 2, false)]).beyond_reach("app"), ["b"]);
    }
}
