//! One run per (target, job), over processes and hosts: a lease is an object with an expiry, under a fencing number.
//!
//! Whoever wants the job lists the leases, and creates the one after the highest, create-only, unless the highest is still live. So of two
//! that try at once only one succeeds, and a holder that slept past its expiry sees a higher number than its own. The holder renews its
//! own object only. Works wherever create-only works, also where conditional updates do not (local directories).

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::error::StorageError;
use super::layout::Layout;
use super::target::Target;
use crate::name::JobName;

/// How long a lease lives without renewal: what a killed run blocks its job.
const LIFETIME: TimeDelta = TimeDelta::seconds(120);
const RENEW_EVERY: Duration = Duration::from_secs(30);

const MAX_BYTES: u64 = 64 << 10;
const JSON: &str = "application/json";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    holder: String,
    /// Tells this lease from any other that ever had its number.
    token: uuid::Uuid,
    expires: DateTime<Utc>,
}

/// A held lease; renewed in the background until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    target: Target,
    job: JobName,
    number: u64,
    token: uuid::Uuid,
    renewal: AbortHandle,
    lost: CancellationToken,
}

impl Lease {
    /// Takes the lease of `job`. `holder` tells an operator who it is.
    ///
    /// # Errors
    /// [`StorageError::Busy`] while another holds it.
    pub async fn acquire(target: &Target, job: &JobName, holder: &str) -> Result<Self, StorageError> {
        let highest = highest(target, job).await?;
        if let Some((number, record)) = &highest
            && record.expires > Utc::now()
        {
            tracing::debug!(%job, number, "lease is live");
            return Err(busy(target, job, record.holder.clone(), record.expires));
        }
        let number = highest.map_or(1, |(number, _)| number + 1);
        let token = uuid::Uuid::new_v4();
        let record = Record { holder: holder.to_owned(), token, expires: Utc::now() + LIFETIME };
        match target.create(&target.layout().lease(job, number), encode(&record), JSON).await {
            Ok(()) => {}
            Err(StorageError::Occupied { .. }) => {
                return Err(busy(target, job, "another run that began at the same time".into(), record.expires));
            }
            Err(error) => return Err(error),
        }
        for old in (1..number).rev().take(2) {
            // only tidiness: an older number can never win again
            let _ = target.delete(&target.layout().lease(job, old)).await;
        }
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(renew(target.clone(), job.clone(), number, record, lost.clone())).abort_handle();
        Ok(Self { target: target.clone(), job: job.clone(), number, token, renewal, lost })
    }

    /// Asks the target whether the lease is still ours; to be called right before a commit.
    pub async fn confirm(&self) -> Result<(), StorageError> {
        let ours = match highest(&self.target, &self.job).await? {
            Some((_, record)) => record.token == self.token && record.expires > Utc::now(),
            None => false,
        };
        if ours && !self.lost.is_cancelled() {
            Ok(())
        } else {
            Err(StorageError::LeaseLost { target: self.target.name().clone(), job: self.job.clone() })
        }
    }

    /// Frees the job at once.
    pub async fn release(self) {
        self.renewal.abort();
        let key = self.target.layout().lease(&self.job, self.number);
        if let Err(error) = self.target.delete(&key).await {
            tracing::warn!(job = %self.job, %error, "could not release the lease; it frees itself in two minutes");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

async fn renew(target: Target, job: JobName, number: u64, mut record: Record, lost: CancellationToken) {
    let key = target.layout().lease(&job, number);
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if Utc::now() >= record.expires {
            // a suspended process wakes here: another may hold the job by now, so its object is not touched
            tracing::error!(%job, "the lease expired before it could be renewed");
            return lost.cancel();
        }
        let next = Record { expires: Utc::now() + LIFETIME, ..record.clone() };
        match target.write(&key, encode(&next), JSON).await {
            Ok(()) => record = next,
            Err(error) => tracing::warn!(%job, %error, "could not renew the lease; trying again"),
        }
    }
}

/// The lease with the highest number. One that cannot be read counts as held for its whole life from when it was written.
async fn highest(target: &Target, job: &JobName) -> Result<Option<(u64, Record)>, StorageError> {
    let listed = target.list(&target.layout().leases(job)).await?;
    let numbered = listed.iter().filter_map(|meta| Layout::lease_number(&meta.location).map(|number| (number, meta)));
    let Some((number, meta)) = numbered.max_by_key(|(number, _)| *number) else { return Ok(None) };
    match target.read(&meta.location, MAX_BYTES).await {
        Ok(bytes) => {
            let unreadable = || Record {
                holder: "a lease that cannot be read".into(),
                token: uuid::Uuid::nil(),
                expires: meta.last_modified + LIFETIME,
            };
            Ok(Some((number, serde_json::from_slice(&bytes).unwrap_or_else(|_| unreadable()))))
        }
        // released between the listing and now
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(record: &Record) -> Bytes {
    serde_json::to_vec(record).expect("a record has string keys only").into()
}

fn busy(target: &Target, job: &JobName, holder: String, until: DateTime<Utc>) -> StorageError {
    StorageError::Busy { target: target.name().clone(), job: job.clone(), holder, until }
}
