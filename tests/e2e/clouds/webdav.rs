//! WebDAV, by Apache's mod_dav and by rclone.

use std::path::Path;
use std::process::Command;

use backstay::secret::Secret;
use backstay::storage::{Location, TargetOptions, WebDavCredentials, WebDavOptions};

use super::{House, assert_leases_hold, lives_through_kills, sweep_the_dead};
use crate::support::apache::files;
use crate::support::process::run;
use crate::support::{Apache, Authority, Rclone, Relay, toml};

fn target(url: &str, credentials: &str) -> String {
    let http = if url.starts_with("http:") { "allow_http = true\n" } else { "" };
    format!("[targets.cloud]\nurl = {}\n{http}{credentials}\n", toml::quoted(url))
}

fn as_user(url: &str, user: &str, password: &str) -> String {
    target(url, &format!("user = {}\npassword = {}", toml::quoted(user), toml::quoted(password)))
}

/// As `as_user`.
fn options(url: String, user: &str, password: &str) -> TargetOptions {
    let credentials = WebDavCredentials::Basic { user: user.into(), password: Secret::parse(password) };
    let options = WebDavOptions { credentials, allow_http: true, ..WebDavOptions::default() };
    let location = Location::WebDav { url, options: Box::new(options) };
    TargetOptions { name: "cloud".parse().expect("a name"), location, limit: None }
}

fn by_apache(base: &str) -> String {
    as_user(&format!("{base}/dav/backups"), Apache::USER, Apache::PASSWORD)
}

/// What lies in a folder, but for what is below `.backstay`.
fn stored(folder: &Path) -> Vec<String> {
    files(folder).into_iter().filter(|path| !path.starts_with(".backstay/")).collect()
}

/// No half of anything is left, finished or not.
#[track_caller]
fn assert_nothing_counts(house: &House, folder: &Path) {
    assert_eq!(stored(folder), [""; 0]);
    assert_eq!(house.listed(), [""; 0]);
}

/// Until a large part of an archive lies aside: what is small, such as the claim of a name, was moved before.
fn wait_for_a_body(folder: &Path) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let size = |path: &String| std::fs::metadata(folder.join(path)).map_or(0, |meta| meta.len());
    while !files(folder).iter().any(|path| path.contains("unfinished") && size(path) > 1 << 20) {
        assert!(std::time::Instant::now() < deadline, "it does not begin");
        std::thread::yield_now();
    }
}

/// A name that nobody used, and nothing of what it was for.
#[track_caller]
fn assert_only_a_claim(folder: &Path) {
    let stored = stored(folder);
    let [sums] = &stored[..] else { panic!("{stored:?}") };
    assert!(sums.ends_with("/SHA256SUMS"), "{stored:?}");
}

fn assert_only(folder: &Path, name: &str) {
    let expected = ["SHA256SUMS", "manifest.json", "media/media.tar"].map(|file| format!("{name}/{file}"));
    assert_eq!(stored(folder), expected, "nothing is left of the first");
    let unfinished: Vec<_> = files(folder).into_iter().filter(|path| path.contains("unfinished")).collect();
    assert_eq!(unfinished, [""; 0]);
}

#[test]
fn backups_live_on_apache() {
    let server = Apache::start();
    let house = House::new(20, &by_apache(&server.url()));
    let name = house.lives_through_two_backups();
    assert_only(&server.folder(), &name);
    let stored = server.folder().join(&name);
    run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(stored));
    // the same folder, by a token
    house.configure(&target(&format!("{}/token/backups/", server.url()), &format!("token = {}", toml::quoted(Apache::TOKEN))));
    house.assert_restores(&name);
    house.lives_through_two_backups();
}

#[test]
fn backups_live_on_a_server_with_a_certificate_of_ones_own() {
    let authority = Authority::new();
    let server = Apache::start_tls(&authority);
    let trusting = format!("{}ca_file = {}\n", by_apache(&server.url()), toml::quoted(authority.ca().display().to_string()));
    let house = House::new(9, &trusting);
    house.lives_through_two_backups();
    house.configure(&by_apache(&server.url()));
    house.backstay.run(&["backup"]).expect_code(3).expect_message("UnknownIssuer").expect_message("ca_file");
}

#[test]
fn backups_live_on_the_server_of_rclone() {
    let server = Rclone::start();
    let house = House::new(20, &as_user(&server.url(), Rclone::USER, Rclone::PASSWORD));
    let name = house.lives_through_two_backups();
    assert_only(&server.folder(), &name);
}

#[tokio::test]
async fn a_lease_on_a_webdav_server_is_held_by_one() {
    let (apache, rclone) = (Apache::start(), Rclone::start());
    let apache_url = format!("{}/dav/backups", apache.url());
    for (url, user, password) in [(apache_url, Apache::USER, Apache::PASSWORD), (rclone.url(), Rclone::USER, Rclone::PASSWORD)] {
        let house = House::new(0, &as_user(&url, user, password));
        assert_leases_hold(&house, &options(url, user, password)).await;
    }
}

#[test]
fn what_is_wrong_with_a_webdav_server_is_said_and_no_secret_is() {
    let server = Apache::start();
    let house = House::new(0, &by_apache(&server.url()));
    let at = |path: &str| format!("{}{path}", server.url());
    let cases = [
        (as_user(&at("/dav/backups"), Apache::USER, "canary-wrong"), "401", "password"),
        (as_user(&at("/dav/backups"), Apache::READER, Apache::PASSWORD), "401", "password"),
        (target(&at("/token/backups"), "token = \"canary-wrong\""), "403", "right to read"),
        (as_user(&at("/dav/nowhere"), Apache::USER, Apache::PASSWORD), "no such folder", "Create the folder"),
        (as_user(&at("/no-dav"), Apache::USER, Apache::PASSWORD), "405", "WebDAV"),
        (by_apache("http://127.0.0.1:9"), "Connection refused", "url"),
    ];
    for (target, message, advice) in cases {
        house.configure(&target);
        let outcome = house.backstay.run(&["backup"]).expect_code(3).expect_message(message).expect_message(advice);
        let said = [outcome.stdout, outcome.stderr].concat();
        let secret = ["canary", Apache::PASSWORD, Apache::TOKEN, "Basic ", "Bearer "];
        assert!(secret.iter().all(|secret| !said.contains(secret)), "{said}");
    }
    house.configure(&by_apache(&server.url()));
    assert_nothing_counts(&house, &server.folder());
}

#[test]
fn an_upload_that_breaks_leaves_nothing_under_its_name() {
    let server = Apache::start();
    // far in the body, at the move of the archive, and when only the checksums and the manifest are to come
    for mark in ["zz-marked", "media.tar", "manifest.json"] {
        let relay = Relay::cutting(server.port(), mark);
        let house = House::new(20, &by_apache(&relay.endpoint()));
        house.backstay.run(&["backup"]).expect_code(3).expect_message("cloud");
        assert!(relay.marked() > 0, "{mark}");
        house.configure(&by_apache(&server.url()));
        assert_eq!(house.listed(), [""; 0], "{mark}");
        assert!(stored(&server.folder()).iter().all(|path| !path.ends_with("manifest.json")), "{mark}");
        let name = house.backstay.backup();
        house.assert_restores(&name);
        std::fs::remove_dir_all(server.folder().join(name)).expect("removed");
    }
}

#[test]
fn a_server_that_dies_within_an_upload_fails_the_run_and_keeps_no_artifact() {
    let mut server = Apache::start();
    // slow enough that it dies within
    let limited = format!("{}limit = \"4MiB/s\"\n", by_apache(&server.url()));
    let house = House::new(40, &limited);
    let running = house.backstay.spawn(&["backup"]);
    wait_for_a_body(&server.folder());
    server.stop();
    crate::support::Outcome::of(running).expect_code(3).expect_message("cloud");
    assert_only_a_claim(&server.folder());
}

#[tokio::test]
async fn a_backup_to_a_webdav_server_killed_at_its_requests_costs_nothing() {
    let server = Apache::start();
    let house = House::new(3, &by_apache(&server.url()));
    lives_through_kills(&house, server.port(), 29, by_apache);
    sweep_the_dead(&options(format!("{}/dav/backups", server.url()), Apache::USER, Apache::PASSWORD)).await;
    let [name] = &house.listed()[..] else { panic!("one is kept") };
    assert_only(&server.folder(), name);
}

/// What came of its body lies aside, if the server keeps it at all.
#[test]
fn a_backup_to_a_webdav_server_killed_within_a_body_is_nowhere() {
    let (apache, rclone) = (Apache::start(), Rclone::start());
    for (folder, section) in
        [(apache.folder(), by_apache(&apache.url())), (rclone.folder(), as_user(&rclone.url(), Rclone::USER, Rclone::PASSWORD))]
    {
        // slow enough that it is killed within
        let house = House::new(20, &format!("{section}limit = \"2MiB/s\"\n"));
        let mut running = house.backstay.spawn(&["backup"]);
        wait_for_a_body(&folder);
        running.kill().expect("SIGKILL");
        assert_eq!(crate::support::Outcome::of(running).code, None, "it was over before");
        house.configure(&section);
        assert_eq!(house.listed(), [""; 0]);
        assert_only_a_claim(&folder);
        let name = house.backstay.backup();
        assert_eq!(house.listed(), [name.as_str()]);
        house.assert_restores(&name);
    }
}

#[test]
fn what_dead_runs_left_is_swept_and_what_may_be_alive_stays() {
    let server = Rclone::start();
    let house = House::new(0, &as_user(&server.url(), Rclone::USER, Rclone::PASSWORD));
    let at = |path: &str| server.folder().join(path);
    let (dead, other, held) = ("default-2020-01-02-030405", "other-2020-01-02-030405", "default-2020-01-03-030405");
    for folder in [dead, other, held] {
        std::fs::create_dir_all(at(folder).join("media")).expect("created");
    }
    // nothing that is ours: it keeps its folder
    std::fs::write(at(held).join("media/notes of somebody.txt"), "x").expect("written");
    std::fs::create_dir_all(at(".backstay/unfinished")).expect("created");
    for (name, age) in [("old", 2 * 24 * 3600), ("young", 3600)] {
        let file = std::fs::File::create(at(".backstay/unfinished").join(name)).expect("created");
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).expect("aged");
    }
    house.backstay.backup();
    assert!(!at(dead).exists() && at(other).exists() && at(held).join("media/notes of somebody.txt").exists());
    assert!(!at(".backstay/unfinished/old").exists() && at(".backstay/unfinished/young").exists());
}
