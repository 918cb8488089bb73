//! Targets of each kind besides directories and S3: the same life of a backup in all of them, and what goes wrong in each.

mod azure;
mod google;
mod sftp;
mod webdav;

use backstay::catalog::Catalog;
use backstay::name::JobName;
use backstay::storage::{Access, Lease, Target, TargetOptions};
use chrono::{TimeDelta, Utc};
use futures_util::TryStreamExt;
use object_store::ObjectStore;

use crate::support::{Backstay, Gate, Scratch, Side, Tree, assert_same_tree, toml};

const MIB: usize = 1 << 20;

/// A directory that no compression makes smaller, and a program that backs it up into the target `cloud`.
struct House {
    source: Scratch,
    backstay: Backstay,
}

impl House {
    /// `target` is a section of the configuration.
    fn new(mib: usize, target: &str) -> Self {
        let source = Scratch::new();
        let mut noise = vec![0; mib * MIB + 12_345];
        blake3::Hasher::new_keyed(&[11; 32]).finalize_xof().fill(&mut noise);
        source.write("media/large", noise);
        source.write("media/a folder/grüße.txt", "small");
        // behind the large one in an archive
        source.write("media/zz-marked", "small");
        let backstay = Backstay::new("");
        let house = Self { source, backstay };
        house.configure(target);
        house
    }

    fn configure(&self, target: &str) {
        let job = "[jobs.default]\ncomponents = [\"media\"]\ncompression = \"none\"\nkeep_last = 1\n";
        self.backstay.configure(&[job, &toml::directory("media", &self.source.join("media")), target].concat());
    }

    #[track_caller]
    fn assert_restores(&self, name: &str) {
        let out = self.source.join("out");
        self.backstay.succeed(&["restore", name, "--yes", "--into", &format!("media={}", out.display())]);
        assert_same_tree(&Tree::of(&self.source.join("media")), &Tree::of(&out));
        std::fs::remove_dir_all(&out).expect("remove what was restored");
    }

    #[track_caller]
    fn listed(&self) -> Vec<String> {
        let list = self.backstay.succeed(&["listbackups", "--json"]).json();
        let name = |backup: &serde_json::Value| {
            assert_eq!(backup["status"], "complete");
            backup["name"].as_str().expect("a name").to_owned()
        };
        list.as_array().expect("an array").iter().map(name).collect()
    }

    /// What no operator should miss: it is checked, made, listed, verified, restored, and replaced by the next.
    #[track_caller]
    fn lives_through_two_backups(&self) -> String {
        self.backstay.succeed(&["check"]);
        let first = self.backstay.backup();
        assert_eq!(self.listed(), [first.as_str()]);
        self.backstay.succeed(&["verify", &first]);
        self.assert_restores(&first);
        self.source.write("media/new", "more");
        let second = self.backstay.backup();
        assert_eq!(self.listed(), [second.as_str()]);
        self.assert_restores("latest");
        second
    }
}

/// The program is killed by SIGKILL at every `usual`-th request of a backup, before the server at `port` hears of it and before it hears the
/// answer. `section` is that of the target, by way of what listens at a URL.
#[track_caller]
fn lives_through_kills(house: &House, port: u16, usual: usize, section: impl Fn(&str) -> String) {
    let direct = section(&format!("http://127.0.0.1:{port}"));
    house.configure(&direct);
    house.backstay.backup();
    let (mut kills, mut unseen) = (0, 0);
    let step = if std::env::var_os("BACKSTAY_THOROUGH").is_some() { 1 } else { usual };
    for (side, first) in [(Side::Before, 1), (Side::After, 1 + step / 2)] {
        for at in (first..).step_by(step) {
            let before = house.listed();
            let gate = Gate::at(port, at, side);
            house.configure(&section(&gate.endpoint()));
            let killed = gate.kill(&house.backstay, &["backup"]);
            house.configure(&direct);
            let after = house.listed();
            // with its manifest a backup exists, and the one before may have gone
            assert!(after == before || after.iter().any(|name| !before.contains(name)), "{side:?} request {at}: {before:?}, {after:?}");
            house.backstay.succeed(&["verify", "--all"]);
            if !killed {
                break;
            }
            (kills, unseen) = (kills + 1, unseen + usize::from(after == before));
            let name = house.backstay.backup();
            assert_eq!(house.listed(), [name], "{side:?} request {at}");
        }
    }
    assert!(unseen > 2 && kills > unseen, "{kills} kills, {unseen} before there was a backup");
    house.assert_restores("latest");
}

/// What killed backups have left lies there for a day, and goes then.
async fn sweep_the_dead(options: &TargetOptions) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let catalog = Catalog::new(Target::open(options, Access::Write).expect("a target"));
    let job: JobName = "default".parse().expect("a name");
    for (hours, some) in [(23, false), (25, true)] {
        let swept = catalog.sweep(&job, Utc::now() + TimeDelta::hours(hours)).await.expect("swept");
        assert_ne!(swept.is_empty(), some, "{swept:?}");
    }
}

/// All keys, but those below `.backstay`.
async fn keys(store: &dyn ObjectStore) -> Vec<String> {
    let all: Vec<String> = store.list(None).map_ok(|object| object.location.to_string()).try_collect().await.expect("list");
    all.into_iter().filter(|key| !key.contains(".backstay/")).collect()
}

/// A job whose lease another holds is refused, and free when it is given back.
async fn assert_leases_hold(house: &House, options: &TargetOptions) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let target = Target::open(options, Access::Write).expect("a target");
    let job: JobName = "default".parse().expect("a name");
    let lease = Lease::acquire(&target, &job, "another host").await.expect("free");
    lease.confirm().await.expect("ours");
    assert!(Lease::acquire(&target, &job, "a third").await.is_err_and(|error| error.is_busy()));
    let key = target.layout().lease(&(&job).into(), 1);
    assert!(target.create(&key, "x".into(), "text/plain").await.is_err(), "what is there is not replaced");
    house.backstay.run(&["backup"]).expect_code(11).expect_message("another host");
    lease.release().await;
    house.backstay.succeed(&["backup"]);
}
