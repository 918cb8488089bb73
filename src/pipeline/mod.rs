//! From a source's bytes to stored bytes ([`Packer`]), and back ([`unpack`]).
//!
//! ```text
//! source → chunks → compress (threads of its own, side by side) → encrypt → BLAKE3 of raw, SHA-256 of stored → parts, in stream order
//! stored → decrypt → decompress → raw, whose end comes only after both hashes matched: SHA-256 and BLAKE3, computed beside it
//! ```
//!
//! Every byte in flight is drawn from one [`Budget`], so that memory does not grow with the size of the data.

mod beside;
mod block;
mod budget;
mod codec;
mod compressors;
mod density;
mod encode;
mod gzip;
mod pack;
mod parts;
mod seal;
mod survey;
#[cfg(test)]
mod tests;
mod unpack;

pub use budget::{Budget, Engine, Progress};
pub use codec::{Codec, Decoder};
pub use encode::Encoder;
pub use pack::{Admission, PackError, PackOptions, Packed, Packer};
pub use survey::{Surveyed, survey};
pub use unpack::{UnpackError, read_over, unpack};
