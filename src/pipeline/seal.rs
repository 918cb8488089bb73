//! Encryption on the way to storage: what the compression threads made goes through age, whose output fills the blocks of the stream.
//!
//! age works on 64 KiB at a time and keeps the last of them back, for only a stream's last piece is marked as such. So what comes out for a
//! chunk may be longer than the chunk by what was kept back from the one before: such chunks are made smaller ([`CHUNK`]).

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::Encryptor;
use age::stream::StreamWriter;
use sha2::{Digest, Sha256};

use super::block::{BLOCK, Block};
use crate::encryption::Seal;

/// Bytes that are compressed as one, such that what is stored for them fits into a block: besides what compression may add (4 KiB), 64 KiB
/// kept back, 17 tags of 16 bytes, and a header of 16 KiB at most.
pub(super) const CHUNK: usize = BLOCK - (96 << 10);

/// Encrypts one stream.
pub(super) struct Sealer {
    state: State,
    outlet: Outlet,
}

enum State {
    /// Nothing is written yet.
    Header(Encryptor),
    Body(Box<StreamWriter<Outlet>>),
    Ended,
}

/// What came out for a chunk.
pub(super) struct Sealed {
    /// Blocks that are full.
    pub(super) full: Vec<Block>,
    /// The one that is being filled.
    pub(super) tail: Option<Block>,
    pub(super) length: usize,
}

/// Where age writes to: the blocks at hand. Shared with the writer, which does not give it out.
#[derive(Clone, Default)]
struct Outlet(Arc<Mutex<Out>>);

#[derive(Default)]
struct Out {
    sha256: Sha256,
    full: Vec<Block>,
    tail: Option<Block>,
    spare: Option<Block>,
    length: usize,
}

impl Outlet {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out().put(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.length += bytes.len();
        while !bytes.is_empty() {
            if self.tail.is_none() {
                self.tail =
                    Some(self.spare.take().ok_or_else(|| io::Error::other("what is stored for a chunk does not fit into a block"))?);
            }
            let Some(tail) = &mut self.tail else { continue };
            let taken = tail.take(bytes);
            bytes = &bytes[taken..];
            if !bytes.is_empty() {
                self.full.extend(self.tail.take());
            }
        }
        Ok(())
    }
}

impl Sealer {
    pub(super) fn new(seal: Seal) -> Self {
        Self { state: State::Header(seal.0), outlet: Outlet::default() }
    }

    /// Encrypts `plain`, which goes on where the last ended, into `tail` and then `spare`, whose content is no longer needed. `last`: nothing
    /// comes after it.
    ///
    /// # Errors
    /// For bytes after the last.
    pub(super) fn add(&mut self, plain: &[u8], last: bool, tail: Option<Block>, mut spare: Block) -> io::Result<Sealed> {
        spare.clear();
        {
            let mut out = self.outlet.out();
            (out.tail, out.spare, out.length) = (tail, Some(spare), 0);
        }
        let mut writer = match std::mem::replace(&mut self.state, State::Ended) {
            State::Header(encryptor) => Box::new(encryptor.wrap_output(self.outlet.clone())?),
            State::Body(writer) => writer,
            State::Ended => return Err(io::Error::other("the encrypted stream has ended before")),
        };
        writer.write_all(plain)?;
        if last {
            writer.finish()?;
        } else {
            self.state = State::Body(writer);
        }
        let mut out = self.outlet.out();
        out.spare = None;
        Ok(Sealed { full: std::mem::take(&mut out.full), tail: out.tail.take(), length: out.length })
    }

    /// The SHA-256 of all that came out; `None` unless the stream has ended.
    pub(super) fn finish(self) -> Option<Sha256> {
        matches!(self.state, State::Ended).then(|| std::mem::take(&mut self.outlet.out().sha256))
    }
}
