//! What the threads of a walk are at, so that a call that the system never returns from can be named.
//!
//! A network file system whose server is gone, or FUSE whose daemon hangs, answers nothing, for ever, and no signal short of one that kills
//! gets a thread out of such a call. So the thread is left behind, and whoever waits for it gives up. As long as it hangs there, nobody
//! begins another walk of the same directory: one that does every hour would use up all threads there are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::DirectoryError;
use super::archive::shown;

/// Walks that were given up, in which a thread may still hang.
static GIVEN_UP: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());

/// All that goes on in one directory. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    root: PathBuf,
    seats: Mutex<Vec<Seat>>,
}

/// What one thread is at.
#[derive(Debug, Clone, Default)]
pub struct Seat(Arc<Mutex<At>>);

#[derive(Debug, Default)]
struct At {
    /// Relative to the root; used again.
    path: Vec<u8>,
    since: Option<Instant>,
}

impl Watch {
    pub fn new(root: &Path) -> Self {
        Self(Arc::new(Watched { root: root.to_owned(), seats: Mutex::default() }))
    }

    /// For one more thread.
    pub fn seat(&self) -> Seat {
        let seat = Seat::default();
        held(&self.0.seats).push(seat.clone());
        seat
    }

    /// The path at which a thread has been for longest, and how long.
    fn longest(&self) -> Option<(Vec<u8>, Duration)> {
        let seats = held(&self.0.seats);
        let at = seats.iter().filter_map(|seat| {
            let at = held(&seat.0);
            Some((at.since?, at.path.clone()))
        });
        at.min_by_key(|(since, _)| *since).map(|(since, path)| (path, since.elapsed()))
    }

    /// Why nothing came for `after`, if it is that a call did not return in most of that time. It is remembered.
    pub fn give_up(&self, after: Duration) -> Option<DirectoryError> {
        let (path, since) = self.longest()?;
        if since < after / 2 {
            return None;
        }
        held(&GIVEN_UP).push(Arc::downgrade(&self.0));
        Some(self.hung(&path, after))
    }

    /// # Errors
    /// [`DirectoryError::Hung`] if a walk of the same directory was given up, and what it waited for has not been answered yet.
    pub fn refuse_if_hung(root: &Path) -> Result<(), DirectoryError> {
        let mut given_up = held(&GIVEN_UP);
        given_up.retain(|watch| watch.strong_count() > 0);
        let hung = given_up.iter().filter_map(Weak::upgrade).map(Self).find_map(|watch| {
            let (path, since) = watch.longest().filter(|_| watch.0.root == root)?;
            Some(watch.hung(&path, Duration::from_secs(since.as_secs())))
        });
        hung.map_or(Ok(()), Err)
    }

    fn hung(&self, path: &[u8], after: Duration) -> DirectoryError {
        let root = self.0.root.to_string_lossy();
        let path = if path.is_empty() { root.into_owned() } else { format!("{}/{}", root.trim_end_matches('/'), shown(path)) };
        DirectoryError::Hung { path, after }
    }
}

impl Seat {
    /// Before what may hang at `path`, which is relative to the root.
    pub fn at(&self, path: &[u8]) {
        let mut at = held(&self.0);
        at.path.clear();
        at.path.extend_from_slice(path);
        at.since = Some(Instant::now());
    }

    /// It goes on, at the same path.
    pub fn moved(&self) {
        held(&self.0).since = Some(Instant::now());
    }

    /// Whatever comes next cannot hang.
    pub fn rest(&self) {
        held(&self.0).since = None;
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // nothing that can panic is done with it
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_hangs_longest_is_named_and_nobody_goes_there_until_it_returns() {
        let root = Path::new("/srv/watch");
        let watch = Watch::new(root);
        let (first, second) = (watch.seat(), watch.seat());
        let give_up = |after| watch.give_up(after).map(|error| error.to_string());
        assert_eq!(give_up(Duration::ZERO), None, "nobody is at anything");
        first.at(b"a/b");
        second.at(b"a/c");
        assert_eq!(give_up(Duration::from_secs(3600)), None, "nobody has been there for long");
        Watch::refuse_if_hung(root).expect("nothing was given up");
        assert_eq!(give_up(Duration::ZERO).as_deref(), Some("`/srv/watch/a/b` did not answer for 0s"));
        first.moved();
        assert_eq!(give_up(Duration::ZERO).as_deref(), Some("`/srv/watch/a/c` did not answer for 0s"));
        Watch::refuse_if_hung(root).expect_err("it hangs");
        Watch::refuse_if_hung(Path::new("/srv/other")).expect("another directory");
        first.rest();
        second.rest();
        Watch::refuse_if_hung(root).expect("it has returned");
        first.at(b"");
        assert_eq!(give_up(Duration::ZERO).as_deref(), Some("`/srv/watch` did not answer for 0s"));
        drop((first, second, watch));
        Watch::refuse_if_hung(root).expect("its threads are gone");
    }
}
