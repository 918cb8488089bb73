//! What an S3 target does with large objects: ranges on the way back, a limit on the bandwidth, parts that are joined out of pieces.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backstay::name::{ArtifactPath, BackupName};
use backstay::storage::{Access, Location, S3Options, Shape, StorageError, Target, TargetOptions, Upload};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio_util::sync::CancellationToken;

use crate::support::{Backstay, Relay, Scratch, Seaweed, assert_same_tree, toml};

const MIB: usize = 1 << 20;

/// Bytes that no compression makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut noise);
    noise
}

/// A directory of one file of `mib` MiB.
fn source(mib: usize) -> Scratch {
    let scratch = Scratch::new();
    scratch.write("media/file", noise(mib * MIB));
    scratch
}

/// One directory into one bucket, stored as it is; `endpoint` may be a relay's, `keys` are more of the target.
fn config(source: &Scratch, server: &Seaweed, endpoint: &str, keys: &str) -> String {
    let target = toml::s3_target("s3", server, Seaweed::BUCKET).replace(&server.endpoint(), endpoint);
    let job = "[jobs.default]\ncomponents = [\"media\"]\ncompression = \"none\"\n";
    [job, &toml::directory("media", &source.join("media")), &target, keys].concat()
}

#[track_caller]
fn assert_restores(backstay: &Backstay, name: &str, source: &Scratch) {
    let out = source.join("out");
    backstay.succeed(&["restore", name, "--yes", "--into", &format!("media={}", out.display())]);
    assert_same_tree(&crate::support::Tree::of(&source.join("media")), &crate::support::Tree::of(&out));
    std::fs::remove_dir_all(&out).expect("remove what was restored");
}

async fn keys(server: &Seaweed) -> Vec<String> {
    server.bucket(Seaweed::BUCKET).list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("list the bucket")
}

/// Fails if a run has left anything in the bucket but its lease, given back.
async fn assert_nothing_left(server: &Seaweed) {
    let left: Vec<_> = keys(server).await.into_iter().filter(|key| !key.starts_with(".backstay/leases/")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(server.unfinished_uploads(Seaweed::BUCKET), [""; 0], "uploads");
}

#[test]
fn a_restore_reads_ranges_over_few_connections() {
    let (source, server) = (source(96), Seaweed::start());
    let relay = Relay::counting(server.port(), "range: bytes=");
    let backstay = Backstay::new(&config(&source, &server, &relay.endpoint(), ""));
    let name = backstay.backup();
    let (before, none) = (relay.connections(), relay.marked());
    assert_restores(&backstay, &name, &source);
    let (connections, ranges) = (relay.connections() - before, relay.marked() - none);
    assert!(ranges >= 12, "{ranges} ranges");
    assert!(connections <= 6, "{connections} connections for {ranges} ranges");
}

/// An object of a bucket, read by way of a wrapper.
struct Stored {
    server: Seaweed,
    content: Bytes,
    path: ArtifactPath,
    backup: BackupName,
}

impl Stored {
    async fn new(len: usize) -> Self {
        let server = Seaweed::start();
        let content = Bytes::from(noise(len));
        server.bucket(Seaweed::BUCKET).put(&key(), content.clone().into()).await.expect("put");
        let path = "media/media.tar".parse().expect("a path");
        Self { server, content, path, backup: "default-2026-01-02-030405".parse().expect("a name") }
    }

    fn through(&self, breaks: usize, heeds_if_match: bool) -> (Target, Arc<Flaky>) {
        let inner = self.server.bucket(Seaweed::BUCKET);
        let store = Arc::new(Flaky { inner, left: AtomicUsize::new(breaks), broken: AtomicUsize::new(0), heeds_if_match });
        (Target::over(&options(&self.server, S3Options::default()), store.clone(), ""), store)
    }

    async fn read(&self, target: &Target) -> Result<Vec<u8>, StorageError> {
        let mut stream = target.stream(&self.backup, &self.path, self.content.len() as u64).await?;
        let mut read = Vec::new();
        while let Some(chunk) = stream.next().await {
            read.extend_from_slice(&chunk?);
        }
        Ok(read)
    }
}

fn key() -> Key {
    Key::from("default-2026-01-02-030405/media/media.tar")
}

fn options(server: &Seaweed, s3: S3Options) -> TargetOptions {
    let secret = |text: &str| Some(backstay::secret::Secret::parse(text));
    let options = S3Options {
        endpoint: Some(server.endpoint()),
        region: Some("us-east-1".into()),
        access_key_id: secret(&server.access_key),
        secret_access_key: secret(&server.secret_key),
        allow_http: true,
        ..s3
    };
    let location = Location::S3 { bucket: Seaweed::BUCKET.into(), prefix: String::new(), options: Box::new(options) };
    TargetOptions { name: "s3".parse().expect("a name"), location, limit: None }
}

#[tokio::test]
async fn downloads_of_every_length_come_back_whatever_was_expected() {
    let mut stored = Stored::new(0).await;
    let (target, _) = stored.through(0, true);
    for len in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 33 * MIB + 5] {
        stored.content = noise(len).into();
        stored.server.bucket(Seaweed::BUCKET).put(&key(), stored.content.clone().into()).await.expect("put");
        for expected in [0, len as u64, 100 << 20] {
            let stream = target.stream(&stored.backup, &stored.path, expected).await.expect("opened");
            let read: Vec<Bytes> = stream.try_collect().await.expect("read");
            assert!(read.concat() == stored.content, "{len} bytes, {expected} expected");
        }
    }
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_stopped() {
    for len in [3 * MIB, 35 * MIB] {
        let stored = Stored::new(len).await;
        let (target, store) = stored.through(4, true);
        let read = stored.read(&target).await.expect("read");
        assert!(read == stored.content, "{} of {len} bytes", read.len());
        assert_eq!(store.broken.load(Ordering::SeqCst), 4);
    }
}

#[tokio::test]
async fn a_download_that_always_breaks_is_an_error_and_one_that_is_not_there_is_not_tried_again() {
    let stored = Stored::new(3 * MIB).await;
    let (target, store) = stored.through(usize::MAX, true);
    stored.read(&target).await.expect_err("broken");
    assert_eq!(store.broken.load(Ordering::SeqCst), 7, "the first and six more");
    let (target, _) = stored.through(0, true);
    stored.server.bucket(Seaweed::BUCKET).delete(&key()).await.expect("deleted");
    let begun = Instant::now();
    let error = stored.read(&target).await.expect_err("gone");
    assert!(error.is_not_found() && begun.elapsed() < Duration::from_secs(3), "{error:?}");
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_an_error() {
    let stored = Stored::new(64 * MIB).await;
    for heeds_if_match in [true, false] {
        let (target, _) = stored.through(0, heeds_if_match);
        let mut stream = target.stream(&stored.backup, &stored.path, stored.content.len() as u64).await.expect("opened");
        stream.next().await.expect("a chunk").expect("sound");
        let mut other = stored.content.to_vec();
        other[60 * MIB] ^= u8::from(heeds_if_match) + 1;
        stored.server.bucket(Seaweed::BUCKET).put(&key(), other.into()).await.expect("replaced");
        let error = stream.try_fold((), |(), _| std::future::ready(Ok(()))).await.expect_err("changed");
        assert!(matches!(error, StorageError::Changed { .. }), "{heeds_if_match}: {error:?}");
    }
}

#[tokio::test]
async fn a_download_that_stands_still_is_cut_with_its_name() {
    let stored = Stored::new(64 * MIB).await;
    let (target, _) = stored.through(0, true);
    let mut stream = target.with_stall(Duration::from_secs(2)).stream(&stored.backup, &stored.path, 64 << 20).await.expect("opened");
    stream.next().await.expect("a chunk").expect("sound");
    stored.server.freeze();
    let error = stream.try_fold((), |(), _| std::future::ready(Ok(()))).await.expect_err("it stands still");
    stored.server.thaw();
    let said = error.to_string();
    assert!(said.contains("target `s3` sent nothing of `default-2026-01-02-030405/media/media.tar` for 2s"), "{said}");
}

/// A bucket whose downloads break after a while, and which may not know `If-Match`.
#[derive(Debug)]
struct Flaky {
    inner: AmazonS3,
    left: AtomicUsize,
    broken: AtomicUsize,
    heeds_if_match: bool,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flaky({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn get_opts(&self, location: &Key, mut options: GetOptions) -> Result<GetResult> {
        if !self.heeds_if_match {
            options.if_match = None;
        }
        let mut result = self.inner.get_opts(location, options).await?;
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            self.broken.fetch_add(1, Ordering::SeqCst);
            let GetResultPayload::Stream(body) = result.payload else { panic!("a bucket streams") };
            let broken = futures_util::stream::iter([Err(object_store::Error::Generic {
                store: "flaky",
                source: "connection reset by peer".into(),
            })]);
            result.payload = GetResultPayload::Stream(body.take(3).chain(broken).boxed());
        }
        Ok(result)
    }

    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// At a MiB a second, 6 MiB take six; to wait for that is no stall.
#[test]
fn a_limit_holds_for_uploads_and_downloads_and_is_no_stall() {
    let (source, server) = (source(6), Seaweed::start());
    // the first part waits for longer than the store may stand still, which is longer than it needs on any machine
    let keys = "limit = \"1MiB/s\"\npart_size = \"5MiB\"\n";
    let patience = "stall_timeout = \"4s\"\n[directory.media]";
    let text = config(&source, &server, &server.endpoint(), keys).replace("[directory.media]", patience);
    let backstay = Backstay::new(&text);
    let begun = Instant::now();
    let name = backstay.backup();
    assert!(begun.elapsed() >= Duration::from_millis(5_900), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_restores(&backstay, &name, &source);
    assert!(begun.elapsed() >= Duration::from_millis(5_900), "{:?}", begun.elapsed());
}

/// The estimate of a directory is what its file system holds, so that four parts have to be as large as four parts can be.
const FEW_PARTS: &str = "part_size = \"5MiB\"\nmax_parts = 4\n";

#[tokio::test]
async fn parts_beyond_memory_are_joined_by_the_server() {
    let (source, server) = (source(63), Seaweed::start());
    let backstay = Backstay::new(&config(&source, &server, &server.endpoint(), FEW_PARTS));
    for keys_of_checksum in ["", "checksum = \"sha256\"\n"] {
        backstay.configure(&config(&source, &server, &server.endpoint(), &[FEW_PARTS, keys_of_checksum].concat()));
        let name = backstay.backup();
        let artifact = Key::from(format!("{name}/media/media.tar"));
        let meta = server.bucket(Seaweed::BUCKET).head(&artifact).await.expect("stored");
        assert!(meta.e_tag.as_deref().is_some_and(|tag| tag.trim_matches('"').ends_with("-4")), "{meta:?}");
        let left: Vec<_> = keys(&server).await.into_iter().filter(|key| key.starts_with(".backstay/parts")).collect();
        assert_eq!(left, [""; 0]);
        assert_eq!(server.unfinished_uploads(Seaweed::BUCKET), [""; 0], "uploads");
        assert_restores(&backstay, &name, &source);
    }
}

#[tokio::test]
async fn more_than_all_parts_hold_is_said_and_leaves_nothing() {
    let (source, server) = (source(90), Seaweed::start());
    let backstay = Backstay::new(&config(&source, &server, &server.endpoint(), FEW_PARTS));
    backstay.run(&["backup"]).expect_code(3).expect_message("max_parts");
    assert_nothing_left(&server).await;
}

#[tokio::test]
async fn a_store_that_refuses_to_join_parts_fails_the_run_and_keeps_no_piece() {
    let (source, server) = (source(30), Seaweed::start());
    let relay = Relay::cutting(server.port(), "x-amz-copy-source");
    let backstay = Backstay::new(&config(&source, &server, &relay.endpoint(), FEW_PARTS));
    backstay.run(&["backup"]).expect_code(3).expect_message("s3");
    assert!(relay.marked() > 1, "it was tried again");
    assert_nothing_left(&server).await;
}

#[tokio::test]
async fn an_upload_that_is_given_up_among_its_pieces_leaves_nothing() {
    let server = Seaweed::start();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let target = Target::open(&options(&server, S3Options { max_parts: 100, ..S3Options::default() }), Access::Write).expect("a target");
    // parts of eight pieces: one is joined, one is begun
    let shape = Shape { piece: 5 << 20, estimate: Some((8 * 5 * 75) << 20) };
    assert!(target.composes(shape));
    for send in [1, 3, 8, 11] {
        let stall = Duration::from_secs(60);
        let upload = Upload::start(&target, key(), "application/octet-stream", shape, stall, CancellationToken::new());
        for _ in 0..send {
            let piece = Bytes::from(noise(5 * MIB)).into();
            assert!(upload.send(piece).await);
        }
        assert!(upload.abort().await.is_none());
        assert_nothing_left(&server).await;
    }
}

#[tokio::test]
async fn what_a_dead_run_left_is_swept_and_what_a_live_one_may_need_stays() {
    let (source, server) = (source(1), Seaweed::start());
    let bucket = server.bucket(Seaweed::BUCKET);
    let backstay = Backstay::new(&config(&source, &server, &server.endpoint(), ""));
    let today = backstay.backup();
    let of = |name: &str| Key::from(format!(".backstay/parts/{name}/media/media.tar/00001"));
    let (dead, other) = ("default-2020-01-02-030405", "other-2020-01-02-030405");
    for name in [dead, other, &today] {
        bucket.put(&of(name), PutPayload::from_static(b"x")).await.expect("put");
        bucket.create_multipart(&of(name)).await.expect("begun");
    }
    bucket.create_multipart(&Key::from(format!("{dead}/media/media.tar"))).await.expect("begun");
    assert_eq!(server.unfinished_uploads(Seaweed::BUCKET).len(), 4);
    backstay.backup();
    let left: Vec<_> = keys(&server).await.into_iter().filter(|key| key.starts_with(".backstay/parts")).collect();
    let mut expected = [of(other).to_string(), of(&today).to_string()];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(server.unfinished_uploads(Seaweed::BUCKET).len(), 2);
}
