//! The same done to each of many objects, several at once.

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::BucketError;
use crate::storage::{Listed, Objects};

/// Requests that are under way at once.
pub(super) const PARALLEL: usize = 8;

/// Does `work` for each object whose key begins with `prefix`; [`Listed::key`] is without it. After the first error nothing more is begun, and what
/// is under way is waited for: a request that nobody waits for may be done after what follows.
pub(super) async fn each<F>(objects: &Objects, prefix: &str, work: impl Fn(Listed) -> F) -> Result<(), BucketError>
where
    F: Future<Output = Result<(), BucketError>>,
{
    let mut listed = std::pin::pin!(objects.list(prefix));
    let (mut running, mut failure, mut ended) = (FuturesUnordered::new(), None, false);
    loop {
        while failure.is_none() && !ended && running.len() < PARALLEL {
            match listed.next().await {
                Some(Ok(found)) => {
                    let key = found.key.strip_prefix(prefix).unwrap_or(&found.key).to_owned();
                    running.push(work(Listed { key, ..found }));
                }
                Some(Err(error)) => failure = Some(error.into()),
                None => ended = true,
            }
        }
        match running.next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => drop(failure.get_or_insert(error)),
            None => return failure.map_or(Ok(()), Err),
        }
    }
}

/// Deletes each of them.
pub(super) async fn remove(objects: &Objects, prefix: &str) -> Result<(), BucketError> {
    each(objects, prefix, |listed| async move { Ok(objects.delete(&format!("{prefix}{}", listed.key)).await?) }).await
}

/// Whether there is none.
pub(super) async fn is_empty(objects: &Objects, prefix: &str) -> Result<bool, BucketError> {
    Ok(std::pin::pin!(objects.list(prefix)).next().await.transpose()?.is_none())
}
