//! Asks a file system that may never answer: one on a network whose server is gone, or behind a daemon that hangs.
//!
//! No call to such a file system can be taken back, so the thread that made it is left behind and whoever waits for it gives up, after as
//! long as a silent bucket is waited for. Until that call returns, nobody waits long for another one in the same place, and after a few
//! nobody makes one: they would use up all threads there are.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use super::target::generic;

/// The longest that a small request may take, if a job does not say less.
const LIMIT: Duration = Duration::from_secs(180);

/// The longest where another has not returned yet.
const LIMIT_AFTER: Duration = Duration::from_secs(5);

/// Calls in one place that may hang at a time.
const MOST: usize = 16;

/// What is stored at once from so many bytes on is no small request.
const LARGE: usize = 1 << 20;

/// Listed objects that are handed on together.
const BATCH: usize = 1000;

/// Calls that were given up and have not returned yet.
static HUNG: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

/// How long answers from one directory are waited for.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    root: PathBuf,
    stall: Duration,
}

impl Patience {
    /// With the directory `root`; `stall` is what a job allows whatever takes long.
    pub(super) fn new(root: &Path, stall: Duration) -> Self {
        Self { root: root.to_owned(), stall }
    }

    /// What a small request comes to.
    ///
    /// # Errors
    /// `TimedOut`, when there is no answer in time.
    pub(super) async fn small<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        self.within(self.stall.min(LIMIT), work).await
    }

    /// What something that may take long comes to.
    ///
    /// # Errors
    /// `TimedOut`, when there is no answer in time.
    pub(super) async fn large<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        self.within(self.stall, work).await
    }

    async fn within<T: Send + 'static>(&self, limit: Duration, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let calls = hung().get(&self.root).copied().unwrap_or_default();
        let Some(limit) = shortened(limit, calls) else { return Err(silent("it has not answered for long")) };
        let mut task = tokio::spawn(work);
        if let Ok(done) = tokio::time::timeout(limit, &mut task).await {
            return done.map_err(io::Error::other);
        }
        *hung().entry(self.root.clone()).or_default() += 1;
        let root = self.root.clone();
        tokio::spawn(async move {
            // whatever it came to, nobody waits for it any more
            let _ = task.await;
            let mut hung = hung();
            if let Some(calls) = hung.get_mut(&root) {
                *calls -= 1;
            }
            hung.retain(|_, calls| *calls > 0);
        });
        Err(silent(&format!("it did not answer for {}", humantime::format_duration(limit))))
    }
}

/// How long to wait where so many calls have not returned; not at all after too many.
fn shortened(limit: Duration, hung: usize) -> Option<Duration> {
    match hung {
        0 => Some(limit),
        1..MOST => Some(limit.min(LIMIT_AFTER)),
        _ => None,
    }
}

fn silent(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn hung() -> MutexGuard<'static, BTreeMap<PathBuf, usize>> {
    // nothing that can panic is done with it
    HUNG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a call was given up: it may have been done, or may be done yet.
pub(super) fn is_silent(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// A directory as a store, every request to which ends. Large uploads are bounded by whoever makes them.
#[derive(Debug)]
pub(super) struct Patient {
    inner: LocalFileSystem,
    patience: Patience,
}

impl Patient {
    pub(super) fn new(inner: LocalFileSystem, patience: Patience) -> Self {
        Self { inner, patience }
    }

    async fn small<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.patience.small(work).await.unwrap_or_else(|silent| Err(generic(silent)))
    }

    /// A stream each step of which ends.
    fn steps<T: Send + 'static>(&self, stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let state = Some((stream.ready_chunks(BATCH), self.patience.clone()));
        let batches = futures_util::stream::unfold(state, async |state| {
            let (mut stream, patience) = state?;
            let step = async move {
                let batch = stream.next().await;
                (batch, stream)
            };
            match patience.small(step).await {
                Ok((batch, stream)) => Some((batch?, Some((stream, patience)))),
                Err(silent) => Some((vec![Err(generic(silent))], None)),
            }
        });
        batches.flat_map(futures_util::stream::iter).boxed()
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Patient {
    async fn put_opts(&self, location: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (inner, location, large) = (self.inner.clone(), location.clone(), payload.content_length() > LARGE);
        let work = async move { inner.put_opts(&location, payload, options).await };
        let done = if large { self.patience.large(work).await } else { self.patience.small(work).await };
        done.unwrap_or_else(|silent| Err(generic(silent)))
    }

    async fn put_multipart_opts(&self, location: &Key, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (inner, location) = (self.inner.clone(), location.clone());
        self.small(async move { inner.put_multipart_opts(&location, options).await }).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        let (inner, location) = (self.inner.clone(), location.clone());
        self.small(async move { inner.get_opts(&location, options).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.steps(self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.steps(self.inner.list(prefix))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        self.small(async move { inner.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        let (inner, from, to) = (self.inner.clone(), from.clone(), to.clone());
        self.small(async move { inner.copy_opts(&from, &to, options).await }).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn where_calls_hang_nobody_waits_long_and_soon_nobody_asks() {
        let seconds = |limit, hung| shortened(Duration::from_secs(limit), hung).map(|limit| limit.as_secs());
        assert_eq!([0, 1, MOST - 1, MOST].map(|hung| seconds(600, hung)), [Some(600), Some(5), Some(5), None]);
        assert_eq!(seconds(2, 1), Some(2));
    }

    #[tokio::test]
    async fn what_does_not_answer_is_given_up_and_asked_again_when_it_has_answered() {
        let patience = Patience::new(Path::new("/srv/hung"), Duration::from_millis(20));
        assert_eq!(patience.small(async { 7 }).await.expect("an answer"), 7);
        let (answer, asked) = oneshot::channel::<()>();
        let error = patience.small(asked).await.expect_err("no answer");
        assert_eq!(error.to_string(), "it did not answer for 20ms");
        for _ in 1..MOST {
            patience.large(pending::<()>()).await.expect_err("no answer");
        }
        let error = patience.small(async { 7 }).await.expect_err("it is not asked");
        assert!(is_silent(&generic(error)));
        let elsewhere = Patience::new(Path::new("/srv/fine"), Duration::from_secs(60));
        assert_eq!(elsewhere.small(async { 7 }).await.expect("nothing is known of it"), 7);

        answer.send(()).expect("it is still waited for");
        while hung().get(Path::new("/srv/hung")) == Some(&MOST) {
            tokio::task::yield_now().await;
        }
        let patience = Patience::new(Path::new("/srv/hung"), Duration::from_secs(60));
        assert_eq!(patience.small(async { 7 }).await.expect("it is asked again"), 7);
    }

    #[tokio::test]
    async fn a_list_is_the_one_of_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LocalFileSystem::new_with_prefix(dir.path()).expect("a store");
        let store = Patient::new(store, Patience::new(dir.path(), Duration::from_secs(60)));
        for n in 0..BATCH + 7 {
            std::fs::write(dir.path().join(n.to_string()), "x").expect("written");
        }
        let listed: std::collections::BTreeSet<_> = store.list(None).map(|meta| meta.expect("listed").location).collect().await;
        assert_eq!(listed.len(), BATCH + 7);
    }
}
