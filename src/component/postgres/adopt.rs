//! Takes over the databases of a restore that died.
//!
//! All renames of a restore are one transaction, and every database of ours has a mark in its name and a number that is on record: so the
//! server itself says how far the restore came. The record says what the server cannot.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;

use super::apply::Applied;
use super::connect::Endpoint;
use super::destination::Place;
use super::globals::Object;
use super::helper::{self, Role, Suffix};
use super::inspect::{self, connect};
use super::restore_error::RestoreError;
use super::staged::{Helper, StagedPostgres};
use super::swap::{self, Pair, Replaced};
use super::{PostgresError, PostgresOptions};
use crate::component::{Intent, Left};
use crate::name::RestoreId;

/// What the journal says of a restore of PostgreSQL.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// `system_identifier`: two servers never have the same, unless one is a copy of the other.
    cluster: Option<String>,
    /// The names in service.
    databases: Vec<String>,
    /// Every database that was, or may have been, created.
    helpers: Vec<Helper>,
    /// Empty until all are loaded.
    pairs: Vec<Pair>,
    /// Roles and tablespaces that were created.
    created: Vec<Object>,
    /// Takes back what was granted to them.
    undo: Vec<String>,
}

impl Record {
    /// Before anything is made.
    pub fn intent(targets: &[&str], id: RestoreId, cluster: Option<String>) -> Self {
        let suffix = Suffix::from(id);
        let helper = |(at, name): (usize, &&str)| Helper { name: suffix.helper(name, Role::New, at), oid: None };
        Self {
            cluster,
            databases: targets.iter().map(|name| (*name).to_owned()).collect(),
            helpers: targets.iter().enumerate().map(helper).collect(),
            ..Self::default()
        }
    }

    pub fn of(staged: &StagedPostgres) -> Self {
        Self {
            cluster: staged.cluster.clone(),
            databases: staged.pairs.iter().map(|pair| pair.name.clone()).collect(),
            helpers: staged.helpers.clone(),
            pairs: staged.pairs.clone(),
            created: staged.globals.created.clone(),
            undo: staged.globals.undo.clone(),
        }
    }

    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a record has string keys only")
    }

    /// Where the server does not tell who it is, its address has to do.
    pub fn to_intent(&self, endpoint: &Endpoint) -> Intent {
        let server = self.cluster.as_ref().map_or_else(|| endpoint.to_string(), |cluster| format!("cluster {cluster}"));
        let places = self.databases.iter().map(|name| format!("PostgreSQL {server}, database \"{name}\"")).collect();
        Intent { places, record: self.to_json() }
    }

    fn busy(&self) -> Vec<&str> {
        let helpers = self.helpers.iter().map(|helper| helper.name.as_str());
        self.databases.iter().map(String::as_str).chain(helpers).chain(swap::busy(&self.pairs)).collect()
    }

    /// In the text of every statement that creates or renames a database of ours.
    fn marks(&self) -> Vec<&str> {
        let names = self.helpers.iter().map(|h| &h.name).chain(self.pairs.iter().flat_map(|pair| [&pair.new, &pair.old]));
        let mut marks: Vec<&str> = names.map(|name| helper::mark(name)).collect();
        marks.sort_unstable();
        marks.dedup();
        marks
    }
}

/// Which server that is; `None` where we may not ask.
pub async fn cluster(client: &Client) -> Option<String> {
    let row = client.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]).await;
    row.map_err(|error| tracing::debug!(%error, "ask for the system identifier")).ok()?.get(0)
}

/// The state of that restore, as the server has it now.
///
/// # Errors
/// [`RestoreError::Journal`], [`RestoreError::OtherServer`], [`RestoreError::Moved`] when somebody else has renamed a database since.
pub async fn adopt(left: &Left, options: &PostgresOptions, patience: Duration) -> Result<StagedPostgres, PostgresError> {
    let record: Record = serde_json::from_value(left.record.clone()).map_err(RestoreError::Journal)?;
    let place = Place::of(&left.options.to, options, &[])?;
    let (endpoint, client) = connect(&place.endpoint, &record.busy()).await?;
    let here = cluster(&client).await;
    if here.is_some() && record.cluster.is_some() && here != record.cluster {
        return Err(RestoreError::OtherServer(endpoint.to_string()).into());
    }
    swap::silence(&client, &record.marks(), patience).await?;

    let server = inspect::inspect(&client, endpoint.to_string()).await?;
    let mut pairs = record.pairs;
    let in_service = |pair: &Pair| server.database(&pair.name).is_some_and(|found| found.oid == pair.new_oid);
    let published = pairs.iter().any(in_service);
    if let Some(moved) = pairs.iter().find(|pair| published && !in_service(pair)) {
        return Err(RestoreError::Moved(moved.name.clone()).into());
    }
    for pair in &mut pairs {
        // what the swap itself found; on record is what was there before
        if let Some(old) = server.database(&pair.old) {
            let allowed_connections = pair.replaced.is_none_or(|noted| noted.allowed_connections);
            pair.replaced = Some(Replaced { oid: old.oid, allowed_connections });
        }
    }
    let mut staged = StagedPostgres::new(endpoint, left.options.keep_old, patience);
    staged.stall = left.stall;
    staged.fresh = left.options.is_partial();
    staged.globals = Applied { created: record.created, undo: record.undo, failed: HashSet::new(), warnings: Vec::new() };
    staged.cluster = here;
    staged.helpers = record.helpers;
    staged.pairs = pairs;
    staged.published = published;
    Ok(staged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_knows_every_database_that_may_be_created() {
        let id: RestoreId = "0000000a".parse().expect("an id");
        let record = Record::intent(&["app", "other"], id, Some("7".into()));
        assert_eq!(record.marks(), ["_backstay_new_0000000a", "_backstay_new_0000000b"]);
        assert_eq!(record.busy(), ["app", "other", "app_backstay_new_0000000a", "other_backstay_new_0000000b"]);
        let back: Record = serde_json::from_value(record.to_json()).expect("what was written is read");
        assert_eq!(back, record);
    }
}
