//! Targets that fail: the run says so, keeps what succeeded elsewhere, and leaves nothing half done.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use futures_util::TryStreamExt;
use object_store::ObjectStore;

use crate::support::process::output;
use crate::support::relay::Relay;
use crate::support::sample::dense_media;
use crate::support::{Authority, Backstay, Outcome, Scratch, Seaweed, toml};

fn component(source: &Scratch) -> String {
    toml::directory("media", &source.join("media"))
}

fn listed(backstay: &Backstay, args: &[&str]) -> Vec<String> {
    let list = backstay.run(&[&["listbackups", "--json"], args].concat()).json();
    list.as_array().expect("an array").iter().map(|b| b["name"].as_str().expect("a name").to_owned()).collect()
}

/// Runs the program where `folder` is another file system, and what `after` says there when it is done.
fn run_mounted(backstay: &Backstay, folder: &Path, options: &str, args: &[&str], after: &str) -> (Outcome, String) {
    std::fs::create_dir_all(folder).expect("create the mount point");
    let program = backstay.command(args);
    let quote = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"));
    let line: Vec<String> = std::iter::once(program.get_program()).chain(program.get_args()).map(quote).collect();
    // the mount is in a namespace of its own, and ends with it
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let after_file = backstay.dir().join("after");
    let script = format!(
        "mount -t tmpfs -o {options} tmpfs '{folder}' && {{ {program}; code=$?; ({after}) > '{after_file}' 2>&1; exit $code; }}",
        folder = folder.display(),
        program = line.join(" "),
        after_file = after_file.display()
    );
    command.args(["sh", "-c", &script]).env_clear().envs(program.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = output(command.current_dir(backstay.dir()));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let outcome = Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    (outcome, std::fs::read_to_string(after_file).unwrap_or_default())
}

#[test]
fn a_full_target_fails_the_run_and_keeps_no_half_of_it() {
    let (source, store) = (dense_media(), Scratch::new());
    let folder = store.join("full");
    let backstay = Backstay::new(&[component(&source), toml::file_target("full", &folder)].concat());
    let find = format!("find '{}' -type f -size +0", folder.display());
    let (outcome, left) = run_mounted(&backstay, &folder, "size=3m", &["backup"], &find);
    let outcome = outcome.expect_code(3).expect_message("full").expect_message("No space left");
    // the source is not to blame
    assert!(!outcome.stderr.contains("read "), "{}", outcome.stderr);
    assert!(!left.contains("media.tar") && !left.contains("manifest"), "left behind: {left}");
}

#[test]
fn a_read_only_target_fails_the_run() {
    let (source, store) = (dense_media(), Scratch::new());
    let folder = store.join("locked");
    let backstay = Backstay::new(&[component(&source), toml::file_target("locked", &folder)].concat());
    let (outcome, _) = run_mounted(&backstay, &folder, "size=64m,ro", &["backup"], "true");
    outcome.expect_code(3).expect_message("locked").expect_message("Read-only file system");
}

#[test]
fn a_missing_bucket_fails_the_run_and_is_said() {
    let (source, store) = (dense_media(), Seaweed::start());
    let backstay = Backstay::new(&[component(&source), toml::s3_target("s3", &store, "nowhere")].concat());
    backstay.run(&["backup"]).expect_code(3).expect_message("target `s3`").expect_message("bucket does not exist");
    backstay.run(&["check"]).expect_code(3);
    assert_ne!(backstay.run(&["listbackups"]).code, Some(0), "an unreadable target is no empty one");
}

#[test]
fn wrong_keys_fail_the_run_and_are_not_shown() {
    let (source, store) = (dense_media(), Seaweed::start());
    for (access_key, secret_key) in [(store.access_key.as_str(), "canary-wrong-secret"), ("canary-nobody", store.secret_key.as_str())] {
        let target = toml::s3_target_as("s3", &store, Seaweed::BUCKET, access_key, secret_key);
        let backstay = Backstay::new(&[component(&source), target].concat());
        for args in [&["backup"][..], &["check"], &["listbackups"], &["restore", "latest", "--yes"]] {
            let outcome = backstay.run(args);
            assert_ne!(outcome.code, Some(0), "{args:?}");
            assert!(outcome.stderr.contains("s3"), "{}", outcome.stderr);
            assert!(!outcome.stderr.contains(secret_key) && !outcome.stdout.contains(secret_key), "{}", outcome.stderr);
        }
        backstay.run(&["backup"]).expect_code(3);
    }
}

#[test]
fn a_store_with_a_certificate_of_its_own_authority_needs_and_takes_its_ca_file() {
    let (source, authority) = (dense_media(), Authority::new());
    let store = Seaweed::start_tls(&authority);
    let target = toml::s3_target("s3", &store, Seaweed::BUCKET);
    let backstay = Backstay::new(&[component(&source), target.clone()].concat());
    backstay.run(&["backup"]).expect_code(3).expect_message("ca_file");
    let ca_file = format!("ca_file = {}\n", toml::quoted(authority.ca().display().to_string()));
    backstay.configure(&[component(&source), target, ca_file].concat());
    let name = backstay.backup();
    assert_eq!(listed(&backstay, &[]), [name]);
}

#[test]
fn a_clock_that_is_wrong_by_more_than_the_store_takes_is_named() {
    let (source, store) = (dense_media(), Seaweed::start());
    let backstay = Backstay::new(&[component(&source), toml::s3_target("s3", &store, Seaweed::BUCKET)].concat()).with_clock("+2h");
    backstay.run(&["backup"]).expect_code(3).expect_message("Set this machine's clock");
    backstay.run(&["check"]).expect_code(3);
}

/// The name of the endpoint is one that only a proxy could find.
#[test]
fn requests_go_through_the_proxy_of_the_environment_unless_it_says_no() {
    let (source, store) = (dense_media(), Seaweed::start());
    let relay = Relay::counting(store.port(), "x-amz-date");
    let target = toml::s3_target_by("s3", "http://store.invalid:9000", &store, Seaweed::BUCKET);
    let new = || Backstay::new(&[component(&source), target.clone()].concat()).env("HTTP_PROXY", relay.endpoint());
    let name = new().backup();
    assert_eq!(listed(&new(), &[]), [name]);
    assert!(relay.marked() > 5, "{}", relay.marked());
    new().env("NO_PROXY", "store.invalid").run(&["backup"]).expect_code(3).expect_message("cannot be resolved");
}

/// SeaweedFS takes any region, so this endpoint answers as AWS does when a request is signed for the wrong one.
#[test]
fn a_wrong_region_fails_the_run_and_the_right_one_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 65_536]);
                let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AuthorizationHeaderMalformed</Code><Message>The \
                    authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message>\
                    <Region>eu-central-1</Region></Error>";
                let _ = write!(
                    stream,
                    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
    let source = dense_media();
    let target = format!(
        "[targets.s3]\nurl = \"s3://backups\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\naddressing = \"path\"\n\
         allow_http = true\naccess_key_id = \"a\"\nsecret_access_key = \"b\"\n"
    );
    let backstay = Backstay::new(&[component(&source), target].concat());
    backstay.run(&["backup"]).expect_code(3).expect_message("eu-central-1");
}

#[test]
fn a_target_that_fails_does_not_fail_the_other() {
    let (source, store, seaweed) = (dense_media(), Scratch::new(), Seaweed::start());
    let folder = store.join("backups");
    let targets = [toml::s3_target("broken", &seaweed, "nowhere"), toml::file_target("sound", &folder)].concat();
    let backstay = Backstay::new(&[component(&source), targets].concat());
    let outcome = backstay.run(&["backup", "--json"]).expect_code(3).expect_message("broken");
    let answer = outcome.json();
    let components = answer["components"].as_array().expect("an array");
    assert!(components.iter().any(|c| c["name"] == "media" && c["status"] == "complete"), "{answer}");
    let name = answer["name"].as_str().expect("a name");
    assert!(folder.join(name).join("manifest.json").exists());
    assert_eq!(listed(&backstay, &["--target", "sound"]), [name]);
    backstay.succeed(&["restore", name, "--target", "sound", "--yes", "--into", &format!("media={}", store.join("out").display())]);
    assert!(store.join("out/7").exists());
}

#[test]
fn a_dead_server_is_a_failed_target() {
    let (source, store) = (dense_media(), Scratch::new());
    let mut seaweed = Seaweed::start();
    let targets = [toml::s3_target("offsite", &seaweed, Seaweed::BUCKET), toml::file_target("local", &store.join("backups"))].concat();
    let backstay = Backstay::new(&[component(&source), targets].concat());
    seaweed.stop();
    backstay.run(&["backup"]).expect_code(3).expect_message("offsite");
    assert_eq!(listed(&backstay, &["--target", "local"]).len(), 1);
}

#[tokio::test]
async fn a_run_whose_components_all_fail_leaves_nothing_in_a_bucket() {
    let (source, seaweed) = (Scratch::new(), Seaweed::start());
    let config = [toml::directory("media", &source.join("missing")), toml::s3_target("s3", &seaweed, Seaweed::BUCKET)].concat();
    let backstay = Backstay::new(&config);
    backstay.run(&["backup"]).expect_code(3).expect_message("missing");
    let left: Vec<String> =
        seaweed.bucket(Seaweed::BUCKET).list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("list the bucket");
    assert!(left.iter().all(|key| key.starts_with(".backstay/")), "{left:?}");
}
