//! What happens to requests and answers on their way, by a proxy in front of a real server: each may be reset, lost, garbled, cut, delayed or
//! refused, and a backup is made and restored all the same; what lasts is said once, soon, and leaves nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::ObjectStore;

use crate::support::{Backstay, Fault, Proxy, Row, Scratch, Seaweed, Tree, assert_same_tree, toml};

/// A directory, and a bucket behind a proxy.
struct House {
    scratch: Scratch,
    server: Seaweed,
    backstay: Backstay,
}

impl House {
    fn new() -> Self {
        let (scratch, server) = (Scratch::new(), Seaweed::start());
        let mut noise = vec![0; 5_500_000];
        blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut noise);
        scratch.write("media/large", noise);
        scratch.write("media/small", "x");
        let backstay = Backstay::new(&Self::config(&scratch, &server, &server.endpoint()));
        Self { scratch, server, backstay }
    }

    /// Parts of 5 MiB: the archive is an upload of two.
    fn config(scratch: &Scratch, server: &Seaweed, endpoint: &str) -> String {
        let job = "[jobs.default]\ncompression = \"none\"\nkeep_last = 3\n";
        let target = format!("{}part_size = \"5MiB\"\n", toml::s3_target_by("s3", endpoint, server, Seaweed::BUCKET));
        [job, &toml::directory("media", &scratch.join("media")), &target].concat()
    }

    fn behind(&self, proxy: &Proxy) -> Backstay {
        Backstay::new(&Self::config(&self.scratch, &self.server, &proxy.endpoint()))
    }

    #[track_caller]
    fn assert_restores(&self, backstay: &Backstay, name: &str) {
        let out = self.scratch.join("out");
        backstay.succeed(&["restore", name, "--yes", "--into", &format!("media={}", out.display())]);
        assert_same_tree(&Tree::of(&self.scratch.join("media")), &Tree::of(&out));
        std::fs::remove_dir_all(&out).expect("removed");
    }

    #[track_caller]
    fn assert_no_uploads(&self) {
        assert_eq!(self.server.unfinished_uploads(Seaweed::BUCKET), [""; 0], "uploads");
    }

    async fn keys(&self) -> Vec<String> {
        self.server.bucket(Seaweed::BUCKET).list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("listed")
    }
}

/// What passes when it is tried again.
fn passing() -> Vec<(&'static str, Fault)> {
    vec![
        ("reset before it", Fault::Cut),
        ("no answer to it", Fault::Lost),
        ("500 in its place", Fault::Answer(500, "")),
        ("503 with Retry-After", Fault::Answer(503, "retry-after: 1\r\n")),
        ("429", Fault::Answer(429, "")),
        ("done, and answered by 500", Fault::Denied(500)),
        ("an answer cut within its head or body", Fault::Truncated(40)),
        ("a slow answer", Fault::Slow(20, Duration::from_millis(10))),
    ]
}

/// Every n-th, unless all are asked for.
fn step(usual: usize) -> usize {
    if std::env::var_os("BACKSTAY_THOROUGH").is_some() { 1 } else { usual }
}

/// The `at`-th request has that fault, and only that.
fn at(house: &House, at: usize, fault: &Fault) -> Proxy {
    let fault = fault.clone();
    Proxy::new(house.server.port(), move |request| (request.number == at).then(|| fault.clone()))
}

#[test]
#[expect(clippy::print_stderr, reason = "how many requests there are is what is asked for")]
fn a_fault_at_any_request_is_passed_over() {
    let house = House::new();
    let step = step(13);
    let mut runs = 0;
    let (mut backups, mut restores) = (0, 0);
    for (kind, (what, fault)) in passing().into_iter().enumerate() {
        for number in (1 + kind % step..).step_by(step) {
            let proxy = at(&house, number, &fault);
            let name = house.behind(&proxy).run(&["backup", "--json"]);
            assert_eq!(name.code, Some(0), "{what} at request {number} of a backup:\n{}", name.stderr);
            if proxy.faults() == 0 {
                break;
            }
            let name = name.json()["name"].as_str().expect("a name").to_owned();
            house.assert_restores(&house.backstay, &name);
            (runs, backups) = (runs + 1, backups.max(number));
        }
        let name = house.backstay.backup();
        for number in (1 + kind % step..).step_by(step) {
            let proxy = at(&house, number, &fault);
            house.assert_restores(&house.behind(&proxy), &name);
            if proxy.faults() == 0 {
                break;
            }
            (runs, restores) = (runs + 1, restores.max(number));
        }
    }
    eprintln!("{backups} requests of a backup, {restores} of a restore");
    let faults: Vec<&str> = passing().iter().map(|(what, _)| *what).collect();
    Row { scenario: "a backup and a restore, one request of which has a fault on its way", faults: &faults.join("; "), runs }.print();
}

/// Each kind of request that a backup makes, and that object_store does not repeat by itself in all of these cases.
#[test]
fn no_answer_or_half_of_one_is_passed_over_whatever_was_asked() {
    type Which = fn(&crate::support::proxy::Request) -> bool;
    let kinds: [(&str, Which); 8] = [
        ("a list", |r| r.lists()),
        ("the list of uploads", |r| r.method == "GET" && r.target.contains("uploads=")),
        ("a removal", |r| r.method == "POST" && r.target.contains("?delete")),
        ("the begin of an upload", |r| r.method == "POST" && r.target.contains("?uploads")),
        ("a part", |r| r.method == "PUT" && r.target.contains("partNumber=")),
        ("a lease", |r| r.method == "PUT" && r.path().contains("/leases/")),
        ("a manifest", |r| r.puts("/manifest.json")),
        ("a manifest that is read", |r| r.gets("/manifest.json")),
    ];
    let house = House::new();
    house.backstay.backup();
    let mut runs = 0;
    for (what, which) in kinds {
        for fault in [Fault::Lost, Fault::Cut, Fault::Truncated(60)] {
            let proxy = Proxy::first(house.server.port(), 1, fault.clone(), which);
            let outcome = house.behind(&proxy).run(&["backup", "--json"]);
            assert_eq!(outcome.code, Some(0), "{what}, {fault:?}: {}", outcome.stderr);
            assert_eq!(proxy.faults(), 1, "{what}");
            house.assert_restores(&house.backstay, outcome.json()["name"].as_str().expect("a name"));
            runs += 1;
        }
    }
    Row { scenario: "a backup, one kind of request of which fails once", faults: "a reset before it, no answer, half an answer", runs }
        .print();
}

#[test]
fn a_byte_that_is_changed_on_its_way_is_read_again() {
    let house = House::new();
    let name = house.backstay.backup();
    let mut runs = 0;
    for object in ["media.tar", "manifest.json", "SHA256SUMS"] {
        for args in [&["verify", &name][..], &["listbackups"], &["restore", &name, "--yes"], &["export", &name, "exported"]] {
            let proxy = Proxy::first(house.server.port(), 1, Fault::Wrong, move |request| request.gets(object));
            let backstay = house.behind(&proxy);
            let outcome = backstay.run(args).expect_code(0);
            assert!(!outcome.stdout.contains("damaged"), "{object}, {args:?}: {outcome:?}");
            if object == "media.tar" && proxy.faults() > 0 {
                assert!(outcome.stderr.contains("read again, it is whole"), "{args:?}: {}", outcome.stderr);
            }
            runs += proxy.faults();
        }
    }
    house.assert_restores(&house.backstay, &name);
    // what is always wrong is damage, as it would be on the disk
    for args in [&["verify", &name][..], &["restore", &name, "--yes"]] {
        let proxy = Proxy::first(house.server.port(), usize::MAX, Fault::Wrong, |request| request.gets("media.tar"));
        house.behind(&proxy).run(args).expect_code(12).expect_message("media.tar");
    }
    assert!(runs >= 8, "{runs}");
    Row { scenario: "verify, listbackups, restore, export", faults: "a wrong byte in an artifact, a manifest, the checksums", runs }
        .print();
}

#[test]
fn a_byte_that_is_changed_on_its_way_to_the_store_is_sent_again() {
    let house = House::new();
    let mut runs = 0;
    // with a checksum the server is told what to expect; what proves the artifacts is read back in any case
    for (object, keys) in
        [("media.tar", "checksum = \"sha256\"\n"), ("manifest.json", "checksum = \"sha256\"\n"), ("manifest.json", ""), ("SHA256SUMS", "")]
    {
        let proxy = Proxy::first(house.server.port(), 1, Fault::Garbled, move |request| {
            request.method == "PUT" && request.path().contains(object) && request.bytes() > 0
        });
        let backstay = house.behind(&proxy);
        backstay.configure(&format!("{}{keys}", House::config(&house.scratch, &house.server, &proxy.endpoint())));
        let name = backstay.backup();
        assert_eq!(proxy.faults(), 1);
        house.backstay.succeed(&["verify", &name]);
        house.assert_restores(&house.backstay, &name);
        runs += 1;
    }
    house.assert_no_uploads();
    Row { scenario: "a backup", faults: "a wrong byte in what is sent", runs }.print();
}

/// A create whose answer is lost is found to be ours; one that another made is not.
#[test]
fn a_lease_or_manifest_that_was_created_unheard_is_known() {
    let house = House::new();
    let mut runs = 0;
    for key in [".json", "/manifest.json"] {
        for fault in [Fault::Lost, Fault::Denied(500), Fault::Denied(503), Fault::Cut] {
            let proxy = Proxy::first(house.server.port(), 1, fault, move |request| {
                request.puts(key) && (key == "/manifest.json" || request.path().contains("/leases/"))
            });
            let name = house.behind(&proxy).backup();
            assert_eq!(proxy.faults(), 1);
            house.assert_restores(&house.backstay, &name);
            runs += 1;
        }
    }
    Row { scenario: "a backup", faults: "the create of its lease or manifest is done and not answered, or answered by an error", runs }
        .print();
}

/// A completion that is not answered is asked for again, when the store knows nothing of the upload any more.
#[test]
fn an_upload_that_was_completed_unheard_is_known() {
    let house = House::new();
    let mut runs = 0;
    for fault in [Fault::Lost, Fault::Denied(500), Fault::Truncated(30)] {
        // SeaweedFS completes twice what is complete; AWS does not
        for again in [None, Some(Fault::Answer(404, ""))] {
            let (fault, seen) = (fault.clone(), AtomicUsize::new(0));
            let proxy = Proxy::new(house.server.port(), move |request| {
                if request.method != "POST" || !request.target.contains("uploadId=") || request.path().contains(".backstay") {
                    return None;
                }
                if seen.fetch_add(1, Ordering::SeqCst) == 0 { Some(fault.clone()) } else { again.clone() }
            });
            let name = house.behind(&proxy).backup();
            assert!(proxy.faults() > 0);
            house.assert_restores(&house.backstay, &name);
            runs += 1;
        }
    }
    house.assert_no_uploads();
    Row { scenario: "a backup", faults: "an upload is completed and that is not answered, or answered by an error", runs }.print();
}

/// The request is on its way for longer than the program waits for it: it is given up, and arrives.
#[tokio::test]
async fn a_manifest_that_arrives_late_finds_its_artifacts() {
    let house = House::new();
    let first = house.backstay.backup();
    let proxy = Proxy::first(house.server.port(), usize::MAX, Fault::Late, |request| request.puts("/manifest.json"));
    house.behind(&proxy).run(&["backup"]).expect_code(3).expect_message("manifest.json");
    let list = || house.backstay.succeed(&["listbackups", "--json"]).json().as_array().expect("an array").clone();
    assert_eq!(list().len(), 1, "given up");
    assert!(proxy.deliver() > 0);
    let listed = list();
    assert_eq!(listed.len(), 2, "arrived");
    for row in &listed {
        house.assert_restores(&house.backstay, row["name"].as_str().expect("a name"));
    }
    assert_eq!(listed[0]["name"], first.as_str());
    Row { scenario: "a backup", faults: "its manifest arrives after the program gave it up", runs: 1 }.print();
}

/// Lists that lack the newest objects: nothing is overwritten, removed or swept for that.
#[tokio::test]
async fn a_stale_list_costs_no_backup() {
    let house = House::new();
    let first = house.backstay.backup();
    let second = house.backstay.backup();
    let mut runs = 0;
    for lacking in [second.as_str(), first.as_str(), "manifest.json", "media.tar", "SHA256SUMS"] {
        let text = lacking.to_owned();
        let proxy = Proxy::new(house.server.port(), move |request| request.lists().then(|| Fault::Stale(text.clone())));
        let stale = house.behind(&proxy);
        for args in [&["prune"][..], &["verify", "--all"], &["listbackups"]] {
            stale.run(args).expect_code(0);
            runs += 1;
        }
        stale.backup();
        for name in [&first, &second] {
            if house.keys().await.iter().any(|key| key.starts_with(name.as_str())) {
                house.assert_restores(&house.backstay, name);
            }
        }
        runs += 1;
    }
    let complete = house.backstay.succeed(&["listbackups", "--json"]).json().as_array().expect("an array").len();
    assert!(complete >= 3, "{complete} of the 3 that are kept");
    house.backstay.succeed(&["verify", "--all"]);
    Row { scenario: "backup, retention, verify, listbackups", faults: "every list lacks some of the objects", runs }.print();
}

/// A refusal is not asked for again, and is said with its target and key.
#[test]
fn what_is_refused_is_not_tried_again() {
    let house = House::new();
    let mut runs = 0;
    for (fault, said) in [(Fault::Answer(403, ""), "403"), (Fault::Answer(400, ""), "400"), (Fault::Answer(401, ""), "401")] {
        let proxy = Proxy::first(house.server.port(), usize::MAX, fault, |request| request.target.contains("?uploads"));
        let begun = Instant::now();
        let outcome = house.behind(&proxy).run(&["backup"]).expect_code(3).expect_message(said).expect_message("target `s3`");
        assert!(outcome.stderr.contains("media/media.tar"), "{}", outcome.stderr);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(proxy.faults(), 1);
        runs += 1;
    }
    let missing =
        Backstay::new(&House::config(&house.scratch, &house.server, &house.server.endpoint()).replace("s3://backups", "s3://nowhere"));
    let begun = Instant::now();
    missing.run(&["backup"]).expect_code(3).expect_message("bucket does not exist");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    runs += 1;
    Row { scenario: "a backup", faults: "403, 401 and 400 to an upload; a bucket that is not there", runs }.print();
}

/// What lasts is given up after a bounded time, with one error, and the next run is not in its debt.
#[tokio::test]
async fn what_lasts_is_said_once_and_leaves_nothing() {
    let house = House::new();
    let mut runs = 0;
    for fault in [Fault::Answer(500, ""), Fault::Answer(503, "retry-after: 0\r\n"), Fault::Cut, Fault::Lost] {
        let proxy = Proxy::first(house.server.port(), usize::MAX, fault.clone(), |request| {
            request.method == "PUT" && request.target.contains("partNumber=")
        });
        let begun = Instant::now();
        let outcome = house.behind(&proxy).run(&["backup"]).expect_code(3).expect_message("target `s3`").expect_message("media/media.tar");
        assert!(begun.elapsed() < Duration::from_secs(40), "{fault:?}: {:?}", begun.elapsed());
        assert!((7..=3 * 7).contains(&proxy.faults()), "{fault:?}: {} requests", proxy.faults());
        let errors = outcome.stderr.lines().filter(|line| line.contains("ERROR") && line.contains("target `s3`")).count();
        assert_eq!(errors, 1, "{}", outcome.stderr);
        house.assert_no_uploads();
        let left: Vec<String> = house.keys().await.into_iter().filter(|key| !key.starts_with(".backstay/")).collect();
        assert_eq!(left, [""; 0]);
        runs += 1;
    }
    let name = house.backstay.backup();
    house.assert_restores(&house.backstay, &name);
    Row { scenario: "a backup", faults: "500, 503, resets or no answers to every part of an upload", runs }.print();
}

/// A store that nobody answers for, and one that comes back.
#[test]
fn a_store_that_is_away_for_a_moment_is_waited_for() {
    let house = House::new();
    let seen = AtomicUsize::new(0);
    // all connections are reset for as long as a restart takes, twice
    let proxy = Proxy::new(house.server.port(), move |_| {
        let number = seen.fetch_add(1, Ordering::SeqCst);
        matches!(number, 3..=5 | 12..=14).then_some(Fault::Cut)
    });
    let name = house.behind(&proxy).backup();
    assert_eq!(proxy.faults(), 6);
    house.assert_restores(&house.backstay, &name);
    Row { scenario: "a backup", faults: "the store is away for a moment, twice", runs: 1 }.print();
}

/// What answers "later" is asked no earlier than it says, whatever it was asked for.
#[test]
fn a_store_that_says_when_to_come_back_is_not_asked_before() {
    const LATER: Duration = Duration::from_secs(3);
    type Which = fn(&crate::support::proxy::Request) -> bool;
    let kinds: [(Which, u16); 3] = [
        (|r| r.method == "PUT" && r.path().contains("/leases/"), 503),
        (|r| r.method == "PUT" && r.target.contains("partNumber=1&"), 429),
        (|r| r.puts("/manifest.json"), 503),
    ];
    let house = House::new();
    let came: [Arc<Mutex<Vec<Instant>>>; 3] = Default::default();
    let noted = came.clone();
    let proxy = Proxy::new(house.server.port(), move |request| {
        let (at, (_, status)) = kinds.iter().enumerate().find(|(_, (which, _))| which(request))?;
        let mut came = noted[at].lock().expect("no panic holds it");
        came.push(request.at);
        (came.len() == 1).then_some(Fault::Answer(*status, "retry-after: 3\r\n"))
    });
    let name = house.behind(&proxy).backup();
    for (at, came) in came.iter().enumerate() {
        let came = came.lock().expect("no panic holds it");
        let pause = came[1].duration_since(came[0]);
        assert!(pause >= LATER, "request {at} came again after {pause:?}");
    }
    assert_eq!(proxy.faults(), kinds.len());
    house.assert_restores(&house.backstay, &name);
    Row { scenario: "a backup", faults: "503 and 429 with Retry-After to a lease, a part, the manifest", runs: 1 }.print();
}

/// A line over which a part takes longer than a minute is slow, not silent: nothing is sent a second time.
#[test]
fn a_part_that_takes_long_is_waited_for() {
    let house = House::new();
    let delay = Fault::Delayed(Duration::from_secs(65));
    let proxy = Proxy::new(house.server.port(), move |request| {
        let large = request.method == "PUT" && request.target.contains("partNumber=") && request.bytes() == 5 << 20;
        large.then(|| delay.clone())
    });
    let name = house.behind(&proxy).backup();
    assert_eq!(proxy.faults(), 1, "the part was sent once");
    house.assert_restores(&house.backstay, &name);
    Row { scenario: "a backup", faults: "a part takes 65 s", runs: 1 }.print();
}

/// What is asked of a store that says nothing any more is asked again, on another connection.
#[test]
fn a_store_that_falls_silent_is_asked_again() {
    let kinds = ["a list", "a lease", "the content of an object"];
    std::thread::scope(|scope| {
        for (kind, what) in kinds.iter().enumerate() {
            scope.spawn(move || {
                let house = House::new();
                let name = &house.backstay.backup();
                let proxy = Proxy::first(house.server.port(), 1, Fault::Silent, move |request| match kind {
                    0 => request.lists(),
                    1 => request.method == "PUT" && request.path().contains("/leases/"),
                    _ => request.gets("media.tar"),
                });
                let args: &[&str] = if kind == 2 { &["verify", name] } else { &["backup"] };
                house.behind(&proxy).succeed(args);
                assert_eq!(proxy.faults(), 1, "{what}");
            });
        }
    });
    Row { scenario: "a backup, a verification", faults: "no answer, for ever, to a list, a lease, a download", runs: kinds.len() }.print();
}
