//! PostgreSQL servers.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::ports::Port;
use super::process::{Process, bound_to_test, output, run};
use super::scratch::{Scratch, Unprivileged};
use super::tls::Authority;
use super::tools;

/// The superuser's password, with what configuration layers like to stumble over.
pub const PASSWORD: &str = "0pg $ecret='\"#%@:/1e10";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Major {
    V15,
    V16,
    V17,
    V18,
}

impl Major {
    pub const ALL: [Self; 4] = [Self::V15, Self::V16, Self::V17, Self::V18];

    pub fn number(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The folder of this major's server and clients.
    pub fn bin_dir(self) -> PathBuf {
        match self {
            Self::V15 => tools::of_debian("/usr/lib/postgresql/15/bin"),
            other => tools::installed(format!("postgres-{}/bin", other.number())),
        }
    }
}

/// A server that answers nothing, for as long as this lives.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Postgres);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal_all(Signal::CONT);
    }
}

/// A running PostgreSQL whose superuser is `postgres` with [`PASSWORD`]; local connections over its socket need none.
#[derive(Debug)]
pub struct Postgres {
    major: Major,
    process: Process,
    port: Port,
    scratch: Scratch,
    settings: Vec<(String, String)>,
}

impl Postgres {
    pub fn start(major: Major) -> Self {
        Self::start_with(major, &[])
    }

    /// With settings of `postgresql.conf`. `fsync` is off unless they say otherwise.
    pub fn start_with(major: Major, settings: &[(&str, &str)]) -> Self {
        Self::start_from(&template(major), major, settings)
    }

    /// PostgreSQL 15 with the database `regression`, as PostgreSQL's own tests leave it: every type and kind of object that there is.
    pub fn start_regression() -> Self {
        let server = Self::start_from(&tools::installed("regression-15/data"), Major::V15, &[]);
        server.psql(&format!("ALTER ROLE postgres PASSWORD '{}'", PASSWORD.replace('\'', "''")));
        server
    }

    fn start_from(template: &Path, major: Major, settings: &[(&str, &str)]) -> Self {
        let scratch = Scratch::unprivileged();
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template).arg(scratch.join("data")));
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let port = Port::free();
        let process = spawn(major, &scratch, &port, &settings);
        Self { major, process, port, scratch, settings }
    }

    /// With TLS, a certificate of `authority`. Only Debian's is built with it, hence no choice of a major.
    pub fn start_tls(authority: &Authority) -> Self {
        let mut server = Self::start(Major::V15);
        server.stop();
        let data = server.scratch.join("data");
        authority.install(&data);
        let key = data.join("server.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        if let Some(user) = Unprivileged::get() {
            chown(&key, Some(user.uid), Some(user.gid)).expect("chown");
        }
        server.settings.extend([("ssl", "on"), ("ssl_cert_file", "server.pem")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), hba).expect("write pg_hba.conf");
        server.start_again();
        server
    }

    /// A hot standby of this server.
    pub fn standby(&self) -> Self {
        let scratch = Scratch::unprivileged();
        let mut command = Unprivileged::command(self.bin("pg_basebackup"));
        command.arg("-h").arg(self.socket_dir()).args(["-p", &self.port().to_string(), "-U", "postgres", "-c", "fast", "-R", "-D"]);
        run(command.current_dir(scratch.path()).arg(scratch.join("data")));
        let (port, settings) = (Port::free(), self.settings.clone());
        let process = spawn(self.major, &scratch, &port, &settings);
        Self { major: self.major, process, port, scratch, settings }
    }

    pub fn major(&self) -> Major {
        self.major
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Stops the server and all that serves for it, without closing anything, until the answer is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        // the postmaster first: it starts no more then
        self.signal_all(Signal::STOP);
        Frozen(self)
    }

    fn signal_all(&self, signal: Signal) {
        self.process.signal(signal);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).expect("its children");
        for pid in children.split_whitespace() {
            let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a process");
            // one that has just ended needs none
            let _ = kill_process(pid, signal);
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Folder of the unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.scratch.path()
    }

    /// `postgres://…` of the superuser, over TCP.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", PASSWORD, database)
    }

    /// `postgres://…` of any user, over TCP.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        format!("postgres://{}:{}@127.0.0.1:{}/{}", encode(user), encode(password), self.port(), encode(database))
    }

    /// A client or server program of this server's major.
    pub fn bin(&self, program: &str) -> PathBuf {
        self.major.bin_dir().join(program)
    }

    /// One of its client programs, set up to connect as the superuser.
    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin(program));
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PG")) {
            command.env_remove(key);
        }
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port().to_string()).env("PGUSER", "postgres");
        command.env("PGDATABASE", database).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs SQL in the database `postgres`; rows come back as lines, columns split by `|`.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|e| panic!("psql in {database}: {e}\n{sql:.500}"))
    }

    /// As [`Self::psql_in`]; an error is what psql said.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let script = tempfile::NamedTempFile::new().expect("create a script");
        std::fs::write(script.path(), sql).expect("write a script");
        let mut psql = self.client("psql", database);
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--file"]).arg(script.path());
        let output = output(&mut psql);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub fn create_database(&self, name: &str) {
        self.psql(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    }

    /// The names of all databases, sorted.
    pub fn databases(&self) -> Vec<String> {
        self.psql("SELECT datname FROM pg_database ORDER BY datname COLLATE \"C\"").lines().map(str::to_owned).collect()
    }

    /// Ends the server at once, as a crash would; its data stays, for [`Self::start_again`].
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// After [`Self::stop`], on the same port.
    pub fn start_again(&mut self) {
        self.process = spawn(self.major, &self.scratch, &self.port, &self.settings);
    }
}

fn spawn(major: Major, scratch: &Scratch, port: &Port, settings: &Vec<(String, String)>) -> Process {
    let data = scratch.join("data");
    let pid_file = data.join("postmaster.pid");
    let _ = std::fs::remove_file(&pid_file);
    let mut command = Unprivileged::command(major.bin_dir().join("postgres"));
    command.current_dir(scratch.path()).arg("-D").arg(&data).arg("-k").arg(scratch.path()).args(["-p", &port.number().to_string()]);
    for setting in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=32MB", "logging_collector=off", "log_destination=stderr"] {
        command.args(["-c", setting]);
    }
    for (key, value) in settings {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    let command = bound_to_test(command, "QUIT");
    let mut process = Process::spawn(&format!("PostgreSQL {}", major.number()), command, &scratch.join("log"), Signal::QUIT);
    // the last line of the pid file says when it takes connections
    let takes = |line: &str| matches!(line.trim(), "ready" | "standby");
    process.wait_until(|| std::fs::read_to_string(&pid_file).is_ok_and(|text| text.lines().nth(7).is_some_and(takes)));
    process
}

/// A freshly made data directory of this major, made once and then copied.
fn template(major: Major) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(cache).expect("create the cache");
    let template = cache.join(format!("postgres-{}", major.number()));
    let lock = File::create(cache.join(format!("postgres-{}.lock", major.number()))).expect("create a lock");
    lock.lock().expect("lock");
    if template.exists() {
        return template;
    }
    let scratch = Scratch::unprivileged();
    let password = scratch.join("password");
    std::fs::write(&password, PASSWORD).expect("write the password");
    let mut initdb = Unprivileged::command(major.bin_dir().join("initdb"));
    initdb.current_dir(scratch.path()).arg("-D").arg(scratch.join("data")).arg(format!("--pwfile={}", password.display()));
    initdb.args([
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]);
    run(&mut initdb);
    let half = cache.join(format!("postgres-{}.half", major.number()));
    let _ = std::fs::remove_dir_all(&half);
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(scratch.join("data")).arg(&half));
    std::fs::rename(half, &template).expect("rename the template");
    template
}
