//! A source's stream on its way to storage: read in chunks, compressed side by side, encrypted, hashed, cut into parts.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::block::{BLOCK, Block};
use super::budget::{Budget, Engine, Progress};
use super::codec::Codec;
use super::compressors::{self, Encoded, EncodingChunk};
use super::parts::PartSizes;
use super::seal::{self, Sealed, Sealer};
use crate::encryption::{EncryptionError, Lock, Seal};
use crate::manifest::hex;

/// Bytes that are compressed as one. A member of this size costs 0.2 to 0.35 % of the ratio. What is stored for a chunk, compressed or not,
/// fits into a block: gzip adds 28 bytes a member and 5 to each 64 KiB that it stores, with a member for 16 KiB at most.
const CHUNK: usize = BLOCK - (4 << 10);

/// Why a stream could not be packed. Told apart by side: none of these is a target's fault.
#[derive(Debug, Error)]
pub enum PackError {
    #[error("read from the source")]
    Read(#[source] io::Error),
    #[error("the source sent nothing for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    #[error("compress")]
    Encode(#[source] io::Error),
    #[error("encrypt")]
    Encrypt(#[source] io::Error),
    #[error("begin to encrypt")]
    Seal(#[source] EncryptionError),
    #[error("a compression thread panicked")]
    Compressor,
    #[error("start the compression threads")]
    Threads(#[source] io::Error),
    #[error("a hashing thread ended early")]
    Thread(#[source] tokio::task::JoinError),
    #[error("the reader of the source ended early")]
    Reader,
    #[error("get memory")]
    Memory(#[source] io::Error),
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

/// A chunk that is being compressed, and whether it is known to be the last; none at the end; or the error in place of it.
type Pending = Result<Option<(EncodingChunk, bool)>, PackError>;

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
        let base = self.part_size(&options);
        let sizes = PartSizes { base, largest: self.budget.largest_part(), max_parts: options.max_parts };
        Admission { sizes, permit: self.budget.admit(base).await }
    }

    /// A key for one stream. The memory that this takes is taken from the budget: to be asked for before the stream is admitted.
    ///
    /// # Errors
    /// [`PackError::Seal`] and [`PackError::Thread`].
    pub async fn seal(&self, lock: &Lock) -> Result<Seal, PackError> {
        let _room = self.budget.set_aside(lock.memory()).await;
        let lock = lock.clone();
        let sealing = tokio::task::spawn_blocking(move || lock.seal());
        sealing.await.map_err(PackError::Thread)?.map_err(PackError::Seal)
    }
}

/// Packs one stream; pulled by whoever stores the parts.
pub struct Packer {
    chunks: mpsc::Receiver<Pending>,
    /// Buffers of what was stored, on their way back to the threads that compress.
    spent: std::sync::mpsc::Sender<Vec<u8>>,
    /// Reads ahead; ends with the packer.
    _reader: AbortOnDropHandle<()>,
    hashers: Option<Hashers>,
    sealer: Option<Sealer>,
    sizes: PartSizes,
    parts: u32,
    /// Of the next part: what is final, then the block that is being filled.
    pending: Vec<Bytes>,
    tail: Option<Block>,
    pending_len: usize,
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
    /// Packs `source`, whose parts were admitted to the budget; encrypted, if there is a `seal`.
    pub fn new(
        engine: &Engine,
        source: impl AsyncRead + Send + Unpin + 'static,
        options: PackOptions,
        admission: Admission,
        seal: Option<Seal>,
    ) -> Self {
        let Admission { sizes, permit } = admission;
        let (sender, chunks) = mpsc::channel(engine.threads);
        let (spent, spare) = std::sync::mpsc::channel();
        let reader = Reader {
            engine: engine.clone(),
            source,
            codec: options.codec,
            stall: options.stall,
            chunks: sender,
            spare,
            sealed: seal.is_some(),
        };
        Self {
            chunks,
            spent,
            _reader: AbortOnDropHandle::new(tokio::spawn(reader.run())),
            hashers: Some(Hashers::default()),
            sealer: seal.map(Sealer::new),
            sizes,
            parts: 0,
            pending: Vec::new(),
            tail: None,
            pending_len: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            ended: false,
            progress: engine.progress.clone(),
            size: sizes.base,
            budget: engine.budget.clone(),
            admission: permit,
        }
    }

    /// The next part, in stream order; `None` after the last. Every part but the last has the full size. Its memory goes back to the budget
    /// with the last clone of its bytes.
    pub async fn next(&mut self) -> Result<Option<Vec<Bytes>>, PackError> {
        let full = self.part_size();
        while self.pending_len < full && !self.ended {
            match self.chunks.recv().await.ok_or(PackError::Reader)?? {
                Some((chunk, last)) => {
                    let encoded = chunk.await.map_err(|_| PackError::Compressor)?.map_err(PackError::Encode)?;
                    self.add(encoded, last).await?;
                }
                None => self.ended = true,
            }
        }
        self.pending.extend(self.tail.take().map(Block::freeze));
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
        let stored = match self.sealer.take() {
            Some(sealer) => sealer.finish().expect("a stream that was read to its end was sealed"),
            None => hashers.stored,
        };
        Packed {
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes,
            sha256: hex(&stored.finalize()),
            blake3: hashers.raw.finalize().to_hex().to_string(),
        }
    }

    async fn add(&mut self, encoded: Encoded, last: bool) -> Result<(), PackError> {
        let raw_len = encoded.raw.len() as u64;
        let (mut hashers, tail) = (self.hashers.take().unwrap_or_default(), self.tail.take());
        let mut sealer = self.sealer.take();
        let working = tokio::task::spawn_blocking(move || {
            hashers.raw.update(encoded.raw.as_ref());
            let done = match &mut sealer {
                Some(sealer) => seal(sealer, encoded, last, tail)?,
                None => store(&mut hashers.stored, encoded, tail),
            };
            Ok((hashers, sealer, done))
        });
        let (hashers, sealer, done) = working.await.map_err(PackError::Thread)?.map_err(PackError::Encrypt)?;
        let (Sealed { full, tail, length }, buffer) = done;
        (self.hashers, self.sealer, self.tail) = (Some(hashers), sealer, tail);
        self.pending.extend(full.into_iter().map(Block::freeze));
        self.raw_bytes += raw_len;
        self.progress.0.fetch_add(raw_len, Ordering::Relaxed);
        self.stored_bytes += length as u64;
        self.pending_len += length;
        if let Some(buffer) = buffer {
            // a reader that is done takes none back
            let _ = self.spent.send(buffer);
        }
        Ok(())
    }

    /// Cuts a part of exactly `full` bytes off, or all there is. What is left of the last block is the beginning of the next part; the
    /// block itself is free when both are stored.
    fn cut(&mut self, full: usize) -> Vec<Bytes> {
        let mut part = std::mem::take(&mut self.pending);
        let mut surplus = self.pending_len.saturating_sub(full);
        self.pending_len = surplus;
        while let Some(last) = part.last_mut()
            && surplus > 0
        {
            let rest = last.split_off(last.len() - surplus.min(last.len()));
            surplus -= rest.len();
            self.pending.insert(0, rest);
            if last.is_empty() {
                part.pop();
            }
        }
        self.parts += 1;
        part
    }
}

/// Hashes what is stored for a chunk, and puts it behind `tail`; the buffer that is free now.
fn store(sha256: &mut Sha256, encoded: Encoded, tail: Option<Block>) -> (Sealed, Option<Vec<u8>>) {
    let bytes = encoded.stored.as_ref().map_or(encoded.raw.as_ref(), |s| &s.buffer[..s.length]);
    sha256.update(bytes);
    let length = bytes.len();
    match encoded.stored {
        None => (Sealed { full: tail.into_iter().chain([encoded.raw]).collect(), tail: None, length }, None),
        Some(stored) => {
            let (full, tail) = append(tail, &stored.buffer[..stored.length], encoded.raw);
            (Sealed { full, tail: Some(tail), length }, Some(stored.buffer))
        }
    }
}

/// Encrypts what is stored for a chunk; the buffer that is free now. A chunk of no bytes may come at the end, only to end the stream.
fn seal(sealer: &mut Sealer, encoded: Encoded, last: bool, tail: Option<Block>) -> io::Result<(Sealed, Option<Vec<u8>>)> {
    let plain = encoded.stored.as_ref().map_or(&[][..], |s| &s.buffer[..s.length]);
    let sealed = sealer.add(plain, last, tail, encoded.raw)?;
    Ok((sealed, encoded.stored.map(|s| s.buffer)))
}

/// Appends `stored` to `tail`; what does not fit goes into `spare`, whose content is no longer needed. The full block, if there is one, and
/// the one to go on with.
fn append(tail: Option<Block>, stored: &[u8], mut spare: Block) -> (Vec<Block>, Block) {
    spare.clear();
    let Some(mut tail) = tail else {
        assert_eq!(spare.take(stored), stored.len(), "what is stored for a chunk fits into a block");
        return (Vec::new(), spare);
    };
    let taken = tail.take(stored);
    if taken == stored.len() {
        return (Vec::new(), tail);
    }
    assert_eq!(spare.take(&stored[taken..]), stored.len() - taken, "what is stored for a chunk fits into a block");
    (vec![tail], spare)
}

/// Reads a source in chunks and has them compressed, as far ahead as the budget and the threads go.
struct Reader<R> {
    engine: Engine,
    source: R,
    codec: Codec,
    stall: Duration,
    chunks: mpsc::Sender<Pending>,
    spare: std::sync::mpsc::Receiver<Vec<u8>>,
    /// What comes out of the compression is encrypted.
    sealed: bool,
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
        let compressors = self.engine.compressors().map_err(PackError::Threads)?.stream(self.codec, self.sealed);
        let pool = self.engine.budget.pool();
        let mut any = false;
        loop {
            let mut raw = self.engine.budget.block(&pool).await.map_err(PackError::Memory)?;
            let ended = self.fill(&mut raw).await?;
            let chunk = if raw.len() > 0 || !any {
                any = true;
                Some(compressors.compress(raw, self.spare.try_recv().unwrap_or_default()))
            } else {
                // what was kept back for its end needs a block, too
                self.sealed.then(|| compressors::nothing(raw))
            };
            if let Some(chunk) = chunk
                && self.chunks.send(Ok(Some((chunk, ended)))).await.is_err()
            {
                return Ok(None);
            }
            if ended {
                return Ok(Some(()));
            }
        }
    }

    /// Reads a whole chunk, if there is as much; whether the source has ended.
    async fn fill(&mut self, chunk: &mut Block) -> Result<bool, PackError> {
        let full = if self.sealed { seal::CHUNK } else { CHUNK };
        while chunk.len() < full {
            let left = full - chunk.len();
            let read = tokio::time::timeout(self.stall, self.source.read(&mut chunk.space()[..left])).await;
            match read.map_err(|_| PackError::Stalled(self.stall))?.map_err(PackError::Read)? {
                0 => return Ok(true),
                n => chunk.advance(n),
            }
        }
        Ok(false)
    }
}
