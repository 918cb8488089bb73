//! Restores that must not happen: what is there stays, and the exit code says why.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::site::{Site, program};
use crate::support::{Backstay, Fingerprint, Major, Scratch, Seaweed, Version, assert_same_database, toml};

/// A site with one backup in a directory.
struct Stored {
    site: Site,
    store: Scratch,
    backstay: Backstay,
    name: String,
}

impl Stored {
    fn new() -> Self {
        let (site, store) = (Site::filled(Major::V15, Version::V7_0), Scratch::new());
        let backstay = program(&site, &toml::file_target("local", &store.join("backups")));
        let name = backstay.backup();
        Self { site, store, backstay, name }
    }

    fn file(&self, path: &str) -> PathBuf {
        self.store.join("backups").join(&self.name).join(path)
    }
}

#[test]
fn a_name_that_does_not_exist_is_said_and_changes_nothing() {
    let stored = Stored::new();
    let before = stored.site.state();
    for name in ["default-2001-01-01-000000", "other", "../escape", "", "defaul"] {
        stored.backstay.run(&["restore", name, "--yes"]).expect_code(10);
    }
    stored.backstay.run(&["restore", &stored.name, "--only", "nothing", "--yes"]).expect_code(10).expect_message("nothing");
    stored.backstay.run(&["restore", &stored.name, "--target", "elsewhere", "--yes"]).expect_code(10).expect_message("elsewhere");
    stored.backstay.run(&["backup", "other-job"]).expect_code(10).expect_message("other-job");
    stored.site.assert_is(&before);
}

#[test]
fn a_name_that_does_not_exist_in_a_bucket_is_said() {
    let (files, seaweed) = (Scratch::new(), Seaweed::start());
    let config = [toml::directory("media", files.path()), toml::s3_target("s3", &seaweed, Seaweed::BUCKET)].concat();
    let backstay = Backstay::new(&config);
    for name in ["latest", "default-2001-01-01-000000"] {
        backstay.run(&["restore", name, "--yes"]).expect_code(10);
    }
}

#[test]
fn without_a_confirmation_nothing_changes() {
    let stored = Stored::new();
    stored.site.change();
    let before = stored.site.state();
    stored.backstay.run(&["restore", &stored.name]).expect_code(2).expect_message("--yes");
    stored.backstay.succeed(&["restore", &stored.name, "--dry-run"]);
    stored.site.assert_is(&before);
}

/// A hostile manifest proves its own integrity like any other.
#[test]
fn a_manifest_that_leaves_its_backup_is_refused() {
    let stored = Stored::new();
    let before = stored.site.state();
    let file = stored.file("manifest.json");
    let sound = fs::read_to_string(&file).expect("read the manifest");
    fs::copy(stored.file("media/media.tar.gz"), stored.store.join("evil.tar.gz")).expect("copy an artifact");
    for path in ["media/../../../evil.tar.gz", "../../evil.tar.gz", &format!("{}/evil.tar.gz", stored.store.path().display())] {
        let hostile = sound.replace("media/media.tar.gz", path);
        assert_ne!(hostile, sound);
        fs::write(&file, sealed(&hostile)).expect("write the manifest");
        stored.backstay.run(&["restore", &stored.name, "--yes"]).expect_code(12);
    }
    stored.site.assert_is(&before);
    // sealed by this test, the sound one is taken: it was the path that was refused
    fs::write(&file, sealed(&sound)).expect("write the manifest");
    stored.backstay.succeed(&["restore", &stored.name, "--dry-run"]);
}

/// The manifest with its own checksum set anew: the SHA-256 of the file in which the checksum's digits are zeros.
fn sealed(manifest: &str) -> String {
    let at = manifest.rfind("\"sha256:").expect("the manifest's checksum") + "\"sha256:".len();
    let zeroed = format!("{}{}{}", &manifest[..at], "0".repeat(64), &manifest[at + 64..]);
    let digest: String = Sha256::digest(&zeroed).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}{digest}{}", &manifest[..at], &manifest[at + 64..])
}

#[test]
fn a_component_goes_where_it_is_sent_and_nothing_else_moves() {
    let stored = Stored::new();
    let expected = Fingerprint::of(&stored.site.postgres, "app");
    stored.site.change();
    let before = stored.site.state();

    let (out, rdb) = (stored.store.join("out"), stored.store.join("dump.rdb"));
    let into = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut args = vec!["restore", &stored.name, "--yes", "--only", "media,redis"];
    let (media, redis) = (into("media", &out), format!("redis=file://{}", rdb.display()));
    args.extend(["--into", &media, "--into", &redis]);
    stored.backstay.succeed(&args);
    assert_eq!(fs::read(out.join("plain.txt")).expect("read a file"), b"hello\n");
    assert!(fs::read(&rdb).expect("read the RDB").starts_with(b"REDIS"));
    stored.site.assert_is(&before);

    let elsewhere = format!("postgres={}", stored.site.postgres.url("look"));
    stored.backstay.succeed(&["restore", &stored.name, "--yes", "--only", "postgres", "--into", &elsewhere]);
    let found = expected.differences(&Fingerprint::of(&stored.site.postgres, "look"));
    // all but the name and what hangs on it is the same
    assert!(found.iter().all(|line| line.starts_with("schema:") || line.starts_with("database ")), "{found:?}");
    stored.site.postgres.psql("DROP DATABASE look");
    assert_same_database(&Fingerprint::of(&stored.site.postgres, "app"), &Fingerprint::of(&stored.site.postgres, "app"));
    stored.site.assert_is(&before);
}
