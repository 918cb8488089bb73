//! A target in a bucket of Google Cloud Storage, by its XML API.

use std::path::PathBuf;

use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};

use super::client::{self, Connector};
use super::error::StorageError;
use super::retry;
use crate::name::TargetName;
use crate::secret::Secret;

/// Most parts of one upload. <https://docs.cloud.google.com/storage/quotas#requests>
pub(super) const MAX_PARTS: u32 = 10_000;

const SERVICE: &str = "https://storage.googleapis.com";

/// What a key of a service account holds, of what is needed.
const OF_A_KEY: [&str; 3] = ["client_email", "private_key", "private_key_id"];

/// The keys of a target in Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcsOptions {
    pub credentials: GcsCredentials,
    /// `None`: Google's own.
    pub endpoint: Option<String>,
    pub allow_http: bool,
    /// PEM, besides the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Bytes of a part; `None`: chosen from the size of the artifact.
    pub part_size: Option<u64>,
    /// Such as `NEARLINE`; `None`: the bucket's own.
    pub storage_class: Option<String>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GcsCredentials {
    /// The key of a service account: its JSON.
    Account(Secret),
    /// Application default credentials in a file.
    File(String),
    /// Those that gcloud has stored for this user, else the service account of the machine or pod.
    #[default]
    Ambient,
}

pub(super) fn open(target: &TargetName, bucket: &str, options: &GcsOptions) -> Result<GoogleCloudStorage, StorageError> {
    let setup = |source: Box<dyn std::error::Error + Send + Sync>| StorageError::Setup { target: target.clone(), source };
    let client = client::options(target, options.allow_http, options.ca_file.as_deref())?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        // said in any case: a key may name another, to which it would be sent
        .with_base_url(options.endpoint.as_deref().unwrap_or(SERVICE))
        .with_client_options(client)
        .with_http_connector(Connector)
        .with_retry(retry::config());
    builder = match &options.credentials {
        GcsCredentials::Account(key) => {
            let key = key.reveal().map_err(|source| StorageError::Secret { target: target.clone(), source })?;
            if !is_key(key.expose()) {
                // the parser's own error would quote it
                return Err(setup("`service_account` is not the key of a service account in JSON".into()));
            }
            builder.with_service_account_key(key.expose())
        }
        GcsCredentials::File(path) => builder.with_application_credentials(path),
        GcsCredentials::Ambient => builder,
    };
    builder.build().map_err(|source| setup(source.into()))
}

fn is_key(text: &str) -> bool {
    let key: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    OF_A_KEY.iter().all(|field| key[field].is_string())
}
