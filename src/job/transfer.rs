//! One artifact from its source into every open lane: read, compressed and hashed once, stored in each.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::estimate;
use super::lane::Lane;
use crate::chain;
use crate::component::{Artifact, ComponentError};
use crate::encryption::{self, Lock};
use crate::manifest::{self, Encryption};
use crate::name::{ArtifactPath, BackupName, ComponentName, NameError};
use crate::pipeline::{Codec, Engine, PackError, PackOptions, Packed, Packer};
use crate::storage::{PIECE, Shape, Upload};

#[derive(Debug, Error)]
pub(super) enum TransferError {
    #[error(transparent)]
    Component(#[from] ComponentError),
    #[error("a component named an artifact wrongly")]
    Name(#[from] NameError),
    #[error("back up `{path}`")]
    Pack {
        path: ArtifactPath,
        #[source]
        source: PackError,
    },
    #[error("`{path}` did not begin within {}", humantime::format_duration(*after))]
    Idle { path: ArtifactPath, after: Duration },
    #[error("no target is left to store `{0}` in")]
    NoLane(ArtifactPath),
    #[error("cancelled")]
    Cancelled,
}

pub(super) const STALLED: &str = "Look into what holds the source up; `stall_timeout` of the job sets the limit.";

impl TransferError {
    pub(super) fn advice(&self) -> Option<String> {
        match self {
            Self::Component(error) => error.advice(),
            Self::Pack { source: PackError::Stalled(_), .. } | Self::Idle { .. } => Some(STALLED.to_owned()),
            Self::Pack { source, .. } => chain::find::<ComponentError>(source).and_then(ComponentError::advice),
            _ => None,
        }
    }
}

/// What the artifacts of one component have in common.
pub(super) struct Transfer {
    pub(super) backup: BackupName,
    pub(super) component: ComponentName,
    pub(super) lanes: Vec<Arc<Lane>>,
    pub(super) engine: Engine,
    pub(super) codec: Codec,
    /// What to encrypt with; `None`: nothing is encrypted.
    pub(super) lock: Option<Lock>,
    pub(super) stall: Duration,
    /// The job's backup before this one.
    pub(super) last: Option<Arc<manifest::Manifest>>,
    pub(super) cancel: CancellationToken,
}

struct Leg {
    lane: Arc<Lane>,
    upload: Upload,
}

impl Transfer {
    /// Stores one artifact, if there is one after all. Its path is added to `stored` before the first byte is sent, so that the caller can
    /// clean up.
    pub(super) async fn run(
        &self,
        artifact: Artifact,
        stored: &mut Vec<ArtifactPath>,
    ) -> Result<Option<manifest::Artifact>, TransferError> {
        let (encoding, encryption) = (self.codec.encoding, self.lock.as_ref().map(|_| Encryption::Age));
        let suffix = encryption.map_or("", Encryption::suffix);
        let path = ArtifactPath::new(&self.component, &format!("{}{}{suffix}", artifact.file, encoding.suffix()))?;
        let lanes: Vec<_> = self.lanes.iter().filter(|l| l.is_open()).cloned().collect();
        let mut options = PackOptions {
            codec: self.codec,
            estimate: estimate::stored_bytes(self.estimate(artifact.estimate), &path, encoding, self.last.as_deref()),
            max_parts: lanes.iter().filter_map(|l| l.target().max_parts()).min(),
            part_size: lanes.iter().filter_map(|l| l.target().part_size()).max(),
            stall: self.stall,
        };
        let mut shape = Shape { piece: self.engine.part_size(&options) as u64, estimate: options.estimate };
        if lanes.iter().any(|l| l.target().composes(shape)) {
            // then the store joins what it gets, so that a small piece is as good as a large one and several go at once; but not for one
            // that counts the pieces
            if lanes.iter().all(|l| l.target().composes(shape) || l.target().max_parts().is_none()) {
                shape.piece = shape.piece.min(PIECE);
            }
            (options.part_size, options.max_parts) = (Some(shape.piece), None);
        }
        let pack = |source| TransferError::Pack { path: path.clone(), source };
        let seal = match &self.lock {
            Some(lock) => Some(self.or_cancelled(self.engine.seal(lock)).await?.map_err(pack)?),
            None => None,
        };
        // the budget first: a source that is opened before its turn would hold its snapshot, and a stall timer, for nothing
        let admission = self.or_cancelled(self.engine.admit(options)).await?;
        let bytes = match self.or_cancelled(tokio::time::timeout(self.stall, artifact.open)).await? {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(ComponentError::Absent(_))) => return Ok(None),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(TransferError::Idle { path, after: self.stall }),
        };
        let mut packer = Packer::new(&self.engine, bytes, options, admission, seal);
        stored.push(path.clone());
        let mut legs: Vec<Leg> = lanes.into_iter().map(|lane| self.leg(lane, &path, artifact.format.content_type(), shape)).collect();
        let packed = match self.pump(&mut packer, &mut legs, &path).await {
            Ok(()) => packer.finish(),
            Err(error) => {
                for leg in legs {
                    leg.upload.abort().await;
                }
                return Err(error);
            }
        };
        let mut landed = false;
        for leg in legs {
            match leg.upload.finish().await {
                Ok(()) => landed = true,
                Err(error) => leg.lane.fail(&error),
            }
        }
        if !landed {
            return Err(TransferError::NoLane(path));
        }
        let Packed { raw_bytes, stored_bytes, sha256, blake3 } = packed;
        let (format, database) = (artifact.format, artifact.database);
        Ok(Some(manifest::Artifact { path, format, encoding, encryption, database, raw_bytes, stored_bytes, sha256, blake3 }))
    }

    /// Of what a source says, with what encryption adds.
    fn estimate(&self, raw: Option<u64>) -> Option<u64> {
        match &self.lock {
            Some(lock) => raw.map(|bytes| encryption::sealed_bytes(bytes, lock.recipients().len())),
            None => raw,
        }
    }

    fn leg(&self, lane: Arc<Lane>, path: &ArtifactPath, content_type: &'static str, shape: Shape) -> Leg {
        let key = lane.target().layout().artifact(&self.backup, path);
        let content_type = match &self.lock {
            // there is none of age's own
            Some(_) => "application/octet-stream",
            None => self.codec.encoding.content_type().unwrap_or(content_type),
        };
        let upload = Upload::start(lane.target(), key, content_type, shape, self.stall, lane.closed());
        Leg { lane, upload }
    }

    async fn pump(&self, packer: &mut Packer, legs: &mut Vec<Leg>, path: &ArtifactPath) -> Result<(), TransferError> {
        loop {
            let pack = |source| TransferError::Pack { path: path.clone(), source };
            let Some(part) = self.or_cancelled(packer.next()).await?.map_err(pack)? else { return Ok(()) };
            let mut lost = Vec::new();
            for (at, leg) in legs.iter().enumerate() {
                if !self.or_cancelled(leg.upload.send(part.iter().cloned().collect())).await? {
                    lost.push(at);
                }
            }
            for at in lost.into_iter().rev() {
                let Leg { lane, upload } = legs.swap_remove(at);
                if let Some(error) = upload.abort().await {
                    lane.fail(&error);
                }
            }
            if legs.is_empty() {
                return Err(TransferError::NoLane(path.clone()));
            }
        }
    }

    async fn or_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, TransferError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(TransferError::Cancelled),
            done = work => Ok(done),
        }
    }
}
