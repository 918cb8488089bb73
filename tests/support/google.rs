//! A stand-in for Google Cloud Storage. No server of its XML API is to be had, but that is S3's by design: SeaweedFS behind a relay that
//! demands what Google demands of a request, a token signed by the service account's key, and puts Google's headers into S3's words.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

use super::process::run;
use super::{Scratch, Seaweed};

/// Google's header, and S3's for the same.
const WORDS: [(&str, &str); 2] = [("x-goog-if-generation-match: 0", "if-none-match: *"), ("x-goog-copy-source:", "x-amz-copy-source:")];

/// A running stand-in with the bucket [`Google::BUCKET`].
#[derive(Debug)]
pub struct Google {
    /// The key of its only service account, in JSON.
    pub key: String,
    port: u16,
    seen: Arc<AtomicUsize>,
    server: Seaweed,
}

struct Relay {
    to: u16,
    public: Vec<u8>,
    /// Connections end within a request that holds this.
    cut: &'static str,
    seen: Arc<AtomicUsize>,
}

impl Google {
    pub const BUCKET: &str = Seaweed::BUCKET;

    pub fn start() -> Self {
        Self::start_cutting("")
    }

    /// Cuts each connection at a request whose head holds `mark`.
    pub fn start_cutting(mark: &'static str) -> Self {
        let (server, scratch) = (Seaweed::start_open(), Scratch::new());
        let private = scratch.join("key.pem");
        run(Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
            .arg(&private));
        let public = run(Command::new("openssl").args(["rsa", "-RSAPublicKey_out", "-outform", "DER", "-in"]).arg(&private));
        let key = serde_json::json!({
            "type": "service_account",
            "client_email": "canary@project.iam.gserviceaccount.com",
            "private_key_id": "canary-key-id",
            "private_key": std::fs::read_to_string(&private).expect("a key"),
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(AtomicUsize::new(0));
        let relay = Arc::new(Relay { to: server.port(), public, cut: mark, seen: seen.clone() });
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let relay = relay.clone();
                // whichever side has gone, both are done
                std::thread::spawn(move || relay.serve(client).ok());
            }
        });
        Self { key: key.to_string(), port, seen, server }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests that were cut.
    pub fn cut(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// What it stores in.
    pub fn server(&self) -> &Seaweed {
        &self.server
    }
}

impl Relay {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut server = TcpStream::connect(("127.0.0.1", self.to))?;
        let (mut back, mut to_client) = (server.try_clone()?, client.try_clone()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let done = self.requests(&mut client, &mut server);
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
        done
    }

    fn requests(&self, client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if client.read(&mut byte)? == 0 {
                    return Ok(());
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            if !self.cut.is_empty() && head.contains(self.cut) {
                self.seen.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if !self.is_signed(&head) {
                let body =
                    "<?xml version='1.0'?><Error><Code>AuthenticationRequired</Code><Message>Authentication required.</Message></Error>";
                return write!(
                    client,
                    "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
            let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let lines: Vec<&str> = head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("authorization:")).collect();
            let head = WORDS.iter().fold(lines.join("\r\n"), |head, (google, s3)| head.replace(google, s3));
            server.write_all(head.as_bytes())?;
            std::io::copy(&mut Read::take(&mut *client, length), server)?;
        }
    }

    /// Whether the bearer is a token that the key has signed. <https://www.rfc-editor.org/rfc/rfc7519>
    fn is_signed(&self, head: &str) -> bool {
        let token = header(head, "authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
        let Some((text, signature)) = token.as_deref().and_then(|token| token.rsplit_once('.')) else { return false };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public).verify(text.as_bytes(), &signature).is_ok()
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let is_it = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
    head.lines().find(is_it).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
}
