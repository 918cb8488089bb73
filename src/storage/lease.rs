//! One run per (target, subject), over processes and hosts: an object that its holder renews, under a fencing number.
//!
//! **Taking.** Whoever wants the job lists the leases and creates the one after the highest, create-only, unless the highest is live. Of two
//! that try at once one succeeds. The highest stays when it is given back, marked as released, so that a number never comes again: a
//! request that was on its way for minutes can meet only what its own sender wrote. Works wherever create-only works, also where
//! conditional updates do not (local directories), and with credentials that may not delete.
//!
//! **Time.** No two clocks are compared. The age of a lease is
//! - on the machine where it was written, in this boot: by the time since boot, suspended time included, that its record bears. There a
//!   holder that is known to be dead holds nothing;
//! - elsewhere: by the clock of the target. Who asks writes a mark; one listing tells when the mark and the lease were written.
//!
//! A holder counts from before it sent the last renewal that succeeded, by the time since boot of its machine, and gives up [`TRUST`] after
//! that, for good: ten seconds before anybody else may take the lease. So a clock that is wrong or steps neither takes a lease nor loses
//! one, and a process that was stopped, or whose machine slept, does not believe in what it held.
//!
//! **Committing.** No store makes one object on the condition of another, so a holder can be stopped between its last look at the lease and
//! the creation of its manifest. Therefore it looks again afterwards, and takes the manifest back when the lease was lost: two that were
//! begun at overlapping times never both keep a backup. What is left is a process that is killed in just that moment, after it slept there
//! for longer than a lease lives: then there is one backup more than there should be, complete and of its own name (see
//! [`crate::job`]: names are claimed create-only), so that it mixes with no other.
//!
//! A renewal that was on its way for minutes and arrives after a later one makes a lease look older than it is, to processes of the same boot.
//! It may then be taken from a holder that lives; that one learns of it when it looks, and keeps no backup.
//!
//! A restore has a lease of its own, under its mark: that tells one that is under way from one that was killed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::StorageError;
use super::layout::Layout;
use super::owner::{Machine, Owner};
use super::target::Target;
use crate::name::{JobName, RestoreId};

/// How long a lease lives without renewal: what a killed run blocks its job on other hosts.
const LIFETIME: Duration = Duration::from_secs(120);

/// How long a holder believes in its lease after it began to renew it. Shorter than [`LIFETIME`] by more than a target's clock, which may
/// tell whole seconds, and a machine's can differ in that time.
const TRUST: Duration = Duration::from_secs(110);

const RENEW_EVERY: Duration = Duration::from_secs(30);

/// How long a renewal may take, and the pause after one that failed.
const RENEWAL: Duration = Duration::from_secs(20);
const RENEW_AGAIN: Duration = Duration::from_secs(5);

const MAX_BYTES: u64 = 64 << 10;
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

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
    /// For an operator.
    holder: String,
    /// Tells this lease from any other that ever had its number.
    token: uuid::Uuid,
    /// By the holder's clock: for people who look at the object, never for a decision.
    expires: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    /// Milliseconds since the boot of the owner's machine when this was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
}

/// A held lease; renewed in the background until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    hold: Arc<Hold>,
    _renewal: AbortOnDropHandle<()>,
}

impl Lease {
    /// Takes the lease of a job or a restore. `holder` tells an operator who it is.
    ///
    /// # Errors
    /// [`StorageError::Busy`] while another holds it.
    pub async fn acquire(target: &Target, subject: impl Into<Subject>, holder: &str) -> Result<Self, StorageError> {
        let hold = Arc::new(Hold::take(target, &subject.into(), holder, Machine::this()).await?);
        let renewal = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&hold).keep()));
        Ok(Self { hold, _renewal: renewal })
    }

    /// Who holds it now, for an operator; `None` when nobody does.
    pub async fn holder(target: &Target, subject: impl Into<Subject>) -> Result<Option<String>, StorageError> {
        let (subject, machine) = (subject.into(), Machine::this());
        let Some(found) = Found::highest(target, &subject).await? else { return Ok(None) };
        let left = match found.left(target, &subject, &machine).await {
            Ok(left) => left,
            // where nothing may be written the machine's clock has to do
            Err(error) => {
                tracing::debug!(%subject, %error, "the age of a lease is told by this machine's clock");
                left_of((Utc::now() - found.meta.last_modified).to_std().unwrap_or_default())
            }
        };
        Ok(left.map(|_| found.record.holder))
    }

    /// Fires when it is known that another may hold it by now; it is never ours again.
    pub fn lost(&self) -> CancellationToken {
        self.hold.lost.clone()
    }

    /// What a run that lost it failed of.
    pub fn loss(&self) -> StorageError {
        self.hold.loss()
    }

    /// Asks the target whether the lease is still ours; to be called right before a commit.
    ///
    /// # Errors
    /// [`StorageError::LeaseLost`], and those of the target.
    pub async fn confirm(&self) -> Result<(), StorageError> {
        self.hold.confirm().await
    }

    /// Whether what was committed just now may stay; to be called right after it.
    ///
    /// # Errors
    /// [`StorageError::LeaseLost`]: another may have begun before it was there, so that it has to be taken back.
    pub async fn ratify(&self) -> Result<(), StorageError> {
        self.hold.ratify().await
    }

    /// Frees it at once.
    pub async fn release(self) {
        drop(self._renewal);
        self.hold.release().await;
    }
}

/// A lease without its background.
#[derive(Debug)]
struct Hold {
    target: Target,
    subject: Subject,
    number: u64,
    record: Record,
    machine: Machine,
    /// When the last renewal that succeeded was sent, since boot.
    sent: Mutex<Duration>,
    lost: CancellationToken,
}

impl Hold {
    async fn take(target: &Target, subject: &Subject, holder: &str, machine: Machine) -> Result<Self, StorageError> {
        let highest = Found::highest(target, subject).await?;
        if let Some(found) = &highest
            && let Some(left) = found.left(target, subject, &machine).await?
        {
            tracing::debug!(%subject, number = found.number, "lease is live");
            return Err(busy(target, subject, found.record.holder.clone(), left));
        }
        let number = highest.as_ref().map_or(1, |found| found.number + 1);
        let record = Record {
            holder: holder.to_owned(),
            token: uuid::Uuid::new_v4(),
            expires: Utc::now(),
            owner: machine.owner.clone(),
            sent: None,
            released: false,
        };
        let sent = machine.uptime();
        match target.create(&target.layout().lease(subject, number), record.encode(sent), JSON).await {
            Ok(()) => {}
            Err(StorageError::Occupied { .. }) => {
                return Err(busy(target, subject, "another run that began at the same time".into(), LIFETIME));
            }
            Err(error) => return Err(error),
        }
        for old in highest.into_iter().flat_map(|found| found.older) {
            // only tidiness: an older number can never win again
            let _ = target.delete(&old).await;
        }
        let (target, subject) = (target.clone(), subject.clone());
        Ok(Self { target, subject, number, record, machine, sent: Mutex::new(sent), lost: CancellationToken::new() })
    }

    /// How long ago the last renewal that succeeded was begun.
    fn age(&self) -> Duration {
        self.machine.uptime().saturating_sub(*self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether nobody else can have taken it. Once it is not, it never is again.
    fn is_trusted(&self) -> bool {
        if self.age() >= TRUST {
            self.lost.cancel();
        }
        !self.lost.is_cancelled()
    }

    fn loss(&self) -> StorageError {
        StorageError::LeaseLost { target: self.target.name().clone(), subject: self.subject.clone() }
    }

    /// Renews it until it is lost.
    async fn keep(self: Arc<Self>) {
        loop {
            let pause = match self.age() {
                age if age < RENEW_EVERY => RENEW_EVERY - age,
                _ => RENEW_AGAIN,
            };
            tokio::time::sleep(pause).await;
            match tokio::time::timeout(RENEWAL, self.renew()).await {
                Ok(Ok(())) => {}
                Ok(Err(StorageError::LeaseLost { .. })) => {
                    return tracing::error!(subject = %self.subject, "the lease expired before it could be renewed");
                }
                Ok(Err(error)) => tracing::warn!(subject = %self.subject, %error, "could not renew the lease; trying again"),
                Err(_) => tracing::warn!(subject = %self.subject, "the target did not take a renewal of the lease in time; trying again"),
            }
        }
    }

    async fn renew(&self) -> Result<(), StorageError> {
        // one that slept does not touch its object: what it would write might look alive
        if !self.is_trusted() {
            return Err(self.loss());
        }
        let sent = self.machine.uptime();
        self.target.write(&self.key(), self.record.encode(sent), JSON).await?;
        let mut last = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        *last = sent.max(*last);
        Ok(())
    }

    async fn confirm(&self) -> Result<(), StorageError> {
        // what is about to be made may take a while, and is to be within the trust
        if self.age() > RENEW_EVERY {
            self.renew().await?;
        }
        let highest = Found::highest(&self.target, &self.subject).await?;
        if highest.is_none_or(|found| found.record.token != self.record.token) {
            self.lost.cancel();
        }
        // last: the answer may have taken long
        if self.is_trusted() { Ok(()) } else { Err(self.loss()) }
    }

    async fn ratify(&self) -> Result<(), StorageError> {
        match self.confirm().await {
            Err(error @ StorageError::LeaseLost { .. }) => Err(error),
            // nobody can have taken it yet, whether the target answers or not
            Err(error) if self.is_trusted() => {
                tracing::debug!(subject = %self.subject, %error, "the target could not be asked again after the commit");
                Ok(())
            }
            result => result,
        }
    }

    async fn release(&self) {
        if !self.is_trusted() {
            return;
        }
        let released = Record { released: true, ..self.record.clone() };
        let done = match self.subject {
            Subject::Job(_) => self.target.write(&self.key(), released.encode(self.machine.uptime()), JSON).await,
            // no other restore will ever have its mark
            Subject::Restore(_) => self.target.delete(&self.key()).await,
        };
        if let Err(error) = done {
            tracing::warn!(subject = %self.subject, %error, "could not release the lease; it frees itself in two minutes");
        }
    }

    fn key(&self) -> Path {
        self.target.layout().lease(&self.subject, self.number)
    }
}

/// The lease with the highest number, as it lies in a target.
struct Found {
    number: u64,
    meta: ObjectMeta,
    record: Record,
    /// Leases with lower numbers, and marks that were left.
    older: Vec<Path>,
}

impl Found {
    async fn highest(target: &Target, subject: &Subject) -> Result<Option<Self>, StorageError> {
        let mut listed = target.list(&target.layout().leases(subject)).await?;
        let number = |meta: &ObjectMeta| Layout::lease_number(&meta.location);
        let Some((at, number)) = listed.iter().enumerate().filter_map(|(at, meta)| Some((at, number(meta)?))).max_by_key(|(_, n)| *n)
        else {
            return Ok(None);
        };
        let meta = listed.swap_remove(at);
        let record = match target.read(&meta.location, MAX_BYTES).await {
            // one that cannot be read counts for its whole life
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| Record::unreadable()),
            // that of a restore, which has ended just now
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self { number, older: listed.into_iter().map(|meta| meta.location).collect(), meta, record }))
    }

    /// How long it lives if it is not renewed; `None`: it is free.
    async fn left(&self, target: &Target, subject: &Subject, machine: &Machine) -> Result<Option<Duration>, StorageError> {
        if self.record.released || self.record.owner.as_ref().is_some_and(Owner::is_dead) {
            return Ok(None);
        }
        Ok(match self.record.age(machine) {
            Some(age) => left_of(age),
            None => left_of(self.age_there(target, subject).await?),
        })
    }

    /// Its age by the clock of the target.
    async fn age_there(&self, target: &Target, subject: &Subject) -> Result<Duration, StorageError> {
        let mark = target.layout().lease_mark(subject, uuid::Uuid::new_v4());
        target.write(&mark, Bytes::from_static(b"now\n"), TEXT).await?;
        let listed = target.list(&target.layout().leases(subject)).await;
        // one that stays is removed by the next holder
        let _ = target.delete(&mark).await;
        let listed = listed?;
        let written = |key: &Path| listed.iter().find(|meta| meta.location == *key).map(|meta| meta.last_modified);
        Ok(match (written(&mark), written(&self.meta.location)) {
            // a lease that was renewed after the mark is as young as can be
            (Some(now), Some(then)) => (now - then).to_std().unwrap_or_default(),
            // somebody has tidied: whoever did that holds a higher number, and the create will tell
            (Some(_), None) => LIFETIME,
            // a listing that lags behind tells nothing
            (None, _) => Duration::ZERO,
        })
    }
}

fn left_of(age: Duration) -> Option<Duration> {
    LIFETIME.checked_sub(age).filter(|left| !left.is_zero())
}

impl Record {
    fn unreadable() -> Self {
        let (holder, token, expires) = ("a lease that cannot be read".into(), uuid::Uuid::nil(), DateTime::<Utc>::MIN_UTC);
        Self { holder, token, expires, owner: None, sent: None, released: false }
    }

    /// As it is written at `sent`, since boot.
    fn encode(&self, sent: Duration) -> Bytes {
        let record = Self { expires: Utc::now() + LIFETIME, sent: u64::try_from(sent.as_millis()).ok(), ..self.clone() };
        serde_json::to_vec(&record).expect("a record has string keys only").into()
    }

    /// Its age by the time since boot; `None` where that is another's, or is no measure: a machine that was set back to an earlier state has
    /// less behind it than what it wrote.
    fn age(&self, machine: &Machine) -> Option<Duration> {
        let (owner, here) = (self.owner.as_ref()?, machine.owner.as_ref()?);
        if !owner.shares_clock(here) {
            return None;
        }
        machine.uptime().checked_sub(Duration::from_millis(self.sent?))
    }
}

fn busy(target: &Target, subject: &Subject, holder: String, left: Duration) -> StorageError {
    StorageError::Busy { target: target.name().clone(), subject: subject.clone(), holder, until: Utc::now() + left }
}

#[cfg(test)]
mod model;
