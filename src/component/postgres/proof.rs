//! The step of a restore that compares: after everything was loaded, before anything is switched in.

use std::collections::{BTreeSet, HashSet};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::PostgresError;
use super::connect::Endpoint;
use super::fingerprint::{Fingerprint, Scope};
use super::readback::{self, Reading};
use super::sql::ident;
use super::staged::StagedPostgres;
use super::table_name::TableName;
use crate::component::{ComponentError, Detail, RestoreOptions, StoredComponent};

/// Most sentences of what was not compared that a restore repeats.
const SAID: usize = 5;

/// What a restore is compared with.
#[derive(Debug)]
pub struct Proof {
    then: Option<Fingerprint>,
    reading: Reading,
    /// Why there is nothing to compare with.
    none: &'static str,
}

impl Proof {
    /// Reads the fingerprint of a backup, as far as `detail` wants one.
    ///
    /// # Errors
    /// [`ComponentError::Fingerprint`].
    pub async fn read(part: &StoredComponent, detail: Detail, options: &RestoreOptions) -> Result<Self, ComponentError> {
        let scope = Scope { some_tables: options.is_partial() };
        let reading = Reading { detail, scope, sessions: 1 };
        if detail == Detail::Off {
            return Ok(Self { then: None, reading, none: "not compared, as configured" });
        }
        let stored = part.fingerprint().await.map_err(ComponentError::Fingerprint)?;
        let then = stored.as_ref().and_then(|value| Fingerprint::deserialize(value).ok());
        let none = if stored.is_none() {
            "no fingerprint in the backup: not compared"
        } else {
            "the fingerprint in the backup is not understood: not compared"
        };
        Ok(Self { then, reading, none })
    }

    /// Compares only these tables. Others may be there too, without their rows, since these need them.
    pub fn only(&mut self, tables: &BTreeSet<TableName>) {
        let names: HashSet<String> = tables.iter().map(ToString::to_string).collect();
        for database in self.then.iter_mut().flat_map(|then| then.databases.values_mut()) {
            database.tables.retain(|name, _| names.contains(name));
        }
    }

    /// Compares what was loaded into the helper database `new` for `name` with `database` of the backup.
    ///
    /// # Errors
    /// [`PostgresError::Differs`], and those of reading it.
    pub async fn compare(
        &self,
        endpoint: &Endpoint,
        (database, name, new): (&str, &str, &str),
        sessions: usize,
        staged: &mut StagedPostgres,
        cancel: &CancellationToken,
    ) -> Result<(), PostgresError> {
        let quoted = ident(name);
        let Some(then) = self.then.as_ref().and_then(|then| then.databases.get(database)) else {
            staged.done.push(format!("database {quoted}: {}", self.none));
            return Ok(());
        };
        let began = std::time::Instant::now();
        let compared = readback::compare(endpoint, new, then, Reading { sessions, ..self.reading }, cancel).await?;
        tracing::info!(database = name, seconds = began.elapsed().as_secs_f64(), differences = compared.differences.len(), "compared");
        if !compared.differences.is_empty() {
            return Err(PostgresError::Differs(compared.differences.iter().map(|what| format!("database {quoted}: {what}")).collect()));
        }
        staged.done.push(compared.sentence(&quoted));
        staged.done.extend(not_compared(&quoted, &compared.left_out));
        Ok(())
    }

    /// The roles of the backup that are not on the server.
    pub fn missing_roles(&self, there: &HashSet<String>) -> Vec<String> {
        let roles = self.then.iter().flat_map(|then| &then.roles);
        roles.filter(|role| !there.contains(*role)).map(|role| ident(role)).collect()
    }
}

fn not_compared(database: &str, left_out: &[String]) -> Option<String> {
    let said = left_out.iter().take(SAID).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = left_out.len().saturating_sub(SAID);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    (!said.is_empty()).then(|| format!("not compared of database {database}: {said}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_compared_is_said_shortly() {
        assert_eq!(not_compared("\"a\"", &[]), None);
        let many: Vec<String> = (0..7).map(|i| format!("s{i}")).collect();
        assert_eq!(not_compared("\"a\"", &many).as_deref(), Some("not compared of database \"a\": s0; s1; s2; s3; s4; and 2 more"));
    }
}
