//! A directory that exists for a drill only.
//!
//! It is locked while it is in use. One that nobody has locked belonged to a drill that was killed, and is removed by the next one.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, accessat, flock, statvfs};
use rustix::process::geteuid;
use tempfile::{Builder, TempDir};

use super::DrillError;
use crate::component::directory::remove_tree;
use crate::process::User;

/// Of the directories' names.
pub const PREFIX: &str = "backstay-drill-";

/// A directory younger than this may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// A directory of mode 0700.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Held until it is removed.
    _lock: File,
    gone: bool,
}

impl Place {
    /// Makes one with room for `needed` bytes: in `$TMPDIR`, or where that is not set in the first of `/var/tmp` and `/tmp` that has it.
    /// It belongs to `owner`.
    ///
    /// # Errors
    /// [`DrillError::Space`], [`DrillError::Place`].
    pub async fn make(needed: u64, owner: Option<User>) -> Result<Self, DrillError> {
        on_disk(move || {
            let parents = parents(std::env::var_os("TMPDIR"));
            parents.iter().for_each(|parent| sweep(parent));
            let parent = choose(&parents, needed, room)?;
            let failed = |source| DrillError::Place { action: "make a directory in", path: parent.to_owned(), source };
            let made = Builder::new().prefix(PREFIX).tempdir_in(parent).and_then(|made| {
                let lock = File::open(made.path())?;
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                if let Some(owner) = owner {
                    std::os::unix::fs::chown(made.path(), Some(owner.uid), Some(owner.gid))?;
                }
                Ok((made, lock))
            });
            let (made, lock): (TempDir, File) = made.map_err(failed)?;
            Ok(Self { path: made.keep(), _lock: lock, gone: false })
        })
        .await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// [`DrillError::Place`] names what is left.
    pub async fn remove(mut self) -> Result<(), DrillError> {
        on_disk(move || {
            self.gone = true;
            remove_tree(&self.path).map_err(|source| DrillError::Place { action: "remove", path: self.path.clone(), source })
        })
        .await
    }
}

/// Where [`Place::remove`] was not reached.
impl Drop for Place {
    fn drop(&mut self) {
        if !self.gone
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "what a drill made could not be removed");
        }
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, DrillError> + Send + 'static) -> Result<T, DrillError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => Err(DrillError::Place { action: "work in", path: PathBuf::new(), source: io::Error::other(panicked) }),
    }
}

/// `/tmp` is often in memory, and `/var/tmp` is meant for what is large (Filesystem Hierarchy Standard).
fn parents(tmpdir: Option<OsString>) -> Vec<PathBuf> {
    match tmpdir.filter(|dir| !dir.is_empty()) {
        Some(dir) => vec![dir.into()],
        None => ["/var/tmp", "/tmp"].map(PathBuf::from).into(),
    }
}

/// Bytes that may still be written below `path`; `None` if that cannot be a place at all.
fn room(path: &Path) -> Option<u64> {
    accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).ok()?;
    let stat = statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn choose(parents: &[PathBuf], needed: u64, room: impl Fn(&Path) -> Option<u64>) -> Result<&Path, DrillError> {
    let rooms: Vec<(&PathBuf, Option<u64>)> = parents.iter().map(|parent| (parent, room(parent))).collect();
    match rooms.iter().find(|(_, room)| room.is_some_and(|room| room >= needed)) {
        Some((parent, _)) => Ok(parent),
        None => Err(DrillError::Space { needed, found: rooms.into_iter().map(|(parent, room)| (parent.clone(), room)).collect() }),
    }
}

/// Removes what drills that were killed have left in `parent`. What cannot be removed may be somebody else's.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let young = |meta: &std::fs::Metadata| meta.modified().ok().and_then(|at| at.elapsed().ok()).is_none_or(|age| age < YOUNG);
        let is_left = entry.metadata().is_ok_and(|meta| meta.is_dir() && !young(&meta));
        let Some(lock) = is_left.then(|| File::open(&path).ok()).flatten() else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        match remove_tree(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what a drill that was killed had left"),
            Err(error) => tracing::debug!(path = %path.display(), %error, "not removed"),
        }
    }
}

/// Whom a server runs as that we start: ourselves, unless we are root and may become somebody else. Then the first of `names` that there is.
pub fn unprivileged(names: &[&str]) -> Option<User> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    (geteuid().is_root() && may_become_another(&read("/proc/self/status"))).then(|| user_of(&read("/etc/passwd"), names))
}

/// A container's root may lack the privilege: CAP_SETGID and CAP_SETUID, and CAP_KILL to end again what it started, bits 5 to 7 of
/// capabilities(7), in `CapEff` of proc(5).
fn may_become_another(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & 0b1110_0000 == 0b1110_0000)
}

/// passwd(5): name, password, uid, gid. `nobody` where there is none of `names`, by the number that every system gives it if need be.
fn user_of(passwd: &str, names: &[&str]) -> User {
    let find = |name: &&str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next()? == *name;
            let mut id = || -> Option<u32> { fields.next()?.parse().ok() };
            let _password = id();
            let user = User { uid: id()?, gid: id()? };
            (found && user.uid != 0).then_some(user)
        })
    };
    names.iter().chain([&"nobody"]).find_map(find).unwrap_or(User { uid: 65_534, gid: 65_534 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unprivileged_user_is_found_and_is_never_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\nbad:x\npostgres:x:105:110::/:/bin/sh\ntoor:x:0:0\n";
        assert_eq!(user_of(passwd, &["postgres"]), User { uid: 105, gid: 110 });
        for names in [&["redis", "postgres"][..], &["toor", "postgres"]] {
            assert_eq!(user_of(passwd, names).uid, 105, "{names:?}");
        }
        assert_eq!(user_of(passwd, &["bad"]), User { uid: 65_534, gid: 65_533 });
        assert_eq!(user_of("", &["postgres"]).uid, 65_534);
    }

    #[test]
    fn root_without_the_privilege_to_become_another_stays_root() {
        for (capabilities, expected) in [
            ("000001ffffffffff", true),
            ("00000000a80400fb", true),
            ("00000000000000db", false),
            ("000000008000001f", false),
            ("zz", false),
        ] {
            assert_eq!(may_become_another(&format!("Name:\tx\nCapEff:\t{capabilities}\n")), expected, "{capabilities}");
        }
        assert!(!may_become_another(""));
    }

    #[test]
    fn the_first_place_with_room_is_taken_and_without_any_the_drill_is_refused() {
        let both = parents(None);
        let rooms = |path: &Path| if path.ends_with("var/tmp") { Some(10) } else { Some(100) };
        assert_eq!(choose(&both, 10, rooms).expect("room"), Path::new("/var/tmp"));
        assert_eq!(choose(&both, 11, rooms).expect("room"), Path::new("/tmp"));
        let refused = choose(&both, 101, rooms).expect_err("no room").to_string();
        assert!(refused.contains("/var/tmp") && refused.contains("101"), "{refused}");
        assert!(choose(&both, 1, |_| None).is_err());
        assert_eq!(parents(Some("/data".into())), [PathBuf::from("/data")]);
        assert_eq!(parents(Some("".into())), both);
    }

    #[tokio::test]
    async fn what_a_killed_drill_left_is_removed_and_what_is_in_use_is_not() {
        let parent = tempfile::tempdir().expect("a directory");
        let old = std::time::SystemTime::now() - 2 * YOUNG;
        let left = |name: &str| {
            let path = parent.path().join(format!("{PREFIX}{name}"));
            std::fs::create_dir(&path).expect("made");
            std::fs::write(path.join("file"), "x").expect("written");
            File::open(&path).expect("open").set_modified(old).expect("set the time");
            path
        };
        let (dead, used) = (left("dead"), left("used"));
        let other = parent.path().join("other");
        std::fs::create_dir(&other).expect("made");
        let lock = File::open(&used).expect("open");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("locked");
        let young = parent.path().join(format!("{PREFIX}young"));
        std::fs::create_dir(&young).expect("made");
        sweep(parent.path());
        assert_eq!([&dead, &used, &other, &young].map(|path| path.exists()), [false, true, true, true]);
    }
}
