//! Where the binaries are that `scripts/install-test-servers` installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Major;

/// A file below `.tools`, with links resolved, so that a user who may not read the clone can still run it.
///
/// # Panics
/// If it is not there.
pub fn installed(path: impl AsRef<Path>) -> PathBuf {
    let link = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path);
    match std::fs::canonicalize(&link) {
        Ok(path) => path,
        Err(e) => panic!("{} is missing ({e}): run ./test, which installs it (or scripts/install-test-servers)", link.display()),
    }
}

/// A file of a Debian package.
///
/// # Panics
/// If it is not there.
pub fn of_debian(path: &str) -> PathBuf {
    assert!(Path::new(path).exists(), "{path} is missing: run ./test, which installs it (or scripts/install-test-servers)");
    path.into()
}

/// What gives a program another clock, to be its `LD_PRELOAD` (Debian: libfaketime). `FAKETIME` says which; what measures durations stays.
///
/// # Panics
/// If it is not there.
pub fn faketime() -> PathBuf {
    of_debian(&format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH))
}

/// A `PATH` on which the clients of the given PostgreSQL majors stand first, then the system's own.
pub fn path_with(majors: &[Major]) -> OsString {
    let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::join_paths(majors.iter().map(|m| m.bin_dir()).chain(system)).expect("no colon in these paths")
}
