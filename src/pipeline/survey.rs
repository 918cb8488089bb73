//! What a stored stream holds that no manifest describes: read to its end, its bytes counted and hashed on both sides of its compression.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::codec::Decoder;
use super::pack::Packed;
use super::unpack::{AHEAD, StoredReader, feed};
use crate::manifest::{Encoding, hex};

/// Bytes of the beginning and of the end that are kept.
const ENDS: usize = 16 << 10;

/// A stream that was read to its end.
#[derive(Debug)]
pub struct Surveyed {
    pub packed: Packed,
    /// The first and the last 16 KiB of the raw stream, or all of it.
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
}

/// Reads `stored`, which is compressed as `encoding` says.
///
/// # Errors
/// Those of the stream; [`io::ErrorKind::InvalidData`] and [`io::ErrorKind::UnexpectedEof`] for what cannot be decompressed.
pub async fn survey<S, E>(encoding: Encoding, stored: S) -> io::Result<Surveyed>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let (out, chunks) = mpsc::channel(AHEAD);
    tokio::spawn(feed(stored, out));
    let read = tokio::task::spawn_blocking(move || {
        let mut stored = StoredReader::new(chunks)?;
        let read = read(encoding, &mut stored);
        // why the stored stream broke says more than what the decoder made of it
        let (hash, bytes, failed) = stored.into_parts();
        failed.map_or(read.map(|read| (read, hash, bytes)), Err)
    });
    let ((raw_bytes, blake3, head, tail), sha256, stored_bytes) = read.await.map_err(io::Error::other)??;
    let packed = Packed { raw_bytes, stored_bytes, sha256: hex(&Sha256::finalize(sha256)), blake3: blake3.to_hex().to_string() };
    Ok(Surveyed { packed, head, tail })
}

fn read(encoding: Encoding, stored: &mut StoredReader) -> io::Result<(u64, blake3::Hash, Vec<u8>, Vec<u8>)> {
    let (mut bytes, mut hash, mut head, mut tail) = (0, blake3::Hasher::new(), Vec::new(), Vec::new());
    {
        let mut decoder = Decoder::new(encoding, &mut *stored)?;
        while let Some(block) = decoder.next()? {
            bytes += block.len() as u64;
            hash.update(&block);
            head.extend_from_slice(&block[..block.len().min(ENDS - head.len())]);
            let end = &block[block.len().saturating_sub(ENDS)..];
            tail.drain(..(tail.len() + end.len()).saturating_sub(ENDS));
            tail.extend_from_slice(end);
        }
    }
    // what a decoder leaves unread belongs to the object
    io::copy(stored, &mut io::sink())?;
    Ok((bytes, hash.finalize(), head, tail))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn both_sides_are_counted_and_hashed_and_a_cut_is_an_error() {
        let raw: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&raw).expect("written");
        let stored = gzip.finish().expect("finished");
        let survey = |bytes: &[u8]| {
            let chunks: Vec<io::Result<Bytes>> = bytes.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            survey(Encoding::Gzip, stream::iter(chunks))
        };
        let Surveyed { packed, head, tail } = survey(&stored).await.expect("read");
        assert_eq!((packed.raw_bytes, packed.stored_bytes), (raw.len() as u64, stored.len() as u64));
        assert_eq!(packed.blake3, blake3::hash(&raw).to_hex().to_string());
        assert_eq!(packed.sha256, hex(&Sha256::digest(&stored)));
        assert_eq!((head.as_slice(), tail.as_slice()), (&raw[..ENDS], &raw[raw.len() - ENDS..]));
        assert!(survey(&stored[..stored.len() / 2]).await.is_err());
    }
}
