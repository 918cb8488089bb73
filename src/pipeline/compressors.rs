//! The threads that compress chunks, for all streams at once.
//!
//! What feeds a backup is usually bound by one core: a server's session that writes rows, `pg_dump` after it, a thread that reads small
//! files. Where such a source has to wait for compression it ends late, and then a core has nothing to do. So the slowest source goes
//! first, twice: the threads give way to everybody else, and of the streams that wait for them the one with the fewest chunks here is
//! served, which is the one that brings them slowest. Compression has what is left, which in the long run is the same.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

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

/// The chunks of one stream that wait, and how many are being compressed.
struct Line {
    stream: u64,
    jobs: VecDeque<Job>,
    running: usize,
}

/// All streams that have chunks here; the one that was served last is at the end.
#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    closed: bool,
}

impl Queue {
    fn push(&mut self, stream: u64, job: Job) {
        match self.lines.iter_mut().find(|line| line.stream == stream) {
            Some(line) => line.jobs.push_back(job),
            None => self.lines.push_back(Line { stream, jobs: VecDeque::from([job]), running: 0 }),
        }
    }

    /// Of the stream that has the fewest here, and among such the one that was served least recently; its number. [`Self::done`] follows.
    fn pop(&mut self) -> Option<(u64, Job)> {
        let waiting = self.lines.iter().enumerate().filter(|(_, line)| !line.jobs.is_empty());
        let (at, _) = waiting.min_by_key(|(_, line)| line.jobs.len() + line.running)?;
        let mut line = self.lines.remove(at)?;
        let job = line.jobs.pop_front()?;
        line.running += 1;
        let stream = line.stream;
        self.lines.push_back(line);
        Some((stream, job))
    }

    fn done(&mut self, stream: u64) {
        let Some(at) = self.lines.iter().position(|line| line.stream == stream) else { return };
        self.lines[at].running -= 1;
        if self.lines[at].running == 0 && self.lines[at].jobs.is_empty() {
            self.lines.remove(at);
        }
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` when there will be none.
    fn next(&self) -> Option<(u64, Job)> {
        let mut queue = self.queue();
        loop {
            match queue.pop() {
                Some(next) => return Some(next),
                None if queue.closed => return None,
                None => queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The threads, each with an encoder that it uses again. They end with the last stream, so that an idle worker holds none.
pub(super) struct Compressors {
    shared: Arc<Shared>,
    streams: AtomicU64,
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
        // dropped on an error, it ends the threads that did start
        let compressors = Arc::new(Self { shared: Arc::default(), streams: AtomicU64::new(0) });
        for _ in 0..threads {
            let shared = Arc::clone(&compressors.shared);
            std::thread::Builder::new().name("compress".to_owned()).spawn(move || work(&shared))?;
        }
        *among = Arc::downgrade(&compressors);
        Ok(compressors)
    }

    /// The chunks of one stream. `apart`: what is stored for a chunk is never the chunk itself.
    pub(super) fn stream(self: &Arc<Self>, codec: Codec, apart: bool) -> Stream {
        Stream { compressors: Arc::clone(self), codec, apart, number: self.streams.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Compressors {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.arrived.notify_all();
    }
}

/// One stream among those that are compressed.
pub(super) struct Stream {
    compressors: Arc<Compressors>,
    codec: Codec,
    apart: bool,
    number: u64,
}

impl Stream {
    /// Compresses `raw` when its turn has come; `buffer` is for what is stored.
    pub(super) fn compress(&self, raw: Block, buffer: Vec<u8>) -> EncodingChunk {
        if self.codec.encoding == Encoding::None && !self.apart {
            return nothing(raw);
        }
        let (done, chunk) = oneshot::channel();
        let shared = &self.compressors.shared;
        shared.queue().push(self.number, Job { codec: self.codec, raw, buffer, done });
        shared.arrived.notify_one();
        chunk
    }
}

/// A chunk with which there is nothing to do.
pub(super) fn nothing(raw: Block) -> EncodingChunk {
    let (done, chunk) = oneshot::channel();
    // that nobody waits for it any more is no fault
    let _ = done.send(Ok(Encoded { raw, stored: None }));
    chunk
}

fn work(shared: &Shared) {
    give_way();
    let mut encoder = None;
    while let Some((stream, Job { codec, raw, mut buffer, done })) = shared.next() {
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            let length = encode(&mut encoder, codec, raw.as_ref(), &mut buffer)?;
            Ok(Encoded { raw, stored: Some(Stored { buffer, length }) })
        }));
        shared.queue().done(stream);
        match encoded {
            Ok(encoded) => drop(done.send(encoded)),
            // `done` is dropped, which is the stream's error; what the panic was, its hook has said
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

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn job(level: u32) -> Job {
        let block = Block::new(&Arc::default(), Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free"));
        let codec = Codec { encoding: Encoding::Gzip, level };
        Job { codec, raw: block.expect("memory"), buffer: Vec::new(), done: oneshot::channel().0 }
    }

    #[test]
    fn the_slowest_source_goes_first_and_equals_take_turns() {
        let mut queue = Queue::default();
        for (stream, level) in [(1, 11), (1, 12), (1, 13), (2, 21), (3, 31), (3, 32), (3, 33)] {
            queue.push(stream, job(level));
        }
        // what is being compressed counts, too: or the first of equals would be served until it has none
        let mut order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|(_, job)| job.codec.level).collect();
        assert_eq!(order, [21, 11, 31, 12, 32, 13, 33]);
        for stream in [1, 1, 1, 2, 3, 3, 3] {
            queue.done(stream);
        }
        assert!(queue.lines.is_empty());
        queue.push(1, job(14));
        order.extend(queue.pop().map(|(_, job)| job.codec.level));
        assert_eq!(order.last(), Some(&14));
    }
}
