//! A source's stream on its way to storage: read in chunks, compressed side by side, hashed, cut into parts.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::budget::{self, Budget, Engine, Progress};
use super::codec::Codec;
use super::parts::{PartSizes, base_part};
use crate::manifest::hex;

/// Bytes that are compressed as one. A member of 1 MiB costs 0.2 to 0.35 % of the ratio.
const CHUNK: usize = 1 << 20;

/// Why a stream could not be packed. Told apart by side: none of these is a target's fault.
#[derive(Debug, Error)]
pub enum PackError {
    #[error("read from the source")]
    Read(#[source] io::Error),
    #[error("the source sent nothing for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    #[error("compress")]
    Encode(#[source] io::Error),
    #[error("a compression thread ended early")]
    Thread(#[source] tokio::task::JoinError),
    #[error("the reader of the source ended early")]
    Reader,
}

/// The next bytes to store. Dropping the last clone gives its memory back to the budget.
#[derive(Clone)]
pub struct Part {
    pub bytes: Vec<Bytes>,
    pub hold: Arc<PartHold>,
}

/// What a part keeps until it is stored.
pub struct PartHold(#[expect(dead_code, reason = "held for its drop")] Vec<OwnedSemaphorePermit>);

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("bytes", &self.bytes.iter().map(Bytes::len).sum::<usize>()).finish()
    }
}

/// What was packed, once the stream has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Of the stored bytes, lower-case hex.
    pub sha256: String,
    /// Of the raw bytes, lower-case hex.
    pub blake3: String,
}

/// A chunk that was compressed.
struct Encoded {
    raw: Bytes,
    stored: Bytes,
    permit: OwnedSemaphorePermit,
}

/// A chunk that is being compressed; none at the end; or the error in place of it.
type Pending = Result<Option<JoinHandle<io::Result<Encoded>>>, PackError>;

#[derive(Default)]
struct Hashers {
    raw: blake3::Hasher,
    stored: Sha256,
}

/// Options of one stream.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    pub codec: Codec,
    /// About how many bytes will be stored.
    pub estimate: Option<u64>,
    /// The smallest limit over the targets.
    pub max_parts: Option<u32>,
    /// Bytes of a part, if the user set them.
    pub part_size: Option<u64>,
    /// The longest that the source may send nothing.
    pub stall: Duration,
}

/// Room in the budget for the parts of one stream.
pub struct Admission {
    sizes: PartSizes,
    permit: OwnedSemaphorePermit,
}

impl Engine {
    /// Waits until the budget has room for a stream with parts of the size that `options` ask for.
    pub async fn admit(&self, options: PackOptions) -> Admission {
        let largest = self.budget.largest_part();
        let base = match options.part_size.and_then(|s| usize::try_from(s).ok()) {
            Some(size) => size.min(largest),
            None => base_part(options.estimate, options.max_parts, largest),
        };
        let sizes = PartSizes { base, largest, max_parts: options.max_parts };
        Admission { sizes, permit: self.budget.admit(base).await }
    }
}

/// Packs one stream; pulled by whoever stores the parts.
pub struct Packer {
    chunks: mpsc::Receiver<Pending>,
    /// Memory of chunks that were hashed, on its way back to the reader: fresh memory is dear, its pages have to be made first.
    spent: std::sync::mpsc::Sender<BytesMut>,
    /// Reads ahead; ends with the packer.
    _reader: AbortOnDropHandle<()>,
    hashers: Option<Hashers>,
    sizes: PartSizes,
    parts: u32,
    pending: Vec<Bytes>,
    pending_len: usize,
    permits: Vec<OwnedSemaphorePermit>,
    raw_bytes: u64,
    stored_bytes: u64,
    ended: bool,
    progress: Progress,
    /// Of the parts that are cut now, in bytes; what the admission is for.
    size: usize,
    budget: Budget,
    admission: OwnedSemaphorePermit,
}

impl Packer {
    /// Packs `source`, whose parts were admitted to the budget.
    pub fn new(engine: &Engine, source: impl AsyncRead + Send + Unpin + 'static, options: PackOptions, admission: Admission) -> Self {
        let Admission { sizes, permit } = admission;
        let (sender, chunks) = mpsc::channel(engine.threads);
        let (spent, spare) = std::sync::mpsc::channel();
        let reader = Reader { engine: engine.clone(), source, codec: options.codec, stall: options.stall, chunks: sender, spare };
        Self {
            chunks,
            spent,
            _reader: AbortOnDropHandle::new(tokio::spawn(reader.run())),
            hashers: Some(Hashers::default()),
            sizes,
            parts: 0,
            pending: Vec::new(),
            pending_len: 0,
            permits: Vec::new(),
            raw_bytes: 0,
            stored_bytes: 0,
            ended: false,
            progress: engine.progress.clone(),
            size: sizes.base,
            budget: engine.budget.clone(),
            admission: permit,
        }
    }

    /// The next part, in stream order; `None` after the last. Every part but the last has the full size.
    pub async fn next(&mut self) -> Result<Option<Part>, PackError> {
        let full = self.part_size();
        while self.pending_len < full && !self.ended {
            match self.chunks.recv().await.ok_or(PackError::Reader)?? {
                Some(chunk) => self.add(chunk.await.map_err(PackError::Thread)?.map_err(PackError::Encode)?).await?,
                None => self.ended = true,
            }
        }
        if self.pending.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.cut(full)))
    }

    /// The size of the next part: a larger one only where the budget has room for it.
    fn part_size(&mut self) -> usize {
        let wanted = self.sizes.of(self.parts);
        if wanted > self.size && self.budget.enlarge(&mut self.admission, wanted) {
            self.size = wanted;
        }
        self.size
    }

    /// What was packed. To be asked after [`Packer::next`] has returned `None`.
    pub fn finish(mut self) -> Packed {
        assert!(self.ended, "the stream has not been read to its end");
        let hashers = self.hashers.take().unwrap_or_default();
        Packed {
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes,
            sha256: hex(&hashers.stored.finalize()),
            blake3: hashers.raw.finalize().to_hex().to_string(),
        }
    }

    async fn add(&mut self, encoded: Encoded) -> Result<(), PackError> {
        let Encoded { raw, stored, mut permit } = encoded;
        self.raw_bytes += raw.len() as u64;
        self.progress.0.fetch_add(raw.len() as u64, Ordering::Relaxed);
        let mut hashers = self.hashers.take().unwrap_or_default();
        let hashing = tokio::task::spawn_blocking(move || {
            hashers.raw.update(&raw);
            hashers.stored.update(&stored);
            (hashers, raw, stored)
        });
        let (hashers, raw, stored) = hashing.await.map_err(PackError::Thread)?;
        if let Ok(mut chunk) = raw.try_into_mut() {
            chunk.clear();
            // a reader that is done takes none back
            let _ = self.spent.send(chunk);
        }
        self.hashers = Some(hashers);
        let unneeded = permit.num_permits().saturating_sub(budget::permits(stored.len()) as usize);
        drop(permit.split(unneeded));
        self.stored_bytes += stored.len() as u64;
        self.pending_len += stored.len();
        self.permits.push(permit);
        self.pending.push(stored);
        Ok(())
    }

    /// Cuts a part of exactly `full` bytes off, or all there is. What is left of the last chunk keeps its permit with the part that was
    /// cut: it is at most one chunk.
    fn cut(&mut self, full: usize) -> Part {
        let mut bytes = std::mem::take(&mut self.pending);
        if self.pending_len > full
            && let Some(last) = bytes.last_mut()
        {
            let rest = last.split_off(last.len() - (self.pending_len - full));
            self.pending.push(rest);
        }
        self.pending_len = self.pending.iter().map(Bytes::len).sum();
        self.parts += 1;
        Part { bytes, hold: Arc::new(PartHold(std::mem::take(&mut self.permits))) }
    }
}

/// Reads a source in chunks and has them compressed, as far ahead as the budget and the threads go.
struct Reader<R> {
    engine: Engine,
    source: R,
    codec: Codec,
    stall: Duration,
    chunks: mpsc::Sender<Pending>,
    spare: std::sync::mpsc::Receiver<BytesMut>,
}

impl<R: AsyncRead + Send + Unpin + 'static> Reader<R> {
    async fn run(mut self) {
        // whoever dropped the packer needs no last word
        let last = match self.read().await {
            Ok(Some(())) => self.chunks.send(Ok(None)).await,
            Ok(None) => return,
            Err(error) => self.chunks.send(Err(error)).await,
        };
        drop(last);
    }

    /// Full chunks, but for the last. A stream of no bytes is one empty chunk: an empty member is a valid file, no bytes are not. `None`
    /// when nobody waits for them any more.
    async fn read(&mut self) -> Result<Option<()>, PackError> {
        let encoders = self.engine.encoders();
        let mut any = false;
        loop {
            let permit = self.engine.budget.take(CHUNK).await;
            let (raw, ended) = self.chunk().await?;
            if !(raw.is_empty() && any) {
                any = true;
                let slot = self.engine.slots.clone().acquire_owned().await.expect("the slots are never closed");
                let (codec, encoders) = (self.codec, Arc::clone(&encoders));
                let encoding = tokio::task::spawn_blocking(move || {
                    let stored = encoders.encode(codec, &raw)?;
                    drop(slot);
                    Ok(Encoded { raw, stored, permit })
                });
                if self.chunks.send(Ok(Some(encoding))).await.is_err() {
                    return Ok(None);
                }
            }
            if ended {
                return Ok(Some(()));
            }
        }
    }

    /// The next bytes, and whether the source has ended.
    async fn chunk(&mut self) -> Result<(Bytes, bool), PackError> {
        let mut chunk = self.spare.try_recv().unwrap_or_else(|_| BytesMut::with_capacity(CHUNK));
        while chunk.len() < CHUNK {
            let read = tokio::time::timeout(self.stall, self.source.read_buf(&mut chunk)).await;
            if read.map_err(|_| PackError::Stalled(self.stall))?.map_err(PackError::Read)? == 0 {
                return Ok((chunk.freeze(), true));
            }
        }
        Ok((chunk.freeze(), false))
    }
}
