//! The archives of one database, which flow side by side on one snapshot.
//!
//! Whichever is opened first starts all of them. Each then waits on its pipe until its own turn has come, which may be after the others
//! have ended: memory may have room for one at a time.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::PostgresError;
use super::account::Accounts;
use super::binaries::Binary;
use super::connect::Endpoint;
use super::dump::{Dump, Order};
use super::snapshot::Patience;
use crate::component::Notes;

/// The dump of one database, before and while it runs.
#[derive(Debug)]
pub struct Group {
    pub endpoint: Endpoint,
    pub pg_dump: Binary,
    pub patience: Patience,
    pub notes: Notes,
    pub cancel: CancellationToken,
    /// Where its fingerprint goes.
    pub accounts: Option<Arc<Accounts>>,
    /// How many archives; at least 1.
    pub archives: usize,
    pub state: Mutex<State>,
}

#[derive(Debug, Default)]
pub enum State {
    #[default]
    Waiting,
    /// Those that were not taken yet.
    Begun(Vec<Option<Dump>>),
    Failed,
}

/// The tables of each archive but the main one, as patterns.
pub type Tables = Vec<Vec<String>>;

impl Group {
    /// The archive `at`, to be taken once. Also, for whoever was first, the tables of each archive but the main one.
    ///
    /// # Errors
    /// Those of [`Dump::start_all`], for whoever was first; [`PostgresError::Together`] for the others.
    pub async fn take(&self, at: usize) -> Result<(Dump, Option<Tables>), PostgresError> {
        let mut state = self.state.lock().await;
        let mut tables = None;
        if matches!(*state, State::Waiting) {
            // whoever is dropped while it waits leaves a group that failed
            *state = State::Failed;
            let dumps = Dump::start_all(&self.order(), self.archives).await?;
            tables = Some(dumps.iter().skip(1).map(|dump| dump.tables.clone()).collect());
            *state = State::Begun(dumps.into_iter().map(Some).collect());
        }
        let dump = match &mut *state {
            State::Begun(dumps) => dumps.get_mut(at).and_then(Option::take),
            State::Waiting | State::Failed => None,
        };
        let dump = dump.ok_or_else(|| PostgresError::Together { database: self.endpoint.database().to_owned() })?;
        Ok((dump, tables))
    }

    fn order(&self) -> Order<'_> {
        Order {
            endpoint: &self.endpoint,
            pg_dump: &self.pg_dump,
            patience: &self.patience,
            notes: &self.notes,
            cancel: &self.cancel,
            accounts: self.accounts.as_ref(),
        }
    }
}
