//! Where a restore keeps, on this host, what must outlive its process.

use std::path::{Path, PathBuf};

/// Where the systemd unit and the packages have it.
const USUAL: &str = "/var/lib/backstay";

/// The first of systemd's `$STATE_DIRECTORY` (systemd.exec(5)), else `/var/lib/backstay` if it may be written, else the directory for
/// temporary files.
pub fn directory() -> PathBuf {
    directories().into_iter().next().unwrap_or_else(std::env::temp_dir)
}

/// All in which an earlier process, with another environment, may have left something: the first is this one's own.
pub fn directories() -> Vec<PathBuf> {
    let named = std::env::var_os("STATE_DIRECTORY");
    let named = named.as_deref().and_then(|list| std::env::split_paths(list).next()).filter(|path| path.is_absolute());
    let usual = Some(PathBuf::from(USUAL)).filter(|path| writable(path));
    let mut all = Vec::new();
    for path in named.into_iter().chain(usual).chain([std::env::temp_dir()]) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    all
}

fn writable(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}
