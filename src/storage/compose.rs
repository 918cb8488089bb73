//! An upload to S3 whose parts may be larger than memory.
//!
//! S3 takes at most 10,000 parts, and a part is held in memory until it is stored, so that parts of 64 MiB end at 640 GB. Larger parts are
//! composed: their pieces are uploaded as the parts of a temporary object, which the server then copies into the upload as one part
//! (UploadPartCopy), and which is deleted. Parts are equal, but for the last, as long as the estimate holds: some stores insist on it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartId, MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart};
use tokio::sync::OnceCell;

use super::bucket::Bucket;
use super::layout::Layout;
use super::upload::completed_after_all;

/// The largest part of S3, and the most that it copies into one, in bytes.
pub(super) const LARGEST_PART: u64 = 5 << 30;

/// How many pieces make a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Composition {
    pieces: u32,
    most: u32,
    max_parts: u32,
}

impl Composition {
    /// For about `estimate` bytes in pieces of `piece` bytes, such that they take at most three quarters of `max_parts`, and for parts of
    /// `part_size` bytes if the user set that.
    pub(super) fn plan(piece: u64, estimate: Option<u64>, part_size: Option<u64>, max_parts: u32) -> Self {
        let piece = piece.max(1);
        // the temporary object is an upload of its own
        let most = (LARGEST_PART / piece).clamp(1, u64::from(max_parts.max(1)));
        let room = (u64::from(max_parts).saturating_mul(piece) / 4 * 3).max(1);
        let pieces = estimate.unwrap_or(0).div_ceil(room).max(part_size.unwrap_or(0) / piece).clamp(1, most);
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self { pieces: count(pieces), most: count(most), max_parts }
    }

    /// The pieces of one part, as long as the estimate holds.
    pub(super) fn pieces(self) -> u32 {
        self.pieces
    }

    /// The pieces of part `index`; `None` past the last part. When seven eighths of the parts are used up, the rest grow.
    fn of(self, index: u32) -> Option<u32> {
        let (index, max) = (u64::from(index), u64::from(self.max_parts));
        if index >= max {
            return None;
        }
        Some(if index + 1 == max || index * 16 >= max * 15 {
            self.most
        } else if index * 8 >= max * 7 {
            self.pieces.saturating_mul(8).min(self.most)
        } else {
            self.pieces
        })
    }
}

/// An upload in progress; takes pieces as if they were parts.
#[derive(Debug)]
pub(super) struct Composer {
    upload: Arc<Composed>,
    plan: Composition,
    /// Of the next part.
    index: u32,
    /// The part whose pieces are coming, and how many came.
    open: Option<(Arc<Group>, u32)>,
    composed: bool,
    bytes: u64,
}

#[derive(Debug)]
struct Composed {
    bucket: Bucket,
    layout: Layout,
    key: Path,
    id: MultipartId,
    parts: Mutex<BTreeMap<u32, PartId>>,
    /// Those that have left something in the bucket.
    groups: Mutex<BTreeMap<u32, Arc<Group>>>,
    /// It was said that some stay.
    told: AtomicBool,
}

/// The pieces of one part.
#[derive(Debug)]
struct Group {
    index: u32,
    /// Of the temporary object.
    key: Path,
    id: OnceCell<MultipartId>,
    whole: u32,
    stored: Mutex<BTreeMap<u32, PartId>>,
    bytes: AtomicU64,
}

impl Composer {
    pub(super) async fn begin(
        bucket: &Bucket,
        layout: &Layout,
        key: &Path,
        options: PutMultipartOptions,
        plan: Composition,
    ) -> Result<Self> {
        let id = bucket.store().create_multipart_opts(key, options).await?;
        let upload = Composed {
            bucket: bucket.clone(),
            layout: layout.clone(),
            key: key.clone(),
            id,
            parts: Mutex::default(),
            groups: Mutex::default(),
            told: AtomicBool::new(false),
        };
        Ok(Self { upload: Arc::new(upload), plan, index: 0, open: None, composed: false, bytes: 0 })
    }

    /// The part that the next piece belongs to, and its place there.
    fn place(&mut self) -> Result<Place> {
        let (group, place) = match self.open.take() {
            Some(open) => open,
            None => {
                let index = self.index;
                let whole = self.plan.of(index).ok_or_else(|| {
                    let text = format!("more than the {} parts that `max_parts` allows", self.plan.max_parts);
                    failed(io::Error::new(io::ErrorKind::FileTooLarge, text))
                })?;
                self.index += 1;
                if whole == 1 {
                    return Ok(Place::Part(index));
                }
                self.composed = true;
                (self.upload.group(index, whole), 0)
            }
        };
        if place + 1 < group.whole {
            self.open = Some((group.clone(), place + 1));
        }
        Ok(Place::Piece(group, place))
    }
}

enum Place {
    Part(u32),
    Piece(Arc<Group>, u32),
}

#[async_trait]
impl MultipartUpload for Composer {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.bytes += data.content_length() as u64;
        let upload = self.upload.clone();
        match self.place() {
            Err(error) => Box::pin(std::future::ready(Err(error))),
            Ok(Place::Part(index)) => Box::pin(async move { upload.part(index, data).await }),
            Ok(Place::Piece(group, place)) => Box::pin(async move { upload.piece(&group, place, data).await }),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let upload = &self.upload;
        if let Some((group, _)) = self.open.take() {
            upload.join(&group).await?;
        }
        let parts = std::mem::take(&mut *held(&upload.parts));
        if parts.len() != self.index as usize {
            return Err(failed(io::Error::other("a part was not stored")));
        }
        let result = upload.bucket.store().complete_multipart(&upload.key, &upload.id, parts.into_values().collect()).await?;
        // the bytes of a copy went by us: at least their number is to be right
        if self.composed {
            let stored = upload.bucket.store().head(&upload.key).await?.size;
            if stored != self.bytes {
                return Err(failed(io::Error::other(format!("{stored} bytes were stored in place of {}", self.bytes))));
            }
        }
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        let upload = &self.upload;
        let store = upload.bucket.store();
        let groups = std::mem::take(&mut *held(&upload.groups));
        for group in groups.values() {
            if let Some(id) = group.id.get() {
                // fails if it was completed before
                let _ = store.abort_multipart(&group.key, id).await;
            }
            let _ = store.delete(&group.key).await;
        }
        if !groups.is_empty() {
            // an upload that began while it was stopped has told nobody its id
            for left in upload.bucket.unfinished(upload.layout.pieces_of(&upload.key).as_ref()).await.unwrap_or_default() {
                let _ = store.abort_multipart(&left.key, &left.id).await;
            }
        }
        store.abort_multipart(&upload.key, &upload.id).await
    }
}

impl Composed {
    fn group(&self, index: u32, whole: u32) -> Arc<Group> {
        let key = self.layout.pieces_of(&self.key).join(format!("{index:05}"));
        let group = Arc::new(Group { index, key, id: OnceCell::new(), whole, stored: Mutex::default(), bytes: AtomicU64::new(0) });
        held(&self.groups).insert(index, group.clone());
        group
    }

    async fn part(&self, index: u32, data: PutPayload) -> Result<()> {
        let part = self.bucket.store().put_part(&self.key, &self.id, index as usize, data).await?;
        held(&self.parts).insert(index, part);
        Ok(())
    }

    /// Whoever stores the last piece joins them.
    async fn piece(&self, group: &Group, place: u32, data: PutPayload) -> Result<()> {
        let store = self.bucket.store();
        let id = group.id.get_or_try_init(|| store.create_multipart(&group.key)).await?;
        group.bytes.fetch_add(data.content_length() as u64, Ordering::SeqCst);
        let piece = store.put_part(&group.key, id, place as usize, data).await?;
        let complete = {
            let mut stored = held(&group.stored);
            stored.insert(place, piece);
            stored.len() == group.whole as usize
        };
        if complete { self.join(group).await } else { Ok(()) }
    }

    async fn join(&self, group: &Group) -> Result<()> {
        let store = self.bucket.store();
        let pieces: Vec<PartId> = held(&group.stored).values().cloned().collect();
        let id = group.id.get().ok_or_else(|| failed(io::Error::other("a part has no pieces")))?;
        let completed = store.complete_multipart(&group.key, id, pieces).await.map(drop);
        completed_after_all(store, &group.key, group.bytes.load(Ordering::SeqCst), completed).await?;
        let part = self.bucket.copy_part(&group.key, None, &self.key, &self.id, group.index).await?;
        held(&self.parts).insert(group.index, part);
        match store.delete(&group.key).await {
            Ok(()) | Err(Error::NotFound { .. }) => {
                held(&self.groups).remove(&group.index);
            }
            // they stay for a reason that all of them share
            Err(error) if !self.told.swap(true, Ordering::SeqCst) => {
                tracing::warn!(key = %group.key, %error, "could not remove temporary objects; they are removed a day from now, by a run that may");
            }
            Err(_) => {}
        }
        Ok(())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(source: io::Error) -> Error {
    Error::Generic { store: "S3", source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TB: u64 = 1_000_000_000_000;

    /// Parts that `bytes` take, and whether all but the last have one size.
    fn parts(plan: Composition, piece: u64, bytes: u64) -> Option<(u32, bool)> {
        let (mut left, mut index, mut equal) = (bytes, 0, true);
        while left > 0 {
            let pieces = plan.of(index)?;
            equal &= pieces == plan.pieces || left <= u64::from(pieces) * piece;
            left = left.saturating_sub(u64::from(pieces) * piece);
            index += 1;
        }
        Some((index, equal))
    }

    #[test]
    fn five_terabytes_fit_into_ten_thousand_equal_parts() {
        let piece = super::super::PIECE;
        let plan = Composition::plan(piece, Some(5 * TB), None, 10_000);
        let (count, equal) = parts(plan, piece, 5 * TB).expect("they fit");
        assert!(count <= 7_500 && equal, "{count}");
        assert!(u64::from(plan.pieces()) * piece <= LARGEST_PART);
        // and a sixth more than was thought, still equal
        assert!(parts(plan, piece, 5_800_000_000_000).is_some_and(|(_, equal)| equal));
        // twice as much fits, though not in equal parts
        assert!(parts(plan, piece, 10 * TB).is_some());
        // with the thousand parts of some providers too
        assert!(parts(Composition::plan(piece, Some(4 * TB), None, 1_000), piece, 4 * TB).is_some());
    }

    #[test]
    fn nothing_is_composed_as_long_as_single_pieces_do() {
        for estimate in [None, Some(0), Some(400_000_000_000)] {
            let plan = Composition::plan(64 * MIB, estimate, Some(8 * MIB), 10_000);
            assert_eq!(plan.pieces(), 1, "{estimate:?}");
            assert!((0..8_750).all(|index| plan.of(index) == Some(1)));
        }
    }

    #[test]
    fn a_stream_that_nobody_has_estimated_grows_to_terabytes() {
        let plan = Composition::plan(64 * MIB, None, None, 10_000);
        assert!(parts(plan, 64 * MIB, 3 * TB).is_some());
        assert_eq!(plan.of(9_999), Some(80));
        assert_eq!(plan.of(10_000), None);
    }

    #[test]
    fn a_part_size_beyond_memory_is_composed() {
        assert_eq!(Composition::plan(64 * MIB, None, Some(512 * MIB), 10_000).pieces(), 8);
        assert_eq!(Composition::plan(64 * MIB, None, Some(5 << 30), 10_000).pieces(), 80);
        assert_eq!(Composition::plan(64 * MIB, Some(u64::MAX), None, 100).pieces(), 80);
    }
}
