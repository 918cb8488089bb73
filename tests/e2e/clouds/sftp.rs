//! SFTP, by OpenSSH's server and by rclone's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use backstay::storage::{Location, SftpCredentials, SftpOptions, TargetOptions};
use rustix::process::Signal;

use super::{House, assert_leases_hold};
use crate::support::apache::files;
use crate::support::process::{Process, bound_to_test, run};
use crate::support::{Mount, Outcome, Rclone, Sshd, toml};

fn target(url: &str, known_hosts: &Path, credentials: &str) -> String {
    let known_hosts = toml::quoted(known_hosts.display().to_string());
    format!("[targets.cloud]\nurl = {}\nknown_hosts_file = {known_hosts}\n{credentials}\n", toml::quoted(url))
}

fn with_key(url: &str, server: &Sshd, key: &Path) -> String {
    target(url, &server.known_hosts(), &format!("identity_file = {}", toml::quoted(key.display().to_string())))
}

fn by_openssh(server: &Sshd) -> String {
    with_key(&server.url(), server, &server.identity())
}

fn with_password(server: &Rclone, password: &str) -> String {
    target(&server.sftp_url(), &server.known_hosts(), &format!("password = {}", toml::quoted(password)))
}

/// What lies in a folder, but for what is below `.backstay`.
fn stored(folder: &Path) -> Vec<String> {
    files(folder).into_iter().filter(|path| !path.starts_with(".backstay/")).collect()
}

fn unfinished(folder: &Path) -> Vec<String> {
    files(folder).into_iter().filter(|path| path.contains("unfinished")).collect()
}

#[track_caller]
fn assert_only(folder: &Path, name: &str) {
    let expected = ["SHA256SUMS", "manifest.json", "media/media.tar"].map(|file| format!("{name}/{file}"));
    assert_eq!(stored(folder), expected, "nothing is left of the first");
    assert_eq!(unfinished(folder), [""; 0]);
}

/// Waits until something is seen, for as long as a busy machine may take.
#[track_caller]
fn wait_until(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !seen() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Bytes of what is not finished yet.
fn on_the_way(folder: &Path) -> u64 {
    let size = |path: String| std::fs::metadata(folder.join(path)).map_or(0, |meta| meta.len());
    unfinished(folder).into_iter().map(size).sum()
}

#[test]
fn backups_live_on_openssh() {
    let server = Sshd::start();
    let house = House::new(20, &by_openssh(&server));
    let name = house.lives_through_two_backups();
    assert_only(&server.folder(), &name);
    let stored = server.folder().join(&name);
    run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&stored));
    let mode = |path: &str| std::fs::metadata(stored.join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("media/media.tar"), mode("manifest.json"), mode("media")), (0o600, 0o600, 0o700));
    let check = house.backstay.succeed(&["check"]);
    assert!(check.stdout.contains("free"), "{}", check.stdout);
}

#[test]
fn backups_live_on_a_server_that_has_no_extensions() {
    let server = Sshd::without_extensions();
    let house = House::new(20, &by_openssh(&server));
    let name = house.lives_through_two_backups();
    assert_only(&server.folder(), &name);
}

#[test]
fn backups_live_on_the_sftp_server_of_rclone() {
    let server = Rclone::start_sftp();
    let house = House::new(20, &with_password(&server, Rclone::PASSWORD));
    let name = house.lives_through_two_backups();
    assert_only(&server.folder(), &name);
    // it has no links, by which a lease is taken elsewhere
    house.configure(&format!("{}limit = \"8MiB/s\"\n", with_password(&server, Rclone::PASSWORD)));
    let mut running = house.backstay.spawn(&["backup"]);
    wait_until("the upload does not begin", || on_the_way(&server.folder()) > 0);
    house.backstay.run(&["backup"]).expect_code(11);
    running.kill().expect("killed");
    running.wait().expect("its end");
}

#[test]
fn a_key_of_an_agent_is_used() {
    let server = Sshd::start();
    let socket = server.root().join("agent");
    let mut agent = Command::new("/usr/bin/ssh-agent");
    agent.args(["-D", "-a"]).arg(&socket);
    let mut agent = Process::spawn("ssh-agent", bound_to_test(agent, "KILL"), &server.root().join("agent.log"), Signal::KILL);
    agent.wait_until(|| socket.exists());
    run(Command::new("/usr/bin/ssh-add").args(["-q"]).arg(server.identity()).env("SSH_AUTH_SOCK", &socket));
    let house = House::new(0, &target(&server.url(), &server.known_hosts(), ""));
    house.backstay.run(&["backup"]).expect_code(3).expect_message("Permission denied (publickey");
    let backup = house.backstay.command(&["backup"]).env("SSH_AUTH_SOCK", &socket).output().expect("it runs");
    assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
}

#[tokio::test]
async fn a_lease_on_an_sftp_server_is_held_by_one() {
    for server in [Sshd::start(), Sshd::without_extensions()] {
        let house = House::new(0, &by_openssh(&server));
        let mut location = Location::parse(&server.url()).expect("a URL");
        if let Location::Sftp { options, .. } = &mut location {
            let credentials = SftpCredentials::Identity(server.identity());
            **options = SftpOptions { credentials, known_hosts_file: Some(server.known_hosts()), agent: None };
        }
        assert_leases_hold(&house, &TargetOptions { name: "cloud".parse().expect("a name"), location, limit: None }).await;
    }
}

#[test]
fn what_is_wrong_with_an_sftp_server_is_said_and_no_secret_is() {
    let (server, other, read_only, shell) = (Sshd::start(), Sshd::start(), Sshd::with("internal-sftp -R"), Sshd::with(""));
    let talkative = Sshd::with("/bin/sh -c 'echo Welcome back; exec /usr/lib/openssh/sftp-server'");
    let rclone = Rclone::start_sftp();
    let house = House::new(0, &by_openssh(&server));
    let unknown = target(&server.url(), Path::new("/dev/null"), "");
    let changed = server.root().join("changed");
    let key = std::fs::read_to_string(other.known_hosts()).expect("a file");
    std::fs::write(&changed, key.replace(&other.port().to_string(), &server.port().to_string())).expect("written");
    let readable = server.root().join("readable");
    std::fs::copy(server.identity(), &readable).expect("copied");
    std::fs::set_permissions(&readable, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let nobody = server.url().replace(&server.port().to_string(), "9");
    let cases = [
        (with_key(&server.url(), &server, &server.stranger()), "Permission denied (publickey", "identity_file"),
        (with_key(&server.url(), &server, &readable), "UNPROTECTED", "chmod 600"),
        (with_password(&rclone, "canary-wrong"), "Permission denied", "password"),
        (unknown, "Host key verification failed", "ssh-keyscan"),
        (target(&server.url(), &changed, ""), "REMOTE HOST IDENTIFICATION HAS CHANGED", "in between"),
        (with_key(&server.url_of("nowhere"), &server, &server.identity()), "no such folder", "Create the folder"),
        (by_openssh(&read_only), "Permission denied", "right to write"),
        (by_openssh(&shell), "subsystem request failed", "Subsystem sftp"),
        (by_openssh(&talkative), "does not speak SFTP", "print nothing"),
        (with_key(&nobody, &server, &server.identity()), "Connection refused", "url"),
    ];
    for (target, message, advice) in cases {
        house.configure(&target);
        let outcome = house.backstay.run(&["backup"]).expect_code(3).expect_message(message).expect_message(advice);
        let said = [outcome.stdout, outcome.stderr].concat();
        assert!(["canary", Rclone::PASSWORD].iter().all(|secret| !said.contains(secret)), "{said}");
    }
    assert_eq!(stored(&server.folder()), [""; 0]);
}

#[test]
fn an_upload_goes_on_when_its_connection_is_lost() {
    let server = Sshd::start();
    let house = House::new(48, &format!("{}limit = \"12MiB/s\"\n", by_openssh(&server)));
    let running = house.backstay.spawn(&["backup"]);
    for mib in [6u64, 20, 34] {
        wait_until("the upload does not come so far", || on_the_way(&server.folder()) > mib << 20);
        assert!(server.signal_sessions(Signal::KILL) > 0);
    }
    let outcome = Outcome::of(running).expect_code(0);
    assert!(outcome.stderr.contains("the upload goes on"), "{}", outcome.stderr);
    let name = house.listed().pop().expect("a backup");
    house.backstay.succeed(&["verify", "--all"]);
    house.assert_restores(&name);
    assert_only(&server.folder(), &name);
}

#[test]
fn an_upload_to_a_server_that_cannot_flush_does_not_outlive_its_connection() {
    let server = Sshd::without_extensions();
    let house = House::new(48, &format!("{}limit = \"12MiB/s\"\n", by_openssh(&server)));
    let running = house.backstay.spawn(&["backup"]);
    wait_until("the upload does not begin", || on_the_way(&server.folder()) > 6 << 20);
    server.signal_sessions(Signal::KILL);
    Outcome::of(running).expect_code(3).expect_message("cloud").expect_message("media");
    assert_eq!(house.listed(), [""; 0]);
    assert!(stored(&server.folder()).iter().all(|path| !path.ends_with(".tar")));
    assert_eq!(unfinished(&server.folder()), [""; 0], "it is taken away by another connection");
    house.lives_through_two_backups();
}

#[test]
fn a_restore_goes_on_when_its_connection_is_lost() {
    let server = Sshd::start();
    let house = House::new(48, &by_openssh(&server));
    let name = house.backstay.backup();
    house.configure(&format!("{}limit = \"12MiB/s\"\n", by_openssh(&server)));
    let out = house.source.join("cut");
    let running = house.backstay.spawn(&["restore", &name, "--yes", "--into", &format!("media={}", out.display())]);
    let received = || {
        let found = files(&house.source.join("")).into_iter().filter(|path| path.ends_with("large") && !path.starts_with("media/"));
        found.map(|path| std::fs::metadata(house.source.join(path)).map_or(0, |meta| meta.len())).sum::<u64>()
    };
    for mib in [4u64, 20] {
        wait_until("the restore does not come so far", || received() > mib << 20);
        assert!(server.signal_sessions(Signal::KILL) > 0);
    }
    Outcome::of(running).expect_code(0);
    crate::support::assert_same_tree(&crate::support::Tree::of(&house.source.join("media")), &crate::support::Tree::of(&out));
}

#[test]
fn an_upload_goes_on_when_the_server_was_restarted() {
    let mut server = Sshd::start();
    let house = House::new(40, &format!("{}limit = \"8MiB/s\"\n", by_openssh(&server)));
    let running = house.backstay.spawn(&["-v", "backup"]);
    wait_until("the upload does not begin", || on_the_way(&server.folder()) > 4 << 20);
    server.stop();
    // longer than a connection is tried that never was
    let stopped = Instant::now();
    wait_until("time stands still", || stopped.elapsed() > Duration::from_secs(10));
    server.start_again();
    Outcome::of(running).expect_code(0);
    house.backstay.succeed(&["verify", "--all"]);
    house.assert_restores("latest");
}

#[test]
fn a_password_is_told_to_the_ssh_that_was_started_for_it_alone() {
    let server = Sshd::start();
    let house = House::new(0, &by_openssh(&server));
    let asked = |by: u32, through_a_shell: bool| {
        let program = house.backstay.command(&[]);
        let mut command = match through_a_shell {
            true => Command::new("/bin/sh"),
            false => Command::new(program.get_program()),
        };
        if through_a_shell {
            command.args(["-c", "\"$0\" \"$1\"; exit $?"]).arg(program.get_program());
        }
        command.arg("me@host's password: ");
        command.envs([("SSH_ASKPASS_REQUIRE", "force"), ("BACKSTAY_ANSWER_TO_SSH", "canary"), ("BACKSTAY_ASKED_BY", &by.to_string())]);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let us = std::process::id();
    assert_eq!(asked(us, true), (Some(0), "canary\n".to_owned()));
    // one that ssh has started, as it does for a jump host, and one of another run
    assert_eq!(asked(us, false), (Some(1), String::new()));
    assert_eq!(asked(1, true), (Some(1), String::new()));
    // nobody has asked: what is set in the environment makes no command succeed
    let backup = house.backstay.command(&["backup", "no-such-job"]).env("BACKSTAY_ANSWER_TO_SSH", "canary").output().expect("it runs");
    assert_eq!(backup.status.code(), Some(10), "{}", String::from_utf8_lossy(&backup.stderr));
}

#[test]
fn a_server_that_dies_within_an_upload_fails_the_run_and_keeps_no_artifact() {
    let mut server = Sshd::start();
    let house = House::new(40, &format!("{}limit = \"8MiB/s\"\n", by_openssh(&server)));
    let running = house.backstay.spawn(&["backup"]);
    wait_until("the upload does not begin", || on_the_way(&server.folder()) > 4 << 20);
    server.stop();
    Outcome::of(running).expect_code(3).expect_message("Connection refused");
    // by which the name was claimed
    assert!(stored(&server.folder()).iter().all(|path| path.ends_with("SHA256SUMS")), "{:?}", stored(&server.folder()));
}

#[test]
fn a_server_that_hangs_within_an_upload_is_given_up() {
    let server = Sshd::start();
    let limited = format!("{}limit = \"8MiB/s\"\n", by_openssh(&server));
    let house = House::new(40, &limited);
    let text = std::fs::read_to_string(house.backstay.dir().join("backstay.toml")).expect("a configuration");
    house.backstay.configure(&text.replace("keep_last = 1\n", "keep_last = 1\nstall_timeout = \"5s\"\n"));
    let running = house.backstay.spawn(&["backup"]);
    wait_until("the upload does not begin", || on_the_way(&server.folder()) > 4 << 20);
    rustix::process::kill_process(server.busiest_session(), Signal::STOP).expect("it serves");
    Outcome::of(running).expect_code(3).expect_message("did not take a part").expect_message("stall_timeout");
    server.signal_sessions(Signal::KILL);
    assert_eq!(stored(&server.folder()), [""; 0]);
}

#[test]
fn a_server_without_room_says_so() {
    let server = Sshd::start();
    let disk = Mount::with(server.root().join("disk"), "size=16m,mode=755");
    let house = House::new(20, &with_key(&server.url_of("disk"), &server, &server.identity()));
    house.backstay.run(&["backup"]).expect_code(3).expect_message("No space left on device").expect_message("Free space");
    assert_eq!(stored(disk.path()), [""; 0]);
    assert_eq!(unfinished(disk.path()), [""; 0]);
}

#[test]
fn a_run_that_is_killed_leaves_nothing_that_counts_and_no_ssh() {
    let server = Sshd::start();
    let limited = format!("{}limit = \"8MiB/s\"\n", by_openssh(&server));
    let house = House::new(40, &limited);
    let mut running = house.backstay.spawn(&["backup"]);
    wait_until("the upload does not begin", || on_the_way(&server.folder()) > 4 << 20);
    running.kill().expect("killed");
    running.wait().expect("its end");
    assert_eq!(house.listed(), [""; 0]);
    // ssh ends with the pipe that it reads, and the server's process with ssh
    wait_until("an ssh has outlived the program", || server.signal_sessions(Signal::CONT) == 0);
    house.configure(&by_openssh(&server));
    house.lives_through_two_backups();
}

#[test]
fn what_dead_runs_left_is_swept_and_what_may_be_alive_stays() {
    let server = Sshd::start();
    let house = House::new(0, &by_openssh(&server));
    let at = |path: &str| server.folder().join(path);
    let (dead, other, held) = ("default-2020-01-02-030405", "other-2020-01-02-030405", "default-2020-01-03-030405");
    for folder in [dead, other, held] {
        std::fs::create_dir_all(at(folder).join("media")).expect("created");
    }
    // without an end, if it were followed, and not the target's
    let (linked, outside) = ("default-2020-01-04-030405", server.root().join("outside"));
    std::fs::create_dir_all(at(linked)).expect("created");
    std::fs::create_dir_all(outside.join("empty")).expect("created");
    let link = |to: &Path, path: &str| std::os::unix::fs::symlink(to, at(path)).expect("linked");
    for name in ["a", "b"] {
        link(Path::new("."), &format!("{linked}/{name}"));
    }
    link(&outside, "default-2020-01-05-030405");
    // nothing that is ours: it keeps its folder
    std::fs::write(at(held).join("media/notes of somebody.txt"), "x").expect("written");
    std::fs::create_dir_all(at(".backstay/unfinished")).expect("created");
    for (name, age) in [("old", 2 * 24 * 3600), ("young", 3600)] {
        let file = std::fs::File::create(at(".backstay/unfinished").join(name)).expect("created");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).expect("aged");
    }
    house.backstay.backup();
    assert!(outside.join("empty").exists());
    assert!(!at(dead).exists() && at(other).exists() && at(held).join("media/notes of somebody.txt").exists());
    assert!(!at(".backstay/unfinished/old").exists() && at(".backstay/unfinished/young").exists());
}
