//! A child process that runs: started in a group of its own, fed, waited for, killed.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use super::stderr::{Tail, keep_tail};
use super::{Command, Output, ProcessError, Stderr};

/// Most bytes of stdout that [`Command::run`] and [`Command::feed`] take.
pub(super) const MAX_OUTPUT: u64 = 16 << 20;

/// How long a grandchild may hold stderr open after the child itself has ended.
const STDERR_GRACE: Duration = Duration::from_secs(2);

/// A child that is alive, or was when we last looked. Dropping it kills the whole process group.
pub(super) struct Child {
    pub(super) program: String,
    process: tokio::process::Child,
    /// A field of its own so that it is closed only after `drop` has killed the child, see [`copy_in`].
    stdin: Option<ChildStdin>,
    stderr: Arc<Mutex<Tail>>,
    stderr_reader: JoinHandle<()>,
}

impl Child {
    pub(super) fn spawn(command: &Command, stdin: Stdio, stdout: Stdio) -> Result<Self, ProcessError> {
        let program = command.program.file_name().unwrap_or(command.program.as_os_str()).to_string_lossy().into_owned();
        let mut builder = match &command.wrapper {
            None => tokio::process::Command::new(&command.program),
            Some((wrapper, args)) => {
                let mut builder = tokio::process::Command::new(wrapper);
                builder.args(*args).arg(&command.program);
                builder
            }
        };
        builder.args(&command.args).env_clear().env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            builder.env("PATH", path);
        }
        builder.envs(command.env.iter().map(|(key, value)| (key, value)));
        if let Some(user) = command.user {
            builder.uid(user.uid).gid(user.gid);
        }
        if let Some(directory) = &command.directory {
            builder.current_dir(directory);
        }
        builder.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut process = builder.spawn().map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        tracing::debug!(program, args = ?command.args, pid = process.id(), "child process started");
        let stderr = Arc::default();
        let stderr_reader = tokio::spawn(keep_tail(process.stderr.take().expect("stderr was piped"), Arc::clone(&stderr)));
        Ok(Self { program, stdin: process.stdin.take(), process, stderr, stderr_reader })
    }

    /// Of the process, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// To be called once, of a child whose stdout is piped.
    pub(super) fn take_stdout(&mut self) -> ChildStdout {
        self.process.stdout.take().expect("stdout was piped")
    }

    /// To be called once, of a child whose stdin is piped and that is not fed.
    pub(super) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("stdin was piped")
    }

    pub(super) async fn feed(&mut self, input: impl AsyncRead + Send + Unpin) -> Result<Output, ProcessError> {
        let stdout = self.take_stdout();
        let copied = {
            let (program, process, stdin) = (&self.program, &mut self.process, &mut self.stdin);
            let copy = async { tokio::try_join!(read_bounded(stdout, program), copy_in(input, stdin, program)) };
            let mut copy = std::pin::pin!(copy);
            tokio::select! {
                biased;
                copied = &mut copy => Some(copied?.0),
                // Without a reader the rest of the input is of use only if the child succeeded.
                status = process.wait() => match status {
                    Ok(status) if status.success() => Some(copy.await?.0),
                    _ => None,
                },
            }
        };
        let stderr = self.end().await?;
        Ok(Output { stdout: copied.unwrap_or_default(), stderr })
    }

    /// Waits for the child's end.
    pub(super) async fn end(&mut self) -> Result<Stderr, ProcessError> {
        let program = || self.program.clone();
        let status = match self.process.wait().await {
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

    fn pid(&self) -> Option<Pid> {
        // An id is there only while the child is not reaped, so that it cannot belong to somebody else.
        self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }

    fn signal(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Asks the child itself, not its group: a server tells its own processes what to do.
    pub(super) fn ask(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }

    pub(super) async fn kill(&mut self) {
        self.signal();
        let _ = self.process.wait().await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal();
        self.stderr_reader.abort();
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
