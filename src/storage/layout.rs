//! What is stored where: the only builder of keys.
//!
//! ```text
//! <backup name>/manifest.json
//! <backup name>/SHA256SUMS
//! <backup name>/<component>/<artifact>
//! <dump>.psql, <dump>.sql                                          authentik's old dumps, never written by us
//! .backstay/leases/<job>/<number>.json
//! .backstay/leases/<job>/<unique>.mark                              for a moment, while the age of a lease is asked for
//! .backstay/leases/.restore/<id>/<number>.json                      of a restore that is under way
//! .backstay/restores/<id>.json                                      its journal
//! .backstay/runs/<job>.json                                        what a run has stored so far, until it commits
//! .backstay/verified/<backup name>/<when>_<verdict>
//! .backstay/parts/<backup name>/<component>/<artifact>/<number>     pieces on their way into a large part
//! .backstay/unfinished/<unique>                                    what is not whole yet, on a WebDAV server
//! ```

use object_store::path::Path;

use super::lease::Subject;
use crate::name::{ArtifactPath, BackupName, JobName, RestoreId};

/// Name of the record that makes a backup exist.
pub const MANIFEST: &str = "manifest.json";
/// Name of the checksum list, in the format of `sha256sum`.
pub const SUMS: &str = "SHA256SUMS";

/// The folder of everything that is no part of a backup.
pub(super) const PRIVATE: &str = ".backstay";
/// The folder in it where what is not whole yet lies, in targets whose objects would be seen while they grow.
pub(super) const UNFINISHED: &str = "unfinished";

const PIECES: &str = ".backstay/parts";
const VERDICTS: &str = ".backstay/verified";
const RESTORES: &str = ".backstay/restores";
const RUNS: &str = ".backstay/runs";

/// The keys of a target, below its prefix.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// `prefix` has no slash at either end; empty is the root.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub fn root(&self) -> Path {
        self.key("")
    }

    pub fn backup(&self, name: &BackupName) -> Path {
        self.key(&name.to_string())
    }

    pub fn manifest(&self, name: &BackupName) -> Path {
        self.key(&format!("{name}/{MANIFEST}"))
    }

    pub fn sums(&self, name: &BackupName) -> Path {
        self.key(&format!("{name}/{SUMS}"))
    }

    pub fn artifact(&self, name: &BackupName, path: &ArtifactPath) -> Path {
        self.key(&format!("{name}/{path}"))
    }

    /// A dump that others wrote; `path` is that of an artifact which stands for it.
    pub fn legacy(&self, path: &ArtifactPath) -> Path {
        self.key(path.file())
    }

    /// Those of one job, or of one restore. The name of a job never begins with a dot.
    pub fn leases(&self, subject: &Subject) -> Path {
        match subject {
            Subject::Job(job) => self.key(&format!(".backstay/leases/{job}")),
            Subject::Restore(id) => self.key(&format!(".backstay/leases/.restore/{id}")),
        }
    }

    pub fn lease(&self, subject: &Subject, number: u64) -> Path {
        self.leases(subject).join(format!("{number:020}.json"))
    }

    /// What tells the time of the target; `unique` is whose it is.
    pub fn lease_mark(&self, subject: &Subject, unique: impl std::fmt::Display) -> Path {
        self.leases(subject).join(format!("{unique}.mark"))
    }

    /// Those of all restores.
    pub(super) fn leases_of_restores(&self) -> Path {
        self.key(".backstay/leases/.restore")
    }

    /// The journals of restores that have not ended.
    pub fn restores(&self) -> Path {
        self.key(RESTORES)
    }

    pub fn restore(&self, id: RestoreId) -> Path {
        self.key(&format!("{RESTORES}/{id}.json"))
    }

    /// The restore that a journal's key is about.
    pub fn restore_of(&self, key: &Path) -> Option<RestoreId> {
        self.below(key).strip_prefix(RESTORES)?.trim_start_matches('/').strip_suffix(".json")?.parse().ok()
    }

    /// The journals of runs that have not begun to commit.
    pub fn runs(&self) -> Path {
        self.key(RUNS)
    }

    pub fn run(&self, job: &JobName) -> Path {
        self.key(&format!("{RUNS}/{job}.json"))
    }

    /// What verifications found, of all backups.
    pub fn verdicts(&self) -> Path {
        self.key(VERDICTS)
    }

    /// Of one backup.
    pub fn verdicts_of(&self, name: &BackupName) -> Path {
        self.key(&format!("{VERDICTS}/{name}"))
    }

    pub fn verdict(&self, name: &BackupName, verdict: &str) -> Path {
        self.key(&format!("{VERDICTS}/{name}/{verdict}"))
    }

    /// The backup that a verdict's key is about.
    pub fn verdict_of(&self, key: &Path) -> Option<BackupName> {
        self.below(key).strip_prefix(VERDICTS)?.trim_start_matches('/').split('/').next()?.parse().ok()
    }

    /// Where what is not whole yet lies in some targets.
    pub(super) fn unfinished(&self) -> Path {
        self.key(&format!("{PRIVATE}/{UNFINISHED}"))
    }

    /// Where all pieces of large parts lie until they are joined.
    pub fn all_pieces(&self) -> Path {
        self.key(PIECES)
    }

    /// Those of an artifact whose key is `artifact`.
    pub(super) fn pieces_of(&self, artifact: &Path) -> Path {
        self.key(&format!("{PIECES}/{}", self.below(artifact)))
    }

    /// The backup that an artifact or its pieces belong to.
    pub(super) fn backup_of(&self, key: &Path) -> Option<BackupName> {
        let below = self.below(key);
        let below = below.strip_prefix(PIECES).map_or(below, |rest| rest.trim_start_matches('/'));
        below.split('/').next()?.parse().ok()
    }

    fn below<'a>(&self, key: &'a Path) -> &'a str {
        key.as_ref().strip_prefix(&self.prefix).unwrap_or(key.as_ref()).trim_start_matches('/')
    }

    /// Where `check` writes, reads and deletes.
    pub fn check(&self, unique: &str) -> Path {
        self.key(&format!(".backstay/check/{unique}"))
    }

    /// The fencing number of a lease's key.
    pub fn lease_number(key: &Path) -> Option<u64> {
        key.filename()?.strip_suffix(".json")?.parse().ok()
    }

    /// `Path::parse` keeps `%` as it is, where `Path::from` would escape it: the key in a bucket, the file on a disk and the line in
    /// SHA256SUMS have one spelling.
    fn key(&self, below: &str) -> Path {
        let joined = [self.prefix.as_str(), below].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/");
        Path::parse(joined).expect("a validated prefix and validated names make a valid key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_apart_from_backups_and_tell_theirs() {
        for prefix in ["", "some/prefix"] {
            let layout = Layout::new(prefix);
            let name: BackupName = "default-2026-01-02-030405".parse().expect("a name");
            let artifact = layout.artifact(&name, &"media/media.tar.gz".parse().expect("a path"));
            let pieces = layout.pieces_of(&artifact);
            assert!(pieces.as_ref().ends_with(".backstay/parts/default-2026-01-02-030405/media/media.tar.gz"), "{pieces}");
            assert!(pieces.as_ref().starts_with(prefix));
            assert_eq!(layout.backup_of(&artifact), Some(name.clone()));
            assert_eq!(layout.backup_of(&pieces.join("00001")), Some(name));
            assert_eq!(layout.backup_of(&layout.check("x")), None);
        }
    }
}
