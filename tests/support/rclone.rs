//! rclone's WebDAV server, which is that of Go's own library.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::ports::Port;
use super::process::{Process, bound_to_test};
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
        let (scratch, port) = (Scratch::new(), Port::free());
        std::fs::create_dir_all(scratch.join("data/backups")).expect("create a folder");
        let mut command = Command::new(tools::installed("bin/rclone"));
        command.args(["serve", "webdav", "data", "--addr", &format!("127.0.0.1:{}", port.number()), "--config", "none"]);
        command.args(["--user", Self::USER, "--pass", Self::PASSWORD]).current_dir(scratch.path());
        let mut process = Process::spawn("rclone", bound_to_test(command, "KILL"), &scratch.join("log"), Signal::KILL);
        process.wait_until(|| TcpStream::connect(("127.0.0.1", port.number())).is_ok());
        Self { _process: process, port, scratch }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/backups", self.port.number())
    }

    /// Where it keeps what is stored.
    pub fn folder(&self) -> PathBuf {
        self.scratch.join("data/backups")
    }
}
