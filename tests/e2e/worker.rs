//! The worker: slots, catch-up, overlap, reload, drain, health. Time stands still until a test moves it.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backstay::clock::{Clock, FixedClock};
use backstay::name::JobName;
use backstay::schedule::Schedule;
use backstay::worker::health::{HealthError, probe};
use backstay::worker::{DrillOutcome, Ended, Options, Order, Pace, PlannedJob, RunOutcome, Runner, Worker, WorkerError, signals};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

fn utc(text: &str) -> DateTime<Utc> {
    format!("2026-06-{text}Z").parse().expect("a time in the test")
}

fn name(job: &str) -> JobName {
    job.parse().expect("a name")
}

/// A job at three each night.
fn nightly(job: &str) -> PlannedJob {
    let schedule = Some(Schedule::parse("0 3 * * *", "UTC").expect("a schedule"));
    PlannedJob {
        name: name(job),
        schedule,
        copies: false,
        follows: Vec::new(),
        drill: None,
        catch_up: true,
        jitter: Duration::ZERO,
        timeout: None,
    }
}

/// When the newest complete backup was begun.
type Answer = Result<Option<DateTime<Utc>>, String>;

/// A runner whose runs end when and how the test says, and whose answers about the last backup are a script.
struct Scripted {
    jobs: Vec<PlannedJob>,
    answers: Mutex<HashMap<JobName, Vec<Answer>>>,
    begun: mpsc::UnboundedSender<Begun>,
    drills: mpsc::UnboundedSender<Drilling>,
    hears_cancel: bool,
}

/// A drill that goes on.
#[derive(Debug)]
struct Drilling {
    job: JobName,
    end: oneshot::Sender<DrillOutcome>,
}

/// A run that goes on.
#[derive(Debug)]
struct Begun {
    job: JobName,
    slot: DateTime<Utc>,
    cancel: CancellationToken,
    end: oneshot::Sender<RunOutcome>,
}

#[async_trait]
impl Runner for Scripted {
    fn jobs(&self) -> Vec<PlannedJob> {
        self.jobs.clone()
    }

    async fn run(&self, job: &JobName, slot: DateTime<Utc>, cancel: CancellationToken) -> RunOutcome {
        let (end, ended) = oneshot::channel();
        self.begun.send(Begun { job: job.clone(), slot, cancel: cancel.clone(), end }).expect("the test listens");
        let cancelled = async { if self.hears_cancel { cancel.cancelled().await } else { std::future::pending().await } };
        tokio::select! {
            outcome = ended => outcome.expect("the test ends the run, or panics it"),
            () = cancelled => RunOutcome::Cancelled,
        }
    }

    async fn drill(&self, job: &JobName, cancel: CancellationToken) -> DrillOutcome {
        let (end, ended) = oneshot::channel();
        self.drills.send(Drilling { job: job.clone(), end }).expect("the test listens");
        tokio::select! {
            outcome = ended => outcome.expect("the test ends the drill"),
            () = cancel.cancelled() => DrillOutcome::Cancelled,
        }
    }

    async fn last_complete(&self, job: &JobName) -> Answer {
        let mut answers = self.answers.lock().expect("no panic under the lock");
        match answers.get_mut(job) {
            None => Ok(None),
            Some(list) if list.len() > 1 => list.remove(0),
            Some(list) => list[0].clone(),
        }
    }
}

/// A worker in this process, and what the test needs to drive it.
struct Driven {
    clock: Arc<FixedClock>,
    orders: mpsc::Sender<Order>,
    begun: mpsc::UnboundedReceiver<Begun>,
    drills: mpsc::UnboundedReceiver<Drilling>,
    next_config: Arc<Mutex<Result<Vec<PlannedJob>, String>>>,
    address: std::net::SocketAddr,
    ended: JoinHandle<Result<Ended, WorkerError>>,
}

struct Setup {
    jobs: Vec<PlannedJob>,
    answers: Vec<(&'static str, Vec<Answer>)>,
    hears_cancel: bool,
    pace: Pace,
}

fn setup(jobs: Vec<PlannedJob>) -> Setup {
    // no test waits for a drain that is to succeed, so that it may be long
    let pace = Pace { beat: Duration::from_millis(50), ask_again: Duration::from_millis(50), drain: PATIENCE };
    Setup { jobs, answers: Vec::new(), hears_cancel: true, pace }
}

impl Setup {
    fn answers(mut self, job: &'static str, answers: Vec<Answer>) -> Self {
        self.answers.push((job, answers));
        self
    }

    async fn start(self, now: &str) -> Driven {
        let (orders, receiver) = mpsc::channel(8);
        self.start_with(now, orders, receiver).await
    }

    async fn start_with(self, now: &str, orders: mpsc::Sender<Order>, receiver: mpsc::Receiver<Order>) -> Driven {
        let clock = Arc::new(FixedClock::at(utc(now)));
        let (begun_sender, begun) = mpsc::unbounded_channel();
        let (drills_sender, drills) = mpsc::unbounded_channel();
        let next_config = Arc::new(Mutex::new(Ok(self.jobs.clone())));
        let answers: HashMap<_, _> = self.answers.into_iter().map(|(job, list)| (name(job), list)).collect();
        let hears_cancel = self.hears_cancel;
        let make = {
            let (begun, drills) = (begun_sender.clone(), drills_sender.clone());
            move |jobs| {
                let answers = Mutex::new(answers.clone());
                Arc::new(Scripted { jobs, answers, begun: begun.clone(), drills: drills.clone(), hears_cancel }) as Arc<dyn Runner>
            }
        };
        let options = Options {
            runner: make(self.jobs),
            reload: {
                let next = next_config.clone();
                Arc::new(move || {
                    let result = next.lock().expect("no panic under the lock").clone().map(&make);
                    Box::pin(std::future::ready(result))
                })
            },
            clock: clock.clone(),
            listen: Some("127.0.0.1:0".parse().expect("an address")),
            pace: self.pace,
        };
        let worker = Worker::start(options).await.expect("a worker");
        let address = worker.address().expect("it listens");
        Driven { clock, orders, begun, drills, next_config, address, ended: tokio::spawn(worker.run(receiver)) }
    }
}

impl Driven {
    fn to(&self, now: &str) {
        self.clock.advance(utc(now) - self.clock.now());
    }

    async fn begun(&mut self) -> Begun {
        timeout(PATIENCE, self.begun.recv()).await.expect("a run in time").expect("a worker")
    }

    /// Waits until `/readyz` answers with `status` and what `wanted` accepts.
    async fn report_when(&self, wanted: impl Fn(u16, &Value) -> bool) -> (u16, Value) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.get("/readyz").await;
            if wanted(status, &body) {
                return (status, body);
            }
            assert!(std::time::Instant::now() < deadline, "the last answer was {status}: {body}");
        }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (address, path) = (self.address, path.to_owned());
        tokio::task::spawn_blocking(move || get(address, &path)).await.expect("an answer")
    }

    /// Waits until the worker has looked at the clock and taken what it found: a job that fires each second is the witness.
    async fn settled(&mut self) {
        // two heartbeats of the timetable
        for _ in 0..2 {
            self.clock.advance(TimeDelta::seconds(1));
            let run = self.begun().await;
            assert_eq!(run.job, name("witness"), "{run:?}");
            run.end.send(RunOutcome::Complete).expect("the run waits");
            self.report_when(|_, body| !job(body, "witness")["running"].as_bool().expect("a boolean")).await;
        }
    }

    async fn stop(self) -> Result<Ended, WorkerError> {
        self.orders.send(Order::Stop).await.expect("a worker");
        timeout(PATIENCE, self.ended).await.expect("an end in time").expect("no panic")
    }
}

fn witness() -> PlannedJob {
    let schedule = Some(Schedule::parse("* * * * * *", "UTC").expect("a schedule"));
    PlannedJob {
        name: name("witness"),
        schedule,
        copies: false,
        follows: Vec::new(),
        drill: None,
        catch_up: false,
        jitter: Duration::ZERO,
        timeout: None,
    }
}

fn get(address: std::net::SocketAddr, path: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).expect("connect to the worker");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn job<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["jobs"].as_array().expect("jobs").iter().find(|job| job["name"] == name).expect("the job is reported")
}

#[tokio::test]
async fn two_hundred_jobs_at_one_instant_all_run() {
    let mut worker = setup((0..200).map(|n| nightly(&format!("job-{n}"))).collect()).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let run = worker.begun().await;
        assert_eq!(run.slot, utc("01T03:00:00"));
        assert!(seen.insert(run.job), "ran twice");
        run.end.send(RunOutcome::Complete).expect("the run waits");
    }
    assert_eq!(worker.stop().await.expect("a drain"), Ended::Drained);
}

#[tokio::test]
async fn a_slot_that_comes_during_a_run_is_left_out_and_other_jobs_run_beside() {
    let mut worker = setup(vec![nightly("a"), witness()]).start("01T02:59:58").await;
    worker.to("01T03:00:00");
    let runs = [worker.begun().await, worker.begun().await];
    let (a, other): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.job == name("a"));
    for run in other {
        run.end.send(RunOutcome::Complete).expect("the run waits");
    }
    worker.settled().await;
    worker.to("02T03:00:00");
    // the second slot of `a` has come, and only the witness may run
    let run = worker.begun().await;
    assert_eq!(run.job, name("witness"));
    run.end.send(RunOutcome::Complete).expect("the run waits");
    worker.settled().await;
    a.into_iter().next().expect("a runs").end.send(RunOutcome::Complete).expect("the run waits");
    worker.report_when(|_, body| job(body, "a")["last_outcome"] == "complete").await;
    worker.settled().await;
    worker.stop().await.expect("a drain");
}

#[tokio::test]
async fn a_missed_slot_is_run_once_at_start() {
    let jobs = vec![nightly("a"), witness()];
    let mut worker = setup(jobs).answers("a", vec![Ok(Some(utc("01T03:00:02")))]).start("04T12:00:00").await;
    let run = worker.begun().await;
    assert_eq!((run.job, run.slot), (name("a"), utc("04T03:00:00")), "the newest of three missed slots");
    run.end.send(RunOutcome::Failed("no route".into())).expect("the run waits");
    worker.report_when(|_, body| job(body, "a")["last_outcome"] == "failed").await;
    worker.settled().await;
    worker.to("05T03:00:00");
    let next = [worker.begun().await, worker.begun().await];
    assert!(next.iter().any(|run| run.job == name("a") && run.slot == utc("05T03:00:00")), "{next:?}");
}

#[tokio::test]
async fn no_slot_is_caught_up_without_need() {
    let mut without = nightly("without");
    without.catch_up = false;
    let jobs = vec![nightly("done"), nightly("new"), without, witness()];
    let mut worker = setup(jobs)
        .answers("done", vec![Ok(Some(utc("04T03:00:00")))])
        .answers("without", vec![Ok(Some(utc("01T03:00:00")))])
        .start("04T12:00:00")
        .await;
    worker.settled().await;
    let (_, report) = worker.get("/readyz").await;
    assert_eq!(job(&report, "done")["last_complete"], "2026-06-04T03:00:00Z");
    assert_eq!(job(&report, "done")["next"], "2026-06-05T03:00:00Z");
    worker.stop().await.expect("a drain");
}

#[tokio::test]
async fn targets_that_cannot_be_asked_at_start_do_not_lose_the_missed_slot() {
    let answers = vec![Err("no route".into()), Err("no route".into()), Ok(Some(utc("01T03:00:00")))];
    let mut worker = setup(vec![nightly("a")]).answers("a", answers).start("04T12:00:00").await;
    let run = worker.begun().await;
    assert_eq!(run.slot, utc("04T03:00:00"));
}

/// One that copies what `jobs` make.
fn following(job: &str, jobs: &[&str]) -> PlannedJob {
    PlannedJob { schedule: None, copies: true, follows: jobs.iter().map(|job| name(job)).collect(), ..nightly(job) }
}

#[tokio::test]
async fn a_job_that_follows_runs_after_each_run_that_wrote_something_and_never_at_once_with_itself() {
    let jobs = vec![nightly("a"), nightly("b"), nightly("c"), following("copy", &["a", "b", "c"])];
    // nothing is lacking at the start
    let mut worker = setup(jobs).answers("copy", vec![Ok(Some(utc("01T02:59:59")))]).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    let mut runs: Vec<Begun> = Vec::new();
    for _ in 0..3 {
        runs.push(worker.begun().await);
    }
    runs.sort_by_key(|run| run.job.clone());
    let mut runs = runs.into_iter();
    let mut end = |outcome| runs.next().expect("it runs").end.send(outcome).expect("the run waits");
    end(RunOutcome::Failed("no route".into()));
    worker.report_when(|_, body| job(body, "a")["last_outcome"] == "failed").await;
    end(RunOutcome::Incomplete("one of two".into()));
    let copy = worker.begun().await;
    assert_eq!(copy.job, name("copy"));
    end(RunOutcome::Complete);
    worker.report_when(|_, body| job(body, "c")["last_outcome"] == "complete").await;
    copy.end.send(RunOutcome::Complete).expect("the run waits");
    // what came while it ran is copied by the next
    let again = worker.begun().await;
    assert_eq!(again.job, name("copy"));
    again.end.send(RunOutcome::Complete).expect("the run waits");
    worker.report_when(|_, body| job(body, "copy")["running"] == false).await;
    assert!(worker.begun.try_recv().is_err(), "a third run");
    worker.stop().await.expect("a drain");
}

#[tokio::test]
async fn a_job_that_follows_runs_at_start_when_something_is_lacking() {
    let jobs = vec![nightly("a"), following("lacks", &["a"]), following("empty", &["a"]), following("whole", &["a"]), witness()];
    let mut worker = setup(jobs)
        .answers("a", vec![Ok(Some(utc("04T03:00:00")))])
        .answers("lacks", vec![Ok(Some(utc("03T03:00:00")))])
        .answers("empty", vec![Ok(None)])
        .answers("whole", vec![Ok(Some(utc("04T12:00:00")))])
        .start("04T12:00:00")
        .await;
    let mut begun = BTreeSet::new();
    for _ in 0..2 {
        let run = worker.begun().await;
        begun.insert(run.job);
        run.end.send(RunOutcome::Complete).expect("the run waits");
    }
    assert_eq!(begun, [name("empty"), name("lacks")].into());
    worker.settled().await;
    worker.stop().await.expect("a drain");
}

#[tokio::test]
async fn a_stop_cancels_runs_waits_for_them_and_makes_no_new_ones() {
    let mut worker = setup(vec![nightly("a"), nightly("b")]).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    let (one, two) = (worker.begun().await, worker.begun().await);
    worker.to("02T03:00:00");
    let cancelled = [one.cancel.clone(), two.cancel.clone()];
    let mut begun = std::mem::replace(&mut worker.begun, mpsc::unbounded_channel().1);
    assert_eq!(worker.stop().await.expect("a drain"), Ended::Drained);
    assert!(cancelled.iter().all(CancellationToken::is_cancelled));
    assert!(begun.recv().await.is_none(), "a run began during the drain");
}

#[tokio::test]
async fn a_run_that_does_not_end_is_cut_at_the_deadline_and_named() {
    let mut setup = setup(vec![nightly("a")]);
    (setup.hears_cancel, setup.pace.drain) = (false, Duration::from_millis(200));
    let mut worker = setup.start("01T02:59:59").await;
    worker.to("01T03:00:00");
    let _run = worker.begun().await;
    match worker.stop().await {
        Err(WorkerError::Drain { jobs, .. }) => assert_eq!(jobs, ["a"]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_second_stop_ends_at_once() {
    let mut setup = setup(vec![nightly("a")]);
    setup.hears_cancel = false;
    let mut worker = setup.start("01T02:59:59").await;
    worker.to("01T03:00:00");
    let run = worker.begun().await;
    worker.orders.send(Order::Stop).await.expect("a worker");
    timeout(PATIENCE, run.cancel.cancelled()).await.expect("the first stop cancels");
    assert_eq!(worker.stop().await.expect("an end"), Ended::Forced);
}

#[tokio::test]
async fn signals_are_orders() {
    let mut orders = signals::orders().expect("handlers");
    for (signal, order) in [
        (rustix::process::Signal::HUP, Order::Reload),
        (rustix::process::Signal::TERM, Order::Stop),
        (rustix::process::Signal::INT, Order::Stop),
    ] {
        rustix::process::kill_process(rustix::process::getpid(), signal).expect("send a signal");
        assert_eq!(timeout(PATIENCE, orders.recv()).await.expect("an order in time"), Some(order));
    }
}

#[tokio::test]
async fn a_reload_takes_the_new_jobs_and_lets_the_old_runs_end() {
    let mut worker = setup(vec![nightly("old"), nightly("kept")]).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    let runs = [worker.begun().await, worker.begun().await];
    *worker.next_config.lock().expect("no panic") = Ok(vec![nightly("kept"), nightly("new"), witness()]);
    worker.orders.send(Order::Reload).await.expect("a worker");
    worker.report_when(|_, body| body["jobs"].as_array().expect("jobs").iter().any(|job| job["name"] == "new")).await;
    assert!(runs.iter().all(|run| !run.cancel.is_cancelled()), "a reload cancels nothing");
    for run in runs {
        run.end.send(RunOutcome::Complete).expect("the run waits");
    }
    let (_, report) = worker.report_when(|_, body| job(body, "kept")["last_outcome"] == "complete").await;
    assert!(report["jobs"].as_array().expect("jobs").iter().all(|job| job["name"] != "old"), "{report}");
    worker.settled().await;
    worker.to("02T03:00:00");
    let jobs: BTreeSet<_> = [worker.begun().await.job, worker.begun().await.job, worker.begun().await.job].into();
    assert_eq!(jobs, [name("kept"), name("new"), name("witness")].into());
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let mut worker = setup(vec![nightly("a"), witness()]).start("01T02:00:00").await;
    *worker.next_config.lock().expect("no panic") = Err("line 3: unknown key `shedule`".into());
    worker.orders.send(Order::Reload).await.expect("a worker");
    worker.settled().await;
    worker.to("01T03:00:00");
    let jobs: BTreeSet<_> = [worker.begun().await.job, worker.begun().await.job].into();
    assert_eq!(jobs, [name("a"), name("witness")].into());
}

#[tokio::test]
async fn a_run_past_its_timeout_is_left_to_the_job() {
    let mut short = nightly("a");
    short.timeout = Some(Duration::from_millis(1));
    let mut worker = setup(vec![short, witness()]).start("01T02:00:00").await;
    worker.settled().await;
    worker.to("01T03:00:00");
    let runs = [worker.begun().await, worker.begun().await];
    let (run, witness): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.job == name("a"));
    for run in witness {
        run.end.send(RunOutcome::Complete).expect("the run waits");
    }
    worker.settled().await;
    assert!(!run[0].cancel.is_cancelled());
}

#[tokio::test]
async fn a_run_that_panics_is_a_failed_run_and_the_worker_lives() {
    let mut worker = setup(vec![nightly("a")]).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    // the runner of this test panics when the other end is gone
    drop(worker.begun().await);
    worker.report_when(|_, body| job(body, "a")["last_outcome"] == "failed").await;
    worker.to("02T03:00:00");
    worker.begun().await;
}

#[tokio::test]
async fn jitter_delays_a_run_within_its_bound_and_a_stop_does_not_wait_for_it() {
    let mut late = nightly("a");
    late.jitter = Duration::from_secs(3600 * 24 * 300);
    let worker = setup(vec![late]).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    worker.report_when(|_, body| job(body, "a")["running"] == true).await;
    let mut begun = worker.begun;
    assert!(begun.try_recv().is_err(), "the chance of this is one in ten million a second");
    worker.orders.send(Order::Stop).await.expect("a worker");
    assert_eq!(timeout(PATIENCE, worker.ended).await.expect("in time").expect("no panic").expect("a drain"), Ended::Drained);
}

#[tokio::test]
async fn health_tells_what_is_wrong_and_recovers() {
    let mut worker = setup(vec![nightly("a")]).start("01T02:59:59").await;
    let listen = worker.address;
    worker.report_when(|status, _| status == 200).await;
    probe(listen).await.expect("ready");
    probe(std::net::SocketAddr::from(([0, 0, 0, 0], listen.port()))).await.expect("all interfaces are probed over loopback");

    worker.to("01T03:00:00");
    worker.begun().await.end.send(RunOutcome::Incomplete("media: permission denied".into())).expect("the run waits");
    let (_, report) = worker.report_when(|status, _| status == 503).await;
    assert_eq!(report["reasons"][0], "job `a`: the last run is incomplete: media: permission denied");
    assert_eq!(job(&report, "a")["failing"], true);
    match probe(listen).await {
        Err(HealthError::Unready(text)) => assert!(text.contains("media: permission denied"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(worker.get("/healthz").await.0, 200, "it lives");

    worker.to("02T03:00:00");
    worker.begun().await.end.send(RunOutcome::Complete).expect("the run waits");
    worker.report_when(|status, _| status == 200).await;
    assert_eq!(worker.get("/else").await.0, 404);
    worker.stop().await.expect("a drain");
    assert!(matches!(probe(listen).await, Err(HealthError::Connect { .. })));
}

#[tokio::test]
async fn a_backup_made_by_hand_mends_a_failing_job() {
    let answers = vec![Ok(None), Ok(Some(utc("01T03:30:00")))];
    let mut worker = setup(vec![nightly("a")]).answers("a", answers).start("01T02:59:59").await;
    worker.to("01T03:00:00");
    worker.begun().await.end.send(RunOutcome::Failed("no route".into())).expect("the run waits");
    let (_, report) = worker.report_when(|status, body| status == 200 && job(body, "a")["last_outcome"] == "failed").await;
    assert_eq!(job(&report, "a")["last_complete"], "2026-06-01T03:30:00Z");
}

#[tokio::test]
async fn a_taken_port_is_an_error_at_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let (begun, _) = mpsc::unbounded_channel();
    let runner = Arc::new(Scripted {
        jobs: vec![nightly("a")],
        answers: Mutex::default(),
        begun,
        drills: mpsc::unbounded_channel().0,
        hears_cancel: true,
    });
    let reload: backstay::worker::Reload = Arc::new(|| Box::pin(std::future::ready(Err("unused".into()))));
    let clock = Arc::new(FixedClock::at(utc("01T00:00:00")));
    let options = Options { runner, reload, clock, listen: Some(address), pace: Pace::default() };
    let error = Worker::start(options).await.err().expect("refused");
    assert_eq!(error.to_string(), format!("listen on {address}"));
    assert!(error.advice().expect("advice").contains("worker.listen"));
}

/// A job at three each night, drilled at two on the first of each month.
fn drilled(job: &str) -> PlannedJob {
    PlannedJob { drill: Some(Schedule::parse("0 2 1 * *", "UTC").expect("a schedule")), ..nightly(job) }
}

#[tokio::test]
async fn a_drill_runs_by_its_own_schedule_the_backup_waits_for_it_and_its_failure_is_an_alert() {
    let mut worker = setup(vec![drilled("a")]).start("01T01:59:59").await;
    let (_, report) = worker.get("/readyz").await;
    assert_eq!((&job(&report, "a")["next_drill"], &job(&report, "a")["last_drill"]), (&"2026-06-01T02:00:00Z".into(), &Value::Null));
    worker.to("01T02:00:00");
    let drill = timeout(PATIENCE, worker.drills.recv()).await.expect("a drill in time").expect("a worker");
    assert_eq!(drill.job, name("a"));
    worker.report_when(|_, body| job(body, "a")["drilling"] == true && job(body, "a")["running"] == false).await;
    worker.to("01T03:00:00");
    // the slot has been taken when the next one is told
    worker.report_when(|_, body| job(body, "a")["next"] == "2026-06-02T03:00:00Z").await;
    assert!(worker.begun.try_recv().is_err(), "a run began beside the drill");
    drill.end.send(DrillOutcome::Failed("table `t` differs".into())).expect("the drill waits");
    let run = worker.begun().await;
    assert_eq!((run.job, run.slot), (name("a"), utc("01T03:00:00")), "the slot that waited");
    let (_, report) = worker.report_when(|status, body| status == 503 && job(body, "a")["last_drill_outcome"] == "failed").await;
    assert_eq!(report["reasons"], serde_json::json!(["job `a`: the last drill failed: table `t` differs"]));
    assert!(matches!(probe(worker.address).await, Err(HealthError::Unready(why)) if why.contains("drill failed")));
    run.end.send(RunOutcome::Complete).expect("the run waits");
    worker.report_when(|_, body| job(body, "a")["last_outcome"] == "complete" && job(body, "a")["failing"] == true).await;
    worker.stop().await.expect("a drain");
}

#[tokio::test]
async fn a_stop_cancels_a_drill_and_waits_for_it() {
    let mut worker = setup(vec![drilled("a")]).start("01T01:59:59").await;
    worker.to("01T02:00:00");
    let _drill = timeout(PATIENCE, worker.drills.recv()).await.expect("a drill in time").expect("a worker");
    assert_eq!(worker.stop().await.expect("a drain"), Ended::Drained);
}
