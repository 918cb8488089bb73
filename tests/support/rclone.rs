//! rclone's servers, which are those of Go's libraries: WebDAV and SFTP.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::ports::Port;
use super::process::{Process, bound_to_test, run};
use super::scratch::Scratch;
use super::tools;

#[derive(Debug)]
pub struct Rclone {
    _process: Process,
    port: Port,
    scratch: Scratch,
}

impl Rclone {
    pub const USER: &str = "writer";
    pub const PASSWORD: &str = "rclone-canary-4711";

    /// Serves a folder that holds an empty one, `backups`.
    pub fn start() -> Self {
        Self::serve("webdav", |_, _| ())
    }

    /// Likewise by SFTP.
    pub fn start_sftp() -> Self {
        Self::serve("sftp", |command, scratch| {
            run(Command::new("/usr/bin/ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(scratch.join("host")));
            // without it a file is only written from its beginning to its end
            command.args(["--key", "host", "--vfs-cache-mode", "writes", "--vfs-write-back", "0s", "--cache-dir", "cache"]);
        })
    }

    fn serve(protocol: &str, set_up: impl FnOnce(&mut Command, &Scratch)) -> Self {
        let (scratch, port) = (Scratch::new(), Port::free());
        std::fs::create_dir_all(scratch.join("data/backups")).expect("create a folder");
        let mut command = Command::new(tools::installed("bin/rclone"));
        set_up(&mut command, &scratch);
        command.args(["serve", protocol, "data", "--addr", &format!("127.0.0.1:{}", port.number()), "--config", "none"]);
        command.args(["--user", Self::USER, "--pass", Self::PASSWORD]).current_dir(scratch.path());
        let mut process = Process::spawn("rclone", bound_to_test(command, "KILL"), &scratch.join("log"), Signal::KILL);
        process.wait_until(|| TcpStream::connect(("127.0.0.1", port.number())).is_ok());
        Self { _process: process, port, scratch }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/backups", self.port.number())
    }

    pub fn sftp_url(&self) -> String {
        format!("sftp://{}@127.0.0.1:{}/backups", Self::USER, self.port.number())
    }

    /// Of the server by SFTP.
    pub fn known_hosts(&self) -> PathBuf {
        let key = std::fs::read_to_string(self.scratch.join("host.pub")).expect("a public key");
        self.scratch.write("known_hosts", format!("[127.0.0.1]:{} {key}", self.port.number()))
    }

    /// Where it keeps what is stored.
    pub fn folder(&self) -> PathBuf {
        self.scratch.join("data/backups")
    }
}
