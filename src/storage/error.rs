//! What goes wrong with a target, and what to do about it.

use std::error::Error as _;
use std::io::ErrorKind;
use std::time::Duration;

use chrono::{DateTime, Utc};
use thiserror::Error;

use crate::name::{JobName, TargetName};
use crate::secret::SecretError;

/// A target that does not do what it should; each variant names action and subject.
#[derive(Debug, Error)]
pub enum StorageError {
    #[error("read the credentials of target `{target}`")]
    Secret {
        target: TargetName,
        #[source]
        source: SecretError,
    },
    #[error("open the directory {path} of target `{target}`")]
    Directory {
        target: TargetName,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("set up target `{target}`")]
    Setup {
        target: TargetName,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{action} `{key}` in target `{target}`")]
    Call {
        action: &'static str,
        target: TargetName,
        key: String,
        #[source]
        source: object_store::Error,
    },
    #[error("target `{target}` already holds another `{key}`")]
    Occupied { target: TargetName, key: String },
    #[error("target `{target}` did not take a part of `{key}` within {}", humantime::format_duration(*after))]
    Stalled { target: TargetName, key: String, after: Duration },
    #[error("the upload of `{key}` to target `{target}` was cancelled")]
    Cancelled { target: TargetName, key: String },
    #[error("another run holds job `{job}` in target `{target}` until {}: {holder}", until.format("%H:%M:%S UTC"))]
    Busy { target: TargetName, job: JobName, holder: String, until: DateTime<Utc> },
    #[error("the lease of job `{job}` in target `{target}` was lost")]
    LeaseLost { target: TargetName, job: JobName },
}

impl StorageError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source: object_store::Error::NotFound { .. }, .. })
            || matches!(self, Self::Directory { source, .. } if source.kind() == ErrorKind::NotFound)
    }

    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Secret { .. } => "Check that the file or variable exists and that this user may read it.",
            Self::Busy { .. } => "Wait for it to end. A run that was killed frees the job at the time shown.",
            Self::LeaseLost { .. } => "Nothing was committed there. Look for a suspended host or a second worker with the same job.",
            Self::Occupied { .. } => "Nothing was overwritten. Run again.",
            Self::Stalled { .. } => "Check the network and the store; `stall_timeout` of the job sets the limit.",
            Self::Cancelled { .. } => return None,
            Self::Directory { .. } | Self::Setup { .. } | Self::Call { .. } => return self.advice_by_cause(),
        };
        Some(text.to_owned())
    }

    fn advice_by_cause(&self) -> Option<String> {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>()
                && let Some(advice) = advice_for_io(io.kind())
            {
                return Some(advice.to_owned());
            }
            text.push_str(&error.to_string());
            cause = error.source();
        }
        // error codes of S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
        let known = [
            ("NoSuchBucket", "Create the bucket, or correct the target's `url`."),
            ("InvalidAccessKeyId", "Check `access_key_id` of the target."),
            ("SignatureDoesNotMatch", "Check `secret_access_key` and `region` of the target."),
            ("AuthorizationHeaderMalformed", "Set `region` of the target to the region of the bucket."),
            ("PermanentRedirect", "Set `region` of the target to the region of the bucket."),
            ("RequestTimeTooSkewed", "Set this machine's clock: it differs from the store's by more than 15 minutes."),
            ("ExpiredToken", "Renew `session_token` of the target."),
            ("InvalidToken", "Check `session_token` of the target."),
            ("AccessDenied", "Grant ListBucket, GetObject, PutObject, DeleteObject and AbortMultipartUpload on the bucket and its prefix."),
            ("EntityTooLarge", "The store limits the size of an object: raise its limit."),
            ("UnknownIssuer", "Set `ca_file` of the target to the certificate of its authority."),
            ("Connection refused", "Check `endpoint` of the target, and that the store runs."),
            ("dns error", "Check `endpoint` of the target: its name cannot be resolved."),
            ("HTTPS", "Set `allow_http = true` if the endpoint is meant to be plain http."),
        ];
        known.iter().find(|(code, _)| text.contains(code)).map(|(_, advice)| (*advice).to_owned())
    }
}

fn advice_for_io(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "Free space in the target; retention keeps what it has until a newer backup is complete."
        }
        ErrorKind::ReadOnlyFilesystem => "Mount the target so that it can be written.",
        ErrorKind::PermissionDenied => "Give this user write access to the target's directory.",
        ErrorKind::NotFound => "Create or mount the target's directory.",
        _ => return None,
    })
}
