//! How many bytes an artifact will take, before its first: what the sizes of parts are chosen by.

use crate::manifest::{Artifact, Encoding, Manifest};
use crate::name::ArtifactPath;

/// About how many bytes will be stored as `path`.
///
/// What the last backup of the job stored under that path, in that encoding, and a quarter more, is better than anything that a source can
/// say: a database is larger on disk than in a dump, the file system of a tree holds other trees too, and nobody knows the ratio of a
/// compression. Without that, `source` says how many raw bytes may come.
pub(super) fn stored_bytes(source: Option<u64>, path: &ArtifactPath, encoding: Encoding, last: Option<&Manifest>) -> Option<u64> {
    let same = |artifact: &&Artifact| artifact.path == *path && artifact.encoding == encoding;
    let before = last.and_then(|manifest| manifest.artifacts().find(same)).map(|a| a.stored_bytes);
    before.map(|bytes| bytes.saturating_add(bytes / 4)).or(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Component, ComponentStatus, FORMAT, Facts, Format, Kind, Status};
    use crate::name::BackupName;

    fn last(stored_bytes: u64) -> Manifest {
        let artifact = Artifact {
            path: "media/media.tar.gz".parse().expect("a path"),
            format: Format::Tar,
            encoding: Encoding::Gzip,
            encryption: None,
            database: None,
            raw_bytes: 1 << 40,
            stored_bytes,
            sha256: String::new(),
            blake3: String::new(),
        };
        let component = Component {
            name: "media".parse().expect("a name"),
            kind: Kind::Directory,
            status: ComponentStatus::Complete,
            reason: None,
            seconds: 1.0,
            facts: Facts::new(),
            warnings: Vec::new(),
            fingerprint: None,
            artifacts: vec![artifact],
        };
        let name: BackupName = "default-2026-01-02-030405".parse().expect("a name");
        Manifest {
            format: FORMAT,
            job: name.job().clone(),
            created: name.created(),
            finished: name.created(),
            name,
            tool: String::new(),
            host: String::new(),
            status: Status::Complete,
            slot: None,
            only: Vec::new(),
            replaced_by: None,
            recipients: Vec::new(),
            components: vec![component],
        }
    }

    #[test]
    fn the_last_backup_knows_best() {
        let of =
            |source, path: &str, encoding, last: Option<&Manifest>| stored_bytes(source, &path.parse().expect("a path"), encoding, last);
        let last = last(1000);
        assert_eq!(of(Some(7), "media/media.tar.gz", Encoding::Gzip, Some(&last)), Some(1250));
        assert_eq!(of(None, "media/media.tar.gz", Encoding::Gzip, Some(&last)), Some(1250));
        // nothing is known of what was stored otherwise, or not at all
        assert_eq!(of(Some(7), "media/media.tar.gz", Encoding::Zstd, Some(&last)), Some(7));
        assert_eq!(of(Some(7), "certs/certs.tar.gz", Encoding::Gzip, Some(&last)), Some(7));
        assert_eq!(of(Some(7), "media/media.tar.gz", Encoding::Gzip, None), Some(7));
        assert_eq!(of(None, "media/media.tar.gz", Encoding::Gzip, None), None);
    }
}
