//! [`Staged`] of a bucket.
//!
//! ```text
//! <prefix>.backstay-restore-<id>/new/<key>    the new objects
//! <prefix>.backstay-restore-<id>/old/<key>    those that were in service under the same keys, or that are to go
//! <prefix>.backstay-restore-<id>/whole        as long as all of the new ones are there, read back
//! <prefix>.backstay-restore-<id>/kept         as long as all of the old ones are there
//! ```
//!
//! A bucket has no switch: objects are copied within the server, one by one. What was in service is kept first, all of it; until then
//! nothing in service is touched, and afterwards everything can be brought back. Each step may be done again.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::objects::{each, is_empty, remove};
use super::{BucketError, BucketOptions, STAGING};
use crate::component::{ComponentError, Restored, Staged};
use crate::storage::{Listed, Objects};

/// What a journal says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    /// Objects that the backup does not hold go.
    #[serde(default)]
    pub(super) delete_extra: bool,
}

/// Objects that wait in their bucket.
pub(super) struct StagedBucket {
    pub(super) objects: Objects,
    pub(super) options: BucketOptions,
    pub(super) record: Record,
    pub(super) keep_old: bool,
    /// What was stored and compared, in sentences.
    pub(super) done: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl StagedBucket {
    /// Where everything lies that belongs to the restore.
    pub(super) fn staging(options: &BucketOptions, id: &str) -> String {
        format!("{}{STAGING}{id}/", options.place.prefix)
    }

    pub(super) fn new_prefix(options: &BucketOptions, id: &str) -> String {
        format!("{}new/", Self::staging(options, id))
    }

    fn whole(&self) -> String {
        Self::staging(&self.options, &self.record.id)
    }

    fn new_ones(&self) -> String {
        Self::new_prefix(&self.options, &self.record.id)
    }

    fn old_ones(&self) -> String {
        format!("{}old/", self.whole())
    }

    fn mark(&self) -> String {
        format!("{}kept", self.whole())
    }

    fn whole_mark(options: &BucketOptions, id: &str) -> String {
        format!("{}whole", Self::staging(options, id))
    }

    /// Says that all of the new objects are there.
    pub(super) async fn mark_whole(objects: &Objects, options: &BucketOptions, id: &str) -> Result<(), BucketError> {
        Ok(objects.write(&Self::whole_mark(options, id), &[], Bytes::from_static(b"all new objects are here\n")).await?)
    }

    fn in_service(&self, key: &str) -> String {
        format!("{}{key}", self.options.place.prefix)
    }

    async fn is_kept(&self) -> Result<bool, BucketError> {
        Ok(self.objects.head(&self.mark()).await?.is_some())
    }

    /// Keeps what is in service and will not be.
    async fn keep(&self) -> Result<(), BucketError> {
        let (new, old) = (self.new_ones(), self.old_ones());
        let (new, old) = (new.as_str(), old.as_str());
        each(&self.objects, new, |listed| async move {
            let from = self.in_service(&listed.key);
            if let Some(found) = self.objects.head(&from).await? {
                self.objects.copy(&from, &format!("{old}{}", listed.key), found.size).await?;
            }
            Ok(())
        })
        .await?;
        if self.record.delete_extra {
            each(&self.objects, &self.options.place.prefix, |listed| async move {
                if !self.options.is_left_out(&listed.key) && self.objects.head(&format!("{new}{}", listed.key)).await?.is_none() {
                    let to = format!("{old}{}", listed.key);
                    self.objects.copy(&self.in_service(&listed.key), &to, listed.size).await?;
                }
                Ok(())
            })
            .await?;
        }
        self.objects.write(&self.mark(), &[], Bytes::from_static(b"all that was in service is kept\n")).await?;
        Ok(())
    }

    async fn switch(&self) -> Result<(), BucketError> {
        let (new, old) = (self.new_ones(), self.old_ones());
        let (new, old) = (new.as_str(), old.as_str());
        each(&self.objects, new, |listed: Listed| async move {
            let from = format!("{new}{}", listed.key);
            Ok(self.objects.copy(&from, &self.in_service(&listed.key), listed.size).await?)
        })
        .await?;
        if self.record.delete_extra {
            each(&self.objects, old, |listed| async move {
                if self.objects.head(&format!("{new}{}", listed.key)).await?.is_none() {
                    self.objects.delete(&self.in_service(&listed.key)).await?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Brings back what was in service.
    async fn back(&self) -> Result<(), BucketError> {
        if !self.is_kept().await? {
            return Ok(());
        }
        let (new, old) = (self.new_ones(), self.old_ones());
        let (new, old) = (new.as_str(), old.as_str());
        each(&self.objects, old, |listed| async move {
            let from = format!("{old}{}", listed.key);
            Ok(self.objects.copy(&from, &self.in_service(&listed.key), listed.size).await?)
        })
        .await?;
        each(&self.objects, new, |listed| async move {
            if self.objects.head(&format!("{old}{}", listed.key)).await?.is_none() {
                self.objects.delete(&self.in_service(&listed.key)).await?;
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Staged for StagedBucket {
    fn record(&self) -> Value {
        json!(self.record)
    }

    async fn publish(&mut self) -> Result<(), ComponentError> {
        // who goes back has begun by removing this
        let whole = self.objects.head(&Self::whole_mark(&self.options, &self.record.id)).await.map_err(BucketError::from)?;
        if whole.is_none() {
            return Err(BucketError::NotWhole(self.options.place.url()).into());
        }
        if !self.is_kept().await? {
            self.keep().await?;
        }
        if let Err(error) = self.switch().await {
            self.back().await?;
            return Err(error.into());
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Restored, ComponentError> {
        let mut done = self.done.clone();
        let (new, old) = (self.new_ones(), self.old_ones());
        if self.keep_old && !is_empty(&self.objects, &old).await? {
            done.push(format!("the old objects are kept below {}", self.options.place.url_of(&old)));
        } else {
            remove(&self.objects, &old).await?;
        }
        remove(&self.objects, &new).await?;
        for mark in [Self::whole_mark(&self.options, &self.record.id), self.mark()] {
            self.objects.delete(&mark).await.map_err(BucketError::from)?;
        }
        self.objects.abort_unfinished(&self.whole()).await;
        Ok(Restored { done, warnings: self.warnings })
    }

    async fn undo(self: Box<Self>) -> Result<(), ComponentError> {
        self.back().await?;
        // should this be cut short, the marks must not tell of what is no more
        for mark in [Self::whole_mark(&self.options, &self.record.id), self.mark()] {
            self.objects.delete(&mark).await.map_err(BucketError::from)?;
        }
        self.objects.abort_unfinished(&self.whole()).await;
        Ok(remove(&self.objects, &self.whole()).await?)
    }
}
