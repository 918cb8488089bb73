//! Compression: each chunk becomes gzip members or a zstd frame of its own, so that chunks can be compressed side by side; their
//! concatenation is what `gunzip` and `zstd -d` read (RFC 1952 section 2.2, RFC 8878 section 3).

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use crate::manifest::Encoding;

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

/// Reads the raw stream out of a stored one.
pub(super) fn decoder<'a>(encoding: Encoding, stored: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match encoding {
        Encoding::None => Box::new(stored),
        Encoding::Gzip => Box::new(MultiGzDecoder::new(stored)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(stored)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}
