//! OpenSSH's server, with a key for whoever runs the test.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::ports::Port;
use super::process::{Process, bound_to_test, run};
use super::scratch::Scratch;
use super::tools;

/// A running sshd with the empty folder `my backups`.
#[derive(Debug)]
pub struct Sshd {
    process: Process,
    port: Port,
    scratch: Scratch,
    /// Whom it lets in.
    user: String,
}

impl Sshd {
    const FILES: &str = "internal-sftp";

    pub fn start() -> Self {
        Self::with(Self::FILES)
    }

    /// One that does what the protocol itself has, and no more.
    pub fn without_extensions() -> Self {
        Self::with("internal-sftp -P hardlink,posix-rename,fsync,statvfs,limits,expand-path,copy-data")
    }

    /// `subsystem` is the program that serves files; none where it is empty.
    pub fn with(subsystem: &str) -> Self {
        let (scratch, port) = (Scratch::new(), Port::free());
        std::fs::create_dir_all(scratch.join("my backups")).expect("create a folder");
        for key in ["host", "client", "stranger"] {
            run(Command::new("/usr/bin/ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(scratch.join(key)));
        }
        let public = |key: &str| std::fs::read_to_string(scratch.join(format!("{key}.pub"))).expect("a public key");
        scratch.write("known_hosts", format!("[127.0.0.1]:{} {}", port.number(), public("host")));
        // as docs/targets/sftp.md has it
        let confined = if subsystem == Self::FILES { "restrict,command=\"internal-sftp\" " } else { "" };
        scratch.write("authorized_keys", format!("{confined}{}", public("client")));
        let subsystem = if subsystem.is_empty() { String::new() } else { format!("Subsystem sftp {subsystem}\n") };
        let folder = scratch.path().display();
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n{subsystem}",
            port.number()
        );
        let config = scratch.write("sshd_config", config);
        if rustix::process::geteuid().is_root() {
            // compiled in, and usually made by the service
            std::fs::create_dir_all("/run/sshd").expect("create the folder that sshd confines itself to");
        }
        let process = Self::launch(&config, port.number());
        let user = String::from_utf8_lossy(&run(Command::new("id").arg("-un"))).trim().to_owned();
        Self { process, port, scratch, user }
    }

    fn launch(config: &Path, port: u16) -> Process {
        let mut command = Command::new(tools::of_debian("/usr/sbin/sshd"));
        command.args(["-D", "-e", "-f"]).arg(config);
        let mut process = Process::spawn("sshd", bound_to_test(command, "KILL"), &config.with_file_name("log"), Signal::KILL);
        process.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        process
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Of a folder below [`Sshd::root`].
    pub fn url_of(&self, folder: &str) -> String {
        format!("sftp://{}@127.0.0.1:{}{}/{folder}", self.user, self.port(), self.root().display())
    }

    pub fn url(&self) -> String {
        self.url_of("my%20backups")
    }

    pub fn root(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// Where it keeps what is stored.
    pub fn folder(&self) -> PathBuf {
        self.scratch.join("my backups")
    }

    /// The key that it lets in.
    pub fn identity(&self) -> PathBuf {
        self.scratch.join("client")
    }

    /// One that it does not.
    pub fn stranger(&self) -> PathBuf {
        self.scratch.join("stranger")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.scratch.join("known_hosts")
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The processes that serve clients.
    fn sessions(&self) -> Vec<Pid> {
        let (mut found, mut waiting) = (Vec::new(), vec![self.process.pid().to_string()]);
        while let Some(parent) = waiting.pop() {
            // sshd has one thread
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                found.extend(child.parse().ok().and_then(Pid::from_raw));
                waiting.push(child.to_owned());
            }
        }
        found
    }

    /// Sends a signal to all that serve clients; how many there were.
    pub fn signal_sessions(&self, signal: Signal) -> usize {
        let sessions = self.sessions();
        for session in &sessions {
            // one may have ended by now
            let _ = kill_process(*session, signal);
        }
        sessions.len()
    }

    /// The process that has written most.
    pub fn busiest_session(&self) -> Pid {
        let written = |session: &Pid| {
            let io = std::fs::read_to_string(format!("/proc/{}/io", session.as_raw_nonzero())).unwrap_or_default();
            io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0u64)
        };
        self.sessions().into_iter().max_by_key(written).expect("a client")
    }

    /// Comes back after [`Sshd::stop`].
    pub fn start_again(&mut self) {
        self.process = Self::launch(&self.scratch.join("sshd_config"), self.port());
    }

    /// Ends, with all its clients, and is not reached any more.
    pub fn stop(&mut self) {
        self.process.signal(Signal::STOP);
        self.signal_sessions(Signal::KILL);
        self.process.stop();
    }
}
