//! From a source's bytes to stored bytes, and back.

use crate::manifest::Encoding;

/// A compression and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    pub encoding: Encoding,
    /// gzip 1–9 (default 1 until measured), zstd 1–19 (default 3); ignored for none.
    pub level: u32,
}

impl Codec {
    /// `level` 0 is the measured default of that encoding.
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
