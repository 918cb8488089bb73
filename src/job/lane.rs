//! One target's part in a run. The first failure closes the lane for the rest of the run; the other lanes go on.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::storage::{StorageError, Target};

#[derive(Debug)]
pub(super) struct Lane {
    target: Target,
    failure: Mutex<Option<String>>,
    closed: CancellationToken,
}

impl Lane {
    pub(super) fn new(target: Target) -> Self {
        Self { target, failure: Mutex::new(None), closed: CancellationToken::new() }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Why the lane is closed, if it is.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    /// Fires when the lane is closed.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.child_token()
    }

    /// Closes the lane; the first reason stays.
    pub(super) fn fail(&self, error: &StorageError) {
        let reason = explain(error, error.advice());
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(target = %self.target.name(), "{reason}");
            *failure = Some(reason);
            self.closed.cancel();
        }
    }
}
