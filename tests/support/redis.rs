//! Redis servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::ports::Port;
use super::process::{Process, bound_to_test, run};
use super::scratch::Scratch;
use super::tls::Authority;
use super::tools;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types, reason = "V7_0 reads as the version that it is")]
pub enum Version {
    V6_2,
    V7_0,
    V8_2,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::V6_2, Self::V7_0, Self::V8_2];

    pub fn server(self) -> PathBuf {
        match self {
            Self::V6_2 => tools::installed("redis-6.2/redis-server"),
            Self::V7_0 => tools::of_debian("/usr/bin/redis-server"),
            Self::V8_2 => tools::installed("redis-8.2/redis-server"),
        }
    }
}

/// A running Redis that saves nothing by itself, in a directory of its own.
#[derive(Debug)]
pub struct Redis {
    version: Version,
    process: Process,
    port: Port,
    scratch: Scratch,
    args: Vec<String>,
    password: Option<String>,
    ca: Option<PathBuf>,
}

impl Redis {
    /// With further arguments of `redis-server`. A `--requirepass` among them is known to the methods here.
    pub fn start(version: Version, args: &[&str]) -> Self {
        Self::start_in(version, Scratch::new(), args)
    }

    /// In a directory that holds files already (a `dump.rdb`, an `appendonlydir`).
    pub fn start_in(version: Version, scratch: Scratch, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        Self::launch(version, scratch, args, None)
    }

    /// With TLS only, a certificate of `authority`. Debian's is built with it.
    pub fn start_tls(authority: &Authority, args: &[&str]) -> Self {
        let scratch = Scratch::new();
        authority.install(scratch.path());
        let tls =
            "--tls-cert-file server.pem --tls-key-file server.key --tls-ca-cert-file ca.pem --tls-auth-clients no --tls-replication yes";
        let args = tls.split(' ').chain(args.iter().copied()).map(str::to_owned).collect();
        Self::launch(Version::V7_0, scratch, args, Some(authority.ca()))
    }

    fn launch(version: Version, scratch: Scratch, args: Vec<String>, ca: Option<PathBuf>) -> Self {
        let port = Port::free();
        let password = args.iter().position(|a| a == "--requirepass").map(|at| args[at + 1].clone());
        let process = spawn(version, &scratch, &port, &args, ca.is_some());
        Self { version, process, port, scratch, args, password, ca }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its working directory, where `dump.rdb` and `appendonlydir` go.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// `redis://…`, with the password if there is one; `rediss://…` with TLS.
    pub fn url(&self) -> String {
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let user = self.password.as_deref().map(|p| format!(":{}@", encode(p))).unwrap_or_default();
        let scheme = if self.ca.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{user}127.0.0.1:{}/0", self.port())
    }

    /// Runs one command by redis-cli and returns what it prints.
    ///
    /// # Panics
    /// If the server answers with an error.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut cli = Command::new(tools::of_debian("/usr/bin/redis-cli"));
        cli.args(["-h", "127.0.0.1", "-p", &self.port().to_string(), "-e", "--no-auth-warning"]);
        if let Some(ca) = &self.ca {
            cli.arg("--tls").arg("--cacert").arg(ca);
        }
        if let Some(password) = &self.password {
            cli.env("REDISCLI_AUTH", password);
        }
        let text = String::from_utf8_lossy(&run(cli.args(args))).into_owned();
        text.trim_end_matches('\n').to_owned()
    }

    /// A connection of the redis crate. Not with TLS.
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("a valid URL");
        client.get_connection_with_timeout(Duration::from_secs(10)).expect("connect to Redis")
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends the server at once, as a crash would; its files stay, for [`Self::start_again`].
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// After [`Self::stop`], on the same port.
    pub fn start_again(&mut self) {
        self.process = spawn(self.version, &self.scratch, &self.port, &self.args, self.ca.is_some());
    }
}

fn spawn(version: Version, scratch: &Scratch, port: &Port, args: &[String], tls: bool) -> Process {
    let mut command = Command::new(version.server());
    let number = port.number().to_string();
    let ports = if tls { ["--port", "0", "--tls-port", &number] } else { ["--port", &number, "--tcp-backlog", "128"] };
    command
        .current_dir(scratch.path())
        .args(ports)
        .args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--dir", "."])
        .args(args);
    let command = bound_to_test(command, "KILL");
    let mut process = Process::spawn(&format!("Redis {version:?}"), command, &scratch.join("log"), Signal::KILL);
    process.wait_until(|| answers(port.number(), tls));
    process
}

/// Whether it takes commands: it no longer loads, and asks for a password at most.
fn answers(port: u16, tls: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    if tls {
        return true;
    }
    let mut reply = [0; 64];
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set a timeout");
    let Ok(n) = stream.write_all(b"PING\r\n").and_then(|()| stream.read(&mut reply)) else { return false };
    reply[..n].starts_with(b"+PONG") || reply[..n].starts_with(b"-NOAUTH") || reply[..n].starts_with(b"-MASTERDOWN")
}
