//! Databases that were loaded and wait to be put in service, and everything that was made for them.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PostgresError;
use super::adopt::Record;
use super::alive::while_it_moves;
use super::apply::Applied;
use super::connect::Endpoint;
use super::inspect::connect;
use super::restore_error::RestoreError;
use super::sql::ident;
use super::swap::{self, Pair};
use crate::component::{ComponentError, Restored, Staged};

/// A restore between `stage` and `finish`.
#[derive(Debug)]
pub struct StagedPostgres {
    pub(super) endpoint: Endpoint,
    pub(super) keep_old: bool,
    /// Nothing may be replaced: a database that came to be there meanwhile is somebody else's.
    pub(super) fresh: bool,
    /// To be removed rather than switched in.
    pub(super) beside: bool,
    pub(super) patience: Duration,
    /// Every helper database that was, or may have been, created.
    pub(super) helpers: Vec<Helper>,
    /// `system_identifier` of the server, where it tells.
    pub(super) cluster: Option<String>,
    pub(super) pairs: Vec<Pair>,
    pub(super) globals: Applied,
    pub(super) published: bool,
    /// Whether a switch was cut, so that only the server knows.
    unsure: bool,
    /// See [`super::alive`].
    pub(super) stall: Option<Duration>,
    pub(super) done: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A database of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Helper {
    pub name: String,
    /// `None`: the server's answer to its creation is not known.
    pub oid: Option<u32>,
}

impl StagedPostgres {
    pub(super) fn new(endpoint: Endpoint, keep_old: bool, patience: Duration) -> Self {
        Self {
            endpoint,
            keep_old,
            fresh: false,
            beside: false,
            patience,
            helpers: Vec::new(),
            cluster: None,
            pairs: Vec::new(),
            globals: Applied::default(),
            published: false,
            unsure: false,
            stall: None,
            done: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        for warning in warnings {
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// Removes everything that was made and is not in service.
    pub(super) async fn remove(&mut self) -> Result<(), PostgresError> {
        let (_, client) = connect(&self.endpoint, &swap::busy(&self.pairs)).await?;
        let mut left = Vec::new();
        for helper in self.helpers.drain(..) {
            if let Err(error) = swap::drop_helper(&self.endpoint, &client, &helper.name, helper.oid, self.patience).await {
                tracing::error!(database = helper.name, %error, "drop a helper database");
                left.push(format!("database {}", ident(&helper.name)));
            }
        }
        left.extend(self.globals.take_back(&client).await.iter().map(ToString::to_string));
        if left.is_empty() { Ok(()) } else { Err(RestoreError::LeftOver(left.join(", ")).into()) }
    }
}

#[async_trait]
impl Staged for StagedPostgres {
    fn record(&self) -> Value {
        Record::of(self).to_json()
    }

    async fn publish(&mut self) -> Result<(), ComponentError> {
        if self.beside || self.published {
            return Ok(());
        }
        let swap = swap::swap_in(&self.endpoint, &mut self.pairs, self.fresh, self.patience);
        let swapped = while_it_moves(&self.endpoint, &[], self.stall, swap).await;
        self.unsure = matches!(&swapped, Err(PostgresError::Restore(RestoreError::Silent { .. })));
        swapped?;
        self.published = true;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Restored, ComponentError> {
        let mut restored = Restored { done: std::mem::take(&mut self.done), warnings: std::mem::take(&mut self.globals.warnings) };
        restored.warnings.append(&mut self.warnings);
        if self.beside {
            restored
                .done
                .extend(self.pairs.iter().map(|pair| format!("database {} was loaded beside the one in service", ident(&pair.name))));
            self.remove_in_time().await?;
            return Ok(restored);
        }
        for pair in &self.pairs {
            let name = ident(&pair.name);
            let old = ident(&pair.old);
            restored.done.push(match pair.replaced {
                None => format!("database {name} was created"),
                Some(_) if self.keep_old => format!(
                    "database {name} was replaced; the old one is {old}, closed to connections \
                     (to look into it: ALTER DATABASE {old} ALLOW_CONNECTIONS true)"
                ),
                Some(_) => format!("database {name} was replaced"),
            });
        }
        if !self.keep_old {
            let dropped = async { Ok(self.drop_old().await) };
            let left = while_it_moves(&self.endpoint, &[], self.stall, dropped).await?;
            if !left.is_empty() {
                return Err(PostgresError::from(RestoreError::NotDropped(left)).into());
            }
        }
        Ok(restored)
    }

    async fn undo(mut self: Box<Self>) -> Result<(), ComponentError> {
        if self.unsure {
            // whoever takes it over looks first
            return Err(PostgresError::from(RestoreError::Unsure).into());
        }
        if self.published {
            let back = swap::swap_back(&self.endpoint, &self.pairs, self.patience);
            while_it_moves(&self.endpoint, &[], self.stall, back).await?;
        }
        Ok(self.remove_in_time().await?)
    }
}

impl StagedPostgres {
    /// As [`Self::remove`], unless the server stands still.
    pub(super) async fn remove_in_time(&mut self) -> Result<(), PostgresError> {
        let (endpoint, stall) = (self.endpoint.clone(), self.stall);
        while_it_moves(&endpoint, &[], stall, self.remove()).await
    }
}

impl StagedPostgres {
    /// Drops what was replaced; returns the names that are left.
    async fn drop_old(&self) -> Vec<String> {
        let old = || self.pairs.iter().filter_map(|p| Some((&p.old, p.replaced?.oid)));
        if old().next().is_none() {
            return Vec::new();
        }
        let client = match connect(&self.endpoint, &swap::busy(&self.pairs)).await {
            Ok((_, client)) => client,
            Err(error) => {
                tracing::error!(%error, "connect to drop what was replaced");
                return old().map(|(name, _)| name.clone()).collect();
            }
        };
        let mut left = Vec::new();
        for (name, oid) in old() {
            if let Err(error) = swap::drop_helper(&self.endpoint, &client, name, Some(oid), self.patience).await {
                tracing::error!(database = name, %error, "drop what was replaced");
                left.push(name.clone());
            }
        }
        left
    }
}
