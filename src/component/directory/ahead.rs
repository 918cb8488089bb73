//! Keeps several files of a walk in flight: threads that go ahead of it and read small files, so that their latencies overlap. The walk
//! takes what they have in the order of the tree.
//!
//! There is no thread that the others depend on. Whoever has nothing to do asks the [`Scout`] for the next batch: a thread to read it ahead,
//! the walk itself when nobody is ahead of it. So it goes on, more slowly, with no thread at all.
//!
//! The threads only go ahead while that pays: where files come out of memory, handing them over costs more than it gains, so whoever reads a
//! batch takes the time, and the threads rest until one was slow (a disk, a network).
//!
//! Invariant: every batch that was scouted comes to the walk, or [`Died`] does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::scout::{Found, Scout, What};
use super::small::{AHEAD, Batch, Shared, SmallFiles};

/// Threads that read ahead.
pub const THREADS: usize = 4;
/// Batches that are being read or wait for the walk.
const DEPTH: usize = 12;
/// Most entries of a batch.
const ENTRIES: usize = 16;
/// A batch ends with the entry with which it takes so many bytes for names and attributes; long paths make short batches.
const WEIGHT: usize = 16 << 10;
/// A directory counts as so many entries: its handle stays open for as long as something in it is in flight.
const DIRECTORY: usize = 4;

/// From memory a small file takes a tenth of that, from any disk more.
const SLOW: Duration = Duration::from_micros(60);

/// A thread that read ahead died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Died;

/// The walk's way through the tree, and those ahead on it.
pub struct Ahead {
    scout: Mutex<Scout>,
    queue: Mutex<Queue>,
    /// There is room for more batches, or no more are wanted.
    room: Condvar,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Arc<Slot>>,
    /// Batches in `batches` and those that are about to be.
    under_way: usize,
    /// Whether the batch that was read last took long.
    slow: bool,
    /// The scout is at its end.
    ended: bool,
    /// The walk wants no more.
    closed: bool,
}

/// A batch that a thread is at.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Reading,
    Read(Batch),
    Died,
}

impl Ahead {
    pub fn new(scout: Scout) -> Self {
        Self { scout: Mutex::new(scout), queue: Mutex::default(), room: Condvar::new() }
    }

    /// The next batch in the order of the tree, read with `files` if by nobody else; `None` at its end.
    ///
    /// # Errors
    /// [`Died`].
    pub fn next(&self, files: &mut SmallFiles) -> Result<Option<Batch>, Died> {
        loop {
            let mut queue = self.queue();
            if let Some(slot) = queue.batches.pop_front() {
                queue.under_way -= 1;
                // not for every batch: waking a thread costs as much as reading a file
                if queue.under_way == DEPTH / 2 {
                    self.room.notify_all();
                }
                drop(queue);
                return slot.take().map(Some);
            }
            if queue.ended {
                return Ok(None);
            }
            drop(queue);
            let mut scout = self.scout.lock().map_err(|_| Died)?;
            // what another thread scouted meanwhile comes first
            if !self.queue().batches.is_empty() {
                continue;
            }
            let began = Instant::now();
            let found = scout_batch(&mut scout);
            drop(scout);
            if found.is_empty() {
                self.queue().ended = true;
                return Ok(None);
            }
            let mut batch = Batch::of(found);
            self.fill(&mut batch, files, began);
            return Ok(Some(batch));
        }
    }

    /// Reads ahead until there is nothing more to read or [`Ahead::close`] was called.
    pub fn read_ahead(&self, shared: Arc<Shared>) {
        let mut files = SmallFiles::new(shared, AHEAD);
        while let Some((slot, mut batch)) = self.claim() {
            let reading = Reading(&slot);
            self.fill(&mut batch, &mut files, Instant::now());
            reading.done(batch);
        }
    }

    fn fill(&self, batch: &mut Batch, files: &mut SmallFiles, began: Instant) {
        files.fill(batch);
        let slow = began.elapsed() > SLOW * u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
        let mut queue = self.queue();
        if slow && !queue.slow {
            self.room.notify_all();
        }
        queue.slow = slow;
    }

    /// Ends the threads that read ahead.
    pub fn close(&self) {
        self.queue().closed = true;
        self.room.notify_all();
    }

    fn claim(&self) -> Option<(Arc<Slot>, Batch)> {
        let mut queue = self.queue();
        while !queue.closed && !queue.ended && (queue.under_way >= DEPTH || !queue.slow) {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.closed || queue.ended {
            return None;
        }
        queue.under_way += 1;
        drop(queue);
        // the scout stays locked until the batch is in the queue, so that batches lie there in the order of the tree
        let mut scout = self.scout.lock().ok()?;
        let found = scout_batch(&mut scout);
        let mut queue = self.queue();
        if found.is_empty() {
            queue.ended = true;
            self.room.notify_all();
            return None;
        }
        let slot = Arc::new(Slot::default());
        queue.batches.push_back(Arc::clone(&slot));
        Some((slot, Batch::of(found)))
    }

    /// Sends the threads ahead.
    #[cfg(test)]
    fn wake(&self) {
        self.queue().slow = true;
        self.room.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // nothing that can panic is done with it
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scout_batch(scout: &mut Scout) -> Vec<Found> {
    let mut batch = Vec::with_capacity(ENTRIES);
    let (mut entries, mut weight) = (0, 0);
    while entries < ENTRIES && weight < WEIGHT {
        let Some(found) = scout.next() else { break };
        entries += if matches!(found.what, What::Directory(_)) { DIRECTORY } else { 1 };
        weight += found.weight();
        batch.push(found);
    }
    batch
}

impl Slot {
    fn take(&self) -> Result<Batch, Died> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match std::mem::replace(&mut *state, State::Died) {
                State::Read(batch) => return Ok(batch),
                State::Died => return Err(Died),
                State::Reading => *state = State::Reading,
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, new: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.ready.notify_one();
    }
}

/// A slot whose reader, should it not come to its end, has died.
struct Reading<'a>(&'a Slot);

impl Reading<'_> {
    fn done(self, batch: Batch) {
        self.0.set(State::Read(batch));
        std::mem::forget(self);
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.set(State::Died);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::thread;

    use ignore::gitignore::Gitignore;

    use super::super::archive::read::Reader;
    use super::super::small::Outcome;
    use super::*;

    fn ahead(root: &Path) -> Ahead {
        let root = OwnedFd::from(std::fs::File::open(root).expect("a directory"));
        Ahead::new(Scout::new(root, Arc::new(Gitignore::empty())))
    }

    /// A tree of so many files, ten a directory, each with its own path in it.
    fn tree(files: usize) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for n in 0..files {
            let path = root.path().join(format!("{:03}", n / 10)).join(n.to_string());
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("created");
            std::fs::write(path, n.to_string()).expect("written");
        }
        root
    }

    fn files() -> SmallFiles {
        SmallFiles::new(Arc::default(), AHEAD)
    }

    fn paths(ahead: &Ahead) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        let mut files = files();
        while let Some(batch) = ahead.next(&mut files).expect("no thread died") {
            // whatever the clock says, so that all take part
            ahead.wake();
            paths.extend(batch.entries.into_iter().map(|(found, _)| found.path));
        }
        paths
    }

    fn with_threads<T>(ahead: &Ahead, threads: usize, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| ahead.read_ahead(Arc::default()));
            }
            let result = work();
            ahead.close();
            result
        })
    }

    #[test]
    fn everything_comes_once_and_in_order_however_many_go_ahead() {
        let root = tree(1000);
        let alone = paths(&ahead(root.path()));
        assert_eq!(alone.len(), 1 + 100 + 1000);
        assert!(alone.is_sorted(), "these names sort like their paths");
        for threads in [1, 3, 8] {
            let ahead = ahead(root.path());
            assert_eq!(with_threads(&ahead, threads, || paths(&ahead)), alone, "{threads}");
        }
    }

    #[test]
    fn those_ahead_stop_at_the_bound() {
        let root = tree(2000);
        let ahead = ahead(root.path());
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ahead.read_ahead(Arc::default()))).collect();
            // all are ahead as far as they may be once the last place in the queue is taken
            while ahead.queue().batches.len() < DEPTH {
                ahead.wake();
                thread::yield_now();
            }
            let queue = ahead.queue();
            assert_eq!((queue.under_way, queue.batches.len()), (DEPTH, DEPTH));
            drop(queue);
            ahead.close();
            for thread in threads {
                thread.join().expect("it stopped");
            }
            assert_eq!(ahead.queue().batches.len(), DEPTH);
        });
    }

    #[test]
    fn long_paths_make_short_batches() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut deep = root.path().to_owned();
        deep.extend((0..10).map(|_| "d".repeat(250)));
        std::fs::create_dir_all(&deep).expect("created");
        for n in 0..100 {
            std::fs::write(deep.join(n.to_string()), "x").expect("written");
        }
        let ahead = ahead(root.path());
        let mut files = files();
        while let Some(batch) = ahead.next(&mut files).expect("no thread died") {
            assert!(batch.entries.iter().map(|(found, _)| found.path.len()).sum::<usize>() < 2 * WEIGHT);
        }
    }

    #[test]
    fn a_thread_that_dies_is_no_end() {
        let root = tree(100);
        let at_work = ahead(root.path());
        at_work.wake();
        let (slot, _) = at_work.claim().expect("a batch");
        drop(Reading(&slot));
        assert_eq!(at_work.next(&mut files()).err(), Some(Died));

        let scouting = ahead(root.path());
        let died = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _scout = scouting.scout.lock();
                    panic!("on purpose")
                })
                .join()
        });
        assert!(died.is_err());
        assert_eq!(scouting.next(&mut files()).err(), Some(Died));
    }

    #[test]
    fn what_was_read_ahead_is_whole_whatever_becomes_of_the_file() {
        let root = tree(3);
        let ahead = ahead(root.path());
        ahead.wake();
        let (_, mut batch) = ahead.claim().expect("a batch");
        // between the scout and the reader
        std::fs::remove_file(root.path().join("000/1")).expect("removed");
        std::fs::create_dir(root.path().join("000/1")).expect("created");
        files().fill(&mut batch);
        // between the reader and the walk
        std::fs::write(root.path().join("000/0"), "changed").expect("written");
        std::fs::remove_file(root.path().join("000/2")).expect("removed");
        let read: Vec<_> = batch.entries.iter().map(|(_, outcome)| *outcome != Outcome::Left).collect();
        assert_eq!(read, [false, false, true, false, true], "the root, a directory, 0, 1, 2");
        batch.bytes.resize(batch.bytes.len() + 1024, 0);
        let mut reader = Reader::new(batch.bytes.as_slice());
        for name in ["0", "2"] {
            let member = reader.next_member().expect("sound").expect("a member");
            assert_eq!(member.path, format!("000/{name}").into_bytes());
            assert_eq!(reader.data().expect("sound"), name.as_bytes());
        }
        assert_eq!(reader.next_member().expect("sound"), None);
    }
}
