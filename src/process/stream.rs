//! The stdout of a child as a stream whose end means success.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::pipe::fcntl_setpipe_size;
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::child::Child;
use super::{ProcessError, Stderr};

/// The stdout of a child. Its end means that the child exited with status 0 and that what was to follow (see [`ChildStream::then`])
/// succeeded. Dropping it kills the child.
pub struct ChildStream {
    /// Read on a blocking thread: epoll would wake us for each write of the child, however much we rest.
    stdout: File,
    /// Where the pipe is wide: runs after a read that emptied it.
    rest: Option<Pin<Box<Sleep>>>,
    resting: bool,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    state: State,
    then: Option<Then>,
}

impl fmt::Debug for ChildStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildStream").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// Bytes that a child may be ahead of us, so that it need not wait while we are busy; Linux gives 64 KiB unless asked.
const PIPE: usize = 1 << 20;

/// `pg_dump` writes 4 KiB at a time. Whoever reads as fast is woken for each, and so is `pg_dump`: a tenth of all CPU time. After a read
/// of less than this, in bytes, the pipe is given a moment to fill.
const WORTHWHILE: usize = 64 << 10;

/// That moment. A wide pipe takes 1 GB/s at that.
const REST: Duration = Duration::from_millis(1);

type Then = Box<dyn FnOnce(Stderr) -> BoxFuture<'static, io::Result<()>> + Send>;

enum State {
    Reading(Box<Child>),
    Ending(String, BoxFuture<'static, io::Result<()>>),
    Ended,
    /// The error was given out; it stays an error.
    Failed(String),
}

impl ChildStream {
    /// The stream of a child that was just started.
    pub(super) fn new(mut child: Child, cancel: &CancellationToken) -> Result<Self, ProcessError> {
        let stdout = child.take_stdout().into_owned_fd();
        let stdout = stdout.map_err(|source| ProcessError::Output { program: child.program.clone(), source })?;
        // where a user may not have that much, what there is does
        let wide = fcntl_setpipe_size(&stdout, PIPE).is_ok();
        Ok(Self {
            stdout: File::from_std(stdout.into()),
            rest: wide.then(|| Box::pin(tokio::time::sleep(REST))),
            resting: false,
            cancelled: Box::pin(cancel.clone().cancelled_owned()),
            state: State::Reading(Box::new(child)),
            then: None,
        })
    }

    /// Does `f` after the child exited with status 0 and before the end is reported; an error of `f` is the stream's. `f` gets what the
    /// child wrote to stderr: warnings, usually.
    #[must_use]
    pub fn then(mut self, f: impl FnOnce(Stderr) -> BoxFuture<'static, io::Result<()>> + Send + 'static) -> Self {
        self.then = Some(Box::new(f));
        self
    }

    /// Of the child, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Reading(child) => child.id(),
            _ => None,
        }
    }

    fn fail(&mut self, error: io::Error) -> Poll<io::Result<()>> {
        self.state = State::Failed(error.to_string());
        Poll::Ready(Err(error))
    }
}

impl AsyncRead for ChildStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let program = match &mut this.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Failed(again) => return Poll::Ready(Err(io::Error::other(again.clone()))),
                State::Reading(child) => child.program.clone(),
                State::Ending(program, _) => program.clone(),
            };
            if this.cancelled.as_mut().poll(cx).is_ready() {
                return this.fail(io::Error::other(ProcessError::Cancelled { program }));
            }
            if let State::Ending(_, end) = &mut this.state {
                match ready!(end.as_mut().poll(cx)) {
                    Ok(()) => this.state = State::Ended,
                    Err(error) => return this.fail(error),
                }
                continue;
            }
            if let Some(rest) = this.rest.as_mut().filter(|_| this.resting) {
                ready!(rest.as_mut().poll(cx));
                this.resting = false;
            }
            let before = buf.filled().len();
            if let Err(source) = ready!(Pin::new(&mut this.stdout).poll_read(cx, buf)) {
                return this.fail(io::Error::other(ProcessError::Output { program, source }));
            }
            let read = buf.filled().len() - before;
            if read > 0 {
                if let Some(rest) = this.rest.as_mut().filter(|_| read < WORTHWHILE && buf.remaining() > 0) {
                    rest.as_mut().reset(Instant::now() + REST);
                    this.resting = true;
                }
                return Poll::Ready(Ok(()));
            }
            if let State::Reading(mut child) = std::mem::replace(&mut this.state, State::Ended) {
                let then = this.then.take();
                let end = async move {
                    let stderr = child.end().await.map_err(io::Error::other)?;
                    match then {
                        Some(then) => then(stderr).await,
                        None => Ok(()),
                    }
                };
                this.state = State::Ending(program, Box::pin(end));
            }
        }
    }
}
