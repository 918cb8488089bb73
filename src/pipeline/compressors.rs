//! The threads that compress chunks, for all streams at once, first come, first served.
//!
//! They give way to everybody else. What feeds a backup is usually bound by one core: a server's session that writes rows, `pg_dump` after
//! it, a thread that reads small files. Where compression takes its turn before these, the slowest source waits, and at the end there is a
//! time in which a core has nothing to do. So sources go first, and compression has what they leave, which in the long run is the same.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::process::{getpriority_process, setpriority_process};
use tokio::sync::oneshot;

use super::block::Block;
use super::codec::Codec;
use super::encode::Encoder;
use crate::manifest::Encoding;

/// How much nicer than the process (setpriority(2)): a third of the share of a thread that wants the same core.
const NICER: i32 = 5;

/// A chunk that was compressed.
pub(super) struct Encoded {
    pub(super) raw: Block,
    /// None: what is stored is the chunk itself.
    pub(super) stored: Option<Stored>,
}

/// What is stored for a chunk: the beginning of a buffer that is used again.
pub(super) struct Stored {
    pub(super) buffer: Vec<u8>,
    pub(super) length: usize,
}

/// A chunk that is being compressed. That nothing comes of it means that its thread panicked.
pub(super) type EncodingChunk = oneshot::Receiver<io::Result<Encoded>>;

struct Job {
    codec: Codec,
    raw: Block,
    buffer: Vec<u8>,
    done: oneshot::Sender<io::Result<Encoded>>,
}

/// The threads, each with an encoder that it uses again. They end with the last stream, so that an idle worker holds none.
#[derive(Debug)]
pub(super) struct Compressors {
    jobs: Sender<Job>,
}

impl Compressors {
    /// Those that running streams use, or new ones.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn shared(among: &Mutex<Weak<Self>>, threads: usize) -> io::Result<Arc<Self>> {
        let mut among = among.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compressors) = among.upgrade() {
            return Ok(compressors);
        }
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("compress".to_owned()).spawn(move || work(&queue))?;
        }
        let compressors = Arc::new(Self { jobs });
        *among = Arc::downgrade(&compressors);
        Ok(compressors)
    }

    /// Compresses `raw` when its turn has come; `buffer` is for what is stored.
    pub(super) fn compress(&self, codec: Codec, raw: Block, buffer: Vec<u8>) -> EncodingChunk {
        let (done, chunk) = oneshot::channel();
        if codec.encoding == Encoding::None {
            // there is nothing to do, and nobody to be surprised when the stream was dropped
            let _ = done.send(Ok(Encoded { raw, stored: None }));
        } else {
            // without threads the chunk is dropped, and with it the sender: an error for the stream
            let _ = self.jobs.send(Job { codec, raw, buffer, done });
        }
        chunk
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    give_way();
    let mut encoder = None;
    loop {
        // one thread waits for a job, the others for it
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { codec, raw, mut buffer, done }) = job else { return };
        if done.is_closed() {
            continue;
        }
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            let length = encode(&mut encoder, codec, raw.as_ref(), &mut buffer)?;
            Ok(Encoded { raw, stored: Some(Stored { buffer, length }) })
        }));
        match encoded {
            Ok(encoded) => drop(done.send(encoded)),
            // `done` is dropped, which is the stream's error; the hook for panics has said what it was
            Err(_) => encoder = None,
        }
    }
}

fn encode(kept: &mut Option<Encoder>, codec: Codec, chunk: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
    match kept {
        Some(encoder) if encoder.codec() == codec => encoder.encode(chunk, out),
        _ => kept.insert(Encoder::new(codec)?).encode(chunk, out),
    }
}

/// For the calling thread: on Linux the priority belongs to a thread. Where it cannot be had, all goes on as well, if not as fast.
fn give_way() {
    let now = getpriority_process(None).unwrap_or(0);
    let _ = setpriority_process(None, (now + NICER).min(19));
}
