//! A copy of an object within its target, made by the store: no byte goes through here.
//!
//! In a directory it is another name of the same file. In S3 it is an upload whose parts are ranges of the other object (UploadPartCopy):
//! unlike CopyObject it takes objects of any size, several ranges at once, and gives the copy the storage class and the checksums that an
//! upload to this target has. Azure copies at its leisure: there an object is read and stored again.

use std::ops::Range;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMultipartOptions};
use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::compose::LARGEST_PART;
use super::error::StorageError;
use super::options::Location;
use super::target::{Target, generic};
use super::upload::{ABORT_TIMEOUT, completed_after_all, within};

/// Bytes of a part of a copy, unless the user has set another size, or that were too many parts. The store copies some hundred MiB in a few seconds.
const PART: u64 = 512 << 20;

/// Parts that are copied at once.
const PARALLEL: usize = 4;

/// What is to be copied.
#[derive(Debug)]
pub struct Copy<'a> {
    pub from: &'a Path,
    pub to: &'a Path,
    /// Of the object: what the copy must have, too.
    pub bytes: u64,
    pub content_type: &'static str,
    /// The longest that one request may take.
    pub stall: Duration,
}

impl Target {
    /// Makes the copy, and looks at its size. After an error there may be an object at `to`; only after [`StorageError::Stalled`] and
    /// [`StorageError::Cancelled`] one may appear there later.
    ///
    /// # Errors
    /// Those of the target; [`StorageError::Garbled`] for a copy of another size.
    pub async fn copy(&self, copy: &Copy<'_>, cancel: &CancellationToken) -> Result<(), StorageError> {
        match self.bucket() {
            Some(bucket) => self.upload_copy(bucket, copy, cancel).await?,
            // it would be made after the answer, and an object that is not whole yet looks as if it were
            None if matches!(self.location(), Location::Azure { .. }) => {
                return Err(self.call("copy", copy.from)(generic(std::io::ErrorKind::Unsupported.into())));
            }
            None => self.step(copy, cancel, self.store().copy(copy.from, copy.to)).await?,
        }
        let meta = self.step(copy, cancel, self.store().head(copy.to)).await?;
        if meta.size == copy.bytes {
            return Ok(());
        }
        Err(StorageError::Garbled { target: self.name().clone(), key: copy.to.to_string() })
    }

    async fn upload_copy(&self, bucket: &Bucket, copy: &Copy<'_>, cancel: &CancellationToken) -> Result<(), StorageError> {
        let ranges = ranges(copy.bytes, self.part_size().unwrap_or(PART), u64::from(self.max_parts().unwrap_or(u32::MAX)))
            .ok_or_else(|| self.call("copy", copy.from)(generic(std::io::ErrorKind::FileTooLarge.into())))?;
        let options = PutMultipartOptions { attributes: self.attributes(copy.content_type), ..PutMultipartOptions::default() };
        let id = self.step(copy, cancel, bucket.store().create_multipart_opts(copy.to, options)).await?;
        let parts = async {
            let parts = ranges.into_iter().enumerate().map(|(index, range)| {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                self.step(copy, cancel, bucket.copy_part(copy.from, range, copy.to, &id, index))
            });
            let parts: Vec<_> = stream::iter(parts).buffered(PARALLEL).try_collect().await?;
            let complete = async {
                let completed = bucket.store().complete_multipart(copy.to, &id, parts).await.map(drop);
                completed_after_all(self.store(), copy.to, copy.bytes, completed).await
            };
            self.step(copy, cancel, complete).await
        };
        let Err(error) = parts.await else { return Ok(()) };
        let abort = tokio::time::timeout(ABORT_TIMEOUT, bucket.store().abort_multipart(copy.to, &id));
        match abort.await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Err(error),
            // it may be completed yet
            _ => Err(StorageError::Stalled { target: self.name().clone(), key: copy.to.to_string(), after: ABORT_TIMEOUT }),
        }
    }

    async fn step<T>(
        &self,
        copy: &Copy<'_>,
        cancel: &CancellationToken,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(StorageError::Cancelled { target: self.name().clone(), key: copy.to.to_string() }),
            done = within(copy.stall, self, copy.to, work) => done?.map_err(self.call("copy", copy.from)),
        }
    }
}

/// Equal parts of `bytes`, but the last, of at least `part`; the whole is `None`: it is no range. `None`: more than `most` of the largest.
fn ranges(bytes: u64, part: u64, most: u64) -> Option<Vec<Option<Range<u64>>>> {
    let part = part.max(bytes.div_ceil(most.max(1)));
    if part > LARGEST_PART {
        return None;
    }
    if bytes <= part {
        return Some(vec![None]);
    }
    Some((0..bytes.div_ceil(part)).map(|at| Some(at * part..((at + 1) * part).min(bytes))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_few_enough_and_make_up_the_whole() {
        for (bytes, part, most) in [(1, 1, 1), (10, 3, 100), (9, 3, 100), (100, 1, 7), (5 << 40, PART, 10_000), (4 << 40, PART, 1_000)] {
            let ranges = ranges(bytes, part, most).expect("they fit");
            assert!(ranges.len() as u64 <= most);
            if ranges == [None] {
                continue;
            }
            let ranges: Vec<Range<u64>> = ranges.into_iter().map(|range| range.expect("one of several")).collect();
            let size = ranges[0].end;
            let mut end = 0;
            for (at, range) in ranges.iter().enumerate() {
                assert_eq!(range.start, end);
                let last = at + 1 == ranges.len();
                assert!(range.end - range.start == size || (last && range.end > range.start && range.end - range.start < size));
                end = range.end;
            }
            assert_eq!(end, bytes);
        }
        assert_eq!(ranges(0, PART, 10_000), Some(vec![None]));
        assert_eq!(ranges(6 << 40, PART, 1_000), None);
    }
}
