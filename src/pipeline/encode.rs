//! Chunks made into gzip members or zstd frames, by encoders that are used again and again: what they allocate is worth keeping.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

use super::codec::Codec;
use super::density::{TRIAL, segments};
use super::gzip;
use crate::manifest::Encoding;

/// A level at which the thread dies, to see what becomes of the stream.
#[cfg(test)]
pub(super) const PANICS: u32 = 13;

/// Compresses chunks, one at a time.
pub struct Encoder {
    codec: Codec,
    method: Method,
}

enum Method {
    Copy,
    Gzip(Box<Gzip>),
    Zstd(zstd::bulk::Compressor<'static>),
}

/// Dense stretches are stored: a gzip file may hold members of any kind (RFC 1951 section 3.2.4).
struct Gzip {
    squeeze: Compressor,
    store: Compressor,
    trial: Compressor,
}

impl Encoder {
    /// # Errors
    /// For a level that the encoding does not have.
    pub fn new(codec: Codec) -> io::Result<Self> {
        #[cfg(test)]
        assert!(codec.level != PANICS, "on purpose");
        let level = i32::try_from(codec.level).map_err(io::Error::other)?;
        let method = match codec.encoding {
            Encoding::None => Method::Copy,
            Encoding::Gzip => Method::Gzip(Box::new(Gzip { squeeze: deflate(level)?, store: deflate(0)?, trial: deflate(1)? })),
            Encoding::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                // as `zstd` itself does: `zstd -t` can then tell damage without us
                compressor.include_checksum(true)?;
                Method::Zstd(compressor)
            }
        };
        Ok(Self { codec, method })
    }

    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// Writes what is stored for `chunk` to the beginning of `out`, which is made as large as it takes: one or more members, a frame, or
    /// the chunk itself. Their length.
    ///
    /// # Errors
    /// Those of the library.
    pub fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.method {
            Method::Copy => {
                reserve(out, chunk.len());
                out[..chunk.len()].copy_from_slice(chunk);
                Ok(chunk.len())
            }
            Method::Gzip(gzip) => gzip.encode(chunk, out),
            Method::Zstd(compressor) => {
                reserve(out, zstd::zstd_safe::compress_bound(chunk.len()));
                compressor.compress_to_buffer(chunk, &mut out[..])
            }
        }
    }
}

impl Gzip {
    fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let Self { squeeze, store, trial } = self;
        let stretches = segments(chunk, |start| {
            reserve(out, trial.deflate_compress_bound(TRIAL));
            trial.deflate_compress(start, out).is_ok_and(|length| length < start.len() / 64 * 63)
        });
        // no bytes are a member, too
        if stretches.is_empty() {
            return member(squeeze, chunk, out, 0);
        }
        stretches.iter().try_fold(0, |length, stretch| {
            let with = if stretch.dense { &mut *store } else { &mut *squeeze };
            Ok(length + member(with, &chunk[stretch.range.clone()], out, length)?)
        })
    }
}

fn deflate(level: i32) -> io::Result<Compressor> {
    CompressionLvl::new(level).map(Compressor::new).map_err(|_| io::Error::other(format!("deflate has no level {level}")))
}

/// Writes a gzip member at `at`; its length.
fn member(compressor: &mut Compressor, bytes: &[u8], out: &mut Vec<u8>, at: usize) -> io::Result<usize> {
    reserve(out, at + gzip::AROUND + compressor.deflate_compress_bound(bytes.len()));
    gzip::compress(compressor, bytes, &mut out[at..])
}

fn reserve(out: &mut Vec<u8>, length: usize) {
    if out.len() < length {
        out.resize(length, 0);
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("codec", &self.codec).finish_non_exhaustive()
    }
}
