//! Backups that go from one target into another.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::support::{Backstay, Gate, Row, Scratch, Seaweed, Side, Tree, assert_same_tree, toml};
use crate::worker_process::Running;

/// A tree, a directory for its backups, and a bucket for their copies.
struct House {
    server: Seaweed,
    place: Scratch,
}

impl House {
    fn new() -> Self {
        let place = Scratch::new();
        let mut noise = vec![0; 21 << 20];
        blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut noise);
        place.write("media/large", noise);
        place.write("media/small", "small");
        Self { server: Seaweed::start(), place }
    }

    fn program(&self, endpoint: &str) -> Backstay {
        self.program_with(endpoint, "[jobs.default]\ncomponents = [\"media\"]\ntargets = [\"local\"]\n")
    }

    fn program_with(&self, endpoint: &str, jobs: &str) -> Backstay {
        let config = [
            toml::file_target("local", &self.place.join("store")),
            toml::s3_target_by("offsite", endpoint, &self.server, "backups/copies"),
            toml::directory("media", &self.place.join("media")),
            jobs.to_owned(),
        ];
        Backstay::new(&config.concat())
    }

    /// What the directory holds of a backup, and the bucket.
    async fn both(&self, name: &str) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) {
        let mut local = BTreeMap::new();
        for path in ["manifest.json", "SHA256SUMS", "media/media.tar.gz"] {
            local.insert(path.to_owned(), std::fs::read(self.place.join("store").join(name).join(path)).expect("read"));
        }
        let bucket = self.server.bucket("backups");
        let mut remote = BTreeMap::new();
        let prefix = format!("copies/{name}");
        for meta in bucket.list(Some(&prefix.as_str().into())).try_collect::<Vec<_>>().await.expect("listed") {
            let bytes = bucket.get_opts(&meta.location, Default::default()).await.expect("read").bytes().await.expect("read");
            remote.insert(meta.location.as_ref()[prefix.len() + 1..].to_owned(), bytes.to_vec());
        }
        (local, remote)
    }
}

#[tokio::test]
async fn a_copy_is_the_same_backup_and_restores() {
    let house = House::new();
    let backstay = house.program(&house.server.endpoint());
    let first = backstay.backup();
    let copied = backstay.succeed(&["copy", &first, "--from", "local", "--to", "offsite", "--json"]).json();
    assert_eq!((copied[0]["name"].as_str(), copied[0]["status"].as_str()), (Some(first.as_str()), Some("copied")));
    let (local, remote) = house.both(&first).await;
    assert!(local == remote, "{:?}", remote.keys());
    assert!(backstay.succeed(&["copy", &first, "--from", "local", "--to", "offsite"]).stdout.contains("was there"));

    let second = backstay.backup();
    let copied = backstay.succeed(&["copy", "--all", "--from", "local", "--to", "offsite", "--json"]).json();
    assert_eq!(copied.as_array().map(|rows| rows.iter().map(|row| row["name"].as_str()).collect()), Some(vec![Some(second.as_str())]));
    let before = Tree::of(&house.place.join("media"));
    std::fs::remove_dir_all(house.place.join("media")).expect("removed");
    std::fs::remove_dir_all(house.place.join("store")).expect("removed");
    backstay.succeed(&["restore", "latest", "--target", "offsite", "--yes"]);
    assert_same_tree(&before, &Tree::of(&house.place.join("media")));
    // and the other way
    backstay.succeed(&["copy", &first, "--from", "offsite", "--to", "local"]);
    let (local, remote) = house.both(&first).await;
    assert!(local == remote, "{:?}", local.keys());
}

/// Killed at each request that changes something: there is no backup, or a whole one, and the next attempt ends it.
#[tokio::test]
async fn a_copy_that_is_killed_is_ended_by_the_next() {
    let house = House::new();
    let backstay = house.program(&house.server.endpoint());
    let mut kills = 0;
    for at in 1.. {
        let name = backstay.backup();
        let args = ["copy", name.as_str(), "--from", "local", "--to", "offsite"];
        let gate = Gate::new(house.server.port(), "/", at, if at % 2 == 0 { Side::Before } else { Side::After });
        let killed = gate.kill(&house.program(&gate.endpoint()), &args);
        if !killed {
            break;
        }
        kills += 1;
        let listed = backstay.succeed(&["listbackups", "--target", "offsite", "--json"]).json();
        if listed.as_array().expect("an array").iter().any(|row| row["name"] == name.as_str()) {
            backstay.succeed(&["verify", &name, "--target", "offsite"]);
        }
        backstay.succeed(&args);
        let (local, remote) = house.both(&name).await;
        assert!(local == remote, "after request {at}: {:?}", remote.keys());
    }
    assert!(kills >= 8, "only {kills}");
    Row { scenario: "a backup is copied into a bucket", faults: "SIGKILL before or after a request that changes it", runs: kills }.print();
}

/// The names in a target, oldest first.
fn names(backstay: &Backstay, target: &str) -> Vec<String> {
    let listed = backstay.succeed(&["listbackups", "--target", target, "--json"]).json();
    let mut names: Vec<String> =
        listed.as_array().expect("an array").iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

const COPYING: &str = "[jobs.default]\ncomponents = [\"media\"]\n[jobs.other]\ncomponents = [\"media\"]\ntargets = [\"offsite\"]\n\
    [jobs.offsite]\ncopy_from = \"local\"\ntargets = [\"offsite\"]\nkeep_last = 2\n";

#[tokio::test]
async fn a_job_that_copies_keeps_what_its_own_retention_keeps() {
    let house = House::new();
    std::fs::remove_file(house.place.join("media/large")).expect("removed");
    let backstay = house.program_with(&house.server.endpoint(), COPYING);
    // nothing is there to be copied yet
    assert_eq!(backstay.succeed(&["backup", "offsite", "--json"]).json()["copied"], serde_json::json!([]));
    let own: Vec<String> =
        (0..3).map(|_| backstay.succeed(&["backup", "other", "--json"]).json()["name"].as_str().expect("a name").to_owned()).collect();
    let made: Vec<String> =
        (0..3).map(|_| backstay.succeed(&["backup", "default", "--json"]).json()["name"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(names(&backstay, "local"), made, "a target that is filled by copying is no other job's by default");

    let first = backstay.succeed(&["backup", "offsite", "--json"]).json();
    assert_eq!((first["status"].as_str(), first["copied"].as_array().map(Vec::len)), (Some("complete"), Some(2)));
    // those that the other job wrote there are its own business
    assert_eq!(names(&backstay, "offsite"), [&made[1..], &own[..]].concat());
    let (local, remote) = house.both(&made[2]).await;
    assert!(local == remote, "{:?}", remote.keys());

    let fourth = backstay.succeed(&["backup", "default", "--json"]).json()["name"].as_str().expect("a name").to_owned();
    let second = backstay.succeed(&["backup", "offsite", "--json"]).json();
    assert_eq!(second["copied"].as_array().map(|rows| rows.iter().map(|row| row["name"].as_str()).collect()), Some(vec![Some(&*fourth)]));
    assert_eq!(second["pruned"], serde_json::json!([made[1]]));
    assert_eq!(
        backstay.succeed(&["backup", "offsite", "--json"]).json()["copied"],
        serde_json::json!([]),
        "what has gone does not come back"
    );
    assert_eq!(names(&backstay, "offsite"), [&[made[2].clone(), fourth.clone()], &own[..]].concat());

    let plan = backstay.succeed(&["prune", "--job", "offsite", "--dry-run", "--json"]).json();
    let plan: Vec<_> = plan.as_array().expect("rows").iter().map(|row| (row["name"].as_str(), row["keep"].as_bool())).collect();
    assert_eq!(plan, [(Some(&*fourth), Some(true)), (Some(&*made[2]), Some(true))]);
    let told = backstay.succeed(&["check", "--config-only"]).stdout;
    assert!(told.contains("copies from local into offsite; after each run of default"), "{told}");
    backstay.run(&["backup", "offsite", "--only", "media"]).expect_code(2);
    backstay.run(&["backup", "nowhere"]).expect_code(10).expect_message("default, other, offsite");
}

/// A copy that fails leaves what is there, retention included, and says so.
#[tokio::test]
async fn a_job_that_copies_removes_nothing_before_what_replaces_it_is_there() {
    let house = House::new();
    let backstay = house.program_with(&house.server.endpoint(), COPYING);
    let make = || backstay.succeed(&["backup", "default", "--json"]).json()["name"].as_str().expect("a name").to_owned();
    let made = [make(), make()];
    backstay.succeed(&["backup", "offsite"]);
    let (third, fourth) = (make(), make());
    let artifact = house.place.join("store").join(&third).join("media/media.tar.gz");
    let whole = std::fs::read(&artifact).expect("read");
    std::fs::write(&artifact, &whole[..whole.len() - 1]).expect("written");
    let failed = backstay.run(&["backup", "offsite", "--json"]);
    assert!(matches!(failed.code, Some(3 | 12)), "{:?}", failed.code);
    assert_eq!(failed.json()["status"], "partial");
    assert_eq!(names(&backstay, "offsite"), [&made[..], std::slice::from_ref(&fourth)].concat());
    std::fs::write(&artifact, whole).expect("written");
    backstay.succeed(&["backup", "offsite"]);
    assert_eq!(names(&backstay, "offsite"), [third, fourth]);
}

/// What a job has left that was renamed is copied, and not removed by the policy of those that are.
#[tokio::test]
async fn what_jobs_have_left_that_are_no_more_stays_where_it_was_copied_to() {
    let house = House::new();
    std::fs::remove_file(house.place.join("media/large")).expect("removed");
    let backstay = house.program_with(&house.server.endpoint(), &COPYING.replace("keep_last = 2", "keep_last = 3"));
    let made: Vec<String> =
        (0..3).map(|_| backstay.succeed(&["backup", "default", "--json"]).json()["name"].as_str().expect("a name").to_owned()).collect();
    backstay.succeed(&["backup", "offsite"]);
    assert_eq!(names(&backstay, "offsite"), made);
    let renamed = COPYING.replace("[jobs.default]", "[jobs.nightly]").replace("keep_last = 2", "keep_last = 1");
    let backstay = house.program_with(&house.server.endpoint(), &renamed);
    let new: Vec<String> =
        (0..2).map(|_| backstay.succeed(&["backup", "nightly", "--json"]).json()["name"].as_str().expect("a name").to_owned()).collect();
    backstay.succeed(&["backup", "offsite"]);
    assert_eq!(names(&backstay, "offsite"), [&made[..], &new[1..]].concat());
    assert_eq!(backstay.succeed(&["prune", "--job", "offsite", "--json"]).json().as_array().map(Vec::len), Some(1));
    assert_eq!(names(&backstay, "offsite"), [&made[..], &new[1..]].concat());
}

/// A directory that is not mounted looks as if nothing was ever backed up.
#[tokio::test]
async fn a_source_that_is_gone_is_no_success() {
    let house = House::new();
    std::fs::remove_file(house.place.join("media/large")).expect("removed");
    let backstay = house.program_with(&house.server.endpoint(), COPYING);
    backstay.succeed(&["backup", "default"]);
    backstay.succeed(&["backup", "offsite"]);
    std::fs::rename(house.place.join("store"), house.place.join("unmounted")).expect("renamed");
    let text = "target `local` holds no backup, and `offsite` does";
    backstay.run(&["backup", "offsite"]).expect_code(3).expect_message(text);
    std::fs::create_dir(house.place.join("store")).expect("made");
    backstay.run(&["backup", "offsite"]).expect_code(3).expect_message(text);
    assert_eq!(names(&backstay, "offsite").len(), 1);
}

/// The whole of it by the worker: a backup is made by its schedule, and copied after that.
#[tokio::test]
async fn the_worker_copies_after_a_run() {
    let house = House::new();
    let jobs = COPYING
        .replace("[jobs.default]\n", "[jobs.default]\nschedule = \"* * * * * *\"\n")
        .replace("[jobs.other]\n", "[jobs.other]\nschedule = \"\"\n");
    let backstay = house.program_with(&house.server.endpoint(), &(jobs + "[worker]\nlisten = \"\"\n"));
    let mut worker = Running::start(&backstay);
    worker.line_with(&["job=offsite", "runs after each run of default"]);
    worker.line_with(&["backup copied", "target=offsite"]);
    worker.line_with(&["job=offsite", "run complete"]);
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.code(), Some(0));
    assert!(!names(&backstay, "offsite").is_empty());
}

#[tokio::test]
async fn what_is_damaged_claimed_or_not_there_is_not_copied() {
    let house = House::new();
    let backstay = house.program(&house.server.endpoint());
    let name = backstay.backup();
    // a run that only sleeps would remove what was copied to its name
    let claim = object_store::path::Path::from(format!("copies/{name}/SHA256SUMS"));
    house.server.bucket("backups").put(&claim, "# host process 1 is at work on this backup: x\n".into()).await.expect("stored");
    backstay.run(&["copy", &name, "--from", "local", "--to", "offsite"]).expect_code(3).expect_message("what a run has left");
    house.server.bucket("backups").delete(&claim).await.expect("deleted");
    let artifact = house.place.join("store").join(&name).join("media/media.tar.gz");
    let mut bytes = std::fs::read(&artifact).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&artifact, bytes).expect("written");
    let failed = backstay.run(&["copy", "--all", "--from", "local", "--to", "offsite"]).expect_code(12);
    assert!(failed.stderr.contains("media/media.tar.gz") && failed.stderr.contains("local"), "{}", failed.stderr);
    assert_eq!(backstay.succeed(&["listbackups", "--target", "offsite", "--json"]).json(), serde_json::json!([]));

    backstay.run(&["copy", "default-2026-01-02-030405", "--from", "local", "--to", "offsite"]).expect_code(10);
    backstay.run(&["copy", "nonsense", "--from", "local", "--to", "offsite"]).expect_code(10);
    backstay.run(&["copy", &name, "--from", "local", "--to", "nowhere"]).expect_code(10);
    backstay.run(&["copy", &name, "--from", "local", "--to", "local"]).expect_code(2);
    backstay.run(&["copy", "--from", "local", "--to", "offsite"]).expect_code(2);
}
