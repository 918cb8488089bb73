//! A PostgreSQL server of our own, for as long as a drill takes: made by `initdb`, reached over a Unix socket in a directory of ours only,
//! with a password that nobody else knows, and careless about a crash, since it holds copies.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::DrillError;
use super::place::{Place, unprivileged};
use crate::component::postgres::{Binary, Contents, Tool};
use crate::process::{Command, Daemon, User};

/// For the server to come up: it has nothing to recover.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// For an immediate shutdown, which waits for nobody.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// An empty server, its log of writes, and what sorting for indexes takes, in bytes.
const OWN_BYTES: u64 = 1 << 30;

/// Least that is served at once; a restore takes a few.
const CONNECTIONS: u32 = 30;

/// A running server, and where it lives.
pub struct Server {
    place: Place,
    daemon: Daemon,
    password: String,
    /// As the program says it.
    pub version: String,
}

impl Server {
    /// Starts one that can take `contents`: of the same major version as the server that was backed up, else of the next newer one.
    ///
    /// # Errors
    /// [`DrillError::NoServer`] when none is installed, [`DrillError::Space`], [`DrillError::Start`].
    pub async fn start(contents: &Contents, cancel: &CancellationToken) -> Result<Self, DrillError> {
        let wanted = contents.server.unwrap_or_default();
        let binary =
            Tool::Postgres.find(wanted).await.map_err(|_| DrillError::NoServer { what: format!("PostgreSQL {wanted} or newer") })?;
        let owner = unprivileged(&["postgres"]);
        if owner.is_none() && geteuid().is_root() {
            return Err(DrillError::Root);
        }
        let place = Place::make(needed(contents), owner).await?;
        match launch(&binary, &place, owner, cancel).await {
            Ok((daemon, password)) => Ok(Self { place, daemon, password, version: binary.version }),
            Err(error) => {
                place.remove().await?;
                Err(error)
            }
        }
    }

    /// In the words of `--into`.
    pub fn url(&self) -> String {
        let directory =
            percent_encoding::utf8_percent_encode(&self.place.path().to_string_lossy(), percent_encoding::NON_ALPHANUMERIC).to_string();
        format!("postgres://{SUPERUSER}:{}@/?host={directory}&port={PORT}", self.password)
    }

    /// Stops it and removes all that it was.
    ///
    /// # Errors
    /// [`DrillError::Place`] names what is left.
    pub async fn stop(self) -> Result<(), DrillError> {
        // an immediate shutdown gives back shared memory, which a kill would leave
        self.daemon.stop(Signal::QUIT, STOPS_WITHIN).await;
        self.place.remove().await
    }
}

/// The usual name: what a backup says of a role that exists is left out.
const SUPERUSER: &str = "postgres";
/// Of the socket's name only.
const PORT: u16 = 5432;

async fn launch(binary: &Binary, place: &Place, owner: Option<User>, cancel: &CancellationToken) -> Result<(Daemon, String), DrillError> {
    let failed = |source| DrillError::Start { what: format!("PostgreSQL {}", binary.version), source };
    let directory = place.path();
    let data = directory.join("data");
    let password = format!("{:032x}", rand::random::<u128>());
    let password_file = directory.join("password");
    write_for(&password_file, &password, owner).map_err(|source| DrillError::Place {
        action: "write into",
        path: directory.to_owned(),
        source,
    })?;
    let initdb = Command::new(binary.path.with_file_name("initdb"))
        .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", SUPERUSER, "--pwfile"])
        .arg(&password_file)
        .arg("--pgdata")
        .arg(&data);
    initdb.user(owner).directory(directory).run(cancel).await.map_err(failed)?;
    let _ = std::fs::remove_file(&password_file);

    let mut command = binary.command().arg("-D").arg(&data).user(owner).directory(directory);
    for setting in [
        "listen_addresses=",
        &format!("unix_socket_directories={}", directory.display()),
        "unix_socket_permissions=0700",
        &format!("port={PORT}"),
        &format!("max_connections={CONNECTIONS}"),
        // a schema of many tables is loaded in one transaction
        "max_locks_per_transaction=1024",
        // it is never to survive a crash
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "wal_level=minimal",
        "max_wal_senders=0",
        "max_wal_size=512MB",
        "autovacuum=off",
        // in its own directory, which goes with it
        "dynamic_shared_memory_type=mmap",
        "logging_collector=off",
        "jit=off",
    ] {
        command = command.arg("-c").arg(setting);
    }
    let mut daemon = command.serve().await.map_err(failed)?;
    let up = async {
        let deadline = Instant::now() + STARTS_WITHIN;
        while !is_ready(&data) {
            if Instant::now() >= deadline {
                return Err(DrillError::Slow { what: format!("PostgreSQL {}", binary.version), seconds: STARTS_WITHIN.as_secs() });
            }
            sleep(POLL).await;
        }
        Ok(())
    };
    let up = tokio::select! {
        up = up => up,
        ended = daemon.ended() => return Err(match ended {
            Ok(_) => DrillError::Ended { what: format!("PostgreSQL {}", binary.version) },
            Err(source) => failed(source),
        }),
        () = cancel.cancelled() => Err(DrillError::Cancelled),
    };
    match up {
        Ok(()) => Ok((daemon, password)),
        Err(error) => {
            daemon.stop(Signal::QUIT, STOPS_WITHIN).await;
            Err(error)
        }
    }
}

/// The eighth line of `postmaster.pid` says `ready` (`LOCK_FILE_LINE_PM_STATUS` in PostgreSQL's `pidfile.h`), which is what `pg_ctl` waits for.
fn is_ready(data: &Path) -> bool {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(7).is_some_and(|line| line.trim() == "ready")
}

/// A file that only its owner may read.
fn write_for(path: &Path, text: &str, owner: Option<User>) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, fchown};
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    match owner {
        Some(owner) => fchown(&file, Some(owner.uid), Some(owner.gid)),
        None => Ok(()),
    }
}

/// Bytes that it takes on disk: the databases as they were, or the archives with room for indexes; sorting may take as much as the largest
/// index again.
fn needed(contents: &Contents) -> u64 {
    let of = |database: &crate::component::postgres::DatabaseContents| {
        let archives = database.main.raw_bytes + database.data.iter().map(|artifact| artifact.raw_bytes).sum::<u64>();
        database.facts.size_bytes.unwrap_or(archives.saturating_mul(2))
    };
    let databases: u64 = contents.databases.iter().map(of).fold(0, u64::saturating_add);
    OWN_BYTES.saturating_add(databases.saturating_add(databases / 4))
}
