//! The only spawner of child processes.
//!
//! Invariant: the end of a child's output is reported only after the child exited with status 0; anything else is an error that says how
//! it ended and what it last wrote to stderr. A child gets a cleaned environment (only `PATH`, `LC_ALL=C` and what was asked for), its own
//! process group (a Ctrl-C at the terminal reaches us alone, and we decide), and dies with the handle that started it.
//!
//! Secrets go into the environment of a child, never into its arguments.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bytes of stderr that are kept: its end, where the reason stands.
const STDERR_TAIL: usize = 8 << 10;

/// Most bytes of stdout that [`Command::run`] and [`Command::feed`] take.
const MAX_OUTPUT: u64 = 16 << 20;

/// How long a grandchild may hold stderr open after the child itself has ended.
const STDERR_GRACE: Duration = Duration::from_secs(2);

/// Why a child process is no success. `program` is a file name without its directory.
#[derive(Debug, Error)]
pub enum ProcessError {
    #[error("start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed ({status}){}", tail(stderr))]
    Failed { program: String, status: ExitStatus, stderr: Stderr },
    #[error("read the output of {program}")]
    Output {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} wrote more than {MAX_OUTPUT} bytes to its standard output")]
    TooMuch { program: String },
    #[error("read what was to be fed to {program}")]
    Input {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} was stopped: cancelled")]
    Cancelled { program: String },
}

impl ProcessError {
    /// The [`ProcessError`] that a stream of [`Command::stream`] failed with, if it was one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|e| e.downcast_ref())
    }

    /// What the child last wrote to stderr, if it ran and failed.
    pub fn stderr(&self) -> Option<&Stderr> {
        match self {
            Self::Failed { stderr, .. } => Some(stderr),
            _ => None,
        }
    }
}

fn tail(stderr: &Stderr) -> String {
    if stderr.lines.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// The end of what a child wrote to stderr; whole lines, at most 8 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stderr {
    pub lines: Vec<String>,
}

impl Stderr {
    pub fn contains(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

impl fmt::Display for Stderr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

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
        Self { program: program.into(), args: Vec::new(), env: Vec::new() }
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

    /// Starts the child; its stdout is the stream, its stdin is empty.
    ///
    /// # Errors
    /// [`ProcessError::Start`]. Everything later is an error of the stream, see [`ProcessError::of`].
    pub fn stream(self, cancel: &CancellationToken) -> Result<ChildStream, ProcessError> {
        let mut running = Running::spawn(&self, Stdio::null())?;
        let stdout = running.child.stdout.take().expect("stdout was piped");
        Ok(ChildStream {
            stdout,
            cancelled: Box::pin(cancel.clone().cancelled_owned()),
            state: State::Reading(Box::new(running)),
            then: None,
        })
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
        let mut running = Running::spawn(&self, Stdio::piped())?;
        let fed = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ProcessError::Cancelled { program: running.program.clone() }),
            fed = running.feed(input) => fed,
        };
        if fed.is_err() {
            running.kill().await;
        }
        fed
    }
}

async fn read_bounded(stdout: ChildStdout, program: &str) -> Result<Vec<u8>, ProcessError> {
    let mut bytes = Vec::new();
    let read = stdout.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await;
    match read {
        Ok(n) if n as u64 > MAX_OUTPUT => Err(ProcessError::TooMuch { program: program.into() }),
        Ok(_) => Ok(bytes),
        Err(source) => Err(ProcessError::Output { program: program.into(), source }),
    }
}

/// Copies all of `input`, and closes the pipe after its end only: a child that saw an end before we could kill it would take what it has
/// for all there is (`psql --single-transaction` commits). A child that no longer reads is judged by its exit status; the input is still
/// read to its end, because only there does a verified stream say whether it was sound.
async fn copy_in(mut input: impl AsyncRead + Unpin, stdin: &mut Option<ChildStdin>, program: &str) -> Result<(), ProcessError> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = input.read(&mut buffer).await.map_err(|source| ProcessError::Input { program: program.into(), source })?;
        if read == 0 {
            *stdin = None;
            return Ok(());
        }
        if let Some(pipe) = stdin
            && pipe.write_all(&buffer[..read]).await.is_err()
        {
            *stdin = None;
        }
    }
}

/// The stdout of a child. Its end means that the child exited with status 0 and that what was to follow (see [`ChildStream::then`])
/// succeeded. Dropping it kills the child.
pub struct ChildStream {
    stdout: ChildStdout,
    cancelled: Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
    state: State,
    then: Option<Then>,
}

impl fmt::Debug for ChildStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildStream").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

type Then = Box<dyn FnOnce(Stderr) -> BoxFuture<'static, io::Result<()>> + Send>;

enum State {
    Reading(Box<Running>),
    Ending(String, BoxFuture<'static, io::Result<()>>),
    Ended,
    /// The error was given out; it stays an error.
    Failed(String),
}

impl ChildStream {
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
            State::Reading(running) => running.child.id(),
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
                State::Reading(running) => running.program.clone(),
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
            let before = buf.filled().len();
            if let Err(source) = ready!(Pin::new(&mut this.stdout).poll_read(cx, buf)) {
                return this.fail(io::Error::other(ProcessError::Output { program, source }));
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let State::Reading(mut running) = std::mem::replace(&mut this.state, State::Ended) {
                let then = this.then.take();
                let end = async move {
                    let stderr = running.end().await.map_err(io::Error::other)?;
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

/// A child that is alive, or was when we last looked. Dropping it kills the whole process group.
struct Running {
    program: String,
    child: Child,
    /// A field of its own so that it is closed only after `drop` has killed the child, see [`copy_in`].
    stdin: Option<ChildStdin>,
    stderr: Arc<Mutex<Tail>>,
    stderr_reader: JoinHandle<()>,
}

impl Running {
    fn spawn(command: &Command, stdin: Stdio) -> Result<Self, ProcessError> {
        let program = command.program.file_name().unwrap_or(command.program.as_os_str()).to_string_lossy().into_owned();
        let mut builder = tokio::process::Command::new(&command.program);
        builder.args(&command.args).env_clear().env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            builder.env("PATH", path);
        }
        builder.envs(command.env.iter().map(|(key, value)| (key, value)));
        builder.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = builder.spawn().map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        tracing::debug!(program, args = ?command.args, pid = child.id(), "child process started");
        let stderr = Arc::default();
        let stderr_reader = tokio::spawn(keep_tail(child.stderr.take().expect("stderr was piped"), Arc::clone(&stderr)));
        Ok(Self { program, stdin: child.stdin.take(), child, stderr, stderr_reader })
    }

    async fn feed(&mut self, input: impl AsyncRead + Send + Unpin) -> Result<Output, ProcessError> {
        let stdout = self.child.stdout.take().expect("stdout was piped");
        let copied = {
            let (program, child, stdin) = (&self.program, &mut self.child, &mut self.stdin);
            let copy = async { tokio::try_join!(read_bounded(stdout, program), copy_in(input, stdin, program)) };
            let mut copy = std::pin::pin!(copy);
            tokio::select! {
                biased;
                copied = &mut copy => Some(copied?.0),
                // Without a reader the rest of the input is of use only if the child succeeded.
                status = child.wait() => match status {
                    Ok(status) if status.success() => Some(copy.await?.0),
                    _ => None,
                },
            }
        };
        let stderr = self.end().await?;
        Ok(Output { stdout: copied.unwrap_or_default(), stderr })
    }

    /// Waits for the child's end.
    async fn end(&mut self) -> Result<Stderr, ProcessError> {
        let program = || self.program.clone();
        let status = match self.child.wait().await {
            Ok(status) => status,
            Err(source) => return Err(ProcessError::Output { program: program(), source }),
        };
        if tokio::time::timeout(STDERR_GRACE, &mut self.stderr_reader).await.is_err() {
            self.stderr_reader.abort();
        }
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).to_stderr();
        tracing::debug!(program = self.program, %status, "child process ended");
        if status.success() { Ok(stderr) } else { Err(ProcessError::Failed { program: program(), status, stderr }) }
    }

    fn signal(&self) {
        // An id is there only while the child is not reaped, so that it cannot belong to somebody else.
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    async fn kill(&mut self) {
        self.signal();
        let _ = self.child.wait().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal();
        self.stderr_reader.abort();
    }
}

/// The last [`STDERR_TAIL`] bytes of a stream.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(STDERR_TAIL);
        self.bytes.drain(..surplus);
        self.cut |= surplus > 0;
    }

    fn to_stderr(&self) -> Stderr {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = match text.split_once('\n') {
            Some((_, whole)) if self.cut => whole,
            _ => &text,
        };
        Stderr { lines: text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect() }
    }
}

async fn keep_tail(mut stderr: ChildStderr, tail: Arc<Mutex<Tail>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::ReadBuf;

    fn sh(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    async fn read(script: &str) -> (Vec<u8>, io::Result<()>) {
        let mut stream = sh(script).stream(&CancellationToken::new()).expect("started");
        let mut bytes = Vec::new();
        let result = stream.read_to_end(&mut bytes).await.map(|_| ());
        (bytes, result)
    }

    fn is_alive(pid: u32) -> bool {
        // A zombie has no command line.
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    }

    async fn until_gone(pid: u32) {
        let gone = async {
            while is_alive(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it ends");
    }

    #[tokio::test]
    async fn the_end_comes_after_success_only() {
        let (bytes, result) = read("printf abc").await;
        assert_eq!(bytes, b"abc");
        result.expect("an end");
    }

    #[tokio::test]
    async fn a_nonzero_exit_is_an_error_not_an_end() {
        let (bytes, result) = read("printf abc; echo 'the reason' >&2; exit 3").await;
        assert_eq!(bytes, b"abc");
        assert_eq!(result.expect_err("exit 3").to_string(), "sh failed (exit status: 3): the reason");
    }

    #[tokio::test]
    async fn an_error_stays_an_error() {
        let mut stream = sh("exit 1").stream(&CancellationToken::new()).expect("started");
        for _ in 0..2 {
            stream.read(&mut [0; 8]).await.expect_err("no end after an error");
        }
    }

    #[tokio::test]
    async fn a_signal_is_an_error_not_an_end() {
        let (_, result) = read("printf abc; kill -9 $$").await;
        let error = result.expect_err("killed");
        assert!(matches!(ProcessError::of(&error), Some(ProcessError::Failed { .. })), "{error:?}");
        assert!(error.to_string().contains("signal: 9"), "{error}");
    }

    #[tokio::test]
    async fn a_child_that_closed_its_output_has_not_succeeded_yet() {
        let (_, result) = read("exec 1>&-; sleep 0.2; exit 4").await;
        assert!(result.expect_err("exit 4").to_string().contains("exit status: 4"));
    }

    #[tokio::test]
    async fn any_amount_of_stderr_blocks_nothing_and_its_end_is_kept() {
        let (bytes, result) =
            read("i=0; while [ $i -lt 40000 ]; do echo \"line $i of noise\" >&2; i=$((i+1)); done; printf abc; exit 1").await;
        assert_eq!(bytes, b"abc");
        let error = result.expect_err("exit 1");
        let stderr = ProcessError::of(&error).and_then(ProcessError::stderr).expect("stderr").clone();
        assert_eq!(stderr.lines.last().map(String::as_str), Some("line 39999 of noise"));
        assert!(stderr.lines.iter().all(|l| l.starts_with("line ")), "whole lines only: {:?}", stderr.lines.first());
        assert!(stderr.lines.iter().map(String::len).sum::<usize>() <= STDERR_TAIL);
    }

    #[tokio::test]
    async fn what_follows_success_comes_before_the_end_and_can_refuse_it() {
        let stream = |script: &str| sh(script).stream(&CancellationToken::new()).expect("started");
        let said = Arc::new(Mutex::new(Stderr::default()));
        let keep = Arc::clone(&said);
        let mut good = stream("echo warning >&2").then(move |stderr| {
            *keep.lock().expect("not poisoned") = stderr;
            Box::pin(async { Ok(()) })
        });
        good.read_to_end(&mut Vec::new()).await.expect("an end");
        assert_eq!(said.lock().expect("not poisoned").lines, ["warning"]);
        let mut refused = stream("true").then(|_| Box::pin(async { Err(io::Error::other("no")) }));
        assert_eq!(refused.read_to_end(&mut Vec::new()).await.expect_err("refused").to_string(), "no");
    }

    #[tokio::test]
    async fn dropping_the_stream_kills_the_child_and_its_children() {
        let mut stream = sh("sleep 600 & echo $!; wait").stream(&CancellationToken::new()).expect("started");
        let mut line = [0; 32];
        let length = stream.read(&mut line).await.expect("a pid");
        let grandchild: u32 = std::str::from_utf8(&line[..length]).expect("text").trim().parse().expect("a number");
        let child = stream.pid().expect("it runs");
        assert!(is_alive(child) && is_alive(grandchild));
        drop(stream);
        until_gone(child).await;
        until_gone(grandchild).await;
    }

    #[tokio::test]
    async fn cancellation_kills_and_is_an_error() {
        let cancel = CancellationToken::new();
        let mut stream = sh("sleep 600").stream(&cancel).expect("started");
        let child = stream.pid().expect("it runs");
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let (result, ()) = tokio::join!(read, async { cancel.cancel() });
        assert!(matches!(ProcessError::of(&result.expect_err("cancelled")), Some(ProcessError::Cancelled { .. })));
        until_gone(child).await;
        let running = sh("sleep 600").run(&cancel).await;
        assert!(matches!(running, Err(ProcessError::Cancelled { .. })), "{running:?}");
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let output = sh("env").env("ASKED", "a b").run(&CancellationToken::new()).await.expect("success");
        let text = String::from_utf8(output.stdout).expect("text");
        let keys: std::collections::BTreeSet<_> = text.lines().filter_map(|l| l.split_once('=')).map(|(k, _)| k).collect();
        let expected = ["ASKED", "LC_ALL", "PATH"];
        assert!(expected.iter().all(|k| keys.contains(k)), "{keys:?}");
        // what a shell itself adds
        assert!(keys.iter().all(|k| expected.contains(k) || ["PWD", "SHLVL", "_", "OLDPWD"].contains(k)), "{keys:?}");
    }

    #[tokio::test]
    async fn input_is_fed_and_output_comes_back() {
        let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let output = Command::new("/bin/cat").feed(data.as_slice(), &CancellationToken::new()).await.expect("success");
        assert_eq!(output.stdout, data);
    }

    #[tokio::test]
    async fn a_child_that_stops_reading_and_succeeds_has_succeeded() {
        let data = vec![0; 4 << 20];
        sh("head -c 10 >/dev/null").feed(data.as_slice(), &CancellationToken::new()).await.expect("exit 0");
        let failed = sh("head -c 10 >/dev/null; echo why >&2; exit 1").feed(data.as_slice(), &CancellationToken::new()).await;
        assert_eq!(failed.expect_err("exit 1").to_string(), "sh failed (exit status: 1): why");
    }

    #[tokio::test]
    async fn a_child_that_fails_ends_the_wait_for_its_input() {
        let began = Instant::now();
        let (_open, never) = tokio::io::duplex(1);
        sh("exit 5").feed(never, &CancellationToken::new()).await.expect_err("exit 5");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    /// Gives some bytes, then an error.
    struct Damaged(bool);

    impl AsyncRead for Damaged {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(Err(io::Error::other("damaged")));
            }
            buf.put_slice(b"CREATE TABLE half();");
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn damaged_input_is_the_error_and_the_child_never_sees_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = dir.path().join("committed");
        let script = format!("cat >/dev/null && touch {}", mark.display());
        let error = sh(&script).feed(Damaged(false), &CancellationToken::new()).await.expect_err("damaged");
        assert!(matches!(&error, ProcessError::Input { source, .. } if source.to_string() == "damaged"), "{error:?}");
        assert!(!mark.exists(), "the child took half for all");
    }

    #[test]
    fn what_is_printed_of_a_command_holds_no_environment() {
        let text = format!("{:?}", Command::new("/bin/x").arg("a").env("PGPASSWORD", "s3cret"));
        assert!(text.contains("PGPASSWORD") && !text.contains("s3cret"), "{text}");
    }
}
