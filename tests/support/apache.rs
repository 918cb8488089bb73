//! Apache with mod_dav: a WebDAV server as strict as any.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use ring::digest;
use rustix::process::Signal;

use super::ports::Port;
use super::process::{Process, bound_to_test};
use super::scratch::{Scratch, Unprivileged};
use super::tls::Authority;
use super::tools;

/// A running Apache with the folder `/dav/backups`. [`Apache::USER`] may do everything there, [`Apache::READER`] read; whoever has the token
/// may do everything in `/token`, which is the same folder.
#[derive(Debug)]
pub struct Apache {
    process: Process,
    port: Port,
    tls: bool,
    scratch: Scratch,
}

impl Apache {
    pub const USER: &str = "writer";
    pub const READER: &str = "reader";
    pub const PASSWORD: &str = "dav secret/canary=4711";
    pub const TOKEN: &str = "canary-token-4711";

    pub fn start() -> Self {
        Self::launch(None)
    }

    /// By https, with a certificate of `authority`.
    pub fn start_tls(authority: &Authority) -> Self {
        Self::launch(Some(authority))
    }

    fn launch(authority: Option<&Authority>) -> Self {
        let (scratch, port) = (Scratch::unprivileged(), Port::free());
        let folder = scratch.join("www/backups");
        std::fs::create_dir_all(&folder).expect("create a folder");
        let hash =
            base64::engine::general_purpose::STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, Self::PASSWORD.as_bytes()));
        scratch.write("passwords", format!("{}:{{SHA}}{hash}\n{}:{{SHA}}{hash}\n", Self::USER, Self::READER));
        let mut modules = vec!["mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "alias", "setenvif"];
        modules.extend(["dav", "dav_fs"]);
        let mut config = String::new();
        if let Some(authority) = authority {
            authority.install(scratch.path());
            modules.extend(["socache_shmcb", "ssl"]);
        }
        for module in modules {
            let file = tools::of_debian(&format!("/usr/lib/apache2/modules/mod_{module}.so"));
            writeln!(config, "LoadModule {module}_module {}", file.display()).expect("a string takes all");
        }
        let root = scratch.path().display();
        let user = Unprivileged::get().map_or_else(String::new, |user| format!("User #{}\nGroup #{}\n", user.uid, user.gid));
        let tls = authority.map_or("", |_| "SSLEngine on\nSSLCertificateFile server.pem\nSSLCertificateKeyFile server.key\n");
        write!(
            config,
            "{user}ServerRoot {root}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {root}/pid\nErrorLog {root}/errors\nMutex file:{root} default\n\
             DocumentRoot {root}/www\nDavLockDB {root}/locks\nAlias /dav {root}/www\nAlias /token {root}/www\n{tls}\
             SetEnvIf Authorization \"^Bearer {token}$\" bearer\n\
             <Location /dav>\nDav On\nAuthType Basic\nAuthName test\nAuthUserFile {root}/passwords\nRequire user {writer}\n\
             <Limit GET HEAD OPTIONS PROPFIND>\nRequire user {reader}\n</Limit>\n</Location>\n<Location /token>\nDav On\nRequire env bearer\n</Location>\n",
            port = port.number(),
            token = Self::TOKEN,
            writer = Self::USER,
            reader = Self::READER,
        )
        .expect("a string takes all");
        let config = scratch.write("apache.conf", config);
        if let Some(user) = Unprivileged::get() {
            for path in [scratch.join("www"), folder] {
                std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).expect("chown");
            }
        }
        let mut command = Command::new(tools::of_debian("/usr/sbin/apache2"));
        command.args(["-D", "FOREGROUND", "-f"]).arg(config);
        let mut process = Process::spawn("Apache", bound_to_test(command, "TERM"), &scratch.join("log"), Signal::TERM);
        process.wait_until(|| TcpStream::connect(("127.0.0.1", port.number())).is_ok());
        Self { process, port, tls: authority.is_some(), scratch }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Of the server.
    pub fn url(&self) -> String {
        if self.tls { format!("https://localhost:{}", self.port()) } else { format!("http://127.0.0.1:{}", self.port()) }
    }

    /// Where it keeps what is stored in the folder.
    pub fn folder(&self) -> PathBuf {
        self.scratch.join("www/backups")
    }

    pub fn log(&self) -> String {
        let errors = std::fs::read_to_string(self.scratch.join("errors")).unwrap_or_default();
        [self.process.log(), errors].concat()
    }

    /// Stops answering, without closing its ports.
    pub fn stop(&mut self) {
        self.process.stop();
    }
}

/// The files in a folder of a server, by their paths below it.
pub fn files(folder: &Path) -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("below it").display().to_string());
            }
        }
    }
    found.sort();
    found
}
