//! The worker as a process: signals, systemd's protocol, exit codes, and what it costs when idle.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::ports::Port;
use crate::support::process::child_of;
use crate::support::{Backstay, Major, Outcome, Postgres, Redis, Version, toml};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `backstay worker`, killed when the test ends early.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    pub fn start(backstay: &Backstay) -> Self {
        let mut child = backstay.spawn(&["worker"]);
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a log line that holds `text`.
    #[track_caller]
    fn line(&mut self, text: &str) -> String {
        self.line_with(&[text])
    }

    /// Waits for a log line that holds each of `texts`.
    #[track_caller]
    pub fn line_with(&mut self, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if texts.iter().all(|text| line.contains(text)) {
                return line;
            }
        }
        panic!("{texts:?} is not in:\n{}", self.seen.join("\n"));
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn code(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.seen.join("\n"));
            // the log ends with the process
            while self.lines.recv_timeout(Duration::from_millis(50)).is_ok() {}
        }
    }

    /// Resident memory, in KiB: its own, and with the pages of the program's file.
    fn resident(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        (status(&path, "RssAnon"), status(&path, "VmRSS"))
    }

    /// How often its threads have gone to sleep, and so were woken.
    fn wakeups(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let path = |task: std::fs::DirEntry| task.path().join("status").to_string_lossy().into_owned();
        tasks.map(|task| status(&path(task.expect("a thread")), "voluntary_ctxt_switches")).sum()
    }
}

/// A number of a `status` file of proc(5).
fn status(path: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("the key is there");
    line.split_whitespace().next().expect("a value").parse().expect("a number")
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Backs up one directory with one file.
fn config(port: &Port, schedule: &str) -> String {
    format!(
        r#"
        [jobs.default]
        schedule = "{schedule}"
        timezone = "Europe/Berlin"
        components = ["docs"]
        [directory.docs]
        path = "./docs"
        [targets.local]
        url = "file://./backups"
        [worker]
        listen = "127.0.0.1:{}"
        "#,
        port.number()
    )
}

fn backstay(config: &str) -> Backstay {
    let backstay = Backstay::new(config);
    std::fs::create_dir(backstay.dir().join("docs")).expect("create a directory");
    std::fs::write(backstay.dir().join("docs/a"), "a").expect("write a file");
    backstay
}

#[test]
fn it_names_the_next_three_runs_backs_up_on_time_and_drains_on_sigterm() {
    let port = Port::free();
    let backstay = backstay(&config(&port, "* * * * * *"));
    let mut worker = Running::start(&backstay);
    let next = worker.line("next runs");
    let offset = if next.contains("+01:00") { "+01:00" } else { "+02:00" };
    assert_eq!(next.matches(&format!("{offset} Europe/Berlin")).count(), 3, "{next}");
    worker.line("run complete");
    backstay.succeed(&["healthcheck"]);
    worker.signal(Signal::TERM);
    assert_eq!(worker.code(), Some(0));
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    assert!(list.as_array().expect("a list").iter().all(|backup| backup["status"] == "complete"), "{list}");
    assert!(!list.as_array().expect("a list").is_empty());
    backstay.run(&["healthcheck"]).expect_code(1);
}

#[test]
fn it_drills_the_newest_backup_by_cron_and_says_when_that_fails() {
    let port = Port::free();
    let config = config(&port, "").replace("[jobs.default]", "[jobs.default]\ndrill = \"* * * * * *\"");
    let backstay = backstay(&config);
    backstay.succeed(&["check", "--config-only"]).stdout.contains("drill `* * * * * *`").then_some(()).expect("the next drills are told");
    let mut worker = Running::start(&backstay);
    worker.line("nothing to drill");
    let name = backstay.backup();
    worker.line("drill passed");
    backstay.succeed(&["healthcheck"]);
    assert!(backstay.succeed(&["listbackups", "--json"]).json()[0]["drilled"].is_string());
    let artifact = backstay.dir().join("backups").join(&name).join("docs/docs.tar.gz");
    let mut bytes = std::fs::read(&artifact).expect("read");
    bytes[10] ^= 1;
    std::fs::write(&artifact, bytes).expect("damaged");
    worker.line("drill failed");
    backstay.run(&["healthcheck"]).expect_code(1).expect_message("drill failed");
    assert_eq!(backstay.succeed(&["listbackups", "--json"]).json()[0]["status"], "damaged");
    worker.signal(Signal::TERM);
    assert_eq!(worker.code(), Some(0));
}

#[test]
fn systemd_hears_how_it_fares() {
    let port = Port::free();
    let backstay = backstay(&config(&port, "0 3 * * *"));
    let path = backstay.dir().join("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("bind the notify socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    let backstay = backstay.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let heard = |wanted: &str| {
        let mut buffer = [0; 4096];
        let mut all = String::new();
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{wanted} was not heard ({e}), but:\n{all}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            all.push_str(&message);
            if message.lines().any(|line| line.starts_with(wanted)) {
                return message;
            }
        }
    };
    let worker = Running::start(&backstay);
    assert!(heard("READY=1").contains("STATUS=idle; next default at "), "a status comes along");
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    worker.signal(Signal::HUP);
    let reloading = heard("RELOADING=1");
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    heard("READY=1");
    backstay.configure("nonsense");
    worker.signal(Signal::HUP);
    heard("RELOADING=1");
    heard("READY=1");
    worker.signal(Signal::TERM);
    heard("STOPPING=1");
    assert_eq!(worker.code(), Some(0));
}

#[test]
fn a_faulty_reload_is_told_with_all_faults_and_the_old_configuration_stays() {
    let port = Port::free();
    let good = config(&port, "* * * * * *");
    let backstay = backstay(&good);
    let mut worker = Running::start(&backstay);
    worker.line("run complete");
    backstay.configure(&good.replace("timezone", "timezome").replace("[targets.local]", "[targets.local]\nbandwidth = 1"));
    worker.signal(Signal::HUP);
    let fault = worker.line("the old one stays in use");
    assert!(fault.contains("timezome") && fault.contains("bandwidth"), "{fault}");
    worker.line("run complete");
    backstay.configure(&good.replace("jobs.default", "jobs.other"));
    worker.signal(Signal::HUP);
    worker.line("configuration reloaded");
    assert!(worker.line("run complete").contains("other"));
    worker.signal(Signal::INT);
    assert_eq!(worker.code(), Some(0));
}

#[test]
fn a_stop_in_the_middle_of_a_run_leaves_no_backup_and_exits_with_0() {
    let redis = Redis::start(Version::ALL[0], &[]);
    let port = Port::free();
    let text = config(&port, "* * * * * *").replace(r#"["docs"]"#, r#"["docs", "redis"]"#);
    let backstay = backstay(&format!("{text}\n[redis.redis]\nurl = \"{}\"\n", redis.url()));
    redis.signal(Signal::STOP);
    let mut worker = Running::start(&backstay);
    worker.line("run begins");
    worker.signal(Signal::TERM);
    worker.line("stopping");
    assert_eq!(worker.code(), Some(0));
    redis.signal(Signal::CONT);
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    assert_eq!(list, serde_json::json!([]));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let redis = Redis::start(Version::ALL[0], &[]);
    let port = Port::free();
    let text = config(&port, "* * * * * *").replace(r#"["docs"]"#, r#"["redis"]"#);
    let backstay = backstay(&format!("{text}\n[redis.redis]\nurl = \"{}\"\n", redis.url()));
    redis.signal(Signal::STOP);
    let mut worker = Running::start(&backstay);
    worker.line("run begins");
    worker.signal(Signal::INT);
    worker.signal(Signal::INT);
    // the first may have drained before the second came
    let code = worker.code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    redis.signal(Signal::CONT);
}

#[test]
fn a_taken_port_is_told_at_start() {
    let port = Port::free();
    let _other = std::net::TcpListener::bind(("127.0.0.1", port.number())).expect("bind");
    let backstay = backstay(&config(&port, "0 3 * * *"));
    let outcome: Outcome = backstay.run(&["worker"]).expect_code(1);
    outcome.expect_message(&port.number().to_string()).expect_message("worker.listen");
}

#[test]
fn an_invalid_configuration_is_78_at_start() {
    let port = Port::free();
    let backstay = backstay(&config(&port, "0 0 30 2 *"));
    backstay.run(&["worker"]).expect_code(78).expect_message("never fires");
}

/// At most 20 MiB resident, and no busy wakeups (the scheduler looks twice a second). The program of a debug build is several times as big
/// as the one that is released, so that here its own memory is held to half of that.
#[test]
#[expect(clippy::print_stderr, reason = "the figure is the answer")]
fn idle_it_costs_little() {
    let port = Port::free();
    let backstay = backstay(&config(&port, "0 3 * * *"));
    let mut worker = Running::start(&backstay);
    worker.line("listening");
    backstay.succeed(&["healthcheck"]);
    let (before, begun) = (worker.wakeups(), Instant::now());
    // wakeups are counted over a time, so that here time itself is the event
    std::thread::sleep(Duration::from_secs(5));
    let wakeups = (worker.wakeups() - before) as f64 / begun.elapsed().as_secs_f64();
    let (own, all) = worker.resident();
    eprintln!("idle worker: {own} KiB of its own, {all} KiB resident, {wakeups:.1} wakeups a second");
    assert!(own <= 10 * 1024, "{own} KiB of its own");
    assert!(cfg!(debug_assertions) || all <= 20 * 1024, "{all} KiB resident");
    assert!(wakeups <= 10.0, "{wakeups} wakeups a second");
    worker.signal(Signal::TERM);
    assert_eq!(worker.code(), Some(0));
}

/// The priority of a thread (the 19th field of `stat` in proc(5), after the name, which may hold anything), and its class of disk accesses;
/// none of one that has ended.
fn priority(task: &std::path::Path) -> Option<(i32, String)> {
    let stat = std::fs::read_to_string(task.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ").expect("a name");
    let nice = after_name.split(' ').nth(16).expect("a priority").parse().expect("a number");
    let id = task.file_name().expect("a thread").to_string_lossy().into_owned();
    let output = std::process::Command::new("ionice").args(["-p", &id]).output().expect("run ionice");
    output.status.success().then(|| (nice, String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

fn threads(process: u32) -> Vec<(i32, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    tasks.flatten().filter_map(|task| priority(&task.path())).collect()
}

#[test]
fn it_and_its_children_give_way_as_configured() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    // texts that do not compress, so that a slow target holds the dump up
    server.psql_in("app", "CREATE TABLE t AS SELECT sha512(i::text::bytea) AS noise FROM generate_series(1, 1200000) i");
    let port = Port::free();
    let text = config(&port, "* * * * * *").replace(r#"["docs"]"#, r#"["docs", "postgres"]"#);
    let text = text.replace("[worker]", "limit = \"100KiB/s\"\n[worker]\nnice = 7\nionice = \"idle\"");
    let backstay = backstay(&[text.as_str(), &toml::postgres("postgres", &server, &["app"])].concat());
    let mut worker = Running::start(&backstay);
    worker.line("run begins");
    // not the one that is asked for its version
    let dump = child_of(worker.child.id(), "--snapshot=");
    let (own, children) = (threads(worker.child.id()), threads(dump));
    assert!(own.len() >= 3 && !children.is_empty(), "{own:?} {children:?}");
    for (nice, io) in own.iter().chain(&children) {
        assert_eq!((*nice, io.as_str()), (7, "idle"), "{own:?} {children:?}");
    }
    worker.signal(Signal::TERM);
    assert_eq!(worker.code(), Some(0));
}

#[test]
fn without_configuration_its_priority_is_that_of_whoever_starts_it() {
    let port = Port::free();
    let backstay = backstay(&config(&port, "0 3 * * *"));
    let mut worker = Running::start(&backstay);
    worker.line("listening");
    let ours = priority(std::path::Path::new(&format!("/proc/{}", std::process::id()))).expect("we run");
    assert!(threads(worker.child.id()).iter().all(|thread| *thread == ours), "{ours:?}");
}
