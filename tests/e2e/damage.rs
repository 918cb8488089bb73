//! What happens to each object of a backup, times what is done afterwards: printed as a table, with an expectation for every field.
//!
//! Whatever was damaged, the next backup is made, the list is readable, `verify` says which object it is, and a restore either leaves what
//! is there or brings what was backed up.

use std::fs;

use crate::site::{Site, program};
use crate::support::{Major, Scratch, Version, toml};

/// `None`: it is removed.
type Damage = fn(&[u8]) -> Option<Vec<u8>>;

/// What can become of an object.
const DAMAGES: [(&str, Damage); 8] = [
    ("removed", |_| None),
    ("emptied", |_| Some(Vec::new())),
    ("cut to half", |sound| Some(sound[..sound.len() / 2].to_vec())),
    ("cut by a byte", |sound| Some(sound[..sound.len() - 1].to_vec())),
    ("a byte longer", |sound| Some([sound, b"\0"].concat())),
    ("first bit flipped", |sound| Some(flipped(sound, 0))),
    ("a bit in it flipped", |sound| Some(flipped(sound, sound.len() / 2))),
    ("last bit flipped", |sound| Some(flipped(sound, sound.len() - 1))),
];

fn flipped(sound: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// Exit codes of `verify` and `restore`, and what `listbackups` says after the `verify`; `None`: the backup is not listed.
type Expected = (i32, i32, Option<&'static str>);

fn expected(object: &str, damage: &str) -> Expected {
    match (object, damage) {
        // without a manifest there is no backup
        ("manifest.json", "removed") => (10, 10, None),
        // for stock tools only: the manifest has all that it says
        ("SHA256SUMS", _) => (12, 0, Some("damaged")),
        _ => (12, 12, Some("damaged")),
    }
}

#[expect(clippy::print_stderr, reason = "the table is what is asked for")]
fn damage(object: &str) {
    let (site, store) = (Site::filled(Major::V15, Version::V7_0), Scratch::new());
    let config = format!("[jobs.default]\nkeep_last = 100\n{}", toml::file_target("local", &store.join("backups")));
    let backstay = program(&site, &config);
    let name = backstay.backup();
    let backed_up = site.state();
    site.change();
    let changed = site.state();
    let file = store.join("backups").join(&name).join(object);
    let sound = fs::read(&file).expect("an object of the backup");
    for (what, damage) in DAMAGES {
        match damage(&sound) {
            Some(bytes) => fs::write(&file, bytes).expect("damaged"),
            None => fs::remove_file(&file).expect("removed"),
        }
        let (verified, restored, listed) = expected(object, what);
        backstay.succeed(&["backup", "--only", "media"]);
        let verify = backstay.run(&["verify", &name]).expect_code(verified);
        let list = backstay.succeed(&["listbackups", "--json"]).json();
        let row = list.as_array().expect("a list").iter().find(|row| row["name"] == name.as_str());
        assert_eq!(row.map(|row| row["status"].as_str().expect("a status")), listed, "{object}, {what}: {list}");
        let restore = backstay.run(&["restore", &name, "--yes", "--no-safety-backup"]).expect_code(restored);
        site.assert_is(if restored == 0 { &backed_up } else { &changed });
        if restored == 0 {
            site.change();
        } else if verified == 12 {
            // the one that is damaged is named, to whoever reads either
            for said in [&verify.stderr, &restore.stderr] {
                assert!(said.contains(object) || said.contains("manifest"), "{object}, {what}: {said}");
            }
        }
        eprintln!("{object:<26}{what:<22}backup 0  verify {verified:<4}list {:<9}restore {restored}", listed.unwrap_or("-"));
    }
    fs::write(&file, &sound).expect("mended");
    backstay.succeed(&["verify", &name]);
    // the refusals were for the damage
    backstay.succeed(&["restore", &name, "--yes", "--no-safety-backup"]);
    site.assert_is(&backed_up);
}

#[test]
fn to_a_dump() {
    damage("postgres/app.dump.gz");
}

#[test]
fn to_the_roles() {
    damage("postgres/globals.sql.gz");
}

#[test]
fn to_an_rdb() {
    damage("redis/dump.rdb.gz");
}

#[test]
fn to_an_archive() {
    damage("media/media.tar.gz");
}

#[test]
fn to_the_checksums() {
    damage("SHA256SUMS");
}

#[test]
fn to_the_manifest() {
    damage("manifest.json");
}
