//! Compression: each chunk becomes gzip members or a zstd frame of its own, so that chunks can be compressed side by side; their
//! concatenation is what `gunzip` and `zstd -d` read (RFC 1952 section 2.2, RFC 8878 section 3).

use std::io::{self, BufReader, Read};

use bytes::{Bytes, BytesMut};

use super::gzip::{Members, read_full};
use crate::manifest::Encoding;

/// Bytes of the raw stream that are handed on at once, where the format sets no other size.
const AT_ONCE: usize = 256 << 10;

/// Largest zstd window that is accepted on reading, as a power of two: what bounds the memory that a hostile frame can ask for.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// A compression and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    pub encoding: Encoding,
    /// gzip 1–9, zstd 1–19; 0 for none.
    pub level: u32,
}

impl Codec {
    /// `level` 0 is the default of that encoding.
    ///
    /// # Errors
    /// A sentence, for a level that the encoding does not have.
    pub fn new(encoding: Encoding, level: u32) -> Result<Self, String> {
        let (default, max) = match encoding {
            Encoding::Gzip => (6, 9),
            Encoding::Zstd => (3, 19),
            Encoding::None => (0, 0),
        };
        match level {
            0 => Ok(Self { encoding, level: default }),
            l if l <= max => Ok(Self { encoding, level }),
            l => Err(format!("level {l} does not exist (0 to {max}; 0 is the default)")),
        }
    }
}

/// Reads the raw stream out of a stored one, a block at a time. Public so that `fuzz/` and tests can feed it hostile bytes; [`super::unpack`]
/// is what proves a stream.
pub enum Decoder<R: Read> {
    Copy(R),
    Gzip(Members<R>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    /// # Errors
    /// Those of the library.
    pub fn new(encoding: Encoding, stored: R) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::None => Self::Copy(stored),
            Encoding::Gzip => Self::Gzip(Members::new(stored)),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(stored)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// What comes next, never empty; `None` at the end. Bytes that follow the last frame may be left unread.
    ///
    /// # Errors
    /// For what is not of that encoding, and those of the stored stream.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end in an error")]
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Copy(stored) => block(stored),
            Self::Gzip(members) => members.next(),
            Self::Zstd(decoder) => block(decoder),
        }
    }
}

fn block(reader: &mut impl Read) -> io::Result<Option<Bytes>> {
    let mut block = BytesMut::zeroed(AT_ONCE);
    let n = read_full(reader, &mut block)?;
    block.truncate(n);
    Ok((n > 0).then(|| block.freeze()))
}
