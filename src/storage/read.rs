//! An artifact on its way back: ranges that are read ahead side by side and handed on in order.
//!
//! One TCP stream over a long way is slow, so several ranges are under way at once. All are of one version of the object: each is asked for
//! with the ETag of the first answer, and compared with it. A range that breaks is asked for again from where it stopped, after object_store
//! has repeated the request itself.
//!
//! Memory: a stream always has its next range, and further ones only as long as the target has room for them ([`Target::ahead`]). It never
//! waits for that room, so streams of which one is read after the other cannot block each other.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::error::{StorageError, refuses_ranges};
use super::file;
use super::retry::Retries;
use super::target::Target;

/// Bytes of a range. A smaller object is read by one request.
pub(super) const RANGE: u64 = 8 << 20;

/// Ranges of one stream that are under way at once.
const PARALLEL: usize = 4;

/// Chunks of what is no range that wait for their reader.
const CHUNKS: usize = 64;

/// Ranges that all streams of a target may read ahead together.
pub(super) const AHEAD: usize = 4;

/// The bytes of an artifact; ends only after the last of them.
pub type Stored = BoxStream<'static, Result<Bytes, StorageError>>;

type Body = BoxStream<'static, object_store::Result<Bytes>>;

/// Opens the object at `key`, which is thought to have `expected` bytes.
pub(super) async fn open(target: &Target, key: Path, expected: u64) -> Result<Stored, StorageError> {
    let get = async |range: Option<GetRange>| target.store().get_opts(&key, GetOptions { range, ..GetOptions::default() }).await;
    let first = (expected > RANGE && !target.is_local()).then_some(GetRange::Bounded(0..RANGE));
    let result = match in_time(target, &key, get(first.clone())).await? {
        // an object that is empty by now has no ranges; and there may be servers without
        Err(error) if first.is_some() && refuses_ranges(&error) => in_time(target, &key, get(None)).await?,
        result => result,
    };
    let result = result.map_err(target.call("read", &key))?;
    let (end, meta) = (result.range.end, result.meta.clone());
    let body = match result {
        GetResult { payload: GetResultPayload::File(file, _), .. } => {
            return Ok(file::stream(target.clone(), key, file, meta.size));
        }
        result => result.into_stream(),
    };
    let object = Object { target: target.clone(), key, meta };
    let mut stream = Ahead { ranges: VecDeque::new(), next: end, tasks: JoinSet::new(), object };
    stream.fetch(0..end, Some(body), None);
    let stream = futures_util::stream::unfold(Some(stream), |stream| async move {
        let mut stream = stream?;
        match stream.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(stream))),
            Ok(None) => None,
            // nothing comes after an error
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(stream.boxed())
}

/// What comes from the target within the time that it may stand still.
pub(super) async fn in_time<T>(target: &Target, key: &Path, work: impl Future<Output = T>) -> Result<T, StorageError> {
    let silent = |_| StorageError::Silent { target: target.name().clone(), key: key.to_string(), after: target.stall() };
    tokio::time::timeout(target.stall(), work).await.map_err(silent)
}

/// The ranges under way, the next to be handed on first. Dropped, it stops them.
struct Ahead {
    object: Object,
    ranges: VecDeque<Fetch>,
    /// Where the first range begins that nobody has asked for.
    next: u64,
    tasks: JoinSet<()>,
}

struct Fetch {
    /// Bytes that are still to come.
    left: u64,
    chunks: mpsc::Receiver<Result<Bytes, StorageError>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Ahead {
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        loop {
            self.read_ahead();
            let Some(range) = self.ranges.front_mut() else { return Ok(None) };
            if range.left == 0 {
                self.ranges.pop_front();
                continue;
            }
            match range.chunks.recv().await {
                Some(Ok(chunk)) => {
                    range.left = range.left.saturating_sub(chunk.len() as u64);
                    return Ok(Some(chunk));
                }
                Some(Err(error)) => return Err(error),
                None => return Err(self.object.broken("a range ended early")),
            }
        }
    }

    fn read_ahead(&mut self) {
        // those that have ended need no handle any more
        while self.tasks.try_join_next().is_some() {}
        while self.ranges.len() < PARALLEL && self.next < self.object.meta.size {
            let room = match self.ranges.is_empty() {
                true => None,
                false => match self.object.target.ahead().clone().try_acquire_owned() {
                    Ok(room) => Some(room),
                    Err(_) => return,
                },
            };
            let range = self.next..(self.next + RANGE).min(self.object.meta.size);
            self.next = range.end;
            self.fetch(range, None, room);
        }
    }

    fn fetch(&mut self, range: Range<u64>, body: Option<Body>, room: Option<OwnedSemaphorePermit>) {
        // a range is read to its end whether it is wanted yet or not; the whole of an object, from a server without ranges, as it is wanted
        let length = range.end - range.start;
        let (out, chunks) = mpsc::channel(if length > RANGE { CHUNKS } else { Semaphore::MAX_PERMITS });
        self.ranges.push_back(Fetch { left: range.end - range.start, chunks, _room: room });
        self.tasks.spawn(self.object.clone().fetch(range, body, out));
    }
}

/// One version of an object.
#[derive(Clone)]
struct Object {
    target: Target,
    key: Path,
    meta: ObjectMeta,
}

impl Object {
    async fn fetch(self, range: Range<u64>, mut body: Option<Body>, out: mpsc::Sender<Result<Bytes, StorageError>>) {
        let mut at = range.start;
        let mut retries = Retries::new();
        while let Err(error) = self.receive(&mut at, range.end, body.take(), &out).await {
            let Some(pause) = retries.next().filter(|_| !error.is_permanent()) else {
                // a reader that is gone needs no error
                let _ = out.send(Err(error)).await;
                return;
            };
            tracing::info!(target = %self.target.name(), key = %self.key, at, "a download broke, it goes on in {pause:?}: {error}");
            tokio::time::sleep(pause).await;
        }
    }

    /// Moves `at` with each byte that is handed on.
    async fn receive(
        &self,
        at: &mut u64,
        end: u64,
        body: Option<Body>,
        out: &mpsc::Sender<Result<Bytes, StorageError>>,
    ) -> Result<(), StorageError> {
        let mut body = match body {
            Some(body) => body,
            None => self.request(*at..end).await?,
        };
        while *at < end {
            let Some(chunk) = in_time(&self.target, &self.key, body.next()).await? else {
                return Err(self.broken("the connection ended early"));
            };
            let chunk = chunk.map_err(self.target.call("read", &self.key))?;
            let bytes = chunk.len() as u64;
            if bytes > end - *at {
                return Err(self.broken("the store sent more than it was asked for"));
            }
            self.target.wait_for(bytes).await;
            *at += bytes;
            if out.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        // only a body that was read to its end gives its connection back
        let _ = in_time(&self.target, &self.key, body.next()).await;
        Ok(())
    }

    async fn request(&self, range: Range<u64>) -> Result<Body, StorageError> {
        // a weak ETag never matches (RFC 9110 section 13.1.1)
        let if_match = self.meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
        let options = GetOptions { range: Some(GetRange::Bounded(range)), if_match, ..GetOptions::default() };
        let result = match in_time(&self.target, &self.key, self.target.store().get_opts(&self.key, options)).await? {
            Err(object_store::Error::Precondition { .. }) => return Err(self.changed()),
            result => result.map_err(self.target.call("read", &self.key))?,
        };
        // not every store heeds If-Match
        if !same_version(&self.meta, &result.meta) {
            return Err(self.changed());
        }
        Ok(result.into_stream())
    }

    fn changed(&self) -> StorageError {
        StorageError::Changed { target: self.target.name().clone(), key: self.key.to_string() }
    }

    fn broken(&self, what: &'static str) -> StorageError {
        let source = object_store::Error::Generic { store: "target", source: io::Error::other(what).into() };
        self.target.call("read", &self.key)(source)
    }
}

/// Apache calls the tag of a file weak for a second after it was written, and not from then on: they are compared as weak ones (RFC 9110
/// section 8.8.3.2).
fn same_version(first: &ObjectMeta, now: &ObjectMeta) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let same_tag = match (&first.e_tag, &now.e_tag) {
        (Some(first), Some(now)) => opaque(first) == opaque(now),
        _ => first.last_modified == now.last_modified,
    };
    same_tag && first.size == now.size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_is_no_longer_weak_is_the_same_and_another_is_not() {
        let meta = |tag: Option<&str>, size, second| ObjectMeta {
            location: Path::from("key"),
            last_modified: chrono::DateTime::from_timestamp(second, 0).expect("a time"),
            size,
            e_tag: tag.map(ToOwned::to_owned),
            version: None,
        };
        let first = meta(Some("W/\"a-1\""), 7, 1);
        assert!(same_version(&first, &meta(Some("\"a-1\""), 7, 1)));
        assert!(!same_version(&first, &meta(Some("\"a-2\""), 7, 1)));
        assert!(!same_version(&first, &meta(Some("\"a-1\""), 8, 1)));
        assert!(same_version(&meta(None, 7, 1), &meta(None, 7, 1)) && !same_version(&meta(None, 7, 1), &meta(None, 7, 2)));
    }
}
