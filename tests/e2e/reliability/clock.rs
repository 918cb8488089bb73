//! The worker under clocks that change, step, and go on while it is not there.

use chrono::{DateTime, Utc};
use rustix::process::Signal;

use crate::support::ports::Port;
use crate::support::{Backstay, Row, Scratch, toml};
use crate::worker_process::Running;

/// A job with its schedule in Berlin, and a witness that runs every second.
fn config(schedule: &str, source: &Scratch, target: &Scratch, port: &Port) -> String {
    source.write("docs/a", "a");
    let job = |name: &str, keys: &str| format!("[jobs.{name}]\ncomponents = [\"docs\"]\ntimezone = \"Europe/Berlin\"\n{keys}\n");
    [
        job("default", &format!("schedule = \"{schedule}\"")),
        job("witness", "schedule = \"* * * * * *\"\ncatch_up = false\nkeep_last = 1"),
        toml::directory("docs", &source.join("docs")),
        toml::file_target("local", target.path()),
        format!("[worker]\nlisten = \"127.0.0.1:{}\"\n", port.number()),
    ]
    .concat()
}

/// A clock that a test may set: libfaketime reads the file each time it is asked.
fn set(clock: &std::path::Path, to: &str) {
    let to: DateTime<Utc> = to.parse().expect("a time in the test");
    let ahead = (to - Utc::now()).num_seconds();
    let new = clock.with_extension("new");
    std::fs::write(&new, format!("{ahead:+}")).expect("written");
    std::fs::rename(&new, clock).expect("set");
}

/// Waits until the worker has looked at the clock some more times: its witness runs.
fn settled(worker: &mut Running) {
    for _ in 0..3 {
        worker.line_with(&["run complete", "witness"]);
    }
}

/// When the backups of the job were begun, to the minute.
fn begun(backstay: &Backstay) -> Vec<String> {
    let list = backstay.succeed(&["listbackups", "--job", "default", "--json"]).json();
    let mut names: Vec<_> =
        list.as_array().expect("a list").iter().map(|b| b["name"].as_str().expect("a name")["default-".len()..][..15].to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_worker_keeps_its_slots_through_changes_and_steps_of_its_clock() {
    let (port, source, target) = (Port::free(), Scratch::new(), Scratch::new());
    let clock = source.join("clock");
    let plain = Backstay::new(&config("30 2 * * *", &source, &target, &port));
    set(&clock, "2026-10-25T00:29:50Z");
    let backstay = Backstay::new(&config("30 2 * * *", &source, &target, &port)).with_clock_of(&clock);
    let mut worker = Running::start(&backstay);
    worker.line_with(&["run complete", "default"]);
    let mut expected = vec!["2026-10-25-0030".to_owned()];
    assert_eq!(begun(&plain), expected, "the first of two");
    set(&clock, "2026-10-25T01:29:58Z");
    settled(&mut worker);
    settled(&mut worker);
    assert_eq!(begun(&plain), expected, "the second is none");
    // half a year in which the machine slept: the newest slot, and then the one in the gap
    set(&clock, "2027-03-28T00:59:45Z");
    worker.line_with(&["run complete", "default"]);
    worker.line_with(&["run complete", "default"]);
    expected.extend(["2027-03-28-0059".to_owned(), "2027-03-28-0100".to_owned()]);
    assert_eq!(begun(&plain), expected);
    // the slot comes again, and has been served
    set(&clock, "2027-03-28T00:50:00Z");
    settled(&mut worker);
    set(&clock, "2027-03-28T00:59:55Z");
    worker.line_with(&["run complete", "default"]);
    settled(&mut worker);
    assert_eq!(begun(&plain), expected, "once, whatever the clock does");
    worker.signal(Signal::TERM);
    assert_eq!(worker.code(), Some(0));
    Row {
        scenario: "a worker under a clock that changes",
        faults: "an hour twice; an hour that is left out; a sleep of half a year; a step back over a slot",
        runs: 4,
    }
    .print();
}

#[test]
fn a_slot_that_nobody_saw_is_run_once_by_the_next_worker() {
    let (port, source, target) = (Port::free(), Scratch::new(), Scratch::new());
    let text = config("0 3 * * *", &source, &target, &port);
    let plain = Backstay::new(&text);
    let at = |time: &str| Backstay::new(&text).with_clock(time);
    let lives = |time: &str, runs: bool| {
        let backstay = at(time);
        let mut worker = Running::start(&backstay);
        if runs {
            worker.line_with(&["run complete", "default"]);
        }
        settled(&mut worker);
        worker.signal(Signal::TERM);
        assert_eq!(worker.code(), Some(0));
        begun(&plain)
    };
    assert_eq!(lives("@2026-06-01 00:59:50", true), ["2026-06-01-0100"]);
    let expected = ["2026-06-01-0100", "2026-06-04-1200"];
    assert_eq!(lives("@2026-06-04 12:00:00", true), expected, "once for three days");
    assert_eq!(lives("@2026-06-04 12:10:00", false), expected, "and no more");
    Row { scenario: "a worker starts again after slots that nobody saw", faults: "none missed; three missed; none missed since", runs: 3 }
        .print();
}
