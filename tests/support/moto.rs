//! moto: an S3 server that takes any key, as AWS does, where others keep to what their file system can name. It checks no signatures.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::ports::Port;
use super::process::{Process, bound_to_test};
use super::scratch::Scratch;
use super::tools;

/// A running moto with the bucket [`Moto::BUCKET`].
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    port: Port,
    _scratch: Scratch,
}

/// An answer: status, headers as they came, and body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; the empty string if it is not there.
    pub fn header(&self, name: &str) -> &str {
        let line = self.headers.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }
}

impl Moto {
    pub const BUCKET: &str = "authentik-data";

    pub fn start() -> Self {
        let (scratch, port) = (Scratch::new(), Port::free());
        let mut command = Command::new(tools::installed("bin/moto_server"));
        command.current_dir(scratch.path()).args(["-H", "127.0.0.1", "-p", &port.number().to_string()]);
        let mut process = Process::spawn("moto", bound_to_test(command, "KILL"), &scratch.join("log"), Signal::KILL);
        process.wait_until(|| TcpStream::connect(("127.0.0.1", port.number())).is_ok());
        let moto = Self { _process: process, port, _scratch: scratch };
        assert_eq!(moto.request("PUT", &format!("/{}", Self::BUCKET), "", b"").status, 200, "create the bucket");
        moto
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// A request about an object of the bucket. `key` is as it stands in a URL, each of `headers` ends in CRLF.
    pub fn object(&self, method: &str, key: &str, headers: &str, body: &[u8]) -> Answer {
        self.request(method, &format!("/{}/{key}", Self::BUCKET), headers, body)
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).expect("connect to moto");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        // who says nothing is a stranger; what is said is not checked
        let who = "Authorization: AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{who}{headers}Content-Length: {length}\r\n\r\n"
        )
        .expect("sent");
        stream.write_all(body).expect("sent");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("an answer");
        let end = reply.windows(4).position(|four| four == b"\r\n\r\n").expect("headers");
        let headers = String::from_utf8_lossy(&reply[..end]).into_owned();
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, headers, body: reply[end + 4..].to_vec() }
    }
}
