//! What can go wrong with Redis.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::rdb::RdbFault;
use crate::secret::SecretError;

/// What went wrong; each variant names action and subject. `at` is `host:port` or a socket's path, never a URL.
#[derive(Debug, Error)]
pub enum RedisError {
    #[error("read the credentials of Redis")]
    Secret(#[source] SecretError),
    #[error("read the address of Redis: {0}")]
    Url(&'static str),
    #[error("read the certificates in {path}")]
    CaFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("connect to Redis at {at}")]
    Connect {
        at: String,
        #[source]
        source: io::Error,
    },
    /// `reply` is only the code word: a server that lacks AUTH repeats the password in its message.
    #[error("sign in to Redis at {at}: {reply}")]
    SignIn { at: String, reply: String },
    #[error("{command} on Redis at {at}")]
    Command {
        at: String,
        command: &'static str,
        #[source]
        source: redis::RedisError,
    },
    #[error("Redis at {at} refuses {command}: {reply}")]
    Refused { at: String, command: &'static str, reply: String },
    #[error("talk to Redis at {at} as its replica")]
    Protocol {
        at: String,
        #[source]
        source: io::Error,
    },
    #[error("Redis at {at} is a member of a Redis Cluster")]
    Cluster { at: String },
    #[error("read Redis at {at}: replication is refused ({reply}), and no rdb_path is set for the BGSAVE way")]
    NoWay { at: String, reply: String },
    #[error("method is bgsave, but rdb_path is not set")]
    NoRdbPath,
    #[error("Redis at {at} agreed to send its RDB, but closed the connection instead")]
    NoRdb { at: String },
    #[error("BGSAVE on Redis at {at} failed: the server says {status}")]
    SaveFailed { at: String, status: String },
    #[error("{path} did not change when Redis at {at} had saved")]
    NotItsFile { at: String, path: PathBuf },
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the backup holds no RDB of this component")]
    NoArtifact,
    #[error("read the backup's RDB")]
    Stored(#[source] io::Error),
    #[error("the backup's RDB is not sound")]
    Damaged(#[source] RdbFault),
    #[error("the backup's RDB has {bytes} bytes, but its manifest says {noted}")]
    Length { bytes: u64, noted: u64 },
    #[error("{server} cannot load RDB version {rdb}, which {wrote} wrote: it reads {reads}")]
    TooNew { server: String, rdb: u32, wrote: String, reads: String },
    #[error("the backup has keys in database {highest}, but Redis at {at} has {databases} databases, from 0 on")]
    Databases { at: String, databases: u32, highest: u32 },
    #[error("the RDB needs the module(s) {modules}, which Redis at {at} has not loaded")]
    Modules { at: String, modules: String },
    #[error("restore into {0}: unknown kind of destination")]
    Destination(String),
    #[error("restore to {0}: it exists already")]
    Exists(PathBuf),
    #[error("restore into Redis at {at}: it is a replica of {master}")]
    Replica { at: String, master: String },
    #[error("restore into Redis at {at}: a Sentinel watches it")]
    Sentinel { at: String },
    #[error("restore into Redis at {at}: it replicates over TLS (tls-replication yes)")]
    TlsReplication { at: String },
    #[error("keep the current content of Redis in {path}")]
    Keep {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen for Redis at {at} on {on}")]
    Listen {
        at: String,
        on: String,
        #[source]
        source: io::Error,
    },
    #[error("Redis at {at} did not fetch the RDB from {from} within {seconds} seconds")]
    Unreached { at: String, from: String, seconds: u64 },
    #[error("send the RDB to Redis at {at}")]
    Send {
        at: String,
        #[source]
        source: io::Error,
    },
    #[error("Redis at {at} did not load the RDB: {reason}")]
    NotLoaded { at: String, reason: String },
    #[error("make Redis at {at} its own master again")]
    NotReset {
        at: String,
        #[source]
        source: Box<RedisError>,
    },
    #[error("give Redis at {at} back what it held before: {kept} is not there, and there is no safety backup")]
    Lost { at: String, kept: PathBuf },
    #[error("read what the journal says of the restore of Redis")]
    Journal(#[source] serde_json::Error),
    #[error("give Redis at {at} back what it held before, which is kept in {kept}")]
    NotGivenBack {
        at: String,
        kept: PathBuf,
        #[source]
        source: Box<RedisError>,
    },
}

impl RedisError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Url(_) => {
                "Write redis://[user[:password]@]host[:port][/db], rediss://… for TLS, or unix:///path; \
                 percent-encode odd characters, or set host, port, username and password instead."
            }
            Self::Connect { .. } => "Check host, port and tls, and that the server runs and listens on that address.",
            Self::SignIn { .. } => "Check username and password; a server with only requirepass takes a password without a username.",
            Self::Refused { reply, .. } if reply.starts_with("NOAUTH") => "The server wants a password: set password (and username).",
            Self::Refused { reply, .. } | Self::NoWay { reply, .. } if reply.starts_with("NOPERM") => {
                "Grant the user what it needs: ACL SETUSER … +ping +info +replconf +psync for a backup by replication, +bgsave with rdb_path; \
                 a live restore also needs +replicaof +config|get +config|set +bgsave +client|list."
            }
            Self::Refused { reply, .. } if reply.starts_with("LOADING") => "The server still loads its data; try again when it has.",
            Self::Refused { reply, .. } if reply.starts_with("NOMASTERLINK") => {
                "This is a replica that lost its master; read the master, or repair the link."
            }
            Self::NoWay { .. } | Self::NoRdbPath => {
                "Allow PSYNC and REPLCONF, or set rdb_path to the server's dump.rdb (mounted where this program can read it) and allow BGSAVE."
            }
            Self::Cluster { .. } => "Redis Cluster is not supported yet: each shard is a server of its own, without a common moment.",
            Self::SaveFailed { .. } | Self::NoRdb { .. } => {
                "Look into the server's log: mostly its disk is full or not writable, or memory cannot be overcommitted."
            }
            Self::NotItsFile { .. } => "Set rdb_path to the file that CONFIG GET dir and CONFIG GET dbfilename name, as seen from here.",
            Self::TooNew { .. } => {
                "Restore into a server at least as new as the one that was backed up, of the same family (Redis or Valkey)."
            }
            Self::Databases { .. } => "Raise `databases` in the server's configuration, and restart it.",
            Self::Modules { .. } => "Load the same modules in the target; without them it would stop on the first unknown value.",
            Self::Destination(_) => "Write redis://… or rediss://… for a running server, or file:///path/dump.rdb for a file.",
            Self::Exists(_) => "Name a file that does not exist yet; nothing is ever overwritten.",
            Self::Replica { .. } => "Restore into its master.",
            Self::Sentinel { .. } => {
                "Sentinel would undo the change of roles: stop monitoring this master (SENTINEL REMOVE), or use --into redis=file:///…"
            }
            Self::TlsReplication { .. } => {
                "Set tls-replication to no for the time of the restore (CONFIG SET tls-replication no), or use --into redis=file:///…"
            }
            Self::Keep { .. } => "Free space there, or set TMPDIR to a directory with room for an RDB of the server's current content.",
            Self::Unreached { .. } | Self::Listen { .. } => {
                "A live restore has the server connect back to this program: run it in the same network, open the way, \
                 or use --into redis=file:///path/dump.rdb and give that file to the server."
            }
            Self::NotReset { .. } => "Send REPLICAOF NO ONE to the server by hand.",
            Self::Lost { .. } => {
                "Run it on the host, or with the volumes, of the restore that was killed; or go forward with `restore --resume`."
            }
            Self::NotGivenBack { .. } => {
                "Look into the server's log, then stop it, put that file in the place of its dump.rdb (with appendonly yes: of its AOF's base), \
                 and start it again."
            }
            Self::Damaged(_) => "Take another backup; nothing was changed.",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
