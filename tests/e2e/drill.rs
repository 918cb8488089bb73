//! Restore drills: what passes, what is found, and that nothing is left of them.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::site::{Site, program};
use crate::support::{Backstay, Major, Scratch, Version, toml};

/// A site with one backup in a directory, and a program whose drills happen in a directory of the test.
struct Drilled {
    site: Site,
    store: Scratch,
    room: Scratch,
    backstay: Backstay,
    name: String,
}

impl Drilled {
    fn new(major: Major, version: Version) -> Self {
        let (site, store, room) = (Site::filled(major, version), Scratch::new(), Scratch::new());
        // a server of a drill runs as another user, who has to get there
        std::fs::set_permissions(room.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let backstay = program(&site, &toml::file_target("local", &store.join("backups"))).env("TMPDIR", room.path());
        let name = backstay.backup();
        Self { site, store, room, backstay, name }
    }

    fn listed(&self) -> serde_json::Value {
        self.backstay.succeed(&["listbackups", "--json"]).json()[0].clone()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        self.site.assert_no_helpers();
        let left: Vec<PathBuf> = std::fs::read_dir(self.room.path()).expect("read").map(|e| e.expect("an entry").path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert_eq!(processes_at(self.room.path()), Vec::<String>::new());
    }
}

/// Command lines of the processes that name `place`.
fn processes_at(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let pids = std::fs::read_dir("/proc").expect("proc").filter_map(|e| e.ok()?.file_name().into_string().ok());
    let lines = pids.filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&place)).collect()
}

#[test]
fn a_drill_restores_everything_elsewhere_and_leaves_nothing_but_its_verdict() {
    let drilled = Drilled::new(Major::V15, Version::V7_0);
    let before = drilled.site.state();
    let answer = drilled.backstay.succeed(&["verify", &drilled.name, "--drill", "--json"]).json();
    assert_eq!((&answer["status"], &answer["not_drilled"]), (&json!("passed"), &json!([])), "{answer}");
    drilled.site.assert_is(&before);
    drilled.assert_nothing_left();
    let listed = drilled.listed();
    assert!(listed["drilled"].is_string() && listed["drilled"] == listed["verified"], "{listed}");
    assert!(listed["drill_seconds"].as_u64().is_some_and(|seconds| seconds > 0), "{listed}");
    assert_eq!(listed["status"], "complete");
}
