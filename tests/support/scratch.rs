//! Temporary directories.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("backstay-test-").tempdir().expect("create a temporary directory"))
    }

    /// One that the unprivileged user owns, if there is one.
    pub fn unprivileged() -> Self {
        let scratch = Self::new();
        if let Some(user) = Unprivileged::get() {
            chown(scratch.path(), Some(user.uid), Some(user.gid)).expect("chown a temporary directory");
        }
        scratch
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(path);
        std::fs::create_dir_all(path.parent().expect("below the scratch directory")).expect("create directories");
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }

    /// Writes a file that only its owner may read, as secrets want it.
    pub fn write_secret(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(path, content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// The user that servers run as which refuse root: `postgres` of Debian's package.
#[derive(Debug, Clone, Copy)]
pub struct Unprivileged {
    pub uid: u32,
    pub gid: u32,
}

impl Unprivileged {
    /// None when the tests do not run as root, and so have nothing to drop.
    pub fn get() -> Option<Self> {
        static USER: OnceLock<Option<Unprivileged>> = OnceLock::new();
        *USER.get_or_init(|| {
            rustix::process::geteuid().is_root().then(|| {
                let id = |flag: &str| {
                    let output = Command::new("id").args([flag, "postgres"]).output().expect("run id");
                    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                    text.parse().unwrap_or_else(|_| panic!("no user `postgres`: run ./test, which installs PostgreSQL"))
                };
                Self { uid: id("-u"), gid: id("-g") }
            })
        })
    }

    /// `program`, to be run as this user; as the caller where there is nothing to drop.
    pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
        match Self::get() {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={}", user.uid))
                    .arg(format!("--regid={}", user.gid))
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        }
    }
}
