//! The keys of targets, and those of buckets as sources.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretText;

/// `[targets.NAME]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "A target", rename = "Target")]
pub(in crate::config) struct RawTarget {
    /// `file:///path`, `file://./relative`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`, `https://host/folder`
    /// for WebDAV, or `sftp://user@host:port/path`.
    pub url: String,
    /// Most bytes a second of artifacts that go to this target and come from it, together, such as `20MiB/s`. Unset: no limit.
    pub limit: String,
    /// S3: URL of the server, such as `https://minio.example.com:9000`. Unset: AWS. Azure: that of the account's blob service. Unset:
    /// `https://ACCOUNT.blob.core.windows.net`. Google: unset, but for a stand-in.
    pub endpoint: String,
    /// S3: region. Unset: `$AWS_REGION`, else `us-east-1`.
    pub region: String,
    /// S3: access key. Unset: `$AWS_ACCESS_KEY_ID`.
    pub access_key_id: SecretText,
    /// S3: secret key. Unset: `$AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: SecretText,
    /// S3: session token. Unset: `$AWS_SESSION_TOKEN`, when the keys come from the environment too.
    pub session_token: SecretText,
    /// S3: a profile of AWS's own files, with keys or a `credential_process`, in place of keys here. Unset: `$AWS_PROFILE`, where there are no
    /// keys, neither here nor in the environment.
    pub profile: String,
    /// S3: where the name of the bucket goes in a request. Unset: path with an endpoint, virtual without.
    #[schemars(extend("enum" = ["", "path", "virtual"]))]
    pub addressing: String,
    /// S3, Azure, Google, WebDAV: let the endpoint, or the `url`, be `http://`. Keys are signed, but passwords and the data are readable on the way.
    pub allow_http: bool,
    /// S3, Azure, Google, WebDAV: PEM file of certificate authorities to trust besides the system's.
    pub ca_file: String,
    /// S3, Azure, Google: size of an upload part, such as `16MiB` (5MiB to 5GiB). Unset: chosen from the size of the artifact. In S3, parts that do
    /// not fit into memory are joined by the server out of pieces, which lie below `.backstay/parts` until then; elsewhere they are as large
    /// as memory allows.
    pub part_size: String,
    /// S3: most parts that the provider takes in one upload.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_parts: u32,
    /// S3: storage class of the objects, such as `STANDARD_IA`. Azure: their access tier, `Hot`, `Cool` or `Cold`. Google: `STANDARD`, `NEARLINE`,
    /// `COLDLINE` or `ARCHIVE`.
    pub storage_class: String,
    /// S3: checksum that each upload carries for the server to check. `crc64nvme` is for AWS and what is as new.
    #[schemars(extend("enum" = ["none", "sha256", "crc64nvme"]))]
    pub checksum: String,
    /// S3: encryption by the server: with its own keys (`AES256`), with those of its key service, or with one that each request brings along
    /// (`customer`). Unset: as the bucket does by itself.
    #[schemars(extend("enum" = ["", "AES256", "aws:kms", "aws:kms:dsse", "customer"]))]
    pub sse: String,
    /// S3: the key of the key service. Unset: the bucket's default one.
    pub sse_kms_key_id: String,
    /// S3: the key of `sse = "customer"`: the base64 of 32 bytes. Without it nothing can be restored: it is stored nowhere.
    pub sse_customer_key: SecretText,
    /// S3: credentials for an hour or so, which the store gives for a token of an identity provider.
    pub web_identity: RawWebIdentity,
    /// Azure: name of the storage account. Unset: `$AZURE_STORAGE_ACCOUNT_NAME`, else `$AZURE_STORAGE_ACCOUNT`.
    pub account: String,
    /// Azure: one of the account's keys. With no credential set, those of the environment are used, as Azure's own programs do
    /// (`$AZURE_STORAGE_ACCOUNT_KEY`, `$AZURE_STORAGE_SAS_TOKEN`, `$AZURE_TENANT_ID` and `$AZURE_CLIENT_ID` with
    /// `$AZURE_FEDERATED_TOKEN_FILE` or `$AZURE_CLIENT_SECRET`), else the identity of the machine.
    pub account_key: SecretText,
    /// Azure: a shared access signature for the container, with the rights read, add, create, write, delete and list.
    pub sas_token: SecretText,
    /// Azure: tenant of a service principal or workload identity.
    pub tenant_id: String,
    /// Azure: client id of a service principal, a workload identity, or a managed identity that the user has assigned.
    pub client_id: String,
    /// Azure: secret of a service principal.
    pub client_secret: SecretText,
    /// Azure: file with the token of a workload identity.
    pub federated_token_file: String,
    /// Google: the key of a service account, in JSON: usually `file:///path/key.json`. Unset: `$GOOGLE_APPLICATION_CREDENTIALS`, else what
    /// gcloud has stored, else the service account of the machine.
    pub service_account: SecretText,
    /// WebDAV: name of the user.
    pub user: String,
    /// WebDAV, SFTP: password of the user, better one for this application alone.
    pub password: SecretText,
    /// WebDAV: a bearer token, in place of user and password.
    pub token: SecretText,
    /// SFTP: file with a private key, which nobody else may read. Unset, as `password` is: the keys that ssh finds by itself (its configuration,
    /// an agent, `~/.ssh`).
    pub identity_file: String,
    /// SFTP: file with the server's public key, as `ssh-keyscan` writes it. Unset: what ssh knows. A server that is not known is told nothing.
    pub known_hosts_file: String,
    /// Set by authentik's environment only.
    #[schemars(skip)]
    pub insecure_skip_verify: bool,
}

impl Default for RawTarget {
    fn default() -> Self {
        Self {
            url: String::new(),
            limit: String::new(),
            endpoint: String::new(),
            region: String::new(),
            access_key_id: SecretText::default(),
            secret_access_key: SecretText::default(),
            session_token: SecretText::default(),
            profile: String::new(),
            addressing: String::new(),
            allow_http: false,
            ca_file: String::new(),
            part_size: String::new(),
            max_parts: 10_000,
            storage_class: String::new(),
            checksum: "none".into(),
            sse: String::new(),
            sse_kms_key_id: String::new(),
            sse_customer_key: SecretText::default(),
            web_identity: RawWebIdentity::default(),
            account: String::new(),
            account_key: SecretText::default(),
            sas_token: SecretText::default(),
            tenant_id: String::new(),
            client_id: String::new(),
            client_secret: SecretText::default(),
            federated_token_file: String::new(),
            service_account: SecretText::default(),
            user: String::new(),
            password: SecretText::default(),
            token: SecretText::default(),
            identity_file: String::new(),
            known_hosts_file: String::new(),
            insecure_skip_verify: false,
        }
    }
}

/// `web_identity` of `[targets.NAME]` or `[bucket.NAME]`
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Credentials by an identity provider", rename = "WebIdentity")]
pub(in crate::config) struct RawWebIdentity {
    /// Token endpoint of the identity provider, which is asked for a token (OAuth 2.0, client credentials). `allow_http` of the section
    /// lets it be `http://`: what is sent there is then readable on the way.
    pub token_url: String,
    /// The client's name at the identity provider.
    pub client_id: String,
    /// The client's secret. Not needed with `username` and `password`, unless the provider wants both.
    pub client_secret: SecretText,
    /// A service account, where the provider wants one besides the client, as authentik may.
    pub username: String,
    /// Its password; in authentik, a token of the kind "app password".
    pub password: SecretText,
    /// Scopes of the token. Unset: `openid minio`, as the mapping of authentik's guide for MinIO is named.
    pub scope: String,
    /// Which token of the provider's answer the store is given. Unset: the ID token, or the access token where there is none.
    #[schemars(extend("enum" = ["", "id_token", "access_token"]))]
    pub token: String,
    /// In place of a provider: a file with a token that somebody else renews, as Kubernetes does. Read each time that credentials are asked
    /// for.
    pub token_file: String,
    /// Who gives credentials for the token. Unset: `endpoint`, where MinIO and RustFS do it, or AWS in the section's region.
    pub sts_endpoint: String,
    /// The role to take. Unset: none, so that the token itself has to name policies, which MinIO and RustFS allow and AWS does not.
    pub role_arn: String,
    /// By which name the store's log knows these credentials: 2 to 64 characters. Unset: `backstay`.
    pub role_session_name: String,
    /// How long credentials are asked for, from `15m` on; the store may give less. Unset: `1h`.
    pub duration: String,
    /// PEM file of certificate authorities to trust besides the system's, for the provider and for `sts_endpoint`. Unset: that of the section.
    pub ca_file: String,
}

/// `[bucket.NAME]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "A bucket", rename = "Bucket")]
pub(in crate::config) struct RawBucket {
    /// `s3://bucket`, or `s3://bucket/prefix` for what lies below the prefix. What targets in the same bucket hold is left out.
    pub url: String,
    /// URL of the server, such as `https://minio.example.com:9000`. Unset: AWS.
    pub endpoint: String,
    /// Region. Unset: `$AWS_REGION`, else `us-east-1`.
    pub region: String,
    /// Access key. Unset: `$AWS_ACCESS_KEY_ID`.
    pub access_key_id: SecretText,
    /// Secret key. Unset: `$AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: SecretText,
    /// Session token. Unset: `$AWS_SESSION_TOKEN`, when the keys come from the environment too.
    pub session_token: SecretText,
    /// Where the name of the bucket goes in a request. Unset: path with an endpoint, virtual without.
    #[schemars(extend("enum" = ["", "path", "virtual"]))]
    pub addressing: String,
    /// Let the endpoint be `http://`. Keys are signed, but the data is readable on the way.
    pub allow_http: bool,
    /// PEM file of certificate authorities to trust besides the system's.
    pub ca_file: String,
    /// A profile of AWS's own files, with keys or a `credential_process`, in place of keys here. Unset: `$AWS_PROFILE`, where there are no
    /// keys, neither here nor in the environment.
    pub profile: String,
    /// Credentials for an hour or so, which the store gives for a token of an identity provider.
    pub web_identity: RawWebIdentity,
    /// What a backup notes for a restore to be compared with: hashes of all keys, contents and headers, only how many objects and bytes
    /// there are, or nothing. With hashes, a restore reads the new objects once.
    #[schemars(extend("enum" = ["full", "counts", "off"]))]
    pub fingerprint: String,
    /// Set by authentik's environment only.
    #[schemars(skip)]
    pub insecure_skip_verify: bool,
}

impl Default for RawBucket {
    fn default() -> Self {
        let RawTarget {
            url,
            endpoint,
            region,
            access_key_id,
            secret_access_key,
            session_token,
            addressing,
            allow_http,
            ca_file,
            profile,
            web_identity,
            ..
        } = RawTarget::default();
        Self {
            url,
            endpoint,
            region,
            access_key_id,
            secret_access_key,
            session_token,
            addressing,
            allow_http,
            ca_file,
            profile,
            web_identity,
            fingerprint: "full".into(),
            insecure_skip_verify: false,
        }
    }
}

impl RawBucket {
    /// The keys that a target has too.
    pub fn as_target(&self) -> RawTarget {
        RawTarget {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: self.session_token.clone(),
            addressing: self.addressing.clone(),
            allow_http: self.allow_http,
            ca_file: self.ca_file.clone(),
            profile: self.profile.clone(),
            web_identity: self.web_identity.clone(),
            insecure_skip_verify: self.insecure_skip_verify,
            ..RawTarget::default()
        }
    }
}
