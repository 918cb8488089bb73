//! A certificate authority of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::run;
use super::scratch::Scratch;

/// A self-signed authority and a certificate of it for `localhost` and `127.0.0.1`, as PEM files.
#[derive(Debug)]
pub struct Authority {
    scratch: Scratch,
}

impl Authority {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let openssl = |args: &[&str]| run(Command::new("openssl").current_dir(scratch.path()).args(args));
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(
            &[&["req", "-x509"], &key[..], &["-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Backstay test authority"]]
                .concat(),
        );
        openssl(&[&["req"], &key[..], &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"]].concat());
        scratch.write("san", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
        let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile san";
        openssl(&sign.split(' ').collect::<Vec<_>>());
        Self { scratch }
    }

    /// The authority's certificate, which clients trust.
    pub fn ca(&self) -> PathBuf {
        self.scratch.join("ca.pem")
    }

    /// Copies the server's certificate and key to `folder`, as `server.pem` and `server.key`.
    pub fn install(&self, folder: &Path) {
        for file in ["server.pem", "server.key", "ca.pem"] {
            std::fs::copy(self.scratch.join(file), folder.join(file)).expect("copy a certificate");
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
