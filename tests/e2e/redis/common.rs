//! A backup of one server in memory, and its way back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use backstay::component::redis::{RedisOptions, RedisRestorer, RedisSource};
use backstay::component::{
    ArtifactOpener, ByteStream, ComponentError, Destination, RestoreOptions, Restored, Restorer, RunContext, Source, Staged,
    StoredComponent,
};
use backstay::manifest::{Artifact, Component, ComponentStatus, Encoding, Kind};
use backstay::secret::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::support::Redis;

pub fn options(url: &str) -> RedisOptions {
    RedisOptions { url: Some(Secret::parse(url)), ..RedisOptions::new("redis".parse().expect("a name")) }
}

/// A stored RDB with what its manifest would say.
#[derive(Clone)]
pub struct Backup {
    pub rdb: Arc<Vec<u8>>,
    pub part: Component,
}

impl Backup {
    pub async fn of(options: RedisOptions) -> Result<Self, ComponentError> {
        let run = RunContext::default();
        let mut artifacts = RedisSource::new(options).open(&run).await?;
        assert_eq!(artifacts.len(), 1);
        let artifact = artifacts.remove(0);
        let mut stream = artifact.open.await?;
        let mut rdb = Vec::new();
        stream.read_to_end(&mut rdb).await.expect("a whole RDB");
        let (facts, warnings) = run.notes.take();
        let mut backup = Self {
            rdb: Arc::new(Vec::new()),
            part: Component {
                name: "redis".parse().expect("a name"),
                kind: Kind::Redis,
                status: ComponentStatus::Complete,
                reason: None,
                seconds: 0.0,
                facts,
                warnings,
                fingerprint: run.notes.take_fingerprint(),
                artifacts: vec![Artifact {
                    path: "redis/dump.rdb".parse().expect("a path"),
                    format: artifact.format,
                    encoding: Encoding::None,
                    encryption: None,
                    database: None,
                    raw_bytes: 0,
                    stored_bytes: 0,
                    sha256: String::new(),
                    blake3: String::new(),
                }],
            },
        };
        backup.store(rdb);
        Ok(backup)
    }

    pub async fn of_server(server: &Redis) -> Self {
        Self::of(options(&server.url())).await.expect("a backup")
    }

    /// As if those bytes had been backed up.
    pub fn store(&mut self, rdb: Vec<u8>) {
        self.part.artifacts[0].raw_bytes = rdb.len() as u64;
        self.rdb = Arc::new(rdb);
    }

    /// Whose reads after the first `sound` ones end in an error, as of a hash that does not match.
    pub fn stored(&self, sound: usize) -> StoredComponent {
        let rdb = self.rdb.clone();
        let reads = std::sync::atomic::AtomicUsize::new(0);
        let open: ArtifactOpener = Arc::new(move |_| {
            let rdb = rdb.clone();
            let broken = reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= sound;
            Box::pin(async move {
                let stream: ByteStream = Box::new(Stored { rdb, at: 0, broken });
                Ok(stream)
            })
        });
        StoredComponent { component: self.part.clone(), open }
    }

    pub async fn stage(&self, options: RedisOptions, to: Destination) -> Result<Box<dyn Staged>, ComponentError> {
        let choice = RestoreOptions { to, keep_old: false, ..RestoreOptions::default() };
        let restorer = RedisRestorer::new(options);
        let plan = restorer.plan(&self.stored(usize::MAX), &choice).await?;
        assert!(!plan.steps.is_empty());
        restorer.stage(&self.stored(usize::MAX), &choice, &RunContext::default()).await
    }

    /// All the way.
    pub async fn restore(&self, options: RedisOptions, to: Destination) -> Result<Restored, ComponentError> {
        let mut staged = self.stage(options, to).await?;
        staged.publish().await?;
        staged.finish().await
    }
}

struct Stored {
    rdb: Arc<Vec<u8>>,
    at: usize,
    broken: bool,
}

impl AsyncRead for Stored {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = buf.remaining().min(self.rdb.len() - self.at);
        if n == 0 && self.broken {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the hash does not match")));
        }
        buf.put_slice(&self.rdb[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

/// The error with everything behind it, and the advice, as the program would print them.
pub fn told(error: &ComponentError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    format!("{text}\n{}", error.advice().unwrap_or_default())
}

/// One key of every type, in several databases, with expiries, groups and, where there are any, functions.
pub fn fill(server: &Redis) {
    let lines = [
        "SET string value",
        "SET number 12345",
        "SETBIT bits 100000 1",
        "SET expiring soon PX 100000000",
        "RPUSH list a b c 1 2 3",
        "SADD set a b c",
        "SADD intset 1 2 3 70000",
        "HSET hash f1 v1 f2 v2",
        "ZADD zset 1.5 a -inf b 3e10 c",
        "XADD stream 1-1 f v",
        "XADD stream 2-1 f v g w",
        "XGROUP CREATE stream readers 0",
        "XREADGROUP GROUP readers alice COUNT 1 STREAMS stream >",
        "XADD stream 3-1 f v",
        "XDEL stream 3-1",
        "PFADD hll a b c",
        "GEOADD geo 13.361389 38.115556 Palermo",
        "EXPIRE hash 100000",
    ];
    for line in lines {
        server.cli(&line.split(' ').collect::<Vec<_>>());
    }
    let mut connection = server.connect();
    let mut pipe = redis::pipe();
    for n in 0..3000 {
        pipe.cmd("RPUSH").arg("longlist").arg(format!("element {n} {}", "x".repeat(n % 50))).ignore();
        pipe.cmd("HSET").arg("largehash").arg(n).arg(n).ignore();
        pipe.cmd("ZADD").arg("largezset").arg(n).arg(format!("m{n}")).ignore();
        pipe.cmd("XADD").arg("longstream").arg("*").arg("n").arg(n).ignore();
    }
    let large = noise(1 << 20);
    pipe.cmd("SET").arg("large").arg(large).ignore();
    pipe.cmd("SET").arg(&b"bin\x00\xff\r\nkey"[..]).arg(&b"\x00\x01\xfe"[..]).ignore();
    pipe.cmd("SELECT").arg(3).ignore();
    pipe.cmd("SET").arg("in three").arg("v").ignore();
    pipe.cmd("SELECT").arg(15).ignore();
    pipe.cmd("SET").arg("in fifteen").arg("v").arg("EX").arg(5000).ignore();
    pipe.exec(&mut connection).expect("filled");
    if server.version() >= crate::support::Version::V7_0 {
        server.cli(&["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 7 end)"]);
    }
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}
