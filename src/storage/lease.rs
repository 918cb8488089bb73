//! One run per (target, subject), over processes and hosts: a lease is an object with an expiry, under a fencing number.
//!
//! Whoever wants the job lists the leases, and creates the one after the highest, create-only, unless the highest is still live. So of two
//! that try at once only one succeeds, and a holder that slept past its expiry sees a higher number than its own. The holder renews its
//! own object only. Works wherever create-only works, also where conditional updates do not (local directories).
//!
//! A restore has a lease of its own, under its mark: that tells one that is under way from one that was killed.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::error::StorageError;
use super::layout::Layout;
use super::owner::Owner;
use super::target::Target;
use crate::name::{JobName, RestoreId};

/// How long a lease lives without renewal: what a killed run blocks its job.
const LIFETIME: TimeDelta = TimeDelta::seconds(120);
const RENEW_EVERY: Duration = Duration::from_secs(30);

const MAX_BYTES: u64 = 64 << 10;
const JSON: &str = "application/json";

/// What one may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Job(JobName),
    Restore(RestoreId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(job) => write!(f, "job `{job}`"),
            Self::Restore(id) => write!(f, "restore {id}"),
        }
    }
}

impl From<&JobName> for Subject {
    fn from(job: &JobName) -> Self {
        Self::Job(job.clone())
    }
}

impl From<RestoreId> for Subject {
    fn from(id: RestoreId) -> Self {
        Self::Restore(id)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    holder: String,
    /// Tells this lease from any other that ever had its number.
    token: uuid::Uuid,
    expires: DateTime<Utc>,
    /// Leases of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
}

impl Record {
    /// What cannot be judged from here lives until it expires.
    fn is_live(&self) -> bool {
        self.expires > Utc::now() && !self.owner.as_ref().is_some_and(Owner::is_dead)
    }
}

/// A held lease; renewed in the background until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    target: Target,
    subject: Subject,
    number: u64,
    token: uuid::Uuid,
    renewal: AbortHandle,
    lost: CancellationToken,
}

impl Lease {
    /// Takes the lease of a job or a restore. `holder` tells an operator who it is.
    ///
    /// # Errors
    /// [`StorageError::Busy`] while another holds it.
    pub async fn acquire(target: &Target, subject: impl Into<Subject>, holder: &str) -> Result<Self, StorageError> {
        let subject = &subject.into();
        let highest = highest(target, subject).await?;
        if let Some((number, record)) = &highest
            && record.is_live()
        {
            tracing::debug!(%subject, number, "lease is live");
            return Err(busy(target, subject, record.holder.clone(), record.expires));
        }
        let number = highest.map_or(1, |(number, _)| number + 1);
        let token = uuid::Uuid::new_v4();
        let record = Record { holder: holder.to_owned(), token, expires: Utc::now() + LIFETIME, owner: Owner::this() };
        match target.create(&target.layout().lease(subject, number), encode(&record), JSON).await {
            Ok(()) => {}
            Err(StorageError::Occupied { .. }) => {
                return Err(busy(target, subject, "another run that began at the same time".into(), record.expires));
            }
            Err(error) => return Err(error),
        }
        for old in (1..number).rev().take(2) {
            // only tidiness: an older number can never win again
            let _ = target.delete(&target.layout().lease(subject, old)).await;
        }
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(renew(target.clone(), subject.clone(), number, record, lost.clone())).abort_handle();
        Ok(Self { target: target.clone(), subject: subject.clone(), number, token, renewal, lost })
    }

    /// Who holds it now, for an operator; `None` when nobody does.
    pub async fn holder(target: &Target, subject: impl Into<Subject>) -> Result<Option<String>, StorageError> {
        let highest = highest(target, &subject.into()).await?;
        Ok(highest.map(|(_, record)| record).filter(Record::is_live).map(|record| record.holder))
    }

    /// Asks the target whether the lease is still ours; to be called right before a commit.
    pub async fn confirm(&self) -> Result<(), StorageError> {
        let ours = match highest(&self.target, &self.subject).await? {
            Some((_, record)) => record.token == self.token && record.expires > Utc::now(),
            None => false,
        };
        if ours && !self.lost.is_cancelled() {
            Ok(())
        } else {
            Err(StorageError::LeaseLost { target: self.target.name().clone(), subject: self.subject.clone() })
        }
    }

    /// Frees it at once.
    pub async fn release(self) {
        self.renewal.abort();
        let key = self.target.layout().lease(&self.subject, self.number);
        if let Err(error) = self.target.delete(&key).await {
            tracing::warn!(subject = %self.subject, %error, "could not release the lease; it frees itself in two minutes");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

async fn renew(target: Target, subject: Subject, number: u64, mut record: Record, lost: CancellationToken) {
    let key = target.layout().lease(&subject, number);
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if Utc::now() >= record.expires {
            // a suspended process wakes here: another may hold it by now, so its object is not touched
            tracing::error!(%subject, "the lease expired before it could be renewed");
            return lost.cancel();
        }
        let next = Record { expires: Utc::now() + LIFETIME, ..record.clone() };
        match target.write(&key, encode(&next), JSON).await {
            Ok(()) => record = next,
            Err(error) => tracing::warn!(%subject, %error, "could not renew the lease; trying again"),
        }
    }
}

/// The lease with the highest number. One that cannot be read counts as held for its whole life from when it was written.
async fn highest(target: &Target, subject: &Subject) -> Result<Option<(u64, Record)>, StorageError> {
    let listed = target.list(&target.layout().leases(subject)).await?;
    let numbered = listed.iter().filter_map(|meta| Layout::lease_number(&meta.location).map(|number| (number, meta)));
    let Some((number, meta)) = numbered.max_by_key(|(number, _)| *number) else { return Ok(None) };
    match target.read(&meta.location, MAX_BYTES).await {
        Ok(bytes) => {
            let unreadable = || Record {
                holder: "a lease that cannot be read".into(),
                token: uuid::Uuid::nil(),
                expires: meta.last_modified + LIFETIME,
                owner: None,
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

fn busy(target: &Target, subject: &Subject, holder: String, until: DateTime<Utc>) -> StorageError {
    StorageError::Busy { target: target.name().clone(), subject: subject.clone(), holder, until }
}
