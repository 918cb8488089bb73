//! The only spawner of child processes.
//!
//! Invariant: the end of a child's output is reported only after the child exited with status 0; anything else is an error that says how
//! it ended and what it last wrote to stderr. A child gets a cleaned environment (only `PATH`, `LC_ALL=C` and what was asked for), its own
//! process group (a Ctrl-C at the terminal reaches us alone, and we decide), and dies with the handle that started it.
//!
//! Secrets go into the environment of a child, never into its arguments.

mod child;
mod daemon;
mod error;
mod priority;
mod stderr;
mod stream;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncRead;
use tokio::process::{ChildStdin, ChildStdout};
use tokio_util::sync::CancellationToken;

use child::Child;
pub use daemon::Daemon;
pub use error::ProcessError;
pub use priority::{IoPriority, Priority};
pub use stderr::Stderr;
pub use stream::ChildStream;

/// What a child that exited with status 0 left.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    /// Warnings, usually.
    pub stderr: Stderr,
}

/// A child process to be.
#[derive(Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    user: Option<User>,
    directory: Option<PathBuf>,
    /// What starts the program in its place, with its arguments.
    wrapper: Option<(PathBuf, &'static [&'static str])>,
}

/// Whom a child runs as; without any further group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// Without the values of the environment, which may be secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<_> = self.env.iter().map(|(key, _)| key).collect();
        f.debug_struct("Command").field("program", &self.program).field("args", &self.args).field("env", &env).finish()
    }
}

impl Command {
    /// `program` is an absolute path: what runs must not depend on `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), user: None, directory: None, wrapper: None }
    }

    /// Everybody on the machine can read arguments: no secret here.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(self, env: impl IntoIterator<Item = (K, V)>) -> Self {
        env.into_iter().fold(self, |command, (key, value)| command.env(key, value))
    }

    /// Somebody else than us, which only root may ask for.
    #[must_use]
    pub fn user(self, user: Option<User>) -> Self {
        Self { user, ..self }
    }

    /// Where the child works, in place of our own working directory.
    #[must_use]
    pub fn directory(self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), ..self }
    }

    /// Starts the child; its stdout is the stream, its stdin is empty.
    ///
    /// # Errors
    /// [`ProcessError::Start`], [`ProcessError::Output`]. Everything later is an error of the stream, see [`ProcessError::of`].
    pub fn stream(self, cancel: &CancellationToken) -> Result<ChildStream, ProcessError> {
        ChildStream::new(Child::spawn(&self, Stdio::null(), Stdio::piped())?, cancel)
    }

    /// Starts a child that serves until it is told to end; what it writes to stdout is lost.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub async fn serve(self) -> Result<Daemon, ProcessError> {
        let command = daemon::bound(self).await;
        Ok(Daemon::new(Child::spawn(&command, Stdio::null(), Stdio::null())?))
    }

    /// Starts a child that is spoken with; it is killed when the [`Daemon`] is dropped.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub async fn converse(self) -> Result<(Daemon, ChildStdin, ChildStdout), ProcessError> {
        let command = daemon::bound(self).await;
        let mut child = Child::spawn(&command, Stdio::piped(), Stdio::piped())?;
        let (stdin, stdout) = (child.take_stdin(), child.take_stdout());
        Ok((Daemon::new(child), stdin, stdout))
    }

    /// Runs the child to its end.
    ///
    /// # Errors
    /// [`ProcessError`], also for an exit status other than 0, and for more than 16 MiB of output.
    pub async fn run(self, cancel: &CancellationToken) -> Result<Output, ProcessError> {
        self.feed(tokio::io::empty(), cancel).await
    }

    /// Runs the child to its end with `input` as its stdin. A child that stops reading early and exits with status 0 has succeeded
    /// (`pg_restore --section=pre-data` does so).
    ///
    /// # Errors
    /// [`ProcessError`]. An error of `input` kills the child and is the error, whatever the child made of what it got.
    pub async fn feed(self, input: impl AsyncRead + Send + Unpin, cancel: &CancellationToken) -> Result<Output, ProcessError> {
        let mut child = Child::spawn(&self, Stdio::piped(), Stdio::piped())?;
        let fed = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ProcessError::Cancelled { program: child.program.clone() }),
            fed = child.feed(input) => fed,
        };
        if fed.is_err() {
            child.kill().await;
        }
        fed
    }
}
