//! A child that serves until it is told to end, and that is gone with us, however we end.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::child::Child;
use super::{Command, ProcessError, Stderr};

/// Where util-linux puts it.
const SETPRIV: [&str; 2] = ["/usr/bin/setpriv", "/bin/setpriv"];

/// Its arguments before a program that is to be killed when its parent dies.
const BOUND: &[&str] = &["--pdeathsig", "KILL", "--"];

/// A server of ours. Dropping it kills it at once; [`Daemon::stop`] lets it clear up behind itself.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    pub(super) fn new(child: Child) -> Self {
        Self { child }
    }

    /// Waits for its end, which nobody asked for: its last words, or the error that says how it ended. To be awaited again if dropped.
    ///
    /// # Errors
    /// [`ProcessError::Failed`] with what it last said.
    pub async fn ended(&mut self) -> Result<Stderr, ProcessError> {
        self.child.end().await
    }

    /// Asks it to end by `signal`, and kills it if it has not after `patience`.
    pub async fn stop(mut self, signal: Signal, patience: Duration) {
        self.child.ask(signal);
        if tokio::time::timeout(patience, self.child.end()).await.is_err() {
            tracing::warn!(program = self.child.program, "it did not end when it was asked to, and is killed");
            self.child.kill().await;
        }
    }
}

/// The command, such that the kernel kills the child when we are killed (`PR_SET_PDEATHSIG`), where util-linux's setpriv is there to ask for it: a
/// system call between fork and exec of our own would take unsafe code. The kernel takes the end of the thread that started the child
/// for ours: the runtime's own threads, on which this runs, live as long as it.
pub(super) async fn bound(command: Command) -> Command {
    for setpriv in SETPRIV.map(Path::new).into_iter().filter(|path| path.exists()) {
        let tried = Command::new(setpriv).args(BOUND).arg("/bin/true").run(&CancellationToken::new()).await;
        if tried.is_ok() {
            return Command { wrapper: Some((setpriv.to_owned(), BOUND)), ..command };
        }
    }
    tracing::debug!("no setpriv here knows --pdeathsig: if this process is killed, its servers go on");
    command
}
