//! A bucket as a source, and restores between buckets and directories.

use std::collections::BTreeMap;
use std::process::Command;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutOptions, PutPayload};

use crate::support::process::output;
use crate::support::{Backstay, Gate, Moto, Row, Scratch, Seaweed, Side, Tree, assert_same_tree, toml};

/// Content and type of each object, by its key.
type Objects = BTreeMap<String, (Vec<u8>, String)>;

async fn objects(bucket: &AmazonS3) -> Objects {
    let listed: Vec<_> = bucket.list(None).try_collect().await.expect("listed");
    let read = |meta: object_store::ObjectMeta| async move {
        let got = bucket.get(&meta.location).await.expect("read");
        let kind = got.attributes.get(&Attribute::ContentType).map(|kind| kind.as_ref().to_owned()).unwrap_or_default();
        (meta.location.to_string(), (got.bytes().await.expect("read").to_vec(), kind))
    };
    stream::iter(listed).map(read).buffer_unordered(16).collect().await
}

async fn put(bucket: &AmazonS3, key: impl AsRef<str>, content: Vec<u8>, kind: &'static str) {
    let attributes = Attributes::from_iter([(Attribute::ContentType, kind), (Attribute::CacheControl, "max-age=60")]);
    let options = PutOptions { attributes, ..PutOptions::default() };
    bucket.put_opts(&key.as_ref().into(), PutPayload::from(content), options).await.expect("stored");
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut noise);
    noise
}

/// Without the directories that are there by default.
fn job(components: &[&str]) -> String {
    format!("[jobs.default]\ncomponents = {components:?}\n")
}

/// authentik's bucket on SeaweedFS, a directory for backups, and the program over both.
struct House {
    server: Seaweed,
    store: Scratch,
}

impl House {
    const BUCKET: &str = "authentik-data";

    fn new() -> Self {
        let server = Seaweed::start();
        server.create_bucket(Self::BUCKET);
        Self { server, store: Scratch::new() }
    }

    fn bucket(&self) -> AmazonS3 {
        self.server.bucket(Self::BUCKET)
    }

    fn section(&self, url: &str, endpoint: &str) -> String {
        toml::bucket("media-bucket", url, endpoint, &self.server.access_key, &self.server.secret_key)
    }

    /// `more` are other components, by their sections.
    fn program(&self, others: &[&str], more: &str) -> Backstay {
        let components: Vec<&str> = [&["media-bucket"], others].concat();
        self.by(&self.server.endpoint(), &[job(&components), more.to_owned()].concat())
    }

    /// Through something in front of the server.
    fn by(&self, endpoint: &str, more: &str) -> Backstay {
        let bucket = self.section(&format!("s3://{}", Self::BUCKET), endpoint);
        Backstay::new(&[toml::file_target("local", self.store.path()), bucket, more.to_owned()].concat())
    }
}

#[test]
fn every_key_comes_back_with_its_headers() {
    let (server, store) = (Moto::start(), Scratch::new());
    let bucket = toml::bucket("media-bucket", &format!("s3://{}", Moto::BUCKET), &server.endpoint(), "id", "key");
    let backstay = Backstay::new(&[toml::file_target("local", store.path()), bucket, job(&["media-bucket"])].concat());
    // as they stand in a URL
    let keys = [
        "icons/app.png",
        "a//b",
        "/lead",
        "a",
        "a/b",
        "dir/",
        "dir/x",
        "with%20space",
        "plus%2Bplus",
        "%C3%BC/%E2%9C%93",
        "%26%3C%3E%22%27",
        "percent%2525",
        "tail.",
        "%7Btilde~%7D",
    ];
    let headers = "Content-Type: image/x-test\r\nCache-Control: max-age=7\r\nx-amz-meta-owner: someone\r\n";
    let content = |key: &str| if key.ends_with('/') { Vec::new() } else { format!("content of {key}").into_bytes() };
    for key in keys {
        assert_eq!(server.object("PUT", key, headers, &content(key)).status, 200, "{key}");
    }
    let name = backstay.backup();
    backstay.succeed(&["verify", &name]);
    backstay.succeed(&["verify", &name, "--drill"]);
    for key in keys {
        assert_eq!(server.object("DELETE", key, "", b"").status, 204, "{key}");
    }
    server.object("PUT", "icons/app.png", "", b"another");
    server.object("PUT", "later", "", b"added after the backup");

    let restored = backstay.succeed(&["restore", &name, "--yes"]).stdout;
    assert!(restored.contains("keys, contents and headers of 14 objects are as they were backed up"), "{restored}");
    for key in keys {
        let got = server.object("GET", key, "", b"");
        assert_eq!((got.status, got.body.as_slice()), (200, content(key).as_slice()), "{key}");
        let kept = [got.header("content-type"), got.header("cache-control"), got.header("x-amz-meta-owner")];
        assert_eq!(kept, ["image/x-test", "max-age=7", "someone"], "{key}");
    }
    assert_eq!(server.object("GET", "later", "", b"").status, 200, "what the backup does not hold stays");
    let list = server.object("GET", "?list-type=2&prefix=.backstay", "", b"");
    assert!(!String::from_utf8_lossy(&list.body).contains("<Key>"), "left behind: {list:?}");

    backstay.succeed(&["restore", &name, "--yes", "--delete-extra"]);
    assert_eq!(server.object("GET", "later", "", b"").status, 404);
    assert_eq!(server.object("GET", "a//b", "", b"").status, 200);
}

#[tokio::test]
async fn more_than_a_page_of_objects_goes_from_bucket_to_bucket() {
    let house = House::new();
    let bucket = house.bucket();
    stream::iter(0..1_040).for_each_concurrent(32, |n| put(&bucket, format!("media/{:02}/{n}", n % 40), noise(1, n), "text/x-n")).await;
    put(&bucket, "media/large", noise(2, 21 << 20), "video/mp4").await;
    put(&bucket, "media/empty", Vec::new(), "text/plain").await;
    let before = objects(&bucket).await;
    assert_eq!(before.len(), 1_042);
    // backups in the same bucket are no part of it
    let beside = toml::s3_target("beside", &house.server, &format!("{}/backups", House::BUCKET));
    let backstay = house.program(&[], &beside);
    let done = backstay.succeed(&["backup", "--json"]).json();
    let name = done["name"].as_str().expect("a name");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(house.store.path().join(name).join("manifest.json")).expect("a manifest")).expect("JSON");
    let component = &manifest["components"][0];
    assert_eq!((component["kind"].as_str(), component["facts"]["objects"].as_u64()), (Some("bucket"), Some(1_042)));

    house.server.create_bucket("other");
    let into = "media-bucket=s3://other/moved";
    let other = house.section("s3://other", &house.server.endpoint()).replace("media-bucket", "other");
    let backstay = house.program(&["other"], &[beside, other].concat());
    backstay.succeed(&["restore", name, "--target", "local", "--only", "media-bucket", "--yes", "--into", into]);
    let moved: Objects = before.iter().map(|(key, object)| (format!("moved/{key}"), object.clone())).collect();
    let got = objects(&house.server.bucket("other")).await;
    assert!(got == moved, "{} objects in place of {}", got.len(), moved.len());

    // nor does a restore touch them, whatever it deletes
    put(&bucket, "media/later", b"added after the backup".to_vec(), "text/plain").await;
    backstay.succeed(&["restore", name, "--target", "local", "--only", "media-bucket", "--yes", "--no-safety-backup", "--delete-extra"]);
    assert!(bucket.head(&"media/later".into()).await.is_err());
    backstay.succeed(&["verify", name, "--target", "beside"]);
    let among = format!("media-bucket=s3://{}/backups/x", House::BUCKET);
    let args = ["restore", name, "--target", "local", "--only", "media-bucket", "--yes", "--into", among.as_str()];
    backstay.run(&args).expect_code(1).expect_message("is where a target keeps backups");
}

#[tokio::test]
async fn files_move_into_a_bucket_and_back() {
    let house = House::new();
    let site = Scratch::new();
    for (path, content) in
        [("media/public/app.png", noise(3, 4_000)), ("media/public/logo.svg", b"<svg/>".to_vec()), ("reports/a", noise(4, 9 << 20))]
    {
        site.write(format!("data/{path}"), content);
    }
    std::fs::create_dir(site.join("data/empty")).expect("created");
    std::os::unix::fs::symlink("app.png", site.join("data/media/public/link")).expect("created");
    std::fs::hard_link(site.join("data/media/public/app.png"), site.join("data/media/public/same.png")).expect("created");
    let backstay = house.program(&["data"], &toml::directory("data", &site.join("data")));
    let name = backstay.backup();

    let into = format!("data=s3://{}", House::BUCKET);
    let restored = backstay.succeed(&["restore", &name, "--only", "data", "--yes", "--into", &into]);
    let told = [restored.stdout, restored.stderr].concat();
    assert!(told.contains("`media/public/link` was left out: it is a symbolic link"), "{told}");
    let found = objects(&house.bucket()).await;
    let kinds: Vec<(&str, &str)> = found.iter().map(|(key, (_, kind))| (key.as_str(), kind.as_str())).collect();
    let expected = [
        ("media/public/app.png", "image/png"),
        ("media/public/logo.svg", "image/svg+xml"),
        ("media/public/same.png", "image/png"),
        ("reports/a", "application/octet-stream"),
    ];
    assert_eq!(kinds, expected);
    for (key, (content, _)) in &found {
        assert!(*content == std::fs::read(site.join("data").join(key)).expect("read"), "{key}");
    }

    // and back: the files, their types with them, and into the bucket once more
    put(&house.bucket(), "media/public/odd.png", b"no picture".to_vec(), "text/x-odd").await;
    let before = objects(&house.bucket()).await;
    let name = backstay.backup();
    let look = site.join("look");
    backstay.succeed(&["restore", &name, "--only", "media-bucket", "--yes", "--into", &format!("media-bucket={}", look.display())]);
    for (key, (content, _)) in &before {
        assert!(*content == std::fs::read(look.join(key)).expect("read"), "{key}");
    }
    let part = site.join("part");
    let into = format!("media-bucket={}", part.display());
    backstay.succeed(&["restore", &name, "--only", "media-bucket", "--path", "*.svg", "--yes", "--into", &into]);
    assert_eq!(Tree::of(&part).len(), 4, "{:?}: the folders and one file", Tree::of(&part));
    backstay.run(&["restore", &name, "--only", "media-bucket", "--path", "*.svg", "--yes"]).expect_code(1).expect_message("--into");
    let again = house.program(&["look"], &toml::directory("look", &look));
    let moved = again.succeed(&["backup", "--json", "--only", "look"]).json();
    house.server.create_bucket("again");
    let section = house.section("s3://again", &house.server.endpoint()).replace("media-bucket", "again");
    let again = house.program(&["again", "look"], &[section, toml::directory("look", &look)].concat());
    again.succeed(&["restore", moved["name"].as_str().expect("a name"), "--only", "look", "--yes", "--into", "look=s3://again"]);
    assert!(objects(&house.server.bucket("again")).await == before, "keys, contents and types came back");

    // stock tar unpacks the same
    let plain = site.join("plain");
    backstay.succeed(&["export", &name, plain.to_str().expect("UTF-8"), "--only", "media-bucket"]);
    let unpacked = site.join("unpacked");
    std::fs::create_dir(&unpacked).expect("created");
    let archive = plain.join("media-bucket/media-bucket.tar");
    let tar = output(Command::new("tar").args(["-x", "--xattrs", "--xattrs-include=user.*", "-C"]).arg(&unpacked).arg("-f").arg(archive));
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_same_tree(&Tree::of(&look), &Tree::of(&unpacked));
    assert!(std::fs::read_to_string(plain.join("RESTORE.md")).expect("read").contains("aws s3 sync"));
}

/// A restore that is killed at each request that changes something leaves what the next command brings to the new state, or to the old.
#[tokio::test]
async fn a_restore_into_a_bucket_that_is_killed_ends_as_new_or_old() {
    let house = House::new();
    let bucket = house.bucket();
    for n in 0..3 {
        put(&bucket, format!("{n}"), noise(n, 100), "text/plain").await;
    }
    let backstay = house.program(&[], "");
    let name = backstay.backup();
    let new = objects(&bucket).await;
    bucket.delete(&"0".into()).await.expect("deleted");
    put(&bucket, "1", noise(9, 50), "text/x-old").await;
    put(&bucket, "extra", noise(8, 50), "text/x-old").await;
    let old = objects(&bucket).await;
    let mut expected = new.clone();
    expected.insert("extra".into(), old["extra"].clone());
    let args = ["restore", name.as_str(), "--yes", "--no-safety-backup"];
    let mut kills = 0;
    for side in [Side::Before, Side::After] {
        for at in 1.. {
            // back to the beginning
            for key in found_keys(&bucket).await {
                bucket.delete(&key.as_str().into()).await.expect("deleted");
            }
            for (key, (content, kind)) in &old {
                let attributes =
                    Attributes::from_iter([(Attribute::ContentType, kind.clone()), (Attribute::CacheControl, "max-age=60".into())]);
                let options = PutOptions { attributes, ..PutOptions::default() };
                bucket.put_opts(&key.as_str().into(), content.clone().into(), options).await.expect("stored");
            }
            let gate = Gate::new(house.server.port(), "/", at, side);
            if !gate.kill(&house.by(&gate.endpoint(), &job(&["media-bucket"])), &args) {
                break;
            }
            kills += 1;
            let (flag, wanted) = if at % 2 == 0 { ("--resume", &expected) } else { ("--rollback", &old) };
            let ended = backstay.run(&["restore", flag, "--yes"]);
            let found = objects(&bucket).await;
            match ended.code {
                Some(0) => assert!(found == *wanted, "{flag} after request {at} ({side:?}): {:?}", found.keys()),
                // there is no way back any more, or nothing was staged to go on with
                Some(2) => {
                    let other = if flag == "--resume" { "--rollback" } else { "--resume" };
                    backstay.succeed(&["restore", other, "--yes"]);
                    let found = objects(&bucket).await;
                    assert!(found == old || found == expected, "{other} after request {at} ({side:?}): {:?}", found.keys());
                }
                // killed before the journal began, or after it ended
                _ => {
                    ended.expect_code(10);
                    assert!(found == old || found == expected, "after request {at} ({side:?}): {:?}", found.keys());
                }
            }
        }
    }
    assert!(kills > 20, "only {kills}");
    Row {
        scenario: "the program restores a bucket in place",
        faults: "SIGKILL before or after a request that changes it, then --resume or --rollback",
        runs: kills,
    }
    .print();
}

async fn found_keys(bucket: &AmazonS3) -> Vec<String> {
    bucket.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.expect("listed")
}

#[test]
fn what_is_wrong_with_a_bucket_is_said() {
    let house = House::new();
    let fails = |config: String, message: &str| {
        let backstay = Backstay::new(&[toml::file_target("local", house.store.path()), config, job(&["media-bucket"])].concat());
        let outcome = backstay.run(&["backup"]).expect_code(3);
        assert!(outcome.stderr.contains(message), "{message}: {}", outcome.stderr);
        backstay.run(&["check"]).expect_code(3);
    };
    let good = house.section(&format!("s3://{}", House::BUCKET), &house.server.endpoint());
    fails(good.replace(House::BUCKET, "nowhere"), "Create the bucket, or correct the `url` of the bucket's section");
    fails(good.replace(&house.server.access_key, "AKOTHER"), "Check `access_key_id` of the bucket's section");
    fails(good.replace(&house.server.secret_key, "another"), "Check `secret_access_key` and `region` of the bucket's section");
    let same = [good, toml::s3_target("same", &house.server, House::BUCKET)].concat();
    Backstay::new(&same).run(&["backup"]).expect_code(78).expect_message("give the target a prefix of its own");
}
