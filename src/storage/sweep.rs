//! What the dead have left in a target besides objects of backups: pieces of large parts, uploads that never ended, leases of restores,
//! journals of runs, whose job may be no more. In a directory there are also files that were to be renamed, which no listing shows, and directories without a file; the latter
//! also on a WebDAV server, where what was to be moved is listed.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use super::error::StorageError;
use super::options::Location;
use super::target::{Target, generic};
use super::{file, folders};
use crate::name::{BackupName, JobName};

impl Target {
    /// Removes the pieces, and aborts the uploads, of backups of `job` that were begun `before`. The caller holds the lease of the job: no run
    /// is at work on them. Likewise the leases of restores, and the journals of runs, that
    /// were last written `before`, whoever wrote them.
    pub async fn sweep(&self, job: &JobName, before: DateTime<Utc>) -> Result<(), StorageError> {
        let behind = self.behind(job).await?;
        for prefix in [self.layout().leases_of_restores(), self.layout().runs(), self.layout().unfinished()] {
            for object in self.list(&prefix).await? {
                if object.last_modified + behind < before {
                    self.delete(&object.location).await?;
                }
            }
        }
        let dead = |name: &BackupName| name.job() == job && name.created() <= before;
        if let Location::File(path) = self.location() {
            return self.sweep_directory(path, job, before).await;
        }
        let of_the_dead = |key: &object_store::path::Path| self.layout().backup_of(key).is_some_and(|name| dead(&name));
        for piece in self.list(&self.layout().all_pieces()).await? {
            if of_the_dead(&piece.location) {
                self.delete(&piece.location).await?;
            }
        }
        if let Some(folder) = self.folder() {
            for name in self.backup_names().await?.into_iter().filter(dead) {
                // a folder is removed with all that is in it: whether there is a backup, no list decides
                if self.look_at(&self.layout().manifest(&name)).await?.is_some() {
                    continue;
                }
                let key = self.layout().backup(&name);
                folders::remove_if_empty(&**folder, &key).await.map_err(self.call("remove", &key))?;
            }
        }
        let Some(bucket) = self.bucket() else { return Ok(()) };
        let unfinished = match bucket.unfinished(self.layout().root().as_ref()).await {
            Ok(unfinished) => unfinished,
            Err(error) => {
                // a right that a backup does not need, and that not every store knows
                tracing::info!(target = %self.name(), %error, "unfinished uploads cannot be listed; a lifecycle rule of the bucket has to remove them");
                return Ok(());
            }
        };
        for upload in unfinished.iter().filter(|upload| of_the_dead(&upload.key)) {
            use object_store::multipart::MultipartStore as _;
            match bucket.store().abort_multipart(&upload.key, &upload.id).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(self.call("abort an unfinished upload of", &upload.key)(source)),
            }
        }
        Ok(())
    }

    /// How far the clock of the target is behind ours, by the lease of the job: it was renewed half a minute ago at most. Of a server whose clock
    /// is days behind, nothing would be young.
    async fn behind(&self, job: &JobName) -> Result<TimeDelta, StorageError> {
        let leases = self.list(&self.layout().leases(&job.into())).await?;
        let now_there = leases.iter().map(|lease| lease.last_modified).max();
        Ok(now_there.map_or(TimeDelta::zero(), |now| Utc::now() - now).max(TimeDelta::zero()))
    }

    async fn sweep_directory(&self, path: &Path, job: &JobName, before: DateTime<Utc>) -> Result<(), StorageError> {
        let dead = self.backup_names().await?.into_iter().filter(|name| name.job() == job && name.created() <= before);
        let dead: Vec<_> = dead.map(|name| path.join(self.layout().backup(&name).as_ref())).collect();
        let layout = self.layout();
        // others may be writing there
        let shared = [layout.leases(&job.into()), layout.restores(), layout.runs(), layout.verdicts()].map(|key| path.join(key.as_ref()));
        let swept = self.at_length_on_disk(move || {
            dead.iter().try_for_each(|dir| file::sweep(dir, None))?;
            shared.iter().try_for_each(|dir| file::sweep(dir, Some(before.into())))
        });
        let root = layout.root();
        swept.await.map_err(|source| self.call("sweep", &root)(generic(source)))
    }
}
