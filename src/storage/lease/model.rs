//! Leases against a model: several workers on hosts whose clocks agree in nothing, over one store that loses answers, refuses requests and
//! carries some out minutes later. Whatever the order, two runs that overlap never both keep a backup, a live lease is not taken unless
//! a renewal that was on its way for minutes came after a later one, and the lease of the dead is free after its lifetime.

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};
use proptest::prelude::*;

use super::*;
use crate::storage::{Location, TargetOptions};

/// Seconds since the model began, which is the only true time.
type Seconds = u64;

const WORKERS: usize = 4;
/// Two of the workers run on one host.
const HOSTS: [usize; WORKERS] = [0, 0, 1, 2];
/// Seconds that each host is up when the model begins: they are no measure of each other.
const UPTIMES: [u64; 3] = [50, 1_000_000, 7];

#[derive(Debug, Clone)]
enum Step {
    Wait(Seconds),
    /// What comes next for a worker: take the lease, look at it, create the manifest, look again, give the lease back.
    Go(usize),
    Renew(usize),
    Release(usize),
    /// Without a word, whatever it was about to do.
    Die(usize),
    /// What becomes of the next request that changes something.
    Fault(Fault),
    /// The oldest request that is still on its way arrives.
    Land,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refused,
    AnswerLost,
    Late,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let worker = 0..WORKERS;
    let fault = prop_oneof![Just(Fault::Refused), Just(Fault::AnswerLost), Just(Fault::Late)];
    let step = prop_oneof![
        4 => prop_oneof![1..40u64, 60..200u64].prop_map(Step::Wait),
        16 => worker.clone().prop_map(Step::Go),
        3 => worker.clone().prop_map(Step::Renew),
        1 => worker.clone().prop_map(Step::Release),
        1 => worker.prop_map(Step::Die),
        1 => fault.prop_map(Step::Fault),
        1 => Just(Step::Land),
    ];
    prop::collection::vec(step, 1..80)
}

/// A run in the middle of whatever its worker does.
struct Run {
    hold: Hold,
    /// The step at which it took the lease, and at which its manifest was there.
    taken: usize,
    confirmed: bool,
    created: Option<usize>,
    /// When it last heard that its lease was renewed.
    renewed: Seconds,
    /// Since then a request that was late has arrived: it may have been an older renewal, which makes the lease look older than it is.
    overtaken: bool,
}

struct World {
    store: Slow,
    target: Target,
    workers: [Option<Run>; WORKERS],
    /// Of the runs that kept their backup: when they took the lease, and when the manifest was there.
    kept: Vec<(usize, usize)>,
    number: usize,
}

impl World {
    fn new() -> Self {
        let store = Slow::default();
        let name = "model".parse().expect("a name");
        // a directory loses no answers
        let location = Location::S3 { bucket: "model".into(), prefix: String::new(), options: Box::default() };
        let options = TargetOptions { name, location, limit: None };
        let target = Target::over(&options, Arc::new(store.clone()), "");
        Self { store, target, workers: Default::default(), kept: Vec::new(), number: 0 }
    }

    fn machine(&self, worker: usize) -> Machine {
        let (host, store) = (HOSTS[worker], self.store.clone());
        let uptime = move || Duration::from_secs(UPTIMES[host] + store.state().now);
        Machine::of_model(Owner::of_model(&format!("host {host}"), i32::try_from(worker).expect("few")), uptime)
    }

    fn subject() -> Subject {
        Subject::Job("default".parse().expect("a name"))
    }

    async fn take(&mut self, worker: usize) -> bool {
        let taken = Hold::take(&self.target, &Self::subject(), &format!("worker {worker}"), self.machine(worker)).await;
        let Ok(hold) = taken else { return false };
        let now = self.store.state().now;
        for other in self.workers.iter().flatten() {
            let live = !other.overtaken && !other.hold.lost.is_cancelled() && now - other.renewed < TRUST.as_secs();
            assert!(!live, "worker {worker} took a lease that was renewed {} s ago", now - other.renewed);
        }
        self.workers[worker] = Some(Run { hold, taken: self.number, confirmed: false, created: None, renewed: now, overtaken: false });
        true
    }

    async fn step(&mut self, step: Step) {
        self.number += 1;
        let number = self.number;
        match step {
            Step::Wait(seconds) => self.store.state().now += seconds,
            Step::Fault(fault) => self.store.state().fault = Some(fault),
            Step::Land => {
                self.store.land().await;
                self.workers.iter_mut().flatten().for_each(|run| run.overtaken = true);
            }
            Step::Die(worker) => self.workers[worker] = None,
            Step::Go(worker) if self.workers[worker].is_none() => drop(self.take(worker).await),
            Step::Go(worker) | Step::Renew(worker) | Step::Release(worker) => {
                let Some(mut run) = self.workers[worker].take() else { return };
                match step {
                    Step::Renew(_) => {
                        if run.hold.renew().await.is_ok() {
                            (run.renewed, run.overtaken) = (self.store.state().now, false);
                        }
                    }
                    Step::Go(_) if run.created.is_some() => {
                        if run.hold.ratify().await.is_ok() {
                            self.kept.extend(run.created.map(|created| (run.taken, created)));
                        }
                        return run.hold.release().await;
                    }
                    // as late as it may be: it has looked at the lease before
                    Step::Go(_) if run.confirmed => {
                        let manifest = Path::from(format!("manifest-{}", run.hold.record.token));
                        run.confirmed = false;
                        if self.target.create(&manifest, Bytes::from_static(b"{}"), JSON).await.is_ok() {
                            run.created = Some(number);
                        }
                    }
                    Step::Go(_) => run.confirmed = run.hold.confirm().await.is_ok(),
                    _ => return run.hold.release().await,
                }
                self.workers[worker] = Some(run);
            }
        }
    }

    fn check(&self) {
        for (at, one) in self.kept.iter().enumerate() {
            for other in &self.kept[at + 1..] {
                let apart = one.1 < other.0 || other.1 < one.0;
                assert!(apart, "two runs kept backups, from taking the lease to the manifest: {one:?} and {other:?}");
            }
        }
    }
}

/// A store in memory with a clock and a network of its own.
#[derive(Debug, Clone, Default)]
struct Slow {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Seconds,
    modified: BTreeMap<Path, Seconds>,
    fault: Option<Fault>,
    on_their_way: VecDeque<Request>,
}

#[derive(Debug, Clone)]
enum Request {
    Put(Path, PutPayload, PutOptions),
    Delete(Path),
}

impl Slow {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds it")
    }

    async fn arrive(&self, request: Request) -> Result<()> {
        match request {
            Request::Put(key, payload, options) => {
                self.inner.put_opts(&key, payload, options).await?;
                let mut state = self.state();
                let now = state.now;
                state.modified.insert(key, now);
            }
            Request::Delete(key) => self.inner.delete(&key).await?,
        }
        Ok(())
    }

    async fn land(&self) {
        let request = self.state().on_their_way.pop_front();
        if let Some(request) = request {
            // nobody hears the answer
            let _ = self.arrive(request).await;
        }
    }

    async fn send(&self, request: Request) -> Result<()> {
        let fault = self.state().fault.take();
        let broken = || object_store::Error::Generic { store: "model", source: "connection reset by peer".into() };
        match fault {
            None => self.arrive(request).await,
            Some(Fault::Refused) => Err(broken()),
            Some(Fault::AnswerLost) => {
                let _ = self.arrive(request).await;
                Err(broken())
            }
            Some(Fault::Late) => {
                self.state().on_their_way.push_back(request);
                Err(broken())
            }
        }
    }
}

/// As the store's clock says, which nobody else's agrees with, in whole seconds.
fn dated(modified: &BTreeMap<Path, Seconds>, mut meta: ObjectMeta) -> ObjectMeta {
    let seconds = modified.get(&meta.location).copied().expect("every object was put");
    meta.last_modified = DateTime::UNIX_EPOCH + Duration::from_secs(seconds);
    meta
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.send(Request::Put(location.clone(), payload, opts)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |key| {
            let store = store.clone();
            async move {
                let key = key?;
                store.send(Request::Delete(key.clone())).await.map(|()| key)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let modified = self.state().modified.clone();
        self.inner.list(prefix).map(move |meta| meta.map(|meta| dated(&modified, meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn run(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new();
        for step in steps {
            world.step(step).await;
        }
        world.check();
        // all are dead, and what was on its way is lost
        world.workers = Default::default();
        world.store.state().fault = None;
        world.store.state().now += LIFETIME.as_secs() + 1;
        assert!(world.take(3).await, "the lease of the dead is not free");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_runs_that_overlap_one_keeps_its_backup(steps in steps()) {
        run(steps);
    }
}
