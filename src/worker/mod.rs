//! The long-running service: one run or drill at a time per job, catch-up, reload, drain.
//!
//! One loop owns all decisions; runs, questions to the targets and reloads are tasks whose results come back to it. Nothing that takes
//! long is awaited in the loop, so that its heartbeat (`/healthz`, systemd's watchdog) says something.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use crate::clock::Clock;
use crate::name::JobName;
use crate::schedule::{Errand, Timetable, Trigger};

mod board;
mod error;
pub mod health;
mod http;
mod notify;
mod plan;
mod run;
mod runner;
pub mod signals;

pub use error::WorkerError;
pub use plan::PlannedJob;
pub use runner::{DrillOutcome, Reload, RunOutcome, Runner};
pub use signals::Order;

use board::{Board, Claim};
use http::Shared;
use plan::{announce, scheduled};
use run::{drill, execute, guarded};

/// The worker's times.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long runs may take to end after a stop was asked for; the unit's `TimeoutStopSec` must be longer.
    pub drain: Duration,
    /// How often the loop beats, unless systemd's watchdog wants it more often.
    pub beat: Duration,
    /// How often, at most, the targets are asked again about a job that looks overdue or failing.
    pub ask_again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { drain: Duration::from_secs(60), beat: Duration::from_secs(15), ask_again: Duration::from_secs(300) }
    }
}

/// How many questions to the targets go on at once.
const QUESTIONS: usize = 4;

/// How the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// On request, with nothing left running: exit code 0.
    Drained,
    /// By a second signal, in the middle of runs: exit code 130, at once.
    Forced,
}

/// What a worker is made of.
pub struct Options {
    pub runner: Arc<dyn Runner>,
    pub reload: Reload,
    pub clock: Arc<dyn Clock>,
    /// `None`: no HTTP.
    pub listen: Option<SocketAddr>,
    pub pace: Pace,
}

/// A worker that listens and waits for its slots.
pub struct Worker {
    runner: Arc<dyn Runner>,
    reload: Reload,
    clock: Arc<dyn Clock>,
    pace: Pace,
    shared: Shared,
    timetable: Timetable,
    triggers: mpsc::Receiver<Trigger>,
    address: Option<SocketAddr>,
    server: Option<JoinHandle<()>>,
    started: DateTime<Utc>,
    cancel: CancellationToken,
    tasks: JoinSet<Done>,
    questions: Arc<Semaphore>,
    asked: HashMap<JobName, Asked>,
    /// Jobs of which it is not known yet whether they missed a slot.
    catching_up: HashSet<JobName>,
    reloading: Reloading,
}

/// When the targets were asked about a job, and how long to leave them alone.
struct Asked {
    at: Instant,
    pause: Duration,
}

/// What a task of the worker brings back.
enum Done {
    Ran { job: JobName, outcome: RunOutcome },
    Drilled { job: JobName, outcome: DrillOutcome },
    Asked { job: JobName, answer: Result<Option<DateTime<Utc>>, String> },
    Reloaded(Result<Arc<dyn Runner>, String>),
}

#[derive(PartialEq, Eq)]
enum Reloading {
    No,
    Yes,
    /// Another one was asked for meanwhile, and may see a newer file.
    Again,
}

impl Worker {
    /// Binds the port and starts the timetable; runs begin in [`Worker::run`].
    ///
    /// # Errors
    /// [`WorkerError::Listen`], when the port is taken; [`WorkerError::Timetable`].
    pub async fn start(options: Options) -> Result<Self, WorkerError> {
        let Options { runner, reload, clock, listen, pace } = options;
        let started = clock.now();
        let jobs = runner.jobs();
        let listener = match listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|source| WorkerError::Listen { address, source })?),
            None => None,
        };
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        announce(&jobs, started);
        let (timetable, triggers) = Timetable::start(scheduled(&jobs), clock.clone()).await.map_err(WorkerError::Timetable)?;
        let shared = Shared::new(Board::new(jobs, started), clock.clone());
        let server = listener.map(|listener| tokio::spawn(http::serve(listener, shared.clone())));
        if let Some(address) = address {
            info!(%address, "listening");
        }
        Ok(Self {
            runner,
            reload,
            clock,
            pace,
            shared,
            timetable,
            triggers,
            address,
            server,
            started,
            cancel: CancellationToken::new(),
            tasks: JoinSet::new(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            asked: HashMap::new(),
            catching_up: HashSet::new(),
            reloading: Reloading::No,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Runs jobs until an order to stop, or until `orders` is closed; then drains.
    ///
    /// # Errors
    /// [`WorkerError::Drain`], when runs had to be cut.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<Ended, WorkerError> {
        self.catching_up = self.runner.jobs().into_iter().filter(|plan| plan.catch_up).map(|plan| plan.name).collect();
        self.ask_about_new();
        let mut beat = interval(notify::watchdog_interval().map_or(self.pace.beat, |watchdog| watchdog.min(self.pace.beat)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        notify::ready(&self.status());
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Reload) => self.begin_reload(),
                    Some(Order::Stop) | None => break,
                },
                Some(trigger) = self.triggers.recv() => self.begin(trigger),
                Some(done) = self.tasks.join_next() => self.take(done),
                _ = beat.tick() => self.beat(),
            }
        }
        self.stop(orders, beat).await
    }

    fn beat(&mut self) {
        self.shared.beat();
        notify::alive();
        let now = self.clock.now();
        for job in self.shared.board(|board| board.doubtful(now)) {
            if self.asked.get(&job).is_none_or(|asked| asked.at.elapsed() >= asked.pause) {
                self.ask(job);
            }
        }
    }

    /// Begins what a slot that has come is for, unless the job is busy.
    fn begin(&mut self, trigger: Trigger) {
        let Trigger { job, errand, slot } = trigger;
        let now = self.clock.now();
        let Some(plan) = self.shared.board(|board| board.plan(&job).cloned()) else { return };
        if errand == Errand::Drill && plan.drill.is_none() {
            return;
        }
        match self.shared.board(|board| board.claim(&job, errand, slot, now)) {
            Claim::Begins => {}
            Claim::Waits => {
                info!(%job, %slot, "the job is busy: this slot waits");
                return;
            }
            Claim::LeftOut => {
                warn!(%job, %slot, "the job still runs: this slot is left out");
                return;
            }
        }
        let (runner, cancel) = (self.runner.clone(), self.cancel.child_token());
        match errand {
            Errand::Backup => {
                info!(%job, %slot, "run begins");
                let span = info_span!("run", %job);
                let next = plan.schedule.as_ref().and_then(|schedule| (schedule.next_after(now)? - now).to_std().ok());
                let run = execute(runner, plan, (slot, next), cancel);
                self.tasks.spawn(async move { Done::Ran { job, outcome: run.await } }.instrument(span));
            }
            Errand::Drill => {
                info!(%job, %slot, "drill begins");
                let span = info_span!("drill", %job);
                let drill = drill(runner, job.clone(), cancel);
                self.tasks.spawn(async move { Done::Drilled { job, outcome: drill.await } }.instrument(span));
            }
        }
        notify::status(&self.status());
    }

    fn take(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Ran { job, outcome }) => self.ended(&job, outcome),
            Ok(Done::Drilled { job, outcome }) => self.drilled(&job, outcome),
            Ok(Done::Asked { job, answer }) => self.answered(job, answer),
            Ok(Done::Reloaded(result)) => self.reloaded(result),
            Err(error) => error!(%error, "a task of the worker ended early"),
        }
    }

    fn ended(&mut self, job: &JobName, outcome: RunOutcome) {
        match &outcome {
            RunOutcome::Complete => info!(%job, "run complete"),
            RunOutcome::Incomplete(reason) => error!(%job, reason, "run incomplete"),
            RunOutcome::Failed(reason) => error!(%job, reason, "run failed"),
            RunOutcome::Busy => warn!(%job, "another run holds the job or its target: this slot is left out"),
            RunOutcome::Cancelled => warn!(%job, "run cancelled"),
        }
        let now = self.clock.now();
        let wrote = matches!(outcome, RunOutcome::Complete | RunOutcome::Incomplete(_));
        self.shared.board(|board| board.ended(job, outcome, now));
        self.free(job);
        let followers = if wrote { self.shared.board(|board| board.followers(job)) } else { Vec::new() };
        for job in followers {
            self.begin(Trigger { job, errand: Errand::Backup, slot: now });
        }
    }

    fn drilled(&mut self, job: &JobName, outcome: DrillOutcome) {
        match &outcome {
            DrillOutcome::Passed(backup) => info!(%job, %backup, "drill passed"),
            DrillOutcome::Incomplete(backup, gaps) => warn!(%job, %backup, gaps, "drill passed, as far as it went"),
            DrillOutcome::NoBackup => info!(%job, "no complete backup yet: nothing to drill"),
            DrillOutcome::Failed(reason) => error!(%job, reason, "drill failed"),
            DrillOutcome::Unable(reason) => error!(%job, reason, "drill could not be carried out"),
            DrillOutcome::Cancelled => warn!(%job, "drill cancelled"),
        }
        let now = self.clock.now();
        self.shared.board(|board| board.drilled(job, outcome, now));
        self.free(job);
    }

    /// The job is busy no more: begins what waited for that.
    fn free(&mut self, job: &JobName) {
        if let Some((errand, slot)) = self.shared.board(|board| board.next_waiting(job)) {
            self.begin(Trigger { job: job.clone(), errand, slot });
        }
        notify::status(&self.status());
    }

    fn ask_about_new(&mut self) {
        for plan in self.runner.jobs() {
            if (plan.schedule.is_some() || !plan.follows.is_empty()) && !self.asked.contains_key(&plan.name) {
                self.ask(plan.name);
            }
        }
    }

    /// Asks the targets when `job` was last backed up. The network may not be up yet when a host boots, so that an error is asked about
    /// again soon, and then ever less often.
    fn ask(&mut self, job: JobName) {
        let pause = self.asked.get(&job).map_or(self.pace.beat, |asked| asked.pause * 2).min(self.pace.ask_again);
        self.asked.insert(job.clone(), Asked { at: Instant::now(), pause });
        let (runner, questions, cancel) = (self.runner.clone(), self.questions.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            let question = async {
                // the semaphore is never closed
                let _turn = questions.acquire().await;
                let job = job.clone();
                let answer = guarded(async move { runner.last_complete(&job).await }).await;
                answer.unwrap_or_else(|_| Err("the question ended in a panic".into()))
            };
            let answer = tokio::select! {
                answer = question => answer,
                () = cancel.cancelled() => Err("the worker is stopping".into()),
            };
            Done::Asked { job, answer }
        });
    }

    fn answered(&mut self, job: JobName, answer: Result<Option<DateTime<Utc>>, String>) {
        let answered = answer.is_ok();
        match &answer {
            Err(reason) => warn!(%job, reason, "cannot find out when the job last completed; it is asked again"),
            Ok(None) if self.catching_up.contains(&job) && !self.follows(&job) => info!(%job, "no backup yet: waits for its next slot"),
            Ok(_) => {}
        }
        self.shared.board(|board| board.asked(&job, answer));
        if !answered {
            return;
        }
        if let Some(asked) = self.asked.get_mut(&job) {
            asked.pause = self.pace.ask_again;
        }
        if self.catching_up.remove(&job)
            && let Some(slot) = self.missed(&job)
        {
            info!(%job, %slot, "a slot was missed while no worker ran: it is run now, once");
            self.begin(Trigger { job, errand: Errand::Backup, slot });
        }
    }

    fn follows(&self, job: &JobName) -> bool {
        self.shared.board(|board| board.plan(job).is_some_and(|plan| !plan.follows.is_empty()))
    }

    /// The newest slot that passed before this worker began; later ones come from the timetable. One that follows others has missed what
    /// they did meanwhile.
    fn missed(&self, job: &JobName) -> Option<DateTime<Utc>> {
        let follows = self.follows(job);
        self.shared.board(|board| {
            let last = board.last_complete(job);
            if follows {
                return Some(self.started).filter(|started| last.is_none_or(|last| last < *started));
            }
            let last = last?;
            board.plan(job)?.schedule.as_ref()?.last_slot_between(last, self.started)
        })
    }

    fn begin_reload(&mut self) {
        if self.reloading != Reloading::No {
            self.reloading = Reloading::Again;
            return;
        }
        info!("reading the configuration again");
        notify::reloading();
        self.reloading = Reloading::Yes;
        let reload = (self.reload)();
        self.tasks.spawn(async move {
            let result = guarded(reload).await.unwrap_or_else(|_| Err("reading the configuration ended in a panic".into()));
            Done::Reloaded(result)
        });
    }

    fn reloaded(&mut self, result: Result<Arc<dyn Runner>, String>) {
        match result {
            Ok(runner) => {
                let jobs = runner.jobs();
                announce(&jobs, self.clock.now());
                self.timetable.replace(scheduled(&jobs));
                self.shared.board(|board| board.replace(jobs));
                self.runner = runner;
                self.ask_about_new();
                info!("configuration reloaded; runs that go on end under the old one");
            }
            Err(faults) => error!(faults, "the configuration is invalid: the old one stays in use"),
        }
        notify::ready(&self.status());
        if std::mem::replace(&mut self.reloading, Reloading::No) == Reloading::Again {
            self.begin_reload();
        }
    }

    /// Stops triggers, cancels runs, waits for them.
    async fn stop(mut self, mut orders: mpsc::Receiver<Order>, mut beat: Interval) -> Result<Ended, WorkerError> {
        self.shared.board(Board::stop);
        let running = self.shared.board(|board| board.running().len());
        info!(running, "stopping");
        notify::stopping(&self.status());
        self.timetable.stop().await;
        self.cancel.cancel();
        let deadline = tokio::time::sleep(self.pace.drain);
        tokio::pin!(deadline);
        let (shared, clock, tasks) = (self.shared, self.clock, &mut self.tasks);
        let ended = loop {
            tokio::select! {
                done = tasks.join_next() => match done {
                    None => break Ok(Ended::Drained),
                    Some(Ok(Done::Ran { job, outcome })) => {
                        info!(%job, outcome = outcome.word(), "run ended");
                        let now = clock.now();
                        shared.board(|board| board.ended(&job, outcome, now));
                    }
                    Some(Ok(Done::Drilled { job, outcome })) => {
                        info!(%job, outcome = outcome.word(), "drill ended");
                        let now = clock.now();
                        shared.board(|board| board.drilled(&job, outcome, now));
                    }
                    Some(_) => {}
                },
                Some(order) = orders.recv() => if order == Order::Stop {
                    warn!("second signal: ending at once");
                    break Ok(Ended::Forced);
                },
                () = &mut deadline => {
                    let jobs = shared.board(|board| board.running().iter().map(ToString::to_string).collect::<Vec<_>>());
                    break if jobs.is_empty() { Ok(Ended::Drained) } else { Err(WorkerError::Drain { limit: self.pace.drain, jobs }) };
                }
                _ = beat.tick() => {
                    shared.beat();
                    notify::alive();
                }
            }
        };
        tasks.abort_all();
        if let Some(server) = self.server {
            server.abort();
        }
        ended
    }

    /// For `systemctl status`.
    fn status(&self) -> String {
        let running = self.shared.board(|board| board.running().iter().map(ToString::to_string).collect::<Vec<_>>());
        if !running.is_empty() {
            return format!("running {}", running.join(", "));
        }
        let next = self.runner.jobs().into_iter().filter_map(|plan| Some((self.timetable.next(&plan.name)?, plan)));
        match next.min_by_key(|(at, _)| *at) {
            Some((at, PlannedJob { name, schedule: Some(schedule), .. })) => format!("idle; next {name} at {}", schedule.show(at)),
            _ => "idle; no job has a schedule".to_owned(),
        }
    }
}
