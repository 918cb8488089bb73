//! One target's part in a run. The first failure closes the lane for the rest of the run, as does the loss of its lease; the other lanes go
//! on.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::storage::{Lease, StorageError, Target};

#[derive(Debug)]
pub(super) struct Lane {
    target: Target,
    failure: Mutex<Option<String>>,
    closed: CancellationToken,
    lost: CancellationToken,
    loss: String,
}

impl Lane {
    /// Under `lease`, which is that of the run in `target`.
    pub(super) fn new(target: Target, lease: &Lease) -> Self {
        let (lost, loss) = (lease.lost(), lease.loss());
        let loss = explain(&loss, loss.advice());
        Self { target, failure: Mutex::new(None), closed: lost.child_token(), lost, loss }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Why the lane is closed, if it is.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.or_else(|| self.lost.is_cancelled().then(|| self.loss.clone()))
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    /// Whether its lease is: then another run may be at work there.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Fires when the lane is closed.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.child_token()
    }

    /// Closes the lane; the first reason stays.
    pub(super) fn fail(&self, error: &StorageError) {
        // what the loss of the lease has cut is no reason of its own
        let reason = if self.lost.is_cancelled() { self.loss.clone() } else { explain(error, error.advice()) };
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(target = %self.target.name(), "{reason}");
            *failure = Some(reason);
            self.closed.cancel();
        }
    }
}
