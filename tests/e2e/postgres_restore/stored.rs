//! A backup of a real server, kept in memory, read back through the pipeline that verifies it. Damage is done to what is stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use backstay::component::postgres::{PostgresOptions, PostgresSource};
use backstay::component::{ArtifactOpener, ByteStream, RunContext, Source, StoredComponent};
use backstay::encryption::Identities;
use backstay::manifest::{self, ComponentStatus, Encoding, Kind};
use backstay::name::ArtifactPath;
use backstay::pipeline::unpack;
use backstay::secret::Secret;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::support::Postgres;

type Tell = Arc<Mutex<Option<tokio::sync::oneshot::Sender<()>>>>;

pub struct Stored {
    pub component: manifest::Component,
    pub objects: HashMap<ArtifactPath, Bytes>,
    /// Artifacts whose stream waits for ever after its first half; told when it does.
    stalled: Option<(ArtifactPath, Tell)>,
}

pub fn options(server: &Postgres, databases: &[&str]) -> PostgresOptions {
    options_of(&server.url("postgres"), databases)
}

pub fn options_of(url: &str, databases: &[&str]) -> PostgresOptions {
    PostgresOptions {
        url: Some(Secret::parse(url)),
        databases: databases.iter().map(|d| (*d).to_owned()).collect(),
        ..PostgresOptions::new("pg".parse().expect("a name"))
    }
}

impl Stored {
    pub async fn of(options: PostgresOptions) -> Self {
        let run = RunContext::default();
        let source = PostgresSource::new(options);
        let (mut artifacts, mut objects) = (Vec::new(), HashMap::new());
        for artifact in source.open(&run).await.expect("open the source") {
            let mut raw = Vec::new();
            artifact.open.await.expect("open an artifact").read_to_end(&mut raw).await.expect("read an artifact");
            let path = ArtifactPath::new(source.name(), &artifact.file).expect("a path");
            let sha256 = Sha256::digest(&raw).iter().map(|b| format!("{b:02x}")).collect();
            artifacts.push(manifest::Artifact {
                path: path.clone(),
                format: artifact.format,
                encoding: Encoding::None,
                encryption: None,
                database: artifact.database,
                raw_bytes: raw.len() as u64,
                stored_bytes: raw.len() as u64,
                sha256,
                blake3: blake3::hash(&raw).to_hex().to_string(),
            });
            objects.insert(path, Bytes::from(raw));
        }
        let (facts, warnings) = run.notes.take();
        let component = manifest::Component {
            name: source.name().clone(),
            kind: Kind::Postgres,
            status: ComponentStatus::Complete,
            reason: None,
            seconds: 0.0,
            facts,
            warnings,
            fingerprint: run.notes.take_fingerprint(),
            artifacts,
        };
        Self { component, objects, stalled: None }
    }

    fn path(&self, database: &str) -> ArtifactPath {
        let found = self.component.artifacts.iter().find(|a| a.database.as_deref() == Some(database));
        found.unwrap_or_else(|| panic!("no artifact of {database}")).path.clone()
    }

    /// Flips a bit of the first byte of `text` in the archive of `database`: rows that pg_restore takes without a word.
    pub fn flip(&mut self, database: &str, text: &str) {
        let path = self.path(database);
        self.flip_in(path.file(), text);
    }

    /// As [`Self::flip`], in the archive of that name.
    pub fn flip_in(&mut self, file: &str, text: &str) {
        let object = self.objects.iter_mut().find(|(path, _)| path.file() == file).expect("there").1;
        let mut bytes = object.to_vec();
        let at = bytes.windows(text.len()).position(|w| w == text.as_bytes()).expect("the text is in the archive");
        bytes[at] ^= 1;
        *object = bytes.into();
    }

    /// Writes `to` in place of each `from`, of the same length, in that file, as if the backup had been made so.
    pub fn rewrite(&mut self, file: &str, from: &str, to: &str) {
        let (path, object) = self.objects.iter_mut().find(|(path, _)| path.file() == file).expect("there");
        let mut bytes = object.to_vec();
        for at in 0..=bytes.len() - from.len() {
            if bytes[at..].starts_with(from.as_bytes()) {
                bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            }
        }
        let artifact = self.component.artifacts.iter_mut().find(|a| a.path == *path).expect("listed");
        artifact.sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        artifact.blake3 = blake3::hash(&bytes).to_hex().to_string();
        *object = bytes.into();
    }

    /// Cuts the archive of `database` in its middle.
    pub fn cut(&mut self, database: &str) {
        let object = self.objects.get_mut(&self.path(database)).expect("there");
        *object = object.slice(..object.len() / 2);
    }

    /// Makes the archive of `database` stop half way without an end; the receiver is told when the half was read.
    pub fn stall(&mut self, database: &str) -> tokio::sync::oneshot::Receiver<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.stalled = Some((self.path(database), Arc::new(Mutex::new(Some(tell)))));
        told
    }

    pub fn without_globals(mut self) -> Self {
        self.component.artifacts.retain(|a| a.format != manifest::Format::PgGlobals);
        self
    }

    pub fn component(&self) -> StoredComponent {
        let (objects, stalled) = (Arc::new(self.objects.clone()), self.stalled.clone());
        let open: ArtifactOpener = Arc::new(move |artifact: &manifest::Artifact| {
            let artifact = artifact.clone();
            let bytes = objects.get(&artifact.path).expect("a stored artifact").clone();
            let stall = stalled.clone().filter(|(path, _)| *path == artifact.path).map(|(_, tell)| tell);
            Box::pin(async move {
                let half = bytes.len() / 2;
                let chunks: Vec<Bytes> = match stall {
                    Some(_) => (0..half).step_by(4096).map(|at| bytes.slice(at..(at + 4096).min(half))).collect(),
                    None => (0..bytes.len()).step_by(4096).map(|at| bytes.slice(at..(at + 4096).min(bytes.len()))).collect(),
                };
                let rest = stream::once(async move {
                    if let Some(tell) = stall {
                        if let Some(tell) = tell.lock().expect("not poisoned").take() {
                            let _ = tell.send(());
                        }
                        std::future::pending::<()>().await;
                    }
                    None
                });
                let all =
                    stream::iter(chunks.into_iter().map(Some)).chain(rest).filter_map(async |chunk| chunk.map(Ok::<_, std::io::Error>));
                Ok(Box::new(unpack(&artifact, &Identities::default(), Box::pin(all))) as ByteStream)
            })
        });
        StoredComponent { component: self.component.clone(), open }
    }
}
