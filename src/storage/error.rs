//! What goes wrong with a target, and what to do about it.

use std::error::Error as _;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::identity::identity_error;
use super::lease::Subject;
use super::patient::is_silent;
use crate::chain;
use crate::name::TargetName;
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
    #[error("{action} {} target `{target}`", within(key))]
    Call {
        action: &'static str,
        target: TargetName,
        key: String,
        #[source]
        source: Cause,
    },
    #[error("`{key}` in target `{target}` changed while it was read")]
    Changed { target: TargetName, key: String },
    #[error("target `{target}` already holds another `{key}`")]
    Occupied { target: TargetName, key: String },
    #[error("`{key}` in target `{target}` is stored otherwise than it was sent")]
    Garbled { target: TargetName, key: String },
    #[error("target `{target}` did not take a part of `{key}` within {}", humantime::format_duration(*after))]
    Stalled { target: TargetName, key: String, after: Duration },
    #[error("target `{target}` sent nothing of `{key}` for {}", humantime::format_duration(*after))]
    Silent { target: TargetName, key: String, after: Duration },
    #[error("the upload of `{key}` to target `{target}` was cancelled")]
    Cancelled { target: TargetName, key: String },
    #[error("another run holds {subject} in target `{target}` until {}: {holder}", until.format("%H:%M:%S UTC"))]
    Busy { target: TargetName, subject: Subject, holder: String, until: DateTime<Utc> },
    #[error("the lease of {subject} in target `{target}` was lost")]
    LeaseLost { target: TargetName, subject: Subject },
}

/// What a server has answered with "no", or would: to ask again would bring the same.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Refusal(pub String);

/// The key, for what it lies in to follow.
pub(super) fn within(key: &str) -> String {
    if matches!(key, "" | "/") { "the root of".to_owned() } else { format!("`{key}` in") }
}

/// Stores that are reached over a network, as object_store names them.
const REMOTE: [&str; 6] = ["S3", "MicrosoftAzure", "GCS", "HTTP", "WebDAV", "SFTP"];

/// What the store answered, in a line: the code and message of S3's XML, or the innermost cause.
#[derive(Debug)]
pub struct Cause(pub object_store::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = identity_error(&self.0) {
            return f.write_str(&error.told());
        }
        let text = self.0.to_string();
        if let Some(code) = element(&text, "Code") {
            // Azure adds lines with the request's number and time
            let message = element(&text, "Message").and_then(|message| message.lines().next()).map(|line| line.trim_end_matches('.'));
            return write!(f, "{code}: {}", message.unwrap_or("no message"));
        }
        let mut innermost: &(dyn std::error::Error + 'static) = &self.0;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        // a status without a body has no cause below it that says more
        match text.rsplit_once("non-2xx status code: ") {
            Some((_, status)) => {
                // what follows may be a page for people
                let line = status.split(['\n', '<']).next().unwrap_or_default();
                write!(f, "the store answered {}", line.trim_end_matches([' ', ':']))
            }
            None => write!(f, "{innermost}"),
        }
    }
}

/// Without a source of its own: the line says what the chain below would repeat at length.
impl std::error::Error for Cause {}

/// Whether a store has answered to a range that it has none: because the object ends before it, or because it knows no ranges.
pub(super) fn refuses_ranges(error: &object_store::Error) -> bool {
    let text = error.to_string();
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::NotSupported { .. })
        && (text.contains("Range request not supported")
            || text.contains("416 Range Not Satisfiable")
            || text.contains("non-partial response")
            || text.contains("beyond the end"))
}

pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim()).filter(|text| !text.is_empty())
}

impl StorageError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source: Cause(object_store::Error::NotFound { .. }), .. })
            || matches!(self, Self::Directory { source, .. } if source.kind() == ErrorKind::NotFound)
    }

    /// Whether to ask again would bring the same answer.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            // it was asked for often enough
            Self::Call { source: Cause(error), .. } if identity_error(error).is_some() => true,
            Self::Call { source: Cause(error), .. } if chain::find::<Refusal>(error).is_some() => true,
            Self::Call { source: Cause(error @ object_store::Error::Generic { .. }), .. } => {
                let text = error.to_string();
                // of the client's errors, these two say "later"
                text.contains("non-2xx status code: 4") && !["code: 408", "code: 429"].iter().any(|code| text.contains(code))
            }
            _ => true,
        }
    }

    /// Whether a store has not answered a request, so that it may have been done, or may be done yet.
    pub fn is_unsure(&self) -> bool {
        match self {
            Self::Call { source: Cause(error @ object_store::Error::Generic { store, .. }), .. } if REMOTE.contains(store) => {
                !error.to_string().contains("status code") && chain::find::<Refusal>(error).is_none()
            }
            Self::Call { source: Cause(error), .. } => is_silent(error),
            _ => false,
        }
    }

    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Secret { .. } => "Check that the file or variable exists and that this user may read it.",
            Self::Busy { .. } => {
                "Wait for it to end. One that was killed frees itself at the time shown, and at once for a run on the same machine."
            }
            Self::LeaseLost { .. } => "Look for a suspended host or a second worker with the same job.",
            Self::Changed { .. } => "Find out who writes there: artifacts are never changed by Backstay.",
            Self::Garbled { .. } => "Reach the target by https, or set `checksum = \"sha256\"`; look for what changes bytes on the way.",
            Self::Occupied { .. } => "Nothing was overwritten. Run again.",
            Self::Stalled { .. } | Self::Silent { .. } => "Check the network and the store; `stall_timeout` of the job sets the limit.",
            Self::Cancelled { .. } => return None,
            Self::Directory { .. } | Self::Setup { .. } | Self::Call { .. } => return self.advice_by_cause(),
        };
        Some(text.to_owned())
    }

    fn advice_by_cause(&self) -> Option<String> {
        match self {
            Self::Call { action: "delete", source, .. } if is_denied(&source.0) => Some(NO_DELETION.to_owned()),
            Self::Call { source, .. } => advice_for(&source.0, "the target"),
            other => other.source().and_then(|source| advice_for(source, "the target")),
        }
    }
}

/// What to do about a cause; `section` is where it is configured.
pub(super) fn advice_for(cause: &(dyn std::error::Error + 'static), section: &str) -> Option<String> {
    if let Some(error) = identity_error(cause) {
        return Some(error.advice(section));
    }
    let mut text = String::new();
    let mut next = Some(cause);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(advice) = advice_for_io(io.kind())
        {
            return Some(advice.to_owned());
        }
        text.push_str(&error.to_string());
        next = error.source();
    }
    // error codes of S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    let known = [
        // PutObject: "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
        ("Object Lock parameters", "Set `checksum = \"sha256\"` of {section}: a bucket with Object Lock takes nothing without."),
        // what is answered where a key is missing, or another than the object's, by AWS and by SeaweedFS
        ("erver Side Encryption", "Set `sse = \"customer\"` and `sse_customer_key` of {section} to the key that it was stored with."),
        ("NoSuchBucket", "Create the bucket, or correct the `url` of {section}."),
        ("InvalidAccessKeyId", "Check `access_key_id` of {section}."),
        ("SignatureDoesNotMatch", "Check `secret_access_key` and `region` of {section}."),
        ("AuthorizationHeaderMalformed", "Set `region` of {section} to the region of the bucket."),
        ("PermanentRedirect", "Set `region` of {section} to the region of the bucket."),
        ("RequestTimeTooSkewed", "Set this machine's clock: it differs from the store's by more than 15 minutes."),
        (
            "ExpiredToken",
            "Renew `session_token` of {section}; where credentials renew themselves, compare this machine's clock with the store's.",
        ),
        ("InvalidToken", "Check `session_token` of {section}."),
        ("AccessDenied", "Grant ListBucket, GetObject, PutObject, DeleteObject and AbortMultipartUpload on the bucket and its prefix."),
        // those of Azure: https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-error-codes
        ("ContainerNotFound", "Create the container, or correct the `url` of {section}."),
        ("AuthenticationFailed", WRONG_IN_AZURE),
        ("AuthorizationFailure", WRONG_IN_AZURE),
        ("InvalidAuthenticationInfo", "Check the credentials of {section}."),
        ("KeyBasedAuthenticationNotPermitted", "The account takes no keys: use an identity, or a signature that an identity has made."),
        (
            "AuthorizationPermissionMismatch",
            "Give the token the rights to read, add, create, write, delete and list (racwdl), or the identity the \
            role Storage Blob Data Contributor.",
        ),
        ("Account not found", "Check `account` of {section}."),
        ("BlobImmutableDueToPolicy", "A policy of the container keeps it for a time; raise the `keep_…` of the job to that."),
        ("BlobArchived", "Bring it back to the tier Hot or Cool first."),
        ("Invalid Access Key", "Check `account_key` of {section}: it is base64."),
        ("parts that the store takes", "Split the component, or store it in a target in S3, which joins parts."),
        ("`max_parts`", "Raise `max_parts` or `part_size` of {section}, as far as the provider allows."),
        ("EntityTooLarge", "The store limits the size of an object: raise its limit (`FILE_SIZE_LIMIT` of Supabase)."),
        // Supabase's own words for the same
        ("exceeded the maximum allowed size", "Raise the store's limit for the size of an object (`FILE_SIZE_LIMIT` of Supabase)."),
        // those of Google: https://docs.cloud.google.com/storage/docs/xml-api/reference-status
        ("AuthenticationRequired", "Check `service_account` of {section}."),
        ("UserProjectAccountProblem", "Check the billing of the bucket's project."),
        ("UserProjectMissing", "The bucket wants its readers to pay, which cannot be asked for: switch that off."),
        ("ObjectUnderActiveHold", "A hold keeps it: release that."),
        ("retention policy", "The bucket's retention policy keeps it for a time; raise the `keep_…` of the job to that."),
        // of WebDAV, which has statuses only
        ("no such folder on the server", "Create the folder, or correct the `url` of {section}."),
        ("status code: 401", "Check `user` and `password`, or the `token`, of {section}, and what that user may do."),
        ("status code: 403", "Give that user the right to read, write, move and delete in the folder."),
        ("status code: 405", "Check the `url` of {section}: what answers there is no WebDAV server, or allows this to nobody."),
        ("status code: 413", "The server limits the size of a request: raise its limit."),
        ("status code: 423", "Somebody has locked it: wait, or remove the lock."),
        (
            "status code: 502",
            "The server does not take its own address as the destination of a move: it has to know that it is reached by https.",
        ),
        ("status code: 507", "Free space on the server, or raise the quota."),
        (
            "the server has stored",
            "The server, or one in front of it, does not keep a body of unknown length: let it take requests with \
            `Transfer-Encoding: chunked`.",
        ),
        // of ssh: readpassphrase.c, sshconnect.c, sshconnect2.c, authfile.c of OpenSSH
        (
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            "Find out why: somebody may be in between. If the server has a new key, replace it in `known_hosts_file` of {section}.",
        ),
        (
            "Host key verification failed",
            "Put the server's key into `known_hosts_file` of {section} (`ssh-keyscan -p PORT HOST`), once you have compared it with that of the server.",
        ),
        ("UNPROTECTED PRIVATE KEY", "Let nobody but this user read the `identity_file` of {section}: `chmod 600`."),
        ("no such identity", "Check `identity_file` of {section}: there is no such file."),
        (
            "Load key",
            "Check `identity_file` of {section}: it must be a private key as OpenSSH writes it, and one with a passphrase has to be in an agent.",
        ),
        ("is no folder", "Remove or rename it at the server: a folder belongs there."),
        ("(status code 3)", "Give that user the right to write, rename and delete in the folder."),
        (
            "Permission denied (",
            "Check the user in the `url` of {section}, and its `identity_file` or `password`: the server does not take them.",
        ),
        ("subsystem request failed", "Switch SFTP on at the server (`Subsystem sftp`)."),
        (
            "does not speak SFTP",
            "Let the shell of that user print nothing where nobody is at a terminal, or serve files without it (`Subsystem sftp internal-sftp`).",
        ),
        ("No user exists for uid", "Run as a user that has a name: ssh asks for it."),
        ("there is no /usr/bin/ssh", "Install OpenSSH's client (Debian: `openssh-client`)."),
        ("Could not resolve hostname", "Check the `url` of {section}: its host cannot be resolved."),
        ("(status code 4)", "The server does not say why: look into its log, and at its free space and quota."),
        ("UnknownIssuer", "Set `ca_file` of {section} to the certificate of its authority."),
        ("Connection refused", "Check `endpoint` or `url` of {section}, and that the store runs."),
        ("dns error", "Check `endpoint`, `account` or `url` of {section}: its name cannot be resolved."),
        ("HTTPS", "Set `allow_http = true` if the endpoint is meant to be plain http."),
    ];
    known.iter().find(|(code, _)| text.contains(code)).map(|(_, advice)| advice.replace("{section}", section))
}

/// The service says the first; where its network rules say no, and Azurite, the second.
const WRONG_IN_AZURE: &str = "Check `account_key` or `sas_token` of {section}, what that may do and until when, from where the account's \
    network rules let it be reached, and this machine's clock.";

const NO_DELETION: &str = "Grant the right to delete (DeleteObject on the bucket and its prefix), or leave retention to another credential (`prune`). What a bucket \
    policy or Object Lock keeps for a time goes by itself only then: raise the `keep_…` of the job to that time.";

fn is_denied(error: &object_store::Error) -> bool {
    let text = error.to_string();
    ["AccessDenied", "AuthorizationPermissionMismatch", "status code: 403", "(code: 403)"].iter().any(|denied| text.contains(denied))
}

fn advice_for_io(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "Free space in the target; retention keeps what it has until a newer backup is complete."
        }
        ErrorKind::ReadOnlyFilesystem => "Mount the target so that it can be written.",
        ErrorKind::PermissionDenied => "Give this user write access to the target's directory.",
        ErrorKind::TimedOut => "Look at the file system that the target's directory lies on: one whose server is gone answers nothing.",
        ErrorKind::NotFound => "Create or mount the target's directory.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;
    use crate::name::TargetName;

    fn call(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StorageError {
        let target: TargetName = "offsite".parse().expect("a name");
        let source = object_store::Error::Generic { store: "S3", source: source.into() };
        StorageError::Call { action: "list", target, key: "prefix".into(), source: Cause(source) }
    }

    #[test]
    fn what_s3_answers_is_one_line_with_advice() {
        let error = call("404 Not Found: <Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>");
        let text = format!("{error}: {}", error.source().expect("a cause"));
        assert_eq!(text, "list `prefix` in target `offsite`: NoSuchBucket: The specified bucket does not exist");
        assert!(error.advice().is_some_and(|a| a.contains("Create the bucket")));
    }

    #[test]
    fn the_root_of_a_target_is_called_so() {
        let StorageError::Call { action, target, source, .. } = call("no") else { unreachable!("it was made so") };
        let error = StorageError::Call { action, target, key: Path::default().to_string(), source };
        assert_eq!(error.to_string(), "list the root of target `offsite`");
    }

    #[test]
    fn a_bucket_that_keeps_everything_says_what_it_needs() {
        let locked = "400 Bad Request: <Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header is required for \
            Put Object requests with Object Lock parameters</Message></Error>";
        assert!(call(locked).advice().is_some_and(|a| a.contains("`checksum = \"sha256\"`")));
        let denied = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        assert!(call(denied).advice().is_some_and(|a| a.contains("PutObject")));
        let StorageError::Call { target, key, source, .. } = call(denied) else { unreachable!("it was made so") };
        let deletion = StorageError::Call { action: "delete", target, key, source };
        assert!(deletion.advice().is_some_and(|a| a.contains("Object Lock")));
    }

    /// The messages are those of AWS's documentation and of the servers themselves.
    #[test]
    fn each_answer_says_what_to_set() {
        for (code, message, says) in [
            (
                "InvalidAccessKeyId",
                "The AWS access key ID that you provided does not exist in our records.",
                "`access_key_id` of the target",
            ),
            ("SignatureDoesNotMatch", "The request signature that we calculated does not match.", "`secret_access_key` and `region`"),
            ("ExpiredToken", "The provided token has expired.", "Renew `session_token`"),
            ("InvalidToken", "The provided token is malformed or otherwise not valid.", "Check `session_token`"),
            ("RequestTimeTooSkewed", "The difference between the request time and the server's time is too large.", "clock"),
            ("PermanentRedirect", "The bucket that you are attempting to access must be addressed by the specified endpoint.", "`region`"),
            ("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-central-1'", "`region`"),
            ("NoSuchBucket", "The specified bucket does not exist.", "`url`"),
            ("EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.", "FILE_SIZE_LIMIT"),
            ("InvalidRequest", "The object exceeded the maximum allowed size", "FILE_SIZE_LIMIT"),
            ("AccessDenied", "Access Denied.", "Grant ListBucket"),
            ("InvalidRequest", "The object was stored using a form of Server Side Encryption.", "`sse_customer_key`"),
        ] {
            let error = call(format!("400 Bad Request: <Error><Code>{code}</Code><Message>{message}</Message></Error>"));
            assert!(error.advice().is_some_and(|advice| advice.contains(says)), "{code}: {:?}", error.advice());
            let told = error.source().expect("a cause").to_string();
            assert_eq!(told, format!("{code}: {}", message.trim_end_matches('.')));
        }
    }

    #[test]
    fn a_full_disk_is_known_by_its_kind() {
        let error = call(std::io::Error::from(ErrorKind::StorageFull));
        assert!(error.advice().is_some_and(|a| a.contains("Free space")));
    }
}
