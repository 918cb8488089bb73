//! What dead runs have left in a target besides objects of backups: pieces of large parts, and uploads that never ended.

use super::error::StorageError;
use super::target::Target;
use crate::name::BackupName;

impl Target {
    /// Removes the pieces, and aborts the uploads, of backups that are `dead`. The caller knows that no run is at work on them.
    pub async fn sweep(&self, dead: impl Fn(&BackupName) -> bool) -> Result<(), StorageError> {
        let of_the_dead = |key: &object_store::path::Path| self.layout().backup_of(key).is_some_and(|name| dead(&name));
        for piece in self.list(&self.layout().all_pieces()).await? {
            if of_the_dead(&piece.location) {
                self.delete(&piece.location).await?;
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
}
