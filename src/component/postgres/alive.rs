//! Whether a server gets anywhere with what may take hours without a byte moving, such as an index: it is asked beside that work.
//!
//! No limit on time can tell a large index from a server that hangs, so there is none. What is cut is work at a server that answers nobody,
//! and work that waits for a lock which somebody else holds, each for longer than a stream may stand still. (`pg_restore` sets
//! `lock_timeout` back to none, as its scripts do.)

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::PostgresError;
use super::connect::Endpoint;
use super::inspect::connect_to;
use super::query;
use super::restore_error::RestoreError;

/// Between two questions, at most.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest that an answer may take, so that one which was lost costs no more.
const ANSWER: Duration = Duration::from_secs(30);

/// Locks that sessions of our databases wait for and sessions elsewhere hold: these would not end with our own work, as those of parallel
/// sessions do. Without queries, which may hold anything.
const BLOCKERS: &str = "SELECT DISTINCT format('process %s (application `%s`)', holder.pid, holder.application_name) \
     FROM pg_stat_activity waiting, unnest(pg_blocking_pids(waiting.pid)) AS blocking(pid), pg_stat_activity holder \
     WHERE waiting.datname = ANY ($1) AND waiting.wait_event_type = 'Lock' AND holder.pid = blocking.pid \
     AND holder.datname <> ALL ($1) ORDER BY 1 LIMIT 5";

/// What `work` at the server `endpoint` comes to, in the databases `ours`, unless the server gets nowhere with it for `stall`.
///
/// # Errors
/// [`RestoreError::Silent`] and [`RestoreError::Held`]; those of `work`.
pub async fn while_it_moves<T>(
    endpoint: &Endpoint,
    ours: &[String],
    stall: Option<Duration>,
    work: impl Future<Output = Result<T, PostgresError>>,
) -> Result<T, PostgresError> {
    let Some(stall) = stall else { return work.await };
    tokio::select! {
        biased;
        done = work => done,
        stands_still = watch(endpoint, ours, stall) => {
            tracing::error!("{stands_still}");
            Err(stands_still.into())
        }
    }
}

/// What the server said.
enum Said {
    Nothing,
    /// It is at work, or at least answers.
    Something,
    /// Who holds what is waited for.
    Held(Vec<String>),
}

/// Returns when nothing has moved for `stall`.
async fn watch(endpoint: &Endpoint, ours: &[String], stall: Duration) -> RestoreError {
    let pause = (stall / 4).min(PAUSE);
    let (mut answered, mut held) = (Instant::now(), None);
    loop {
        tokio::time::sleep(pause).await;
        let asked = Instant::now();
        let said = timeout(ANSWER.min(stall), ask(endpoint, ours)).await.unwrap_or(Said::Nothing);
        match said {
            Said::Nothing if answered.elapsed() >= stall => {
                return RestoreError::Silent { server: endpoint.to_string(), after: stall };
            }
            // whether a lock is still waited for is not known
            Said::Nothing => {}
            Said::Something => (answered, held) = (Instant::now(), None),
            Said::Held(by) => {
                answered = Instant::now();
                if held.get_or_insert(asked).elapsed() >= stall {
                    return RestoreError::Held { databases: ours.join("\", \""), by: by.join(", "), after: stall };
                }
            }
        }
    }
}

async fn ask(endpoint: &Endpoint, ours: &[String]) -> Said {
    let asked = async {
        let client = connect_to(endpoint, endpoint.database()).await?;
        client.query(BLOCKERS, &[&ours]).await.map_err(query("ask who holds locks"))
    };
    match asked.await {
        Ok(rows) if rows.is_empty() => Said::Something,
        Ok(rows) => Said::Held(rows.iter().map(|row| row.get(0)).collect()),
        // refused, but by a server that is there: it is full, or forbids the question
        Err(PostgresError::Connect { source, .. } | PostgresError::Query { source, .. }) if source.code().is_some() => Said::Something,
        Err(error) => {
            tracing::debug!(%error, "the server does not answer");
            Said::Nothing
        }
    }
}
