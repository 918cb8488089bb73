//! Statistics for the planner: archives hold none, or not all, and without them the first queries would be planned blindly.
//!
//! A bare ANALYZE goes through the tables one by one. Here several sessions share them out, the largest first. A partitioned table stands
//! for its partitions, which its own ANALYZE covers.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio_postgres::Client;

use super::connect::Endpoint;
use super::{PostgresError, inspect, query};

/// Shared tables are left out: they were there before, and belong to the server.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND NOT c.relisshared \
     AND n.nspname <> 'information_schema' \
     ORDER BY coalesce((SELECT sum(pg_relation_size(t.relid)) FROM pg_partition_tree(c.oid) t), pg_relation_size(c.oid)) DESC";

/// Analyzes the database in `sessions` sessions at once. What could not be analyzed is returned, in sentences: no reason to fail.
///
/// # Errors
/// Those of connecting, and [`PostgresError::Query`] if the tables cannot be listed.
pub async fn analyze(endpoint: &Endpoint, database: &str, sessions: usize) -> Result<Vec<String>, PostgresError> {
    let mut clients = Vec::new();
    for _ in 0..sessions.max(1) {
        clients.push(inspect::connect_to(endpoint, database).await?);
    }
    let rows = match clients.first() {
        Some(client) => client.query(TABLES, &[]).await.map_err(query("list the tables to analyze"))?,
        None => Vec::new(),
    };
    let tables = Mutex::new(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().into_iter());
    let shares: Vec<_> = clients.iter().map(|client| share(client, &tables).boxed()).collect();
    Ok(join_all(shares).await.into_iter().flatten().collect())
}

/// Takes one table after the other.
async fn share(client: &Client, tables: &Mutex<impl Iterator<Item = String> + Send>) -> Vec<String> {
    let next = || tables.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut said = Vec::new();
    while let Some(table) = next() {
        if let Err(error) = client.batch_execute(&format!("ANALYZE {table}")).await {
            said.push(format!("{table}: {}", error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())));
        }
    }
    said
}
