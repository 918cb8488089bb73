//! One object on its way into one target, in parts.
//!
//! The upload runs in a task of its own. It becomes visible by [`Upload::finish`] only; an upload that is dropped, cancelled, or fails is
//! aborted, so that no parts stay behind.

use std::io;
use std::time::Duration;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::compose::{Composer, Composition};
use super::error::StorageError;
use super::target::{Target, generic};

/// Parts of one upload that are under way at once.
const PARALLEL: usize = 3;

/// Bytes of a piece of a part that the store joins.
pub const PIECE: u64 = 16 << 20;

/// How long an abort may take; the store forgets the parts by its lifecycle rule if it does not answer.
pub(super) const ABORT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is known of an object before its first byte.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of each piece but the last, unless the object outgrows its estimate.
    pub piece: u64,
    /// About how many bytes will come.
    pub estimate: Option<u64>,
}

impl Target {
    /// Whether an object of that shape needs parts of several pieces.
    pub fn composes(&self, shape: Shape) -> bool {
        self.joins() && self.composition(shape).pieces() > 1
    }

    /// Whether the store joins pieces to parts, so that any size of them will do.
    pub fn joins(&self) -> bool {
        self.bucket().is_some()
    }

    fn composition(&self, shape: Shape) -> Composition {
        Composition::plan(shape.piece, shape.estimate, self.part_size(), self.max_parts().unwrap_or(u32::MAX))
    }
}

enum Message {
    Piece(PutPayload),
    Finish,
}

/// A running upload.
pub struct Upload {
    messages: mpsc::Sender<Message>,
    task: JoinHandle<Result<(), StorageError>>,
}

impl Upload {
    /// Begins. `stall` is the longest that one part may take, once the target's limit lets it go.
    pub fn start(target: &Target, key: Path, content_type: &'static str, shape: Shape, stall: Duration, cancel: CancellationToken) -> Self {
        let (messages, inbox) = mpsc::channel(1);
        let worker = Worker { target: target.clone(), key, content_type, shape, stall, parts: JoinSet::new(), count: 0, bytes: 0 };
        let task = tokio::spawn(worker.run(inbox, cancel));
        Self { messages, task }
    }

    /// Hands over the next bytes; waits while the store is slower than the source. False: the upload has failed, and
    /// [`Upload::finish`] will say why.
    pub async fn send(&self, piece: PutPayload) -> bool {
        self.messages.send(Message::Piece(piece)).await.is_ok()
    }

    /// Makes the object visible.
    pub async fn finish(self) -> Result<(), StorageError> {
        // a closed channel means that the task has ended early and holds the error
        let _ = self.messages.send(Message::Finish).await;
        join(self.task).await
    }

    /// Removes what was uploaded. The error, if the upload had already failed by itself.
    pub async fn abort(self) -> Option<StorageError> {
        drop(self.messages);
        join(self.task).await.err().filter(|e| !matches!(e, StorageError::Cancelled { .. }))
    }
}

async fn join(task: JoinHandle<Result<(), StorageError>>) -> Result<(), StorageError> {
    task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

struct Worker {
    target: Target,
    key: Path,
    content_type: &'static str,
    shape: Shape,
    stall: Duration,
    parts: JoinSet<Result<(), StorageError>>,
    /// Parts and bytes that were sent.
    count: u32,
    bytes: u64,
}

impl Worker {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>, cancel: CancellationToken) -> Result<(), StorageError> {
        let mut upload = None;
        let result = tokio::select! {
            () = cancel.cancelled() => Err(self.cancelled()),
            result = self.transfer(&mut inbox, &mut upload) => result,
        };
        // close first: whoever is sending learns at once that nothing more is taken
        drop(inbox);
        if result.is_err() {
            self.parts.shutdown().await;
            if let Some(mut upload) = upload {
                match tokio::time::timeout(ABORT_TIMEOUT, upload.abort()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(target = %self.target.name(), key = %self.key, %error, "could not abort an upload; its parts stay until the store's lifecycle rule removes them")
                    }
                    Err(_) => {
                        tracing::warn!(target = %self.target.name(), key = %self.key, "aborting an upload timed out; its parts stay until the store's lifecycle rule removes them")
                    }
                }
            }
        }
        result
    }

    /// A first piece that is not whole is the only one: it is stored by one request. A whole one is not held back: it may fill so much of
    /// the budget that the next could never be read.
    async fn transfer(
        &mut self,
        inbox: &mut mpsc::Receiver<Message>,
        slot: &mut Option<Box<dyn MultipartUpload>>,
    ) -> Result<(), StorageError> {
        let mut held: Option<PutPayload> = None;
        loop {
            match inbox.recv().await {
                None => return Err(self.cancelled()),
                Some(Message::Piece(piece)) => match (held.take(), slot.as_mut()) {
                    (None, None) if (piece.content_length() as u64) < self.shape.piece => held = Some(piece),
                    (first, open) => {
                        let upload = match open {
                            Some(upload) => upload,
                            None => slot.insert(self.begin().await?),
                        };
                        for piece in first.into_iter().chain([piece]) {
                            self.part(upload.as_mut(), piece).await?;
                        }
                    }
                },
                Some(Message::Finish) => break,
            }
        }
        while let Some(part) = self.parts.join_next().await {
            flatten(part)?;
        }
        match slot.as_mut() {
            None => self.put_whole(held.unwrap_or_default()).await,
            Some(upload) => {
                let completed = self.in_time(upload.complete()).await?.map(drop);
                completed_after_all(self.target.store(), &self.key, self.bytes, completed)
                    .await
                    .map_err(self.target.call("complete the upload of", &self.key))?;
                // from here on an abort would be an error of its own
                *slot = None;
                Ok(())
            }
        }
    }

    async fn begin(&self) -> Result<Box<dyn MultipartUpload>, StorageError> {
        let options = PutMultipartOptions { attributes: self.target.attributes(self.content_type), ..PutMultipartOptions::default() };
        let begin = async {
            Ok(match self.target.bucket() {
                Some(bucket) => {
                    let plan = self.target.composition(self.shape);
                    Box::new(Composer::begin(bucket, self.target.layout(), &self.key, options, plan).await?) as Box<dyn MultipartUpload>
                }
                None => self.target.store().put_multipart_opts(&self.key, options).await?,
            })
        };
        self.in_time(begin).await?.map_err(self.target.call("begin the upload of", &self.key))
    }

    async fn part(&mut self, upload: &mut dyn MultipartUpload, piece: PutPayload) -> Result<(), StorageError> {
        while self.parts.len() >= PARALLEL
            && let Some(part) = self.parts.join_next().await
        {
            flatten(part)?;
        }
        self.count += 1;
        // a composer counts for itself
        if let Some(most) = self.target.max_parts().filter(|most| self.target.bucket().is_none() && self.count > *most) {
            let text = format!("larger than the {most} parts that the store takes of an object, of which {} bytes are stored", self.bytes);
            return Err(self.target.call("upload", &self.key)(generic(io::Error::new(io::ErrorKind::FileTooLarge, text))));
        }
        self.bytes += piece.content_length() as u64;
        // to wait for the limit is no stall
        self.target.wait_for(piece.content_length() as u64).await;
        let (target, key, stall) = (self.target.clone(), self.key.clone(), self.stall);
        let part = upload.put_part(piece);
        self.parts.spawn(async move { within(stall, &target, &key, part).await?.map_err(target.call("upload a part of", &key)) });
        Ok(())
    }

    async fn put_whole(&self, payload: PutPayload) -> Result<(), StorageError> {
        self.target.wait_for(payload.content_length() as u64).await;
        let options = PutOptions { attributes: self.target.attributes(self.content_type), ..PutOptions::default() };
        let put = self.target.store().put_opts(&self.key, payload, options);
        self.in_time(put).await?.map(drop).map_err(self.target.call("upload", &self.key))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, StorageError> {
        within(self.stall, &self.target, &self.key, work).await
    }

    fn cancelled(&self) -> StorageError {
        StorageError::Cancelled { target: self.target.name().clone(), key: self.key.to_string() }
    }
}

/// An upload whose completion was done but not answered is not known any more when that is asked for again. Nobody else writes to `key`, so
/// an object of as many `bytes` is ours.
pub(super) async fn completed_after_all(
    store: &dyn ObjectStore,
    key: &Path,
    bytes: u64,
    completed: object_store::Result<()>,
) -> object_store::Result<()> {
    match completed {
        Err(error @ object_store::Error::NotFound { .. }) => match store.head(key).await {
            Ok(meta) if meta.size == bytes => Ok(()),
            _ => Err(error),
        },
        completed => completed,
    }
}

pub(super) async fn within<T>(stall: Duration, target: &Target, key: &Path, work: impl Future<Output = T>) -> Result<T, StorageError> {
    tokio::time::timeout(stall, work).await.map_err(|_| StorageError::Stalled {
        target: target.name().clone(),
        key: key.to_string(),
        after: stall,
    })
}

fn flatten(part: Result<Result<(), StorageError>, tokio::task::JoinError>) -> Result<(), StorageError> {
    part.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
