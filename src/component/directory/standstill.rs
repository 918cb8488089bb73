//! Work on a tree that ends, even if the file system below it answers nothing any more: see [`super::watch`] for why that is not a matter of
//! course.
//!
//! A restore writes, compares, flushes and removes for hours, and no limit on time fits all of that. So the kernel is asked whether the thread
//! at work moves: one that computes uses up processor time, and one that gets answers, be it page after page while a disk is flushed, goes to
//! sleep and wakes. One that hangs in a call does neither.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::DirectoryError;
use crate::component::ComponentError;

/// Threads that work for the one that is watched bear this name.
pub const HELPER: &str = "compare";

/// Between two looks, at most.
const PAUSE: Duration = Duration::from_secs(30);

/// Whether the thread at work waits for something that is bounded elsewhere, such as what comes from a target.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<AtomicBool>);

impl Waits {
    /// For as long as `work` takes.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.store(true, Ordering::Relaxed);
        let done = work();
        self.0.store(false, Ordering::Relaxed);
        done
    }
}

/// What `work` on the tree at `path` comes to; it is left behind, on its thread, when that stands still for `stall`.
///
/// # Errors
/// [`DirectoryError::Hung`]; those of `work`.
pub async fn moving<T: Send + 'static>(
    path: PathBuf,
    stall: Duration,
    waits: Waits,
    work: impl FnOnce() -> Result<T, ComponentError> + Send + 'static,
) -> Result<T, ComponentError> {
    let (tell, told) = oneshot::channel();
    let task = tokio::task::spawn_blocking(move || {
        // whoever asked may be gone
        let _ = tell.send(fs::read_link("/proc/thread-self").ok().and_then(|link| link.file_name()?.to_str()?.parse().ok()));
        work()
    });
    let stands_still = async {
        match told.await {
            Ok(Some(thread)) => stands_still(thread, stall, &waits).await,
            // without an answer nothing is known, and nothing is cut
            Ok(None) | Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = task => done.map_err(|_| DirectoryError::Died(path))?,
        () = stands_still => Err(DirectoryError::Hung { path: path.display().to_string(), after: stall }.into()),
    }
}

/// Returns when the thread has not moved for `stall`.
async fn stands_still(thread: i32, stall: Duration, waits: &Waits) {
    let pause = (stall / 8).min(PAUSE);
    let (mut before, mut since) = (None, Instant::now());
    loop {
        tokio::time::sleep(pause).await;
        let now = movement(thread);
        if now.is_none() || now != before || waits.0.load(Ordering::Relaxed) {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() >= stall {
            return;
        }
    }
}

/// What changes whenever the thread, or one that works for it, moves.
fn movement(thread: i32) -> Option<String> {
    let mut all = movement_of(thread)?;
    for entry in fs::read_dir("/proc/self/task").ok()?.flatten() {
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim_end() == HELPER)
            && let Some(helper) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            // one that has ended since has moved
            all.push_str(&movement_of(helper).unwrap_or_default());
        }
    }
    Some(all)
}

/// Processor time and changes between rest and work: proc_pid_stat(5), proc_pid_status(5).
fn movement_of(thread: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    // the name, in parentheses, may hold anything; after it comes the third field
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let switches: Vec<&str> = status.lines().filter(|line| line.contains("ctxt_switches")).collect();
    Some(format!("{thread} {:?} {switches:?} ", fields.get(11..13)?))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use super::*;

    const STALL: Duration = Duration::from_millis(400);

    async fn check(waits: Waits, work: impl FnOnce() + Send + 'static) -> Result<(), ComponentError> {
        let work = move || {
            work();
            Ok(())
        };
        moving(Path::new("/srv/x").to_owned(), STALL, waits, work).await
    }

    #[tokio::test]
    async fn a_thread_that_hangs_is_left_behind_and_one_that_moves_or_waits_is_not() {
        let long = || std::time::Instant::now() + 3 * STALL;
        let until = long();
        check(Waits::default(), move || while std::time::Instant::now() < until {}).await.expect("it computes");
        let until = long();
        let naps = move || {
            while std::time::Instant::now() < until {
                std::thread::sleep(STALL / 20);
            }
        };
        check(Waits::default(), naps).await.expect("it gets answers");

        let (mut hung, _open) = std::io::pipe().expect("a pipe");
        let hang = move || drop(hung.read(&mut [0]));
        let error = check(Waits::default(), hang).await.expect_err("it hangs");
        assert_eq!(error.to_string(), "`/srv/x` did not answer for 400ms");

        let waits = Waits::default();
        let wait = waits.clone();
        check(waits, move || wait.during(|| std::thread::sleep(3 * STALL))).await.expect("it waits for others");
    }

    #[tokio::test]
    async fn threads_that_work_for_it_count() {
        let work = || {
            let until = std::time::Instant::now() + 3 * STALL;
            let helper = std::thread::Builder::new().name(HELPER.to_owned()).spawn(move || while std::time::Instant::now() < until {});
            helper.expect("a thread").join().expect("its end");
        };
        check(Waits::default(), work).await.expect("it moves");
    }
}
