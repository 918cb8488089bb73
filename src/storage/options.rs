//! How a target is named and reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::azure::AzureOptions;
use super::gcs::GcsOptions;
use super::limit::Limiter;
use super::sftp::{SftpOptions, SftpPlace};
use super::sse::Sse;
use super::webdav::WebDavOptions;
use crate::name::TargetName;
use crate::secret::Secret;

/// What the `url` of a target may be, for messages.
pub const KINDS: &str = "`file:///path`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`, `https://host/folder` or \
    `sftp://user@host/path`";

/// How to reach a target. Which kind it is, the URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetOptions {
    pub name: TargetName,
    pub location: Location,
    /// Of the bytes that go there and come from there; shared by everything that is opened with clones of these options.
    pub limit: Option<Limiter>,
}

/// The parsed `url` of a target, with the keys of its kind. A prefix may be empty and has no slash at either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `file:///absolute/path` or `file://./relative`.
    File(PathBuf),
    /// `s3://bucket/prefix`.
    S3 { bucket: String, prefix: String, options: Box<S3Options> },
    /// `az://container/prefix`.
    Azure { container: String, prefix: String, options: Box<AzureOptions> },
    /// `gs://bucket/prefix`.
    Gcs { bucket: String, prefix: String, options: Box<GcsOptions> },
    /// A folder on a WebDAV server, `https://host/folder`, without a slash at its end.
    WebDav { url: String, options: Box<WebDavOptions> },
    /// A folder on an SFTP server, `sftp://user@host:port/path`.
    Sftp { place: SftpPlace, options: Box<SftpOptions> },
}

/// The S3 keys of a target; unset ones fall back to the `AWS_*` variables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Options {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<Secret>,
    pub secret_access_key: Option<Secret>,
    pub session_token: Option<Secret>,
    /// In place of keys.
    pub web_identity: Option<Box<WebIdentity>>,
    /// In place of keys, too.
    pub profile: Option<Profile>,
    pub addressing: Addressing,
    pub allow_http: bool,
    /// PEM, besides the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Do not verify the server's certificate. For authentik's `INSECURE_SKIP_VERIFY` only.
    pub insecure_skip_verify: bool,
    /// Bytes of an upload part; `None`: chosen from the size of the artifact.
    pub part_size: Option<u64>,
    /// Most parts that the provider takes in one upload.
    pub max_parts: u32,
    pub storage_class: Option<String>,
    /// Ask the server to check each upload.
    pub checksum: Checksum,
    pub sse: Sse,
}

/// A profile of AWS's own files.
#[derive(Clone, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub config_file: PathBuf,
    pub credentials_file: PathBuf,
    /// What a program that the profile names is given.
    pub environment: Vec<(String, String)>,
}

/// Without the environment: the URL of a proxy may hold a password.
impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Credentials that a store gives for a token of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebIdentity {
    pub token: TokenSource,
    /// URL of who gives credentials.
    pub sts_endpoint: String,
    /// `None`: the token names its policies.
    pub role_arn: Option<String>,
    pub role_session_name: String,
    /// How long they are asked for.
    pub duration: Duration,
    /// PEM, besides the system's roots.
    pub ca_file: Option<PathBuf>,
    pub allow_http: bool,
}

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Somebody else renews it.
    File(PathBuf),
    Provider(TokenProvider),
}

/// The client-credentials grant of RFC 6749 section 4.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenProvider {
    pub url: String,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    /// A service account and its password.
    pub account: Option<(String, Secret)>,
    pub scope: String,
    pub choice: TokenChoice,
}

/// Which token of the answer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenChoice {
    /// The ID token, or the access token where there is none.
    #[default]
    Auto,
    Id,
    Access,
}

/// Where the bucket's name goes in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// Path with an endpoint of its own, virtual for AWS.
    #[default]
    Auto,
    Path,
    Virtual,
}

/// The additional checksum that an upload carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    #[default]
    None,
    Sha256,
    Crc64Nvme,
}

impl TargetOptions {
    /// The keys of S3, if it is such a target.
    pub fn s3(&self) -> Option<&S3Options> {
        match &self.location {
            Location::S3 { options, .. } => Some(options),
            _ => None,
        }
    }
}

/// As its `url`.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |prefix: &str| if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}{}", of(prefix)),
            Self::Azure { container, prefix, .. } => write!(f, "az://{container}{}", of(prefix)),
            Self::Gcs { bucket, prefix, .. } => write!(f, "gs://{bucket}{}", of(prefix)),
            Self::WebDav { url, .. } => f.write_str(url),
            Self::Sftp { place, .. } => place.fmt(f),
        }
    }
}

impl Location {
    /// Whether what is stored at one is found at the other, whatever the other keys are.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(path), Self::File(other)) => path == other,
            (Self::S3 { bucket, prefix, options }, Self::S3 { bucket: b, prefix: p, options: o }) => {
                (bucket, prefix, &options.endpoint) == (b, p, &o.endpoint)
            }
            (Self::Azure { container, prefix, options }, Self::Azure { container: c, prefix: p, options: o }) => {
                (container, prefix, &options.account, &options.endpoint) == (c, p, &o.account, &o.endpoint)
            }
            (Self::Gcs { bucket, prefix, options }, Self::Gcs { bucket: b, prefix: p, options: o }) => {
                (bucket, prefix, &options.endpoint) == (b, p, &o.endpoint)
            }
            (Self::WebDav { url, .. }, Self::WebDav { url: other, .. }) => url == other,
            (Self::Sftp { place, .. }, Self::Sftp { place: other, .. }) => place == other,
            _ => false,
        }
    }

    /// Understands the `url` of a target; the keys of its kind are not set.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what is accepted.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("file://") {
            return if path.is_empty() {
                Err(format!("`{url}` names no directory (expected `file:///path`)"))
            } else {
                Ok(Self::File(path.into()))
            };
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        if matches!(scheme, "http" | "https") {
            return webdav(url);
        }
        if scheme == "sftp" {
            return Ok(Self::Sftp { place: SftpPlace::parse(url)?, options: Box::default() });
        }
        let what = match scheme {
            "s3" | "gs" => "a bucket",
            "az" => "a container",
            _ => return Err(format!("`{url}` is not a target (expected {KINDS})")),
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        if name.is_empty() || prefix.split('/').any(|s| matches!(s, "." | "..") || (s.is_empty() && !prefix.is_empty())) {
            let noun = what.trim_start_matches("a ");
            return Err(format!("`{url}` is not {what} and a prefix (expected `{scheme}://{noun}/prefix`)"));
        }
        let (name, prefix) = (name.to_owned(), prefix.to_owned());
        Ok(match scheme {
            "az" => Self::Azure { container: name, prefix, options: Box::default() },
            "gs" => Self::Gcs { bucket: name, prefix, options: Box::default() },
            _ => Self::S3 { bucket: name, prefix, options: Box::default() },
        })
    }
}

/// A query or a fragment would be lost among the names of objects.
fn webdav(url: &str) -> Result<Location, String> {
    let wrong = || format!("`{url}` is not a folder of a WebDAV server (expected `https://host/folder`)");
    let parsed = url::Url::parse(url).map_err(|_| wrong())?;
    if !parsed.has_host() || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong());
    }
    Ok(Location::WebDav { url: parsed.as_str().trim_end_matches('/').to_owned(), options: Box::default() })
}
