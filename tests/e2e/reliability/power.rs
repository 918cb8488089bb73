//! Power cuts: what the program asks of the kernel, and in which order, recorded by strace and judged by a disk that keeps nothing but what it
//! was told to keep.
//!
//! Law: when a name appears that makes something exist (a manifest, a restored tree, a step in a journal), all that it stands for would
//! survive a cut at this moment; when something goes that others relied on, so does its removal. A cut at any other moment is one before or
//! after such a moment.

mod disk;
mod trace;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Disk, Moment};
use trace::{Call, read};

use crate::support::{Backstay, Outcome, Row, Scratch, Tree, assert_same_tree, toml, tools};

struct House {
    scratch: Scratch,
    backstay: Backstay,
}

impl House {
    fn new() -> Self {
        let scratch = Scratch::new();
        // one is stored whole, one in parts
        scratch.write("places/media/large", vec![7; 20 << 20]);
        scratch.write("places/media/d/e/f", "small");
        scratch.write("places/certs/key", "small");
        let config = [
            toml::directory("media", &scratch.join("places/media")),
            toml::directory("certs", &scratch.join("places/certs")),
            toml::file_target("local", &scratch.join("some/new/target")),
            "[jobs.default]\ncomponents = [\"media\", \"certs\"]\ncompression = \"none\"\nkeep_last = 1\n".to_owned(),
        ];
        Self { backstay: Backstay::new(&config.concat()), scratch }
    }

    fn target(&self) -> PathBuf {
        self.scratch.join("some/new/target")
    }

    /// Runs the program under strace.
    fn traced(&self, args: &[&str]) -> (Vec<Call>, Outcome) {
        let plain = self.backstay.command(args);
        let record = self.scratch.join("trace");
        let mut command = Command::new(tools::of_debian("/usr/bin/strace"));
        command.args(["-f", "-y", "-s", "0", "-o"]).arg(&record).args(["-e", &format!("trace={}", trace::CALLS), "--"]);
        command.arg(plain.get_program()).args(plain.get_args()).current_dir(plain.get_current_dir().expect("set")).env_clear();
        command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = command.stdin(std::process::Stdio::null()).output().expect("strace runs");
        let outcome = Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
        .expect_code(0);
        (read(&std::fs::read_to_string(&record).expect("a trace")), outcome)
    }

    fn backups(&self) -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(self.target()).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|path| !path.ends_with(".backstay")).collect()
    }

    /// The objects of a backup, without its manifest.
    fn objects(&self, backup: &Path) -> Vec<PathBuf> {
        vec![backup.join("media/media.tar"), backup.join("certs/certs.tar"), backup.join("SHA256SUMS")]
    }
}

fn is_named(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|n| n == name)
}

/// What a backup, and the retention after it, would lose by a cut.
fn faults_of_backup(calls: &[Call], root: &Path, new: &Path, objects: &[PathBuf], old: Option<&Path>) -> Vec<String> {
    let manifest = new.join("manifest.json");
    let mut faults = Vec::new();
    let mut committed = false;
    let end = Disk::new(root).replay(calls, |disk, moment| match moment {
        Moment::Named { from, to } => {
            if disk.is_dirty(from) {
                faults.push(format!("{} gets its name before its bytes are on the disk", to.display()));
            }
            if *to == manifest {
                committed = true;
                for object in objects.iter().filter(|object| !disk.is_kept(object)) {
                    faults.push(format!("the manifest appears before {} is kept", object.display()));
                }
            }
        }
        Moment::Removed(path) => {
            if let Some(old) = old.filter(|old| path.starts_with(old) && !is_named(path, "manifest.json")) {
                if !disk.is_gone(&old.join("manifest.json")) {
                    faults.push(format!("{} is removed while its manifest may come back", path.display()));
                }
                if !disk.is_kept(&manifest) {
                    faults.push(format!("{} is removed while the new manifest may be lost", path.display()));
                }
            }
        }
        Moment::Exchanged { .. } => {}
    });
    if !committed {
        faults.push("no manifest appeared".to_owned());
    }
    for path in objects.iter().chain([&manifest]).filter(|path| !end.is_kept(path)) {
        faults.push(format!("success is told before {} is kept", path.display()));
    }
    faults
}

#[test]
fn a_backup_exists_only_when_all_of_it_would_survive_a_power_cut() {
    let house = House::new();
    let root = house.scratch.path();
    let (calls, _) = house.traced(&["backup"]);
    let first = house.backups().into_iter().next().expect("a backup");
    let objects = house.objects(&first);
    assert_eq!(faults_of_backup(&calls, root, &first, &objects, None), [""; 0]);

    // the next one removes it
    let (again, _) = house.traced(&["backup"]);
    let second = house.backups().into_iter().next().expect("a backup");
    assert_ne!(first, second);
    assert_eq!(faults_of_backup(&again, root, &second, &house.objects(&second), Some(&first)), [""; 0]);

    // had the program left out any one of these, it would have been found
    let mut needed = 0;
    for (calls, new, old) in [(&calls, &first, None), (&again, &second, Some(first.as_path()))] {
        for at in (0..calls.len()).filter(|at| calls[*at].is_sync()) {
            let path = calls[at].path();
            let below = path.starts_with(new) || (old.is_none() && house.target().starts_with(path));
            if !below {
                continue;
            }
            let without: Vec<Call> = calls.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, call)| call.clone()).collect();
            needed += usize::from(!faults_of_backup(&without, root, new, &house.objects(new), old).is_empty());
        }
        let none: Vec<Call> = calls.iter().filter(|call| !call.is_sync()).cloned().collect();
        assert!(faults_of_backup(&none, root, new, &house.objects(new), old).len() > 8);
    }
    assert!(needed >= 8, "only {needed} of the syncs matter to this test");
    Row {
        scenario: "power cut during backups and retention, file target",
        faults: "a disk that keeps only what was synced, at every name that appears or goes",
        runs: 2,
    }
    .print();
}

/// What a restore of one directory would lose by a cut: its journal lies at `journal`.
fn faults_of_restore(calls: &[Call], root: &Path, place: &Path, journal: impl Fn(&Path) -> bool) -> Vec<String> {
    let beside = place.parent().expect("not the root").to_owned();
    let mut faults = Vec::new();
    let (mut record, mut steps, mut switched, mut made) = (None, 0, false, false);
    Disk::new(root).replay(calls, |disk, moment| match moment {
        Moment::Named { from, to } if journal(to) => {
            record = Some(to.to_path_buf());
            steps += 1;
            if disk.is_dirty(from) {
                faults.push("a step of the journal gets its name before its bytes are on the disk".to_owned());
            }
        }
        Moment::Named { to, .. } => {
            let is_new = to.parent() == Some(&beside) && to.to_string_lossy().contains("backstay-new-");
            if is_new && !made {
                made = true;
                if !record.as_ref().is_some_and(|record| disk.is_kept(record)) {
                    faults.push("something is made before the journal is kept".to_owned());
                }
            }
        }
        Moment::Exchanged { from, .. } => {
            switched = true;
            for path in disk.unkept_below(from) {
                faults.push(format!("the switch is made while {} may be lost", path.display()));
            }
            if steps < 3 || !record.as_ref().is_some_and(|record| disk.is_kept(record)) {
                faults.push("the switch is made before the journal says so for good".to_owned());
            }
        }
        Moment::Removed(path) if journal(path) => {
            if !disk.is_settled(&beside) {
                faults.push("the journal goes while what it is about may come back".to_owned());
            }
        }
        Moment::Removed(path) => {
            let old = path.starts_with(&beside) && path.to_string_lossy().contains("backstay-old-");
            if old && (!switched || !disk.is_settled(&beside)) {
                faults.push(format!("{} is removed before the switch is kept", path.display()));
            }
        }
    });
    if !switched {
        faults.push("nothing was switched".to_owned());
    }
    faults
}

#[test]
fn a_restore_replaces_only_by_what_would_survive_a_power_cut() {
    let house = House::new();
    let name = house.backstay.backup();
    let place = house.scratch.join("places/media");
    let before = Tree::of(&place);
    let target = house.target();
    let is_json = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
    let in_target = |path: &Path| path.starts_with(target.join(".backstay/restores")) && is_json(path);
    let state = house.backstay.dir().to_owned();
    let on_host = |path: &Path| path.starts_with(&state) && is_json(path);
    let root = Path::new("/");
    let mut runs = 0;
    for is_read_only in [false, true] {
        std::fs::write(place.join("d/e/f"), "changed").expect("written");
        // root may write whatever its mode says, but not where nobody may
        let _mount = is_read_only.then(|| Bound::new(&target));
        let args = ["restore", &name, "--only", "media", "--yes", "--no-safety-backup"];
        let (calls, _) = house.traced(&args);
        assert_same_tree(&before, &Tree::of(&place));
        let judge = |calls: &[Call]| {
            if is_read_only { faults_of_restore(calls, root, &place, on_host) } else { faults_of_restore(calls, root, &place, in_target) }
        };
        assert_eq!(judge(&calls), [""; 0], "read only: {is_read_only}");
        let none: Vec<Call> = calls.iter().filter(|call| !call.is_sync()).cloned().collect();
        assert!(judge(&none).len() > 4, "{:?}", judge(&none));
        for kind in ["syncfs", "fsync"] {
            let without: Vec<Call> = calls.iter().filter(|call| call.name != kind).cloned().collect();
            assert!(!judge(&without).is_empty(), "{kind} does not matter to this test");
        }
        runs += 1;
    }
    Row {
        scenario: "power cut during a restore of a directory",
        faults: "a disk that keeps only what was synced; its journal in the target, and on the host",
        runs,
    }
    .print();
}

/// A directory that is mounted upon itself and cannot be written, until it is dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(path: &Path) -> Self {
        let mount = |args: &[&str]| {
            let status = Command::new("mount").args(args).arg(path).status().expect("run mount");
            assert!(status.success(), "this test mounts, which needs root");
        };
        let itself = path.display().to_string();
        mount(&["--bind", &itself]);
        mount(&["-o", "remount,ro,bind"]);
        Self(path.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
