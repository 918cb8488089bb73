//! One connection: a child `ssh` that speaks SFTP on its pipes, and what the server at its other end can do.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::Error;
use object_store::path::Path;
use russh_sftp::client::error::Error as ProtocolError;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::extensions;
use russh_sftp::protocol::{Status, StatusCode};
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::super::client::CONNECT_TIMEOUT;
use super::super::error::Refusal;
use super::{ANSWER, ASKED_BY, FORCE, SftpCredentials, SftpOptions, SftpPlace};
use crate::process::{Command, Daemon, ProcessError};
use crate::secret::SecretError;

/// Where Debian, Red Hat, Alpine and Arch put it.
const SSH: &str = "/usr/bin/ssh";

/// A server that says nothing for four times as long is taken for gone, by ssh itself.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long the answer to a small request is waited for, and how long to one that stands in line with many bytes.
pub(super) const SMALL_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(180);

/// How long the end of an ssh whose pipe has closed, or makes no sense, is waited for.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// OpenSSH's extension that replaces what is there, as rename(2) does. russh-sftp has no name for it.
const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// Bytes of one read or write: every server takes a packet of 34000 bytes, and those that tell their limits most often one of 256 KiB.
/// <https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02#section-3>
const SAFE_CHUNK: u64 = 32 << 10;
const LARGEST_CHUNK: u64 = 128 << 10;

/// Bytes that are written at once: as much as ssh lets a channel have.
const ON_THE_WAY: u64 = 2 << 20;

/// What ssh says where to try again would bring the same answer.
const NO_ENTRY: [&str; 10] = [
    "Permission denied",
    "Host key verification failed",
    "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "Too many authentication failures",
    "no matching",
    "No supported authentication methods",
    "subsystem request failed",
    "Bad configuration option",
    "bad permissions",
    "No user exists for uid",
];

/// Why a request came to nothing.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The server said no.
    Refused(Status),
    /// There is no connection any more, or none could be made: another may do better.
    Lost(String),
    /// Nor would another.
    NoEntry(String),
}

impl Failure {
    pub(super) fn is(&self, code: StatusCode) -> bool {
        matches!(self, Self::Refused(status) if status.status_code == code)
    }

    /// Whether the server refused, and the protocol has no word for why.
    pub(super) fn is_unnamed(&self) -> bool {
        self.is(StatusCode::Failure)
    }

    /// For object_store.
    pub(super) fn of(self, key: &Path) -> Error {
        let path = key.to_string();
        match self {
            Self::Refused(status) => {
                let source = Refusal(format!("the server answered {} (status code {})", said(&status), status.status_code as u32)).into();
                match status.status_code {
                    StatusCode::NoSuchFile => Error::NotFound { path, source },
                    StatusCode::PermissionDenied => Error::PermissionDenied { path, source },
                    _ => Error::Generic { store: STORE, source },
                }
            }
            Self::Lost(why) => failed(why),
            Self::NoEntry(why) => failed(Refusal(why)),
        }
    }
}

pub(super) const STORE: &str = "SFTP";

pub(super) fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: STORE, source: source.into() }
}

/// In the server's words, which may be none.
fn said(status: &Status) -> String {
    let line = status.error_message.lines().next().unwrap_or_default().trim();
    if line.is_empty() { status.status_code.to_string() } else { line.to_owned() }
}

/// How ssh is called. The password, if there is one, is in its environment.
///
/// # Errors
/// When the password cannot be read.
pub(super) fn command(place: &SftpPlace, options: &SftpOptions) -> Result<Command, SecretError> {
    // what is below an error, such as a banner, would be taken for the reason
    let mut ssh = Command::new(SSH).args(["-T", "-x", "-a", "-o", "LogLevel=ERROR"]);
    let alive = ALIVE_INTERVAL.as_secs();
    // a master that outlives us would hold our pipes; what the user's configuration says of these would be heeded otherwise
    for option in ["ControlMaster=no", "ControlPath=none", "ClearAllForwardings=yes", "PermitLocalCommand=no", "RemoteCommand=none"] {
        ssh = ssh.args(["-o", option]);
    }
    // whoever answers is known, or is told nothing
    ssh = ssh.args(["-o", "StrictHostKeyChecking=yes"]);
    ssh = ssh.args(["-o".to_owned(), format!("ConnectTimeout={}", CONNECT_TIMEOUT.as_secs())]);
    ssh = ssh.args(["-o".to_owned(), format!("ServerAliveInterval={alive}"), "-o".to_owned(), "ServerAliveCountMax=4".to_owned()]);
    if let Some(file) = &options.known_hosts_file {
        ssh = ssh.arg("-o").arg(file_option("UserKnownHostsFile", file));
    }
    ssh = match &options.credentials {
        SftpCredentials::Ambient => {
            let agent = options.agent.iter().map(|agent| ("SSH_AUTH_SOCK", agent.as_os_str()));
            ssh.args(["-o", "BatchMode=yes"]).envs(agent)
        }
        SftpCredentials::Identity(file) => {
            ssh.args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o"]).arg(file_option("IdentityFile", file))
        }
        SftpCredentials::Password(password) => {
            let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/local/bin/backstay"));
            ssh.args(["-o", "BatchMode=no", "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"])
                .args(["-o", "PreferredAuthentications=password,keyboard-interactive"])
                .env("SSH_ASKPASS", program)
                .env(FORCE.0, FORCE.1)
                .env(ANSWER, password.reveal()?.expose())
                .env(ASKED_BY, std::process::id().to_string())
        }
    };
    if let Some(user) = &place.user {
        ssh = ssh.args(["-l", user]);
    }
    if let Some(port) = place.port {
        ssh = ssh.args(["-p".to_owned(), port.to_string()]);
    }
    Ok(ssh.args(["-s", "--", &place.host, "sftp"]))
}

/// An option with the name of a file, in which ssh_config(5) gives quotes and `%` a meaning.
fn file_option(name: &str, file: &FilePath) -> OsString {
    let mut option = OsString::from(format!("{name}=\"")).into_vec();
    for byte in file.as_os_str().as_bytes() {
        match byte {
            b'%' => option.extend(b"%%"),
            b'"' | b'\\' => option.extend([b'\\', *byte]),
            byte => option.push(*byte),
        }
    }
    option.push(b'"');
    OsStr::from_bytes(&option).to_owned()
}

/// What a server can do besides the protocol.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Abilities {
    pub(super) hardlink: bool,
    pub(super) posix_rename: bool,
    pub(super) fsync: bool,
    pub(super) statvfs: bool,
}

/// A connection that was made.
pub(super) struct Session {
    protocol: RawSftpSession,
    pub(super) can: Abilities,
    /// Bytes of one read or write.
    pub(super) chunk: u64,
    /// One permit a chunk that is being written.
    pub(super) room: Semaphore,
    ssh: Mutex<Daemon>,
    /// Empty, if ssh has found nothing to complain of, or lives.
    last_words: OnceCell<String>,
    lost: AtomicBool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("can", &self.can).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) async fn open(ssh: Command) -> Result<Self, Failure> {
        let (ssh, stdin, stdout) = ssh.converse().await.map_err(|error| match error {
            ProcessError::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Failure::NoEntry(format!("there is no {SSH}"))
            }
            other => Failure::Lost(crate::chain::describe(&other)),
        })?;
        // each request has a limit of its own here
        let config = Config { request_timeout_secs: u64::from(u32::MAX), ..Config::default() };
        let mut session = Self {
            protocol: RawSftpSession::new_with_config(tokio::io::join(stdout, stdin), config),
            can: Abilities::default(),
            chunk: SAFE_CHUNK,
            room: Semaphore::new(1),
            ssh: Mutex::new(ssh),
            last_words: OnceCell::new(),
            lost: AtomicBool::new(false),
        };
        let version = match session.ask(session.protocol.init()).await {
            // ssh has brought us there, or it would complain
            Err(Failure::Lost(_)) if session.last_words.get().is_some_and(String::is_empty) => {
                return Err(Failure::NoEntry("what answers there does not speak SFTP".into()));
            }
            version => version?,
        };
        let can = |name: &str| version.extensions.contains_key(name);
        session.can = Abilities {
            hardlink: can(extensions::HARDLINK),
            posix_rename: can(POSIX_RENAME),
            fsync: can(extensions::FSYNC),
            statvfs: can(extensions::STATVFS),
        };
        if can(extensions::LIMITS) {
            let limits = session.ask(session.protocol.limits()).await?;
            let told = [limits.max_read_len, limits.max_write_len].into_iter().filter(|limit| *limit > 0).min();
            session.chunk = told.unwrap_or(SAFE_CHUNK).min(LARGEST_CHUNK);
        }
        session.room = Semaphore::new((ON_THE_WAY / session.chunk) as usize);
        tracing::debug!(can = ?session.can, chunk = session.chunk, "an SFTP session has begun");
        Ok(session)
    }

    pub(super) fn protocol(&self) -> &RawSftpSession {
        &self.protocol
    }

    /// Whether another is needed.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits for the answer to a small request.
    pub(super) async fn ask<T>(&self, request: impl Future<Output = Result<T, ProtocolError>>) -> Result<T, Failure> {
        self.within(SMALL_TIMEOUT, async { self.understand(request.await).await }).await
    }

    /// Takes a server that has not answered all of `work` in time for gone.
    pub(super) async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let silent = |_| {
            self.lost.store(true, Ordering::Relaxed);
            Err(Failure::Lost(format!("the server has not answered for {} seconds", limit.as_secs())))
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(silent)
    }

    /// What an answer means, to a request that may take as long as it likes.
    pub(super) async fn understand<T>(&self, answer: Result<T, ProtocolError>) -> Result<T, Failure> {
        match answer {
            Ok(answer) => Ok(answer),
            Err(ProtocolError::Status(status)) => Err(Failure::Refused(status)),
            Err(error) => {
                self.lost.store(true, Ordering::Relaxed);
                Err(self.lost(&error).await)
            }
        }
    }

    /// What ssh says of it says more than a pipe that has closed.
    async fn lost(&self, error: &ProtocolError) -> Failure {
        let words = self.last_words.get_or_init(async || {
            match tokio::time::timeout(LAST_WORDS, async { self.ssh.lock().await.ended().await }).await {
                Ok(Err(ProcessError::Failed { stderr, status, .. })) if stderr.lines.is_empty() => match status.code() {
                    Some(_) => String::new(),
                    None => format!("it ended ({status})"),
                },
                Ok(Err(ProcessError::Failed { stderr, .. })) => stderr.to_string(),
                Ok(Err(other)) => crate::chain::describe(&other),
                Ok(Ok(_)) | Err(_) => String::new(),
            }
        });
        let words = words.await;
        if words.is_empty() {
            return Failure::Lost(format!("the connection was lost: {error}"));
        }
        // what a server has its banner say may stand before
        let (at, _) = words.rmatch_indices("; ").nth(1).unwrap_or_default();
        let failure = if NO_ENTRY.iter().any(|text| words[at..].contains(text)) { Failure::NoEntry } else { Failure::Lost };
        failure(format!("ssh: {}", words.trim_start_matches("ssh: ")))
    }

    /// Gives a file another name, and replaces what has it.
    pub(super) async fn posix_rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let mut data = Vec::new();
        for path in [from, to] {
            data.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend(path.as_bytes());
        }
        let answer = async {
            match self.protocol.extended(POSIX_RENAME, data).await? {
                russh_sftp::protocol::Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
                russh_sftp::protocol::Packet::Status(status) => Err(ProtocolError::Status(status)),
                _ => Err(ProtocolError::UnexpectedPacket),
            }
        };
        self.ask(answer).await
    }
}

/// The connection of a target, made when it is needed, and anew when it is lost.
#[derive(Debug)]
pub(super) struct Connection {
    ssh: Command,
    session: Mutex<Option<Arc<Session>>>,
}

impl Connection {
    pub(super) fn new(ssh: Command) -> Self {
        Self { ssh, session: Mutex::new(None) }
    }

    pub(super) async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| !session.is_lost()) {
            return Ok(session.clone());
        }
        // the one before, whose ssh may hang, is killed with the last of those who use it
        *session = None;
        Ok(session.insert(Arc::new(Session::open(self.ssh.clone()).await?)).clone())
    }
}
