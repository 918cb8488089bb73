//! Google Cloud Storage, by a stand-in.

use backstay::secret::Secret;
use backstay::storage::{GcsCredentials, GcsOptions, Location, TargetOptions};

use super::{House, assert_leases_hold, keys, lives_through_kills, sweep_the_dead};
use crate::support::{Google, toml};

fn target(endpoint: &str, key: &str) -> String {
    format!(
        "[targets.cloud]\nurl = \"gs://{}/some/prefix\"\nendpoint = {}\nallow_http = true\nservice_account = {}\n",
        Google::BUCKET,
        toml::quoted(endpoint),
        toml::quoted(key)
    )
}

fn of(server: &Google) -> String {
    target(&server.endpoint(), &server.key)
}

/// As `of`.
fn options(server: &Google) -> TargetOptions {
    let options = GcsOptions {
        credentials: GcsCredentials::Account(Secret::parse(&server.key)),
        endpoint: Some(server.endpoint()),
        allow_http: true,
        ..GcsOptions::default()
    };
    let location = Location::Gcs { bucket: Google::BUCKET.into(), prefix: "some/prefix".into(), options: Box::new(options) };
    TargetOptions { name: "cloud".parse().expect("a name"), location, limit: None }
}

#[tokio::test]
async fn backups_live_in_a_bucket_of_google() {
    let server = Google::start();
    let house = House::new(20, &of(&server));
    let name = house.lives_through_two_backups();
    let found = keys(&server.server().bucket(Google::BUCKET)).await;
    let expected = ["SHA256SUMS", "manifest.json", "media/media.tar"].map(|file| format!("some/prefix/{name}/{file}"));
    assert_eq!(found, expected, "nothing is left of the first");
    assert_eq!(server.server().unfinished_uploads(Google::BUCKET), [""; 0]);
}

#[tokio::test]
async fn a_lease_in_a_bucket_of_google_is_held_by_one() {
    let server = Google::start();
    let house = House::new(0, &of(&server));
    assert_leases_hold(&house, &options(&server)).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_of_google_is_said_and_no_secret_is() {
    let (server, other) = (Google::start(), Google::start());
    let house = House::new(0, &of(&server));
    let cases = [
        (target(&server.endpoint(), &other.key), "AuthenticationRequired", "service_account"),
        (of(&server).replace("gs://backups", "gs://nowhere"), "NoSuchBucket", "Create the bucket"),
        (target(&server.endpoint(), "\"canary-no-key\""), "service_account", "in JSON"),
        (target("http://127.0.0.1:9", &server.key), "Connection refused", "endpoint"),
    ];
    for (target, message, advice) in cases {
        house.configure(&target);
        let outcome = house.backstay.run(&["backup"]).expect_code(3).expect_message(message).expect_message(advice);
        let said = [outcome.stdout, outcome.stderr].concat();
        assert!(["canary", "PRIVATE KEY", "Bearer"].iter().all(|secret| !said.contains(secret)), "{said}");
    }
    assert_eq!(keys(&server.server().bucket(Google::BUCKET)).await, [""; 0]);
}

#[tokio::test]
async fn an_upload_to_google_that_breaks_leaves_nothing() {
    for mark in ["partNumber=2", "POST /backups/some%2Fprefix%2Fdefault"] {
        let server = Google::start_cutting(mark);
        let house = House::new(20, &of(&server));
        house.backstay.run(&["backup"]).expect_code(3).expect_message("cloud");
        assert!(server.cut() > 1, "{mark}: it was tried again");
        assert_eq!(house.listed(), [""; 0]);
        assert_eq!(keys(&server.server().bucket(Google::BUCKET)).await, [""; 0], "{mark}");
        assert_eq!(server.server().unfinished_uploads(Google::BUCKET), [""; 0], "{mark}");
    }
}

/// A rule of the bucket ends uploads that nobody ended.
#[tokio::test]
async fn a_backup_to_google_killed_at_its_requests_costs_nothing() {
    let server = Google::start();
    let house = House::new(9, &of(&server));
    let section = |base: &str| format!("{}part_size = \"5MiB\"\n", target(base, &server.key));
    lives_through_kills(&house, server.port(), 13, section);
    sweep_the_dead(&options(&server)).await;
    let [name] = &house.listed()[..] else { panic!("one is kept") };
    let left = keys(&server.server().bucket(Google::BUCKET)).await;
    assert!(left.iter().all(|key| key.contains(name)), "{left:?}");
}
