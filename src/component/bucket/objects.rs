//! The same done to each of many objects, several at once.

use futures_util::stream::{StreamExt, TryStreamExt};

use super::BucketError;
use crate::storage::{Listed, Objects};

/// Requests that are under way at once.
pub(super) const PARALLEL: usize = 8;

/// Does `work` for each object whose key begins with `prefix`; [`Listed::key`] is without it. The first error ends it.
pub(super) async fn each<F>(objects: &Objects, prefix: &str, work: impl Fn(Listed) -> F) -> Result<(), BucketError>
where
    F: Future<Output = Result<(), BucketError>>,
{
    let below = |mut listed: Listed| {
        listed.key = listed.key.strip_prefix(prefix).unwrap_or(&listed.key).to_owned();
        listed
    };
    let listed = objects.list(prefix).map_err(BucketError::from).map_ok(below);
    listed.map_ok(work).try_buffer_unordered(PARALLEL).try_for_each(|()| std::future::ready(Ok(()))).await
}

/// Deletes each of them.
pub(super) async fn remove(objects: &Objects, prefix: &str) -> Result<(), BucketError> {
    each(objects, prefix, |listed| async move { Ok(objects.delete(&format!("{prefix}{}", listed.key)).await?) }).await
}

/// Whether there is none.
pub(super) async fn is_empty(objects: &Objects, prefix: &str) -> Result<bool, BucketError> {
    Ok(std::pin::pin!(objects.list(prefix)).next().await.transpose()?.is_none())
}
