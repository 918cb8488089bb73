//! A stored stream on its way back: hashed, decrypted, decompressed, hashed again. Its end comes only after everything matched the manifest.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use futures_util::stream::StreamExt;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::beside::Beside;
use super::codec::Decoder;
use crate::chain;
use crate::encryption::{Identities, OpenError, Tampered};
use crate::manifest::{Artifact, Encryption, hex};

/// Blocks, of 1 MiB at most, and network chunks that wait on either side of the decompressor.
pub(super) const AHEAD: usize = 8;

/// Why a stored stream is not what the manifest says. All but [`UnpackError::Fetch`] and [`UnpackError::Locked`] are damage.
#[derive(Debug, Error)]
pub enum UnpackError {
    #[error("read `{path}` from the target")]
    Fetch {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is missing in the target")]
    Missing {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is damaged: {found} bytes are stored, {expected} were written")]
    Size { path: String, found: u64, expected: u64 },
    #[error("`{path}` is damaged: its SHA-256 is not the one in the manifest")]
    Stored { path: String },
    /// That it is the one in the manifest says that the key is missing, not that bytes are wrong.
    #[error("`{path}` is as it was written, but cannot be decrypted")]
    Locked {
        path: String,
        #[source]
        source: OpenError,
    },
    #[error("`{path}` is damaged: it cannot be decrypted")]
    Decrypt {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is damaged: it cannot be decompressed")]
    Decode {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is damaged: its content has {found} bytes, {expected} were written")]
    RawSize { path: String, found: u64, expected: u64 },
    #[error("`{path}` is damaged: the BLAKE3 of its content is not the one in the manifest")]
    Raw { path: String },
}

impl UnpackError {
    /// Whether the stored bytes are wrong, rather than out of reach.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Fetch { .. } | Self::Locked { .. })
    }

    /// Whether other bytes came than were written. To read them again may bring the right ones.
    pub fn is_different(&self) -> bool {
        !matches!(self, Self::Fetch { .. } | Self::Missing { .. } | Self::Locked { .. })
    }

    /// Of the artifact.
    pub fn path(&self) -> &str {
        match self {
            Self::Fetch { path, .. }
            | Self::Missing { path, .. }
            | Self::Size { path, .. }
            | Self::Stored { path }
            | Self::Locked { path, .. }
            | Self::Decrypt { path, .. }
            | Self::Decode { path, .. }
            | Self::RawSize { path, .. }
            | Self::Raw { path } => path,
        }
    }
}

/// The raw stream of `artifact`, read from `stored`, and decrypted by one of `identities` if need be. Errors are [`UnpackError`] in an
/// [`io::Error`].
pub fn unpack<S, E>(artifact: &Artifact, identities: &Identities, stored: S) -> impl AsyncRead + Send + Unpin + use<S, E>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let (stored_out, stored_in) = mpsc::channel(AHEAD);
    let (raw_out, raw_in) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::spawn(feed(stored, stored_out));
    let (artifact, identities) = (artifact.clone(), identities.clone());
    tokio::task::spawn_blocking(move || {
        if let Err(error) = decode(&artifact, &identities, stored_in, &raw_out) {
            // nobody reads any more: nobody needs the error
            let _ = raw_out.blocking_send(Err(io::Error::other(error)));
        }
    });
    StreamReader::new(Checked { blocks: raw_in, ended: false }.into_stream().boxed())
}

/// Reads what is stored of `artifact` to its end, and sees that it is what was written, whatever it means.
///
/// # Errors
/// [`UnpackError`].
pub async fn read_over<S, E>(artifact: &Artifact, stored: S) -> Result<(), UnpackError>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let (stored_out, stored_in) = mpsc::channel(AHEAD);
    tokio::spawn(feed(stored, stored_out));
    let fetch = |source| UnpackError::Fetch { path: artifact.path.to_string(), source };
    let reading = {
        let artifact = artifact.clone();
        tokio::task::spawn_blocking(move || {
            let mut stored =
                StoredReader::new(stored_in).map_err(|source| UnpackError::Fetch { path: artifact.path.to_string(), source })?;
            stored.drain(&artifact)?;
            stored.compare(&artifact)
        })
    };
    reading.await.map_err(|ended| fetch(io::Error::other(ended)))?
}

/// Turns a channel that closed without its last word into an error: a thread that died is not an end.
struct Checked {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    ended: bool,
}

impl Checked {
    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures_util::stream::unfold(self, |mut state| async move {
            if state.ended {
                return None;
            }
            match state.blocks.recv().await {
                // the empty block is the decoder's last word
                Some(Ok(block)) if block.is_empty() => None,
                Some(result) => {
                    state.ended = result.is_err();
                    Some((result, state))
                }
                None => {
                    state.ended = true;
                    Some((Err(io::Error::other("the decompression thread ended early")), state))
                }
            }
        })
    }
}

pub(super) async fn feed<S, E>(mut stored: S, out: mpsc::Sender<io::Result<Bytes>>)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    while let Some(item) = stored.next().await {
        let item = item.map_err(io::Error::other);
        let failed = item.is_err();
        if out.send(item).await.is_err() || failed {
            return;
        }
    }
}

/// What is stored, for a decoder: hashed and counted as it is read.
pub(super) struct StoredReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    sha256: Beside<Sha256>,
    bytes: u64,
    ended: bool,
    failed: Option<io::Error>,
}

impl StoredReader {
    /// # Errors
    /// That of a thread that cannot be started.
    pub(super) fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> io::Result<Self> {
        Ok(Self { chunks, current: Bytes::new(), sha256: Beside::start(Sha256::new())?, bytes: 0, ended: false, failed: None })
    }

    /// Reads what is left.
    fn drain(&mut self, artifact: &Artifact) -> Result<(), UnpackError> {
        io::copy(self, &mut io::sink())
            .map(drop)
            .map_err(|source| UnpackError::Fetch { path: artifact.path.to_string(), source: self.failed.take().unwrap_or(source) })
    }

    /// Whether what was read to its end is what was written.
    fn compare(self, artifact: &Artifact) -> Result<(), UnpackError> {
        let path = artifact.path.to_string();
        if self.bytes != artifact.stored_bytes {
            return Err(UnpackError::Size { path, found: self.bytes, expected: artifact.stored_bytes });
        }
        if hex(&self.sha256.finish().finalize()) != artifact.sha256 {
            return Err(UnpackError::Stored { path });
        }
        Ok(())
    }

    /// Hash and length of what was read, and why it broke off.
    pub(super) fn into_parts(self) -> (Sha256, u64, Option<io::Error>) {
        (self.sha256.finish(), self.bytes, self.failed)
    }
}

impl Read for StoredReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.sha256.add(chunk.clone());
                    self.bytes += chunk.len() as u64;
                    self.current = chunk;
                }
                Some(Err(error)) => {
                    self.failed = Some(error);
                    return Err(io::Error::other("the stored stream failed"));
                }
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let n = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..n]);
        Ok(n)
    }
}

/// Why nothing came out.
enum Broken {
    Locked(OpenError),
    Stream(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

fn decode(
    artifact: &Artifact,
    identities: &Identities,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), UnpackError> {
    let path = || artifact.path.to_string();
    let begin = || Ok((StoredReader::new(chunks)?, Beside::start(blake3::Hasher::new())?));
    let (mut stored, raw_hash) = begin().map_err(|source| UnpackError::Fetch { path: path(), source })?;
    let mut raw_bytes = 0u64;
    let decoded: Result<bool, Broken> = (|| {
        let plain: Box<dyn Read + '_> = match artifact.encryption {
            None => Box::new(&mut stored),
            Some(Encryption::Age) => Box::new(identities.open(&mut stored).map_err(Broken::Locked)?),
        };
        let mut decoder = Decoder::new(artifact.encoding, plain)?;
        while let Some(block) = decoder.next()? {
            raw_hash.add(block.clone());
            raw_bytes += block.len() as u64;
            // a stream that goes on past its recorded end is damaged, however much more there may be
            if raw_bytes > artifact.raw_bytes {
                return Ok(true);
            }
            if out.blocking_send(Ok(block)).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    })();
    if let Some(source) = stored.failed.take() {
        return Err(UnpackError::Fetch { path: path(), source });
    }
    if let Ok(false) = decoded {
        return Ok(());
    }
    // the decoder may leave bytes unread: they belong to the object and to its hash
    if matches!(decoded, Ok(_) | Err(Broken::Locked(_))) && raw_bytes <= artifact.raw_bytes {
        stored.drain(artifact)?;
    }
    if stored.ended && stored.bytes != artifact.stored_bytes {
        return Err(UnpackError::Size { path: path(), found: stored.bytes, expected: artifact.stored_bytes });
    }
    match decoded {
        Ok(_) => {}
        Err(Broken::Locked(source)) => {
            stored.compare(artifact)?;
            return Err(UnpackError::Locked { path: path(), source });
        }
        Err(Broken::Stream(source)) if chain::find::<Tampered>(&source).is_some() => {
            return Err(UnpackError::Decrypt { path: path(), source });
        }
        Err(Broken::Stream(source)) => return Err(UnpackError::Decode { path: path(), source }),
    }
    if raw_bytes != artifact.raw_bytes {
        return Err(UnpackError::RawSize { path: path(), found: raw_bytes, expected: artifact.raw_bytes });
    }
    if raw_hash.finish().finalize().to_hex().as_str() != artifact.blake3 {
        return Err(UnpackError::Raw { path: path() });
    }
    stored.compare(artifact)?;
    let _ = out.blocking_send(Ok(Bytes::new()));
    Ok(())
}
