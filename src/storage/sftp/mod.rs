//! A target in a folder of an SFTP server (draft-ietf-secsh-filexfer-02, with OpenSSH's extensions).
//!
//! The connection is made by the system's `ssh`: its known hosts, keys, agents, jump hosts and algorithms are what operators have set up and
//! know how to mend. Everything is written under a name of its own, flushed to the server's disk where the server can, looked at, and then
//! moved to where it belongs; create-only is a link, which never replaces. The connection is a build feature, `sftp`; what a target is
//! named is understood without it.

#[cfg(feature = "sftp")]
mod file;
mod place;
#[cfg(feature = "sftp")]
mod requests;
#[cfg(feature = "sftp")]
mod session;
#[cfg(feature = "sftp")]
mod store;
#[cfg(feature = "sftp")]
mod upload;

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;

use super::error::StorageError;
use super::folders::Folders;
use crate::name::TargetName;
use crate::secret::Secret;

pub use place::SftpPlace;

/// The keys of a target on an SFTP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SftpOptions {
    pub credentials: SftpCredentials,
    /// Whom to trust; `None`: whom ssh trusts.
    pub known_hosts_file: Option<PathBuf>,
    /// Socket of the agent, for keys that ssh finds itself.
    pub agent: Option<PathBuf>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SftpCredentials {
    /// The keys that ssh finds by itself: those of its configuration, of the agent, of `~/.ssh`.
    #[default]
    Ambient,
    /// A private key.
    Identity(PathBuf),
    Password(Secret),
}

/// The variable by which ssh, when it asks for a password, gets it from this program. See [`answer`].
const ANSWER: &str = "BACKSTAY_ANSWER_TO_SSH";

/// What makes ssh ask a program, and not a terminal. It hands its environment on.
const FORCE: (&str, &str) = ("SSH_ASKPASS_REQUIRE", "force");

/// The process whose own ssh may ask.
const ASKED_BY: &str = "BACKSTAY_ASKED_BY";

/// Whether it is ssh that has started this program (`SSH_ASKPASS`), with its question alone.
pub fn is_asked(arguments: &[std::ffi::OsString]) -> bool {
    let is = |(name, value): (&str, &str)| std::env::var(name).is_ok_and(|found| found == value);
    arguments.len() == 2 && is(FORCE) && std::env::var_os(ANSWER).is_some() && std::env::var_os(ASKED_BY).is_some()
}

/// What ssh is to be told. `None`: it is not the ssh that speaks with the server, but one that it has started itself, for a jump host, whose
/// business the password is not.
pub fn answer() -> Option<String> {
    let ssh = rustix::process::getppid()?.as_raw_nonzero();
    // proc_pid_stat(5): the name of a program may hold anything but ends with the last bracket; the state, and the parent, come behind
    let stat = std::fs::read_to_string(format!("/proc/{ssh}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let parent = fields.split_whitespace().nth(1)?;
    if std::env::var(ASKED_BY).is_ok_and(|pid| pid == parent) { std::env::var(ANSWER).ok() } else { None }
}

/// A store, and the folders in it.
type Opened = (Arc<dyn ObjectStore>, Arc<dyn Folders>);

/// No connection is made yet.
#[cfg(feature = "sftp")]
pub(super) fn open(target: &TargetName, place: &SftpPlace, options: &SftpOptions) -> Result<Opened, StorageError> {
    let store = store::Sftp::new(target, place, options)?;
    let folders = store.folders();
    Ok((Arc::new(store), folders))
}

/// Refuses: this build has no SFTP.
#[cfg(not(feature = "sftp"))]
pub(super) fn open(target: &TargetName, _: &SftpPlace, _: &SftpOptions) -> Result<Opened, StorageError> {
    Err(StorageError::Setup { target: target.clone(), source: "this program was built without the feature `sftp`".into() })
}
