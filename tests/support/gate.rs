//! A proxy in front of an S3 server that stops the world at one request: before the server hears of it, or before its answer is heard.

use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::program::{Backstay, Outcome};
use super::proxy::{Fault, Proxy, Request};

/// Of the request that is stopped at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The server never hears of it.
    Before,
    /// The server has done it, and nobody hears of that.
    After,
    /// It is answered with 403, and so is every later one.
    Refused,
}

/// Listens on a loopback port until the process ends.
#[derive(Debug)]
pub struct Gate {
    proxy: Proxy,
    seen: Arc<AtomicUsize>,
    hold: Arc<Hold>,
    reached: Receiver<()>,
}

/// Where the world stands still.
#[derive(Debug)]
pub struct Hold {
    reached: Mutex<Sender<()>>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Hold {
    pub(super) fn stop(&self) {
        let _ = self.reached.lock().expect("no panic holds it").send(());
        let mut open = self.open.lock().expect("no panic holds it");
        while !*open {
            open = self.opened.wait(open).expect("no panic holds it");
        }
    }
}

impl Gate {
    /// At the `at`-th request, from 1, that changes something and holds `mark`.
    pub fn new(to: u16, mark: &'static str, at: usize, side: Side) -> Self {
        Self::among(to, at, side, move |request| !request.reads() && request.holds(mark))
    }

    /// At the `at`-th of all requests, from 1.
    pub fn at(to: u16, at: usize, side: Side) -> Self {
        Self::among(to, at, side, |_| true)
    }

    fn among(to: u16, at: usize, side: Side, which: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        let (sender, reached) = channel();
        let hold = Arc::new(Hold { reached: Mutex::new(sender), open: Mutex::new(false), opened: Condvar::new() });
        let seen = Arc::new(AtomicUsize::new(0));
        let (held, counted) = (hold.clone(), seen.clone());
        let proxy = Proxy::new(to, move |request| {
            let number = which(request).then(|| counted.fetch_add(1, Ordering::SeqCst) + 1)?;
            match side {
                Side::Refused if number >= at => Some(Fault::Answer(403, "")),
                Side::Before if number == at => Some(Fault::HeldBefore(held.clone())),
                Side::After if number == at => Some(Fault::HeldAfter(held.clone())),
                _ => None,
            }
        });
        Self { proxy, seen, hold, reached }
    }

    pub fn endpoint(&self) -> String {
        self.proxy.endpoint()
    }

    /// Requests of the kind so far.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits until the world stands still; false if `child` ended before.
    pub fn reached(&self, child: &mut Child) -> bool {
        loop {
            match self.reached.recv_timeout(Duration::from_millis(20)) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            if child.try_wait().expect("look at the child").is_some() {
                return self.reached.try_recv().is_ok();
            }
        }
    }

    /// Starts `program`, which talks through this gate, and kills it when the world stands still; false if it ended well before.
    pub fn kill(&self, program: &Backstay, args: &[&str]) -> bool {
        let mut child = program.spawn(args);
        let reached = self.reached(&mut child);
        if reached {
            child.kill().expect("SIGKILL");
        }
        let outcome = Outcome::of(child);
        assert!(reached || outcome.code == Some(0), "{outcome:?}");
        reached
    }

    /// Lets the world go on.
    pub fn open(&self) {
        *self.hold.open.lock().expect("no panic holds it") = true;
        self.hold.opened.notify_all();
    }
}
