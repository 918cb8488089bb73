//! A file system of its own, which needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs that is unmounted when it is dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts one at `path`, which is created.
    pub fn new(path: PathBuf) -> Self {
        Self::with(path, "mode=755")
    }

    /// With these options of tmpfs(5), such as `size=16m,nr_inodes=100`.
    pub fn with(path: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&path).expect("created");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "backstay-test"]).arg(&path).status().expect("run mount");
        assert!(status.success(), "this test mounts a tmpfs at {}, which needs root", path.display());
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // the directory below stays in the scratch directory, whose removal then fails loudly enough
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
