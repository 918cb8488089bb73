//! A target in a container of Azure Blob Storage.
//!
//! An artifact is a block blob; its blocks are uploaded as S3's parts are. Blocks that are never committed go by themselves after a week, so
//! that a run that died leaves nothing to be swept. <https://learn.microsoft.com/en-us/rest/api/storageservices/put-block-list>

use std::path::PathBuf;

use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};

use super::client::{self, Connector};
use super::error::StorageError;
use super::retry;
use crate::name::TargetName;
use crate::secret::Secret;

/// Most blocks of one blob. <https://learn.microsoft.com/en-us/azure/storage/blobs/scalability-targets>
pub(super) const MAX_BLOCKS: u32 = 50_000;

/// The keys of a target in Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureOptions {
    /// Name of the storage account.
    pub account: String,
    pub credentials: AzureCredentials,
    /// URL of the blob service, with the account where it is no part of the host's name; `None`: that of the public cloud.
    pub endpoint: Option<String>,
    pub allow_http: bool,
    /// PEM, besides the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Bytes of a block; `None`: chosen from the size of the artifact.
    pub part_size: Option<u64>,
    /// `Hot`, `Cool` or `Cold`; `None`: the account's own.
    pub storage_class: Option<String>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureCredentials {
    /// A key of the account.
    Key(Secret),
    /// A shared access signature: the query of its URL.
    Sas(Secret),
    /// A service principal.
    Client { tenant: String, client: String, secret: Secret, authority: Option<String> },
    /// Workload identity: a token of another identity provider, in a file that is read again whenever Azure's own runs out.
    Federated { tenant: String, client: String, token_file: String, authority: Option<String> },
    /// The identity of the machine, or that of several whose client id is given; `endpoint` is where it is asked for, if not at Azure's usual
    /// address.
    Managed { client: Option<String>, endpoint: Option<String> },
}

impl Default for AzureOptions {
    fn default() -> Self {
        Self {
            account: String::new(),
            credentials: AzureCredentials::Managed { client: None, endpoint: None },
            endpoint: None,
            allow_http: false,
            ca_file: None,
            part_size: None,
            storage_class: None,
        }
    }
}

pub(super) fn open(target: &TargetName, container: &str, options: &AzureOptions) -> Result<MicrosoftAzure, StorageError> {
    let reveal = |secret: &Secret| secret.reveal().map_err(|source| StorageError::Secret { target: target.clone(), source });
    let client = client::options(target, options.allow_http, options.ca_file.as_deref())?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&options.account)
        .with_container_name(container)
        .with_client_options(client)
        .with_http_connector(Connector)
        .with_retry(retry::config());
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let of = |builder: MicrosoftAzureBuilder, authority: &Option<String>| match authority {
        Some(host) => builder.with_authority_host(host),
        None => builder,
    };
    builder = match &options.credentials {
        AzureCredentials::Key(key) => builder.with_access_key(reveal(key)?.expose()).with_credential_type("access_key"),
        AzureCredentials::Sas(token) => {
            let token = object_store::azure::split_sas(reveal(token)?.expose());
            // its own error would not say which key is wrong
            let pairs =
                token.map_err(|_| StorageError::Setup { target: target.clone(), source: "`sas_token` is no query of a URL".into() })?;
            builder.with_sas_authorization(pairs).with_credential_type("sas_token")
        }
        AzureCredentials::Client { tenant, client, secret, authority } => of(builder, authority)
            .with_client_secret_authorization(client, reveal(secret)?.expose(), tenant)
            .with_credential_type("client_secret"),
        AzureCredentials::Federated { tenant, client, token_file, authority } => of(builder, authority)
            .with_tenant_id(tenant)
            .with_client_id(client)
            .with_federated_token_file(token_file)
            .with_credential_type("workload_identity"),
        AzureCredentials::Managed { client, endpoint } => {
            if let Some(client) = client {
                builder = builder.with_client_id(client);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_msi_endpoint(endpoint);
            }
            builder.with_credential_type("managed_identity")
        }
    };
    builder.build().map_err(|source| StorageError::Setup { target: target.clone(), source: source.into() })
}
